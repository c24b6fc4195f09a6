//! One stream: an actor that owns a session machine, carries out what it says, and tells it what happens.
//!
//! It never waits for one thing only: what the store is asked and what goes out are under way beside what comes in.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use skerry_model::{Code, Fault, NodeRef, feature};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::registry::v1::RenewNodeRequest;
use skerry_proto::store::v1 as stored;
use skerry_rpc::{Peer, status_of, trace};
use skerry_sync::{
    Ending, GatewaySession, OfferRefusal, OpenFailure, SessionConfig, SessionEffect, SessionEvent, Version,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::Shared;
use crate::clock::{jitter, random};
use crate::close::Closed;
use crate::commit::{Look, Outcome, Over, Seen, Suspicion, commit, look};
use crate::live::{Alive, Live};
use crate::open::{Session, open};
use crate::samples::Sampled;

/// A frame to the agent, or how the stream ends. Boxed: a channel holds 32 of them in one piece, whatever its bound.
pub(crate) type Egress = Box<Result<pb::SyncResponse, Status>>;

/// Frames that gRPC has not taken yet. More would only hide from the actor that the agent does not read.
pub(crate) const EGRESS_MAX: usize = 2;
/// Frames that wait for that. An Update has at most some hundred parts, and the machine bounds what an agent is answered; who lets more
/// wait does not read.
const BACKLOG_MAX: usize = 1024;
/// How long the last words may take to go out.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Longest wait before the store is looked at again after it did not answer.
const LOOK_RETRY_MAX: Duration = Duration::from_secs(2);
/// Shortest span over which the agents of a stopping gateway come back.
const DRAIN_SPREAD_MIN: Duration = Duration::from_millis(500);
/// The span over which agents come back after the store's term was raised: all gateways send theirs off at once.
const TERM_SPREAD: Duration = Duration::from_secs(3);

/// Why the agents of a stopping gateway are sent off.
pub(crate) const STOPS: &str = "this gateway stops";
/// Why agents are sent off after the store's term was raised.
const TERM_RAISED: &str = "the store was restored: the session is opened anew";

/// Why an agent is sent off whose certificate has ended meanwhile.
const CERTIFICATE_ENDED: &str =
    "the certificate of this connection has expired: come back with the present one";

type Doing = Pin<Box<dyn Future<Output = Done> + Send>>;

/// Something that was asked of the store.
#[allow(clippy::large_enum_variant, reason = "made and taken apart at once")]
enum Done {
    Opened(Result<Box<Session>, OpenFailure>),
    Event(SessionEvent),
    Committed { token: u64, outcome: Outcome },
    Looked(Look),
}

/// An open session.
struct Current {
    node: NodeRef,
    epoch: Version,
    record: stored::SessionRecord,
    /// Of the newest assignment that the machine was told.
    assignment: Option<Version>,
    /// The node's uid.
    node_uid: String,
    /// The node's record was looked at as it was at this revision.
    node_revision: i64,
    /// When the certificate of the connection ends: then it is good for no more than a renewal.
    ends_at: Option<Instant>,
    /// Whether the store is being looked at.
    looking: bool,
    /// Whether something woke us meanwhile.
    again: bool,
    /// When it is to be looked at again although nothing woke us.
    look_at: Option<Instant>,
}

/// See the module.
pub(crate) struct Actor {
    shared: Arc<Shared>,
    peer: Peer,
    machine: GatewaySession,
    inbound: Option<Box<Streaming<pb::SyncRequest>>>,
    outbound: mpsc::Sender<Egress>,
    backlog: VecDeque<pb::SyncResponse>,
    doing: FuturesUnordered<Doing>,
    alive: Alive,
    node: Option<NodeRef>,
    current: Option<Box<Current>>,
    ending: Option<Ending>,
    /// Relays that wait for the agent's answer, by channel. Those of a session that ends are dropped with it.
    offered: BTreeMap<String, oneshot::Sender<Result<(), OfferRefusal>>>,
    /// Whether it was told that the agent speaks of what is not its node's.
    told_corrected: bool,
    /// Where its samples go. Absent: it has not sent any.
    samples: Option<Sampled>,
    /// Whether it knows of samples at all, and whether it was told that they are wanted.
    samples_wanted: Option<bool>,
    /// Fires when the agent's half of the stream ends: what it said before may be old, and must not supersede anybody.
    gone: CancellationToken,
}

impl Actor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        peer: Peer,
        inbound: Streaming<pb::SyncRequest>,
        outbound: mpsc::Sender<Egress>,
    ) -> Self {
        let config = SessionConfig {
            gateway: Arc::clone(&shared.id),
            heartbeat_interval: shared.config.heartbeat_interval,
            seed: random(),
        };
        Self {
            machine: GatewaySession::new(config, shared.clock.now()),
            alive: Live::enter(&shared),
            shared,
            peer,
            inbound: Some(Box::new(inbound)),
            outbound,
            backlog: VecDeque::new(),
            doing: FuturesUnordered::new(),
            node: None,
            current: None,
            ending: None,
            offered: BTreeMap::new(),
            told_corrected: false,
            samples: None,
            samples_wanted: None,
            gone: CancellationToken::new(),
        }
    }

    /// Runs until the machine ends.
    pub(crate) async fn run(mut self) {
        let shutdown = self.shared.shutdown.token();
        let wake = Arc::clone(&self.alive.wake);
        let outbound = self.outbound.clone();
        let mut draining = false;
        while self.ending.is_none() {
            let deadline = self.machine.deadline().map(|at| self.shared.clock.instant(at));
            let look_at = self.current.as_ref().and_then(|current| current.look_at);
            let ends_at = self.current.as_ref().and_then(|current| current.ends_at);
            // What came in goes before the verdict that nothing did.
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !draining => {
                    draining = true;
                    let spread = self.drain_spread();
                    self.feed(SessionEvent::Drain { why: STOPS, retry_after: jitter(spread) }).await;
                }
                permit = outbound.reserve(), if !self.backlog.is_empty() => {
                    let frame = self.backlog.pop_front();
                    match (permit, frame) {
                        (Ok(permit), Some(frame)) => permit.send(Box::new(Ok(frame))),
                        // The agent no longer reads.
                        (Err(_), _) => {
                            self.backlog.clear();
                            self.inbound = None;
                            self.gone.cancel();
                            self.feed(SessionEvent::StreamClosed).await;
                        }
                        (Ok(_), None) => {}
                    }
                }
                Some(done) = self.doing.next() => self.done(done).await,
                () = wake.notify.notified() => {
                    self.take_offers().await;
                    self.tell_of_samples();
                    self.suspect().await;
                }
                frame = next(&mut self.inbound) => self.received(frame).await,
                () = until(look_at) => self.suspect().await,
                () = until(ends_at) => {
                    // Once: a commit that is under way is waited for.
                    if let Some(current) = &mut self.current {
                        current.ends_at = None;
                    }
                    self.feed(SessionEvent::Drain { why: CERTIFICATE_ENDED, retry_after: Duration::ZERO }).await;
                }
                () = until(deadline) => self.feed(SessionEvent::Timer).await,
            }
        }
        self.finish().await;
    }

    fn drain_spread(&self) -> Duration {
        let rate = self.shared.config.sessions_per_second.max(1);
        let sessions = u32::try_from(self.shared.live.len()).unwrap_or(u32::MAX);
        (Duration::from_secs(1) * sessions / rate).max(DRAIN_SPREAD_MIN)
    }

    async fn received(&mut self, frame: Result<Option<pb::SyncRequest>, Status>) {
        match frame {
            Ok(Some(frame)) => self.feed(SessionEvent::Frame(frame)).await,
            Ok(None) => {
                self.inbound = None;
                self.gone.cancel();
                self.feed(SessionEvent::StreamClosed).await;
            }
            Err(status) => {
                tracing::debug!(node = self.node.as_ref().map(tracing::field::display), %status, "a stream broke");
                self.inbound = None;
                self.gone.cancel();
                self.feed(SessionEvent::StreamClosed).await;
            }
        }
    }

    /// Tells the machine, and carries out what it says.
    async fn feed(&mut self, event: SessionEvent) {
        for effect in self.machine.on(event, self.shared.clock.now()) {
            match effect {
                SessionEffect::Open(hello) => self.begin_open(*hello),
                SessionEffect::Send(frame) => self.backlog.push_back(self.traced(frame)),
                SessionEffect::Load { token, names } => self.begin_load(token, names),
                SessionEffect::Commit { token, change } => self.begin_commit(token, change),
                SessionEffect::Renew(request) => self.begin_renew(*request),
                SessionEffect::OfferAnswered { channel, answer } => {
                    if let Some(relay) = self.offered.remove(&channel) {
                        // A relay that no longer waits has given the channel up.
                        let _ = relay.send(answer);
                    }
                }
                SessionEffect::GpuFrame(frame) => self.take_samples(frame),
                SessionEffect::Close => self.close().await,
                SessionEffect::End(ending) => self.ending = Some(ending),
            }
        }
        if self.backlog.len() > BACKLOG_MAX && self.ending.is_none() {
            self.backlog.clear();
            self.close().await;
            self.ending = Some(Ending::NotReading);
        }
        if self.machine.corrected() > 0 && !std::mem::replace(&mut self.told_corrected, true) {
            self.warn(
                "it is not, and never was, assigned to it",
                "the agent speaks of what is not its node's",
            );
        }
    }

    /// Takes what relays offer to the agent.
    async fn take_offers(&mut self) {
        for offer in self.alive.wake.take_offers() {
            let channel = offer.what.channel.clone();
            // Two of one name are a relay's mistake: the first is waited for.
            if let std::collections::btree_map::Entry::Vacant(vacant) = self.offered.entry(channel) {
                vacant.insert(offer.answer);
                self.feed(SessionEvent::Offered { epoch: offer.epoch, offer: offer.what }).await;
            }
        }
    }

    /// Passes samples on, once the session is open.
    fn take_samples(&mut self, frame: Bytes) {
        let Some(current) = &self.current else { return };
        let (node, uid, epoch) = (&current.node, &current.node_uid, current.epoch);
        let sampled = self.samples.get_or_insert_with(|| Sampled::new(node, uid, epoch, &self.alive.wake));
        sampled.pass(&self.shared.samples, frame);
    }

    /// Tells the agent whether its samples are wanted, where that changed, and what the gpu service says of them.
    fn tell_of_samples(&mut self) {
        let said = self.alive.wake.take_gpu_feedback();
        let (Some(told), Some(_)) = (&mut self.samples_wanted, &self.current) else { return };
        let wanted = self.shared.samples.wanted();
        let news = std::mem::replace(told, wanted) != wanted;
        let news = (news && said.is_empty()).then(Bytes::new);
        for feedback in said.into_iter().chain(news) {
            let body = pb::sync_response::Body::GpuFeedback(pb::GpuFeedback { wanted, feedback });
            self.backlog.push_back(pb::SyncResponse { body: Some(body), ..pb::SyncResponse::default() });
        }
    }

    /// Puts this gateway into the trace that a frame is part of.
    fn traced(&self, mut frame: pb::SyncResponse) -> pb::SyncResponse {
        if !frame.trace_parent.is_empty() {
            let node = self.node.as_ref().map(tracing::field::display);
            let span = tracing::info_span!("send update", node, trace_id = tracing::field::Empty);
            trace::follow(&span, &frame.trace_parent);
            let context = trace::trace_parent(&span);
            // Without an exporter here the trace is passed on as it came.
            if !context.is_empty() {
                frame.trace_parent = context;
            }
        }
        frame
    }

    fn begin_open(&mut self, hello: pb::Hello) {
        let node = match NodeRef::parse(&hello.node) {
            Ok(node) => node,
            // The machine has parsed it before; were it otherwise, the agent would be denied.
            Err(error) => {
                let denied = Err(OpenFailure::Denied(error.to_string()));
                self.doing.push(Box::pin(std::future::ready(Done::Opened(denied))));
                return;
            }
        };
        // Before the store is read: what changes after that wakes us.
        self.alive.follow(&node);
        self.node = Some(node.clone());
        self.samples_wanted = hello.features.iter().any(|one| one == feature::GPU).then_some(false);
        let (shared, peer, gone) = (Arc::clone(&self.shared), self.peer.clone(), self.gone.clone());
        self.doing.push(Box::pin(async move {
            Done::Opened(open(&shared, &peer, &node, &hello, &gone).await.map(Box::new))
        }));
    }

    fn begin_load(&mut self, token: u64, names: Vec<String>) {
        let Some(current) = &self.current else { return };
        let (shared, node) = (Arc::clone(&self.shared), current.node.clone());
        self.doing.push(Box::pin(async move {
            Done::Event(match shared.contents.load(&node, names).await {
                Ok(found) => {
                    SessionEvent::Loaded { token, resources: found.resources, missing: found.missing }
                }
                Err(error) => SessionEvent::LoadFailed { token, why: error.to_string() },
            })
        }));
    }

    fn begin_commit(&mut self, token: u64, change: Arc<skerry_sync::Change>) {
        let Some(current) = &self.current else { return };
        let (shared, node, epoch) = (Arc::clone(&self.shared), current.node.clone(), current.epoch);
        let record = current.record.clone();
        self.doing.push(Box::pin(async move {
            Done::Committed { token, outcome: commit(&shared, &node, epoch, &record, &change).await }
        }));
    }

    /// Asks the registry for a certificate, in the name of the key that the connection proved.
    fn begin_renew(&mut self, request: pb::RenewalRequest) {
        let Some(current) = &self.current else { return };
        let (node, node_uid) = (current.node.clone(), current.node_uid.clone());
        let (certificate, issuing) = (self.peer.certificate.clone(), self.shared.config.issuing.clone());
        self.doing.push(Box::pin(async move {
            let refused = |why: &str| Done::Event(SessionEvent::Renewed(Err(why.to_owned())));
            let Some(certificate) = certificate else {
                return refused("this connection is without TLS: there is nothing to renew");
            };
            let Some(issuing) = issuing else {
                return refused("this gateway knows no registry: give it --registry URL (SKERRY_REGISTRY)");
            };
            let asked = RenewNodeRequest {
                node: node.to_string(),
                node_uid,
                key_id: bytes::Bytes::copy_from_slice(certificate.key_id.as_bytes()),
                certificate_request: request.certificate_request,
                sealing_key: request.sealing_key,
            };
            let renewed = issuing.renew(asked).await;
            match &renewed {
                Ok(_) => tracing::info!(%node, "the certificate was renewed"),
                Err(fault) => tracing::warn!(%node, why = %fault, "the certificate was not renewed"),
            }
            Done::Event(SessionEvent::Renewed(renewed.map_err(|fault| fault.message)))
        }));
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Opened(Ok(session)) => self.opened(*session).await,
            Done::Opened(Err(failure)) => {
                tracing::info!(
                    node = self.node.as_ref().map(tracing::field::display),
                    ?failure,
                    "no session"
                );
                self.feed(SessionEvent::OpenFailed(failure)).await;
            }
            Done::Event(event) => {
                if let SessionEvent::LoadFailed { why, .. } = &event {
                    self.warn(why, "contents could not be read");
                }
                self.feed(event).await;
            }
            Done::Committed { token, outcome } => match outcome {
                Outcome::Committed(digest) => self.feed(SessionEvent::Committed { token, digest }).await,
                Outcome::Failed(why) => {
                    self.warn(&why, "what the agent said could not be stored; it is tried again");
                    self.feed(SessionEvent::CommitFailed { token, why }).await;
                }
                Outcome::Over(over) => self.over(over).await,
            },
            Done::Looked(found) => self.looked(found).await,
        }
    }

    async fn opened(&mut self, session: Session) {
        let Some(node) = self.node.clone() else { return };
        let epoch = session.opened.epoch;
        self.current = Some(Box::new(Current {
            node,
            epoch,
            record: session.record,
            assignment: session.opened.assignment.as_ref().map(|assignment| assignment.version),
            node_uid: session.opened.node_uid.clone(),
            node_revision: session.node_revision,
            ends_at: self.ends_at(session.opened.renew_only),
            looking: false,
            again: false,
            look_at: None,
        }));
        tracing::info!(node = self.node.as_ref().map(tracing::field::display), %epoch, "session");
        self.feed(SessionEvent::Opened(Box::new(session.opened))).await;
        self.tell_of_samples();
        // What changed while the session was opening woke us in vain.
        self.suspect().await;
    }

    /// When the certificate ends by which the agent came; of one that is out of time already that says nothing more.
    fn ends_at(&self, renew_only: bool) -> Option<Instant> {
        let certificate = self.peer.certificate.as_ref().filter(|_| !renew_only)?;
        let left = certificate.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        Instant::now().checked_add(left + Duration::from_secs(1))
    }

    /// Compares the mirrored keys with what the session knows, and reads what may have changed.
    async fn suspect(&mut self) {
        let term = self.shared.store.term();
        let Some(current) = &mut self.current else { return };
        current.look_at = None;
        if term > current.epoch.term {
            // The store is another one than the session was opened in: what fences it is worth nothing there.
            self.feed(SessionEvent::Drain { why: TERM_RAISED, retry_after: jitter(TERM_SPREAD) }).await;
            return;
        }
        if self.peer.certificate.is_some()
            && let Some(roots) = self.shared.trusted.roots(&self.shared.mirror)
        {
            self.feed(SessionEvent::RootsChanged(roots)).await;
        }
        let Some(current) = &mut self.current else { return };
        if current.looking {
            current.again = true;
            return;
        }
        let Current { epoch, assignment, node_revision, .. } = **current;
        let seen = Seen { epoch, assignment, node_revision };
        let suspicion = Suspicion::of(&self.shared, &current.node, seen);
        if suspicion.is_empty() {
            return;
        }
        current.looking = true;
        let (shared, node, epoch) = (Arc::clone(&self.shared), current.node.clone(), current.epoch);
        let (record, certificate) = (current.record.clone(), self.peer.certificate.clone());
        self.doing.push(Box::pin(async move {
            Done::Looked(look(&shared, &node, (epoch, &record), certificate.as_deref(), suspicion).await)
        }));
    }

    async fn looked(&mut self, found: Look) {
        let Some(current) = &mut self.current else { return };
        current.looking = false;
        if std::mem::take(&mut current.again) {
            current.look_at = Some(Instant::now());
        }
        match found {
            Look::Ours { assignment, node_revision } => {
                current.node_revision = node_revision.unwrap_or(current.node_revision);
                if let Some(assignment) = assignment.filter(|new| Some(new.version) > current.assignment) {
                    current.assignment = Some(assignment.version);
                    self.feed(SessionEvent::AssignmentChanged(assignment)).await;
                }
            }
            Look::Over(over) => self.over(over).await,
            Look::Failed(why) => {
                current.look_at = Some(Instant::now() + LOOK_RETRY_MAX / 4 + jitter(LOOK_RETRY_MAX));
                self.warn(&why, "what changed could not be read");
            }
        }
    }

    async fn over(&mut self, over: Over) {
        let node = self.node.as_ref().map(tracing::field::display);
        match over {
            Over::Superseded { boot_id } => {
                tracing::info!(node, "superseded by a newer session");
                self.feed(SessionEvent::Superseded { boot_id }).await;
            }
            Over::Deleted => {
                tracing::info!(node, "the node was deleted");
                self.feed(SessionEvent::NodeDeleted).await;
            }
            Over::Revoked => {
                tracing::info!(node, "the node's key was struck out, or another took its place");
                self.feed(SessionEvent::Revoked).await;
            }
        }
    }

    /// Hands the session over to be closed in the store. When the gateway stops, the end of its lease closes all of them at once.
    async fn close(&mut self) {
        self.samples = None;
        let Some(current) = self.current.take().filter(|_| !self.shared.shutdown.is_ending()) else { return };
        let Current { node, epoch, record, .. } = *current;
        let closed = Closed { node, mod_revision: epoch.revision, record, close_time: SystemTime::now() };
        // Room comes as long as the closer runs, which is as long as the gateway does.
        tokio::select! {
            _ = self.shared.closing.send(closed) => {}
            () = self.shared.shutdown.wait() => {}
        }
    }

    /// Sends the last words and ends the stream.
    async fn finish(mut self) {
        let last = match self.ending.take() {
            None | Some(Ending::Finished) => None,
            Some(Ending::NoHello(why)) => Some(Status::failed_precondition(why)),
            Some(Ending::HelloTimeout) => Some(Status::deadline_exceeded("no hello came")),
            Some(Ending::Denied(why)) => {
                Some(status_of(&Fault::new(Code::PermissionDenied, "SESSION_DENIED", why)))
            }
            Some(Ending::Silent) => Some(Status::unavailable("nothing was heard of the agent for too long")),
            Some(Ending::NotReading) => {
                Some(Status::resource_exhausted("the agent does not take what it is sent"))
            }
        };
        let frames = self.backlog.drain(..).map(Ok).chain(last.map(Err));
        let words = async {
            for frame in frames {
                if self.outbound.send(Box::new(frame)).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_WORDS, words).await.is_err() {
            tracing::debug!("the agent did not take the last words");
        }
    }

    fn warn(&self, why: &str, what: &'static str) {
        tracing::warn!(node = self.node.as_ref().map(tracing::field::display), why, "{what}");
    }
}

/// The next frame; never, once the stream has ended.
async fn next(
    inbound: &mut Option<Box<Streaming<pb::SyncRequest>>>,
) -> Result<Option<pb::SyncRequest>, Status> {
    match inbound {
        Some(inbound) => inbound.message().await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
