//! The network: connections between pairs of nodes, ordered lanes in them, directions that can be dead.
//!
//! There are two of them, as a node has two endpoints: one for its shard, one for its control plane.
//!
//! A lane is up when both ends have opened it and the connection stands; each end is told on its own, and gets
//! no message of the lane before. What is on its way when a connection ends is lost; what is sent into a dead direction
//! waits until the direction is alive again or the connection ends. Lanes don't wait for each other.
//!
//! Deliberately absent: a message that arrives twice, and messages of an old connection after a new one stands. The
//! daemon's transport can't deliver either: QUIC streams have each byte once, a newer stream of a lane starts only when
//! the older one's reader has delivered its last event, a late stream of the same life is refused by its session, and the
//! daemon drops what does not come from the lane's present session (trap 10; transport's `incoming.rs`, agent's
//! `lanes.rs`). What arrives is therefore a prefix of what was sent, per connection. The same records do come again under
//! a new connection, because a primary that greets a member anew sends from the member's tail on.

use crate::log::{MS, Nanos};
use crate::options::NetPlan;
use bytes::Bytes;
use holdfast_types::{NodeId, Rng, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// An ordered stream in one direction of a pair of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Volume(VolumeId),
    Beat,
    Control,
}

/// Which of a node's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plane {
    Shard,
    Control,
}

impl Plane {
    pub(crate) const ALL: [Plane; 2] = [Plane::Shard, Plane::Control];
}

impl Lane {
    pub(crate) const fn plane(self) -> Plane {
        match self {
            Lane::Volume(_) | Lane::Beat => Plane::Shard,
            Lane::Control => Plane::Control,
        }
    }
}

/// Bytes on their way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) lane: Lane,
    pub(crate) generation: u64,
    pub(crate) bytes: Bytes,
    pub(crate) corrupted: bool,
}

/// A notice to one end of a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneNotice {
    pub(crate) node: NodeId,
    pub(crate) peer: NodeId,
    pub(crate) lane: Lane,
    pub(crate) generation: u64,
    pub(crate) at: Nanos,
}

#[derive(Clone, Debug, Default)]
struct LaneState {
    opened: [bool; 2],
    /// When each end is told that the lane is up, in this generation of the connection.
    up_at: Option<[Nanos; 2]>,
    /// The generation that each end believes to be up.
    told: [Option<u64>; 2],
}

#[derive(Clone, Debug, Default)]
struct Connection {
    generation: u64,
    up: bool,
    lanes: BTreeMap<Lane, LaneState>,
}

/// A direction that passes only so much.
#[derive(Clone, Copy, Debug)]
struct Clog {
    bytes_per_ms: u64,
    /// When what was sent so far has passed.
    free_at: Nanos,
}

impl Clog {
    fn pass(&mut self, bytes: usize, now: Nanos) -> Nanos {
        let time = (bytes as u64 * MS).div_ceil(self.bytes_per_ms);
        self.free_at = self.free_at.max(now) + time;
        self.free_at
    }
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Net {
    plan: NetPlan,
    rng: Rng,
    connections: BTreeMap<(NodeId, NodeId), Connection>,
    /// How many faults hold each direction dead.
    dead: BTreeMap<(NodeId, NodeId), u32>,
    /// Extra delay of each direction.
    slow: BTreeMap<(NodeId, NodeId), Nanos>,
    /// Directions with a limited capacity.
    clogs: BTreeMap<(NodeId, NodeId), Clog>,
    last: BTreeMap<(NodeId, NodeId, Lane), Nanos>,
    waiting: BTreeMap<(NodeId, NodeId), Vec<Packet>>,
    /// The next message with records or table on this direction gets a flipped bit.
    pub(crate) corrupt_next: Option<NodeId>,
    /// Directions whose messages may overtake each other.
    disordered: BTreeSet<(NodeId, NodeId)>,
    /// How many did.
    overtaken: u64,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    if a < b { (a, b) } else { (b, a) }
}

/// Which end of its pair `node` is.
fn side(node: NodeId, peer: NodeId) -> usize {
    usize::from(node > peer)
}

impl Net {
    pub(crate) fn new(plan: NetPlan, rng: Rng, nodes: &[NodeId]) -> Net {
        let mut connections = BTreeMap::new();
        for (i, a) in nodes.iter().enumerate() {
            for b in &nodes[i + 1..] {
                connections.insert(pair(*a, *b), Connection::default());
            }
        }
        Net {
            plan,
            rng,
            connections,
            dead: BTreeMap::new(),
            slow: BTreeMap::new(),
            clogs: BTreeMap::new(),
            last: BTreeMap::new(),
            waiting: BTreeMap::new(),
            corrupt_next: None,
            disordered: BTreeSet::new(),
            overtaken: 0,
        }
    }

