//! The scheduler as a process of its own.

use std::process::ExitCode;

use clap::Parser;
use skerry_daemon::LogArgs;
use skerry_scheduler::{Args, Scheduler};
use skerry_store::{Store, StoreConfig, Target};

/// Skerry's app scheduler: apps, configs, revisions, placement.
#[derive(Debug, Parser)]
#[command(name = "skerry-scheduler", version)]
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
        let scheduler = Scheduler::start(store.clone(), &shutdown).await?;
        listening.serve(|server| scheduler.register(server), &shutdown).await?;
        store.close().await;
        Ok(())
    })
}
