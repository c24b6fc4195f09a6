//! Where state is kept on this machine, and that only one process keeps it.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Where `up` keeps its state if nothing else is said: `/var/lib/skerry` for root, else as the XDG base directories have it.
pub(crate) fn default_data_dir() -> anyhow::Result<PathBuf> {
    let root = rustix::process::geteuid().is_root();
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    data_dir(root, variable("XDG_STATE_HOME"), variable("HOME"))
        .context("neither XDG_STATE_HOME nor HOME is set: say where to keep state with --data-dir")
}

fn data_dir(root: bool, state_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    if root {
        return Some("/var/lib/skerry".into());
    }
    // Relative paths in XDG variables are to be ignored (XDG base directory specification).
    let state_home = state_home.filter(|path| path.is_absolute());
    let base = state_home.or(home.filter(|path| path.is_absolute()).map(|home| home.join(".local/state")))?;
    Some(base.join("skerry"))
}

/// Makes the data directory of `up`. It holds secrets and configs, each part closed by itself. Root's may be gone through, by the processes of apps
/// that run as other users; one that is there keeps its mode.
pub(crate) fn make_data_dir(directory: &Path) -> anyhow::Result<()> {
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
    made.with_context(|| format!("cannot make the data directory {}", directory.display()))
}

/// The part of the data directory that the embedded etcd keeps, for its owner alone.
pub(crate) fn make_store_dir(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let directory = data_dir.join("etcd");
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    // One of before may be open to others.
    made.and_then(|()| fs::set_permissions(&directory, Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot make the data directory {}", directory.display()))?;
    Ok(directory)
}

/// A directory that this process alone uses, until this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory. `what` names who uses it, as `skerry up`.
    pub(crate) fn take(directory: &Path, what: &str) -> anyhow::Result<Self> {
        let path = directory.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message; an unreadable file names nobody.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let by = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
                bail!(
                    "another `{what}`{by} uses the data directory {}: stop it, or give this one another with --data-dir",
                    directory.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_goes_where_the_user_s_state_is() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(data_dir(true, path("/x"), path("/h")), path("/var/lib/skerry"));
        assert_eq!(data_dir(false, path("/x"), path("/h")), path("/x/skerry"));
        assert_eq!(data_dir(false, path("x"), path("/h")), path("/h/.local/state/skerry"));
        assert_eq!(data_dir(false, None, None), None);
    }

    #[test]
    fn others_may_go_through_root_s_data_directory_and_not_into_the_store() {
        let outer = tempfile::tempdir().expect("a directory");
        let data = outer.path().join("a/skerry");
        make_data_dir(&data).expect("made");
        let store = make_store_dir(&data).expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let through = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        assert_eq!((mode(&data), mode(&store)), (through, 0o700));
        // Those of before.
        fs::set_permissions(&data, Permissions::from_mode(0o750)).expect("set");
        fs::set_permissions(&store, Permissions::from_mode(0o755)).expect("set");
        make_data_dir(&data).expect("there already");
        make_store_dir(&data).expect("there already");
        assert_eq!((mode(&data), mode(&store)), (0o750, 0o700));
    }

    #[test]
    fn a_directory_is_used_once_and_its_user_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let held = DirectoryLock::take(directory.path(), "skerry up").expect("free");
        let error = DirectoryLock::take(directory.path(), "skerry up").expect_err("taken").to_string();
        assert!(
            error.starts_with(&format!("another `skerry up` (process {}) uses", std::process::id())),
            "{error}"
        );
        drop(held);
        DirectoryLock::take(directory.path(), "skerry up").expect("free again");
    }
}
