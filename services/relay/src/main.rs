//! The relay as a process of its own.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use skerry_api::{AccessMirror, Member, StoreRoots};
use skerry_daemon::LogArgs;
use skerry_relay::{Args, Config, Relay};
use skerry_rpc::Server;
use skerry_store::{EtcdTls, Store, StoreConfig, Target};

/// Skerry's relay: logs and other channels to what runs on nodes.
#[derive(Debug, Parser)]
#[command(name = "skerry-relay", version)]
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
    skerry_daemon::run("skerry-relay", &log, scraped, async |shutdown| {
        for address in &args.advertise {
            skerry_rpc::check_address(address).context("--advertise")?;
        }
        let listening = args.service.bind().await?;
        let tls =
            args.service.etcd_tls.load()?.map(|pem| EtcdTls::new(&pem.authorities, pem.identity.as_ref()));
        let target = Target::parse_with(&args.service.etcd, tls)?;
        let store = Store::connect(StoreConfig::new(target).written_by("relay")).await?;
        let roots = StoreRoots::start(&store, listening.tls()).await?;
        shutdown.spawn(roots.follow(shutdown.wait()));
        let member = Member::new("relay", listening.reachable(), listening.metrics_address());
        let advertise = if args.advertise.is_empty() {
            vec![skerry_daemon::local_url(listening.reachable(), listening.tls().is_some())]
        } else {
            args.advertise
        };
        let config = Config { advertise, tls: listening.tls().cloned() };
        let relay = Relay::start(config, store.clone(), &member.id(), &shutdown);
        shutdown.spawn(member.keep(store.clone(), shutdown.wait()));
        let access = AccessMirror::start(&store).await?;
        shutdown.spawn(access.clone().follow(shutdown.wait()));
        let register = |server: &mut Server| {
            server.authorize(Arc::new(access));
            relay.register(server);
        };
        listening.serve(store.watch_ready(), register, &shutdown).await?;
        store.close().await;
        Ok(())
    })
}
