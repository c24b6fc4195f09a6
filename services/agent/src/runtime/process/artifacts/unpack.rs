//! Archives, read entry by entry, of which nothing may land outside their directory.
//!
//! Paths are plain and below it, what leads out is refused and not mended, and `Tree` follows no link on the way to where it writes. What could
//! not be put where it says (`places`) is refused as well, so that an archive that was looked through can be unpacked.

use std::fs::File;
use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use skerry_model::app::Unpack;
use tar::{Archive, EntryType, PaxExtensions};

use super::super::tree::Tree;
use super::BUFFER;
use crate::runtime::mebibytes;

mod places;

use places::{Kind, Places};

/// Most entries of an archive.
const ENTRIES_MAX: usize = 10_000;
/// Most bytes that one unpacks to, and that are read of one.
const UNPACKED_MAX: u64 = 4 << 30;
/// Longest path, and target of a link, in bytes: the kernel's own bound.
const PATH_BYTES_MAX: usize = 4095;
/// Deepest path, in names. Directories can be given to another user and removed to any such depth.
const DEPTH_MAX: usize = 48;
/// Most bytes of an entry that says something about the next one.
const NOTE_BYTES_MAX: u64 = 64 << 10;

/// Why an archive is not unpacked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It holds what it must not.
    Refused(String),
    /// Reading or writing failed.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(why.into()))
}

/// What is at a path.
enum Item<'r> {
    Directory,
    File { executable: bool, content: &'r mut dyn Read },
    Symlink(String),
    Hardlink(String),
}

/// Looks through an archive.
pub(super) fn check(file: File, form: Unpack) -> Result<(), Failure> {
    walk(file, form, &mut |_, item| match item {
        Item::File { content, .. } => Ok(io::copy(content, &mut io::sink()).map(drop)?),
        _ => Ok(()),
    })
}

/// Unpacks an archive to `path` in `tree`, where nothing is.
pub(super) fn unpack(file: File, form: Unpack, tree: &Tree, path: &str) -> Result<(), Failure> {
    tree.make_dir(path)?;
    walk(file, form, &mut |inner, item| {
        let place = format!("{path}/{inner}");
        match item {
            Item::Directory => tree.make_dir(&place)?,
            Item::File { executable, content } => {
                let mode = if executable { 0o500 } else { 0o400 };
                tree.put(&place, mode, |file| io::copy(content, file).map(drop))?;
            }
            Item::Symlink(target) => tree.symlink(&target, &place)?,
            Item::Hardlink(other) => tree.link(&format!("{path}/{other}"), &place)?,
        }
        Ok(())
    })
}

type Visit<'v> = &'v mut dyn FnMut(&str, Item<'_>) -> Result<(), Failure>;

fn walk(file: File, form: Unpack, visit: Visit<'_>) -> Result<(), Failure> {
    let file = BufReader::with_capacity(BUFFER, file);
    match form {
        Unpack::Tar => entries(file, visit),
        Unpack::TarGz => entries(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file)), visit),
    }
}

/// What entries of their own say about the next one.
#[derive(Default)]
struct Notes {
    path: Option<String>,
    link: Option<String>,
}

