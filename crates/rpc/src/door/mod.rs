//! What a listener bears: how many connections, from where, how fast; how long one may say nothing; how much may be asked at once.
//!
//! | module | job |
//! |---|---|
//! | `ledger` | who has how many connections: decides whether one more comes in, pure |
//! | `line` | one connection between its socket and its requests: calls that are open, idleness, resets |
//! | `sizes` | how large a request of each method may be |
//! | `turned` | why somebody was turned away, as `/metrics` counts it |

mod ledger;
mod line;
mod sizes;
mod turned;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use skerry_identity::{Identity, Principal};
use tokio::time::Instant;

pub(crate) use self::ledger::Bounds;
pub(crate) use self::line::{Line, Place};
pub(crate) use self::sizes::request_bytes_max;
pub(crate) use self::turned::Turned;

use self::ledger::{Ledger, Site};
use self::line::Holder;

/// How long a connection may take, once it is open, until its HTTP/2 preface is there. Every client sends it at once; the slowest line
/// needs two round trips.
pub(crate) const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing has been asked for so long is closed. Agents always ask (their stream is open); other clients open
/// a connection anew without noticing. Longer than people pause between two commands.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(600);
/// Calls at once of one node: its stream, the one that this replaces, what it asks beside, and its channels to relays, of which an agent has 64 at
/// most.
const NODE_CALLS_MAX: u32 = 96;
/// Calls at once of one user: a program that deploys, with its watches, on several machines.
const USER_CALLS_MAX: u32 = 512;
/// Calls at once of one service: a gateway asks on behalf of its thousands of agents, and replicas share a name.
const SERVICE_CALLS_MAX: u32 = 8192;
/// Calls at once of one connection that proves no identity.
const UNKNOWN_CALLS_MAX: u32 = 256;
/// From so many counts of identities on, those that nobody uses any more are forgotten.
const HOLDERS_SWEPT_FROM: usize = 256;

/// The door of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Door(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ledger: Mutex<Ledger>,
    holders: Mutex<Holders>,
}

/// How many calls are open of whom. An identity is its hash: two that share one by chance share their bound.
#[derive(Debug, Default)]
struct Holders {
    calls: HashMap<u64, Weak<AtomicU32>>,
    hasher: RandomState,
    sweep_at: usize,
}

impl Door {
    /// A door that bears what this process may.
    pub(crate) fn of_process() -> Self {
        Self::new(Bounds::of_process())
    }

    pub(crate) fn new(bounds: Bounds) -> Self {
        let ledger = Mutex::new(Ledger::new(bounds));
        Self(Arc::new(Shared { ledger, holders: Mutex::default() }))
    }

    /// Lets a connection in, or counts why not. It counts as open until the pass is dropped.
    pub(crate) fn enter(&self, address: IpAddr, handshake: bool) -> Option<Pass> {
        let site = Site::of(address);
        match self.ledger().enter(site, handshake, Instant::now()) {
            Ok(()) => Some(Pass { door: self.clone(), site, handshake }),
            Err(turned) => {
                turned.count();
                tracing::debug!(%address, ?turned, "a connection was turned away");
                None
            }
        }
    }

    /// The bound of calls that all connections of an identity share.
    pub(crate) fn holder(&self, identity: &Identity) -> Holder {
        let max = match identity.principal {
            Principal::Node(_) => NODE_CALLS_MAX,
            Principal::User(_) => USER_CALLS_MAX,
            Principal::Service(_) => SERVICE_CALLS_MAX,
        };
        let mut holders = self.0.holders.lock().unwrap_or_else(PoisonError::into_inner);
        Holder { calls: holders.of(identity), max }
    }

    /// The bound of a connection that proves nothing: its own.
    pub(crate) fn unknown() -> Holder {
        Holder { calls: Arc::default(), max: UNKNOWN_CALLS_MAX }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holders {
    fn of(&mut self, identity: &Identity) -> Arc<AtomicU32> {
        let key = self.hasher.hash_one(identity.to_string());
        if let Some(calls) = self.calls.get(&key).and_then(Weak::upgrade) {
            return calls;
        }
        if self.calls.len() >= self.sweep_at.max(HOLDERS_SWEPT_FROM) {
            self.calls.retain(|_, calls| calls.strong_count() > 0);
            self.sweep_at = 2 * self.calls.len();
        }
        let calls = Arc::default();
        self.calls.insert(key, Arc::downgrade(&calls));
        calls
    }
}

/// That a connection was let in, for as long as it is open.
#[derive(Debug)]
pub(crate) struct Pass {
    door: Door,
    site: Site,
    handshake: bool,
}

impl Pass {
    /// Its handshake has succeeded.
    pub(crate) fn shaken(&mut self) {
        if std::mem::take(&mut self.handshake) {
            self.door.ledger().shaken(self.site);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shaken();
        self.door.ledger().leave(self.site, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity::parse(name).expect("an identity")
    }

    #[test]
    fn all_connections_of_an_identity_share_one_bound_and_a_node_has_the_smallest() {
        let door = Door::new(Bounds::of_process());
        let node = identity("spiffe://example.org/project/default/node/n1");
        let (first, second) = (door.holder(&node), door.holder(&node));
        assert!(Arc::ptr_eq(&first.calls, &second.calls));
        let other = door.holder(&identity("spiffe://example.org/project/other/node/n1"));
        assert!(!Arc::ptr_eq(&first.calls, &other.calls));
        let service = door.holder(&identity("spiffe://example.org/project/system/service/gateway"));
        assert!(first.max < service.max);
    }

    #[test]
    fn identities_that_have_gone_are_forgotten() {
        let door = Door::new(Bounds::of_process());
        for n in 0..10 * HOLDERS_SWEPT_FROM {
            door.holder(&identity(&format!("spiffe://example.org/project/default/node/n{n}")));
        }
        let kept = door.0.holders.lock().expect("no panic").calls.len();
        assert!(kept <= HOLDERS_SWEPT_FROM, "{kept}");
    }

    #[test]
    fn a_pass_that_is_dropped_leaves_nothing_behind() {
        let door = Door::new(Bounds::of_process());
        let address = "203.0.113.7".parse().expect("an address");
        let mut pass = door.enter(address, true).expect("room");
        pass.shaken();
        let other = door.enter(address, true).expect("room");
        assert_eq!(door.ledger().open(), 2);
        drop((pass, other));
        assert_eq!(door.ledger().open(), 0);
        assert!(door.enter(address, false).is_some());
    }
}
