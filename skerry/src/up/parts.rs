//! The parts of `up`: the store, the services on one listener, the agent. Each starts, says when it ended by itself, and stops under a
//! deadline.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use skerry_api::{AccessMirror, Member, StoreRoots};
use skerry_daemon::Shutdown;
use skerry_etcd_embedded::EmbeddedEtcd;
use skerry_gateway::{Gateway, Issuing};
use skerry_gpu::GpuTelemetry;
use skerry_identity::key_ring::KeyRingError;
use skerry_model::Fault;
use skerry_proto::registry::v1::GetNodeRequest;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_registry::Registry;
use skerry_relay::Relay;
use skerry_rpc::Server;
use skerry_scheduler::{Scheduler, SecretKeys};
use skerry_store::{ConnectError, Store, StoreConfig, Target};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::identity::{Keeper, OwnFiles};
use super::say;
use super::security::{Choice, Secured};
use super::settings::Settings;
use crate::authority::key_file;
use crate::files::make_store_dir;

/// Longest that an etcd may be silent before `up` says that it waits for it.
const SILENT_WAIT: Duration = Duration::from_secs(1);
/// Longest that the store may take to close.
const STORE_CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Longest that the agent may take to say farewell and to end.
const AGENT_STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Longest that `up` waits for its own node before it says that all else is ready.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at its own node.
const CONNECT_PERIOD: Duration = Duration::from_millis(20);

/// The shared state, and the etcd that holds it if that is in this process.
struct Storage {
    store: Store,
    embedded: Option<EmbeddedEtcd>,
}

impl Storage {
    /// Connects to the etcd at `target`, however long it takes until that answers. Fails only where waiting is in vain.
    async fn connect(target: &Target) -> anyhow::Result<Self> {
        let mut told = false;
        loop {
            let connecting = Store::connect(StoreConfig::new(target.clone()).written_by("skerry"));
            tokio::pin!(connecting);
            let outcome = tokio::select! {
                outcome = &mut connecting => outcome,
                () = tokio::time::sleep(SILENT_WAIT), if !told => {
                    told = true;
                    say(&[format!(
                        "waiting for {}, which does not answer; this machine runs meanwhile what it was told before",
                        target.described()
                    )]);
                    connecting.await
                }
            };
            match outcome {
                Ok(store) => {
                    if told {
                        say(&[format!("{} answers", target.described())]);
                    }
                    return Ok(Self { store, embedded: None });
                }
                // Each try has its own waits, with jitter.
                Err(error @ ConnectError::Unavailable { .. }) => tracing::warn!(%error, "it is tried again"),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Opens the etcd in this process.
    async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let etcd = EmbeddedEtcd::open(skerry_etcd_embedded::Config::new(make_store_dir(&settings.data_dir)?))
            .await?;
        // Those of a process that was killed: nothing is placed and a dead service is listed until they end.
        etcd.revoke_leases().await;
        let channel = etcd.serve_in_process().await?;
        match Store::connect(StoreConfig::new(Target::Channel(channel)).written_by("skerry")).await {
            Ok(store) => Ok(Self { store, embedded: Some(etcd) }),
            Err(error) => {
                etcd.close().await;
                Err(error.into())
            }
        }
    }

    async fn close(self) {
        let closing = async {
            self.store.close().await;
            if let Some(etcd) = self.embedded {
                etcd.close().await;
            }
        };
        if tokio::time::timeout(STORE_CLOSE_DEADLINE, closing).await.is_err() {
            tracing::warn!("the store did not close in time; what was acknowledged is on disk");
        }
    }
}

/// The control plane: the store, and registry, scheduler, gateway, relay and gpu on one listener. What is not there yet is `None`, so that it can be
/// stopped at any point of its start.
pub(super) struct ControlPlane {
    storage: Option<Storage>,
    /// What keeps certificates of the own authority good.
    keeper: Option<Keeper>,
    /// The files that it keeps.
    own: Option<OwnFiles>,
    /// Where metrics are served.
    pub(super) metrics: Option<SocketAddr>,
    /// Whether it can answer: not before its store does.
    ready: watch::Sender<bool>,
    shutdown: Shutdown,
    serving: Option<JoinHandle<Result<(), skerry_rpc::ServeError>>>,
}

impl ControlPlane {
    /// Nothing runs yet.
    pub(super) fn new() -> Self {
        let (ready, _) = watch::channel(false);
        let shutdown = Shutdown::new();
        Self { storage: None, keeper: None, own: None, metrics: None, ready, shutdown, serving: None }
    }

    /// What it is served with. Certificates of its own are those of before; the first ones need the store, which is waited for.
    pub(super) async fn secure(&mut self, settings: &Settings) -> anyhow::Result<Secured> {
        let identity = match &settings.security {
            Choice::Given(secured) => return Ok(secured.clone()),
            Choice::Insecure => return Ok(Secured::insecure()),
            Choice::Own(identity) => identity,
        };
        let files = if let Some(files) = identity.find() {
            files
        } else {
            let storage = Self::storage(&mut self.storage, settings).await?;
            let (keeper, files) = (**identity).clone().keep(&storage.store).await?;
            self.keeper = Some(keeper);
            files
        };
        let secured = Secured::own(&files, settings.node.as_ref());
        self.own = Some(files);
        secured
    }

    /// The store, opened if it is not yet.
    async fn storage<'a>(
        storage: &'a mut Option<Storage>,
        settings: &Settings,
    ) -> anyhow::Result<&'a Storage> {
        if storage.is_none() {
            *storage = Some(match &settings.etcd {
                Some(target) => Storage::connect(target).await?,
                None => Storage::open(settings).await?,
            });
        }
        Ok(storage.as_ref().expect("opened above"))
    }

