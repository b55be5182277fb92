//! The world of the scenarios: replicas, an ideal store each, ordered lanes without delay, and a control plane that is one
//! compare-and-swap.

use crate::api::{CopyStatus, GuestError, GuestOp, Input, Limits, Output, Request, RequestKey, Timers};
use crate::replica::Replica;
use bytes::Bytes;
use holdfast_format::message::Message;
use holdfast_format::{Record, RecordKind};
use holdfast_types::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

const VOLUME: VolumeId = VolumeId(7);
const BEAT: Duration = Duration::from_millis(200);

fn first_size() -> VolumeSize {
    VolumeSize::new(1 << 20).expect("a valid size")
}

struct Node {
    replica: Option<Replica>,
    life: u64,
    log: Vec<Record>,
    promised: Epoch,
    table: EpochTable,
    committed: Lsn,
    incarnation: Incarnation,
    held: bool,
    pub(super) scrub: ScrubKept,
    /// Not 0: its image is another one than its log makes.
    differs: u64,
    /// Blocks whose content can't be verified.
    pub(super) rotten: BTreeSet<u64>,
    /// Blocks whose entry in the block table is another one than the log gives.
    wrong: BTreeSet<u64>,
    applied: Lsn,
    hold: Option<Lsn>,
    waiting: VecDeque<Output>,
    /// Records up to here may have been durable and can't be read.
    unknown_to: Option<Lsn>,
}

pub(super) struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    cut: BTreeSet<NodeId>,
    view: VolumeView,
    max_epoch: Epoch,
    now: Time,
    beat_at: Time,
    queue: VecDeque<(NodeId, Input)>,
    control: VecDeque<(NodeId, ControlRequest)>,
    control_held: bool,
    /// Beats are lost.
    beats_cut: bool,
    /// Grants on their way: from whom, to whom, of which epoch, asked for when.
    late_grants: Option<Vec<(NodeId, NodeId, Epoch, Time)>>,
    /// Its process is stopped: what is for it waits.
    frozen: Option<NodeId>,
    /// Does not hear of the control plane.
    deaf: Option<NodeId>,
    delayed: VecDeque<(NodeId, Input)>,
    replies: BTreeMap<u64, Result<Vec<u8>, GuestError>>,
    next_request: u64,
    /// How often guests of a node were disconnected.
    ends: BTreeMap<NodeId, u64>,
    /// What a forced recovery goes on with: last record, known to be committed, all of it.
    pub(super) kept: Option<(Lsn, Lsn, bool)>,
    /// Writes ask for FUA.
    pub(super) fua: bool,
}

impl Node {
    fn blank(id: NodeId, incarnation: Incarnation) -> Node {
        Node {
            replica: None,
            life: id.0,
            log: Vec::new(),
            promised: Epoch::ZERO,
            table: EpochTable::default(),
            committed: Lsn::ZERO,
            incarnation,
            held: false,
            scrub: ScrubKept::default(),
            differs: 0,
            rotten: BTreeSet::new(),
            wrong: BTreeSet::new(),
            applied: Lsn::ZERO,
            hold: None,
            waiting: VecDeque::new(),
            unknown_to: None,
        }
    }
}

impl Cluster {
    pub(super) fn new(n: u64) -> Cluster {
        Cluster::with(n, Durability::Sync)
    }

    pub(super) fn with(n: u64, durability: Durability) -> Cluster {
        let ids: Vec<NodeId> = (1..=n).map(NodeId).collect();
        let members = ids.iter().map(|id| Member { node: *id, incarnation: Incarnation(id.0 * 100) }).collect();
        let active = Configuration {
            epoch: Epoch::ZERO,
            primary: None,
            members,
            write_quorum: if durability == Durability::Async { 1 } else { u8::try_from(n / 2 + 1).expect("small") },
        };
        let size = first_size();
        let view = VolumeView::settled(VOLUME, size, durability, active);
        let mut c = Cluster {
            nodes: ids.iter().map(|id| (*id, Node::blank(*id, Incarnation(id.0 * 100)))).collect(),
            cut: BTreeSet::new(),
            view,
            max_epoch: Epoch::ZERO,
            now: Time(1_000_000_000),
            beat_at: Time(0),
            queue: VecDeque::new(),
            control: VecDeque::new(),
            control_held: false,
            beats_cut: false,
            late_grants: None,
            frozen: None,
            deaf: None,
            delayed: VecDeque::new(),
            replies: BTreeMap::new(),
            next_request: 0,
            ends: BTreeMap::new(),
            kept: None,
            fua: false,
        };
        for id in ids {
            c.restart(id);
        }
        c.settle();
        c
    }

