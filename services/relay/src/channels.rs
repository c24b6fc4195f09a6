//! The channels that this relay owns: what each is about, the token by which its agent comes, and what moved on it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use skerry_model::{Code, Fault, NodeRef, ProjectName, time};
use skerry_proto::gateway::v1 as gateway;
use skerry_proto::relay::v1 as pb;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use crate::{Shared, meters};

/// Most channels of one relay. Each holds what HTTP/2 lets the agent send ahead, and a batch of lines: some 200 KiB where nobody reads.
const CHANNELS_MAX: usize = 4096;
/// How long an agent that has taken the offer may take to dial.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a token is good: the offer on its way, and the dial.
const TOKEN_LIFE: Duration = Duration::from_secs(20);

/// Frames from an agent, wherever it dialled.
pub(crate) type Frames = Pin<Box<dyn Stream<Item = Result<pb::OpenRequest, Status>> + Send>>;

/// Frames to an agent, or how its stream ends.
pub(crate) type ToAgent = mpsc::Sender<Result<pb::OpenResponse, Status>>;

/// What a channel is about.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) node: NodeRef,
    pub(crate) verb: &'static str,
    /// Full name of what it is to.
    pub(crate) resource: String,
    /// Who opened it, as the audit log names callers.
    pub(crate) caller: String,
    /// Full name of the grant that lets them in. Empty: a role.
    pub(crate) grant: String,
    /// Fires when somebody cuts it.
    pub(crate) cut: CancellationToken,
}

/// All of them, by id.
#[derive(Default)]
pub(crate) struct Channels {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

struct Slot {
    about: About,
    /// Hash of the token: comparing it tells nothing of the token by how long it takes.
    token: blake3::Hash,
    until: Instant,
    /// Taken by the dial: a token is good for one.
    waiting: Mutex<Option<oneshot::Sender<Dialled>>>,
    opened: (SystemTime, Instant),
    moved: Moved,
    /// Fires when the relay that the agent dialled says that it is gone.
    gone: CancellationToken,
}

/// What moved on a channel.
#[derive(Debug, Default)]
struct Moved {
    received: AtomicU64,
    sent: AtomicU64,
    /// Milliseconds from the opening to the last time.
    last: AtomicU64,
}

/// An agent that dialled.
pub(crate) struct Dialled {
    pub(crate) frames: Frames,
    pub(crate) out: ToAgent,
}

/// A channel that is open. It ends when this is dropped.
pub(crate) struct Open {
    frames: Frames,
    out: ToAgent,
    entry: Arc<Entry>,
}

/// The half of a channel that comes from the agent.
pub(crate) struct FromAgentHalf {
    frames: Frames,
    entry: Arc<Entry>,
}

/// The half that goes to the agent. Dropped without a [`pb::ChannelEnd`]: the agent takes it that who asked has gone.
pub(crate) struct ToAgentHalf {
    out: ToAgent,
    entry: Arc<Entry>,
}

/// A channel in the table, as long as it is held.
struct Entry {
    shared: Arc<Shared>,
    id: String,
    slot: Arc<Slot>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.channels.slots().remove(&self.id);
        let verb = self.slot.about.verb;
        meters::channel(verb, -1);
        meters::moved(verb, self.slot.moved.both());
    }
}

impl Channels {
    /// Channels that are open or being opened.
    pub(crate) fn len(&self) -> usize {
        self.slots().len()
    }

