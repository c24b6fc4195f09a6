//! The parts of `up`: the store, the services on one listener, the agent. Each starts, says when it ended by itself, and stops under a
//! deadline.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use skerry_daemon::Shutdown;
use skerry_etcd_embedded::EmbeddedEtcd;
use skerry_gateway::Gateway;
use skerry_proto::registry::v1::GetNodeRequest;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_registry::Registry;
use skerry_rpc::Server;
use skerry_scheduler::Scheduler;
use skerry_store::{Store, StoreConfig, Target};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::settings::{Settings, url};

/// Longest that the store may take to close.
const STORE_CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// Longest that the agent may take to say farewell and to end.
const AGENT_STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Longest that `up` waits for its own node before it says that all else is ready.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at its own node.
const CONNECT_PERIOD: Duration = Duration::from_millis(20);

/// The shared state, and the etcd that holds it if that is in this process.
pub(super) struct Storage {
    store: Store,
    embedded: Option<EmbeddedEtcd>,
}

impl Storage {
    pub(super) async fn open(settings: &Settings) -> anyhow::Result<Self> {
        if let Some(target) = &settings.etcd {
            let store = Store::connect(StoreConfig::new(target.clone())).await?;
            return Ok(Self { store, embedded: None });
        }
        let etcd =
            EmbeddedEtcd::open(skerry_etcd_embedded::Config::new(settings.data_dir.join("etcd"))).await?;
        let channel = etcd.serve_in_process().await?;
        match Store::connect(StoreConfig::new(Target::Channel(channel))).await {
            Ok(store) => Ok(Self { store, embedded: Some(etcd) }),
            Err(error) => {
                etcd.close().await;
                Err(error.into())
            }
        }
    }

    pub(super) fn store(&self) -> Store {
        self.store.clone()
    }

    pub(super) async fn close(self) {
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

/// Registry, scheduler and gateway on one listener.
pub(super) struct Services {
    shutdown: Shutdown,
    serving: JoinHandle<Result<(), skerry_rpc::ServeError>>,
}

impl Services {
    pub(super) async fn start(
        settings: &Settings,
        store: Store,
        listener: TcpListener,
    ) -> anyhow::Result<Self> {
        let address = listener.local_addr().context("finding the listener's address")?;
        let shutdown = Shutdown::new();
        match Self::server(settings, address, store, &shutdown).await {
            Ok(server) => {
                let serving = shutdown.spawn(server.serve(listener, shutdown.token()));
                Ok(Self { shutdown, serving })
            }
            Err(error) => {
                shutdown.finish().await;
                Err(error)
            }
        }
    }

    async fn server(
        settings: &Settings,
        address: SocketAddr,
        store: Store,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Server> {
        let gateway = skerry_gateway::Config::new(address.to_string());
        let mut server = Server::new(settings.access)?;
        // Each reads the fleet first: at the same time, to be ready sooner.
        let (registry, scheduler, gateway) = tokio::try_join!(
            async { Registry::start(store.clone(), shutdown).await.context("starting the registry") },
            async { Scheduler::start(store.clone(), shutdown).await.context("starting the scheduler") },
            async { Gateway::start(gateway, store.clone(), shutdown).await.context("starting the gateway") },
        )?;
        registry.register(&mut server);
        scheduler.register(&mut server);
        gateway.register(&mut server);
        Ok(server)
    }

    /// Waits until the listener ends by itself.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        match (&mut self.serving).await {
            Ok(Ok(())) => bail!("the listener closed"),
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => Err(panic.into()),
        }
    }

    pub(super) async fn stop(self) {
        self.shutdown.finish().await;
    }
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
pub(super) async fn node_connects(settings: &Settings, address: SocketAddr) -> bool {
    let Some(node) = &settings.node else { return false };
    let name = node.to_string();
    let deadline = Instant::now() + CONNECT_DEADLINE;
    let asking = async {
        let channel = skerry_rpc::connect(&url(address)).await.ok()?;
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
