//! A cloud service as a process of its own: its flags, its listener, its gRPC server from start to end, and asking it for its health.
//! Which store it uses, and what it serves, is the service's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use skerry_rpc::{Access, Network, Server, TlsFiles};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

use crate::denied::keep_denied;
use crate::etcd_tls::EtcdTlsArgs;
use crate::fail;
use crate::monitor::Monitor;
use crate::shutdown::Shutdown;
use crate::tls::{TlsArgs, access, access_for_enrolment, follow};

/// Longest that a service may take to tell its health.
const HEALTH_DEADLINE: Duration = Duration::from_secs(3);

/// Flags of a service's process. `PORT` is the port on loopback where it listens unless it is told otherwise.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceArgs<const PORT: u16> {
    /// Address to serve on
    #[arg(long, env = "SKERRY_LISTEN", value_parser = crate::listen_address, default_value_t = SocketAddr::from(([127, 0, 0, 1], PORT)), value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// The store: http://host:port of etcd (https:// with --etcd-ca), several with commas, or unix:/path
    #[arg(long, env = "SKERRY_ETCD", default_value = "http://127.0.0.1:2379", value_name = "TARGET")]
    pub etcd: String,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub etcd_tls: EtcdTlsArgs,

    /// Serve plain HTTP/2 to whoever reaches the address, without TLS and without asking who it is
    #[arg(long, env = "SKERRY_INSECURE")]
    pub insecure: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub tls: TlsArgs,

    /// Address or network (10.1.0.0/16) of proxies of a mesh that end TLS and name the calling service in x-forwarded-client-cert; may be
    /// repeated, or separated by commas. Nobody else is believed, and nodes and users bring their TLS through the proxy
    #[arg(
        long,
        env = "SKERRY_TRUSTED_PROXY",
        value_name = "NETWORK",
        value_delimiter = ',',
        requires = "tls_cert"
    )]
    pub trusted_proxy: Vec<Network>,

    /// Serve /metrics (for Prometheus), /healthz and /readyz on this address; absent: nowhere
    #[arg(long, env = "SKERRY_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,

    /// Serve --metrics-listen to other machines too: it has no TLS and asks nobody who they are
    #[arg(long, env = "SKERRY_METRICS_INSECURE", requires = "metrics_listen")]
    pub metrics_insecure: bool,

    /// File of refused calls: once a minute a line of JSON for each caller, method and reason, with the count. It never takes more than
    /// 16 MiB, with the one before it beside it (.1). Absent: they are in the log
    #[arg(long, env = "SKERRY_DENIED_LOG", value_name = "FILE")]
    pub denied_log: Option<PathBuf>,

    /// Ask the service that runs with these flags whether it serves, and end: exit code 0 if it does
    #[arg(long)]
    pub health: bool,
}

/// Where this machine reaches a listener at `address`, which has TLS if it is `secured`.
pub fn local_url(address: SocketAddr, secured: bool) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let scheme = if secured { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
}

/// A bound listener that nobody serves yet: early, so that a port that is taken is told before anything else begins.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    reachable: SocketAddr,
    access: Access,
    tls: Option<Arc<TlsFiles>>,
    monitor: Option<Monitor>,
    denied_log: Option<PathBuf>,
}

impl<const PORT: u16> ServiceArgs<PORT> {
    /// What `--health` does, on a runtime of its own: asks the service on this machine that listens as these flags say. With TLS it asks
    /// with the service's own certificate, and is content with nobody but that service. Exit code 1, and the reason as one line on stderr,
    /// unless it serves.
    pub fn check_health(&self) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&anyhow::Error::from(error).context("starting the runtime")),
        };
        match runtime.block_on(self.ask_health()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    }

    async fn ask_health(&self) -> anyhow::Result<()> {
        let files = self.tls.load()?;
        let tls = match &files {
            Some(files) => Some(files.client_of_itself()?),
            None => None,
        };
        let url = local_url(self.listen, tls.is_some());
        Ok(skerry_rpc::check_health(&url, tls.as_ref(), HEALTH_DEADLINE).await?)
    }

    /// Binds the address, if it may be served with this access.
    pub async fn bind(&self) -> anyhow::Result<Listening> {
        self.bind_with(access).await
    }

    /// The same where machines enrol, which have no certificate yet.
    pub async fn bind_for_enrolment(&self) -> anyhow::Result<Listening> {
        self.bind_with(access_for_enrolment).await
    }

    async fn bind_with(
        &self,
        access: impl FnOnce(Option<&TlsFiles>, bool) -> anyhow::Result<Access>,
    ) -> anyhow::Result<Listening> {
        let tls = self.tls.load()?;
        let access = match access(tls.as_deref(), self.insecure)? {
            Access::Certificate(tls) => Access::Certificate(tls.behind(self.trusted_proxy.clone())),
            other => other,
        };
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener.with_context(|| format!("listening on {}", self.listen))?;
        let monitor = match self.metrics_listen {
            Some(address) => {
                let access = if self.metrics_insecure { &Access::Insecure } else { &access };
                Some(Monitor::bind(address, access).await?)
            }
            None => None,
        };
        let denied_log = self.denied_log.clone();
        let address = listener.local_addr()?;
        let reachable = reachable(address, &self.etcd).await;
        Ok(Listening { listener, address, reachable, access, tls, monitor, denied_log })
    }
}

