//! The link to the control plane: one actor that drives `skerry_sync::AgentMachine`.
//!
//! It carries out what the machine says (dial, send, write, apply) and feeds it what happens. It decides nothing about the protocol; what
//! the machine runs is the reconciler's. The desired state goes to the reconciler joined, by a watch; changes come back by a queue.

mod store;
mod wire;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use skerry_model::NodeRef;
use skerry_model::time::to_timestamp;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::types::v1 as types;
use skerry_rpc::trace;
use skerry_sync::{AgentConfig, AgentEffect, AgentEvent, AgentMachine, Told, limits};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::store::Store;
pub(crate) use self::wire::connect;
use self::wire::{FromWire, Wire};
use crate::channel::Channels;
use crate::clock::{Clock, random};
use crate::config::Gateway;
use crate::desired::{Desired, join};
use crate::former::Formers;
use crate::good::Goods;
use crate::gpu::SampleLink;
use crate::identity::{News, Own, Proof};
use crate::machine::{Findings, SAMPLE_INTERVAL, Sampler, state_damaged};
use crate::reconcile::{Copies, Local, RuntimeStatuses};
use crate::skew::Skew;
use crate::state::{Before, Directory, Loaded, StateFiles};
use skerry_proto::types::v1::machine_status::Gpu;

/// What the actor is made of.
pub(crate) struct Parts {
    /// Which node.
    pub(crate) node: NodeRef,
    /// Gateways, tried in turn.
    pub(crate) gateways: Vec<Gateway>,
    /// By what the agent proves who it is.
    pub(crate) proof: Proof,
    /// The clocks.
    pub(crate) clock: Clock,
    /// Random for each start of the process.
    pub(crate) boot_id: String,
    /// The files of the desired state.
    pub(crate) files: StateFiles<Directory>,
    /// What they held.
    pub(crate) loaded: Loaded,
    /// What tells of the machine.
    pub(crate) sampler: Sampler,
    /// Where other members of the cluster reach this machine, if it was told.
    pub(crate) address: Option<IpAddr>,
    /// Where the desired state goes.
    pub(crate) desired: watch::Sender<Arc<Desired>>,
    /// Where changes come from.
    pub(crate) local: mpsc::Receiver<Local>,
    /// Where the state of the runtimes comes from.
    pub(crate) runtimes: watch::Receiver<RuntimeStatuses>,
    /// Where the GPUs come from. Closed: there are none.
    pub(crate) gpus: watch::Receiver<Arc<Vec<Gpu>>>,
    /// Where their samples come from.
    pub(crate) samples: SampleLink,
    /// Where the copies come from.
    pub(crate) copies: watch::Receiver<Copies>,
    /// What relays ask.
    pub(crate) channels: Channels,
    /// Where it goes whether a session is open.
    pub(crate) link: watch::Sender<bool>,
}

/// The actor.
pub(crate) struct Uplink {
    machine: AgentMachine,
    node: NodeRef,
    gateways: Vec<Gateway>,
    proof: Proof,
    skew: Option<Skew>,
    /// Dials so far: the gateways are tried in turn.
    dials: usize,
    clock: Clock,
    wire: Wire,
    /// The last connection, while what was said last on it goes out.
    ending: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    store: Store,
    sampler: Sampler,
    findings: Findings,
    /// Where other members of the cluster reach this machine, if it was told.
    address: Option<IpAddr>,
    /// Forget the name conflict when a session has lived so long.
    opened: Option<skerry_sync::MonoTime>,
    /// The update that is being taken, where somebody traces it: its version and the span of taking it.
    taking: Option<(skerry_sync::Version, Span)>,
    /// Whether the instances were told once: the first report waits for it.
    looked: bool,
    desired: watch::Sender<Arc<Desired>>,
    local: mpsc::Receiver<Local>,
    runtimes: watch::Receiver<RuntimeStatuses>,
    gpus: Option<watch::Receiver<Arc<Vec<Gpu>>>>,
    samples: SampleLink,
    copies: watch::Receiver<Copies>,
    channels: Channels,
    formers: Formers,
    goods: Goods,
    /// Whether a session is open.
    link: watch::Sender<bool>,
    /// Whether a state was offered and does not hold yet: what only the one that is held needs is kept as well.
    offered: bool,
    loaded: Option<Arc<skerry_sync::Desired>>,
    /// What was wrong with what is kept of what came before, until it was told.
    kept_damage: Option<String>,
}