    /// The node gets a blank copy that is to become a member.
    pub(super) fn add_learner(&mut self, node: NodeId) {
        self.add_learner_with(node, 0);
    }

    /// One whose image is another one than its log makes, if `differs` is not 0.
    pub(super) fn add_learner_with(&mut self, node: NodeId, differs: u64) {
        let incarnation = Incarnation(self.nodes.get(&node).map_or(node.0 * 100, |n| n.incarnation.0 + 1));
        self.nodes.insert(node, Node { life: 500 + incarnation.0, differs, ..Node::blank(node, incarnation) });
        self.view.learners.push(Member { node, incarnation });
        self.view.learners.sort_unstable();
        self.restart(node);
    }

    /// The member is to go.
    pub(super) fn leave(&mut self, node: NodeId) {
        self.view.leaving = vec![node];
        self.publish();
        self.settle();
    }

    /// A1: of two copies this one is to go on.
    pub(super) fn go_alone(&mut self, node: NodeId) {
        self.view.alone = Some(node);
        self.publish();
        self.settle();
    }

    /// F1: an operator goes on with these.
    pub(super) fn force(&mut self, survivors: &[u64], primary: NodeId) {
        self.max_epoch = self.max_epoch.next();
        let before = self.view.active.epoch;
        let left = |m: &Member| survivors.contains(&m.node.0);
        let members: Vec<Member> = self.view.active.members.iter().copied().filter(left).collect();
        let write_quorum = self.view.rule.write_quorum(members.len());
        let (epoch, primary) = (self.max_epoch, Some(primary));
        self.view.active = Configuration { epoch, primary, members, write_quorum };
        (self.view.forced, self.view.recovered) = (Some(Forced { before, noted: None }), None);
        (self.view.pending, self.view.nominee) = (None, None);
        self.publish();
        self.settle();
    }

    /// G4: the control plane goes on from what it knew when its view was `known`.
    pub(super) fn recover_control(&mut self, known: VolumeView) {
        let before = known.active.epoch;
        self.max_epoch = Epoch(self.max_epoch.0 + (1 << 32)).next();
        self.view = VolumeView { recovered: Some(before), pending: None, nominee: None, alone: None, ..known };
        self.view.active.epoch = self.max_epoch;
        self.publish();
        self.settle();
    }

    pub(super) fn members(&self) -> Vec<u64> {
        self.view.active.members.iter().map(|m| m.node.0).collect()
    }

    pub(super) fn view(&self) -> &VolumeView {
        &self.view
    }

    pub(super) fn pending(&self) -> bool {
        self.view.pending.is_some()
    }

