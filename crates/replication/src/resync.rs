//! Repair of a copy that no log reaches: this copy fetches the regions that changed since its image (docs/PROTOCOL.md,
//! "Resync", R2, R3, R5 to R7).
//!
//! ```text
//! Waiting ──leave of the node──► (Opening) ──► Pausing ──► (Looking) ──► Asking ──whole answer──► Writing
//!                                              ▲            a pass names what is held, if it can't know it      │
//!                                              ├──── more of the window, next pass, other source ◄──────────────┤
//!                                              └──── not equal, disturbed ◄── Switching ◄── Proving ◄── a pass of one answer
//! ```
//!
//! Nothing of the copy changes before the switch: it goes on as a member with the log that it has, and reports that one. What
//! the side area holds stays over every interruption; only the question under way is asked again.
//!
//! A copy that pauses for a reason gives its leave back, and asks for it again when the pause is over: whoever can't go on keeps nobody else
//! from it.
//!
//! Bounds (P13): one question at a time, of which the source sends at most `Limits::resync_bytes`; the next one waits
//! until `Limits::resync_bandwidth` allows it, and for longer where guests are in the way (`courtesy`).

use crate::api::Output;
use crate::courtesy::Courtesy;
use crate::replica::Replica;
use bytes::Bytes;
use holdfast_format::message::{Message, NoRegions, Region, RegionCut, RegionQuery};
use holdfast_types::{
    BLOCK_SIZE, Epoch, EpochTable, Lsn, Mutant, NodeId, REGION_SIZE, RegionIndex, Resized, Time, VolumeSize, mutated,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// Regions of one answer, which a source does not exceed.
const MAX_ANSWER: usize = 1024;
/// Regions named in a question at most.
const MAX_HELD: usize = 512;
/// A source that sends nothing for so long is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause when no source can answer.
const RETRY: Duration = Duration::from_millis(500);
/// Pause when the last pass came too early: a source lags behind what is held already.
const CATCH_UP: Duration = Duration::from_millis(100);
/// The limit of bandwidth is doubled so often at most while passes do not get shorter.
const MAX_CHASED: u32 = 10;
/// Times that the sums may differ before only a person can help.
const MAX_REFUSED: u32 = 3;

/// Why the store does not know image and side area to be the state that they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotProven {
    /// The image went on meanwhile.
    Disturbed,
    /// They are another one.
    Different(String),
}

/// How far a resync is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncStatus {
    /// Where regions come from now.
    pub source: Option<NodeId>,
    /// Passes over the volume, the present one included.
    pub passes: u64,
    /// Bytes of regions that are here.
    pub done_bytes: u64,
    /// Of so many that are known to be needed.
    pub total_bytes: u64,
    /// Bytes received per second, since this life began with it.
    pub bytes_per_second: u64,
    /// Why it does not go on, if it does not.
    pub paused: Option<String>,
}

