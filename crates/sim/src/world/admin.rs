//! The operator: founds the cluster with the commands that the daemon's own tools propose, and wants other primaries.

use super::storm::Cure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::log::MS;
use crate::options::index;
use holdfast_cluster::{Command, Outcome, RefusalKind};
use holdfast_node::control::{Failure, Input};
use holdfast_types::{Epoch, GuestLimits, NodeId, SocketAccess, VolumeId};
use std::collections::{BTreeMap, VecDeque};

/// What somebody outside wants of the control plane.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// The next step of what makes the cluster what the seed planned.
    Founding,
    /// A fault of this kind.
    Nominate { kind: FaultKind, volume: VolumeId, base: Epoch },
    /// A switchover is taken back.
    Withdraw,
    /// Other copies: a fault of this kind.
    Members(FaultKind),
    /// A copy is made anew, or that is taken back.
    Renew,
    /// Another size.
    Resize,
    /// A node is to be drained, in service, or removed: a fault of this kind.
    Nodes(FaultKind),
}

/// A proposal that waits for its outcome.
#[derive(Debug)]
struct Asked {
    node: NodeId,
    life: u64,
    wish: Wish,
    command: Command,
}

/// The operator.
#[derive(Debug, Default)]
pub(super) struct Admin {
    /// What is still to be done to make the cluster, in order.
    founding: VecDeque<Command>,
    waiting: BTreeMap<u64, Asked>,
    next_token: u64,
}

impl Admin {
    /// A step of the founding that is still to be done.
    pub(super) fn unfinished(&self) -> Option<&Command> {
        self.founding.front()
    }
}

impl World {
    /// The commands that make the cluster what the seed planned.
    pub(super) fn plan_founding(&mut self) {
        let joining = self.options.nodes.iter().filter(|n| !self.options.control.named.contains(n));
        let mut commands: VecDeque<Command> = joining.map(|n| self.options.control.add_node(*n)).collect();
        commands.extend(self.options.volumes.iter().map(|v| Command::CreateVolume {
            name: v.id.to_string(),
            size: v.size.bytes(),
            durability: v.durability,
            write_quorum: v.write_quorum,
            nodes: v.members.clone(),
            primary: Some(v.first_primary),
            degraded: v.degraded,
            limits: GuestLimits::default(),
            socket: SocketAccess::default(),
        }));
        self.admin.founding = commands;
        self.at(MS, Event::Admin);
    }

    /// The operator looks whether the next step of the founding can be asked for.
    pub(super) fn admin_turn(&mut self) -> Result<(), Violation> {
        let Some(command) = self.admin.founding.front().cloned() else { return Ok(()) };
        self.at(self.now + 50 * MS, Event::Admin);
        let nodes = &self.nodes;
        self.admin.waiting.retain(|_, a| nodes[&a.node].life == a.life && nodes[&a.node].alive());
        if self.admin.waiting.values().any(|a| matches!(a.wish, Wish::Founding)) {
            return Ok(());
        }
        self.propose(Wish::Founding, command)
    }

    /// Asks some node that knows the cluster.
    pub(super) fn propose(&mut self, wish: Wish, command: Command) -> Result<(), Violation> {
        let knows = |id: &NodeId| self.nodes[id].control.as_ref().is_some_and(|c| c.state().is_some());
        let able: Vec<NodeId> =
            self.options.nodes.iter().copied().filter(|n| self.nodes[n].responsive() && knows(n)).collect();
        if able.is_empty() {
            return Ok(());
        }
        let node = able[index(self.rngs.control.below(able.len() as u64))];
        self.admin.next_token += 1;
        let token = self.admin.next_token;
        self.note("propose", &[node.0, token], || format!("at {node}: {command:?}"));
        let life = self.node(node).life;
        self.admin.waiting.insert(token, Asked { node, life, wish, command: command.clone() });
        self.feed_control(node, Input::Propose { token, command })
    }

    pub(super) fn answered(&mut self, token: u64, result: &Result<Outcome, Failure>) {
        let Some(asked) = self.admin.waiting.remove(&token) else { return };
        self.note("outcome", &[asked.node.0, token, u64::from(result.is_ok())], || {
            format!("at {}: {:?}: {result:?}", asked.node, asked.command)
        });
        let refused = matches!(result, Err(Failure::Refused(_)));
        match asked.wish {
            Wish::Founding => {
                let exists = matches!(result, Err(Failure::Refused(r)) if r.kind == RefusalKind::Exists);
                if result.is_ok() || exists {
                    self.admin.founding.pop_front();
                } else {
                    assert!(!refused, "what the seed planned is possible: {:?}: {result:?}", asked.command);
                }
            }
            Wish::Nominate { kind, volume, base } if result.is_ok() => {
                self.fired(kind);
                if kind == FaultKind::SwitchoverCancelled {
                    let at = self.now + self.span(MS, 300 * MS);
                    self.at(at, Event::Cure(Cure::Withdraw(volume, base)));
                }
            }
            // A wish whose outcome is not known is asked for again, as an operator would; it is void in another epoch.
            Wish::Nominate { .. } if !refused && self.settling.is_none() => {
                let at = self.now + 100 * MS;
                self.at(at, Event::Propose(asked.wish, Box::new(asked.command)));
            }
            Wish::Members(kind) if result.is_ok() => self.fired(kind),
            // A removal counts when it is done.
            Wish::Nodes(kind) if result.is_ok() && kind != FaultKind::NodeRemove => self.fired(kind),
            Wish::Resize if result.is_ok() => self.fired(FaultKind::Resize),
            Wish::Nominate { .. } | Wish::Withdraw | Wish::Members(_) | Wish::Renew | Wish::Resize | Wish::Nodes(_) => {
            }
        }
    }
}
