//! The engine on io_uring: one ring, registered files, registered staging memory.
//!
//! ```text
//! start ─▶ queue ─▶ flight (a staging slot if it writes) ─▶ kernel ─▶ reap ─▶ ended
//!                      ▲                                      │
//!                      └────── short, interrupted, next chunk ┘
//! ```
//! Invariants
//! - At most `depth` submissions are unanswered, and the ring has room for as many, so pushing never fails and no
//!   completion is lost.
//! - A write's bytes are copied into its slot before the kernel sees them, chunk by chunk if they are more than a slot
//!   holds; slot and read buffer belong to the flight until its last completion.
//! - Durable writes (journal, superblock) go first and can always get a slot: others leave them some.

use crate::buffer::{AlignedBuf, gather};
use crate::config::DiskConfig;
use crate::disk::{Ended, Handle};
use crate::error::{DiskOpenError, from_errno};
use crate::file::{OpenFile, Way};
use crate::gate::{Data, Tag};
use crate::observe::{Call, Watch};
use crate::wake::Wake;
use bytes::Bytes;
use holdfast_store::io::{DiskError, DiskReply};
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;

mod setup;
mod staging;

use staging::Staging;

/// How often one submission is repeated after EINTR or EAGAIN before it counts as failed.
const MAX_REPEATS: u32 = 1000;

pub(crate) struct Ring {
    // Not dropped while the kernel may still use it: see `Drop`.
    memory: ManuallyDrop<Memory>,
    depth: usize,
    /// Submissions that the kernel has not answered, including those still in the submission queue.
    unanswered: usize,
    durable: VecDeque<Flight>,
    others: VecDeque<Flight>,
    free_places: Vec<u32>,
    wake: Arc<Wake>,
    watch: Watch,
}

struct Memory {
    ring: IoUring,
    staging: Staging,
    flights: Vec<Option<Flight>>,
    free_flights: Vec<usize>,
    /// Without DEFER_TASKRUN completions appear by themselves.
    deferred: bool,
}

/// One operation on its way.
struct Flight {
    tag: Tag,
    handle: Handle,
    way: Way,
    work: Work,
    repeats: u32,
}

enum Work {
    Read {
        offset: u64,
        buf: AlignedBuf,
    },
    Write {
        offset: u64,
        data: Vec<Bytes>,
        durable: bool,
        total: usize,
        /// Bytes of earlier chunks, all written.
        done: usize,
        /// Bytes of this chunk in the slot, and how many of them are written.
        chunk: usize,
        written: usize,
        slot: Option<u32>,
    },
    Sync,
    Punch {
        offset: u64,
        len: u64,
    },
}

/// What a completion means for its flight.
enum Next {
    Again,
    End(Result<DiskReply, DiskError>),
}

impl Ring {
    pub(crate) fn new(config: &DiskConfig, wake: Arc<Wake>) -> Result<Ring, DiskOpenError> {
        let staging = Staging::new(config.staging_slots, config.staging_slot_bytes)
            .map_err(|source| DiskOpenError::Resources { what: "staging memory", source })?;
        let setup::Built { ring, staging, deferred } = setup::build(config, staging, &wake)?;
        let memory = Memory { ring, staging, flights: Vec::new(), free_flights: Vec::new(), deferred };
        Ok(Ring {
            memory: ManuallyDrop::new(memory),
            depth: usize::try_from(config.depth).expect("usize has 32 bits at least"),
            unanswered: 0,
            durable: VecDeque::new(),
            others: VecDeque::new(),
            free_places: (0..config.max_open_files).rev().map(|n| n * 2).collect(),
            wake,
            watch: Watch::default(),
        })
    }

    pub(crate) fn observe(&mut self, watch: Watch) {
        self.watch = watch;
    }

    pub(crate) fn open(&mut self, file: Arc<OpenFile>) -> Handle {
        // With every place taken the plain descriptor does, a little slower.
        let place = self
            .free_places
            .pop()
            .filter(|&place| self.memory.ring.submitter().register_files_update(place, &file.fds()).is_ok());
        Handle { file, place }
    }

    pub(crate) fn close(&mut self, place: u32) {
        match self.memory.ring.submitter().register_files_update(place, &[-1, -1]) {
            Ok(_) => self.free_places.push(place),
            // The place stays taken and keeps the file open: a leak, not a danger.
            Err(e) => tracing::warn!(error = %e, "the kernel refused to forget a registered file"),
        }
    }

