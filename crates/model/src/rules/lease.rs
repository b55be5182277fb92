//! Read leases, with two rates of clocks: in one tick a slow clock counts two units and a fast one three.

use crate::scope::{Mutant, Scope};
use crate::state::{Beat, State, TO_ANYBODY, has};

const SLOW: u8 = 2;
const FAST: u8 = 3;
/// What a grantor waits: two ticks of a fast clock.
const GRANTED: u8 = 2 * FAST;
/// What a holder trusts: the same time by a slow clock.
const TRUSTED: u8 = GRANTED * SLOW / FAST;

/// N8: only members that follow the epoch are asked.
pub(super) fn beat(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> bool {
    let reign = state.reign(epoch);
    let at = usize::from(member);
    let asks = reign.activated && state.leads(epoch) && has(reign.members, member) && member != reign.primary;
    // A beat under way that is as fresh is the same beat.
    let idle = matches!(reign.beats[at], Beat::None | Beat::Held);
    if !asks || !idle || state.reign(epoch).released {
        return false;
    }
    let trusted = if scope.mutant == Some(Mutant::NoDriftMargin) { GRANTED } else { TRUSTED };
    let reign = state.reign_mut(epoch);
    (reign.beats[at], reign.trust[at]) = (Beat::Sent, trusted);
    true
}

/// The grantor counts from receipt. To grant what nobody will hold any more is left out: it only makes members wait.
pub(super) fn grant(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> bool {
    let at = usize::from(member);
    let node = state.node(member);
    let follows = node.promised == epoch || (scope.mutant == Some(Mutant::GrantAfterPromise) && node.promised > epoch);
    if epoch > state.max_epoch || !follows || node.adopted != epoch {
        return false;
    }
    if state.reign(epoch).beats[at] != Beat::Sent || !state.leads(epoch) {
        return false;
    }
    state.reign_mut(epoch).beats[at] = Beat::Granted;
    let node = state.node_mut(member);
    (node.grant, node.grant_of) = (GRANTED, epoch);
    true
}

/// The holder counts from when it sent the beat.
pub(super) fn hold(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> bool {
    let at = usize::from(member);
    if epoch > state.max_epoch || state.reign(epoch).beats[at] != Beat::Granted || !state.leads(epoch) {
        return false;
    }
    let reign = state.reign_mut(epoch);
    reign.beats[at] = Beat::Held;
    if scope.mutant == Some(Mutant::HoldFromReceipt) {
        reign.trust[at] = TRUSTED;
    }
    true
}

pub(super) fn tick(scope: &Scope, state: &mut State) -> bool {
    let before = *state;
    let rate = |node: u8| if has(before.fast, node) { FAST } else { SLOW };
    for node in 0..scope.nodes {
        let copy = state.node_mut(node);
        copy.grant = copy.grant.saturating_sub(rate(node));
    }
    for epoch in 1..=state.max_epoch {
        let reign = state.reign_mut(epoch);
        let passed = rate(reign.primary);
        for (beat, trust) in reign.beats.iter_mut().zip(&mut reign.trust) {
            if *beat != Beat::Held && scope.mutant == Some(Mutant::HoldFromReceipt) {
                continue;
            }
            *trust = trust.saturating_sub(passed);
            if *trust == 0 {
                *beat = Beat::None;
            }
        }
    }
    *state != before
}

/// Whether `member` must wait before it promises anything to `claimant`: somebody else may still serve reads.
pub(super) fn holds_back(scope: &Scope, state: &State, member: u8, claimant: u8) -> bool {
    let node = state.node(member);
    if node.grant == 0 || scope.mutant == Some(Mutant::FenceIgnoresGrant) {
        return false;
    }
    if node.grant_of == TO_ANYBODY {
        return true;
    }
    let holder = state.reign(node.grant_of);
    holder.primary != claimant && !holder.released
}

/// What a restarted member must assume that it had granted. A lease is granted only under the promised epoch: where that
/// is its own, it granted none.
pub(super) fn forget(scope: &Scope, state: &mut State, node: u8) {
    let own = state.reign(state.active).primary == node && state.node(node).promised == state.active;
    let waits = scope.leases && !own && scope.mutant != Some(Mutant::RestartForgetsGrant);
    let waits = waits && state.node(node).promised > 0;
    let copy = state.node_mut(node);
    (copy.grant, copy.grant_of) = if waits { (GRANTED, TO_ANYBODY) } else { (0, 0) };
}

/// Planned hand-over: no read is served any more, and members may fence at once.
pub(super) fn release(scope: &Scope, state: &mut State, epoch: u8) -> bool {
    if !state.reign(epoch).activated || !state.leads(epoch) || state.budget.releases == 0 {
        return false;
    }
    state.budget.releases -= 1;
    state.reign_mut(epoch).released = true;
    if scope.mutant != Some(Mutant::ReleaseKeepsServing) {
        let primary = state.reign(epoch).primary;
        state.node_mut(primary).role = 0;
    }
    true
}

/// Whether the primary of `epoch` would serve a read now.
pub(crate) fn serves_reads(scope: &Scope, state: &State, epoch: u8) -> bool {
    let reign = state.reign(epoch);
    if !reign.activated || !state.leads(epoch) {
        return false;
    }
    let needed = scope.write_quorum(reign.members) - 1;
    let needed = if scope.mutant == Some(Mutant::TooFewGrants) { needed.saturating_sub(1) } else { needed };
    let held = (0..3).filter(|n| has(reign.members, *n) && reign.beats[usize::from(*n)] == Beat::Held).count();
    held >= needed
}
