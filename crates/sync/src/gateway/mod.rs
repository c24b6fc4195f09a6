//! The gateway's end of one stream: from the hello to the end of the session.
//!
//! It decides what is sent down and when, acknowledges a report only after its commit, and ends a session that is silent, superseded
//! or breaks the protocol. The store, the stream, the clock and who the peer is are the driver's.

mod allowance;
mod api;
mod check;
mod commits;
mod known;
mod offers;
#[cfg(test)]
mod offers_tests;
mod renewal;
#[cfg(test)]
mod renewal_tests;
mod updates;

use bytes::Bytes;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::closing::Reason;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use std::time::Duration;

use self::allowance::Allowance;
pub use self::api::{
    Acknowledged, Assignment, Change, Ending, OfferRefusal, OpenFailure, Opened, Roots, SessionConfig,
    SessionEffect, SessionEvent,
};
use self::commits::Commits;
use self::known::Known;
use self::offers::Offers;
pub use self::offers::{NO_ANSWER, NO_SESSION, TOO_MANY, UNSUPPORTED};
use self::renewal::Renewal;
use self::updates::Updates;
pub use self::updates::{DESIRED_STATE, NOT_FOUND};
use crate::rng::Rng;
use crate::time::{MonoTime, Now};
use crate::{Version, limits};

/// The gateway's end of one stream. See the module.
#[derive(Debug, Clone)]
pub struct GatewaySession {
    config: SessionConfig,
    rng: Rng,
    phase: Phase,
    heard: MonoTime,
    allowance: Allowance,
}

#[derive(Debug, Clone)]
enum Phase {
    /// Waits for the hello.
    Greeting { until: MonoTime },
    /// The session is being put into the store.
    Opening { hello: Box<pb::Hello>, leaving: Option<Leaving> },
    /// The session is open.
    Open(Box<Open>),
    /// All is said; a commit is awaited, so that closing the session does not make it fail.
    Leaving { token: u64, leaving: Leaving },
    /// Over.
    Ended,
}

#[derive(Debug, Clone)]
struct Leaving {
    /// Whether the session record is ours to close.
    close: bool,
    ending: Ending,
}

#[derive(Debug, Clone)]
struct Open {
    epoch: Version,
    boot_id: String,
    updates: Updates,
    commits: Commits,
    known: Known,
    renewal: Renewal,
    offers: Offers,
}

impl Open {
    /// Whether the frame is an answer that is waited for: how many come is not the agent's doing.
    fn is_asked_for(&self, frame: &pb::SyncRequest) -> bool {
        matches!(&frame.body, Some(Up::ChannelAnswer(answer)) if self.offers.is_awaited(answer))
    }
}

impl GatewaySession {
    /// A stream that was just opened.
    pub fn new(config: SessionConfig, now: Now) -> Self {
        Self {
            rng: Rng::new(config.seed),
            config,
            phase: Phase::Greeting { until: now.mono + limits::HELLO_TIMEOUT },
            heard: now.mono,
            allowance: Allowance::new(now.mono),
        }
    }

