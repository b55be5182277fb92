//! What one node has left of a group whose majority is gone for ever, and how it goes on alone.
//!
//! Whoever is left does not know which entries behind its commit index were committed: its own acknowledgement may have been the one that
//! made up the majority. So all of them are taken for committed, and that only the lost knew of others can't be ruled out.

use crate::api::{Stored, StoredEntry};
use crate::error::ConsensusError;
use crate::store::LogStore;
use bytes::Bytes;
use holdfast_types::NodeId;
use raft::eraftpb::{ConfChangeType, ConfChangeV2, EntryType};
use raft_prost::Message as _;

/// A log as one node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// The application's state at the snapshot.
    pub state: Bytes,
    /// The commands that follow, committed or not, with their indexes.
    pub commands: Vec<StoredEntry>,
    /// Who votes if all of it counts, ascending.
    pub voters: Vec<NodeId>,
    /// Term of the last entry. With `index` it orders logs: the greater is the longer one.
    pub term: u64,
    /// The last entry.
    pub index: u64,
    /// Up to here it is known to be committed.
    pub commit: u64,
    /// The highest term that this node has taken part in.
    current_term: u64,
}

impl Stored {
    /// What a node has left; `None`: it never received anything.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn remains(&self) -> Result<Option<Remains>, ConsensusError> {
        if self.snapshot.is_none() {
            return Ok(None);
        }
        let log = LogStore::open(self.clone())?;
        let metadata = log.snapshot().get_metadata();
        let mut remains = Remains {
            state: log.snapshot().data.clone().into(),
            commands: Vec::new(),
            voters: metadata.get_conf_state().voters.iter().copied().map(NodeId).collect(),
            term: log.base_term(),
            index: log.base(),
            commit: log.hard_state().commit,
            current_term: log.hard_state().term,
        };
        for entry in log.log() {
            (remains.term, remains.index) = (entry.term, entry.index);
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => remains.commands.push((entry.index, entry.data.clone().into())),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => remains.change(&entry.data)?,
            }
        }
        remains.voters.sort_unstable();
        Ok(Some(remains))
    }

    /// What it stores to go on as the only voter, with a state to which no entry has led. Nothing of the lost group has a term as high.
    #[must_use]
    pub fn recovered(id: NodeId, state: Bytes, from: &Remains) -> Stored {
        let term = from.term.max(from.current_term) + 1;
        Stored::reigning(id, state, term, from.index + 1)
    }
}

impl Remains {
    fn change(&mut self, data: &[u8]) -> Result<(), ConsensusError> {
        let change = ConfChangeV2::decode(data)
            .map_err(|e| ConsensusError::damaged(format!("a change of the group can't be decoded ({e})")))?;
        for single in change.changes {
            let node = NodeId(single.node_id);
            self.voters.retain(|v| *v != node);
            if single.get_change_type() == ConfChangeType::AddNode {
                self.voters.push(node);
            }
        }
        Ok(())
    }
}
