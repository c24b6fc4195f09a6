//! A file or a tree as an archive. From the path itself on no link is followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::entry::{DEPTH_MAX, Entry, Error, Kind, shown};
use crate::write::Writer;

/// Bytes that are read at once.
const BUFFER: usize = 64 * 1024;

/// Packs what is at `path` as `name`, and answers where it was written to. Without a name: what is in a directory, at the top. A path that ends
/// in a slash or in `/.` is that of a directory, also by a link.
pub fn pack<W: Write>(path: &Path, name: Option<&[u8]>, out: W) -> Result<W, Error> {
    let text = path.as_os_str().as_bytes();
    let is_directory = name.is_none() || text.ends_with(b"/") || text.ends_with(b"/.") || text == b".";
    let mut packer = Packer { out: Writer::new(out), buffer: vec![0; BUFFER] };
    let reading = |error: Errno| Error::io(format!("reading `{}`", path.display()), error);
    if is_directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty()).map_err(reading)?;
        if let Some(name) = name {
            packer.directory_entry(&fstat(&dir).map_err(reading)?, name)?;
        }
        packer.tree(&dir, &mut name.map(<[u8]>::to_vec).unwrap_or_default(), 1)?;
    } else {
        let mut name = name.unwrap_or_default().to_vec();
        packer.one(CWD, path.as_os_str(), &mut name, 0)?;
    }
    packer.out.finish()
}

/// What is at `path`, as an entry of that name without content. A path that ends in a slash or in `/.` is that of a directory, also by a link.
pub fn look(path: &Path, name: &[u8]) -> Result<Entry, Error> {
    let reading = |error: Errno| Error::io(format!("reading `{}`", path.display()), error);
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(reading)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink(readlinkat(CWD, path, Vec::new()).map_err(reading)?.into_bytes()),
        _ => {
            let why = format!("`{}` is neither file, directory nor link", path.display());
            return Err(Error::Refused(why));
        }
    };
    Ok(Entry { kind, ..entry_of(&stat, name, 0) })
}

struct Packer<W> {
    out: Writer<W>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    /// What is at `name` in `dir`; `path` is its own in the archive.
    fn one(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Error> {
        let reading = |error: Errno| Error::io(format!("reading `{}`", shown(path)), error);
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(reading)?;
        let refuse =
            |what: &str| Err(Error::Refused(format!("`{}` is {what}: only files are copied", shown(path))));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                if depth >= DEPTH_MAX {
                    let why = format!("`{}` is more than {DEPTH_MAX} deep", shown(path));
                    return Err(Error::Refused(why));
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = openat(dir, name, flags, Mode::empty()).map_err(reading)?;
                self.directory_entry(&stat, path)?;
                self.tree(&inner, path, depth + 1)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = openat(dir, name, flags, Mode::empty()).map_err(reading)?;
                self.file(File::from(file), path)
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(reading)?.into_bytes();
                let entry = Entry { kind: Kind::Symlink(target), ..entry_of(&stat, path, 0) };
                self.out.entry(&entry)
            }
            // As `tar` and `docker cp` do.
            FileType::Socket => Ok(()),
            FileType::Fifo => refuse("a pipe"),
            _ => refuse("a device"),
        }
    }

    fn directory_entry(&mut self, stat: &Stat, path: &[u8]) -> Result<(), Error> {
        self.out.entry(&Entry { kind: Kind::Directory, ..entry_of(stat, path, 0) })
    }

    /// What is in a directory.
    fn tree(&mut self, dir: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
        let reading = |path: &[u8], error: Errno| Error::io(format!("reading `{}`", shown(path)), error);
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(|error| reading(path, error))? {
            let name = entry.map_err(|error| reading(path, error))?.file_name().to_bytes().to_vec();
            if !matches!(&name[..], b"." | b"..") {
                names.push(name);
            }
        }
        names.sort_unstable();
        for name in names {
            let before = path.len();
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            match self.one(dir.as_fd(), OsStr::from_bytes(&name), path, depth) {
                // Gone since: as if it had been gone before.
                Err(Error::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done?,
            }
            path.truncate(before);
        }
        Ok(())
    }

    fn file(&mut self, mut file: File, path: &[u8]) -> Result<(), Error> {
        let doing = || format!("reading `{}`", shown(path));
        // Of what is open, whatever the name stands for by now.
        let stat = fstat(&file).map_err(|error| Error::io(doing(), error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Refused(format!("`{}` became something else while it was read", shown(path))));
        }
        let mut left = u64::try_from(stat.st_size).unwrap_or(0);
        self.out.entry(&entry_of(&stat, path, left))?;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = match file.read(&mut self.buffer[..most]) {
                Ok(0) => {
                    let why = format!("`{}` became shorter while it was read", shown(path));
                    return Err(Error::InTheWay(why));
                }
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io(doing(), error)),
            };
            self.out.data(&self.buffer[..read])?;
            left -= read as u64;
        }
        // As files of the kernel's do. One that was empty and has grown meanwhile says so now.
        if stat.st_size == 0 && matches!(file.read(&mut self.buffer[..1]), Ok(1)) {
            let now = fstat(&file).map_err(|error| Error::io(doing(), error))?;
            if now.st_size == 0 {
                let why = format!("`{}` says that it is empty and is not: read it by a command", shown(path));
                return Err(Error::InTheWay(why));
            }
        }
        self.out.end()
    }
}

fn entry_of(stat: &Stat, path: &[u8], size: u64) -> Entry {
    Entry { path: path.to_vec(), kind: Kind::File, mode: stat.st_mode & 0o7777, mtime: stat.st_mtime, size }
}