impl ResyncStatus {
    /// When it ends if it goes on like this.
    #[must_use]
    pub fn eta(&self) -> Option<Duration> {
        let left = self.total_bytes.saturating_sub(self.done_bytes);
        left.checked_div(self.bytes_per_second).map(Duration::from_secs)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// For leave: a node resyncs few copies at a time.
    Waiting,
    /// The store makes the side area ready.
    Opening,
    /// Until then.
    Pausing(Time),
    /// The store says what the side area holds of the window.
    Looking,
    /// Waits for regions.
    Asking { source: NodeId, until: Time },
    /// The store takes them in.
    Writing,
    /// The store compares the sums.
    Proving(RegionCut),
    /// The store makes the new state the copy's.
    Switching,
    /// The sums differed too often.
    Stopped,
}

/// The resync of this copy.
#[derive(Debug)]
pub(crate) struct Resync {
    primary: NodeId,
    epoch: Epoch,
    table: EpochTable,
    /// The primary's log reaches a copy that is at least here.
    base: Lsn,
    /// The volume's size where the regions come from, and the decision that made it so. What the side area holds is of that.
    size: VolumeSize,
    decision: u64,
    stage: Stage,
    /// The side area is ready.
    opened: bool,
    /// Sources that did not answer since the last answer.
    tried: BTreeSet<NodeId>,
    request: u64,
    query: RegionQuery,
    /// What the side area holds is named in the questions: the pass can't know it otherwise.
    names_held: bool,
    /// Of this pass: the least and the greatest LSN of its answers, and whether a region did not reach the medium.
    span: Option<(Lsn, Lsn)>,
    spoiled: bool,
    /// Bytes that the pass before brought, and passes so far that brought about as many as the one before them.
    last_pass_bytes: Option<u64>,
    chased: u32,
    /// Bytes that were here when it began, and that it has brought.
    before_bytes: u64,
    pass_bytes: u64,
    /// The highest LSN that the side area holds.
    top: Lsn,
    /// The answer under way.
    answer: Option<Answer>,
    courtesy: Courtesy,
    refused: u32,
    received_bytes: u64,
    since: Option<Time>,
    status: ResyncStatus,
}

#[derive(Debug)]
struct Answer {
    cut: RegionCut,
    next: Option<RegionIndex>,
    total: u64,
    regions: Vec<Region>,
}

impl Resync {
    fn new(
        primary: NodeId,
        (epoch, table): (Epoch, EpochTable),
        base: Lsn,
        after: Lsn,
        own: Resized,
        chased: u32,
    ) -> Resync {
        let status = ResyncStatus {
            source: None,
            passes: 1,
            done_bytes: 0,
            total_bytes: 0,
            bytes_per_second: 0,
            paused: Some("waits until another copy of this node has been resynced".to_owned()),
        };
        Resync {
            primary,
            epoch,
            table,
            base,
            size: own.size,
            decision: own.decision,
            stage: Stage::Waiting,
            opened: false,
            tried: BTreeSet::new(),
            request: 0,
            query: window(after, own.size),
            names_held: true,
            span: None,
            spoiled: false,
            last_pass_bytes: None,
            chased,
            before_bytes: 0,
            pass_bytes: 0,
            top: Lsn::ZERO,
            answer: None,
            courtesy: Courtesy::default(),
            refused: 0,
            received_bytes: 0,
            since: None,
            status,
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        match self.stage {
            Stage::Pausing(until) | Stage::Asking { until, .. } => Some(until),
            _ => None,
        }
    }

    pub(crate) fn status(&self, now: Option<Time>) -> ResyncStatus {
        let seconds = now.zip(self.since).map_or(0, |(now, since)| now.since(since).as_millis());
        let rate = u128::from(self.received_bytes) * 1000 / seconds.max(1);
        let bytes_per_second = if seconds == 0 { 0 } else { u64::try_from(rate).unwrap_or(u64::MAX) };
        ResyncStatus { bytes_per_second, ..self.status.clone() }
    }

    /// A deliberate mistake: what would be the end of the log after a switch to what came last.
    pub(crate) fn last_seen(&self) -> Option<RegionCut> {
        self.answer.as_ref().map(|a| a.cut)
    }

    /// It pauses for a reason, and not for the sake of bandwidth.
    fn is_held_up(&self) -> bool {
        matches!(self.stage, Stage::Pausing(_)) && self.status.paused.is_some()
    }

    fn pause(&mut self, until: Time, why: Option<String>) {
        self.stage = Stage::Pausing(until);
        self.status.paused = why;
    }

    fn begin_pass(&mut self, after: Lsn) {
        self.query = window(after, self.size);
        (self.span, self.spoiled) = (None, false);
        (self.before_bytes, self.pass_bytes) = (self.status.done_bytes, 0);
        self.status.passes += 1;
    }
}

/// The whole volume.
fn window(after: Lsn, size: VolumeSize) -> RegionQuery {
    RegionQuery { from: RegionIndex(0), end: RegionIndex(size.regions()), after, held: Vec::new() }
}

fn content_bytes(regions: u64) -> u64 {
    regions.saturating_mul(REGION_SIZE)
}

impl Replica {
    /// Whether the state of the copy is being replaced: until that is done it says nothing about itself.
    pub(crate) fn is_switching(&self) -> bool {
        self.resync.as_ref().is_some_and(|r| r.stage == Stage::Switching)
    }

