//! The scheduler as a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use skerry_api::{AccessMirror, Member, StoreRoots};
use skerry_daemon::LogArgs;
use skerry_rpc::Server;
use skerry_scheduler::{Args, Scheduler, SecretKeys};
use skerry_store::{EtcdTls, Store, StoreConfig, Target};

/// Skerry's app scheduler: apps, configs, revisions, placement.
#[derive(Debug, Parser)]
#[command(name = "skerry-scheduler", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
    /// File of the keys that secrets are sealed under in the store; without it secrets cannot be set nor given to nodes
    #[arg(long, env = "SKERRY_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let Cli { args, key_file, log } = Cli::parse();
    if args.health {
        return args.check_health();
    }
    let scraped = args.metrics_listen.is_some();
    skerry_daemon::run("skerry-scheduler", &log, scraped, async |shutdown| {
        let keys = key_file.as_deref().map_or_else(|| Ok(SecretKeys::none()), SecretKeys::load)?;
        let listening = args.bind().await?;
        let tls = args.etcd_tls.load()?.map(|pem| EtcdTls::new(&pem.authorities, pem.identity.as_ref()));
        let target = Target::parse_with(&args.etcd, tls)?;
        let store = Store::connect(StoreConfig::new(target).written_by("scheduler")).await?;
        let roots = StoreRoots::start(&store, listening.tls()).await?;
        shutdown.spawn(roots.follow(shutdown.wait()));
        let member = Member::new("scheduler", listening.reachable(), listening.metrics_address());
        let scheduler = Scheduler::start(store.clone(), &member.id(), keys, &shutdown).await?;
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
