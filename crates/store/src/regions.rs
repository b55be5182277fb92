//! Reading regions for a copy that no log reaches, all of one answer at one LSN (docs/PROTOCOL.md, R4).
//!
//! ```text
//! question ─► nothing is applied from here on ─► leaves of the region table, one by one: regions that are newer ─► the leaf of the block
//!     table for each ─► their content, verified ─► answer
//! ```
//!
//! A question looks at so many leaves, takes so many regions, and so many bytes at most; the next one goes on where it ended. So memory, and
//! the time in which nothing is applied, do not depend on the size of the volume.
//!
//! A pass that several answers make up belongs to several LSNs, and a large table takes many. So from the beginning of a pass on it is
//! noted which regions change: the pass after it is told from that, in one answer if they are few. If they take some more, nothing is
//! applied until the last of these answers was asked for, so that all of them belong to one LSN; whoever asked may forget to go on, so that
//! the owner ends this after some time, and a full journal or much that waits ends it at once.
//!
//! A block that does not match the block table is read once more, and then the answer is which block it is.

use crate::api::Output;
use crate::io::DiskOpKind;
use crate::ops::{CopyTag, Cx};
use crate::pages::Wait;
use crate::replica::{Replica, Stage};
use crate::side::runs;
use crate::tables::entry_slot;
use bytes::{Bytes, BytesMut};
use holdfast_format::message::{Region, RegionCut, RegionQuery, RegionsFound};
use holdfast_format::{ALLOCATED_ZEROS, PAGE_ENTRIES, TableKind, TablePage, block_checksum};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Lsn, Mutant, REGION_BLOCKS, ReadFault, RegionIndex, mutated};
use std::collections::{BTreeMap, VecDeque};

const BLOCK: u64 = BLOCK_SIZE as u64;
const LEAF: u64 = PAGE_ENTRIES as u64;
const BLOCKS: usize = 16;
const _: () = assert!(BLOCKS as u64 == REGION_BLOCKS);
/// Questions that wait for their turn; more are answered with a fault, and asked again by whoever wants to know.
const MAX_WAITING: usize = 4;
/// Regions of one answer.
const MAX_REGIONS: usize = 1024;
/// Leaves of the region table that one question looks at, and those of which it takes a look at the entries.
const MAX_LEAVES: u64 = 1 << 14;
const MAX_FULL_LEAVES: u64 = 64;
/// Regions that changed since a pass began, at most.
const MAX_CHANGED: usize = 1 << 17;
/// A pass of so many regions at most may keep the image still: 256 MiB of content.
const MAX_STILL: u64 = 1 << 12;

/// Questions of other copies.
#[derive(Debug, Default)]
pub(crate) struct RegionReads {
    waiting: VecDeque<Question>,
    job: Option<Job>,
    changed: Option<Changed>,
    /// The image is kept still between the answers of the pass that asks for what changed after this.
    still: Option<Lsn>,
}

/// Which regions changed after a record.
#[derive(Debug)]
struct Changed {
    since: Lsn,
    regions: BTreeMap<u64, Lsn>,
}

#[derive(Debug)]
struct Question {
    tag: u64,
    query: RegionQuery,
    max_bytes: usize,
}

/// The question that is being answered.
#[derive(Debug)]
struct Job {
    question: Question,
    cut: RegionCut,
    /// Regions below were looked at.
    at: u64,
    /// They are told by what was noted, not by the table.
    noted: bool,
    leaves: u64,
    full_leaves: u64,
    /// Newer ones, with the LSN that changed them last.
    newer: VecDeque<(u64, Lsn)>,
    picked: Vec<Picked>,
    bytes: usize,
    next: Option<RegionIndex>,
    selected: bool,
    blocks: BTreeMap<u64, Bytes>,
    missing: usize,
    corrupt: Option<BlockIndex>,
}

#[derive(Debug)]
struct Picked {
    region: u64,
    lsn: Lsn,
    sums: [u64; BLOCKS],
}

impl RegionReads {
    /// Nothing may be applied: the answer belongs to one LSN.
    pub(crate) const fn holds(&self) -> bool {
        self.job.is_some() || self.still.is_some()
    }

    /// The pass belongs to several LSNs, then.
    pub(crate) const fn let_go(&mut self) {
        self.still = None;
    }

