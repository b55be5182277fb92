//! The log in memory, as raft reads it. Stable storage is the caller's; this holds what was handed out to be
//! written, which raft requires to be readable at once.
//!
//! Invariant: `entries[i].index == snapshot.index + 1 + i`, terms never fall along the log.

use crate::api::{PersistBatch, Stored};
use crate::error::ConsensusError;
use bytes::Bytes;
use holdfast_types::NodeId;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;

/// Index and term of a founder's snapshot. Raft wants an initialized log to start above 0.
const FOUNDING: u64 = 1;

pub(crate) struct LogStore {
    hard_state: HardState,
    snapshot: Snapshot,
    entries: Vec<Entry>,
    /// Raft asked for a snapshot that names somebody whom the present one does not; it asks through a shared reference.
    wanted: Cell<bool>,
}

impl Stored {
    /// What the founder of a group of one stores before it starts: itself as the only voter.
    #[must_use]
    pub fn founding(id: NodeId, state: Bytes) -> Stored {
        Stored::reigning(id, state, FOUNDING, FOUNDING)
    }

    /// What a node stores that is to go on as the only voter, from a state that nobody else has.
    pub(crate) fn reigning(id: NodeId, state: Bytes, term: u64, index: u64) -> Stored {
        assert!(id.get() != 0, "node ids start at 1");
        let mut snapshot = Snapshot { data: state.into(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.mut_conf_state().voters = vec![id.get()];
        let hard_state = HardState { term, vote: 0, commit: index };
        Stored { hard_state: Some(encode(&hard_state)), snapshot: Some(encode(&snapshot)), entries: Vec::new() }
    }
}

pub(crate) fn encode(message: &impl raft_prost::Message) -> Bytes {
    message.encode_to_vec().into()
}

fn decode<T: raft_prost::Message + Default>(bytes: &Bytes, what: &str) -> Result<T, ConsensusError> {
    T::decode(bytes.as_ref()).map_err(|e| ConsensusError::damaged(format!("{what} can't be decoded ({e})")))
}

impl LogStore {
    /// Decodes and cross-checks what was stored: raft would panic on a contradiction, or worse, act on it.
    pub(crate) fn open(stored: Stored) -> Result<LogStore, ConsensusError> {
        let mut hard_state: HardState = match &stored.hard_state {
            Some(bytes) => decode(bytes, "the hard state")?,
            None => HardState::default(),
        };
        let snapshot: Snapshot = match &stored.snapshot {
            Some(bytes) => decode(bytes, "the snapshot")?,
            None => Snapshot::default(),
        };
        if stored.snapshot.is_some() {
            check_snapshot(&snapshot).map_err(ConsensusError::damaged)?;
        }
        let base = snapshot.get_metadata().index;
        let mut entries = Vec::new();
        for (index, bytes) in stored.entries.into_iter().filter(|(index, _)| *index > base) {
            let entry: Entry = decode(&bytes, &format!("entry {index}"))?;
            if entry.index != index {
                return Err(ConsensusError::damaged(format!("the entry stored as {index} says it is {}", entry.index)));
            }
            entries.push(entry);
        }
        // A compaction may be newer than the last stored hard state; what a snapshot covers is committed.
        hard_state.commit = hard_state.commit.max(base);
        let store = LogStore { hard_state, snapshot, entries, wanted: Cell::new(false) };
        store.check_log()?;
        Ok(store)
    }

    fn check_log(&self) -> Result<(), ConsensusError> {
        let (mut index, mut term) = (self.base(), self.base_term());
        for entry in &self.entries {
            if entry.index != index + 1 || entry.term < term {
                let found = format!("entry {} of term {}", entry.index, entry.term);
                return Err(ConsensusError::damaged(format!("after entry {index} of term {term} follows {found}")));
            }
            (index, term) = (entry.index, entry.term);
        }
        let HardState { term: current, commit, .. } = self.hard_state;
        if commit > index {
            return Err(ConsensusError::damaged(format!("entry {commit} is committed, but the log ends at {index}")));
        }
        if current < term {
            return Err(ConsensusError::damaged(format!("the term is {current}, but the log holds term {term}")));
        }
        Ok(())
    }

    pub(crate) fn base(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    pub(crate) fn base_term(&self) -> u64 {
        self.snapshot.get_metadata().term
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// What follows the snapshot.
    pub(crate) fn log(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.base(), |e| e.index)
    }

    /// Where in `entries` the entry of `index` lies, or would be appended.
    fn position(&self, index: u64) -> usize {
        assert!(index > self.base(), "entry {index} is covered by the snapshot at {}", self.base());
        usize::try_from(index - 1 - self.base()).expect("the log fits in memory")
    }

    /// Takes over a new hard state; true if it carries a promise (term or vote), not only news about commits.
    pub(crate) fn set_hard_state(&mut self, hard_state: &HardState, batch: &mut PersistBatch) -> bool {
        let promise = hard_state.term != self.hard_state.term || hard_state.vote != self.hard_state.vote;
        batch.hard_state = Some(encode(hard_state));
        self.hard_state = hard_state.clone();
        promise
    }

    /// Replaces everything by a snapshot.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot, batch: &mut PersistBatch) {
        assert!(snapshot.get_metadata().index >= self.base(), "a snapshot never takes the log back");
        batch.snapshot = Some(encode(snapshot));
        batch.truncate_from = Some(0);
        self.entries.clear();
        self.snapshot = snapshot.clone();
    }

    /// Appends, after cutting what conflicts.
    pub(crate) fn append(&mut self, entries: Vec<Entry>, batch: &mut PersistBatch) {
        let Some(first) = entries.first() else { return };
        let first = first.index;
        assert!(first <= self.last() + 1, "entry {first} leaves a gap after {}", self.last());
        if first <= self.last() {
            batch.truncate_from = Some(batch.truncate_from.map_or(first, |t| t.min(first)));
            self.entries.truncate(self.position(first));
        }
        batch.entries.extend(entries.iter().map(|e| (e.index, encode(e))));
        self.entries.extend(entries);
    }

    /// Whether a newcomer waits for a newer snapshot; says so once.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.replace(false)
    }

    /// Replaces the log up to `index` by a snapshot; `None` if an older one covers it.
    pub(crate) fn compact(&mut self, index: u64, conf_state: ConfState, state: &Bytes) -> Option<Bytes> {
        if index <= self.base() {
            return None;
        }
        let at = self.position(index);
        let term = self.entries.get(at).expect("an applied entry is in the log").term;
        let mut snapshot = Snapshot { data: state.to_vec(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.conf_state = Some(conf_state);
        self.entries.drain(..=at);
        self.snapshot = snapshot;
        Some(encode(&self.snapshot))
    }
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.snapshot.get_metadata().get_conf_state().clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base() {
            return Err(StorageError::Compacted.into());
        }
        assert!(
            low <= high && high <= self.last() + 1,
            "entries {low} to {high} of a log that ends at {}",
            self.last()
        );
        let mut entries = self.entries[self.position(low)..self.position(high)].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base() {
            return Ok(self.base_term());
        }
        if index < self.base() {
            return Err(StorageError::Compacted.into());
        }
        self.entries.get(self.position(index)).map(|e| e.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let conf_state = self.snapshot.get_metadata().get_conf_state();
        // A receiver refuses a snapshot that does not name it, and its sender would wait for ever.
        let named = conf_state.voters.contains(&to) || conf_state.learners.contains(&to);
        if named && self.base() >= request_index {
            Ok(self.snapshot.clone())
        } else {
            self.wanted.set(self.wanted.get() || !named);
            Err(StorageError::SnapshotTemporarilyUnavailable.into())
        }
    }
}

/// Why a snapshot can't be used; raft panics on a membership that makes no sense.
pub(crate) fn check_snapshot(snapshot: &Snapshot) -> Result<(), String> {
    let metadata = snapshot.get_metadata();
    if metadata.index == 0 || metadata.term == 0 {
        return Err("a snapshot of the empty log".into());
    }
    let conf_state = metadata.get_conf_state();
    if conf_state.auto_leave || !conf_state.voters_outgoing.is_empty() || !conf_state.learners_next.is_empty() {
        return Err("a snapshot in the middle of a joint change".into());
    }
    let mut ids: Vec<u64> = conf_state.voters.iter().chain(&conf_state.learners).copied().collect();
    ids.sort_unstable();
    if conf_state.voters.is_empty() || ids.first() == Some(&0) || ids.windows(2).any(|w| w[0] == w[1]) {
        return Err("a snapshot whose members are empty, zero or repeated".into());
    }
    Ok(())
}
