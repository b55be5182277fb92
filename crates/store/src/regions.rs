//! Reading regions for a copy that no log reaches, all of one answer at one LSN (docs/PROTOCOL.md, R4).
//!
//! While a question is being answered nothing is applied, so the image and both tables stay at `applied`. Every block is
//! compared with the block table; one that does not match is read once more, and then the answer is which block it is. The
//! region table is walked page by page (`SparseTable::from`), so a question costs what it finds.

use crate::api::Output;
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::{Replica, Stage};
use bytes::{Bytes, BytesMut};
use holdfast_format::message::{Region, RegionCut, RegionQuery, RegionsFound};
use holdfast_format::{ALLOCATED_ZEROS, block_checksum};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Lsn, REGION_BLOCKS, ReadFault, RegionIndex};
use std::collections::{BTreeMap, VecDeque};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Questions that wait for their turn; more are answered with a fault, and asked again by whoever wants to know.
const MAX_WAITING: usize = 4;

/// Questions of other copies.
#[derive(Debug, Default)]
pub(crate) struct RegionReads {
    waiting: VecDeque<Question>,
    job: Option<Job>,
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
    tag: u64,
    cut: RegionCut,
    /// Region and the LSN that changed it last.
    regions: Vec<(u64, Lsn)>,
    next: Option<RegionIndex>,
    total: u64,
    blocks: BTreeMap<u64, Bytes>,
    missing: usize,
    corrupt: Option<BlockIndex>,
}

impl RegionReads {
    /// Nothing may be applied: the answer belongs to one LSN.
    pub(crate) const fn holds(&self) -> bool {
        self.job.is_some()
    }

    /// The tags of all questions, taken out: the copy fails or leaves.
    pub(crate) fn take_tags(&mut self) -> Vec<u64> {
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|q| q.tag);
        waiting.chain(self.job.take().map(|j| j.tag)).collect()
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
        let still = self.batch.is_none() && !self.is_switching() && !self.is_merging() && self.unproven.is_none();
        if self.stage != Stage::Open || self.region_reads.job.is_some() || !still {
            return;
        }
        let Some(question) = self.region_reads.waiting.pop_front() else { return };
        let job = self.select(&question);
        let runs: Vec<(u64, u64)> = job.regions.iter().flat_map(|(region, _)| self.content_runs(*region)).collect();
        self.region_reads.job = Some(job);
        for (start, end) in runs {
            self.read_for_region(cx, start, end, 0);
        }
        self.finish_regions(cx);
    }

    /// The regions of the window that are newer than what is held of them, as many as fit.
    fn select(&self, question: &Question) -> Job {
        let query = &question.query;
        let (epoch, hash) = self.identity(self.applied);
        let cut = RegionCut { at: self.applied, epoch, hash, sums: self.tables.sums() };
        let held = |region: u64| match query.held.binary_search_by_key(&region, |(r, _)| r.0) {
            Ok(i) => query.held[i].1,
            Err(_) => query.after,
        };
        let (mut regions, mut next, mut bytes) = (Vec::new(), None, 0);
        for (region, lsn) in self.tables.regions.from(query.from.0).take_while(|(r, _)| *r < query.end.0) {
            if Lsn(lsn) <= held(region) {
                continue;
            }
            let content: u64 = self.content_runs(region).iter().map(|(start, end)| (end - start) * BLOCK).sum();
            bytes += Region::HEAD + usize::try_from(content).expect("a region has 64 KiB");
            if bytes > question.max_bytes && !regions.is_empty() {
                next = Some(RegionIndex(region));
                break;
            }
            regions.push((region, Lsn(lsn)));
        }
        let newer = |(_, lsn): &(u64, u64)| Lsn(*lsn) > query.after;
        let total = if query.from.0 == 0 { self.tables.regions.from(0).filter(newer).count() } else { 0 };
        let total = u64::try_from(total).expect("a count of regions");
        Job { tag: question.tag, cut, regions, next, total, blocks: BTreeMap::new(), missing: 0, corrupt: None }
    }

    /// The runs of blocks of a region that have content, `[start, end)`.
    pub(crate) fn content_runs(&self, region: u64) -> Vec<(u64, u64)> {
        let first = region * REGION_BLOCKS;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for block in first..first + REGION_BLOCKS {
            if self.tables.blocks.get(block) <= ALLOCATED_ZEROS {
                continue;
            }
            match runs.last_mut() {
                Some((_, end)) if *end == block => *end += 1,
                _ => runs.push((block, block + 1)),
            }
        }
        runs
    }

    fn read_for_region(&mut self, cx: &mut Cx<'_>, start: u64, end: u64, attempt: u32) {
        let len = u32::try_from((end - start) * BLOCK).expect("a region has 64 KiB");
        let kind = DiskOpKind::Read { offset: start * BLOCK, len };
        cx.copy_op(self.volume, CopyTag::Region(start, attempt), FileId::Image(self.volume), kind);
        self.region_reads.job.as_mut().expect("a read of a region belongs to a question").missing += 1;
    }

    /// A part of a region came back.
    pub(crate) fn region_part(&mut self, cx: &mut Cx<'_>, first: u64, attempt: u32, data: &Bytes) {
        let mut again = Vec::new();
        let job = self.region_reads.job.as_mut().expect("a read of a region belongs to a question");
        job.missing -= 1;
        for (i, block) in (0..data.len() / BLOCK_SIZE).zip(first..) {
            let content = data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE);
            if block_checksum(BlockIndex(block), &content) == self.tables.blocks.get(block) {
                job.blocks.insert(block, content);
            } else if attempt == 0 {
                again.push(block);
            } else {
                job.corrupt.get_or_insert(BlockIndex(block));
            }
        }
        for block in again {
            self.read_for_region(cx, block, block + 1, 1);
        }
        self.finish_regions(cx);
    }

    fn finish_regions(&mut self, cx: &mut Cx<'_>) {
        let Some(job) = self.region_reads.job.take_if(|job| job.missing == 0) else { return };
        assert_eq!(job.cut.at, self.applied, "{}: nothing is applied while regions are read", self.volume);
        let result = match job.corrupt {
            Some(block) => Err(ReadFault::Corrupt(block)),
            None => {
                let regions = job.regions.iter().map(|(region, lsn)| self.region(*region, *lsn, &job.blocks)).collect();
                Ok(Box::new(RegionsFound { cut: job.cut, regions, next: job.next, total: job.total }))
            }
        };
        self.regions_read(cx, job.tag, result);
    }

    fn region(&self, region: u64, lsn: Lsn, blocks: &BTreeMap<u64, Bytes>) -> Region {
        let first = region * REGION_BLOCKS;
        let mut block = first;
        let sums = std::array::from_fn(|_| {
            block += 1;
            self.tables.blocks.get(block - 1)
        });
        let mut data = BytesMut::new();
        blocks.range(first..first + REGION_BLOCKS).for_each(|(_, content)| data.extend_from_slice(content));
        Region { index: RegionIndex(region), lsn, sums, data: data.freeze() }
    }

    fn regions_read(&self, cx: &mut Cx<'_>, tag: u64, result: Result<Box<RegionsFound>, ReadFault>) {
        cx.out.push(Output::RegionsRead { volume: self.volume, tag, result });
    }
}