impl Listening {
    /// Where it listens: with the port that it got if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where other services reach it: see [`reachable`].
    pub fn reachable(&self) -> SocketAddr {
        self.reachable
    }

    /// Where its metrics are served, if they are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.monitor.as_ref().map(Monitor::address)
    }

    /// The files that its TLS is by, if it has any.
    pub fn tls(&self) -> Option<&Arc<TlsFiles>> {
        self.tls.as_ref()
    }

    /// Serves the handlers that `register` adds, healthy while `ready` is true, until `shutdown`, then waits until the service's tasks have ended too.
    pub async fn serve(
        self,
        ready: watch::Receiver<bool>,
        register: impl FnOnce(&mut Server),
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let mut server = Server::new(self.access)?;
        register(&mut server);
        if let Some(monitor) = self.monitor {
            shutdown.spawn(monitor.serve(Some(ready.clone()), shutdown.clone()));
        }
        shutdown.spawn(keep_denied(self.denied_log, shutdown.clone()));
        server.ready_when(ready);
        if let Some(tls) = &self.tls {
            follow(tls, shutdown);
        }
        tracing::info!(tls = self.tls.is_some(), address = %self.address, "serving");
        server.serve(self.listener, shutdown.token()).await?;
        shutdown.finish().await;
        Ok(())
    }
}

/// Where other services reach a listener at `address`: there or, if that is every address of this machine, at the one from which the store at
/// `etcd` is reached, as the kernel says. Nothing is sent.
pub async fn reachable(address: SocketAddr, etcd: &str) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let first = etcd.split(',').next().unwrap_or_default();
    let place = first.split_once("://").map_or(first, |(_, place)| place).trim_end_matches('/');
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let asked = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(place).await?;
        socket.local_addr()
    };
    match asked.await {
        Ok(own) => SocketAddr::new(own.ip().to_canonical(), address.port()),
        Err(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use skerry_rpc::check_health;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_service_tells_its_health_from_start_to_end() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let args = ServiceArgs::<0> {
            listen,
            etcd: String::new(),
            etcd_tls: EtcdTlsArgs::default(),
            insecure: true,
            tls: TlsArgs::default(),
            trusted_proxy: Vec::new(),
            metrics_listen: None,
            metrics_insecure: false,
            denied_log: None,
            health: true,
        };
        let listening = args.bind().await.expect("it listens");
        let url = local_url(listening.address(), false);
        let shutdown = Shutdown::new();
        let (tell, ready) = watch::channel(true);
        let ((), served) = tokio::join!(
            async {
                check_health(&url, None, SOON).await.expect("it serves");
                tell.send_replace(false);
                let error = loop {
                    // It is told at its next turn.
                    if let Err(error) = check_health(&url, None, SOON).await {
                        break error;
                    }
                };
                assert!(error.to_string().ends_with("says NOT_SERVING"), "{error}");
                shutdown.begin();
            },
            listening.serve(ready, |_| (), &shutdown)
        );
        served.expect("it ends in order");
        let error = check_health(&url, None, SOON).await.expect_err("nobody is there any more");
        assert!(error.to_string().starts_with(&format!("cannot reach {url}")), "{error}");
    }

    #[tokio::test]
    async fn a_service_that_is_silent_is_not_healthy() {
        // Bound, so that connections are taken; not served, so that nothing answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = local_url(listener.local_addr().expect("an address"), false);
        let error = check_health(&url, None, Duration::from_millis(50)).await.expect_err("nothing answers");
        assert!(error.to_string().contains("has not answered"), "{error}");
    }

    #[tokio::test]
    async fn a_listener_for_all_is_told_to_others_by_an_address_of_this_machine() {
        let told = async |listen: &str, etcd: &str| {
            reachable(listen.parse().expect("an address"), etcd).await.to_string()
        };
        assert_eq!(told("10.1.2.3:7", "http://127.0.0.1:2379").await, "10.1.2.3:7");
        assert_eq!(told("0.0.0.0:7", "http://127.0.0.1:2379,http://etcd:2379").await, "127.0.0.1:7");
        assert_eq!(told("0.0.0.0:7", "unix:/run/etcd").await, "0.0.0.0:7", "nothing is known of it");
    }

    #[test]
    fn a_listener_for_all_is_asked_on_loopback() {
        let url = |text: &str| local_url(text.parse().expect("an address"), false);
        assert_eq!(url("0.0.0.0:7771"), "http://127.0.0.1:7771");
        assert_eq!(url("[::]:1"), "http://[::1]:1");
        assert_eq!(url("10.1.2.3:1"), "http://10.1.2.3:1");
    }
}
