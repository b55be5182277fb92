//! Random commands: the invariants hold, and what was agreed is the same for everybody.

use super::*;
use crate::{Degraded, Duty, RefusalKind, Why};
use holdfast_types::{ClusterVersion, GuestLimits, Member, NodeId, SocketAccess, Speaks, VolumeId};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Sync), Just(Durability::Flush), Just(Durability::Async)]
}

fn degraded() -> impl Strategy<Value = Option<Degraded>> {
    prop_oneof![Just(None), Just(Some(Degraded::Allow)), Just(Some(Degraded::Stall))]
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
              proptest::option::of(node()), degraded())
            .prop_map(|(name, size, durability, write_quorum, nodes, primary, degraded)| {
                let (limits, socket) = (GuestLimits::default(), SocketAccess::default());
                Command::CreateVolume { name, size: size / 512 * 512, durability, write_quorum, nodes, primary, degraded, limits, socket }
            }),
        6 => (volume(), epoch(), node()).prop_map(|(volume, base, node)| Command::GoAlone { volume, base, node }),
        6 => (volume(), node(), 0_u64..3).prop_map(|(volume, node, i)| {
            Command::RegisterCopy { volume, node, incarnation: Incarnation(node.0 * 10 + i / 2) }
        }),
        1 => any_volume().prop_map(|volume| Command::DeleteVolume { volume }),
        1 => (any_volume(), 0_u64..3, 0_u64..3, 0_u64..3).prop_map(|(volume, iops, pages, tens)| {
            let limits = GuestLimits { iops, bandwidth: pages * 4096, burst_ms: tens * 10 };
            Command::LimitVolume { volume, limits }
        }),
        1 => (any_volume(), "[a-c ]?", 0_u32..0o1000).prop_map(|(volume, owner, mode)| {
            Command::ShareVolume { volume, socket: SocketAccess { owner, group: String::new(), mode } }
        }),
        2 => (volume(), 0_u64..3, 0_u64..9, any::<bool>()).prop_map(|(volume, after, halves, shrink)| {
            Command::ResizeVolume { volume, after, size: halves * 2048, shrink, found: None }
        }),
        1 => (volume(), node()).prop_map(|(volume, node)| Command::CopyDeleted { volume, node }),
        6 => (volume(), epoch(), node(), 0_u64..3).prop_map(|(volume, base, node, life)| {
            Command::Claim { volume, base, node, life: Life(life) }
        }),
        14 => (volume(), epoch()).prop_map(|(volume, epoch)| Command::Activate { volume, epoch }),
        3 => (volume(), node(), epoch(), any::<bool>()).prop_map(|(volume, node, base, planned)| {
            Command::Nominate { volume, node, base, planned }
        }),
        1 => (volume(), epoch()).prop_map(|(volume, base)| Command::ClearNominee { volume, base }),
        10 => copies(volume(), node()),
        12 => (volume(), epoch(), node(), 0_u64..3).prop_map(|(volume, base, node, life)| {
            Command::Reconfigure { volume, base, node, life: Life(life), members: Vec::new() }
        }),
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

/// A command, and whether to aim it at what is there, at which one: random epochs and nodes alone would hardly ever hit.
type Shot = (Command, Option<usize>);

fn one_of<T: Copy>(of: &[T], pick: usize) -> Option<T> {
    (!of.is_empty()).then(|| of[pick % of.len()])
}

fn aimed(state: &State, (mut command, aim): Shot) -> Command {
    let Some(pick) = aim else { return command };
    let Some(view) = command.volume().and_then(|v| state.view(v)) else { return command };
    let Phase::Open { active, copies, .. } = &state.volumes[&view.volume].phase else { return command };
    let members: Vec<NodeId> = active.members.iter().map(|m| m.node).collect();
    let wanted: Vec<NodeId> = copies.wanted.iter().copied().collect();
    let learners: Vec<NodeId> = copies.learners.keys().copied().collect();
    match &mut command {
        Command::Claim { base, node, .. } | Command::GoAlone { base, node, .. } => {
            (*base, *node) = (active.epoch, one_of(&members, pick).unwrap_or(*node));
        }
        Command::Nominate { base, .. } | Command::ClearNominee { base, .. } => *base = active.epoch,
        Command::ResizeVolume { after, .. } => *after = view.resizes.last().map_or(*after, |r| r.0),
        Command::Activate { epoch, .. } => *epoch = view.pending.map_or(*epoch, |p| p.configuration.epoch),
        Command::Reconfigure { base, node, members, .. } => {
            let primary = active.primary.unwrap_or(*node);
            let without = active.members.iter().filter(|m| m.node != primary);
            let without = without.map(|m| active.members.iter().copied().filter(|o| o != m).collect::<Vec<_>>());
            let with = view.learners.iter().map(|m| active.members.iter().copied().chain([*m]).collect::<Vec<_>>());
            let mut next: Vec<Vec<Member>> = with.chain(without).collect();
            (*base, *node) = (active.epoch, primary);
            if !next.is_empty() {
                *members = next.swap_remove(pick % next.len());
                members.sort_unstable();
            }
        }
        Command::RegisterCopy { node, .. } => *node = one_of(&learners, pick).unwrap_or(*node),
        Command::CopyDeleted { node, .. } => {
            *node = one_of(&copies.dropped.iter().copied().collect::<Vec<_>>(), pick).unwrap_or(*node);
        }
        Command::RemoveCopy { node, .. }
        | Command::ReplaceCopy { old: node, .. }
        | Command::MoveCopy { old: node, .. } => {
            let all: Vec<NodeId> = members.iter().chain(&wanted).chain(&learners).copied().collect();
            *node = one_of(&all, pick).unwrap_or(*node);
        }
        Command::KeepCopy { node, .. } => {
            let of: Vec<NodeId> = copies.successors.values().map(|s| s.of).collect();
            *node = one_of(&of, pick).unwrap_or(*node);
        }
        _ => {}
    }
    command
}

