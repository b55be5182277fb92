//! Configurations of a volume and the table that says which reign wrote which part of its log.

use crate::{Epoch, Incarnation, Lsn, MAX_EPOCH_TABLE, MAX_MEMBERS, Mutant, NodeId, mutated};
use std::collections::BTreeSet;
use std::fmt;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// On stable storage of W copies.
    #[default]
    Sync,
    /// In memory of W copies; FLUSH and FUA on stable storage of W.
    Flush,
    /// On stable storage here.
    Async,
}

/// How W follows from the number of copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuorumRule {
    /// The primary alone acknowledges (`Durability::Async`).
    Primary,
    /// More than half of the copies.
    Majority,
    /// All of them.
    All,
    /// So many; never less than a majority, never more than there are.
    Chosen(u8),
}

impl QuorumRule {
    /// What was meant by ordering `write_quorum` of `copies` copies.
    #[must_use]
    pub fn of_order(durability: Durability, write_quorum: u8, copies: usize) -> QuorumRule {
        match usize::from(write_quorum) {
            _ if durability == Durability::Async => QuorumRule::Primary,
            w if w == copies / 2 + 1 => QuorumRule::Majority,
            w if w == copies => QuorumRule::All,
            _ => QuorumRule::Chosen(write_quorum),
        }
    }

    /// W of so many copies.
    #[must_use]
    pub fn write_quorum(self, copies: usize) -> u8 {
        let copies = u8::try_from(copies.min(MAX_MEMBERS)).expect("a few copies");
        let majority = copies / 2 + 1;
        match self {
            QuorumRule::Primary => 1,
            QuorumRule::Majority => majority,
            QuorumRule::All => copies,
            QuorumRule::Chosen(wanted) => wanted.clamp(majority, copies),
        }
    }
}

/// A node that holds a copy, and which on-disk state of it counts (S20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The registered on-disk state.
    pub incarnation: Incarnation,
}

/// Who holds a volume in one epoch, who leads, and how many must hold a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The reign this configuration belongs to.
    pub epoch: Epoch,
    /// The primary; `None` only in epoch 0, before the first reign.
    pub primary: Option<NodeId>,
    /// The copies that count, sorted by node, without repetition.
    pub members: Vec<Member>,
    /// W: copies that must hold a write before it is acknowledged. 1 of several: the primary itself, and no other
    /// (`Durability::Async`).
    pub write_quorum: u8,
}

impl Configuration {
    /// R = N − W + 1: members that a recovery must fence, so that it meets every write quorum. Where the primary alone is
    /// the write quorum, the primary alone is the fence quorum too.
    #[must_use]
    pub fn fence_quorum(&self) -> usize {
        if self.primary_decides() { 1 } else { self.members.len() + 1 - usize::from(self.write_quorum) }
    }

    /// Whether the members for which `answered` holds meet every set that may have acknowledged a write.
    #[must_use]
    pub fn is_fence(&self, answered: impl Fn(NodeId) -> bool) -> bool {
        if self.primary_decides() {
            // Before the first reign nothing was acknowledged: any member will do.
            return match self.primary {
                Some(primary) => answered(primary),
                None => self.members.iter().any(|m| answered(m.node)),
            };
        }
        let one_less =
            mutated(Mutant::FenceSetTooSmall) || (self.write_quorum == 1 && mutated(Mutant::LeftOutStaysMember));
        self.members.iter().filter(|m| answered(m.node)).count() + usize::from(one_less) >= self.fence_quorum()
    }

    /// Whether the members for which `answered` holds would also know of a change of members that nobody here has heard of: they are a
    /// fence, and meet every set that may have to hold the start of a configuration with one member more or less. Each further change
    /// comes after such a one.
    #[must_use]
    pub fn is_wide_fence(&self, rule: QuorumRule, answered: impl Fn(NodeId) -> bool) -> bool {
        let n = self.members.len();
        let silent = self.members.iter().filter(|m| !answered(m.node)).count();
        let seen = |copies: usize, others: usize| others < usize::from(rule.write_quorum(copies));
        self.is_fence(&answered)
            && seen(n, silent)
            && (n == 1 || seen(n - 1, silent))
            && (n == MAX_MEMBERS || seen(n + 1, silent + 1))
    }

