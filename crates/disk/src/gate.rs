//! The gate of each file: decides which operation may start, without touching the disk.
//!
//! ```text
//! Closed ──first operation──▶ Busy (opening) ──▶ Open ──Create/Delete, once nothing is in flight──▶ Busy
//!    ▲                          │ not there                                                          │
//!    └──────────────────────────┴──────────────── deleted, or creation failed ◀──────────────────────┘
//! ```
//! Operations of one file start in the order in which they came, except that a `Sync` waits for the writes before it
//! without holding up what comes after it.

use holdfast_store::io::{DiskError, DiskOp, DiskOpKind, FileId, OpId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

/// What an engine executes on an open file.
#[derive(Debug)]
pub(crate) enum Data {
    Read { offset: u64, len: u32 },
    Write { offset: u64, data: Vec<Bytes>, durable: bool },
    Sync,
    Punch { offset: u64, len: u64 },
    Zero { offset: u64, len: u64 },
    SetLen { len: u64 },
}

/// Goes through the engine with the operation and brings its answer home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    pub(crate) file: FileId,
    pub(crate) id: OpId,
    /// Position among the file's writes; `None` for what a `Sync` need not wait for.
    write: Option<u64>,
}

/// What the owner does next for a file.
pub(crate) enum Step<H> {
    /// Open it and call [`Gate::opened`].
    Open,
    /// Create it and call [`Gate::opened`], whatever came of it.
    Create { id: OpId, len: u64, written: bool, old: Option<H> },
    /// Delete it and call [`Gate::opened`] with `NotFound`.
    Delete { id: OpId, old: Option<H> },
    /// Execute it and call [`Gate::ended`].
    Start { tag: Tag, handle: H, data: Data },
    /// Answer it.
    Fail { id: OpId, error: DiskError },
}

/// `H` is the engine's handle of an open file.
pub(crate) struct Gate<H> {
    files: BTreeMap<FileId, Entry<H>>,
    open: usize,
    clock: u64,
}

struct Entry<H> {
    state: State<H>,
    waiting: VecDeque<DiskOp>,
    /// Operations at the engine.
    in_flight: u32,
    next_write: u64,
    /// Writes at the engine that a later `Sync` has to cover.
    writes: BTreeSet<u64>,
    /// Syncs that wait for the writes below the number.
    syncs: VecDeque<(u64, OpId)>,
    /// When it was used last, in starts of operations.
    used: u64,
}

enum State<H> {
    Closed,
    Busy,
    Open(H),
    /// What waits is answered with the error; then closed.
    Failed(DiskError),
}

impl<H: Clone> Gate<H> {
    pub(crate) fn new() -> Gate<H> {
        Gate { files: BTreeMap::new(), open: 0, clock: 0 }
    }

    /// Puts an operation behind the gate of its file; ask [`Gate::next`] until it has nothing more.
    pub(crate) fn push(&mut self, op: DiskOp) {
        let entry = self.files.entry(op.file).or_insert_with(Entry::new);
        entry.waiting.push_back(op);
    }

    /// What may happen on `file` now.
    pub(crate) fn next(&mut self, file: FileId) -> Option<Step<H>> {
        let entry = self.files.get_mut(&file)?;
        self.clock += 1;
        entry.used = self.clock;
        let step = entry.next(file, &mut self.open);
        if entry.is_forgettable() {
            self.files.remove(&file);
        }
        step
    }

    /// A file that was `Busy` is open now, or not there.
    pub(crate) fn opened(&mut self, file: FileId, result: Result<H, DiskError>) {
        let entry = self.files.get_mut(&file).expect("a busy file keeps its entry");
        assert!(matches!(entry.state, State::Busy), "only a busy file is opened");
        entry.state = match result {
            Ok(handle) => {
                self.open += 1;
                State::Open(handle)
            }
            Err(error) => State::Failed(error),
        };
    }

    /// A file that was `Busy` is closed now; what waits opens it again.
    pub(crate) fn closed(&mut self, file: FileId) {
        let entry = self.files.get_mut(&file).expect("a busy file keeps its entry");
        assert!(matches!(entry.state, State::Busy), "only a busy file is closed");
        entry.state = State::Closed;
    }

