//! What gateways send: sessions of nodes, and their frames. One stream is one gateway's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::ingest_service_server::IngestService;
use skerry_rpc::{is_too_large, status_of};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::convert::now;
use crate::fleet::Cell;
use crate::marks::{Marks, MarksFile};
use crate::meters;
use crate::service::Answers;
use crate::{INGEST_BYTES_MAX, Shared};

/// Sessions of one gateway: more than it holds.
const HANDLES_MAX: usize = 20_000;
/// Feedback that waits for a gateway to take it.
const FEEDBACK_MAX: usize = 1024;
/// Feedback in one message.
const FEEDBACK_AT_ONCE: usize = 256;
/// How long the last word may take to go out.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How long events wait to be written together.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// After so many of these periods all is written, so that the last times are known about as well after a kill.
const SAVE_ALL_EVERY: u32 = 60;

/// See the module.
pub(crate) struct Ingest {
    shared: Arc<Shared>,
    sessions: AtomicU64,
}

impl Ingest {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, sessions: AtomicU64::new(0) }
    }
}

/// The sessions of one stream. Dropped, they are closed.
struct Stream {
    shared: Arc<Shared>,
    handles: HashMap<u32, (u64, Arc<Cell>)>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        for (id, cell) in self.handles.values() {
            cell.lock().close(*id);
        }
    }
}

impl Stream {
    fn open(
        &mut self,
        session: &pb::IngestSession,
        id: u64,
        to: &mpsc::Sender<pb::IngestFeedback>,
    ) -> Result<(), Fault> {
        if self.handles.contains_key(&session.handle) {
            return Err(Fault::invalid_field("sessions.handle", "it names another session already"));
        }
        if self.handles.len() >= HANDLES_MAX {
            let message = format!("more than {HANDLES_MAX} sessions are on one stream");
            return Err(Fault::new(Code::ResourceExhausted, "TOO_MANY_SESSIONS", message));
        }
        NodeRef::parse(&session.node).map_err(|error| Fault::invalid_field("sessions.node", error))?;
        // One that is passed over keeps its handle, so that its frames are too.
        if let Some(cell) = self.shared.fleet.open(session, id, to) {
            self.handles.insert(session.handle, (id, cell));
        }
        Ok(())
    }

    fn close(&mut self, handle: u32) {
        if let Some((id, cell)) = self.handles.remove(&handle) {
            cell.lock().close(id);
        }
    }

    fn take(&mut self, frames: Vec<pb::IngestFrame>) {
        if frames.is_empty() {
            return;
        }
        let (now, mut notes) = (now(), Vec::new());
        // Looked for first: who is told that there is none notes from when on history lacks something.
        let room = self.shared.recorder.room();
        let (all, mut taken) = (frames.len() as u64, 0);
        for pb::IngestFrame { handle, frame } in frames {
            let Some((id, cell)) = self.handles.get(&handle) else { continue };
            // What is no frame is passed over: the next one shows that one is missing.
            let Ok(frame) = pb::Frame::decode(frame) else { continue };
            let mut node = cell.lock();
            let before = node.frames;
            if room.is_some() {
                node.take(*id, &frame, now, &mut notes);
            } else {
                node.take_without_room(*id, &frame, now);
            }
            taken += node.frames - before;
        }
        meters::frames(taken, all - taken);
        if let Some(room) = room {
            room.note(notes);
        }
    }
}

#[tonic::async_trait]
impl IngestService for Ingest {
    type IngestStream = Answers<pb::IngestResponse>;