    pub(crate) fn start(&mut self, tag: Tag, handle: Handle, data: Data) {
        let file = &handle.file;
        let (way, work) = match data {
            Data::Read { offset, len } => {
                let buf = AlignedBuf::new(usize::try_from(len).expect("usize has 32 bits at least"));
                (file.way(offset, u64::from(len)), Work::Read { offset, buf })
            }
            Data::Write { offset, data, durable } => {
                let total = data.iter().map(Bytes::len).sum();
                let way = file.way(offset, total as u64);
                (way, Work::Write { offset, data, durable, total, done: 0, chunk: 0, written: 0, slot: None })
            }
            Data::Sync => (file.any(), Work::Sync),
            Data::Zero { .. } | Data::SetLen { .. } => unreachable!("this goes to the threads for files"),
            Data::Punch { offset, len } => (file.any(), Work::Punch { offset, len }),
        };
        let urgent = matches!(work, Work::Write { durable: true, .. });
        let flight = Flight { tag, handle, way, work, repeats: 0 };
        if urgent { self.durable.push_back(flight) } else { self.others.push_back(flight) }
    }

    /// Gives the kernel what may start.
    pub(crate) fn kick(&mut self) {
        while self.unanswered < self.depth {
            let Some(flight) = self.take_startable() else { break };
            let index = self.memory.store(flight);
            self.push(index);
        }
        self.flush();
    }

    /// Takes what has ended, and sends on what has not.
    pub(crate) fn reap(&mut self, out: &mut Vec<Ended>) {
        self.memory.run_deferred();
        while let Some((index, result)) = self.memory.next_completion() {
            self.unanswered -= 1;
            let flight = self.memory.flights[index].as_mut().expect("a completion belongs to a flight");
            if !matches!(flight.work, Work::Read { .. }) {
                self.watch.ended(flight.tag, result >= 0, usize::try_from(result).unwrap_or(0));
            }
            match flight.complete(result) {
                Next::Again => {
                    self.memory.load(index);
                    self.push(index);
                }
                Next::End(result) => {
                    let flight = self.memory.remove(index);
                    out.push(flight.end(result));
                }
            }
        }
    }

    fn take_startable(&mut self) -> Option<Flight> {
        let free = self.memory.staging.free();
        if free > 0
            && let Some(flight) = self.durable.pop_front()
        {
            return Some(flight);
        }
        let needs_slot = matches!(self.others.front()?.work, Work::Write { .. });
        // What waits for a slot holds up reads behind it: writes are few milliseconds, and order is kept simple.
        if needs_slot && free <= self.memory.staging.reserve() {
            return None;
        }
        self.others.pop_front()
    }

    fn push(&mut self, index: usize) {
        self.memory.show(index, &self.watch);
        let entry = self.memory.entry(index);
        // SAFETY: the flight owns every buffer that the entry points to, and stays in `flights` until its completion;
        // dropping the ring waits for that.
        unsafe { self.memory.ring.submission().push(&entry) }.expect("the ring has room for `depth` submissions");
        self.unanswered += 1;
    }

    fn flush(&mut self) {
        while !self.memory.ring.submission().is_empty() {
            match self.memory.ring.submit() {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    // EAGAIN or EBUSY: the kernel is short of memory. The entries stay queued; the signal makes the
                    // owner come back, so that they are tried again.
                    tracing::debug!(error = %e, "the kernel took no submissions for now");
                    self.wake.signal();
                    return;
                }
            }
        }
    }
}

impl Memory {
    fn store(&mut self, flight: Flight) -> usize {
        let index = match self.free_flights.pop() {
            Some(index) => index,
            None => {
                self.flights.push(None);
                self.flights.len() - 1
            }
        };
        self.flights[index] = Some(flight);
        self.load(index);
        index
    }

    fn remove(&mut self, index: usize) -> Flight {
        let flight = self.flights[index].take().expect("a flight ends once");
        self.free_flights.push(index);
        if let Work::Write { slot: Some(slot), .. } = flight.work {
            self.staging.release(slot);
        }
        flight
    }

    /// Copies a write's next chunk into its slot, once the last one is out.
    fn load(&mut self, index: usize) {
        let flight = self.flights[index].as_mut().expect("a flight in progress");
        let Work::Write { data, total, done, chunk, written, slot, .. } = &mut flight.work else { return };
        if written < chunk {
            return;
        }
        let slot = *slot.get_or_insert_with(|| self.staging.acquire().expect("a write starts when a slot is free"));
        *done += *chunk;
        *written = 0;
        let target = self.staging.slot(slot);
        *chunk = target.len().min(*total - *done);
        let filled = gather(data, *done, &mut target[..*chunk]);
        assert_eq!(filled, *chunk, "the pieces hold what their lengths add up to");
    }

