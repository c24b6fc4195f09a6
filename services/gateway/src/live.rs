//! Which sessions live here, and what wakes them: a change of their node's keys, or a channel that a relay offers. A wake-up says nothing more;
//! who is woken looks again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use opentelemetry::metrics::UpDownCounter;
use skerry_model::NodeRef;
use skerry_proto::gateway::v1 as pb;
use skerry_store::{Changes, Family};
use skerry_sync::{OfferRefusal, Version, limits};
use tokio::sync::{Notify, oneshot};

use crate::Shared;

/// What the gpu service may say to an agent before it is sent.
const GPU_FEEDBACK_MAX: usize = 16;

static SESSIONS: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
    let meter = opentelemetry::global::meter("skerry");
    let counter = meter.i64_up_down_counter("skerry.gateway.sessions");
    counter.with_description("Sessions of agents that are open or opening").build()
});

/// By the part of the keys that is the node's: `<project>/<node>`. Two sessions of one node may live here for a moment.
#[derive(Debug, Default)]
pub(crate) struct Live {
    sessions: Mutex<HashMap<Box<str>, Vec<Arc<Wake>>>>,
    /// Streams, those that have said nothing yet too.
    streams: AtomicUsize,
}

/// What wakes a session, and what is for it then.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) notify: Notify,
    offers: Mutex<Vec<Offer>>,
    /// What the gpu service says to the agent: the oldest first.
    gpu_feedback: Mutex<Vec<Bytes>>,
}

/// A channel that a relay offers to the agent of a session.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) epoch: Version,
    pub(crate) what: Box<pb::ChannelOffer>,
    /// Dropped where the session ends before the agent has answered.
    pub(crate) answer: oneshot::Sender<Result<(), OfferRefusal>>,
}

impl Wake {
    /// What was offered since the last call.
    pub(crate) fn take_offers(&self) -> Vec<Offer> {
        std::mem::take(&mut *lock(&self.offers))
    }

    /// The gpu service says something to the agent. What there is no room for it says again.
    pub(crate) fn gpu_feedback(&self, feedback: Bytes) {
        let mut all = lock(&self.gpu_feedback);
        if all.len() < GPU_FEEDBACK_MAX {
            all.push(feedback);
            self.notify.notify_one();
        }
    }

    /// What it said since the last call.
    pub(crate) fn take_gpu_feedback(&self) -> Vec<Bytes> {
        std::mem::take(&mut *lock(&self.gpu_feedback))
    }
}

/// One stream among the living, as long as it is held.
pub(crate) struct Alive {
    shared: Arc<Shared>,
    node: Option<Box<str>>,
    pub(crate) wake: Arc<Wake>,
}

impl Live {
    /// Counts a stream in.
    pub(crate) fn enter(shared: &Arc<Shared>) -> Alive {
        shared.live.streams.fetch_add(1, Ordering::Relaxed);
        SESSIONS.add(1, &[]);
        Alive { shared: Arc::clone(shared), node: None, wake: Arc::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    fn wake(&self, node: &str) {
        let sessions = lock(&self.sessions);
        for wake in sessions.get(node).into_iter().flatten() {
            wake.notify.notify_one();
        }
    }

    /// Hands an offer to the newest session of `node`; gives it back where there is none here, or one that has enough of them.
    pub(crate) fn offer(&self, node: &NodeRef, offer: Offer) -> Result<(), Offer> {
        let sessions = lock(&self.sessions);
        let wake = sessions.get(path_of(node).as_str()).and_then(|wakes| wakes.last());
        let Some(wake) = wake else { return Err(offer) };
        let mut offers = lock(&wake.offers);
        if offers.len() >= limits::OFFERS_MAX {
            return Err(offer);
        }
        offers.push(offer);
        wake.notify.notify_one();
        Ok(())
    }

    /// Has all sessions look.
    pub(crate) fn wake_all(&self) {
        let sessions = lock(&self.sessions);
        for wake in sessions.values().flatten() {
            wake.notify.notify_one();
        }
    }
}

impl Alive {
    /// From now on changes of this node wake the stream.
    pub(crate) fn follow(&mut self, node: &NodeRef) {
        let path: Box<str> = path_of(node).into();
        let mut sessions = lock(&self.shared.live.sessions);
        sessions.entry(path.clone()).or_default().push(Arc::clone(&self.wake));
        self.node = Some(path);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path_of(node: &NodeRef) -> String {
    format!("{}/{}", node.project, node.node)
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.shared.live.streams.fetch_sub(1, Ordering::Relaxed);
        SESSIONS.add(-1, &[]);
        let Some(node) = &self.node else { return };
        let mut sessions = lock(&self.shared.live.sessions);
        if let Some(wakes) = sessions.get_mut(node) {
            wakes.retain(|wake| !Arc::ptr_eq(wake, &self.wake));
            if wakes.is_empty() {
                sessions.remove(node);
            }
        }
    }
}

/// Wakes sessions whose node's keys changed, until the mirror ends.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut wake = shared.mirror.subscribe();
    let mut term = shared.store.watch_term();
    let mut cursor = None;
    loop {
        let delta = shared.mirror.changes(cursor);
        cursor = Some(delta.cursor);
        match delta.changes {
            Changes::Resync => shared.live.wake_all(),
            Changes::Since(changes) => {
                for change in changes {
                    match Family::of_key(change.key()) {
                        // Other roots are news for all.
                        Some(Family::Authority) => shared.live.wake_all(),
                        Some(family) => shared.live.wake(&change.key()[family.prefix().len()..]),
                        None => {}
                    }
                }
            }
        }
        tokio::select! {
            () = shared.shutdown.wait() => return,
            more = wake.changed() => if !more { return },
            raised = term.raised() => match raised {
                Some(_) => shared.live.wake_all(),
                None => return,
            },
        }
    }
}
