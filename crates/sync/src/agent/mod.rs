//! The agent's end: lives as long as the agent's process, over any number of connections.
//!
//! It decides when to dial, what to say, when a desired state may be applied (after it is on disk) and acknowledged (likewise), and
//! when a link is dead. Dialling, the disk, the clock and what runs on the machine are the driver's.

mod api;
mod disk;
mod link;
mod outbox;
mod renewal;
pub mod update;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;

pub use self::api::{AgentConfig, AgentEffect, AgentEvent, Told};
use self::disk::{Candidate, Disk, Written};
use self::link::{Link, Open, Redial};
use self::outbox::Outbox;
pub use self::renewal::AgentIdentity;
use self::renewal::{Received, Renewal};
use self::update::{Assembly, Base};
use crate::rng::Rng;
use crate::time::{MonoTime, Now, WallTime};
use crate::{Desired, Version, limits};

/// The agent's end of sync. See the module.
#[derive(Debug, Clone)]
pub struct AgentMachine {
    config: AgentConfig,
    rng: Rng,
    link: Link,
    redial: Redial,
    /// Counts dials: an answer of the disk to an earlier connection's update is not sent on a later one.
    connection: u64,
    disk: Disk,
    outbox: Outbox,
    renewal: Renewal,
    /// Of the last ReportAck.
    digest: Bytes,
    /// The term of the store in the last session. 0: there was none.
    term: u64,
}

impl AgentMachine {
    /// A machine that waits for `Start`.
    pub fn new(config: AgentConfig) -> Self {
        let mut rng = Rng::new(config.seed);
        let renewal = Renewal::new(config.identity.clone(), &mut rng);
        let outbox = Outbox::new(config.boot_id.clone(), config.node.clone());
        Self {
            config,
            rng,
            link: Link::Off,
            redial: Redial::new(),
            connection: 0,
            disk: Disk::new(),
            outbox,
            renewal,
            digest: Bytes::new(),
            term: 0,
        }
    }

    /// Takes in what happened, and says what to do, in order.
    pub fn on(&mut self, event: AgentEvent, now: Now) -> Vec<AgentEffect> {
        let mut out = Vec::new();
        match event {
            AgentEvent::Start { held } => self.start(held, now, &mut out),
            AgentEvent::Connected => self.connected(now, &mut out),
            AgentEvent::Disconnected { why, retry_after } => {
                if self.link.is_up() {
                    self.lost(why, retry_after, now, &mut out);
                }
            }
            AgentEvent::Frame(frame) => self.frame(frame, now, &mut out),
            AgentEvent::Persisted { token, result } => self.persisted(token, result, now, &mut out),
            AgentEvent::MachineChanged(machine) => self.outbox.machine_changed(*machine),
            AgentEvent::InstanceChanged(instance) => self.outbox.instance_changed(*instance),
            AgentEvent::InstanceGone(name) => self.outbox.instance_gone(&name),
            AgentEvent::ImageChanged(image) => self.outbox.image_changed(*image),
            AgentEvent::ImageGone(id) => self.outbox.image_gone(&id),
            AgentEvent::Raised(event) => self.outbox.raise(*event, now.wall),
            AgentEvent::IdentityTaken { result } => self.identity_taken(result, now, &mut out),
            AgentEvent::Enrolled { identity, node_uid } => self.enrolled(identity, node_uid, now),
            AgentEvent::ChannelAnswered(answer) => self.channel_answered(answer, now, &mut out),
            AgentEvent::GpuSampled(frame) => {
                if matches!(&self.link, Link::Open(open) if !open.renew_only) {
                    send(&mut out, Up::GpuFrame(frame));
                }
            }
            AgentEvent::Timer => {}
            AgentEvent::ShuttingDown => self.shut_down(now, &mut out),
        }
        self.pump(now, &mut out);
        out
    }

    /// When `Timer` is due, if ever.
    pub fn deadline(&self) -> Option<MonoTime> {
        let link = match &self.link {
            Link::Off | Link::Stopped => None,
            Link::Waiting { .. } if self.renewal.is_taking() => None,
            Link::Waiting { until } | Link::Dialing { until } | Link::Greeting { until, .. } => Some(*until),
            Link::Open(open) => {
                let report = self.outbox.due().filter(|_| !open.renew_only);
                [Some(open.due()), report, self.renewal.due()].into_iter().flatten().min()
            }
        };
        [link, self.disk.due()].into_iter().flatten().min()
    }

    /// What is on disk.
    pub fn held(&self) -> &Arc<Desired> {
        &self.disk.held
    }

    /// Whether a session is open.
    pub fn is_open(&self) -> bool {
        matches!(self.link, Link::Open(_))
    }

