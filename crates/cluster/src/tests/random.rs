//! Random commands: the invariants hold, and what was agreed is the same for everybody.

use super::*;
use crate::{Duty, Why};
use holdfast_types::{NodeId, VolumeId};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Sync), Just(Durability::Flush), Just(Durability::Async)]
}

fn command() -> impl Strategy<Value = Command> {
    let any_volume = || (1_u64..4).prop_map(VolumeId);
    let volume = || prop_oneof![4 => Just(VolumeId(1)), 1 => any_volume()];
    let node = || (1_u64..6).prop_map(NodeId);
    let epoch = || (0_u64..8).prop_map(Epoch);
    prop_oneof![
        1 => ("[a-c]", any::<bool>(), proptest::option::of(0_u64..3)).prop_map(|(name, voter, token_id)| {
            let (address, fingerprint) = ("a:1".into(), "ff".into());
            Command::AddNode { name, address, failure_domain: String::new(), voter, witness: false, fingerprint, token_id }
        }),
        1 => node().prop_map(|node| Command::RemoveNode { node }),
        1 => (0_u64..3).prop_map(|id| Command::AddToken { id, hash: format!("{id:064x}"), expires: id }),
        2 => ("[x-z]", 0_u64..2048, durability(), 0_u8..4, proptest::collection::vec(node(), 0..4),
              proptest::option::of(node())).prop_map(|(name, size, durability, write_quorum, nodes, primary)| {
            Command::CreateVolume { name, size: size / 512 * 512, durability, write_quorum, nodes, primary }
        }),
        6 => (volume(), node(), 0_u64..3).prop_map(|(volume, node, i)| {
            Command::RegisterCopy { volume, node, incarnation: Incarnation(node.0 * 10 + i / 2) }
        }),
        1 => any_volume().prop_map(|volume| Command::DeleteVolume { volume }),
        2 => (volume(), 0_u64..3, 0_u64..9, any::<bool>()).prop_map(|(volume, after, halves, shrink)| {
            Command::ResizeVolume { volume, after, size: halves * 2048, shrink }
        }),
        1 => (volume(), node()).prop_map(|(volume, node)| Command::CopyDeleted { volume, node }),
        6 => (volume(), epoch(), node(), 0_u64..3).prop_map(|(volume, base, node, life)| {
            Command::Claim { volume, base, node, life: Life(life) }
        }),
        6 => (volume(), epoch()).prop_map(|(volume, epoch)| Command::Activate { volume, epoch }),
        3 => (volume(), node(), epoch(), any::<bool>()).prop_map(|(volume, node, base, planned)| {
            Command::Nominate { volume, node, base, planned }
        }),
        1 => (volume(), epoch()).prop_map(|(volume, base)| Command::ClearNominee { volume, base }),
        6 => copies(volume(), node()),
        2 => (node(), prop_oneof![4 => Just(Duty::InService), 2 => Just(Duty::Drained), 1 => Just(Duty::Removed)])
            .prop_map(|(node, wanted)| Command::WantNode { node, wanted }),
    ]
}

/// What is wanted of the copies of a volume, by an operator and by the leader.
fn copies(
    volume: impl Strategy<Value = VolumeId>,
    node: impl Strategy<Value = NodeId> + Clone,
) -> impl Strategy<Value = Command> {
    (volume, node.clone(), node, 0_u8..6).prop_map(|(volume, old, new, what)| match what {
        0 => Command::AddCopy { volume, node: new },
        1 => Command::RemoveCopy { volume, node: old },
        2 => Command::ReplaceCopy { volume, old, new },
        3 => Command::MoveCopy { volume, old, new, why: Why::Drained },
        4 => Command::MoveCopy { volume, old, new, why: Why::Gone },
        _ => Command::KeepCopy { volume, node: old },
    })
}

/// A command, and whether to aim it at what is there: random epochs alone would hardly ever hit.
type Shot = (Command, bool);

fn aimed(state: &State, (mut command, aim): Shot) -> Command {
    let view = |v: &VolumeId| state.view(*v).filter(|_| aim);
    match &mut command {
        Command::Claim { volume, base, .. }
        | Command::Nominate { volume, base, .. }
        | Command::ClearNominee { volume, base } => *base = view(volume).map_or(*base, |v| v.active.epoch),
        Command::ResizeVolume { volume, after, .. } => {
            *after = view(volume).and_then(|v| v.resizes.last().copied()).map_or(*after, |r| r.0);
        }
        Command::Activate { volume, epoch } => {
            *epoch = view(volume).and_then(|v| v.pending).map_or(*epoch, |p| p.configuration.epoch);
        }
        _ => {}
    }
    command
}

