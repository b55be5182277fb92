//! Table pages on their way into memory, and who waits for them.
//!
//! Whoever needs a leaf asks with [`Replica::leaf`]. If it is not here, it is read, from the top of its tree down, and what the asker
//! gave along goes on when it is there: at once, so that it can't be forgotten in between. Nobody else waits.
//!
//! A page that is not what its parent says is read once more: the way from the device may have been at fault. Then the copy fails.

use crate::api::Output;
use crate::hold::Summing;
use crate::io::{DiskOpKind, FileId};
use crate::merge::Deferred;
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use crate::tables::Seek;
use bytes::Bytes;
use holdfast_format::{PAGE_PLACES_BYTES, TableKind, TablePage};
use holdfast_types::{BlockIndex, BlockRange, ReadFault, VolumeId};
use std::collections::VecDeque;

/// What goes on when a page is there.
#[derive(Clone, Debug)]
pub(crate) enum Wait {
    /// Part `[start, end)` of a read, at this attempt.
    Read { job: u64, start: u64, end: u64, attempt: u32 },
    /// The batch under way needs the leaf; true: also if it is all zeros.
    Apply(TableKind, u64, bool),
    /// A repair of a block.
    Repair(BlockIndex, Bytes),
    /// A question about holes.
    Extents { tag: u64, range: BlockRange },
    /// A question about sums of the digest tree.
    Sums(Summing),
    /// Regions for another copy.
    Regions,
    /// Regions on their way into the image.
    Move,
    /// A scrub, which wants this page and nothing of it: that it can be read.
    Recheck(TableKind, TablePage),
    /// Nobody: it will be wanted soon.
    Nobody,
}

impl Replica {
    /// Whether the leaf can be used now. If not, it is on its way, and `wait` goes on when there is news of it.
    pub(crate) fn leaf(&mut self, cx: &mut Cx<'_>, kind: TableKind, leaf: u64, wait: Wait) -> bool {
        self.page(cx, kind, TablePage { level: 0, index: leaf }, wait)
    }

    /// The same for any page of the tree.
    pub(crate) fn page(&mut self, cx: &mut Cx<'_>, kind: TableKind, page: TablePage, wait: Wait) -> bool {
        let page = match self.tables.tree(kind).seek_page(page) {
            Seek::Here | Seek::Zeros => return true,
            Seek::Coming(page) => page,
            Seek::Load(page) => {
                self.tables.tree(kind).begin_load(page);
                self.read_page(cx, kind, page, 0);
                page
            }
        };
        self.waits.entry((kind, page)).or_default().push(wait);
        false
    }

    pub(crate) fn read_page(&self, cx: &mut Cx<'_>, kind: TableKind, page: TablePage, attempt: u32) {
        let file = match kind {
            TableKind::Blocks => FileId::BlockTable(self.volume),
            TableKind::Regions => FileId::RegionTable(self.volume),
        };
        let len = u32::try_from(PAGE_PLACES_BYTES).expect("8192");
        let kind = (DiskOpKind::Read { offset: page.offset(), len }, CopyTag::Page(kind, page, attempt));
        cx.copy_op(self.volume, kind.1, file, kind.0);
    }

    /// Both places of a page were read.
    pub(crate) fn page_read(&mut self, cx: &mut Cx<'_>, kind: TableKind, page: TablePage, attempt: u32, places: &[u8]) {
        if page == TablePage::ROOT {
            return self.root_read(cx, kind, attempt, places);
        }
        if !self.tables.tree(kind).loaded(page, places) {
            return self.page_is_wrong(cx, kind, page, attempt);
        }
        for wait in self.waits.remove(&(kind, page)).unwrap_or_default() {
            match wait {
                Wait::Read { job, start, end, attempt } => self.read_on(cx, job, start, end, attempt),
                Wait::Apply(kind, leaf, create) => self.leaf_for_batch(cx, kind, leaf, create),
                Wait::Repair(block, data) => self.repair(cx, block, data),
                Wait::Extents { tag, range } => self.extents(cx, tag, range),
                Wait::Sums(summing) => self.sum_on(cx, summing),
                Wait::Regions => self.regions_on(cx),
                Wait::Move => self.read_for_move(cx),
                // Perhaps it was one above it that came.
                Wait::Recheck(kind, page) => drop(self.page(cx, kind, page, Wait::Recheck(kind, page))),
                Wait::Nobody => {}
            }
        }
    }

