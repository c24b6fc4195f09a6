//! The actor with real sockets: a client, one end, the other end, a server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::ErrorKind;
use std::net::SocketAddr;

use futures_util::TryFutureExt as _;
use skerry_forward::{CONNECTIONS_MAX, Mux, Outside, drive, reset};
use skerry_proto::relay::v1 as pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream_lite::Receiving;

/// A receiver as a stream.
mod tokio_stream_lite {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::sync::mpsc;

    pub(super) struct Receiving<T>(pub(super) mpsc::Receiver<T>);

    impl<T> futures_util::Stream for Receiving<T> {
        type Item = T;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
            self.0.poll_recv(context)
        }
    }
}

struct Near {
    listener: TcpListener,
    port: u16,
    resets: mpsc::Sender<pb::ForwardReset>,
}

impl Outside for Near {
    async fn arrived(&mut self) -> (TcpStream, u16) {
        (self.listener.accept().await.unwrap().0, self.port)
    }

    fn dial(&self, _: u16) -> impl Future<Output = Result<TcpStream, pb::ForwardReset>> + Send + 'static {
        std::future::ready(Err(reset("NotHere", "")))
    }

    fn was_reset(&mut self, _: u16, why: &pb::ForwardReset) {
        let _ = self.resets.try_send(why.clone());
    }
}

struct Far;

impl Outside for Far {
    fn dial(&self, port: u16) -> impl Future<Output = Result<TcpStream, pb::ForwardReset>> + Send + 'static {
        let dialled = TcpStream::connect(("127.0.0.1", port));
        dialled.map_err(|error| reset("ConnectionRefused", &error.to_string()))
    }
}

/// A way to `port` of this machine: where it is, both ends, and what was reset.
async fn way(port: u16) -> (SocketAddr, JoinSet<()>, mpsc::Receiver<pb::ForwardReset>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (up, at_far) = mpsc::channel(1);
    let (down, at_near) = mpsc::channel(1);
    let (resets, told) = mpsc::channel(16);
    let mut ends = JoinSet::new();
    ends.spawn(async move {
        let mut near = Near { listener, port, resets };
        drive(Mux::connecting(CONNECTIONS_MAX), Receiving(at_near), &up, |frame| frame, &mut near).await;
    });
    ends.spawn(async move {
        drive(Mux::accepting([port], CONNECTIONS_MAX), Receiving(at_far), &down, |frame| frame, &mut Far)
            .await;
    });
    (address, ends, told)
}

/// Sends back what it has got, once it has got all.
async fn echo() -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut all = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            all.spawn(async move {
                let mut data = Vec::new();
                stream.read_to_end(&mut data).await.unwrap();
                stream.write_all(&data).await.unwrap();
            });
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn what_is_sent_before_a_half_close_comes_back_after_it() {
    let (port, _server) = echo().await;
    let (address, _ends, _) = way(port).await;
    let mut clients = JoinSet::new();
    for seed in 0..20_usize {
        clients.spawn(async move {
            let data: Vec<u8> =
                (0..1_000_000).map(|at| u8::try_from((at * 7 + seed) % 251).unwrap()).collect();
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&data).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert!(back == data, "{} bytes came back", back.len());
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_and_the_end_of_the_channel_are_resets() {
    // Nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (address, ends, mut told) = way(port).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let failed = stream.read_u8().await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::ConnectionReset);
    assert_eq!(told.recv().await.unwrap().reason, "ConnectionRefused");
    drop(ends);

    let (port, _server) = echo().await;
    let (address, mut ends, _) = way(port).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"never to come back").await.unwrap();
    tokio::task::yield_now().await;
    ends.shutdown().await;
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_server_that_resets_has_the_client_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, _ends, mut told) = way(listener.local_addr().unwrap().port()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.read_u8().await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let why = told.recv().await.unwrap();
    assert_eq!(why.reason, "ConnectionReset", "{}", why.message);
}
