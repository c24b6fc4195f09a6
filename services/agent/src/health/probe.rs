//! One try of a health check: HTTP, TCP or a command. How often, and what it means, is the verdict's.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use skerry_model::InstanceName;
use skerry_model::app::{HealthCheck, Probe};
use tokio::net::TcpStream;

use super::verdict::Outcome;
use crate::runtime::{Place, Runtime};

/// Most bytes of an answer's head that are read, and so the most that a try holds. Bodies are never read. The least that hyper takes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Where commands are run.
#[derive(Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) runtime: &'a dyn Runtime,
    pub(super) place: Place,
    pub(super) instance: &'a InstanceName,
}

/// Tries `check` once, in its timeout.
pub(super) async fn attempt(check: &HealthCheck, address: Option<IpAddr>, inside: Inside<'_>) -> Outcome {
    let tried = async {
        match &check.probe {
            Probe::Http { path, port } => match address {
                Some(address) => outcome(http(SocketAddr::new(address, *port), path).await),
                None => no_address(),
            },
            Probe::Tcp { port } => match address {
                Some(address) => outcome(tcp(SocketAddr::new(address, *port)).await.map(drop)),
                None => no_address(),
            },
            Probe::Exec { command } => exec(inside, command).await,
            Probe::Image => Outcome::Unknown,
        }
    };
    match tokio::time::timeout(check.timeout, tried).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure { message: format!("no answer in {:?}", check.timeout) },
    }
}

fn outcome(result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => Outcome::Success,
        Err(message) => Outcome::Failure { message },
    }
}

fn no_address() -> Outcome {
    Outcome::Failure { message: "the instance has no address".to_owned() }
}

async fn tcp(at: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(at).await.map_err(|error| format!("connecting to {at}: {error}"))
}

async fn http(at: SocketAddr, path: &str) -> Result<(), String> {
    let failed = |error: hyper::Error| {
        use std::error::Error as _;
        match error.source() {
            Some(source) => format!("GET http://{at}{path}: {error}: {source}"),
            None => format!("GET http://{at}{path}: {error}"),
        }
    };
    let request = hyper::Request::get(path)
        .header(HOST, at.to_string())
        .header(USER_AGENT, "skerry-health")
        .header(CONNECTION, "close")
        .body(String::new())
        .map_err(|error| format!("GET http://{at}{path}: {error}"))?;
    let stream = TokioIo::new(tcp(at).await?);
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(stream).await.map_err(failed)?;
    // The connection is driven here, beside the request, and ends with this function: nothing is spawned. It may end first, with the
    // answer already handed over.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    let (mut connection, mut response) = (pin!(connection), pin!(sender.send_request(request)));
    let response = tokio::select! {
        () = &mut connection => unreachable!("never ends: pending above"),
        response = &mut response => response.map_err(failed)?,
    };
    let status = response.status().as_u16();
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("GET http://{at}{path}: status {status}")) }
}

async fn exec(inside: Inside<'_>, command: &[String]) -> Outcome {
    let program = command.first().map_or("", String::as_str);
    match inside.runtime.exec_at(inside.place, inside.instance, command).await {
        Ok(0) => Outcome::Success,
        Ok(code) => Outcome::Failure { message: format!("`{program}` exited with {code}") },
        Err(error) if error.reason == "RuntimeUnavailable" => Outcome::Unknown,
        Err(error) => Outcome::Failure { message: format!("running `{program}`: {error}") },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::tests::{FakeRuntime, instance};
    use super::*;

    fn inside<'a>(instance: &'a InstanceName, runtime: &'a FakeRuntime) -> Inside<'a> {
        Inside { runtime, place: Place::Own, instance }
    }

    fn check(probe: Probe) -> HealthCheck {
        HealthCheck {
            probe,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            start_period: Duration::ZERO,
            retries: 3,
        }
    }

    /// What an HTTP try says of a server that answers with these bytes, and holds the connection open if so told.
    async fn against(answer: &'static [u8], hold: bool) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0_u8; 1024];
            let read = stream.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"GET /ready?x=1 HTTP/1.1\r\n"));
            let _ = stream.write_all(answer).await;
            if hold {
                std::future::pending::<()>().await;
            }
        };
        let check = check(Probe::Http { path: "/ready?x=1".into(), port: at.port() });
        let runtime = FakeRuntime::default();
        let name = instance();
        let attempt = attempt(&check, Some(at.ip()), inside(&name, &runtime));
        let mut attempt = pin!(attempt);
        tokio::select! {
            outcome = &mut attempt => outcome,
            () = serve => attempt.await,
        }
    }

    #[tokio::test]
    async fn http_succeeds_on_200_to_399_whatever_the_body() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..],
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n",
        ] {
            assert_eq!(against(answer, false).await, Outcome::Success, "{}", answer.escape_ascii());
            assert_eq!(against(answer, true).await, Outcome::Success, "{}", answer.escape_ascii());
        }
    }

    #[tokio::test]
    async fn http_fails_on_other_answers() {
        for answer in [
            &b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 20",
            b"",
        ] {
            assert!(
                matches!(against(answer, false).await, Outcome::Failure { .. }),
                "{}",
                answer.escape_ascii()
            );
        }
        let endless: &'static [u8] =
            Box::leak([b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &vec![b'y'; 64 * 1024]].concat().into());
        assert!(matches!(against(endless, true).await, Outcome::Failure { .. }));
    }

    #[tokio::test]
    async fn a_server_that_never_answers_fails_after_the_timeout() {
        let Outcome::Failure { message } = against(b"HTTP/1.1 200 OK\r\n", true).await else {
            panic!("succeeded without an answer")
        };
        assert!(message.contains("no answer in 1s"), "{message}");
    }

    #[tokio::test]
    async fn tcp_succeeds_when_the_connection_opens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (check, runtime) = (check(Probe::Tcp { port: at.port() }), FakeRuntime::default());
        assert_eq!(attempt(&check, Some(at.ip()), inside(&instance(), &runtime)).await, Outcome::Success);
        drop(listener);
        assert!(matches!(
            attempt(&check, Some(at.ip()), inside(&instance(), &runtime)).await,
            Outcome::Failure { .. }
        ));
        assert!(matches!(
            attempt(&check, None, inside(&instance(), &runtime)).await,
            Outcome::Failure { .. }
        ));
    }
}
