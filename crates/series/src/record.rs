//! How blocks lie in files: each behind a head of its own with checksums, so that what is damaged is left out and what is behind it is found.
//!
//! | bytes of a head | what, the low byte first |
//! |---|---|
//! | 4 | `SkB1` |
//! | 4 | length of the block |
//! | 16 | group |
//! | 8, 8 | when it begins, and when it ends, in ms |
//! | 4 | CRC-32 of the block |
//! | 4 | CRC-32 of the head so far |

use crate::{Damaged, Group, types::Span};

const MAGIC: [u8; 4] = *b"SkB1";
/// Length of a head.
pub(crate) const HEAD_BYTES: usize = 48;
/// Times are far below that, and a negative one is none.
const TIMES: std::ops::Range<i64> = -1..1 << 44;
/// Longest block.
pub(crate) const BLOCK_BYTES_MAX: usize = 16 << 20;

/// A block in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) group: Group,
    pub(crate) time: Span,
    pub(crate) block: &'a [u8],
}

/// What [`scan`] came across.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where the last whole record ends.
    pub(crate) end: usize,
    /// Places at which something is damaged.
    pub(crate) damaged: u64,
}

impl<'a> Record<'a> {
    /// Appends it.
    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.extend(MAGIC);
        bytes.extend((self.block.len() as u32).to_le_bytes());
        bytes.extend(self.group.0.to_le_bytes());
        bytes.extend(self.time.start.to_le_bytes());
        bytes.extend(self.time.end.to_le_bytes());
        bytes.extend(crc32fast::hash(self.block).to_le_bytes());
        let head = crc32fast::hash(&bytes[start..]);
        bytes.extend(head.to_le_bytes());
        bytes.extend(self.block);
    }

    /// How long it is, head and all.
    pub(crate) fn len(&self) -> usize {
        HEAD_BYTES + self.block.len()
    }

    /// The record at the beginning of `bytes`.
    pub(crate) fn take(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let (head, behind) = head(bytes).ok_or(Damaged("there is no record's head"))?;
        let block = behind.get(..head.length).ok_or(Damaged("it ends too early"))?;
        if crc32fast::hash(block) != head.crc {
            return Err(Damaged("its checksum is another one"));
        }
        Ok(Self { group: head.group, time: head.time, block })
    }
}

struct Head {
    length: usize,
    group: Group,
    time: Span,
    crc: u32,
}

fn head(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let (head, behind) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let (checked, crc) = head.split_last_chunk::<4>()?;
    if checked[..4] != MAGIC || crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return None;
    }
    let four = |at: usize| Some(u32::from_le_bytes(*head[at..].first_chunk()?));
    let eight = |at: usize| Some(i64::from_le_bytes(*head[at..].first_chunk()?));
    let head = Head {
        length: four(4)? as usize,
        group: Group(u128::from_le_bytes(*head[8..].first_chunk()?)),
        time: eight(24)?..eight(32)?,
        crc: four(40)?,
    };
    let in_order = head.time.start <= head.time.end;
    let in_range = TIMES.contains(&head.time.start) && TIMES.contains(&head.time.end);
    (head.length <= BLOCK_BYTES_MAX && in_order && in_range).then_some((head, behind))
}

/// Tells each whole record of `bytes` and where it begins. What is damaged is passed over, until the next head.
pub(crate) fn scan(bytes: &[u8], mut tell: impl FnMut(usize, Record<'_>)) -> Found {
    let mut found = Found::default();
    let mut at = 0;
    let mut lost = false;
    while at < bytes.len() {
        if let Ok(record) = Record::take(&bytes[at..]) {
            let length = record.len();
            tell(at, record);
            at += length;
            found.end = at;
            lost = false;
            continue;
        }
        if !lost {
            found.damaged += 1;
            lost = true;
        }
        let next = bytes[at + 1..].windows(MAGIC.len()).position(|window| window == MAGIC);
        at = next.map_or(bytes.len(), |next| at + 1 + next);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_damaged_is_lost_alone(
            blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..12),
            at in any::<proptest::sample::Index>(), by in 1_u8.., cut in any::<proptest::sample::Index>(), torn: bool,
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (index, block) in blocks.iter().enumerate() {
                let time = index as i64..index as i64 + 5;
                Record { group: Group(index as u128), time, block }.put(&mut bytes);
                ends.push(bytes.len());
            }
            let read = |bytes: &[u8]| {
                let mut groups = Vec::new();
                let found = scan(bytes, |_, record| {
                    assert_eq!(record.block, blocks[record.group.0 as usize]);
                    groups.push(record.group.0 as usize);
                });
                (groups, found)
            };
            let all: Vec<_> = (0..blocks.len()).collect();
            prop_assert_eq!(read(&bytes), (all, Found { end: bytes.len(), damaged: 0 }));
            let (hit, left): (usize, Vec<usize>) = if torn {
                let cut = cut.index(bytes.len());
                bytes.truncate(cut);
                (usize::from(!ends.contains(&cut)), (0..blocks.len()).filter(|index| ends[index + 1] <= cut).collect())
            } else {
                let at = at.index(bytes.len());
                bytes[at] ^= by;
                (1, (0..blocks.len()).filter(|index| !(ends[*index]..ends[index + 1]).contains(&at)).collect())
            };
            let (groups, found) = read(&bytes);
            prop_assert_eq!(&groups, &left);
            prop_assert_eq!(found.damaged, hit as u64);
            prop_assert_eq!(found.end, left.last().map_or(0, |last| ends[last + 1]));
        }
    }

    #[test]
    fn times_that_cannot_be_are_none() {
        for time in [i64::MIN..i64::MAX, -2..5, 0..1 << 44, Span { start: 5, end: 4 }] {
            let mut bytes = Vec::new();
            Record { group: Group(1), time, block: b"x" }.put(&mut bytes);
            assert!(Record::take(&bytes).is_err());
        }
    }

    #[test]
    fn bytes_of_any_kind_are_passed_over() {
        let mut bytes = b"SkB1SkB1".repeat(1000);
        assert_eq!(scan(&bytes, |_, _| panic!("there is none")), Found { end: 0, damaged: 1 });
        let at = bytes.len();
        Record { group: Group(1), time: 0..1, block: b"x" }.put(&mut bytes);
        let mut seen = Vec::new();
        scan(&bytes, |at, _| seen.push(at));
        assert_eq!(seen, [at]);
    }
}
