//! A state of the model: three nodes, the reigns that were claimed, the control group, and what has become final.

use crate::log::{CAPACITY, Log, Record};
use crate::scope::{Mutant, Scope};

/// Nodes; a scope uses the first two or all three.
pub(crate) const NODES: usize = 3;
/// Epochs; a scope uses some of them. Epoch 0 is none, epoch 1 is open in the first state.
pub(crate) const EPOCHS: usize = 4;

/// A bit for each node.
pub(crate) type NodeSet = u8;

pub(crate) fn bit(node: u8) -> NodeSet {
    1 << node
}

pub(crate) fn has(set: NodeSet, node: u8) -> bool {
    set & bit(node) != 0
}

pub(crate) fn count(set: NodeSet) -> usize {
    [0, 1, 2].into_iter().filter(|n| has(set, *n)).count()
}

/// The grant of a member that restarted: it may have granted to anybody.
pub(crate) const TO_ANYBODY: u8 = 15;

/// One node's copy: what is on its disk, then what is in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Node {
    pub(crate) log: Log,
    /// Records of `log` that are on stable storage.
    pub(crate) durable: u8,
    pub(crate) promised: u8,
    /// Highest LSN known to be committed.
    pub(crate) hint: u8,
    /// Newest epoch of its table, which may have no record here yet; only a mutant asks for it.
    pub(crate) table: u8,
    /// Records above the log's end and up to here have rotted: neither present nor absent.
    pub(crate) unknown: u8,
    /// Memory: whose table it adopted in this life.
    pub(crate) adopted: u8,
    /// Memory: the epoch it claims or reigns in; 0: follower.
    pub(crate) role: u8,
    /// Memory: what is left of the lease it granted, in units of its own clock.
    pub(crate) grant: u8,
    /// To the primary of this epoch.
    pub(crate) grant_of: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Stage {
    #[default]
    Unclaimed,
    /// T1: committed, and its claimant does not know it yet.
    Claimed,
    /// T2, T3.
    Fencing,
    /// T5: the log is chosen and not complete.
    Fetching,
    /// From T6 on: the log with the epoch's start is offered to members.
    Open,
    /// The claimant stopped before its log was complete: only promises are left of it.
    Dead,
}

/// A lease of one member, seen from the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Beat {
    #[default]
    None,
    Sent,
    Granted,
    Held,
}

/// One epoch: the pending or active configuration, its claimant's memory, and what is under way of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Reign {
    /// The log of the epoch: while fencing the best one reported, then what the primary has sent.
    pub(crate) log: Log,
    pub(crate) stage: Stage,
    pub(crate) primary: u8,
    pub(crate) base: u8,
    pub(crate) members: NodeSet,
    /// Members whose disk is not the incarnation that this configuration names.
    pub(crate) blank: NodeSet,
    /// LSN of the epoch's own first record.
    pub(crate) start: u8,
    /// Changes members with the same primary (M1 to M3).
    pub(crate) by_itself: bool,
    /// `Activate` is before the control group.
    pub(crate) requested: bool,
    pub(crate) activated: bool,
    pub(crate) released: bool,
    /// A blank disk was counted as the copy it was.
    pub(crate) counted_blank: bool,
    /// Whose reports came, and whose of them count.
    pub(crate) reported: NodeSet,
    pub(crate) valid: NodeSet,
    pub(crate) source: u8,
    /// The highest commit position of all reports.
    pub(crate) hint: u8,
    /// The greatest acknowledgement each member has sent.
    pub(crate) acked: [u8; NODES],
    /// The greatest one that has arrived.
    pub(crate) counted: [u8; NODES],
    pub(crate) beats: [Beat; NODES],
    /// What is left of each beat's lease, in units of the holder's clock.
    pub(crate) trust: [u8; NODES],
}

/// Faults and changes that are still allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Budget {
    /// Restarts of a node, losing its memory.
    pub crashes: u8,
    /// Disks that come back blank.
    pub wipes: u8,
    /// Records that rot.
    pub rots: u8,
    /// Disks that silently return to an older state.
    pub rollbacks: u8,
    /// Changes of the members.
    pub changes: u8,
    /// Planned hand-overs.
    pub releases: u8,
}

