//! Blocks of samples as they came: rows of a time and the fields that changed, coded one behind the other while they come.
//!
//! A block says at its beginning what is known then, so that it is read by itself. Layout, numbers as in `bits`:
//!
//! | part | what |
//! |---|---|
//! | rows | how many, 4 bytes, the low one first |
//! | table | how many fields; the interval before, in ms; a byte each how long the numbers of intervals and skips are about; per field its id, a byte (bit 7: it is known; the rest: how long its numbers are about), unit, last value |
//! | row | change of the interval since the row before; for each change how many fields are skipped before it, and then the column's code; a last skip leads behind the end of the table; then what else there is, each behind a `1`, and `0` at the end |
//! | new | `0`, how many fields (16 bits), each with id (32 bits) and value (64 bits) |
//! | lost | `1`, how many fields (16 bits, 0 for all), each with its column (12 bits): from now on they are not known |
//!
//! All fields of a group share the time of a row, and where one begins is not needed: whoever asks for a group mostly asks for all of it.

use crate::{
    Damaged,
    bits::{Reader, Writer, put_varint, take_byte, take_varint, unzigzag, zigzag},
    column::{Column, in_range},
    rice::Rice,
    types::Time,
};

/// Most fields of a block.
pub(crate) const FIELDS_MAX: usize = 4096;
/// Of the number of a column.
const COLUMN_BITS: u32 = FIELDS_MAX.ilog2();
const KNOWN: u8 = 0x80;

/// What both ends know at a place in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// Of the last row.
    time: i64,
    /// The interval before it.
    interval: i64,
    intervals: Rice,
    skips: Rice,
    columns: Vec<Column>,
}

/// The block that a group's samples go to.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    start: i64,
    rows: u32,
    /// Without those known at its beginning.
    values: u64,
    /// How long the table at its beginning is, in bytes.
    table: usize,
    state: State,
    bits: Writer,
}

/// Whom a block is read to. Columns are numbered from 0 on, in the order in which they come.
pub(crate) trait Visit {
    /// There is one more column, of this field.
    fn column(&mut self, id: u32);
    /// From this time on it has this value.
    fn value(&mut self, column: usize, time: i64, value: i64);
    /// From this time on its value is not known.
    fn lost(&mut self, column: usize, time: i64);
    /// From this time on nothing is known.
    fn gap(&mut self, time: i64);
}

impl Head {
    /// Begins a block at `start`, in which what `before` knew at its end is known, or nothing.
    pub(crate) fn begin(start: i64, before: Option<&Self>) -> Self {
        let mut state = State {
            time: start,
            interval: 0,
            intervals: Rice::new(0),
            skips: Rice::new(0),
            columns: Vec::new(),
        };
        if let Some(Self { state: old, .. }) = before {
            state.interval = old.interval;
            state.intervals = Rice::new(old.intervals.bits());
            state.skips = Rice::new(old.skips.bits());
            state.columns = old.columns.iter().filter(|column| column.known).map(Column::next).collect();
            state.columns.sort_unstable_by_key(|column| column.id);
        }
        let mut bytes = vec![0; 4];
        put_varint(&mut bytes, state.columns.len() as u64);
        put_varint(&mut bytes, state.interval as u64);
        bytes.extend([state.intervals.bits(), state.skips.bits()]);
        for column in &state.columns {
            put_varint(&mut bytes, column.id.into());
            bytes.push(column.code.bits() | if column.known { KNOWN } else { 0 });
            put_varint(&mut bytes, column.unit.into());
            put_varint(&mut bytes, zigzag(column.last));
        }
        let table = bytes.len();
        Self { start, rows: 0, values: 0, table, state, bits: Writer::after(bytes) }
    }

    /// Goes on with a block that begins at `start`, of which this is the payload.
    pub(crate) fn resume(start: i64, payload: &[u8]) -> Result<Self, Damaged> {
        struct Count(u64);
        impl Visit for Count {
            fn column(&mut self, _: u32) {}
            fn value(&mut self, _: usize, _: i64, _: i64) {
                self.0 += 1;
            }
            fn lost(&mut self, _: usize, _: i64) {}
            fn gap(&mut self, _: i64) {}
        }
        let mut count = Count(0);
        let Read { rows, known, table, state, bits } = read(start, payload, &mut count)?;
        let bits = Writer::resume(payload.to_vec(), bits);
        Ok(Self { start, rows, values: count.0 - known, table, state, bits })
    }

