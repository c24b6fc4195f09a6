//! The actor of one channel: owns the mux, takes frames and what sockets tell, and has sockets do what comes of it.

use std::collections::HashMap;

use futures_util::{Stream, StreamExt as _};
use skerry_proto::relay::v1 as pb;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::mux::{Act, Mux};
use crate::socket::{Telling, Todo, Told, carry};

/// What sockets have told and nobody has heard yet. They wait beyond it.
const TOLD_MAX: usize = 64;
/// What a socket is told at once: of each kind one, and one to spare.
const TODO_MAX: usize = 4;

/// Where connections come from, or go to.
pub trait Outside {
    /// The next connection, and the port that it is to. May be dropped and called again.
    fn arrived(&mut self) -> impl Future<Output = (TcpStream, u16)> {
        std::future::pending()
    }

    /// Opens a connection to a port. Dropped when nobody wants it any more.
    fn dial(&self, port: u16) -> impl Future<Output = Result<TcpStream, pb::ForwardReset>> + Send + 'static;

    /// A connection to this port was reset by the peer, or for what the peer did.
    fn was_reset(&mut self, _port: u16, _why: &pb::ForwardReset) {}
}

/// The socket of a connection.
struct Handle {
    todo: mpsc::Sender<Todo>,
    task: AbortHandle,
}

/// Carries connections until `frames` ends or nobody takes what goes to `out`. All that are open then are reset, and so they are when this is
/// dropped.
pub async fn drive<T>(
    mut mux: Mux,
    mut frames: impl Stream<Item = pb::ForwardFrame> + Unpin,
    out: &mpsc::Sender<T>,
    wrap: impl Fn(pb::ForwardFrame) -> T,
    outside: &mut impl Outside,
) {
    let (telling, mut told) = mpsc::channel(TOLD_MAX);
    let mut sockets = Sockets { telling, open: HashMap::new(), tasks: JoinSet::new() };
    loop {
        while let Some(act) = mux.next_act() {
            sockets.act(act, outside);
        }
        tokio::select! {
            permit = out.reserve(), if mux.has_frame() => {
                let Ok(permit) = permit else { return };
                if let Some(frame) = mux.next_frame() {
                    permit.send(wrap(frame));
                }
            }
            Some((connection, told)) = told.recv() => match told {
                Told::Read(data) => mux.read(connection, data),
                Told::ReadEnd => mux.read_end(connection),
                Told::Wrote(bytes) => mux.wrote(connection, bytes),
                Told::Failed(why) => mux.failed(connection, why),
            },
            frame = frames.next(), if mux.takes_frames() => match frame {
                Some(frame) => mux.take(frame),
                None => return,
            },
            (stream, port) = outside.arrived(), if mux.has_room() => {
                if let Some(connection) = mux.connect(port) {
                    sockets.carry(connection, async { Ok(stream) });
                }
            }
            Some(_) = sockets.tasks.join_next(), if !sockets.tasks.is_empty() => {}
            () = out.closed() => return,
        }
    }
}

/// The sockets of all connections, each with a task of its own.
struct Sockets {
    telling: Telling,
    open: HashMap<u32, Handle>,
    tasks: JoinSet<()>,
}

impl Sockets {
    fn carry(
        &mut self,
        connection: u32,
        opening: impl Future<Output = Result<TcpStream, pb::ForwardReset>> + Send + 'static,
    ) {
        let (todo, asked) = mpsc::channel(TODO_MAX);
        let telling = self.telling.clone();
        let task = self.tasks.spawn(async move {
            match opening.await {
                Ok(stream) => carry(connection, stream, asked, telling).await,
                Err(why) => {
                    let _ = telling.send((connection, Told::Failed(why))).await;
                }
            }
        });
        self.open.insert(connection, Handle { todo, task });
    }

    fn act(&mut self, act: Act, outside: &mut impl Outside) {
        match act {
            Act::Open { connection, port } => self.carry(connection, outside.dial(port)),
            Act::Read { connection, bytes } => self.tell(connection, Todo::Read(bytes)),
            Act::Write { connection, data } => self.tell(connection, Todo::Write(data)),
            Act::Shut { connection } => self.tell(connection, Todo::Shut),
            // Its task does what it was told before it sees that nothing more comes.
            Act::Over { connection } => drop(self.open.remove(&connection)),
            Act::Drop { connection, port, why } => {
                if let Some(handle) = self.open.remove(&connection) {
                    handle.task.abort();
                }
                if let Some(why) = why {
                    outside.was_reset(port, &why);
                }
            }
        }
    }

    /// There is room: the mux asks for one of each kind at a time. A task that has ended has told why.
    fn tell(&self, connection: u32, todo: Todo) {
        if let Some(handle) = self.open.get(&connection) {
            let _ = handle.todo.try_send(todo);
        }
    }
}
