//! What goes into the agent's machine and what comes out of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::types::v1 as types;

use super::renewal::AgentIdentity;
use crate::time::WallTime;
use crate::{Desired, Version};

/// What an agent is, for as long as its process lives.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// `projects/<project>/nodes/<node>`.
    pub node: String,
    /// The uid that an earlier Welcome gave (`Told::Welcomed`), if the driver kept it. Empty: none.
    pub node_uid: String,
    /// Random for each start of the process, at most 64 bytes.
    pub boot_id: String,
    /// Version of the agent.
    pub agent_version: String,
    /// What it can do, for the `requires` of resources.
    pub features: BTreeSet<String>,
    /// The certificate that is renewed over the stream. Absent: there is none, or it comes from files.
    pub identity: Option<AgentIdentity>,
    /// Seeds the jitter. Random for each start.
    pub seed: u64,
}

/// What happened.
///
/// The driver's side of the contract: `Start` comes first and once. Each `Dial` is answered by `Connected` or `Disconnected`, and each
/// connection ends with one `Disconnected`; but after a `Hangup` nothing of that connection (or dial) is delivered any more, not even its
/// `Disconnected`. Each `Persist` is answered by one `Persisted` with its token, each `TakeIdentity` by one `IdentityTaken`.
#[derive(Debug, Clone)]
pub enum AgentEvent {
    /// The process starts and holds this on disk. Empty where nothing is, or nothing that can be read. A state that was read only in
    /// part comes without its version: then the gateway sends what is missing.
    Start {
        /// What is on disk.
        held: Arc<Desired>,
    },
    /// The stream is open.
    Connected,
    /// The stream, or the attempt to open it, ended.
    Disconnected {
        /// For the log.
        why: String,
        /// The least wait that the server asked for otherwise than with a Closing frame, if any.
        retry_after: Option<Duration>,
    },
    /// A frame came in.
    Frame(pb::SyncResponse),
    /// A `Persist` is done: written, synced, renamed, directory synced. Or failed, and the old state is still there.
    Persisted {
        /// Of the `Persist`.
        token: u64,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// What the machine looks like now. The first full report waits for the first of these, so look at the instances first.
    MachineChanged(Box<types::MachineStatus>),
    /// What an instance looks like now.
    InstanceChanged(Box<types::InstanceStatus>),
    /// The instance of this name is gone.
    InstanceGone(String),
    /// How far an image is that is fetched ahead.
    ImageChanged(Box<types::ImageStatus>),
    /// The image of this id is not fetched ahead any more.
    ImageGone(String),
    /// Something happened. `boot_id` and `sequence` are filled in here, as are an absent `time` and `source`.
    Raised(Box<types::Event>),
    /// A `TakeIdentity` is done: checked, on disk, and what the next dial is made with. Or it cannot be taken, and nothing has changed.
    IdentityTaken {
        /// What is used now, or why not.
        result: Result<AgentIdentity, String>,
    },
    /// The machine enrolled anew, under the same name: the next dial is made with this, and at once.
    Enrolled {
        /// What is used now.
        identity: AgentIdentity,
        /// The uid of the node that it is now.
        node_uid: String,
    },
    /// What becomes of a channel that was offered. One that was offered on an earlier connection is nobody's any more.
    ChannelAnswered(pb::ChannelAnswer),
    /// GPU samples, an encoded `skerry.gpu.v1.Frame`. Lost where no session is open.
    GpuSampled(Bytes),
    /// `deadline()` has passed. Too early or too often does no harm.
    Timer,
    /// The process ends: a farewell goes out, and no further dial is made.
    ShuttingDown,
}

/// What the driver shall do, in order.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "short-lived, and most of them are frames")]
pub enum AgentEffect {
    /// Open the stream now.
    Dial,
    /// Send a frame on the open stream.
    Send(pb::SyncRequest),
    /// Write this to disk, whole and synced, in place of what is there; then say `Persisted`. Never two at once.
    Persist {
        /// Comes back in `Persisted`.
        token: u64,
        /// The whole new desired state. What is new is found by `desired.difference(&on_disk)`.
        desired: Arc<Desired>,
    },
    /// Make the machine run this. It is on disk.
    Apply {
        /// The whole desired state.
        desired: Arc<Desired>,
    },
    /// Check this certificate, or these roots, against the connection that it came by; write it; use it from the next dial on; then say
    /// `IdentityTaken`. Never two at once.
    TakeIdentity {
        /// `chain` is empty where only the roots are news.
        certificate: pb::IssuedCertificate,
    },
    /// A channel is offered: dial it or not, and say `ChannelAnswered`.
    OpenChannel(Box<pb::ChannelOffer>),
    /// What the control plane says of GPU samples. Said by a session: with it ends that any are wanted.
    GpuFeedback(pb::GpuFeedback),
    /// Close the stream, or give up the dial, after what was sent. Nothing of it is to be delivered any more.
    Hangup {
        /// For the log.
        why: String,
    },
    /// Something that people or other parts of the agent should know.
    Told(Told),
}

/// What the machine tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A session is open. Keep the uid for the next start.
    Welcomed {
        /// The session's epoch.
        epoch: Version,
        /// The node's uid.
        node_uid: String,
        /// Which gateway it is.
        gateway: String,
        /// What its clock showed.
        server_time: Option<WallTime>,
        /// The certificate has expired: nothing but a renewal is spoken of.
        renew_only: bool,
    },
    /// What the clock of the server shows, which proved who it is.
    ServerTime(WallTime),
    /// A new certificate or new roots could not be had, or not be taken.
    RenewalFailed {
        /// Why.
        why: String,
        /// It is not asked for again before this.
        retry: Duration,
    },
    /// The session, or the attempt to open one, ended; the next try is made after `retry`.
    Lost {
        /// Why.
        why: String,
        /// Until the next try.
        retry: Duration,
    },
    /// Another agent with this node's name took over. It is not tried again for a long time.
    Superseded {
        /// What the gateway said.
        message: String,
        /// Until the next try.
        retry: Duration,
    },
    /// The node was deleted. What runs runs on.
    NodeDeleted {
        /// What the gateway said.
        message: String,
        /// Until the next try.
        retry: Duration,
    },
    /// The node's key was struck out: the machine must enrol anew. What runs runs on.
    Revoked {
        /// What the gateway said.
        message: String,
        /// Until the next try with the key that was struck out.
        retry: Duration,
    },
    /// An update older than what is held was refused.
    StaleRefused {
        /// Of the update.
        offered: Version,
        /// What is held.
        held: Version,
    },
    /// A resource was refused; all others are taken.
    ResourceRefused {
        /// Of the resource.
        name: String,
        /// Of the resource.
        version: String,
        /// One CamelCase word: see `refusal`.
        reason: String,
        /// A sentence for people.
        message: String,
    },
    /// The desired state could not be written to disk. It is tried again.
    PersistFailed {
        /// Why.
        error: String,
        /// Until the next try.
        retry: Duration,
    },
    /// A desired state is on disk.
    Held {
        /// Its version.
        version: Version,
    },
}
