//! Leave to resync: whoever can't go on holds none. What a target reports and what it takes while regions come.

use super::{N1, N2};
use crate::api::{Input, Limits, Output, Timers};
use crate::replica::Replica;
use holdfast_format::TableSums;
use holdfast_format::message::{Message, RegionCut, TailReport};
use holdfast_types::*;
use std::collections::VecDeque;
use std::time::Duration;

const AT: Time = Time(1_000_000_000);

/// A copy of node 1 that is at record 5 of epoch 1, while nobody else is up.
fn target() -> Replica {
    copy(table(), Lsn(5))
}

/// The same with a log that goes on to `last` of epoch 1.
fn copy(table: EpochTable, last: Lsn) -> Replica {
    let size = VolumeSize::new(1 << 20).expect("a valid size");
    let members = (1..=3).map(|n| Member { node: NodeId(n), incarnation: Incarnation(n * 100) }).collect();
    let active = Configuration { epoch: Epoch(1), primary: Some(N2), members, write_quorum: 2 };
    let view = VolumeView::settled(VolumeId(7), size, Durability::Sync, active);
    let opened = OpenedCopy {
        incarnation: Incarnation(100),
        sizes: Sizes::new(Resized { lsn: Lsn::ZERO, size, decision: 0 }),
        promised: table.entries().last().expect("an epoch").0,
        table,
        last,
        last_epoch: Epoch(1),
        last_hash: 1,
        committed: Lsn(5),
        commit_hint: Lsn(5),
        applied: Lsn(5),
        digest: 0,
        checkpoint: Lsn(5),
        first: Lsn(1),
        unknown_to: None,
        scrub: ScrubKept::default(),
    };
    Replica::new(N1, Life(1), view, &opened, Timers::default(), Limits::default(), AT)
}

fn table() -> EpochTable {
    EpochTable::new(vec![(Epoch(1), Lsn(1))]).expect("one entry")
}

fn after(ms: u64) -> Time {
    AT + Duration::from_millis(ms)
}

#[test]
fn a_copy_that_no_source_serves_gives_its_leave_back_and_asks_again() {
    let mut target = target();
    let mut out = Vec::new();
    let need = Message::NeedRegions { epoch: Epoch(1), table: table(), last: Lsn(90), base: Lsn(80) };
    target.handle(Input::Message { from: N2, message: need }, AT, &mut out);
    assert!(target.wants_resync() && !target.resyncs(), "it waits for leave");
    out.clear();
    target.allow_resync(AT, &mut out);
    assert!(matches!(out[..], [Output::OpenSide(_)]), "{out:?}");
    assert!(target.resyncs());
    target.handle(Input::SideOpened { count: 0, top: Lsn::ZERO }, AT, &mut out);
    assert!(!target.resyncs() && !target.wants_resync(), "no source is up: others may have its place meanwhile");
    target.handle(Input::Tick, after(400), &mut out);
    assert!(!target.wants_resync(), "not yet");
    target.handle(Input::Tick, after(600), &mut out);
    assert!(target.wants_resync() && !target.resyncs());
    out.clear();
    target.handle(Input::PeerUp(N2), after(700), &mut out);
    target.allow_resync(after(700), &mut out);
    assert!(target.resyncs(), "with leave it goes on where it was");
    let asks = |o: &Output| matches!(o, Output::Send { to, message: Message::FetchRegions { .. } } if *to == N2);
    assert!(out.iter().any(asks) && !out.iter().any(|o| matches!(o, Output::OpenSide(_))), "{out:?}");
}

/// What the copy asks of others; its store does at once what it is told.
fn feed(target: &mut Replica, input: Input, now: Time) -> Vec<Output> {
    let (mut inputs, mut seen) = (VecDeque::from([input]), Vec::new());
    while let Some(input) = inputs.pop_front() {
        let mut out = Vec::new();
        target.handle(input, now, &mut out);
        target.maintain(now, &mut out);
        for output in out {
            inputs.push_back(match output {
                Output::Promise(epoch) => Input::Promised(epoch),
                Output::Adopt { epoch, cut_after, .. } => Input::Adopted { epoch, last: cut_after, last_hash: 1 },
                Output::OpenSide(_) => Input::SideOpened { count: 0, top: Lsn::ZERO },
                Output::WriteSide(_) => Input::SideWritten { bad: 0 },
                Output::ProveSide(_) => Input::SideProven(Ok(())),
                other => {
                    seen.push(other);
                    continue;
                }
            });
        }
    }
    seen
}