    /// Whether this copy waits for leave to resync.
    #[must_use]
    pub fn wants_resync(&self) -> bool {
        !self.has_failed() && self.resync.as_ref().is_some_and(|r| r.stage == Stage::Waiting)
    }

    /// Whether this copy is being resynced now, and uses the leave that it was given.
    #[must_use]
    pub fn resyncs(&self) -> bool {
        let idle = |r: &Resync| matches!(r.stage, Stage::Waiting | Stage::Stopped) || r.is_held_up();
        !self.has_failed() && self.resync.as_ref().is_some_and(|r| !idle(r))
    }

    /// Gives the leave that [`Replica::wants_resync`] asks for.
    pub fn allow_resync(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(r) = self.resync.as_mut().filter(|r| r.stage == Stage::Waiting) else { return };
        r.status.paused = None;
        if r.opened {
            r.stage = Stage::Pausing(now);
            return self.step_resync(now, out);
        }
        r.stage = Stage::Opening;
        out.push(Output::OpenSide(r.size));
    }

    /// R1 arrives.
    pub(crate) fn on_need_regions(
        &mut self,
        from: NodeId,
        (epoch, table): (Epoch, EpochTable),
        last: Lsn,
        base: Lsn,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let ends_in_epoch = table.entries().last().is_some_and(|(e, _)| *e == epoch);
        if !self.is_promised(from, epoch, out) || !ends_in_epoch || self.is_switching() {
            return;
        }
        self.leader = Some((from, epoch));
        self.log.recall_at(last);
        // R2: what was never committed goes, as in any adoption. Where the tables have nothing in common the switch decides.
        let reaches = self.log.cut_under(&table).is_some();
        if self.log.adopted != epoch && reaches && !self.adopt(epoch, table.clone(), out) {
            return;
        }
        let applied = self.log.positions.applied;
        let own = self.log.sizes.at(applied);
        match &mut self.resync {
            Some(r) => {
                (r.primary, r.epoch, r.table, r.base) = (from, epoch, table, base);
                r.tried.clear();
                if let Stage::Asking { .. } = r.stage {
                    r.pause(now, None);
                }
            }
            None => {
                self.resync = Some(Resync::new(from, (epoch, table), base, applied, own, self.chased));
                out.push(Output::Event(format!(
                    "the log no longer reaches this copy, which is at record {applied}: it is resynced by regions"
                )));
            }
        }
        self.step_resync(now, out);
    }

    /// The log reaches this copy after all, or it leads.
    pub(crate) fn end_resync(&mut self) {
        if !self.is_switching() {
            (self.resync, self.chased) = (None, 0);
        }
    }

    pub(crate) fn on_side_opened(&mut self, count: u64, top: Lsn, now: Time, out: &mut Vec<Output>) {
        let Some(r) = self.resync.as_mut().filter(|r| r.stage == Stage::Opening) else { return };
        r.opened = true;
        r.top = top;
        r.status.done_bytes = content_bytes(count);
        r.before_bytes = r.status.done_bytes;
        r.names_held = count > 0;
        r.since = Some(now);
        r.pause(now, None);
        self.step_resync(now, out);
    }

