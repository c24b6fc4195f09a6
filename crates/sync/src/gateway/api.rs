//! What goes into a gateway's session and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1 as store;

use crate::Version;

/// What is the same for all sessions of a gateway, and a seed that is not.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Which gateway this is.
    pub gateway: Arc<str>,
    /// How often an agent shall be heard: 1 s to 60 s. See `limits::HEARTBEAT_INTERVAL`.
    pub heartbeat_interval: Duration,
    /// Seeds the jitter.
    pub seed: u64,
}

/// What a node shall run.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// `(store term, modification revision)` of the record.
    pub version: Version,
    /// The record.
    pub record: Arc<store::AssignmentRecord>,
}

/// What the transaction that opened a session found and wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// `(store term, modification revision)` of the session record that was written.
    pub epoch: Version,
    /// The node's uid.
    pub node_uid: String,
    /// `merge::status_digest` of the stored status. Empty where none is stored.
    pub status_digest: Bytes,
    /// What the stored status says that the agent acknowledged last: `merge::acknowledged_version`.
    pub acknowledged: Option<Version>,
    /// Whether the stored status names refused resources.
    pub has_refused: bool,
    /// Names of the instances and ids of the images in the stored status: what the node was known to have.
    pub reported: Vec<String>,
    /// The assignment. A node without one keeps what it holds.
    pub assignment: Option<Assignment>,
    /// The node's certificate is out of time: nothing but a renewal is answered.
    pub renew_only: bool,
    /// The roots that are trusted now. Absent: there is no authority.
    pub roots: Option<Roots>,
}

/// The roots that are trusted now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// As `roots_digest` of the Hello.
    pub digest: Bytes,
    /// DER, the newest first.
    pub der: Vec<Bytes>,
}

/// Why a session was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenFailure {
    /// The peer may not speak for this node.
    Denied(String),
    /// There is no such node, and none is made.
    UnknownNode(String),
    /// The key that the peer proved is not the node's, or no more.
    Revoked(String),
    /// Too many sessions open at once.
    Overloaded {
        /// The least wait before the next try.
        retry_after: Duration,
    },
    /// The store does not answer.
    Unavailable(String),
}

/// What happened.
///
/// The driver's side of the contract: each `Open`, `Load`, `Commit` and `Renew` is answered once, with its token if it has one. After `End` nothing is
/// delivered any more.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "short-lived, and most of them are frames")]
pub enum SessionEvent {
    /// A frame came in.
    Frame(pb::SyncRequest),
    /// The agent closed its half of the stream, or the stream broke.
    StreamClosed,
    /// The session is in the store.
    Opened(Box<Opened>),
    /// It is not.
    OpenFailed(OpenFailure),
    /// The assignment changed. Older and repeated ones do no harm.
    AssignmentChanged(Assignment),
    /// The contents that were asked for.
    Loaded {
        /// Of the `Load`.
        token: u64,
        /// Those that are in the store; each made by `desired::content_resource`.
        resources: Vec<pb::Resource>,
        /// Names of those that are not.
        missing: Vec<String>,
    },
    /// The contents could not be read. They are asked for again.
    LoadFailed {
        /// Of the `Load`.
        token: u64,
        /// For the log.
        why: String,
    },
    /// The change is in the store.
    Committed {
        /// Of the `Commit`.
        token: u64,
        /// `merge::status_digest` of the status that is stored now.
        digest: Bytes,
    },
    /// The change is not in the store, or nobody knows. It is committed again: merging twice does no harm.
    CommitFailed {
        /// Of the `Commit`.
        token: u64,
        /// For the log.
        why: String,
    },
    /// The session record is no longer ours: a newer session took over.
    Superseded {
        /// The boot of the newer session. The same agent's, if it opened two of which this one came first and answered last.
        boot_id: String,
    },
    /// The node was deleted.
    NodeDeleted,
    /// The key that the peer proved was struck out of the node's record, or another took its place.
    Revoked,
    /// The answer to a `Renew`: a certificate, or why there is none.
    Renewed(Result<pb::IssuedCertificate, String>),
    /// These roots are trusted from now on. The same again does no harm.
    RootsChanged(Roots),
    /// A relay offers a channel to the agent.
    Offered {
        /// Of the session that is meant.
        epoch: Version,
        /// What is offered.
        offer: Box<pb::ChannelOffer>,
    },
    /// The agent shall open a new session: the gateway stops, or what the session was opened in is over.
    Drain {
        /// Why, for the agent's log.
        why: &'static str,
        /// When this agent shall come back; spread over the agents by the driver.
        retry_after: Duration,
    },
    /// `deadline()` has passed. Too early or too often does no harm.
    Timer,
}

/// What goes into a node's status and events, in one transaction that compares the session's epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// `projects/<project>/nodes/<node>`.
    pub node: String,
    /// The agent's boot, which events are counted in.
    pub boot_id: String,
    /// What the agent reported, if it did.
    pub report: Option<pb::Report>,
    /// What the agent acknowledged, if it did.
    pub acknowledged: Option<Acknowledged>,
}

/// What an agent acknowledged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Acknowledged {
    /// What it holds on disk.
    pub version: Version,
    /// All resources of that version that it refused, by name.
    pub refused: Vec<store::RefusedResource>,
}

/// What the driver shall do, in order.
#[derive(Debug, Clone)]
pub enum SessionEffect {
    /// Check the peer against the node that the hello names, and put the session into the store.
    Open(Box<pb::Hello>),
    /// Send a frame.
    Send(pb::SyncResponse),
    /// Read revisions and configs (`desired::ResourceName`) from the store. Never two at once.
    Load {
        /// Comes back in the answer.
        token: u64,
        /// Resource names.
        names: Vec<String>,
    },
    /// Merge this into status and events, fenced by the session's epoch. Never two at once.
    Commit {
        /// Comes back in the answer.
        token: u64,
        /// What.
        change: Arc<Change>,
    },
    /// Ask for a new certificate on behalf of the node. Never two at once.
    Renew(Box<pb::RenewalRequest>),
    /// Tell the relay that offered this channel what became of it. One that is not answered when the session ends has failed.
    OfferAnswered {
        /// Of the offer.
        channel: String,
        /// Whether the agent dials.
        answer: Result<(), OfferRefusal>,
    },
    /// The agent sent GPU samples, for the gpu service: an encoded `skerry.gpu.v1.Frame`, not looked into. They may be dropped.
    GpuFrame(Bytes),
    /// Write into the session record that the session is closed, fenced by its epoch. The session no longer waits for it.
    Close,
    /// End the stream after what was sent, and forget the session.
    End(Ending),
}

/// Why an agent does not dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferRefusal {
    /// One CamelCase word.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// How a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// OK: a Closing went before, or the agent went.
    Finished,
    /// FAILED_PRECONDITION: the first frame was no hello.
    NoHello(String),
    /// DEADLINE_EXCEEDED: there was no first frame in time.
    HelloTimeout,
    /// PERMISSION_DENIED.
    Denied(String),
    /// UNAVAILABLE: nothing was heard for too long.
    Silent,
    /// RESOURCE_EXHAUSTED: the driver holds too much that the agent does not take. Said by the driver only.
    NotReading,
}
