//! Files into and out of an instance, by a process of the agent's own binary that runs as the instance's user (`shim::copy`): the kernel decides
//! what it may read and write. It ends by itself once nobody writes to it or reads from it, and takes away what is not whole.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::error::failed;
use crate::runtime::copy::{PART_BYTES_MAX, truncated};
use crate::runtime::{CopyPart, CopySource, RuntimeError};
use crate::shim::copy::{BARE, FROM, REASONS, TO, WHOLE, WORD};

/// The longest that it says when it fails, in bytes.
const COMPLAINT_BYTES_MAX: u64 = 8192;

/// Has what comes unpacked below a directory.
pub(super) async fn to(
    shim: &Path,
    dir: &Path,
    path: &str,
    mut archive: mpsc::Receiver<CopyPart>,
) -> Result<(), RuntimeError> {
    let mut child = start(shim, dir, TO, path)?;
    let Some(mut input) = child.stdin.take() else { return Err(lost(&io::Error::other("no pipe"))) };
    let feeding = async {
        loop {
            match archive.recv().await {
                Some(CopyPart::Data(part)) => {
                    let length = u32::try_from(part.len()).unwrap_or(WHOLE);
                    input.write_all(&length.to_be_bytes()).await.ok()?;
                    input.write_all(&part).await.ok()?;
                }
                Some(CopyPart::Whole) => {
                    input.write_all(&WHOLE.to_be_bytes()).await.ok()?;
                    return Some(true);
                }
                None => return Some(false),
            }
        }
    };
    let complaint = complaint(&mut child);
    tokio::pin!(complaint);
    // Where it ends before all has come it says why; else its end is waited for.
    let (is_whole, early) = tokio::select! {
        fed = feeding => (fed != Some(false), None),
        said = &mut complaint => (true, Some(said)),
    };
    drop(input);
    drop(archive);
    let said = match early {
        Some(said) => said,
        None => complaint.await,
    };
    let done = ended(child, said).await;
    if is_whole { done } else { Err(truncated()) }
}

/// Has packed what is asked for.
pub(super) async fn from(
    shim: &Path,
    dir: &Path,
    source: &CopySource,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), RuntimeError> {
    let mut child = start(shim, dir, if source.bare { BARE } else { FROM }, &source.path)?;
    let Some(mut output) = child.stdout.take() else { return Err(lost(&io::Error::other("no pipe"))) };
    drop(child.stdin.take());
    let passing = async move {
        loop {
            // Nothing is read for nobody.
            let Ok(room) = out.reserve().await else { return Ok(()) };
            let mut part = vec![0; PART_BYTES_MAX];
            let read = output.read(&mut part).await.map_err(|error| lost(&error))?;
            if read == 0 {
                return Ok(());
            }
            part.truncate(read);
            room.send(part.into());
        }
    };
    let complaint = complaint(&mut child);
    let (passed, said) = tokio::join!(passing, complaint);
    ended(child, said).await?;
    passed
}

fn start(shim: &Path, dir: &Path, way: &str, path: &str) -> Result<Child, RuntimeError> {
    Command::new(shim)
        .arg0("skerry-shim")
        .args([OsStr::new(WORD), dir.as_os_str(), OsStr::new(way), OsStr::new(path)])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| failed("CopyFailed", format!("starting the copy: {error}"), true))
}

/// What it says until its end.
fn complaint(child: &mut Child) -> impl Future<Output = String> + use<> {
    let complaints = child.stderr.take();
    async move {
        let mut said = Vec::new();
        if let Some(complaints) = complaints {
            // What is not heard of it is no matter.
            let _ = complaints.take(COMPLAINT_BYTES_MAX).read_to_end(&mut said).await;
        }
        String::from_utf8_lossy(&said).into_owned()
    }
}

async fn ended(mut child: Child, said: String) -> Result<(), RuntimeError> {
    let status = child.wait().await.map_err(|error| lost(&error))?;
    if status.success() {
        return Ok(());
    }
    let (word, message) = said.trim_end().split_once(' ').unwrap_or(("", said.trim_end()));
    match REASONS.into_iter().find(|reason| *reason == word) {
        Some(reason) => Err(failed(reason, message, false)),
        None => Err(failed("CopyFailed", format!("the copy ended with {status}: {said}"), true)),
    }
}

fn lost(error: &io::Error) -> RuntimeError {
    failed("CopyFailed", format!("speaking to the copy: {error}"), true)
}
