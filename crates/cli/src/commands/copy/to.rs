//! Into an instance. What is at the place there is asked first: by it the things in the archive have their names.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use skerry_archive::{Entry, Error, Kind, Reader, Sink};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::copy_from_response::Body;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::place::{Goes, Side, There, goes, is_content, name_of, parent_of, says_directory};
use super::progress::Progress;
use super::worker::{Source, packing};
use crate::client::{CallError, Client, Service, relay};
use crate::error::CliError;
use crate::print::{Printer, note};

pub(super) async fn run(
    client: &Client,
    start: pb::CopyStart,
    from: Side,
    _: &mut Printer,
) -> Result<(), CliError> {
    let (typed, shown) = (
        start.path.clone(),
        match &from {
            Side::Local(path) => path.display().to_string(),
            _ => "the archive".to_owned(),
        },
    );
    let (start, source) = match from {
        Side::Local(path) => {
            let is_directory = is_directory(&path)?;
            let (start, there) = look(client, start).await?;
            let text = path.as_os_str().as_bytes();
            let goes =
                goes(is_directory, is_content(text), there, typed.as_bytes()).map_err(CliError::Failed)?;
            let (place, name) = match goes {
                Goes::Into => (start.path.clone(), name_of(text).map(<[u8]>::to_vec)),
                Goes::ContentInto => (start.path.clone(), None),
                Goes::As => (parent_of(&typed).to_owned(), name_of(typed.as_bytes()).map(<[u8]>::to_vec)),
            };
            (pb::CopyStart { path: place, ..start }, Source::Path(path, name))
        }
        _ => (start, Source::Stdin),
    };
    let copied = send(client, start, source).await?;
    note(&format!("{shown} copied to {}:{typed}", copied.instance));
    Ok(())
}

fn is_directory(path: &Path) -> Result<bool, CliError> {
    let failed = |error| CliError::Failed(format!("reading `{}`: {error}", path.display()));
    // A link is copied as one, unless it is said that it is a directory.
    let says = says_directory(path.as_os_str().as_bytes());
    let meta = if says { fs::metadata(path) } else { fs::symlink_metadata(path) };
    let meta = meta.map_err(failed)?;
    if says && !meta.is_dir() {
        return Err(CliError::Failed(format!("`{}` is no directory", path.display())));
    }
    Ok(meta.is_dir())
}

/// What is at the place, and the start that means the same instance from then on.
async fn look(client: &Client, start: pb::CopyStart) -> Result<(pb::CopyStart, There), CliError> {
    let (found, start) = glance(client, start).await?;
    let there = match found {
        None => There::Nothing,
        Some(Kind::Directory) => There::Directory,
        Some(Kind::Symlink(_)) => {
            let path = format!("{}/.", start.path.trim_end_matches('/'));
            // Where it leads to a directory, that is meant; else it gives way.
            return match glance(client, pb::CopyStart { path, ..start.clone() }).await? {
                (Some(Kind::Directory), start) => Ok((start, There::Directory)),
                _ => Ok((start, There::File)),
            };
        }
        Some(Kind::File | Kind::Hardlink(_)) => There::File,
    };
    Ok((start, there))
}

/// What is at a path. Nothing: there is nothing.
async fn glance(client: &Client, start: pb::CopyStart) -> Result<(Option<Kind>, pb::CopyStart), CliError> {
    let called =
        client.call(Service::Relay, |channel, left| {
            let start = Some(pb::CopyStart { bare: true, ..start.clone() });
            async move {
                relay(channel).copy_from(crate::client::request(pb::CopyFromRequest { start }, left)).await
            }
        });
    let mut start = start.clone();
    let mut answers = match called.await {
        Ok(answers) => answers,
        Err(CallError::Status(status, _)) if is_missing(&status) => return Ok((None, start)),
        Err(error) => return Err(error.into()),
    };
    let (mut reader, mut first) = (Reader::default(), First::default());
    loop {
        match answers.message().await {
            Ok(None) => return Ok((first.0, start)),
            Ok(Some(pb::CopyFromResponse { body: Some(Body::Started(started)) })) => {
                (start.instance, start.node) = (started.instance, started.node);
            }
            Ok(Some(pb::CopyFromResponse { body: Some(Body::Data(part)) })) => {
                reader.feed(&part, &mut first).map_err(|error| super::failed(&error))?;
            }
            Ok(Some(_)) => {}
            Err(status) if is_missing(&status) => return Ok((None, start)),
            Err(status) => return Err(CliError::of_status(&status, client.relay_address())),
        }
    }
}

fn is_missing(status: &Status) -> bool {
    word_of(status).is_some_and(|word| word == "PATH_MISSING")
}

/// The first thing of an archive.
#[derive(Default)]
struct First(Option<Kind>);

impl Sink for First {
    fn begin(&mut self, entry: &Entry) -> Result<(), Error> {
        self.0.get_or_insert_with(|| entry.kind.clone());
        Ok(())
    }
}

async fn send(client: &Client, start: pb::CopyStart, source: Source) -> Result<pb::CopyToResponse, CliError> {
    let refused = |status: Status| CliError::of_status(&status, client.relay_address());
    let channel = client.relay_channel().await?;
    let super::worker::Packing { requests, mut done } = packing(start, source)?;
    let (mut progress, mut bytes) = (Progress::new(), 0);
    let requests = ReceiverStream::new(requests).map(move |request| {
        if let Some(pb::copy_to_request::Body::Data(part)) = &request.body {
            bytes += part.len() as u64;
            progress.show(bytes);
        }
        request
    });
    let answered = async {
        let mut answers = relay(channel).copy_to(Request::new(requests)).await?.into_inner();
        let mut copied = None;
        // It counts once the stream has ended.
        while let Some(answer) = answers.message().await? {
            copied = Some(answer);
        }
        Ok(copied)
    };
    let answered: Result<_, Status> = answered.await;
    // Where not all could be read, that is why nothing more was sent; it is said before.
    let packed = done.try_recv().ok();
    let copied = match (answered, packed) {
        (Ok(copied), Some(Ok(digest))) => copied.filter(|copied| copied.copied.as_ref() == Some(&digest)),
        (Err(status), Some(Err(error))) if !is_told(&status) => return Err(error),
        (Err(status), _) => return Err(refused(status)),
        (Ok(_), Some(Err(error))) => return Err(error),
        (Ok(_), None) => None,
    };
    copied.ok_or_else(|| CliError::Failed("the node does not say that all was copied".to_owned()))
}

/// Whether the other side had a reason of its own to take no more.
fn is_told(status: &Status) -> bool {
    word_of(status).is_none_or(|word| word != "TRUNCATED")
}

/// The agent's own word, which is beside the relay's.
fn word_of(status: &Status) -> Option<String> {
    status.get_details_error_info()?.metadata.remove("agent_reason")
}