    /// All pairs.
    pub(crate) fn pairs(&self) -> Vec<(NodeId, NodeId)> {
        self.connections.keys().copied().collect()
    }

    pub(crate) fn is_up(&self, a: NodeId, b: NodeId) -> bool {
        self.connections[&pair(a, b)].up
    }

    pub(crate) fn generation(&self, a: NodeId, b: NodeId) -> u64 {
        self.connections[&pair(a, b)].generation
    }

    pub(crate) fn is_dead(&self, from: NodeId, to: NodeId) -> bool {
        self.dead.get(&(from, to)).is_some_and(|n| *n > 0)
    }

    /// Whether messages pass in both directions.
    pub(crate) fn reaches(&self, a: NodeId, b: NodeId) -> bool {
        a == b || !(self.is_dead(a, b) || self.is_dead(b, a))
    }

    pub(crate) fn kill_direction(&mut self, from: NodeId, to: NodeId) {
        *self.dead.entry((from, to)).or_default() += 1;
    }

    /// The direction is alive again as far as this fault goes: what waited is sent.
    pub(crate) fn revive_direction(&mut self, from: NodeId, to: NodeId, now: Nanos) -> Vec<(Packet, Nanos)> {
        if let Some(n) = self.dead.get_mut(&(from, to)) {
            *n = n.saturating_sub(1);
        }
        if self.is_dead(from, to) {
            return Vec::new();
        }
        let waiting = self.waiting.remove(&(from, to)).unwrap_or_default();
        waiting
            .into_iter()
            .filter(|p| self.arrives(p))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|p| self.on_its_way(p, now))
            .collect()
    }

    pub(crate) fn set_slow(&mut self, from: NodeId, to: NodeId, extra: Nanos) {
        self.slow.insert((from, to), extra);
    }

    /// Whether messages of this direction may overtake each other from now on.
    pub(crate) fn set_disordered(&mut self, from: NodeId, to: NodeId, disordered: bool) {
        if disordered {
            self.disordered.insert((from, to));
        } else {
            self.disordered.remove(&(from, to));
        }
    }

    /// How many messages overtook others since this was asked.
    pub(crate) fn take_overtaken(&mut self) -> u64 {
        std::mem::take(&mut self.overtaken)
    }

    /// The direction passes only so many bytes per millisecond from now on.
    pub(crate) fn clog(&mut self, from: NodeId, to: NodeId, bytes_per_ms: u64) {
        self.clogs.insert((from, to), Clog { bytes_per_ms, free_at: 0 });
    }

    /// The direction passes everything again. Gives how long what is queued still takes.
    pub(crate) fn unclog(&mut self, from: NodeId, to: NodeId, now: Nanos) -> Nanos {
        self.clogs.remove(&(from, to)).map_or(0, |c| c.free_at.saturating_sub(now))
    }

