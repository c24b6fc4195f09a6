//! Who somebody is, and how it is proved: names, keys, certificates, TLS, tokens, sealing. No loop, no socket, no clock of its own.
//!
//! | module | job |
//! |---|---|
//! | [`name`] | identities as URI names |
//! | [`key`], [`key_store`] | P-256 keys and where they are kept |
//! | [`csr`] | asking for a certificate |
//! | [`certificate`], [`chain`] | reading a peer's certificate, or refusing it; chains as PEM |
//! | [`bundle`] | the roots that are trusted, replaceable at run time |
//! | [`clock`] | which time a certificate is held against |
//! | [`verify`], [`tls`] | the peers of a TLS connection |
//! | [`token`], [`fingerprint`] | how a machine joins |
//! | [`hpke`] | secrets sealed to a node |
//! | `authority`, `seal`, `key_ring`, `key_file` | issuing, and sealing at rest: with the feature `authority`, for the control plane only |
//!
//! Everything fails closed: what does not parse is nobody, and there is no partial identity.

#[cfg(feature = "authority")]
pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod chain;
pub mod clock;
pub mod csr;
mod encode;
pub mod fingerprint;
pub mod hpke;
pub mod key;
#[cfg(feature = "authority")]
pub mod key_file;
#[cfg(feature = "authority")]
pub mod key_ring;
pub mod key_store;
pub mod name;
mod path;
pub mod private_file;
mod random;
#[cfg(feature = "authority")]
pub mod seal;
pub mod secret;
pub mod tls;
pub mod token;
pub mod verify;

#[cfg(test)]
#[cfg(feature = "authority")]
mod tests;

pub use bundle::{Trust, TrustBundle};
pub use certificate::{Client, PeerCertificate, Standing};
pub use key::{KeyId, KeyPair, PublicKey, SigningKey};
pub use name::{Identity, InvalidIdentity, Principal, TrustDomain};
pub use random::RandomError;
pub use secret::SecretBytes;
