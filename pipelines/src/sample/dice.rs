//! Chance, with integers only: a generator of its own for each chunk of work, and hashes that make an id, a product or a
//! person from its number, so that nothing has to be remembered.

use rand::Rng;
use rand_pcg::Pcg64;

/// What is numbered. Each kind has ids and properties of its own.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Order = 1,
    Customer,
    Person,
    Product,
    Seller,
    Review,
    Chunk,
    Event,
    Visitor,
    Day,
}

/// The 128 bits that identify number `index` of a kind. The upper 64 bits differ for any two numbers of one kind.
pub fn id(seed: u64, kind: Kind, index: u64) -> u128 {
    let high = scatter(index ^ scatter(seed ^ scatter(kind as u64)));
    let low = scatter(high ^ index.rotate_left(32) ^ seed);
    (u128::from(high) << 64) | u128::from(low)
}

/// The finalizer of SplitMix64: a bijection without visible pattern.
fn scatter(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A stream of choices.
#[derive(Debug)]
pub struct Dice(Pcg64);

impl Dice {
    /// The choices that belong to number `index` of a kind: the same whenever it is asked.
    pub fn of(seed: u64, kind: Kind, index: u64) -> Self {
        Dice(Pcg64::new(id(seed, kind, index), kind as u128))
    }

    /// Uniform in `0..n`; 0 for n = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1).unsigned_abs()) as i64
    }

    /// True in `share` of 1,000,000 cases.
    pub fn chance(&mut self, share: u64) -> bool {
        self.below(1_000_000) < share
    }

    /// True in `share` of 10^9 cases.
    pub fn rare(&mut self, share: u64) -> bool {
        self.below(1_000_000_000) < share
    }

    /// In `0..n`, small numbers far more often than great ones.
    pub fn skewed(&mut self, n: u64) -> u64 {
        let bound = self.below(n) + 1;
        self.below(bound)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// The value whose weight the dice fall on.
    pub fn weighted<'a, T>(&mut self, from: &'a [(u64, T)]) -> &'a T {
        let mut left = self.below(from.iter().map(|(weight, _)| weight).sum());
        let last = from.len() - 1;
        for (weight, value) in &from[..last] {
            if left < *weight {
                return value;
            }
            left -= weight;
        }
        &from[last].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any change here changes every sample: say so in the release notes.
    #[test]
    fn the_same_everywhere() {
        let mut dice = Dice::of(42, Kind::Order, 7);
        let drawn: Vec<u64> = (0..4).map(|_| dice.below(1000)).collect();
        let mut again = Dice::of(42, Kind::Order, 7);
        assert_eq!(drawn, (0..4).map(|_| again.below(1000)).collect::<Vec<_>>());
        assert_ne!(id(42, Kind::Order, 7), id(42, Kind::Customer, 7));
        assert_ne!(id(42, Kind::Order, 7), id(43, Kind::Order, 7));
    }

    #[test]
    fn bounds_hold() {
        let mut dice = Dice::of(1, Kind::Chunk, 0);
        for _ in 0..10_000 {
            assert!(dice.below(3) < 3);
            assert!((-2..=2).contains(&dice.between(-2, 2)));
            assert!(dice.skewed(5) < 5);
        }
        assert_eq!(dice.skewed(1), 0);
        assert!(!dice.chance(0) && dice.chance(1_000_000));
        let heads = (0..10_000).filter(|_| *dice.weighted(&[(1, false), (3, true)])).count();
        assert!((7_000..8_000).contains(&heads), "{heads}");
    }
}
