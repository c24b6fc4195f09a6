//! Calls that were refused for who made them: counted by who, method and reason, and told to whoever keeps them, a minute at a time.
//!
//! Bounded by design, since who is refused chooses names: so many different ones are told apart, and all others are counted together. Counting
//! takes a lock for a look into a map, and waits for nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex, PoisonError};

use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use skerry_model::{Code, Fault};
use tonic::Status;

use super::table::rule;
use crate::error::fault_of;
use crate::peer::Peer;

/// Different callers, methods and reasons that are told apart at once.
const DISTINCT_MAX: usize = 512;
/// Longest name of a caller that is kept; the rest is cut.
const NAME_BYTES_MAX: usize = 256;
/// Who is counted together, where there are more.
const OTHERS: &str = "others";
/// A method that is none of ours: its name is the caller's choice.
const UNKNOWN: &str = "unknown";

static OF_PROCESS: LazyLock<DeniedCalls> = LazyLock::new(DeniedCalls::default);

static METER: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let meter = opentelemetry::global::meter("skerry");
    let counter = meter.u64_counter("skerry.rpc.denied");
    counter.with_description("Calls that were refused for who made them, by reason").build()
});

/// Refused calls that are the same but for their time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Denied {
    /// The name that the caller has proved, or where it called from.
    pub who: String,
    /// The method, if it is one.
    pub method: String,
    /// Why, in one word.
    pub reason: String,
}

/// Refused calls since they were last taken.
#[derive(Debug, Default)]
pub struct DeniedCalls(Mutex<HashMap<Denied, u64>>);

impl DeniedCalls {
    /// Those of all listeners of this process.
    pub fn of_process() -> &'static Self {
        &OF_PROCESS
    }

    /// Counts one.
    fn count(&self, denied: Denied) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = calls.len() >= DISTINCT_MAX && !calls.contains_key(&denied);
        let denied = if is_full { others() } else { denied };
        let count = calls.entry(denied).or_default();
        *count = count.saturating_add(1);
    }

    /// All of them, and begins anew: the most frequent first.
    pub fn take(&self) -> Vec<(Denied, u64)> {
        let calls = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut calls: Vec<_> = calls.into_iter().collect();
        calls.sort_by(|(one, count), (other, others)| {
            others.cmp(count).then_with(|| (&one.who, &one.method).cmp(&(&other.who, &other.method)))
        });
        calls
    }
}

fn others() -> Denied {
    Denied { who: OTHERS.to_owned(), method: OTHERS.to_owned(), reason: OTHERS.to_owned() }
}

/// Counts a refusal, if it is one for who called and not for what was said.
pub(crate) fn tell(path: &str, peer: Option<&Peer>, address: Option<SocketAddr>, fault: &Fault) {
    keep(denied(path, peer, address, (fault.code, fault.reason)));
}

/// The same of an answer whose handler has refused: what has no message is told by the head alone.
pub(super) fn tell_answer(path: &str, peer: Option<&Peer>, head: &HeaderMap) {
    keep(denied_by(path, peer, head));
}

fn keep(denied: Option<Denied>) {
    if let Some(denied) = denied {
        METER.add(1, &[KeyValue::new("reason", denied.reason.clone())]);
        OF_PROCESS.count(denied);
    }
}

fn denied_by(path: &str, peer: Option<&Peer>, head: &HeaderMap) -> Option<Denied> {
    // Hardly ever there: what succeeds has it behind its message.
    if !head.contains_key("grpc-status") {
        return None;
    }
    let fault = fault_of(&Status::from_header_map(head)?);
    let reason = fault.metadata.get("reason").map_or(fault.reason, String::as_str);
    denied(path, peer, None, (fault.code, reason))
}

fn denied(
    path: &str,
    peer: Option<&Peer>,
    address: Option<SocketAddr>,
    (code, reason): (Code, &str),
) -> Option<Denied> {
    if !matches!(code, Code::PermissionDenied | Code::Unauthenticated) {
        return None;
    }
    let mut who = match peer.and_then(Peer::identity) {
        Some(identity) => identity.to_string(),
        None => match peer.and_then(|peer| peer.address).or(address) {
            Some(address) => format!("nobody, from {}", address.ip().to_canonical()),
            None => "nobody".to_owned(),
        },
    };
    who.truncate(who.floor_char_boundary(NAME_BYTES_MAX));
    let method = if rule(path).is_some() { path.trim_start_matches('/') } else { UNKNOWN };
    Some(Denied { who, method: method.to_owned(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::status_of;

    fn denied(who: &str) -> Denied {
        Denied { who: who.into(), method: "M".into(), reason: "R".into() }
    }

    #[test]
    fn what_a_handler_refuses_for_who_called_is_told_with_its_reason_and_nothing_else_is() {
        let path = "/skerry.gateway.v1.EnrollmentService/Enroll";
        let peer = Peer { address: Some("192.0.2.1:7".parse().unwrap()), certificate: None };
        let told = |answer: http::Response<()>| denied_by(path, Some(&peer), answer.headers());
        let refused = |code| status_of(&Fault::new(code, "TOKEN_REFUSED", "no")).into_http::<()>();
        let expected = Denied {
            who: "nobody, from 192.0.2.1".into(),
            method: path[1..].into(),
            reason: "TOKEN_REFUSED".into(),
        };
        assert_eq!(told(refused(Code::PermissionDenied)), Some(expected));
        assert_eq!(told(refused(Code::NotFound)), None);
        assert_eq!(told(http::Response::new(())), None);
        let bare = told(Status::unauthenticated("no").into_http::<()>()).expect("refused");
        assert_eq!(bare.reason, "UNAUTHENTICATED");
    }

    #[test]
    fn the_same_is_counted_together_and_taken_once() {
        let calls = DeniedCalls::default();
        for who in ["a", "b", "b", "b", "a"] {
            calls.count(denied(who));
        }
        assert_eq!(calls.take(), [(denied("b"), 3), (denied("a"), 2)]);
        assert_eq!(calls.take(), []);
    }

    #[test]
    fn names_that_callers_choose_take_no_more_room_than_there_is() {
        let calls = DeniedCalls::default();
        let many = DISTINCT_MAX * 3;
        for number in 0..many {
            calls.count(denied(&number.to_string()));
        }
        calls.count(denied("0"));
        let taken = calls.take();
        assert_eq!(taken.len(), DISTINCT_MAX + 1);
        assert_eq!(taken[0], (others(), u64::try_from(many - DISTINCT_MAX).unwrap()));
        assert!(taken.contains(&(denied("0"), 2)), "what is known already is told apart");
    }
}
