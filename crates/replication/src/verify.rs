//! Comparing all copies at one record, while writes go on.
//!
//! ```text
//!  primary: at = end of its log ──Hold──► each member: applies up to `at`, stops there ──Held(digest)──► compare
//!      equal ───────────────────────────────────────────────────────────────────────► GoOn, the verdict
//!      different: walks the digest tree, one node at a time: FetchSums ──► Sums, down to regions of 64 KiB ──► GoOn, the verdict
//! ```
//! A stream carries `Hold` before every record above `at`, and whatever came before is not above it. So no member that follows can
//! have passed it, and the primary neither. The digests are those of the block tables; that the images are what the tables say is
//! the scrub's to find out.
//!
//! Invariants: a copy whose digest at that record is not known is never called equal. A copy holds only for the primary that it follows,
//! and no longer than [`MAX_HOLD`], whatever becomes of that one.
//!
//! Bounds (P13): one comparison at a time, one question under way, [`MAX_NAMED`] ranges for each copy.

use crate::api::Output;
use crate::reign::PeerState;
use crate::replica::{Replica, Role};
use holdfast_format::message::{Message, NotHeld, SumNode};
use holdfast_types::{BlockRange, Epoch, Lsn, NodeId, REGION_BLOCKS, Time, VolumeSize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long copies get to reach the record.
const REACH: Duration = Duration::from_secs(10);
/// How long a comparison may take, once the digests are known.
const WALK: Duration = Duration::from_secs(20);
/// A copy that hears nothing more applies again after that.
const MAX_HOLD: Duration = Duration::from_secs(35);
/// Differing ranges that are named, for each copy.
pub(crate) const MAX_NAMED: usize = 64;

/// Comparisons at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyStatus {
    /// Under way, by the name of the wish.
    pub running: Option<u64>,
    /// The last one of this life.
    pub last: Option<Verdict>,
    /// How many ended in this life.
    pub runs: u64,
    /// Digests of other copies that were compared in passing.
    pub proofs: u64,
    /// As primary: copies whose digest differed when it was last compared, and at which record.
    pub differs: Vec<(NodeId, Lsn)>,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which wish.
    pub run: u64,
    /// At this record.
    pub at: Lsn,
    /// When it ended.
    pub ended: Time,
    /// Every member, the primary first.
    pub copies: Vec<CopyVerdict>,
}

/// What a comparison found of one copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyVerdict {
    /// Who holds it.
    pub node: NodeId,
    /// Of its image at that record, if it is known.
    pub digest: Option<u64>,
    /// Why it could not be compared.
    pub missing: Option<String>,
    /// Where it differs from the primary's copy, in whole regions.
    pub ranges: Vec<BlockRange>,
    /// Where else it differs is not known.
    pub more: bool,
}

impl Verdict {
    /// All copies are known to be equal.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        let first = self.copies.first().and_then(|c| c.digest);
        first.is_some() && self.copies.iter().all(|c| c.digest == first)
    }
}

/// This copy stops at a record.
#[derive(Clone, Copy, Debug)]
struct Holding {
    run: u64,
    at: Lsn,
    leader: (NodeId, Epoch),
    until: Time,
}

/// A comparison that this primary makes.
#[derive(Debug)]
struct Run {
    id: u64,
    epoch: Epoch,
    at: Lsn,
    /// The volume's there.
    size: VolumeSize,
    until: Time,
    copies: BTreeMap<NodeId, CopyVerdict>,
    /// Once the digests are known.
    walk: Option<Walk>,
}

/// The way through the digest tree.
#[derive(Debug)]
struct Walk {
    /// Nodes of the highest level that were not looked at yet.
    tops: std::ops::Range<u64>,
    /// Nodes of the lower one that differ.
    below: VecDeque<SumNode>,
    asked: Option<SumNode>,
    answers: BTreeMap<NodeId, Vec<u64>>,
}

#[derive(Debug, Default)]
pub(crate) struct Verify {
    holding: Option<Holding>,
    run: Option<Run>,
    last: Option<Verdict>,
    runs: u64,
}

impl Verify {
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        [self.holding.map(|h| h.until), self.run.as_ref().map(|r| r.until)].into_iter().flatten().min()
    }
}

impl CopyVerdict {
    fn unknown(node: NodeId) -> CopyVerdict {
        CopyVerdict { node, digest: None, missing: None, ranges: Vec::new(), more: false }
    }

    fn name(&mut self, range: BlockRange) {
        if let Some(last) = self.ranges.last_mut().filter(|last| last.end() == range.start) {
            last.count.0 += range.count.0;
        } else if self.ranges.len() < MAX_NAMED {
            self.ranges.push(range);
        } else {
            self.more = true;
        }
    }
}

