//! The control plane from outside: one Raft leader per term, equal states at equal indexes, S14 and S21 on what nodes know
//! and on what their copies are told.
//!
//! Nothing here relies on the asserts of the state machine: what a volume's configuration was before is remembered here.

use super::Violation;
use crate::faults::FaultKind;
use holdfast_cluster::{Copies, Duty, Phase, Receipt, State, Why};
use holdfast_node::LocalView;
use holdfast_types::{ClusterVersion, Configuration, Epoch, Generation, NodeId, Pending, VolumeId, VolumeView};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// An epoch became active.
#[derive(Clone, Debug)]
pub(crate) struct Activation {
    pub(crate) volume: VolumeId,
    pub(crate) epoch: Epoch,
    pub(crate) primary: NodeId,
    /// The primary of the epoch before goes on with other members.
    pub(crate) same_primary: bool,
    /// Members that were none before.
    pub(crate) added: Vec<NodeId>,
    pub(crate) configuration: Configuration,
    /// It opens a volume of which an operator gave up copies.
    pub(crate) receipt: Option<Receipt>,
}

/// What was ever decided about one volume.
#[derive(Debug, Default)]
struct History {
    claims: BTreeMap<Epoch, Pending>,
    active: BTreeMap<Epoch, Configuration>,
    /// Epochs without records, by which an operator gave up copies.
    forced: BTreeSet<Epoch>,
    /// Epochs without records, with which a recovery of the control plane began.
    begun: BTreeSet<Epoch>,
    /// By an operator's order.
    one_is_wanted: bool,
    /// Of two copies: whether one may go on alone.
    may_go_alone: Option<bool>,
}

/// A place in the log of one regime.
type Place = (Generation, u64);

#[derive(Debug, Default)]
pub(crate) struct Control {
    leaders: BTreeMap<(Generation, u64), NodeId>,
    /// Digest of the state after each index that some node stood at.
    states: BTreeMap<Place, u64>,
    histories: BTreeMap<VolumeId, History>,
    newest: Place,
    /// Regimes that a recovery opened.
    recovered: BTreeSet<Generation>,
    views: BTreeMap<VolumeId, VolumeView>,
    copies: BTreeMap<VolumeId, Copies>,
    duties: BTreeMap<NodeId, Duty>,
    removed: BTreeSet<NodeId>,
    /// Of the cluster, as whoever has applied most knows it.
    version: Option<ClusterVersion>,
    /// What the leader did by itself since that was last asked.
    moves: Vec<FaultKind>,
    /// Active and highest epoch that the present life of a node was told of.
    told: BTreeMap<(NodeId, VolumeId), (Epoch, Epoch)>,
}

impl Control {
    /// A volume as whoever has applied most knows it.
    pub(crate) fn view(&self, volume: VolumeId) -> Option<&VolumeView> {
        self.views.get(&volume)
    }

    /// Whether one of the two copies of this volume may go on alone.
    pub(crate) fn chosen(&mut self, volume: VolumeId, may_go_alone: bool) {
        self.histories.entry(volume).or_default().may_go_alone = Some(may_go_alone);
    }

    /// What the operator wants of an open volume, and what is.
    pub(crate) fn copies(&self, volume: VolumeId) -> Option<&Copies> {
        self.copies.get(&volume)
    }

    /// What is wanted of each node that is one.
    pub(crate) fn duties(&self) -> &BTreeMap<NodeId, Duty> {
        &self.duties
    }

    /// Whether the node left for ever.
    pub(crate) fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// Moves that the leader began or took back since this was last asked.
    pub(crate) fn take_moves(&mut self) -> Vec<FaultKind> {
        std::mem::take(&mut self.moves)
    }

    /// The version of the cluster, once anybody has a state.
    pub(crate) fn version(&self) -> Option<ClusterVersion> {
        self.version
    }

