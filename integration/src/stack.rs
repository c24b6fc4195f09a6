//! A control plane of separate processes on a real etcd, with agents: started, killed, started again.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use skerry_proto::registry::v1::event_service_client::EventServiceClient;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_proto::registry::v1::{DeleteNodeRequest, GetNodeRequest, ListEventsRequest, Node};
use skerry_proto::scheduler::v1::app_service_client::AppServiceClient;
use skerry_proto::scheduler::v1::config_service_client::ConfigServiceClient;
use skerry_proto::scheduler::v1::secret_service_client::SecretServiceClient;
use skerry_proto::scheduler::v1::{
    App, Config, DeleteAppRequest, GetAppRequest, ListInstancesRequest, UpdateAppRequest, UpdateConfigRequest,
};
use skerry_proto::types::v1::{AppSpec, Event, InstanceStatus, Metadata};
use skerry_testing::{Etcd, Process, bin, eventually, free_port};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::left::kill_left;

/// Long enough for a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a stack is made.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// How many gateways.
    pub gateways: usize,
    /// How many registries. Gateways and commands are told of the first.
    pub registries: usize,
    /// How many schedulers.
    pub schedulers: usize,
    /// How many relays.
    pub relays: usize,
    /// Each relay says that agents shall dial the next one: so none dials the one that holds its channel.
    pub crossed_relays: bool,
    /// How many gpu services.
    pub gpus: usize,
    /// Where all services listen.
    pub host: Ipv4Addr,
    /// Further arguments of every service.
    pub service_args: Vec<String>,
    /// Further arguments of every scheduler.
    pub scheduler_args: Vec<String>,
}

impl Default for StackConfig {
    fn default() -> Self {
        Self {
            gateways: 1,
            registries: 1,
            schedulers: 1,
            relays: 0,
            crossed_relays: false,
            gpus: 0,
            host: Ipv4Addr::LOCALHOST,
            service_args: Vec::new(),
            scheduler_args: Vec::new(),
        }
    }
}

fn free_address(host: Ipv4Addr) -> String {
    format!("{host}:{}", free_port())
}

/// One service process and how to start it again.
#[derive(Debug)]
struct Service {
    args: Vec<String>,
    /// The network namespace that it runs in; that of this process.
    network: Option<PathBuf>,
    process: Option<Process>,
}

/// A running Skerry. Dropping it kills its processes, and those that its agents run; containers are the test's to remove.
#[derive(Debug)]
pub struct Stack {
    dir: TempDir,
    /// The store.
    pub etcd: Etcd,
    services: BTreeMap<String, Service>,
    addresses: BTreeMap<String, String>,
    metrics: BTreeMap<String, String>,
    agents: BTreeMap<String, Service>,
}

impl Stack {
    /// One of each service.
    pub async fn start() -> Result<Self> {
        Self::start_with(StackConfig::default()).await
    }

    /// As configured; ready when every service answers.
    pub async fn start_with(config: StackConfig) -> Result<Self> {
        let mut stack = Self {
            dir: TempDir::new().context("making a directory for the stack")?,
            etcd: Etcd::start().await?,
            services: BTreeMap::new(),
            addresses: BTreeMap::new(),
            metrics: BTreeMap::new(),
            agents: BTreeMap::new(),
        };
        let schedulers = (0..config.schedulers).map(|n| (format!("scheduler-{n}"), "skerry-scheduler"));
        let gateways = (0..config.gateways).map(|n| (format!("gateway-{n}"), "skerry-gateway"));
        let registries = (0..config.registries).map(|n| (format!("registry-{n}"), "skerry-registry"));
        for (name, program) in registries.chain(schedulers).chain(gateways) {
            let more = if program == "skerry-scheduler" { config.scheduler_args.as_slice() } else { &[] };
            stack.add_service(
                &name,
                program,
                &free_address(config.host),
                &[&config.service_args, more].concat(),
            )?;
        }
        let relays: Vec<String> = (0..config.relays).map(|_| free_address(config.host)).collect();
        for (n, address) in relays.iter().enumerate() {
            let mut more = config.service_args.clone();
            if config.crossed_relays {
                more.push(format!("--advertise=http://{}", relays[(n + 1) % relays.len()]));
            }
            stack.add_service(&format!("relay-{n}"), "skerry-relay", address, &more)?;
        }
        for n in 0..config.gpus {
            let name = format!("gpu-{n}");
            let data = format!("--data-dir={}", stack.dir.path().join(&name).display());
            let more = [config.service_args.clone(), vec![data]].concat();
            stack.add_service(&name, "skerry-gpu", &free_address(config.host), &more)?;
        }
        for name in stack.services.keys().cloned().collect::<Vec<_>>() {
            stack.wait_service(&name).await?;
        }
        Ok(stack)
    }

