//! Files that are downloaded for instances: kept by checksum, verified before each use, removed when no instance needs them.
//!
//! `<sha256>` is a whole file, `<sha256>.part` one that a download goes on with. See docs/adr/0008-artifacts.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use skerry_model::app::Artifact;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::error::{failed, io_failed};
use super::layout::make_dir;
use super::lock;
use super::tree::{self, Tree};
use crate::hex::hex;
use crate::runtime::{Progress, ProgressSink, RuntimeError, mebibytes};

mod client;
mod download;
mod unpack;
mod wrong;

use wrong::Wrong;

/// Most bytes of an artifact.
const BYTES_MAX: u64 = 2 << 30;
/// Ends the names of files that are not whole.
const PART: &str = ".part";
/// What is read from disk at once, in bytes.
const BUFFER: usize = 64 << 10;

/// How many read whole artifacts at once. It may take each minutes, on threads that all else needs which waits for a disk.
const WORKERS_MAX: usize = 2;

/// The artifacts of this machine.
pub(super) struct Store {
    dir: PathBuf,
    /// Trusted certificates in place of the machine's.
    certificates: Option<PathBuf>,
    /// Who downloads or removes a file: one at a time for each.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    workers: Arc<Semaphore>,
    /// What was downloaded in vain, by the checksum that it should have had.
    wrong: Mutex<HashMap<String, Wrong>>,
}

impl Store {
    pub(super) fn new(dir: PathBuf, certificates: Option<PathBuf>) -> Self {
        let workers = Arc::new(Semaphore::new(WORKERS_MAX));
        Self { dir, certificates, turns: Mutex::default(), workers, wrong: Mutex::default() }
    }

    /// The right to read whole artifacts, to be taken along to the thread that does.
    pub(super) async fn worker(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.workers).acquire_owned().await.expect("it is never closed")
    }

    /// Downloads what is not here.
    pub(super) async fn fetch(
        &self,
        artifacts: &[Artifact],
        progress: ProgressSink<'_>,
    ) -> Result<(), RuntimeError> {
        for artifact in artifacts {
            let _turn = self.turn(&artifact.sha256).await;
            let whole = self.dir.join(&artifact.sha256);
            let here = whole.try_exists().map_err(|error| io_failed("looking for an artifact", &error))?;
            if !here {
                let doing = "making the directory of artifacts";
                make_dir(&self.dir).map_err(|error| io_failed(doing, &error))?;
                let part = self.dir.join(format!("{}{PART}", artifact.sha256));
                Box::pin(download::download(self, artifact, &part, progress)).await?;
                lock(&self.wrong).remove(&artifact.sha256);
                fs::rename(&part, &whole)
                    .map_err(|error| io_failed("putting an artifact in its place", &error))?;
            }
        }
        Ok(())
    }

    async fn turn(&self, sha256: &str) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(lock(&self.turns).entry(sha256.to_owned()).or_default());
        turn.lock_owned().await
    }

    /// What `artifact` was when it was downloaded in vain.
    fn wrong(&self, artifact: &Artifact) -> Option<Wrong> {
        lock(&self.wrong).get(&artifact.sha256).filter(|wrong| wrong.url == artifact.url).cloned()
    }

    fn note_wrong(&self, artifact: &Artifact, wrong: Wrong) {
        lock(&self.wrong).insert(artifact.sha256.clone(), wrong);
    }

    /// Removes what is not `needed` and nobody downloads. Answers what was removed.
    pub(super) fn collect(&self, needed: &BTreeSet<String>) -> io::Result<Vec<Progress>> {
        lock(&self.wrong).retain(|sha256, _| needed.contains(sha256));
        let mut removed = Vec::new();
        for (sha256, unneeded) in self.unneeded(needed)? {
            for path in unneeded.files {
                let size = fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
                fs::remove_file(&path)?;
                let message = format!("removed artifact {}, {}", short(&sha256), mebibytes(size));
                removed.push(Progress { reason: "ArtifactRemoved", message });
            }
        }
        Ok(removed)
    }

    /// What is not `needed` and nobody downloads. Nobody begins to until it is dropped; whoever downloads something else is not held up, however
    /// long a disk takes to remove gigabytes.
    fn unneeded(&self, needed: &BTreeSet<String>) -> io::Result<BTreeMap<String, Unneeded>> {
        let mut turns = lock(&self.turns);
        // One that nobody else has is forgotten.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries?,
        };
        let mut all: BTreeMap<String, Unneeded> = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let sha256 = name.strip_suffix(PART).unwrap_or(name);
            if let Some(unneeded) = all.get_mut(sha256) {
                unneeded.files.push(entry.path());
            } else if !needed.contains(sha256) && !turns.contains_key(sha256) {
                let turn = Arc::clone(turns.entry(sha256.to_owned()).or_default());
                let turn = turn.try_lock_owned().expect("it is new, and no other can be taken");
                all.insert(sha256.to_owned(), Unneeded { files: vec![entry.path()], _turn: turn });
            }
        }
        Ok(all)
    }
}

