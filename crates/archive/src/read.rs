//! Entries of an archive that comes in pieces of any size: nothing is kept but a header and what is said about the next entry.
//!
//! Read as Go's `archive/tar` does, which is what engines unpack with: what was looked at here is what is unpacked there.

use tar::{EntryType, Header};

use crate::entry::{Entry, Error, Kind, PATH_BYTES_MAX, plain, shown};

/// Bytes of which an archive consists.
pub(crate) const BLOCK: usize = 512;
/// Most bytes of an entry that says something about the next one.
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// What becomes of the entries of an archive.
pub trait Sink {
    /// The next entry.
    fn begin(&mut self, entry: &Entry) -> Result<(), Error>;

    /// The next bytes of it.
    fn data(&mut self, _bytes: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    /// It is whole.
    fn end(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Reads an archive.
#[derive(Debug, Default)]
pub struct Reader {
    state: State,
    notes: Notes,
    /// Whether a block of zeros came: the next one ends the archive.
    ends: bool,
    entries: u64,
}

#[derive(Debug)]
enum State {
    /// What came of a header.
    Header(Vec<u8>),
    /// What came of an entry about the next one: its kind, its size, what follows to the end of the block.
    Note { kind: EntryType, left: usize, bytes: Vec<u8>, padding: usize },
    /// Content of a file that is still to come.
    Data { left: u64, padding: usize },
    /// What nobody wants.
    Skip { left: u64 },
    /// The archive has ended; what follows is padding.
    End,
}

impl Default for State {
    fn default() -> Self {
        Self::Header(Vec::new())
    }
}

/// What entries of their own say about the next one.
#[derive(Debug, Default)]
struct Notes {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
    /// As GNU's tar says it, which comes before the others.
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Reader {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), Error> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::End => return Ok(()),
                State::Header(have) => {
                    let (some, rest) = bytes.split_at(bytes.len().min(BLOCK - have.len()));
                    have.extend_from_slice(some);
                    bytes = rest;
                    if have.len() == BLOCK {
                        let header = std::mem::take(have);
                        self.header(&header, sink)?;
                    }
                }
                State::Note { left, bytes: have, padding, kind } => {
                    let (some, rest) = bytes.split_at(bytes.len().min(*left));
                    have.extend_from_slice(some);
                    *left -= some.len();
                    bytes = rest;
                    if *left == 0 {
                        let (kind, padding, have) = (*kind, *padding, std::mem::take(have));
                        self.notes.take(kind, have)?;
                        self.state = skip(padding as u64);
                    }
                }
                State::Data { left, padding } => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (some, rest) = bytes.split_at(take);
                    sink.data(some)?;
                    *left -= take as u64;
                    bytes = rest;
                    if *left == 0 {
                        let padding = *padding;
                        self.state = skip(padding as u64);
                        sink.end()?;
                    }
                }
                State::Skip { left } => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[take..];
                    *left -= take as u64;
                    if *left == 0 {
                        self.state = State::default();
                    }
                }
            }
        }
        Ok(())
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Whether all that was begun is whole.
    pub fn finish(&self) -> Result<(), Error> {
        match &self.state {
            State::End => Ok(()),
            State::Header(have) if have.is_empty() && self.notes.is_empty() => Ok(()),
            _ => Err(Error::Damaged("it ends in the middle".to_owned())),
        }
    }

    fn header(&mut self, block: &[u8], sink: &mut impl Sink) -> Result<(), Error> {
        if block.iter().all(|byte| *byte == 0) {
            self.state = if std::mem::replace(&mut self.ends, true) { State::End } else { State::default() };
            return Ok(());
        }
        let damaged = |what: &str| Error::Damaged(what.to_owned());
        if self.ends {
            return Err(damaged("something follows its end"));
        }
        let header = Header::from_byte_slice(block);
        let sum: u32 = block.iter().enumerate().map(|(at, byte)| summand(at, *byte)).sum();
        if header.cksum().ok() != Some(sum) {
            return Err(damaged("what should be a header is none"));
        }
        let kind = header.entry_type();
        let size = header.entry_size().map_err(|_| damaged("a header has a size that is no number"))?;
        if matches!(kind, EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink) {
            if size > NOTE_BYTES_MAX {
                let why = format!("it has a path or header of more than {NOTE_BYTES_MAX} bytes");
                return Err(Error::Refused(why));
            }
            let left = usize::try_from(size).unwrap_or(usize::MAX);
            let note = State::Note { kind, left, bytes: Vec::new(), padding: padding(size) };
            self.state = if left == 0 { State::default() } else { note };
            return Ok(());
        }
        if kind == EntryType::XGlobalHeader {
            self.state = skip(size.saturating_add(padding(size) as u64));
            return Ok(());
        }
        let entry = std::mem::take(&mut self.notes).entry(header, kind, size)?;
        self.entries += 1;
        let has_content = matches!(entry.kind, Kind::File) && entry.size > 0;
        self.state = if has_content {
            State::Data { left: entry.size, padding: padding(entry.size) }
        } else {
            State::default()
        };
        sink.begin(&entry)?;
        if has_content { Ok(()) } else { sink.end() }
    }
}

