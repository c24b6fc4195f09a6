//! Every bound and period of the protocol, with its reason. Both ends hold to the same ones.

use std::time::Duration;

/// What this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest frame that is accepted, encoded. What gRPC decoders on both ends are set to.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// An Update goes in parts of at most this many bytes, or of one resource: each part that arrives shows on a slow link that it lives.
pub const UPDATE_PART_BYTES_MAX: usize = 128 * 1024;

/// Largest Update over all its parts: an agent keeps it in memory until its last part. One that is larger is refused as a whole.
pub const UPDATE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most resources of a node. An assignment is at most 64 KiB, and an instance in it takes more than 100 bytes.
pub const RESOURCES_MAX: usize = 2048;

/// Most instances that a node reports: 600 bytes each fill the 256 KiB that a stored status may have.
pub const INSTANCES_MAX: usize = 400;

/// Most images that a node fetches ahead and reports: as many as it is assigned.
pub const IMAGES_MAX: usize = skerry_model::IMAGES_MAX;

/// Longest reference to an image, in bytes.
pub const IMAGE_BYTES_MAX: usize = 1024;

/// Frames that an agent may send at once: it says a handful when it connects, and answers what it is sent.
pub const FRAMES_BURST_MAX: u32 = 256;

/// Frames a second that it may send after that. Reports, the most frequent, come 200 ms apart after a few at once.
pub const FRAMES_PER_SECOND_MAX: u32 = 32;

/// Offers of channels that an agent has not answered yet. It answers at once; more means that it does not read.
pub const OFFERS_MAX: usize = 64;

/// How long the answer to an offer is waited for: less than the 5 s in which a channel that fails is told.
pub const OFFER_TIMEOUT: Duration = Duration::from_secs(4);

/// Largest stored status, with room below the store's 256 KiB.
pub const STATUS_BYTES_MAX: usize = 240 * 1024;

/// Events that wait in an agent. A full ring drops the oldest: an outage that makes more of them repeats itself.
pub const EVENT_RING_MAX: usize = 256;

/// Most events of one Report: as many as the store keeps of a node.
pub const EVENTS_PER_REPORT_MAX: usize = 64;

/// The newest events of a node that the store keeps.
pub const EVENTS_STORED_MAX: usize = 64;

/// What happens again within this time of the last time is counted with it: as long as the longest wait before a restart.
pub const EVENT_FOLD_WINDOW: Duration = Duration::from_secs(3600);

/// Longest message of an event, in bytes.
pub const EVENT_MESSAGE_BYTES_MAX: usize = 1024;

/// Longest message of an instance, in bytes.
pub const INSTANCE_MESSAGE_BYTES_MAX: usize = 512;

/// Most ended runs that are told of a cron job: ten that succeeded and ten that failed.
pub const JOB_HISTORY_MAX: usize = 20;

/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 64;

/// Longest name or id of any kind, in bytes. An instance's name has at most 202.
pub const NAME_BYTES_MAX: usize = 320;

/// Longest text of a machine's status, in bytes.
pub const MACHINE_TEXT_BYTES_MAX: usize = 256;

/// Most conditions, and most runtimes, of a machine.
pub const MACHINE_ENTRIES_MAX: usize = 32;

/// Most features of an agent, and of what a resource requires.
pub const FEATURES_MAX: usize = 64;

/// Longest digest, in bytes.
pub const DIGEST_BYTES_MAX: usize = 64;

/// How often a gateway wants to hear an agent.
///
/// A heartbeat and its answer cost, over IPv4 and TCP with timestamps (52 bytes a segment), each with 9 bytes of HTTP/2 and 5 of gRPC:
/// 4 + 66 up, 18 + 66 down (carrying the TCP acknowledgement of the first), and 52 for the acknowledgement of the second: 206 bytes;
/// over TLS 44 more, over IPv6 60 more: 310. Every 45 s that is 1,920 a day: 396 KB, at worst 595 KB. The rest up to 1 MB a day is for
/// reports. At 30 s it would be 893 KB at worst. A dead link is seen after 45 s and the grace of 15: within the 65 s that are promised.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(45);

/// Shortest and longest interval that a gateway may ask for.
pub const HEARTBEAT_INTERVAL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Longest certificate request, in bytes. Ours have about 200.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// How long an answer may take before the link counts as dead: a third of the interval, at least a second.
pub fn heartbeat_grace(interval: Duration) -> Duration {
    (interval / 3).max(Duration::from_secs(1))
}

/// How long a dial may take, up to the open stream.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an agent waits for the Welcome. A gateway whose store is away answers sooner, with Closing.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a gateway waits for the Hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// First and longest wait between two dials, before jitter.
pub const REDIAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A session that lived this long starts the waits anew.
pub const STABLE_SESSION: Duration = Duration::from_secs(30);

/// Shortest wait after another agent of this name took over; doubles each time, up to the second. Without it two agents of one name
/// would take the node from each other for ever.
pub const SUPERSEDED_WAIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(960));

/// A session that lived this long makes an agent forget that it was superseded.
pub const SUPERSEDED_FORGOTTEN: Duration = Duration::from_secs(3600);

/// Shortest wait after the node was deleted.
pub const DELETED_WAIT: Duration = Duration::from_secs(60);

/// How long an agent waits for a Renewal. The registry answers at once or not at all.
pub const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);

/// First and longest wait before a renewal is asked for again, before jitter. A third of a certificate's life is left for it: ten days, of
/// the usual thirty.
pub const RENEWAL_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// Longest wait that a server may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Time between two Reports of an agent that has always something to say. What changes meanwhile is gathered.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Reports that go at once after a silence of this many intervals, so that what one apply brings about (an instance ends, another starts,
/// is ready) is seen as it happens. One is in flight at a time.
pub const REPORTS_BURST: u32 = 4;

/// First and longest wait before the disk is tried again, before jitter.
pub const PERSIST_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// First and longest wait before the store is tried again, before jitter.
pub const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long an agent shall wait, before jitter, when the store did not answer at the opening of its session.
pub const STORE_AWAY_WAIT: Duration = Duration::from_secs(2);

/// How long an agent of a version that this gateway does not speak shall wait.
pub const INCOMPATIBLE_WAIT: Duration = Duration::from_secs(300);
