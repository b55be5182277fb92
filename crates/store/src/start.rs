//! The start of a store: from a directory to open copies.
//!
//! ```text
//! List ─► Sync every segment and superblock ─► read their heads ─► read the journal's segments, oldest first
//!      ─► recover (no I/O) ─► segment of the new life durable ─► each copy: superblock whole, tables, replay ─► Opened
//!      ─► Started
//! ```
//!
//! The sync comes first: after a crash of the process alone, what is read may still lie in the device's cache, and nothing
//! may be called durable because it could be read.
//!
//! No copy is reported before the header of the new life's segment is durable: it fixes where the old life ended. Else
//! frames behind the end that a copy reported could become valid again at the next start.

use crate::findings::{Findings, JournalFound};
use crate::io::{DiskOpKind, DiskReply, FileId};
use crate::journal::{HeadFile, Journal};
use crate::ops::{Cx, Tag};
use crate::recover::logs::{outdated, recover_logs};
use crate::recover::resolve::{Resolved, resolve};
use crate::recover::scan::{SegmentScan, scan};
use crate::replica::{Replica, Stage};
use crate::ring::Segment;
use crate::store::WHAT_TO_DO;
use bytes::{Bytes, BytesMut};
use holdfast_format::{
    FrameSlot, JournalHead, JournalHeadFound, RecordHeader, SegmentHeader, Superblock, SuperblockFound,
};
use holdfast_types::{Epoch, Lsn, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// A copy of which nobody can say that it was being deleted.
const KEPT: &str =
    "its other files were left as they are: restore the superblock's file if it is elsewhere, or replace the copy";

const SUPERBLOCK_BYTES: u32 = 16384;
const HEADER_BYTES: u32 = 4096;
const HEAD_BYTES: u32 = 1024;
const _: () = assert!(SUPERBLOCK_BYTES as usize == Superblock::COPIES * Superblock::LEN);
const _: () = assert!(HEADER_BYTES as usize == SegmentHeader::LEN);
const _: () = assert!(HEAD_BYTES as usize == JournalHead::LEN);

/// What the start has found so far.
#[derive(Debug, Default)]
pub(crate) struct Start {
    step: Step,
    files: BTreeMap<FileId, u64>,
    /// Operation number → what it is about, and for a piece of a segment where that begins.
    asked: BTreeMap<u32, (FileId, Option<Piece>)>,
    /// Superblocks and heads that are read in parts.
    parts: BTreeMap<FileId, Parts>,
    /// The segment that is read in pieces.
    pieces: BytesMut,
    /// Some of its sectors can't be read.
    holes: bool,
    next_ask: u32,
    heads: BTreeMap<u32, SegmentHeader>,
    damaged_heads: usize,
    /// Segments that the device did not give, and why.
    lost_segments: BTreeMap<u32, String>,
    /// The newest segment, if it can't be read whole, and why.
    gap: Option<(u32, String)>,
    /// What the journal's head says; `None` if there is no such file.
    head: Option<JournalHeadFound>,
    unreadable: BTreeMap<VolumeId, String>,
    superblocks: BTreeMap<VolumeId, Bytes>,
    /// Copies to open, and which copies of their superblock are good.
    replicas: BTreeMap<VolumeId, (Replica, [bool; 4])>,
    failed: BTreeMap<VolumeId, String>,
    garbage: BTreeSet<VolumeId>,
    /// Segments still to be read, newest first.
    to_read: Vec<u32>,
    scans: Vec<SegmentScan>,
    journal_found: Option<JournalFound>,
}

/// A file of several copies that could not be read in one go.
#[derive(Debug)]
struct Parts {
    bytes: BytesMut,
    /// Some of it was read.
    readable: bool,
    error: String,
}

/// A part of a segment that could not be read in one go.
#[derive(Clone, Copy, Debug)]
struct Piece {
    offset: u64,
    len: u32,
}

impl Piece {
    /// Pieces are first this long; what can't be read either, is asked for page by page.
    const LARGE: u32 = 256 << 10;
    const SMALL: u32 = 4096;

    fn all(from: u64, to: u64, len: u32) -> impl Iterator<Item = Piece> {
        let step = usize::try_from(len).expect("usize has 32 bits at least");
        (from..to).step_by(step).map(move |offset| {
            let rest = u32::try_from(to - offset).unwrap_or(u32::MAX);
            Piece { offset, len: len.min(rest) }
        })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    List,
    Sync,
    Heads,
    Segments,
}

/// The directory, understood.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) journal: Journal,
    pub(crate) replicas: BTreeMap<VolumeId, (Replica, [bool; 4])>,
    /// Copies that can't be opened, and why.
    pub(crate) failed: BTreeMap<VolumeId, String>,
    /// Volumes whose creation or deletion never ended: their files go away.
    pub(crate) garbage: BTreeSet<VolumeId>,
    pub(crate) orphans: BTreeMap<VolumeId, BTreeMap<Epoch, u64>>,
    pub(crate) findings: Findings,
}

/// How far the start is.
pub(crate) enum Progress {
    Going,
    Found(Box<Found>),
    /// The journal can't be used.
    Broken(String),
}

impl Start {
    pub(crate) fn begin(&mut self, cx: &mut Cx<'_>) {
        self.ask(cx, FileId::Segment(0), DiskOpKind::List);
    }

    fn ask(&mut self, cx: &mut Cx<'_>, file: FileId, kind: DiskOpKind) {
        self.ask_for(cx, file, None, kind);
    }

    fn ask_for(&mut self, cx: &mut Cx<'_>, file: FileId, piece: Option<Piece>, kind: DiskOpKind) {
        let number = self.next_ask;
        self.next_ask += 1;
        self.asked.insert(number, (file, piece));
        cx.submit(Tag::Start(number), file, kind);
    }

    fn ask_pieces(&mut self, cx: &mut Cx<'_>, file: FileId, pieces: impl Iterator<Item = Piece>) {
        for piece in pieces {
            let kind = DiskOpKind::Read { offset: piece.offset, len: piece.len };
            self.ask_for(cx, file, Some(piece), kind);
        }
    }

    /// An operation failed. A copy's superblock costs the copy; a part of a segment what lies in it; anything else the journal.
    pub(crate) fn failed(&mut self, cx: &mut Cx<'_>, number: u32, error: &str, seed: u64) -> Progress {
        let (file, piece) = self.asked.remove(&number).expect("a step of the start was asked for");
        match (self.step, file, piece) {
            // What is there several times is read one by one: a sector that can't be read costs the copy that it is in.
            (Step::Heads, FileId::Superblock(_) | FileId::JournalHead, None) => {
                let (len, each) =
                    if file == FileId::JournalHead { (HEAD_BYTES, 512) } else { (SUPERBLOCK_BYTES, 4096) };
                let bytes = BytesMut::zeroed(usize::try_from(len).expect("16 KiB at most"));
                self.parts.insert(file, Parts { bytes, readable: false, error: error.to_owned() });
                self.ask_pieces(cx, file, Piece::all(0, u64::from(len), each));
            }
            (Step::Heads, FileId::Superblock(_) | FileId::JournalHead, Some(_)) => {
                if let Err(reason) = self.part_here(file) {
                    return Progress::Broken(reason);
                }
            }
            (_, FileId::Superblock(volume), _) => drop(self.unreadable.insert(volume, unreadable_superblock(error))),
            // If it belongs to the journal, the newest header or the journal's head misses it. A spare one is made anew.
            (Step::Sync | Step::Heads, FileId::Segment(slot), _) => {
                self.damaged_heads += 1;
                self.lost_segments.insert(slot, error.to_owned());
                self.files.remove(&file);
            }
            // In the newest segment nobody can tell what can't be read from what was never there.
            (Step::Segments, FileId::Segment(slot), None)
                if !self.to_read.is_empty() || cx.config.reads_around_gaps =>
            {
                if self.to_read.is_empty() {
                    self.gap = Some((slot, error.to_owned()));
                }
                let bytes = self.files[&file];
                self.pieces = BytesMut::zeroed(usize::try_from(bytes).expect("judged with the heads"));
                self.ask_pieces(cx, FileId::Segment(slot), Piece::all(0, bytes, Piece::LARGE));
            }
            (Step::Segments, FileId::Segment(slot), Some(piece)) if piece.len > Piece::SMALL => {
                let end = piece.offset + u64::from(piece.len);
                self.ask_pieces(cx, FileId::Segment(slot), Piece::all(piece.offset, end, Piece::SMALL));
            }
            // Zeros stay in its place: no record's checksum matches them.
            (Step::Segments, FileId::Segment(slot), Some(_)) => {
                self.holes = true;
                self.piece_here(slot);
            }
            _ => {
                return Progress::Broken(format!("the journal can't be read: {file}: {error}"));
            }
        }
        self.advance(cx, seed)
    }

    /// A part of a superblock or of the journal's head was read, or can't be.
    fn part_here(&mut self, file: FileId) -> Result<(), String> {
        if self.asked.values().any(|(asked, _)| *asked == file) {
            return Ok(());
        }
        let Parts { bytes, readable, error } = self.parts.remove(&file).expect("its parts were asked for");
        match file {
            FileId::Superblock(volume) if !readable => {
                drop(self.unreadable.insert(volume, unreadable_superblock(&error)));
            }
            FileId::Superblock(volume) => drop(self.superblocks.insert(volume, bytes.freeze())),
            _ if !readable => {
                return Err(format!("the journal can't be read: {file}: {error}"));
            }
            // A part that can't be read is no sign that nothing was ever written there.
            _ => match JournalHead::judge(&bytes) {
                JournalHeadFound::Empty => self.head = Some(JournalHeadFound::Damaged),
                found => self.head = Some(found),
            },
        }
        Ok(())
    }

    /// A piece of a segment was read, or can't be.
    fn piece_here(&mut self, slot: u32) {
        if self.asked.is_empty() {
            let whole = std::mem::take(&mut self.pieces).freeze();
            self.scan(slot, &whole);
        }
    }

    /// An operation ended well.
    pub(crate) fn done(&mut self, cx: &mut Cx<'_>, number: u32, reply: DiskReply, seed: u64) -> Progress {
        let (file, piece) = self.asked.remove(&number).expect("a step of the start was asked for");
        match (self.step, reply, file) {
            (Step::Segments, DiskReply::Data(data), FileId::Segment(slot)) if piece.is_some() => {
                let at = usize::try_from(piece.map_or(0, |p| p.offset)).expect("usize has 64 bits");
                self.pieces[at..at + data.len()].copy_from_slice(&data);
                self.piece_here(slot);
            }
            (Step::Heads, DiskReply::Data(data), _) if piece.is_some() => {
                let at = usize::try_from(piece.map_or(0, |p| p.offset)).expect("usize has 64 bits");
                let parts = self.parts.get_mut(&file).expect("its parts were asked for");
                parts.bytes[at..at + data.len()].copy_from_slice(&data);
                parts.readable = true;
                if let Err(reason) = self.part_here(file) {
                    return Progress::Broken(reason);
                }
            }
            (Step::List, DiskReply::Files(files), _) => self.files = files.into_iter().collect(),
            (Step::Sync, _, _) => {}
            (Step::Heads, DiskReply::Data(data), FileId::Segment(slot)) => match SegmentHeader::decode(&data) {
                Some(header) if header.slot == slot => drop(self.heads.insert(slot, header)),
                _ => self.damaged_heads += 1,
            },
            (Step::Heads, DiskReply::Data(data), FileId::JournalHead) => self.head = Some(JournalHead::judge(&data)),
            (Step::Heads, DiskReply::Data(data), FileId::Superblock(volume)) => {
                self.superblocks.insert(volume, data);
            }
            (Step::Segments, DiskReply::Data(data), FileId::Segment(slot)) => self.scan(slot, &data),
            (step, reply, file) => unreachable!("{step:?} of {file:?} is not answered by {reply:?}"),
        }
        self.advance(cx, seed)
    }

    fn advance(&mut self, cx: &mut Cx<'_>, seed: u64) -> Progress {
        while self.asked.is_empty() {
            match self.step {
                Step::List => {
                    self.step = Step::Sync;
                    for file in self.judged_files() {
                        self.ask(cx, file, DiskOpKind::Sync);
                    }
                }
                Step::Sync => {
                    self.step = Step::Heads;
                    for file in self.judged_files() {
                        let len = match file {
                            FileId::Segment(_) => HEADER_BYTES,
                            FileId::JournalHead => HEAD_BYTES,
                            _ => SUPERBLOCK_BYTES,
                        };
                        self.ask(cx, file, DiskOpKind::Read { offset: 0, len });
                    }
                }
                Step::Heads => {
                    self.step = Step::Segments;
                    if let Err(reason) = self.judge_heads() {
                        return Progress::Broken(reason);
                    }
                }
                Step::Segments => {
                    let Some(slot) = self.to_read.pop() else {
                        if self.head == Some(JournalHeadFound::Empty) && self.scans.iter().any(|s| !s.frames.is_empty())
                        {
                            return Progress::Broken(EMPTY_HEAD.to_owned());
                        }
                        return Progress::Found(Box::new(self.finish(cx.config.segment_bytes, seed)));
                    };
                    let bytes = self.files[&FileId::Segment(slot)];
                    let len = u32::try_from(bytes).expect("judged with the heads");
                    self.ask(cx, FileId::Segment(slot), DiskOpKind::Read { offset: 0, len });
                }
            }
        }
        Progress::Going
    }

    fn judged_files(&self) -> Vec<FileId> {
        let unreadable = |file: &FileId| matches!(file, FileId::Superblock(v) if self.unreadable.contains_key(v));
        let judged = |file: &&FileId| matches!(file, FileId::Segment(_) | FileId::JournalHead | FileId::Superblock(_));
        self.files.keys().filter(judged).filter(|file| !unreadable(file)).copied().collect()
    }

    /// Which journal this is, and which segments belong to it.
    fn judge_heads(&mut self) -> Result<(), String> {
        let newest = self.heads.values().max_by_key(|h| h.generation).cloned();
        self.judge_journal_head(newest.as_ref())?;
        self.judge_superblocks(newest.as_ref().map(|h| h.journal));
        let used = |(replica, _): &(Replica, _)| replica.sb.checkpoint.max(replica.sb.committed) > Lsn::ZERO;
        if self.head == Some(JournalHeadFound::Empty) && self.replicas.values().any(used) {
            return Err(EMPTY_HEAD.into());
        }
        let Some(newest) = newest else {
            if self.damaged_heads > 0 && !(self.replicas.is_empty() && self.failed.is_empty()) {
                return Err("no journal segment has a readable header, yet there are copies".into());
            }
            return Ok(());
        };
        if self.heads.values().any(|h| h.journal != newest.journal) {
            return Err("the segments belong to different journals: files were mixed".into());
        }
        let mut wanted: Vec<u64> = newest.closed.iter().map(|c| c.generation).collect();
        wanted.push(newest.generation);
        for generation in wanted.into_iter().rev() {
            let Some((slot, _)) = self.heads.iter().find(|(_, h)| h.generation == generation) else {
                let (files, error) = (self.heads.len() + self.damaged_heads, self.segment_error());
                return Err(format!(
                    "segment generation {generation} of the journal is missing or damaged among {files} files{error}"
                ));
            };
            let (bytes, expected) = (self.files[&FileId::Segment(*slot)], self.heads[slot].bytes);
            if bytes != expected || bytes > 1 << 30 {
                return Err(format!(
                    "segment file {slot} has {bytes} bytes, expected {expected}: it was cut or replaced, and with it records that \
                     may be found nowhere else"
                ));
            }
            self.to_read.push(*slot);
        }
        Ok(())
    }

    /// In brackets: which segment file can't be read at all, and why.
    fn segment_error(&self) -> String {
        let first = self.lost_segments.iter().next();
        first.map_or_else(String::new, |(slot, error)| format!(" ({} can't be read: {error})", FileId::Segment(*slot)))
    }

    /// Whether the newest segment that was found is the newest that there was.
    fn judge_journal_head(&self, newest: Option<&SegmentHeader>) -> Result<(), String> {
        let head = match (self.head, newest) {
            (Some(JournalHeadFound::Valid(head)), _) => head,
            // Made by a start that ended before its first segment was named.
            (Some(JournalHeadFound::Empty), _) | (None, None) => return Ok(()),
            (Some(JournalHeadFound::Damaged), _) => {
                return Err("the journal's head is damaged: nobody knows whether its newest segment is here".into());
            }
            (None, Some(_)) => {
                return Err("the journal's head is missing: nobody knows whether its newest segment is here".into());
            }
        };
        let found = newest.map_or(0, |h| h.generation);
        if newest.is_some_and(|h| h.journal != head.journal) {
            return Err("the journal's head belongs to another journal: files were mixed".into());
        }
        if head.generation > found {
            let error = self.segment_error();
            return Err(format!(
                "segment generation {} of the journal is missing or damaged{error}, the newest one found is {found}: it holds records that \
                 may be found nowhere else",
                head.generation
            ));
        }
        Ok(())
    }

    fn judge_superblocks(&mut self, journal: Option<u64>) {
        self.failed.append(&mut self.unreadable);
        for (volume, bytes) in std::mem::take(&mut self.superblocks) {
            match Superblock::judge(&bytes) {
                SuperblockFound::Valid(sb, good) => match self.refuse(volume, &sb, journal) {
                    Some(reason) => drop(self.failed.insert(volume, reason)),
                    None => drop(self.replicas.insert(volume, (Replica::new(*sb, Stage::Loading), good))),
                },
                SuperblockFound::Void(marked) if marked == volume => drop(self.garbage.insert(volume)),
                SuperblockFound::Void(other) => {
                    let found = format!("the superblock is that of {other}; files were mixed, restore the right ones");
                    self.failed.insert(volume, found);
                }
                // Right after it was made. Later there are others, and what is here may be all that is left of the copy.
                SuperblockFound::Blank if self.files.keys().filter(|f| volume_of(**f) == Some(volume)).count() == 1 => {
                    self.garbage.insert(volume);
                }
                SuperblockFound::Blank => drop(self.failed.insert(volume, format!("its superblock is empty; {KEPT}"))),
                SuperblockFound::Damaged(valid) => {
                    let found =
                        format!("expected two equal superblock copies of four, found {valid} valid and different");
                    self.failed.insert(volume, format!("{found}; replace the copy"));
                }
            }
        }
        let known =
            |v: &VolumeId| self.replicas.contains_key(v) || self.failed.contains_key(v) || self.garbage.contains(v);
        let others: Vec<VolumeId> = self.files.keys().filter_map(|f| volume_of(*f)).filter(|v| !known(v)).collect();
        for volume in others {
            self.failed.insert(volume, format!("its superblock is missing; {KEPT}"));
        }
    }

    fn refuse(&self, volume: VolumeId, sb: &Superblock, journal: Option<u64>) -> Option<String> {
        if sb.volume != volume {
            return Some(format!("the superblock is that of {}; files were mixed, restore the right ones", sb.volume));
        }
        if journal != Some(sb.journal) {
            return Some(format!("the journal {:016x} that holds its log is not here; replace the copy", sb.journal));
        }
        let mut files = vec![FileId::Image(volume), FileId::BlockTable(volume), FileId::RegionTable(volume)];
        if sb.merging.is_some() {
            files.extend([FileId::SideImage(volume), FileId::SideRegions(volume)]);
        }
        let missing = files.into_iter().find(|file| !self.files.contains_key(file))?;
        Some(format!("its file {missing:?} is missing; replace the copy"))
    }

    fn scan(&mut self, slot: u32, data: &Bytes) {
        let header = self.heads.get(&slot).expect("only segments with a header are read").clone();
        // Bodies at or below the checkpoint are not needed in memory.
        let keep = |h: &RecordHeader| self.replicas.get(&h.volume).is_some_and(|(r, _)| h.lsn > r.sb.checkpoint);
        let mut scanned = scan(header, data, &keep);
        scanned.unreadable = std::mem::take(&mut self.holes);
        if !scanned.unreadable && self.to_read.is_empty() {
            // In pieces it could be read.
            self.gap = None;
        }
        self.scans.push(scanned);
    }

    /// All bytes are here.
    fn finish(&mut self, segment_bytes: u64, seed: u64) -> Found {
        let mut replicas = std::mem::take(&mut self.replicas);
        let orphans = self.orphans();
        let superblocks = replicas.iter().map(|(volume, (_, good))| (*volume, *good)).collect();
        for (volume, (replica, _)) in &mut replicas {
            replica.orphans = orphans.get(volume).cloned().unwrap_or_default();
            let side = side_files(*volume);
            let found = side.iter().filter(|file| self.files.contains_key(file)).count();
            replica.found_side(found, side.len());
        }
        let mut journal =
            if self.scans.is_empty() { Journal::new(seed, 1, 0, 0) } else { self.recovered_journal(&mut replicas) };
        if self.head.is_some() {
            journal.head = HeadFile::Present;
        }
        for (file, len) in &self.files {
            if let FileId::Segment(slot) = file {
                let live = journal.segments.values().any(|s| s.slot == *slot);
                // A file of another size, or one whose creation never ended, is made anew before it is used.
                if live || *len == segment_bytes {
                    journal.slots.insert(*slot);
                }
                if !live && *len == segment_bytes {
                    journal.spares.insert(*slot);
                }
            }
        }
        let (failed, garbage) = (std::mem::take(&mut self.failed), std::mem::take(&mut self.garbage));
        let findings = Findings {
            journal: self.journal_found.take(),
            superblocks,
            leftovers: garbage.clone(),
            unreadable: std::mem::take(&mut self.lost_segments),
            gap: self.gap.take(),
        };
        Found { journal, replicas, failed, garbage, orphans, findings }
    }

    fn recovered_journal(&mut self, replicas: &mut BTreeMap<VolumeId, (Replica, [bool; 4])>) -> Journal {
        let newest = self.scans.last().expect("a journal has a newest segment").header.clone();
        let slots: BTreeMap<u64, u32> = self.heads.iter().map(|(slot, h)| (h.generation, *slot)).collect();
        let found = JournalFound::new(&self.scans, &slots);
        let resolved = resolve(std::mem::take(&mut self.scans));
        self.journal_found = Some(found.judged(&resolved));
        let mut copies = BTreeMap::new();
        let mut good = BTreeMap::new();
        for (volume, (replica, copies_good)) in std::mem::take(replicas) {
            copies.insert(volume, replica);
            good.insert(volume, copies_good);
        }
        for (volume, epoch) in outdated(&resolved, &copies) {
            let promised = copies.remove(&volume).expect("it was looked at").sb.promised;
            let found = format!(
                "its superblock is older than its journal: it knows epochs up to {promised}, a record is of {epoch}"
            );
            self.failed.insert(volume, format!("{found}; an old file was restored, replace the copy"));
        }
        recover_logs(&resolved, &mut copies);
        let mut journal = Journal::new(newest.journal, newest.life + 1, resolved.last_seq, newest.generation);
        for (generation, end) in &resolved.ends {
            let slot = slots[generation];
            let bytes = self.files[&FileId::Segment(slot)];
            let damaged = resolved.damaged.contains(generation);
            journal
                .segments
                .insert(*generation, Segment { slot, bytes, end: Some(*end), damaged, ..Segment::default() });
        }
        self.note_contents(&resolved, &copies, &mut journal);
        // What was cut is not needed; what is unknown is kept, as evidence.
        for replica in copies.values().filter(|r| r.unknown_to.is_none()) {
            journal.clip(replica.volume, replica.received);
        }
        *replicas = copies.into_iter().map(|(volume, replica)| (volume, (replica, good[&volume]))).collect();
        journal
    }

    /// Which records keep which segment.
    fn note_contents(&self, resolved: &Resolved, copies: &BTreeMap<VolumeId, Replica>, journal: &mut Journal) {
        for frame in &resolved.frames {
            let ours = |volume: VolumeId| match copies.get(&volume) {
                Some(replica) => (frame.life, frame.seq) >= replica.sb.born,
                None => self.failed.contains_key(&volume),
            };
            let records = frame.records.iter().map(|r| FrameSlot::Record(r.header)).filter(|s| ours(slot_volume(s)));
            let marks = frame.marks.iter().map(|m| FrameSlot::Commit(*m)).filter(|s| ours(slot_volume(s)));
            let slots: Vec<FrameSlot> = records.chain(marks).collect();
            journal.segments.get_mut(&frame.generation).expect("a frame's segment has an end").note(&slots);
        }
    }

    /// With their lengths.
    fn orphans(&self) -> BTreeMap<VolumeId, BTreeMap<Epoch, u64>> {
        let mut orphans: BTreeMap<VolumeId, BTreeMap<Epoch, u64>> = BTreeMap::new();
        for (file, len) in &self.files {
            if let FileId::Orphan(volume, epoch) = file {
                orphans.entry(*volume).or_default().insert(*epoch, *len);
            }
        }
        orphans
    }
}

const fn slot_volume(slot: &FrameSlot) -> VolumeId {
    match slot {
        FrameSlot::Record(header) => header.volume,
        FrameSlot::Commit(mark) => mark.volume,
    }
}

const fn volume_of(file: FileId) -> Option<VolumeId> {
    match file {
        FileId::Segment(_) | FileId::JournalHead => None,
        FileId::Superblock(v)
        | FileId::Image(v)
        | FileId::BlockTable(v)
        | FileId::RegionTable(v)
        | FileId::SideImage(v)
        | FileId::SideBlocks(v)
        | FileId::SideRegions(v)
        | FileId::Orphan(v, _) => Some(v),
    }
}

/// The first segment's header is durable before the head names it, and the head before the first frame.
const EMPTY_HEAD: &str =
    "the journal's head is empty, yet there are records: nobody knows whether its newest segment is here";

fn unreadable_superblock(error: &str) -> String {
    format!("its superblock can't be read: {error}; {WHAT_TO_DO}")
}

const fn side_files(volume: VolumeId) -> [FileId; 3] {
    [FileId::SideImage(volume), FileId::SideBlocks(volume), FileId::SideRegions(volume)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/FORMAT.md, "Journal head": every combination of what the head says and what is the newest segment.
    #[test]
    fn every_combination_of_head_and_newest_segment_has_its_verdict() {
        let newest = |generation| SegmentHeader {
            journal: 7,
            generation,
            life: 1,
            first_seq: 1,
            bytes: 1 << 20,
            slot: 0,
            closed: Vec::new(),
        };
        let names = |journal, generation| Some(JournalHeadFound::Valid(JournalHead { journal, generation }));
        let table = [
            (None, None, ""),
            (None, Some(3), "missing"),
            (Some(JournalHeadFound::Empty), None, ""),
            (Some(JournalHeadFound::Empty), Some(3), ""),
            (Some(JournalHeadFound::Damaged), None, "damaged"),
            (Some(JournalHeadFound::Damaged), Some(3), "damaged"),
            (names(7, 2), Some(3), ""),
            (names(7, 3), Some(3), ""),
            (names(7, 4), Some(3), "missing or damaged"),
            (names(7, 1), None, "missing or damaged"),
            (names(8, 2), Some(3), "another journal"),
            (names(8, 4), Some(3), "another journal"),
        ];
        for (head, generation, reason) in table {
            let start = Start { head, ..Start::default() };
            let verdict = start.judge_journal_head(generation.map(newest).as_ref());
            match reason {
                "" => assert_eq!(verdict, Ok(()), "{head:?} {generation:?}"),
                reason => assert!(verdict.is_err_and(|why| why.contains(reason)), "{head:?} {generation:?}: {reason}"),
            }
        }
    }
}
