//! P13: a copy that is slow pins neither memory nor journal of whoever leads it.
//!
//! *Memory*: records that a primary has sent to a copy and that the copy has not acknowledged, by the messages that pass. It stops sending
//! when a window is full; what it had taken in at that moment may be above it. *Journal*: bytes of the segment files on the simulated disk, which
//! are noted alone: where processes end in between, files that were to be removed are still there.

use super::Violation;
use holdfast_format::message::Message;
use holdfast_node::shard::Input;
use holdfast_replication::Limits;
use holdfast_types::{Lsn, NodeId, VolumeId};
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// By sender and receiver.
    lanes: BTreeMap<(NodeId, NodeId, VolumeId), Lane>,
    most: Most,
}

/// The most that was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Most {
    /// Bytes that one copy had not acknowledged.
    pub sent: u64,
    /// Bytes of the segments of one journal.
    pub journal: u64,
}

/// Sent in the present connection and not acknowledged: the last record of each message, and its bytes.
#[derive(Debug, Default)]
struct Lane {
    sent: VecDeque<(Lsn, u64)>,
    bytes: u64,
}

impl Bounds {
    /// A node takes an input.
    pub(crate) fn takes(&mut self, node: NodeId, input: &Input) {
        match input {
            Input::Message { from, volume, message: Message::AppendAck { durable, .. } } => {
                if let Some(lane) = self.lanes.get_mut(&(node, *from, *volume)) {
                    lane.acknowledged(*durable);
                }
            }
            // It is sent again from there.
            Input::Message { from: peer, volume, message: Message::Gap { .. } }
            | Input::PeerUp { peer, volume }
            | Input::PeerDown { peer, volume } => drop(self.lanes.remove(&(node, *peer, *volume))),
            _ => {}
        }
    }

    /// A node says something about a volume to another.
    pub(crate) fn sent(
        &mut self,
        (from, to, volume): (NodeId, NodeId, VolumeId),
        message: &Message,
        limits: &Limits,
    ) -> Result<(), Violation> {
        let Message::Append { records, .. } = message else {
            if matches!(message, Message::Fence { .. } | Message::Adopt { .. } | Message::NeedRegions { .. }) {
                self.lanes.remove(&(from, to, volume));
            }
            return Ok(());
        };
        let Some(last) = records.last() else { return Ok(()) };
        let bytes: u64 = records.iter().map(|r| r.len_bytes() as u64).sum();
        let lane = self.lanes.entry((from, to, volume)).or_default();
        lane.sent.push_back((last.lsn(), bytes));
        lane.bytes += bytes;
        self.most.sent = self.most.sent.max(lane.bytes);
        let bound = bound(limits);
        if lane.bytes > bound {
            let text = format!(
                "{from} has sent {} bytes of {volume} to {to} that are not acknowledged, expected {bound} at most",
                lane.bytes
            );
            return Err(Violation::new("P13", text));
        }
        Ok(())
    }

    /// A process ended.
    pub(crate) fn ended(&mut self, node: NodeId) {
        self.lanes.retain(|(from, ..), _| *from != node);
    }

    /// So many bytes of journal segments are on a node's disk.
    pub(crate) fn journal(&mut self, bytes: u64) {
        self.most.journal = self.most.journal.max(bytes);
    }

    pub(crate) const fn most(&self) -> Most {
        self.most
    }
}

impl Lane {
    fn acknowledged(&mut self, durable: Lsn) {
        while let Some((_, bytes)) = self.sent.front().filter(|(lsn, _)| *lsn <= durable) {
            self.bytes -= bytes;
            self.sent.pop_front();
        }
    }
}

/// A window, and what was taken in or read when it filled up: all that guests may have under way, or a piece of the log, and one record.
fn bound(limits: &Limits) -> u64 {
    (limits.window_bytes + limits.admitted_bytes.max(limits.catch_up_bytes)) as u64 + ONE_RECORD
}

/// A guest's request widened to blocks, with its header.
const ONE_RECORD: u64 = crate::options::MAX_REQUEST + 3 * 4096;
