//! The connection: its phases, its heartbeats, and how long to wait for the next one.

use std::time::Duration;

use skerry_proto::gateway::v1 as pb;

use super::update::{Assembly, Base};
use crate::limits;
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;

/// Where the connection stands.
#[derive(Debug, Clone)]
pub(super) enum Link {
    /// Not started.
    Off,
    /// Nothing is dialled before this.
    Waiting { until: MonoTime },
    /// Dialled.
    Dialing { until: MonoTime },
    /// Said hello.
    Greeting { until: MonoTime, base: Base },
    /// A session is open.
    Open(Box<Open>),
    /// The agent ends: nothing is dialled any more.
    Stopped,
}

impl Link {
    /// Whether there is a stream or a dial.
    pub(super) fn is_up(&self) -> bool {
        match self {
            Self::Off | Self::Waiting { .. } | Self::Stopped => false,
            Self::Dialing { .. } | Self::Greeting { .. } | Self::Open(_) => true,
        }
    }

    /// How long the session has lived.
    pub(super) fn lived(&self, now: MonoTime) -> Duration {
        match self {
            Self::Open(open) => now.saturating_since(open.since),
            Self::Off
            | Self::Waiting { .. }
            | Self::Dialing { .. }
            | Self::Greeting { .. }
            | Self::Stopped => Duration::ZERO,
        }
    }
}

/// An open session.
#[derive(Debug, Clone)]
pub(super) struct Open {
    since: MonoTime,
    /// The gateway answers nothing but a renewal: nothing else is said.
    pub(super) renew_only: bool,
    /// What the gateway believes that we hold, plus what we keep for refused instances.
    pub(super) base: Base,
    /// Parts of an Update that is not whole yet.
    assembly: Option<Assembly>,
    nonce: u64,
    interval: Duration,
    heard: MonoTime,
    said: MonoTime,
    /// When the heartbeat was sent that nothing was heard after.
    asked: Option<MonoTime>,
    heartbeats: u64,
}

impl Open {
    pub(super) fn new(
        base: Base,
        interval: Option<&prost_types::Duration>,
        renew_only: bool,
        now: MonoTime,
    ) -> Self {
        let (least, most) = limits::HEARTBEAT_INTERVAL_RANGE;
        let interval = interval
            .and_then(skerry_model::time::from_proto_duration)
            .unwrap_or(limits::HEARTBEAT_INTERVAL)
            .clamp(least, most);
        Self {
            since: now,
            renew_only,
            base,
            assembly: None,
            nonce: 0,
            interval,
            heard: now,
            said: now,
            asked: None,
            heartbeats: 0,
        }
    }

    /// A frame came in.
    pub(super) fn heard(&mut self, now: MonoTime) {
        self.heard = now;
        self.asked = None;
    }

    /// A frame went out.
    pub(super) fn said(&mut self, now: MonoTime) {
        self.said = now;
    }

    /// When a heartbeat or the verdict on one is due. Whatever is said and answered stands for a heartbeat.
    pub(super) fn due(&self) -> MonoTime {
        match self.asked {
            Some(asked) => asked + limits::heartbeat_grace(self.interval),
            None => self.said.min(self.heard) + self.interval,
        }
    }

    pub(super) fn is_dead(&self, now: MonoTime) -> bool {
        self.asked.is_some() && self.due() <= now
    }

    pub(super) fn heartbeat(&mut self, now: MonoTime) -> Option<pb::Heartbeat> {
        if self.asked.is_some() || self.due() > now {
            return None;
        }
        self.asked = Some(now);
        self.said = now;
        self.heartbeats += 1;
        Some(pb::Heartbeat { sequence: self.heartbeats })
    }

    /// Takes a part of an Update; gives it back when it is whole.
    pub(super) fn receive(&mut self, part: pb::Update) -> Result<Option<Assembly>, &'static str> {
        let more = part.more;
        let assembly = match self.assembly.take() {
            Some(assembly) => assembly.append(part)?,
            None if part.nonce <= self.nonce => return Err("the nonce of an Update did not rise"),
            None => {
                self.nonce = part.nonce;
                Assembly::begin(part)?
            }
        };
        if more {
            self.assembly = Some(assembly);
            return Ok(None);
        }
        Ok(Some(assembly))
    }
}

/// How long to wait before the next dial.
#[derive(Debug, Clone)]
pub(super) struct Redial {
    backoff: Backoff,
    superseded: u32,
}

impl Redial {
    pub(super) fn new() -> Self {
        let (base, cap) = limits::REDIAL;
        Self { backoff: Backoff::new(base, cap), superseded: 0 }
    }

    /// After a session that lived `lived`, or none.
    pub(super) fn wait(&mut self, retry_after: Option<Duration>, lived: Duration, rng: &mut Rng) -> Duration {
        if lived >= limits::STABLE_SESSION {
            self.backoff.reset();
        }
        if lived >= limits::SUPERSEDED_FORGOTTEN {
            self.superseded = 0;
        }
        retry_after.unwrap_or_default().min(limits::RETRY_AFTER_MAX) + self.backoff.next(rng)
    }

    /// After another agent of this name took over.
    pub(super) fn superseded(
        &mut self,
        retry_after: Option<Duration>,
        lived: Duration,
        rng: &mut Rng,
    ) -> Duration {
        if lived >= limits::SUPERSEDED_FORGOTTEN {
            self.superseded = 0;
        }
        let (least, most) = limits::SUPERSEDED_WAIT;
        let wait = least.saturating_mul(1 << self.superseded.min(10)).min(most);
        self.superseded = self.superseded.saturating_add(1);
        let wait = wait.max(retry_after.unwrap_or_default().min(limits::RETRY_AFTER_MAX));
        wait + rng.up_to(wait / 2)
    }
}
