//! The control plane's log on disk: one redb file, one durable transaction for each batch.
//!
//! A thread of its own, because a commit waits for the disk, and the control loop must keep answering heartbeats
//! meanwhile. Batches that queued up while one was being written go into one transaction (group commit).
//!
//! After a failed commit nothing more is written (P8): what is on disk is then unknown, so the agent stops.

use crate::error::AgentError;
use bytes::Bytes;
use holdfast_consensus::{PersistBatch, Stored};
use redb::backends::InMemoryBackend;
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
        let batch = PersistBatch {
            batch: 0,
            hard_state: stored.hard_state.clone(),
            snapshot: stored.snapshot.clone(),
            truncate_from: Some(0),
            entries: stored.entries.clone(),
        };
        RaftStore::open_any(path)?.commit(&[Write::Owner(owner.to_owned()), Write::Batch(batch)])
    }

    /// What a file holds, and whose it is, without changing it: it is opened in memory, where what a kill left is mended.
    pub(crate) fn inspect(path: &Path) -> Result<(Option<String>, Stored), AgentError> {
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
        Ok((store.owner()?, store.load()?))
    }

    fn open_any(path: &Path) -> Result<RaftStore, AgentError> {
        let database = guarded(path, || Database::create(path).map_err(|e| damage(path, &e)))?;
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
        let failed = |e: &dyn std::fmt::Display| damage(&self.path, e);
        guarded(&self.path, || {
            let read = self.database.begin_read().map_err(|e| failed(&e))?;
            let found = read.open_table(META).map_err(|e| failed(&e))?.get(OWNER).map_err(|e| failed(&e))?;
            Ok(found.map(|bytes| String::from_utf8_lossy(bytes.value()).into_owned()))
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

    /// Moves the file to a thread that writes what it is sent.
    pub(crate) fn spawn(self) -> Result<Writer, AgentError> {
        let (writes, mut inbox) = mpsc::channel::<Write>(QUEUE);
        // Each answer stands for at least one write, so the answers always fit: the thread never waits for the loop.
        let (answers, written) = mpsc::channel::<Written>(2 * QUEUE);
        let path = self.path.clone();
        let body = move || {
            let mut pending = Vec::with_capacity(QUEUE);
            while inbox.blocking_recv_many(&mut pending, QUEUE) > 0 {
                let last =
                    pending.iter().rev().find_map(|w| if let Write::Batch(b) = w { Some(b.batch) } else { None });
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
    }
    Ok(())
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
