//! Out of an instance. What comes is not trusted: it is unpacked beside its place, and goes there when its checksum is right.

use std::fs;
use std::io::{ErrorKind, IsTerminal as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use skerry_archive::{Bounds, Move, Stage};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::copy_from_response::Body;
use tonic::Request;

use super::Sum;
use super::place::{Goes, Side, There, goes, is_content, name_of};
use super::progress::Progress;
use super::worker::Unpacking;
use crate::client::{Client, Service, relay};
use crate::error::CliError;
use crate::print::{Printer, note};

/// What all of an archive is below that has no name of its own.
const UNNAMED: &[u8] = b"content";

pub(super) async fn run(
    client: &Client,
    start: pb::CopyStart,
    to: Side,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let Side::Local(to) = to else {
        if std::io::stdout().is_terminal() {
            let message =
                "an archive would be written to the terminal: send it elsewhere, as with `| tar tf -`";
            return Err(CliError::Usage(message.to_owned()));
        }
        receive(client, start, async |part| printer.bytes(&part)).await?;
        return Ok(());
    };
    let place = Place::of(&to)?;
    let path = start.path.clone();
    // What has no name comes without a directory of its own.
    let under = if name_of(path.as_bytes()).is_none() { UNNAMED } else { b"" };
    let mut unpacking = Unpacking::begin(&place.dir, Bounds::Top, under)?;
    let instance = receive(client, start, async |part| unpacking.feed(part).await).await?;
    let content = is_content(path.as_bytes());
    let asked = name_of(path.as_bytes()).unwrap_or(UNNAMED).to_owned();
    unpacking.place(Box::new(move |stage| place.decide(stage, content, &asked))).await?;
    note(&format!("{instance}:{path} copied to {}", to.display()));
    Ok(())
}

/// Receives an archive, and answers of which instance it is. It is right when this is done.
async fn receive(
    client: &Client,
    start: pb::CopyStart,
    mut take: impl AsyncFnMut(bytes::Bytes) -> Result<(), CliError>,
) -> Result<String, CliError> {
    let called = client.call(Service::Relay, |channel, _| {
        let request = pb::CopyFromRequest { start: Some(start.clone()) };
        // Without a deadline: it lasts as long as it flows.
        async move { relay(channel).copy_from(Request::new(request)).await }
    });
    let mut answers = called.await?;
    let (mut sum, mut said, mut instance) = (Sum::default(), None, String::new());
    let mut progress = Progress::new();
    loop {
        let answer = answers.message().await;
        match answer.map_err(|status| CliError::of_status(&status, client.relay_address()))? {
            None => break,
            Some(pb::CopyFromResponse { body: Some(Body::Started(started)) }) => instance = started.instance,
            Some(pb::CopyFromResponse { body: Some(Body::Data(part)) }) => {
                sum.add(&part);
                progress.show(sum.bytes);
                take(part).await?;
            }
            Some(pb::CopyFromResponse { body: Some(Body::End(digest)) }) => said = Some(digest),
            Some(pb::CopyFromResponse { body: None }) => {}
        }
    }
    match said {
        Some(said) if said == sum.digest() => Ok(instance),
        Some(_) => Err(CliError::Failed("what came is not what was sent: nothing was copied".to_owned())),
        None => Err(CliError::Failed("not all of it came: nothing was copied".to_owned())),
    }
}

/// Where it goes to.
struct Place {
    /// As it was typed.
    typed: Vec<u8>,
    there: There,
    /// What it is unpacked in: itself, where it is a directory, else the directory that it is in.
    dir: PathBuf,
    /// Its name there.
    name: Vec<u8>,
}

impl Place {
    fn of(to: &Path) -> Result<Self, CliError> {
        let shown = to.display();
        let failed = |error: std::io::Error| CliError::Failed(format!("looking at `{shown}`: {error}"));
        let typed = to.as_os_str().as_bytes().to_vec();
        let (there, path) = match fs::metadata(to) {
            Ok(meta) if meta.is_dir() => {
                return Ok(Self { typed, there: There::Directory, dir: to.to_owned(), name: Vec::new() });
            }
            // What a link of the user's own leads to is meant, and not the link.
            Ok(meta) if meta.is_file() => (There::File, fs::canonicalize(to).map_err(failed)?),
            Ok(_) => return Err(CliError::Failed(format!("`{shown}` is neither a file nor a directory"))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if fs::symlink_metadata(to).is_ok() {
                    return Err(CliError::Failed(format!("`{shown}` is a link to nothing")));
                }
                (There::Nothing, to.to_owned())
            }
            Err(error) => return Err(failed(error)),
        };
        let name = path.file_name().map(|name| name.as_bytes().to_vec());
        let name = name.ok_or_else(|| CliError::Failed(format!("there is no `{shown}`")))?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        if !dir.is_dir() {
            let message = format!("there is no directory `{}`: make it first", dir.display());
            return Err(CliError::Failed(message));
        }
        Ok(Self { typed, there, dir, name })
    }

    /// What becomes of what came.
    fn decide(&self, stage: &Stage, content: bool, asked: &[u8]) -> Result<Vec<Move>, CliError> {
        let tops = stage.tops().map_err(|error| super::failed(&error))?;
        let [top] = &tops[..] else {
            let message = format!("{} things came where one was asked for: nothing was copied", tops.len());
            return Err(CliError::Failed(message));
        };
        let goes =
            goes(stage.is_directory(top), content, self.there, &self.typed).map_err(CliError::Failed)?;
        let name = match goes {
            // It has its name here: not one that the other side would rather have.
            Goes::Into if top.as_slice() != asked => {
                let (top, asked) = (String::from_utf8_lossy(top), String::from_utf8_lossy(asked));
                let message = format!("`{top}` came where `{asked}` was asked for: nothing was copied");
                return Err(CliError::Failed(message));
            }
            Goes::Into => top.clone(),
            Goes::ContentInto => Vec::new(),
            Goes::As => self.name.clone(),
        };
        Ok(vec![(top.clone(), name)])
    }
}

#[cfg(test)]
mod tests {
    use skerry_archive::{Entry, Kind, Writer};

    use super::*;

    /// An archive of one file of this name, unpacked for a directory.
    fn came(dir: &Path, name: &str) -> Stage {
        let mut writer = Writer::new(Vec::new());
        let entry =
            Entry { path: name.as_bytes().to_vec(), kind: Kind::File, mode: 0o600, mtime: 0, size: 1 };
        writer.entry(&entry).and_then(|()| writer.data(b"x")).and_then(|()| writer.end()).unwrap();
        let mut stage = Stage::within(dir, Bounds::Top, b"").unwrap();
        stage.feed(&writer.finish().unwrap()).unwrap();
        stage
    }

    #[test]
    fn what_comes_has_the_name_that_was_asked_for_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let into = Place::of(dir.path()).unwrap();
        let moves = into.decide(&came(dir.path(), "report.txt"), false, b"report.txt").unwrap();
        assert_eq!(moves, [(b"report.txt".to_vec(), b"report.txt".to_vec())]);
        let refused = into.decide(&came(dir.path(), ".bashrc"), false, b"report.txt").unwrap_err();
        assert!(refused.summary().contains("`.bashrc` came where `report.txt`"), "{}", refused.summary());
        // Where its name here was typed, that is what it gets.
        let named = Place::of(&dir.path().join("mine")).unwrap();
        let moves = named.decide(&came(dir.path(), ".bashrc"), false, b"report.txt").unwrap();
        assert_eq!(moves, [(b".bashrc".to_vec(), b"mine".to_vec())]);
    }
}