    /// Terms in which somebody led.
    pub(crate) fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// The operator opened a regime.
    pub(crate) fn recovered(&mut self, generation: Generation) {
        self.recovered.insert(generation);
    }

    /// A node takes itself for the leader.
    pub(crate) fn leads(&mut self, term: (Generation, u64), node: NodeId) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(node);
        if first == node {
            return Ok(());
        }
        Err(Violation::new(
            "one leader",
            format!("{first} and {node} both lead the control plane in term {} of generation {}", term.1, term.0),
        ))
    }

    /// A node has applied the log up to `index`: which epochs became active that nobody knew of.
    pub(crate) fn applied(&mut self, node: NodeId, index: u64, state: &State) -> Result<Vec<Activation>, Violation> {
        let digest = digest(&state.encode());
        let index = (state.generation(), index);
        let first = *self.states.entry(index).or_insert(digest);
        if first != digest {
            let text = format!("the state of {node} at index {index:?} is another one than its peers have there");
            return Err(Violation::new("equal states", text));
        }
        if index.0 > Generation::FIRST && !self.recovered.contains(&index.0) {
            return Err(Violation::new("G1", format!("{node} is of generation {}, which nobody opened", index.0)));
        }
        let mut activations = Vec::new();
        for view in state.volumes.keys().filter_map(|v| state.view(*v)) {
            never_on_witness(state, &view)?;
            let history = self.histories.entry(view.volume).or_default();
            let copies = match &state.volumes[&view.volume].phase {
                Phase::Open { copies, .. } => Some(copies),
                Phase::Creating { .. } | Phase::Deleting { .. } => None,
            };
            if let (Some(before), Some(copies)) = (self.copies.get(&view.volume), copies) {
                history.keeps_copies(&view, [before, copies])?;
            }
            let receipts = &state.volumes[&view.volume].receipts;
            let later = self.recovered.range((Bound::Excluded(index.0), Bound::Unbounded)).next();
            let ceiling = later.map_or(Epoch(u64::MAX), |g| Epoch(g.floor()));
            history.one_is_wanted = self.copies.get(&view.volume).is_some_and(|before| before.wanted.len() == 1);
            activations.extend(history.look(index.0, ceiling, &view, receipts)?);
            if index >= self.newest {
                if let Some(copies) = copies {
                    if let Some(before) = self.copies.get(&view.volume) {
                        self.moves.extend(moves(&view, before, copies));
                        serves_where_wanted(&view, before, copies, |n| {
                            let duty = self.duties.get(&n).copied();
                            duty.is_some_and(|d| d != Duty::InService)
                                && state.node(n).is_some_and(holdfast_cluster::Node::is_drained)
                        })?;
                    }
                    self.copies.insert(view.volume, copies.clone());
                }
                self.views.insert(view.volume, view);
            }
        }
        if index >= self.newest {
            if self.version.is_some_and(|before| state.version < before) {
                let text = format!("the cluster is of version {} after {:?}", state.version, self.version);
                return Err(Violation::new("V2", text));
            }
            self.version = Some(state.version);
            self.duties = state.nodes().map(|n| (n.id, n.wanted)).collect();
            self.removed.extend(state.nodes.values().filter(|n| n.removed).map(|n| n.id));
        }
        self.newest = self.newest.max(index);
        Ok(activations)
    }

    /// A process started: it may be told what was true before.
    pub(crate) fn started(&mut self, node: NodeId) {
        self.told.retain(|(n, _), _| *n != node);
    }

    /// A node's copies are told something.
    pub(crate) fn told(&mut self, node: NodeId, local: &LocalView) -> Result<(), Violation> {
        for view in &local.views {
            let active = view.active.epoch;
            let highest = view.pending.as_ref().map_or(active, |p| p.configuration.epoch);
            let before = self.told.insert((node, view.volume), (active, highest)).unwrap_or_default();
            if active < before.0 || highest < before.1 {
                let text = format!(
                    "the copy of {} at {node} is told of {active} and {highest} after {} and {}",
                    view.volume, before.0, before.1
                );
                return Err(Violation::new("S14", text));
            }
        }
        Ok(())
    }
}

