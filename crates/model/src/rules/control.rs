//! The control group: claims, changes and activations, each by compare-and-swap.

use super::{reign, takeover};
use crate::scope::{Mutant, Property, Scope};
use crate::state::{NodeSet, Reign, Stage, State, bit, count, has};

/// T1 in the control group. Any member may claim at any time. It may be at an older claim or reign, and goes on with that
/// until it learns of this.
pub(super) fn claim(scope: &Scope, state: &mut State, node: u8, members: NodeSet) -> bool {
    let base = if scope.mutant == Some(Mutant::ClaimWithoutCas) { 1 } else { state.active };
    let mut of_base = state.reign(base).members;
    if scope.mutant == Some(Mutant::ExcludedMemberClaims) {
        of_base |= bit(node);
    }
    let eligible = has(of_base, node) && !has(state.reign(base).blank, node);
    if state.max_epoch == scope.epochs || !eligible || !step_of_members(state, of_base, members, node, true) {
        return false;
    }
    if members != of_base {
        state.budget.changes -= 1;
    }
    let epoch = next_epoch(state, node, base, members);
    state.reign_mut(epoch).stage = Stage::Claimed;
    true
}

/// The claimant learns of its claim, if it has promised nothing else meanwhile.
pub(super) fn begin(state: &mut State, epoch: u8) -> bool {
    let reign = *state.reign(epoch);
    if reign.stage != Stage::Claimed || state.node(reign.primary).promised >= epoch {
        return false;
    }
    state.node_mut(reign.primary).role = epoch;
    state.reign_mut(epoch).stage = Stage::Fencing;
    true
}

/// Whether `to` follows `from`: the same set, or one node less or, with the same primary, more.
fn step_of_members(state: &State, from: NodeSet, to: NodeSet, primary: u8, may_stay: bool) -> bool {
    let differs = count(from ^ to);
    let shrinks_only = to & !from == 0;
    let allowed = if may_stay { differs == 0 || (differs == 1 && shrinks_only) } else { differs == 1 };
    has(to, primary) && allowed && (differs == 0 || state.budget.changes > 0)
}

fn next_epoch(state: &mut State, primary: u8, base: u8, members: NodeSet) -> u8 {
    state.max_epoch += 1;
    let epoch = state.max_epoch;
    let blank = state.reign(base).blank;
    *state.reign_mut(epoch) = Reign { primary, base, members, blank, ..Reign::default() };
    state.pending = epoch;
    epoch
}

/// M1 and the first half of M2: the same primary goes on in the next epoch, and appends nothing to the old one.
pub(super) fn change(scope: &Scope, state: &mut State, epoch: u8, members: NodeSet) -> Result<bool, Property> {
    let primary = state.reign(epoch).primary;
    let leads = state.active == epoch && state.leads(epoch);
    if !leads
        || state.max_epoch == scope.epochs
        || !step_of_members(state, state.reign(epoch).members, members, primary, false)
    {
        return Ok(false);
    }
    // A disk that was replaced is registered anew when its node is added (B1).
    let added = members & !state.reign(epoch).members;
    state.budget.changes -= 1;
    let next = next_epoch(state, primary, epoch, members);
    let reign = state.reign_mut(next);
    reign.by_itself = true;
    reign.blank &= !added;
    let node = state.node_mut(primary);
    (node.promised, node.adopted, node.role) = (next, next, next);
    takeover::open(scope, state, next)?;
    Ok(true)
}

/// T8: `W` members hold the epoch's start, every added one among them (M2).
pub(super) fn request(scope: &Scope, state: &mut State, epoch: u8) -> bool {
    let reign = *state.reign(epoch);
    if reign.stage != Stage::Open || !state.leads(epoch) || reign.requested || reign.activated {
        return false;
    }
    let added = if reign.by_itself { reign.members & !state.reign(reign.base).members } else { 0 };
    let holds = |node: u8| reign.counted[usize::from(node)] >= reign.start;
    let enough = reign::quorum(scope, state, epoch) >= reign.start
        && (0..scope.nodes).all(|node| !has(added, node) || holds(node));
    if !enough && scope.mutant != Some(Mutant::ActivateBeforeQuorum) {
        return false;
    }
    state.reign_mut(epoch).requested = true;
    true
}

/// T8 in the control group, T9. Everything that was in flight gets its final answer here.
pub(super) fn activate(scope: &Scope, state: &mut State, epoch: u8) -> Result<bool, Property> {
    let reign = *state.reign(epoch);
    let swaps = state.pending == epoch || scope.mutant == Some(Mutant::ActivateWithoutCas);
    if !reign.requested || !swaps {
        return Ok(false);
    }
    final_answers(state, epoch)?;
    state.active = epoch;
    if state.pending == epoch {
        state.pending = 0;
    }
    let opened = state.reign_mut(epoch);
    opened.activated = true;
    reign::commit(scope, state, epoch, reign.start)?;
    let issued = (1..=state.issued).fold(0, |set, id| set | bit(id));
    state.dead |= issued & !reign.log.writes();
    if state.leads(epoch) {
        reign::advance(scope, state, epoch)?;
    }
    Ok(true)
}

fn final_answers(state: &State, epoch: u8) -> Result<(), Property> {
    let reign = state.reign(epoch);
    if reign.base != state.active {
        return Err(Property::S21);
    }
    if !reign.by_itself && reign.start.saturating_sub(1) < reign.hint {
        return Err(Property::S19);
    }
    if state.beyond_the_promise() {
        return Ok(());
    }
    if state.seen & !reign.log.writes() != 0 {
        return Err(Property::S9);
    }
    if reign.log.writes() & state.dead != 0 {
        return Err(Property::S8);
    }
    if state.committed.is_prefix_of(reign.log) {
        return Ok(());
    }
    // The same loss, named after what led to it where that is known.
    Err(if reign.counted_blank {
        Property::S20
    } else if state.thin {
        Property::S22
    } else {
        Property::S1
    })
}
