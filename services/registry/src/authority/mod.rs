//! The installation's authority: who may be trusted, and who issues certificates.
//!
//! | part | where it is | who sees it |
//! |---|---|---|
//! | roots, the issuing intermediate and its chain | `authority` in the store | everybody who reads the store |
//! | the intermediate's key | there too, sealed under the key file | registries, `skerry authority` |
//! | the root's key | a file of the [`AuthorityDir`], sealed under the key file | `skerry authority`, `skerry up` |
//!
//! [`init`], [`renew`], [`rotate`], [`retire`] and [`reseal`] change the record: what it becomes is decided in `record`, and written on condition that it
//! still is as it was read. Each may be repeated: it does what is left to do, and says whether that was anything. [`Issuer`] follows the
//! record, so that every replica of the registry issues with the newest intermediate.

mod change;
mod dir;
mod issuer;
mod record;

use std::time::Duration;

use skerry_identity::authority::{IssueError, LoadError};
use skerry_identity::bundle::BundleError;
use skerry_identity::chain::InvalidChain;
use skerry_identity::key::KeyError;
use skerry_identity::private_file::PrivateFileError;
use skerry_identity::seal::{OpenError, SealError};
use skerry_identity::{KeyId, TrustDomain};
use skerry_model::{Code, Fault};

pub use change::{Changed, Force, authority_key, init, renew, reseal, retire, rotate};
pub use dir::AuthorityDir;
pub use issuer::{Granted, Issuer, Service};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A root: longer than any machine that trusts it is left alone; replaced by [`rotate`] long before.
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// An intermediate: its key is on every registry, so it is worth less the older it gets; and a year leaves time to notice that nobody renews.
pub const INTERMEDIATE_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// A node's certificate: renewed after 20 days, so a node that is away for a week or two never expires.
pub const NODE_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A service's or a user's certificate, unless a shorter life is asked for.
pub const PEER_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The shortest life that is issued: shorter, and clocks that differ a little shut each other out.
pub const LIFE_MIN: Duration = Duration::from_secs(60);
/// How long before it is issued a certificate begins, for clocks that are behind.
pub const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// How long a former root is trusted at least: by then what was issued under it has expired.
pub const ROLLOVER_MIN: Duration = NODE_LIFE.saturating_add(DAY);
/// Most former intermediates that the record keeps.
pub const FORMER_MAX: usize = 8;

/// Why an authority could not be made, changed or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is none.
    #[error("this installation has no authority yet: make one with `skerry authority init`")]
    Absent,
    /// Nobody gave the process a key file.
    #[error("certificates cannot be issued here: give the key file with --key-file (SKERRY_KEY_FILE)")]
    NoKeyFile,
    /// What is sealed is sealed under another key.
    #[error("the authority's key cannot be opened ({0}): is --key-file the file that it was made with?")]
    Sealed(#[from] OpenError),
    /// The directory has not the root's key.
    #[error(
        "the key of the root {pin} is not in {dir}: name the directory that it was made in with --authority-dir"
    )]
    NoRoot {
        /// Which root.
        pin: KeyId,
        /// Where it was looked for.
        dir: String,
    },
    /// The record is of another trust domain.
    #[error(
        "the authority is of the trust domain {found}, not of {wanted}: a domain is chosen once, with the first `skerry authority init`"
    )]
    Domain {
        /// The record's.
        found: TrustDomain,
        /// What was asked for.
        wanted: TrustDomain,
    },
    /// The former root is still needed.
    #[error("certificates under the former root may still be in use for {} h: wait, or insist with --force", .0.as_secs() / 3600)]
    TooEarly(Duration),
    /// A directory with files of another installation.
    #[error(
        "{dir} has the root of another trust domain, {found}: name another directory with --authority-dir"
    )]
    ForeignDir {
        /// The directory.
        dir: String,
        /// Its domain.
        found: TrustDomain,
    },
    /// Its files.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// A root's file could not be listed.
    #[error("reading {dir}: {source}")]
    Dir {
        /// The directory.
        dir: String,
        /// Why.
        source: std::io::Error,
    },
    /// A key could not be made or read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A certificate could not be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The intermediate has expired, or is not valid yet.
    #[error(
        "the intermediate that issues certificates is out of time: make a new one with `skerry authority renew`, and look at the clocks"
    )]
    OutOfTime,
    /// What is stored could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The stored roots could not be read.
    #[error(transparent)]
    Roots(#[from] BundleError),
    /// The stored chain could not be read.
    #[error("reading the authority's chain: {0}")]
    Chain(#[from] InvalidChain),
    /// The store.
    #[error("{}", .0.message)]
    Store(Fault),
}

impl From<AuthorityError> for Fault {
    fn from(error: AuthorityError) -> Self {
        let precondition = |reason| Self::new(Code::FailedPrecondition, reason, error.to_string());
        match error {
            AuthorityError::Store(fault) => fault,
            AuthorityError::Absent => precondition("NO_AUTHORITY"),
            AuthorityError::NoKeyFile => precondition("NO_KEY_FILE"),
            AuthorityError::Sealed(_) => precondition("AUTHORITY_SEALED"),
            AuthorityError::OutOfTime => precondition("AUTHORITY_OUT_OF_TIME"),
            AuthorityError::NoRoot { .. } => precondition("NO_ROOT_KEY"),
            AuthorityError::Domain { .. } | AuthorityError::ForeignDir { .. } => {
                precondition("OTHER_TRUST_DOMAIN")
            }
            AuthorityError::TooEarly(_) => precondition("ROLLOVER_UNDER_WAY"),
            AuthorityError::Issue(_) => Self::new(Code::InvalidArgument, "NOT_ISSUED", error.to_string()),
            AuthorityError::File(_)
            | AuthorityError::Dir { .. }
            | AuthorityError::Key(_)
            | AuthorityError::Seal(_)
            | AuthorityError::Load(_)
            | AuthorityError::Roots(_)
            | AuthorityError::Chain(_) => Self::internal(error.to_string()),
        }
    }
}
