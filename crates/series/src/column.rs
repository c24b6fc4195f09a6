//! One field's values in a row, each as its difference from the one before, in the unit that all differences have had so far.
//!
//! Sensors step: temperatures by whole degrees, clocks by 15 MHz, memory by pages. The unit (the greatest common divisor) is found as values come:
//! a difference that is no multiple of it is written out, and both ends take the divisor of the two for the unit from then on.

use crate::{
    Damaged,
    bits::{Reader, Writer, unzigzag, zigzag},
    rice::{Rice, Symbol},
    types::VALUE_MAX,
};

/// What both ends know of a field at a place in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// The value before.
    pub(crate) last: i64,
    pub(crate) id: u32,
    /// 0 while there was no difference yet.
    pub(crate) unit: u32,
    /// The unit of this block's differences alone: the next block begins with it.
    seen: u32,
    pub(crate) code: Rice,
    /// `last` is what it is now, and not only what it was before a gap.
    pub(crate) known: bool,
}

impl Column {
    pub(crate) fn new(id: u32, last: i64, unit: u32, code: Rice, known: bool) -> Self {
        Self { last, id, unit, seen: 0, code, known }
    }

    /// As it begins the block after.
    pub(crate) fn next(&self) -> Self {
        let unit = if self.seen == 0 { self.unit } else { self.seen };
        Self::new(self.id, self.last, unit, Rice::new(self.code.bits()), self.known)
    }

    /// Writes the next value.
    #[inline]
    pub(crate) fn put(&mut self, writer: &mut Writer, value: i64) {
        let change = value - self.last;
        let in_units = match i64::from(self.unit) {
            0 => (change == 0).then_some(0),
            unit => (change % unit == 0).then(|| zigzag(change / unit)),
        };
        match in_units {
            Some(number) if self.code.fits(number) => {
                self.code.put_usual(writer, number);
                self.code.learn(number);
            }
            _ => {
                Rice::put_escaped(writer, zigzag(change));
                self.learn_escaped(change);
            }
        }
        if change != 0 && (self.seen == 0 || change % i64::from(self.seen) != 0) {
            self.seen = common(self.seen, change.unsigned_abs());
        }
        self.set(value);
    }

    /// Reads what [`Column::put`] wrote.
    #[inline]
    pub(crate) fn take(&mut self, reader: &mut Reader<'_>) -> Result<i64, Damaged> {
        let change = match self.code.symbol(reader) {
            Symbol::Usual(number) => {
                self.code.learn(number);
                unzigzag(number).checked_mul(i64::from(self.unit))
            }
            Symbol::Escaped(number) => {
                let change = unzigzag(number);
                self.learn_escaped(change);
                Some(change)
            }
        };
        reader.check()?;
        let value = change.and_then(|change| self.last.checked_add(change)).filter(|value| in_range(*value));
        let value = value.ok_or(Damaged("a value is out of range"))?;
        self.set(value);
        Ok(value)
    }

    fn set(&mut self, value: i64) {
        self.last = value;
        self.known = true;
    }

    fn learn_escaped(&mut self, change: i64) {
        let unit = common(self.unit, change.unsigned_abs());
        if unit == 0 {
            return;
        }
        self.code.scale(self.unit.checked_div(unit).unwrap_or(1).max(1));
        self.unit = unit;
        self.code.learn(zigzag(change / i64::from(unit)));
    }
}

/// Whether a value is from `-VALUE_MAX` to [`VALUE_MAX`].
pub(crate) fn in_range(value: i64) -> bool {
    (-VALUE_MAX..=VALUE_MAX).contains(&value)
}

/// A common divisor of both, the greatest one if it has at most 32 bits; 0 of two zeros.
pub(crate) fn common(unit: u32, other: u64) -> u32 {
    let (mut a, mut b) = (u64::from(unit), other);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    while a > u64::from(u32::MAX) {
        a = if a.is_multiple_of(2) { a / 2 } else { 1 };
    }
    a as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_common_divisor_divides(unit: u32, other: u64) {
            let found = u64::from(common(unit, other));
            prop_assert!(found == 0 && unit == 0 && other == 0 || u64::from(unit) % found == 0 && other % found == 0);
        }
    }

    #[test]
    fn whole_degrees_cost_as_much_as_units() {
        let bytes = |unit: i64| {
            let mut column = Column::new(1, 0, 0, Rice::new(0), false);
            let mut writer = Writer::after(Vec::new());
            for index in 0..4000 {
                column.put(&mut writer, (40 + index * index % 3) * unit);
            }
            writer.len()
        };
        assert!(bytes(1000) <= bytes(1) + 8, "{} and {}", bytes(1000), bytes(1));
    }
}