impl Notes {
    fn is_empty(&self) -> bool {
        let Self { path, link, size, mtime, long_path, long_link } = self;
        [path, link, long_path, long_link].iter().all(|note| note.is_none())
            && size.is_none()
            && mtime.is_none()
    }

    fn take(&mut self, kind: EntryType, mut bytes: Vec<u8>) -> Result<(), Error> {
        if kind != EntryType::XHeader {
            bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
            let note = if kind == EntryType::GNULongName { &mut self.long_path } else { &mut self.long_link };
            *note = Some(bytes);
            return Ok(());
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (key, value, after) = record(rest)
                .ok_or_else(|| Error::Damaged("it has an extended header that is none".into()))?;
            rest = after;
            let number = || std::str::from_utf8(value).ok();
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = number().and_then(|text| text.parse().ok());
                    let size = size.ok_or_else(|| Error::Damaged("a size is no number".to_owned()))?;
                    self.size = Some(size);
                }
                // With a fraction, which is left out.
                b"mtime" => {
                    let whole = number().and_then(|text| text.split('.').next()?.parse().ok());
                    self.mtime = whole;
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(Error::Refused("it has a sparse file: pack it without --sparse".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(self, header: &Header, kind: EntryType, size: u64) -> Result<Entry, Error> {
        let written = self.long_path.or(self.path).unwrap_or_else(|| header.path_bytes().into_owned());
        let path = plain(&written)?;
        let link = self
            .long_link
            .or(self.link)
            .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let refused = |why: &str| Error::Refused(format!("`{}` {why}", shown(&written)));
        if link.len() > PATH_BYTES_MAX || link.contains(&0) {
            return Err(refused("is a link to what is no path"));
        }
        let kind = match kind {
            EntryType::Directory => Kind::Directory,
            // Of old, a directory is a file with a slash at its end.
            EntryType::Regular if header.as_old().linkflag[0] == 0 && written.ends_with(b"/") => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Symlink => Kind::Symlink(link),
            EntryType::Link => Kind::Hardlink(plain(&link).map_err(|_| {
                refused(&format!("is a second name of `{}`, which leads out of what is copied", shown(&link)))
            })?),
            EntryType::Char | EntryType::Block => return Err(refused("is a device: only files are copied")),
            EntryType::Fifo => return Err(refused("is a pipe: only files are copied")),
            EntryType::GNUSparse => return Err(refused("is a sparse file: pack it without --sparse")),
            _ => return Err(refused("is neither file, directory nor link")),
        };
        if path.is_empty() && kind != Kind::Directory {
            return Err(refused("has no name"));
        }
        let size = if kind == Kind::File { self.size.unwrap_or(size) } else { 0 };
        let mode = header.mode().unwrap_or(0o600) & 0o7777;
        let written = header.mtime().ok().and_then(|mtime| i64::try_from(mtime).ok());
        Ok(Entry { path, kind, mode, mtime: self.mtime.or(written).unwrap_or(0), size })
    }
}

/// A byte of a header as its checksum counts it: itself as if it were spaces.
pub(crate) fn summand(at: usize, byte: u8) -> u32 {
    u32::from(if (148..156).contains(&at) { b' ' } else { byte })
}

/// `<length> <key>=<value>\n`, and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = (bytes.get(space + 1..length)?, bytes.get(length..)?);
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// What follows so many bytes to the end of a block.
pub(crate) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

fn skip(left: u64) -> State {
    if left == 0 { State::default() } else { State::Skip { left } }
}