    /// Whether everything that was reported to this machine is in the store.
    pub fn is_reported(&self) -> bool {
        matches!(&self.link, Link::Open(open) if !open.renew_only) && self.outbox.is_empty()
    }

    /// How many events the ring has dropped since the machine started.
    pub fn events_dropped(&self) -> u64 {
        self.outbox.dropped
    }

    fn start(&mut self, held: Arc<Desired>, now: Now, out: &mut Vec<AgentEffect>) {
        if !matches!(self.link, Link::Off) {
            return;
        }
        self.disk.held = Arc::clone(&held);
        out.push(AgentEffect::Apply { desired: held });
        // The first dial goes at once: many agents start together only where their machines do, and those are few.
        self.link = Link::Waiting { until: now.mono };
    }

    fn connected(&mut self, now: Now, out: &mut Vec<AgentEffect>) {
        if !matches!(self.link, Link::Dialing { .. }) {
            return;
        }
        let base = Base::new(Arc::clone(&self.disk.held));
        send(
            out,
            Up::Hello(pb::Hello {
                protocol_version: limits::PROTOCOL_VERSION,
                features: self.config.features.iter().cloned().collect(),
                node: self.config.node.clone(),
                node_uid: self.config.node_uid.clone(),
                boot_id: self.config.boot_id.clone(),
                agent_version: self.config.agent_version.clone(),
                version: base.desired.version.map(Into::into),
                held: base.desired.held(),
                report_digest: self.digest.clone(),
                roots_digest: self.renewal.roots_digest(),
            }),
        );
        self.link = Link::Greeting { until: now.mono + limits::WELCOME_TIMEOUT, base };
    }

    fn frame(&mut self, frame: pb::SyncResponse, now: Now, out: &mut Vec<AgentEffect>) {
        if let Link::Open(open) = &mut self.link {
            open.heard(now.mono);
        }
        if !matches!(self.link, Link::Greeting { .. } | Link::Open(_)) {
            return;
        }
        match (frame.body, &self.link) {
            (Some(Down::Closing(closing)), _) => self.closing(closing, now, out),
            (Some(Down::Welcome(welcome)), Link::Greeting { .. }) => self.welcome(welcome, now, out),
            (_, Link::Greeting { .. }) => self.hang_up("the first frame was no Welcome", now, out),
            (Some(Down::Welcome(_)), _) => self.hang_up("a second Welcome", now, out),
            (Some(Down::Update(part)), _) => self.update_part(part, now, out),
            (Some(Down::ReportAck(ack)), _) => {
                if self.outbox.acknowledged(ack.sequence) {
                    self.digest = ack.digest;
                }
            }
            (Some(Down::HeartbeatAck(ack)), _) => self.server_time(ack.server_time.as_ref(), now, out),
            (Some(Down::Renewal(renewal)), _) => self.renewal(renewal, now, out),
            (Some(Down::ChannelOffer(offer)), Link::Open(open)) if !open.renew_only => {
                out.push(AgentEffect::OpenChannel(Box::new(offer)));
            }
            (Some(Down::GpuFeedback(feedback)), Link::Open(open)) if !open.renew_only => {
                out.push(AgentEffect::GpuFeedback(feedback));
            }
            // A frame of a kind that we do not know is of a newer gateway, and not for us.
            (Some(Down::ChannelOffer(_) | Down::GpuFeedback(_)) | None, _) => {}
        }
    }

    fn welcome(&mut self, welcome: pb::Welcome, now: Now, out: &mut Vec<AgentEffect>) {
        let Link::Greeting { base, .. } = std::mem::replace(&mut self.link, Link::Off) else { return };
        let epoch = welcome.epoch.map(Version::from).unwrap_or_default();
        // In a store that was restored what was acknowledged may be lost, and an acknowledgement that was under way then may be of a report
        // which that store took beside older ones: its digest is of what is stored, and not of what is here.
        let is_restored = epoch.term != self.term;
        self.term = epoch.term;
        self.outbox.session_opened(welcome.full_report || is_restored);
        self.renewal.session_opened(welcome.renew_only);
        let interval = welcome.heartbeat_interval.as_ref();
        self.link = Link::Open(Box::new(Open::new(base, interval, welcome.renew_only, now.mono)));
        self.config.node_uid.clone_from(&welcome.node_uid);
        self.server_time(welcome.server_time.as_ref(), now, out);
        out.push(AgentEffect::Told(Told::Welcomed {
            epoch,
            node_uid: welcome.node_uid,
            gateway: welcome.gateway,
            server_time: welcome.server_time.as_ref().and_then(WallTime::from_proto),
            renew_only: welcome.renew_only,
        }));
    }

    fn server_time(&mut self, told: Option<&prost_types::Timestamp>, now: Now, out: &mut Vec<AgentEffect>) {
        if let Some(told) = told.and_then(WallTime::from_proto) {
            self.renewal.heard(told, now.mono);
            out.push(AgentEffect::Told(Told::ServerTime(told)));
        }
    }

