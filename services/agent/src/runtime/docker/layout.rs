//! Config files on disk, for containers to mount: `<configs>/<config>/<hash>/<key>`, read-only, complete or not there.
//!
//! The directory is filled under another name, synced and renamed, so that not even a power cut shows a part of it. Content of a hash
//! never changes; a file that somebody took away or cut is put back.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use skerry_model::ConfigName;

use super::spec::layout_dir;
use crate::desired::ConfigContent;

/// Begins the names of directories that are being filled. No hash begins so.
const UNFINISHED: &str = ".unfinished-";
/// Anybody may read: a container runs as whichever user.
const FILE_MODE: u32 = 0o444;
const DIR_MODE: u32 = 0o755;

/// Lays out a config. Blocks.
pub(super) fn lay_out(configs: &Path, config: &ConfigName, content: &ConfigContent) -> io::Result<()> {
    let dir = layout_dir(configs, config, &content.hash.to_string());
    if dir.is_dir() {
        return repair(&dir, content);
    }
    let parent = configs.join(config.as_str());
    make_dirs(&parent)?;
    let unfinished = parent.join(format!("{UNFINISHED}{}-{}", std::process::id(), next_number()));
    // Left by an agent with this process id that was killed.
    remove_dir(&unfinished)?;
    fs::create_dir(&unfinished)?;
    fs::set_permissions(&unfinished, Permissions::from_mode(DIR_MODE))?;
    for (key, bytes) in &content.files {
        write(&unfinished.join(key), bytes)?;
    }
    sync(&unfinished)?;
    match fs::rename(&unfinished, &dir) {
        Ok(()) => sync(&parent),
        // Another instance was quicker.
        Err(_) if dir.is_dir() => remove_dir(&unfinished),
        Err(error) => Err(error),
    }
}

/// Removes what is laid out and neither wanted nor in use, and what was never finished. `in_use` holds paths that containers mount. Blocks.
pub(super) fn sweep(
    configs: &Path,
    wanted: &BTreeSet<(ConfigName, String)>,
    in_use: &BTreeSet<PathBuf>,
) -> io::Result<()> {
    for parent in entries(configs)? {
        let Some(config) = file_name(&parent).and_then(|name| ConfigName::parse(name).ok()) else { continue };
        for dir in entries(&parent)? {
            let Some(name) = file_name(&dir) else { continue };
            let needed = wanted.contains(&(config.clone(), name.to_owned()))
                || in_use.iter().any(|path| path.starts_with(&dir));
            if !needed {
                remove_dir(&dir)?;
            }
        }
        // Stays where something is in it.
        let _ = fs::remove_dir(&parent);
    }
    Ok(())
}

fn repair(dir: &Path, content: &ConfigContent) -> io::Result<()> {
    for (key, bytes) in &content.files {
        let path = dir.join(key);
        let whole =
            fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == bytes.len() as u64);
        if !whole {
            let unfinished = dir.join(format!("{UNFINISHED}{}", next_number()));
            write(&unfinished, bytes)?;
            fs::rename(&unfinished, &path)?;
            sync(dir)?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.write_all(bytes)?;
    // Not left to the mode at creation, which the umask narrows.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.sync_all()
}

/// Makes a directory and those above it, each synced in its parent.
pub(super) fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    make_dirs(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))?,
    }
    sync(parent)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path()))
            .filter(|path| !matches!(path, Ok(p) if !p.is_dir()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_model::ContentHash;
    use std::collections::BTreeMap;

    fn content(files: &[(&str, &str)]) -> ConfigContent {
        ConfigContent {
            hash: ContentHash::of(format!("{files:?}").as_bytes()),
            files: files
                .iter()
                .map(|(key, text)| ((*key).to_owned(), text.as_bytes().to_vec()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn name(text: &str) -> ConfigName {
        ConfigName::parse(text).unwrap()
    }

    #[test]
    fn files_are_laid_out_once_for_everybody_to_read_and_nobody_to_write() {
        let temp = tempfile::tempdir().unwrap();
        let configs = temp.path().join("deep/configs");
        let content = content(&[("a.conf", "one"), ("b.conf", "")]);
        lay_out(&configs, &name("site"), &content).unwrap();
        lay_out(&configs, &name("site"), &content).unwrap();
        let dir = layout_dir(&configs, &name("site"), &content.hash.to_string());
        assert_eq!(fs::read_to_string(dir.join("a.conf")).unwrap(), "one");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir.join("a.conf")), mode(&dir.join("b.conf")), mode(&dir)), (0o444, 0o444, 0o755));
        assert_eq!(entries(&configs.join("site")).unwrap(), [dir], "nothing unfinished stays");
    }

    #[test]
    fn a_lost_or_cut_file_is_put_back() {
        let temp = tempfile::tempdir().unwrap();
        let content = content(&[("a", "one"), ("b", "two")]);
        lay_out(temp.path(), &name("c"), &content).unwrap();
        let dir = layout_dir(temp.path(), &name("c"), &content.hash.to_string());
        fs::remove_file(dir.join("a")).unwrap();
        fs::remove_file(dir.join("b")).unwrap();
        fs::write(dir.join("b"), "t").unwrap();
        lay_out(temp.path(), &name("c"), &content).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "one");
        assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
    }

    #[test]
    fn many_at_once_lay_out_one() {
        let temp = tempfile::tempdir().unwrap();
        let content = content(&[("a", "one")]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| lay_out(temp.path(), &name("c"), &content).unwrap());
            }
        });
        assert_eq!(entries(&temp.path().join("c")).unwrap().len(), 1);
    }

    #[test]
    fn only_what_nobody_needs_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let kinds = ["wanted", "used", "old"].map(|text| content(&[("k", text)]));
        for content in &kinds {
            lay_out(temp.path(), &name("c"), content).unwrap();
        }
        lay_out(temp.path(), &name("gone"), &kinds[2]).unwrap();
        fs::create_dir(temp.path().join(format!("c/{UNFINISHED}1"))).unwrap();
        let dir = |content: &ConfigContent| layout_dir(temp.path(), &name("c"), &content.hash.to_string());
        let wanted = BTreeSet::from([(name("c"), kinds[0].hash.to_string())]);
        sweep(temp.path(), &wanted, &BTreeSet::from([dir(&kinds[1]).join("k")])).unwrap();
        let mut left = entries(&temp.path().join("c")).unwrap();
        left.sort();
        let mut expected = vec![dir(&kinds[0]), dir(&kinds[1])];
        expected.sort();
        assert_eq!(left, expected);
        assert!(!temp.path().join("gone").exists());
        sweep(&temp.path().join("nosuch"), &wanted, &BTreeSet::new()).unwrap();
    }
}