    /// A question is to be answered: of a new pass, or of the one for which the image is kept still, or of any other.
    fn ask(&mut self, query: &RegionQuery) {
        if query.from.0 == 0 || self.still != Some(query.after) {
            self.still = None;
        }
    }

    /// It was, with these regions. Only a pass that is still from its first answer on is worth anything.
    fn answered(&mut self, query: &RegionQuery, found: &RegionsFound) {
        let few = (1..=MAX_STILL).contains(&found.total);
        let begun = query.from.0 == 0 || self.still.is_some();
        self.still = (begun && few && found.next.is_some()).then_some(query.after);
    }

    /// The tags of all questions, taken out: the copy fails or leaves.
    pub(crate) fn take_tags(&mut self) -> Vec<u64> {
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|q| q.tag);
        waiting.chain(self.job.take().map(|j| j.question.tag)).collect()
    }

    /// Blocks `[start, end)` changed at `lsn`.
    pub(crate) fn note_changed(&mut self, start: u64, end: u64, lsn: Lsn) {
        let Some(changed) = self.changed.as_mut().filter(|_| !mutated(Mutant::ChangeNotNoted)) else { return };
        let (first, behind) = (start / REGION_BLOCKS, end.div_ceil(REGION_BLOCKS));
        let more = usize::try_from(behind - first).unwrap_or(usize::MAX);
        if changed.regions.len().saturating_add(more) > MAX_CHANGED {
            self.changed = None;
            return;
        }
        // A batch goes from block to block, not from record to record.
        for region in first..behind {
            let noted = changed.regions.entry(region).or_default();
            *noted = lsn.max(*noted);
        }
    }

    /// Something changed that is not named region by region: what a cut took off, what came from a side area.
    pub(crate) fn forget_changes(&mut self) {
        self.changed = None;
    }

    /// A pass begins at this record: what changes from here on is noted. True if it is known what changed since `after`.
    fn begin_pass(&mut self, after: Lsn, applied: Lsn) {
        match self.changed.as_mut().filter(|changed| changed.since <= after) {
            Some(changed) => {
                changed.since = after;
                changed.regions.retain(|_, lsn| *lsn > after);
            }
            None => self.changed = Some(Changed { since: applied, regions: BTreeMap::new() }),
        }
    }

    fn knows_since(&self, after: Lsn) -> bool {
        self.changed.as_ref().is_some_and(|changed| changed.since <= after)
    }
}

impl Replica {
    pub(crate) fn read_regions(&mut self, cx: &mut Cx<'_>, tag: u64, query: RegionQuery, max_bytes: usize) {
        if self.region_reads.waiting.len() >= MAX_WAITING {
            return self.regions_read(cx, tag, Err(ReadFault::CopyFailed));
        }
        self.region_reads.waiting.push_back(Question { tag, query, max_bytes });
    }

    /// Begins with the next question if the image stands still.
    pub(crate) fn pump_regions(&mut self, cx: &mut Cx<'_>) {
        let still = self.batch.is_none() && !self.is_switching();
        if self.stage != Stage::Open || self.region_reads.job.is_some() || !still {
            return;
        }
        let Some(mut question) = self.region_reads.waiting.pop_front() else { return };
        let size = self.sizes.at(self.applied);
        // Who asks may not know yet that the volume is smaller.
        question.query.end.0 = question.query.end.0.min(size.size.regions());
        let query = &question.query;
        self.region_reads.ask(query);
        if query.from.0 == 0 {
            self.region_reads.begin_pass(query.after, self.applied);
        }
        let (epoch, hash) = self.identity(self.applied);
        self.region_reads.job = Some(Job {
            cut: RegionCut {
                at: self.applied,
                epoch,
                hash,
                sums: self.tables.sums(),
                size: size.size,
                resized: size.decision,
                cut: self.cut_off,
            },
            at: query.from.0,
            noted: self.region_reads.knows_since(query.after),
            question,
            leaves: 0,
            full_leaves: 0,
            newer: VecDeque::new(),
            picked: Vec::new(),
            bytes: 0,
            next: None,
            selected: false,
            blocks: BTreeMap::new(),
            missing: 0,
            corrupt: None,
        });
        self.regions_on(cx);
    }