impl History {
    /// Compares one view with all that was seen; what became active, if that is new.
    fn look(
        &mut self,
        generation: Generation,
        ceiling: Epoch,
        view: &VolumeView,
        receipts: &[Receipt],
    ) -> Result<Option<Activation>, Violation> {
        let id = view.volume;
        if let Some(pending) = &view.pending {
            let claim = self.claims.entry(pending.configuration.epoch).or_insert_with(|| pending.clone());
            if claim != pending {
                return Err(Violation::new(
                    "S14",
                    format!("{id}: one epoch for two claims: {claim:?} and {pending:?}"),
                ));
            }
        }
        let active = &view.active;
        if let Some(known) = self.active.get(&active.epoch) {
            if known != active {
                let text = format!("{id}: one epoch with two configurations: {known:?} and {active:?}");
                return Err(Violation::new("S21", text));
            }
            return Ok(None);
        }
        // A lost majority that has not heard of a later regime goes on with its own, as long as that one has opened nothing.
        let opened = self.active.range(ceiling..).find(|(epoch, _)| !self.begun.contains(epoch));
        if let Some((opened, _)) = opened {
            let text =
                format!("{id}: {} is active in generation {generation} after {opened} of a later one", active.epoch);
            return Err(Violation::new("S14", text));
        }
        let last = self.active.range(..ceiling).next_back().map(|(_, c)| c.clone());
        if view.recovered.is_some() {
            return self.begun_anew(generation, ceiling, view);
        }
        self.active.insert(active.epoch, active.clone());
        let Some(last) = last else { return self.founded(view) };
        if active.epoch < last.epoch {
            let text = format!("{id}: {} was never active when {} became so", active.epoch, last.epoch);
            return Err(Violation::new("S14", text));
        }
        if let Some(receipt) = receipts.iter().find(|r| r.epoch == active.epoch) {
            self.forced.insert(active.epoch);
            return forced(id, &last, active, receipt);
        }
        let mut activation = self.succeeds(id, &last, active)?;
        if self.forced.contains(&last.epoch)
            && let Some(activation) = &mut activation
        {
            activation.receipt = receipts.iter().find(|r| r.epoch == last.epoch).cloned();
        }
        Ok(activation)
    }

    /// A recovery of the control plane: an epoch without records, above all that any regime before has given away, with members that once
    /// were active.
    fn begun_anew(
        &mut self,
        generation: Generation,
        ceiling: Epoch,
        view: &VolumeView,
    ) -> Result<Option<Activation>, Violation> {
        let active = &view.active;
        // What was claimed since it began is above it, of course.
        let before = self.claims.iter().filter(|(_, claim)| claim.base != active.epoch).map(|(epoch, _)| epoch);
        let known = self.active.keys().chain(before).filter(|epoch| **epoch < ceiling);
        let highest = known.max().copied().unwrap_or_default();
        let known = self.active.values().any(|c| c.members == active.members) || self.active.is_empty();
        if active.epoch <= highest || !known {
            let text = format!(
                "{}: generation {generation} begins with {active:?}, and {highest} was given away before it began",
                view.volume
            );
            return Err(Violation::new("G3", text));
        }
        self.active.insert(active.epoch, active.clone());
        self.begun.insert(active.epoch);
        Ok(None)
    }

