//! What the service refuses by what it knows.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like a test")]

use super::*;
use holdfast_cluster::{Detector, State};
use holdfast_types::{Epoch, Life, Time};

/// The node that leads already, by its name.
fn asked(state: &State, status: impl FnOnce(&mut VolumeStatus)) -> Result<(), String> {
    let now = Time::ZERO;
    let detector = Detector::new(Duration::from_secs(1), now);
    let mut found = cluster::volume_status(state, &detector, now, VolumeId(1)).unwrap();
    status(&mut found);
    let name = |n: NodeId| state.node(n).unwrap().name.clone();
    stays(&state.view(VolumeId(1)).unwrap(), NodeId(1), &found, &name).map_err(|refused| {
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        refused.message().to_owned()
    })
}

#[test]
fn who_leads_already_is_refused_while_another_one_takes_over_or_nothing_is_served() {
    let mut state = crate::metrics::open_volume();
    let serves = |status: &mut VolumeStatus| status.state = VolumeState::Healthy;
    assert_eq!(asked(&state, serves), Ok(()));
    let stalls = |status: &mut VolumeStatus| {
        (status.state, status.reasons) = (VolumeState::Stalled, vec!["only 1 of 3 copies answer".to_owned()]);
    };
    let why = asked(&state, stalls).unwrap_err();
    assert!(why.contains("n1, which is the primary of v already") && why.contains("only 1 of 3"), "{why}");
    state.apply(&Command::Nominate { volume: VolumeId(1), node: NodeId(2), base: Epoch(1), planned: true }).unwrap();
    let why = asked(&state, serves).unwrap_err();
    assert!(why.contains("n2 is taking over from n1"), "{why}");
    state.apply(&Command::ClearNominee { volume: VolumeId(1), base: Epoch(1) }).unwrap();
    assert_eq!(asked(&state, serves), Ok(()));
    state.apply(&Command::Claim { volume: VolumeId(1), base: Epoch(1), node: NodeId(3), life: Life(3) }).unwrap();
    let why = asked(&state, serves).unwrap_err();
    assert!(why.contains("n3 is taking over from n1"), "{why}");
}
