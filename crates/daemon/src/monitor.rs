//! The listener for those who watch a process: `/metrics` for Prometheus, `/healthz` (it lives), `/readyz` (it can answer).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use skerry_rpc::Access;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::shutdown::Shutdown;
use crate::telemetry::{Metrics, prometheus};

/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// Longest that a connection may take, requests and pauses together.
const CONNECTION_MAX: Duration = Duration::from_secs(120);
/// Longest that the head of a request may take.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// After a failure to accept.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// A bound listener that nobody serves yet.
#[derive(Debug)]
pub struct Monitor {
    listener: TcpListener,
    address: SocketAddr,
    metrics: Metrics,
}

#[derive(Clone)]
struct Answers {
    metrics: Metrics,
    ready: Option<watch::Receiver<bool>>,
    shutdown: Shutdown,
}

impl Monitor {
    /// Binds `address`, if it may be served with this access: the rule is that of the service's own listener, but that there is no TLS here.
    pub async fn bind(address: SocketAddr, access: &Access) -> anyhow::Result<Self> {
        let metrics = Metrics::of_process().context("metrics are not counted in this process")?;
        if matches!(access, Access::Certificate(_)) && !address.ip().is_loopback() {
            bail!(
                "--metrics-listen {address} is reachable from other machines, and metrics are served without TLS: listen on 127.0.0.1, or add --metrics-insecure if that network is trusted; a collector elsewhere gets them by --otlp-endpoint"
            );
        }
        access.check_listener(address).map_err(|fault| {
            anyhow::anyhow!("{}", fault.message.replacen("--listen", "--metrics-listen", 1))
        })?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("listening on {address} for metrics"))?;
        Ok(Self { address: listener.local_addr()?, listener, metrics })
    }

    /// Where it listens: with the port that it got if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`; `ready` says whether the process can answer, absent: as long as it lives.
    pub async fn serve(self, ready: Option<watch::Receiver<bool>>, shutdown: Shutdown) {
        let Self { listener, address, metrics } = self;
        tracing::info!(%address, "metrics are served");
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let answers = Answers { metrics, ready, shutdown: shutdown.clone() };
        loop {
            let accepting = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                () = shutdown.wait() => return,
                accepted = accepting => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(ACCEPT_WAIT).await;
                continue;
            };
            let (answers, end) = (answers.clone(), shutdown.wait());
            shutdown.spawn(async move {
                let _slot = slot;
                let answer = service_fn(move |request| {
                    let answer = answers.to(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_DEADLINE)
                    .serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    _ = tokio::time::timeout(CONNECTION_MAX, serving) => {}
                    () = end => {}
                }
            });
        }
    }
}

impl Answers {
    fn to(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/metrics" => {
                let mut response = Response::new(Full::from(prometheus::text(&self.metrics)));
                let kind = header::HeaderValue::from_static(prometheus::CONTENT_TYPE);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" if self.shutdown.is_ending() => plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            "/readyz" if self.ready.as_ref().is_none_or(|ready| *ready.borrow()) => {
                plain(StatusCode::OK, "ok\n")
            }
            "/readyz" => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "not ready: the store does not answer, or what it holds is not known yet\n",
            ),
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
