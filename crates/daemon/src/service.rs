//! A cloud service as a process of its own: its flags, its listener, its gRPC server from start to end. Which store it uses, and what it
//! serves, is the service's.

use std::net::SocketAddr;

use anyhow::Context as _;
use skerry_rpc::{Access, Server};
use tokio::net::TcpListener;

use crate::shutdown::Shutdown;

/// Flags of a service's process. `PORT` is the port on loopback where it listens unless it is told otherwise.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceArgs<const PORT: u16> {
    /// Address to serve on
    #[arg(long, env = "SKERRY_LISTEN", default_value_t = SocketAddr::from(([127, 0, 0, 1], PORT)), value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// The store: http://host:port of etcd, several with commas, or unix:/path
    #[arg(long, env = "SKERRY_ETCD", default_value = "http://127.0.0.1:2379", value_name = "TARGET")]
    pub etcd: String,

    /// Serve other machines without checking who they are (until identities come)
    #[arg(long, env = "SKERRY_INSECURE")]
    pub insecure: bool,
}

/// A bound listener that nobody serves yet: early, so that a port that is taken is told before anything else begins.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    access: Access,
}

impl<const PORT: u16> ServiceArgs<PORT> {
    /// Binds the address, if it may be served with this access.
    pub async fn bind(&self) -> anyhow::Result<Listening> {
        let access = if self.insecure { Access::Insecure } else { Access::Loopback };
        access.check_listener(self.listen)?;
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener.with_context(|| format!("listening on {}", self.listen))?;
        Ok(Listening { address: listener.local_addr()?, listener, access })
    }
}

impl Listening {
    /// Where it listens: with the port that it got if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the handlers that `register` adds until `shutdown`, then waits until the service's tasks have ended too.
    pub async fn serve(self, register: impl FnOnce(&mut Server), shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut server = Server::new(self.access)?;
        register(&mut server);
        tracing::info!(address = %self.address, "serving");
        server.serve(self.listener, shutdown.token()).await?;
        shutdown.finish().await;
        Ok(())
    }
}