    /// Asks, if the time has come, or asks another source.
    pub(crate) fn step_resync(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(r) = &mut self.resync else { return };
        match r.stage {
            // Others may have taken its place meanwhile.
            Stage::Pausing(until) if now >= until && r.is_held_up() => r.stage = Stage::Waiting,
            Stage::Pausing(until) if now >= until => {
                if r.names_held {
                    r.stage = Stage::Looking;
                    out.push(Output::HeldInSide { from: r.query.from, max: MAX_HELD });
                } else {
                    self.ask_for_regions(now, out);
                }
            }
            Stage::Asking { source, until } if now >= until || !self.up.contains(&source) => {
                r.tried.insert(source);
                self.ask_for_regions(now, out);
            }
            _ => {}
        }
    }

    pub(crate) fn on_side_held(
        &mut self,
        held: Vec<(RegionIndex, Lsn)>,
        end: RegionIndex,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(r) = self.resync.as_mut().filter(|r| r.stage == Stage::Looking) else { return };
        (r.query.held, r.query.end) = (held, end);
        self.ask_for_regions(now, out);
    }

    /// R3: the next source that has not been tried, the primary last.
    fn ask_for_regions(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(r) = &mut self.resync else { return };
        let me = self.me;
        let others = self.view.active.members.iter().map(|m| m.node).filter(|n| *n != me);
        let source = others.filter(|n| self.up.contains(n) && !r.tried.contains(n)).min_by_key(|n| *n == r.primary);
        let Some(source) = source else {
            r.tried.clear();
            let why = r.status.paused.take().unwrap_or_else(|| "no other copy answers".to_owned());
            r.pause(now + RETRY, Some(why));
            return;
        };
        r.request += 1;
        r.courtesy.asks(source, now);
        r.status.source = Some(source);
        r.stage = Stage::Asking { source, until: now + PATIENCE };
        r.answer = None;
        let (epoch, request, query) = (r.epoch, r.request, r.query.clone());
        self.send(source, Message::FetchRegions { epoch, request, query }, out);
    }

    /// The question that a message answers is under way.
    fn is_asked(&mut self, from: NodeId, epoch: Epoch, request: u64) -> Option<&mut Resync> {
        self.resync.as_mut().filter(|r| {
            let asked = matches!(r.stage, Stage::Asking { source, .. } if source == from);
            asked && r.epoch == epoch && r.request == request
        })
    }

    pub(crate) fn on_no_regions(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        request: u64,
        why: NoRegions,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Some(r) = self.is_asked(from, epoch, request) else { return };
        r.tried.insert(from);
        r.status.paused = Some(match why {
            NoRegions::Busy => format!("{from} serves another copy"),
            NoRegions::Behind => format!("{from} does not follow {epoch} itself"),
            NoRegions::Damaged(block) => {
                let (at, size) = (block.0 * BLOCK_SIZE as u64, BLOCK_SIZE);
                format!(
                    "waits for the {size} bytes at {at}, which {from} can't verify and no copy that answers has; it goes on once a \
                     guest writes or discards them"
                )
            }
        });
        self.ask_for_regions(now, out);
    }

    /// The first part of an answer says what the volume is where it comes from. True if that is not what was asked for.
    fn is_of_another_size(
        &mut self,
        from: NodeId,
        (epoch, request): (Epoch, u64),
        cut: &RegionCut,
        now: Time,
        out: &mut Vec<Output>,
    ) -> bool {
        let applied = self.log.positions.applied;
        let Some(r) = self.is_asked(from, epoch, request) else { return true };
        if cut.resized < r.decision {
            r.tried.insert(from);
            r.status.paused = Some(format!("{from} has not come to the volume's present size yet"));
            self.ask_for_regions(now, out);
            return true;
        }
        if (cut.size, cut.resized) == (r.size, r.decision) {
            return false;
        }
        // What is held is of another volume, so to speak: all of it is asked for again.
        (r.size, r.decision) = (cut.size, cut.resized);
        (r.top, r.answer, r.status.done_bytes) = (Lsn::ZERO, None, 0);
        r.begin_pass(applied);
        r.stage = Stage::Opening;
        out.push(Output::DropSide);
        out.push(Output::OpenSide(cut.size));
        out.push(Output::Event(format!(
            "the volume has {} bytes at {from}: the resync of this copy begins again with that size",
            cut.size.bytes()
        )));
        true
    }

