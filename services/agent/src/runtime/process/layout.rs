//! The directories of instances: finding them, laying out config files in them, taking them away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Mode, OFlags, Uid, fchmod, flock, fstat};
use rustix::io::Errno;
use skerry_model::InstanceName;
use skerry_model::app::normal_path;

use super::error::{failed, io_failed};
use super::tree::{self, Tree};
use crate::desired::InstanceSpec;
use crate::runtime::RuntimeError;
use crate::shim::files::{LOCK, RunAs, state_dir};

/// What the agent has in its data directory beside the instances, and users of processes have no business in.
const OWN: [&str; 12] = [
    "lock",
    "desired.0",
    "desired.1",
    "formers",
    "good",
    "updates",
    "jobs",
    "restarts",
    "upkeep",
    "configs",
    "artifacts",
    "identity",
];
/// How often making a directory is tried again when another instance's removal takes its parent away meanwhile.
const MAKE_TRIES_MAX: usize = 5;

/// `<instances>/<app>/<service>/<cluster>/<ordinal>`.
pub(crate) fn instance_dir(root: &Path, name: &InstanceName) -> PathBuf {
    let mut dir = root.join(name.app.as_str());
    dir.extend([name.service.as_str(), name.cluster.as_str(), &name.ordinal.to_string()]);
    dir
}

/// The instances that have a directory. What does not look like one is passed over.
pub(super) fn scan(root: &Path) -> io::Result<Vec<(InstanceName, PathBuf)>> {
    let mut level = vec![(String::new(), root.to_owned())];
    for depth in 0..4 {
        let mut next = Vec::new();
        for (prefix, dir) in level {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                if let Some(name) = entry.file_name().to_str().filter(|_| entry.path().is_dir()) {
                    let path = if depth == 0 { name.to_owned() } else { format!("{prefix}/{name}") };
                    next.push((path, entry.path()));
                }
            }
        }
        level = next;
    }
    Ok(level.into_iter().filter_map(|(name, dir)| Some((InstanceName::parse(&name).ok()?, dir))).collect())
}

/// Makes a directory that only its owner may enter, with its parents.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    for _ in 1..MAKE_TRIES_MAX {
        match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made,
        }
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Takes the lock of an instance's directory: `None` when something holds it.
pub(super) fn try_lock(dir: &Path) -> io::Result<Option<File>> {
    loop {
        let path = dir.join(LOCK);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // A removal may have taken the file away between opening and locking: then this locks nothing.
        let (locked, there) = (file.metadata()?, fs::metadata(&path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (locked.dev(), locked.ino())) {
            return Ok(Some(file));
        }
    }
}

/// Config files, by path below the state directory: content, and whether it may be executed.
pub(super) type Files<'a> = BTreeMap<String, (&'a [u8], bool)>;

/// The config files of an instance, by path below its state directory.
pub(super) fn config_files(spec: &InstanceSpec) -> Result<Files<'_>, RuntimeError> {
    let mut files = BTreeMap::new();
    for mount in &spec.service.configs {
        let missing = |what: String| failed("MountMissing", what, true);
        let content = spec
            .configs
            .get(&mount.config)
            .ok_or_else(|| missing(format!("config `{}` is not there", mount.config)))?;
        match &mount.key {
            Some(key) => {
                let bytes = content
                    .files
                    .get(key)
                    .ok_or_else(|| missing(format!("config `{}` has no entry `{key}`", mount.config)))?;
                files.insert(normal_path(&mount.path), (bytes.as_slice(), mount.executable));
            }
            None => {
                for (key, bytes) in &content.files {
                    let path = normal_path(&format!("{}/{key}", mount.path));
                    files.insert(path, (bytes.as_slice(), mount.executable));
                }
            }
        }
    }
    for path in files.keys() {
        tree::check(path)
            .map_err(|error| failed("MountMissing", format!("a config file: {error}"), false))?;
    }
    Ok(files)
}