/// Starts with something to act on, half of the time.
fn shots() -> impl Strategy<Value = Vec<Shot>> {
    let start = prop_oneof![
        Just(Vec::new()),
        Just({
            let mut start: Vec<_> = ["a", "b", "c"].iter().map(|n| add_node(n)).collect();
            start.push(create("x", &[1, 2, 3]));
            start.extend((1..=3).map(|n| register(1, n, n * 10)));
            start
        })
    ];
    (start, proptest::collection::vec((command(), proptest::bool::weighted(0.8)), 0..110)).prop_map(|(a, b)| {
        let mut a: Vec<Shot> = a.into_iter().map(|c| (c, false)).collect();
        a.extend(b);
        a
    })
}

/// What must never be taken back, checked apart from `State::validate`.
#[derive(Default)]
struct History {
    /// One primary per epoch (S14).
    primaries: BTreeMap<(VolumeId, Epoch), NodeId>,
    active: BTreeMap<VolumeId, Epoch>,
    /// The base on which each epoch was claimed.
    bases: BTreeMap<(VolumeId, Epoch), Epoch>,
    incarnations: BTreeMap<(VolumeId, NodeId), Incarnation>,
}

impl History {
    fn look(&mut self, state: &State) {
        for view in state.volumes.keys().filter_map(|v| state.view(*v)) {
            let v = view.volume;
            for c in [Some(&view.active), view.pending.as_ref().map(|p| &p.configuration)].into_iter().flatten() {
                if let Some(primary) = c.primary {
                    assert_eq!(
                        *self.primaries.entry((v, c.epoch)).or_insert(primary),
                        primary,
                        "one primary per epoch"
                    );
                }
                for m in &c.members {
                    let known = *self.incarnations.entry((v, m.node)).or_insert(m.incarnation);
                    assert_eq!(known, m.incarnation, "S20");
                }
            }
            if let Some(p) = &view.pending {
                self.bases.insert((v, p.configuration.epoch), p.base);
            }
            let before = self.active.insert(v, view.active.epoch).unwrap_or(Epoch(0));
            assert!(before <= view.active.epoch, "epochs are monotone");
            if before != view.active.epoch {
                assert_eq!(self.bases[&(v, view.active.epoch)], before, "S21: only a claim on it succeeds an epoch");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn commands_keep_the_invariants(shots in shots()) {
        let (mut state, mut replica) = (State::new(ClusterId(1), "c"), State::new(ClusterId(1), "c"));
        let mut history = History::default();
        for shot in shots {
            let command = &aimed(&state, shot);
            let before = state.clone();
            let outcome = state.apply(command);
            if outcome.is_err() {
                prop_assert_eq!(&state, &before, "a refusal changes nothing");
            }
            history.look(&state);
            // The replica has the command from bytes, and every now and then its state from a snapshot.
            let bytes = command.encode();
            let decoded = Command::decode(&bytes).unwrap();
            prop_assert_eq!(&decoded, command);
            prop_assert_eq!(replica.apply(&decoded), outcome);
            replica = State::decode(&replica.encode()).unwrap();
            prop_assert_eq!(&replica, &state);
        }
        prop_assert_eq!(replica.encode(), state.encode());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), with in any::<u8>()) {
        let _ = (Command::decode(&bytes), State::decode(&bytes), crate::Heartbeat::decode(&bytes));
        let mut snapshot = open().encode();
        let at = at % snapshot.len();
        snapshot[at] = with;
        if let Ok(state) = State::decode(&snapshot) {
            state.validate();
        }
    }
}

#[test]
fn random_commands_reach_what_matters() {
    // The property above means nothing if the sequences never open a volume and change its epoch.
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut epochs = 0;
    for _ in 0..200 {
        let mut state = State::new(ClusterId(1), "c");
        for shot in shots().new_tree(&mut runner).unwrap().current() {
            let command = aimed(&state, shot);
            let outcome = state.apply(&command);
            epochs += u32::from(matches!((command, outcome), (Command::Activate { .. }, Ok(_))));
        }
    }
    assert!(epochs > 100, "{epochs}");
}
