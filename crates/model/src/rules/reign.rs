//! Normal operation, N2 to N6.

use crate::log::Record;
use crate::scope::{Mutant, Property, Scope, Volatile};
use crate::state::{NodeSet, Stage, State, has};

/// N2. Records go out as soon as they are appended; when they arrive is another step.
pub(super) fn write(scope: &Scope, state: &mut State, epoch: u8) -> Result<bool, Property> {
    let reign = *state.reign(epoch);
    let early = reign.by_itself || scope.mutant == Some(Mutant::CommitBeforeActivation);
    let serves = state.leads(epoch) && reign.stage == Stage::Open && (reign.activated || early);
    let goes_on = scope.mutant == Some(Mutant::AppendAfterChange) && reign.activated && state.counts(epoch);
    if state.issued == scope.writes || !(serves || goes_on) {
        return Ok(false);
    }
    state.issued += 1;
    let record = Record::write(epoch, state.issued);
    state.reign_mut(epoch).log.push(record);
    if serves {
        state.node_mut(reign.primary).log.push(record);
        appended(scope, state, reign.primary)?;
    }
    Ok(true)
}

/// The primary's own copy: in memory, or at once durable where the scope does not tell the two apart.
pub(super) fn appended(scope: &Scope, state: &mut State, primary: u8) -> Result<(), Property> {
    if scope.volatile == Volatile::Nobody { flushed(scope, state, primary) } else { Ok(()) }
}

pub(super) fn flush(scope: &Scope, state: &mut State, node: u8) -> Result<bool, Property> {
    if state.node(node).durable == state.node(node).log.len() {
        return Ok(false);
    }
    flushed(scope, state, node)?;
    Ok(true)
}

/// Everything is durable at `node`: a member acknowledges, a primary counts itself, as one among equals.
fn flushed(scope: &Scope, state: &mut State, node: u8) -> Result<(), Property> {
    let copy = state.node_mut(node);
    copy.durable = copy.log.len();
    copy.refilled();
    let (durable, role, adopted) = (copy.durable, copy.role, copy.adopted);
    if role == 0 {
        if adopted > 0 {
            acknowledged(scope, state, node, adopted);
        }
        return Ok(());
    }
    // While members change, records of the epoch that ends still count there (M3).
    let before = Some(state.reign(role)).filter(|reign| reign.by_itself).map(|reign| reign.base);
    for epoch in [Some(role), before].into_iter().flatten() {
        if state.reign(epoch).stage == Stage::Open {
            let reign = state.reign_mut(epoch);
            reign.counted[usize::from(node)] = durable.min(reign.log.len());
            advance(scope, state, epoch)?;
        }
    }
    Ok(())
}

