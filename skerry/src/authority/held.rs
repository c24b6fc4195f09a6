//! A certificate in files, its key and the roots beside it: `NAME.crt`, `NAME.key` and `ca.crt` of one directory, mode 0600.
//!
//! What is there and is still good is kept, so that the same words may be said again at each start and each day. The key stays the same for
//! as long as its file is there: the certificate and its key never change together, and who reads between two writes reads a pair that fits.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rustls_pki_types::{CertificateDer, DnsName, ServerName};
use skerry_identity::chain::{chain_from_pem, chain_to_pem};
use skerry_identity::key_store::load_or_make_key;
use skerry_identity::{
    Identity, KeyId, PeerCertificate, Principal, PublicKey, SigningKey as _, TrustDomain, private_file,
};
use skerry_model::{Fault, NodeRef, ProjectName, ServiceName};
use skerry_registry::authority::{Granted, Issuer, Service};

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// A service's of the installation, and what it is reached by.
    Service { name: ServiceName, dns_names: Vec<DnsName<'static>>, addresses: Vec<IpAddr> },
    /// A person's, or a program's of theirs.
    User { project: ProjectName, name: ServiceName },
    /// An edge machine's agent's.
    Node(NodeRef),
}

/// Where a certificate is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authority: PathBuf,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Whether a new certificate was written. The one that was there is good otherwise.
    pub(crate) issued: bool,
    /// Whether anything was written: the roots may change alone.
    pub(crate) changed: bool,
    /// The end of its life.
    pub(crate) not_after: SystemTime,
    /// The key that it is for.
    pub(crate) key: KeyId,
}

impl Held {
    /// The files of `name` in `directory`.
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        Self {
            certificate: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
            authority: directory.join("ca.crt"),
        }
    }

    /// Sees to it that the files hold a good certificate by the newest intermediate, and the roots that are trusted now.
    pub(crate) fn ensure(
        &self,
        issuer: &Issuer,
        whose: &Whose,
        life: Option<Duration>,
        now: SystemTime,
    ) -> anyhow::Result<Outcome> {
        let key = load_or_make_key(&self.key)?;
        // Issuing asks nobody and leaves no trace: what would be issued now shows what a good one looks like.
        let granted =
            whose.issue(issuer, key.public_key(), life).map_err(|fault| anyhow::anyhow!(fault.message))?;
        let domain = issuer.roots().map_err(|fault| anyhow::anyhow!(fault.message))?.domain().clone();
        let roots = chain_to_pem(&granted.roots);
        let mut changed = false;
        if private_file::read(&self.authority)?.is_none_or(|there| *there != *roots.as_bytes()) {
            private_file::replace(&self.authority, roots.as_bytes())?;
            changed = true;
        }
        let there = private_file::read(&self.certificate)?;
        let there = there.and_then(|pem| chain_from_pem(&pem).ok());
        if let Some(chain) = there
            && let Some(not_after) = good_until(&chain, &granted, whose, &domain, now)
        {
            return Ok(Outcome { issued: false, changed, not_after, key: key.public_key().id() });
        }
        private_file::replace(&self.certificate, granted.issued.to_pem().as_bytes())
            .with_context(|| format!("keeping the certificate of {whose:?}"))?;
        let (not_after, key) = (granted.issued.not_after, key.public_key().id());
        Ok(Outcome { issued: true, changed: true, not_after, key })
    }
}

impl Whose {
    fn issue(&self, issuer: &Issuer, key: &PublicKey, life: Option<Duration>) -> Result<Granted, Fault> {
        match self {
            Self::Service { name, dns_names, addresses } => {
                issuer.issue_service(Service { name, dns_names, addresses }, key, life)
            }
            Self::User { project, name } => issuer.issue_user(project, name, key, life),
            Self::Node(node) => issuer.issue_node(node, key),
        }
    }

    /// Its name under `domain`.
    pub(crate) fn identity(&self, domain: &TrustDomain) -> Identity {
        let (project, principal) = match self {
            Self::Service { name, .. } => {
                (ProjectName::parse("system").expect("a DNS label"), Principal::Service(name.clone()))
            }
            Self::User { project, name } => (project.clone(), Principal::User(name.clone())),
            Self::Node(node) => (node.project.clone(), Principal::Node(node.node.clone())),
        };
        Identity { trust_domain: domain.clone(), project, principal }
    }

    /// Whether a certificate is for all that it is reached by.
    fn is_reached_by(&self, leaf: &CertificateDer<'_>) -> bool {
        let Self::Service { dns_names, addresses, .. } = self else { return true };
        let names = dns_names.iter().cloned().map(ServerName::DnsName);
        let addresses = addresses.iter().map(|address| ServerName::IpAddress((*address).into()));
        names.chain(addresses).all(|name| PeerCertificate::is_for(leaf, &name))
    }
}

/// The end of `chain`'s life, if it need not be replaced by `granted`: it says the same, was issued by the same intermediate, and more than a
/// third of its life is left.
fn good_until(
    chain: &[CertificateDer<'_>],
    granted: &Granted,
    whose: &Whose,
    domain: &TrustDomain,
    now: SystemTime,
) -> Option<SystemTime> {
    let (leaf, above) = chain.split_first()?;
    let (new_leaf, new_above) = granted.issued.chain.split_first()?;
    let has = PeerCertificate::of_chain(chain, domain).ok()?;
    let wants = PeerCertificate::parse(new_leaf, domain).ok()?;
    let same =
        has.identity == whose.identity(domain) && has.key_id == wants.key_id && has.usage == wants.usage;
    let fresh = has.not_before <= now && now < has.renew_at();
    (same && fresh && above == new_above && whose.is_reached_by(leaf)).then_some(has.not_after)
}
