//! Small checksummed text files, replaced atomically: how the shim and the agent tell each other things, across the death of either.
//!
//! One line per field, `key value`, with backslash and newline escaped; the last line is a checksum of all before it. People can
//! read them with `cat`. A torn or foreign file reads as absent: what it would have said has to be found out otherwise anyway.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::hex::hex;

/// Longest record that is read, in bytes. An app's spec has at most 256 KiB and all variables 512 KiB (`ENV_BYTES_MAX`); escaping, and the word
/// before each, at worst make three times as many of them.
const RECORD_BYTES_MAX: u64 = 3 * (256 + 512) * 1024;
const HEAD: &str = "skerry-record 1\n";
const SUM: &str = "sum ";

/// Fields in order. A key may come more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record(Vec<(String, String)>);

impl Record {
    pub(crate) fn push(&mut self, key: &str, value: impl Into<String>) {
        debug_assert!(!key.contains([' ', '\n']) && key != "sum", "keys are plain words of ours");
        self.0.push((key.to_owned(), value.into()));
    }

    /// The first field of that key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All fields of that key.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The first field of that key, as a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = HEAD.to_owned();
        for (key, value) in &self.0 {
            let _ = writeln!(text, "{key} {}", value.replace('\\', "\\\\").replace('\n', "\\n"));
        }
        let sum = checksum(text.as_bytes());
        let _ = writeln!(text, "{SUM}{sum}");
        text.into_bytes()
    }

    /// The record, if `bytes` are a whole one. What follows the checksum's line is passed over: room that was reserved.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let text = std::str::from_utf8(&bytes[..end]).ok()?;
        let (body, sum) = text.rsplit_once(SUM).filter(|(body, _)| body.ends_with('\n'))?;
        if sum != format!("{}\n", checksum(body.as_bytes())) {
            return None;
        }
        let fields = body.strip_prefix(HEAD)?.split_terminator('\n');
        fields
            .map(|line| line.split_once(' ').map(|(k, v)| (k.to_owned(), unescape(v))))
            .collect::<Option<_>>()
            .map(Self)
    }

    /// Reads `dir/name`: `None` when it is not there or not whole.
    pub(crate) fn read(dir: &Path, name: &str) -> io::Result<Option<Self>> {
        let file = match File::open(dir.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Self::decode(&bytes))
    }

    /// Replaces `dir/name` atomically. Not synced: what it tells is of no use after a power loss.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> io::Result<()> {
        let new = dir.join(format!(".{name}.new"));
        create(&new)?.write_all(&self.encode())?;
        fs::rename(&new, dir.join(name))
    }
}

/// Room on the disk for one small record, taken beforehand so that it can be written when the disk is full.
pub(crate) struct Reserved {
    file: File,
}

/// Bytes that are reserved.
const RESERVED_BYTES: usize = 1024;

impl Reserved {
    /// Takes the room for `dir/name`.
    pub(crate) fn take(dir: &Path, name: &str) -> io::Result<Self> {
        let mut file = create(&dir.join(format!(".{name}.new")))?;
        file.write_all(&[0; RESERVED_BYTES])?;
        Ok(Self { file })
    }

    /// Writes the record into it, syncs it and gives it its name.
    pub(crate) fn write(self, dir: &Path, name: &str, record: &Record) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let bytes = record.encode();
        debug_assert!(bytes.len() <= RESERVED_BYTES, "holds a handful of short fields");
        self.file.write_all_at(&bytes, 0)?;
        self.file.sync_data()?;
        fs::rename(dir.join(format!(".{name}.new")), dir.join(name))?;
        File::open(dir)?.sync_all()
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn checksum(bytes: &[u8]) -> String {
    hex(&blake3::hash(bytes).as_bytes()[..8])
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.clone().next() == Some('n') => {
                chars.next();
                out.push('\n');
            }
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_reads_as_it_was_written(fields in prop::collection::vec(("[a-z]{1,8}", "(?s)[^\0]{0,40}"), 0..12)) {
            let mut record = Record::default();
            for (key, value) in fields.iter().filter(|(key, _)| key != "sum") {
                record.push(key, value.clone());
            }
            let mut bytes = record.encode();
            prop_assert_eq!(Record::decode(&bytes), Some(record.clone()));
            bytes.resize(bytes.len() + 100, 0);
            prop_assert_eq!(Record::decode(&bytes), Some(record));
        }

        #[test]
        fn a_torn_record_is_none(value in "(?s)[^\0]{0,40}", at in 0_usize..100, flip in 1_u8..255) {
            let mut record = Record::default();
            record.push("value", value);
            let bytes = record.encode();
            let at = at % bytes.len();
            prop_assert_eq!(Record::decode(&bytes[..at]), None);
            let mut flipped = bytes;
            flipped[at] ^= flip;
            prop_assert_eq!(Record::decode(&flipped), None);
        }

        #[test]
        fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Record::decode(&bytes), None);
        }
    }

    #[test]
    fn a_record_is_replaced_whole_and_a_reserved_one_likewise() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path(), "r").unwrap(), None);
        for value in ["one", "two"] {
            let mut record = Record::default();
            record.push("value", value);
            record.write(dir.path(), "r").unwrap();
            assert_eq!(Record::read(dir.path(), "r").unwrap(), Some(record.clone()));
            let reserved = Reserved::take(dir.path(), "s").unwrap();
            reserved.write(dir.path(), "s", &record).unwrap();
            assert_eq!(Record::read(dir.path(), "s").unwrap(), Some(record));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
