//! The public face: takes operations, walks them through the gate to an engine, and hands out what has ended.

use crate::config::{Backend, DiskConfig};
use crate::error::DiskOpenError;
use crate::file::OpenFile;
use crate::gate::{Data, Gate, Step, Tag};
use crate::lifecycle::{Directory, Outcome};
use crate::lock;
use crate::observe::{Call, Observer, Watch};
use crate::pool::Pool;
use crate::reserve::Reserve;
use crate::ring::Ring;
use crate::threads::Threads;
use crate::wake::Wake;
use crate::zero;
use holdfast_store::io::{DiskDone, DiskError, DiskOp, DiskOpKind, DiskReply, FileId, OpId};
use std::cell::{OnceCell, RefCell};
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// Segment creations that may run side by side with opening files.
const LIFECYCLE_THREADS: u32 = 2;

/// Executes the disk operations of one shard. Belongs to the thread that opened it.
pub struct Disk {
    // Declared before `wake` and `lock`, so dropped first: both engines wait for what is in flight.
    engine: Engine,
    lifecycle: Pool<Outcome>,
    /// Gives space back, which takes what it takes; nothing that somebody waits for is behind it.
    removals: Pool<Outcome>,
    directory: Arc<Directory>,
    gate: Gate<Handle>,
    reserve: Reserve,
    ready: Vec<DiskDone>,
    ended: Vec<Ended>,
    max_open_files: usize,
    watch: Watch,
    readiness: OnceCell<AsyncFd<WakeFd>>,
    wake: Arc<Wake>,
    _lock: File,
    /// The ring takes submissions from one thread only.
    _not_send: PhantomData<*const ()>,
}

/// An open file as an engine knows it.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) file: Arc<OpenFile>,
    /// First of its two places in the ring's file table; `None` for threads, and when the table is full.
    pub(crate) place: Option<u32>,
}

/// An operation's end at an engine.
pub(crate) struct Ended {
    pub(crate) tag: Tag,
    pub(crate) result: Result<DiskReply, DiskError>,
}

enum Engine {
    Ring(Box<Ring>),
    Threads(Threads),
}

/// Lends the eventfd to tokio without giving it away.
struct WakeFd(Arc<Wake>);

impl AsRawFd for WakeFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Disk {
    /// Locks and prepares the directory and starts the backend. Blocks for a moment.
    ///
    /// # Errors
    /// See [`DiskOpenError`]; each says what to do.
    pub fn open(config: &DiskConfig) -> Result<Disk, DiskOpenError> {
        check(config)?;
        let dir = &config.dir;
        std::fs::create_dir_all(dir).map_err(|source| DiskOpenError::Directory { path: dir.clone(), source })?;
        let lock = lock::take(dir)?;
        let directory = Directory::prepare(dir).map_err(|(path, source)| DiskOpenError::Directory { path, source })?;
        let source = |source| DiskOpenError::Directory { path: dir.clone(), source };
        let reserve = Reserve::new(File::open(dir).map_err(source)?, config.reserve_bytes);
        let resources = |what| move |source| DiskOpenError::Resources { what, source };
        let wake = Arc::new(Wake::new().map_err(resources("an eventfd"))?);
        let engine = match config.backend {
            Backend::IoUring => Engine::Ring(Box::new(Ring::new(config, Arc::clone(&wake))?)),
            Backend::Pread => {
                Engine::Threads(Threads::new(config, Arc::clone(&wake)).map_err(resources("threads for disk I/O"))?)
            }
        };
        let pool = |name, threads| Pool::new(name, threads, Arc::clone(&wake)).map_err(resources("threads"));
        let (lifecycle, removals) = (pool("disk-files", LIFECYCLE_THREADS)?, pool("disk-removals", 1)?);
        Ok(Disk {
            engine,
            lifecycle,
            removals,
            directory,
            gate: Gate::new(),
            reserve,
            ready: Vec::new(),
            ended: Vec::new(),
            max_open_files: usize::try_from(config.max_open_files).expect("usize has 32 bits at least"),
            watch: Watch::default(),
            readiness: OnceCell::new(),
            wake,
            _lock: lock,
            _not_send: PhantomData,
        })
    }

    /// Shows every call to `observer` from now on. On the ring only: threads give their calls out where nobody sees them.
    ///
    /// Panics on the other backend.
    pub fn observe(&mut self, observer: Rc<RefCell<dyn Observer>>) {
        let Engine::Ring(ring) = &mut self.engine else { panic!("only the ring can be observed") };
        self.watch = Watch(Some(observer));
        ring.observe(self.watch.clone());
    }

