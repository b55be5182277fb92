//! Members come and go under the same primary (M1 to M3), alone and among all kinds of disturbances.

use super::cluster::Cluster;
use crate::api::RoleName;
use holdfast_types::{Lsn, NodeId, Rng};
use std::collections::BTreeMap;
use std::time::Duration;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
const N4: NodeId = NodeId(4);

fn opened(n: u64) -> Cluster {
    let mut c = Cluster::new(n);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c
}

fn written(c: &mut Cluster, count: u64) -> Vec<u64> {
    (0..count).map(|i| c.write(N1, i % 32 * 4096, &[u8::try_from(i % 250 + 1).expect("small"); 64])).collect()
}

#[test]
fn a_learner_becomes_a_member_and_guests_stay() {
    let mut c = opened(3);
    written(&mut c, 40);
    c.add_learner(N4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.members(), [1, 2, 3, 4], "{:?}", c.status(N1));
    assert_eq!((c.active().write_quorum, c.active().primary), (3, Some(N1)));
    assert_eq!(c.served(N1), 0, "nobody was disconnected");
    let w = c.write(N1, 0, b"after");
    let r = c.read(N1, 0, 5);
    c.run_for(Duration::from_millis(100));
    assert_eq!((c.reply(w), c.reply(r)), (Some(Vec::new()), Some(b"after".to_vec())));
    assert_eq!(c.log(N4), c.log(N1), "the whole log");
}

#[test]
fn a_learner_counts_for_nothing() {
    let mut c = opened(3);
    c.hold_control(true);
    c.add_learner(N4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.last(N4), c.last(N1), "it receives the log");
    c.cut(N2);
    c.cut(N3);
    let w = c.write(N1, 0, b"x");
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.last(N4), c.last(N1));
    assert_eq!(c.reply(w), None, "one member and a learner are no quorum of three");
    let r = c.read(N1, 8192, 4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), None, "its grant makes no lease");
}

#[test]
fn a_member_leaves_and_the_rest_goes_on_without_it() {
    let mut c = opened(3);
    written(&mut c, 10);
    c.leave(N3);
    c.run_for(Duration::from_millis(300));
    assert_eq!((c.members(), c.active().write_quorum), (vec![1, 2], 2));
    c.crash(N3);
    let w = c.write(N1, 0, b"x");
    assert!(c.reply(w).is_some());
    assert_eq!(c.served(N1), 0);
}

#[test]
fn a_dead_copy_is_replaced() {
    let mut c = opened(3);
    written(&mut c, 10);
    c.crash(N3);
    c.add_learner(N4);
    written(&mut c, 100);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.members(), [1, 2, 3, 4]);
    c.leave(N3);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.members(), [1, 2, 4], "{:?}", c.status(N1));
    c.crash(N1);
    c.nominate(N4, false);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.status(N4).role, RoleName::Primary, "{:?}", c.status(N4));
    assert_eq!(c.log(N4), c.log(N2));
}

#[test]
fn the_last_of_two_leaves_only_for_a_copy_that_is_complete() {
    let mut c = opened(2);
    c.crash(N2);
    let w = c.write(N1, 0, b"x");
    c.add_learner(N3);
    c.run_for(Duration::from_secs(1));
    assert_eq!(c.members(), [1, 2, 3]);
    assert!(c.reply(w).is_some(), "with the learner a quorum is there again");
    c.leave(N2);
    c.run_for(Duration::from_secs(1));
    assert_eq!(c.members(), [1, 3]);
}

#[test]
fn what_was_written_before_counts_where_it_was_written() {
    let mut c = opened(3);
    c.hold_control(true);
    c.add_learner(N4);
    c.run_for(Duration::from_millis(100));
    // The claim is committed; the activation waits for the control plane.
    c.decide_one();
    c.run_for(Duration::from_millis(100));
    assert!(c.pending());
    let start = c.last(N1);
    let w = c.write(N1, 0, b"of the next epoch");
    let r = c.read(N1, 0, 4);
    c.run_for(Duration::from_millis(1_000));
    assert_eq!((c.reply(w), c.reply(r)), (None, None), "M3: nothing of the next epoch is answered before it is active");
    assert!(c.last(N1) > start, "it is appended, though");
    c.hold_control(false);
    c.run_for(Duration::from_millis(700));
    assert!(c.reply(w).is_some() && c.reply(r).is_some());
    assert_eq!(c.served(N1), 0);
}

