//! The scheduler as a process of its own.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use skerry_api::{AccessMirror, Member};
use skerry_daemon::LogArgs;
use skerry_rpc::Server;
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
    let scraped = args.metrics_listen.is_some();
    skerry_daemon::run("skerry-scheduler", &log, scraped, async |shutdown| {
        let listening = args.bind().await?;
        let store = Store::connect(StoreConfig::new(Target::parse(&args.etcd)?)).await?;
        let member = Member::new("scheduler", listening.address(), listening.metrics_address());
        let scheduler = Scheduler::start(store.clone(), &member.id(), &shutdown).await?;
        shutdown.spawn(member.keep(store.clone(), shutdown.wait()));
        let access = AccessMirror::start(&store).await?;
        shutdown.spawn(access.clone().follow(shutdown.wait()));
        let register = |server: &mut Server| {
            server.authorize(Arc::new(access));
            scheduler.register(server);
        };
        listening.serve(store.watch_ready(), register, &shutdown).await?;
        store.close().await;
        Ok(())
    })
}
