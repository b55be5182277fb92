//! The transitions. Each checks everything first and then changes, so that a refusal leaves no trace.

use crate::alone::Degraded;
use crate::command::{Command, Outcome, Refusal, RefusalKind};
use crate::members::Copies;
use crate::recovery::{Kept, Order, Receipt};
use crate::state::{Duty, Node, Phase, State, Token, Volume};
use RefusalKind::{Broken, Exists, Invalid, NotFound, Stale, Unsafe};
use holdfast_types::{
    BLOCK_SIZE, Configuration, Durability, Epoch, GuestLimits, Incarnation, Life, MAX_MEMBERS, MAX_NAME_BYTES,
    MAX_VOLUMES, Member, Mutant, NodeId, Nominee, Pending, QuorumRule, SocketAccess, VolumeId, VolumeSize, mutated,
};
use std::collections::BTreeMap;

/// Join tokens kept; beyond that the one that expires first makes room.
const MAX_TOKENS: usize = 256;
/// Nodes, including removed ones.
const MAX_NODES: usize = 1000;
/// Decisions about a volume's size that are kept for a primary that has not carried them out.
const MAX_RESIZES: usize = 8;
/// Longest address, failure domain, fingerprint or hash.
const MAX_TEXT_BYTES: usize = 256;

type Applied = Result<Outcome, Refusal>;

fn refuse<T>(kind: RefusalKind, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(kind, message))
}

fn require(holds: bool, kind: RefusalKind, message: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { refuse(kind, message()) }
}

/// How a new volume is to be, beside its name, size and place.
struct Wanted<'a> {
    durability: Durability,
    write_quorum: u8,
    degraded: Option<Degraded>,
    limits: GuestLimits,
    socket: &'a SocketAccess,
}

/// The parts of an open volume that commands change.
struct Open<'a> {
    name: &'a str,
    max_epoch: &'a mut Epoch,
    active: &'a mut Configuration,
    pending: &'a mut Option<Pending>,
    nominee: &'a mut Option<Nominee>,
    copies: &'a mut Copies,
    rule: QuorumRule,
    /// Of the forced recovery that made the active configuration, if one did.
    receipt: Option<&'a mut Receipt>,
    recovered: &'a mut Option<Epoch>,
}

/// What a command may change, as it was.
enum Before {
    /// And the id that the next new volume gets.
    Volume(VolumeId, Option<Box<Volume>>, VolumeId),
    All(Box<State>),
}

impl Before {
    /// Nearly every command is about one volume of many.
    fn of(state: &State, command: &Command) -> Before {
        let one = |id: VolumeId| {
            let volume = state.volumes.get(&id).cloned().map(Box::new);
            Before::Volume(id, volume, state.next_volume)
        };
        match command {
            Command::CreateVolume { .. } => one(state.next_volume),
            _ => command.volume().map_or_else(|| Before::All(Box::new(state.clone())), one),
        }
    }

    /// What else follows from the change, and whether the invariants hold: of what was not touched they did before.
    fn settle(&self, state: &mut State) -> Result<(), String> {
        match self {
            Before::Volume(id, ..) => {
                state.volumes.get_mut(id).into_iter().for_each(Volume::drop_left_out);
                state.check_one(*id)
            }
            Before::All(_) => {
                state.volumes.values_mut().for_each(Volume::drop_left_out);
                state.check()
            }
        }
    }

    fn restore(self, state: &mut State) {
        match self {
            Before::Volume(id, volume, next) => {
                state.next_volume = next;
                match volume {
                    Some(volume) => drop(state.volumes.insert(id, *volume)),
                    None => drop(state.volumes.remove(&id)),
                }
            }
            Before::All(before) => *state = *before,
        }
    }
}

