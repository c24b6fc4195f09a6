//! The desired state on its way to disk: one write at a time, tried again when it fails, acknowledged only afterwards.

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::gateway::v1 as pb;

use super::update::Base;
use crate::rng::{Backoff, Rng};
use crate::time::MonoTime;
use crate::{Desired, Version, limits};

/// An update that was taken and is to be written.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// What is held once it is written.
    pub(super) base: Base,
    /// Which connection sent it.
    pub(super) connection: u64,
    /// To be acknowledged.
    pub(super) nonce: u64,
    /// What was refused of it.
    pub(super) errors: Vec<pb::ResourceError>,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Written {
    /// No such write.
    Unknown,
    /// It failed; what was held is still held.
    Failed { error: String, retry: Duration },
    /// It is held.
    Held(Candidate),
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    /// What is on disk for certain.
    pub(super) held: Arc<Desired>,
    writing: Option<(u64, Candidate)>,
    next: Option<Candidate>,
    /// After a failed write: not before.
    not_before: Option<MonoTime>,
    backoff: Backoff,
    token: u64,
}

impl Disk {
    pub(super) fn new() -> Self {
        let (base, cap) = limits::PERSIST_RETRY;
        Self {
            held: Arc::new(Desired::default()),
            writing: None,
            next: None,
            not_before: None,
            backoff: Backoff::new(base, cap),
            token: 0,
        }
    }

    /// The newest version that is on disk or may already be.
    pub(super) fn newest(&self) -> Option<Version> {
        let writing = self.writing.as_ref().and_then(|(_, candidate)| candidate.base.desired.version);
        self.held.version.max(writing)
    }

    /// Takes what is to be written next. There is never more than one: the gateway sends an Update after the Ack of the one before.
    pub(super) fn offer(&mut self, candidate: Candidate) {
        self.next = Some(candidate);
    }

    /// The candidate that needs no write, as it is what is held.
    pub(super) fn take_unchanged(&mut self) -> Option<Candidate> {
        let same = |candidate: &mut Candidate| *candidate.base.desired == *self.held;
        if self.writing.is_some() { None } else { self.next.take_if(same) }
    }

    /// Begins the next write, if one is due.
    pub(super) fn begin(&mut self, now: MonoTime) -> Option<(u64, Arc<Desired>)> {
        if self.writing.is_some() || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        let candidate = self.next.take()?;
        self.not_before = None;
        self.token += 1;
        let desired = Arc::clone(&candidate.base.desired);
        self.writing = Some((self.token, candidate));
        Some((self.token, desired))
    }

    /// When `begin` has something to do, if ever by itself.
    pub(super) fn due(&self) -> Option<MonoTime> {
        if self.writing.is_some() || self.next.is_none() { None } else { self.not_before }
    }

    /// A write ended. `connection` is the one that is up.
    pub(super) fn written(
        &mut self,
        token: u64,
        result: Result<(), String>,
        connection: Option<u64>,
        now: MonoTime,
        rng: &mut Rng,
    ) -> Written {
        let Some((_, candidate)) = self.writing.take_if(|(writing, _)| *writing == token) else {
            return Written::Unknown;
        };
        match result {
            Ok(()) => {
                self.backoff.reset();
                self.held = Arc::clone(&candidate.base.desired);
                Written::Held(candidate)
            }
            Err(error) => {
                let retry = self.backoff.next(rng);
                self.not_before = Some(now + retry);
                // The gateway of a new connection sends it again.
                if connection == Some(candidate.connection) && self.next.is_none() {
                    self.next = Some(candidate);
                }
                Written::Failed { error, retry }
            }
        }
    }

    /// What is not being written yet will be sent again.
    pub(super) fn session_lost(&mut self) {
        self.next = None;
    }
}
