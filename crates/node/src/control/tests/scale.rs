//! Many nodes and many volumes: what happens to one volume must cost every node the same, however many others there are.
//!
//! `HOLDFAST_NODES=100 HOLDFAST_VOLUMES=10000 cargo test -p holdfast-node --release scale -- --nocapture` is the largest cluster; without them
//! it is one that a debug build can afford. The times that are printed are for people: what is asserted does not depend on the machine.

use super::*;
use std::time::Instant;

/// Copies of each volume.
const COPIES: u64 = 3;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |n| n.parse().expect("a number"))
}

/// Copies on neighbours, the first of them leads: every node holds and leads as many as any other.
fn holders(volume: u64, nodes: u64) -> Vec<NodeId> {
    (0..COPIES).map(|at| NodeId((volume + at) % nodes + 1)).collect()
}

/// All volumes open.
fn state(nodes: u64, volumes: u64) -> State {
    let mut state = State::new(CLUSTER, "many");
    let mut order = |command: Command| state.apply(&command).unwrap_or_else(|why| panic!("{command:?}: {why}"));
    for n in 1..=nodes {
        order(node(&format!("n{n}")));
    }
    order(Command::RaiseVersion { to: ClusterVersion::TOLD, next_node: NodeId(nodes + 1) });
    for v in 0..volumes {
        let holders = holders(v, nodes);
        let id = VolumeId(v + 1);
        assert_eq!(order(volume(&format!("v{v}"), &holders)), Outcome::Volume(id));
        for node in &holders {
            order(Command::RegisterCopy { volume: id, node: *node, incarnation: Incarnation(v << 8 | node.0) });
        }
        order(Command::Claim { volume: id, base: Epoch::ZERO, node: holders[0], life: Life(1) });
        order(Command::Activate { volume: id, epoch: Epoch(1) });
    }
    state.validate();
    state
}

impl Net {
    /// What the shard of a node would say, given what it was told.
    fn report_all(&mut self, id: NodeId) {
        let of = |view: &holdfast_types::VolumeView| {
            let leads = view.active.primary == Some(id);
            let (role, state) =
                if leads { (CopyRole::Primary, CopyState::Serving) } else { (CopyRole::Secondary, CopyState::InSync) };
            CopyReport { volume: view.volume, epoch: view.active.epoch, ..report(role, state) }
        };
        let reports = self.seen[&id].local.views.iter().map(of).collect();
        self.input(id, Input::Reports(reports));
    }

    /// What the copies of a node that is nominated would ask for.
    fn take_over(&mut self, id: NodeId) {
        let mut asked = Vec::new();
        for view in &self.seen[&id].local.views {
            let (volume, base) = (view.volume, view.active.epoch);
            let mine = view.pending.as_ref().filter(|p| p.configuration.primary == Some(id));
            if let Some(pending) = mine {
                asked.push(ControlRequest::Activate { volume, epoch: pending.configuration.epoch });
            } else if view.nominee.is_some_and(|n| n.node == id && n.base == base) {
                asked.push(ControlRequest::Claim { volume, base, life: Life(id.0) });
            }
        }
        asked.into_iter().for_each(|request| self.input(id, Input::Request(request)));
    }

    fn leads(&self, id: NodeId) -> usize {
        let state = self.controls[&self.leader().expect("somebody leads")].state().expect("it has a state");
        state.volumes.keys().filter_map(|v| state.view(*v)).filter(|v| v.active.primary == Some(id)).count()
    }
}

#[test]
fn a_node_that_dies_leaves_its_volumes_to_others_however_many_there_are() {
    let (nodes, volumes) = (number("HOLDFAST_NODES", 16), number("HOLDFAST_VOLUMES", 800));
    let started = Instant::now();
    let lap = |what: &str| println!("{nodes} nodes, {volumes} volumes, {:?}: {what}", started.elapsed());
    let mut net = Net::founded(5, state(nodes, volumes));
    lap("the state is made");
    // As agents do.
    net.snapshot_every = ControlConfig::new(CLUSTER, N1, Life(1), 0).snapshot_every;
    let all: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
    net.kill(N1);
    all.iter().for_each(|id| net.start(*id));
    let voters = (nodes.min(5) / 2 * 2 + 1).min(5);
    let settled = |net: &Net| {
        net.controls.values().all(|c| c.state().is_some_and(|s| s.volumes.len() as u64 == volumes))
            && net.controls[&N1].raft_status().voters.len() as u64 == voters
    };
    assert!(net.until(60_000, settled), "everybody has the state, and {voters} vote");
    all.iter().for_each(|id| net.report_all(*id));
    net.run(1_500);
    lap("everybody has the state and has heard of every copy");

    // Nothing happens: heartbeats name no volume.
    let before = net.bytes;
    net.run(2_000);
    let quiet = (net.bytes - before) as u64 / 2 / nodes;
    lap(&format!("an idle node sends {quiet} bytes a second"));
    assert!(quiet < nodes * 2_000, "{quiet} bytes a second of each of {nodes} nodes");

    let dead = NodeId(nodes);
    let led = net.leads(dead);
    assert_eq!(led as u64, (0..volumes).filter(|v| holders(*v, nodes)[0] == dead).count() as u64);
    net.kill(dead);
    let end = net.now + Duration::from_mins(2);
    while net.leads(dead) > 0 && net.now < end {
        net.run(100);
        all.iter().filter(|id| **id != dead).for_each(|id| net.take_over(*id));
    }
    assert_eq!(net.leads(dead), 0, "others lead all that it led");
    lap(&format!("{led} volumes have another primary"));
}
