//! Blocks of the image that do not match their checksum are fetched from another copy (S18, L9).
//!
//! ```text
//!  a read or a scrub finds a bad block ──► ask a member ──its content──► store: does it match *our* checksum? write it
//!        ▲                                     │ it has none, or another version               │ repaired
//!        └────── after a pause, all again ◄────┴── the next member ...                          ▼
//!                ... PATIENCE rounds: the read fails                            whoever waited reads again
//! ```
//! What a member sends needs no trust and no epoch: the checksum in this copy's block table, bound to the address, says
//! whether it is the content that the image had. A member that lags or is ahead has another version; so it is asked again.
//! A checksum is never computed anew over data that failed it, and a copy never repairs another one from a block that it
//! can't verify itself (trap 20).
//!
//! Bounds (P13): one repair per block, one question at a time for each; questions of others above `MAX_SERVED` are dropped
//! and asked again by them.

use crate::api::Output;
use crate::guest::concat;
use crate::notices::Notices;
use crate::replica::Replica;
use bytes::Bytes;
use holdfast_format::message::Message;
use holdfast_format::zero_block;
use holdfast_types::{BlockIndex, BlockRange, NodeId, ReadFault, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// Rounds in which every member was asked, until those who wait are told that the block is lost.
const PATIENCE: u32 = 20;
/// Pause between rounds: a member that lags learns what is committed meanwhile.
const PAUSE: Duration = Duration::from_millis(50);
/// A member that does not answer for so long is passed over: its copy may have failed over the question.
const ANSWER: Duration = Duration::from_secs(2);
/// Reads on behalf of other copies at a time.
const MAX_SERVED: usize = 64;

/// Everything about bad blocks, here and at others.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    blocks: BTreeMap<BlockIndex, Repair>,
    /// Reads on behalf of other copies.
    served: BTreeMap<u64, (NodeId, BlockIndex)>,
    repaired: Notices,
    lost: Notices,
}

/// What the events of these kinds say of many blocks.
const REPAIRED: &str = "did not match their checksums and were repaired";
const LOST: &str = "do not match their checksums and no copy that answers has their content: reads of them fail";

#[derive(Debug)]
struct Repair {
    stage: Stage,
    rounds: u32,
    /// Reads that found it, to be made again.
    readers: BTreeMap<u64, BlockRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asked this member, which is waited for until then; all with a lower id were asked before, in this round.
    Asked(NodeId, Time),
    /// The store compares and writes what this member sent.
    Writing(NodeId),
    /// Nobody had it: all are asked again then.
    Pausing(Time),
}

impl Repairs {
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let due = |r: &Repair| match r.stage {
            Stage::Pausing(until) | Stage::Asked(_, until) => Some(until),
            Stage::Writing(_) => None,
        };
        let due = self.blocks.values().filter_map(due);
        due.chain(self.repaired.next_timeout()).chain(self.lost.next_timeout()).min()
    }
}

impl Replica {
    /// A read of this copy found a bad block in `range`; it is made again when the block is repaired.
    pub(crate) fn repair(&mut self, block: BlockIndex, tag: u64, range: BlockRange, now: Time, out: &mut Vec<Output>) {
        self.found_bad(block, tag, range, now);
        self.step_repairs(now, out);
    }

    /// The image does not hold the zeros that the block table says: they need not come from another copy.
    pub(crate) fn repair_zeros(
        &mut self,
        block: BlockIndex,
        tag: u64,
        range: BlockRange,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let me = self.me;
        let repair = self.found_bad(block, tag, range, now);
        if matches!(repair.stage, Stage::Pausing(_)) {
            repair.stage = Stage::Writing(me);
            out.push(Output::Repair { block, data: zero_block() });
        }
    }

    fn found_bad(&mut self, block: BlockIndex, tag: u64, range: BlockRange, now: Time) -> &mut Repair {
        self.scrub.count(|found| found.mismatches += u64::from(!self.repairs.blocks.contains_key(&block)));
        let repair = self.repairs.blocks.entry(block).or_insert_with(|| Repair::new(now));
        repair.readers.insert(tag, range);
        repair
    }

