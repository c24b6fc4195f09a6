//! Registry, scheduler, gateway, relay and gpu on one listener, over the embedded etcd; and everybody who may want to call them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use skerry_api::AccessMirror;
use skerry_daemon::Shutdown;
use skerry_etcd_embedded::EmbeddedEtcd;
use skerry_gateway::Gateway;
use skerry_identity::clock::SystemClock;
use skerry_identity::key_ring::KeyRing;
use skerry_identity::seal::KeyEncryption;
use skerry_identity::tls::Credentials;
use skerry_identity::verify::{Clients, Expected, Time};
use skerry_identity::{KeyPair, SigningKey as _, Trust, TrustBundle, TrustDomain};
use skerry_model::ProjectName;
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::group_service_client::GroupServiceClient;
use skerry_proto::registry::v1::role_binding_service_client::RoleBindingServiceClient;
use skerry_proto::registry::v1::user_service_client::UserServiceClient;
use skerry_proto::types::v1::Metadata;
use skerry_registry::Registry;
use skerry_registry::authority::{AuthorityDir, Issuer, init};
use skerry_rpc::{Access, ClientTls, Server, ServerTls};
use skerry_scheduler::{Scheduler, SecretKeys};
use skerry_store::{Store, StoreConfig, Target};
use skerry_testing::Authority;
use tokio::net::TcpListener;
use tonic::transport::Channel;

pub(crate) const DOMAIN: &str = "example.org";

pub(crate) struct World {
    pub(crate) authority: Authority,
    url: String,
    shutdown: Shutdown,
    store: Store,
    etcd: EmbeddedEtcd,
    _dir: tempfile::TempDir,
}

/// Somebody with a certificate, or with none.
pub(crate) struct Caller {
    credentials: Arc<Credentials>,
    /// Of its key; none where it has no certificate.
    pub(crate) key: Option<String>,
}

impl Caller {
    pub(crate) fn of(authority: &Authority, who: &str) -> Self {
        let (issued, key) = authority.issue(&uri(who));
        Self::with(issued.chain, key)
    }

    pub(crate) fn expired(authority: &Authority, who: &str) -> Self {
        let (issued, key) = authority.issue_expired(&uri(who));
        Self::with(issued.chain, key)
    }

    pub(crate) fn nobody() -> Self {
        Self { credentials: Credentials::none(), key: None }
    }

    /// A certificate of nobody's authority.
    pub(crate) fn self_signed(who: &str) -> Self {
        let key = Arc::new(KeyPair::generate().expect("a key"));
        let signs = rcgen::KeyPair::from_pem(&key.to_pem()).expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        params.subject_alt_names.push(rcgen::SanType::URI(uri(who).try_into().expect("a URI")));
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.self_signed(&signs).expect("signed");
        Self::with(vec![certificate.der().clone()], key)
    }

    pub(crate) fn with(chain: Vec<rustls_pki_types::CertificateDer<'static>>, key: Arc<KeyPair>) -> Self {
        let id = key.public_key().id().to_string();
        Self { credentials: Credentials::new(chain, key).expect("they belong together"), key: Some(id) }
    }
}

