//! One stream at a gateway: drives the real session machine, as the gateway's actor does.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use skerry_model::NodeRef;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_sync::{
    Change, Ending, GatewaySession, OpenFailure, SessionConfig, SessionEffect, SessionEvent, Version, limits,
};
use tokio::sync::Notify;

use super::Planted;
use super::gateway::{Closed, Gateway, Stream};
use super::sim::Process;
use super::upward::{Look, Outcome, Over, Session, commit, load, look, open, suspicion};

/// Longest wait before the store is looked at again after it did not answer.
const LOOK_RETRY_MS_MAX: u64 = 2_000;
/// The span over which agents come back after the store's term was raised.
const TERM_SPREAD_MS: u64 = 3_000;

type Doing = Pin<Box<dyn Future<Output = Done>>>;

enum Done {
    Opened(Result<Session, OpenFailure>),
    Event(SessionEvent),
    Committed { token: u64, outcome: Outcome },
    Looked(Look),
}

struct Current {
    node: NodeRef,
    epoch: Version,
    record: stored::SessionRecord,
    assignment: Option<Version>,
    looking: bool,
    /// Woken while the store was being looked at.
    again: bool,
    look_at: Option<Duration>,
}

/// See the module.
pub(super) struct Actor {
    gateway: Rc<Gateway>,
    process: Process,
    machine: GatewaySession,
    stream: Stream,
    closed: bool,
    doing: FuturesUnordered<Doing>,
    wake: Rc<Notify>,
    node: Option<NodeRef>,
    current: Option<Current>,
    ending: Option<Ending>,
}

impl Actor {
    pub(super) fn new(gateway: Rc<Gateway>, stream: Stream) -> Self {
        let process = gateway.process.clone();
        let config = SessionConfig {
            gateway: Arc::from(&*gateway.id),
            heartbeat_interval: limits::HEARTBEAT_INTERVAL,
            seed: process.seed(),
        };
        gateway.streams.set(gateway.streams.get() + 1);
        Self {
            machine: GatewaySession::new(config, process.now()),
            gateway,
            process,
            stream,
            closed: false,
            doing: FuturesUnordered::new(),
            wake: Rc::default(),
            node: None,
            current: None,
            ending: None,
        }
    }

