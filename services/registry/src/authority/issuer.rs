//! Issuing: certificates for nodes, services and users, by the intermediate that the record names now.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, DnsName};
use skerry_identity::authority::{IntermediateAuthority, IssueError, Issued, Order};
use skerry_identity::bundle::TrustBundle;
use skerry_identity::certificate::Usage;
use skerry_identity::seal::KeyEncryption;
use skerry_identity::{Identity, Principal, PublicKey};
use skerry_model::{Fault, NodeRef, ProjectName, ServiceName, time};
use skerry_proto::gateway::v1::IssuedCertificate;
use skerry_proto::store::v1::AuthorityRecord;
use skerry_store::{Mirror, MirrorConfig, Store, StoreVersion, WaitError};

use super::change::authority_key;
use super::{AuthorityError, BACKDATED, LIFE_MIN, NODE_LIFE, PEER_LIFE, record};

/// Issues certificates, by the newest intermediate. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Issuer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mirror: Mirror,
    keys: Option<Arc<dyn KeyEncryption>>,
    /// Opening a sealed key takes a while; it is done once for each record.
    opened: Mutex<Option<(StoreVersion, Arc<Opened>)>>,
}

/// A record, read and opened.
#[derive(Debug)]
struct Opened {
    roots: TrustBundle,
    intermediate: IntermediateAuthority,
}

/// A certificate that was issued, and what to trust.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The certificate.
    pub issued: Issued,
    /// The roots that are trusted now, the newest first.
    pub roots: Vec<CertificateDer<'static>>,
}

/// A service that asks for a certificate. It is of the project `system`.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// Which.
    pub name: &'a ServiceName,
    /// DNS names that it is reached by.
    pub dns_names: &'a [DnsName<'a>],
    /// Addresses that it is reached by.
    pub addresses: &'a [IpAddr],
}

impl Granted {
    /// As it travels.
    pub fn to_proto(&self, now: SystemTime) -> IssuedCertificate {
        IssuedCertificate {
            chain: self.issued.chain.iter().map(to_bytes).collect(),
            roots: self.roots.iter().map(to_bytes).collect(),
            server_time: Some(time::to_timestamp(now)),
        }
    }
}

fn to_bytes(der: &CertificateDer<'_>) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(der)
}

/// The project of the installation itself.
fn system() -> ProjectName {
    ProjectName::parse("system").expect("a DNS label")
}

impl Issuer {
    /// Follows the authority's record in `store`. Without `keys` it knows the roots and issues nothing.
    pub fn new(store: &Store, keys: Option<Arc<dyn KeyEncryption>>) -> Self {
        let mirror = Mirror::start(store, MirrorConfig::new().family::<AuthorityRecord>());
        Self { shared: Arc::new(Shared { mirror, keys, opened: Mutex::default() }) }
    }

    /// Waits until the record, if there is one, is known.
    pub async fn ready(&self) -> Result<(), WaitError> {
        self.shared.mirror.ready().await
    }

    /// Whether this installation has an authority.
    pub fn has_authority(&self) -> bool {
        self.shared.mirror.snapshot().entry(&authority_key()).is_some()
    }

    /// The roots that are trusted now.
    pub fn roots(&self) -> Result<TrustBundle, Fault> {
        Ok(record::roots(&self.record()?.1)?)
    }

    /// A certificate for a node's key, for [`NODE_LIFE`].
    pub fn issue_node(&self, node: &NodeRef, public_key: &PublicKey) -> Result<Granted, Fault> {
        let principal = Principal::Node(node.node.clone());
        self.issue(node.project.clone(), principal, Usage::Client, (&[], &[]), public_key, Some(NODE_LIFE))
    }

    /// A certificate for a service's key, for `life` or [`PEER_LIFE`], whichever is shorter.
    pub fn issue_service(
        &self,
        service: Service<'_>,
        public_key: &PublicKey,
        life: Option<Duration>,
    ) -> Result<Granted, Fault> {
        let principal = Principal::Service(service.name.clone());
        let names = (service.dns_names, service.addresses);
        self.issue(system(), principal, Usage::Both, names, public_key, life)
    }

    /// A certificate for a user's key, for `life` or [`PEER_LIFE`], whichever is shorter.
    pub fn issue_user(
        &self,
        project: &ProjectName,
        user: &ServiceName,
        public_key: &PublicKey,
        life: Option<Duration>,
    ) -> Result<Granted, Fault> {
        let principal = Principal::User(user.clone());
        self.issue(project.clone(), principal, Usage::Client, (&[], &[]), public_key, life)
    }

    fn issue(
        &self,
        project: ProjectName,
        principal: Principal,
        usage: Usage,
        (dns_names, addresses): (&[DnsName<'_>], &[IpAddr]),
        public_key: &PublicKey,
        life: Option<Duration>,
    ) -> Result<Granted, Fault> {
        let opened = self.opened()?;
        let trust_domain = opened.intermediate.domain().clone();
        let identity = Identity { trust_domain, project, principal };
        let life = life.unwrap_or(PEER_LIFE).clamp(LIFE_MIN, PEER_LIFE);
        let life = record::life(SystemTime::now(), life);
        let order = Order { public_key, identity: &identity, usage, dns_names, addresses, life };
        let out_of_time = opened.intermediate.not_after() < life.not_before + BACKDATED + LIFE_MIN;
        let issued = match opened.intermediate.issue(&order) {
            _ if out_of_time => return Err(AuthorityError::OutOfTime.into()),
            Err(IssueError::Life) => return Err(AuthorityError::OutOfTime.into()),
            issued => issued.map_err(AuthorityError::from)?,
        };
        let roots = opened.roots.roots().iter().map(|root| root.certificate().clone()).collect();
        Ok(Granted { issued, roots })
    }

    fn record(&self) -> Result<(StoreVersion, AuthorityRecord), AuthorityError> {
        let snapshot = self.shared.mirror.snapshot();
        let found = snapshot.get(&authority_key());
        let found = found.map_err(|error| AuthorityError::Store(Fault::internal(error.to_string())))?;
        let found = found.ok_or(AuthorityError::Absent)?;
        Ok((snapshot.version_of(found.mod_revision), found.value))
    }

    /// The newest record, opened.
    fn opened(&self) -> Result<Arc<Opened>, AuthorityError> {
        let (version, record) = self.record()?;
        let keys = self.shared.keys.as_deref().ok_or(AuthorityError::NoKeyFile)?;
        let mut opened = self.shared.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, opened)) = &*opened
            && *known == version
        {
            return Ok(Arc::clone(opened));
        }
        let intermediate = record::intermediate(&record, keys)?;
        let fresh = Arc::new(Opened { roots: record::roots(&record)?, intermediate });
        *opened = Some((version, Arc::clone(&fresh)));
        Ok(fresh)
    }
}