    /// Whether the primary alone acknowledges: the other copies follow asynchronously.
    #[must_use]
    pub fn primary_decides(&self) -> bool {
        self.write_quorum == 1 && self.members.len() > 1 && !mutated(Mutant::LeftOutStaysMember)
    }

    /// Whether `write_quorum` makes sense: a majority, so that two write quorums meet, or the primary alone.
    #[must_use]
    pub fn quorum_is_sound(&self) -> bool {
        let (n, w) = (self.members.len(), usize::from(self.write_quorum));
        w >= 1 && w <= n && (w == 1 || 2 * w > n)
    }

    /// S21: whether `next`, under the same primary, is one member more or less, and every set that may decide in one of
    /// the two meets every set that may decide in the other.
    #[must_use]
    pub fn may_change_to(&self, next: &Configuration) -> bool {
        let only = |a: &Configuration, b: &Configuration| a.members.iter().filter(|m| !b.members.contains(m)).count();
        let (gone, added) = (only(self, next), only(next, self));
        let union: BTreeSet<NodeId> = self.members.iter().chain(&next.members).map(|m| m.node).collect();
        // A copy that is registered anew is another copy: it goes first, and comes back as a learner.
        let one_step = gone + added == 1 && union.len() == self.members.len() + added;
        let alone = |c: &Configuration| c.primary_decides() || c.members.len() == 1;
        let meet = usize::from(self.write_quorum) + usize::from(next.write_quorum) > union.len();
        self.primary.is_some() && self.primary == next.primary && one_step && (meet || alone(self) && alone(next))
    }

    /// The same with the member on `node` as the only one.
    #[must_use]
    pub fn alone(mut self, node: NodeId, rule: QuorumRule) -> Configuration {
        assert!(self.member(node).is_some(), "who goes on alone is a member: {self:?}");
        self.write_quorum = rule.write_quorum(1);
        if !mutated(Mutant::LeftOutStaysMember) {
            self.members.retain(|m| m.node == node);
        }
        self
    }

    /// The member on `node`, if it is one.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<Member> {
        self.members.iter().copied().find(|m| m.node == node)
    }

    /// Panics unless the configuration makes sense: a copy never acts on one that does not.
    pub fn validate(&self) {
        let n = self.members.len();
        assert!((1..=MAX_MEMBERS).contains(&n), "a configuration has 1 to {MAX_MEMBERS} members, found {n}");
        assert!(self.members.windows(2).all(|w| w[0].node < w[1].node), "members are sorted by node: {self:?}");
        let w = self.write_quorum;
        assert!(self.quorum_is_sound(), "W is a majority of {n} members at least, or 1, found {w}");
        assert_eq!(self.primary.is_none(), self.epoch == Epoch::ZERO, "every reign has a primary: {self:?}");
        assert!(self.primary.is_none_or(|p| self.member(p).is_some()), "the primary is a member: {self:?}");
    }
}

/// Which epoch wrote which part of the log: `(epoch, first LSN)`, both strictly increasing.
///
/// A record `(e, n)` is valid only if the table gives epoch `e` to LSN `n` (trap 13): after a cut, records of the
/// cut tail still lie in the journal and would chain perfectly.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EpochTable(Vec<(Epoch, Lsn)>);

/// Why a list is no epoch table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochTableError {
    /// Epochs or LSNs do not increase strictly, or an LSN of 0.
    NotIncreasing,
    /// More than `MAX_EPOCH_TABLE` entries.
    TooLong,
}

impl fmt::Display for EpochTableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EpochTableError::NotIncreasing => {
                write!(f, "epochs and first LSNs of an epoch table increase strictly from 1")
            }
            EpochTableError::TooLong => write!(f, "an epoch table has at most {MAX_EPOCH_TABLE} entries"),
        }
    }
}