/// Opens the state directory of an instance for `user`, who may go to it and see nothing on the way.
pub(super) fn open_state(root: &Path, dir: &Path, user: Option<&RunAs>) -> Result<Tree, RuntimeError> {
    let making = |error: io::Error| io_failed("making the state directory", &error);
    let owner = match user {
        Some(user) => (Uid::from_raw(user.uid), Gid::from_raw(user.gid)),
        None => (rustix::process::geteuid(), rustix::process::getegid()),
    };
    if !owner.0.is_root() && user.is_some() {
        let_through(root, dir).map_err(making)?;
    }
    Tree::open(&state_dir(dir), owner).map_err(making)
}

/// Lets everybody go through the agent's directories down to an instance's. None may be listed by it, and what the agent has beside them is
/// closed first. What is there of others', who may have had the directory before, stays as it is.
fn let_through(root: &Path, dir: &Path) -> io::Result<()> {
    let data = root.parent().unwrap_or(root);
    for name in OWN {
        close(&data.join(name))?;
    }
    let below = dir.ancestors().take_while(|way| way.starts_with(data));
    for way in below {
        let mode = fs::metadata(way)?.permissions().mode();
        if mode & 0o001 == 0 {
            fs::set_permissions(way, Permissions::from_mode((mode & 0o777) | 0o011))?;
        }
    }
    Ok(())
}

/// Takes the rights to a file or directory from everybody but its owner, the agent.
fn close(path: &Path) -> io::Result<()> {
    // A link is not followed, a pipe not waited for, and what is closed is what was looked at.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        // The agent may just be renaming it.
        Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
        file => file?,
    };
    let stat = fstat(&file)?;
    let mode = Mode::from_raw_mode(stat.st_mode);
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if ours && mode.intersects(Mode::RWXG | Mode::RWXO) {
        fchmod(&file, mode.intersection(Mode::RWXU))?;
    }
    Ok(())
}

/// Takes away what was laid out before (`old`) and is no longer meant (`kept`).
pub(super) fn take_away(state: &Tree, old: &[String], kept: &BTreeSet<String>) {
    for path in old.iter().filter(|path| !kept.contains(*path)) {
        let _ = state.remove(path);
    }
}

/// Writes the config files.
pub(super) fn lay_out(state: &Tree, files: &Files<'_>) -> Result<(), RuntimeError> {
    for (path, (bytes, executable)) in files {
        let doing = format!("writing the config file `{path}`");
        let mode = if *executable { 0o500 } else { 0o400 };
        let put = state.put(path, mode, |file| file.write_all(bytes));
        put.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => failed("MountMissing", format!("{doing}: {error}"), false),
            _ => io_failed(&doing, &error),
        })?;
    }
    Ok(())
}

/// Takes an instance's directory away, of which the lock is held, and the parents that are empty then. The lock's file goes last: who
/// waits for it finds either all or nothing.
pub(super) fn clear(root: &Path, dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_file(dir.join(LOCK))?;
    let _ = fs::remove_dir(dir);
    prune(root, dir);
    Ok(())
}

