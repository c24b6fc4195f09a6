//! The listener for those who watch a process: `/metrics` for Prometheus, `/healthz` (it lives), `/readyz` (it can answer).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use skerry_rpc::Access;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::shutdown::Shutdown;
use crate::telemetry::{Metrics, prometheus};

/// Connections at once; more wait until one ends or gives way.
const CONNECTIONS_MAX: usize = 16;
/// When there are as many as may be, one that has lasted so long makes room, whether somebody waits or not: a probe that is not answered
/// restarts the process, and an honest reader of metrics is done by then, or connects anew.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(1);
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
        let answers = Answers { metrics, ready, shutdown: shutdown.clone() };
        let mut open = Open::default();
        loop {
            let gives_way = open.gives_way_at();
            tokio::select! {
                // What is open ends with it.
                () = shutdown.wait() => return,
                Some(_) = open.connections.join_next() => {}
                accepted = listener.accept(), if gives_way.is_none() => match accepted {
                    Ok((stream, _)) => open.begin(connection(stream, answers.clone())),
                    Err(_) => tokio::time::sleep(ACCEPT_WAIT).await,
                },
                () = tokio::time::sleep_until(gives_way.unwrap_or_else(Instant::now)), if gives_way.is_some() => {
                    open.end_oldest().await;
                }
            }
        }
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    connections: JoinSet<()>,
    /// The same, oldest first; some may have ended.
    oldest: VecDeque<(Instant, AbortHandle)>,
}

impl Open {
    fn begin(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.oldest.retain(|(_, connection)| !connection.is_finished());
        self.oldest.push_back((Instant::now(), self.connections.spawn(connection)));
    }

    /// When the oldest gives way; nothing while there is room.
    fn gives_way_at(&self) -> Option<Instant> {
        if self.connections.len() < CONNECTIONS_MAX {
            return None;
        }
        let oldest = self.oldest.iter().find(|(_, connection)| !connection.is_finished());
        oldest.map(|(began, _)| *began + CONNECTION_PATIENCE)
    }

    async fn end_oldest(&mut self) {
        if let Some((_, oldest)) = self.oldest.iter().find(|(_, connection)| !connection.is_finished()) {
            oldest.abort();
            self.connections.join_next().await;
        }
    }
}

async fn connection(stream: TcpStream, answers: Answers) {
    let answer = service_fn(move |request| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.to(&request).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), answer);
    // An error is the caller's, who has it too.
    let _ = tokio::time::timeout(CONNECTION_MAX, serving).await;
}

impl Answers {
    async fn to(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/metrics" => {
                let metrics = self.metrics.clone();
                // The series may be many, and nobody else is to wait for them.
                let text = tokio::task::spawn_blocking(move || prometheus::text(&metrics)).await;
                let Ok(text) = text else {
                    return plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written\n");
                };
                let mut response = Response::new(Full::from(text));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_oldest_gives_way_after_its_time() {
        let mut open = Open::default();
        for _ in 0..CONNECTIONS_MAX {
            assert_eq!(open.gives_way_at(), None, "there is room");
            open.begin(std::future::pending());
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        let first = open.oldest[0].0;
        assert_eq!(open.gives_way_at(), Some(first + CONNECTION_PATIENCE));
        open.end_oldest().await;
        assert_eq!(open.connections.len(), CONNECTIONS_MAX - 1);
        assert_eq!(open.gives_way_at(), None);
        open.begin(std::future::pending());
        assert_eq!(open.gives_way_at(), Some(first + Duration::from_millis(10) + CONNECTION_PATIENCE));
    }

    #[tokio::test]
    async fn connections_that_end_by_themselves_make_room_and_are_forgotten() {
        let mut open = Open::default();
        for _ in 0..3 * CONNECTIONS_MAX {
            open.begin(std::future::ready(()));
            open.connections.join_next().await;
        }
        assert_eq!((open.gives_way_at(), open.oldest.len()), (None, 1));
    }
}
