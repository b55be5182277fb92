//! When another copy should become primary, and which.
//!
//! ```text
//!   per open volume      primary serves or tries            primary dead, failed, or idle for long
//!   no nominee           nothing                            nominate the best copy
//!   nominee              planned or forced by an operator:  moves on: nothing
//!                        withdraw it if it is stuck         dead, or stuck for its patience: the next best
//! ```
//! Decisions are wishes: a nominee claims, and the compare-and-swap decides. So a wrong one costs a failover at
//! worst, and what limits their number (L3) is patience that doubles while nothing comes of them.

use crate::alone::Missing;
use crate::command::Command;
use crate::detector::{CopyReport, CopyRole, CopyState, Detector};
use crate::placement;
use crate::redundancy::Moves;
use crate::state::State;
use holdfast_types::{Epoch, Lsn, NodeId, Nominee, Time, VolumeId, VolumeView};
use std::collections::BTreeMap;
use std::time::Duration;

/// Primaries that hand over at a time because their nodes are drained: each takes a pause of its guests.
const HAND_OVERS: usize = 8;
/// A primary that is slow hands over at most so often: its successor may be slow as well.
const SLOW_COOL_DOWN: Duration = Duration::from_mins(10);
/// A proposal that the state still does not show after this is made again.
const REPEAT: Duration = Duration::from_secs(1);

/// What a leader remembers; gone with its leadership.
pub(crate) struct Leading {
    since: Time,
    watches: BTreeMap<VolumeId, Watch>,
    moves: Moves,
}

#[derive(Default)]
struct Watch {
    /// Since when the primary lives but neither serves nor tries.
    idle: Option<Time>,
    /// What the primary that tries to open has reached, and since when.
    trying: Option<(Progress, Time)>,
    /// The nominee being followed.
    followed: Option<Followed>,
    /// Nominees in a row of which nothing came.
    fruitless: u32,
    /// Which copy of two does not reach which, and since when.
    missing: Missing,
    /// The last proposal, and when.
    proposed: Option<(Command, Time)>,
    /// When a slow primary was last made to hand over.
    unburdened: Option<Time>,
}

struct Followed {
    nominee: Nominee,
    progress: Progress,
    at: Time,
}

/// What a claimant moves when it gets on.
type Progress = (Option<Epoch>, Option<(Epoch, CopyRole, CopyState, Lsn, Lsn)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// It serves, opens or claims, or its time to do so is not over.
    Well,
    /// Somebody else must.
    Lost,
}

impl Detector {
    /// What to propose. Called often, by every node; only a leader has something to propose.
    pub fn decide(&mut self, state: &State, me: NodeId, is_leader: bool, now: Time) -> Vec<Command> {
        if !is_leader {
            self.leading = None;
            return Vec::new();
        }
        let fresh = || Leading { since: now, watches: BTreeMap::new(), moves: Moves::default() };
        let mut leading = self.leading.take().unwrap_or_else(fresh);
        leading.watches.retain(|id, _| state.volumes.contains_key(id));
        let mut commands = Vec::new();
        let views: Vec<VolumeView> = state.volumes.keys().filter_map(|id| state.view(*id)).collect();
        // What dead nodes led is shared by those that live, not left to one of them.
        let mut leads = placement::leads(state.volumes());
        let mut handing_over = views.iter().filter(|v| v.nominee.is_some_and(|n| n.planned)).count();
        for view in &views {
            let watch = leading.watches.entry(view.volume).or_default();
            let may_hand_over = handing_over < HAND_OVERS;
            let since = leading.since;
            let look = Look { detector: self, state, view, me, now, since, may_hand_over, leads: &leads };
            if let Some(command) = look.decide(watch) {
                if let Command::Nominate { node, .. } = &command {
                    *leads.entry(*node).or_default() += 1;
                }
                handing_over += usize::from(matches!(command, Command::Nominate { planned: true, .. }));
                let repeated = watch.proposed.as_ref().is_some_and(|(c, at)| *c == command && now.since(*at) < REPEAT);
                if !repeated {
                    watch.proposed = Some((command.clone(), now));
                    commands.push(command);
                }
            }
        }
        // A fresh leader may not have heard of everybody yet.
        if now.since(leading.since) >= self.config.failure_timeout {
            commands.extend(self.keep_redundancy(state, &mut leading.moves, now));
        }
        self.leading = Some(leading);
        commands
    }
}

/// One volume at one moment.
pub(crate) struct Look<'a> {
    pub(crate) detector: &'a Detector,
    pub(crate) state: &'a State,
    pub(crate) view: &'a VolumeView,
    me: NodeId,
    pub(crate) now: Time,
    since: Time,
    /// Few enough primaries hand over already.
    may_hand_over: bool,
    /// How many volumes each node leads, or is to lead.
    leads: &'a BTreeMap<NodeId, usize>,
}

