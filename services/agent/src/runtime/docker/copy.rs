//! Files into and out of containers, by the engine's own archives, which pass here piece by piece and are looked through meanwhile. The engine
//! itself packs and unpacks, within the container's file system, also where that does not run.
//!
//! The engine unpacks while the archive comes. What was whole before it broke stays; what was being written is cut off.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bollard::body_try_stream;
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, DownloadFromContainerOptions, UploadToContainerOptions,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use skerry_archive::{Bounds, Check, Entry, Error, Kind, Reader, Writer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::client::{Client, LOOK_DEADLINE};
use super::error::{Failure, Kind as Cause};
use crate::runtime::copy::{PART_BYTES_MAX, truncated};
use crate::runtime::{CopyPart, CopySource, RuntimeError};

/// A copy takes no longer: a channel does not either.
const COPY_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Parts that the engine has not taken yet.
const PARTS_MAX: usize = 1;
/// What Go calls a directory, a symbolic link, and all that is no file.
const MODE_DIR: u32 = 1 << 31;
const MODE_SYMLINK: u32 = 1 << 27;
const MODE_OTHER: u32 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;

/// Has the engine unpack what comes.
pub(super) async fn to(
    client: &Client,
    container: &str,
    path: &str,
    mut archive: mpsc::Receiver<CopyPart>,
) -> Result<(), RuntimeError> {
    let failed = |failure: Failure| missing(failure, &format!("copying to `{path}`"));
    let docker = client.docker().await.map_err(failed)?;
    let place = absolute(client, container, path).await?;
    // It says so of itself, but its word may be lost where it hangs up on who still sends.
    let options = ContainerArchiveInfoOptions { path: format!("{}/.", place.trim_end_matches("/.")) };
    let asking = docker.get_container_archive_info(container, Some(options));
    client.within(LOOK_DEADLINE, asking).await.map_err(failed)?;
    let (body, parts) = mpsc::channel::<io::Result<Bytes>>(PARTS_MAX);
    let options = UploadToContainerOptions {
        path: place,
        // A directory is no file's place, and the other way round.
        no_overwrite_dir_non_dir: Some("1".to_owned()),
        copy_uidgid: None,
    };
    let parts = body_try_stream(ReceiverStream::new(parts));
    let mut uploading =
        pin!(client.within(COPY_DEADLINE, docker.upload_to_container(container, Some(options), parts)));
    let mut reader = Reader::default();
    loop {
        let part = tokio::select! {
            part = archive.recv() => part,
            done = &mut uploading => {
                done.map_err(failed)?;
                return rest(reader, archive).await;
            }
        };
        let checked = match part {
            Some(CopyPart::Data(part)) => {
                check(&mut reader, &part, Some(Bounds::Archive)).map(|()| Some(part))
            }
            Some(CopyPart::Whole) => reader.finish().map(|()| None).map_err(RuntimeError::from),
            None => Err(truncated()),
        };
        let part = match checked {
            Ok(Some(part)) => part,
            Ok(None) => {
                drop(body);
                return uploading.await.map_err(failed);
            }
            Err(error) => {
                // So that the engine does not take it for the end.
                let cut = async {
                    let _ = body.send(Err(io::Error::other("the archive is cut off"))).await;
                    drop(body);
                };
                let _ = tokio::time::timeout(LOOK_DEADLINE, async { tokio::join!(cut, uploading) }).await;
                return Err(error);
            }
        };
        tokio::select! {
            sent = body.send(Ok(part)) => if sent.is_err() {
                // It has no more of it: why, it says itself.
                uploading.await.map_err(failed)?;
                return rest(reader, archive).await;
            },
            done = &mut uploading => {
                done.map_err(failed)?;
                return rest(reader, archive).await;
            }
        }
    }
}

/// What follows the end of an archive, which the engine does not wait for.
async fn rest(mut reader: Reader, mut archive: mpsc::Receiver<CopyPart>) -> Result<(), RuntimeError> {
    while let Some(part) = archive.recv().await {
        match part {
            CopyPart::Data(part) => check(&mut reader, &part, Some(Bounds::Archive))?,
            CopyPart::Whole => return Ok(reader.finish()?),
        }
    }
    Err(truncated())
}

/// Has the engine pack what is asked for.
pub(super) async fn from(
    client: &Client,
    container: &str,
    source: &CopySource,
    out: &mpsc::Sender<Bytes>,
) -> Result<(), RuntimeError> {
    let failed = |failure: Failure| missing(failure, &format!("copying `{}`", source.path));
    let docker = client.docker().await.map_err(failed)?;
    let path = absolute(client, container, &source.path).await?;
    if source.bare {
        let entry = look(client, container, path, source).await?;
        let mut writer = Writer::new(Vec::new());
        writer.entry(&entry)?;
        let _ = out.send(writer.finish()?.into()).await;
        return Ok(());
    }
    // Without a name of its own the engine would give absolute paths. With one, what ends in a point would come without it; a slash at the end
    // says as well that it is a directory.
    let path = match (source.name(), path.strip_suffix("/.")) {
        (None, None) => format!("{path}/."),
        (Some(_), Some(dir)) => format!("{dir}/"),
        _ => path,
    };
    let options = DownloadFromContainerOptions { path };
    let mut packed = pin!(docker.download_from_container(container, Some(options)));
    let mut reader = Reader::default();
    loop {
        // Waits for nobody longer than who takes it does.
        let part = client.within(COPY_DEADLINE, async { packed.next().await.transpose() }).await;
        let Some(mut part) = part.map_err(failed)? else { break };
        check(&mut reader, &part, None)?;
        while !part.is_empty() {
            let piece = part.split_to(part.len().min(PART_BYTES_MAX));
            if out.send(piece).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(reader.finish()?)
}

/// What is at a path of a container.
async fn look(
    client: &Client,
    container: &str,
    path: String,
    source: &CopySource,
) -> Result<Entry, RuntimeError> {
    let failed = |failure: Failure| missing(failure, &format!("looking at `{}`", source.path));
    let docker = client.docker().await.map_err(failed)?;
    let options = ContainerArchiveInfoOptions { path };
    let asking = docker.get_container_archive_info(container, Some(options));
    let seen = client.within(LOOK_DEADLINE, asking).await.map_err(failed)?;
    let kind = match seen.file_mode {
        mode if mode & MODE_DIR != 0 => Kind::Directory,
        mode if mode & MODE_SYMLINK != 0 => Kind::Symlink(seen.link_target.into_bytes()),
        mode if mode & MODE_OTHER != 0 => {
            let why = format!("`{}` is neither file, directory nor link", source.path);
            return Err(Error::Refused(why).into());
        }
        _ => Kind::File,
    };
    let path = source.name().unwrap_or_default().as_bytes().to_vec();
    Ok(Entry { path, kind, mode: seen.file_mode & 0o777, mtime: 0, size: 0 })
}

/// The path in the container's file system, from its working directory on.
async fn absolute(client: &Client, container: &str, path: &str) -> Result<String, RuntimeError> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let failed = |failure: Failure| failure.while_doing("looking at the container", "CopyFailed");
    let docker = client.docker().await.map_err(failed)?;
    let seen =
        client.within(LOOK_DEADLINE, docker.inspect_container(container, None)).await.map_err(failed)?;
    let dir = seen.config.and_then(|config| config.working_dir).filter(|dir| !dir.is_empty());
    Ok(format!("{}/{path}", dir.unwrap_or_default().trim_end_matches('/')))
}

fn check(reader: &mut Reader, part: &[u8], bounds: Option<Bounds>) -> Result<(), RuntimeError> {
    Ok(reader.feed(part, &mut Check { bounds })?)
}

/// What is not there is the path: the container was, a moment ago.
fn missing(failure: Failure, doing: &str) -> RuntimeError {
    let is_missing = failure.kind == Cause::NotFound;
    let reason = if is_missing { "PathMissing" } else { "CopyFailed" };
    let silent = failure.message.is_empty();
    let mut error = failure.while_doing(doing, reason);
    if is_missing && silent {
        error.message = format!("{doing}: the container has no such path");
    }
    error
}