    /// The one who waits for the agent that says this hello. `peer`: the node that it has proved to be, where callers prove who they are.
    pub(crate) fn take(
        &self,
        hello: &pb::ChannelHello,
        peer: Option<&NodeRef>,
    ) -> Result<oneshot::Sender<Dialled>, Fault> {
        let denied = |why: &str| Fault::new(Code::PermissionDenied, "CHANNEL_DENIED", why);
        let slot = self.slots().get(&hello.channel).cloned();
        let slot = slot.ok_or_else(|| denied("there is no such channel, or no more"))?;
        let (node, said) = (&slot.about.node, &hello.node);
        if node.to_string() != *said || peer.is_some_and(|peer| peer != node) {
            return Err(denied("the channel was offered to another node"));
        }
        if slot.token != blake3::hash(&hello.token) {
            return Err(denied("the token is not that of the channel"));
        }
        if slot.until <= Instant::now() {
            return Err(denied("the token is too old"));
        }
        let waiting = lock(&slot.waiting).take();
        waiting.ok_or_else(|| denied("the channel was opened already"))
    }

    /// Those of a project.
    pub(crate) fn list(&self, project: &ProjectName, relay: &str) -> Vec<pb::Channel> {
        let now = Instant::now();
        let slots = self.slots();
        let ours = slots.iter().filter(|(_, slot)| slot.about.node.project == *project);
        ours.map(|(id, slot)| slot.told(id, relay, now)).collect()
    }

    /// Ends one of a project. `false`: it is not here.
    pub(crate) fn cut(&self, project: &ProjectName, id: &str) -> bool {
        self.slot(project, id).inspect(|slot| slot.about.cut.cancel()).is_some()
    }

    /// Another relay says that the agent of one is gone. `false`: it is not here.
    pub(crate) fn agent_gone(&self, project: &ProjectName, id: &str) -> bool {
        self.slot(project, id).inspect(|slot| slot.gone.cancel()).is_some()
    }

    /// One of a project.
    fn slot(&self, project: &ProjectName, id: &str) -> Option<Arc<Slot>> {
        self.slots().get(id).filter(|slot| slot.about.node.project == *project).cloned()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        lock(&self.slots)
    }
}

