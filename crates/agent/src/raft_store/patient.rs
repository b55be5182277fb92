//! A full file system is no error of the control plane's log: what it needs is waited for.
//!
//! redb takes nothing more after an error of its file, and the agent would have to end, with all its volumes, those that need no space
//! too. A write that finds no space wrote nothing that counts: redb names what is new in a last write, after a sync. So it is made
//! again, whole, until there is space. Meanwhile the log is a slow one: what it was to make durable is not answered.
//!
//! Only writes and lengths are repeated. After a failed sync nobody knows what is on disk (P8), whatever the reason was.

use redb::StorageBackend;
use std::io::{Error, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// A backend whose writes wait for space.
#[derive(Debug)]
pub(super) struct Patient<B> {
    inner: B,
    path: PathBuf,
    pause: Duration,
}

impl<B> Patient<B> {
    pub(super) fn new(inner: B, path: PathBuf) -> Patient<B> {
        Patient { inner, path, pause: PAUSE }
    }

    fn until_there_is_space(&self, step: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        let mut waits = false;
        loop {
            let done = step();
            let full =
                done.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
            if !full {
                if waits {
                    tracing::info!("the control plane's log {} goes on: it found space", self.path.display());
                }
                return done;
            }
            if !waits {
                tracing::warn!(
                    "the control plane's log {} waits for space: free space on its file system, or enlarge it",
                    self.path.display()
                );
            }
            waits = true;
            std::thread::sleep(self.pause);
        }
    }
}

impl<B: StorageBackend> StorageBackend for Patient<B> {
    fn len(&self) -> Result<u64, Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.until_there_is_space(|| self.inner.set_len(len))
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.until_there_is_space(|| self.inner.write(offset, data))
    }

    fn close(&self) -> Result<(), Error> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase, TableDefinition};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A file system that is full for so many writes, or whose syncs fail.
    #[derive(Debug)]
    struct Full {
        inner: InMemoryBackend,
        left: Arc<AtomicU32>,
        bad_sync: bool,
    }

    impl StorageBackend for Full {
        fn len(&self) -> Result<u64, Error> {
            self.inner.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
            self.inner.read(offset, out)
        }

        fn set_len(&self, len: u64) -> Result<(), Error> {
            self.inner.set_len(len)
        }

        fn sync_data(&self) -> Result<(), Error> {
            if self.bad_sync { Err(ErrorKind::StorageFull.into()) } else { self.inner.sync_data() }
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
            let full = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            // As a device does: a part of it may have been written.
            self.inner.write(offset, &data[..if full { data.len() / 2 } else { data.len() }])?;
            if full { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("table");

    fn put(database: &Database, key: u64) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?.insert(key, key)?;
        transaction.commit()?;
        Ok(())
    }

    fn patient(left: &Arc<AtomicU32>, bad_sync: bool) -> Patient<Full> {
        let inner = Full { inner: InMemoryBackend::new(), left: left.clone(), bad_sync };
        Patient { inner, path: PathBuf::from("log"), pause: Duration::from_millis(1) }
    }

    #[test]
    fn writes_wait_for_space_and_are_made_whole() {
        let left = Arc::new(AtomicU32::new(0));
        let database = Database::builder().create_with_backend(patient(&left, false)).expect("made");
        for key in 0..20 {
            left.store(3, Ordering::Relaxed);
            put(&database, key).expect("it waits");
            assert_eq!(left.load(Ordering::Relaxed), 0, "it was full in between");
        }
        let read = database.begin_read().map(|r| r.open_table(TABLE)).expect("read").expect("there");
        for key in 0..20 {
            assert_eq!(read.get(key).expect("read").map(|found| found.value()), Some(key));
        }
    }

    #[test]
    fn a_sync_without_space_is_an_error() {
        let left = Arc::new(AtomicU32::new(0));
        let error = patient(&left, true).sync_data().expect_err("it fails");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
