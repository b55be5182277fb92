mod alone;
mod commands;
mod decider;
mod glance;
mod golden;
mod random;
mod recovery;
mod redundancy;
mod regime;

use crate::{Command, Outcome, Phase, State};
use holdfast_types::{
    ClusterId, Durability, Epoch, GuestLimits, Incarnation, Life, NodeId, SocketAccess, Speaks, VolumeId,
};

pub(crate) fn add_node(name: &str) -> Command {
    Command::AddNode {
        name: name.into(),
        address: format!("{name}:7000"),
        failure_domain: format!("rack-{name}"),
        voter: true,
        witness: false,
        fingerprint: "ab12".into(),
        token_id: None,
    }
}

pub(crate) fn create(name: &str, nodes: &[u64]) -> Command {
    let copies = u8::try_from(nodes.len()).unwrap();
    Command::CreateVolume {
        name: name.into(),
        size: 1 << 20,
        durability: Durability::Sync,
        write_quorum: copies / 2 + 1,
        nodes: nodes.iter().copied().map(NodeId).collect(),
        primary: None,
        degraded: None,
        limits: GuestLimits::default(),
        socket: SocketAccess::default(),
    }
}

pub(crate) fn register(volume: u64, node: u64, incarnation: u64) -> Command {
    Command::RegisterCopy { volume: VolumeId(volume), node: NodeId(node), incarnation: Incarnation(incarnation) }
}

pub(crate) fn claim(base: u64, node: u64) -> Command {
    Command::Claim { volume: VolumeId(1), base: Epoch(base), node: NodeId(node), life: Life(100 + node) }
}

pub(crate) fn activate(epoch: u64) -> Command {
    Command::Activate { volume: VolumeId(1), epoch: Epoch(epoch) }
}

pub(crate) fn nominate(base: u64, node: u64, planned: bool) -> Command {
    Command::Nominate { volume: VolumeId(1), node: NodeId(node), base: Epoch(base), planned }
}

pub(crate) fn cluster(nodes: u64) -> State {
    let mut state = State::new(ClusterId(7), "test");
    state.version = Speaks::THIS.newest();
    for n in 1..=nodes {
        assert_eq!(state.apply(&add_node(&format!("n{n}"))), Ok(Outcome::Node(NodeId(n))));
    }
    state
}

/// Three nodes, volume 1 on them, in epoch 0.
pub(crate) fn unopened() -> State {
    let mut state = cluster(3);
    state.apply(&create("disk", &[1, 2, 3])).unwrap();
    for n in 1..=3 {
        state.apply(&register(1, n, 10 + n)).unwrap();
    }
    state
}

/// The same in epoch 1 under node 1.
pub(crate) fn open() -> State {
    let mut state = unopened();
    state.apply(&claim(0, 1)).unwrap();
    state.apply(&activate(1)).unwrap();
    state
}

pub(crate) fn phase(state: &State) -> &Phase {
    &state.volumes[&VolumeId(1)].phase
}
