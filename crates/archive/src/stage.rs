//! Where an archive is unpacked: a directory of its own, beside the place where it is to be. Moved there when all is there; before, nothing of it
//! can be seen but that directory, which goes with this value.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, futimens, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::entry::{Bounds, Error, shown};
use crate::read::Reader;
use crate::unpack::{DIRECTORY, Unpacker, times_of};

/// What its name begins with.
const PREFIX: &str = ".skerry-cp-";
/// Names that are tried.
const TRIES_MAX: u32 = 100;

/// What is at the top of an archive, and the name that it goes to.
pub type Move = (Vec<u8>, Vec<u8>);

/// An archive that is being unpacked.
#[derive(Debug)]
pub struct Stage {
    /// The directory that it goes to.
    into: OwnedFd,
    name: String,
    reader: Reader,
    unpacker: Unpacker,
}

impl Stage {
    /// For what goes into `dir`, which is there. With a name in `under`: all of the archive is below a directory of that name.
    pub fn within(dir: &Path, bounds: Bounds, under: &[u8]) -> Result<Self, Error> {
        let text = dir.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let into = openat(CWD, dir, flags, Mode::empty())
            .map_err(|error| Error::io(format!("opening the directory `{text}`"), error))?;
        let writing = |error: Errno| Error::io(format!("writing to `{text}`"), error);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        for tries in 0..TRIES_MAX {
            let name = format!("{PREFIX}{}-{:x}", std::process::id(), nanos.wrapping_add(tries));
            match mkdirat(&into, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made.map_err(writing)?,
            }
            let root = openat(&into, &name, DIRECTORY, Mode::empty()).map_err(writing)?;
            let unpacker = Unpacker::new(root, bounds, under)?;
            return Ok(Self { into, name, reader: Reader::default(), unpacker });
        }
        Err(writing(Errno::EXIST))
    }

    /// Unpacks the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.reader.feed(bytes, &mut self.unpacker)
    }

    /// What is at the top of the archive, which has ended.
    pub fn tops(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.reader.finish()?;
        children(self.unpacker.root(), b"the archive")
    }

    /// Whether a thing at the top is a directory.
    pub fn is_directory(&self, top: &[u8]) -> bool {
        open_dir(self.unpacker.root(), top, top).is_ok()
    }

    /// Moves all that is at the top to the names that are said; an empty one is for what is in a directory. Nothing is moved where not all can be.
    /// What is a directory on both sides is brought together; other things give way, and a link that does is not followed.
    pub fn place(self, places: &[Move]) -> Result<(), Error> {
        let mut merged = BTreeSet::new();
        for really in [false, true] {
            for (top, name) in places {
                let mut at = At { path: top.clone(), place: name.clone(), really, merged: &mut merged };
                let (root, into) = (self.unpacker.root(), &self.into);
                if name.is_empty() {
                    at.merged.insert(top.clone());
                    let from = open_dir(root, top, top)?;
                    at.all(&from, into)?;
                } else {
                    at.one(root, into, top, name)?;
                }
            }
        }
        self.finish_directories(places, &merged)
    }

    /// Gives those directories their permissions that were not there before, from the bottom up.
    fn finish_directories(&self, places: &[Move], merged: &BTreeSet<Vec<u8>>) -> Result<(), Error> {
        for (path, meta) in self.unpacker.directories.iter().rev() {
            if merged.contains(path) {
                continue;
            }
            let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            let Some((_, name)) = places.iter().find(|(top, _)| parts[0] == top) else { continue };
            parts[0] = name;
            let mut dir = self.into.try_clone().map_err(|error| Error::io("opening a directory", error))?;
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                dir = open_dir(&dir, part, path)?;
            }
            let done = fchmod(&dir, Mode::from_raw_mode(meta.mode));
            let done = match meta.mtime {
                Some(mtime) => done.and_then(|()| futimens(&dir, &times_of(mtime))),
                None => done,
            };
            done.map_err(|error| Error::io(format!("writing `{}`", shown(path)), error))?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        remove(self.unpacker.root());
        let _ = unlinkat(&self.into, &self.name, AtFlags::REMOVEDIR);
    }
}

/// A step of moving.
struct At<'m> {
    /// In the archive.
    path: Vec<u8>,
    /// Where it goes to, for people.
    place: Vec<u8>,
    /// Whether it is moved; else it is only looked whether it could be.
    really: bool,
    /// Directories that were there before.
    merged: &'m mut BTreeSet<Vec<u8>>,
}

impl At<'_> {
    fn all(&mut self, from: &OwnedFd, into: &OwnedFd) -> Result<(), Error> {
        for name in children(from, &self.path)? {
            let (path, place) = (self.path.len(), self.place.len());
            for whole in [&mut self.path, &mut self.place] {
                if !whole.is_empty() {
                    whole.push(b'/');
                }
                whole.extend_from_slice(&name);
            }
            self.one(from, into, &name, &name)?;
            self.path.truncate(path);
            self.place.truncate(place);
        }
        Ok(())
    }

    fn one(&mut self, from: &OwnedFd, into: &OwnedFd, name: &[u8], to: &[u8]) -> Result<(), Error> {
        let writing = |error: Errno| match error {
            Errno::XDEV => Error::InTheWay(format!(
                "`{}` is on another file system than what it is in: copy into it by itself",
                shown(&self.place)
            )),
            error => Error::io(format!("writing `{}`", shown(&self.place)), error),
        };
        let is_dir = |dir: &OwnedFd, name: &[u8]| match statat(
            dir,
            OsStr::from_bytes(name),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(writing(error)),
        };
        // Moved by an earlier name of the same.
        let Some(ours) = is_dir(from, name)? else { return Ok(()) };
        match (ours, is_dir(into, to)?) {
            (true, Some(true)) => {
                self.merged.insert(self.path.clone());
                let (inner, theirs) = (open_dir(from, name, &self.path)?, open_dir(into, to, &self.place)?);
                self.all(&inner, &theirs)
            }
            (true, Some(false)) => Err(Error::InTheWay(format!(
                "`{}` is there and is no directory: a directory cannot be put in its place",
                shown(&self.place)
            ))),
            (false, Some(true)) => Err(Error::InTheWay(format!(
                "`{}` is there and is a directory: a file cannot be put in its place",
                shown(&self.place)
            ))),
            (_, _) if self.really => {
                renameat(from, OsStr::from_bytes(name), into, OsStr::from_bytes(to)).map_err(writing)
            }
            _ => Ok(()),
        }
    }
}

fn open_dir(dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, Error> {
    openat(dir, OsStr::from_bytes(name), DIRECTORY, Mode::empty())
        .map_err(|error| Error::io(format!("opening the directory `{}`", shown(path)), error))
}

/// The names in a directory, sorted.
fn children(dir: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let reading = |error: Errno| Error::io(format!("reading `{}`", shown(path)), error);
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(reading)? {
        let name = entry.map_err(reading)?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Takes away what is in a directory, as far as that can be done.
fn remove(dir: &OwnedFd) {
    for name in children(dir, b"").unwrap_or_default() {
        let name = OsStr::from_bytes(&name);
        if unlinkat(dir, name, AtFlags::empty()).is_ok() {
            continue;
        }
        if let Ok(inner) = openat(dir, name, DIRECTORY, Mode::empty()) {
            remove(&inner);
        }
        let _ = unlinkat(dir, name, AtFlags::REMOVEDIR);
    }
}
