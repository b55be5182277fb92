//! What a cut takes from the log is kept aside: records that were never committed, of a primary that was deposed.
//!
//! One file for each adoption that cut something, written whole before the superblock that makes the cut, so that a crash
//! between them leaves the tail twice and never nowhere. Nobody waits for an orphan but the adoption, and that not for room: without room
//! it goes on without (L8). Files are bounded in number and bytes for each copy; the oldest ones make room.

use crate::api::{OrphanNews, Output};
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use bytes::{Bytes, BytesMut};
use holdfast_format::{Record, RecordHeader};
use holdfast_types::{Epoch, Lsn};

/// What is being cut.
#[derive(Debug, Default)]
pub(crate) struct Orphan {
    pub(crate) parts: Vec<Bytes>,
    bytes: u64,
    first: Lsn,
    last: Lsn,
    left_out: u64,
}

impl Orphan {
    /// Records come in the order of the log; whole ones are kept, up to `most` bytes.
    pub(crate) fn push(&mut self, record: &Record, most: u64) {
        assert!(self.last == Lsn::ZERO || record.lsn() == self.last.next(), "a tail is cut in one piece");
        if self.first == Lsn::ZERO {
            self.first = record.lsn();
        }
        self.last = record.lsn();
        let bytes = u64::try_from(RecordHeader::LEN + record.body().len()).expect("about 1 MiB");
        if self.left_out > 0 || self.bytes + bytes > most.max(1) {
            self.left_out += 1;
            return;
        }
        self.bytes += bytes;
        self.parts.push(Bytes::copy_from_slice(&record.header().encode()));
        self.parts.push(record.body().clone());
    }

    const fn kept(&self) -> OrphanNews {
        OrphanNews::Kept { first: self.first, last: self.last, bytes: self.bytes, left_out: self.left_out }
    }
}

impl Replica {
    pub(crate) fn create_orphan(&mut self, cx: &mut Cx<'_>) {
        let adoption = self.adoption.as_ref().expect("an orphan is written for an adoption");
        let (epoch, len) = (adoption.epoch, adoption.orphan.bytes);
        assert!(len > 0, "an orphan holds a record at least");
        // From now on a deletion of the copy has this file, too.
        self.orphans.insert(epoch, len);
        let kind = DiskOpKind::Create { len, written: false };
        cx.copy_op(self.volume, CopyTag::Orphan(false), FileId::Orphan(self.volume, epoch), kind);
    }

    /// The orphan exists, or is written.
    pub(crate) fn orphan_done(&mut self, cx: &mut Cx<'_>, written: bool) {
        let adoption = self.adoption.as_mut().expect("an orphan is written for an adoption");
        let epoch = adoption.epoch;
        if written {
            let news = adoption.orphan.kept();
            cx.out.push(Output::Orphan { volume: self.volume, epoch, news });
            return self.adopt_in_superblock(cx);
        }
        let data = std::mem::take(&mut adoption.orphan.parts);
        let file = FileId::Orphan(self.volume, epoch);
        let kind = DiskOpKind::Write { offset: 0, data: vec![joined(&data)], durable: true };
        cx.copy_op(self.volume, CopyTag::Orphan(true), file, kind);
    }

    /// The file system is full: the cut goes on without keeping what it cuts. `exists`: the file was made.
    pub(crate) fn orphan_has_no_room(&mut self, cx: &mut Cx<'_>, exists: bool) {
        let epoch = self.adoption.as_ref().expect("an orphan is written for an adoption").epoch;
        cx.out.push(Output::Orphan { volume: self.volume, epoch, news: OrphanNews::NoRoom });
        if exists {
            // What is there of it holds space and is no evidence.
            cx.copy_op(self.volume, CopyTag::OrphanGone(epoch), FileId::Orphan(self.volume, epoch), DiskOpKind::Delete);
        } else {
            self.orphans.remove(&epoch);
        }
        self.adopt_in_superblock(cx);
    }

    /// After a cut: the oldest make room.
    pub(crate) fn bound_orphans(&mut self, cx: &mut Cx<'_>) {
        let mut left = self.orphans.clone();
        while left.len() > 1 && (left.len() > cx.config.orphans || left.values().sum::<u64>() > cx.config.orphan_bytes)
        {
            let (oldest, _) = left.pop_first().expect("more than one");
            self.delete_orphan(cx, oldest);
        }
    }

    pub(crate) fn delete_orphan(&mut self, cx: &mut Cx<'_>, epoch: Epoch) {
        let being_written = self.adoption.as_ref().is_some_and(|a| a.epoch == epoch);
        if self.orphans.contains_key(&epoch) && !being_written && self.orphans_leaving.insert(epoch) {
            cx.copy_op(self.volume, CopyTag::OrphanGone(epoch), FileId::Orphan(self.volume, epoch), DiskOpKind::Delete);
        }
    }

    pub(crate) fn orphan_gone(&mut self, cx: &mut Cx<'_>, epoch: Epoch) {
        self.orphans_leaving.remove(&epoch);
        if self.orphans.remove(&epoch).is_some() {
            cx.out.push(Output::Orphan { volume: self.volume, epoch, news: OrphanNews::Gone });
        }
    }
}

fn joined(parts: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}