impl State {
    /// Carries out a committed command. The same on every node.
    ///
    /// One that would break an invariant is refused, too. It is in the log for good: a node that ended at it would end there at every
    /// start, and all nodes would. Whoever mends the defect refuses the command as well, in this version of the cluster.
    ///
    /// # Errors
    /// A refusal, which changed nothing.
    pub fn apply(&mut self, command: &Command) -> Result<Outcome, Refusal> {
        let before = Before::of(self, command);
        let applied = self.may_order(command).and_then(|()| self.dispatch(command));
        let Err(what) = before.settle(self) else { return applied };
        before.restore(self);
        refuse(
            Broken,
            format!(
                "expected a cluster whose invariants hold, found that {what}; nothing was changed. This is a defect of Holdfast: report it with \
                 `holdfast support-bundle`"
            ),
        )
    }

    fn dispatch(&mut self, command: &Command) -> Applied {
        match command {
            Command::AddNode { name, address, failure_domain, voter, witness, fingerprint, token_id } => {
                let node = Node {
                    id: self.next_node,
                    name: name.clone(),
                    address: address.clone(),
                    failure_domain: failure_domain.clone(),
                    voter_wanted: *voter,
                    witness: *witness,
                    fingerprint: fingerprint.clone(),
                    wanted: Duty::InService,
                    removed: false,
                };
                self.add_node(node, *token_id)
            }
            Command::RemoveNode { node } => self.remove_node(*node),
            Command::WantNode { node, wanted } => self.want_node(*node, *wanted),
            Command::AddToken { id, hash, expires } => self.add_token(*id, hash, *expires),
            Command::CreateVolume {
                name,
                size,
                durability,
                write_quorum,
                nodes,
                primary,
                degraded,
                limits,
                socket,
            } => {
                let (durability, write_quorum, degraded, limits) = (*durability, *write_quorum, *degraded, *limits);
                let order = Wanted { durability, write_quorum, degraded, limits, socket };
                self.create_volume(name, *size, &order, nodes, *primary)
            }
            Command::LimitVolume { volume, limits } => self.limit_volume(*volume, *limits),
            Command::ShareVolume { volume, socket } => self.share_volume(*volume, socket),
            Command::ResizeVolume { volume, after, size, shrink, found } => {
                self.resize_volume(*volume, *after, (*size, *shrink), *found)
            }
            Command::RegisterCopy { volume, node, incarnation } => self.register_copy(*volume, *node, *incarnation),
            Command::DeleteVolume { volume } => self.delete_volume(*volume),
            Command::CopyDeleted { volume, node } => self.copy_deleted(*volume, *node),
            Command::Claim { volume, base, node, life } => self.claim(*volume, *base, *node, *life),
            Command::Reconfigure { volume, base, node, life, members } => {
                self.reconfigure(*volume, *base, (*node, *life), members)
            }
            Command::AddCopy { volume, node } => self.add_copy(*volume, *node),
            Command::RemoveCopy { volume, node } => self.remove_copy(*volume, *node),
            Command::ReplaceCopy { volume, old, new } => self.replace_copy(*volume, *old, *new),
            Command::MoveCopy { volume, old, new, why } => self.move_copy(*volume, *old, *new, *why),
            Command::KeepCopy { volume, node } => self.keep_copy(*volume, *node),
            Command::GoAlone { volume, base, node } => self.go_alone(*volume, *base, *node),
            Command::Activate { volume, epoch } => self.activate(*volume, *epoch),
            Command::ForceRecover { volume, base, survivors, primary, at_ms, by, known } => {
                let order = Order { base: *base, survivors, primary: *primary, at_ms: *at_ms, by, known };
                self.force_recover(*volume, &order)
            }
            Command::NoteKept { volume, epoch, last, known, whole } => {
                self.note_kept(*volume, Kept { epoch: *epoch, last: *last }, (*known, *whole))
            }
            Command::FoundCopy { volume, node, incarnation, found } => {
                self.found_copy(*volume, (*node, *incarnation), found)
            }
            Command::Nominate { volume, node, base, planned } => self.nominate(*volume, *node, *base, *planned),
            Command::ClearNominee { volume, base } => self.clear_nominee(*volume, *base),
            Command::RaiseVersion { to, next_node } => self.raise_version(*to, *next_node),
        }
    }

