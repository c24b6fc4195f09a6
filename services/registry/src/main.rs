//! The registry as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use skerry_daemon::LogArgs;
use skerry_registry::{Args, Registry};
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
    let Cli { args, log } = Cli::parse();
    if args.health {
        return args.check_health();
    }
    skerry_daemon::run(&log, async |shutdown| {
        let listening = args.bind().await?;
        let store = Store::connect(StoreConfig::new(Target::parse(&args.etcd)?)).await?;
        let registry = Registry::start(store.clone(), &shutdown).await?;
        listening.serve(|server| registry.register(server), &shutdown).await?;
        store.close().await;
        Ok(())
    })
}
