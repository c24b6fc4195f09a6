//! One stream to one replica of the gpu service, and the task that keeps a stream to each replica that is alive.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use skerry_api::Replica;
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::ingest_service_client::IngestServiceClient;
use skerry_rpc::{MESSAGE_BYTES_MAX, status_of};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::Shared;
use crate::live::Wake;

/// Frames that wait for a replica: more than one second of all sessions that a gateway holds.
const WAITING_MAX: usize = 20_000;
/// Bytes of them.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Bytes of one message, if no single frame has more.
const BATCH_BYTES: usize = 256 * 1024;
/// How long frames are gathered for one message.
const GATHER: Duration = Duration::from_millis(20);
/// How often it is looked up which replicas there are.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long agents go on sending though nobody takes it: a service that is started again is there sooner.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(15);
/// Who gpu services are.
const NAMES: [&str; 2] = ["gpu", "skerry"];

/// A stream that is open. Another one to the same replica is another link.
#[derive(Debug)]
pub(crate) struct Link {
    replica: String,
    state: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    request: pb::IngestRequest,
    bytes: usize,
    /// Who hears of what the service says, by handle.
    sessions: HashMap<u32, Weak<Wake>>,
}

impl Link {
    fn new(replica: &str) -> Self {
        Self { replica: replica.to_owned(), state: Mutex::default(), news: Notify::new() }
    }

    /// The id of the replica.
    pub(super) fn replica(&self) -> &str {
        &self.replica
    }

    /// Tells of a session. `false`: there is no room.
    pub(super) fn open(&self, session: pb::IngestSession, wake: &Arc<Wake>) -> bool {
        let mut waiting = self.lock();
        if waiting.request.sessions.len() >= WAITING_MAX {
            return false;
        }
        waiting.sessions.insert(session.handle, Arc::downgrade(wake));
        waiting.request.sessions.push(session);
        self.news.notify_one();
        true
    }

    /// Tells that a session is over.
    pub(super) fn close(&self, handle: u32) {
        let mut waiting = self.lock();
        waiting.sessions.remove(&handle);
        let closed = pb::IngestSession { handle, closed: true, ..pb::IngestSession::default() };
        // One for each that was opened: they have a bound.
        waiting.request.sessions.push(closed);
        self.news.notify_one();
    }

    /// Puts a frame behind the others, or drops it where too many wait.
    pub(super) fn pass(&self, frame: pb::IngestFrame) {
        let mut waiting = self.lock();
        let bytes = waiting.bytes + frame.frame.len();
        if waiting.request.frames.len() >= WAITING_MAX || bytes > WAITING_BYTES_MAX {
            return;
        }
        waiting.bytes = bytes;
        waiting.request.frames.push(frame);
        self.news.notify_one();
    }

    /// What is to be sent next. Sessions come before frames; so one that closes has its last frames dropped, and one that opens none before.
    fn take(&self) -> Option<pb::IngestRequest> {
        let mut waiting = self.lock();
        let mut request = std::mem::take(&mut waiting.request);
        let (mut bytes, mut fit) = (0, 0);
        for frame in &request.frames {
            bytes += frame.frame.len();
            if fit > 0 && bytes > BATCH_BYTES {
                bytes -= frame.frame.len();
                break;
            }
            fit += 1;
        }
        waiting.bytes -= bytes;
        waiting.request.frames = request.frames.split_off(fit);
        (!request.sessions.is_empty() || !request.frames.is_empty()).then_some(request)
    }

    fn feedback(&self, feedback: pb::IngestFeedback) {
        let wake = self.lock().sessions.get(&feedback.handle).and_then(Weak::upgrade);
        if let Some(wake) = wake {
            wake.gpu_feedback(feedback.feedback);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a stream to each replica that is alive, until the gateway ends; and says whether agents are to send samples.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut running: BTreeMap<Replica, tokio::task::AbortHandle> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut seen: Option<Instant> = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.shutdown.wait() => return,
            _ = look.tick() => {}
            // One whose stream ended is tried again with the next look.
            Some(_) = tasks.join_next() => continue,
        }
        // What is known of them stays where the store does not answer.
        if let Ok(alive) = Replica::all(&shared.store, "gpu").await {
            running.retain(|replica, task| {
                let stays = alive.contains(replica);
                if !stays {
                    task.abort();
                }
                stays && !task.is_finished()
            });
            for replica in alive {
                running
                    .entry(replica)
                    .or_insert_with_key(|replica| tasks.spawn(stream(Arc::clone(&shared), replica.clone())));
            }
        }
        let is_open = !shared.samples.ring().open.is_empty();
        if is_open {
            seen = Some(Instant::now());
        }
        let wanted = is_open || seen.is_some_and(|seen| seen.elapsed() < GIVEN_UP_AFTER);
        if shared.samples.wanted.swap(wanted, Ordering::Relaxed) != wanted {
            shared.live.wake_all();
        }
    }
}

