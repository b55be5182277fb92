//! The transition relation: what a step needs, what it changes, and what must hold when it becomes final.

mod control;
mod faults;
mod lease;
mod reign;
mod takeover;

pub(crate) use lease::serves_reads;

use crate::scope::{Property, Scope};
use crate::state::State;
use crate::step::Step;

/// The state after `step`; `Ok(None)` if it is not possible there.
///
/// # Errors
/// The property that the step breaks.
pub(crate) fn apply(scope: &Scope, before: &State, step: Step) -> Result<Option<State>, Property> {
    let mut state = *before;
    Ok(apply_to(scope, before, &mut state, step)?.then_some(state))
}

/// The same on a copy of `before` that the caller made, which `Ok(false)` leaves as it is: most steps are not possible in
/// most states, and copying costs more than finding that out.
pub(crate) fn apply_to(scope: &Scope, before: &State, state: &mut State, step: Step) -> Result<bool, Property> {
    let taken = attempt(scope, before, state, step)?;
    if taken {
        state.settle(scope);
    }
    Ok(taken)
}

/// The same with everything kept that can make no difference any more.
pub(crate) fn attempt(scope: &Scope, before: &State, state: &mut State, step: Step) -> Result<bool, Property> {
    let taken = take(scope, state, step)?;
    if taken {
        promises_rise(before, state, step)?;
    }
    Ok(taken)
}

/// S14, at members and in the control group. A blank disk has promised nothing; it does not count any more.
fn promises_rise(before: &State, after: &State, step: Step) -> Result<(), Property> {
    let fell = before.nodes.iter().zip(&after.nodes).any(|(b, a)| a.promised < b.promised);
    let excused = matches!(step, Step::Wipe { .. });
    if after.active < before.active || (fell && !excused) { Err(Property::S14) } else { Ok(()) }
}

fn take(scope: &Scope, state: &mut State, step: Step) -> Result<bool, Property> {
    match step {
        Step::Claim { node, members } => Ok(control::claim(scope, state, node, members)),
        Step::Begin { epoch } => Ok(control::begin(state, epoch)),
        Step::Promise { member, epoch } => Ok(takeover::promise(scope, state, member, epoch)),
        Step::Report { member, epoch } => takeover::report(scope, state, member, epoch),
        Step::Fetch { epoch } => takeover::fetch(scope, state, epoch),
        Step::Adopt { member, epoch } => takeover::adopt(scope, state, member, epoch),
        Step::Append { member, epoch } => reign::append(scope, state, member, epoch),
        Step::Flush { node } => reign::flush(scope, state, node),
        Step::Acknowledge { member, epoch } => reign::acknowledge(scope, state, member, epoch),
        Step::Request { epoch } => Ok(control::request(scope, state, epoch)),
        Step::Activate { epoch } => control::activate(scope, state, epoch),
        Step::Write { epoch } => reign::write(scope, state, epoch),
        Step::Answer { epoch, lsn } => Ok(reign::may_answer(state, epoch, lsn)),
        Step::Learn { member } => Ok(reign::learn(state, member)),
        Step::Change { epoch, members } => control::change(scope, state, epoch, members),
        Step::ReadUncommitted { epoch } => Ok(reign::read_uncommitted(state, epoch)),
        Step::Beat { member, epoch } => Ok(lease::beat(scope, state, member, epoch)),
        Step::Grant { member, epoch } => Ok(lease::grant(scope, state, member, epoch)),
        Step::Hold { member, epoch } => Ok(lease::hold(scope, state, member, epoch)),
        Step::Tick {} => Ok(lease::tick(scope, state)),
        Step::Release { epoch } => Ok(lease::release(scope, state, epoch)),
        Step::Crash { node, landed } => Ok(faults::crash(scope, state, node, landed)),
        Step::Wipe { node } => Ok(faults::wipe(scope, state, node)),
        Step::Rot { node, lsn } => Ok(faults::rot(scope, state, node, lsn)),
        Step::Rollback { node, len } => Ok(faults::rollback(scope, state, node, len)),
    }
}