#[test]
fn a_takeover_in_the_middle_keeps_the_members_of_the_base() {
    let mut c = opened(3);
    let before = written(&mut c, 20);
    assert!(before.iter().all(|w| c.reply(*w).is_some()));
    c.hold_control(true);
    c.add_learner(N4);
    c.run_for(Duration::from_millis(100));
    c.decide_one();
    c.run_for(Duration::from_millis(100));
    c.crash(N1);
    c.drop_requests();
    c.hold_control(false);
    c.nominate(N2, false);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.status(N2).role, RoleName::Primary, "{:?}", c.status(N2));
    c.run_for(Duration::from_secs(1));
    assert_eq!(c.members(), [1, 2, 3, 4], "the learner is still wanted, and the new primary adds it");
    let r = c.read(N2, 19 * 4096, 1);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(r), Some(vec![20]));
}

/// T3: who is only to become a member says nothing about what was acknowledged without it.
#[test]
fn a_learner_completes_no_fence() {
    let mut c = opened(3);
    c.hold_control(true);
    c.add_learner(N4);
    c.run_for(Duration::from_millis(100));
    [N3, N4].into_iter().for_each(|n| c.cut(n));
    let w = c.write(N1, 0, b"on n1 and n2");
    assert!(c.reply(w).is_some());
    c.crash(N1);
    c.drop_requests();
    [N3, N4].into_iter().for_each(|n| c.join(n));
    c.nominate(N3, false);
    c.run_for(Duration::from_millis(2_500));
    // Node 2 would let it take over, and is gone when the claim is decided.
    c.crash(N2);
    c.decide_one();
    c.drop_requests();
    c.hold_control(false);
    c.run_for(Duration::from_secs(1));
    c.restart(N2);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.status(N3).role, RoleName::Primary, "{:?}", c.status(N3));
    let r = c.read(N3, 0, 12);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(b"on n1 and n2".to_vec()), "S1");
}

#[test]
fn a_change_whose_new_member_is_gone_is_given_up() {
    let mut c = opened(3);
    c.hold_control(true);
    c.add_learner(N4);
    c.run_for(Duration::from_millis(100));
    c.crash(N4);
    c.hold_control(false);
    assert!(c.pending(), "the claim was committed too late");
    c.run_for(Duration::from_secs(4));
    assert_eq!(c.members(), [1, 2, 3]);
    let w = c.write(N1, 0, b"x");
    c.run_for(Duration::from_millis(100));
    assert!(c.reply(w).is_some(), "{:?}", c.status(N1));
}

#[test]
fn a_member_that_goes_while_it_is_let_in_has_to_follow_for_longer_before_the_next_try() {
    let mut c = opened(3);
    for time in 0..2 {
        c.hold_control(true);
        if time == 0 {
            c.add_learner(N4)
        } else {
            c.join(N4)
        }
        c.run_for(Duration::from_millis(600));
        c.cut(N4);
        c.hold_control(false);
        assert!(c.pending(), "it is let in at once");
        c.run_for(Duration::from_secs(4));
        assert_eq!((c.members(), c.status(N1).role), (vec![1, 2, 3], RoleName::Primary));
    }
    c.join(N4);
    c.run_for(Duration::from_secs(1));
    assert_eq!((c.members(), c.pending()), (vec![1, 2, 3], false), "trap 32");
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.members(), [1, 2, 3, 4]);
}

#[test]
fn one_that_is_to_go_on_alone_completes_a_change_that_others_can_hold() {
    for newcomer_stays in [true, false] {
        let mut c = opened(2);
        c.hold_control(true);
        c.add_learner(N3);
        c.run_for(Duration::from_millis(100));
        c.cut(N2);
        c.go_alone(N1);
        if !newcomer_stays {
            c.cut(N3);
        }
        c.hold_control(false);
        let changing = c.view().pending.as_ref().is_some_and(|p| p.same_primary);
        assert!(changing || newcomer_stays, "the change was committed too late");
        c.run_for(Duration::from_secs(4));
        let members: &[u64] = if newcomer_stays { &[1, 2, 3] } else { &[1] };
        assert_eq!((c.members().as_slice(), c.status(N1).role), (members, RoleName::Primary), "{:?}", c.status(N1));
        let w = c.write(N1, 0, b"x");
        c.run_for(Duration::from_millis(100));
        assert!(c.reply(w).is_some(), "{:?}", c.status(N1));
    }
}

#[test]
fn a_learner_with_another_image_does_not_become_a_member() {
    let mut c = opened(3);
    written(&mut c, 10);
    c.add_learner_with(N4, 1);
    written(&mut c, 10);
    c.run_for(Duration::from_secs(1));
    assert_eq!(c.members(), [1, 2, 3], "P11");
    assert!(c.status(N1).lost.iter().any(|(n, why)| *n == N4 && why.contains("differs")), "{:?}", c.status(N1));
}