/// A state. What can make no difference any more is cleared (`settle`), so that equal futures are equal states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct State {
    pub(crate) nodes: [Node; NODES],
    pub(crate) reigns: [Reign; EPOCHS],
    pub(crate) max_epoch: u8,
    pub(crate) active: u8,
    pub(crate) pending: u8,
    /// Nodes with the fast clock.
    pub(crate) fast: NodeSet,
    pub(crate) issued: u8,
    pub(crate) budget: Budget,
    /// What has become final: the log up to the last committed record of any epoch.
    pub(crate) committed: Log,
    /// Writes that an activation has established as absent.
    pub(crate) dead: u8,
    /// Writes that a read has returned.
    pub(crate) seen: u8,
    /// Some record was committed on fewer data copies than W.
    pub(crate) thin: bool,
    /// Nodes whose disk lost everything and kept its identity; only a mutant has them.
    pub(crate) forgot: NodeSet,
    /// A disk lied about what it holds.
    pub(crate) rolled_back: bool,
}

impl State {
    /// Where a scope begins: epoch 1 is open, node 0 leads it, and all members hold its start. One state for each
    /// combination of clocks.
    pub(crate) fn first(scope: &Scope) -> Vec<State> {
        let mut log = Log::default();
        log.push(Record::start(1));
        let member = Node { log, durable: 1, promised: 1, adopted: 1, hint: u8::from(scope.hints), ..Node::default() };
        let mut nodes = [Node::default(); NODES];
        let mut reign =
            Reign { log, stage: Stage::Open, members: scope.members, start: 1, activated: true, ..Reign::default() };
        for node in (0..3).filter(|n| has(scope.members, *n)) {
            nodes[usize::from(node)] = member;
            (reign.acked[usize::from(node)], reign.counted[usize::from(node)]) = (1, 1);
        }
        nodes[0].role = 1;
        reign.acked[0] = 0;
        let mut reigns = [Reign::default(); EPOCHS];
        reigns[0] = reign;
        let clocks = if scope.leases { 1 << scope.nodes } else { 1 };
        let state = |fast| State {
            nodes,
            reigns,
            max_epoch: 1,
            active: 1,
            pending: 0,
            fast,
            issued: 0,
            budget: scope.budget,
            committed: log,
            dead: 0,
            seen: 0,
            thin: false,
            forgot: 0,
            rolled_back: false,
        };
        (0..clocks).map(state).collect()
    }

