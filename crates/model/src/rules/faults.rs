//! What happens to processes and disks.

use super::lease;
use crate::scope::{Mutant, Scope};
use crate::state::{Node, Stage, State, bit};

/// A process ends and starts again: memory is gone, and of what was being written any part may have landed.
pub(super) fn crash(scope: &Scope, state: &mut State, node: u8, landed: u8) -> bool {
    let copy = *state.node(node);
    let len = copy.durable + landed;
    let nothing_lost = copy.adopted == 0 && copy.role == 0 && copy.grant == 0 && copy.durable == copy.log.len();
    if state.budget.crashes == 0 || len > copy.log.len() || nothing_lost {
        return false;
    }
    state.budget.crashes -= 1;
    let copy = state.node_mut(node);
    copy.log = copy.log.prefix(len);
    restart(scope, state, node);
    true
}

fn restart(scope: &Scope, state: &mut State, node: u8) {
    let old = state.node(node).role;
    let copy = state.node_mut(node);
    copy.durable = copy.log.len();
    copy.hint = copy.hint.min(copy.log.len());
    (copy.adopted, copy.role) = (0, 0);
    state.void_claims(node);
    let copy = state.node_mut(node);
    if scope.mutant == Some(Mutant::PromiseNotDurable) {
        copy.promised = copy.log.last_epoch();
    }
    if scope.mutant == Some(Mutant::RestartKeepsEpoch) && old > 0 && state.reign(old).stage == Stage::Open {
        let copy = state.node_mut(node);
        (copy.adopted, copy.role) = (old, old);
        let log = copy.log;
        let reign = state.reign_mut(old);
        reign.log = log;
        reign.counted[usize::from(node)] = log.len();
    }
    lease::forget(scope, state, node);
}

/// The disk comes back blank; its process starts anew. It is another incarnation from then on (S20).
pub(super) fn wipe(scope: &Scope, state: &mut State, node: u8) -> bool {
    if state.budget.wipes == 0 || state.node(node).log.is_empty() {
        return false;
    }
    state.budget.wipes -= 1;
    *state.node_mut(node) = Node::default();
    state.void_claims(node);
    if scope.mutant == Some(Mutant::SameIdentity) {
        state.forgot |= bit(node);
    } else {
        let claimed = usize::from(state.max_epoch);
        state.reigns.iter_mut().take(claimed).for_each(|reign| reign.blank |= bit(node));
    }
    true
}

/// A durable record becomes unreadable, which shows when its node starts: everything from there on is neither present nor
/// absent.
pub(super) fn rot(scope: &Scope, state: &mut State, node: u8, lsn: u8) -> bool {
    let copy = *state.node(node);
    if state.budget.rots == 0 || lsn == 0 || lsn > copy.durable {
        return false;
    }
    state.budget.rots -= 1;
    let unknown = if scope.mutant == Some(Mutant::CorruptIsAbsent) { 0 } else { copy.durable.max(copy.unknown) };
    state.node_mut(node).unknown = unknown;
    state.node_mut(node).log = copy.log.prefix(lsn - 1);
    restart(scope, state, node);
    true
}

/// A disk that lies: it is back at an older state, and nothing on it says so. What was promised to guests may be lost; that
/// it is noticed where anybody knows better is what remains (S19).
pub(super) fn rollback(scope: &Scope, state: &mut State, node: u8, len: u8) -> bool {
    let copy = *state.node(node);
    if state.budget.rollbacks == 0 || len >= copy.durable {
        return false;
    }
    state.budget.rollbacks -= 1;
    state.rolled_back = true;
    state.node_mut(node).log = copy.log.prefix(len);
    restart(scope, state, node);
    true
}

impl Node {
    /// What had rotted was supplied by a primary and is durable again.
    pub(super) fn refilled(&mut self) {
        if self.unknown <= self.durable {
            self.unknown = 0;
        }
    }
}

impl State {
    /// A disk lied: durability is not promised any more, only that loss is loud.
    pub(super) fn beyond_the_promise(&self) -> bool {
        self.rolled_back
    }
}
