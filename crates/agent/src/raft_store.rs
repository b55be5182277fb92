//! The control plane's log on disk: one redb file, one durable transaction for each batch.
//!
//! A thread of its own, because a commit waits for the disk, and the control loop must keep answering heartbeats
//! meanwhile. Batches that queued up while one was being written go into one transaction (group commit).
//!
//! After a failed commit nothing more is written (P8): what is on disk is then unknown, so the agent stops. A full file system is waited
//! for.

mod patient;

use crate::error::AgentError;
use bytes::Bytes;
use holdfast_cluster::Recovery;
use holdfast_consensus::{PersistBatch, Stored};
use holdfast_types::Generation;
use patient::Patient;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const HARD_STATE: &str = "hard_state";
const SNAPSHOT: &str = "snapshot";
/// Which node's log this is: votes and entries of one node must never be taken for another's.
const OWNER: &str = "owner";

/// The recovery of the control plane that opened the generation to which all of this belongs; missing: it is the first one.
const RECOVERY: &str = "recovery";

/// Writes waiting for the disk. Raft itself keeps few in flight; this only keeps a stuck disk from eating memory.
const QUEUE: usize = 256;

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Write {
    /// A batch; answered by its number.
    Batch(PersistBatch),
    /// A snapshot in place of the entries below `first_index`; not answered.
    Compact { first_index: u64, snapshot: Bytes },
    /// Whose log it is; not answered.
    Owner(String),
    /// All of it goes aside, and what follows belongs to the generation that this recovery opened; answered by the number.
    Adopt { batch: u64, recovery: Recovery },
}

impl Write {
    const fn batch(&self) -> Option<u64> {
        match self {
            Write::Batch(PersistBatch { batch, .. }) | Write::Adopt { batch, .. } => Some(*batch),
            Write::Compact { .. } | Write::Owner(_) => None,
        }
    }
}

/// The thread's answers.
#[derive(Debug)]
pub(crate) enum Written {
    /// This batch, and every older one, is durable.
    Batch(u64),
    /// Nothing more will be.
    Failed(AgentError),
}

/// The thread: what it is sent, what it answers, and its end.
pub(crate) type Writer = (mpsc::Sender<Write>, mpsc::Receiver<Written>, JoinHandle<()>);

/// What a file holds.
pub(crate) struct Inspected {
    /// Whose it is.
    pub(crate) owner: Option<String>,
    /// What opened its generation; none: it is the first one.
    pub(crate) recovery: Option<Recovery>,
    pub(crate) stored: Stored,
}

/// The open file.
pub(crate) struct RaftStore {
    database: Database,
    path: PathBuf,
}

impl RaftStore {
    /// Opens the file of `owner`, a node in words, or makes it.
    pub(crate) fn open(path: &Path, owner: &str) -> Result<RaftStore, AgentError> {
        let store = RaftStore::open_any(path)?;
        match store.owner()? {
            Some(found) if found != owner => {
                let (path, expected) = (path.to_path_buf(), owner.to_owned());
                return Err(AgentError::ForeignLog { path, expected, found });
            }
            Some(_) => {}
            None => store.commit(&[Write::Owner(owner.to_owned())])?,
        }
        Ok(store)
    }

    /// Opens or makes the file of a node that founds a cluster; what an earlier try left is replaced.
    pub(crate) fn found(path: &Path, owner: &str, stored: &Stored) -> Result<(), AgentError> {
        RaftStore::open_any(path)?.commit(&[Write::Owner(owner.to_owned()), Write::Batch(whole(stored))])
    }

    /// In one step: what is there goes aside, and the node goes on with this in the generation that the recovery opened.
    pub(crate) fn go_over(&self, recovery: &Recovery, stored: &Stored) -> Result<(), AgentError> {
        let adopt = Write::Adopt { batch: 0, recovery: recovery.clone() };
        self.commit(&[adopt, Write::Batch(whole(stored))])
    }

    /// What a file holds, and whose it is, without changing it: it is opened in memory, where what a kill left is mended.
    pub(crate) fn inspect(path: &Path) -> Result<Inspected, AgentError> {
        let bytes = std::fs::read(path).map_err(|e| AgentError::io("read", path, e))?;
        let store = guarded(path, || {
            let memory = InMemoryBackend::new();
            let len = u64::try_from(bytes.len()).expect("a length fits in 64 bits");
            memory.set_len(len).and_then(|()| memory.write(0, &bytes)).map_err(|e| damage(path, &e))?;
            let database = Database::builder().create_with_backend(memory).map_err(|e| damage(path, &e))?;
            let store = RaftStore { database, path: path.to_path_buf() };
            store.commit(&[])?;
            Ok(store)
        })?;
        Ok(Inspected { owner: store.owner()?, recovery: store.recovery()?, stored: store.load()? })
    }