    /// A member goes only where more of them are than are wanted, or where it is made anew: whoever takes its place counts first.
    fn keeps_copies(&self, view: &VolumeView, known: [&Copies; 2]) -> Result<(), Violation> {
        let Some(pending) = &view.pending else { return Ok(()) };
        let (now, next) = (&view.active.members, &pending.configuration.members);
        if self.claims.contains_key(&pending.configuration.epoch) || next.len() >= now.len() {
            return Ok(());
        }
        let goes = |n: NodeId| pending.configuration.member(n).is_none();
        let due = |c: &Copies| {
            let left_out = self.may_go_alone == Some(true) && c.alone.is_some_and(|a| !goes(a.node));
            now.len() > c.wanted.len() || c.renew.iter().any(|n| goes(*n)) || left_out
        };
        if now.len() == holdfast_types::MAX_MEMBERS || known.into_iter().any(due) {
            return Ok(());
        }
        let text = format!("{}: {next:?} after {now:?}, of which nobody was to go yet: {known:?}", view.volume);
        Err(Violation::new("copies", text))
    }

    fn founded(&self, view: &VolumeView) -> Result<Option<Activation>, Violation> {
        let (epoch, primary) = (view.active.epoch, view.active.primary);
        if epoch == Epoch::ZERO && primary.is_none() {
            return Ok(None);
        }
        Err(Violation::new("S21", format!("{}: its first configuration is that of {epoch}", view.volume)))
    }

    /// Compare-and-swap: the successor was claimed on exactly this base, by one of its members, and what decides in it
    /// meets what was fenced in the base.
    fn succeeds(
        &self,
        id: VolumeId,
        last: &Configuration,
        next: &Configuration,
    ) -> Result<Option<Activation>, Violation> {
        let wrong = |what: String| Violation::new("S21", format!("{id}: {} after {}: {what}", next.epoch, last.epoch));
        let Some(claim) = self.claims.get(&next.epoch) else {
            return Err(wrong("active, and nobody ever knew of a claim".to_owned()));
        };
        if claim.base != last.epoch || claim.configuration != *next {
            return Err(wrong(format!("what became active is not what was claimed: {claim:?}, {next:?}")));
        }
        let Some(primary) = next.primary.filter(|p| last.member(*p).is_some()) else {
            return Err(wrong(format!("its primary {:?} was no member", next.primary)));
        };
        let one_of_two = next.members.len() == 1 && last.members.len() == 2;
        if one_of_two && !self.one_is_wanted && self.may_go_alone == Some(false) {
            return Err(Violation::new("degraded", format!("{id}: {next:?} after {last:?}: it was to wait")));
        }
        let all: BTreeSet<NodeId> = last.members.iter().chain(&next.members).map(|m| m.node).collect();
        let (before, now) = (usize::from(last.write_quorum), usize::from(next.write_quorum));
        if claim.same_primary {
            // Nobody was fenced: whoever decided before must meet whoever decides now.
            let differ = last.members.iter().filter(|m| !next.members.contains(m)).count()
                + next.members.iter().filter(|m| !last.members.contains(m)).count();
            if differ != 1 || before + now <= all.len() || last.primary != next.primary {
                return Err(wrong(format!("not one member more or less of the same primary: {last:?}, {next:?}")));
            }
        } else if self.may_go_alone == Some(true) && next.members.len() == 1 && last.members.len() == 2 && before == 2 {
            // Who goes on alone was fenced itself, and both members held whatever was answered.
            if !last.members.contains(&next.members[0]) || next.members[0].node != primary {
                return Err(wrong(format!("who goes on alone is another copy: {last:?}, {next:?}")));
            }
        } else if last.members.len() + 1 - before + now <= all.len() || last.members != next.members {
            return Err(wrong(format!("a write quorum may miss who was fenced: {last:?}, {next:?}")));
        }
        let added = next.members.iter().filter(|m| !last.members.contains(m)).map(|m| m.node).collect();
        let (volume, epoch, same_primary) = (id, next.epoch, claim.same_primary);
        let configuration = next.clone();
        Ok(Some(Activation { volume, epoch, primary, same_primary, added, configuration, receipt: None }))
    }
}

