//! The registry as a process of its own.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use skerry_api::{AccessMirror, Member, StoreRoots};
use skerry_daemon::LogArgs;
use skerry_registry::{Args, Config, Registry};
use skerry_rpc::Server;
use skerry_store::{EtcdTls, Store, StoreConfig, Target};

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
    if args.service.health {
        return args.service.check_health();
    }
    let scraped = args.service.metrics_listen.is_some();
    skerry_daemon::run("skerry-registry", &log, scraped, async |shutdown| {
        let config = Config::with_key_file(args.key_file.as_deref()).context("--key-file")?;
        let listening = args.service.bind().await?;
        let tls =
            args.service.etcd_tls.load()?.map(|pem| EtcdTls::new(&pem.authorities, pem.identity.as_ref()));
        let target = Target::parse_with(&args.service.etcd, tls)?;
        let store = Store::connect(StoreConfig::new(target).written_by("registry")).await?;
        let member = Member::new("registry", listening.reachable(), listening.metrics_address());
        let config = Config { audit: args.audit.keep(), member: member.id(), ..config };
        let roots = StoreRoots::start(&store, listening.tls()).await?;
        shutdown.spawn(roots.follow(shutdown.wait()));
        let access = AccessMirror::start(&store).await?;
        shutdown.spawn(access.clone().follow(shutdown.wait()));
        let registry = Registry::start(config, store.clone(), &access, &shutdown).await?;
        shutdown.spawn(member.keep(store.clone(), shutdown.wait()));
        let register = |server: &mut Server| {
            server.authorize(Arc::new(access));
            registry.register(server);
            registry.register_apply(server);
        };
        listening.serve(store.watch_ready(), register, &shutdown).await?;
        store.close().await;
        Ok(())
    })
}
