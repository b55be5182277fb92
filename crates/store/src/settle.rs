//! Before the process ends: what is committed goes into the images, and a checkpoint says so, so that the next start has little to replay.
//!
//! A copy that follows a busy primary receives more meanwhile. So each copy has a goal, what was committed when the wish came, and is
//! settled once a checkpoint covers it and the superblock says how far the scrub is. Nothing depends on that: a process that ends before leaves what any crash leaves.

use crate::api::Output;
use crate::replica::Replica;
use crate::store::Store;
use holdfast_types::{Lsn, Time};

impl Store {
    /// Whether every copy that is open has reached what `Input::Settle` asked for; true for copies that failed, which never will.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.open_replicas().all(|r| r.settle_to.is_none_or(|to| r.checkpoint >= to && !r.writer.hint_queued()))
    }

    pub(crate) fn settle_copies(&mut self, now: Time, out: &mut Vec<Output>) {
        self.each_open(now, out, |replica, cx| {
            let to = replica.committed;
            assert!(replica.checkpoint <= to, "a checkpoint covers committed records only");
            replica.settle_to = Some(to);
            replica.write_scrub(cx);
        });
        self.touch_all();
    }
}

impl Replica {
    /// What is committed is applied without waiting for more.
    pub(crate) fn settles(&self) -> bool {
        self.settle_to.is_some_and(|to| self.applied < to)
    }

    /// A checkpoint is all that is missing. One under way may be of an older state: its end leads here again.
    pub(crate) fn settles_by_checkpoint(&self) -> bool {
        self.settle_to.is_some_and(|to| to > Lsn::ZERO && self.applied >= to && self.checkpoint < to)
            && self.checkpointing.is_none()
    }
}