    fn add_service(&mut self, name: &str, program: &str, address: &str, more: &[String]) -> Result<()> {
        let metrics = free_address(Ipv4Addr::LOCALHOST);
        let mut args = vec![
            program.to_owned(),
            format!("--metrics-listen={metrics}"),
            format!("--listen={address}"),
            format!("--etcd={}", self.etcd.endpoint()),
        ];
        if !more.iter().any(|arg| arg.starts_with("--tls-cert")) {
            args.push("--insecure".to_owned());
        }
        args.extend_from_slice(more);
        self.metrics.insert(name.to_owned(), metrics);
        self.addresses.insert(name.to_owned(), address.to_owned());
        self.services.insert(name.to_owned(), Service { args, network: None, process: None });
        self.start_service(name)
    }

    /// Starts a service that was killed.
    pub fn start_service(&mut self, name: &str) -> Result<()> {
        let log = self.log(name);
        let service = self.services.get_mut(name).with_context(|| format!("no service {name}"))?;
        service.process = Some(Process::spawn(bin(&service.args[0]), &service.args[1..], log)?);
        Ok(())
    }

    /// Waits until a service accepts connections.
    pub async fn wait_service(&mut self, name: &str) -> Result<()> {
        let address = self.addresses[name].parse().context("an address")?;
        let service = self.services.get_mut(name).with_context(|| format!("no service {name}"))?;
        let process = service.process.as_mut().with_context(|| format!("{name} was not started"))?;
        process.wait_for_port(address, PATIENCE).await
    }

    /// `kill -9`.
    pub fn kill_service(&mut self, name: &str) -> Result<()> {
        let service = self.services.get_mut(name).with_context(|| format!("no service {name}"))?;
        service.process.take().with_context(|| format!("{name} does not run"))?.kill()
    }

    /// The process of a service, to be paused or ended in order.
    pub fn service(&mut self, name: &str) -> Result<&mut Process> {
        self.services
            .get_mut(name)
            .and_then(|service| service.process.as_mut())
            .with_context(|| format!("{name} does not run"))
    }

    /// The address of a service, as `host:port`.
    pub fn address(&self, name: &str) -> &str {
        &self.addresses[name]
    }

    /// Where a service serves its metrics, as `host:port`.
    pub fn metrics(&self, name: &str) -> &str {
        &self.metrics[name]
    }

    /// Where a process writes what it says.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// The stack's own directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// An agent's data directory.
    pub fn agent_dir(&self, node: &str) -> PathBuf {
        self.dir.path().join("agents").join(node)
    }

    /// Starts an agent for `node`, against all gateways; without Docker unless `extra` says otherwise.
    pub fn add_agent(&mut self, node: &str, extra: &[&str]) -> Result<()> {
        self.add_agent_in(None, node, extra)
    }

    /// The same in a network namespace.
    pub fn add_agent_in(&mut self, network: Option<PathBuf>, node: &str, extra: &[&str]) -> Result<()> {
        let mut args = vec!["skerry-agent".to_owned(), "--insecure".to_owned(), format!("--node={node}")];
        args.push(format!("--data-dir={}", self.agent_dir(node).display()));
        for (name, address) in &self.addresses {
            if name.starts_with("gateway") {
                args.push(format!("--gateway=http://{address}"));
            }
        }
        if extra.is_empty() {
            args.push("--no-docker".to_owned());
        }
        args.extend(extra.iter().map(|arg| (*arg).to_owned()));
        self.agents.insert(node.to_owned(), Service { args, network, process: None });
        self.start_agent(node)
    }