    /// Whether it can answer.
    pub(super) fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Starts it on `listener`. Callers are answered while an etcd elsewhere is waited for.
    pub(super) async fn start(
        &mut self,
        settings: &Settings,
        secured: &Secured,
        listener: TcpListener,
    ) -> anyhow::Result<()> {
        let address = listener.local_addr().context("finding the listener's address")?;
        let address = match &settings.etcd {
            Some(target) => skerry_daemon::reachable(address, &target.to_string()).await,
            None => address,
        };
        let (listener, copy) = shared(listener).context("sharing the listener")?;
        let Self { storage, shutdown, metrics, keeper, own, .. } = self;
        let metrics = *metrics;
        let starting = async {
            let store = Self::storage(storage, settings).await?.store.clone();
            if let Some(node) = &settings.node {
                let made = skerry_api::ensure_project(&store, &node.project).await;
                made.with_context(|| format!("making the project {}", node.project))?;
            }
            if let (Choice::Own(identity), None) = (&settings.security, &keeper) {
                let (kept, _) = (**identity).clone().keep(&store).await?;
                if let Some(files) = own {
                    files.look();
                }
                *keeper = Some(kept);
            }
            let registry = match &keeper {
                Some(keeper) => skerry_registry::Config { keys: Some(keeper.keys()), ..Default::default() },
                None => skerry_registry::Config::with_key_file(settings.key_file.as_deref())
                    .context("--key-file")?,
            };
            let secrets = secret_keys(settings, keeper.is_some()).context("the key file of secrets")?;
            let gpu_dir = settings.data_dir.join("gpu");
            Self::server(secured, (registry, secrets), (address, metrics), &gpu_dir, store, shutdown).await
        };
        let refusing = async {
            let Some(target) = &settings.etcd else { return std::future::pending().await };
            let why = format!("this server waits for its store ({}): try again", target.described());
            skerry_rpc::refuse_all(copy, &secured.access, Fault::unavailable(why), CancellationToken::new())
                .await
        };
        let server = tokio::select! {
            server = starting => server?,
            refused = refusing => {
                refused?;
                bail!("the listener closed");
            }
        };
        if let Some(storage) = &self.storage {
            let mut ready = storage.store.watch_ready();
            let (tell, shutdown) = (self.ready.clone(), self.shutdown.clone());
            self.shutdown.spawn(async move {
                let telling = async {
                    loop {
                        tell.send_replace(*ready.borrow_and_update());
                        if ready.changed().await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = shutdown.wait() => {}
                    () = telling => {}
                }
            });
        }
        if let (Some(keeper), Some(files)) = (self.keeper.take(), self.own.clone()) {
            self.shutdown.spawn(keeper.run(files, self.shutdown.clone()));
        }
        let denied = settings.data_dir.join("denied.jsonl");
        self.shutdown.spawn(skerry_daemon::keep_denied(Some(denied), self.shutdown.clone()));
        let mut server = server;
        server.ready_when(self.ready());
        self.serving = Some(self.shutdown.spawn(server.serve(listener, self.shutdown.token())));
        Ok(())
    }

    async fn server(
        secured: &Secured,
        (registry, secrets): (skerry_registry::Config, SecretKeys),
        (address, metrics): (SocketAddr, Option<SocketAddr>),
        gpu_dir: &Path,
        store: Store,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Server> {
        let tls = secured.tls.clone();
        let gateway = skerry_gateway::Config { tls, ..skerry_gateway::Config::new(address.to_string()) };
        let mut server = Server::new(secured.access.clone())?;
        let roots = StoreRoots::start(&store, secured.tls.as_ref()).await?;
        shutdown.spawn(roots.follow(shutdown.wait()));
        let [registry_member, scheduler_member, gateway_member, relay_member, gpu_member] =
            ["registry", "scheduler", "gateway", "relay", "gpu"]
                .map(|service| Member::new(service, address, metrics));
        let leader = scheduler_member.id();
        // Agents reach it where they reach their gateway.
        let relay = skerry_relay::Config { advertise: Vec::new(), tls: secured.tls.clone() };
        let relay = Relay::start(relay, store.clone(), &relay_member.id(), shutdown);
        let gpu = skerry_gpu::Config::new(gpu_dir, secured.tls.clone());
        let gpu = GpuTelemetry::start(gpu, store.clone(), &gpu_member.id(), shutdown).await;
        let gpu = gpu.context("starting the gpu service")?;
        let registry = skerry_registry::Config { member: registry_member.id(), ..registry };
        // Each reads the fleet first: at the same time, to be ready sooner. The gateway asks the registry beside it for machines that enrol.
        let registry = async {
            let access = AccessMirror::start(&store).await.context("reading the users from the store")?;
            let registry = Registry::start(registry, store.clone(), &access, shutdown).await;
            let registry = registry.context("starting the registry")?;
            let issuing = Some(Issuing::by(registry.issuing()));
            let config = skerry_gateway::Config { issuing, ..gateway };
            let gateway = Gateway::start(config, store.clone(), shutdown).await;
            Ok::<_, anyhow::Error>((registry, access, gateway.context("starting the gateway")?))
        };
        let ((registry, access, gateway), scheduler) = tokio::try_join!(registry, async {
            Scheduler::start(store.clone(), &leader, secrets, shutdown)
                .await
                .context("starting the scheduler")
        })?;
        for member in [registry_member, scheduler_member, gateway_member, relay_member, gpu_member] {
            shutdown.spawn(member.keep(store.clone(), shutdown.wait()));
        }
        shutdown.spawn(access.clone().follow(shutdown.wait()));
        server.authorize(Arc::new(access));
        registry.register(&mut server);
        scheduler.with_mirrors(registry.mirrors()).register(&mut server);
        gateway.register(&mut server);
        relay.register(&mut server);
        gpu.register(&mut server);
        Ok(server)
    }

    /// Waits until the listener ends by itself.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(serving) = &mut self.serving else { bail!("it was not started") };
        match serving.await {
            Ok(Ok(())) => bail!("the listener closed"),
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => Err(panic.into()),
        }
    }

    /// Ends the streams, then closes the store.
    pub(super) async fn stop(self) {
        self.shutdown.finish().await;
        if let Some(storage) = self.storage {
            storage.close().await;
        }
    }
}

/// What secrets are sealed under: the file of the authority's key, beside the store and not in it. Of a store that others share too, no file is made
/// here, since they could not open what it seals.
fn secret_keys(settings: &Settings, has_authority: bool) -> Result<SecretKeys, KeyRingError> {
    match &settings.key_file {
        Some(path) => SecretKeys::load(path),
        None if has_authority || settings.etcd.is_none() => {
            SecretKeys::load_or_make(&key_file(&settings.data_dir))
        }
        None => Ok(SecretKeys::none()),
    }
}

/// The listener twice: what one does not accept, the other does.
fn shared(listener: TcpListener) -> std::io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    let copy = listener.try_clone()?;
    Ok((TcpListener::from_std(listener)?, TcpListener::from_std(copy)?))
}