impl Look<'_> {
    fn decide(&self, watch: &mut Watch) -> Option<Command> {
        if let Some(command) = self.go_alone(&mut watch.missing) {
            return Some(command);
        }
        let lead = self.lead(watch);
        let Some(nominee) = self.view.nominee else {
            watch.followed = None;
            if lead == Lead::Well {
                watch.fruitless = 0;
                return self.move_away().or_else(|| self.unburden(watch));
            }
            return self.nominate_best(None);
        };
        let stuck = self.stuck(nominee, watch);
        let dead = self.dead(nominee.node) || self.report(nominee.node).is_some_and(CopyReport::unable);
        if dead {
            // Its patience starts when it is back.
            watch.followed = None;
        }
        match lead {
            Lead::Well if dead || stuck => {
                Some(Command::ClearNominee { volume: self.view.volume, base: self.view.active.epoch })
            }
            Lead::Well => None,
            // Nobody is left to hand over: the same node, or a better one, must not wait for it.
            Lead::Lost if nominee.planned => self.nominate_best(None),
            Lead::Lost if dead => self.nominate_best(Some(nominee.node)),
            Lead::Lost if stuck => {
                watch.fruitless = watch.fruitless.saturating_add(1);
                // With the state unchanged (the same node again) its patience starts anew, too.
                watch.followed = None;
                self.nominate_best(Some(nominee.node)).or_else(|| self.nominate_best(None))
            }
            Lead::Lost => None,
        }
    }

    /// Whether the primary is to be left alone.
    fn lead(&self, watch: &mut Watch) -> Lead {
        let Some(primary) = self.view.active.primary else { return Lead::Lost };
        let report = self.report(primary);
        if report.is_some_and(CopyReport::failed) || self.hung_and_replaceable(primary) {
            return Lead::Lost;
        }
        if self.detector.restarting(primary, self.now).is_some() {
            // It lets go by itself and comes back where its guests wait; a failover would leave them behind.
            (watch.idle, watch.trying) = (None, None);
            return Lead::Well;
        }
        if self.dead(primary) {
            watch.idle = None;
            return Lead::Lost;
        }
        let acts = |r: &CopyReport| matches!(r.role, CopyRole::Primary | CopyRole::Claimant);
        if report.is_some_and(|r| acts(r) && r.state == CopyState::Serving) || self.within_grace() {
            (watch.idle, watch.trying) = (None, None);
            return Lead::Well;
        }
        if report.is_some_and(acts) {
            watch.idle = None;
            return self.trying(primary, watch);
        }
        let idle = *watch.idle.get_or_insert(self.now);
        let patient = self.now.since(idle) < self.detector.config.restart_patience;
        if patient { Lead::Well } else { Lead::Lost }
    }

    /// A primary that opens, or claims again after a restart, is left alone while it gets on.
    fn trying(&self, primary: NodeId, watch: &mut Watch) -> Lead {
        let progress = self.progress(primary);
        let trying = watch.trying.take().filter(|(before, _)| *before == progress).unwrap_or((progress, self.now));
        let patient = self.now.since(trying.1) < self.detector.config.nominee_patience_max;
        watch.trying = Some(trying);
        if patient { Lead::Well } else { Lead::Lost }
    }

    /// Its device does not answer, and enough others could hold a write without it: a claim that needs it would only end
    /// its reign (trap 31).
    fn hung_and_replaceable(&self, primary: NodeId) -> bool {
        let quorum = if self.may_go_alone() { 1 } else { usize::from(self.view.active.write_quorum) };
        self.report(primary).is_some_and(|r| r.hung.is_some()) && self.able().count() >= quorum
    }

    /// Members that live and can lead or follow.
    fn able(&self) -> impl Iterator<Item = NodeId> {
        let able = |n: &NodeId| !self.dead(*n) && !self.report(*n).is_some_and(CopyReport::unable);
        self.view.active.members.iter().map(|m| m.node).filter(able)
    }

    fn within_grace(&self) -> bool {
        self.now.since(self.since) < self.detector.config.failure_timeout
    }

    /// Silent for long. A fresh leader gives everybody a full timeout: it does not know why it became leader.
    pub(crate) fn dead(&self, node: NodeId) -> bool {
        node != self.me && !self.detector.alive(node, self.now) && !self.within_grace()
    }

    pub(crate) fn report(&self, node: NodeId) -> Option<&CopyReport> {
        self.detector.report(node, self.view.volume)
    }

    fn stuck(&self, nominee: Nominee, watch: &mut Watch) -> bool {
        let progress = self.progress(nominee.node);
        let followed = watch.followed.take().filter(|f| f.nominee == nominee && f.progress == progress);
        let followed = followed.unwrap_or(Followed { nominee, progress, at: self.now });
        let stuck = self.now.since(followed.at) >= self.patience(watch.fruitless);
        watch.followed = Some(followed);
        stuck
    }

    fn progress(&self, node: NodeId) -> Progress {
        let pending = self.view.pending.as_ref().filter(|p| p.configuration.primary == Some(node));
        let moved = |r: &CopyReport| (r.epoch, r.role, r.state.clone(), r.received, r.durable);
        (pending.map(|p| p.configuration.epoch), self.report(node).map(moved))
    }

    fn patience(&self, fruitless: u32) -> Duration {
        let config = &self.detector.config;
        let doubled = config.nominee_patience.saturating_mul(2_u32.saturating_pow(fruitless));
        doubled.min(config.nominee_patience_max)
    }

    /// A primary whose copy is to go, or whose node is to be drained, hands over to a member that stays and follows.
    fn move_away(&self) -> Option<Command> {
        let leaving = &self.view.leaving;
        let drained = |n: NodeId| self.state.node(n).is_some_and(crate::Node::is_drained);
        let goes = |n: NodeId| leaving.contains(&n) || drained(n);
        let primary = self.view.active.primary.filter(|p| self.may_hand_over && goes(*p))?;
        let follows = |n: &NodeId| {
            *n != primary
                && !leaving.contains(n)
                && !self.dead(*n)
                && self.report(*n).is_some_and(|r| r.state == CopyState::InSync && r.hung.is_none())
        };
        let follows = |n: &NodeId| follows(n) && (!drained(*n) || leaving.contains(&primary));
        let log = |n: &NodeId| (!drained(*n), self.report(*n).map(|r| (r.epoch, r.durable)), std::cmp::Reverse(*n));
        let node = self.view.active.members.iter().map(|m| m.node).filter(follows).max_by_key(log)?;
        Some(Command::Nominate { volume: self.view.volume, node, base: self.view.active.epoch, planned: true })
    }

    /// A primary whose copy is slow hands over to a member that follows and is not, if that is wanted. A switchover loses nothing; it takes
    /// place within the volume's members and only while every one of them is well, so that the next fault finds what it would have found.
    fn unburden(&self, watch: &mut Watch) -> Option<Command> {
        let primary =
            self.view.active.primary.filter(|_| self.may_hand_over && self.detector.config.move_slow_primary)?;
        let slow = &self.report(primary)?.slow;
        let recent = watch.unburdened.is_some_and(|at| self.now.since(at) < SLOW_COOL_DOWN);
        if recent || !slow.iter().any(|s| s.node == primary) || self.view.pending.is_some() {
            return None;
        }
        let others = || self.view.active.members.iter().map(|m| m.node).filter(|n| *n != primary);
        let follows = |n: NodeId| self.report(n).is_some_and(|r| r.state == CopyState::InSync && r.hung.is_none());
        let stays = |n: NodeId| self.state.node(n).is_some_and(crate::Node::takes_copies);
        let leaving = &self.view.leaving;
        if !others().all(|n| !self.dead(n) && follows(n)) {
            return None;
        }
        let fit = |n: &NodeId| stays(*n) && !leaving.contains(n) && slow.iter().all(|s| s.node != *n);
        let log = |n: &NodeId| (self.report(*n).map(|r| (r.epoch, r.durable)), std::cmp::Reverse(*n));
        let node = others().filter(fit).max_by_key(log)?;
        watch.unburdened = Some(self.now);
        Some(Command::Nominate { volume: self.view.volume, node, base: self.view.active.epoch, planned: true })
    }

    /// The live member with the longest log, as far as known; of several the one that leads the fewest volumes. `None` if too few live
    /// to open at all: to claim would only seal them, and their reports may still change who is best.
    fn nominate_best(&self, but: Option<NodeId>) -> Option<Command> {
        let able: Vec<NodeId> = self.able().collect();
        if !self.view.is_fence(|n| able.contains(&n)) {
            return None;
        }
        let log = |n: NodeId| self.report(n).map(|r| (r.epoch, r.durable));
        let leads = |n: &NodeId| self.leads.get(n).copied().unwrap_or(0);
        let rank = |n: &NodeId| (log(*n), std::cmp::Reverse(leads(n)), std::cmp::Reverse(*n));
        let node = able.into_iter().filter(|n| Some(*n) != but).max_by_key(rank)?;
        Some(Command::Nominate { volume: self.view.volume, node, base: self.view.active.epoch, planned: false })
    }
}