    /// When it begins.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// The time of its last row, or of its beginning.
    pub(crate) fn time(&self) -> i64 {
        self.state.time
    }

    /// Until when what it knows holds, if nothing more is heard.
    pub(crate) fn end(&self, hold_ms: i64) -> i64 {
        if self.knows() { self.time() + hold_ms } else { self.time() }
    }

    /// How many values it was given.
    pub(crate) fn values(&self) -> u64 {
        self.values
    }

    /// Its fields, in the order of their columns.
    pub(crate) fn columns(&self) -> &[Column] {
        &self.state.columns
    }

    /// Whether any field has a value after the last row.
    pub(crate) fn knows(&self) -> bool {
        self.state.columns.iter().any(|column| column.known)
    }

    /// Whether it is so long, and its rows longer than its table.
    pub(crate) fn is_full(&self, bytes: usize) -> bool {
        self.bits.len() >= bytes.max(2 * self.table)
    }

    /// What memory it holds beside itself, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.bits.capacity() + self.state.columns.capacity() * size_of::<Column>()
    }

    /// The block so far.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut bytes = self.bits.to_bytes();
        bytes[..4].copy_from_slice(&self.rows.to_le_bytes());
        bytes
    }

    /// Adds a row. `changes` are by column, in rising order, each once, without a value where that is not known any more; the fields of `new` have no
    /// column yet. Values are in range, `time` is not before the last row, and there are [`FIELDS_MAX`] columns after that at most.
    pub(crate) fn sample(&mut self, time: i64, changes: &[(u32, Option<i64>)], new: &[(u32, i64)]) {
        self.time_of_row(time);
        let Self { state, bits, .. } = self;
        let (mut next, mut lost) = (0, 0);
        for (index, value) in changes {
            let (Some(column), Some(value)) = (state.columns.get_mut(*index as usize), value) else {
                lost += 1;
                continue;
            };
            state.skips.put(bits, u64::from(index - next));
            column.put(bits, *value);
            next = index + 1;
            self.values += 1;
        }
        self.end_of_changes(next);
        if lost > 0 {
            self.bits.put(0b11, 2);
            self.bits.put(lost, 16);
            for (index, _) in changes.iter().filter(|(_, value)| value.is_none()) {
                self.bits.put(u64::from(*index), COLUMN_BITS);
                if let Some(column) = self.state.columns.get_mut(*index as usize) {
                    column.known = false;
                }
            }
        }
        if !new.is_empty() {
            self.bits.put(0b10, 2);
            self.bits.put(new.len() as u64, 16);
            for (id, value) in new {
                self.bits.put(u64::from(*id), 32);
                self.bits.put_64(*value as u64);
                self.state.columns.push(new_column(*id, *value));
                self.values += 1;
            }
        }
        self.bits.put(0, 1);
    }

    /// Adds a row that says that nothing is known from `time` on.
    pub(crate) fn gap(&mut self, time: i64) {
        self.time_of_row(time);
        self.end_of_changes(0);
        self.bits.put(0b11, 2);
        self.bits.put(0, 16);
        self.bits.put(0, 1);
        self.state.forget();
    }

    fn time_of_row(&mut self, time: i64) {
        let state = &mut self.state;
        let interval = time - state.time;
        state.intervals.put(&mut self.bits, zigzag(interval - state.interval));
        (state.time, state.interval) = (time, interval);
        self.rows += 1;
    }

    fn end_of_changes(&mut self, next: u32) {
        let left = self.state.columns.len() as u64 - u64::from(next);
        if left > 0 {
            self.state.skips.put(&mut self.bits, left);
        }
    }
}

impl State {
    fn forget(&mut self) {
        for column in &mut self.columns {
            column.known = false;
        }
    }
}

fn new_column(id: u32, value: i64) -> Column {
    Column::new(id, value, 0, Rice::new(0), true)
}

/// Reads a block that begins at `start` to `visit`: columns, what is known at the beginning, rows.
pub(crate) fn decode(start: i64, payload: &[u8], visit: &mut impl Visit) -> Result<(), Damaged> {
    read(start, payload, visit).map(drop)
}

/// What is known of a block once it was read.
struct Read {
    rows: u32,
    /// How many values are known at the beginning.
    known: u64,
    /// Where the table ends, in bytes.
    table: usize,
    /// At the end.
    state: State,
    /// Where that is, in bits.
    bits: usize,
}

