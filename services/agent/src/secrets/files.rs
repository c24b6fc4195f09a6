//! Files of secrets, in memory: `<root>/<kind>/<instance>/<fingerprint>/<number of the mount>/`, and in it as Kubernetes does it:
//!
//! ```text
//! ..<version>/    the files
//! ..data          a link to that; turned at once when the values change
//! <key>           a link to ..data/<key>
//! ```
//! The files and the directory that they lie in are their owner's. Everything above is the agent's, the place of the mount too: else a program
//! could put a link in the way of what root writes there.
//!
//! The root is on a tmpfs, or there is none. What containers mount is below a directory that only the agent enters; users of processes go through
//! theirs and list nothing.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink,
};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use skerry_model::app::Program;

use super::part;
use crate::desired::InstanceSpec;

/// Where a tmpfs usually is that only the machine's end empties.
const USUAL: [&str; 2] = ["/run", "/dev/shm"];
/// `statfs` of file systems that keep nothing on a disk: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// The link to the present values. No key begins so.
const DATA: &str = "..data";
/// A directory or link until it is whole.
const NEW: &str = "..new";

/// User and group; absent: the agent's own.
pub(crate) type Owner = Option<(u32, u32)>;

/// Where values are laid out.
#[derive(Debug, Clone, Default)]
pub(super) struct Root {
    /// In which of these directories it may be.
    places: Vec<PathBuf>,
}

impl Root {
    /// By that name in a usual place.
    pub(super) fn usual(name: &str) -> Self {
        Self { places: USUAL.iter().map(|place| Path::new(place).join(name)).collect() }
    }

    /// There.
    pub(super) fn at(place: PathBuf) -> Self {
        Self { places: vec![place] }
    }

    /// The root, made: the first place that is in memory and can be written.
    pub(super) fn find(&self) -> Result<PathBuf, String> {
        let mut why = "this agent was given no place for secrets".to_owned();
        for place in &self.places {
            match make_root(place) {
                Ok(()) => return Ok(place.clone()),
                Err(error) => {
                    why = format!("no file system in memory takes secrets: {}: {error}", place.display());
                }
            }
        }
        Err(why)
    }
}

impl Root {
    /// The root where it is already, and is the agent's; otherwise nothing is laid out.
    pub(super) fn existing(&self) -> Option<PathBuf> {
        let is_ours = |place: &&PathBuf| place.join("containers").is_dir() && make_root(place).is_ok();
        self.places.iter().find(is_ours).cloned()
    }
}

fn make_root(place: &Path) -> io::Result<()> {
    let parent = place.parent().unwrap_or(Path::new("/"));
    let at = if place.is_dir() { place } else { parent };
    let kind = rustix::fs::statfs(at)?.f_type;
    if !IN_MEMORY.contains(&u64::try_from(kind).unwrap_or_default()) {
        return Err(io::Error::other("not a tmpfs"));
    }
    make_own(place, 0o711)?;
    make_own(&place.join("containers"), 0o700)?;
    make_own(&place.join("processes"), 0o711)
}