    /// Runs until the machine ends.
    pub(super) async fn run(mut self) {
        let mut shutdown = self.gateway.ending.subscribe();
        let wake = Rc::clone(&self.wake);
        let process = self.process.clone();
        let mut draining = false;
        while self.ending.is_none() {
            let deadline = self.machine.deadline().map(skerry_sync::MonoTime::since_origin);
            let look_at = self.current.as_ref().and_then(|current| current.look_at);
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|ending| *ending), if !draining => {
                    draining = true;
                    let retry_after = process.sim.between_ms(0, 500);
                    self.feed(SessionEvent::Drain { why: "this gateway stops", retry_after }).await;
                }
                Some(done) = self.doing.next() => self.done(done).await,
                () = wake.notified() => self.suspect().await,
                frame = self.stream.inn.next(), if !self.closed => {
                    self.closed = frame.is_none();
                    self.feed(frame.map_or(SessionEvent::StreamClosed, SessionEvent::Frame)).await;
                }
                () = until(&process, look_at) => self.suspect().await,
                () = until(&process, deadline) => self.feed(SessionEvent::Timer).await,
            }
        }
        if let Some(node) = &self.node {
            process.trace(format_args!("a session of {node} ends: {:?}", self.ending));
            self.gateway.unfollow(node, &self.wake);
        }
        self.gateway.streams.set(self.gateway.streams.get() - 1);
    }

    /// Tells the machine, and carries out what it says, one by one.
    async fn feed(&mut self, event: SessionEvent) {
        for effect in self.machine.on(event, self.process.now()) {
            self.process.boundary().await;
            match effect {
                SessionEffect::Open(hello) => self.begin_open(*hello),
                SessionEffect::Send(frame) => self.stream.out.send(frame),
                SessionEffect::Load { token, names } => self.begin_load(token, names),
                SessionEffect::Commit { token, change } => self.begin_commit(token, change),
                // Nobody here has a certificate, or is a relay.
                SessionEffect::Renew(_)
                | SessionEffect::OfferAnswered { .. }
                | SessionEffect::GpuFrame(_) => {}
                SessionEffect::Close => self.close(),
                SessionEffect::End(ending) => self.ending = Some(ending),
            }
        }
    }

    fn begin_open(&mut self, hello: pb::Hello) {
        let Ok(node) = NodeRef::parse(&hello.node) else { return };
        self.gateway.follow(&node, &self.wake);
        self.node = Some(node.clone());
        let opening = open(Rc::clone(&self.gateway), node, hello);
        self.doing.push(Box::pin(async move { Done::Opened(opening.await) }));
    }

    fn begin_load(&mut self, token: u64, names: Vec<String>) {
        let Some(current) = &self.current else { return };
        let loading = load(Rc::clone(&self.gateway), current.node.clone(), names);
        self.doing.push(Box::pin(async move {
            Done::Event(match loading.await {
                Ok((resources, missing)) => SessionEvent::Loaded { token, resources, missing },
                Err(failure) => SessionEvent::LoadFailed { token, why: failure.to_string() },
            })
        }));
    }

    fn begin_commit(&mut self, token: u64, change: Arc<Change>) {
        let Some(current) = &self.current else { return };
        let (node, record) = (current.node.clone(), current.record.clone());
        let committing = commit(Rc::clone(&self.gateway), node, current.epoch, record, change);
        if self.process.sim.planted(Planted::AcknowledgedBeforeCommit) {
            self.process.spawn(async move {
                committing.await;
            });
            let digest = bytes::Bytes::from_static(b"planted");
            self.doing.push(Box::pin(std::future::ready(Done::Committed {
                token,
                outcome: Outcome::Committed(digest),
            })));
            return;
        }
        self.doing.push(Box::pin(async move { Done::Committed { token, outcome: committing.await } }));
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Opened(Ok(session)) => self.opened(session).await,
            Done::Opened(Err(failure)) => self.feed(SessionEvent::OpenFailed(failure)).await,
            Done::Event(event) => self.feed(event).await,
            Done::Committed { token, outcome } => match outcome {
                Outcome::Committed(digest) => self.feed(SessionEvent::Committed { token, digest }).await,
                Outcome::Failed(why) => self.feed(SessionEvent::CommitFailed { token, why }).await,
                Outcome::Over(over) => self.over(over).await,
            },
            Done::Looked(found) => self.looked(found).await,
        }
    }

    async fn opened(&mut self, session: Session) {
        let Some(node) = self.node.clone() else { return };
        let epoch = session.opened.epoch;
        self.process.trace(format_args!("session {epoch} of {node}, boot {}", session.record.boot_id));
        self.current = Some(Current {
            node,
            epoch,
            record: session.record,
            assignment: session.opened.assignment.as_ref().map(|assignment| assignment.version),
            looking: false,
            again: false,
            look_at: None,
        });
        self.feed(SessionEvent::Opened(Box::new(session.opened))).await;
        self.suspect().await;
    }

    /// Compares the mirrored keys with what the session knows, and reads what may have changed.
    async fn suspect(&mut self) {
        let term = self.gateway.client.term();
        let Some(current) = &mut self.current else { return };
        current.look_at = None;
        if term > current.epoch.term {
            let retry_after = self.process.sim.between_ms(0, TERM_SPREAD_MS);
            return self.feed(SessionEvent::Drain { why: "the store was restored", retry_after }).await;
        }
        if current.looking {
            current.again = true;
            return;
        }
        let suspected = suspicion(&self.gateway, &current.node, current.epoch, current.assignment);
        if suspected == (false, false) {
            return;
        }
        current.looking = true;
        let (node, record) = (current.node.clone(), current.record.clone());
        let looking = look(Rc::clone(&self.gateway), node, current.epoch, record, suspected);
        self.doing.push(Box::pin(async move { Done::Looked(looking.await) }));
    }

    async fn looked(&mut self, found: Look) {
        let Some(current) = &mut self.current else { return };
        current.looking = false;
        let again = std::mem::take(&mut current.again);
        match found {
            Look::Ours(Some(assignment)) if Some(assignment.version) > current.assignment => {
                current.assignment = Some(assignment.version);
                self.feed(SessionEvent::AssignmentChanged(assignment)).await;
            }
            Look::Ours(_) => {}
            Look::Over(over) => self.over(over).await,
            Look::Failed => {
                let wait = self.process.sim.between_ms(LOOK_RETRY_MS_MAX / 4, LOOK_RETRY_MS_MAX);
                current.look_at = Some(self.process.sim.now() + wait);
            }
        }
        if again {
            self.suspect().await;
        }
    }

    async fn over(&mut self, over: Over) {
        let event = match over {
            Over::Superseded { boot_id } => SessionEvent::Superseded { boot_id },
            Over::Deleted => SessionEvent::NodeDeleted,
        };
        self.feed(event).await;
    }

    fn close(&mut self) {
        let Some(current) = self.current.take() else { return };
        let close_time = Some(self.process.now().wall.to_proto());
        let Current { node, epoch, record, .. } = current;
        self.gateway.queue_close(Closed { node, mod_revision: epoch.revision, record, close_time });
    }
}

async fn until(process: &Process, at: Option<Duration>) {
    match at {
        Some(at) => process.sleep_until(at).await,
        None => std::future::pending().await,
    }
}
