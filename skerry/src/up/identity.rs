//! What `up` proves to be where nobody gives it certificates: an authority of its own, and by that certificates for its services, for this
//! machine's node, and for the person who started it.
//!
//! The files are in the data directory, so that a start needs no store: what was issued before is presented at once, even if it has expired,
//! and is renewed as soon as the store answers. From then on it is looked at once a minute, for its end and for new roots.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rustls_pki_types::DnsName;
use skerry_daemon::Shutdown;
use skerry_identity::seal::KeyEncryption;
use skerry_model::{NodeRef, ProjectName, ServiceName};
use skerry_registry::authority::{AuthorityDir, Force, Issuer, renew, reseal};
use skerry_rpc::{TlsFile, TlsFiles, TlsPaths};
use skerry_store::Store;

use super::own_node::OwnKeys;
use crate::authority::{Held, Whose, authority_dir, ensure_authority, key_file, keys_for};

/// Between two looks at the certificates. They live for 30 days, but a new root is to be presented soon.
const LOOK_PERIOD: Duration = Duration::from_secs(60);
/// An address that is nobody's (RFC 5737): asking the kernel how it would be reached sends nothing.
const ELSEWHERE: (&str, u16) = ("192.0.2.1", 9);

/// Where everything is, and what the certificates are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnIdentity {
    key_file: PathBuf,
    authority_dir: PathBuf,
    directory: PathBuf,
    dns_names: Vec<DnsName<'static>>,
    addresses: Vec<IpAddr>,
    node: Option<NodeRef>,
    /// Where the machine's own keys are.
    node_keys: PathBuf,
}

/// The files that were read. Those that change are read again.
#[derive(Debug, Clone)]
pub(super) struct OwnFiles {
    pub(super) services: Arc<TlsFiles>,
    pub(super) node: Option<Arc<TlsFiles>>,
}

/// The certificates of a store's authority, to be kept good.
pub(super) struct Keeper {
    identity: OwnIdentity,
    store: Store,
    keys: Arc<dyn KeyEncryption>,
    issuer: Issuer,
    node_keys: Option<OwnKeys>,
}