    /// Goes on with the question until a page of a table is not here, which brings it back.
    pub(crate) fn regions_on(&mut self, cx: &mut Cx<'_>) {
        if self.region_reads.job.as_ref().is_none_or(|job| job.selected) {
            return;
        }
        while let Some(job) = self.region_reads.job.as_mut().filter(|job| !job.selected) {
            if let Some((region, _)) = job.newer.front() {
                let leaf = TablePage::leaf_of(region * REGION_BLOCKS).index;
                if !self.leaf(cx, TableKind::Blocks, leaf, Wait::Regions) {
                    return;
                }
                self.pick();
            } else if job.noted {
                let changed = self.region_reads.changed.as_ref().expect("it is known what changed");
                job.take_noted(changed);
            } else if job.is_looked_through() {
                job.selected = true;
            } else {
                let leaf = job.at / LEAF;
                if !self.leaf(cx, TableKind::Regions, leaf, Wait::Regions) {
                    return;
                }
                let entries = self.tables.regions.entries(leaf);
                let job = self.region_reads.job.as_mut().expect("a question is being answered");
                job.take_leaf(entries.as_deref());
            }
        }
        self.read_picked(cx);
    }

    /// Takes the first of the newer regions, if it fits.
    fn pick(&mut self) {
        let job = self.region_reads.job.as_mut().expect("a question is being answered");
        let (region, lsn) = *job.newer.front().expect("a region is newer");
        let first = region * REGION_BLOCKS;
        let entries = self.tables.blocks.entries(TablePage::leaf_of(first).index);
        let mut block = first;
        let sums = std::array::from_fn(|_| {
            block += 1;
            entries.as_ref().map_or(0, |e| e[entry_slot(block - 1)])
        });
        let content = sums.iter().filter(|sum| **sum > ALLOCATED_ZEROS).count();
        job.bytes += Region::HEAD + content * BLOCK_SIZE;
        let full = job.bytes > job.question.max_bytes || job.picked.len() >= MAX_REGIONS;
        if full && !job.picked.is_empty() {
            job.next = Some(RegionIndex(region));
            job.selected = true;
            return;
        }
        job.newer.pop_front();
        job.picked.push(Picked { region, lsn, sums });
    }

    fn read_picked(&mut self, cx: &mut Cx<'_>) {
        let Some(job) = self.region_reads.job.as_ref() else { return };
        let content = job.picked.iter().flat_map(|p| (p.region * REGION_BLOCKS..).zip(p.sums));
        for (start, end) in runs(content.filter(|(_, sum)| *sum > ALLOCATED_ZEROS).map(|(block, _)| block)) {
            for from in (start..end).step_by(BLOCKS) {
                self.read_for_region(cx, from, end.min(from + REGION_BLOCKS), 0);
            }
        }
        self.finish_regions(cx);
    }

    fn read_for_region(&mut self, cx: &mut Cx<'_>, start: u64, end: u64, attempt: u32) {
        let len = u32::try_from((end - start) * BLOCK).expect("64 KiB at most");
        let kind = DiskOpKind::Read { offset: start * BLOCK, len };
        let file = self.file_at(attempt);
        cx.copy_op(self.volume, CopyTag::Region(start, attempt), file, kind);
        self.region_reads.job.as_mut().expect("a read of a region belongs to a question").missing += 1;
    }

    /// A part of a region came back.
    pub(crate) fn region_part(&mut self, cx: &mut Cx<'_>, first: u64, attempt: u32, data: &Bytes) {
        let last_attempt = self.more_attempts();
        let mut again = Vec::new();
        let job = self.region_reads.job.as_mut().expect("a read of a region belongs to a question");
        job.missing -= 1;
        for (i, block) in (0..data.len() / BLOCK_SIZE).zip(first..) {
            let content = data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE);
            if job.expects(block, &content) {
                job.blocks.insert(block, content);
            } else if attempt < last_attempt {
                again.push(block);
            } else {
                job.corrupt.get_or_insert(BlockIndex(block));
            }
        }
        for block in again {
            self.read_for_region(cx, block, block + 1, attempt + 1);
        }
        self.finish_regions(cx);
    }

    fn finish_regions(&mut self, cx: &mut Cx<'_>) {
        let Some(job) = self.region_reads.job.take_if(|job| job.missing == 0) else { return };
        assert_eq!(job.cut.at, self.applied, "{}: nothing is applied while regions are read", self.volume);
        let tag = job.question.tag;
        let result = match job.corrupt {
            Some(block) => Err(ReadFault::Corrupt(block)),
            None => {
                let query = job.question.query.clone();
                let found = job.found(self.region_reads.changed.as_ref());
                self.region_reads.answered(&query, &found);
                Ok(Box::new(found))
            }
        };
        self.regions_read(cx, tag, result);
    }

    fn regions_read(&self, cx: &mut Cx<'_>, tag: u64, result: Result<Box<RegionsFound>, ReadFault>) {
        cx.out.push(Output::RegionsRead { volume: self.volume, tag, result });
    }
}