    fn limit_volume(&mut self, volume: VolumeId, limits: GuestLimits) -> Applied {
        self.grant(volume, limits.check(), |volume| volume.limits = limits.settled())
    }

    fn share_volume(&mut self, volume: VolumeId, socket: &SocketAccess) -> Applied {
        self.grant(volume, socket.check(), |volume| volume.socket = socket.clone())
    }

    fn add_node(&mut self, node: Node, token: Option<u64>) -> Applied {
        check_name("node", &node.name)?;
        for (what, text) in [("address", &node.address), ("fingerprint", &node.fingerprint)] {
            check_text(what, text)?;
        }
        require(node.failure_domain.len() <= MAX_TEXT_BYTES, Invalid, || {
            "the failure domain's name is too long".into()
        })?;
        if self.node_by_name(&node.name).is_some() {
            return refuse(Exists, format!("node {} exists already; choose another name", node.name));
        }
        require(self.nodes.len() < MAX_NODES, Invalid, || format!("a cluster has at most {MAX_NODES} nodes"))?;
        let id = node.id;
        if let Some(token) = token {
            let Some(token) = self.tokens.get_mut(&token) else {
                return refuse(NotFound, "this join token is unknown; make a new one");
            };
            require(token.used_by.is_none(), Stale, || "this join token has been used; make a new one".into())?;
            token.used_by = Some(id);
        }
        self.next_node = NodeId(id.0 + 1);
        self.nodes.insert(id, node);
        Ok(Outcome::Node(id))
    }

    fn remove_node(&mut self, id: NodeId) -> Applied {
        require(self.node(id).is_some(), NotFound, || format!("there is no node {id}"))?;
        self.may_go(id)?;
        // Copies that count no more go with the node.
        for volume in self.volumes.keys().copied().collect::<Vec<_>>() {
            self.forget_copy(volume, id);
        }
        self.nodes.get_mut(&id).expect("looked at above").removed = true;
        Ok(Outcome::Done)
    }

    fn want_node(&mut self, id: NodeId, wanted: Duty) -> Applied {
        require(self.node(id).is_some(), NotFound, || format!("there is no node {id}"))?;
        if wanted == Duty::Removed {
            self.may_go(id)?;
        }
        self.nodes.get_mut(&id).expect("looked at above").wanted = wanted;
        Ok(Outcome::Done)
    }

    /// Whether the cluster can do without the node for ever.
    fn may_go(&self, id: NodeId) -> Result<(), Refusal> {
        let name = &self.nodes[&id].name;
        let needing: Vec<&str> = self.volumes().filter(|v| v.needs(id)).map(|v| v.name.as_str()).collect();
        require(needing.is_empty(), Unsafe, || {
            let (count, first) = (needing.len(), needing[0]);
            format!(
                "expected no copy that counts on {name}, found {count}, the first of volume {first}; `holdfast node drain {name}` \
                 makes others in their place, also while {name} is down"
            )
        })?;
        let stays = |n: &&Node| n.id != id && n.voter_wanted && n.wanted != Duty::Removed;
        let message = || format!("node {name} is the last voter; add another one first");
        require(self.nodes().find(stays).is_some(), Unsafe, message)
    }

    fn add_token(&mut self, id: u64, hash: &str, expires_unix_s: u64) -> Applied {
        let hexadecimal =
            hash.len() >= 32 && hash.len() <= MAX_TEXT_BYTES && hash.bytes().all(|b| b.is_ascii_hexdigit());
        require(hexadecimal, Invalid, || "a token's hash is at least 32 hexadecimal digits".into())?;
        let taken = self.tokens.contains_key(&id) || self.tokens.values().any(|t| t.hash == hash);
        require(!taken, Exists, || format!("a join token {id} exists already; make a new one"))?;
        if self.tokens.len() >= MAX_TOKENS {
            let first = self.tokens.iter().min_by_key(|(id, t)| (t.used_by.is_none(), t.expires_unix_s, **id));
            let first = *first.expect("there are many tokens").0;
            self.tokens.remove(&first);
        }
        self.tokens.insert(id, Token { hash: hash.to_owned(), expires_unix_s, used_by: None });
        Ok(Outcome::Done)
    }