impl Replica {
    pub(crate) fn verify_status(&self) -> VerifyStatus {
        let v = &self.verify;
        VerifyStatus {
            running: v.run.as_ref().map(|r| r.id),
            last: v.last.clone(),
            runs: v.runs,
            proofs: self.proofs.compared,
            differs: self.proofs.differs.iter().map(|(node, lsn)| (*node, *lsn)).collect(),
        }
    }

    // ---- the primary

    /// An operator wants the copies compared.
    pub(crate) fn on_verify(&mut self, id: u64, now: Time, out: &mut Vec<Output>) {
        let known = self.verify.last.as_ref().is_some_and(|last| last.run == id);
        let Role::Reign(r) = &self.role else { return };
        if !r.active || known || self.verify.run.is_some() {
            // Whoever asked looks whether it has begun, and asks again.
            return;
        }
        let (epoch, at) = (r.epoch(), self.log.last());
        let follows = |node: &NodeId| r.peers.get(node).is_some_and(|p| p.state == PeerState::Streaming);
        let mut copies = BTreeMap::from([(self.me, CopyVerdict::unknown(self.me))]);
        for node in self.peers() {
            let mut copy = CopyVerdict::unknown(node);
            if follows(&node) && self.up.contains(&node) {
                self.send(node, Message::Hold { epoch, run: id, at }, out);
            } else {
                copy.missing = Some("it does not follow the primary now".to_owned());
            }
            copies.insert(node, copy);
        }
        let size = self.log.sizes.at(at).size;
        self.verify.run = Some(Run { id, epoch, at, size, until: now + REACH, copies, walk: None });
        self.start_holding(Holding { run: id, at, leader: (self.me, epoch), until: now + MAX_HOLD }, out);
    }

    /// A copy has reached the record, or does not hold any more.
    pub(crate) fn on_held(
        &mut self,
        from: NodeId,
        run: u64,
        at: Lsn,
        found: Result<u64, NotHeld>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(r) = self.verify.run.as_mut().filter(|r| r.id == run && r.at == at) else { return };
        let Some(copy) = r.copies.get_mut(&from).filter(|c| c.missing.is_none()) else { return };
        match found {
            Ok(digest) => copy.digest = Some(digest),
            // What its digest was at that record is known all the same.
            Err(NotHeld::Pressed) if copy.digest.is_some() => copy.more = true,
            Err(why) => copy.missing = Some(not_held(why, at)),
        }
        self.step_verify(now, out);
    }

    fn lost_for_verify(&mut self, node: NodeId, now: Time, out: &mut Vec<Output>) {
        let Some(copy) = self.verify.run.as_mut().and_then(|r| r.copies.get_mut(&node)) else { return };
        if copy.digest.is_none() {
            copy.missing.get_or_insert_with(|| "the connection to it was lost".to_owned());
        }
        // It goes on: its sums are of another record now.
        copy.more = true;
        self.step_verify(now, out);
    }

    /// Goes on as far as it goes: compares once all have answered or had their time, then walks the tree.
    pub(crate) fn step_verify(&mut self, now: Time, out: &mut Vec<Output>) {
        self.check_hold(now, out);
        let me = self.me;
        let Some(run) = self.verify.run.as_mut() else { return };
        let late = now >= run.until;
        if run.walk.is_some() {
            if late {
                run.copies.values_mut().for_each(|c| c.more = true);
            }
            return self.walk(now, out);
        }
        if !late && run.copies.values().any(|c| c.digest.is_none() && c.missing.is_none()) {
            return;
        }
        for copy in run.copies.values_mut().filter(|c| c.digest.is_none()) {
            let late = format!("it did not reach record {} within {} s", run.at, REACH.as_secs());
            copy.missing.get_or_insert(late);
        }
        let own = run.copies[&me].digest;
        let differ = own.is_some() && run.copies.values().any(|c| c.digest.is_some() && c.digest != own);
        let tops = if differ { 0..SumNode::tops(run.size.blocks()) } else { 0..0 };
        run.until = now + WALK;
        run.walk = Some(Walk { tops, below: VecDeque::new(), asked: None, answers: BTreeMap::new() });
        self.walk(now, out);
    }

    /// Asks the next question, unless one is under way or nothing is left to be asked.
    fn walk(&mut self, now: Time, out: &mut Vec<Output>) {
        let me = self.me;
        let Some(run) = self.verify.run.as_mut() else { return };
        let own = run.copies[&me].digest;
        // Who holds, differs, and is not named in full yet.
        let open = |c: &&CopyVerdict| c.digest.is_some() && c.digest != own && !c.more;
        let asked: Vec<NodeId> = run.copies.values().filter(open).map(|c| c.node).collect();
        let walk = run.walk.as_mut().expect("the digests are known");
        if walk.asked.is_some_and(|_| !asked.is_empty()) && !run.copies[&me].more {
            return self.sums_complete(now, out);
        }
        let top = || SumNode { level: SumNode::TOP, index: 0 };
        let next = walk.below.pop_front().or_else(|| walk.tops.next().map(|index| SumNode { index, ..top() }));
        let Some(node) = next.filter(|_| !asked.is_empty() && !run.copies[&me].more) else {
            return self.end_verify(now, out);
        };
        walk.asked = Some(node);
        walk.answers.clear();
        let id = run.id;
        for member in asked {
            self.send(member, Message::FetchSums { run: id, node }, out);
        }
        out.push(Output::Sums(node));
    }

