//! An archive as files below a directory that nobody else writes to. No link is followed; directories get their permissions later, by who moves
//! them, since one that may not be written to can neither be filled nor moved.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, linkat, mkdirat,
    openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::entry::{Bounds, Entry, Error, Kind, names, shown};
use crate::read::Sink;

/// To open a directory and nothing else.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Of a directory of which the archive says nothing.
const MODE_DEFAULT: u32 = 0o755;
/// What is taken of permissions: nothing that makes a program another user's.
pub(crate) const MODES: u32 = 0o777;
/// Most directories of an archive: what is remembered of each until the end.
const DIRECTORIES_MAX: usize = 1_000_000;

/// What a directory is to have at the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) mtime: Option<i64>,
}

/// Unpacks what is fed to it.
#[derive(Debug)]
pub(crate) struct Unpacker {
    root: OwnedFd,
    bounds: Bounds,
    /// Name of the directory that all of the archive goes to. Empty: there is none.
    under: Vec<u8>,
    open: Option<Open>,
    pub(crate) directories: BTreeMap<Vec<u8>, Meta>,
}

/// A file that is being written.
#[derive(Debug)]
struct Open {
    file: File,
    entry: Entry,
}

impl Unpacker {
    pub(crate) fn new(root: OwnedFd, bounds: Bounds, under: &[u8]) -> Result<Self, Error> {
        let directories = BTreeMap::new();
        let mut unpacker = Self { root, bounds, under: under.to_vec(), open: None, directories };
        if !under.is_empty() {
            let root = unpacker.root.try_clone().map_err(|error| Error::io("opening a directory", error))?;
            unpacker.make(&root, under, under, None)?;
        }
        Ok(unpacker)
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory that something is in, made where the archive did not say it, and its name there.
    fn parent<'p>(&mut self, path: &'p [u8], makes: bool) -> Result<(OwnedFd, &'p OsStr), Error> {
        let doing = |part: &[u8]| format!("writing `{}`", shown(part));
        let mut parts: Vec<&[u8]> = names(path).collect();
        let name = parts.pop().unwrap_or_default();
        let mut dir = self.root.try_clone().map_err(|error| Error::io(doing(path), error))?;
        let mut way = Vec::new();
        for part in parts {
            if !way.is_empty() {
                way.push(b'/');
            }
            way.extend_from_slice(part);
            if makes {
                self.make(&dir, part, &way, None)?;
            }
            dir = openat(&dir, OsStr::from_bytes(part), DIRECTORY, Mode::empty())
                .map_err(|error| blocked(path, &way, error))?;
        }
        Ok((dir, OsStr::from_bytes(name)))
    }

    /// Makes a directory, if it is not there.
    fn make(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8], meta: Option<Meta>) -> Result<(), Error> {
        let is_new = match mkdirat(dir, OsStr::from_bytes(name), Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(Error::io(format!("making `{}`", shown(path)), error)),
        };
        if self.directories.len() >= DIRECTORIES_MAX && is_new {
            return Err(Error::Refused(format!("it has more than {DIRECTORIES_MAX} directories")));
        }
        match meta {
            Some(meta) => drop(self.directories.insert(path.to_vec(), meta)),
            None if is_new => {
                self.directories.insert(path.to_vec(), Meta { mode: MODE_DEFAULT, mtime: None });
            }
            None => {}
        }
        Ok(())
    }

    fn link(&mut self, other: &[u8], entry: &Entry) -> Result<(), Error> {
        let refused = |why: &str| {
            let (path, other) = (shown(&entry.path), shown(other));
            Error::Refused(format!("`{path}` is a second name of `{other}`, {why}"))
        };
        let missing = |_| refused("which is no file before it");
        let (from, old) = self.parent(other, false).map_err(missing)?;
        let stat = statat(&from, old, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| refused("which is no file before it"))?;
        // A second name of a link, elsewhere, would lead elsewhere.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused("which is no file"));
        }
        if other == entry.path {
            return Ok(());
        }
        let (dir, name) = self.parent(&entry.path, true)?;
        clear(&dir, name, &entry.path)?;
        linkat(&from, old, &dir, name, AtFlags::empty())
            .map_err(|error| Error::io(format!("writing `{}`", shown(&entry.path)), error))
    }
}

impl Sink for Unpacker {
    fn begin(&mut self, entry: &Entry) -> Result<(), Error> {
        let below;
        let entry = if self.under.is_empty() {
            entry
        } else {
            below = entry.below(&self.under);
            &below
        };
        self.bounds.check(entry)?;
        // The directory that all is unpacked to is there, and as it is.
        if entry.path.is_empty() {
            return Ok(());
        }
        let doing = || format!("writing `{}`", shown(&entry.path));
        match &entry.kind {
            Kind::Directory => {
                let (dir, name) = self.parent(&entry.path, true)?;
                let meta = Meta { mode: entry.mode & MODES, mtime: Some(entry.mtime) };
                self.make(&dir, name.as_bytes(), &entry.path, Some(meta))?;
                // It may have been there as something else.
                openat(&dir, name, DIRECTORY, Mode::empty())
                    .map_err(|error| blocked(&entry.path, &entry.path, error))?;
            }
            Kind::File => {
                let (dir, name) = self.parent(&entry.path, true)?;
                clear(&dir, name, &entry.path)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|error| Error::io(doing(), error))?;
                self.open = Some(Open { file: File::from(file), entry: entry.clone() });
            }
            Kind::Symlink(target) => {
                let (dir, name) = self.parent(&entry.path, true)?;
                clear(&dir, name, &entry.path)?;
                symlinkat(OsStr::from_bytes(target), &dir, name)
                    .map_err(|error| Error::io(doing(), error))?;
                let times = times_of(entry.mtime);
                utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| Error::io(doing(), error))?;
            }
            Kind::Hardlink(other) => self.link(other, entry)?,
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(Open { file, entry }) = &mut self.open else { return Ok(()) };
        file.write_all(bytes).map_err(|error| Error::io(format!("writing `{}`", shown(&entry.path)), error))
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(Open { file, entry }) = self.open.take() else { return Ok(()) };
        let done = fchmod(&file, Mode::from_raw_mode(entry.mode & MODES))
            .and_then(|()| futimens(&file, &times_of(entry.mtime)));
        done.map_err(|error| Error::io(format!("writing `{}`", shown(&entry.path)), error))
    }
}

pub(crate) fn times_of(mtime: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime, tv_nsec: 0 },
    }
}

/// Makes room for what the archive has once more. A directory is not taken away for it.
fn clear(dir: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<(), Error> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            Err(Error::Refused(format!("`{}` is a directory and something else", shown(path))))
        }
        Err(error) => Err(Error::io(format!("writing `{}`", shown(path)), error)),
    }
}

/// `path` cannot be reached by `way`.
fn blocked(path: &[u8], way: &[u8], error: Errno) -> Error {
    match error {
        Errno::NOTDIR | Errno::LOOP => Error::Refused(if path == way {
            format!("`{}` is a directory and something else", shown(path))
        } else {
            format!("`{}` leads through `{}`, which is no directory", shown(path), shown(way))
        }),
        error => Error::io(format!("writing `{}`", shown(path)), io::Error::from(error)),
    }
}
