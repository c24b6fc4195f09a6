//! Skerry's shared state: typed keys, transactions, leases, leadership and mirrors over etcd. The one crate that talks to etcd.
//!
//! It behaves the same on etcd 3.4 and later and on `skerry-etcd-embedded`. What a record means is its owner's affair; this crate knows
//! where it is stored, how large it may be and how it changes hands.
//!
//! ```text
//! let store = Store::connect(StoreConfig::new(Target::parse("http://127.0.0.1:2379")?)).await?;
//!
//! // Read: one, several at one revision, pages at one revision.
//! store.get(&Key::of(&node_ref)).await?                  -> Option<Versioned<NodeRecord>>
//! store.get_many(&keys).await?                           -> Vec<Option<Versioned<R>>>
//! store.list(&Prefix::project(&project), &page).await?   -> Page<R> { items, revision, next: Option<PageToken> }
//! store.count(&Prefix::<NodeRecord>::all()).await?       -> u64
//!
//! // Write: compare and set, all or nothing.
//! let done = store.commit(
//!     Txn::new()
//!         .when_absent(&key)                        // or when_exists, when_unchanged(&key, mod_revision), when_same(&versioned)
//!         .fenced(&leadership)                      // only as long as I lead
//!         .put(&key, &record)                       // or put_bytes, put_leased, delete, delete_prefix
//!         .request(mark),                           // remembers the request id with it
//! ).await?;                                         // -> Committed { revision, .. }
//! // Else a TxnError: Conflict (what was found instead), Repeated (the same request was answered before), RequestIdReused,
//! // Deposed, Indeterminate (it may or may not have happened: read again), Unavailable (it has not happened), TooLarge, ...
//! store.commit_all(txns, Some(&leadership)).await   -> Vec<Result<Committed, TxnError>>, packed into few transactions
//!
//! // Live: leases, leaders, the store's term.
//! let lease = Lease::keep(&store, ttl);             // lease.state(): watch::Receiver<LeaseState>, Alive { id } or Lost
//! let leadership = campaign(&store, &name, &lease).await?;     // .lost().await, .resign().await
//! store.term(); store.watch_term(); store.raise_term(seen).await?;
//!
//! // Mirrors: list and watch, kept for ever.
//! let mirror = Mirror::start(&store, MirrorConfig::new().family::<NodeRecord>().keys_only::<AssignmentRecord>());
//! mirror.ready().await?;
//! let snapshot = mirror.snapshot();                 // Arc<Snapshot>: get(&key), iter(&prefix), revision(), term()
//! mirror.wait_for(&done).await?;                    // my own write is in the snapshot now
//! let mut wake = mirror.subscribe();                // a wake-up without payload
//! let Delta { snapshot, changes, cursor } = mirror.changes(cursor);   // what changed since, or a resync
//! ```
//!
//! Each error converts into a `skerry_model::Fault`. Every call has a deadline; etcd may go away and come back without a restart of ours.

mod audit;
mod backoff;
mod client;
mod config;
mod error;
mod failure;
mod inspect;
pub mod keys;
mod leader;
mod lease;
mod mirror;
mod observe;
mod page;
mod record;
mod request;
mod store;
mod term;
mod txn;

/// The parts without I/O, for simulators: what decides in a mirror, what decides on a term, and what is in a transaction. Not part of the
/// interface.
#[doc(hidden)]
pub mod sans_io {
    pub use crate::client::{Found, Header, Range};
    pub use crate::failure::Failure;
    pub use crate::mirror::core::{Core, Event, Kind, Message, Publication, Source, Step, Target};
    pub use crate::mirror::sorted::Sorted;
    pub use crate::term::{Evidence, Known, next_term};
    pub use crate::txn::{Expect, Guard, LeaseOf, Op};
}

pub use audit::{Act, AuditKeep, TrimError};
pub use config::{CONNECT_DEADLINE, DEADLINE, EtcdTls, InvalidTarget, StoreConfig, Target};
pub use error::{ConnectError, ReadError, TermError};
pub use failure::Outage;
pub use inspect::Inspection;
pub use keys::{Family, Key, Prefix, Record};
pub use leader::{CampaignError, Leadership, campaign};
pub use lease::{Lease, LeaseState, RevokeError, TTL_MIN};
pub use mirror::{
    Change, Changes, Cursor, Delta, Mirror, MirrorConfig, MirrorWake, Snapshot, TARGETS_MAX, WaitError,
};
pub use page::{InvalidToken, Page, PageRequest, PageToken};
pub use record::{DecodeError, Entry, StoreVersion, TooLarge, Versioned};
pub use request::{REMEMBERED, RequestError, RequestMark};
pub use store::Store;
pub use term::TermWatch;
pub use txn::{
    BATCH_OPERATIONS_MAX, Committed, Conflict, OPERATIONS_MAX, TXN_BYTES_MAX, Txn, TxnError, WRITES_MAX,
};
