//! The gateway as a process of its own.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use skerry_api::{AccessMirror, Member, StoreRoots};
use skerry_daemon::LogArgs;
use skerry_gateway::{Args, Config, Gateway, Issuing};
use skerry_rpc::Server;
use skerry_store::{EtcdTls, Store, StoreConfig, Target};

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
    let Cli { args, log } = Cli::parse();
    if args.service.health {
        return args.service.check_health();
    }
    let scraped = args.service.metrics_listen.is_some();
    skerry_daemon::run("skerry-gateway", &log, scraped, async |shutdown| {
        for address in &args.registry {
            skerry_rpc::check_address(address).context("--registry")?;
        }
        let listening = args.service.bind_for_enrolment().await?;
        let tls =
            args.service.etcd_tls.load()?.map(|pem| EtcdTls::new(&pem.authorities, pem.identity.as_ref()));
        let target = Target::parse_with(&args.service.etcd, tls)?;
        let store = Store::connect(StoreConfig::new(target).written_by("gateway")).await?;
        let roots = StoreRoots::start(&store, listening.tls()).await?;
        shutdown.spawn(roots.follow(shutdown.wait()));
        let address = listening.reachable().to_string();
        let client = listening.tls().map(|files| files.client());
        let issuing = (!args.registry.is_empty()).then(|| Issuing::at(args.registry.clone(), client));
        let tls = listening.tls().cloned();
        let config = Config { auto_register: !args.no_auto_register, issuing, tls, ..Config::new(address) };
        let gateway = Gateway::start(config, store.clone(), &shutdown).await?;
        let member = Member::new("gateway", listening.reachable(), listening.metrics_address());
        shutdown.spawn(member.keep(store.clone(), shutdown.wait()));
        tracing::info!(gateway = gateway.id(), "this gateway is known");
        let access = AccessMirror::start(&store).await?;
        shutdown.spawn(access.clone().follow(shutdown.wait()));
        let register = |server: &mut Server| {
            server.authorize(Arc::new(access));
            gateway.register(server);
        };
        listening.serve(store.watch_ready(), register, &shutdown).await?;
        store.close().await;
        Ok(())
    })
}