    /// Takes in what happened, and says what to do, in order.
    pub fn on(&mut self, event: SessionEvent, now: Now) -> Vec<SessionEffect> {
        let mut out = Vec::new();
        match event {
            SessionEvent::Frame(frame) => {
                self.heard = now.mono;
                self.frame(frame, now, &mut out);
            }
            SessionEvent::StreamClosed => self.leave(None, true, Ending::Finished, &mut out),
            SessionEvent::Opened(opened) => self.opened(*opened, now, &mut out),
            SessionEvent::OpenFailed(failure) => self.open_failed(failure, &mut out),
            SessionEvent::AssignmentChanged(assignment) => self.assignment_changed(assignment, &mut out),
            SessionEvent::Loaded { token, resources, missing } => {
                if let Phase::Open(open) = &mut self.phase {
                    open.updates.loaded(token, resources, &missing, &mut out);
                }
            }
            SessionEvent::LoadFailed { token, why: _ } => {
                if let Phase::Open(open) = &mut self.phase {
                    open.updates.load_failed(token, now.mono, &mut self.rng);
                }
            }
            SessionEvent::Committed { token, digest } => self.committed(token, digest, &mut out),
            SessionEvent::CommitFailed { token, why: _ } => self.commit_failed(token, now, &mut out),
            SessionEvent::Superseded { boot_id } => self.superseded(&boot_id, &mut out),
            SessionEvent::NodeDeleted => {
                let closing = closing(Reason::NodeDeleted, "the node was deleted", limits::DELETED_WAIT);
                self.leave(Some(closing), false, Ending::Finished, &mut out);
            }
            SessionEvent::Revoked => {
                self.leave(Some(revoked("the node's key was struck out")), true, Ending::Finished, &mut out);
            }
            SessionEvent::Renewed(result) => self.renewed(result, &mut out),
            SessionEvent::RootsChanged(roots) => {
                if let Phase::Open(open) = &mut self.phase {
                    open.renewal.roots(roots, now.wall.to_proto(), &mut out);
                }
            }
            SessionEvent::Offered { epoch, offer } => self.offered(epoch, *offer, now, &mut out),
            SessionEvent::Drain { why, retry_after } => {
                let closing = closing(Reason::Draining, why, retry_after);
                self.leave(Some(closing), true, Ending::Finished, &mut out);
            }
            SessionEvent::Timer => {}
        }
        self.pump(now, &mut out);
        out
    }

    /// When `Timer` is due, if ever.
    pub fn deadline(&self) -> Option<MonoTime> {
        match &self.phase {
            Phase::Greeting { until } => Some(*until),
            Phase::Opening { .. } | Phase::Leaving { .. } | Phase::Ended => None,
            Phase::Open(open) => {
                let dues =
                    [Some(self.silent_at()), open.updates.due(), open.commits.due(), open.offers.due()];
                dues.into_iter().flatten().min()
            }
        }
    }

    /// The epoch of the session, once it is open.
    pub fn epoch(&self) -> Option<Version> {
        match &self.phase {
            Phase::Open(open) => Some(open.epoch),
            Phase::Greeting { .. } | Phase::Opening { .. } | Phase::Leaving { .. } | Phase::Ended => None,
        }
    }

    /// Whether the session is open and its agent has acknowledged the newest assignment that it was told.
    pub fn is_converged(&self) -> bool {
        matches!(&self.phase, Phase::Open(open) if open.updates.is_converged() && open.commits.is_idle())
    }

    /// How often the agent spoke of what is not its node's, and was not believed.
    pub fn corrected(&self) -> u64 {
        match &self.phase {
            Phase::Open(open) => open.known.corrected(),
            Phase::Greeting { .. } | Phase::Opening { .. } | Phase::Leaving { .. } | Phase::Ended => 0,
        }
    }

