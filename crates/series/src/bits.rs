//! Bits in a row, the high one first.

use crate::Damaged;

/// Most bits of one [`Writer::put`], [`Reader::take`] or [`Reader::peek`].
pub(crate) const BITS_MAX: u32 = 56;
/// By how much the buffer grows. Tens of thousands are open at once, so that doubling would waste as much as they hold.
const GROWTH_BYTES: usize = 512;

/// Writes bits behind whole bytes.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// The bits that make no byte yet: the lowest `used`.
    rest: u64,
    used: u32,
}

impl Writer {
    /// Goes on behind `bytes`.
    pub(crate) fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, rest: 0, used: 0 }
    }

    /// Goes on within `bytes`, of which the first `bits` bits count.
    pub(crate) fn resume(mut bytes: Vec<u8>, bits: usize) -> Self {
        let used = (bits % 8) as u32;
        let rest = match bytes.get(bits / 8) {
            Some(last) if used > 0 => u64::from(last >> (8 - used)),
            _ => 0,
        };
        bytes.truncate(bits / 8);
        Self { bytes, rest, used }
    }

    /// Writes the lowest `count` bits of `value`, which has no others; at most [`BITS_MAX`].
    pub(crate) fn put(&mut self, value: u64, count: u32) {
        debug_assert!(count <= BITS_MAX && (count == 64 || value >> count == 0));
        self.rest = self.rest << count | value;
        self.used += count;
        if self.used >= 8 {
            let whole = (self.used / 8) as usize;
            if self.bytes.capacity() - self.bytes.len() < 8 {
                self.bytes.reserve_exact(GROWTH_BYTES);
            }
            self.bytes.extend_from_slice(&(self.rest << (64 - self.used)).to_be_bytes()[..whole]);
            self.used %= 8;
            self.rest &= (1 << self.used) - 1;
        }
    }

    /// Writes all 64 bits of `value`.
    pub(crate) fn put_64(&mut self, value: u64) {
        self.put(value >> 32, 32);
        self.put(value & u64::from(u32::MAX), 32);
    }

    /// How many bytes there are, the last one begun or whole.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + usize::from(self.used > 0)
    }

    /// What memory it holds, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// All that was written, filled up with zeros.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(&self.bytes);
        if self.used > 0 {
            bytes.push((self.rest << (8 - self.used)) as u8);
        }
        bytes
    }
}

/// Reads what [`Writer`] wrote. Behind the end it finds zeros, which are nothing: [`Reader::check`] before what was read is used.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bits were read.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next bits from the highest one on, at least [`BITS_MAX`] of them.
    #[inline]
    pub(crate) fn peek(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = if let Some(word) = rest.first_chunk() {
            u64::from_be_bytes(*word)
        } else {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(word)
        };
        word << (self.at % 8)
    }

    /// Passes over `count` bits.
    #[inline]
    pub(crate) fn skip(&mut self, count: u32) {
        self.at += count as usize;
    }

    /// The next `count` bits, at most [`BITS_MAX`].
    #[inline]
    pub(crate) fn take(&mut self, count: u32) -> u64 {
        let word = self.peek();
        self.skip(count);
        if count == 0 { 0 } else { word >> (64 - count) }
    }

    /// The next 64 bits.
    pub(crate) fn take_64(&mut self) -> u64 {
        self.take(32) << 32 | self.take(32)
    }

    /// Whether all that was read was there.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Damaged> {
        if self.at > self.bytes.len() * 8 { Err(Damaged("it ends too early")) } else { Ok(()) }
    }
}

/// Appends `value` in bytes of seven bits each, the low ones first (LEB128).
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Takes what [`put_varint`] wrote from the front of `bytes`.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(bytes)?;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            break;
        }
        value |= part << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Damaged("a number has more than 64 bits"))
}

/// Takes one byte from the front of `bytes`.
pub(crate) fn take_byte(bytes: &mut &[u8]) -> Result<u8, Damaged> {
    let (first, rest) = bytes.split_first().ok_or(Damaged("it ends too early"))?;
    *bytes = rest;
    Ok(*first)
}

/// Signed numbers as unsigned ones, small ones as small ones: 0, -1, 1, -2 …
pub(crate) fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The number that [`zigzag`] was given.
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_come_back_as_they_were_written(
            parts in proptest::collection::vec((any::<u64>(), 0..=BITS_MAX), 0..80),
            cut in 0_usize..80,
        ) {
            let parts: Vec<_> = parts.into_iter().map(|(value, count)| (value & ((1 << count) - 1), count)).collect();
            let (mut writer, mut bits) = (Writer::after(Vec::new()), 0);
            for (index, (value, count)) in parts.iter().enumerate() {
                if index == cut {
                    writer = Writer::resume(writer.to_bytes(), bits);
                }
                writer.put(*value, *count);
                bits += *count as usize;
            }
            let bytes = writer.to_bytes();
            prop_assert_eq!(bytes.len(), bits.div_ceil(8));
            let mut reader = Reader::new(&bytes);
            for (value, count) in parts {
                prop_assert_eq!(reader.take(count), value);
            }
            prop_assert_eq!((reader.at(), reader.check()), (bits, Ok(())));
            prop_assert!(reader.take(8) == 0 && reader.check().is_err());
        }

        #[test]
        fn numbers_come_back_as_they_were_written(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut rest = &bytes[..];
            prop_assert_eq!(take_varint(&mut rest), Ok(value));
            prop_assert!(rest.is_empty());
            prop_assert_eq!(zigzag(unzigzag(value)), value);
        }
    }

    #[test]
    fn a_number_too_long_is_refused() {
        assert!(take_varint(&mut &[0xff; 9][..]).is_err());
        assert!(take_varint(&mut &[0xff; 10][..]).is_err());
        let (mut most, mut more) = ([0xff; 10], [0xff; 10]);
        (most[9], more[9]) = (1, 2);
        assert_eq!(take_varint(&mut &most[..]), Ok(u64::MAX));
        assert!(take_varint(&mut &more[..]).is_err());
    }
}