fn read(start: i64, payload: &[u8], visit: &mut impl Visit) -> Result<Read, Damaged> {
    let (rows, mut rest) = payload.split_first_chunk().ok_or(Damaged("it ends too early"))?;
    let rows = u32::from_le_bytes(*rows);
    let mut state = table(start, &mut rest)?;
    let mut known = 0;
    for (index, column) in state.columns.iter().enumerate() {
        visit.column(column.id);
        if column.known {
            visit.value(index, start, column.last);
            known += 1;
        }
    }
    let mut reader = Reader::new(rest);
    for _ in 0..rows {
        row(&mut state, &mut reader, visit)?;
    }
    let table = payload.len() - rest.len();
    Ok(Read { rows, known, table, state, bits: table * 8 + reader.at() })
}

fn table(start: i64, rest: &mut &[u8]) -> Result<State, Damaged> {
    let count = take_varint(rest)?;
    let interval = take_varint(rest)?;
    // A column takes four bytes at least.
    if count > (rest.len() / 4).min(FIELDS_MAX) as u64 || interval > Time::MAX.unix_ms() as u64 {
        return Err(Damaged("its table cannot be"));
    }
    let intervals = Rice::new(take_byte(rest)?);
    let skips = Rice::new(take_byte(rest)?);
    let mut columns = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let id = u32::try_from(take_varint(rest)?).map_err(|_| Damaged("a field cannot be"))?;
        let byte = take_byte(rest)?;
        let unit = u32::try_from(take_varint(rest)?).map_err(|_| Damaged("a unit cannot be"))?;
        let last = unzigzag(take_varint(rest)?);
        if !in_range(last) {
            return Err(Damaged("a value is out of range"));
        }
        columns.push(Column::new(id, last, unit, Rice::new(byte & !KNOWN), byte & KNOWN != 0));
    }
    Ok(State { time: start, interval: interval as i64, intervals, skips, columns })
}

#[inline]
fn row(state: &mut State, reader: &mut Reader<'_>, visit: &mut impl Visit) -> Result<(), Damaged> {
    let change = unzigzag(state.intervals.take(reader));
    reader.check()?;
    let interval = state.interval.checked_add(change).filter(|interval| *interval >= 0);
    let time = interval.and_then(|interval| state.time.checked_add(interval));
    let time = time.filter(|time| *time <= Time::MAX.unix_ms()).ok_or(Damaged("a time cannot be"))?;
    (state.time, state.interval) = (time, time - state.time);
    let (mut next, count) = (0, state.columns.len());
    while next < count {
        let skip = state.skips.take(reader);
        if skip > (count - next) as u64 {
            return Err(Damaged("a field cannot be"));
        }
        next += skip as usize;
        if let Some(column) = state.columns.get_mut(next) {
            let value = column.take(reader)?;
            visit.value(next, time, value);
            next += 1;
        } else {
            break;
        }
    }
    while reader.take(1) == 1 {
        let is_lost = reader.take(1) == 1;
        let count = reader.take(16) as usize;
        reader.check()?;
        match (is_lost, count) {
            (false, _) => new_fields(state, reader, count, visit)?,
            (true, 0) => {
                state.forget();
                visit.gap(time);
            }
            (true, _) => {
                for _ in 0..count {
                    let index = reader.take(COLUMN_BITS) as usize;
                    reader.check()?;
                    state.columns.get_mut(index).ok_or(Damaged("a field cannot be"))?.known = false;
                    visit.lost(index, time);
                }
            }
        }
    }
    reader.check()
}