    /// An operation that was started has ended.
    pub(crate) fn ended(&mut self, tag: Tag) {
        let entry = self.files.get_mut(&tag.file).expect("a file with an operation in flight keeps its entry");
        assert!(entry.in_flight > 0, "what ends has been started");
        entry.in_flight -= 1;
        if let Some(write) = tag.write {
            let known = entry.writes.remove(&write);
            assert!(known, "a write ends once");
        }
    }

    /// Takes the handle of the open file that has been idle longest, if more than `limit` are open.
    pub(crate) fn evict(&mut self, limit: usize) -> Option<H> {
        if self.open <= limit {
            return None;
        }
        let idle = self.files.iter().filter(|(_, e)| e.is_idle()).min_by_key(|(_, e)| e.used).map(|(&f, _)| f)?;
        self.open -= 1;
        match self.files.remove(&idle)?.state {
            State::Open(handle) => Some(handle),
            State::Closed | State::Busy | State::Failed(_) => None,
        }
    }
}

impl<H: Clone> Entry<H> {
    fn new() -> Entry<H> {
        Entry {
            state: State::Closed,
            waiting: VecDeque::new(),
            in_flight: 0,
            next_write: 0,
            writes: BTreeSet::new(),
            syncs: VecDeque::new(),
            used: 0,
        }
    }

    fn next(&mut self, file: FileId, open: &mut usize) -> Option<Step<H>> {
        if let Some(step) = self.next_sync(file) {
            return Some(step);
        }
        if self.waiting.is_empty() {
            if matches!(self.state, State::Failed(_)) {
                self.state = State::Closed;
            }
            return None;
        }
        if matches!(self.waiting[0].kind, DiskOpKind::Create { .. } | DiskOpKind::Delete) {
            return self.next_lifecycle(open);
        }
        match &self.state {
            State::Busy => None,
            State::Closed => {
                self.state = State::Busy;
                Some(Step::Open)
            }
            State::Failed(error) => {
                let error = *error;
                let op = self.waiting.pop_front()?;
                Some(Step::Fail { id: op.id, error })
            }
            State::Open(handle) => {
                let handle = handle.clone();
                let op = self.waiting.pop_front()?;
                self.start(op, handle)
            }
        }
    }

    fn next_lifecycle(&mut self, open: &mut usize) -> Option<Step<H>> {
        if matches!(self.state, State::Busy) || self.in_flight > 0 || !self.syncs.is_empty() {
            return None;
        }
        let op = self.waiting.pop_front()?;
        let old = match std::mem::replace(&mut self.state, State::Busy) {
            State::Open(handle) => {
                *open -= 1;
                Some(handle)
            }
            State::Closed | State::Busy | State::Failed(_) => None,
        };
        Some(match op.kind {
            DiskOpKind::Create { len, written } => Step::Create { id: op.id, len, written, old },
            _ => Step::Delete { id: op.id, old },
        })
    }

    fn start(&mut self, op: DiskOp, handle: H) -> Option<Step<H>> {
        let id = op.id;
        let mut write = None;
        let data = match op.kind {
            DiskOpKind::Read { offset, len } => Data::Read { offset, len },
            DiskOpKind::Write { offset, data, durable } => {
                // A durable write needs no Sync after it.
                write = (!durable).then(|| self.number_write());
                Data::Write { offset, data, durable }
            }
            DiskOpKind::Punch { offset, len } => {
                write = Some(self.number_write());
                Data::Punch { offset, len }
            }
            DiskOpKind::Zero { offset, len } => {
                write = Some(self.number_write());
                Data::Zero { offset, len }
            }
            DiskOpKind::SetLen { len } => {
                write = Some(self.number_write());
                Data::SetLen { len }
            }
            DiskOpKind::Sync => {
                self.syncs.push_back((self.next_write, id));
                // Nothing to start for this one yet perhaps, but the file may have more.
                return self.next(op.file, &mut 0);
            }
            DiskOpKind::List | DiskOpKind::Create { .. } | DiskOpKind::Delete => {
                unreachable!(
                    "these never reach an open file's queue head here: List has no file, the others are lifecycle"
                )
            }
        };
        self.in_flight += 1;
        Some(Step::Start { tag: Tag { file: op.file, id, write }, handle, data })
    }

