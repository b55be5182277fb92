//! Generations of the control plane: one more with each recovery after a majority of its voters was lost for ever.

use std::fmt;

/// Which of the regimes that ever governed the cluster. The first one is that of the founder; each recovery opens a later one, and
/// whoever has met a later one takes no word of an earlier one any more.
///
/// Two recoveries by mistake, on two nodes, open two different ones, and the greater of them wins: the number consists of how many
/// recoveries are known to whoever recovers, and of its place among all nodes that ever were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

/// Nodes that may recover the same regime: more than a cluster ever has.
const RANKS: u64 = 1 << 10;
/// Epochs of a volume, and ids of volumes, that one generation has for itself.
const SPAN_BITS: u32 = 32;
/// Recoveries, so that every number of the last one fits in 64 bits.
const MAX_COUNT: u64 = 1 << 20;

impl Generation {
    /// Before any recovery.
    pub const FIRST: Generation = Generation(0);

    /// What a recovery opens on the node of this place among all that ever were; `None`: there were too many, of either.
    #[must_use]
    pub const fn next(self, rank: u64) -> Option<Generation> {
        let count = self.0 / RANKS + 1;
        if rank < RANKS && count < MAX_COUNT { Some(Generation(count * RANKS + rank)) } else { None }
    }

    /// Above every epoch, and every id of a volume, that an earlier generation can have given away.
    #[must_use]
    pub const fn floor(self) -> u64 {
        self.0 << SPAN_BITS
    }

    /// Above every id of a node that an earlier generation can have given away: none admits more than there are ranks.
    #[must_use]
    pub const fn node_floor(self) -> u64 {
        self.0 * RANKS
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / RANKS, self.0 % RANKS) {
            (0, _) => write!(f, "0"),
            (count, rank) => write!(f, "{count}.{rank}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_rise_and_no_two_recoveries_open_the_same() {
        let first = Generation::FIRST.next(0).unwrap();
        let rival = Generation::FIRST.next(3).unwrap();
        assert!(Generation::FIRST < first && first < rival);
        let second = first.next(0).unwrap();
        assert!(second > rival, "a recovery of a recovery is above all that the first regime could open");
        assert_eq!([Generation::FIRST, first, rival, second].map(|g| g.to_string()), ["0", "1.0", "1.3", "2.0"]);
        assert_eq!((first.next(RANKS), Generation(u64::MAX - RANKS).next(0)), (None, None));
    }

    #[test]
    fn each_has_its_own_numbers() {
        let (a, b) = (Generation::FIRST.next(0).unwrap(), Generation::FIRST.next(1).unwrap());
        assert_eq!(Generation::FIRST.floor(), 0);
        assert_eq!(b.floor() - a.floor(), 1 << 32);
        assert_eq!(b.node_floor() - a.node_floor(), RANKS);
        let last = Generation((MAX_COUNT - 1) * RANKS + RANKS - 1);
        assert_eq!(last.floor() >> SPAN_BITS, last.0, "it fits");
        assert!(last.node_floor() < u64::MAX / 2);
    }
}
