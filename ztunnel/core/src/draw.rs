//! Chance, as a value. The shell draws one number for each pick; a test gives its own.

/// One draw, from which a decision takes as many numbers as it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below `bound`, or 0 when `bound` is 0. Biased by at most `bound`/2^64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64: passes BigCrush, five instructions, any seed will do.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let wide = u128::from(z) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(u64::MAX)
    }
}
