//! `skerry up`: everything in one process, for one machine and for trying it out.
//!
//! The agent starts at once and runs what it has on disk, the control plane from the inside out (store, services, listener); an etcd
//! elsewhere is waited for. It stops from the outside in: the agent says farewell, the services end their streams, the store is closed
//! last. Each step of that has a deadline. Apps that run keep running: the agent finds them again.

mod gpus;
mod identity;
mod own_node;
mod parts;
mod security;
mod settings;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use skerry_cli::{OwnContext, OwnServer, keep_own_context, without_context};
use skerry_daemon::{EtcdTlsArgs, LogArgs, Monitor, Shutdown, TlsArgs};
use tokio::net::TcpListener;

use crate::files::{DirectoryLock, make_data_dir};
use parts::{Agent, ControlPlane};
use security::{Choice, Secured};
use settings::{Settings, Unnamed};

/// `up`
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
The same data directory continues where it was. Ctrl-C stops in order, a second one at once;
apps that run keep running and are found again. With --etcd, an etcd that is away is waited for; this
machine's agent runs meanwhile what it was told before.

Everything goes over mutual TLS. Without --tls-cert it has an authority of its own, in its data directory: it
makes certificates for its services, its node and who started it, renews them, and keeps a context for this
user's `skerry`.

Examples:
  skerry up
  skerry up --data-dir /tmp/skerry --listen 127.0.0.1:7777
  skerry up --gpu-sim a100x2
  skerry up --etcd http://127.0.0.1:2379 --no-agent
  skerry up --listen 0.0.0.0:7770 --advertise edge.example.org
  skerry up --no-agent --listen 0.0.0.0:7770 --tls-cert up.crt --tls-key up.key --tls-ca ca.crt")]
pub(crate) struct UpArgs {
    /// Directory for all state [default: /var/lib/skerry for root, else $XDG_STATE_HOME/skerry or ~/.local/state/skerry]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Address to serve clients and agents on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7770", value_parser = skerry_daemon::listen_address, value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Keep shared state in this etcd instead of the embedded one (https:// with --etcd-ca); may be repeated, or be unix:/path
    #[arg(long, value_name = "URL")]
    etcd: Vec<String>,

    #[command(flatten)]
    etcd_tls: EtcdTlsArgs,

    /// Run no agent: this machine is no node
    #[arg(long)]
    no_agent: bool,

    /// Name of this machine's node [default: its host name]
    #[arg(long, visible_alias = "node", value_name = "NAME", conflicts_with = "no_agent")]
    node_name: Option<String>,

    /// Run processes only, even where Docker answers
    #[arg(long, env = "SKERRY_NO_DOCKER", conflicts_with = "no_agent")]
    no_docker: bool,

    /// Where Docker listens, as unix:///var/run/docker.sock
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    docker_host: Option<String>,

    /// Docker's config file with the credentials of registries, as `docker login` writes it
    /// [default: config.json in $DOCKER_CONFIG or ~/.docker]
    #[arg(long, env = "SKERRY_DOCKER_CONFIG", value_name = "FILE")]
    docker_config: Option<PathBuf>,

    #[command(flatten)]
    image_gc: skerry_agent::ImageGcArgs,
    #[command(flatten)]
    forbid: skerry_agent::ForbidArgs,

    #[command(flatten)]
    gpus: skerry_agent::GpuArgs,

    /// Simulate GPUs, for tests and for trying it out where there is none: t4, a100x2, h100+t4, ...
    #[arg(long, env = "SKERRY_GPU_SIM", value_name = "MACHINE", conflicts_with_all = ["no_agent", "no_gpu", "nvml_library"])]
    gpu_sim: Option<String>,

    /// Name or address by which other machines reach this one: it goes into the certificate, beside localhost, the host name and what
    /// --listen says; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "insecure")]
    advertise: Vec<String>,

    /// File that the authority's keys are sealed under, made if it is not there [default: keys in the data directory]
    #[arg(long, env = "SKERRY_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Serve plain HTTP/2 to whoever reaches the address, without TLS and without asking who it is
    #[arg(long, env = "SKERRY_INSECURE")]
    insecure: bool,

    /// Certificate of this machine's node (PEM), for its agent; needed with --tls-cert, unless there is --no-agent
    #[arg(long, env = "SKERRY_NODE_TLS_CERT", value_name = "FILE", conflicts_with = "no_agent")]
    node_tls_cert: Option<PathBuf>,

