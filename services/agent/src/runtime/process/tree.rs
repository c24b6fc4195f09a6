//! Writing below a directory whose owner may change it meanwhile: the instance's state, which is its user's.
//!
//! Every step goes from an open directory to a name in it and follows no link, so that nothing is written, removed or given away outside.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, fstat, linkat, mkdirat,
    openat, renameat, statat, symlinkat, unlinkat,
};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// For its owner alone.
const PRIVATE: Mode = Mode::RWXU;
/// Ends the name of a file until it is whole; a point begins it.
const NEW: &str = ".skerry-new";
/// Longest name of what is put, in bytes, so that it can have the other one before: the kernel takes 255.
const NAME_BYTES_MAX: usize = 255 - 1 - NEW.len();
/// Deepest directories that are given to another user.
const DEPTH_MAX: usize = 64;

/// Who owns what is written.
pub(super) type Owner = (Uid, Gid);

/// Whether something can be put at `path`, should nothing be in the way: it is relative and plain, and its names are not too long.
pub(super) fn check(path: &str) -> io::Result<()> {
    let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return wrong(format!("`{path}` is not below the state directory"));
    }
    match path.split('/').find_map(fault) {
        Some(fault) => wrong(format!("`{path}` has {fault}")),
        None => Ok(()),
    }
}

/// Why nothing can be put by that name, as what a path then has.
pub(super) fn fault(name: &str) -> Option<String> {
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("a name of more than {NAME_BYTES_MAX} bytes"));
    }
    let taken = name.starts_with('.') && name.ends_with(NEW);
    taken.then(|| format!("a name that ends in `{NEW}`, as those of unfinished files do"))
}

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
        check(path)?;
        let mut parts: Vec<&str> = path.split('/').collect();
        let name = parts.pop().unwrap_or_default();
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
        let new = format!(".{name}{NEW}");
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
        let entry = Entry::open(&parent.dir, name)?;
        // The directory's owner may have put something else in its place: a file of the agent's by another name, say.
        if entry.kind() == FileType::Symlink && entry.stat.st_nlink == 1 {
            entry.give(self.owner)?;
        }
        Ok(())
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
        let entry = match Entry::open(dir, name) {
            Ok(entry) => entry,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let is_dir = entry.kind() == FileType::Directory;
        if is_dir {
            give(&openat(&entry.file, ".", DIRECTORY, Mode::empty())?, before, owner, depth + 1)?;
        }
        if entry.stat.st_uid == before.as_raw() && (is_dir || entry.stat.st_nlink == 1) {
            entry.give(owner)?;
        }
    }
    Ok(())
}

/// What a name stood for at one moment: what is found out of it and done with it is of the same file, whatever the name stands for since.
struct Entry {
    file: OwnedFd,
    stat: Stat,
}

impl Entry {
    /// Follows no link, and opens nothing: a pipe or a device has nothing done to it.
    fn open(dir: &OwnedFd, name: impl rustix::path::Arg) -> rustix::io::Result<Self> {
        let file = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&file)?;
        Ok(Self { file, stat })
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn give(&self, (user, group): Owner) -> rustix::io::Result<()> {
        chownat(&self.file, "", Some(user), Some(group), AtFlags::EMPTY_PATH)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use super::*;

    #[test]
    fn what_is_put_in_the_place_of_a_file_meanwhile_is_not_given_away() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let owner = |id| (Uid::from_raw(id), Gid::from_raw(id));
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (theirs, other, of_root) = (path("state/file"), path("other"), path("of-root"));
        std::fs::create_dir(path("state")).unwrap();
        std::fs::write(&theirs, "").unwrap();
        std::fs::write(&of_root, "").unwrap();
        std::fs::hard_link(&of_root, &other).unwrap();
        let (state, file) = (File::open(path("state")).unwrap(), File::open(&theirs).unwrap());
        let state = OwnedFd::from(state);
        let is_roots = || std::fs::metadata(&of_root).unwrap().uid() == 0;
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    renameat_with(CWD, &theirs, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) && is_roots() {
                fchown(&file, Some(Uid::from_raw(1)), None).unwrap();
                give(&state, Uid::from_raw(1), owner(2), 0).unwrap();
            }
            ended.store(true, Ordering::Relaxed);
        });
        assert!(is_roots(), "a file of the agent's was given away");
    }
}