/// Makes a directory of the agent's, or sees that it is the agent's: anybody may make one in /dev/shm.
fn make_own(dir: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(dir) {
        Ok(()) => return fs::set_permissions(dir, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = fs::symlink_metadata(dir)?;
    let ours =
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if ours { Ok(()) } else { Err(io::Error::other("it is there, and not this agent's")) }
}

/// Where the files of an instance are.
pub(super) fn instance_dir(root: &Path, instance: &InstanceSpec) -> PathBuf {
    let kind = match instance.service.program {
        Program::Container(_) => "containers",
        Program::Process(_) => "processes",
    };
    let copy = &instance.fingerprint[..instance.fingerprint.len().min(16)];
    root.join(kind).join(part(&instance.name)).join(copy)
}

/// The same, made.
pub(super) fn make_instance_dir(root: &Path, instance: &InstanceSpec) -> io::Result<PathBuf> {
    let dir = instance_dir(root, instance);
    let of_all = dir.parent().unwrap_or(root);
    make_own(of_all, 0o711)?;
    make_own(&dir, 0o711)?;
    Ok(dir)
}

/// The version that is laid out at the place of a mount.
pub(super) fn laid_out(place: &Path) -> Option<String> {
    let target = fs::read_link(place.join(DATA)).ok()?;
    Some(target.to_str()?.strip_prefix("..")?.to_owned())
}

/// Who owns the version that is laid out there.
pub(super) fn owner_of(place: &Path) -> io::Result<(u32, u32)> {
    let found = fs::symlink_metadata(place.join(fs::read_link(place.join(DATA))?))?;
    Ok((found.uid(), found.gid()))
}

/// What one mount holds.
pub(super) struct Files {
    pub(super) version: String,
    pub(super) data: std::collections::BTreeMap<String, Bytes>,
    pub(super) mode: u32,
}

impl Files {
    /// Lays them out at `place`, in the stead of what is there.
    pub(super) fn lay_out(&self, place: &Path, owner: Owner) -> io::Result<()> {
        let whole = format!("..{}", self.version);
        // Who may read a file may enter its directory. An agent that is not root has to exchange what is in it.
        let dir_mode = [0o400, 0o040, 0o004]
            .iter()
            .fold(0o700, |mode, bit| if self.mode & bit == 0 { mode } else { mode | bit | bit >> 2 });
        make_own(place, 0o700)?;
        if laid_out(place).as_deref() != Some(&self.version) || !self.is_whole(&place.join(&whole)) {
            let new = place.join(NEW);
            remove(&new)?;
            DirBuilder::new().mode(0o700).create(&new)?;
            for (key, value) in &self.data {
                let file = new.join(key);
                let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
                open.write_all(value)?;
                give(&file, owner)?;
                // After the owner: changing that takes some bits away.
                open.set_permissions(Permissions::from_mode(self.mode))?;
            }
            give(&new, owner)?;
            fs::set_permissions(&new, Permissions::from_mode(dir_mode))?;
            remove(&place.join(&whole))?;
            fs::rename(&new, place.join(&whole))?;
            symlink(&whole, &new)?;
            fs::rename(&new, place.join(DATA))?;
        }
        for key in self.data.keys() {
            match symlink(Path::new(DATA).join(key), place.join(key)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        for entry in fs::read_dir(place)? {
            let entry = entry?;
            let name = entry.file_name();
            let known = name
                .to_str()
                .is_some_and(|name| name == DATA || name == whole || self.data.contains_key(name));
            if !known {
                remove(&entry.path())?;
            }
        }
        // Its owner may list it, and by that anybody; what the links lead to is behind `dir_mode`.
        let mode = if owner.is_some() { 0o755 } else { dir_mode };
        fs::set_permissions(place, Permissions::from_mode(mode))
    }

    /// Whether nobody took a file away or cut it.
    fn is_whole(&self, dir: &Path) -> bool {
        self.data.iter().all(|(key, value)| {
            fs::symlink_metadata(dir.join(key))
                .is_ok_and(|found| found.is_file() && found.len() == value.len() as u64)
        })
    }
}

fn give(path: &Path, owner: Owner) -> io::Result<()> {
    match owner {
        Some((user, group)) => std::os::unix::fs::lchown(path, Some(user), Some(group)),
        None => Ok(()),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the directories of instances, and of copies of them, that are not in `kept`.
pub(super) fn sweep(root: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    for kind in ["containers", "processes"] {
        for instance in entries(&root.join(kind))? {
            for copy in entries(&instance)? {
                if !kept.contains(&copy) {
                    remove(&copy)?;
                }
            }
            // Stays where something is in it.
            let _ = fs::remove_dir(&instance);
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(version: &str, data: &[(&str, &str)], mode: u32) -> Files {
        let data =
            data.iter().map(|(key, text)| ((*key).to_owned(), Bytes::from((*text).to_owned()))).collect();
        Files { version: version.to_owned(), data, mode }
    }

    #[test]
    fn values_change_at_once_and_what_is_old_goes() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("0");
        files("1", &[("a", "one"), ("gone", "x")], 0o440).lay_out(&place, None).unwrap();
        assert_eq!(laid_out(&place).as_deref(), Some("1"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&place.join("a")), mode(&place), mode(&place.join(DATA))), (0o440, 0o750, 0o750));
        files("2", &[("a", "two"), ("b", "")], 0o400).lay_out(&place, None).unwrap();
        assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "two");
        let names: BTreeSet<_> =
            entries(&place).unwrap().into_iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["..2", "..data", "a", "b"].map(Into::into).into());
        fs::remove_file(place.join("..2/a")).unwrap();
        files("2", &[("a", "two"), ("b", "")], 0o400).lay_out(&place, None).unwrap();
        assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "two", "what was taken away is put back");
    }

    #[test]
    fn no_directory_in_which_root_writes_is_a_program_s() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("0");
        let owner = |path: &Path| fs::symlink_metadata(path).map(|found| (found.uid(), found.mode() & 0o777));
        for version in ["1", "2"] {
            files(version, &[("a", version)], 0o400).lay_out(&place, Some((65534, 65534))).unwrap();
            assert_eq!(owner(&place).unwrap(), (0, 0o755), "nobody puts a link in it");
            let version = place.join(format!("..{version}"));
            assert_eq!(owner(&version).unwrap(), (65534, 0o700), "nobody else reads what is in it");
            assert_eq!(owner_of(&place).unwrap(), (65534, 65534));
        }
        std::os::unix::fs::chown(&place, Some(65534), None).unwrap();
        assert!(files("3", &[], 0o400).lay_out(&place, Some((65534, 65534))).is_err());
    }

    #[test]
    fn only_a_file_system_in_memory_takes_secrets() {
        let disk = tempfile::tempdir().unwrap();
        let in_memory = rustix::fs::statfs(disk.path()).unwrap().f_type == 0x0102_1994;
        assert_eq!(Root::at(disk.path().join("s")).find().is_ok(), in_memory);
        assert!(Root::at("/proc/skerry".into()).find().unwrap_err().contains("not a tmpfs"));
        let why = Root::default().find().unwrap_err();
        assert!(why.contains("no place"), "{why}");
    }

    #[test]
    fn what_somebody_else_put_there_is_not_used() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let place = dir.path().join("skerry");
        symlink("/tmp", &place).unwrap();
        assert!(Root::at(place.clone()).find().is_err());
        fs::remove_file(&place).unwrap();
        Root::at(place.clone()).find().unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o777)).unwrap();
        assert!(Root::at(place.clone()).find().unwrap_err().contains("not this agent's"));
        assert_eq!(Root::at(place).existing(), None, "nor is anything exchanged there");
    }

    #[test]
    fn only_what_is_wanted_stays() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["containers/a.b.c.0/1", "containers/a.b.c.0/2", "processes/x.y.z.0/1"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        sweep(dir.path(), &BTreeSet::from([dir.path().join("containers/a.b.c.0/2")])).unwrap();
        assert!(dir.path().join("containers/a.b.c.0/2").exists());
        assert!(
            !dir.path().join("containers/a.b.c.0/1").exists()
                && !dir.path().join("processes/x.y.z.0").exists()
        );
    }
}
