//! A control plane in one process (`skerry up --no-agent`, release build) and agents in processes of their own (profile `edge`), over mutual TLS
//! by the authority that `up` makes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_proto::registry::v1::token_service_client::TokenServiceClient;
use skerry_proto::registry::v1::{CreateTokenRequest, GetNodeRequest, Token};
use skerry_proto::relay::v1::relay_service_client::RelayServiceClient;
use skerry_proto::scheduler::v1::app_service_client::AppServiceClient;
use skerry_proto::scheduler::v1::{
    App, DeleteAppRequest, GetAppRequest, ListInstancesRequest, UpdateAppRequest,
};
use skerry_proto::types::v1::{AppSpec, Metadata};
use skerry_rpc::{TlsFile, TlsFiles, TlsPaths};
use skerry_testing::{Process, bin};
use tempfile::TempDir;
use tonic::transport::Channel;

/// Long enough for a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Where the client finds its context.
const CONFIG: &str = "SKERRY_CONFIG";
/// In the bench's directory.
const CONFIG_FILE: &str = "config.yaml";
/// Between two questions whether something is so yet, where its moment is not measured.
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// A running control plane.
pub(crate) struct Control {
    dir: TempDir,
    process: Process,
    address: String,
    channel: Channel,
    token: String,
}

impl Control {
    /// Starts one on an empty store and a free port; ready when it says so.
    pub(crate) async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("skerry-bench-").tempdir()?;
        let data = dir.path().join("up");
        let mut command = Command::new(bin("skerry"));
        command.args(["up", "--no-agent", "--listen=127.0.0.1:0", "--data-dir"]).arg(&data);
        command.env(CONFIG, dir.path().join(CONFIG_FILE));
        let mut process = Process::spawn_command(&mut command, dir.path().join("up.log"))?;
        let line = process.wait_for_line("serving", PATIENCE).await?;
        let address = line.split("https://").nth(1).and_then(|rest| rest.split(',').next());
        let address = address.with_context(|| format!("no address in `{line}`"))?.trim().to_owned();
        process.wait_for_line("ready after", PATIENCE).await?;
        let file = |setting, name| TlsFile { setting, path: data.join("tls").join(name) };
        let own = Some((file("--tls-cert", "admin.crt"), file("--tls-key", "admin.key")));
        let files = TlsFiles::load(TlsPaths { own, authority: file("--tls-ca", "ca.crt") })?;
        let channel = skerry_rpc::connect(&format!("https://{address}"), Some(&files.client())).await?;
        let request = CreateTokenRequest {
            parent: "projects/default".into(),
            token: Some(Token::default()),
            ttl: None,
        };
        let made = TokenServiceClient::new(channel.clone()).create_token(request).await?.into_inner();
        Ok(Self { dir, process, address, channel, token: made.text })
    }

    /// Where it serves, as `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Leave for agents to enrol.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// A command of the client, as the administrator.
    pub(crate) fn client(&self) -> Command {
        let mut client = Command::new(bin("skerry"));
        client.env(CONFIG, self.dir.path().join(CONFIG_FILE));
        client
    }

    /// A directory for what belongs to the bench; it ends with the control plane.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `kill -9`: the network is gone, as an agent sees it.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// The process of all its services.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A client of its relay.
    pub(crate) fn relay(&self) -> RelayServiceClient<Channel> {
        RelayServiceClient::new(self.channel.clone())
    }

    /// A client of the apps.
    pub(crate) fn apps(&self) -> AppServiceClient<Channel> {
        AppServiceClient::new(self.channel.clone())
    }

    /// Creates or updates an app.
    pub(crate) async fn apply(&self, name: &str, spec: AppSpec) -> Result<App> {
        let metadata = Metadata { name: app_name(name), ..Default::default() };
        let app = App { metadata: Some(metadata), spec: Some(spec), status: None };
        let request = UpdateAppRequest { app: Some(app), allow_missing: true, ..Default::default() };
        let answer = self.apps().update_app(request).await.context("applying an app")?.into_inner();
        answer.app.context("an app in the answer")
    }

    /// Deletes an app and waits until none of its instances is left.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let request = DeleteAppRequest { name: app_name(name), ..Default::default() };
        self.apps().delete_app(request).await.context("deleting an app")?;
        until(&format!("the end of {name}"), async || {
            // The app may be gone by name: asks for all of them.
            let request = ListInstancesRequest {
                parent: "projects/default".into(),
                page_size: 1000,
                ..Default::default()
            };
            let left = self.apps().list_instances(request).await?.into_inner().instances;
            let prefix = format!("{name}/");
            Ok(!left.iter().any(|instance| instance.instance.starts_with(&prefix)))
        })
        .await
    }

    /// Waits until all of `instances` instances of an app are ready in its current revision.
    pub(crate) async fn wait_ready(&self, name: &str, instances: u32) -> Result<()> {
        until(&format!("{name} to be ready"), async || {
            let request = GetAppRequest { name: app_name(name) };
            let app = self.apps().get_app(request).await?.into_inner().app.unwrap_or_default();
            Ok(is_ready(&app, instances))
        })
        .await
    }

    /// Waits until a node is connected.
    pub(crate) async fn wait_connected(&self, node: &str) -> Result<()> {
        self.wait_connection(node, true).await
    }

    /// Waits until a node's session has ended.
    pub(crate) async fn wait_disconnected(&self, node: &str) -> Result<()> {
        self.wait_connection(node, false).await
    }

    async fn wait_connection(&self, node: &str, wanted: bool) -> Result<()> {
        until(&format!("connected={wanted} of {node}"), async || {
            let request = GetNodeRequest { name: format!("projects/default/nodes/{node}") };
            let answer = NodeServiceClient::new(self.channel.clone()).get_node(request).await;
            let node = match answer {
                Ok(answer) => answer.into_inner().node.unwrap_or_default(),
                Err(status) if status.code() == tonic::Code::NotFound => return Ok(!wanted),
                Err(status) => return Err(status.into()),
            };
            let connection = node.status.and_then(|status| status.connection);
            Ok(connection.is_some_and(|connection| connection.connected) == wanted)
        })
        .await
    }
}

