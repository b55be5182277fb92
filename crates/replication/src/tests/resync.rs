//! Leave to resync: whoever can't go on holds none.

use super::{N1, N2};
use crate::api::{Input, Limits, Output, Timers};
use crate::replica::Replica;
use holdfast_format::message::Message;
use holdfast_types::*;
use std::time::Duration;

const AT: Time = Time(1_000_000_000);

/// A copy of node 1 that is at record 5 of epoch 1, while nobody else is up.
fn target() -> Replica {
    let size = VolumeSize::new(1 << 20).expect("a valid size");
    let members = (1..=3).map(|n| Member { node: NodeId(n), incarnation: Incarnation(n * 100) }).collect();
    let active = Configuration { epoch: Epoch(1), primary: Some(N2), members, write_quorum: 2 };
    let view = VolumeView::settled(VolumeId(7), size, Durability::Sync, active);
    let opened = OpenedCopy {
        incarnation: Incarnation(100),
        sizes: Sizes::new(Resized { lsn: Lsn::ZERO, size, decision: 0 }),
        promised: Epoch(1),
        table: table(),
        last: Lsn(5),
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
