//! Issuing certificates: a root that is kept away, an intermediate that issues, and what each may say.
//!
//! | certificate | may issue | says |
//! |---|---|---|
//! | [`RootAuthority`] | two levels below it | `spiffe://<domain>` |
//! | link: a new root's key, signed by the old root | one level | the same |
//! | [`IntermediateAuthority`] | peers only (path length 0) | nothing |
//! | a peer's | nothing | exactly one identity; for services also DNS names and addresses |
//!
//! Who may do what is written into each certificate (basic constraints, key usage, extended key usage, both key identifiers). Names are not
//! constrained: rustls-webpki rejects every URI name below a constraint on URIs, so such a constraint would shut everybody out; that a name
//! is of the root's trust domain is checked by each reader instead ([`crate::certificate`]), and by the intermediate here.
//!
//! An authority's subject is made from its key (`CN=Skerry root 0123456789abcdef`), so that two of them never have the same name and a path
//! is found at once. A peer's subject is empty: a name in a second place could be mistaken for the one that counts.
//!
//! Serial numbers are 128 random bits. A certificate never reaches beyond its issuer's own life at either end; it is cut, and
//! [`Issued`] says to what. Time is the caller's, and so is how long before now a life begins, for clocks that are behind.

mod intermediate;
mod keys;
mod params;
mod root;

use std::time::{Duration, SystemTime};

pub use intermediate::{IntermediateAuthority, Issued, NAMES_MAX, Order};
pub use root::RootAuthority;

use crate::bundle::BundleError;
use crate::certificate::Nobody;
use crate::chain::InvalidChain;
use crate::{Identity, KeyId, RandomError, TrustDomain};

#[cfg(test)]
pub(crate) use keys::Signs;

/// From when on a certificate shall be valid, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// The first second.
    pub not_before: SystemTime,
    /// How long after it the last one is.
    pub lifetime: Duration,
}

/// A certificate that was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The name belongs to another installation.
    #[error("issuing a certificate for {identity}: this authority is of the trust domain {domain}")]
    OtherDomain {
        /// For whom.
        identity: Box<Identity>,
        /// The authority's own.
        domain: TrustDomain,
    },
    /// The root that follows is another installation's.
    #[error("linking to a root of the trust domain {next}: this one is of {own}")]
    LinkDomain {
        /// The trust domain of the root that would sign.
        own: TrustDomain,
        /// That of the other.
        next: TrustDomain,
    },
    /// Nodes and users serve nobody.
    #[error("issuing a certificate for {0}: only services may be servers and have DNS names and addresses")]
    NotAService(Box<Identity>),
    /// It would have more names than are allowed.
    #[error("issuing a certificate with {0} names, where {NAMES_MAX} are allowed")]
    Names(usize),
    /// It would never be valid under its issuer.
    #[error("issuing a certificate: its life lies outside of its issuer's, or of what can be written")]
    Life,
    /// No serial number could be made.
    #[error("issuing a certificate: {0}")]
    Random(#[from] RandomError),
    /// The key would not sign, or it could not be encoded.
    #[error("issuing a certificate: {0}")]
    Encoding(#[from] rcgen::Error),
    /// What was made is not what was meant.
    #[error("issuing a certificate: {0}")]
    Unreadable(#[from] Nobody),
}

/// An authority that could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not certificates in PEM, or too many.
    #[error("loading an authority: {0}")]
    Chain(#[from] InvalidChain),
    /// One of the certificates is none of ours.
    #[error("loading an authority: {0}")]
    Certificate(#[from] Nobody),
    /// The root is none.
    #[error("loading an authority: {0}")]
    Root(#[from] BundleError),
    /// The certificate is for another key.
    #[error("loading an authority: its certificate is for the key {certificate}, where its key is {key}")]
    OtherKey {
        /// The key in the certificate.
        certificate: KeyId,
        /// The key at hand.
        key: KeyId,
    },
    /// The certificate was not made here.
    #[error("loading an authority: {0}")]
    Foreign(&'static str),
}
