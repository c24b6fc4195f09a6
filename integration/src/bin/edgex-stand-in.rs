//! Stands in for a service of EdgeX whose image cannot be pulled: it answers on the service's ports as that would, and does not start
//! before those that it needs answer by their names.
//!
//! `PORT=KIND` is a port that it serves, `HOST:PORT=KIND` one that it needs; kinds are `http` (`/api/v1/ping` and `/api/v2/ping`), `consul` (the
//! leader's path), `redis` (PING) and `tcp` (a connection).

#![allow(clippy::print_stderr, reason = "its log is its standard error")]

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// Longest that one who is needed may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Consul,
    Redis,
    Tcp,
}

impl Kind {
    fn parse(text: &str) -> io::Result<Self> {
        match text {
            "http" => Ok(Self::Http),
            "consul" => Ok(Self::Consul),
            "redis" => Ok(Self::Redis),
            "tcp" => Ok(Self::Tcp),
            _ => Err(io::Error::new(ErrorKind::InvalidInput, format!("no kind: {text}"))),
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut served = Vec::new();
    for word in std::env::args().skip(1) {
        let Some((place, kind)) = word.split_once('=') else {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("write PORT=KIND: {word}")));
        };
        let kind = Kind::parse(kind)?;
        match place.parse::<u16>() {
            Ok(port) => served.push((port, kind)),
            Err(_) => {
                ask(place, kind).map_err(|error| io::Error::new(error.kind(), format!("{word}: {error}")))?;
            }
        }
    }
    let mut threads = Vec::new();
    for (port, kind) in served {
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        threads.push(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream, kind).ok());
            }
        }));
    }
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a listener ended"))?;
    }
    Ok(())
}

/// Whether one that is needed answers.
fn ask(place: &str, kind: Kind) -> io::Result<()> {
    let address = place.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (question, expected) = match kind {
        Kind::Http => ("GET /api/v2/ping HTTP/1.0\r\n\r\n", "HTTP/1.1 200 "),
        Kind::Consul => ("GET /v1/status/leader HTTP/1.0\r\n\r\n", "HTTP/1.1 200 "),
        Kind::Redis => ("PING\r\n", "+PONG"),
        Kind::Tcp => return Ok(()),
    };
    stream.write_all(question.as_bytes())?;
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    if answer == expected.as_bytes() { Ok(()) } else { Err(io::Error::other("another answer")) }
}

fn answer(stream: TcpStream, kind: Kind) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream).take(16 * 1024);
    let mut first = String::new();
    match kind {
        Kind::Tcp => Ok(()),
        Kind::Redis => loop {
            first.clear();
            if reader.read_line(&mut first)? == 0 {
                return Ok(());
            }
            // Inline, or as its clients write it: an array of one word.
            if first.trim().eq_ignore_ascii_case("PING") {
                writer.write_all(b"+PONG\r\n")?;
            }
        },
        Kind::Http | Kind::Consul => {
            reader.read_line(&mut first)?;
            let mut line = String::new();
            while reader.read_line(&mut line)? > 0 && line.trim() != "" {
                line.clear();
            }
            let path = first.split(' ').nth(1).unwrap_or_default();
            let body = match (kind, path) {
                (Kind::Http, "/api/v1/ping") => Some("pong"),
                (Kind::Http, "/api/v2/ping") => Some("{\"apiVersion\":\"v2\"}"),
                (Kind::Consul, "/v1/status/leader") => Some("\"127.0.0.1:8300\""),
                _ => None,
            };
            let (status, body) = body.map_or(("404 Not Found", ""), |body| ("200 OK", body));
            let length = body.len();
            write!(writer, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        }
    }
}