/// Whatever happens in whatever order: what was answered stays, and once everything is well the wanted members hold one log.
#[test]
fn random_changes_of_members_lose_nothing() {
    let seeds = std::env::var("HOLDFAST_SEEDS").map_or(300, |s| s.parse().expect("a number of seeds"));
    for seed in 0..seeds {
        random(seed);
    }
}

fn random(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut c = opened(3);
    let mut answered: BTreeMap<u64, u64> = BTreeMap::new();
    let mut unanswered: Vec<(u64, u64, u64)> = Vec::new();
    let mut value = 0;
    let mut down: Option<NodeId> = None;
    let trace = std::env::var("HOLDFAST_TRACE").is_ok();
    for step in 0..60 {
        let what = rng.below(16);
        if trace {
            println!(
                "{seed}/{step}: {what} members {:?} of {:?} learners {:?} pending {} down {down:?}",
                c.members(),
                c.active().epoch,
                c.view().learners,
                c.pending()
            );
        }
        match what {
            0..5 => {
                let Some(primary) = c.active().primary.filter(|p| c.runs(*p)) else { continue };
                value += 1;
                let block = rng.below(8);
                let w = c.write(primary, block * 4096, &u64::to_le_bytes(value));
                unanswered.push((w, block, value));
            }
            5 => {
                let members = c.members();
                if let Some(free) = (1..=6)
                    .map(NodeId)
                    .find(|n| !members.contains(&n.0) && c.view().learners.iter().all(|m| m.node != *n) && !c.pending())
                    && members.len() < 5
                    && c.view().learners.is_empty()
                {
                    c.add_learner(free);
                }
            }
            6 => {
                let members = c.members();
                let leaving = NodeId(members[usize::try_from(rng.below(members.len() as u64)).expect("small")]);
                if members.len() > 2 && Some(leaving) != c.active().primary {
                    c.leave(leaving);
                }
            }
            7 if down.is_none() => {
                let members = c.members();
                let node = NodeId(members[usize::try_from(rng.below(members.len() as u64)).expect("small")]);
                c.crash(node);
                down = Some(node);
            }
            8 if down.is_none() => {
                let members = c.members();
                let node = NodeId(members[usize::try_from(rng.below(members.len() as u64)).expect("small")]);
                c.cut(node);
                down = Some(node);
            }
            7..10 => {
                if let Some(node) = down.take() {
                    if c.runs(node) { c.join(node) } else { c.restart(node) }
                }
            }
            10 => {
                let members = c.members();
                let able: Vec<u64> = members.into_iter().filter(|n| Some(NodeId(*n)) != down).collect();
                if able.is_empty() {
                    continue;
                }
                let node = NodeId(able[usize::try_from(rng.below(able.len() as u64)).expect("small")]);
                c.nominate(node, rng.chance(500_000));
            }
            11 => c.hold_control(true),
            12 => c.decide_one(),
            13 => c.hold_control(false),
            _ => c.run_for(Duration::from_millis(rng.range(5, 2_500))),
        }
        unanswered.retain(|(w, block, value)| {
            let done = c.reply(*w).is_some();
            if done {
                let newest = answered.entry(*block).or_default();
                *newest = (*newest).max(*value);
            }
            !done
        });
    }
    c.hold_control(false);
    if let Some(node) = down.take() {
        if c.runs(node) { c.join(node) } else { c.restart(node) }
    }
    c.run_for(Duration::from_secs(12));
    let primary = c.active().primary.expect("it was opened");
    if c.status(primary).role != RoleName::Primary {
        let members = c.members();
        c.nominate(NodeId(members[0]), false);
        c.run_for(Duration::from_secs(6));
    }
    let primary = c.active().primary.expect("it was opened");
    assert_eq!(c.status(primary).role, RoleName::Primary, "seed {seed}: {:?}", c.status(primary));
    assert!(c.view().learners.is_empty(), "seed {seed}: {:?} {:?}", c.view(), c.status(primary));
    for (block, newest) in &answered {
        let r = c.read(primary, block * 4096, 8);
        c.run_for(Duration::from_millis(300));
        let found = c.reply(r).expect("a healthy volume answers");
        let found = u64::from_le_bytes(found.try_into().expect("eight bytes"));
        assert!(found >= *newest, "seed {seed}: block {block} holds {found}, but {newest} was answered");
    }
    let last: Lsn = c.last(primary);
    for member in c.members() {
        assert_eq!(c.last(NodeId(member)), last, "seed {seed}");
        assert_eq!(c.log(NodeId(member)), c.log(primary), "seed {seed}: S15");
    }
}
