//! This copy serves regions to another one that no log reaches (docs/PROTOCOL.md, R4).
//!
//! A copy that follows the epoch answers, whatever its role. What the store found at one LSN goes out in parts that fit a
//! message. A block that does not match its checksum is repaired first, as for any read; if that fails, the other copy is told
//! which one it is, and asks elsewhere: it never gets anything that was not verified here (trap 20).
//!
//! Bounds (P13): one question at a time, and one pass while the store may keep the image still for it; whoever asks meanwhile is told to ask
//! another copy. A copy that does not go on with its pass is waited for `PATIENCE`.

use crate::api::Output;
use crate::replica::Replica;
use bytes::Bytes;
use holdfast_format::message::{Message, NoRegions, Region, RegionQuery, RegionsFound};
use holdfast_types::{BlockIndex, BlockRange, Epoch, NodeId, ReadFault, Time};
use std::time::Duration;

/// Bytes of one part.
const PART: usize = 1 << 20;

/// A copy that has asked for more of a pass than one answer took is expected to go on so soon.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whose pass is being answered, and until when it is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServingPass {
    to: NodeId,
    pub(crate) until: Time,
}

/// The question that is being answered.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    tag: u64,
    to: NodeId,
    epoch: Epoch,
    request: u64,
    query: RegionQuery,
}

impl Replica {
    pub(crate) fn on_fetch_regions(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        request: u64,
        query: RegionQuery,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        self.step_serving(now, out);
        let follows = self.log.adopted == epoch && self.log.promised == epoch && self.resync.is_none();
        if !follows {
            return self.send(from, Message::NoRegions { epoch, request, why: NoRegions::Behind }, out);
        }
        let other = self.serving_regions.as_ref().is_some_and(|s| s.to != from);
        if other || self.serving_pass.is_some_and(|pass| pass.to != from) {
            return self.send(from, Message::NoRegions { epoch, request, why: NoRegions::Busy }, out);
        }
        // A second question of the same copy: it does not wait for the first one any more.
        let tag = self.next_tag();
        self.serving_pass = None;
        self.serving_regions = Some(Serving { tag, to: from, epoch, request, query });
        self.read_served_regions(out);
    }

    fn read_served_regions(&self, out: &mut Vec<Output>) {
        let Some(s) = &self.serving_regions else { return };
        let (tag, query, max_bytes) = (s.tag, s.query.clone(), self.limits.resync_bytes);
        out.push(Output::ReadRegions { tag, query, max_bytes });
    }

    pub(crate) fn on_regions_read(
        &mut self,
        tag: u64,
        result: Result<Box<RegionsFound>, ReadFault>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(s) = self.serving_regions.clone().filter(|s| s.tag == tag) else { return };
        match result {
            Ok(found) => {
                self.serving_regions = None;
                self.serving_pass = found.next.map(|_| ServingPass { to: s.to, until: now + PATIENCE });
                self.send_regions(&s, *found, out);
            }
            Err(ReadFault::Corrupt(block)) => {
                // A repair may take long.
                out.push(Output::LetGoRegions);
                self.repair(block, tag, BlockRange::new(block.0, 1), now, out);
            }
            Err(ReadFault::NotZero(_) | ReadFault::CopyFailed) => self.refuse_regions(NoRegions::Busy, out),
        }
    }

    /// A pass that is not gone on with must not keep the image still.
    pub(crate) fn step_serving(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.serving_pass.take_if(|pass| now >= pass.until || !self.up.contains(&pass.to)).is_some() {
            out.push(Output::LetGoRegions);
        }
    }

    fn send_regions(&self, s: &Serving, found: RegionsFound, out: &mut Vec<Output>) {
        let RegionsFound { cut, regions, next, total } = found;
        let mut parts: Vec<Vec<Region>> = vec![Vec::new()];
        let mut bytes = 0;
        for region in regions {
            bytes += region.len_bytes();
            if bytes > PART {
                bytes = region.len_bytes();
                parts.push(Vec::new());
            }
            parts.last_mut().expect("there is one part at least").push(region);
        }
        let count = parts.len();
        for (i, regions) in (1..).zip(parts) {
            let (epoch, request, last) = (s.epoch, s.request, i == count);
            self.send(s.to, Message::Regions { epoch, request, cut, next, total, last, regions }, out);
        }
    }

    fn refuse_regions(&mut self, why: NoRegions, out: &mut Vec<Output>) {
        let Some(s) = self.serving_regions.take() else { return };
        out.push(Output::LetGoRegions);
        self.send(s.to, Message::NoRegions { epoch: s.epoch, request: s.request, why }, out);
    }

    /// A block was repaired and read; true if it was for regions, which are read again then.
    pub(crate) fn regions_repaired(
        &mut self,
        tag: u64,
        result: &Result<Vec<Bytes>, ReadFault>,
        now: Time,
        out: &mut Vec<Output>,
    ) -> bool {
        if self.serving_regions.as_ref().is_none_or(|s| s.tag != tag) {
            return false;
        }
        match result {
            Ok(_) => self.read_served_regions(out),
            Err(ReadFault::Corrupt(block)) => self.repair(*block, tag, BlockRange::new(block.0, 1), now, out),
            Err(ReadFault::NotZero(_) | ReadFault::CopyFailed) => self.refuse_regions(NoRegions::Busy, out),
        }
        true
    }

    /// No copy that answers has a block; true if it is wanted for regions.
    pub(crate) fn regions_lost(&mut self, tag: u64, block: BlockIndex, out: &mut Vec<Output>) -> bool {
        let wanted = self.serving_regions.as_ref().is_some_and(|s| s.tag == tag);
        if wanted {
            self.refuse_regions(NoRegions::Damaged(block), out);
        }
        wanted
    }
}
