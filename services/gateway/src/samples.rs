//! GPU samples of the sessions here, on their way to the gpu service: each node's to one of its replicas, batched, on one stream per replica.
//!
//! Nothing waits for them: where a replica takes too few they are dropped, which shows by their numbers. Which replica has a node is its rendezvous hash
//! (Thaler and Ravishankar, 1998) over those that this gateway has a stream to: when one comes or goes only the nodes move that it has or had.

mod link;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use skerry_api::Links;
use skerry_model::NodeRef;
use skerry_proto::gpu::v1 as pb;
use skerry_sync::Version;

use crate::live::Wake;
use link::Link;
pub(crate) use link::follow;

/// Longest frame that is passed on: with what is around it, it fits into one message of a mebibyte.
const FRAME_BYTES_MAX: usize = (1 << 20) - 1024;

/// The streams to replicas of the gpu service.
#[derive(Debug)]
pub(crate) struct Samples {
    links: Links,
    ring: Mutex<Ring>,
    /// Whether agents are to send samples.
    wanted: AtomicBool,
    /// Of the last session.
    handles: AtomicU32,
}

/// Those that are open now.
#[derive(Debug, Default)]
struct Ring {
    /// Raised with each change.
    version: u64,
    open: Vec<Arc<Link>>,
}

/// One session's samples.
#[derive(Debug)]
pub(crate) struct Sampled {
    node: Box<str>,
    node_uid: String,
    epoch: Version,
    wake: Arc<Wake>,
    /// The ring's version that the link was chosen in.
    version: u64,
    /// Where they go now, and by which handle. A stream that is opened anew is another link.
    to: Option<(Arc<Link>, u32)>,
}

impl Samples {
    pub(crate) fn new(links: Links) -> Self {
        Self { links, ring: Mutex::default(), wanted: AtomicBool::new(false), handles: AtomicU32::new(0) }
    }

    /// Whether agents are to send samples.
    pub(crate) fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sampled {
    pub(crate) fn new(node: &NodeRef, node_uid: &str, epoch: Version, wake: &Arc<Wake>) -> Self {
        let (node, node_uid, wake) = (node.to_string().into(), node_uid.to_owned(), Arc::clone(wake));
        Self { node, node_uid, epoch, wake, version: 0, to: None }
    }

    /// Passes a frame on, or drops it.
    pub(crate) fn pass(&mut self, samples: &Samples, frame: Bytes) {
        if frame.len() > FRAME_BYTES_MAX {
            return;
        }
        self.choose(samples);
        if let Some((link, handle)) = &self.to {
            link.pass(pb::IngestFrame { handle: *handle, frame });
        }
    }

    fn choose(&mut self, samples: &Samples) {
        let ring = samples.ring();
        if ring.version == self.version {
            return;
        }
        let chosen = ring.open.iter().max_by_key(|link| weight(&self.node, link.replica()));
        let stays = |(link, _): &(Arc<Link>, u32)| chosen.is_some_and(|chosen| Arc::ptr_eq(link, chosen));
        if !self.to.as_ref().is_some_and(stays) {
            self.leave();
            let Some(chosen) = chosen else {
                self.version = ring.version;
                return;
            };
            let handle = samples.handles.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            let session = pb::IngestSession {
                handle,
                node: self.node.to_string(),
                node_uid: self.node_uid.clone(),
                epoch_term: self.epoch.term,
                epoch_revision: self.epoch.revision,
                closed: false,
            };
            // One that has no room for it is asked again with the next frame.
            if !chosen.open(session, &self.wake) {
                return;
            }
            self.to = Some((Arc::clone(chosen), handle));
        }
        self.version = ring.version;
    }

    fn leave(&mut self) {
        if let Some((link, handle)) = self.to.take() {
            link.close(handle);
        }
    }
}

impl Drop for Sampled {
    fn drop(&mut self) {
        self.leave();
    }
}

/// How much a node belongs to a replica.
fn weight(node: &str, replica: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(node.as_bytes()).update(b"\0").update(replica.as_bytes());
    let hash = hasher.finalize();
    hash.as_bytes().iter().take(8).fold(0, |weight, byte| weight << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen<'a>(node: &str, replicas: &'a [String]) -> Option<&'a String> {
        replicas.iter().max_by_key(|replica| weight(node, replica))
    }

    proptest! {
        #[test]
        fn only_nodes_of_the_replica_that_goes_move(
            replicas in proptest::collection::btree_set("[a-z]{6}", 2..6),
            nodes in proptest::collection::vec("projects/p/nodes/[a-z0-9]{1,8}", 1..50),
            gone in any::<proptest::sample::Index>(),
        ) {
            let before: Vec<String> = replicas.into_iter().collect();
            let mut after = before.clone();
            let gone = after.remove(gone.index(before.len()));
            for node in &nodes {
                let had = chosen(node, &before).unwrap();
                if *had != gone {
                    prop_assert_eq!(Some(had), chosen(node, &after));
                }
            }
        }
    }

    #[test]
    fn nodes_are_spread_over_replicas() {
        let replicas: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let of = |replica: &String| {
            (0..3_000)
                .filter(|n| chosen(&format!("projects/p/nodes/n{n}"), &replicas) == Some(replica))
                .count()
        };
        for replica in &replicas {
            assert!((800..1_200).contains(&of(replica)), "{replica}: {}", of(replica));
        }
    }
}
