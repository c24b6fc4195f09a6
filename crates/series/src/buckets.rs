//! Blocks of buckets: what is left of samples that were thinned out. Written at once, field by field, so that one field is read without the others.
//!
//! | part | what |
//! |---|---|
//! | head | how many buckets a field has, how many fields |
//! | field | its id, how many bytes follow; unit of its values, the last value before; a byte each how long the numbers of the next three are about; its buckets |
//! | bucket | `0`: the value before, all of the time. `10`: known all of the time, `110`: part of it, and then how long; then its last value (as a change), how far the least and the largest are from it, and the mean. `111`: not known |
//!
//! The mean is a place between the least value and the largest, of which there are [`PLACES_MAX`] at most and 16 to a unit of the value: 10 bits where
//! a sum would take 30. What that is off by is below what a sampled mean is off by itself.

use crate::{
    Damaged,
    bits::{Reader, Writer, put_varint, take_byte, take_varint, unzigzag, zigzag},
    column::{common, in_range},
    fold::{FRACTION_BITS, Held},
    raw::FIELDS_MAX,
    rice::Rice,
};

/// Most buckets of a field in a block.
pub(crate) const ROWS_MAX: usize = 4096;
/// Most places of a mean between the least value and the largest.
const PLACES_MAX: u64 = 1023;
const PLACES_A_UNIT: u64 = 16;

/// One field's buckets, by number, rising.
pub(crate) type Row = (u32, Held);