    fn create_volume(
        &mut self,
        name: &str,
        size: u64,
        wanted: &Wanted<'_>,
        nodes: &[NodeId],
        primary: Option<NodeId>,
    ) -> Applied {
        let Wanted { durability, write_quorum, degraded, limits, socket } = *wanted;
        check_name("volume", name)?;
        if self.volume_by_name(name).is_some() {
            return refuse(Exists, format!("volume {name} exists already; choose another name"));
        }
        require(self.volumes.len() < MAX_VOLUMES, Invalid, || format!("a cluster has at most {MAX_VOLUMES} volumes"))?;
        let size = VolumeSize::new(size).map_err(|e| Refusal::new(Invalid, e.to_string()))?;
        let copies = self.check_copies(nodes)?;
        check_quorum(write_quorum, copies.len(), durability)?;
        let pair = copies.len() == 2 && durability != Durability::Async;
        require(pair || degraded.is_none(), Invalid, || {
            let found = copies.len();
            format!(
                "what becomes of writes while one of two copies is gone is chosen for two copies that both hold a write, found {found}; leave --degraded out"
            )
        })?;
        limits.check().and_then(|()| socket.check()).map_err(|what| Refusal::new(Invalid, what))?;
        let primary = primary.unwrap_or(nodes[0]);
        let message = || {
            let name = self.node(primary).map_or_else(|| primary.to_string(), |n| n.name.clone());
            format!("the primary is one of the nodes with a copy; {name} is none of them")
        };
        require(copies.contains_key(&primary), Invalid, message)?;
        let id = self.next_volume;
        self.next_volume = VolumeId(id.0 + 1);
        let phase = Phase::Creating { primary, copies };
        let rule = QuorumRule::of_order(durability, write_quorum, nodes.len());
        let volume = Volume {
            id,
            name: name.to_owned(),
            size,
            first_size: size,
            resizes: Vec::new(),
            durability,
            write_quorum,
            rule,
            degraded,
            max_epoch: Epoch::ZERO,
            phase,
            receipts: Vec::new(),
            limits: limits.settled(),
            socket: socket.clone(),
            recovered: None,
        };
        self.volumes.insert(id, volume);
        Ok(Outcome::Volume(id))
    }

    /// What guests are granted, unless there is something wrong with it.
    fn grant(&mut self, id: VolumeId, sound: Result<(), String>, change: impl FnOnce(&mut Volume)) -> Applied {
        let volume = self.present(id)?;
        require(!volume.is_deleting(), Stale, || format!("volume {} is being deleted", volume.name))?;
        sound.map_err(|what| Refusal::new(Invalid, what))?;
        change(volume);
        Ok(Outcome::Done)
    }

