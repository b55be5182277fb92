//! What must hold in every state. What must hold when something becomes final is checked in the step that makes it so
//! (`rules/control.rs`, `rules/reign.rs`).

use crate::rules::serves_reads;
use crate::scope::{Mutant, Property, Scope};
use crate::state::State;

type Check = fn(&Scope, &State) -> bool;

/// The first property that does not hold.
pub(crate) fn broken(scope: &Scope, state: &State) -> Option<Property> {
    let checks: [(Check, Property); 5] = [
        (epochs_rise, Property::S14),
        (logs_match, Property::S15),
        (images_are_committed, Property::S16),
        (members_agree, Property::S2),
        (reads_are_fresh, Property::S13),
    ];
    checks.into_iter().find(|(holds, _)| !holds(scope, state)).map(|(_, property)| property)
}

fn epochs_rise(_: &Scope, state: &State) -> bool {
    state.nodes.iter().all(|n| n.log.epochs_rise())
}

fn logs_match(_: &Scope, state: &State) -> bool {
    let [a, b, c] = state.nodes.map(|n| n.log);
    a.matches(b) && a.matches(c) && b.matches(c)
}

/// Members apply what they know to be committed at once, so the image reaches as far as that.
fn images_are_committed(scope: &Scope, state: &State) -> bool {
    let image = |node: &crate::state::Node| match scope.mutant {
        Some(Mutant::ApplyBeyondCommit) => node.durable,
        _ => node.hint.min(node.durable),
    };
    !scope.hints
        || state.rolled_back
        || state.nodes.iter().all(|n| n.log.prefix(image(n)).is_prefix_of(state.committed))
}

fn members_agree(_: &Scope, state: &State) -> bool {
    state.nodes.iter().all(|node| {
        if node.adopted == 0 || node.promised != node.adopted {
            return true;
        }
        let reign = state.reign(node.adopted);
        !reign.activated || node.log.prefix(reign.start).is_prefix_of(reign.log)
    })
}

fn reads_are_fresh(scope: &Scope, state: &State) -> bool {
    !scope.leases || (1..state.active).all(|epoch| !serves_reads(scope, state, epoch))
}