    /// Takes operations. Never waits for the device.
    pub fn submit(&mut self, ops: impl IntoIterator<Item = DiskOp>) {
        for op in ops {
            if matches!(op.kind, DiskOpKind::List) {
                let (directory, id) = (Arc::clone(&self.directory), op.id);
                self.lifecycle.run(move || Outcome::Listed(id, directory.list()));
                continue;
            }
            let file = op.file;
            self.gate.push(op);
            self.advance(file);
        }
        self.engine.kick();
    }

    /// Appends what has ended since the last call. Never waits.
    pub fn completed(&mut self, out: &mut Vec<DiskDone>) {
        let mut ended = std::mem::take(&mut self.ended);
        self.engine.reap(&mut ended);
        for Ended { tag, result } in ended.drain(..) {
            self.gate.ended(tag);
            self.ready.push(DiskDone { id: tag.id, result });
            self.advance(tag.file);
        }
        self.ended = ended;
        for outcome in self.lifecycle.results().into_iter().chain(self.removals.results()) {
            self.settle(outcome);
        }
        self.engine.kick();
        out.append(&mut self.ready);
    }

    /// Resolves when [`Disk::completed`] may have something. May resolve without; call it again then. Dropping the
    /// future loses nothing. Needs a tokio runtime with I/O enabled.
    pub async fn wait(&self) {
        if !self.ready.is_empty() {
            return;
        }
        let readiness = self.readiness.get_or_init(|| {
            let fd = WakeFd(Arc::clone(&self.wake));
            // SAFETY: `fd` owns a share of the eventfd, so the descriptor stays open and the same until it is dropped.
            unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }
                .expect("wait is called within a tokio runtime with I/O enabled, and epoll takes one more eventfd")
        });
        let mut guard = readiness.readable().await.expect("the runtime outlives the disk that waits on it");
        self.wake.clear();
        guard.clear_ready();
    }

    /// Does everything that may happen on `file` now.
    fn advance(&mut self, file: FileId) {
        while let Some(step) = self.gate.next(file) {
            match step {
                Step::Start { tag, handle, data } => self.start(tag, handle, data),
                Step::Fail { id, error } => self.answer(id, Err(error)),
                Step::Open => {
                    let directory = Arc::clone(&self.directory);
                    self.lifecycle.run(move || Outcome::Opened(file, directory.open(file)));
                }
                Step::Create { id, len, written, old } => {
                    let old = old.map(|handle| self.engine.close(handle));
                    if !self.reserve.grants(if written { len } else { 0 }) {
                        drop(old);
                        self.gate.closed(file);
                        self.answer(id, Err(DiskError::NoSpace));
                        continue;
                    }
                    self.watch.issued_id(id.0, file, Call::Create { len });
                    let directory = Arc::clone(&self.directory);
                    self.lifecycle.run(move || {
                        let result = directory.create(file, len, written);
                        drop(old);
                        Outcome::Created(file, id, result)
                    });
                }
                Step::Delete { id, old } => {
                    let old = old.map(|handle| self.engine.close(handle));
                    self.watch.issued_id(id.0, file, Call::Delete);
                    let directory = Arc::clone(&self.directory);
                    self.removals.run(move || Outcome::Deleted(file, id, directory.delete(file, old)));
                }
            }
        }
    }

    fn start(&mut self, tag: Tag, handle: Handle, data: Data) {
        let taken = match &data {
            Data::Write { data, .. } => data.iter().map(|piece| piece.len() as u64).sum(),
            Data::Zero { len, .. } => *len,
            Data::Read { .. } | Data::Sync | Data::Punch { .. } | Data::SetLen { .. } => 0,
        };
        if taken > 0 && Reserve::concerns(tag.file) && !self.reserve.grants(taken) {
            self.gate.ended(tag);
            return self.answer(tag.id, Err(DiskError::NoSpace));
        }
        let is_read = matches!(data, Data::Read { .. });
        let empty = match &data {
            Data::Read { len, .. } => *len == 0,
            Data::Write { data, .. } => data.iter().all(bytes::Bytes::is_empty),
            Data::Punch { len, .. } | Data::Zero { len, .. } => *len == 0,
            Data::Sync | Data::SetLen { .. } => false,
        };
        match data {
            // The kernel has no ring operation that also falls back where a file system can't.
            Data::Zero { offset, len } if !empty => {
                self.watch.issued(tag, Call::Zero { offset, len });
                return self.lifecycle.run(move || Outcome::Zeroed(tag, zero::zero(&handle.file, offset, len)));
            }
            Data::SetLen { len } => {
                self.watch.issued(tag, Call::SetLen { len });
                return self.lifecycle.run(move || Outcome::Zeroed(tag, zero::set_len(&handle.file, len)));
            }
            data if !empty => return self.engine.start(tag, handle, data),
            _ => {}
        }
        let reply = if is_read { DiskReply::Data(bytes::Bytes::new()) } else { DiskReply::Done };
        self.gate.ended(tag);
        self.answer(tag.id, Ok(reply));
    }

    fn settle(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Listed(id, result) => self.answer(id, result.map(DiskReply::Files)),
            Outcome::Opened(file, result) => self.settle_open(file, result),
            Outcome::Created(file, id, result) => {
                self.watch.ended_id(id.0, result.is_ok(), 0);
                self.answer(id, result.as_ref().map(|_| DiskReply::Done).map_err(|e| *e));
                match result {
                    Ok(open) => self.settle_open(file, Ok(open)),
                    Err(_) => self.settle_closed(file),
                }
            }
            Outcome::Zeroed(tag, result) => {
                self.watch.ended(tag, result.is_ok(), 0);
                self.gate.ended(tag);
                self.answer(tag.id, result.map(|()| DiskReply::Done));
                self.advance(tag.file);
            }
            Outcome::Deleted(file, id, result) => {
                self.watch.ended_id(id.0, result.is_ok(), 0);
                self.answer(id, result.map(|()| DiskReply::Done));
                self.settle_closed(file);
            }
        }
    }

    fn settle_open(&mut self, file: FileId, result: Result<OpenFile, DiskError>) {
        let handle = result.map(|open| self.engine.open(open));
        self.gate.opened(file, handle);
        self.advance(file);
        while let Some(idle) = self.gate.evict(self.max_open_files) {
            let closed = self.engine.close(idle);
            drop(closed);
        }
    }

    fn settle_closed(&mut self, file: FileId) {
        self.gate.closed(file);
        self.advance(file);
    }

    fn answer(&mut self, id: OpId, result: Result<DiskReply, DiskError>) {
        self.ready.push(DiskDone { id, result });
    }
}

