//! The threads that pack and unpack. That which unpacks is waited for, however the command ends: what is not whole is taken away before.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use skerry_archive::{Bounds, Error, Move, Stage, pack};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::copy_to_request::Body;
use tokio::sync::{mpsc, oneshot};

use super::{Sum, failed};
use crate::error::CliError;

/// Bytes that are sent at once.
const PART_BYTES: usize = 64 * 1024;
/// Parts that wait for who takes them.
const PARTS_MAX: usize = 4;

/// Says what becomes of an archive that is all there.
type Decide = Box<dyn FnOnce(&Stage) -> Result<Vec<Move>, CliError> + Send>;

/// What is unpacked.
pub(super) struct Unpacking {
    parts: Option<mpsc::Sender<Part>>,
    done: Option<oneshot::Receiver<Result<(), CliError>>>,
    thread: Option<JoinHandle<()>>,
}

enum Part {
    Data(Bytes),
    /// It is right: it goes to its place.
    Whole(Decide),
}

impl Unpacking {
    /// Unpacks what goes into `dir`; see [`Stage::within`].
    pub(super) fn begin(dir: &Path, bounds: Bounds, under: &[u8]) -> Result<Self, CliError> {
        let stage = Stage::within(dir, bounds, under).map_err(|error| failed(&error))?;
        let (parts, mut coming) = mpsc::channel(PARTS_MAX);
        let (say, done) = oneshot::channel();
        let work = move || {
            let mut stage = stage;
            let done = loop {
                match coming.blocking_recv() {
                    Some(Part::Data(part)) => {
                        if let Err(error) = stage.feed(&part) {
                            break Err(failed(&error));
                        }
                    }
                    Some(Part::Whole(decide)) => {
                        break decide(&stage)
                            .and_then(|places| stage.place(&places).map_err(|error| failed(&error)));
                    }
                    None => {
                        drop(stage);
                        break Ok(());
                    }
                }
            };
            let _ = say.send(done);
        };
        let thread = spawn(work)?;
        Ok(Self { parts: Some(parts), done: Some(done), thread: Some(thread) })
    }

    /// Unpacks the next bytes. An error is the reason why nothing more is taken.
    pub(super) async fn feed(&mut self, part: Bytes) -> Result<(), CliError> {
        let Some(parts) = &self.parts else { return Ok(()) };
        match parts.send(Part::Data(part)).await {
            Ok(()) => Ok(()),
            Err(_) => self.ended().await,
        }
    }

    /// All has come, and it is what was sent: it goes to its place.
    pub(super) async fn place(mut self, decide: Decide) -> Result<(), CliError> {
        if let Some(parts) = self.parts.take() {
            let _ = parts.send(Part::Whole(decide)).await;
        }
        self.ended().await
    }

    async fn ended(&mut self) -> Result<(), CliError> {
        let lost = || CliError::Failed("unpacking ended by itself".to_owned());
        match self.done.take() {
            Some(done) => done.await.unwrap_or_else(|_| Err(lost())),
            None => Err(lost()),
        }
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        // It ends at the next part that does not come.
        self.parts = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where an archive comes from.
pub(super) enum Source {
    /// A path, and the name that it has in the archive; see [`pack`].
    Path(PathBuf, Option<Vec<u8>>),
    /// Standard input, as it is.
    Stdin,
}

/// What is packed: requests, and what becomes of it.
pub(super) struct Packing {
    pub(super) requests: mpsc::Receiver<pb::CopyToRequest>,
    /// What was packed; said before the last request is.
    pub(super) done: oneshot::Receiver<Result<pb::CopyDigest, CliError>>,
}

/// Packs into requests. The thread holds nothing that is not given back with the process: nobody waits for it.
pub(super) fn packing(start: pb::CopyStart, source: Source) -> Result<Packing, CliError> {
    let (out, requests) = mpsc::channel(PARTS_MAX);
    let (say, done) = oneshot::channel();
    let request = |body| pb::CopyToRequest { body: Some(body) };
    let _ = out.try_send(request(Body::Start(start)));
    spawn(move || {
        let mut pieces = Pieces { out: out.clone(), sum: Sum::default(), part: Vec::new() };
        let packed = match source {
            Source::Path(path, name) => pack(&path, name.as_deref(), &mut pieces).map(drop),
            Source::Stdin => pass(&mut pieces),
        };
        let digest = pieces.sum.digest();
        let is_whole = packed.is_ok();
        let _ = say.send(packed.map(|()| digest.clone()).map_err(|error| failed(&error)));
        if is_whole {
            let _ = out.blocking_send(request(Body::End(digest)));
        }
    })?;
    Ok(Packing { requests, done })
}

fn pass(pieces: &mut Pieces) -> Result<(), Error> {
    let (mut stdin, mut buffer) = (io::stdin().lock(), vec![0; PART_BYTES]);
    loop {
        let read = match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("reading standard input", error)),
        };
        pieces.write_all(&buffer[..read]).map_err(|error| Error::io("sending the archive", error))?;
    }
    pieces.flush().map_err(|error| Error::io("sending the archive", error))
}

/// Makes requests of what is written.
struct Pieces {
    out: mpsc::Sender<pb::CopyToRequest>,
    sum: Sum,
    part: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..take]);
        if self.part.len() == PART_BYTES {
            self.flush()?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART_BYTES));
        self.sum.add(&part);
        let request = pb::CopyToRequest { body: Some(Body::Data(part.into())) };
        self.out.blocking_send(request).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, CliError> {
    Builder::new()
        .name("cp".to_owned())
        .spawn(work)
        .map_err(|error| CliError::Failed(format!("starting a thread: {error}")))
}