/// A block of `rows` buckets a field, [`ROWS_MAX`] at most, each `width` milliseconds long.
pub(crate) fn encode(rows: usize, width: i64, fields: &[(u32, Vec<Row>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, rows as u64);
    put_varint(&mut bytes, fields.len() as u64);
    for (id, held) in fields {
        let column = put_column(rows, width, held);
        put_varint(&mut bytes, (*id).into());
        put_varint(&mut bytes, column.len() as u64);
        bytes.extend(column);
    }
    bytes
}

/// Reads the fields that are `wanted`. Each bucket is told by field, number and what it held.
pub(crate) fn decode(
    payload: &[u8],
    width: i64,
    mut wanted: impl FnMut(u32) -> bool,
    mut tell: impl FnMut(u32, u32, Held),
) -> Result<(), Damaged> {
    let mut rest = payload;
    let (rows, fields) = (take_varint(&mut rest)?, take_varint(&mut rest)?);
    if rows > ROWS_MAX as u64 || fields > FIELDS_MAX as u64 {
        return Err(Damaged("its table cannot be"));
    }
    for _ in 0..fields {
        let id = u32::try_from(take_varint(&mut rest)?).map_err(|_| Damaged("a field cannot be"))?;
        let length = usize::try_from(take_varint(&mut rest)?).map_err(|_| Damaged("it ends too early"))?;
        let (column, behind) = rest.split_at_checked(length).ok_or(Damaged("it ends too early"))?;
        if wanted(id) {
            take_column(column, rows as u32, width, |row, held| tell(id, row, held))?;
        }
        rest = behind;
    }
    Ok(())
}

/// What both ends know at a place in a column.
struct State {
    unit: u64,
    last: i64,
    changes: Rice,
    below: Rice,
    above: Rice,
}

fn put_column(rows: usize, width: i64, held: &[Row]) -> Vec<u8> {
    let first = held.first().map_or(0, |(_, held)| held.last);
    let mut unit = 0;
    let (mut before, mut sums) = (first, [0_u128; 3]);
    for (_, held) in held {
        let numbers =
            [held.last.abs_diff(before), held.last.abs_diff(held.min), held.max.abs_diff(held.last)];
        for (sum, number) in sums.iter_mut().zip(numbers) {
            unit = common(unit, number);
            *sum += u128::from(number);
        }
        before = held.last;
    }
    let unit = u64::from(unit.max(1));
    // Of a change the sign is a bit more.
    let code = |sum: u128, times: u128| {
        let mean = sum * times / u128::from(unit) / held.len().max(1) as u128;
        Rice::new(Rice::for_mean(u64::try_from(mean).unwrap_or(u64::MAX)).bits())
    };
    let [changes, below, above] = [code(sums[0], 2), code(sums[1], 1), code(sums[2], 1)];
    let mut bytes = Vec::new();
    put_varint(&mut bytes, unit);
    put_varint(&mut bytes, zigzag(first));
    bytes.extend([changes.bits(), below.bits(), above.bits()]);
    let mut writer = Writer::after(bytes);
    let mut state = State { unit, last: first, changes, below, above };
    let mut held = held.iter().peekable();
    for row in 0..rows as u32 {
        match held.next_if(|(next, _)| *next == row) {
            Some((_, held)) => state.put(&mut writer, width, held),
            None => writer.put(0b111, 3),
        }
    }
    writer.to_bytes()
}

fn take_column(
    mut rest: &[u8],
    rows: u32,
    width: i64,
    mut tell: impl FnMut(u32, Held),
) -> Result<(), Damaged> {
    let unit = take_varint(&mut rest)?;
    let last = unzigzag(take_varint(&mut rest)?);
    if unit > u64::from(u32::MAX) || !in_range(last) {
        return Err(Damaged("a value is out of range"));
    }
    let mut code = || take_byte(&mut rest).map(Rice::new);
    let (changes, below, above) = (code()?, code()?, code()?);
    let mut state = State { unit, last, changes, below, above };
    let mut reader = Reader::new(rest);
    for row in 0..rows {
        if let Some(held) = state.take(&mut reader, width)? {
            tell(row, held);
        }
    }
    Ok(())
}

impl State {
    fn put(&mut self, writer: &mut Writer, width: i64, held: &Held) {
        let Held { min, max, last, known_ms, .. } = *held;
        if known_ms == width && last == self.last && min == last && max == last {
            writer.put(0, 1);
            return;
        }
        if known_ms == width {
            writer.put(0b10, 2);
        } else {
            writer.put(0b110, 3);
            writer.put(known_ms as u64, length(width as u64));
        }
        self.changes.put(writer, zigzag((last - self.last) / self.unit as i64));
        self.below.put(writer, last.abs_diff(min) / self.unit);
        self.above.put(writer, max.abs_diff(last) / self.unit);
        let range = max.abs_diff(min);
        let places = places(range);
        if places > 0 {
            // Where the mean is above the least: a sum over the time, as a share of the range, in whole places.
            let over = held.sum - ((i128::from(min) * i128::from(known_ms)) << FRACTION_BITS);
            let whole = (i128::from(range) * i128::from(known_ms)) << FRACTION_BITS;
            let place = (over.saturating_mul(2 * i128::from(places)) + whole).div_euclid(2 * whole);
            writer.put(place.clamp(0, i128::from(places)) as u64, length(places));
        }
        self.last = last;
    }

    #[inline]
    fn take(&mut self, reader: &mut Reader<'_>, width: i64) -> Result<Option<Held>, Damaged> {
        let kind = reader.peek().leading_ones().min(3);
        reader.skip((kind + 1).min(3));
        reader.check()?;
        let known_ms = match kind {
            0 => return Ok(Some(Held::new(self.last, width))),
            1 => width,
            2 => reader.take(length(width as u64)) as i64,
            _ => return Ok(None),
        };
        if known_ms == 0 || known_ms > width {
            return Err(Damaged("a bucket is too long"));
        }
        let far = Damaged("a value is out of range");
        let change = unzigzag(self.changes.take(reader)).checked_mul(self.unit as i64);
        let last = change.and_then(|change| self.last.checked_add(change)).ok_or(far)?;
        let mut distance = |code: &mut Rice| {
            let distance = code.take(reader).checked_mul(self.unit).ok_or(far)?;
            i64::try_from(distance).map_err(|_| far)
        };
        let (below, above) = (distance(&mut self.below)?, distance(&mut self.above)?);
        let (min, max) = (last.checked_sub(below).ok_or(far)?, last.checked_add(above).ok_or(far)?);
        if !in_range(min) || !in_range(max) {
            return Err(far);
        }
        self.last = last;
        let range = max.abs_diff(min);
        let places = places(range);
        let mut over = 0;
        if places > 0 {
            let place = reader.take(length(places));
            if place > places {
                return Err(Damaged("a mean is out of range"));
            }
            // Nearly all fit 64 bits, which is much faster.
            let whole = (u128::from(range) * u128::from(place)) << FRACTION_BITS;
            over = match u64::try_from(whole) {
                Ok(whole) => i128::from(whole / places),
                Err(_) => (whole / u128::from(places)) as i128,
            };
        }
        reader.check()?;
        let sum = ((i128::from(min) << FRACTION_BITS) + over) * i128::from(known_ms);
        Ok(Some(Held { min, max, last, known_ms, sum }))
    }
}

/// How many places a mean has between values so far apart.
fn places(range: u64) -> u64 {
    range.saturating_mul(PLACES_A_UNIT).min(PLACES_MAX)
}

/// How many bits the number has.
fn length(number: u64) -> u32 {
    u64::BITS - number.leading_zeros()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const WIDTH: i64 = 10_000;

    /// Values and for how long each was held.
    fn held() -> impl Strategy<Value = Held> {
        let value = prop_oneof![(-50_i64..50).prop_map(|step| step * 500), -(1_i64 << 58) + 1..1 << 58];
        (proptest::collection::vec((value, 1_i64..=WIDTH / 4), 1..5), any::<bool>()).prop_map(
            |(mut parts, full)| {
                if full {
                    let rest: i64 = parts.iter().skip(1).map(|(_, ms)| ms).sum();
                    parts[0].1 = WIDTH - rest;
                }
                let parts = parts.into_iter().map(|(value, ms)| Held::new(value, ms));
                parts
                    .reduce(|a, b| Held {
                        min: a.min.min(b.min),
                        max: a.max.max(b.max),
                        last: b.last,
                        known_ms: a.known_ms + b.known_ms,
                        sum: a.sum + b.sum,
                    })
                    .expect("there is one")
            },
        )
    }

    fn fields() -> impl Strategy<Value = BTreeMap<u32, BTreeMap<u32, Held>>> {
        proptest::collection::btree_map(
            0_u32..200,
            proptest::collection::btree_map(0_u32..50, held(), 0..30),
            0..8,
        )
    }

    fn write(fields: &BTreeMap<u32, BTreeMap<u32, Held>>) -> Vec<u8> {
        let fields: Vec<_> = fields
            .iter()
            .map(|(id, rows)| (*id, rows.iter().map(|(row, held)| (*row, *held)).collect()))
            .collect();
        encode(50, WIDTH, &fields)
    }

    proptest! {
        #[test]
        fn buckets_come_back_and_their_means_nearly(fields in fields(), one: u32) {
            let bytes = write(&fields);
            let mut read: BTreeMap<u32, BTreeMap<u32, Held>> = BTreeMap::new();
            decode(&bytes, WIDTH, |id| { read.insert(id, BTreeMap::new()); true }, |_, _, _| {}).expect("it is whole");
            decode(&bytes, WIDTH, |_| true, |id, row, held| {
                read.entry(id).or_default().insert(row, held);
            }).expect("it is whole");
            prop_assert!(read.keys().eq(fields.keys()));
            for (id, rows) in &fields {
                prop_assert!(read[id].keys().eq(rows.keys()));
                for (row, was) in rows {
                    let is = read[id][row];
                    prop_assert_eq!(Held { sum: 0, ..is }, Held { sum: 0, ..*was });
                    let off = (is.sum - was.sum).unsigned_abs() as f64 / was.known_ms as f64 / 4096.0;
                    let range = was.max.abs_diff(was.min) as f64;
                    prop_assert!(off <= (range / 2046.0).max(1.0 / 32.0) * 1.000_001 + 0.001, "off by {} of {}", off, range);
                }
            }
            decode(&bytes, WIDTH, |id| id == one % 200, |id, _, _| assert_eq!(id, one % 200)).expect("it is whole");
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut told = 0;
            let _ = decode(&bytes, WIDTH, |_| true, |_, row, held| {
                assert!((row as usize) < ROWS_MAX && in_range(held.min) && in_range(held.max));
                assert!(held.min <= held.last && held.last <= held.max && (1..=WIDTH).contains(&held.known_ms));
                told += 1;
            });
            prop_assert!(told <= bytes.len() * 8);
        }

        #[test]
        fn a_block_that_was_changed_is_read_or_refused(fields in fields(), at in any::<proptest::sample::Index>(), by in 1_u8..) {
            let mut bytes = write(&fields);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            let _ = decode(&bytes, WIDTH, |_| true, |_, _, held| assert!(held.min <= held.max));
        }
    }
}
