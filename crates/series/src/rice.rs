//! Golomb-Rice codes whose parameter follows the numbers that were coded: what is usual costs few bits, and what is not costs its own length.
//!
//! Writer and reader learn the same from the same numbers, so no parameter is written. (R. F. Rice, "Some practical universal noiseless coding
//! techniques", JPL 79-22, 1979; the running mean is as in JPEG-LS, ITU-T T.87.)

use crate::bits::{Reader, Writer};

/// A quotient of so many ones, or more, is an escape: six bits of length and the number itself follow.
const ONES_MAX: u32 = 12;
/// Largest mean, sixteen times: what is larger on the whole is escaped.
const MEAN_MAX: u32 = 1 << 30;

/// How large the numbers were of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rice {
    /// Sixteen times their mean.
    mean: u32,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    /// A number that the code is for.
    Usual(u64),
    /// One that was escaped.
    Escaped(u64),
}

impl Rice {
    /// For numbers of about `bits` bits.
    pub(crate) fn new(bits: u8) -> Self {
        Self { mean: (24_u32 << bits.min(25)).min(MEAN_MAX) }
    }

    /// For numbers of about this mean.
    pub(crate) fn for_mean(mean: u64) -> Self {
        Self { mean: mean.saturating_mul(16).min(u64::from(MEAN_MAX)) as u32 }
    }

    /// The parameter: what [`Rice::new`] takes to begin elsewhere with about the same.
    #[inline]
    pub(crate) fn bits(self) -> u8 {
        (self.mean >> 4 | 1).ilog2() as u8
    }

    /// Whether the number needs no escape.
    #[inline]
    pub(crate) fn fits(self, value: u64) -> bool {
        value >> self.bits() < u64::from(ONES_MAX)
    }

    /// Writes a number that fits. Nothing is learned.
    #[inline]
    pub(crate) fn put_usual(self, writer: &mut Writer, value: u64) {
        let bits = u32::from(self.bits());
        let ones = (value >> bits) as u32;
        // The ones, a zero, and the low bits: 12 + 26 at most.
        writer.put(((1 << ones) - 1) << 1, ones + 1);
        writer.put(value & ((1 << bits) - 1), bits);
    }

    /// Writes any number as an escape. Nothing is learned.
    pub(crate) fn put_escaped(writer: &mut Writer, value: u64) {
        let length = 64 - (value | 1).leading_zeros();
        writer.put((1 << ONES_MAX) - 1, ONES_MAX);
        writer.put(u64::from(length - 1), 6);
        let low = length.min(32);
        writer.put(value >> low, length - low);
        writer.put(value & ((1 << low) - 1), low);
    }

    /// Writes any number, and learns from it.
    #[inline]
    pub(crate) fn put(&mut self, writer: &mut Writer, value: u64) {
        if self.fits(value) {
            self.put_usual(writer, value);
        } else {
            Self::put_escaped(writer, value);
        }
        self.learn(value);
    }

    /// Reads what one of the above wrote, or anything, if nothing is left: see [`Reader::check`]. Nothing is learned.
    #[inline]
    pub(crate) fn symbol(self, reader: &mut Reader<'_>) -> Symbol {
        let word = reader.peek();
        let ones = word.leading_ones();
        if ones < ONES_MAX {
            let bits = u32::from(self.bits());
            reader.skip(ones + 1 + bits);
            let low = if bits == 0 { 0 } else { word << (ones + 1) >> (64 - bits) };
            return Symbol::Usual(u64::from(ones) << bits | low);
        }
        Symbol::Escaped(escaped(reader))
    }

    /// Reads what [`Rice::put`] wrote, and learns the same from it.
    #[inline]
    pub(crate) fn take(&mut self, reader: &mut Reader<'_>) -> u64 {
        let (Symbol::Usual(value) | Symbol::Escaped(value)) = self.symbol(reader);
        self.learn(value);
        value
    }

    /// Takes the number into the mean. One that is far off counts as eight times the mean: a jump is mostly not the first of many.
    #[inline]
    pub(crate) fn learn(&mut self, value: u64) {
        let most = u64::from(self.mean >> 1) + 64;
        self.mean = (self.mean - (self.mean >> 4) + value.min(most) as u32).min(MEAN_MAX);
    }

    /// From now on numbers are so many times as large.
    pub(crate) fn scale(&mut self, times: u32) {
        self.mean = self.mean.saturating_mul(times).min(MEAN_MAX);
    }
}

#[cold]
fn escaped(reader: &mut Reader<'_>) -> u64 {
    reader.skip(ONES_MAX);
    let length = reader.take(6) as u32 + 1;
    let low = length.min(32);
    let high = reader.take(length - low);
    high << low | reader.take(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers() -> impl Strategy<Value = Vec<u64>> {
        let number = (any::<u64>(), 0_u32..64).prop_map(|(value, shift)| value >> shift);
        proptest::collection::vec(number, 0..200)
    }

    proptest! {
        #[test]
        fn numbers_come_back_and_both_ends_learn_the_same(values in numbers(), bits: u8) {
            let (mut writer, mut there) = (Writer::after(Vec::new()), Rice::new(bits));
            for value in &values {
                there.put(&mut writer, *value);
            }
            let bytes = writer.to_bytes();
            let (mut reader, mut here) = (Reader::new(&bytes), Rice::new(bits));
            for value in &values {
                prop_assert_eq!(here.take(&mut reader), *value);
            }
            prop_assert_eq!(here, there);
            prop_assert!(reader.check().is_ok());
            prop_assert!(here.mean <= MEAN_MAX);
        }
    }

    #[test]
    fn small_numbers_cost_few_bits_also_after_a_jump() {
        let (mut writer, mut code) = (Writer::after(Vec::new()), Rice::new(0));
        for index in 0..8000_u64 {
            code.put(&mut writer, if index == 4000 { u64::MAX } else { index % 4 });
        }
        assert!(writer.len() < 2700, "{} bytes", writer.len());
    }
}