/// Removes the parents of `dir`, up to `root`, that are empty.
fn prune(root: &Path, dir: &Path) {
    let parents = dir.ancestors().skip(1).take_while(|parent| parent.starts_with(root) && *parent != root);
    for parent in parents {
        if fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

/// Removes directories, up to three below `root`, that hold nothing: what removals that were cut short have left.
pub(super) fn prune_all(root: &Path) {
    fn below(dir: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            if depth < 3 {
                below(&entry.path(), depth + 1);
            }
            let _ = fs::remove_dir(entry.path());
        }
    }
    below(root, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is laid out; those of before are `old`.
    fn put(root: &Path, of: &[(&str, &str)], old: &[String]) -> Result<(), RuntimeError> {
        let files: Files<'_> =
            of.iter().map(|(path, text)| ((*path).to_owned(), (text.as_bytes(), *path == "run"))).collect();
        let kept = files.keys().cloned().collect();
        let state = open_state(root, root, None)?;
        take_away(&state, old, &kept);
        lay_out(&state, &files)
    }

    #[test]
    fn config_files_are_replaced_and_old_ones_taken_away() {
        let root = tempfile::tempdir().unwrap();
        let (dir, state) = (root.path(), root.path().join("state"));
        put(dir, &[("configs/c/a", "1"), ("b", "2"), ("run", "")], &[]).unwrap();
        assert_eq!(fs::read_to_string(state.join("configs/c/a")).unwrap(), "1");
        for (path, mode) in [("b", 0o400), ("run", 0o500), ("configs/c", 0o700)] {
            assert_eq!(fs::metadata(state.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
        }
        let old = ["configs/c/a".to_owned(), "b".to_owned(), "../escape".to_owned()];
        fs::write(dir.join("escape"), "").unwrap();
        put(dir, &[("configs/c/a", "3")], &old).unwrap();
        assert_eq!(fs::read_to_string(state.join("configs/c/a")).unwrap(), "3");
        assert!(!state.join("b").exists() && dir.join("escape").exists());
    }

    #[test]
    fn a_link_or_directory_in_the_way_is_not_followed() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = root.path().join("state");
        make_dir(&state.join("taken")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), state.join("out")).unwrap();
        for path in ["out/a", "taken", "../a", "/a"] {
            assert!(put(root.path(), &[(path, "1")], &[]).is_err(), "{path}");
        }
        fs::write(elsewhere.path().join("a"), "").unwrap();
        put(root.path(), &[], &["out/a".to_owned(), "out".to_owned()]).unwrap();
        assert!(elsewhere.path().join("a").exists() && !state.join("out").exists());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_user_is_let_through_and_what_is_not_the_agent_s_keeps_its_rights() {
        let data = tempfile::tempdir().unwrap();
        let (root, path) = (data.path().join("instances"), |name: &str| data.path().join(name));
        let dir = root.join("a/b/c/0");
        make_dir(&dir).unwrap();
        fs::create_dir(path("www")).unwrap();
        fs::create_dir(path("configs")).unwrap();
        for name in ["desired.0", "restarts", "index.html"] {
            fs::write(path(name), "").unwrap();
        }
        std::os::unix::fs::symlink(path("www"), path("artifacts")).unwrap();
        let set = |name: &str, mode| fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
        for (name, mode) in [("www", 0o755), ("index.html", 0o644), ("configs", 0o755), ("restarts", 0o644)] {
            set(name, mode);
        }
        fs::set_permissions(data.path(), Permissions::from_mode(0o700)).unwrap();
        let_through(&root, &dir).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path("www")), mode(&path("index.html"))), (0o755, 0o644), "of others");
        assert_eq!((mode(&path("configs")), mode(&path("restarts"))), (0o700, 0o600), "the agent's");
        for way in dir.ancestors().take_while(|way| way.starts_with(data.path())) {
            assert_eq!(mode(way), 0o711, "{}", way.display());
        }
    }

    #[test]
    fn the_lock_is_one_per_directory_and_not_that_of_a_removed_one() {
        let root = tempfile::tempdir().unwrap();
        let name = InstanceName::parse("a/b/c/0").unwrap();
        let dir = instance_dir(root.path(), &name);
        make_dir(&dir).unwrap();
        let lock = try_lock(&dir).unwrap().unwrap();
        assert!(try_lock(&dir).unwrap().is_none());
        clear(root.path(), &dir).unwrap();
        make_dir(&dir).unwrap();
        let anew = try_lock(&dir).unwrap().unwrap();
        assert!(try_lock(&dir).unwrap().is_none());
        drop((lock, anew));
        assert!(try_lock(&dir).unwrap().is_some());
    }

    #[test]
    fn instances_are_found_by_their_directories_and_empty_parents_go() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(scan(&root.path().join("none")).unwrap(), Vec::new());
        let names: Vec<_> = ["a/b/c/0", "a/b/c/12", "x/y/z/3"]
            .iter()
            .map(|name| InstanceName::parse(name).unwrap())
            .collect();
        for name in &names {
            make_dir(&instance_dir(root.path(), name)).unwrap();
        }
        make_dir(&root.path().join("a/b/c/012")).unwrap();
        make_dir(&root.path().join("NOT/an/instance/0")).unwrap();
        fs::write(root.path().join("a/file"), "").unwrap();
        let mut found: Vec<_> = scan(root.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        found.sort();
        assert_eq!(found, names);
        let dir = instance_dir(root.path(), &names[2]);
        drop(try_lock(&dir).unwrap());
        clear(root.path(), &dir).unwrap();
        assert!(!root.path().join("x").exists() && root.path().join("a/b/c/12").exists());
    }
}