impl Job {
    /// What is held of a region where the question is from.
    fn held(query: &RegionQuery, region: u64) -> Lsn {
        match query.held.binary_search_by_key(&region, |(r, _)| r.0) {
            Ok(i) => query.held[i].1.max(query.after),
            Err(_) => query.after,
        }
    }

    fn take(&mut self, regions: impl Iterator<Item = (u64, Lsn)>) {
        let query = &self.question.query;
        // Behind a cut the region table knows of no change before it: what is held of there was cut off, whatever its LSN.
        let (cut, behind) = (self.cut.cut.0, self.cut.cut.1.0.div_ceil(REGION_BLOCKS));
        let cut_since = |region: u64| region >= behind && cut > query.after;
        self.newer.extend(regions.filter(|(region, lsn)| {
            let held = Job::held(query, *region);
            *lsn > held || (cut_since(*region) && *lsn > Lsn::ZERO && *lsn != held)
        }));
    }

    /// The regions noted, all at once.
    fn take_noted(&mut self, changed: &Changed) {
        let end = self.question.query.end.0;
        if self.at >= end {
            self.selected = true;
            return;
        }
        let from = std::mem::replace(&mut self.at, end);
        self.take(changed.regions.range(from..end).map(|(region, lsn)| (*region, *lsn)));
    }

    /// Whether the window, or as much of it as one question is worth, was looked at.
    fn is_looked_through(&mut self) -> bool {
        let end = self.question.query.end.0;
        let much = self.leaves >= MAX_LEAVES || self.full_leaves >= MAX_FULL_LEAVES;
        if self.at < end && much {
            self.next = Some(RegionIndex(self.at));
        }
        self.at >= end || much
    }

    /// The entries of the leaf that it is at.
    fn take_leaf(&mut self, entries: Option<&[u64; PAGE_ENTRIES]>) {
        let from = self.at;
        let end = self.question.query.end.0.min((from / LEAF + 1) * LEAF);
        self.leaves += 1;
        self.at = end;
        if let Some(entries) = entries {
            self.full_leaves += 1;
            self.take((from..end).map(|region| (region, Lsn(entries[entry_slot(region)]))));
        }
    }

    fn expects(&self, block: u64, content: &Bytes) -> bool {
        let found = self.picked.binary_search_by_key(&(block / REGION_BLOCKS), |p| p.region);
        let picked = &self.picked[found.expect("what is read was picked")];
        let slot = usize::try_from(block % REGION_BLOCKS).expect("below 16");
        block_checksum(BlockIndex(block), content) == picked.sums[slot]
    }

    fn found(self, changed: Option<&Changed>) -> RegionsFound {
        let query = &self.question.query;
        let whole = query.from.0 == 0 && self.next.is_none();
        let total = match changed.filter(|_| self.noted) {
            Some(changed) => changed.regions.values().filter(|lsn| **lsn > query.after).count(),
            None if whole => self.picked.len(),
            None => 0,
        };
        let mut blocks = self.blocks;
        let region = |p: &Picked| {
            let first = p.region * REGION_BLOCKS;
            let mut data = BytesMut::new();
            let content = (first..first + REGION_BLOCKS).filter_map(|block| blocks.remove(&block));
            content.for_each(|content| data.extend_from_slice(&content));
            Region { index: RegionIndex(p.region), lsn: p.lsn, sums: p.sums, data: data.freeze() }
        };
        let regions = self.picked.iter().map(region).collect();
        let total = u64::try_from(total).expect("a count of regions");
        RegionsFound { cut: self.cut, regions, next: self.next, total }
    }
}
