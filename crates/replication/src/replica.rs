//! The copy as a whole: dispatches inputs, keeps the role, names the next timeout.

use crate::api::{CopyStatus, Input, Limits, LogEnd, Output, RoleName, Timers};
use crate::claim::{Candidate, Claimant};
use crate::exposure::Exposure;
use crate::lag::Lag;
use crate::lease::Granted;
use crate::log::Log;
use crate::member::{Fence, FenceStage, Fetch};
use crate::proof::Proofs;
use crate::reign::{Held, PeerState, Reign};
use crate::repair::Repairs;
use crate::resync::Resync;
use crate::returns::Returns;
use crate::scrub::Scrub;
use crate::source::{Serving, ServingPass};
use crate::verify::Verify;
use holdfast_format::Record;
use holdfast_format::message::{BeatVolume, Message};
use holdfast_types::{Epoch, EpochTable, Life, Lsn, Mutant, NodeId, OpenedCopy, Time, VolumeSize, VolumeView, mutated};
use std::collections::{BTreeMap, BTreeSet};

/// What a copy is doing beyond being a member.
///
/// ```text
/// Follower ──wanted──► Candidate ──claim committed──► Claimant ──log complete──► Reign
///    ▲                     │                             │                         │
///    └── no longer wanted, a higher epoch promised or claimed, released ◄──────────┘
/// ```
#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    Candidate(Candidate),
    Claimant(Claimant),
    Reign(Box<Reign>),
}

/// One copy of one volume.
#[derive(Debug)]
pub struct Replica {
    pub(crate) me: NodeId,
    pub(crate) life: Life,
    pub(crate) timers: Timers,
    pub(crate) limits: Limits,
    pub(crate) view: VolumeView,
    pub(crate) log: Log,
    /// Lanes to these are up.
    pub(crate) up: BTreeSet<NodeId>,
    pub(crate) role: Role,
    /// The last epoch that this life led.
    pub(crate) reigned: Epoch,
    /// Members that this copy went on without, or could not let in.
    pub(crate) returns: Returns,
    /// Whose log this copy adopted.
    pub(crate) leader: Option<(NodeId, Epoch)>,
    pub(crate) granted: Option<Granted>,
    /// Leases up to this epoch were given up by their holder.
    pub(crate) released: Epoch,
    pub(crate) fence: Option<Fence>,
    pub(crate) adopting: Option<(Epoch, EpochTable)>,
    pub(crate) fetches: BTreeMap<u64, Fetch>,
    pub(crate) repairs: Repairs,
    pub(crate) scrub: Scrub,
    pub(crate) verify: Verify,
    pub(crate) proofs: Proofs,
    /// No log reaches this copy.
    pub(crate) resync: Option<Resync>,
    pub(crate) serving_regions: Option<Serving>,
    pub(crate) serving_pass: Option<ServingPass>,
    /// How often the limit of a resync was doubled, until the log reaches this copy again.
    pub(crate) chased: u32,
    /// The time of the last input, for rates.
    pub(crate) seen: Option<Time>,
    /// The highest position heard to be committed; may be above what this copy holds.
    pub(crate) commit_known: Lsn,
    lag: Lag,
    pub(crate) exposure: Exposure,
    /// What the copy waits for, for status.
    pub(crate) waiting: Option<String>,
    /// A primary wants to know the digest here.
    pub(crate) digest_for: Option<(NodeId, Epoch, Lsn)>,
    pub(crate) next_tag: u64,
    /// The device does not answer, as far as anybody can tell.
    pub(crate) hung: bool,
    /// The process is about to end.
    pub(crate) retiring: bool,
    failed: bool,
}

