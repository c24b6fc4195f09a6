//! Files that are downloaded for instances: kept by checksum, verified before each use, removed when no instance needs them.
//!
//! `<sha256>` is a whole file, `<sha256>.part` one that a download goes on with. See docs/adr/0008-artifacts.md.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use skerry_model::app::Artifact;
use tokio::sync::OwnedMutexGuard;

use super::error::{failed, io_failed};
use super::layout::make_dir;
use super::tree::Tree;
use crate::hex::hex;
use crate::runtime::{Progress, ProgressSink, RuntimeError};

mod client;
mod download;
mod unpack;

/// Most bytes of an artifact.
const BYTES_MAX: u64 = 2 << 30;
/// Ends the names of files that are not whole.
const PART: &str = ".part";
/// What is read from disk at once, in bytes.
const BUFFER: usize = 64 << 10;

/// The artifacts of this machine.
pub(super) struct Store {
    dir: PathBuf,
    /// Trusted certificates in place of the machine's.
    certificates: Option<PathBuf>,
    /// Who downloads or removes a file: one at a time for each.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Store {
    pub(super) fn new(dir: PathBuf, certificates: Option<PathBuf>) -> Self {
        Self { dir, certificates, turns: Mutex::default() }
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
                Box::pin(download::download(artifact, &part, self.certificates.as_deref(), progress)).await?;
                fs::rename(&part, &whole)
                    .map_err(|error| io_failed("putting an artifact in its place", &error))?;
            }
        }
        Ok(())
    }

    async fn turn(&self, sha256: &str) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(self.turns().entry(sha256.to_owned()).or_default());
        turn.lock_owned().await
    }

    fn turns(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what is not `needed` and nobody downloads. Answers what was removed.
    pub(super) fn collect(&self, needed: &BTreeSet<String>) -> io::Result<Vec<Progress>> {
        // While a turn is held here, none is taken; one that nobody else has is forgotten.
        let mut turns = self.turns();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut removed = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let sha256 = name.strip_suffix(PART).unwrap_or(name);
            if needed.contains(sha256) || turns.contains_key(sha256) {
                continue;
            }
            let size = entry.metadata().map_or(0, |meta| meta.len());
            fs::remove_file(entry.path())?;
            let message = format!("removed artifact {}, {}", short(sha256), mebibytes(size));
            removed.push(Progress { reason: "ArtifactRemoved", message });
        }
        Ok(removed)
    }
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

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