impl OwnIdentity {
    /// In `data_dir`, for a listener at `listen` that is reached by `names` too. `key_file`: elsewhere than there.
    pub(super) fn new(
        data_dir: &Path,
        key_file_elsewhere: Option<PathBuf>,
        listen: SocketAddr,
        names: (Vec<DnsName<'static>>, Vec<IpAddr>),
        node: Option<NodeRef>,
    ) -> Self {
        let (mut dns_names, mut addresses) = names;
        dns_names.extend(DnsName::try_from("localhost".to_owned()));
        dns_names.extend(DnsName::try_from(skerry_agent::host_name()));
        addresses.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        if listen.ip().is_unspecified() {
            addresses.extend(usual_address());
        } else {
            addresses.push(listen.ip());
        }
        dns_names.dedup();
        addresses.sort_unstable();
        addresses.dedup();
        Self {
            key_file: key_file_elsewhere.unwrap_or_else(|| key_file(data_dir)),
            authority_dir: authority_dir(data_dir),
            directory: data_dir.join("tls"),
            dns_names,
            addresses,
            node,
            node_keys: data_dir.join("agent/identity"),
        }
    }

    fn services(&self) -> (Held, Whose) {
        let whose = Whose::Service {
            name: ServiceName::parse("skerry").expect("a DNS label"),
            dns_names: self.dns_names.clone(),
            addresses: self.addresses.clone(),
        };
        (Held::new(&self.directory, "services"), whose)
    }

    fn node(&self) -> Option<(Held, Whose)> {
        let node = self.node.clone()?;
        let held = Held { key: self.node_keys.join("tls.key"), ..Held::new(&self.directory, "node") };
        Some((held, Whose::Node(node)))
    }

    /// The files of the person who started it: an administrator of the installation.
    pub(super) fn admin(&self) -> Held {
        Held::new(&self.directory, "admin")
    }

    fn admin_is() -> Whose {
        let label = |text: &str| ServiceName::parse(text).expect("a DNS label");
        Whose::User { project: ProjectName::parse("system").expect("a DNS label"), name: label("admin") }
    }

    /// What was issued before, if it can be presented; whether it is still good is found out when the store answers.
    pub(super) fn find(&self) -> Option<OwnFiles> {
        let files =
            self.load().inspect_err(|error| tracing::debug!(%error, "no certificates of before")).ok()?;
        let is = |files: &TlsFiles, whose: &Whose| {
            files.own().is_some_and(|own| own.identity == whose.identity(&own.identity.trust_domain))
        };
        let services = is(&files.services, &self.services().1);
        let node = match (&files.node, self.node()) {
            (Some(files), Some((_, whose))) => is(files, &whose),
            _ => true,
        };
        (services && node).then_some(files)
    }

    fn load(&self) -> anyhow::Result<OwnFiles> {
        let load = |held: Held| -> anyhow::Result<Arc<TlsFiles>> {
            let own = (
                TlsFile { setting: "the own certificate", path: held.certificate },
                TlsFile { setting: "the own key", path: held.key },
            );
            let authority = TlsFile { setting: "the own authority", path: held.authority };
            Ok(Arc::new(TlsFiles::load(TlsPaths { own: Some(own), authority })?))
        };
        let node = self.node().map(|(held, _)| load(held)).transpose()?;
        Ok(OwnFiles { services: load(self.services().0)?, node })
    }

    /// Makes the authority in the store if there is none, and everything good that is not.
    pub(super) async fn keep(self, store: &Store) -> anyhow::Result<(Keeper, OwnFiles)> {
        let keys = keys_for(store, &self.key_file).await?;
        let dir = AuthorityDir::new(&self.authority_dir);
        ensure_authority(store, &dir, &*keys, None).await?;
        // The key file may have got a new key while nothing ran: so the older ones can go.
        reseal(store, &dir, &*keys).await.context("sealing the authority's keys under the newest key")?;
        let issuer = Issuer::new(store, Some(Arc::clone(&keys)));
        issuer.ready().await.context("reading the authority")?;
        let node_keys = match &self.node {
            Some(_) => Some(OwnKeys::load_or_make(&self.node_keys).context("making this machine's keys")?),
            None => None,
        };
        let mut keeper = Keeper { identity: self, store: store.clone(), keys, issuer, node_keys };
        keeper.look().await.context("making certificates")?;
        let files = keeper.identity.load()?;
        Ok((keeper, files))
    }
}

impl OwnFiles {
    /// Takes what the files hold now.
    pub(super) fn look(&self) {
        for files in [Some(&self.services), self.node.as_ref()].into_iter().flatten() {
            if let Err(error) = files.look() {
                tracing::warn!(%error, "a certificate that was just written cannot be used");
            }
        }
    }
}

impl Keeper {
    /// What the authority's key is sealed under.
    pub(super) fn keys(&self) -> Arc<dyn KeyEncryption> {
        Arc::clone(&self.keys)
    }

    /// Renews what is due. `true`: something was.
    async fn look(&mut self) -> anyhow::Result<bool> {
        if let (Some(keys), Some(node)) = (&mut self.node_keys, &self.identity.node) {
            keys.enter(&self.store, node).await.context("entering this machine's keys")?;
        }
        let OwnIdentity { authority_dir, .. } = &self.identity;
        // A store that others share may have its root's key elsewhere: then it is theirs to renew.
        let renewed = renew(&self.store, &AuthorityDir::new(authority_dir), &*self.keys, Force::No).await;
        if let Err(error) = renewed {
            tracing::warn!(%error, "the authority's intermediate is not renewed here");
        }
        let mut changed = false;
        let services = Some(self.identity.services());
        let admin = Some((self.identity.admin(), OwnIdentity::admin_is()));
        for (held, whose) in [services, admin, self.identity.node()].into_iter().flatten() {
            changed |= held.ensure(&self.issuer, &whose, None, SystemTime::now())?.changed;
        }
        Ok(changed)
    }

    /// Looks until the end.
    pub(super) async fn run(mut self, files: OwnFiles, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(LOOK_PERIOD) => {}
            }
            match self.look().await {
                Ok(true) => {
                    files.look();
                    tracing::info!("certificates were renewed");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(
                        error = skerry_daemon::told(&error),
                        "certificates could not be renewed; tried again in a minute"
                    );
                }
            }
        }
    }
}

/// The address by which this machine would talk to others, if it has a way to any.
fn usual_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((IpAddr::from([0, 0, 0, 0]), 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