/// Starts with something to act on, most of the time: three copies, or two of which one may go on alone, and spare nodes.
fn shots() -> impl Strategy<Value = Vec<Shot>> {
    let start = prop_oneof![
        1 => Just(Vec::new()),
        1 => Just({
            let mut start: Vec<_> = ["a", "b", "c"].iter().map(|n| add_node(n)).collect();
            start.push(create("x", &[1, 2, 3]));
            start.extend((1..=3).map(|n| register(1, n, n * 10)));
            start
        }),
        2 => Just(open_pair()),
    ];
    let aim = || proptest::option::weighted(0.8, any::<usize>());
    (start, proptest::collection::vec((command(), aim()), 0..110)).prop_map(|(a, b)| {
        let mut a: Vec<Shot> = a.into_iter().map(|c| (c, None)).collect();
        a.extend(b);
        a
    })
}

/// Two copies that are open under the first one, on nodes a and b of a to e.
fn open_pair() -> Vec<Command> {
    let mut start: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|n| add_node(n)).collect();
    start.push(Command::RaiseVersion { to: ClusterVersion::TOLD, next_node: NodeId(6) });
    let mut pair = create("x", &[1, 2]);
    if let Command::CreateVolume { degraded, .. } = &mut pair {
        *degraded = Some(Degraded::Allow);
    }
    start.push(pair);
    start.extend((1..=2).map(|n| register(1, n, n * 10)));
    start.extend([claim(0, 1), activate(1)]);
    start
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
    /// Members, how many copies were wanted, and whether one was to go on alone without any being made anew.
    before: BTreeMap<VolumeId, (Vec<Member>, usize, bool)>,
}

impl History {
    fn look(&mut self, state: &State) {
        // Whoever has no copy any more registers another one.
        let known = |v: &VolumeId, n: NodeId| state.volumes.get(v).is_some_and(|v| v.incarnation(n).is_some());
        self.incarnations.retain(|(v, n), _| known(v, *n));
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
            if let Phase::Open { copies, .. } = &state.volumes[&v].phase {
                let (members, wanted) = (view.active.members.clone(), copies.wanted.len());
                // Who is taken away by an order goes, whatever was asked for since, and so does what is to be made anew in its place.
                let stays = view.alone.is_some() && copies.renew.is_empty();
                if let Some((two, 2.., true)) = self.before.insert(v, (members.clone(), wanted, stays))
                    && (two.len(), members.len()) == (2, 1)
                    && view.active.members.iter().all(|m| two.contains(m))
                {
                    let kept = two.iter().all(|m| members.contains(m) || copies.left_out.contains_key(&m.node));
                    assert!(kept || view.forced.is_some(), "of two copies that are not too many none is thrown away");
                }
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
            if let Err(refusal) = &outcome {
                prop_assert_eq!(&state, &before, "a refusal changes nothing");
                prop_assert!(refusal.kind != RefusalKind::Broken, "{}: {:?}", refusal, command);
            }
            history.look(&state);
            // The replica has the command from bytes, and every now and then its state from a snapshot.
            let bytes = command.encode();
            let decoded = Command::decode(&bytes, Speaks::THIS).unwrap();
            prop_assert_eq!(&decoded, command);
            prop_assert_eq!(replica.apply(&decoded), outcome);
            replica = State::decode(&replica.encode(), Speaks::THIS).unwrap();
            prop_assert_eq!(&replica, &state);
        }
        prop_assert_eq!(replica.encode(), state.encode());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), with in any::<u8>()) {
        let _ = (Command::decode(&bytes, Speaks::THIS), State::decode(&bytes, Speaks::THIS), crate::Heartbeat::decode(&bytes, Speaks::THIS));
        let mut snapshot = open().encode();
        let at = at % snapshot.len();
        snapshot[at] = with;
        if let Ok(state) = State::decode(&snapshot, Speaks::THIS) {
            state.validate();
        }
    }
}

#[test]
fn random_commands_reach_what_matters() {
    // The property above means nothing if the sequences never open a volume and change its epoch.
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut epochs, mut alone) = (0, 0);
    for _ in 0..200 {
        let mut state = State::new(ClusterId(1), "c");
        for shot in shots().new_tree(&mut runner).unwrap().current() {
            let command = aimed(&state, shot);
            let outcome = state.apply(&command);
            let activated = matches!((command, outcome), (Command::Activate { .. }, Ok(_)));
            let left_out =
                |v: &crate::Volume| matches!(&v.phase, Phase::Open { copies, .. } if !copies.left_out.is_empty());
            epochs += u32::from(activated);
            alone += u32::from(activated && state.volumes().any(left_out));
        }
    }
    assert!(epochs > 300 && alone > 30, "{epochs} epochs, {alone} without a copy that was left out");
}