    /// Decides; the primary carries it out in the volume's log.
    fn resize_volume(
        &mut self,
        id: VolumeId,
        after: u64,
        (size, shrink): (u64, bool),
        found: Option<(u64, u64)>,
    ) -> Applied {
        let recovered = !self.recoveries.is_empty();
        let volume = self.present(id)?;
        let name = volume.name.clone();
        let valid = |e: holdfast_types::VolumeSizeError| Refusal::new(Invalid, e.to_string());
        let last = volume.resizes.last().map_or(0, |r| r.0);
        // Without it the next decisions would count as carried out, and the one behind them would shrink what has grown since.
        let ahead = match found.filter(|(_, decision)| recovered && *decision > last) {
            Some((bytes, decision)) => Some((decision, VolumeSize::new(bytes).map_err(valid)?)),
            None => None,
        };
        let now = ahead.map_or(volume.size, |(_, size)| size).bytes();
        require(!volume.is_deleting(), Stale, || format!("volume {name} is being deleted"))?;
        require(size.is_multiple_of(BLOCK_SIZE as u64), Invalid, || {
            let up = size.saturating_add(BLOCK_SIZE as u64 - 1) / BLOCK_SIZE as u64 * BLOCK_SIZE as u64;
            format!("a volume is resized to a multiple of {BLOCK_SIZE} bytes, found {size}; round it to {up}")
        })?;
        let size = VolumeSize::new(size).map_err(valid)?;
        if size.bytes() == now && ahead.is_none() {
            return Ok(Outcome::Done);
        }
        require(after == last || mutated(Mutant::StaleResize), Stale, || {
            format!("volume {name} was resized meanwhile and is to have {now} bytes; look at it and ask again")
        })?;
        require(size.bytes() >= now || shrink, Unsafe, || {
            let (to, gone) = (size.bytes(), now - size.bytes());
            format!(
                "volume {name} has {now} bytes: with {to} the last {gone} bytes, from byte {to} on, would be gone for good on every \
                 copy; make the file system in it smaller first, and then ask with --shrink"
            )
        })?;
        if ahead.is_some() {
            // Nobody knows the decisions between, and nobody needs them: the log is beyond.
            volume.resizes.clear();
            volume.resizes.extend(ahead);
        }
        if size.bytes() != now {
            let last = volume.resizes.last().map_or(0, |r| r.0);
            volume.resizes.push((last + 1, size));
        }
        volume.size = size;
        let beyond = volume.resizes.len().saturating_sub(MAX_RESIZES);
        volume.resizes.drain(..beyond);
        Ok(Outcome::Done)
    }

    fn check_copies(&self, nodes: &[NodeId]) -> Result<BTreeMap<NodeId, Option<Incarnation>>, Refusal> {
        let present = self.nodes.values().filter(|n| !n.removed).count();
        let wanted = nodes.len();
        require((1..=MAX_MEMBERS).contains(&wanted), Invalid, || {
            format!("a volume has 1 to {MAX_MEMBERS} copies, found {wanted}")
        })?;
        require(wanted <= present, Invalid, || {
            format!("{wanted} copies need as many nodes, found {present}; add nodes or ask for fewer copies")
        })?;
        if let Some(unknown) = nodes.iter().find(|n| self.node(**n).is_none()) {
            return refuse(NotFound, format!("there is no node {unknown}"));
        }
        nodes.iter().try_for_each(|n| self.may_hold(*n))?;
        let copies: BTreeMap<_, _> = nodes.iter().map(|n| (*n, None)).collect();
        let twice = nodes.iter().enumerate().find(|(i, n)| nodes[..*i].contains(n)).and_then(|(_, n)| self.node(*n));
        require(copies.len() == wanted, Invalid, || {
            let name = twice.map_or_else(String::new, |n| n.name.clone());
            format!("a node holds at most one copy of a volume, found {name} more than once; name each node once")
        })?;
        Ok(copies)
    }

    fn register_copy(&mut self, id: VolumeId, node: NodeId, incarnation: Incarnation) -> Applied {
        let volume = self.present(id)?;
        require(incarnation.0 != 0, Invalid, || "an incarnation is a random number, found 0".into())?;
        let name = volume.name.clone();
        let registered = match &volume.phase {
            Phase::Creating { copies, .. } => copies.get(&node).copied(),
            Phase::Open { copies, .. } if copies.dropped.contains(&node) => None,
            Phase::Open { active, copies, .. } => {
                active.member(node).map(|m| Some(m.incarnation)).or_else(|| copies.learners.get(&node).copied())
            }
            Phase::Deleting { .. } => return refuse(Stale, format!("volume {name} is being deleted")),
        };
        match registered {
            None => return refuse(NotFound, format!("node {node} is not to hold a copy of volume {name}")),
            Some(Some(known)) if known == incarnation => return Ok(Outcome::Done),
            Some(Some(known)) => {
                let found = format!("expected the copy {known} of volume {name} on node {node}, found {incarnation}");
                return refuse(Unsafe, format!("{found}: its disk lost its memory; replace the copy"));
            }
            Some(None) => {}
        }
        if let Phase::Open { copies, .. } = &mut volume.phase {
            copies.learners.insert(node, Some(incarnation));
            return Ok(Outcome::Done);
        }
        let Phase::Creating { primary, copies } = &mut volume.phase else {
            unreachable!("a volume being deleted registers nothing")
        };
        copies.insert(node, Some(incarnation));
        let members: Option<Vec<Member>> =
            copies.iter().map(|(node, i)| i.map(|incarnation| Member { node: *node, incarnation })).collect();
        if let Some(members) = members {
            let nominee = Some(Nominee { node: *primary, base: Epoch::ZERO, planned: false });
            let write_quorum = volume.write_quorum;
            let active = Configuration { epoch: Epoch::ZERO, primary: None, members, write_quorum };
            volume.phase = if volume.recovered.is_some() {
                let primary = *primary;
                volume.first_after_recovery(active, primary)
            } else {
                let copies = Copies::of(&active);
                Phase::Open { active, pending: None, nominee, copies }
            };
        }
        Ok(Outcome::Done)
    }