    /// R5: a part of an answer.
    pub(crate) fn on_regions(
        &mut self,
        from: NodeId,
        (epoch, request): (Epoch, u64),
        part: (RegionCut, Option<RegionIndex>, u64, bool),
        regions: Vec<Region>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        if self.is_of_another_size(from, (epoch, request), &part.0, now, out) {
            return;
        }
        let max_bytes = self.limits.resync_bytes.saturating_add(usize::try_from(REGION_SIZE).expect("64 KiB"));
        let Some(r) = self.is_asked(from, epoch, request) else { return };
        let (cut, next, total, last) = part;
        let query = &r.query;
        let inside = regions.iter().all(|region| {
            (query.from..query.end).contains(&region.index) && region.lsn <= cut.at && fits(region, cut.size)
        });
        let onward = next.is_none_or(|next| query.from < next && next < query.end);
        let answer = r.answer.get_or_insert_with(|| Answer { cut, next, total, regions: Vec::new() });
        answer.regions.extend(regions);
        let bytes: usize = answer.regions.iter().map(|r| r.data.len()).sum();
        let ascending = answer.regions.windows(2).all(|w| w[0].index < w[1].index);
        let much = bytes > max_bytes || answer.regions.len() > MAX_ANSWER;
        if !inside || !onward || !ascending || (answer.cut, answer.next) != (cut, next) || much {
            r.tried.insert(from);
            out.push(Output::Event(format!("{from} sent regions that were not asked for: asking another copy")));
            self.ask_for_regions(now, out);
            return;
        }
        if !last {
            r.stage = Stage::Asking { source: from, until: now + PATIENCE };
            return;
        }
        r.stage = Stage::Writing;
        let regions = answer.regions.clone();
        out.push(Output::WriteSide(regions));
    }

    /// The store took an answer in; `bad` regions did not reach the medium.
    pub(crate) fn on_side_written(&mut self, bad: u64, now: Time, out: &mut Vec<Output>) {
        let limit = self.limits.resync_bandwidth.max(1);
        let Some(r) = self.resync.as_mut().filter(|r| r.stage == Stage::Writing) else { return };
        let bandwidth = r.bandwidth(limit);
        let answer = r.answer.take().expect("an answer was written");
        let size = r.size;
        r.tried.clear();
        r.spoiled |= bad > 0;
        let (least, greatest) = r.span.unwrap_or((answer.cut.at, answer.cut.at));
        r.span = Some((least.min(answer.cut.at), greatest.max(answer.cut.at)));
        r.top = answer.regions.iter().map(|region| region.lsn).fold(r.top, Lsn::max);
        r.note_progress(&answer);
        let bytes: usize = answer.regions.iter().map(Region::len_bytes).sum();
        let nanos = u128::try_from(bytes).expect("a size") * 1_000_000_000 / u128::from(bandwidth);
        let pace = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));

        let gives_way = r.courtesy.held(u64::try_from(bytes).expect("a size"), REGION_SIZE, pace, now);
        // One that has to hurry hurries.
        let due = now + pace + if r.chased == 0 { gives_way } else { Duration::ZERO };
        let more = answer.next.or_else(|| (r.query.end.0 < size.regions()).then_some(r.query.end));
        if let Some(next) = more {
            r.query =
                RegionQuery { from: next, end: RegionIndex(size.regions()), after: r.query.after, held: Vec::new() };
            r.pause(due, None);
        } else {
            self.end_pass_of_regions(answer.cut, due, now, out);
        }
        self.step_resync(now, out);
    }

