//! Finds the name that a request is about in the encoded request, without decoding it.
//!
//! The law: of a message that the handler's decoder takes, this finds the very text that the decoder finds, or refuses. Protobuf merges what
//! stands twice and lets the last one win; here, two that differ are refused, so there is nothing to disagree about. Pure, in one pass,
//! without allocation, and bounded by the message and the length of the path.

use skerry_model::{Code, Fault};

/// Field numbers from the request down to a text: `[1, 1, 1]` is `node.metadata.name`.
pub(crate) type Path = &'static [u32];

/// Why the name cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the request is no message of the protocol")]
    Malformed,
    #[error("the request names two different resources where one belongs")]
    Ambiguous,
}

impl From<Unreadable> for Fault {
    fn from(why: Unreadable) -> Self {
        let reason = match why {
            Unreadable::Malformed => "REQUEST_MALFORMED",
            Unreadable::Ambiguous => "REQUEST_AMBIGUOUS",
        };
        Fault::new(Code::InvalidArgument, reason, why.to_string())
    }
}

/// The text at `path` in `message`; empty if there is none, as the decoder has it.
pub(crate) fn find<'a>(message: &'a [u8], path: &[u32]) -> Result<&'a str, Unreadable> {
    let mut found = None;
    look(message, path, &mut found)?;
    let text = std::str::from_utf8(found.unwrap_or_default());
    text.map_err(|_| Unreadable::Malformed)
}

/// The values of every field `number` of `message`, each of which has a length: those of a repeated field, or what a decoder would merge.
pub(crate) fn values(message: &[u8], number: u32) -> Result<Vec<&[u8]>, Unreadable> {
    let mut values = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        if let Some(value) = field(&mut rest, number)? {
            values.push(value);
        }
    }
    Ok(values)
}

/// Reads one field, and answers its value if it has the number that is wanted.
fn field<'a>(rest: &mut &'a [u8], wanted: u32) -> Result<Option<&'a [u8]>, Unreadable> {
    let key = varint(rest)?;
    let (number, kind) = (key >> 3, key & 7);
    if number == 0 || key > u64::from(u32::MAX) {
        return Err(Unreadable::Malformed);
    }
    let value = match kind {
        0 => {
            varint(rest)?;
            None
        }
        1 => {
            take(rest, 8)?;
            None
        }
        2 => {
            let length = varint(rest)?;
            Some(take(rest, length)?)
        }
        5 => {
            take(rest, 4)?;
            None
        }
        // Groups: proto3 has none.
        _ => return Err(Unreadable::Malformed),
    };
    match (number == u64::from(wanted), value) {
        (false, _) => Ok(None),
        (true, Some(value)) => Ok(Some(value)),
        (true, None) => Err(Unreadable::Malformed),
    }
}

/// Adds what `message` has at `path` to what was found. One level down for each part of the path.
fn look<'a>(message: &'a [u8], path: &[u32], found: &mut Option<&'a [u8]>) -> Result<(), Unreadable> {
    let Some((wanted, below)) = path.split_first() else { return Err(Unreadable::Malformed) };
    let mut rest = message;
    while !rest.is_empty() {
        let Some(value) = field(&mut rest, *wanted)? else { continue };
        if !below.is_empty() {
            look(value, below, found)?;
        } else if found.is_some_and(|before| before != value) {
            return Err(Unreadable::Ambiguous);
        } else {
            *found = Some(value);
        }
    }
    Ok(())
}

/// Reads a varint of at most 64 bits.
fn varint(rest: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut value = 0_u64;
    for (index, byte) in rest.iter().enumerate().take(10) {
        if index == 9 && *byte > 1 {
            return Err(Unreadable::Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = rest.get(index + 1..).unwrap_or_default();
            return Ok(value);
        }
    }
    Err(Unreadable::Malformed)
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], Unreadable> {
    let length = usize::try_from(length).map_err(|_| Unreadable::Malformed)?;
    let (taken, left) = rest.split_at_checked(length).ok_or(Unreadable::Malformed)?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests;
