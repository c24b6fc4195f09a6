//! The registry as a process of its own.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use skerry_daemon::{LogArgs, Shutdown};
use skerry_registry::{Args, Registry};
use skerry_rpc::{Access, Server};
use skerry_store::{Store, StoreConfig, Target};

/// Skerry's node registry: nodes, their state, events.
#[derive(Debug, Parser)]
#[command(name = "skerry-registry", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    skerry_daemon::run(&cli.log, |shutdown| serve(cli.args, shutdown))
}

async fn serve(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let access = if args.insecure { Access::Insecure } else { Access::Loopback };
    access.check_listener(args.listen)?;
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    let store = Store::connect(StoreConfig::new(Target::parse(&args.etcd)?)).await?;
    let registry = Registry::start(store.clone(), &shutdown).await?;
    let mut server = Server::new(access)?;
    registry.register(&mut server);
    tracing::info!(address = %listener.local_addr()?, "serving nodes and events");
    server.serve(listener, shutdown.token()).await?;
    shutdown.finish().await;
    store.close().await;
    Ok(())
}