fn entries(reader: impl Read, visit: Visit<'_>) -> Result<(), Failure> {
    let (mut count, mut bytes, mut notes, mut places) = (0, 0_u64, Notes::default(), Places::new());
    // Raw: what says something about the next entry would else be read however long it is.
    for entry in Archive::new(reader).entries().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        count += 1;
        if count > ENTRIES_MAX {
            return refuse(format!("it has more than {ENTRIES_MAX} entries"));
        }
        let (kind, size) = (entry.header().entry_type(), entry.header().entry_size().map_err(unreadable)?);
        // Whatever it is: what nobody wants is decompressed all the same, to be passed over.
        bytes = bytes.saturating_add(size);
        if bytes > UNPACKED_MAX {
            return refuse(format!("it unpacks to more than {}", mebibytes(UNPACKED_MAX)));
        }
        match kind {
            EntryType::XGlobalHeader => continue,
            EntryType::GNULongName => {
                notes.path = Some(text(note(&mut entry, size)?)?);
                continue;
            }
            EntryType::GNULongLink => {
                notes.link = Some(text(note(&mut entry, size)?)?);
                continue;
            }
            EntryType::XHeader => {
                extended(&note(&mut entry, size)?, &mut notes)?;
                continue;
            }
            _ => {}
        }
        let Notes { path, link } = std::mem::take(&mut notes);
        let path = match path {
            Some(path) => path,
            None => text(entry.header().path_bytes().into_owned())?,
        };
        let Some(path) = plain(&path)? else { continue };
        let link = match link {
            Some(link) => link,
            None => text(entry.header().link_name_bytes().unwrap_or_default().into_owned())?,
        };
        match kind {
            EntryType::Directory => {
                places.put(&path, Kind::Directory)?;
                visit(&path, Item::Directory)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                places.put(&path, Kind::File)?;
                let executable = entry.header().mode().map_err(unreadable)? & 0o111 != 0;
                visit(&path, Item::File { executable, content: &mut entry })?;
            }
            EntryType::Symlink => {
                let target = inward(&path, link)?;
                places.put(&path, Kind::Symlink)?;
                visit(&path, Item::Symlink(target))?;
            }
            EntryType::Link => {
                let other = plain(&link)?.unwrap_or_default();
                match places.get(&other) {
                    Some(Kind::File) => {}
                    // A second name elsewhere would make it lead elsewhere.
                    Some(Kind::Symlink) => {
                        return refuse(format!("`{path}` is a second name of the link `{other}`"));
                    }
                    Some(Kind::Directory) | None => {
                        return refuse(format!(
                            "`{path}` is a second name of `{link}`, which is no file before it"
                        ));
                    }
                }
                places.put(&path, Kind::File)?;
                // Of itself: some archives say twice what is there.
                if other != path {
                    visit(&path, Item::Hardlink(other))?;
                }
            }
            _ => return refuse(format!("`{path}` is neither file, directory nor link")),
        }
    }
    Ok(())
}

/// An archive that does not read: it has the right checksum, so that it will not read the next time either.
fn unreadable(error: io::Error) -> Failure {
    match error.raw_os_error() {
        Some(_) => Failure::Io(error),
        None => Failure::Refused(format!("it does not read: {error}")),
    }
}

fn note(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, Failure> {
    if size > NOTE_BYTES_MAX {
        return refuse(format!("it has a path or header of more than {NOTE_BYTES_MAX} bytes"));
    }
    let mut bytes = Vec::new();
    entry.take(NOTE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn extended(bytes: &[u8], notes: &mut Notes) -> Result<(), Failure> {
    for record in PaxExtensions::new(bytes) {
        let record = record.map_err(unreadable)?;
        match record.key_bytes() {
            b"path" => notes.path = Some(text(record.value_bytes().to_vec())?),
            b"linkpath" => notes.link = Some(text(record.value_bytes().to_vec())?),
            // It is for files that are larger than all of an archive may be.
            b"size" => return refuse("it has a file whose size is only in an extended header"),
            key if key.starts_with(b"GNU.sparse") => return refuse("it has a sparse file"),
            _ => {}
        }
    }
    Ok(())
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    match String::from_utf8(bytes) {
        Ok(text) if text.len() <= PATH_BYTES_MAX && !text.contains('\0') => Ok(text),
        Ok(_) => refuse(format!("it has a path of more than {PATH_BYTES_MAX} bytes, or with a zero in it")),
        Err(_) => refuse("it has a path that is not UTF-8"),
    }
}

/// A path as `Tree` takes it; none: the directory of the archive itself.
fn plain(path: &str) -> Result<Option<String>, Failure> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if path.starts_with('/') || parts.contains(&"..") {
        return refuse(format!("`{path}` leads out of it"));
    }
    if parts.len() > DEPTH_MAX {
        return refuse(format!("`{path}` is more than {DEPTH_MAX} deep"));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// The target of a symbolic link that stays within. Up only at its beginning: what comes after a name may be a link itself.
fn inward(path: &str, target: String) -> Result<String, Failure> {
    let parts: Vec<&str> = target.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let up = parts.iter().take_while(|part| **part == "..").count();
    let out = target.is_empty() || target.starts_with('/') || up > path.matches('/').count();
    if out || parts[up..].contains(&"..") {
        return refuse(format!("`{path}` is a link to `{target}`, which leads out of it"));
    }
    Ok(target)
}

#[cfg(test)]
mod tests;