/// `default/user/ada` as certificates have it.
pub(crate) fn uri(who: &str) -> String {
    format!("spiffe://{DOMAIN}/project/{who}")
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (etcd, store) = open(dir.path()).await?;
        let shutdown = Shutdown::new();
        let authority = Authority::new(DOMAIN);
        let (issued, key) = authority.issue(&uri("system/service/skerry"));
        // The installation's own authority, which issues to users, is trusted beside that of the tests.
        let keys: Arc<dyn KeyEncryption> = Arc::new(KeyRing::generate()?);
        let domain = TrustDomain::parse(DOMAIN)?;
        init(&store, &AuthorityDir::new(dir.path().join("authority")), &*keys, &domain).await?;
        let issuer = Issuer::new(&store, None);
        issuer.ready().await?;
        let roots = [authority.bundle().roots(), issuer.roots()?.roots()].concat();
        let trust = Trust::new(TrustBundle::new(roots)?);
        let tls = ServerTls::new(Credentials::new(issued.chain, key)?, trust, Clients::Optional);

        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        for project in ["other", "zoo"] {
            skerry_api::ensure_project(&store, &ProjectName::parse(project)?).await?;
        }
        let access = AccessMirror::start(&store).await?;
        shutdown.spawn(access.clone().follow(shutdown.wait()));
        let config = skerry_registry::Config { keys: Some(keys), ..Default::default() };
        let registry = Registry::start(config, store.clone(), &access, &shutdown).await?;
        let scheduler = Scheduler::start(store.clone(), "a-member", SecretKeys::none(), &shutdown).await?;
        let config = skerry_gateway::Config::new(address.to_string());
        let gateway = Gateway::start(config, store.clone(), &shutdown).await?;
        let relay = skerry_relay::Config::default();
        let relay = skerry_relay::Relay::start(relay, store.clone(), "a-relay", &shutdown);
        let gpu = skerry_gpu::Config::new(dir.path().join("gpu"), None);
        let gpu = skerry_gpu::GpuTelemetry::start(gpu, store.clone(), "a-gpu-service", &shutdown).await?;
        let mut server = Server::new(Access::Certificate(tls))?;
        server.authorize(Arc::new(access));
        registry.register(&mut server);
        scheduler.register(&mut server);
        gateway.register(&mut server);
        relay.register(&mut server);
        gpu.register(&mut server);
        shutdown.spawn(server.serve(listener, shutdown.token()));
        Ok(Self { authority, url: format!("https://{address}"), shutdown, store, etcd, _dir: dir })
    }

    /// A connection, if the handshake succeeds.
    pub(crate) async fn connect(&self, caller: &Caller) -> Result<Channel, skerry_rpc::ConnectError> {
        let trust = Trust::new(self.authority.bundle());
        let time = Time::Exact(Arc::new(SystemClock));
        let tls = ClientTls::new(Arc::clone(&caller.credentials), trust, Expected::Dialled, time);
        skerry_rpc::connect(&self.url, Some(&tls)).await
    }

    /// Who is admin always.
    pub(crate) async fn admin(&self) -> Result<Channel> {
        Ok(self.connect(&Caller::of(&self.authority, "system/user/admin")).await?)
    }

    /// A user with a record in which the key of its certificate counts.
    pub(crate) async fn user(&self, who: &str) -> Result<Caller> {
        let caller = Caller::of(&self.authority, who);
        self.record(who, caller.key.clone().into_iter().collect()).await?;
        Ok(caller)
    }

    /// Makes the record of a user whose keys are these.
    pub(crate) async fn record(&self, who: &str, keys: Vec<String>) -> Result<()> {
        let (project, name) = who.split_once("/user/").context("a user")?;
        let keys = keys.into_iter().map(|id| pb::UserKey { id, create_time: None }).collect();
        let user = pb::User {
            metadata: Some(Metadata { name: name.to_owned(), ..Metadata::default() }),
            spec: Some(pb::UserSpec { keys }),
        };
        let request = pb::CreateUserRequest {
            parent: format!("projects/{project}"),
            user: Some(user),
            ..pb::CreateUserRequest::default()
        };
        UserServiceClient::new(self.admin().await?).create_user(request).await?;
        Ok(())
    }

    /// Binds a role in a project to users and groups, by full names.
    pub(crate) async fn bind(
        &self,
        name: &str,
        role: pb::Role,
        users: &[&str],
        groups: &[&str],
    ) -> Result<()> {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let spec = pb::RoleBindingSpec { role: role.into(), users: texts(users), groups: texts(groups) };
        let metadata = Metadata { name: name.to_owned(), ..Metadata::default() };
        let request = pb::UpdateRoleBindingRequest {
            role_binding: Some(pb::RoleBinding { metadata: Some(metadata), spec: Some(spec) }),
            allow_missing: true,
            ..pb::UpdateRoleBindingRequest::default()
        };
        RoleBindingServiceClient::new(self.admin().await?).update_role_binding(request).await?;
        Ok(())
    }

    pub(crate) async fn group(&self, name: &str, members: &[&str]) -> Result<()> {
        let members = members.iter().map(|name| (*name).to_owned()).collect();
        let metadata = Metadata { name: name.to_owned(), ..Metadata::default() };
        let request = pb::UpdateGroupRequest {
            group: Some(pb::Group { metadata: Some(metadata), spec: Some(pb::GroupSpec { members }) }),
            allow_missing: true,
            ..pb::UpdateGroupRequest::default()
        };
        GroupServiceClient::new(self.admin().await?).update_group(request).await?;
        Ok(())
    }

    pub(crate) async fn finish(self) {
        self.shutdown.finish().await;
        self.store.close().await;
        self.etcd.close().await;
    }
}

async fn open(dir: &Path) -> Result<(EmbeddedEtcd, Store)> {
    let etcd = EmbeddedEtcd::open(skerry_etcd_embedded::Config::new(dir)).await?;
    let channel = etcd.serve_in_process().await?;
    let store = Store::connect(StoreConfig::new(Target::Channel(channel))).await?;
    Ok((etcd, store))
}
