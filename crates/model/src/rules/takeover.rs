//! Takeover, T2 to T7.

use super::{lease, reign};
use crate::log::{Log, Record};
use crate::scope::{Mutant, Property, Scope, Volatile};
use crate::state::{Stage, State, bit, count, has};

/// T2a to T2c: the lease has ended, older appends have landed, the promise is durable.
pub(super) fn promise(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> bool {
    if epoch > state.max_epoch {
        return false;
    }
    let reign = *state.reign(epoch);
    let concerned = has(reign.members | state.reign(reign.base.max(1)).members, member) || scope.learners;
    let node = *state.node(member);
    // A claimant asks itself as long as it is at this claim, and keeps the promise if it is at a later one by then.
    let asked = reign.primary != member || node.role >= epoch;
    if matches!(reign.stage, Stage::Unclaimed | Stage::Claimed) || epoch <= node.promised || !concerned || !asked {
        return false;
    }
    if lease::holds_back(scope, state, member, reign.primary) {
        return false;
    }
    let node = state.node_mut(member);
    node.promised = epoch;
    if scope.mutant != Some(Mutant::ReportBeforeDrain) {
        node.durable = node.log.len();
        node.refilled();
    }
    if node.role < epoch {
        node.role = 0;
    }
    true
}

/// T2d to T4. A report that comes late changes nothing but when: the member's log stays as it is until it promises more
/// or adopts.
pub(super) fn report(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> Result<bool, Property> {
    if epoch > state.max_epoch {
        return Ok(false);
    }
    let reign = *state.reign(epoch);
    let node = *state.node(member);
    let fenced = node.promised == epoch
        || (scope.mutant == Some(Mutant::ReportWithoutFence) && node.promised < epoch && member != reign.primary);
    if reign.stage != Stage::Fencing || !state.leads(epoch) || !fenced || has(reign.reported, member) {
        return Ok(false);
    }
    let may_count = match scope.mutant {
        Some(Mutant::FenceNewMembers) => reign.members,
        Some(Mutant::ExcludedMemberClaims) => 7,
        _ => state.reign(reign.base).members,
    };
    let whole = node.unknown == 0 && !has(reign.blank, member);
    let (tail, forgot) = (node.log.prefix(node.durable), has(state.forgot, member));
    let tables = state.nodes.map(|n| n.table);
    let into = state.reign_mut(epoch);
    into.reported |= bit(member);
    into.hint = into.hint.max(node.hint);
    if whole && has(may_count, member) {
        let table_of = |of: u8| tables[usize::from(of)];
        let rank = |log: Log, of: u8| match scope.mutant {
            Some(Mutant::ChooseByLength) => (0, log.len(), of == reign.primary),
            Some(Mutant::TopOfTable) => (table_of(of).max(log.last_epoch()), log.len(), of == reign.primary),
            _ => (log.last_epoch(), log.len(), of == reign.primary),
        };
        let (new, best) = (rank(tail, member), rank(reign.log, reign.source));
        let better = if scope.mutant == Some(Mutant::ChooseShorter) { new < best } else { new > best };
        if into.valid == 0 || better {
            (into.log, into.source) = (tail, member);
        }
        into.valid |= bit(member);
        into.counted_blank |= forgot;
    }
    choose(scope, state, epoch)?;
    Ok(true)
}

/// T3, T4, and the claimant's own cut.
fn choose(scope: &Scope, state: &mut State, epoch: u8) -> Result<(), Property> {
    let reign = *state.reign(epoch);
    let fenced_set =
        if scope.mutant == Some(Mutant::FenceNewMembers) { reign.members } else { state.reign(reign.base).members };
    let needed = match scope.mutant {
        Some(Mutant::FenceTooFew) => scope.fence_quorum(fenced_set).max(2) - 1,
        _ => scope.fence_quorum(fenced_set),
    };
    let lost = reign.log.len() < reign.hint && scope.mutant != Some(Mutant::NoLossCheck);
    if !has(reign.reported, reign.primary) || count(reign.valid) < needed || lost {
        return Ok(());
    }
    cut(scope, state, reign.primary, epoch)?;
    state.reign_mut(epoch).stage = Stage::Fetching;
    complete(scope, state, epoch)
}

/// What the epoch's log and the node's have in common stays (T7). Nothing known to be committed is ever cut (S16).
fn cut(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> Result<(), Property> {
    let common = state.node(member).log.common_point(state.reign(epoch).log, epoch);
    cut_to(scope, state, member, epoch, common)
}

fn cut_to(scope: &Scope, state: &mut State, member: u8, epoch: u8, len: u8) -> Result<(), Property> {
    let beyond = state.beyond_the_promise();
    let node = state.node_mut(member);
    if len < node.hint.min(node.log.len()) && !beyond {
        return Err(Property::S16);
    }
    node.log = node.log.prefix(len);
    node.durable = len;
    node.adopted = epoch;
    if scope.mutant == Some(Mutant::TopOfTable) {
        node.table = epoch;
    }
    node.refilled();
    Ok(())
}

/// T5: each question fences whom it asks.
pub(super) fn fetch(scope: &Scope, state: &mut State, epoch: u8) -> Result<bool, Property> {
    let reign = *state.reign(epoch);
    if reign.stage != Stage::Fetching || !state.leads(epoch) {
        return Ok(false);
    }
    let source = *state.node(reign.source);
    let next = state.node(reign.primary).log.len() + 1;
    let fenced = source.promised == epoch || scope.mutant == Some(Mutant::FetchWithoutFence);
    let answers = fenced && !has(reign.blank, reign.source);
    let Some(record) = source.log.at(next).filter(|_| answers) else { return Ok(false) };
    let node = state.node_mut(reign.primary);
    node.log.push(record);
    if scope.volatile != Volatile::Everybody {
        node.durable = next;
        node.refilled();
    }
    complete(scope, state, epoch)?;
    Ok(true)
}

/// T6 once the claimant holds all of the chosen log.
fn complete(scope: &Scope, state: &mut State, epoch: u8) -> Result<(), Property> {
    let reign = state.reign(epoch);
    if state.node(reign.primary).log.len() < reign.log.len() { Ok(()) } else { open(scope, state, epoch) }
}

/// T6: the epoch's own record, and the log is offered to members.
pub(super) fn open(scope: &Scope, state: &mut State, epoch: u8) -> Result<(), Property> {
    let primary = state.reign(epoch).primary;
    let node = state.node_mut(primary);
    if scope.mutant != Some(Mutant::NoEpochStart) {
        node.log.push(Record::start(epoch));
    }
    let log = node.log;
    let reign = state.reign_mut(epoch);
    (reign.stage, reign.log, reign.start) = (Stage::Open, log, log.len());
    reign::appended(scope, state, primary)
}

/// T7 at a member. The epoch's primary may be gone: its message was under way.
pub(super) fn adopt(scope: &Scope, state: &mut State, member: u8, epoch: u8) -> Result<bool, Property> {
    if epoch > state.max_epoch {
        return Ok(false);
    }
    let reign = *state.reign(epoch);
    let node = *state.node(member);
    if reign.stage != Stage::Open || member == reign.primary || node.promised != epoch || node.adopted == epoch {
        return Ok(false);
    }
    if !state.may_follow(scope, member, epoch) {
        return Ok(false);
    }
    match scope.mutant {
        Some(Mutant::AdoptWithoutCut) => cut_to(scope, state, member, epoch, node.log.len())?,
        // The cut point that the primary computed from the report before the epoch's start.
        Some(Mutant::StaleCut) => {
            let common = node.log.common_point(reign.log, epoch).min(reign.start - 1);
            cut_to(scope, state, member, epoch, common)?;
        }
        _ => cut(scope, state, member, epoch)?,
    }
    reign::acknowledged(scope, state, member, epoch);
    Ok(true)
}
