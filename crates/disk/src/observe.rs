//! A view of what goes to the kernel and what comes back, for tests that rebuild a directory as a power cut may leave it.
//!
//! Each submission to the ring is one call, so a write that takes several slots is several. What runs on the threads for files is
//! a call as a whole: it creates under another name, syncs and renames.

use crate::gate::Tag;
use holdfast_store::io::FileId;
use std::cell::RefCell;
use std::rc::Rc;

/// A call as it is given to the kernel.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// pwritev2, with RWF_DSYNC if `durable`.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: &'a [u8],
        /// On stable storage when it ends.
        durable: bool,
    },
    /// fdatasync.
    Sync,
    /// A hole, or zeros that keep their space.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// ftruncate.
    SetLen {
        /// How long from now on.
        len: u64,
    },
    /// A file of zeros, whole or not at all.
    Create {
        /// How long.
        len: u64,
    },
    /// A file and its name go.
    Delete,
}

/// Sees every call that changes something or makes it durable, in the order of issue and of completion.
pub trait Observer {
    /// A call is given out. `ticket` names it until it ends.
    fn issued(&mut self, ticket: u64, file: FileId, call: Call<'_>);
    /// It ended; `done` is how many bytes a write wrote, 0 of other calls.
    fn ended(&mut self, ticket: u64, well: bool, done: usize);
}

/// Who looks on, if anybody does.
#[derive(Clone, Default)]
pub(crate) struct Watch(pub(crate) Option<Rc<RefCell<dyn Observer>>>);

impl Watch {
    pub(crate) fn issued(&self, tag: Tag, call: Call<'_>) {
        if let Some(observer) = &self.0 {
            observer.borrow_mut().issued(tag.id.0, tag.file, call);
        }
    }

    pub(crate) fn ended(&self, tag: Tag, well: bool, done: usize) {
        self.ended_id(tag.id.0, well, done);
    }

    pub(crate) fn issued_id(&self, id: u64, file: FileId, call: Call<'_>) {
        if let Some(observer) = &self.0 {
            observer.borrow_mut().issued(id, file, call);
        }
    }

    pub(crate) fn ended_id(&self, id: u64, well: bool, done: usize) {
        if let Some(observer) = &self.0 {
            observer.borrow_mut().ended(id, well, done);
        }
    }
}