/// N3 at a member: epoch, then continuity.
pub(super) fn append(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> Result<bool, Property> {
    if epoch > state.max_epoch {
        return Ok(false);
    }
    let reign = state.reign(epoch);
    let node = state.node(member);
    let takes = node.promised == epoch || (scope.mutant == Some(Mutant::NoPromiseCheck) && node.promised > epoch);
    if reign.stage != Stage::Open || member == reign.primary || !takes || node.adopted != epoch {
        return Ok(false);
    }
    let Some(record) = reign.log.at(node.log.len() + 1) else { return Ok(false) };
    if !node.log.is_prefix_of(reign.log) {
        return Err(Property::S15);
    }
    let node = state.node_mut(member);
    node.log.push(record);
    if scope.volatile != Volatile::Everybody {
        node.durable = node.log.len();
        node.refilled();
    }
    acknowledged(scope, state, member, epoch);
    Ok(true)
}

/// What `member` says to the primary of `epoch`: only for the epoch that it promised and adopted.
pub(super) fn acknowledged(scope: &Scope, state: &mut State, member: u8, epoch: u8) {
    let node = *state.node(member);
    let speaks = node.promised == epoch
        || matches!(scope.mutant, Some(Mutant::NoPromiseCheck | Mutant::ReportBeforeDrain)) && node.promised > epoch;
    if speaks && node.adopted == epoch && state.reign(epoch).primary != member {
        let upto = if scope.mutant == Some(Mutant::AckBeforeDurable) { node.log.len() } else { node.durable };
        let acked = &mut state.reign_mut(epoch).acked[usize::from(member)];
        *acked = upto.max(*acked);
    }
}

/// N4 at the primary.
pub(super) fn acknowledge(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> Result<bool, Property> {
    let at = usize::from(member);
    let reign = state.reign(epoch);
    if !state.counts(epoch) || reign.acked[at] <= reign.counted[at] {
        return Ok(false);
    }
    let reign = state.reign_mut(epoch);
    reign.counted[at] = reign.acked[at];
    advance(scope, state, epoch)?;
    Ok(true)
}

/// The W-th greatest of what was counted.
pub(super) fn quorum(scope: &Scope, state: &State, epoch: u8) -> u8 {
    let reign = state.reign(epoch);
    let voters: NodeSet = if scope.mutant == Some(Mutant::LearnerCounts) { 7 } else { reign.members };
    let witness = usize::from(scope.mutant == Some(Mutant::WitnessCounts));
    let needed = scope.write_quorum(reign.members) - witness;
    let held = |upto: u8| (0..3).filter(|n| has(voters, *n) && reign.counted[usize::from(*n)] >= upto).count();
    (0..=reign.log.len()).rev().find(|upto| held(*upto) >= needed).unwrap_or(0)
}

/// Commits what W members hold, from the epoch's start on, once the epoch is active.
pub(super) fn advance(scope: &Scope, state: &mut State, epoch: u8) -> Result<(), Property> {
    let reign = state.reign(epoch);
    let open = reign.activated || scope.mutant == Some(Mutant::CommitBeforeActivation);
    let upto = quorum(scope, state, epoch);
    if !open || upto < reign.start || !state.counts(epoch) {
        return Ok(());
    }
    if scope.hints {
        let primary = state.reign(epoch).primary;
        state.node_mut(primary).hint = upto.max(state.node(primary).hint);
    }
    commit(scope, state, epoch, upto)
}

/// The log of `epoch` up to `upto` is final: what was acknowledged or opened is compared with all that was before.
pub(super) fn commit(scope: &Scope, state: &mut State, epoch: u8, upto: u8) -> Result<(), Property> {
    let reign = state.reign(epoch);
    let log = reign.log.prefix(upto);
    let holders = (0..3).filter(|n| has(reign.members, *n) && reign.counted[usize::from(*n)] >= upto).count();
    if scope.witness && state.counts(epoch) && holders < scope.write_quorum(reign.members) {
        state.thin = true;
    }
    if state.beyond_the_promise() || log.is_prefix_of(state.committed) {
        return Ok(());
    }
    if !state.committed.is_prefix_of(log) {
        return Err(Property::S11);
    }
    if log.writes() & state.dead != 0 {
        return Err(Property::S8);
    }
    state.committed = log;
    Ok(())
}

/// N5: only what is committed is answered.
pub(super) fn may_answer(state: &State, epoch: u8, lsn: u8) -> bool {
    let log = state.reign(epoch).log.prefix(lsn);
    log.len() == lsn && log.is_prefix_of(state.committed)
}

/// N5, N6: committed records go to the image at once, so `hint` is also how far the image may be.
pub(super) fn learn(state: &mut State, member: u8) -> bool {
    let node = *state.node(member);
    if node.adopted == 0 || node.promised != node.adopted || !state.leads(node.adopted) {
        return false;
    }
    let known = state.node(state.reign(node.adopted).primary).hint;
    if known <= node.hint {
        return false;
    }
    state.node_mut(member).hint = known;
    true
}

/// Only a mutant takes this step.
pub(super) fn read_uncommitted(state: &mut State, epoch: u8) -> bool {
    let reign = state.reign(epoch);
    let writes = reign.log.writes();
    if !reign.activated || !state.leads(epoch) || state.active != epoch || writes & !state.seen == 0 {
        return false;
    }
    state.seen |= writes;
    true
}