    /// Key of --node-tls-cert (PEM), readable by its owner only
    #[arg(long, env = "SKERRY_NODE_TLS_KEY", value_name = "FILE", conflicts_with = "no_agent")]
    node_tls_key: Option<PathBuf>,

    /// Serve /metrics (for Prometheus), /healthz and /readyz on this address; absent: nowhere
    #[arg(long, env = "SKERRY_METRICS_LISTEN", value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Runs until `shutdown`, or until a part of it fails.
pub(crate) async fn run(
    args: UpArgs,
    project: Option<String>,
    tls: TlsArgs,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let metrics_listen = args.metrics_listen;
    let settings = Settings::of(args, project, &tls)?;
    make_data_dir(&settings.data_dir)?;
    let _lock = DirectoryLock::take(&settings.data_dir, "skerry up")?;
    let (listener, address) = bind(settings.listen).await?;
    say(&settings.summary(address));
    let mut control = ControlPlane::new();
    let prepared = tokio::select! {
        prepared = control.secure(&settings) => prepared,
        () = shutdown.wait() => {
            control.stop().await;
            return Ok(());
        }
    };
    let secured = match prepared {
        Ok(secured) => secured,
        Err(error) => {
            control.stop().await;
            return Err(error);
        }
    };
    let monitor = match metrics_listen {
        Some(address) => Some(Monitor::bind(address, &secured.access).await?),
        None => None,
    };
    control.metrics = monitor.as_ref().map(Monitor::address);
    // First, and whatever becomes of the control plane: it has its desired state on disk and runs that.
    let mut agent = settings.agent(address, secured.node.clone())?.map(Agent::start);
    if let Some(tls) = &secured.tls {
        skerry_daemon::follow(tls, &shutdown);
    }
    if let Some(monitor) = monitor {
        shutdown.spawn(monitor.serve(Some(control.ready()), shutdown.clone()));
    }
    let ended = tokio::select! {
        ended = serve(&mut control, &settings, &secured, listener, start) => ended,
        ended = Agent::ended(&mut agent) => ended.context("the agent ended"),
        () = shutdown.wait() => {
            say(&["stopping; Ctrl-C once more stops at once".to_owned()]);
            Ok(())
        }
    };
    if let Some(agent) = agent {
        agent.stop().await;
    }
    control.stop().await;
    if ended.is_ok() {
        say(&["stopped; what ran runs on".to_owned()]);
    }
    ended
}

/// Starts the control plane, waits until its health says so and this machine's node is connected, says that all is ready, and serves until it fails.
async fn serve(
    control: &mut ControlPlane,
    settings: &Settings,
    secured: &Secured,
    listener: TcpListener,
    start: Instant,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("finding the listener's address")?;
    control.start(settings, secured, listener).await?;
    let mut ready = control.ready();
    let announce = async {
        // An error means that the control plane ends, which is told by it.
        let _ = ready.wait_for(|ready| *ready).await;
        let connected = settings.node.is_none() || parts::node_connects(settings, secured, address).await;
        let own = own_context(settings, address);
        say(&settings.next_steps(address, start.elapsed(), connected, own.as_ref()));
        std::future::pending().await
    };
    tokio::select! {
        ended = control.ended() => ended.context("the services ended"),
        never = announce => never,
    }
}

/// Keeps a context for the client, where the certificates are our own.
fn own_context(settings: &Settings, address: SocketAddr) -> Option<Result<OwnContext, Unnamed>> {
    let Choice::Own(identity) = &settings.security else { return None };
    let (admin, url) = (identity.admin(), settings.url(address));
    let server = OwnServer {
        url: &url,
        port: address.port(),
        project: settings.other_project(),
        certificate: &admin.certificate,
        key: &admin.key,
        authority: &admin.authority,
    };
    let kept = keep_own_context(&server);
    Some(kept.map_err(|why| Unnamed { why, command: without_context(&server) }))
}

/// Listens at `address`; answers with the port that was taken.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is in use: is another `skerry` running there? --listen takes another address, port 0 any free one"
        ),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })?;
    let taken = listener.local_addr().context("finding the port that was taken")?;
    Ok((listener, taken))
}

/// Writes lines for people. That nobody reads them stops nothing.
pub(crate) fn say(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all((lines.join("\n") + "\n").as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_told_with_the_way_out() {
        let (_held, address) = bind("127.0.0.1:0".parse().expect("valid")).await.expect("a free port");
        let error = bind(address).await.expect_err("taken").to_string();
        assert!(
            error.starts_with(&format!("{address} is in use: is another `skerry` running there?")),
            "{error}"
        );
    }
}