    fn entry(&mut self, index: usize) -> squeue::Entry {
        let flight = self.flights[index].as_mut().expect("a flight in progress");
        let (fd, flags) = flight.descriptor();
        let entry = match &mut flight.work {
            Work::Read { offset, buf } => {
                let rest = u32::try_from(buf.len() - buf.filled()).expect("a read is at most 4 GiB long");
                let at = *offset + buf.filled() as u64;
                opcode::Read::new(fd, buf.tail(), rest).offset(at).build()
            }
            Work::Write { offset, durable, done, chunk, written, slot, .. } => {
                let slot = slot.expect("a loaded write has a slot");
                let registered = self.staging.registered();
                let piece = &self.staging.slot(slot)[*written..*chunk];
                let len = u32::try_from(piece.len()).expect("a slot is smaller than 4 GiB");
                let at = *offset + (*done + *written) as u64;
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                if registered {
                    opcode::WriteFixed::new(fd, piece.as_ptr(), len, 0).offset(at).rw_flags(flags).build()
                } else {
                    opcode::Write::new(fd, piece.as_ptr(), len).offset(at).rw_flags(flags).build()
                }
            }
            Work::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Work::Punch { offset, len } => opcode::Fallocate::new(fd, *len)
                .offset(*offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        };
        entry.flags(flags).user_data(index as u64)
    }

    /// Shows the submission that is about to go to the kernel.
    fn show(&mut self, index: usize, watch: &Watch) {
        if watch.0.is_none() {
            return;
        }
        let flight = self.flights[index].as_ref().expect("a flight in progress");
        let call = match &flight.work {
            Work::Read { .. } => return,
            Work::Write { offset, durable, done, chunk, written, slot, .. } => {
                let data = &self.staging.slot(slot.expect("a loaded write has a slot"))[*written..*chunk];
                Call::Write { offset: *offset + (*done + *written) as u64, data, durable: *durable }
            }
            Work::Sync => Call::Sync,
            Work::Punch { offset, len } => Call::Zero { offset: *offset, len: *len },
        };
        watch.issued(flight.tag, call);
    }

    fn next_completion(&mut self) -> Option<(usize, i32)> {
        let entry = self.ring.completion().next()?;
        let index = usize::try_from(entry.user_data()).expect("user data is the flight's index");
        Some((index, entry.result()))
    }

    /// With DEFER_TASKRUN the kernel finishes completions only when we ask.
    fn run_deferred(&mut self) {
        if !self.deferred || !self.ring.submission().taskrun() {
            return;
        }
        const GETEVENTS: u32 = 1;
        // SAFETY: no argument is passed; to_submit and min_complete are 0, so it neither takes entries nor waits.
        let result = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, GETEVENTS, None) };
        if let Err(e) = result {
            tracing::debug!(error = %e, "the kernel did not run deferred completions; tried again with the next call");
        }
    }
}

impl Flight {
    fn descriptor(&self) -> (types::Fd, squeue::Flags) {
        match self.handle.place {
            Some(place) => {
                let place = place + u32::from(self.way == Way::Buffered);
                let index = i32::try_from(place).expect("the file table is small");
                (types::Fd(index), squeue::Flags::FIXED_FILE)
            }
            None => (types::Fd(self.handle.file.fd(self.way)), squeue::Flags::empty()),
        }
    }

    fn complete(&mut self, result: i32) -> Next {
        let Ok(count) = usize::try_from(result) else { return self.failed(-result) };
        self.repeats = 0;
        match &mut self.work {
            Work::Sync | Work::Punch { .. } => Next::End(Ok(DiskReply::Done)),
            Work::Read { buf, .. } => {
                // SAFETY: the kernel has initialised `count` bytes.
                unsafe { buf.advance(count) };
                // Nothing, or a part of a sector around the page cache: that was the end of the file.
                if count == 0 || (self.way == Way::Direct && !count.is_multiple_of(512)) {
                    buf.fill_zeros();
                }
                // The bytes are taken in `end`.
                if buf.filled() == buf.len() { Next::End(Ok(DiskReply::Done)) } else { Next::Again }
            }
            // A device that takes nothing and gives no reason would make us loop for ever.
            Work::Write { .. } if count == 0 => Next::End(Err(DiskError::Io(libc::EIO))),
            Work::Write { total, done, written, .. } => {
                *written += count;
                if *done + *written == *total { Next::End(Ok(DiskReply::Done)) } else { Next::Again }
            }
        }
    }

    fn failed(&mut self, errno: i32) -> Next {
        if matches!(errno, libc::EINTR | libc::EAGAIN) && self.repeats < MAX_REPEATS {
            self.repeats += 1;
            return Next::Again;
        }
        Next::End(Err(from_errno(errno)))
    }

    fn end(self, result: Result<DiskReply, DiskError>) -> Ended {
        let result = match (result, self.work) {
            (Ok(_), Work::Read { buf, .. }) => Ok(DiskReply::Data(buf.into_bytes())),
            (other, _) => other,
        };
        Ended { tag: self.tag, result }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.unanswered > 0 {
            let waited = self.memory.ring.submit_and_wait(1);
            while self.memory.next_completion().is_some() {
                self.unanswered -= 1;
            }
            match waited {
                Ok(_) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(e) => {
                    tracing::error!(
                        error = %e, unanswered = self.unanswered,
                        "cannot wait for disk operations in flight; their memory stays allocated until the process ends"
                    );
                    return;
                }
            }
        }
        // SAFETY: dropped once, here, and not used afterwards; the kernel has answered everything.
        unsafe { ManuallyDrop::drop(&mut self.memory) };
    }
}