impl Moved {
    /// From the agent, and to it.
    fn both(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

impl Slot {
    fn told(&self, id: &str, relay: &str, now: Instant) -> pb::Channel {
        let Self { about, opened, moved, .. } = self;
        pb::Channel {
            name: format!("{}/channels/{id}", about.node.project.parent()),
            verb: about.verb.to_owned(),
            resource: about.resource.clone(),
            node: about.node.to_string(),
            caller: about.caller.clone(),
            open_time: Some(time::to_timestamp(opened.0)),
            received_bytes: moved.received.load(Ordering::Relaxed),
            sent_bytes: moved.sent.load(Ordering::Relaxed),
            idle: Some(time::to_proto_duration(now.saturating_duration_since(self.last_moved()))),
            relay: relay.to_owned(),
            grant: about.grant.clone(),
        }
    }

    fn last_moved(&self) -> Instant {
        self.opened.1 + Duration::from_millis(self.moved.last.load(Ordering::Relaxed))
    }

    fn moved(&self, by: &AtomicU64, bytes: usize) {
        by.fetch_add(bytes.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        let last = self.opened.1.elapsed().as_millis();
        self.moved.last.store(last.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Open {
    /// Opens a channel: offers it, waits until the agent dials, and says what is wanted. What was begun is given up when this is dropped.
    pub(crate) async fn to(
        shared: &Arc<Shared>,
        about: About,
        start: pb::channel_start::Verb,
    ) -> Result<Self, Fault> {
        let verb = about.verb;
        let opened = Self::begin(shared, about, start).await;
        meters::opened(verb, opened.is_ok());
        opened
    }

    async fn begin(
        shared: &Arc<Shared>,
        about: About,
        start: pb::channel_start::Verb,
    ) -> Result<Self, Fault> {
        let node = about.node.clone();
        let session = shared.reach.session(&node).await?;
        let (entry, offer, dialled) = Entry::make(shared, about)?;
        shared.reach.offer(&node, session, offer).await?;
        let Ok(Ok(dialled)) = tokio::time::timeout(DIAL_TIMEOUT, dialled).await else {
            let places = shared.reach.advertised().join(", ");
            let where_to = if places.is_empty() { "its gateway's address".to_owned() } else { places };
            return Err(Fault::unavailable(format!(
                "the agent of {node} took the offer of a channel and did not come: does it reach {where_to}?"
            )));
        };
        let body = pb::open_response::Body::Start(pb::ChannelStart { verb: Some(start) });
        let frame = pb::OpenResponse { body: Some(body) };
        entry.slot.moved(&entry.slot.moved.sent, prost_len(&frame));
        let gone = |_| Fault::unavailable(format!("the agent of {node} went as soon as it had come"));
        dialled.out.send(Ok(frame)).await.map_err(gone)?;
        Ok(Self { frames: dialled.frames, out: dialled.out, entry: Arc::new(entry) })
    }

    /// The next frame; nothing at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<pb::OpenRequest, Status>> {
        next(&mut self.frames, &self.entry).await
    }

    /// Waits until the agent's stream is gone, whatever of it is still to be read.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let (out, entry) = (self.out.clone(), Arc::clone(&self.entry));
        async move { closed(&out, &entry).await }
    }

    /// Its two halves. It ends when both are dropped.
    pub(crate) fn split(self) -> (FromAgentHalf, ToAgentHalf) {
        let Self { frames, out, entry } = self;
        (FromAgentHalf { frames, entry: Arc::clone(&entry) }, ToAgentHalf { out, entry })
    }
}

impl FromAgentHalf {
    /// The next frame; nothing at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<pb::OpenRequest, Status>> {
        next(&mut self.frames, &self.entry).await
    }

    /// Bytes that came from the agent, and that went to it.
    pub(crate) fn moved(&self) -> (u64, u64) {
        self.entry.slot.moved.both()
    }

    /// When something last moved, either way.
    pub(crate) fn last_moved(&self) -> Instant {
        self.entry.slot.last_moved()
    }
}

impl ToAgentHalf {
    /// Waits until the agent's stream is gone, whatever of it is still to be read.
    pub(crate) async fn closed(&self) {
        closed(&self.out, &self.entry).await;
    }

    /// Room for a frame, once there is some; nothing, where the agent is gone.
    pub(crate) async fn room(&self) -> Option<Room<'_>> {
        let room = self.out.reserve().await.ok()?;
        Some(Room { room, slot: &self.entry.slot })
    }
}

/// Room for one frame to an agent.
pub(crate) struct Room<'a> {
    room: mpsc::Permit<'a, Result<pb::OpenResponse, Status>>,
    slot: &'a Slot,
}

impl Room<'_> {
    /// Sends it.
    pub(crate) fn send(self, body: pb::open_response::Body) {
        let frame = pb::OpenResponse { body: Some(body) };
        self.slot.moved(&self.slot.moved.sent, prost_len(&frame));
        self.room.send(Ok(frame));
    }
}

async fn closed(out: &ToAgent, entry: &Entry) {
    tokio::select! {
        () = out.closed() => {}
        () = entry.slot.gone.cancelled() => {}
    }
}

async fn next(frames: &mut Frames, entry: &Entry) -> Option<Result<pb::OpenRequest, Status>> {
    let frame = frames.next().await?;
    if let Ok(frame) = &frame {
        entry.slot.moved(&entry.slot.moved.received, prost_len(frame));
    }
    Some(frame)
}