    fn number_write(&mut self) -> u64 {
        self.next_write += 1;
        self.writes.insert(self.next_write - 1);
        self.next_write - 1
    }

    fn next_sync(&mut self, file: FileId) -> Option<Step<H>> {
        let &(barrier, id) = self.syncs.front()?;
        if self.writes.first().is_some_and(|&oldest| oldest < barrier) {
            return None;
        }
        let State::Open(handle) = &self.state else { unreachable!("a file with a waiting sync stays open") };
        let handle = handle.clone();
        self.syncs.pop_front();
        self.in_flight += 1;
        Some(Step::Start { tag: Tag { file, id, write: None }, handle, data: Data::Sync })
    }

    fn is_idle(&self) -> bool {
        matches!(self.state, State::Open(_)) && self.in_flight == 0 && self.waiting.is_empty() && self.syncs.is_empty()
    }

    fn is_forgettable(&self) -> bool {
        matches!(self.state, State::Closed) && self.in_flight == 0 && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::VolumeId;

    const FILE: FileId = FileId::Image(VolumeId(1));

    fn push(gate: &mut Gate<u8>, id: u64, kind: DiskOpKind) {
        gate.push(DiskOp { id: OpId(id), file: FILE, kind });
    }

    fn write() -> DiskOpKind {
        DiskOpKind::Write { offset: 0, data: vec![], durable: false }
    }

    fn started(gate: &mut Gate<u8>) -> Vec<Tag> {
        std::iter::from_fn(|| gate.next(FILE))
            .map(|step| match step {
                Step::Start { tag, .. } => tag,
                _ => panic!("expected a start"),
            })
            .collect()
    }

    fn open_gate() -> Gate<u8> {
        let mut gate = Gate::new();
        push(&mut gate, 0, write());
        assert!(matches!(gate.next(FILE), Some(Step::Open)));
        assert!(gate.next(FILE).is_none(), "nothing starts while the file is being opened");
        gate.opened(FILE, Ok(9));
        gate
    }

    #[test]
    fn a_sync_waits_for_the_writes_before_it_and_holds_up_nothing_after_it() {
        let mut gate = open_gate();
        let first = started(&mut gate);
        push(&mut gate, 1, DiskOpKind::Sync);
        push(&mut gate, 2, write());
        let second = started(&mut gate);
        assert_eq!(second.iter().map(|t| t.id.0).collect::<Vec<_>>(), [2]);
        gate.ended(second[0]);
        assert!(started(&mut gate).is_empty());
        gate.ended(first[0]);
        assert_eq!(started(&mut gate)[0].id, OpId(1));
    }

    #[test]
    fn delete_waits_for_what_is_in_flight_and_the_next_operation_for_delete() {
        let mut gate = open_gate();
        let first = started(&mut gate);
        push(&mut gate, 1, DiskOpKind::Delete);
        push(&mut gate, 2, write());
        assert!(gate.next(FILE).is_none());
        gate.ended(first[0]);
        assert!(matches!(gate.next(FILE), Some(Step::Delete { old: Some(9), .. })));
        assert!(gate.next(FILE).is_none());
        gate.closed(FILE);
        assert!(matches!(gate.next(FILE), Some(Step::Open)));
        gate.opened(FILE, Err(DiskError::NotFound));
        assert!(matches!(gate.next(FILE), Some(Step::Fail { id: OpId(2), error: DiskError::NotFound })));
        assert!(gate.next(FILE).is_none());
        assert_eq!(gate.open, 0);
        assert!(gate.files.is_empty());
    }

    #[test]
    fn only_idle_files_are_evicted() {
        let mut gate = open_gate();
        let first = started(&mut gate);
        assert_eq!(gate.evict(0), None);
        gate.ended(first[0]);
        assert_eq!(gate.evict(1), None);
        assert_eq!(gate.evict(0), Some(9));
    }
}