impl Engine {
    fn open(&mut self, file: OpenFile) -> Handle {
        let file = Arc::new(file);
        match self {
            Engine::Ring(ring) => ring.open(file),
            Engine::Threads(_) => Handle { file, place: None },
        }
    }

    /// Nothing is in flight on the file.
    fn close(&mut self, handle: Handle) -> Arc<OpenFile> {
        if let (Engine::Ring(ring), Some(place)) = (self, handle.place) {
            ring.close(place);
        }
        handle.file
    }

    fn start(&mut self, tag: Tag, handle: Handle, data: Data) {
        match self {
            Engine::Ring(ring) => ring.start(tag, handle, data),
            Engine::Threads(threads) => threads.start(tag, handle, data),
        }
    }

    fn kick(&mut self) {
        if let Engine::Ring(ring) = self {
            ring.kick();
        }
    }

    fn reap(&mut self, out: &mut Vec<Ended>) {
        match self {
            Engine::Ring(ring) => ring.reap(out),
            Engine::Threads(threads) => threads.reap(out),
        }
    }
}

fn check(config: &DiskConfig) -> Result<(), DiskOpenError> {
    let page = u32::try_from(crate::buffer::ALIGN).expect("a page is small");
    let rules: [(bool, &'static str, u32); 6] = [
        (config.staging_slots >= 2, "at least 2 staging slots", config.staging_slots),
        (
            config.staging_slot_bytes >= page && config.staging_slot_bytes.is_multiple_of(page),
            "staging slots of a multiple of 4096 bytes",
            config.staging_slot_bytes,
        ),
        (
            u64::from(config.staging_slots) * u64::from(config.staging_slot_bytes) <= 1 << 30,
            "at most 1 GiB of staging memory, in slots",
            config.staging_slots,
        ),
        ((1..=4096).contains(&config.depth), "1 to 4096 operations in flight", config.depth),
        ((1..=256).contains(&config.threads), "1 to 256 threads", config.threads),
        ((4..=16384).contains(&config.max_open_files), "4 to 16384 open files", config.max_open_files),
    ];
    for (ok, expected, found) in rules {
        if !ok {
            return Err(DiskOpenError::Config { expected, found: u64::from(found) });
        }
    }
    Ok(())
}