/// What the leader began or took back by itself.
fn moves(view: &VolumeView, before: &Copies, now: &Copies) -> Vec<FaultKind> {
    let new = now.successors.iter().filter(|(n, s)| s.why == Why::Gone && before.successors.get(n) != Some(s));
    let gone = before.successors.keys().filter(|n| !now.wanted.contains(n) && view.active.member(**n).is_none());
    let left_out = now.left_out.keys().filter(|n| !before.left_out.contains_key(n)).map(|_| FaultKind::WentAlone);
    let again = before.left_out.keys().filter(|n| view.active.member(**n).is_some()).map(|_| FaultKind::BothAgain);
    let moved = new.map(|_| FaultKind::CopyReplacedByItself).chain(gone.map(|_| FaultKind::CopyKept));
    moved.chain(left_out).chain(again).collect()
}

/// S22: a witness never counts, and never is about to.
fn never_on_witness(state: &State, view: &VolumeView) -> Result<(), Violation> {
    let all = view.active.members.iter().chain(&view.learners);
    let holders = all.chain(view.pending.iter().flat_map(|p| &p.configuration.members)).map(|m| m.node);
    match holders.into_iter().find(|n| state.nodes.get(n).is_some_and(|n| n.witness)) {
        Some(node) => Err(Violation::new("S22", format!("{}: {node} is a witness and holds a copy", view.volume))),
        None => Ok(()),
    }
}

/// A node that is to be drained gets no copy that it had not.
fn serves_where_wanted(
    view: &VolumeView,
    before: &Copies,
    now: &Copies,
    drained: impl Fn(NodeId) -> bool,
) -> Result<(), Violation> {
    let had = |n: &NodeId| before.wanted.contains(n) || view.active.member(*n).is_some();
    match now.wanted.iter().find(|n| !had(n) && drained(**n)) {
        Some(node) => {
            Err(Violation::new("drain", format!("{}: {node} is to be drained and is to get a copy", view.volume)))
        }
        None => Ok(()),
    }
}

