//! Seeded randomness as a parameter.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
/// Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same sequence, on every machine.
    #[must_use]
    pub const fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is above 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a bound of 0 leaves no number to draw");
        // Lemire's multiplication; the bias below 2^-32 does not matter to a simulator or a timeout.
        ((self.next_u64() as u128 * bound as u128) >> 64) as u64
    }

    /// A number in `[low, high)`.
    pub const fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low < high, "the range to draw from is not empty");
        low + self.below(high - low)
    }

    /// True in `per_million` of a million draws.
    pub const fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < per_million as u64
    }

    /// An independent generator, so that two users don't disturb each other's sequence.
    pub const fn fork(&mut self) -> Rng {
        Rng::new(self.next_u64())
    }
}
