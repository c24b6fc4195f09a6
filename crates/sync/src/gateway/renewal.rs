//! Renewal at the gateway's end: requests are passed on one at a time, and roots are told to who does not know them.

use bytes::Bytes;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_response::Body as Down;

use super::api::{Roots, SessionEffect};
use super::send;

/// What a session knows of its node's certificate.
#[derive(Debug, Clone)]
pub(super) struct Renewal {
    /// Nothing but a renewal is answered.
    pub(super) only: bool,
    asking: bool,
    /// Digest of the roots that the agent trusts, or was told. Empty: it does without TLS.
    known: Bytes,
}

impl Renewal {
    pub(super) fn new(only: bool, known: Bytes) -> Self {
        Self { only, asking: false, known }
    }

    /// A request came in. One that comes while another is asked for is that one again: its answer is on the way.
    pub(super) fn requested(&mut self, request: pb::RenewalRequest, out: &mut Vec<SessionEffect>) {
        if !std::mem::replace(&mut self.asking, true) {
            out.push(SessionEffect::Renew(Box::new(request)));
        }
    }

    /// The answer. `true`: the session has done what it was for.
    pub(super) fn renewed(
        &mut self,
        result: Result<pb::IssuedCertificate, String>,
        out: &mut Vec<SessionEffect>,
    ) -> bool {
        if !std::mem::take(&mut self.asking) {
            return false;
        }
        let done = self.only && result.is_ok();
        let renewal = match result {
            Ok(certificate) => pb::Renewal { certificate: Some(certificate), refused: String::new() },
            Err(refused) => pb::Renewal { certificate: None, refused },
        };
        send(out, Down::Renewal(renewal));
        done
    }

    /// Tells the roots that are trusted now, if the agent trusts others.
    pub(super) fn roots(&mut self, roots: Roots, now: prost_types::Timestamp, out: &mut Vec<SessionEffect>) {
        if self.known.is_empty() || self.known == roots.digest {
            return;
        }
        self.known = roots.digest;
        let certificate =
            pb::IssuedCertificate { chain: Vec::new(), roots: roots.der, server_time: Some(now) };
        send(out, Down::Renewal(pb::Renewal { certificate: Some(certificate), refused: String::new() }));
    }
}