/// An operator's epoch has some of the members of the one before, as they were registered, and a receipt that says so.
fn forced(
    id: VolumeId,
    last: &Configuration,
    next: &Configuration,
    receipt: &Receipt,
) -> Result<Option<Activation>, Violation> {
    let known = next.members.iter().all(|m| last.members.contains(m));
    let sound = known && next.members == receipt.survivors && receipt.before == *last && receipt.kept.is_none();
    if sound && next.primary.is_some_and(|p| next.member(p).is_some()) && next.epoch > last.epoch {
        return Ok(None);
    }
    let text =
        format!("{id}: the forced {} after {} is {next:?} after {last:?} by {receipt:?}", next.epoch, last.epoch);
    Err(Violation::new("S21", text))
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_cluster::Command;
    use holdfast_types::{ClusterId, Durability, GuestLimits, Incarnation, Life, SocketAccess};

    const N1: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);
    const V1: VolumeId = VolumeId(1);

    fn done(state: &mut State, command: &Command) {
        state.apply(command).unwrap();
    }

    /// A volume on two nodes whose copies are registered.
    fn open_volume() -> State {
        let mut state = State::new(ClusterId(1), "test");
        for name in ["n1", "n2"] {
            let (name, address, fingerprint) = (name.to_owned(), format!("{name}:1"), "ab".to_owned());
            let failure_domain = String::new();
            let (voter, witness) = (true, false);
            let node = Command::AddNode { name, address, failure_domain, voter, witness, fingerprint, token_id: None };
            done(&mut state, &node);
        }
        let (name, durability, nodes) = ("v1".to_owned(), Durability::Sync, vec![N1, N2]);
        let size = 1 << 20;
        let (limits, socket) = (GuestLimits::default(), SocketAccess::default());
        let (primary, degraded) = (None, None);
        let create =
            Command::CreateVolume { name, size, durability, write_quorum: 2, nodes, primary, degraded, limits, socket };
        done(&mut state, &create);
        for node in [N1, N2] {
            done(&mut state, &Command::RegisterCopy { volume: V1, node, incarnation: Incarnation(node.0) });
        }
        state
    }

    fn claimed(node: NodeId, base: Epoch, mut state: State) -> State {
        done(&mut state, &Command::Claim { volume: V1, base, node, life: Life(node.0) });
        state
    }

    fn activated(epoch: Epoch, mut state: State) -> State {
        done(&mut state, &Command::Activate { volume: V1, epoch });
        state
    }

    fn property<T: std::fmt::Debug>(result: Result<T, Violation>) -> &'static str {
        result.unwrap_err().property
    }

    fn told(state: &State) -> LocalView {
        LocalView { views: state.views_for(N1), ..LocalView::default() }
    }

    #[test]
    fn a_term_has_one_leader() {
        let mut c = Control::default();
        let term = |n| (Generation::FIRST, n);
        c.leads(term(1), N1).unwrap();
        c.leads(term(2), N2).unwrap();
        c.leads(term(2), N2).unwrap();
        c.leads((Generation(1), 1), N2).expect("of another regime");
        assert_eq!((property(c.leads(term(1), N2)), c.terms()), ("one leader", 3));
    }

    #[test]
    fn equal_indexes_have_equal_states() {
        let (mut c, state) = (Control::default(), open_volume());
        c.applied(N1, 5, &state).unwrap();
        c.applied(N2, 5, &state).unwrap();
        assert_eq!(property(c.applied(N2, 5, &claimed(N2, Epoch::ZERO, state))), "equal states");
    }

    #[test]
    fn an_activation_is_told_once() {
        let (mut c, state) = (Control::default(), open_volume());
        c.applied(N1, 5, &state).unwrap();
        let state = claimed(N2, Epoch::ZERO, state);
        c.applied(N1, 6, &state).unwrap();
        let state = activated(Epoch(1), state);
        let news = c.applied(N1, 7, &state).unwrap();
        assert_eq!((news.len(), news[0].epoch, news[0].primary), (1, Epoch(1), N2));
        assert!(c.applied(N2, 7, &state).unwrap().is_empty());
        assert_eq!(c.view(V1).unwrap().active.epoch, Epoch(1));
    }

    #[test]
    fn an_activation_without_a_claim_breaks_s21() {
        let (mut c, state) = (Control::default(), open_volume());
        c.applied(N1, 5, &state).unwrap();
        let state = activated(Epoch(1), claimed(N2, Epoch::ZERO, state));
        assert_eq!(property(c.applied(N1, 7, &state)), "S21");
    }

    #[test]
    fn an_activation_on_another_base_breaks_s21() {
        let (mut c, state) = (Control::default(), open_volume());
        c.applied(N1, 5, &state).unwrap();
        // Two claims on one base; the state of the second never saw that the first became active.
        let first = claimed(N1, Epoch::ZERO, state);
        let second = claimed(N2, Epoch::ZERO, first.clone());
        c.applied(N1, 6, &first).unwrap();
        c.applied(N1, 7, &second).unwrap();
        c.applied(N1, 8, &activated(Epoch(1), first)).unwrap();
        assert_eq!(property(c.applied(N1, 9, &activated(Epoch(2), second))), "S21");
    }

    #[test]
    fn one_epoch_for_two_claims_breaks_s14() {
        let (mut c, state) = (Control::default(), open_volume());
        c.applied(N1, 6, &claimed(N1, Epoch::ZERO, state.clone())).unwrap();
        assert_eq!(property(c.applied(N1, 7, &claimed(N2, Epoch::ZERO, state))), "S14");
    }

    #[test]
    fn copies_are_told_of_rising_epochs_until_they_start_again() {
        let mut c = Control::default();
        let old = claimed(N1, Epoch::ZERO, open_volume());
        let new = activated(Epoch(1), old.clone());
        c.told(N1, &told(&old)).unwrap();
        c.told(N1, &told(&new)).unwrap();
        assert_eq!(property(c.told(N1, &told(&old))), "S14");
        c.started(N1);
        c.told(N1, &told(&old)).unwrap();
    }
}