    fn open_any(path: &Path) -> Result<RaftStore, AgentError> {
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|e| AgentError::io("open", path, e))?;
        let database = guarded(path, || {
            let backend = FileBackend::new(file).map_err(|e| damage(path, &e))?;
            let backend = Patient::new(backend, path.to_path_buf());
            Database::builder().create_with_backend(backend).map_err(|e| damage(path, &e))
        })?;
        let store = RaftStore { database, path: path.to_path_buf() };
        // Tables exist from the start, so that loading an empty file is no special case.
        guarded(path, || store.commit(&[]))?;
        let parent = path.parent().expect("the log lies in a directory");
        std::fs::File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| AgentError::io("make durable", parent, e))?;
        Ok(store)
    }

    fn owner(&self) -> Result<Option<String>, AgentError> {
        Ok(self.meta(OWNER)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// What opened the generation of the control plane to which all of this belongs; none: it is the first one.
    pub(crate) fn recovery(&self) -> Result<Option<Recovery>, AgentError> {
        let Some(bytes) = self.meta(RECOVERY)? else { return Ok(None) };
        let found = Recovery::decode(&bytes);
        found.map(Some).ok_or_else(|| damage(&self.path, &"of which generation it is can't be read"))
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, AgentError> {
        let failed = |e: &dyn std::fmt::Display| damage(&self.path, e);
        guarded(&self.path, || {
            let read = self.database.begin_read().map_err(|e| failed(&e))?;
            let found = read.open_table(META).map_err(|e| failed(&e))?.get(key).map_err(|e| failed(&e))?;
            Ok(found.map(|bytes| bytes.value().to_vec()))
        })
    }

    /// What the file holds.
    pub(crate) fn load(&self) -> Result<Stored, AgentError> {
        guarded(&self.path, || self.read())
    }

    fn read(&self) -> Result<Stored, AgentError> {
        let failed = |e: &dyn std::fmt::Display| damage(&self.path, e);
        let read = self.database.begin_read().map_err(|e| failed(&e))?;
        let meta = read.open_table(META).map_err(|e| failed(&e))?;
        let entries = read.open_table(ENTRIES).map_err(|e| failed(&e))?;
        let value = |key| -> Result<Option<Bytes>, AgentError> {
            let found = meta.get(key).map_err(|e| failed(&e))?;
            Ok(found.map(|bytes| Bytes::copy_from_slice(bytes.value())))
        };
        let mut stored = Stored { hard_state: value(HARD_STATE)?, snapshot: value(SNAPSHOT)?, entries: Vec::new() };
        for entry in entries.iter().map_err(|e| failed(&e))? {
            let (index, bytes) = entry.map_err(|e| failed(&e))?;
            stored.entries.push((index.value(), Bytes::copy_from_slice(bytes.value())));
        }
        Ok(stored)
    }

    /// Writes in order, in one durable transaction.
    pub(crate) fn commit(&self, writes: &[Write]) -> Result<(), AgentError> {
        match writes.iter().position(|w| matches!(w, Write::Adopt { .. })) {
            Some(0) => self.set_aside()?,
            // What goes aside is what was written before.
            Some(at) => {
                self.commit(&writes[..at])?;
                return self.commit(&writes[at..]);
            }
            None => {}
        }
        let failed = failure(&self.path, "write");
        let mut transaction = self.database.begin_write().map_err(|e| failed(&e))?;
        transaction.set_durability(Durability::Immediate).map_err(|e| failed(&e))?;
        {
            let mut meta = transaction.open_table(META).map_err(|e| failed(&e))?;
            let mut entries = transaction.open_table(ENTRIES).map_err(|e| failed(&e))?;
            for write in writes {
                apply(write, &mut meta, &mut entries).map_err(|e| failed(&e))?;
            }
        }
        transaction.commit().map_err(|e| failed(&e))
    }

    /// A copy of the file, for whoever wants to know later what the generation before had agreed on here. Made anew if a crash came between
    /// this and what follows.
    fn set_aside(&self) -> Result<(), AgentError> {
        let generation = self.recovery()?.map_or(Generation::FIRST, |r| r.generation);
        let aside = self.path.with_extension(format!("redb.generation-{generation}"));
        let copy = || -> std::io::Result<()> {
            std::fs::copy(&self.path, &aside)?;
            std::fs::File::open(&aside)?.sync_all()
        };
        copy().map_err(|e| AgentError::io("set the control plane's log aside as", &aside, e))
    }

    /// Moves the file to a thread that writes what it is sent.
    pub(crate) fn spawn(self) -> Result<Writer, AgentError> {
        let (writes, mut inbox) = mpsc::channel::<Write>(QUEUE);
        // Each answer stands for at least one write, so the answers always fit: the thread never waits for the loop.
        let (answers, written) = mpsc::channel::<Written>(2 * QUEUE);
        let path = self.path.clone();
        let body = move || {
            let mut pending = Vec::with_capacity(QUEUE);
            while inbox.blocking_recv_many(&mut pending, QUEUE) > 0 {
                let last = pending.iter().rev().find_map(Write::batch);
                if let Err(e) = self.commit(&pending) {
                    let _ = answers.blocking_send(Written::Failed(e));
                    return;
                }
                pending.clear();
                if let Some(batch) = last
                    && answers.blocking_send(Written::Batch(batch)).is_err()
                {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("raft-store".to_owned()).spawn(body);
        let thread = thread.map_err(|e| AgentError::io("start the writer of", &path, e))?;
        Ok((writes, written, thread))
    }
}

fn apply(
    write: &Write,
    meta: &mut Table<'_, &'static str, &'static [u8]>,
    entries: &mut Table<'_, u64, &'static [u8]>,
) -> Result<(), redb::StorageError> {
    match write {
        Write::Batch(batch) => {
            if let Some(hard_state) = &batch.hard_state {
                meta.insert(HARD_STATE, hard_state.as_ref())?;
            }
            if let Some(snapshot) = &batch.snapshot {
                meta.insert(SNAPSHOT, snapshot.as_ref())?;
            }
            if let Some(from) = batch.truncate_from {
                entries.retain_in(from.., |_, _| false)?;
            }
            for (index, bytes) in &batch.entries {
                entries.insert(index, bytes.as_ref())?;
            }
        }
        Write::Compact { first_index, snapshot } => {
            meta.insert(SNAPSHOT, snapshot.as_ref())?;
            entries.retain_in(..*first_index, |_, _| false)?;
        }
        Write::Owner(owner) => {
            meta.insert(OWNER, owner.as_bytes())?;
        }
        Write::Adopt { recovery, .. } => {
            meta.remove(HARD_STATE)?;
            meta.remove(SNAPSHOT)?;
            entries.retain_in(0.., |_, _| false)?;
            meta.insert(RECOVERY, recovery.encode().as_slice())?;
        }
    }
    Ok(())
}

/// The batch that puts all of this in place of what is stored.
fn whole(stored: &Stored) -> PersistBatch {
    PersistBatch {
        batch: 0,
        hard_state: stored.hard_state.clone(),
        snapshot: stored.snapshot.clone(),
        truncate_from: Some(0),
        entries: stored.entries.clone(),
    }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is caught and put into a sentence.
pub(crate) fn panic_is_guarded() -> bool {
    GUARDED.get()
}

/// redb asserts what it finds in a damaged file: to whoever starts the agent that is one more kind of damage.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, AgentError>) -> Result<T, AgentError> {
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    result.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let first = words.and_then(|words| words.lines().next());
        Err(damage(path, &first.unwrap_or("it contradicts itself")))
    })
}

fn damage(path: &Path, reason: &dyn std::fmt::Display) -> AgentError {
    AgentError::RaftDamaged { path: path.to_path_buf(), reason: reason.to_string() }
}

fn failure(path: &Path, what: &'static str) -> impl Fn(&dyn std::fmt::Display) -> AgentError {
    move |e| AgentError::RaftStore { path: path.to_path_buf(), what, reason: e.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::NodeId;

    const OWNED: &str = "node n1 (1) of cluster 7";

    fn batch(batch: u64, truncate_from: Option<u64>, entries: &[(u64, &'static str)]) -> PersistBatch {
        let entries = entries.iter().map(|(i, s)| (*i, Bytes::from_static(s.as_bytes()))).collect();
        PersistBatch {
            batch,
            hard_state: Some(Bytes::from(format!("hard {batch}"))),
            snapshot: None,
            truncate_from,
            entries,
        }
    }

    /// `Stored::write` defines what a batch means; the file must agree with it, also after it was opened again.
    #[test]
    fn the_file_does_what_stored_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let mut model = Stored::default();
        let batches = [
            batch(1, None, &[(1, "a"), (2, "b"), (3, "c")]),
            batch(2, Some(2), &[(2, "B")]),
            batch(3, None, &[(3, "C"), (4, "d")]),
        ];
        for b in batches {
            let store = RaftStore::open(&path, OWNED).unwrap();
            assert_eq!(store.load().unwrap(), model);
            model.write(&b);
            store.commit(&[Write::Batch(b)]).unwrap();
        }
        let store = RaftStore::open(&path, OWNED).unwrap();
        let snapshot = Bytes::from_static(b"snapshot");
        model.compact(4, snapshot.clone());
        store.commit(&[Write::Compact { first_index: 4, snapshot }]).unwrap();
        assert_eq!(store.load().unwrap(), model);
        assert_eq!(model.entries.len(), 1);
    }

    /// G2: a node goes over to a later generation in one step, and what it had lies aside.
    #[test]
    fn what_is_there_goes_aside_and_what_follows_is_of_the_later_generation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let store = RaftStore::open(&path, OWNED).unwrap();
        assert_eq!(store.recovery().unwrap(), None, "a file without the key is of the first generation");
        store.commit(&[Write::Batch(batch(1, None, &[(1, "a")]))]).unwrap();
        let generation = Generation::FIRST.next(1).unwrap();
        let by = holdfast_cluster::Operator { uid: None, user: String::new(), host: String::new() };
        let (node, given_up, before) = (NodeId(2), vec![NodeId(1)], Generation::FIRST);
        let recovery = Recovery { generation, at_ms: 1, by, node, given_up, before, term: 1, index: 1 };
        let adopt = Write::Adopt { batch: 3, recovery: recovery.clone() };
        let writes = [Write::Batch(batch(2, None, &[(2, "b")])), adopt, Write::Batch(batch(4, None, &[(1, "new")]))];
        store.commit(&writes).unwrap();
        let found = store.load().unwrap();
        assert_eq!((found.entries, found.snapshot), (vec![(1, Bytes::from_static(b"new"))], None));
        assert_eq!(store.recovery().unwrap(), Some(recovery));
        drop(store);
        let aside = RaftStore::inspect(&path.with_extension("redb.generation-0")).unwrap();
        assert_eq!((aside.recovery, aside.stored.entries.len()), (None, 2), "all that was written before");
    }

    #[test]
    fn the_thread_answers_with_the_newest_batch() {
        let dir = tempfile::tempdir().unwrap();
        let store = RaftStore::open(&dir.path().join("raft.redb"), OWNED).unwrap();
        let (writes, mut written, thread) = store.spawn().unwrap();
        for n in 1..=20 {
            writes.blocking_send(Write::Batch(batch(n, None, &[(n, "x")]))).unwrap();
        }
        let mut newest = 0;
        while newest < 20 {
            match written.blocking_recv().unwrap() {
                Written::Batch(n) => newest = n,
                Written::Failed(e) => panic!("{e}"),
            }
        }
        drop(writes);
        thread.join().unwrap();
    }

    #[test]
    fn a_damaged_or_foreign_file_is_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft.redb");
        let store = RaftStore::open(&path, OWNED).unwrap();
        store.commit(&[Write::Batch(batch(1, None, &[(1, "a")]))]).unwrap();
        drop(store);
        let foreign = RaftStore::open(&path, "node n2 (2) of cluster 7").err().expect("another node's log");
        assert!(foreign.to_string().contains(OWNED), "{foreign}");
        let whole = std::fs::metadata(&path).unwrap().len();
        for len in [whole / 3, 500_000.min(whole - 1), 4096 * 3, 100] {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
            let opened = RaftStore::open(&path, OWNED).and_then(|store| store.load());
            let error = opened.err().unwrap_or_else(|| panic!("cut to {len} bytes it can't be whole"));
            assert!(matches!(error, AgentError::RaftDamaged { .. }), "{error}");
        }
    }
}
