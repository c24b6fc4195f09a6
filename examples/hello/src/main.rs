//! A web server to try Skerry with: answers with a greeting and the name of its host. Standard library only.
//!
//! `PORT` (8080) and `GREETING` (Hello) come from the environment; `/healthz` answers `ok`; each request is a line on standard
//! output. It keeps nothing, so it needs no clean stop.
#![allow(clippy::print_stdout, reason = "standard output is this program's log")]

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

const DEFAULT_PORT: u16 = 8080;
/// Connections served at once; more are closed, so that a crowd costs no memory.
const CONNECTIONS_MAX: usize = 64;
/// Longest request head that is read, in bytes.
const HEAD_BYTES_MAX: u64 = 8 * 1024;
/// Longest silence of a client.
const DEADLINE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    let port = match env::var("PORT") {
        Ok(text) => text.parse().map_err(|error| format!("PORT is `{text}`: {error}"))?,
        Err(_) => DEFAULT_PORT,
    };
    let greeting = env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "somewhere".to_owned());
    let answer: Arc<str> = format!("{greeting} from {}\n", host.trim()).into();

    // One socket for both IPv6 and IPv4, where the machine has IPv6 at all.
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    let listener = listener.map_err(|error| format!("listening on port {port}: {error}"))?;
    println!("listening on port {port}");

    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (open, answer) = (Arc::clone(&open), Arc::clone(&answer));
        thread::spawn(move || {
            if let Err(error) = respond(&stream, &answer) {
                println!("request failed: {error}");
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// Reads one request and answers it.
fn respond(stream: &TcpStream, answer: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let mut lines = BufReader::new(stream.take(HEAD_BYTES_MAX)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let (status, body) = route(&request, answer);
    write_answer(stream, status, body)?;
    // Health checks come every few seconds and say nothing.
    if body != HEALTHY {
        let peer =
            stream.peer_addr().map_or_else(|_| "somebody".to_owned(), |peer: SocketAddr| peer.to_string());
        println!("{status} {request} from {peer}");
    }
    Ok(())
}

const HEALTHY: &str = "ok\n";

fn route<'a>(request: &str, answer: &'a str) -> (&'static str, &'a str) {
    let mut words = request.split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some("/healthz")) => ("200 OK", HEALTHY),
        (Some("GET"), Some("/")) => ("200 OK", answer),
        (Some("GET"), Some(path)) if path.starts_with('/') => {
            ("404 Not Found", "there is only / and /healthz\n")
        }
        _ => ("400 Bad Request", "this is no request\n"),
    }
}

fn write_answer(mut stream: &TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_answer() {
        assert_eq!(route("GET / HTTP/1.1", "Hi\n"), ("200 OK", "Hi\n"));
        assert_eq!(route("GET /healthz HTTP/1.1", "Hi\n"), ("200 OK", "ok\n"));
        assert_eq!(route("GET /x HTTP/1.1", "Hi\n").0, "404 Not Found");
        assert_eq!(route("", "Hi\n").0, "400 Bad Request");
        assert_eq!(route("POST / HTTP/1.1", "Hi\n").0, "400 Bad Request");
    }

    #[test]
    fn a_connection_gets_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        });
        let (stream, _) = listener.accept().expect("the client");
        respond(&stream, "Hi from here\n").expect("it is answered");
        drop(stream);
        let answer = client.join().expect("the client ends");
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nHi from here\n"),
            "{answer}"
        );
    }
}
