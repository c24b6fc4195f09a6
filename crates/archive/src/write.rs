//! Entries as an archive: POSIX headers, with extended ones where a path, a size or a time does not fit.

use std::io::Write;

use tar::{EntryType, Header};

use crate::entry::{Entry, Error, Kind, shown};
use crate::read::{BLOCK, padding};

/// Longest path in a header.
const NAME_BYTES_MAX: usize = 100;
/// Sizes from here on do not fit into a header.
const SIZE_MAX: u64 = 1 << 33;

/// Writes an archive. Owners are not told: who unpacks has its own.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Writes to `out`, in small pieces: it should be buffered.
    pub fn new(out: W) -> Self {
        Self { out, padding: 0 }
    }

    /// Begins an entry. As many bytes as it says must follow before the next one.
    pub fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        let mut path = entry.path.clone();
        let (kind, link) = match &entry.kind {
            Kind::Directory => (EntryType::Directory, &[][..]),
            Kind::File => (EntryType::Regular, &[][..]),
            Kind::Symlink(target) => (EntryType::Symlink, &target[..]),
            Kind::Hardlink(target) => (EntryType::Link, &target[..]),
        };
        if path.is_empty() {
            path.push(b'.');
        }
        if entry.kind == Kind::Directory {
            path.push(b'/');
        }
        let mut extended = Vec::new();
        if path.len() > NAME_BYTES_MAX {
            extended.extend(record(b"path", &path));
        }
        if link.len() > NAME_BYTES_MAX {
            extended.extend(record(b"linkpath", link));
        }
        if entry.size >= SIZE_MAX {
            extended.extend(record(b"size", entry.size.to_string().as_bytes()));
        }
        if entry.mtime < 0 {
            extended.extend(record(b"mtime", entry.mtime.to_string().as_bytes()));
        }
        if !extended.is_empty() {
            let mut header = header(EntryType::XHeader, b"PaxHeaders/next", b"", extended.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            self.put(header.as_bytes(), entry)?;
            self.put(&extended, entry)?;
            self.put(&[0; BLOCK][..padding(extended.len() as u64)], entry)?;
        }
        let mut header = header(kind, &path, link, entry.size);
        header.set_mode(entry.mode & 0o7777);
        header.set_mtime(u64::try_from(entry.mtime).unwrap_or(0));
        header.set_cksum();
        self.put(header.as_bytes(), entry)?;
        self.padding = padding(entry.size);
        Ok(())
    }

    /// The next bytes of an entry.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|error| Error::io("sending the archive", error))
    }

    /// An entry is whole.
    pub fn end(&mut self) -> Result<(), Error> {
        let padding = std::mem::take(&mut self.padding);
        self.data(&[0; BLOCK][..padding])
    }

    /// The archive ends.
    pub fn finish(mut self) -> Result<W, Error> {
        self.data(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(|error| Error::io("sending the archive", error))?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8], entry: &Entry) -> Result<(), Error> {
        let doing = || format!("sending `{}`", shown(&entry.path));
        self.out.write_all(bytes).map_err(|error| Error::io(doing(), error))
    }
}

/// What does not fit is cut here: an extended header has it whole.
fn header(kind: EntryType, path: &[u8], link: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let raw = header.as_old_mut();
    let name = &path[..path.len().min(NAME_BYTES_MAX)];
    raw.name[..name.len()].copy_from_slice(name);
    let link = &link[..link.len().min(NAME_BYTES_MAX)];
    raw.linkname[..link.len()].copy_from_slice(link);
    header
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let bare = key.len() + value.len() + 3;
    let mut length = bare + 1;
    while bare + length.to_string().len() != length {
        length = bare + length.to_string().len();
    }
    let mut record = format!("{length} ").into_bytes();
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}