impl Replica {
    /// A copy as the store opened it. Grants of an earlier life are forgotten, so a whole lease passes before it fences.
    #[must_use]
    pub fn new(
        me: NodeId,
        life: Life,
        view: VolumeView,
        opened: &OpenedCopy,
        timers: Timers,
        limits: Limits,
        now: Time,
    ) -> Replica {
        view.active.validate();
        // A lease is granted only under the promised epoch: where that is this node's own, it granted none.
        let own = view.active.primary == Some(me) && view.active.epoch == opened.promised;
        let granted = (opened.promised > Epoch::ZERO && !own && !mutated(Mutant::GrantForgotten))
            .then(|| Granted::new(None, opened.promised, &timers, now));
        let log = Log::new(opened);
        let scrub = Scrub::new(&opened.scrub, log.size().blocks().0, timers.scrub_period, now);
        Replica {
            me,
            life,
            timers,
            limits,
            view,
            log,
            up: BTreeSet::new(),
            role: Role::Follower,
            reigned: Epoch::ZERO,
            returns: Returns::default(),
            leader: None,
            granted,
            released: Epoch::ZERO,
            fence: None,
            adopting: None,
            fetches: BTreeMap::new(),
            repairs: Repairs::default(),
            scrub,
            verify: Verify::default(),
            proofs: Proofs::new(opened.applied, opened.digest),
            resync: None,
            serving_regions: None,
            serving_pass: None,
            chased: 0,
            seen: None,
            commit_known: opened.committed,
            lag: Lag::default(),
            exposure: Exposure::default(),
            waiting: None,
            digest_for: None,
            next_tag: 0,
            hung: false,
            retiring: false,
            failed: false,
        }
    }

    /// Takes one input; pushes what follows from it. Call [`Replica::maintain`] after each batch of inputs.
    pub fn handle(&mut self, input: Input, now: Time, out: &mut Vec<Output>) {
        if self.failed {
            // Whoever needs a block asks elsewhere at once.
            if let Input::Message { from, message: Message::FetchBlock { block } } = input {
                self.send(from, Message::Block { block, data: None }, out);
            }
            return;
        }
        self.seen = Some(now);
        match input {
            Input::View(view) => self.on_view(view, now, out),
            Input::PeerUp(peer) => self.on_peer_up(peer, now, out),
            Input::PeerDown(peer) => self.on_peer_down(peer, now, out),
            Input::Message { from, message } => self.on_message(from, message, now, out),
            Input::Tick => self.on_tick(now, out),
            Input::Request(request) => self.on_request(request, now, out),
            Input::SessionClosed(session) => self.session_closed(session, now, out),
            Input::Durable(proof) => self.on_durable(proof.get(), now, out),
            Input::Promised(epoch) => self.on_promised(epoch, now, out),
            Input::Adopted { epoch, last, last_hash } => self.on_adopted(epoch, last, last_hash, now, out),
            Input::Applied(lsn, digest) => self.on_applied(lsn, digest, now, out),
            Input::Held { at, found } => self.store_held(at, found, now, out),
            Input::Sums { node, sums } => self.store_sums(node, sums, now, out),
            Input::Verify { run } => self.on_verify(run, now, out),
            Input::Checkpointed(lsn) => self.log.checkpoint = self.log.checkpoint.max(lsn),
            Input::ReadDone { tag, result } => {
                let taken = self.served_read(tag, &result, out)
                    || self.scrub_read(tag, &result, now, out)
                    || self.regions_repaired(tag, &result, now, out);
                if !taken {
                    self.on_read_done(tag, result, now, out);
                }
            }
            Input::Scrub { run, bytes_per_second } => self.on_scrub(run, bytes_per_second, now, out),
            Input::Repaired { block, right } => self.on_repaired(block, right, now, out),
            Input::LogRead { tag, records } => {
                if !self.fetch_read(tag, records.as_deref(), out) {
                    self.catch_up_read(tag, records, now, out);
                }
            }
            Input::Hung(hung) => {
                self.hung = hung;
                self.want(now, out);
            }
            Input::Retire => self.retire(out),
            Input::RegionsRead { tag, result } => self.on_regions_read(tag, result, now, out),
            Input::SideOpened { count, top } => self.on_side_opened(count, top, now, out),
            Input::SideHeld { held, end } => self.on_side_held(held, end, now, out),
            Input::SideWritten { bad } => self.on_side_written(bad, now, out),
            Input::Switched { epoch, last, last_epoch, last_hash, digest } => {
                self.on_switched(epoch, (last, last_epoch, last_hash), digest, now, out);
            }
            Input::SideProven(result) => self.on_side_proven(result, now, out),
            Input::SwitchRefused => self.on_switch_refused(now, out),
            Input::Failed(why) => {
                self.stop(why, out);
                self.give_up_verify(now, out);
            }
        }
    }

