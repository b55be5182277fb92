//! Entry point for fuzzers: a member gone bad speaks to a node of the control plane.

use crate::{Input, MembershipChange, Output, Raft, RaftConfig, Stored};
use bytes::Bytes;
use holdfast_types::NodeId;

const ME: NodeId = NodeId(1);

/// The node never panics, hands out what is committed once and in order, and what it was told to keep can be opened again.
///
/// The first byte says whether the node founds a group or is new. Then come steps: one byte for what happens, and for a message two
/// bytes of length and its bytes. Sender and receiver of a message are put right, or the guard would refuse nearly all.
///
/// # Panics
/// One of these does not hold.
pub fn fuzz_member(bytes: &[u8]) {
    let Some((first, mut steps)) = bytes.split_first() else { return };
    let stored = if first % 2 == 0 { Stored::default() } else { Stored::founding(ME, Bytes::from_static(b"founding")) };
    let mut node = Node {
        raft: Raft::new(RaftConfig::new(ME, 7), stored.clone()).expect("nothing is wrong with it"),
        stored,
        unwritten: Vec::new(),
        applied: 0,
    };
    while let Some(input) = next(&mut steps) {
        node.handle(input);
        // Most devices answer before the next message comes.
        if steps.first().is_none_or(|step| step % 4 != 3) {
            node.persist();
        }
    }
    node.persist();
    Raft::new(RaftConfig::new(ME, 8), node.stored).expect("what was kept does not contradict itself");
}

struct Node {
    raft: Raft,
    stored: Stored,
    /// Handed out, in order.
    unwritten: Vec<Output>,
    applied: u64,
}

impl Node {
    fn handle(&mut self, input: Input) {
        let mut out = Vec::new();
        self.raft.handle(input, &mut out);
        for output in out {
            let index = match &output {
                Output::Apply { index, .. }
                | Output::Restore { index, .. }
                | Output::MembershipApplied { index, .. } => *index,
                Output::Persist(_) | Output::Compacted { .. } => {
                    self.unwritten.push(output);
                    continue;
                }
                _ => continue,
            };
            assert!(index > self.applied, "{index} was handed out after {}", self.applied);
            self.applied = index;
            if matches!(output, Output::MembershipApplied { .. }) {
                self.handle(Input::Compact { upto: index, state: Bytes::from_static(b"state") });
            }
        }
        let _ = self.raft.status();
    }

    fn persist(&mut self) {
        // What follows from one batch may be another one.
        for _ in 0..64 {
            if self.unwritten.is_empty() {
                return;
            }
            for output in std::mem::take(&mut self.unwritten) {
                match output {
                    Output::Persist(batch) => {
                        self.stored.write(&batch);
                        self.handle(Input::Persisted { batch: batch.batch });
                    }
                    Output::Compacted { first_index, snapshot } => self.stored.compact(first_index, snapshot),
                    _ => unreachable!("nothing else is kept"),
                }
            }
        }
        panic!("it writes for ever");
    }
}

fn next(steps: &mut &[u8]) -> Option<Input> {
    let (&step, rest) = steps.split_first()?;
    *steps = rest;
    let peer = NodeId(u64::from(step >> 6) + 2);
    Some(match step % 16 {
        0 => Input::Tick,
        1 => Input::Campaign,
        2 => Input::Propose { token: 1, data: Bytes::from_static(b"command") },
        3 => Input::ChangeMembership { token: 2, change: MembershipChange::AddLearner(peer) },
        4 => Input::ChangeMembership { token: 3, change: MembershipChange::AddVoter(peer) },
        5 => Input::ChangeMembership { token: 4, change: MembershipChange::Remove(peer) },
        6 => Input::ReadIndex { token: 5 },
        7 => Input::TransferLeadership(peer),
        8 => Input::Unreachable(peer),
        _ => Input::Message { from: peer, bytes: message(steps, peer)? },
    })
}

fn message(steps: &mut &[u8], from: NodeId) -> Option<Bytes> {
    let (len, rest) = steps.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
    let (body, rest) = rest.split_at(len);
    *steps = rest;
    // Of a field that comes twice the later one counts: `to` is the second, `from` the third.
    Some([body, &[0x10, 1, 0x18, u8::try_from(from.0).ok()?]].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn committed_inputs_of_the_fuzzer_hold() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/raft_message");
        let inputs: Vec<_> =
            fs::read_dir(corpus).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(inputs.len() >= 9, "{}", inputs.len());
        inputs.iter().for_each(|input| fuzz_member(input));
    }
}