/// Whether `instances` instances of an app should be, and all are ready in its current revision.
pub(crate) fn is_ready(app: &App, instances: u32) -> bool {
    let status = app.status.clone().unwrap_or_default();
    let counts = status.counts.unwrap_or_default();
    let generation = app.metadata.as_ref().map_or(0, |metadata| metadata.generation);
    status.observed_generation == generation && counts.desired == instances && counts.ready == instances
}

/// The full name of an app.
pub(crate) fn app_name(name: &str) -> String {
    format!("projects/default/apps/{name}")
}

/// Asks until the answer is yes.
pub(crate) async fn until(what: &str, mut ask: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let asking = async {
        while !ask().await? {
            tokio::time::sleep(POLL_PERIOD).await;
        }
        Ok(())
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_) => bail!("waited {PATIENCE:?} for {what}"),
    }
}

/// How agents are started.
pub(crate) struct AgentPlan {
    /// The binary.
    pub(crate) program: PathBuf,
    /// Its node.
    pub(crate) node: String,
    /// Its data directory.
    pub(crate) data_dir: PathBuf,
    /// `host:port` of its gateway.
    pub(crate) gateway: String,
    /// By which it enrols at its first start.
    pub(crate) token: String,
    /// Whether it may use Docker.
    pub(crate) docker: bool,
    /// Where it sends traces and metrics, if anywhere.
    pub(crate) otlp: Option<String>,
    /// Gets its log.
    pub(crate) log: PathBuf,
}

impl AgentPlan {
    /// The command line.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--gateway=https://{}", self.gateway))
            .arg(format!("--token={}", self.token))
            .arg(format!("--node={}", self.node))
            .arg(format!("--data-dir={}", self.data_dir.display()))
            .arg("--log-format=json");
        if !self.docker {
            command.arg("--no-docker");
        }
        if let Some(endpoint) = &self.otlp {
            command.arg(format!("--otlp-endpoint={endpoint}"));
        }
        command
    }

    /// Starts one, its log in the file.
    pub(crate) fn start(&self) -> Result<Process> {
        Process::spawn_command(&mut self.command(), &self.log)
    }

    /// From just before the agent's start to its log line that its session is open. The line is read from a pipe, which costs the agent
    /// nothing and comes within microseconds; it is written when the gateway has welcomed the agent, which is after the gateway has
    /// committed the session to the store. The agent is ended in order.
    pub(crate) fn time_to_connected(&self) -> Result<Duration> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begun = Instant::now();
        let child = command.spawn().context("starting an agent")?;
        let mut child = Reaped(child);
        let lines = BufReader::new(child.0.stderr.take().context("a pipe")?).lines();
        let mut seen = Vec::new();
        for line in lines {
            let line = line.context("reading the agent's log")?;
            if line.contains("\"message\":\"connected\"") {
                let took = begun.elapsed();
                child.terminate();
                return Ok(took);
            }
            seen.push(line);
        }
        bail!("the agent ended without a session:\n{}", seen.join("\n"))
    }
}

/// A child that does not outlive its bench.
struct Reaped(Child);

impl Reaped {
    fn terminate(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::TERM,
        );
        let _ = self.0.wait();
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