    /// The same small block of work after every batch of inputs.
    pub fn maintain(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.failed {
            return;
        }
        self.lag.note(self.log.positions.durable, self.commit_known, now);
        self.maintain_reign(now, out);
        self.pace_scrub(now);
        self.step_exposure(now, out);
        if self.verify_outlived() {
            self.give_up_verify(now, out);
        }
        self.check_hold(now, out);
    }

    /// When `Input::Tick` is due, at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        if self.failed {
            return None;
        }
        let role = match &self.role {
            Role::Candidate(c) => Some(c.ask_at),
            Role::Reign(r) => r.next_timeout(),
            Role::Claimant(c) => Some(c.leases_end.map_or(c.greet_at, |at| at.min(c.greet_at))),
            Role::Follower => None,
        };
        let fence = self.fence.filter(|f| f.stage == FenceStage::WaitingLease).and(self.granted.map(|g| g.until));
        let upkeep = [
            self.repairs.next_timeout(),
            self.scrub.next_timeout(),
            self.verify.next_timeout(),
            self.proofs.next_timeout(),
            self.exposure.next_timeout(),
        ];
        let resync = self.resync.as_ref().and_then(Resync::next_timeout);
        let pass = self.serving_pass.map(|pass| pass.until);
        upkeep.into_iter().chain([role, fence, resync, pass]).flatten().min()
    }

    /// Whether more guests' requests may be handed over; otherwise stop reading from guests (P13). `share`: bytes of the node's journal
    /// that this volume may hold without a quorum.
    #[must_use]
    pub fn accepts(&self, share: usize) -> bool {
        match &self.role {
            Role::Reign(r) => r.guests.admitted_bytes() < self.limits.admitted_bytes.min(share),
            _ => false,
        }
    }

    /// Whether what is known here may be told to guests: active, and a lease is held.
    #[must_use]
    pub fn holds_lease(&self, now: Time) -> bool {
        matches!(&self.role, Role::Reign(r) if r.active && r.grants.valid(r.grants_needed(), &self.timers, now))
    }

    /// Whether guests are served.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(&self.role, Role::Reign(r) if r.serves())
    }

    /// Whether it leads, or tries to: false for one that retires only once it has let go.
    #[must_use]
    pub fn leads(&self) -> bool {
        !self.failed && !matches!(self.role, Role::Follower)
    }

    /// What a heartbeat says of this volume, for each node that gets one.
    #[must_use]
    pub fn beats(&self) -> Vec<(NodeId, BeatVolume)> {
        let Role::Reign(r) = &self.role else { return Vec::new() };
        r.peers.keys().filter_map(|peer| Some((*peer, self.beat_for(*peer)?))).collect()
    }

    /// Nodes to which this copy needs a lane.
    #[must_use]
    pub fn partners(&self) -> BTreeSet<NodeId> {
        let reign = match &self.role {
            Role::Reign(r) => r.peers.keys().copied().collect(),
            _ => Vec::new(),
        };
        let learners = self.view.learners.iter().map(|m| m.node);
        self.peers().into_iter().chain(learners).chain(reign).filter(|n| *n != self.me).collect()
    }

    /// A primary's heartbeat arrived: whether a lease is granted.
    pub fn beaten(&mut self, from: NodeId, beat: &BeatVolume, now: Time, out: &mut Vec<Output>) -> bool {
        !self.failed && self.on_beat(from, beat, now, out)
    }

    /// `member` granted the lease of `epoch` that was asked for at `sent`.
    pub fn lease_granted(&mut self, member: NodeId, epoch: Epoch, sent: Time, now: Time, out: &mut Vec<Output>) {
        if let Role::Reign(r) = &mut self.role
            && r.epoch() == epoch
        {
            if r.configuration.member(member).is_none() && !mutated(Mutant::LearnerGrants) {
                return;
            }
            r.grants.granted(member, if mutated(Mutant::LeaseFromReceipt) { now } else { sent });
            if r.grants.confirmed(r.grants_needed()) {
                r.guests.believe(out);
                self.step_drain(out);
            }
            self.retry_unleased(now, out);
        }
    }

    /// Time may have passed unseen (a stopped process, a slow loop): the lease is given up and asked for again (trap 6),
    /// and guests are told nothing at all until W − 1 members have said since then that this epoch still reigns. If it
    /// does not, what was withheld is never said: the guests are disconnected.
    pub fn drop_lease(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Role::Reign(r) = &mut self.role {
            r.grants.drop_all(now);
            if r.serves() && !r.grants.confirmed(r.grants_needed()) {
                r.guests.doubt();
            }
            out.push(Output::BeatNow);
        }
    }

    /// Whether answers are withheld until members have confirmed this reign.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(&self.role, Role::Reign(r) if r.guests.is_in_doubt())
    }

    /// Whether the copy was told that its device does not answer.
    #[must_use]
    pub const fn is_hung(&self) -> bool {
        self.hung
    }

    /// The copy at a glance.
    #[must_use]
    pub fn status(&self) -> CopyStatus {
        let role = match &self.role {
            _ if self.failed => RoleName::Failed,
            Role::Follower => RoleName::Secondary,
            Role::Reign(r) if r.serves() => RoleName::Primary,
            Role::Candidate(_) | Role::Claimant(_) | Role::Reign(_) => RoleName::Claimant,
        };
        CopyStatus {
            role,
            serving: self.is_serving(),
            reign: match &self.role {
                Role::Reign(r) => r.answers_in(),
                _ => None,
            },
            in_epoch: self.log.adopted == self.view.active.epoch,
            caught_up: self.lag.keeps_up(),
            draining: matches!(&self.role, Role::Reign(r) if r.draining),
            promised: self.log.promised,
            size: self.log.sizes.at(self.log.positions.committed),
            positions: self.log.positions,
            scrub: self.scrub.status_of(self.log.size().blocks().0),
            verify: self.verify_status(),
            resync: self.resync.as_ref().map(|r| r.status(self.seen)),
            lost: match &self.role {
                Role::Reign(r) => r.lost(),
                _ => Vec::new(),
            },
            resyncing: match &self.role {
                Role::Reign(r) => r.resyncing(),
                _ => Vec::new(),
            },
            learners: self.learners_status(),
            absent: self.absent(),
            unreadable_to: self.log.unknown_to,
            unknown_reign: self.unknown_reign(&self.log.table).is_some(),
            waiting: self.waiting.clone(),
            slow: match &self.role {
                Role::Reign(r) if r.active => r.paces.slow(),
                _ => Vec::new(),
            },
            exposure: self.exposure.status(),
        }
    }

    /// The volume's size, as far as it is committed here.
    #[must_use]
    pub fn size(&self) -> VolumeSize {
        self.log.size()
    }

    /// Where its log ends: epoch and LSN of the last record, what it knows to be committed, and the table.
    #[must_use]
    pub fn log_end(&self) -> LogEnd {
        LogEnd {
            last_epoch: self.log.last_epoch(),
            last: self.log.last(),
            committed: self.log.positions.committed,
            checkpoint: self.log.checkpoint,
            promised: self.log.promised,
            table: self.log.table.clone(),
            whole: self.log.unknown_to.is_none(),
            switching: self.is_switching(),
        }
    }

    /// The view this copy acts on.
    #[must_use]
    pub fn view(&self) -> &VolumeView {
        &self.view
    }

    pub(crate) const fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn next_tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    /// The other members.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        self.view.active.members.iter().map(|m| m.node).filter(|n| *n != self.me).collect()
    }

    pub(crate) fn send(&self, to: NodeId, message: Message, out: &mut Vec<Output>) {
        if self.up.contains(&to) {
            out.push(Output::Send { to, message });
        }
    }

    /// An invariant does not hold: this copy stops, it never guesses.
    pub(crate) fn fail(&mut self, why: String, out: &mut Vec<Output>) {
        self.stop(why.clone(), out);
        out.push(Output::Fail(why));
    }

    /// Takes no part any more (P8). A primary gives its lease up as it goes: nobody is to wait out what it will not use.
    fn stop(&mut self, why: String, out: &mut Vec<Output>) {
        self.abdicate(out);
        self.leave_role(out);
        self.failed = true;
        self.waiting = Some(why);
    }

    /// Back to follower; guests are disconnected if there are any.
    pub(crate) fn leave_role(&mut self, out: &mut Vec<Output>) {
        self.proofs.forget();
        let left = std::mem::replace(&mut self.role, Role::Follower);
        if let Role::Reign(mut r) = left {
            // Appended in this round: journaled here and sent nowhere. The next epoch decides about it.
            let fresh = r.take_fresh();
            if !fresh.is_empty() {
                out.push(Output::Append(fresh));
            }
            if r.serves() {
                out.push(Output::Serving(false));
            }
        }
        self.waiting = None;
    }

    /// A promise of `epoch` ends what this copy did in an older one.
    pub(crate) fn leave_roles_below(&mut self, epoch: Epoch, out: &mut Vec<Output>) {
        let below = match &self.role {
            Role::Follower | Role::Candidate(_) => false,
            Role::Claimant(c) => c.pending.configuration.epoch < epoch,
            Role::Reign(r) => r.epoch() < epoch && !mutated(Mutant::ReignOutlivesPromise),
        };
        if below {
            self.leave_role(out);
        }
    }

    fn on_view(&mut self, view: VolumeView, now: Time, out: &mut Vec<Output>) {
        view.active.validate();
        if view.active.epoch < self.view.active.epoch {
            return;
        }
        self.view = view;
        let active = self.view.active.epoch;
        let claimed = self
            .view
            .pending
            .as_ref()
            .filter(|p| p.base == active)
            .map(|p| (p.configuration.epoch, p.configuration.primary, p.life));
        let any_life = mutated(Mutant::EpochOfAnEarlierLife);
        let same_primary = self.view.pending.as_ref().is_some_and(|p| p.same_primary);
        // A claim that needs the copy without which this one is to go on is made anew (A1). A change of members is completed, as the others
        // may be enough, or given up.
        let outlived =
            self.view.pending.as_ref().is_some_and(|p| !p.same_primary && self.is_to_go_alone(&p.configuration));
        let mine = claimed
            .filter(|_| !outlived)
            .filter(|(_, primary, life)| *primary == Some(self.me) && (*life == self.life || any_life))
            .map(|c| c.0);
        let superseded = match &self.role {
            Role::Follower => false,
            Role::Candidate(c) => c.base != active || !self.is_wanted(),
            Role::Claimant(c) => mine != Some(c.pending.configuration.epoch),
            Role::Reign(r) if r.active => r.epoch() < active,
            Role::Reign(r) => mine != Some(r.epoch()) && r.epoch() != active,
        };
        if superseded {
            self.leave_role(out);
        }
        if let Role::Reign(r) = &mut self.role
            && self.view.forced.is_some_and(|f| f.noted == Some(r.epoch()))
        {
            r.activate_at = now;
        }
        if matches!(&self.role, Role::Reign(r) if r.epoch() == active && !r.active) {
            self.activated(now, out);
        }
        self.follow_nomination(now, out);
        let again = any_life && matches!(self.role, Role::Follower | Role::Candidate(_));
        if mine.is_some_and(|epoch| epoch > self.log.promised || (again && epoch == self.log.promised)) {
            let pending = self.view.pending.clone().expect("a claim of this life is pending");
            if same_primary {
                self.change_members(pending, now, out);
            } else {
                self.become_claimant(pending, now, out);
            }
        }
        self.want(now, out);
        self.follow_members(out);
    }

    /// A primary whose successor is nominated lets go: after draining if the change is planned, at once if it is forced.
    /// For a planned one it serves on until the successor follows: its guests would wait for a copy that has to fetch first.
    fn follow_nomination(&mut self, now: Time, out: &mut Vec<Output>) {
        let me = self.me;
        let nominee = self.view.nominee;
        let Role::Reign(r) = &mut self.role else { return };
        match nominee.filter(|n| n.base == r.epoch() && n.node != me) {
            // A change of members that is under way ends first.
            Some(n) if r.active && n.planned => self.step_drain(out),
            Some(_) if r.active => self.release(out),
            _ if r.draining && !self.retiring => self.resume(now, out),
            _ => {}
        }
    }

    /// The process is about to end. What a reign has admitted is answered first; one that serves nobody yet just ends.
    fn retire(&mut self, out: &mut Vec<Output>) {
        self.retiring = true;
        match &mut self.role {
            Role::Reign(r) if r.serves() => {
                r.draining = true;
                self.step_drain(out);
            }
            Role::Reign(_) | Role::Claimant(_) | Role::Candidate(_) => self.leave_role(out),
            Role::Follower => {}
        }
    }

    pub(crate) fn want(&mut self, now: Time, out: &mut Vec<Output>) {
        if matches!(self.role, Role::Follower) && self.is_wanted() {
            self.become_candidate(now, out);
        }
    }

    fn on_peer_up(&mut self, peer: NodeId, now: Time, out: &mut Vec<Output>) {
        self.up.insert(peer);
        self.greet(peer, out);
        self.preclaim_now(now, out);
    }

    fn on_peer_down(&mut self, peer: NodeId, now: Time, out: &mut Vec<Output>) {
        self.up.remove(&peer);
        self.step_repairs(now, out);
        self.verify_peer_down(peer, now, out);
        self.step_resync(now, out);
        let Role::Reign(r) = &mut self.role else { return };
        r.lost_contact(peer);
        if let Some(p) = r.peers.get_mut(&peer).filter(|p| p.state != PeerState::Lost) {
            p.state = PeerState::Down;
        }
    }

    fn on_tick(&mut self, now: Time, out: &mut Vec<Output>) {
        self.step_fence(now, out);
        self.step_candidate(now, out);
        self.step_claimant(now, out);
        self.step_repairs(now, out);
        self.step_scrub(now, out);
        self.step_verify(now, out);
        self.step_proofs(now, out);
        self.step_greetings(now, out);
        self.step_resync(now, out);
        self.step_serving(now, out);
        self.step_drain(out);
    }

    fn on_durable(&mut self, durable: Lsn, now: Time, out: &mut Vec<Output>) {
        self.log.note_durable(durable);
        if let Some(lsn) = self.log.note_committed(self.commit_known) {
            out.push(crate::api::Output::Commit(lsn));
        }
        self.step_fence(now, out);
        if matches!(self.role, Role::Reign(_)) {
            self.advance(now, out);
            self.guests_committed(now, out);
            self.pump_all(out);
        } else {
            self.acknowledge(out);
        }
    }

    /// Why a message is none of this volume's. The checksums of a record hold for the volume and place that it names, and the
    /// store stops the process at one that is not its own.
    fn unfit(&self, from: NodeId, message: &Message) -> Option<String> {
        let volume = self.view.volume;
        let led = matches!(&self.role, Role::Reign(r) if r.peers.contains_key(&from));
        if self.view.holder(from).is_none() && !led {
            return Some(format!("it is no member of {volume}"));
        }
        let (Message::Append { records, .. } | Message::LogPart { records, .. }) = message else { return None };
        if let Some(found) = records.iter().map(Record::header).find(|h| h.volume != volume) {
            return Some(format!("expected records of {volume}, found {} of {}", found.lsn, found.volume));
        }
        let (Message::Append { epoch, .. } | Message::LogPart { epoch, .. }) = message else { return None };
        if *epoch != self.log.adopted {
            return None;
        }
        // Those that continue the log, which has its size at each record; the others are not taken.
        let mut next = (self.log.last().next(), self.log.sizes.last().size);
        for record in records.iter().filter(|r| r.lsn() > self.log.last()) {
            let header = record.header();
            if header.lsn != next.0 {
                return None;
            }
            if !header.fits(next.1) {
                let (lsn, end, blocks) = (header.lsn, header.range.end().0, next.1.blocks().0);
                return Some(format!(
                    "expected records of a volume with {blocks} blocks, found {lsn} from block {} to block {end}",
                    header.range.start.0
                ));
            }
            next = (next.0.next(), record.resized().map_or(next.1, |resized| resized.size));
        }
        None
    }

    fn on_message(&mut self, from: NodeId, message: Message, now: Time, out: &mut Vec<Output>) {
        if let Some(why) = self.unfit(from, &message) {
            out.push(Output::Refused { from, why });
            return;
        }
        match message {
            Message::PreClaim { base } => self.on_preclaim(from, base, now, out),
            Message::PreClaimReply { base, yes } => self.on_preclaim_reply(from, base, yes, now, out),
            Message::Fence { epoch, .. } => self.on_fence(from, epoch, now, out),
            Message::Tail { epoch, report } => self.on_tail(from, epoch, report, now, out),
            Message::Reject { epoch, promised } => self.on_reject(epoch, promised, now),
            Message::FetchLog { epoch, from: first, to } => self.on_fetch(from, epoch, first, to, out),
            Message::LogPart { epoch, from: first, records } => self.on_log_part(from, epoch, first, records, now, out),
            Message::Adopt { epoch, table, last } => self.on_adopt(from, epoch, table, last, out),
            Message::Append { epoch, committed, records } => self.on_append(from, epoch, committed, records, out),
            Message::AppendAck { epoch, received, durable, checkpoint } => {
                self.on_ack(from, epoch, Held { received, durable, checkpoint }, now, out)
            }
            Message::Gap { epoch, expected } => self.on_gap(from, epoch, expected, out),
            Message::Release { epoch, .. } => self.on_release(from, epoch, now, out),
            Message::Hold { epoch, run, at } => self.on_hold(from, epoch, run, at, now, out),
            Message::Held { run, at, found } => self.on_held(from, run, at, found, now, out),
            Message::FetchSums { run, node } => self.on_fetch_sums(from, run, node, out),
            Message::Sums { run, node, sums } => self.on_sums(from, run, node, sums, now, out),
            Message::GoOn { run } => self.on_go_on(from, run, out),
            Message::Proof { epoch, applied, digest } => self.on_proof(from, epoch, applied, digest, out),
            Message::NeedRegions { epoch, table, last, base } => {
                self.on_need_regions(from, (epoch, table), last, base, now, out);
            }
            Message::FetchRegions { epoch, request, query } => {
                self.on_fetch_regions(from, epoch, request, query, now, out)
            }
            Message::Regions { epoch, request, cut, next, total, last, regions } => {
                self.on_regions(from, (epoch, request), (cut, next, total, last), regions, now, out);
            }
            Message::NoRegions { epoch, request, why } => self.on_no_regions(from, epoch, request, why, now, out),
            Message::FetchBlock { block } => self.on_fetch_block(from, block, out),
            Message::Block { block, data } => self.on_block(from, block, data, now, out),
            Message::DigestAt { epoch, at } => self.on_digest_at(from, epoch, at, out),
            Message::Digest { epoch, at, digest } => self.on_digest(from, epoch, at, digest, out),
        }
    }
}