    pub(crate) fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node)]
    }

    pub(crate) fn node_mut(&mut self, node: u8) -> &mut Node {
        &mut self.nodes[usize::from(node)]
    }

    /// The reign of an epoch above 0.
    pub(crate) fn reign(&self, epoch: u8) -> &Reign {
        &self.reigns[usize::from(epoch) - 1]
    }

    pub(crate) fn reign_mut(&mut self, epoch: u8) -> &mut Reign {
        &mut self.reigns[usize::from(epoch) - 1]
    }

    /// Whether the life that claimed `epoch` is still at it.
    pub(crate) fn leads(&self, epoch: u8) -> bool {
        let reign = self.reign(epoch);
        reign.stage != Stage::Unclaimed && self.node(reign.primary).role == epoch
    }

    /// Whether acknowledgements of `epoch` still reach somebody who counts them: its primary, also while it is changing
    /// members (M3).
    pub(crate) fn counts(&self, epoch: u8) -> bool {
        let role = self.node(self.reign(epoch).primary).role;
        self.leads(epoch) || (role > 0 && self.reign(role).by_itself && self.reign(role).base == epoch)
    }

    /// The process on `node` ended: a claim that it had not learned of is void, and nobody was asked anything (N0).
    pub(crate) fn void_claims(&mut self, node: u8) {
        for reign in &mut self.reigns {
            if reign.stage == Stage::Claimed && reign.primary == node {
                *reign = Reign::default();
            }
        }
    }

    /// Whether `member` may adopt the log of `epoch`: as one that counts, or as a learner. A primary asks nobody else.
    pub(crate) fn may_follow(&self, scope: &Scope, member: u8, epoch: u8) -> bool {
        let reign = self.reign(epoch);
        let counts = has(reign.members, member);
        let blank = has(reign.blank, member) && scope.mutant != Some(Mutant::BlankFollows);
        if counts { !blank } else { scope.learners }
    }

    /// Whether anybody may still adopt the log of `epoch` or take its records. A blank disk has promised nothing.
    fn may_be_followed(&self, scope: &Scope, epoch: u8) -> bool {
        let takes = |n: &Node| n.promised <= epoch || n.adopted == epoch;
        let of_node = |n: u8| takes(self.node(n)) && self.may_follow(scope, n, epoch);
        (0..scope.nodes).any(of_node) || (scope.learners && self.budget.wipes > 0)
    }

    /// Clears what can make no difference any more.
    pub(crate) fn settle(&mut self, scope: &Scope) {
        for epoch in 1..=self.max_epoch {
            let (leads, counts) = (self.leads(epoch), self.counts(epoch));
            let overtaken = self.node(self.reign(epoch).primary).promised >= epoch;
            if self.reign(epoch).stage == Stage::Claimed && overtaken {
                *self.reign_mut(epoch) = Reign::default();
            }
            let pending = self.pending == epoch || scope.mutant == Some(Mutant::ActivateWithoutCas);
            let reachable = self.may_be_followed(scope, epoch);
            let granted = self.nodes.iter().any(|n| n.grant > 0 && n.grant_of == epoch);
            let reign = self.reign_mut(epoch);
            if !counts {
                (reign.acked, reign.counted) = Default::default();
            }
            if !leads {
                (reign.beats, reign.trust) = Default::default();
                if matches!(reign.stage, Stage::Fencing | Stage::Fetching) {
                    let Reign { primary, base, members, blank, .. } = *reign;
                    *reign = Reign { stage: Stage::Dead, primary, base, members, blank, ..Reign::default() };
                }
            }
            reign.requested &= pending && !reign.activated;
            reign.released &= granted;
            if reign.stage == Stage::Open {
                (reign.reported, reign.valid, reign.source) = Default::default();
                if reign.activated || !(leads || reign.requested) {
                    (reign.hint, reign.counted_blank) = Default::default();
                }
                if !(counts || reachable || reign.requested) {
                    reign.log = Log::default();
                }
            }
        }
        for node in &mut self.nodes {
            if node.grant == 0 {
                node.grant_of = 0;
            }
        }
    }

    /// 64 bits that stand for the state: two different states share them with a chance of 1e-4 in fifty million.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut mix = Mix(0x9e37_79b9_7f4a_7c15);
        for n in &self.nodes {
            let Node { log, durable, promised, hint, table, unknown, adopted, role, grant, grant_of } = *n;
            mix.word(log.word());
            mix.bytes([durable | table << 4, promised, hint, unknown, adopted, role, grant, grant_of]);
        }
        for r in self.reigns.iter().take(usize::from(self.max_epoch)) {
            r.mix(&mut mix);
        }
        let Budget { crashes, wipes, rots, rollbacks, changes, releases } = self.budget;
        mix.word(self.committed.word());
        mix.bytes([
            self.max_epoch | self.active << 4,
            self.pending,
            self.fast | self.issued << 4,
            crashes | wipes << 4,
            rots | rollbacks << 2 | changes << 4 | releases << 6,
            self.forgot,
            self.dead | u8::from(self.rolled_back),
            self.seen | u8::from(self.thin),
        ]);
        mix.finish()
    }
}

impl Reign {
    fn mix(&self, mix: &mut Mix) {
        let flags = [self.by_itself, self.requested, self.activated, self.released, self.counted_blank];
        let flags = flags.iter().fold(0, |all, flag| all << 1 | u8::from(*flag));
        let sets = self.reported | self.valid << 4;
        let [a, b, c] = self.acked;
        let [d, e, f] = self.counted;
        let [g, h, i] = self.beats.map(|b| b as u8);
        let [j, k, l] = self.trust;
        mix.word(self.log.word());
        mix.bytes([
            self.stage as u8 | self.members << 4,
            self.primary | self.base << 4,
            self.start | self.source << 4,
            self.hint,
            flags,
            sets,
            self.blank,
            0,
        ]);
        mix.bytes([a | b << 4, c | d << 4, e | f << 4, g | h << 4, i, j, k, l]);
    }
}

const _: () = assert!(CAPACITY <= 15, "an LSN fits into half a byte of a fingerprint");

struct Mix(u64);

impl Mix {
    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn bytes(&mut self, bytes: [u8; 8]) {
        self.word(u64::from_le_bytes(bytes));
    }

    /// Never 0, which marks an empty place in the table of states.
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (mixed ^ (mixed >> 29)).max(1)
    }
}