fn new_fields(
    state: &mut State,
    reader: &mut Reader<'_>,
    count: usize,
    visit: &mut impl Visit,
) -> Result<(), Damaged> {
    let first = state.columns.len();
    if first + count > FIELDS_MAX {
        return Err(Damaged("it has too many fields"));
    }
    for index in first..first + count {
        let id = reader.take(32) as u32;
        let value = reader.take_64() as i64;
        reader.check()?;
        if !in_range(value) {
            return Err(Damaged("a value is out of range"));
        }
        state.columns.push(new_column(id, value));
        visit.column(id);
        visit.value(index, state.time, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What it was told, in order.
    #[derive(Clone, Debug, Default, PartialEq)]
    struct Told(Vec<u32>, Vec<What>);

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum What {
        Value(i64, u32, i64),
        Lost(i64, u32),
        Gap(i64),
    }

    impl Visit for Told {
        fn column(&mut self, id: u32) {
            self.0.push(id);
        }

        fn value(&mut self, column: usize, time: i64, value: i64) {
            self.1.push(What::Value(time, self.0[column], value));
        }

        fn lost(&mut self, column: usize, time: i64) {
            self.1.push(What::Lost(time, self.0[column]));
        }

        fn gap(&mut self, time: i64) {
            self.1.push(What::Gap(time));
        }
    }

    type Row = (i64, Vec<(u32, Option<i64>)>);

    /// Rows of an interval and changes, none of which is a gap.
    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let value = prop_oneof![(-50_i64..50).prop_map(|step| step * 1000), -(1_i64 << 57)..1 << 57];
        let changes =
            proptest::collection::btree_map(0_u32..40, proptest::option::weighted(0.9, value), 0..12);
        let interval = prop_oneof![990_i64..1010, 0_i64..3, 0_i64..1 << 30];
        let row =
            (interval, changes).prop_map(|(interval, changes)| (interval, changes.into_iter().collect()));
        proptest::collection::vec(row, 0..60)
    }

    fn add(head: &mut Head, told: &mut Told, interval: i64, row: &[(u32, Option<i64>)]) {
        let time = head.time() + interval;
        if row.is_empty() {
            head.gap(time);
            told.1.push(What::Gap(time));
            return;
        }
        let place = |id: u32| head.columns().iter().position(|column| column.id == id);
        let mut old: Vec<_> =
            row.iter().filter_map(|(id, value)| Some((place(*id)? as u32, *value))).collect();
        old.sort_unstable();
        let new: Vec<_> = row
            .iter()
            .filter(|(id, _)| place(*id).is_none())
            .filter_map(|(id, value)| Some((*id, (*value)?)))
            .collect();
        let id = |column: u32| head.columns()[column as usize].id;
        told.1
            .extend(old.iter().filter_map(|(column, value)| Some(What::Value(time, id(*column), (*value)?))));
        told.1.extend(
            old.iter().filter(|(_, value)| value.is_none()).map(|(column, _)| What::Lost(time, id(*column))),
        );
        told.1.extend(new.iter().map(|(id, value)| What::Value(time, *id, *value)));
        head.sample(time, &old, &new);
    }

    proptest! {
        #[test]
        fn rows_come_back_as_they_came_also_from_a_block_that_was_taken_up_again(
            rows in rows(), start in 0_i64..1 << 40, cuts in proptest::collection::vec(0_usize..60, 0..4), next in 0_usize..60,
        ) {
            let (mut head, mut told) = (Head::begin(start, None), Told::default());
            for (index, (interval, row)) in rows.iter().enumerate() {
                if cuts.contains(&index) {
                    let again = Head::resume(head.start(), &head.payload()).expect("it is whole");
                    prop_assert_eq!((again.rows, again.values, again.time()), (head.rows, head.values, head.time()));
                    head = again;
                }
                if index == next {
                    let mut known: Vec<_> = head.columns().iter().filter(|column| column.known)
                        .map(|column| What::Value(head.time(), column.id, column.last)).collect();
                    known.sort_unstable();
                    head = Head::begin(head.time(), Some(&head));
                    told.1 = known;
                }
                add(&mut head, &mut told, *interval, row);
            }
            let mut read = Told::default();
            decode(head.start(), &head.payload(), &mut read).expect("it is whole");
            prop_assert_eq!(read.1, told.1);
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in 0_i64..1 << 40) {
            let mut told = Told::default();
            if decode(start, &bytes, &mut told).is_ok() {
                let times = start..=Time::MAX.unix_ms();
                let fits = |what: &What| match what {
                    What::Value(time, _, value) => times.contains(time) && in_range(*value),
                    What::Lost(time, _) | What::Gap(time) => times.contains(time),
                };
                prop_assert!(told.1.iter().all(fits));
            }
            prop_assert!(told.1.len() <= bytes.len() * 8 && told.0.len() <= bytes.len());
        }

        #[test]
        fn a_block_that_was_changed_is_read_or_refused(rows in rows(), at in any::<proptest::sample::Index>(), by in 1_u8.., cut in any::<proptest::sample::Index>()) {
            let mut head = Head::begin(1_000, None);
            for (interval, row) in &rows {
                add(&mut head, &mut Told::default(), *interval, row);
            }
            let mut bytes = head.payload();
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            bytes.truncate(bytes.len() - cut.index(bytes.len()) / 4);
            let mut told = Told::default();
            // A row may be a gap of a few bits, and nothing is shorter.
            let _ = decode(1_000, &bytes, &mut told);
            prop_assert!(told.1.len() <= bytes.len() * 8);
            let _ = Head::resume(1_000, &bytes);
        }
    }
}
