//! What is in memory only, written down from time to time: blocks that are open, and which groups were forgotten.
//!
//! One file of records, the first of which says what was forgotten. It is written anew beside the old one, which it then replaces.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
};

use crate::{
    Group,
    bits::{put_varint, take_varint},
    log::Position,
    raw::Head,
    record::{Record, scan},
};

const NAME: &str = "open";
const NEW: &str = "open.new";
/// The time of the record that is no block: no block ends before 1970.
const FORGOTTEN: std::ops::Range<i64> = -1..-1;

/// Up to which position of which level (by the width of its buckets) blocks of a group are forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forgotten {
    marks: HashMap<(Group, i64), Position>,
}

/// What was written down.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// Open blocks, and the newest time of their groups.
    pub(crate) heads: Vec<(Group, Head, i64)>,
    pub(crate) forgotten: Forgotten,
    pub(crate) damaged: u64,
}

impl Forgotten {
    pub(crate) fn add(&mut self, group: Group, width_ms: i64, before: Position) {
        self.marks.insert((group, width_ms), before);
    }

    /// Whether a block at this position is of what was forgotten.
    pub(crate) fn covers(&self, group: Group, width_ms: i64, position: Position) -> bool {
        self.marks.get(&(group, width_ms)).is_some_and(|before| position < *before)
    }

    /// The last segment of a level in which anything was forgotten.
    pub(crate) fn last_segment(&self, width_ms: i64) -> Option<u32> {
        let of_level = self.marks.iter().filter(|((_, width), _)| *width == width_ms);
        of_level.map(|(_, (segment, _))| *segment).max()
    }

    /// Drops what the level's files have nothing of any more. `oldest` is the first of them, if there is one.
    pub(crate) fn drop_gone(&mut self, width_ms: i64, oldest: Option<u32>) {
        let is_gone = |segment: u32| oldest.is_none_or(|oldest| oldest > segment);
        self.marks.retain(|(_, width), (segment, _)| *width != width_ms || !is_gone(*segment));
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for ((group, width), (segment, offset)) in &self.marks {
            bytes.extend(group.0.to_le_bytes());
            for number in [width.unsigned_abs(), u64::from(*segment), u64::from(*offset)] {
                put_varint(&mut bytes, number);
            }
        }
        bytes
    }

    /// `None`: these are none.
    fn take(mut bytes: &[u8]) -> Option<Self> {
        let mut forgotten = Self::default();
        while let Some((group, rest)) = bytes.split_first_chunk() {
            bytes = rest;
            let mut number = || take_varint(&mut bytes).ok();
            let (width, segment, offset) = (number()?, number()?, number()?);
            let before = (segment.try_into().ok()?, offset.try_into().ok()?);
            forgotten.add(Group(u128::from_le_bytes(*group)), width.try_into().ok()?, before);
        }
        bytes.is_empty().then_some(forgotten)
    }
}

/// Replaces what was written down in `dir`.
pub(crate) fn write<'a>(
    dir: &Path,
    heads: impl Iterator<Item = (Group, &'a Head, i64)>,
    forgotten: &Forgotten,
) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 18, File::create(dir.join(NEW))?);
    let mut bytes = Vec::new();
    Record { group: Group(0), time: FORGOTTEN, block: &forgotten.to_bytes() }.put(&mut bytes);
    file.write_all(&bytes)?;
    for (group, head, newest) in heads {
        bytes.clear();
        Record { group, time: head.start()..newest.max(head.start()), block: &head.payload() }
            .put(&mut bytes);
        file.write_all(&bytes)?;
    }
    file.into_inner()?.sync_data()?;
    fs::rename(dir.join(NEW), dir.join(NAME))?;
    File::open(dir)?.sync_all()
}

/// Reads what was written down in `dir`, if anything was.
pub(crate) fn read(dir: &Path) -> io::Result<Saved> {
    let bytes = match fs::read(dir.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
        bytes => bytes?,
    };
    let mut saved = Saved::default();
    let mut wrong = 0;
    let found = scan(&bytes, |_, record| {
        if record.time == FORGOTTEN {
            match Forgotten::take(record.block) {
                Some(forgotten) => saved.forgotten = forgotten,
                None => wrong += 1,
            }
            return;
        }
        match Head::resume(record.time.start, record.block) {
            Ok(head) => saved.heads.push((record.group, head, record.time.end)),
            Err(_) => wrong += 1,
        }
    });
    saved.damaged = found.damaged + wrong;
    Ok(saved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_remembered_while_there_is_anything_of_it() {
        let mut forgotten = Forgotten::default();
        forgotten.add(Group(1), 1, (3, 100));
        forgotten.add(Group(1), 10_000, (0, 5));
        forgotten.add(Group(2), 1, (4, 0));
        assert_eq!(Forgotten::take(&forgotten.to_bytes()), Some(forgotten.clone()));
        assert!(Forgotten::take(&[1; 40]).is_none() && Forgotten::take(&[1; 3]).is_none());
        assert!(forgotten.covers(Group(1), 1, (3, 99)) && forgotten.covers(Group(1), 1, (2, 500)));
        assert!(!forgotten.covers(Group(1), 1, (3, 100)) && !forgotten.covers(Group(2), 10_000, (0, 0)));
        assert_eq!(forgotten.last_segment(1), Some(4));
        forgotten.drop_gone(1, Some(4));
        assert!(!forgotten.covers(Group(1), 1, (3, 99)) && forgotten.covers(Group(2), 1, (3, 0)));
        forgotten.drop_gone(10_000, None);
        assert_eq!(forgotten.last_segment(10_000), None);
    }
}