/// Files of one checksum, and the turn to remove them.
struct Unneeded {
    files: Vec<PathBuf>,
    _turn: OwnedMutexGuard<()>,
}

/// Whether the artifacts can be put where they belong.
pub(super) fn check_paths(artifacts: &[Artifact]) -> Result<(), RuntimeError> {
    for artifact in artifacts {
        tree::check(&artifact.path)
            .map_err(|error| failed("StartFailed", format!("laying out an artifact: {error}"), false))?;
    }
    Ok(())
}

/// Looks through archives before anything is stopped for them. Blocks.
pub(super) fn check(dir: &Path, artifacts: &[Artifact]) -> Result<(), RuntimeError> {
    for artifact in artifacts {
        if let Some(form) = artifact.unpack {
            unpack::check(open(dir, artifact)?, form).map_err(|error| refused(artifact, error))?;
        }
    }
    Ok(())
}

/// Puts artifacts where the instance finds them. Blocks.
pub(super) fn lay_out(dir: &Path, artifacts: &[Artifact], state: &Tree) -> Result<(), RuntimeError> {
    for artifact in artifacts {
        let doing = || format!("laying out artifact `{}`", artifact.path);
        let mut file = open(dir, artifact)?;
        let Some(form) = artifact.unpack else {
            let mode = if artifact.executable { 0o500 } else { 0o400 };
            let put = state.put(&artifact.path, mode, |place| io::copy(&mut file, place));
            put.map_err(|error| io_failed(&doing(), &error))?;
            continue;
        };
        // What was unpacked before goes: it may have been of another archive.
        state.remove(&artifact.path).map_err(|error| io_failed(&doing(), &error))?;
        unpack::unpack(file, form, state, &artifact.path).map_err(|error| refused(artifact, error))?;
    }
    Ok(())
}

fn refused(artifact: &Artifact, error: unpack::Failure) -> RuntimeError {
    match error {
        unpack::Failure::Refused(why) => {
            let message = format!("the archive {} is refused: {why}", url_for_people(&artifact.url));
            failed("ArchiveRefused", message, false)
        }
        unpack::Failure::Io(error) => io_failed(&format!("unpacking artifact `{}`", artifact.path), &error),
    }
}

/// Opens a file that is here, if it still is what it was. Else it is taken away, to be downloaded again.
fn open(dir: &Path, artifact: &Artifact) -> Result<File, RuntimeError> {
    let path = dir.join(&artifact.sha256);
    let doing = || format!("reading artifact `{}`", artifact.path);
    let mut file = File::open(&path).map_err(|error| io_failed(&doing(), &error))?;
    let (hash, _) = hash(&mut file).map_err(|error| io_failed(&doing(), &error))?;
    if hex(&hash.finalize()) != artifact.sha256 {
        let _ = fs::remove_file(&path);
        let message = format!("artifact `{}` was damaged on disk: it is downloaded again", artifact.path);
        return Err(failed("ChecksumMismatch", message, true));
    }
    file.rewind().map_err(|error| io_failed(&doing(), &error))?;
    Ok(file)
}

/// The hash over the rest of a file, and how many bytes that was.
fn hash(file: &mut File) -> io::Result<(Sha256, u64)> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hash, bytes));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// A URL without its query, which may hold a secret.
fn url_for_people(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_removal_holds_up_nobody_who_downloads_something_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "a.part", "b"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let store = Store::new(dir.path().to_owned(), None);
        let downloading = store.turn("b").await;
        let removing = store.unneeded(&BTreeSet::new()).unwrap();
        assert_eq!(removing.values().map(|unneeded| unneeded.files.len()).collect::<Vec<_>>(), [2]);
        let short = Duration::from_millis(50);
        timeout(short, store.turn("c")).await.expect("it is another");
        assert!(timeout(short, store.turn("a")).await.is_err(), "it is being removed");
        drop((removing, downloading));
        timeout(short, store.turn("a")).await.expect("it is gone");
        assert_eq!(store.collect(&BTreeSet::from(["b".to_owned()])).unwrap().len(), 2);
        assert!(!dir.path().join("a").exists() && dir.path().join("b").exists());
    }
}