    /// R6 if this pass was the last one; or the next one begins.
    fn end_pass_of_regions(&mut self, cut: RegionCut, due: Time, now: Time, out: &mut Vec<Output>) {
        let applied = self.log.positions.applied;
        let hindrance = self.hindrance(cut);
        let Some(r) = &mut self.resync else { return };
        let (least, greatest) = r.span.expect("the pass has had an answer");
        let complete = (least == greatest && !r.spoiled) || mutated(Mutant::SwitchesBeforeComplete);
        if complete && hindrance.is_none() {
            r.stage = Stage::Proving(cut);
            r.status.paused = None;
            out.push(Output::ProveSide(cut));
            return;
        }
        // Every region whose last LSN is at most that is held now, as of then or newer.
        let after = least.max(r.query.after);
        let spoiled = r.spoiled;
        if !complete && r.chases() {
            let limit = self.limits.resync_bandwidth >> 20;
            out.push(Output::Event(format!(
                "regions change as fast as they are fetched: the limit of {limit} MiB/s for a resync is raised {}fold until it ends",
                1_u64 << r.chased
            )));
        }
        r.begin_pass(if spoiled { applied } else { after });
        r.names_held = spoiled;
        let until = if complete || spoiled { due.max(now + CATCH_UP) } else { due };
        r.pause(until, hindrance.filter(|_| complete));
    }

    /// The store has compared the sums with those of the source.
    pub(crate) fn on_side_proven(&mut self, result: Result<(), NotProven>, now: Time, out: &mut Vec<Output>) {
        let Some(Stage::Proving(cut)) = self.resync.as_ref().map(|r| r.stage.clone()) else { return };
        match result {
            Ok(()) => match self.hindrance(cut) {
                None => self.switch_to(cut, out),
                Some(why) => self.go_on_from(cut, Some(why), now),
            },
            Err(NotProven::Disturbed) => self.go_on_from(cut, None, now),
            Err(NotProven::Different(why)) => self.begin_again(&why, out),
        }
    }

    fn switch_to(&mut self, cut: RegionCut, out: &mut Vec<Output>) {
        let Some(r) = &mut self.resync else { return };
        r.stage = Stage::Switching;
        let (epoch, table) = (r.epoch, r.table.clone());
        let cut_after = self.log.cut_under(&table).unwrap_or(self.log.positions.committed);
        out.push(Output::Switch { epoch, table, cut_after, cut });
    }

    /// All that was is here as of `cut`; the switch has to wait for a later state.
    fn go_on_from(&mut self, cut: RegionCut, why: Option<String>, now: Time) {
        let Some(r) = &mut self.resync else { return };
        r.begin_pass(cut.at.max(r.query.after));
        r.names_held = false;
        r.pause(now + CATCH_UP, why);
    }

    /// Why the state at `cut` must not become this copy's, though it is complete.
    fn hindrance(&self, cut: RegionCut) -> Option<String> {
        let r = self.resync.as_ref()?;
        let p = self.log.positions;
        if self.fence.is_some() || self.adopting.is_some() || self.log.promised != r.epoch || p.durable < p.received {
            return Some("waits for the new epoch".to_owned());
        }
        let common = self.log.cut_under(&r.table).unwrap_or(p.committed);
        let unknown = self.log.undecided_under(&r.table).unwrap_or_default();
        let least = r.base.max(r.top).max(p.committed).max(common).max(unknown);
        if mutated(Mutant::SwitchesBackwards) {
            return None;
        }
        let known = r.table.epoch_at(cut.at) == Some(cut.epoch);
        (cut.at < least || !known)
            .then(|| format!("waits for a copy that is at record {least}, found one at {}", cut.at))
    }

