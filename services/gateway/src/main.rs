//! The gateway as a process of its own.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use skerry_daemon::{LogArgs, Shutdown};
use skerry_gateway::{Args, Config, Gateway};
use skerry_rpc::{Access, Server};
use skerry_store::{Store, StoreConfig, Target};

/// Skerry's gateway: the streams of agents.
#[derive(Debug, Parser)]
#[command(name = "skerry-gateway", version)]
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
    let address = listener.local_addr()?;
    let store = Store::connect(StoreConfig::new(Target::parse(&args.etcd)?)).await?;
    let config = Config { auto_register: !args.no_auto_register, ..Config::new(address.to_string()) };
    let gateway = Gateway::start(config, store.clone(), &shutdown).await?;
    let mut server = Server::new(access)?;
    gateway.register(&mut server);
    tracing::info!(%address, gateway = gateway.id(), "serving agents");
    server.serve(listener, shutdown.token()).await?;
    shutdown.finish().await;
    store.close().await;
    Ok(())
}
