//! `skerry etcd`: the embedded store in a process of its own, for services apart and for `etcdctl`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use skerry_daemon::{LogArgs, Shutdown};
use skerry_etcd_embedded::{Config, EmbeddedEtcd};
use skerry_rpc::Access;

use crate::up::{bind, say};

/// `etcd`
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  skerry etcd --data-dir /var/lib/skerry-etcd
  ETCDCTL_API=3 etcdctl --endpoints http://127.0.0.1:2379 get --prefix /skerry/v1/nodes/ --keys-only")]
pub(crate) struct EtcdArgs {
    /// Directory for the data; made if it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Address to serve etcd clients on
    #[arg(long, default_value = "127.0.0.1:2379", value_parser = skerry_daemon::listen_address, value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Serve other machines without checking who they are
    #[arg(long, env = "SKERRY_INSECURE")]
    insecure: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Serves until `shutdown`.
pub(crate) async fn run(args: EtcdArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    let access = if args.insecure { Access::Insecure } else { Access::Loopback };
    access.check_listener(args.listen)?;
    let (listener, address) = bind(args.listen).await?;
    let etcd = EmbeddedEtcd::open(Config::new(&args.data_dir)).await?;
    say(&[format!("ready: etcd on http://{address}, data in {}", args.data_dir.display())]);
    etcd.add_address(address);
    let served = etcd.clone().serve_incoming(skerry_rpc::bounded(listener), shutdown.token()).await;
    etcd.close().await;
    served.context("serving etcd")
}
