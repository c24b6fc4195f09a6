//! Files that only their owner may read: keys. Written whole or not at all, and synced; refused when others could have read them.
//!
//! A file that others can read is not repaired in silence, since somebody may have read it already: the error names the command that repairs
//! it. Symbolic links are followed, as mounted secrets of Kubernetes are made of them; what counts is the file that was opened.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::random;

/// Longest private file that is read, in bytes: some hundred keys.
pub const PRIVATE_FILE_BYTES_MAX: usize = 64 * 1024;

/// What went wrong with a private file.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// The operating system said no.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Its group, or everybody, may read or write it.
    #[error(
        "{} is open to others (mode {mode:04o}), so it may not be a secret any more: `chmod 600 {}` if it never left this machine, else make it anew",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Others may put files into its directory.
    #[error("others may write to {} (mode {mode:04o}): `chmod 700 {}`", path.display(), path.display())]
    ExposedDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is a directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// What was opened.
        path: PathBuf,
    },
    /// It is longer than any of ours.
    #[error("{} is longer than {PRIVATE_FILE_BYTES_MAX} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// No name for the temporary file could be made.
    #[error("writing {}: {source}", path.display())]
    Random {
        /// The file.
        path: PathBuf,
        /// Why.
        source: random::RandomError,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError {
    move |source| PrivateFileError::Io { doing, path: path.to_owned(), source }
}

/// Reads a private file; `None` where there is none.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, PrivateFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("opening", path)(error)),
    };
    let metadata = file.metadata().map_err(failed("looking at", path))?;
    if !metadata.is_file() {
        return Err(PrivateFileError::NotRegular { path: path.to_owned() });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed { path: path.to_owned(), mode });
    }
    // Room from the start: a buffer that grows leaves copies behind.
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX).min(PRIVATE_FILE_BYTES_MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    let limit = u64::try_from(PRIVATE_FILE_BYTES_MAX + 1).expect("a small constant");
    file.take(limit).read_to_end(&mut bytes).map_err(failed("reading", path))?;
    if bytes.len() > PRIVATE_FILE_BYTES_MAX {
        return Err(PrivateFileError::TooLong { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

/// Writes a private file in the place of what was there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    write(path, bytes, |temporary| std::fs::rename(temporary, path)).map(|_| ())
}

/// Writes a private file where there was none; `false`, and nothing is changed, where there was one.
pub fn create(path: &Path, bytes: &[u8]) -> Result<bool, PrivateFileError> {
    write(path, bytes, |temporary| std::fs::hard_link(temporary, path))
}

/// Writes and syncs a temporary file beside `path` and lets `place` give it the name.
fn write(
    path: &Path,
    bytes: &[u8],
    place: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<bool, PrivateFileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    private_directory(directory)?;
    let suffix =
        random::bytes::<8>().map_err(|source| PrivateFileError::Random { path: path.to_owned(), source })?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}.new", u64::from_le_bytes(*suffix)));
    let temporary = PathBuf::from(temporary);

    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(failed("writing", &temporary));
    let placed = written.and_then(|()| match place(&temporary) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("writing", path)(error)),
    });
    // After a rename it is gone already; after anything else it must go.
    match std::fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("removing", &temporary)(error)),
    }
    let placed = placed?;
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(failed("syncing", directory))?;
    Ok(placed)
}

/// Makes `path` with mode 0700, or checks that nobody else may write to it.
fn private_directory(path: &Path) -> Result<(), PrivateFileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("making", path))?;
    let metadata = std::fs::metadata(path).map_err(failed("looking at", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(PrivateFileError::ExposedDirectory { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_written_is_private_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/here/tls.key");
        assert!(read(&path).unwrap().is_none());
        assert!(create(&path, b"one").unwrap());
        assert_eq!(read(&path).unwrap().unwrap().as_slice(), b"one");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn what_is_there_is_not_created_over_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.key");
        assert!(create(&path, b"one").unwrap());
        assert!(!create(&path, b"two").unwrap());
        assert_eq!(read(&path).unwrap().unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_its_path_and_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.key");
        replace(&path, b"one").unwrap();
        for exposed in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, Permissions::from_mode(exposed)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
            assert!(error.contains(&format!("{exposed:04o}")), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(read(&path).unwrap().is_some());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let error = replace(&open.join("tls.key"), b"one").unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 700 {}", open.display())), "{error}");
    }

    #[test]
    fn what_is_no_file_or_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(PrivateFileError::NotRegular { .. })));
        let path = dir.path().join("long");
        replace(&path, &vec![0; PRIVATE_FILE_BYTES_MAX + 1]).unwrap();
        assert!(matches!(read(&path), Err(PrivateFileError::TooLong { .. })));
    }
}
