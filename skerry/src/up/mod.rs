//! `skerry up`: everything in one process, for one machine and for trying it out.
//!
//! Starts from the inside out (store, services, listener, agent) and stops from the outside in: the agent says farewell, the services end
//! their streams, the store is closed last. Each step has a deadline. Apps that run keep running: the agent finds them again.

mod parts;
mod settings;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use skerry_daemon::{LogArgs, Shutdown};
use tokio::net::TcpListener;

use crate::files::{DirectoryLock, make_private};
use parts::{Agent, Services, Storage};
use settings::Settings;

/// `up`
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
The same data directory continues where it was. Ctrl-C stops in order, a second one at once;
apps that run keep running and are found again. Only warnings are logged unless --log says more.

Examples:
  skerry up
  skerry up --data-dir /tmp/skerry --listen 127.0.0.1:7777
  skerry up --etcd http://127.0.0.1:2379 --no-agent")]
pub(crate) struct UpArgs {
    /// Directory for all state [default: /var/lib/skerry for root, else $XDG_STATE_HOME/skerry or ~/.local/state/skerry]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Address to serve clients and agents on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:7770", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Keep shared state in this etcd instead of the embedded one; may be repeated, or be unix:/path
    #[arg(long, value_name = "URL")]
    etcd: Vec<String>,

    /// Run no agent: this machine is no node
    #[arg(long)]
    no_agent: bool,

    /// Name of this machine's node [default: its host name]
    #[arg(long, value_name = "NAME", conflicts_with = "no_agent")]
    node_name: Option<String>,

    /// Run processes only, even where Docker answers
    #[arg(long, env = "SKERRY_NO_DOCKER", conflicts_with = "no_agent")]
    no_docker: bool,

    /// Where Docker listens, as unix:///var/run/docker.sock
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    docker_host: Option<String>,

    /// Serve other machines without checking who they are
    #[arg(long, env = "SKERRY_INSECURE")]
    insecure: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

impl UpArgs {
    /// Logs warnings only: what `up` says itself is enough for people.
    pub(crate) fn be_quiet(&mut self) {
        if let Ok(filter) = "warn".parse() {
            self.log.filter = filter;
        }
    }
}

/// Runs until `shutdown`, or until a part of it fails.
pub(crate) async fn run(args: UpArgs, project: Option<String>, shutdown: Shutdown) -> anyhow::Result<()> {
    let start = Instant::now();
    let settings = Settings::of(args, project)?;
    make_private(&settings.data_dir)?;
    let _lock = DirectoryLock::take(&settings.data_dir, "skerry up")?;
    let (listener, address) = bind(settings.listen).await?;

    let storage = Storage::open(&settings).await?;
    let mut services = match Services::start(&settings, storage.store(), listener).await {
        Ok(services) => services,
        Err(error) => {
            storage.close().await;
            return Err(error);
        }
    };
    let mut agent = settings.agent(address)?.map(Agent::start);
    let ended = tokio::select! {
        ended = announce_and_wait(&settings, address, start, agent.is_some()) => ended,
        ended = services.ended() => ended.context("the services ended"),
        ended = Agent::ended(&mut agent) => ended.context("the agent ended"),
        () = shutdown.wait() => {
            say(&["stopping; Ctrl-C once more stops at once".to_owned()]);
            Ok(())
        }
    };
    if let Some(agent) = agent {
        agent.stop().await;
    }
    services.stop().await;
    storage.close().await;
    if ended.is_ok() {
        say(&["stopped; what ran runs on".to_owned()]);
    }
    ended
}

/// Says what there is, waits until this machine's node is connected, says that all is ready, and then waits for ever.
async fn announce_and_wait(
    settings: &Settings,
    address: SocketAddr,
    start: Instant,
    with_agent: bool,
) -> anyhow::Result<()> {
    say(&settings.summary(address));
    let connected = if with_agent { parts::node_connects(settings, address).await } else { true };
    say(&settings.next_steps(address, start.elapsed(), connected));
    std::future::pending().await
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