    fn renewal(&mut self, renewal: pb::Renewal, now: Now, out: &mut Vec<AgentEffect>) {
        let told = renewal.certificate.as_ref().and_then(|certificate| certificate.server_time);
        self.server_time(told.as_ref(), now, out);
        match self.renewal.received(renewal, now.mono, &mut self.rng) {
            Received::Nothing => {}
            Received::Take(certificate) => out.push(AgentEffect::TakeIdentity { certificate }),
            Received::Refused { why, retry } => {
                out.push(AgentEffect::Told(Told::RenewalFailed { why, retry }));
            }
        }
    }

    fn identity_taken(
        &mut self,
        result: Result<AgentIdentity, String>,
        now: Now,
        out: &mut Vec<AgentEffect>,
    ) {
        let (next, failure) = self.renewal.taken(result, now.mono, &mut self.rng);
        if let Some((why, retry)) = failure {
            out.push(AgentEffect::Told(Told::RenewalFailed { why, retry }));
        }
        if let Some(certificate) = next {
            out.push(AgentEffect::TakeIdentity { certificate });
        }
    }

    fn enrolled(&mut self, identity: AgentIdentity, node_uid: String, now: Now) {
        self.renewal.replace(Some(identity), &mut self.rng);
        self.config.node_uid = node_uid;
        if let Link::Waiting { until } = &mut self.link {
            *until = now.mono;
        }
    }

    fn channel_answered(&mut self, answer: pb::ChannelAnswer, now: Now, out: &mut Vec<AgentEffect>) {
        if let Link::Open(open) = &mut self.link {
            send(out, Up::ChannelAnswer(answer));
            open.said(now.mono);
        }
    }

    fn update_part(&mut self, part: pb::Update, now: Now, out: &mut Vec<AgentEffect>) {
        let newest = self.disk.newest();
        let Link::Open(open) = &mut self.link else { return };
        let complete = match open.receive(part) {
            Ok(Some(complete)) => complete,
            Ok(None) => return,
            Err(why) => return self.hang_up(why, now, out),
        };
        let refuse = |refused: String| {
            Up::Ack(pb::Ack {
                nonce: complete.nonce,
                version: newest.map(Into::into),
                errors: Vec::new(),
                refused,
            })
        };
        if let Some(held) = newest.filter(|held| complete.version < *held) {
            let offered = complete.version;
            send(out, refuse(format!("version {offered} is older than {held}, which is held")));
            out.push(AgentEffect::Told(Told::StaleRefused { offered, held }));
            open.said(now.mono);
            return;
        }
        if let Err(why) = complete.fits(&open.base) {
            send(out, refuse(why));
            open.said(now.mono);
            return;
        }
        let Assembly { nonce, .. } = complete;
        let (base, errors) = update::take(&open.base, complete, &self.config.features);
        for error in &errors {
            out.push(AgentEffect::Told(Told::ResourceRefused {
                name: error.name.clone(),
                version: error.version.clone(),
                reason: error.reason.clone(),
                message: error.message.clone(),
            }));
        }
        self.disk.offer(Candidate { base, connection: self.connection, nonce, errors });
    }

    fn persisted(&mut self, token: u64, result: Result<(), String>, now: Now, out: &mut Vec<AgentEffect>) {
        let connection = self.link.is_up().then_some(self.connection);
        match self.disk.written(token, result, connection, now.mono, &mut self.rng) {
            Written::Unknown => {}
            Written::Failed { error, retry } => {
                out.push(AgentEffect::Told(Told::PersistFailed { error, retry }));
            }
            Written::Held(candidate) => {
                let desired = Arc::clone(&candidate.base.desired);
                if let Some(version) = desired.version {
                    out.push(AgentEffect::Told(Told::Held { version }));
                }
                out.push(AgentEffect::Apply { desired });
                self.acknowledge(candidate, now, out);
            }
        }
    }

    /// Acknowledges what is on disk, if the connection that sent it is still there.
    fn acknowledge(&mut self, candidate: Candidate, now: Now, out: &mut Vec<AgentEffect>) {
        let Link::Open(open) = &mut self.link else { return };
        if candidate.connection != self.connection {
            return;
        }
        send(
            out,
            Up::Ack(pb::Ack {
                nonce: candidate.nonce,
                version: candidate.base.desired.version.map(Into::into),
                errors: candidate.errors,
                refused: String::new(),
            }),
        );
        open.base = candidate.base;
        open.said(now.mono);
    }

