//! Writing below a directory whose owner may change it meanwhile: the instance's state, which is its user's.
//!
//! Every step goes from an open directory to a name in it and follows no link, so that nothing is written, removed or given away outside.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, fstat, linkat, mkdirat, openat,
    renameat, statat, symlinkat, unlinkat,
};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// For its owner alone.
const PRIVATE: Mode = Mode::RWXU;
/// Deepest directories that are given to another user.
const DEPTH_MAX: usize = 64;

/// Who owns what is written.
pub(super) type Owner = (Uid, Gid);

/// A directory, open.
pub(super) struct Tree {
    dir: OwnedFd,
    owner: Owner,
}

impl Tree {
    /// The directory at `path`, made if it is not there, given to `owner` with all that its owner before had in it.
    pub(super) fn open(path: &Path, owner: Owner) -> io::Result<Self> {
        match rustix::fs::mkdir(path, PRIVATE) {
            Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
            _ => {}
        }
        let dir = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        let before = Uid::from_raw(fstat(&dir)?.st_uid);
        let tree = Self { dir, owner };
        if before != owner.0 || fstat(&tree.dir)?.st_gid != owner.1.as_raw() {
            give(&tree.dir, before, owner, 0)?;
            // The directory itself last: until then what was not finished is done again.
            fchown(&tree.dir, Some(owner.0), Some(owner.1))?;
        }
        Ok(tree)
    }

    /// The directory that `path`, relative and plain, is in, made if it is not there, and the name in it.
    fn parent<'p>(&self, path: &'p str) -> io::Result<(Self, &'p str)> {
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or_default();
        if path.is_empty() || parts.iter().chain([&name]).any(|part| matches!(*part, "" | "." | "..")) {
            let what = format!("`{path}` is not below the state directory");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut dir = self.dir.try_clone()?;
        for part in parts {
            dir = self.enter(&dir, part)?;
        }
        Ok((Self { dir, owner: self.owner }, name))
    }

    fn enter(&self, dir: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
        let made = mkdirat(dir, name, PRIVATE);
        let way = |error: rustix::io::Errno| match error {
            rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
                io::Error::new(io::ErrorKind::NotADirectory, format!("`{name}` is in the way"))
            }
            error => error.into(),
        };
        let inner = openat(dir, name, DIRECTORY, Mode::empty()).map_err(way)?;
        match made {
            Ok(()) => fchown(&inner, Some(self.owner.0), Some(self.owner.1))?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(inner)
    }

    /// Puts a file there in one step: filled under another name and renamed. A directory in the way is an error.
    pub(super) fn put<T, E: From<io::Error>>(
        &self,
        path: &str,
        mode: u32,
        fill: impl FnOnce(&mut File) -> Result<T, E>,
    ) -> Result<T, E> {
        let (parent, name) = self.parent(path)?;
        let new = format!(".{name}.skerry-new");
        parent.unlink(&new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let errno = io::Error::from;
        let file = openat(&parent.dir, new.as_str(), flags, Mode::RUSR).map_err(errno)?;
        let mut file = File::from(file);
        let finish = |file: &File| -> io::Result<()> {
            fchown(file, Some(self.owner.0), Some(self.owner.1))?;
            // After the owner: changing that takes some bits away.
            fchmod(file, Mode::from_raw_mode(mode & 0o777))?;
            Ok(renameat(&parent.dir, new.as_str(), &parent.dir, name)?)
        };
        let filled = fill(&mut file).and_then(|filled| Ok(finish(&file).map(|()| filled)?));
        if filled.is_err() {
            let _ = parent.unlink(&new);
        }
        filled
    }

    /// Makes a directory, if it is not there.
    pub(super) fn make_dir(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        parent.enter(&parent.dir, name).map(drop)
    }

    /// Puts a symbolic link to `target` there. What it leads to is the caller's to judge.
    pub(super) fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        parent.unlink(name)?;
        symlinkat(target, &parent.dir, name)?;
        let (user, group) = self.owner;
        Ok(chownat(&parent.dir, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Gives the file at `other` a second name. A symbolic link there is not followed.
    pub(super) fn link(&self, other: &str, path: &str) -> io::Result<()> {
        let ((from, old), (parent, name)) = (self.parent(other)?, self.parent(path)?);
        parent.unlink(name)?;
        Ok(linkat(&from.dir, old, &parent.dir, name, AtFlags::empty())?)
    }

    /// Takes away what is there, a directory with all that is in it.
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match statat(&parent.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                // By the open directory, whatever becomes of its own name; what is below is not followed either.
                std::fs::remove_dir_all(format!("/proc/self/fd/{}/{name}", parent.dir.as_raw_fd()))
            }
            Ok(_) => parent.unlink(name),
        }
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            done => Ok(done?),
        }
    }
}

/// Gives to `owner` what `before` has in `dir`. What somebody else has there, a file of theirs that was linked in, stays theirs.
fn give(dir: &OwnedFd, before: Uid, owner: Owner, depth: usize) -> io::Result<()> {
    if depth >= DEPTH_MAX {
        return Err(io::Error::other(format!("directories are more than {DEPTH_MAX} deep")));
    }
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir {
            give(&openat(dir, name, DIRECTORY, Mode::empty())?, before, owner, depth + 1)?;
        }
        if stat.st_uid == before.as_raw() && (is_dir || stat.st_nlink == 1) {
            chownat(dir, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}