impl std::error::Error for EpochTableError {}

impl EpochTable {
    /// A table from its entries.
    ///
    /// # Errors
    /// Entries that do not increase strictly, or too many of them.
    pub fn new(entries: Vec<(Epoch, Lsn)>) -> Result<EpochTable, EpochTableError> {
        if entries.len() > MAX_EPOCH_TABLE {
            return Err(EpochTableError::TooLong);
        }
        let increasing = entries.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1);
        let positive = entries.first().is_none_or(|f| f.0 > Epoch::ZERO && f.1 > Lsn::ZERO);
        if increasing && positive { Ok(EpochTable(entries)) } else { Err(EpochTableError::NotIncreasing) }
    }

    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[(Epoch, Lsn)] {
        &self.0
    }

    /// The epoch that wrote `lsn`, or `None` if `lsn` is 0 or older than the table reaches.
    #[must_use]
    pub fn epoch_at(&self, lsn: Lsn) -> Option<Epoch> {
        let after = self.0.partition_point(|(_, start)| *start <= lsn);
        after.checked_sub(1).map(|i| self.0[i].0)
    }

    /// The table of a log that ends at `last` and is continued by `epoch` from `last + 1`.
    ///
    /// Panics if `epoch` is not above every epoch that is kept.
    #[must_use]
    pub fn continued(&self, last: Lsn, epoch: Epoch) -> EpochTable {
        let mut entries: Vec<_> = self.0.iter().copied().filter(|(_, start)| *start <= last).collect();
        assert!(
            entries.last().is_none_or(|(e, _)| *e < epoch),
            "epoch {epoch} continues a log of older epochs: {self:?}"
        );
        entries.push((epoch, last.next()));
        EpochTable(entries)
    }

    /// Drops the oldest entries until `keep` are left, but none that describes records above `checkpoint`. What is kept
    /// serves the copies that lag: they are found by the last epoch that they share.
    pub fn forget(&mut self, checkpoint: Lsn, keep: usize) {
        let covering = self.0.partition_point(|(_, start)| *start <= checkpoint);
        let surplus = self.0.len().saturating_sub(keep);
        self.0.drain(..covering.saturating_sub(1).min(surplus));
    }

    /// The highest LSN at which two logs hold the same record (log matching, S15): same epoch at the same LSN.
    ///
    /// `None` if the tables no longer reach back to a common record and neither log is empty there.
    #[must_use]
    pub fn common_point(&self, last: Lsn, other: &EpochTable, other_last: Lsn) -> Option<Lsn> {
        let mut lsn = last.min(other_last);
        loop {
            if lsn == Lsn::ZERO {
                return Some(Lsn::ZERO);
            }
            // Below the reach of a table nothing is known: not even that nothing is common there.
            if self.epoch_at(lsn)? == other.epoch_at(lsn)? {
                return Some(lsn);
            }
            // Step below the later of the two segments that hold `lsn`.
            let start_a = self.start_of(lsn);
            let start_b = other.start_of(lsn);
            lsn = start_a.max(start_b)?.prev();
        }
    }

    fn start_of(&self, lsn: Lsn) -> Option<Lsn> {
        let after = self.0.partition_point(|(_, start)| *start <= lsn);
        after.checked_sub(1).map(|i| self.0[i].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u64, u64)]) -> EpochTable {
        EpochTable::new(entries.iter().map(|&(e, l)| (Epoch(e), Lsn(l))).collect()).expect("a valid table")
    }

    /// G4, from the definition: whoever makes up a write quorum of a configuration with one member more or less was asked.
    #[test]
    fn a_wide_fence_meets_every_write_quorum_of_the_next_configuration() {
        let rules = [QuorumRule::Majority, QuorumRule::All, QuorumRule::Primary, QuorumRule::Chosen(3)];
        for (n, rule) in (1..=5_u64).flat_map(|n| rules.map(|r| (n, r))) {
            let members: Vec<Member> =
                (0..n).map(|i| Member { node: NodeId(i), incarnation: Incarnation(1) }).collect();
            let write_quorum = rule.write_quorum(members.len());
            let configuration = Configuration { epoch: Epoch(1), primary: Some(NodeId(0)), members, write_quorum };
            for answered in 0..1_u32 << n {
                let asked = |node: u64| answered >> node & 1 == 1;
                let mut next: Vec<Vec<u64>> = vec![(0..n).collect(), (0..=n).collect()];
                next.extend((0..n).map(|gone| (0..n).filter(|i| *i != gone).collect()));
                let met = |members: &Vec<u64>| {
                    let silent = members.iter().filter(|m| **m == n || !asked(**m)).count();
                    members.is_empty() || silent < usize::from(rule.write_quorum(members.len()))
                };
                let fence = configuration.is_fence(|node| asked(node.0));
                let wide = configuration.is_wide_fence(rule, |node| asked(node.0));
                assert_eq!(wide, fence && next.iter().all(met), "{rule:?} {n} {answered:b}");
            }
        }
    }

    #[test]
    fn epoch_of_an_lsn() {
        let t = table(&[(1, 1), (3, 8)]);
        assert_eq!(t.epoch_at(Lsn(0)), None);
        assert_eq!(t.epoch_at(Lsn(7)), Some(Epoch(1)));
        assert_eq!(t.epoch_at(Lsn(8)), Some(Epoch(3)));
        assert_eq!(t.epoch_at(Lsn(800)), Some(Epoch(3)));
    }

    #[test]
    fn common_point_is_below_the_divergence() {
        let a = table(&[(1, 1), (3, 8)]);
        let b = table(&[(1, 1), (2, 6), (4, 9)]);
        assert_eq!(a.common_point(Lsn(12), &b, Lsn(11)), Some(Lsn(5)));
        assert_eq!(a.common_point(Lsn(4), &b, Lsn(11)), Some(Lsn(4)));
        assert_eq!(a.common_point(Lsn(12), &table(&[]), Lsn(0)), Some(Lsn(0)));
        let same = table(&[(1, 1), (3, 8), (4, 11)]);
        assert_eq!(a.common_point(Lsn(10), &same, Lsn(20)), Some(Lsn(10)));
    }

    #[test]
    fn below_the_reach_of_a_table_nothing_is_known() {
        let forgetful = table(&[(3, 8), (4, 11)]);
        let whole = table(&[(1, 1), (2, 6)]);
        assert_eq!(whole.common_point(Lsn(7), &forgetful, Lsn(20)), None);
        assert_eq!(forgetful.common_point(Lsn(12), &whole, Lsn(20)), None);
        assert_eq!(whole.common_point(Lsn(0), &forgetful, Lsn(20)), Some(Lsn(0)), "an empty log conflicts with none");
    }

    #[test]
    fn common_point_equals_the_slow_search() {
        // Oracle: look at every LSN.
        let tables = [
            table(&[(1, 1)]),
            table(&[(1, 1), (2, 4)]),
            table(&[(1, 1), (3, 4), (4, 6)]),
            table(&[(2, 1)]),
            table(&[(1, 1), (2, 3), (4, 6)]),
        ];
        for a in &tables {
            for b in &tables {
                for (la, lb) in (0..9).flat_map(|x| (0..9).map(move |y| (x, y))) {
                    let slow = (0..=la.min(lb)).rev().find(|&n| n == 0 || a.epoch_at(Lsn(n)) == b.epoch_at(Lsn(n)));
                    assert_eq!(a.common_point(Lsn(la), b, Lsn(lb)), slow.map(Lsn), "{a:?} {la} {b:?} {lb}");
                }
            }
        }
    }

    #[test]
    fn continued_cuts_and_appends() {
        let t = table(&[(1, 1), (2, 6), (4, 9)]);
        assert_eq!(t.continued(Lsn(7), Epoch(5)), table(&[(1, 1), (2, 6), (5, 8)]));
        assert_eq!(EpochTable::default().continued(Lsn(0), Epoch(1)), table(&[(1, 1)]));
    }

    #[test]
    fn forget_keeps_the_entry_that_covers_the_checkpoint() {
        let mut t = table(&[(1, 1), (2, 6), (4, 9)]);
        t.forget(Lsn(7), 3);
        assert_eq!(t.entries().len(), 3, "no more than has to go");
        t.forget(Lsn(7), 0);
        assert_eq!(t, table(&[(2, 6), (4, 9)]));
    }

    #[test]
    fn w_follows_the_number_of_copies() {
        let of = |w, copies| QuorumRule::of_order(Durability::Sync, w, copies);
        assert_eq!((of(2, 3), of(3, 3), of(4, 5)), (QuorumRule::Majority, QuorumRule::All, QuorumRule::Chosen(4)));
        assert_eq!(QuorumRule::of_order(Durability::Async, 1, 3), QuorumRule::Primary);
        let ws = |rule: QuorumRule| (1..=6).map(|n| rule.write_quorum(n)).collect::<Vec<_>>();
        assert_eq!(ws(QuorumRule::Majority), [1, 2, 2, 3, 3, 4]);
        assert_eq!(ws(QuorumRule::All), [1, 2, 3, 4, 5, 6]);
        assert_eq!(ws(QuorumRule::Chosen(4)), [1, 2, 3, 4, 4, 4]);
        assert_eq!(ws(QuorumRule::Primary), [1; 6]);
    }

    #[test]
    fn one_member_at_a_time_and_deciding_sets_meet() {
        let m = |n| Member { node: NodeId(n), incarnation: Incarnation(n) };
        let of = |members: &[u64], write_quorum| Configuration {
            epoch: Epoch(1),
            primary: Some(NodeId(1)),
            members: members.iter().map(|n| m(*n)).collect(),
            write_quorum,
        };
        let majority = |members: &[u64]| of(members, u8::try_from(members.len() / 2 + 1).expect("small"));
        for n in 1..7 {
            let (small, large): (Vec<u64>, Vec<u64>) = ((1..=n).collect(), (1..=n + 1).collect());
            assert!(majority(&small).may_change_to(&majority(&large)), "{n} and one more");
            assert!(majority(&large).may_change_to(&majority(&small)), "{n} after one less");
        }
        assert!(!majority(&[1, 2, 3]).may_change_to(&majority(&[1, 2, 3])), "nothing changes");
        assert!(!majority(&[1, 2, 3]).may_change_to(&majority(&[1, 2, 4])), "one goes and one comes");
        assert!(!majority(&[1, 2, 3]).may_change_to(&majority(&[1])), "two go");
        assert!(!of(&[1, 2, 3], 2).may_change_to(&of(&[1, 2, 3, 4], 1)), "the primary alone after a majority");
        assert!(of(&[1, 2, 3], 1).may_change_to(&of(&[1, 2, 3, 4], 1)), "the primary alone decided and decides");
        let mut renewed = majority(&[1, 2, 3, 4]);
        renewed.members[2].incarnation = Incarnation(9);
        assert!(!majority(&[1, 2, 3]).may_change_to(&renewed), "an old copy is another one");
    }

    #[test]
    fn fence_quorum_meets_write_quorum() {
        let m = |n| Member { node: NodeId(n), incarnation: Incarnation(n) };
        let c = Configuration {
            epoch: Epoch(1),
            primary: Some(NodeId(1)),
            members: vec![m(1), m(2), m(3)],
            write_quorum: 2,
        };
        c.validate();
        assert_eq!(c.fence_quorum(), 2);
        assert!(c.is_fence(|n| n.0 != 1) && !c.is_fence(|n| n.0 == 1), "any two of three, whoever they are");
        let alone = Configuration { write_quorum: 1, ..c };
        alone.validate();
        assert!(alone.is_fence(|n| n.0 == 1), "the primary alone acknowledged, so it alone knows");
        assert!(!alone.is_fence(|n| n.0 != 1), "all others together may lack what the primary acknowledged");
    }
}