    /// Asks on: whose pause is over, or whose question ended with its connection.
    pub(crate) fn step_repairs(&mut self, now: Time, out: &mut Vec<Output>) {
        self.repairs.repaired.step(REPAIRED, now, out);
        self.repairs.lost.step(LOST, now, out);
        let due = |r: &Repair| match r.stage {
            Stage::Pausing(until) => now >= until,
            Stage::Asked(member, until) => now >= until || !self.up.contains(&member),
            Stage::Writing(_) => false,
        };
        let blocks: Vec<(BlockIndex, Stage)> =
            self.repairs.blocks.iter().filter(|(_, r)| due(r)).map(|(b, r)| (*b, r.stage)).collect();
        for (block, stage) in blocks {
            let after = if let Stage::Asked(member, _) = stage { Some(member) } else { None };
            self.ask(block, after, now, out);
        }
    }

    /// Asks the next member after `after`, or ends the round.
    fn ask(&mut self, block: BlockIndex, after: Option<NodeId>, now: Time, out: &mut Vec<Output>) {
        let next = self.peers().into_iter().find(|p| after.is_none_or(|a| *p > a) && self.up.contains(p));
        let Some(repair) = self.repairs.blocks.get_mut(&block) else { return };
        if let Some(member) = next {
            repair.stage = Stage::Asked(member, now + ANSWER);
            self.send(member, Message::FetchBlock { block }, out);
            return;
        }
        repair.rounds += 1;
        if repair.rounds < PATIENCE {
            repair.stage = Stage::Pausing(now + PAUSE);
            return;
        }
        let repair = self.repairs.blocks.remove(&block).expect("it was just found");
        let text = format!(
            "block {} of the image does not match its checksum and no copy that answers has its content: reads of it fail; \
             scrub the volume again when all copies are there",
            block.0
        );
        self.repairs.lost.say(block, LOST, text, now, out);
        self.scrub.lost(block);
        for tag in repair.readers.into_keys() {
            if !self.scrub_lost(tag, block, now, out) && !self.regions_lost(tag, block, out) {
                self.read_failed(tag, now, out);
            }
        }
    }

    /// Another copy asks for a block.
    pub(crate) fn on_fetch_block(&mut self, from: NodeId, block: BlockIndex, out: &mut Vec<Output>) {
        let inside = block.0 < self.log.size().blocks().0;
        if !inside || self.repairs.served.len() >= MAX_SERVED {
            self.send(from, Message::Block { block, data: None }, out);
            return;
        }
        let tag = self.next_tag();
        self.repairs.served.insert(tag, (from, block));
        out.push(Output::Read { tag, range: BlockRange::new(block.0, 1) });
    }

    /// A read ended; true if it was on behalf of another copy.
    pub(crate) fn served_read(
        &mut self,
        tag: u64,
        result: &Result<Vec<Bytes>, ReadFault>,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some((to, block)) = self.repairs.served.remove(&tag) else { return false };
        let data = result.as_ref().ok().map(|pieces| concat(pieces));
        self.send(to, Message::Block { block, data }, out);
        true
    }

    /// A member answered.
    pub(crate) fn on_block(
        &mut self,
        from: NodeId,
        block: BlockIndex,
        data: Option<Bytes>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let asked = |r: &&mut Repair| matches!(r.stage, Stage::Asked(member, _) if member == from);
        let Some(repair) = self.repairs.blocks.get_mut(&block).filter(asked) else { return };
        match data {
            None => self.ask(block, Some(from), now, out),
            Some(data) => {
                repair.stage = Stage::Writing(from);
                out.push(Output::Repair { block, data });
            }
        }
    }

    /// The store compared what a member had sent, and wrote it if it was right.
    pub(crate) fn on_repaired(&mut self, block: BlockIndex, right: bool, now: Time, out: &mut Vec<Output>) {
        let Some(repair) = self.repairs.blocks.get(&block) else { return };
        let Stage::Writing(from) = repair.stage else { return };
        if !right {
            self.ask(block, Some(from), now, out);
            return;
        }
        let repair = self.repairs.blocks.remove(&block).expect("it was just found");
        self.scrub.repaired(block);
        let text = if from == self.me {
            format!("block {} of the image was not the zeros that it is to be, and is again", block.0)
        } else {
            format!("block {} of the image did not match its checksum and was repaired from {from}", block.0)
        };
        self.repairs.repaired.say(block, REPAIRED, text, now, out);
        for (tag, range) in repair.readers {
            let scrubs = self.scrub.range_of(tag).is_some();
            out.push(if scrubs { Output::Scrub { tag, range } } else { Output::Read { tag, range } });
        }
    }
}

impl Repair {
    fn new(now: Time) -> Repair {
        Repair { stage: Stage::Pausing(now), rounds: 0, readers: BTreeMap::new() }
    }
}
