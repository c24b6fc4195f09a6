//! The gpu service as a process of its own.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use skerry_api::{AccessMirror, Member, StoreRoots};
use skerry_daemon::LogArgs;
use skerry_gpu::{Args, Config, GpuTelemetry};
use skerry_rpc::Server;
use skerry_store::{EtcdTls, Store, StoreConfig, Target};

/// Skerry's gpu service: the GPUs of a fleet, how they are, who uses them, and what was.
#[derive(Debug, Parser)]
#[command(name = "skerry-gpu", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let Cli { args, log } = Cli::parse();
    if args.service.health {
        return args.service.check_health();
    }
    let scraped = args.service.metrics_listen.is_some();
    skerry_daemon::run("skerry-gpu", &log, scraped, async |shutdown| {
        let listening = args.service.bind().await?;
        let tls =
            args.service.etcd_tls.load()?.map(|pem| EtcdTls::new(&pem.authorities, pem.identity.as_ref()));
        let target = Target::parse_with(&args.service.etcd, tls)?;
        let store = Store::connect(StoreConfig::new(target).written_by("gpu")).await?;
        let roots = StoreRoots::start(&store, listening.tls()).await?;
        shutdown.spawn(roots.follow(shutdown.wait()));
        let member = Member::new("gpu", listening.reachable(), listening.metrics_address());
        let config = Config::new(args.data_dir, listening.tls().cloned());
        let gpu = GpuTelemetry::start(config, store.clone(), &member.id(), &shutdown).await?;
        shutdown.spawn(member.keep(store.clone(), shutdown.wait()));
        let access = AccessMirror::start(&store).await?;
        shutdown.spawn(access.clone().follow(shutdown.wait()));
        let register = |server: &mut Server| {
            server.authorize(Arc::new(access));
            gpu.register(server);
        };
        listening.serve(store.watch_ready(), register, &shutdown).await?;
        store.close().await;
        Ok(())
    })
}