    /// Does all that is due.
    fn pump(&mut self, now: Now, out: &mut Vec<AgentEffect>) {
        while let Some(unchanged) = self.disk.take_unchanged() {
            self.acknowledge(unchanged, now, out);
        }
        if let Some((token, desired)) = self.disk.begin(now.mono) {
            out.push(AgentEffect::Persist { token, desired });
        }
        match &mut self.link {
            Link::Off | Link::Stopped => {}
            Link::Waiting { until } => {
                if *until <= now.mono && !self.renewal.is_taking() {
                    self.connection += 1;
                    self.link = Link::Dialing { until: now.mono + limits::DIAL_TIMEOUT };
                    out.push(AgentEffect::Dial);
                }
            }
            Link::Dialing { until } => {
                if *until <= now.mono {
                    self.hang_up("the dial took too long", now, out);
                }
            }
            Link::Greeting { until, .. } => {
                if *until <= now.mono {
                    self.hang_up("no Welcome came", now, out);
                }
            }
            Link::Open(open) => {
                if !open.renew_only && self.outbox.due().is_some_and(|due| due <= now.mono) {
                    send(out, Up::Report(self.outbox.report(now.mono)));
                    open.said(now.mono);
                }
                if let Some(request) = self.renewal.ask(now.mono, &mut self.rng) {
                    send(out, Up::RenewalRequest(request));
                    open.said(now.mono);
                }
                if open.is_dead(now.mono) {
                    self.hang_up("a heartbeat was not answered", now, out);
                } else if let Some(heartbeat) = open.heartbeat(now.mono) {
                    send(out, Up::Heartbeat(heartbeat));
                }
            }
        }
    }

    fn closing(&mut self, closing: pb::Closing, now: Now, out: &mut Vec<AgentEffect>) {
        use pb::closing::Reason;
        let asked = closing.retry_after.as_ref().and_then(skerry_model::time::from_proto_duration);
        let reason = closing.reason();
        let why = format!("closed by the gateway, {}: {}", reason.as_str_name(), closing.message);
        out.push(AgentEffect::Hangup { why: why.clone() });
        match reason {
            Reason::Superseded => {
                let retry = self.redial.superseded(asked, self.link.lived(now.mono), &mut self.rng);
                self.wait(retry, now);
                out.push(AgentEffect::Told(Told::Superseded { message: closing.message, retry }));
            }
            Reason::NodeDeleted | Reason::Revoked => {
                let asked = asked.unwrap_or_default().max(limits::DELETED_WAIT);
                let retry = self.redial.wait(Some(asked), self.link.lived(now.mono), &mut self.rng);
                self.wait(retry, now);
                let message = closing.message;
                out.push(AgentEffect::Told(if reason == Reason::Revoked {
                    Told::Revoked { message, retry }
                } else {
                    Told::NodeDeleted { message, retry }
                }));
            }
            Reason::Renewed if self.renewal.is_renewed() => {
                let retry = asked.unwrap_or_default().min(limits::RETRY_AFTER_MAX);
                self.wait(retry, now);
                out.push(AgentEffect::Told(Told::Lost { why, retry }));
            }
            Reason::Unspecified
            | Reason::Draining
            | Reason::Overloaded
            | Reason::ProtocolError
            | Reason::StoreUnavailable
            | Reason::Renewed => self.lost(why, asked, now, out),
        }
    }

    fn hang_up(&mut self, why: impl Into<String>, now: Now, out: &mut Vec<AgentEffect>) {
        let why = why.into();
        out.push(AgentEffect::Hangup { why: why.clone() });
        self.lost(why, None, now, out);
    }

    fn lost(&mut self, why: String, retry_after: Option<Duration>, now: Now, out: &mut Vec<AgentEffect>) {
        let retry = self.redial.wait(retry_after, self.link.lived(now.mono), &mut self.rng);
        self.wait(retry, now);
        out.push(AgentEffect::Told(Told::Lost { why, retry }));
    }

    fn wait(&mut self, retry: Duration, now: Now) {
        self.link = Link::Waiting { until: now.mono + retry };
        self.outbox.session_lost();
        self.disk.session_lost();
        self.renewal.session_lost();
    }

    fn shut_down(&mut self, now: Now, out: &mut Vec<AgentEffect>) {
        if let Link::Open(open) = &self.link {
            if self.outbox.can_send() && !open.renew_only {
                send(out, Up::Report(self.outbox.report(now.mono)));
            }
            send(out, Up::Farewell(pb::Farewell { message: "the agent stops".to_owned() }));
        }
        if self.link.is_up() {
            out.push(AgentEffect::Hangup { why: "the agent stops".to_owned() });
        }
        self.link = Link::Stopped;
        self.outbox.session_lost();
    }
}

fn send(out: &mut Vec<AgentEffect>, body: Up) {
    out.push(AgentEffect::Send(pb::SyncRequest { body: Some(body) }));
}
