//! What a scheduler is started with.

use std::net::SocketAddr;

/// Flags of the `skerry-scheduler` process.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address to serve clients on
    #[arg(long, env = "SKERRY_LISTEN", default_value = "127.0.0.1:7772", value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// The store: http://host:port of etcd, several with commas, or unix:/path
    #[arg(long, env = "SKERRY_ETCD", default_value = "http://127.0.0.1:2379", value_name = "TARGET")]
    pub etcd: String,

    /// Serve other machines without checking who they are (until identities come)
    #[arg(long, env = "SKERRY_INSECURE")]
    pub insecure: bool,
}