    async fn ingest(
        &self,
        request: Request<Streaming<pb::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let mut requests = request.into_inner();
        let (said, mut saying) = mpsc::channel(FEEDBACK_MAX);
        let (answers, answered) = mpsc::channel(1);
        let mut stream = Stream { shared: Arc::clone(&self.shared), handles: HashMap::new() };
        // Numbers of their own for each stream.
        let first = self.sessions.fetch_add(1 << 32, Ordering::Relaxed);
        let shutdown = self.shared.shutdown.clone();
        self.shared.shutdown.spawn(async move {
            let mut next = first;
            loop {
                let mut feedback = Vec::new();
                let ended = tokio::select! {
                    () = shutdown.wait() => Some(Status::unavailable("this gpu service stops")),
                    _ = saying.recv_many(&mut feedback, FEEDBACK_AT_ONCE) => {
                        let response = pb::IngestResponse { feedback };
                        // A gateway that takes nothing is not heard either; the end is not held up by it.
                        let sent = tokio::select! {
                            () = shutdown.wait() => return,
                            sent = answers.send(Ok(response)) => sent,
                        };
                        if sent.is_err() {
                            return;
                        }
                        None
                    }
                    request = requests.message() => match request {
                        Ok(Some(request)) => {
                            let mut fault = None;
                            for session in &request.sessions {
                                if session.closed {
                                    stream.close(session.handle);
                                    continue;
                                }
                                next += 1;
                                fault = fault.or(stream.open(session, next, &said).err());
                            }
                            stream.take(request.frames);
                            fault.map(|fault| status_of(&fault))
                        }
                        Ok(None) => return,
                        Err(status) => Some(refused(&status)),
                    },
                };
                if let Some(status) = ended {
                    let _ = tokio::time::timeout(LAST_WORD, answers.send(Err(status))).await;
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }
}

/// What a gateway is told whose message was not taken.
fn refused(status: &Status) -> Status {
    if is_too_large(status) {
        let message = format!("the message is larger than the {INGEST_BYTES_MAX} bytes that are taken");
        let fault = Fault::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message);
        return status_of(&fault.with("bytes_max", INGEST_BYTES_MAX));
    }
    let message = format!("the message is no IngestRequest, or did not come whole: {}", status.message());
    status_of(&Fault::new(Code::InvalidArgument, "INVALID_MESSAGE", message))
}

/// Writes down what is to be kept beside history, and looks who is silent; until the service ends, and then once more.
pub(crate) async fn keep(shared: Arc<Shared>, mut file: MarksFile) {
    let mut failed = false;
    let mut passes = 0_u32;
    // What history lacks, as far as it was logged.
    let mut lacks = (0, 0);
    loop {
        let stopping = tokio::select! {
            () = shared.shutdown.wait() => true,
            () = tokio::time::sleep(SAVE_EVERY) => false,
        };
        passes += 1;
        let is_due = stopping || passes.is_multiple_of(SAVE_ALL_EVERY);
        if is_due {
            let now = (shared.recorder.batches_left_out(), shared.recorder.samples_refused());
            let (left_out, refused) = (now.0 - lacks.0, now.1 - lacks.1);
            if left_out > 0 || refused > 0 {
                tracing::warn!(
                    batches = left_out,
                    samples = refused,
                    "history has gaps: there was no room, or a clock was set back"
                );
            }
            lacks = now;
        }
        if let Err(error) = pass(&shared, &mut file, is_due).await {
            if !std::mem::replace(&mut failed, true) {
                tracing::error!(%error, "events of GPUs cannot be written; they are not acknowledged until they can");
            }
        } else if std::mem::take(&mut failed) {
            tracing::info!("events of GPUs can be written again");
        }
        if stopping {
            shared.recorder.end().await;
            return;
        }
    }
}

/// Looks at each node: who is silent, and what of it is to be written. Agents are told which events are on disk.
async fn pass(shared: &Shared, file: &mut MarksFile, all: bool) -> std::io::Result<()> {
    let all = all || !file.can_grow();
    let (mut notes, mut kept) = (Vec::new(), Vec::new());
    for cell in shared.fleet.all() {
        let mut node = cell.lock();
        node.look_for_silence(now(), &mut notes);
        if node.unsaved() || all {
            let marks = node.kept();
            drop(node);
            kept.push((cell, marks));
        }
    }
    // Where there is no room history has the silence all the same: nothing holds for ever there.
    if !notes.is_empty()
        && let Some(room) = shared.recorder.room()
    {
        room.note(notes);
    }
    if kept.is_empty() && !all {
        return Ok(());
    }
    let (cells, marks): (Vec<Arc<Cell>>, Vec<Marks>) = kept.into_iter().unzip();
    let mut writing = file.clone();
    let written = tokio::task::spawn_blocking(move || {
        let result = if all { writing.write(&marks) } else { writing.add(&marks) };
        (writing, marks, result)
    });
    let result = match written.await {
        Ok((writing, marks, result)) => {
            *file = writing;
            if result.is_ok() {
                cells.iter().zip(&marks).for_each(|(cell, marks)| cell.lock().saved(marks));
            }
            result
        }
        Err(panic) => Err(std::io::Error::other(panic)),
    };
    if result.is_err() {
        for cell in &cells {
            cell.lock().not_saved();
        }
    }
    result
}

#[cfg(test)]
mod tests;
