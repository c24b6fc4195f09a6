//! What the core refuses, in etcd's words. The gRPC codes are given at the edge, in `server::fault`.

use thiserror::Error;

/// Why a command or a read was refused. Nothing has changed when one of these comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// The request has no key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that does not exist, or an empty operation in a transaction.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// More than [`MAX_TXN_OPS`](super::MAX_TXN_OPS) operations or comparisons.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// One transaction puts a key twice, or puts and deletes it.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target that does not exist.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// The revision that was asked for is no longer kept.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision that was asked for is not reached yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The store holds as many bytes as it may.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// No lease has this id.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease has this id already.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// The time to live is above [`MAX_LEASE_TTL_S`](super::MAX_LEASE_TTL_S).
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
}

/// Why durable rows do not make a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CorruptState {
    /// A row does not have the layout that its table has.
    #[error("a {what} row is malformed")]
    Row {
        /// What the row should have held.
        what: &'static str,
    },
    /// A row that every store has is missing.
    #[error("the {what} row is missing")]
    Missing {
        /// What the row should have held.
        what: &'static str,
    },
    /// The rows were written by another version of this program.
    #[error("the layout is version {found}, and this program reads version 1")]
    Format {
        /// The version found.
        found: i64,
    },
}