/// One stream, from its opening to its end.
async fn stream(shared: Arc<Shared>, replica: Replica) {
    match open(&shared, &replica).await {
        Ok((requests, responses, _held)) => {
            tracing::info!(gpu = replica.id, address = replica.address, "samples go to this gpu service");
            let link = Arc::new(Link::new(&replica.id));
            let _listed = Listed::new(&shared, &link);
            let ended = tokio::select! {
                () = send(&link, &requests) => None,
                status = receive(&link, responses) => status,
            };
            tracing::info!(gpu = replica.id, status = ended.map(tracing::field::display), "its stream ended");
        }
        Err(status) => tracing::debug!(gpu = replica.id, %status, "this gpu service cannot be reached"),
    }
}

type Opened = (mpsc::Sender<pb::IngestRequest>, Streaming<pb::IngestResponse>, skerry_api::Borrowed);

async fn open(shared: &Shared, replica: &Replica) -> Result<Opened, Status> {
    let links = &shared.samples.links;
    let connection = links.connect(&replica.address, &NAMES).await.map_err(|fault| status_of(&fault))?;
    let mut client = IngestServiceClient::new(connection.channel.clone())
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (requests, sent) = mpsc::channel(1);
    let answer = client.ingest(ReceiverStream::new(sent)).await;
    let answer = answer.inspect_err(|status| links.failed(&replica.address, status))?;
    Ok((requests, answer.into_inner(), connection))
}

/// Among the open ones for as long as it is held.
struct Listed<'a> {
    shared: &'a Shared,
    link: Arc<Link>,
}

impl<'a> Listed<'a> {
    fn new(shared: &'a Shared, link: &Arc<Link>) -> Self {
        let mut ring = shared.samples.ring();
        ring.version += 1;
        ring.open.push(Arc::clone(link));
        drop(ring);
        // At the first one agents are asked for samples at once.
        if !shared.samples.wanted.swap(true, Ordering::Relaxed) {
            shared.live.wake_all();
        }
        Self { shared, link: Arc::clone(link) }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut ring = self.shared.samples.ring();
        ring.version += 1;
        ring.open.retain(|link| !Arc::ptr_eq(link, &self.link));
    }
}

async fn send(link: &Link, requests: &mpsc::Sender<pb::IngestRequest>) {
    loop {
        // Room first: what waits longer is fuller.
        let Ok(room) = requests.reserve().await else { return };
        let request = loop {
            let news = link.news.notified();
            match link.take() {
                Some(request) => break request,
                None => news.await,
            }
        };
        let full = request.frames.iter().map(|frame| frame.frame.len()).sum::<usize>() >= BATCH_BYTES / 2;
        room.send(request);
        if !full {
            tokio::time::sleep(GATHER).await;
        }
    }
}

async fn receive(link: &Link, mut responses: Streaming<pb::IngestResponse>) -> Option<Status> {
    loop {
        match responses.message().await {
            Ok(Some(response)) => response.feedback.into_iter().for_each(|feedback| link.feedback(feedback)),
            Ok(None) => return None,
            Err(status) => return Some(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn frame(handle: u32, bytes: usize) -> pb::IngestFrame {
        pb::IngestFrame { handle, frame: Bytes::from(vec![0; bytes]) }
    }

    #[test]
    fn frames_go_in_their_order_in_messages_of_bounded_size_and_what_is_too_much_is_dropped() {
        let link = Link::new("one");
        for handle in 0..100 {
            link.pass(frame(handle, 100_000));
        }
        link.pass(frame(100, WAITING_BYTES_MAX));
        let mut next = 0;
        while let Some(request) = link.take() {
            let bytes: usize = request.frames.iter().map(|frame| frame.frame.len()).sum();
            assert!(bytes <= BATCH_BYTES || request.frames.len() == 1);
            for frame in request.frames {
                assert_eq!(frame.handle, next);
                next += 1;
            }
        }
        assert_eq!((next, link.lock().bytes), (100, 0));
        link.pass(frame(7, BATCH_BYTES * 3));
        assert_eq!(link.take().unwrap().frames.len(), 1, "a long one goes by itself");
    }

    #[test]
    fn a_session_is_told_before_its_frames_and_hears_what_is_said_of_it() {
        let (link, wake) = (Link::new("one"), Arc::new(Wake::default()));
        assert!(link.open(pb::IngestSession { handle: 7, ..Default::default() }, &wake));
        link.pass(frame(7, 10));
        let request = link.take().unwrap();
        assert_eq!((request.sessions.len(), request.frames.len()), (1, 1));
        link.feedback(pb::IngestFeedback { handle: 7, feedback: Bytes::from_static(b"x") });
        link.feedback(pb::IngestFeedback { handle: 8, feedback: Bytes::from_static(b"y") });
        assert_eq!(wake.take_gpu_feedback(), [Bytes::from_static(b"x")]);
        link.close(7);
        assert!(link.take().unwrap().sessions[0].closed && link.lock().sessions.is_empty());
    }
}