    /// Starts an agent that was killed.
    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        let log = self.log(&format!("agent-{node}"));
        let agent = self.agents.get_mut(node).with_context(|| format!("no agent {node}"))?;
        let mut command = match &agent.network {
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg("--").arg(bin(&agent.args[0]));
                command
            }
            None => Command::new(bin(&agent.args[0])),
        };
        agent.process = Some(Process::spawn_command(command.args(&agent.args[1..]), log)?);
        Ok(())
    }

    /// `kill -9`. What it started runs on.
    pub fn kill_agent(&mut self, node: &str) -> Result<()> {
        let agent = self.agents.get_mut(node).with_context(|| format!("no agent {node}"))?;
        agent.process.take().with_context(|| format!("the agent of {node} does not run"))?.kill()
    }

    /// The process of an agent.
    pub fn agent(&mut self, node: &str) -> Result<&mut Process> {
        self.agents
            .get_mut(node)
            .and_then(|agent| agent.process.as_mut())
            .with_context(|| format!("no agent of {node} runs"))
    }

    async fn channel(&self, service: &str) -> Result<Channel> {
        let address = &self.addresses[service];
        skerry_rpc::connect(address, None).await.with_context(|| format!("connecting to {service}"))
    }

    /// A client of the registry.
    pub async fn nodes(&self) -> Result<NodeServiceClient<Channel>> {
        Ok(NodeServiceClient::new(self.channel("registry-0").await?))
    }

    /// A client of the first scheduler.
    pub async fn apps(&self) -> Result<AppServiceClient<Channel>> {
        Ok(AppServiceClient::new(self.channel("scheduler-0").await?))
    }

    /// A client of the first scheduler.
    pub async fn configs(&self) -> Result<ConfigServiceClient<Channel>> {
        Ok(ConfigServiceClient::new(self.channel("scheduler-0").await?))
    }

    /// A client of the first scheduler.
    pub async fn secrets(&self) -> Result<SecretServiceClient<Channel>> {
        Ok(SecretServiceClient::new(self.channel("scheduler-0").await?))
    }

    /// Creates or updates an app.
    pub async fn apply(&self, name: &str, spec: AppSpec) -> Result<App> {
        let metadata = Metadata { name: format!("projects/default/apps/{name}"), ..Default::default() };
        let app = App { metadata: Some(metadata), spec: Some(spec), status: None };
        let request = UpdateAppRequest { app: Some(app), allow_missing: true, ..Default::default() };
        let response = self.apps().await?.update_app(request).await.context("applying an app")?.into_inner();
        response.app.context("an app in the answer")
    }

    /// Creates or updates a config of text files.
    pub async fn apply_config(&self, name: &str, files: &[(&str, &str)]) -> Result<()> {
        let metadata = Metadata { name: format!("projects/default/configs/{name}"), ..Default::default() };
        let data = files.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        let spec = skerry_proto::scheduler::v1::ConfigSpec { data, ..Default::default() };
        let config = Config { metadata: Some(metadata), spec: Some(spec) };
        let request = UpdateConfigRequest { config: Some(config), allow_missing: true, ..Default::default() };
        self.configs().await?.update_config(request).await.context("applying a config")?;
        Ok(())
    }

    /// Deletes an app.
    pub async fn delete_app(&self, name: &str) -> Result<()> {
        let request =
            DeleteAppRequest { name: format!("projects/default/apps/{name}"), ..Default::default() };
        self.apps().await?.delete_app(request).await.context("deleting an app")?;
        Ok(())
    }

    /// Deletes a node.
    pub async fn delete_node(&self, name: &str) -> Result<()> {
        let request =
            DeleteNodeRequest { name: format!("projects/default/nodes/{name}"), ..Default::default() };
        self.nodes().await?.delete_node(request).await.context("deleting a node")?;
        Ok(())
    }

    /// An app as it is now.
    pub async fn app(&self, name: &str) -> Result<App> {
        let request = GetAppRequest { name: format!("projects/default/apps/{name}") };
        self.apps().await?.get_app(request).await?.into_inner().app.context("an app in the answer")
    }

    /// A node as it is now.
    pub async fn node(&self, name: &str) -> Result<Node> {
        let request = GetNodeRequest { name: format!("projects/default/nodes/{name}") };
        self.nodes().await?.get_node(request).await?.into_inner().node.context("a node in the answer")
    }

    /// Instances of an app.
    pub async fn instances(&self, app: &str) -> Result<Vec<InstanceStatus>> {
        let request = ListInstancesRequest {
            parent: format!("projects/default/apps/{app}"),
            page_size: 1000,
            ..Default::default()
        };
        Ok(self.apps().await?.list_instances(request).await?.into_inner().instances)
    }

    /// Events of the project.
    pub async fn events(&self) -> Result<Vec<Event>> {
        let mut client = EventServiceClient::new(self.channel("registry-0").await?);
        let request = ListEventsRequest {
            parent: "projects/default".to_owned(),
            page_size: 10_000,
            ..Default::default()
        };
        Ok(client.list_events(request).await?.into_inner().events)
    }

    /// Waits until a node is connected.
    pub async fn wait_connected(&self, node: &str) {
        eventually(&format!("{node} connected"), PATIENCE, async || -> Result<()> {
            let node = self.node(node).await?;
            let connected = node.status.and_then(|status| status.connection).is_some_and(|c| c.connected);
            ensure!(connected, "not connected");
            Ok(())
        })
        .await;
    }

    /// Waits until a node is told to be away.
    pub async fn wait_disconnected(&self, node: &str) {
        eventually(&format!("{node} disconnected"), PATIENCE, async || -> Result<()> {
            let node = self.node(node).await?;
            let connected = node.status.and_then(|status| status.connection).is_some_and(|c| c.connected);
            ensure!(!connected, "still connected");
            Ok(())
        })
        .await;
    }

    /// Waits until `instances` instances of an app should be, and all are ready in the current revision.
    pub async fn wait_ready(&self, app: &str, instances: u32) {
        eventually(&format!("{app} ready with {instances}"), PATIENCE, async || {
            self.check_ready(app, instances).await
        })
        .await;
    }

    /// Whether an app is as [`Self::wait_ready`] wants it.
    pub async fn check_ready(&self, app: &str, instances: u32) -> Result<()> {
        let now = self.app(app).await?;
        let status = now.status.context("no status")?;
        let generation = now.metadata.map_or(0, |metadata| metadata.generation);
        let counts = status.counts.unwrap_or_default();
        if counts.desired == instances
            && counts.ready == instances
            && status.observed_generation == generation
        {
            return Ok(());
        }
        bail!("{counts:?}, generation {generation}, {:?}, {:?}", status.conditions, status.problems)
    }

    /// Deletes all apps.
    pub async fn delete_apps(&self) -> Result<()> {
        let request = skerry_proto::scheduler::v1::ListAppsRequest {
            parent: "projects/default".into(),
            ..Default::default()
        };
        let apps = self.apps().await?.list_apps(request).await?.into_inner().apps;
        for app in apps {
            let name = app.metadata.unwrap_or_default().name;
            match self.delete_app(name.rsplit('/').next().unwrap_or_default()).await {
                // A list may be a moment behind a deletion.
                Err(error) if error.downcast_ref().is_some_and(is_absent) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Deletes all apps, waits until nothing of the witness's runs, and ends the agents.
    pub async fn finish(mut self, witness: Option<&crate::Witness>) -> Result<()> {
        self.delete_apps().await?;
        if let Some(witness) = witness {
            eventually("nothing left running", PATIENCE, async || {
                let running = witness.running();
                ensure!(running.is_empty(), "{running:?}");
                Ok(())
            })
            .await;
        }
        for agent in self.agents.values_mut() {
            if let Some(mut process) = agent.process.take() {
                process.terminate(PATIENCE).await?;
            }
        }
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // They would start again what is killed.
        self.agents.clear();
        kill_left(self.dir.path());
    }
}

fn is_absent(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::NotFound
}
