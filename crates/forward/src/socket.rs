//! One TCP socket, which reads and writes as it is told. Whatever drops it before both directions have ended resets it, so that nobody takes
//! a part for the whole.

use std::io;
use std::ops::Deref;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::reset;
use skerry_proto::relay::v1::ForwardReset;

/// What a socket shall do.
#[derive(Debug)]
pub(crate) enum Todo {
    Read(usize),
    Write(Bytes),
    Shut,
}

/// What a socket tells.
#[derive(Debug)]
pub(crate) enum Told {
    Read(Bytes),
    ReadEnd,
    Wrote(usize),
    Failed(ForwardReset),
}

/// Where it tells it, with the number of its connection.
pub(crate) type Telling = mpsc::Sender<(u32, Told)>;

/// A socket that is reset when it is dropped, unless it is over.
struct Socket {
    stream: TcpStream,
    over: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl Deref for Socket {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

/// Reads and writes until both directions have ended, or it is not wanted any more.
pub(crate) async fn carry(
    connection: u32,
    stream: TcpStream,
    mut todo: mpsc::Receiver<Todo>,
    telling: Telling,
) {
    // Without it all works, only later.
    let _ = stream.set_nodelay(true);
    let mut socket = Socket { stream, over: false };
    let told = match run(connection, &mut socket, &mut todo, &telling).await {
        Ok(()) => return,
        Err(error) => Told::Failed(why(&error)),
    };
    drop(socket);
    let _ = telling.send((connection, told)).await;
}

async fn run(
    connection: u32,
    socket: &mut Socket,
    todo: &mut mpsc::Receiver<Todo>,
    telling: &Telling,
) -> io::Result<()> {
    let (mut reads, mut writing) = (0, Bytes::new());
    let (mut read_ended, mut shut) = (false, false);
    loop {
        let told = tokio::select! {
            next = todo.recv() => match next {
                Some(Todo::Read(bytes)) => {
                    reads = bytes;
                    continue;
                }
                Some(Todo::Write(data)) => {
                    writing = data;
                    continue;
                }
                Some(Todo::Shut) => {
                    socket.stream.shutdown().await?;
                    shut = true;
                    continue;
                }
                None => {
                    socket.over = read_ended && shut;
                    return Ok(());
                }
            },
            ready = socket.readable(), if reads > 0 => {
                ready?;
                let Some(data) = now(read(socket, reads))? else { continue };
                reads = 0;
                read_ended = data.is_empty();
                if read_ended { Told::ReadEnd } else { Told::Read(data) }
            }
            ready = socket.writable(), if !writing.is_empty() => {
                ready?;
                let Some(bytes) = now(socket.try_write(&writing))? else { continue };
                writing.advance(bytes);
                Told::Wrote(bytes)
            }
        };
        if telling.send((connection, told)).await.is_err() {
            return Ok(());
        }
    }
}

/// One read. No room is made before there is something, and none is kept for what is small.
fn read(socket: &TcpStream, bytes: usize) -> io::Result<Bytes> {
    let mut data = BytesMut::with_capacity(bytes);
    let count = socket.try_read_buf(&mut data)?;
    data.truncate(count.min(bytes));
    Ok(if data.len() < bytes / 4 { Bytes::copy_from_slice(&data) } else { data.freeze() })
}

/// Nothing, where it would have to wait.
fn now<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error of a socket, as the peer is told of it.
pub(crate) fn why(error: &io::Error) -> ForwardReset {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "ConnectionReset",
        io::ErrorKind::ConnectionRefused => "ConnectionRefused",
        io::ErrorKind::TimedOut => "TimedOut",
        _ => "ConnectionFailed",
    };
    reset(reason, &error.to_string())
}