    /// Whether `End` was given out.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    fn silent_at(&self) -> MonoTime {
        let interval = self.config.heartbeat_interval;
        self.heard + interval + limits::heartbeat_grace(interval)
    }

    fn assignment_changed(&mut self, assignment: Assignment, out: &mut Vec<SessionEffect>) {
        let Phase::Open(open) = &mut self.phase else { return };
        if open.renewal.only {
            return;
        }
        let old = open.updates.assignment().cloned();
        if !open.updates.assignment_changed(assignment) {
            return;
        }
        let Some(new) = open.updates.assignment() else { return };
        if open.known.assignment_changed(old.as_ref(), new) {
            // Its digest is not what is stored: it says all of it anew.
            let why = "what this node is assigned was reported before: it is to be reported again";
            let closing = closing(Reason::Draining, why, Duration::ZERO);
            self.leave(Some(closing), true, Ending::Finished, out);
        }
    }

    fn frame(&mut self, frame: pb::SyncRequest, now: Now, out: &mut Vec<SessionEffect>) {
        if let Phase::Open(open) = &self.phase
            && !open.is_asked_for(&frame)
            && !self.allowance.take(now.mono)
        {
            let (burst, rate) = (limits::FRAMES_BURST_MAX, limits::FRAMES_PER_SECOND_MAX);
            let why =
                format!("more than {burst} frames at once, and {rate} a second after that, are too many");
            return self.protocol_error(&why, out);
        }
        match (&mut self.phase, frame.body) {
            (Phase::Greeting { .. }, Some(Up::Hello(hello))) => self.hello(hello, out),
            (Phase::Greeting { .. }, _) => {
                self.leave(None, false, Ending::NoHello("the first frame must be a hello".to_owned()), out);
            }
            (Phase::Opening { .. }, _) => self.protocol_error("a frame before the Welcome", out),
            (Phase::Open(_), Some(Up::Hello(_))) => self.protocol_error("a second hello", out),
            (Phase::Open(open), Some(Up::RenewalRequest(request))) => match check::renewal(&request) {
                Ok(()) => open.renewal.requested(request, out),
                Err(why) => self.protocol_error(&why, out),
            },
            // Out of time, it is heard as to its certificate, and that it lives.
            (Phase::Open(open), Some(Up::Ack(_) | Up::Report(_))) if open.renewal.only => {}
            (Phase::Open(open), Some(Up::Ack(ack))) => {
                if let Some(acknowledged) = open.updates.acknowledged(ack) {
                    open.commits.acknowledged(acknowledged);
                }
            }
            (Phase::Open(open), Some(Up::Report(mut report))) => {
                open.known.admit(&mut report, open.updates.assignment());
                if let Err(why) = check::report(&report).and_then(|()| open.commits.reported(report)) {
                    self.protocol_error(&why, out);
                }
            }
            (Phase::Open(open), Some(Up::GpuFrame(_))) if open.renewal.only => {}
            (Phase::Open(open), Some(Up::ChannelAnswer(answer))) => open.offers.answered(answer, out),
            (Phase::Open(_), Some(Up::GpuFrame(frame))) => out.push(SessionEffect::GpuFrame(frame)),
            (Phase::Open(_), Some(Up::Heartbeat(heartbeat))) => send(
                out,
                Down::HeartbeatAck(pb::HeartbeatAck {
                    sequence: heartbeat.sequence,
                    server_time: Some(now.wall.to_proto()),
                }),
            ),
            (Phase::Open(_), Some(Up::Farewell(_))) => self.leave(None, true, Ending::Finished, out),
            // What comes after the last word; and a frame of a kind that we do not know, of a newer agent.
            (Phase::Leaving { .. } | Phase::Ended, _) | (Phase::Open(_), None) => {}
        }
    }

    /// A relay wants a channel. Only the session that is meant passes it on, and only with an agent that may do all.
    fn offered(&mut self, epoch: Version, offer: pb::ChannelOffer, now: Now, out: &mut Vec<SessionEffect>) {
        match &mut self.phase {
            Phase::Open(open) if open.epoch == epoch && !open.renewal.only => {
                open.offers.offered(offer, now.mono, out);
            }
            Phase::Greeting { .. }
            | Phase::Opening { .. }
            | Phase::Open(_)
            | Phase::Leaving { .. }
            | Phase::Ended => {
                offers::refuse(offer.channel, NO_SESSION, "the session of this node is another one", out);
            }
        }
    }

    fn hello(&mut self, hello: pb::Hello, out: &mut Vec<SessionEffect>) {
        match check::hello(&hello) {
            Ok(()) => {
                let hello = Box::new(hello);
                self.phase = Phase::Opening { hello: hello.clone(), leaving: None };
                out.push(SessionEffect::Open(hello));
            }
            Err(why) => self.protocol_error(&why, out),
        }
    }

    fn opened(&mut self, opened: Opened, now: Now, out: &mut Vec<SessionEffect>) {
        let (hello, leaving) = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Opening { hello, leaving } => (hello, leaving),
            other => {
                self.phase = other;
                return;
            }
        };
        if let Some(leaving) = leaving {
            return self.end(leaving, out);
        }
        send(
            out,
            Down::Welcome(pb::Welcome {
                epoch: Some(opened.epoch.into()),
                node_uid: opened.node_uid,
                gateway: self.config.gateway.to_string(),
                server_time: Some(now.wall.to_proto()),
                heartbeat_interval: Some(skerry_model::time::to_proto_duration(
                    self.config.heartbeat_interval,
                )),
                full_report: hello.report_digest.is_empty() || hello.report_digest != opened.status_digest,
                renew_only: opened.renew_only,
            }),
        );
        let held = hello.version.map(Version::from);
        let in_step = held.is_some() && opened.acknowledged == held && !opened.has_refused;
        let mut updates = Updates::new(held, hello.held);
        let known = Known::new(hello.node.clone(), opened.reported);
        let mut commits = Commits::new(hello.node, hello.boot_id.clone());
        if let Some(assignment) = opened.assignment.filter(|_| !opened.renew_only) {
            updates.assignment_changed(assignment);
            // The ack of an earlier session may not have reached the store.
            if let Some(acknowledged) = updates.in_step().filter(|_| !in_step) {
                commits.acknowledged(acknowledged);
            }
        }
        self.heard = now.mono;
        let (epoch, boot_id) = (opened.epoch, hello.boot_id);
        let offers = Offers::new(&hello.features);
        let mut renewal = Renewal::new(opened.renew_only, hello.roots_digest);
        if let Some(roots) = opened.roots {
            renewal.roots(roots, now.wall.to_proto(), out);
        }
        self.phase = Phase::Open(Box::new(Open { epoch, boot_id, updates, commits, known, renewal, offers }));
    }

    fn open_failed(&mut self, failure: OpenFailure, out: &mut Vec<SessionEffect>) {
        let Phase::Opening { leaving, .. } = &mut self.phase else { return };
        if let Some(leaving) = leaving.take() {
            return self.end(Leaving { close: false, ..leaving }, out);
        }
        let (closing, ending) = match failure {
            OpenFailure::Denied(why) => (None, Ending::Denied(why)),
            OpenFailure::UnknownNode(why) => {
                (Some(closing(Reason::NodeDeleted, &why, limits::DELETED_WAIT)), Ending::Finished)
            }
            OpenFailure::Revoked(why) => (Some(revoked(&why)), Ending::Finished),
            OpenFailure::Overloaded { retry_after } => (
                Some(closing(Reason::Overloaded, "too many sessions at once", retry_after)),
                Ending::Finished,
            ),
            OpenFailure::Unavailable(why) => {
                let wait = limits::STORE_AWAY_WAIT + self.rng.up_to(limits::STORE_AWAY_WAIT);
                (Some(closing(Reason::StoreUnavailable, &why, wait)), Ending::Finished)
            }
        };
        if let Some(closing) = closing {
            send(out, Down::Closing(closing));
        }
        self.end(Leaving { close: false, ending }, out);
    }

    fn committed(&mut self, token: u64, digest: Bytes, out: &mut Vec<SessionEffect>) {
        match &mut self.phase {
            Phase::Open(open) => {
                if let Some(sequence) = open.commits.committed(token) {
                    let digest = if open.known.is_withholding() { Bytes::new() } else { digest };
                    send(out, Down::ReportAck(pb::ReportAck { sequence, digest }));
                }
            }
            Phase::Leaving { .. } => self.commit_over(token, out),
            Phase::Greeting { .. } | Phase::Opening { .. } | Phase::Ended => {}
        }
    }

    fn commit_failed(&mut self, token: u64, now: Now, out: &mut Vec<SessionEffect>) {
        match &mut self.phase {
            Phase::Open(open) => open.commits.failed(token, now.mono, &mut self.rng),
            Phase::Leaving { .. } => self.commit_over(token, out),
            Phase::Greeting { .. } | Phase::Opening { .. } | Phase::Ended => {}
        }
    }

    fn commit_over(&mut self, over: u64, out: &mut Vec<SessionEffect>) {
        if let Phase::Leaving { token, leaving } = &self.phase
            && *token == over
        {
            let leaving = leaving.clone();
            self.end(leaving, out);
        }
    }

    fn renewed(&mut self, result: Result<pb::IssuedCertificate, String>, out: &mut Vec<SessionEffect>) {
        let Phase::Open(open) = &mut self.phase else { return };
        if open.renewal.renewed(result, out) {
            let closing = closing(Reason::Renewed, "come back with the new certificate", Duration::ZERO);
            self.leave(Some(closing), true, Ending::Finished, out);
        }
    }

    fn superseded(&mut self, by: &str, out: &mut Vec<SessionEffect>) {
        let boot_id = match &self.phase {
            Phase::Open(open) => open.boot_id.as_str(),
            Phase::Opening { hello, .. } => hello.boot_id.as_str(),
            Phase::Greeting { .. } | Phase::Leaving { .. } | Phase::Ended => "",
        };
        let closing = if by == boot_id {
            closing(Reason::Draining, "this agent has opened a newer session", Duration::ZERO)
        } else {
            let (wait, _) = limits::SUPERSEDED_WAIT;
            closing(Reason::Superseded, "another agent took over with this node's name", wait)
        };
        self.leave(Some(closing), false, Ending::Finished, out);
    }

    fn protocol_error(&mut self, why: &str, out: &mut Vec<SessionEffect>) {
        let closing = closing(Reason::ProtocolError, why, limits::INCOMPATIBLE_WAIT);
        self.leave(Some(closing), true, Ending::Finished, out);
    }

    /// Says the last word, and ends as soon as the store has nothing of this session in hand.
    fn leave(
        &mut self,
        closing: Option<pb::Closing>,
        close: bool,
        ending: Ending,
        out: &mut Vec<SessionEffect>,
    ) {
        let mut leaving = Leaving { close, ending };
        match &mut self.phase {
            Phase::Greeting { .. } => leaving.close = false,
            Phase::Opening { leaving: already, .. } => {
                if already.is_none() {
                    *already = Some(leaving);
                    out.extend(closing.map(|closing| frame_of(Down::Closing(closing))));
                }
                return;
            }
            Phase::Open(open) => {
                if let Some(token) = open.commits.in_flight().filter(|_| close) {
                    self.phase = Phase::Leaving { token, leaving };
                    out.extend(closing.map(|closing| frame_of(Down::Closing(closing))));
                    return;
                }
            }
            // The last word was said. A session that is no longer ours is not to be closed.
            Phase::Leaving { leaving: already, .. } => {
                already.close &= close;
                return;
            }
            Phase::Ended => return,
        }
        out.extend(closing.map(|closing| frame_of(Down::Closing(closing))));
        self.end(leaving, out);
    }

    fn end(&mut self, leaving: Leaving, out: &mut Vec<SessionEffect>) {
        if leaving.close {
            out.push(SessionEffect::Close);
        }
        out.push(SessionEffect::End(leaving.ending));
        self.phase = Phase::Ended;
    }

    /// Does all that is due.
    fn pump(&mut self, now: Now, out: &mut Vec<SessionEffect>) {
        match &mut self.phase {
            Phase::Greeting { until } => {
                if *until <= now.mono {
                    self.leave(None, false, Ending::HelloTimeout, out);
                }
            }
            Phase::Opening { .. } | Phase::Leaving { .. } | Phase::Ended => {}
            Phase::Open(open) => {
                open.updates.advance(now.mono, out);
                open.offers.expire(now.mono, out);
                if let Some((token, change)) = open.commits.begin(now.mono) {
                    out.push(SessionEffect::Commit { token, change });
                }
                if self.silent_at() <= now.mono {
                    self.leave(None, true, Ending::Silent, out);
                }
            }
        }
    }
}

fn revoked(why: &str) -> pb::Closing {
    closing(Reason::Revoked, why, limits::DELETED_WAIT)
}

fn closing(reason: Reason, message: &str, retry_after: Duration) -> pb::Closing {
    pb::Closing {
        reason: reason.into(),
        message: message.to_owned(),
        retry_after: Some(skerry_model::time::to_proto_duration(retry_after)),
    }
}

fn frame_of(body: Down) -> SessionEffect {
    SessionEffect::Send(pb::SyncResponse { body: Some(body), trace_parent: String::new() })
}

fn send(out: &mut Vec<SessionEffect>, body: Down) {
    out.push(frame_of(body));
}