    /// The sums of a copy.
    pub(crate) fn on_sums(
        &mut self,
        from: NodeId,
        run: u64,
        node: SumNode,
        sums: Vec<u64>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(r) = self.verify.run.as_mut().filter(|r| r.id == run) else { return };
        let expected = node.blocks(r.size.blocks()).count.0.div_ceil(node.child_blocks());
        let Some(walk) = r.walk.as_mut().filter(|w| w.asked == Some(node)) else { return };
        let Some(copy) = r.copies.get_mut(&from) else { return };
        if sums.len() as u64 == expected {
            walk.answers.insert(from, sums);
        } else {
            copy.more = true;
        }
        self.step_verify(now, out);
    }

    /// Looks at the answers, if all are there.
    fn sums_complete(&mut self, now: Time, out: &mut Vec<Output>) {
        let me = self.me;
        let Some(run) = self.verify.run.as_mut() else { return };
        let blocks = run.size.blocks();
        let walk = run.walk.as_mut().expect("a question is part of a walk");
        let node = walk.asked.expect("a question is under way");
        let digest = run.copies[&me].digest;
        let waits = |c: &CopyVerdict| c.digest.is_some() && c.digest != digest && !c.more;
        let all = run.copies.values().filter(|c| waits(c)).all(|c| walk.answers.contains_key(&c.node));
        let Some(own) = walk.answers.get(&me).cloned().filter(|_| all) else { return };
        walk.asked = None;
        for (member, sums) in walk.answers.iter().filter(|(n, _)| **n != me) {
            let copy = run.copies.get_mut(member).expect("only members are asked");
            for (child, _) in (0..).zip(own.iter().zip(sums)).filter(|(_, (a, b))| a != b) {
                let index = node.index * SumNode::FAN + child;
                if node.level > 1 {
                    let below = SumNode { level: node.level - 1, index };
                    if !walk.below.contains(&below) {
                        walk.below.push_back(below);
                    }
                } else {
                    let start = index * REGION_BLOCKS;
                    copy.name(BlockRange::new(start, REGION_BLOCKS.min(blocks.0 - start)));
                }
            }
        }
        self.walk(now, out);
    }

    /// Everything is said: the copies go on.
    fn end_verify(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(run) = self.verify.run.take() else { return };
        for member in run.copies.keys().filter(|n| **n != self.me) {
            self.send(*member, Message::GoOn { run: run.id }, out);
        }
        self.stop_holding(out);
        let own = run.copies[&self.me].digest;
        let me = self.me;
        for copy in run.copies.values().filter(|c| c.node != me) {
            if let (Some(own), Some(theirs)) = (own, copy.digest) {
                self.compared(copy.node, run.at, own == theirs, out);
            }
        }
        let done = |w: &Walk| w.asked.is_none() && w.below.is_empty() && w.tops.is_empty();
        let unfinished = !run.walk.as_ref().is_some_and(done);
        let mut copies: Vec<CopyVerdict> = run.copies.into_values().collect();
        // Where copies are equal there is nothing more to be known.
        copies.iter_mut().for_each(|c| c.more = (c.more || unfinished) && c.digest.is_some() && c.digest != own);
        copies.sort_by_key(|c| (c.node != self.me, c.node));
        let verdict = Verdict { run: run.id, at: run.at, ended: now, copies };
        out.push(Output::Event(told(&verdict)));
        self.verify.runs += 1;
        self.verify.last = Some(verdict);
    }

    /// This copy leads no more: what was not compared is not known.
    pub(crate) fn give_up_verify(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Some(run) = self.verify.run.as_mut() {
            for copy in run.copies.values_mut().filter(|c| c.digest.is_none()) {
                copy.missing.get_or_insert_with(|| "the primary changed meanwhile".to_owned());
            }
            run.copies.values_mut().for_each(|c| c.more = true);
            self.end_verify(now, out);
        }
    }

    // ---- every copy

    /// The primary wants this image held.
    pub(crate) fn on_hold(&mut self, from: NodeId, epoch: Epoch, run: u64, at: Lsn, now: Time, out: &mut Vec<Output>) {
        let follows = self.leader == Some((from, epoch)) && self.log.adopted == epoch && self.log.promised == epoch;
        if !follows {
            return self.send(from, Message::Held { run, at, found: Err(NotHeld::Stranger) }, out);
        }
        self.start_holding(Holding { run, at, leader: (from, epoch), until: now + MAX_HOLD }, out);
    }