    pub(super) fn runs(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.replica.is_some())
    }

    pub(super) fn served(&self, node: NodeId) -> u64 {
        self.ends.get(&node).copied().unwrap_or(0)
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn active(&self) -> &Configuration {
        &self.view.active
    }

    pub(super) fn status(&self, node: NodeId) -> CopyStatus {
        self.nodes[&node].replica.as_ref().expect("the node runs").status()
    }

    pub(super) fn last(&self, node: NodeId) -> Lsn {
        self.status(node).positions.received
    }

    pub(super) fn committed(&self, node: NodeId) -> Lsn {
        self.status(node).positions.committed
    }

    pub(super) fn log(&self, node: NodeId) -> Vec<(Lsn, RecordKind, u64)> {
        self.nodes[&node].log.iter().map(|r| (r.lsn(), r.header().kind, r.hash())).collect()
    }

    pub(super) fn reply(&self, request: u64) -> Option<Vec<u8>> {
        self.replies.get(&request).map(|r| r.clone().expect("nothing is corrupt here"))
    }

    pub(super) fn error(&self, request: u64) -> Option<GuestError> {
        self.replies.get(&request).and_then(|r| r.as_ref().err().copied())
    }

    pub(super) fn rot(&mut self, node: NodeId, block: u64) {
        self.node(node).rotten.insert(block);
    }

    /// The medium gives the right bytes again.
    pub(super) fn heal(&mut self, node: NodeId, block: u64) {
        self.node(node).rotten.remove(&block);
    }

    pub(super) fn scrub(&mut self, node: NodeId) {
        self.scrub_at(node, 7, 100 << 20);
    }

    pub(super) fn scrub_at(&mut self, node: NodeId, run: u64, bytes_per_second: u64) {
        self.queue.push_back((node, Input::Scrub { run, bytes_per_second }));
        self.settle();
    }

    pub(super) fn verify(&mut self, node: NodeId, run: u64) {
        self.queue.push_back((node, Input::Verify { run }));
        self.settle();
    }

    /// The tables of a copy are sound and say something else than those of the others.
    pub(super) fn falsify(&mut self, node: NodeId, block: u64) {
        self.node(node).wrong.insert(block);
    }

    pub(super) fn is_rotten(&self, node: NodeId, block: u64) -> bool {
        self.nodes[&node].rotten.contains(&block)
    }

    pub(super) fn nominate(&mut self, node: NodeId, planned: bool) {
        self.view.nominee = Some(Nominee { node, base: self.view.active.epoch, planned });
        self.publish();
        self.settle();
    }

    /// The control plane decides on another size.
    pub(super) fn resize(&mut self, blocks: u64) {
        let size = VolumeSize::new(blocks * 4096).expect("a size");
        let decision = self.view.resizes.last().map_or(0, |r| r.0) + 1;
        self.view.resizes.push((decision, size));
        self.view.size = size;
        self.publish();
        self.settle();
    }

    /// A node that is cut off from the others hears of it all the same.
    pub(super) fn hear(&mut self, node: NodeId) {
        self.queue.push_back((node, Input::View(self.view.clone())));
        self.settle();
    }

    /// A node hears what was decided before the last decision about the size, once more.
    pub(super) fn recall_size(&mut self, node: NodeId) {
        let mut view = self.view.clone();
        view.resizes.pop();
        view.size = view.resizes.last().map_or_else(first_size, |r| r.1);
        self.queue.push_back((node, Input::View(view)));
        self.settle();
    }

    /// A claim that reaches the control plane although nobody asked for it now: a delayed one.
    pub(super) fn forge_claim(&mut self, node: NodeId) {
        let life = Life(self.nodes[&node].life);
        self.control.push_front((node, ControlRequest::Claim { volume: VOLUME, base: self.view.active.epoch, life }));
    }

    /// A message that no replica of this cluster sent.
    pub(super) fn forge(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.queue.push_back((to, Input::Message { from, message }));
        self.settle();
    }

    pub(super) fn hold_control(&mut self, held: bool) {
        self.control_held = held;
        self.settle();
    }

    /// One request reaches the control plane, though it is held.
    pub(super) fn decide_one(&mut self) {
        if let Some((id, request)) = self.control.pop_front() {
            self.decide(id, &request);
        }
        self.settle();
    }

    pub(super) fn drop_requests(&mut self) {
        self.control.clear();
    }

    pub(super) fn cut_beats(&mut self, cut: bool) {
        self.beats_cut = cut;
    }

    /// Grants of leases stay on their way, or arrive.
    pub(super) fn hold_grants(&mut self, held: bool) {
        let late = std::mem::replace(&mut self.late_grants, held.then(Vec::new));
        for (from, to, epoch, sent) in late.into_iter().flatten() {
            let (now, mut out) = (self.now, Vec::new());
            self.node(to).replica.as_mut().expect("it beats").lease_granted(from, epoch, sent, now, &mut out);
            self.carry_all(to, out);
        }
        self.settle();
    }

    /// The records behind `last` rot, of a node that does not run; what they said of commits goes with them.
    pub(super) fn lose_behind(&mut self, node: NodeId, last: Lsn) {
        let n = self.node(node);
        n.unknown_to = n.log.last().map(Record::lsn).filter(|lsn| *lsn > last);
        n.log.retain(|record| record.lsn() <= last);
        n.committed = n.committed.min(last);
    }

    /// The node's loop notices that it stood still.
    pub(super) fn gap(&mut self, node: NodeId) {
        let (now, mut out) = (self.now, Vec::new());
        self.node(node).replica.as_mut().expect("the node runs").drop_lease(now, &mut out);
        self.carry_all(node, out);
    }

    /// Stops a process, or lets it run again with everything that has arrived meanwhile.
    pub(super) fn freeze(&mut self, node: NodeId, frozen: bool) {
        self.frozen = frozen.then_some(node);
        self.queue.append(&mut self.delayed);
        self.settle();
    }

    pub(super) fn hold_store(&mut self, node: NodeId) {
        self.node(node).held = true;
    }

    pub(super) fn release_store(&mut self, node: NodeId) {
        self.node(node).held = false;
        for output in std::mem::take(&mut self.node(node).waiting) {
            self.carry(node, output);
        }
        self.settle();
    }

    /// Its device fails.
    pub(super) fn fail_store(&mut self, node: NodeId) {
        self.queue.push_back((node, Input::Failed("EIO".to_owned())));
        self.settle();
    }

    /// The same while its store was held: reads that it was asked for end first.
    pub(super) fn fail_store_reading(&mut self, node: NodeId) {
        for output in std::mem::take(&mut self.node(node).waiting) {
            if let Output::Read { tag, .. } = output {
                self.queue.push_back((node, Input::ReadDone { tag, result: Err(ReadFault::CopyFailed) }));
            }
        }
        self.fail_store(node);
    }

    /// The connection over which all requests come.
    pub(super) fn close_session(&mut self, node: NodeId) {
        self.queue.push_back((node, Input::SessionClosed(SessionId(1))));
        self.settle();
    }

    pub(super) fn accepts(&self, node: NodeId, share: usize) -> bool {
        self.nodes[&node].replica.as_ref().is_some_and(|r| r.accepts(share))
    }

    /// Its process is about to end.
    pub(super) fn retire(&mut self, node: NodeId) {
        self.queue.push_back((node, Input::Retire));
        self.settle();
    }

    /// Its device does not answer, nor does the one that holds its control plane's log: it does not hear of nominations.
    pub(super) fn hang(&mut self, node: NodeId, hung: bool) {
        self.node(node).held = hung;
        self.deaf = hung.then_some(node);
        self.queue.push_back((node, Input::Hung(hung)));
        if !hung {
            self.queue.push_back((node, Input::View(self.view.clone())));
            self.release_store(node);
        }
        self.settle();
    }

    pub(super) fn cut(&mut self, node: NodeId) {
        self.cut.insert(node);
        self.lanes(node, false);
    }

    pub(super) fn join(&mut self, node: NodeId) {
        self.cut.remove(&node);
        self.lanes(node, true);
        self.publish();
        self.settle();
    }

    fn lanes(&mut self, node: NodeId, up: bool) {
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|o| *o != node && !self.cut.contains(o)).collect();
        for other in others {
            let event = |peer| if up { Input::PeerUp(peer) } else { Input::PeerDown(peer) };
            self.queue.push_back((node, event(other)));
            self.queue.push_back((other, event(node)));
        }
        self.settle();
    }

    pub(super) fn crash(&mut self, node: NodeId) {
        self.cut(node);
        self.node(node).replica = None;
    }

    pub(super) fn wipe(&mut self, node: NodeId) {
        self.crash(node);
        let n = self.node(node);
        (n.log, n.promised, n.table, n.committed) = (Vec::new(), Epoch::ZERO, EpochTable::default(), Lsn::ZERO);
        n.incarnation = Incarnation(4242);
        self.restart(node);
    }

    pub(super) fn restart(&mut self, node: NodeId) {
        let (view, now) = (self.view.clone(), self.now);
        let n = self.node(node);
        n.life += 1000;
        n.waiting.clear();
        (n.hold, n.applied) = (None, n.committed);
        let digest = n.sum(n.applied, 0, view.size.blocks().0) ^ n.differs;
        let last = n.log.last();
        // Settled sizes first: those from the committed one on are what a store tells.
        let mut sizes = Sizes::new(Resized { lsn: Lsn::ZERO, size: first_size(), decision: 0 });
        n.log.iter().filter_map(Record::resized).for_each(|resized| sizes.push(resized));
        sizes.settle(n.committed);
        let opened = OpenedCopy {
            incarnation: n.incarnation,
            sizes,
            promised: n.promised,
            table: n.table.clone(),
            last: last.map_or(Lsn::ZERO, Record::lsn),
            last_epoch: last.map_or(Epoch::ZERO, Record::epoch),
            last_hash: last.map_or(0, Record::hash),
            committed: n.committed,
            commit_hint: n.committed,
            applied: n.committed,
            digest,
            checkpoint: n.committed,
            first: Lsn(1),
            unknown_to: n.unknown_to,
            scrub: n.scrub.clone(),
        };
        n.replica = Some(Replica::new(node, Life(n.life), view, &opened, Timers::default(), Limits::default(), now));
        let up: Vec<NodeId> = self.nodes.keys().copied().filter(|o| *o != node && !self.cut.contains(o)).collect();
        for other in up {
            self.queue.push_back((node, Input::PeerUp(other)));
        }
        self.join(node);
    }

    pub(super) fn write(&mut self, node: NodeId, offset: u64, data: &[u8]) -> u64 {
        self.op(node, GuestOp::Write, offset, data.len() as u64, data)
    }

    pub(super) fn read(&mut self, node: NodeId, offset: u64, len: u64) -> u64 {
        self.op(node, GuestOp::Read, offset, len, b"")
    }

    pub(super) fn op(&mut self, node: NodeId, op: GuestOp, offset: u64, len: u64, data: &[u8]) -> u64 {
        self.next_request += 1;
        let key = RequestKey { session: SessionId(1), request: RequestId(self.next_request) };
        let data = Bytes::copy_from_slice(data);
        let request = Request { key, op, offset: ByteOffset(offset), len, fua: self.fua, data };
        self.queue.push_back((node, Input::Request(request)));
        self.settle();
        self.next_request
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + Duration::from_millis(5);
            if self.now >= self.beat_at {
                self.beat_at = self.now + BEAT;
                self.beats();
            }
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            for id in ids {
                self.queue.push_back((id, Input::Tick));
            }
            self.settle();
        }
    }

    /// Time goes by, and nothing happens.
    pub(super) fn skip(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }

    fn beats(&mut self) {
        if self.beats_cut {
            return;
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for from in &ids {
            for to in &ids {
                let Some(beat) = self.nodes[from]
                    .replica
                    .as_ref()
                    .and_then(|r| r.beats().into_iter().find(|b| b.0 == *to).map(|b| b.1))
                else {
                    continue;
                };
                if [from, to].into_iter().any(|n| self.cut.contains(n) || self.frozen == Some(*n)) {
                    continue;
                }
                let (now, mut out) = (self.now, Vec::new());
                let granted = self.node(*to).replica.as_mut().is_some_and(|r| r.beaten(*from, &beat, now, &mut out));
                self.carry_all(*to, out);
                if let Some(late) = self.late_grants.as_mut().filter(|_| granted) {
                    late.push((*to, *from, beat.epoch, now));
                } else if granted {
                    let mut out = Vec::new();
                    let replica = self.node(*from).replica.as_mut().expect("it beats");
                    replica.lease_granted(*to, beat.epoch, now, now, &mut out);
                    self.carry_all(*from, out);
                }
            }
        }
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the cluster")
    }

    fn publish(&mut self) {
        let reachable: Vec<NodeId> = self.nodes.keys().copied().filter(|n| !self.cut.contains(n)).collect();
        for id in reachable {
            if self.deaf == Some(id) {
                continue;
            }
            self.queue.push_back((id, Input::View(self.view.clone())));
        }
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        loop {
            while let Some((id, input)) = self.queue.pop_front() {
                if self.frozen == Some(id) {
                    if !matches!(input, Input::Tick) {
                        self.delayed.push_back((id, input));
                    }
                    continue;
                }
                let (now, mut out) = (self.now, Vec::new());
                if let Some(replica) = self.node(id).replica.as_mut() {
                    replica.handle(input, now, &mut out);
                }
                self.carry_all(id, out);
            }
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            for id in ids {
                if self.frozen == Some(id) {
                    continue;
                }
                let (now, mut out) = (self.now, Vec::new());
                if let Some(replica) = self.node(id).replica.as_mut() {
                    replica.maintain(now, &mut out);
                }
                self.carry_all(id, out);
            }
            if !self.control_held {
                while let Some((id, request)) = self.control.pop_front() {
                    self.decide(id, &request);
                }
            }
            if self.beat_at == Time::ZERO {
                self.beat_at = self.now + BEAT;
                self.beats();
            }
            if self.queue.is_empty() {
                return;
            }
        }
    }

    fn decide(&mut self, node: NodeId, request: &ControlRequest) {
        match *request {
            ControlRequest::Claim { base, life, .. } if base == self.view.active.epoch => {
                self.max_epoch = self.max_epoch.next();
                let all = Configuration { epoch: self.max_epoch, primary: Some(node), ..self.view.active.clone() };
                let configuration = if self.view.alone == Some(node) { all.alone(node, self.view.rule) } else { all };
                self.view.pending = Some(Pending { configuration, base, life, same_primary: false });
            }
            ControlRequest::Reconfigure { base, life, ref members, .. }
                if base == self.view.active.epoch && self.view.active.primary == Some(node) =>
            {
                let known = self.view.pending.as_ref().filter(|p| p.same_primary && p.base == base && p.life == life);
                if known.is_none() {
                    self.max_epoch = self.max_epoch.next();
                    let write_quorum = self.view.rule.write_quorum(members.len());
                    let (epoch, primary, members) = (self.max_epoch, Some(node), members.clone());
                    let configuration = Configuration { epoch, primary, members, write_quorum };
                    assert!(self.view.active.may_change_to(&configuration), "S21");
                    self.view.pending = Some(Pending { configuration, base, life, same_primary: true });
                }
            }
            ControlRequest::NoteKept { epoch, last, known, whole, .. } => {
                let Some(forced) = self.view.forced.as_mut() else { return };
                forced.noted = Some(epoch);
                self.kept = Some((last, known, whole));
            }
            ControlRequest::Activate { epoch, .. } if self.view.forced.is_some_and(|f| f.noted != Some(epoch)) => {
                unreachable!("F4: {epoch} is to be activated before anybody knows what is kept")
            }
            ControlRequest::Activate { epoch, .. }
                if self.view.pending.as_ref().is_some_and(|p| p.configuration.epoch == epoch) =>
            {
                self.view.active = self.view.pending.take().expect("it was just found").configuration;
                let active = self.view.active.clone();
                self.view.learners.retain(|m| active.member(m.node).is_none());
                self.view.leaving.retain(|n| active.member(*n).is_some());
                self.view.nominee = None;
                self.view.alone = None;
                (self.view.forced, self.view.recovered) = (None, None);
            }
            _ => return,
        }
        self.publish();
    }

    fn carry_all(&mut self, id: NodeId, out: Vec<Output>) {
        for output in out {
            self.carry(id, output);
        }
    }

    fn carry(&mut self, id: NodeId, output: Output) {
        let is_store = !matches!(
            output,
            Output::Send { .. }
                | Output::Reply { .. }
                | Output::Control(_)
                | Output::Serving(_)
                | Output::BeatNow
                | Output::Event(_)
                | Output::Refused { .. }
                | Output::Fail(_)
        );
        if is_store && self.nodes[&id].held {
            self.node(id).waiting.push_back(output);
            return;
        }
        match output {
            Output::Send { to, message } => {
                if !self.cut.contains(&id) && !self.cut.contains(&to) {
                    self.queue.push_back((to, Input::Message { from: id, message }));
                }
            }
            Output::Control(request) => self.control.push_back((id, request)),
            Output::Reply { key, result } => {
                let data = result.map(|pieces| pieces.concat());
                assert!(self.replies.insert(key.request.0, data).is_none(), "a request is answered once");
            }
            Output::BeatNow => self.beat_at = Time(0),
            Output::Serving(serving) => *self.ends.entry(id).or_default() += u64::from(!serving),
            Output::Event(_) | Output::Refused { .. } => {}
            Output::Fail(why) => panic!("{id} failed: {why}"),
            store => self.store(id, store),
        }
    }

    fn store(&mut self, id: NodeId, output: Output) {
        let volume = self.view.size.blocks();
        let n = self.node(id);
        let input = match output {
            Output::Append(records) => {
                for r in records {
                    assert_eq!(
                        r.lsn(),
                        n.log.last().map_or(Lsn(1), |l| l.lsn().next()),
                        "{id}: appends are contiguous"
                    );
                    n.log.push(r);
                }
                Input::Durable(Durable::attest(n.log.last().expect("just appended").lsn()))
            }
            Output::Promise(epoch) => {
                assert!(epoch > n.promised, "S14");
                n.promised = epoch;
                Input::Promised(epoch)
            }
            Output::Adopt { epoch, table, cut_after } => {
                assert!(cut_after >= n.committed, "S16");
                let fits = EpochTable::new(table.entries().to_vec());
                assert_eq!(fits.as_ref(), Ok(&table), "{id}: what is persisted can be read again");
                n.log.retain(|r| r.lsn() <= cut_after);
                (n.promised, n.table) = (epoch, table);
                let last = n.log.last();
                Input::Adopted {
                    epoch,
                    last: last.map_or(Lsn::ZERO, Record::lsn),
                    last_hash: last.map_or(0, Record::hash),
                }
            }
            Output::Scrubbed { kept, at_once } => {
                if at_once {
                    n.scrub = kept;
                }
                return;
            }
            Output::Commit(lsn) => {
                assert!(lsn > n.committed && n.log.last().is_some_and(|l| l.lsn() >= lsn));
                n.committed = lsn;
                return self.apply(id);
            }
            Output::Hold(at) => {
                n.hold = Some(at);
                return self.apply(id);
            }
            Output::GoOn => {
                n.hold = None;
                return self.apply(id);
            }
            Output::Sums(node) => {
                let (blocks, step) = (node.blocks(volume), node.child_blocks());
                let ends = |start: u64| (start + step).min(blocks.end().0);
                let starts = (blocks.start.0..blocks.end().0).step_by(usize::try_from(step).expect("small"));
                let sums = starts.map(|start| n.sum(n.applied, start, ends(start))).collect();
                Input::Sums { node, sums }
            }
            Output::Read { tag, range } | Output::Scrub { tag, range } => {
                let data = range.iter().map(|b| content(&n.log, n.committed, b)).collect();
                let bad = range.iter().find(|b| n.rotten.contains(&b.0));
                Input::ReadDone { tag, result: bad.map_or(Ok(data), |b| Err(ReadFault::Corrupt(b))) }
            }
            Output::Repair { block, data } => {
                let right = data == content(&n.log, n.committed, block);
                if right {
                    n.rotten.remove(&block.0);
                }
                Input::Repaired { block, right }
            }
            Output::ReadLog { tag, from, .. } => {
                let records = n.log.iter().filter(|r| r.lsn() >= from).take(50).cloned().collect();
                Input::LogRead { tag, records: Some(records) }
            }
            _ => return,
        };
        self.queue.push_back((id, input));
    }
}