    /// How long until somebody notices that a connection is dead.
    pub(crate) fn notice_delay(&mut self, at_once: bool) -> Nanos {
        if at_once {
            self.rng.below(5 * MS)
        } else {
            self.plan.idle_timeout / 2 + self.rng.below(self.plan.idle_timeout / 2)
        }
    }

    /// A message from a node: on its way, or `None` if it is lost or waits.
    pub(crate) fn send(
        &mut self,
        from: NodeId,
        to: NodeId,
        lane: Lane,
        bytes: Bytes,
        now: Nanos,
    ) -> Option<(Packet, Nanos)> {
        let connection = self.connections.get(&pair(from, to))?;
        let generation = connection.generation;
        let told = |l: &LaneState| l.told[side(from, to)] == Some(generation);
        let believed = lane == Lane::Beat || connection.lanes.get(&lane).is_some_and(told);
        if !connection.up || !believed {
            return None;
        }
        let mut packet = Packet { from, to, lane, generation, bytes, corrupted: false };
        if self.corrupt_next == Some(from) {
            self.corrupt_next = None;
            packet = self.corrupt(packet);
        }
        if self.is_dead(from, to) {
            self.waiting.entry((from, to)).or_default().push(packet);
            return None;
        }
        Some(self.on_its_way(packet, now))
    }

    fn corrupt(&mut self, mut packet: Packet) -> Packet {
        let mut bytes = packet.bytes.to_vec();
        let at = crate::options::index(self.rng.below(bytes.len() as u64));
        bytes[at] ^= 1 << self.rng.below(8);
        packet.bytes = bytes.into();
        packet.corrupted = true;
        packet
    }

    fn on_its_way(&mut self, packet: Packet, now: Nanos) -> (Packet, Nanos) {
        let (from, to) = (packet.from, packet.to);
        let now = self.clogs.get_mut(&(from, to)).map_or(now, |c| c.pass(packet.bytes.len(), now));
        let mut delay = self.plan.delay_min + self.rng.below(self.plan.delay_max - self.plan.delay_min);
        if self.rng.chance(self.plan.spike_ppm) {
            delay += self.rng.below(200 * MS);
        }
        delay += self.slow.get(&(from, to)).copied().unwrap_or(0);
        let lane = self.connections.get(&pair(from, to)).and_then(|c| c.lanes.get(&packet.lane));
        let told_at = lane.and_then(|l| l.up_at).map_or(0, |at| at[side(to, from)]);
        let last = self.last.entry((from, to, packet.lane)).or_default();
        if self.disordered.contains(&(from, to)) {
            let at = (now + delay + self.rng.below(300 * MS)).max(told_at + 1);
            self.overtaken += u64::from(at < *last);
            *last = at.max(*last);
            return (packet, at);
        }
        let at = (now + delay).max(*last + 1).max(told_at + 1);
        *last = at;
        (packet, at)
    }

    /// Whether a packet's connection still stands.
    pub(crate) fn arrives(&self, packet: &Packet) -> bool {
        let c = &self.connections[&pair(packet.from, packet.to)];
        c.up && c.generation == packet.generation
    }

    /// `node` wants a lane; who is to be told that it is up?
    pub(crate) fn open(&mut self, node: NodeId, peer: NodeId, lane: Lane, now: Nanos) -> Vec<LaneNotice> {
        let Some(c) = self.connections.get_mut(&pair(node, peer)) else { return Vec::new() };
        let s = side(node, peer);
        let (up, generation) = (c.up, c.generation);
        let state = c.lanes.entry(lane).or_default();
        let again = !std::mem::replace(&mut state.opened[s], true) && up;
        if let Some(up_at) = state.up_at.as_mut().filter(|_| again) {
            // The other end never closed it.
            up_at[s] = now + self.rng.below(20 * MS);
            return vec![LaneNotice { node, peer, lane, generation, at: up_at[s] }];
        }
        self.raise(node, peer, now)
    }