impl Uplink {
    /// An actor that does not run yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let Loaded { desired, node_uid, damage, kept, kept_damage } = parts.loaded;
        let (formers, goods) = (Formers::new(kept.formers.clone()), Goods::new(kept.good.clone()));
        let node_uid = parts.proof.node_uid().map_or(node_uid, str::to_owned);
        let machine = AgentMachine::new(AgentConfig {
            node: parts.node.to_string(),
            node_uid: node_uid.clone(),
            boot_id: parts.boot_id,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            features: crate::features::all(),
            identity: parts.proof.identity(),
            seed: random(),
        });
        Self {
            machine,
            node: parts.node,
            gateways: parts.gateways,
            proof: parts.proof,
            skew: None,
            dials: 0,
            clock: parts.clock,
            wire: Wire::Off,
            ending: None,
            store: Store::new(parts.files, node_uid, Arc::new(kept)),
            sampler: parts.sampler,
            findings: Findings { damage, address: parts.address, ..Findings::default() },
            address: parts.address,
            opened: None,
            taking: None,
            looked: false,
            desired: parts.desired,
            local: parts.local,
            runtimes: parts.runtimes,
            gpus: Some(parts.gpus),
            samples: parts.samples,
            copies: parts.copies,
            channels: parts.channels,
            formers,
            goods,
            link: parts.link,
            offered: false,
            kept_damage,
            loaded: Some(Arc::new(desired)),
        }
    }

    /// Runs until `shutdown`, or until the machine is another node: answers that one's identity. Then says farewell, for at most a second.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Option<Own> {
        if let Some(held) = self.loaded.take() {
            self.feed(AgentEvent::Start { held });
        }
        self.tell_damage();
        let mut looks = tokio::time::interval(SAMPLE_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renamed = None;
        loop {
            let deadline = self.machine.deadline();
            let timer = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(self.clock.instant(deadline)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = timer => self.feed(AgentEvent::Timer),
                from = self.wire.next() => self.take_wire(from),
                local = self.local.recv() => match local {
                    Some(local) => self.take_local(local),
                    None => break,
                },
                news = self.proof.next() => {
                    renamed = self.take_news(news);
                    if renamed.is_some() {
                        break;
                    }
                }
                written = self.store.written() => self.take_written(written),
                changed = self.runtimes.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.findings.runtimes.clone_from(&self.runtimes.borrow_and_update());
                    self.sample();
                }
                Some(gpus) = changed(&mut self.gpus) => {
                    self.findings.gpus = gpus;
                    self.sample();
                }
                frame = self.samples.next() => self.feed(AgentEvent::GpuSampled(frame)),
                changed = self.copies.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.prune();
                }
                () = self.channels.ended() => {}
                _ = looks.tick() => self.sample(),
                () = ended(&mut self.ending) => self.ending = None,
            }
        }
        self.feed(AgentEvent::ShuttingDown);
        if self.ending.is_some() {
            ended(&mut self.ending).await;
        }
        self.channels.finish().await;
        self.store.finish().await;
        renamed
    }

    fn feed(&mut self, event: AgentEvent) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in self.machine.on(event, self.clock.now()) {
                events.extend(self.carry_out(effect));
            }
        }
    }

    /// Carries out one effect; what came of it at once is an event again.
    fn carry_out(&mut self, effect: AgentEffect) -> Option<AgentEvent> {
        match effect {
            AgentEffect::Dial => {
                let gateway = &self.gateways[self.dials % self.gateways.len()];
                self.dials += 1;
                tracing::debug!(gateway = %gateway.uri(), "dialling");
                match self.proof.dial() {
                    Ok(tls) => self.wire = Wire::dial(gateway.uri().clone(), tls),
                    Err(why) => return Some(AgentEvent::Disconnected { why, retry_after: None }),
                }
            }
            AgentEffect::Send(frame) => {
                if let Err(why) = self.wire.send(frame) {
                    self.wire = Wire::Off;
                    return Some(AgentEvent::Disconnected { why, retry_after: None });
                }
            }
            AgentEffect::Persist { token, desired } => {
                self.keep_before(&desired);
                self.store.persist(token, desired);
            }
            AgentEffect::Apply { desired } => self.apply(&desired),
            AgentEffect::TakeIdentity { certificate } => self.proof.take(certificate),
            AgentEffect::GpuFeedback(feedback) => self.samples.said(&feedback),
            AgentEffect::OpenChannel(offer) => {
                let gateway = &self.gateways[self.dials.saturating_sub(1) % self.gateways.len()];
                let answer = self.channels.offered(*offer, self.proof.channel(), gateway.uri());
                return Some(AgentEvent::ChannelAnswered(answer));
            }
            AgentEffect::Hangup { why } => {
                tracing::debug!(why, "hanging up");
                self.ending = self.wire.hang_up();
            }
            AgentEffect::Told(told) => self.take_told(told),
        }
        None
    }

    fn apply(&mut self, held: &skerry_sync::Desired) {
        let resources = held.resources.values().map(AsRef::as_ref);
        let (mut desired, refusals) = join(resources, held.version.is_some());
        desired.formers = self.formers.of(&desired);
        desired.goods = self.goods.of(&desired);
        desired.trace_parent = self.taken(held);
        crate::meters::instances(desired.instances.len());
        self.offered = false;
        for refusal in refusals {
            let (resource, reason, message) = (refusal.resource, refusal.reason, refusal.message);
            tracing::warn!(resource, reason, message, "a resource cannot be taken");
        }
        tracing::info!(
            version = held.version.map(tracing::field::display),
            instances = desired.instances.len(),
            blocked = desired.blocked.len(),
            "desired state"
        );
        self.desired.send_replace(Arc::new(desired));
        self.prune();
    }

    /// Begins the span of an update that somebody traces. It ends when the update is on disk and handed on.
    fn note_trace(&mut self, frame: &pb::SyncResponse) {
        let Some(pb::sync_response::Body::Update(update)) = &frame.body else { return };
        let Some(version) = update.version.filter(|_| !frame.trace_parent.is_empty() && !update.more) else {
            return;
        };
        let version = skerry_sync::Version::from(version);
        let span = tracing::info_span!("take update", %version, trace_id = tracing::field::Empty);
        trace::follow(&span, &frame.trace_parent);
        self.taking = Some((version, span));
    }

    /// Ends that span; answers its context, where it was that of what is held now.
    fn taken(&mut self, held: &skerry_sync::Desired) -> String {
        let taking = self.taking.take_if(|(version, _)| held.version.is_some_and(|held| held >= *version));
        taking
            .filter(|(version, _)| held.version == Some(*version))
            .map(|(_, span)| trace::trace_parent(&span))
            .unwrap_or_default()
    }

    /// Keeps of the state that is held what `next` may need: written before `next` is.
    fn keep_before(&mut self, next: &skerry_sync::Desired) {
        self.offered = true;
        let held = Arc::clone(self.machine.held());
        let (next, _) = join(next.resources.values().map(AsRef::as_ref), next.version.is_some());
        let joined = Arc::clone(&self.desired.borrow());
        let copies = self.copies.borrow();
        self.formers = self.formers.supersede((&held.resources, &joined), &next, &copies);
        self.goods = self.goods.supersede((&held.resources, &joined), &next, &copies.good);
        self.store.keep(self.before(), false);
    }

    /// What is kept of what came before.
    fn before(&self) -> Before {
        Before { formers: self.formers.resources().clone(), good: self.goods.resources().clone() }
    }

    /// Drops what nothing needs any more of what came before.
    fn prune(&mut self) {
        let desired = Arc::clone(&self.desired.borrow());
        let (formers, goods) = {
            let copies = self.copies.borrow_and_update();
            (self.formers.prune(&desired, &copies), self.goods.prune(&desired, &copies.good))
        };
        if self.offered || (formers.is_none() && goods.is_none()) {
            return;
        }
        self.formers = formers.unwrap_or_else(|| std::mem::take(&mut self.formers));
        self.goods = goods.unwrap_or_else(|| std::mem::take(&mut self.goods));
        self.store.keep(self.before(), true);
        let (formers, goods) = (self.formers.of(&desired), self.goods.of(&desired));
        if formers != desired.formers || goods != desired.goods {
            self.desired.send_replace(Arc::new(Desired { formers, goods, ..Desired::clone(&desired) }));
        }
    }

    /// Tells what was found damaged at the start. The condition alone would not do: it may be mended before anybody has read it.
    fn tell_damage(&mut self) {
        if let Some(damage) = &self.findings.damage {
            let message = state_damaged(damage);
            self.warn("StateDamaged", message);
        }
        let Some(damage) = self.kept_damage.take() else { return };
        tracing::error!(damage, "what is kept of former revisions is damaged; it is forgotten");
        let message = format!("{damage}; former revisions are not started again until it is whole");
        self.warn("FormersDamaged", message);
        // Written anew, so that it is told once.
        self.store.keep(self.before(), true);
    }

    /// A warning event about this node.
    fn warn(&mut self, reason: &str, message: String) {
        self.feed(AgentEvent::Raised(Box::new(types::Event {
            time: Some(to_timestamp(SystemTime::now())),
            severity: types::event::Severity::Warning.into(),
            reason: reason.to_owned(),
            message,
            regarding: self.node.to_string(),
            ..types::Event::default()
        })));
    }

    fn take_wire(&mut self, from: FromWire) {
        match from {
            FromWire::Connected(own) => {
                self.take_address(own);
                self.feed(AgentEvent::Connected);
            }
            FromWire::Frame(frame) => {
                self.note_trace(&frame);
                self.feed(AgentEvent::Frame(frame));
            }
            FromWire::Ended(why) => self.feed(AgentEvent::Disconnected { why, retry_after: None }),
        }
    }

    /// What it was told counts more than what is seen; where nothing is seen now, what was seen before stays.
    fn take_address(&mut self, own: Option<IpAddr>) {
        let address = self.address.or(own).or(self.findings.address);
        if address != self.findings.address {
            self.findings.address = address;
            self.sample();
        }
    }

    fn take_local(&mut self, local: Local) {
        match local {
            Local::Instance(status) => self.feed(AgentEvent::InstanceChanged(status)),
            Local::Gone(name) => self.feed(AgentEvent::InstanceGone(name)),
            Local::Image(status) => self.feed(AgentEvent::ImageChanged(status)),
            Local::ImageGone(id) => self.feed(AgentEvent::ImageGone(id)),
            Local::Event(event) => self.feed(AgentEvent::Raised(event)),
            Local::Looked => {
                self.looked = true;
                self.sample();
            }
        }
    }

    fn take_written(&mut self, written: store::Written) {
        let store::Written { token, result } = written;
        if let (Ok(()), true) = (&result, self.findings.save_error.is_some()) {
            self.findings.save_error = None;
            self.sample();
        }
        if let (None, Err(error)) = (token, &result) {
            tracing::warn!(error, "not written; it is with the next desired state");
        }
        if let Some(token) = token {
            self.feed(AgentEvent::Persisted { token, result });
        }
    }

    /// Answers the identity of another node that the machine is now.
    fn take_news(&mut self, news: News) -> Option<Own> {
        match news {
            News::Taken(result) => {
                if let Ok(identity) = &result {
                    let until = UNIX_EPOCH + identity.not_after.since_epoch();
                    tracing::info!(until = %to_timestamp(until), "the certificate or its roots were renewed");
                }
                self.feed(AgentEvent::IdentityTaken { result });
            }
            News::Enrolled { identity, node_uid } => self.feed(AgentEvent::Enrolled { identity, node_uid }),
            News::Renamed(own) => {
                tracing::warn!(was = %self.node, is = %own.node(), "the machine is another node now; what ran for the former one runs on, and is nobody's");
                return Some(*own);
            }
        }
        None
    }

    /// The server's clock, which proved who it is.
    fn take_time(&mut self, server: SystemTime) {
        self.proof.heard(server);
        let skew = Skew::of(SystemTime::now(), server, self.skew);
        if skew == self.skew {
            return;
        }
        self.skew = skew;
        self.findings.clock = skew.map(Skew::text);
        if let Some(text) = self.findings.clock.clone() {
            tracing::warn!("{text}");
            self.warn("ClockWrong", text);
        }
        self.sample();
    }

    fn take_told(&mut self, told: Told) {
        self.tell_link(&told);
        match told {
            Told::Welcomed { epoch, node_uid, gateway, renew_only, .. } => {
                if renew_only {
                    tracing::warn!(node = %self.node, gateway, "the certificate has expired; a new one is asked for");
                    return;
                }
                tracing::info!(node = %self.node, gateway, %epoch, "connected");
                self.proof.accepted();
                crate::meters::connected(true);
                self.opened = Some(self.clock.mono());
                let held = Arc::clone(self.machine.held());
                self.store.remember_uid(node_uid, held);
            }
            Told::Lost { why, retry } => {
                self.channels.session_lost();
                crate::meters::connected(false);
                // Once for each session that was; the tries after it only at debug.
                if self.opened.take().is_some() || self.dials == 1 {
                    tracing::warn!(why, retry_s = retry.as_secs_f32(), "not connected");
                } else {
                    tracing::debug!(why, retry_s = retry.as_secs_f32(), "not connected");
                }
            }
            Told::Superseded { message, retry } => {
                self.channels.session_lost();
                self.opened = None;
                tracing::error!(node = %self.node, message, retry_s = retry.as_secs(), "another agent uses this node's name");
                self.findings.conflict = Some(format!(
                    "another agent took over this node's name ({message}): is it used by two machines?"
                ));
                self.sample();
            }
            Told::NodeDeleted { message, retry } => {
                self.channels.session_lost();
                self.opened = None;
                tracing::warn!(node = %self.node, message, retry_s = retry.as_secs(), "the node was deleted; what runs runs on");
                self.proof.struck_out();
            }
            Told::Revoked { message, retry } => {
                self.channels.session_lost();
                crate::meters::connected(false);
                let is_news = self.opened.take().is_some() || self.dials == 1;
                if self.proof.struck_out() {
                    tracing::error!(node = %self.node, message, retry_s = retry.as_secs(), "this machine's key was struck out; what runs runs on, and a new token or an approval lets it in again");
                } else if is_news {
                    tracing::error!(node = %self.node, message, retry_s = retry.as_secs(), "this machine's certificate was struck out; what runs runs on");
                } else {
                    tracing::debug!(message, retry_s = retry.as_secs(), "still struck out");
                }
            }
            Told::ServerTime(time) => self.take_time(UNIX_EPOCH + time.since_epoch()),
            Told::RenewalFailed { why, retry } => {
                tracing::warn!(why, retry_s = retry.as_secs_f32(), "the certificate was not renewed");
            }
            Told::StaleRefused { offered, held } => {
                tracing::warn!(%offered, %held, "an update older than what is held was refused");
            }
            Told::ResourceRefused { name, reason, message, .. } => {
                tracing::warn!(resource = name, reason, message, "a resource was refused");
            }
            Told::PersistFailed { error, retry } => {
                tracing::error!(error, retry_s = retry.as_secs_f32(), "the desired state cannot be written");
                self.findings.save_error = Some(error);
                self.sample();
            }
            Told::Held { version } => {
                tracing::debug!(%version, "held");
                if self.findings.damage.take().is_some() {
                    self.sample();
                }
            }
        }
    }

    /// Says whether a session is open, where that changes. One that does nothing but renew is none.
    fn tell_link(&self, told: &Told) {
        let open = match told {
            Told::Welcomed { renew_only, .. } => !renew_only,
            Told::Lost { .. } | Told::Superseded { .. } | Told::NodeDeleted { .. } | Told::Revoked { .. } => {
                false
            }
            Told::ServerTime(_)
            | Told::RenewalFailed { .. }
            | Told::StaleRefused { .. }
            | Told::ResourceRefused { .. }
            | Told::PersistFailed { .. }
            | Told::Held { .. } => return,
        };
        self.samples.unlinked();
        self.link.send_if_modified(|link| std::mem::replace(link, open) != open);
    }

    fn sample(&mut self) {
        if self
            .opened
            .is_some_and(|opened| self.clock.mono().saturating_since(opened) >= limits::SUPERSEDED_FORGOTTEN)
        {
            self.findings.conflict = None;
        }
        if !self.looked {
            return;
        }
        if let Some(status) = self.sampler.sample(&self.findings) {
            self.feed(AgentEvent::MachineChanged(Box::new(status)));
        }
    }
}

/// The GPUs, once they are others than before. Nothing: nobody looks for any more. May be dropped and called again.
async fn changed(gpus: &mut Option<watch::Receiver<Arc<Vec<Gpu>>>>) -> Option<Arc<Vec<Gpu>>> {
    let Some(receiver) = gpus else { return std::future::pending().await };
    let changed = receiver.changed().await;
    let now = changed.is_ok().then(|| Arc::clone(&receiver.borrow_and_update()));
    if now.is_none() {
        *gpus = None;
    }
    now
}

/// When what is ending has ended. May be dropped and called again.
async fn ended(ending: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match ending {
        Some(ending) => ending.await,
        None => std::future::pending().await,
    }
}