/// A copy whose log ends at record 8, of which 5 are committed, and which has asked node 2 for regions: the question's number.
fn asking() -> (Replica, u64) {
    let mut target = copy(table(), Lsn(8));
    feed(&mut target, Input::PeerUp(N2), AT);
    let need = Message::NeedRegions { epoch: Epoch(1), table: table(), last: Lsn(90), base: Lsn(1) };
    feed(&mut target, Input::Message { from: N2, message: need }, AT);
    let mut out = Vec::new();
    target.allow_resync(AT, &mut out);
    let asked = feed(&mut target, Input::SideOpened { count: 0, top: Lsn::ZERO }, AT);
    let request = asked.iter().find_map(|o| match o {
        Output::Send { message: Message::FetchRegions { request, .. }, .. } => Some(*request),
        _ => None,
    });
    (target, request.expect("it asks"))
}

/// No region has changed, says node 2, at record `at`.
fn answer(request: u64, at: Lsn, last: bool) -> Input {
    let size = VolumeSize::new(1 << 20).expect("a valid size");
    let (hash, sums, cut) = (1, TableSums::default(), (Lsn::ZERO, BlockIndex(0)));
    let cut = RegionCut { at, epoch: Epoch(1), hash, sums, size, resized: 0, cut };
    let (next, total, regions) = (None, 0, Vec::new());
    Input::Message { from: N2, message: Message::Regions { epoch: Epoch(1), request, cut, next, total, last, regions } }
}

/// What the copy reports to a claimant of a later epoch, long after all leases.
fn tail(target: &mut Replica) -> TailReport {
    let fence = Message::Fence { epoch: Epoch(9), base: Epoch(1) };
    let told = feed(target, Input::Message { from: N2, message: fence }, after(5_000));
    let tail = told.into_iter().find_map(|o| match o {
        Output::Send { message: Message::Tail { report, .. }, .. } => Some(report),
        _ => None,
    });
    tail.expect("it promises")
}

/// R2: until the switch it is a member like any other. What it holds and nobody else may have been acknowledged; what it
/// fetches it does not hold.
#[test]
fn a_copy_that_is_resynced_reports_the_log_that_it_has() {
    let (mut target, request) = asking();
    feed(&mut target, answer(request, Lsn(90), false), AT);
    assert!(target.resyncs());
    let report = tail(&mut target);
    assert_eq!((report.last_epoch, report.last), (Epoch(1), Lsn(8)), "{report:?}");
}

/// R6.
#[test]
fn a_copy_is_not_switched_to_less_than_it_knows_to_be_committed() {
    let (mut target, request) = asking();
    let seen = feed(&mut target, answer(request, Lsn(4), true), AT);
    assert!(!seen.iter().any(|o| matches!(o, Output::Switch { .. })), "5 records are committed here: {seen:?}");
    let (mut target, request) = asking();
    let seen = feed(&mut target, answer(request, Lsn(90), true), AT);
    assert!(seen.iter().any(|o| matches!(o, Output::Switch { cut, .. } if cut.at == Lsn(90))), "{seen:?}");
}

/// Trap 13: the table has a claim's epoch before the log has a record of it.
#[test]
fn a_tail_names_the_epoch_of_the_last_record_that_is_held() {
    let claimed = EpochTable::new(vec![(Epoch(1), Lsn(1)), (Epoch(2), Lsn(12))]).expect("two entries");
    let mut claimed = copy(claimed, Lsn(8));
    feed(&mut claimed, Input::PeerUp(N2), AT);
    let report = tail(&mut claimed);
    assert_eq!((report.last_epoch, report.last), (Epoch(1), Lsn(8)), "{report:?}");
}