    fn start_holding(&mut self, holding: Holding, out: &mut Vec<Output>) {
        self.verify.holding = Some(holding);
        out.push(Output::Hold(holding.at));
    }

    fn stop_holding(&mut self, out: &mut Vec<Output>) {
        if self.verify.holding.take().is_some() {
            out.push(Output::GoOn);
        }
    }

    pub(crate) fn on_go_on(&mut self, from: NodeId, run: u64, out: &mut Vec<Output>) {
        if self.verify.holding.is_some_and(|h| h.run == run && h.leader.0 == from) {
            self.stop_holding(out);
        }
    }

    /// A hold ends with its time, and with the reign that it is for.
    pub(crate) fn check_hold(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(h) = self.verify.holding else { return };
        let mine = h.leader.0 == self.me && self.verify.run.as_ref().is_some_and(|r| r.id == h.run);
        let stands =
            mine || (self.leader == Some(h.leader) && self.log.promised == h.leader.1 && self.up.contains(&h.leader.0));
        if now >= h.until || !stands {
            self.stop_holding(out);
        }
    }

    /// The store has reached the record, or does not hold any more.
    pub(crate) fn store_held(&mut self, at: Lsn, found: Result<u64, NotHeld>, now: Time, out: &mut Vec<Output>) {
        let Some(h) = self.verify.holding.filter(|h| h.at == at) else { return };
        if found.is_err() {
            self.verify.holding = None;
        }
        if h.leader.0 == self.me {
            self.on_held(self.me, h.run, at, found, now, out);
        } else {
            self.send(h.leader.0, Message::Held { run: h.run, at, found }, out);
        }
    }

    pub(crate) fn on_fetch_sums(&mut self, from: NodeId, run: u64, node: SumNode, out: &mut Vec<Output>) {
        if self.verify.holding.is_some_and(|h| h.run == run && h.leader.0 == from) {
            // The store may have to read for it. It answers with nothing if the image has moved on by then.
            out.push(Output::Sums(node));
        } else {
            self.send(from, Message::Sums { run, node, sums: Vec::new() }, out);
        }
    }

    pub(crate) fn store_sums(&mut self, node: SumNode, sums: Vec<u64>, now: Time, out: &mut Vec<Output>) {
        match self.verify.holding {
            Some(h) if h.leader.0 == self.me => self.on_sums(self.me, h.run, node, sums, now, out),
            Some(h) => self.send(h.leader.0, Message::Sums { run: h.run, node, sums }, out),
            // Let go meanwhile; a primary sees that its own hold is over.
            None => {
                let run = self.verify.run.as_ref().map_or(0, |r| r.id);
                self.on_sums(self.me, run, node, Vec::new(), now, out);
            }
        }
    }

    /// A lane has ended.
    pub(crate) fn verify_peer_down(&mut self, peer: NodeId, now: Time, out: &mut Vec<Output>) {
        self.lost_for_verify(peer, now, out);
        self.check_hold(now, out);
    }

    /// Whether a comparison that is under way belongs to another reign than the present one.
    pub(crate) fn verify_outlived(&self) -> bool {
        let epoch = if let Role::Reign(r) = &self.role { Some(r.epoch()).filter(|_| r.active) } else { None };
        self.verify.run.as_ref().is_some_and(|run| Some(run.epoch) != epoch)
    }
}

fn not_held(why: NotHeld, at: Lsn) -> String {
    match why {
        NotHeld::Passed => format!("it had passed record {at} already"),
        NotHeld::Pressed => format!("it could not stand still at record {at}: too much was written meanwhile"),
        NotHeld::Stranger => "it does not follow the primary now".to_owned(),
    }
}

/// A verdict in a sentence.
fn told(verdict: &Verdict) -> String {
    let at = verdict.at;
    let first = verdict.copies.first().and_then(|c| c.digest);
    let nodes = |which: &dyn Fn(&CopyVerdict) -> bool| -> String {
        let nodes: Vec<String> = verdict.copies.iter().filter(|c| which(c)).map(|c| c.node.to_string()).collect();
        nodes.join(", ")
    };
    let differ = nodes(&|c| c.digest.is_some() && c.digest != first);
    let unknown = nodes(&|c| c.digest.is_none());
    match (differ.is_empty(), unknown.is_empty()) {
        (true, true) => format!("verify: all copies are equal at record {at}"),
        (true, false) => format!("verify: not every copy could be compared at record {at}: {unknown} is missing"),
        (false, true) => format!("verify: at record {at} these copies differ from the primary's: {differ}"),
        (false, false) => {
            format!("verify: at record {at} these copies differ from the primary's: {differ}; {unknown} is missing")
        }
    }
}
