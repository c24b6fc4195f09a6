//! The node's certificate: when a new one is asked for, and that what was sent is taken before the next dial.
//!
//! Time here is the server's: what its clock showed last, and how long ago that was. The machine's own wall clock decides nothing, so that
//! one which says 1970 or 2099 neither hastens nor delays a renewal.

use std::time::Duration;

use bytes::Bytes;
use skerry_proto::gateway::v1 as pb;

use crate::limits;
use crate::rng::{Backoff, Rng};
use crate::time::{MonoTime, WallTime};

/// What the machine must know of a certificate that it may renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// PKCS#10 in DER for the node's key: what a renewal asks with.
    pub certificate_request: Bytes,
    /// When to ask, by the server's clock: two thirds of its life are over.
    pub renew_at: WallTime,
    /// When it ends.
    pub not_after: WallTime,
    /// `roots_digest` of the Hello.
    pub roots_digest: Bytes,
}

/// What a Renewal means.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing now.
    Nothing,
    /// Check it, write it, use it.
    Take(pb::IssuedCertificate),
    /// It was refused.
    Refused { why: String, retry: Duration },
}

#[derive(Debug, Clone)]
pub(super) struct Renewal {
    /// Absent: there is none that could be renewed over the stream.
    identity: Option<AgentIdentity>,
    /// Added to `renew_at`.
    spread: Duration,
    /// What the server's clock showed, and when that was heard.
    told: Option<(WallTime, MonoTime)>,
    /// The gateway answers nothing else, and there is no new certificate yet.
    only: bool,
    /// What was sent could not be taken: all of it is asked for again.
    again: bool,
    /// A request is out; no longer waited for after this.
    asked: Option<MonoTime>,
    /// The driver is taking one: whether it has a certificate, or roots only.
    taking: Option<bool>,
    /// What came meanwhile.
    next: Option<pb::IssuedCertificate>,
    /// A certificate was taken in this session.
    renewed: bool,
    /// After a failure: not before.
    not_before: MonoTime,
    backoff: Backoff,
}

impl Renewal {
    pub(super) fn new(identity: Option<AgentIdentity>, rng: &mut Rng) -> Self {
        let (base, cap) = limits::RENEWAL_RETRY;
        let mut renewal = Self {
            identity: None,
            spread: Duration::ZERO,
            told: None,
            only: false,
            again: false,
            asked: None,
            taking: None,
            next: None,
            renewed: false,
            not_before: MonoTime::default(),
            backoff: Backoff::new(base, cap),
        };
        renewal.replace(identity, rng);
        renewal
    }

    /// Another identity counts from now on.
    pub(super) fn replace(&mut self, identity: Option<AgentIdentity>, rng: &mut Rng) {
        // Machines that were enrolled together do not all come back in the same minute.
        let left = |identity: &AgentIdentity| {
            identity.not_after.since_epoch().saturating_sub(identity.renew_at.since_epoch())
        };
        self.spread = identity.as_ref().map(left).map_or(Duration::ZERO, |left| rng.up_to(left / 8));
        self.identity = identity;
        self.not_before = MonoTime::default();
        self.backoff.reset();
    }

    pub(super) fn roots_digest(&self) -> Bytes {
        self.identity.as_ref().map(|identity| identity.roots_digest.clone()).unwrap_or_default()
    }

    /// Whether the driver is taking one: a dial would still be made with the old one.
    pub(super) fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// Whether the next dial is made with another certificate than the last one.
    pub(super) fn is_renewed(&self) -> bool {
        self.renewed || self.taking == Some(true)
    }

    pub(super) fn session_opened(&mut self, only: bool) {
        self.only = only;
        self.asked = None;
        self.renewed = false;
    }

    pub(super) fn session_lost(&mut self) {
        self.only = false;
        self.asked = None;
    }

    /// The server's clock shows `told`.
    pub(super) fn heard(&mut self, told: WallTime, now: MonoTime) {
        self.told = Some((told, now));
    }

    /// When [`Self::ask`] has something to do in an open session, if ever by itself.
    pub(super) fn due(&self) -> Option<MonoTime> {
        if self.taking.is_some() {
            return None;
        }
        if self.asked.is_some() {
            return self.asked;
        }
        let identity = self.identity.as_ref()?;
        if self.only || self.again {
            return Some(self.not_before);
        }
        let (told, heard) = self.told?;
        let renew_at = identity.renew_at.since_epoch().saturating_add(self.spread);
        let due = heard + renew_at.saturating_sub(told.since_epoch());
        Some(due.max(self.not_before))
    }

    /// Asks, if it is time to.
    pub(super) fn ask(&mut self, now: MonoTime, rng: &mut Rng) -> Option<pb::RenewalRequest> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        if self.asked.take().is_some() {
            self.not_before = now + self.backoff.next(rng);
            return None;
        }
        let certificate_request = self.identity.as_ref()?.certificate_request.clone();
        self.asked = Some(now + limits::RENEWAL_TIMEOUT);
        Some(pb::RenewalRequest { certificate_request, sealing_key: Bytes::new() })
    }

    pub(super) fn received(&mut self, renewal: pb::Renewal, now: MonoTime, rng: &mut Rng) -> Received {
        if self.identity.is_none() {
            return Received::Nothing;
        }
        if !renewal.refused.is_empty() {
            self.asked = None;
            let retry = self.backoff.next(rng);
            self.not_before = now + retry;
            return Received::Refused { why: renewal.refused, retry };
        }
        let Some(certificate) = renewal.certificate else { return Received::Nothing };
        let has_chain = !certificate.chain.is_empty();
        if has_chain {
            self.asked = None;
        }
        if self.taking.is_some() {
            self.next = Some(certificate);
            return Received::Nothing;
        }
        self.taking = Some(has_chain);
        Received::Take(certificate)
    }

    /// The driver took one, or could not. Answers what is to be taken next, and the wait after a failure.
    pub(super) fn taken(
        &mut self,
        result: Result<AgentIdentity, String>,
        now: MonoTime,
        rng: &mut Rng,
    ) -> (Option<pb::IssuedCertificate>, Option<(String, Duration)>) {
        let Some(has_chain) = self.taking.take() else { return (None, None) };
        self.again = false;
        let failure = match result {
            Ok(identity) if has_chain => {
                self.replace(Some(identity), rng);
                self.only = false;
                self.renewed = true;
                None
            }
            Ok(identity) => {
                self.identity = Some(identity);
                None
            }
            Err(why) => {
                let retry = self.backoff.next(rng);
                self.not_before = now + retry;
                self.again = true;
                Some((why, retry))
            }
        };
        let next = self.next.take();
        self.taking = next.as_ref().map(|certificate| !certificate.chain.is_empty());
        (next, failure)
    }
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;