    pub(crate) fn page_is_wrong(&mut self, cx: &mut Cx<'_>, kind: TableKind, page: TablePage, attempt: u32) {
        if attempt == 0 {
            return self.read_page(cx, kind, page, 1);
        }
        self.broken = Some(format!(
            "page {} of level {} of its {} is not what the checkpoint at record {} wrote: expected one of its two places to match the \
             checksum above it, found neither does: the device lost or changed a write; replace the copy",
            page.index,
            page.level,
            match kind {
                TableKind::Blocks => "block table",
                TableKind::Regions => "region table",
            },
            self.checkpoint
        ));
    }

    /// Answers the questions that wait, without what was asked for: the copy fails or leaves.
    pub(crate) fn answer_waiting(&mut self, out: &mut Vec<Output>) {
        let volume = self.volume;
        for deferred in std::mem::take(&mut self.deferred) {
            match deferred {
                Deferred::Read { tag, .. } => {
                    out.push(Output::ReadDone { volume, tag, result: Err(ReadFault::CopyFailed) });
                }
                Deferred::Extents { tag, .. } => out.push(Output::Extents { volume, tag, extents: Vec::new() }),
                Deferred::Repair { .. } => {}
            }
        }
        for wait in std::mem::take(&mut self.waits).into_values().flatten() {
            match wait {
                Wait::Extents { tag, .. } => out.push(Output::Extents { volume, tag, extents: Vec::new() }),
                Wait::Sums(summing) => out.push(Output::Sums { volume, node: summing.node, sums: Vec::new() }),
                Wait::Read { .. } | Wait::Apply(..) | Wait::Repair(..) => {}
                Wait::Regions | Wait::Move | Wait::Recheck(..) | Wait::Nobody => {}
            }
        }
    }

    /// Tells the shard how many pages this copy needs.
    pub(crate) fn count_pages(&mut self, cx: &mut Cx<'_>) {
        let held = self.tables.held() + self.batch.as_ref().map_or(0, |batch| batch.reserved);
        cx.ops.pages.recount(std::mem::replace(&mut self.pages_counted, held), held);
    }
}

/// Pages of tables that the copies of a shard can't do without now.
///
/// A copy that waits for room has nothing in flight that would wake it. So every change of what is held, and of who waits, is news:
/// the store asks for it until there is none, and lets all copies look again.
#[derive(Debug, Default)]
pub(crate) struct PagesHeld {
    /// How many.
    held: usize,
    /// Copies whose next batch found no room, in the order in which they get it. Meanwhile copies with changed pages make
    /// checkpoints.
    waiting: VecDeque<VolumeId>,
    news: bool,
}

impl PagesHeld {
    /// Whether a batch of `volume` that needs `more` pages may start. If nothing is held, any may: else it never would.
    pub(crate) fn has_room(&self, volume: VolumeId, more: usize, bound: usize) -> bool {
        let first = self.waiting.front().is_none_or(|v| *v == volume);
        first && (self.held == 0 || self.held + more <= bound)
    }

    /// The same; one that may not is queued.
    pub(crate) fn admit(&mut self, volume: VolumeId, more: usize, bound: usize) -> bool {
        if self.has_room(volume, more, bound) {
            self.news |= self.waiting.pop_front().is_some();
            return true;
        }
        if !self.waiting.contains(&volume) {
            self.waiting.push_back(volume);
            self.news = true;
        }
        false
    }

    /// A copy does not want room any more.
    pub(crate) fn gives_up(&mut self, volume: VolumeId) {
        self.waiting.retain(|v| *v != volume);
        self.news = true;
    }

    /// Whether a copy with so many changed pages should make a checkpoint to give room.
    pub(crate) fn presses(&self, changed: usize, bound: usize) -> bool {
        changed > 0 && (!self.waiting.is_empty() || (self.held * 2 >= bound && changed * 8 >= self.held))
    }

    /// A copy holds so many pages now, and not what it held before.
    fn recount(&mut self, before: usize, now: usize) {
        self.held = self.held + now - before;
        self.news |= now != before;
    }

    /// A copy that needed so many pages leaves.
    pub(crate) fn leaves(&mut self, volume: VolumeId, counted: usize) {
        self.recount(counted, 0);
        self.gives_up(volume);
    }

    /// Whether a copy that waits should look again.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news) && !self.waiting.is_empty()
    }
}