    /// `node` wants a lane no more; whether it believed it to be up. The other end is told nothing.
    pub(crate) fn close(&mut self, node: NodeId, peer: NodeId, lane: Lane) -> bool {
        let s = side(node, peer);
        let Some(c) = self.connections.get_mut(&pair(node, peer)) else { return false };
        let Some(state) = c.lanes.get_mut(&lane) else { return false };
        state.opened[s] = false;
        let believed = state.told[s].take().is_some();
        if state.opened == [false; 2] {
            c.lanes.remove(&lane);
        }
        believed
    }

    /// A connection is made. Ends that did not notice the end of the old one yet must be told first (`believers`).
    pub(crate) fn connect(&mut self, a: NodeId, b: NodeId, now: Nanos) -> Vec<LaneNotice> {
        let c = self.connections.get_mut(&pair(a, b)).expect("every pair has an entry");
        c.generation += 1;
        c.up = true;
        for direction in [(a, b), (b, a)] {
            self.clogs.entry(direction).and_modify(|clog| clog.free_at = now);
        }
        for lane in c.lanes.values_mut() {
            lane.up_at = None;
            lane.told = [None; 2];
        }
        self.waiting.remove(&(a, b));
        self.waiting.remove(&(b, a));
        self.raise(a, b, now)
    }

    fn raise(&mut self, a: NodeId, b: NodeId, now: Nanos) -> Vec<LaneNotice> {
        let (a, b) = pair(a, b);
        let delays = [self.rng.below(20 * MS), self.rng.below(20 * MS)];
        let c = self.connections.get_mut(&(a, b)).expect("every pair has an entry");
        let mut notices = Vec::new();
        if !c.up {
            return notices;
        }
        for (lane, state) in &mut c.lanes {
            if state.up_at.is_none() && state.opened == [true; 2] {
                let at = [now + delays[0], now + delays[1]];
                state.up_at = Some(at);
                let (lane, generation) = (*lane, c.generation);
                notices.push(LaneNotice { node: a, peer: b, lane, generation, at: at[0] });
                notices.push(LaneNotice { node: b, peer: a, lane, generation, at: at[1] });
            }
        }
        notices
    }

    /// The time of a notice has come: whether it still holds.
    pub(crate) fn told(&mut self, notice: &LaneNotice) -> bool {
        let Some(c) = self.connections.get_mut(&pair(notice.node, notice.peer)) else { return false };
        let Some(lane) = c.lanes.get_mut(&notice.lane) else { return false };
        let wanted = lane.opened[side(notice.node, notice.peer)];
        let holds = c.up && c.generation == notice.generation && lane.up_at.is_some() && wanted;
        if holds {
            lane.told[side(notice.node, notice.peer)] = Some(notice.generation);
        }
        holds
    }

    /// The connection ends; its ends notice later.
    pub(crate) fn drop_connection(&mut self, a: NodeId, b: NodeId) {
        let c = self.connections.get_mut(&pair(a, b)).expect("every pair has an entry");
        c.up = false;
        for lane in c.lanes.values_mut() {
            lane.up_at = None;
        }
    }

    /// `node` notices that its connection to `peer` has ended: lanes that it believed to be up.
    pub(crate) fn notice_down(&mut self, node: NodeId, peer: NodeId) -> Vec<Lane> {
        let s = side(node, peer);
        let c = self.connections.get_mut(&pair(node, peer)).expect("every pair has an entry");
        if c.up {
            return Vec::new();
        }
        c.lanes.iter_mut().filter_map(|(v, l)| l.told[s].take().map(|_| *v)).collect()
    }

    /// A process ended: it wants no lane and believes nothing.
    pub(crate) fn forget(&mut self, node: NodeId) {
        for ((a, b), c) in &mut self.connections {
            if *a == node || *b == node {
                let s = usize::from(*b == node);
                for lane in c.lanes.values_mut() {
                    lane.opened[s] = false;
                    lane.told[s] = None;
                }
            }
        }
    }
}
