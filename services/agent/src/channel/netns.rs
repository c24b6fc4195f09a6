//! Connections as the copy of an instance would make them itself, to 127.0.0.1: from within its network namespace, where that can be entered, else to
//! its address.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::runtime::Reach;

/// How long a connection may take to come about.
const DEADLINE: Duration = Duration::from_secs(10);
/// Of a thread that does two calls.
const STACK_BYTES: usize = 64 * 1024;

/// Connects to a port of a copy. `is_new`: it was looked at just now; else its address may be another one's already, and is not dialled.
pub(super) async fn connect(reach: &Reach, port: u16, is_new: bool) -> io::Result<TcpStream> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match reach {
        Reach::Machine => within(TcpStream::connect(loopback)).await,
        Reach::Own { pid, cgroup, address } => match (inside(*pid, cgroup).await, address.filter(|_| is_new))
        {
            (Ok(socket), _) => within(socket.connect(loopback)).await,
            (Err(error), Some(address)) => {
                tracing::debug!(%error, "a network cannot be entered: its address is dialled");
                within(TcpStream::connect((address, port))).await
            }
            (Err(error), None) => Err(error),
        },
    }
}

async fn within<T>(connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A socket in the network namespace of a process.
async fn inside(pid: Option<i32>, cgroup: &str) -> io::Result<TcpSocket> {
    let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no process now"))?;
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    // Of the process that is meant, seen from here: the number may be another one's by now, or always have been. It is looked at after the
    // namespace was opened.
    if !fs::read_to_string(format!("/proc/{pid}/cgroup"))?.contains(cgroup) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is none of its")));
    }
    let (tell, told) = oneshot::channel();
    // It stays in that namespace, so nothing else is ever done by it.
    let entering = move || {
        let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = entered
            .and_then(|()| socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP)));
        let _ = tell.send(made);
    };
    thread::Builder::new().name("netns".to_owned()).stack_size(STACK_BYTES).spawn(entering)?;
    let made = told.await.map_err(io::Error::other)??;
    Ok(TcpSocket::from_std_stream(std::net::TcpStream::from(made)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_of_something_else_is_not_entered() {
        let own = i32::try_from(std::process::id()).unwrap();
        let error = inside(Some(own), "0123456789abcdef-nosuch").await.unwrap_err();
        assert!(error.to_string().contains("none of its"), "{error}");
        assert!(inside(None, "").await.is_err());
    }

    #[tokio::test]
    async fn where_a_network_cannot_be_entered_its_address_is_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = Some(Ipv4Addr::LOCALHOST.into());
        let reach = Reach::Own { pid: None, cgroup: String::new(), address };
        connect(&reach, port, true).await.unwrap();
        assert!(connect(&reach, port, false).await.is_err(), "it may be another one's by now");
        connect(&Reach::Machine, port, false).await.unwrap();
        let nowhere = Reach::Own { pid: None, cgroup: String::new(), address: None };
        assert!(connect(&nowhere, port, true).await.is_err());
    }
}