impl Entry {
    fn make(
        shared: &Arc<Shared>,
        about: About,
    ) -> Result<(Self, gateway::ChannelOffer, oneshot::Receiver<Dialled>), Fault> {
        let id = Uuid::new_v4().to_string();
        let token = Bytes::from([Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat());
        let (waiting, dialled) = oneshot::channel();
        let verb = about.verb;
        let slot = Arc::new(Slot {
            about,
            token: blake3::hash(&token),
            until: Instant::now() + TOKEN_LIFE,
            waiting: Mutex::new(Some(waiting)),
            opened: (SystemTime::now(), Instant::now()),
            moved: Moved::default(),
            gone: CancellationToken::new(),
        });
        let mut slots = shared.channels.slots();
        if slots.len() >= CHANNELS_MAX {
            let message =
                format!("this relay has its {CHANNELS_MAX} channels already: try again, or at another one");
            return Err(Fault::new(Code::ResourceExhausted, "TOO_MANY_CHANNELS", message));
        }
        slots.insert(id.clone(), Arc::clone(&slot));
        meters::channel(verb, 1);
        drop(slots);
        let offer = gateway::ChannelOffer {
            channel: id.clone(),
            token,
            verb: verb.to_owned(),
            relays: shared.reach.advertised(),
            owner: shared.id.to_string(),
            expire_time: Some(time::to_timestamp(SystemTime::now() + TOKEN_LIFE)),
        };
        Ok((Self { shared: Arc::clone(shared), id, slot }, offer, dialled))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prost_len(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels(until: Instant) -> (Channels, oneshot::Receiver<Dialled>, CancellationToken) {
        let (waiting, dialled) = oneshot::channel();
        let cut = CancellationToken::new();
        let slot = Slot {
            about: About {
                node: NodeRef::parse("projects/p/nodes/n").unwrap(),
                verb: "logs",
                resource: "projects/p/instances/a/s/n/0".to_owned(),
                caller: "ada".to_owned(),
                grant: "projects/p/grants/g".to_owned(),
                cut: cut.clone(),
            },
            token: blake3::hash(b"right"),
            until,
            waiting: Mutex::new(Some(waiting)),
            opened: (SystemTime::now(), Instant::now()),
            moved: Moved::default(),
            gone: CancellationToken::new(),
        };
        let channels = Channels::default();
        channels.slots().insert("c".to_owned(), Arc::new(slot));
        (channels, dialled, cut)
    }

    fn hello(channel: &str, token: &'static [u8], node: &str) -> pb::ChannelHello {
        pb::ChannelHello {
            channel: channel.to_owned(),
            token: Bytes::from_static(token),
            owner: String::new(),
            node: node.to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_opens_its_channel_once_for_its_node_and_for_a_while() {
        let (channels, _dialled, _) = channels(Instant::now() + TOKEN_LIFE);
        let (node, other) = ("projects/p/nodes/n", NodeRef::parse("projects/p/nodes/other").unwrap());
        let right = NodeRef::parse(node).unwrap();
        assert!(channels.take(&hello("d", b"right", node), None).is_err(), "no such channel");
        assert!(channels.take(&hello("c", b"wrong", node), None).is_err(), "another token");
        assert!(channels.take(&hello("c", b"right", "projects/q/nodes/n"), None).is_err(), "another node");
        assert!(channels.take(&hello("c", b"right", node), Some(&other)).is_err(), "a peer that lies");
        assert!(channels.take(&hello("c", b"right", node), Some(&right)).is_ok());
        let again = channels.take(&hello("c", b"right", node), Some(&right)).err().unwrap();
        assert!(again.message.contains("opened already"), "{again}");
        let (late, _dialled, _) = super::tests::channels(Instant::now());
        assert!(late.take(&hello("c", b"right", node), None).is_err(), "too late");
    }

    #[tokio::test]
    async fn channels_are_listed_and_cut_within_their_project() {
        let (channels, _dialled, cut) = channels(Instant::now() + TOKEN_LIFE);
        let (ours, theirs) = (ProjectName::parse("p").unwrap(), ProjectName::parse("q").unwrap());
        let told = channels.list(&ours, "r1");
        assert_eq!(told[0].name, "projects/p/channels/c");
        assert_eq!((told.len(), told[0].relay.as_str(), told[0].caller.as_str()), (1, "r1", "ada"));
        assert_eq!(told[0].grant, "projects/p/grants/g");
        assert!(channels.list(&theirs, "r1").is_empty());
        assert!(!channels.cut(&theirs, "c") && !channels.cut(&ours, "d") && !cut.is_cancelled());
        assert!(channels.cut(&ours, "c") && cut.is_cancelled());
    }
}