impl Cluster {
    /// The image of a node follows what is committed, up to where it is held.
    fn apply(&mut self, id: NodeId) {
        let blocks = self.view.size.blocks().0;
        let n = self.node(id);
        let upto = n.hold.map_or(n.committed, |at| at.min(n.committed));
        assert!(n.hold.is_none_or(|at| n.applied <= at), "{id}: what has passed is not held");
        n.applied = n.applied.max(upto);
        let (applied, digest) = (n.applied, n.sum(n.applied, 0, blocks) ^ n.differs);
        let held = n.hold.filter(|at| *at == applied);
        self.queue.push_back((id, Input::Applied(applied, digest)));
        self.queue.push_back((id, Input::Checkpointed(applied)));
        if let Some(at) = held {
            self.queue.push_back((id, Input::Held { at, found: Ok(digest) }));
        }
    }
}

impl Node {
    fn sum(&self, applied: Lsn, start: u64, end: u64) -> u64 {
        let touched = self.log.iter().filter(|r| r.lsn() <= applied).flat_map(|r| r.header().range.iter());
        let blocks: std::collections::BTreeSet<BlockIndex> = touched.filter(|b| (start..end).contains(&b.0)).collect();
        let term = |b: BlockIndex| {
            let wrong = u64::from(self.wrong.contains(&b.0));
            holdfast_format::digest_term(b, holdfast_format::block_checksum(b, &content(&self.log, applied, b)) ^ wrong)
        };
        blocks.into_iter().map(term).fold(0, u64::wrapping_add)
    }
}

fn content(log: &[Record], committed: Lsn, block: BlockIndex) -> Bytes {
    let last = log.iter().rev().find(|r| r.lsn() <= committed && r.header().range.contains(block));
    last.and_then(|r| r.block(block)).map_or_else(holdfast_format::zero_block, |(data, _)| data)
}