    /// R7: the copy is what it was switched to.
    pub(crate) fn on_switched(
        &mut self,
        epoch: Epoch,
        (last, last_epoch, last_hash): (Lsn, Epoch, u64),
        digest: u64,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let r = self.resync.take().expect("the store switches only when it was told to");
        assert!(r.stage == Stage::Switching && r.epoch == epoch, "the store switches in order: {r:?}");
        // If the log has moved past it meanwhile, the next resync must not begin as slowly as this one did.
        self.chased = r.chased;
        let size = Resized { lsn: last, size: r.size, decision: r.decision };
        self.log.note_switched(epoch, r.table, size, (last_epoch, last_hash));
        self.commit_known = self.commit_known.max(last);
        self.waiting = None;
        self.on_applied(last, digest, now, out);
        let (mib, passes) = (r.received_bytes >> 20, r.status.passes);
        out.push(Output::Event(format!(
            "the copy was resynced to record {last}: {mib} MiB were fetched in {passes} passes, the sums are those of the source"
        )));
        if self.fence.is_some() {
            self.step_fence(now, out);
        } else if let Some((leader, epoch)) = self.leader.filter(|l| l.1 == self.log.promised) {
            let report = self.report();
            self.send(leader, Message::Tail { epoch, report }, out);
        }
    }

    /// The image went on between the proof and the switch.
    pub(crate) fn on_switch_refused(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(r) = self.resync.as_mut().filter(|r| r.stage == Stage::Switching) else { return };
        let after = r.query.after;
        r.begin_pass(after);
        r.pause(now + CATCH_UP, None);
        self.step_fence(now, out);
    }

    /// The sums are not those of the source: what the side area or the image holds is not what it should be.
    fn begin_again(&mut self, why: &str, out: &mut Vec<Output>) {
        let applied = self.log.positions.applied;
        let Some(r) = &mut self.resync else { return };
        r.refused += 1;
        let begins = r.refused < MAX_REFUSED;
        let then = if begins { "it begins again" } else { "replace this copy" };
        // Perhaps the source is wrong about what changed.
        r.tried.extend(r.status.source);
        out.push(Output::Event(format!("the resync of this copy failed: {why}; {then}")));
        out.push(Output::DropSide);
        r.status.done_bytes = 0;
        r.begin_pass(applied);
        r.top = Lsn::ZERO;
        if begins {
            r.stage = Stage::Opening;
            out.push(Output::OpenSide(r.size));
        } else {
            r.stage = Stage::Stopped;
            r.status.paused = Some(format!("{why}; replace this copy"));
        }
    }
}

impl Resync {
    /// At most so many bytes per second. Guests that change regions as fast as they are fetched would keep the copy away for ever (L4).
    fn bandwidth(&self, limit: u64) -> u64 {
        limit.saturating_mul(1 << self.chased)
    }

    /// Whether this pass brought about as much as the one before, so that the next one must be faster.
    fn chases(&mut self) -> bool {
        let before = self.last_pass_bytes.replace(self.pass_bytes);
        let chases = before.is_some_and(|before| self.pass_bytes >= before / 4 * 3) && self.chased < MAX_CHASED;
        self.chased += u32::from(chases);
        chases
    }

    /// How much there is to come is known, or guessed by how much the part of the volume brought that was looked at.
    fn note_progress(&mut self, answer: &Answer) {
        let received = content_bytes(u64::try_from(answer.regions.len()).expect("a count of regions"));
        self.received_bytes += received;
        self.pass_bytes += received;
        self.status.done_bytes += received;
        let looked = u128::from(answer.next.map_or(self.query.end.0, |next| next.0).max(1));
        let guess = u128::from(self.pass_bytes) * u128::from(self.size.regions()) / looked;
        let total = match answer.total {
            0 => u64::try_from(guess).unwrap_or(u64::MAX),
            known => content_bytes(known),
        };
        self.status.total_bytes = self.before_bytes.saturating_add(total).max(self.status.done_bytes);
    }
}

/// Whether a region lies in the volume, and nothing of it beyond.
fn fits(region: &Region, size: VolumeSize) -> bool {
    let end = size.blocks().0;
    let beyond = |(block, sum, _): (holdfast_types::BlockIndex, u64, Option<Bytes>)| block.0 >= end && sum != 0;
    region.index.0 < size.regions() && !region.blocks().any(beyond)
}