    fn delete_volume(&mut self, id: VolumeId) -> Applied {
        let volume = self.present(id)?;
        if !volume.is_deleting() {
            let copies = volume.holders().into_iter().collect();
            volume.phase = Phase::Deleting { copies };
        }
        Ok(Outcome::Done)
    }

    fn copy_deleted(&mut self, id: VolumeId, node: NodeId) -> Applied {
        // The report of the last copy may be repeated after the volume is gone.
        let Some(volume) = self.volumes.get(&id) else { return Ok(Outcome::Done) };
        let message = || format!("the copy of volume {} on node {node} counts, yet it was deleted", volume.name);
        let counts = matches!(&volume.phase, Phase::Open { active, .. } if active.member(node).is_some());
        let creating = matches!(volume.phase, Phase::Creating { .. });
        require(!counts && !creating, Unsafe, message)?;
        self.forget_copy(id, node);
        Ok(Outcome::Done)
    }

    /// A copy that counts is not forgotten.
    fn forget_copy(&mut self, id: VolumeId, node: NodeId) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        if let Phase::Deleting { copies } = &mut volume.phase {
            copies.remove(&node);
            if copies.is_empty() {
                self.volumes.remove(&id);
            }
        } else if let Phase::Open { copies, .. } = &mut volume.phase {
            copies.dropped.remove(&node);
            copies.aside.remove(&node);
        }
    }

    fn claim(&mut self, id: VolumeId, base: Epoch, node: NodeId, life: Life) -> Applied {
        let open = self.open(id, base)?;
        let name = open.name;
        let message = || format!("node {node} is no member of {name} and can't lead it");
        require(open.active.member(node).is_some(), Unsafe, message)?;
        *open.max_epoch = open.max_epoch.next();
        let now = Configuration { epoch: *open.max_epoch, primary: Some(node), ..open.active.clone() };
        let alone = open.copies.alone.is_some_and(|a| a.node == node);
        let configuration = if alone { now.alone(node, open.rule) } else { now };
        configuration.validate();
        let epoch = configuration.epoch;
        *open.pending = Some(Pending { configuration, base, life, same_primary: false });
        Ok(Outcome::Epoch(epoch))
    }

    fn activate(&mut self, id: VolumeId, epoch: Epoch) -> Applied {
        let open = self.open_any(id)?;
        if open.active.epoch == epoch && epoch > Epoch::ZERO {
            // The answer to the first request was lost. An epoch has one primary, so this is the same request.
            return Ok(Outcome::Epoch(epoch));
        }
        let Some(pending) = open.pending.take_if(|p| p.configuration.epoch == epoch) else {
            let found = open.pending.as_ref().map_or("none".to_owned(), |p| p.configuration.epoch.to_string());
            let name = open.name;
            return refuse(Stale, format!("expected the pending epoch of {name} to be {epoch}, found {found}"));
        };
        if let Some(receipt) = open.receipt {
            if receipt.kept.is_none_or(|k| k.epoch != epoch) {
                let name = open.name;
                *open.pending = Some(pending);
                return refuse(Stale, format!("S19: what {epoch} of {name} goes on with is to be noted first"));
            }
            receipt.opened = true;
        }
        assert_eq!(pending.base, open.active.epoch, "S21: a claim is void once another epoch is active");
        let before = std::mem::replace(open.active, pending.configuration.clone());
        open.copies.activated(&before, open.active);
        *open.recovered = None;
        let (epoch, active) = (open.active.epoch, &*open.active);
        // A switchover that waits is still wanted after a change of members.
        let waits = |n: &Nominee| pending.same_primary && n.planned && active.member(n.node).is_some();
        *open.nominee = match *open.nominee {
            Some(n) if n.base == before.epoch && waits(&n) => Some(Nominee { base: epoch, ..n }),
            nominee => nominee.filter(|n| n.base >= epoch),
        };
        Ok(Outcome::Epoch(epoch))
    }

    fn nominate(&mut self, id: VolumeId, node: NodeId, base: Epoch, planned: bool) -> Applied {
        let open = self.open(id, base)?;
        let name = open.name;
        let message = || format!("node {node} holds no copy of {name} that counts; choose a member");
        require(open.active.member(node).is_some(), Invalid, message)?;
        *open.nominee = Some(Nominee { node, base, planned });
        Ok(Outcome::Done)
    }

    fn clear_nominee(&mut self, id: VolumeId, base: Epoch) -> Applied {
        *self.open(id, base)?.nominee = None;
        Ok(Outcome::Done)
    }

    fn present(&mut self, id: VolumeId) -> Result<&mut Volume, Refusal> {
        self.volumes.get_mut(&id).ok_or_else(|| Refusal::new(NotFound, format!("there is no volume {id}")))
    }

    fn open_any(&mut self, id: VolumeId) -> Result<Open<'_>, Refusal> {
        let volume = self.present(id)?;
        let Volume { name, max_epoch, phase, receipts, rule, recovered, .. } = volume;
        match phase {
            Phase::Open { active, pending, nominee, copies } => {
                let receipt = receipts.last_mut().filter(|r| r.epoch == active.epoch);
                Ok(Open { name, max_epoch, active, pending, nominee, copies, rule: *rule, receipt, recovered })
            }
            Phase::Creating { .. } => refuse(Stale, format!("volume {name} waits for copies to be created")),
            Phase::Deleting { .. } => refuse(Stale, format!("volume {name} is being deleted")),
        }
    }

    /// Compare: what is changed only if its active epoch is the expected one.
    fn open(&mut self, id: VolumeId, base: Epoch) -> Result<Open<'_>, Refusal> {
        let open = self.open_any(id)?;
        let (name, found) = (open.name, open.active.epoch);
        require(found == base, Stale, || format!("expected {name} to be in epoch {base}, found {found}; look again"))?;
        Ok(open)
    }
}

fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    // A name becomes a file name: "." and ".." are none.
    let sound = (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.');
    require(sound, Invalid, || {
        let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
        format!(
            "a {what}'s name has 1 to {MAX_NAME_BYTES} characters of a-z 0-9 . _ - and no leading dot, found {shown:?}"
        )
    })
}

fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    let sound = (1..=MAX_TEXT_BYTES).contains(&text.len());
    require(sound, Invalid, || format!("a node's {what} has 1 to {MAX_TEXT_BYTES} bytes, found {}", text.len()))
}

fn check_quorum(write_quorum: u8, copies: usize, durability: Durability) -> Result<(), Refusal> {
    let w = usize::from(write_quorum);
    let majority = copies / 2 + 1;
    if durability == Durability::Async {
        return require(w == 1, Invalid, || {
            format!("durability async means a write quorum of 1, the primary, found {w}; leave the quorum out")
        });
    }
    require(w <= copies, Invalid, || format!("a write quorum of {w} needs as many copies, found {copies}"))?;
    require(w >= majority, Unsafe, || {
        format!(
            "a write quorum of {w} is no majority of {copies} copies and could lose writes; use at least {majority}"
        )
    })
}
