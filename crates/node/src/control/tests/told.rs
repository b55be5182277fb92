//! What nodes tell each other of their copies, where changes alone are told.

use super::*;
use holdfast_cluster::CopyReport;

/// Longer than every node has to speak a version before the cluster is raised to it.
const RAISED_BY: u64 = 20_000;
const COPIES: u64 = 40;

/// Three nodes of version 2, of which the first one has many copies.
fn raised(seed: u64) -> (Net, Vec<CopyReport>) {
    let mut net = Net::three(seed);
    net.run(RAISED_BY);
    assert!([N1, N2, N3].iter().all(|n| net.controls[n].state().unwrap().version == ClusterVersion::TOLD));
    let of = |volume| CopyReport { volume: VolumeId(volume), ..report(CopyRole::Secondary, CopyState::InSync) };
    let reports: Vec<CopyReport> = (1..=COPIES).map(of).collect();
    net.input(N1, Input::Reports(reports.clone()));
    net.run(1000);
    (net, reports)
}

fn known_by(net: &Net, id: NodeId) -> Vec<CopyReport> {
    (1..=2 * COPIES).filter_map(|v| net.controls[&id].detector().report(N1, VolumeId(v)).cloned()).collect()
}

/// Bytes that the nodes hand to each other within a second.
fn bytes_sent(net: &mut Net) -> usize {
    let before = net.bytes;
    net.run(1000);
    net.bytes - before
}

#[test]
fn copies_that_do_not_change_are_not_told_of() {
    let (mut net, mut reports) = raised(31);
    for id in [N1, N2, N3] {
        assert_eq!(known_by(&net, id), reports, "{id} knows all");
    }
    let idle = bytes_sent(&mut net);
    assert!(idle < 6 * 1000, "three nodes say that they live: {idle} bytes");
    reports[7].durable = Lsn(99);
    net.input(N1, Input::Reports(reports.clone()));
    let one = bytes_sent(&mut net);
    assert!(one > idle && one < idle + 4000, "one copy of {COPIES} changed: {one} bytes, {idle} without");
    reports.remove(3);
    net.input(N1, Input::Reports(reports.clone()));
    net.run(1000);
    for id in [N1, N2, N3] {
        assert_eq!(known_by(&net, id), reports, "{id} knows what changed, and what is gone");
    }
}

#[test]
fn whoever_misses_a_change_asks_for_all() {
    for seed in 0..20 {
        let (mut net, mut reports) = raised(100 + seed);
        net.loss_per_million = 400_000;
        for step in 0..40 {
            let at = usize::try_from(net.rng.below(reports.len() as u64)).unwrap();
            if net.rng.chance(200_000) && reports.len() > 2 {
                reports.remove(at);
            } else {
                reports[at].durable = Lsn(step);
            }
            net.input(N1, Input::Reports(reports.clone()));
            net.run(150);
        }
        net.loss_per_million = 0;
        net.run(5000);
        for id in [N2, N3] {
            assert_eq!(known_by(&net, id), reports, "seed {seed}: {id}");
        }
    }
}

#[test]
fn another_life_begins_anew() {
    let (mut net, reports) = raised(33);
    net.kill(N1);
    net.start(N1);
    net.run(1000);
    for id in [N2, N3] {
        assert!(known_by(&net, id).is_empty(), "{id} knows nothing of that life's copies yet");
    }
    net.input(N1, Input::Reports(reports.clone()));
    net.run(1000);
    for id in [N2, N3] {
        assert_eq!(known_by(&net, id), reports);
    }
}

/// A report of a moment, which a peer hears as it comes up, is taken back.
#[test]
fn what_has_changed_back_is_told_to_whoever_heard_of_it() {
    let (mut net, reports) = raised(34);
    let mut moment = reports.clone();
    moment[5].absent = vec![N2];
    moment.push(CopyReport { volume: VolumeId(COPIES + 1), ..report(CopyRole::Secondary, CopyState::InSync) });
    net.input(N1, Input::Reports(moment));
    for peer in [N2, N3] {
        net.input(N1, Input::PeerUp(peer));
    }
    net.input(N1, Input::Reports(reports.clone()));
    net.run(3000);
    for id in [N2, N3] {
        assert_eq!(known_by(&net, id), reports, "{id} knows what is so, and not what was for a moment");
    }
}
