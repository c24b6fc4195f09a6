//! One download: to a file that the next attempt goes on with, until it has the right checksum.
//!
//! It has no deadline of its own, because a slow link is no failure: it ends when nothing comes for `STALL`, and with the fetch that it is
//! part of. When it is tried again is the reconciler's to say.

use std::io::{self, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use hyper::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use skerry_model::app::Artifact;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::super::error::{failed, io_failed};
use super::wrong::{Version, Wrong};
use super::{BYTES_MAX, Store, client, hash, url_for_people};
use crate::hex::hex;
use crate::runtime::{Progress, ProgressSink, RuntimeError, mebibytes};

/// A download of which nothing comes for so long has failed.
const STALL: Duration = Duration::from_secs(60);
/// Progress is told at most so often.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// What is there of the file.
struct Part {
    file: File,
    hash: Sha256,
    bytes: u64,
}

/// Downloads the artifact to `part`, or what is missing of it. What is there afterwards has the checksum.
pub(super) async fn download(
    store: &Store,
    artifact: &Artifact,
    part: &Path,
    progress: ProgressSink<'_>,
) -> Result<(), RuntimeError> {
    let url = url_for_people(&artifact.url);
    let error =
        |what: String, transient| failed("DownloadFailed", format!("downloading {url}: {what}"), transient);
    let writing = |error: io::Error| io_failed(&format!("writing the download of {url}"), &error);
    let known = store.wrong(artifact);
    if let Some(known) = known.as_ref().filter(|known| known.holds()) {
        return Err(known.error(artifact, false));
    }
    let started = Instant::now();
    let mut there = open(store, part).await.map_err(writing)?;
    let message = match there.bytes {
        0 => format!("downloading {url}"),
        bytes => format!("downloading {url}, after the {} that are there", mebibytes(bytes)),
    };
    let began = Progress { reason: "Downloading", message };
    // What is known to be wrong is asked for without a word, and only if it is another one by now.
    let known = known.filter(|_| there.bytes == 0);
    let unless = known.as_ref().and_then(|known| known.version.unless());
    if known.is_none() {
        progress(began.clone());
    }
    let get = client::get(&artifact.url, there.bytes, unless, store.certificates.as_deref());
    let mut answer = get.await.map_err(|what| error(what, true))?;
    let version = Version::of(answer.response.headers());
    if let Some(known) = known {
        let status = answer.response.status();
        if status == StatusCode::NOT_MODIFIED || (status == StatusCode::OK && known.version == version) {
            return Err(known.error(artifact, false));
        }
        progress(began);
    }
    let resumed = match accept(&answer.response, there.bytes) {
        Ok(resumed) => resumed,
        Err(Refusal { what, transient, stale }) => {
            if stale {
                there.clear().await.map_err(writing)?;
            }
            return Err(error(what, transient));
        }
    };
    if !resumed {
        there.clear().await.map_err(writing)?;
    }
    let rest =
        header(&answer.response, CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<u64>().ok());
    let total = rest.map(|rest| rest.saturating_add(there.bytes));
    let mut told = started;
    loop {
        if there.bytes.max(total.unwrap_or(0)) > BYTES_MAX {
            there.clear().await.map_err(writing)?;
            let message = format!("{url} has more than {}, the most of an artifact", mebibytes(BYTES_MAX));
            return Err(failed("ArtifactTooLarge", message, false));
        }
        let body = answer.response.body_mut();
        let cut = match timeout(STALL, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    there.add(data).await.map_err(writing)?;
                }
                None
            }
            Ok(Some(Err(cut))) => Some(cut.to_string()),
            Err(_) => Some(format!("nothing came for {} s", STALL.as_secs())),
        };
        if let Some(cut) = cut {
            there.file.flush().await.map_err(writing)?;
            return Err(error(
                format!("cut off after {} bytes, to go on from there: {cut}", there.bytes),
                true,
            ));
        }
        if told.elapsed() >= PROGRESS_PERIOD {
            told = Instant::now();
            let of = total.map(|total| format!(" of {}", mebibytes(total))).unwrap_or_default();
            let message = format!("downloading {url}: {}{of}", mebibytes(there.bytes));
            progress(Progress { reason: "DownloadProgress", message });
        }
    }
    there.file.flush().await.map_err(writing)?;
    there.file.sync_all().await.map_err(writing)?;
    let found = hex(&there.hash.clone().finalize());
    if found != artifact.sha256 {
        there.clear().await.map_err(writing)?;
        let wrong = Wrong::new(artifact, found, version);
        let error = wrong.error(artifact, resumed);
        // What was there before may have been of something else.
        if !resumed {
            store.note_wrong(artifact, wrong);
        }
        return Err(error);
    }
    let (size, time) = (mebibytes(there.bytes), started.elapsed().as_secs_f64());
    progress(Progress { reason: "Downloaded", message: format!("downloaded {url} in {time:.1} s, {size}") });
    Ok(())
}

/// Why an answer is of no use.
struct Refusal {
    what: String,
    transient: bool,
    /// What is there does not fit it.
    stale: bool,
}

/// Whether the answer goes on after the `from` bytes that are there.
fn accept(response: &Response<Incoming>, from: u64) -> Result<bool, Refusal> {
    let status = response.status();
    let range = header(response, CONTENT_RANGE.as_str()).unwrap_or_default();
    match status {
        StatusCode::OK => Ok(false),
        StatusCode::PARTIAL_CONTENT if from > 0 && range.starts_with(&format!("bytes {from}-")) => Ok(true),
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            let what = format!("the server cannot go on after {from} bytes: it is begun again");
            Err(Refusal { what, transient: true, stale: true })
        }
        _ => {
            let again = status.is_server_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            Err(Refusal { what: format!("the server answers {status}"), transient: again, stale: false })
        }
    }
}

fn header<'r>(response: &'r Response<Incoming>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

async fn open(store: &Store, path: &Path) -> io::Result<Part> {
    let worker = store.worker().await;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).await?;
    let mut file = file.into_std().await;
    let read = move || {
        let _worker = worker;
        let (hash, bytes) = hash(&mut file)?;
        file.seek(SeekFrom::End(0))?;
        io::Result::Ok(Part { file: File::from_std(file), hash, bytes })
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

impl Part {
    async fn add(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all(data).await?;
        self.hash.update(data);
        self.bytes += data.len() as u64;
        Ok(())
    }

    async fn clear(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        (self.hash, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }
}