/// This machine's agent.
pub(super) struct Agent {
    token: CancellationToken,
    running: JoinHandle<Result<(), skerry_agent::ServeError>>,
    shutdown: Shutdown,
}

impl Agent {
    pub(super) fn start(config: skerry_agent::Config) -> Self {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        let running = shutdown.spawn(skerry_agent::serve(config, token.clone()));
        Self { token, running, shutdown }
    }

    /// Waits until the agent ends by itself; for ever, if there is none.
    pub(super) async fn ended(agent: &mut Option<Self>) -> anyhow::Result<()> {
        let Some(agent) = agent else { return std::future::pending().await };
        match (&mut agent.running).await {
            Ok(Ok(())) => bail!("it stopped by itself"),
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => Err(panic.into()),
        }
    }

    /// Lets the agent say farewell while the gateway still listens.
    pub(super) async fn stop(self) {
        self.token.cancel();
        if tokio::time::timeout(AGENT_STOP_DEADLINE, self.shutdown.finish()).await.is_err() {
            tracing::warn!("the agent did not end in time");
        }
    }
}

/// Whether this machine's node is connected within the deadline.
pub(super) async fn node_connects(settings: &Settings, secured: &Secured, address: SocketAddr) -> bool {
    let Some(node) = &settings.node else { return false };
    let name = node.to_string();
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let asking = async {
        let tls = secured.tls.as_ref().and_then(|files| files.client_of_itself().ok());
        let channel = skerry_rpc::connect(&settings.url(address), tls.as_ref()).await.ok()?;
        let mut nodes = NodeServiceClient::new(channel);
        loop {
            let mut request = tonic::Request::new(GetNodeRequest { name: name.clone() });
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let answer = nodes.get_node(request).await;
            let status = answer.ok().and_then(|answer| answer.into_inner().node?.status);
            if status.and_then(|status| status.connection).is_some_and(|connection| connection.connected) {
                return Some(());
            }
            tokio::time::sleep(CONNECT_PERIOD).await;
        }
    };
    matches!(tokio::time::timeout_at(deadline, asking).await, Ok(Some(())))
}
