//! All connections of one channel, without I/O: frames and what sockets tell go in, frames and what sockets shall do come out.
//!
//! Who breaks the rules of a connection has that one reset, and no other. What comes for a connection that is not there is passed over: it
//! was sent before its sender knew of the reset.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::forward_frame::Body;

use crate::connection::Connection;

/// What the socket of a connection shall do. Of each kind one at a time is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Connect to this port.
    Open {
        /// Of which connection.
        connection: u32,
        /// Where to.
        port: u16,
    },
    /// Read once, so much at most, and tell by [`Mux::read`] or [`Mux::read_end`].
    Read {
        /// Of which connection.
        connection: u32,
        /// At most.
        bytes: usize,
    },
    /// Write all of this, and tell by [`Mux::wrote`] how it comes along.
    Write {
        /// Of which connection.
        connection: u32,
        /// What.
        data: Bytes,
    },
    /// Nothing more is written.
    Shut {
        /// Of which connection.
        connection: u32,
    },
    /// It is over: both directions have ended.
    Over {
        /// Which.
        connection: u32,
    },
    /// It has failed: the socket is reset, whatever it still had.
    Drop {
        /// Which.
        connection: u32,
        /// What it was to.
        port: u16,
        /// Why; not where this end said so itself.
        why: Option<pb::ForwardReset>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    connections: BTreeMap<u32, Connection>,
    connections_max: usize,
    /// Those that have something to send, each once, in their turn.
    row: VecDeque<u32>,
    /// Resets that are to be sent.
    resets: VecDeque<(u32, pb::ForwardReset)>,
    acts: VecDeque<Act>,
}

#[derive(Debug)]
enum Side {
    /// It connects. With the next number, as long as there is one.
    Connects(Option<u32>),
    /// It is connected to, at these ports.
    Accepts(BTreeSet<u16>),
}

impl Mux {
    /// The end that connects.
    pub fn connecting(connections_max: usize) -> Self {
        Self::new(Side::Connects(Some(1)), connections_max)
    }

    /// The end that is connected to, at these ports alone.
    pub fn accepting(ports: impl IntoIterator<Item = u16>, connections_max: usize) -> Self {
        Self::new(Side::Accepts(ports.into_iter().collect()), connections_max)
    }

    fn new(side: Side, connections_max: usize) -> Self {
        Self {
            side,
            connections: BTreeMap::new(),
            connections_max,
            row: VecDeque::new(),
            resets: VecDeque::new(),
            acts: VecDeque::new(),
        }
    }

    /// Whether one more connection may be opened by this end.
    pub fn has_room(&self) -> bool {
        matches!(self.side, Side::Connects(Some(_))) && self.connections.len() < self.connections_max
    }

    /// Whether frames are to be taken. Not while the peer does not take the resets that it makes necessary: they are bounded.
    pub fn takes_frames(&self) -> bool {
        self.resets.len() <= self.connections_max
    }

    /// Opens a connection: its number. None: see [`Self::has_room`].
    pub fn connect(&mut self, port: u16) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        let Side::Connects(next) = &mut self.side else { return None };
        let connection = (*next)?;
        *next = connection.checked_add(1);
        self.connections.insert(connection, Connection::new(port, true));
        self.go_on(connection);
        Some(connection)
    }

    /// Takes a frame of the peer's.
    pub fn take(&mut self, frame: pb::ForwardFrame) {
        let connection = frame.connection;
        let Some(open) = self.connections.get_mut(&connection) else {
            if let (Some(Body::Connect(connect)), Side::Accepts(_)) = (frame.body, &self.side) {
                self.accept(connection, connect.port);
            }
            return;
        };
        match frame.body {
            Some(Body::Reset(why)) => self.forget(connection, Some(why)),
            Some(body) => match open.take(body) {
                Ok(()) => self.go_on(connection),
                Err(wrong) => self.break_off(connection, wrong),
            },
            None => self.break_off(connection, "a frame says nothing that is known here"),
        }
    }

    fn accept(&mut self, connection: u32, asked: u32) {
        let Side::Accepts(ports) = &self.side else { return };
        let Some(port) = u16::try_from(asked).ok().filter(|port| ports.contains(port)) else {
            let all: Vec<String> = ports.iter().map(u16::to_string).collect();
            let message =
                format!("port {asked} was not asked for when it began; those are: {}", all.join(", "));
            self.resets.push_back((connection, reset("PortNotAsked", &message)));
            return;
        };
        if self.connections.len() >= self.connections_max {
            let message = format!("there are {} connections at once already", self.connections_max);
            self.resets.push_back((connection, reset("TooManyConnections", &message)));
            return;
        }
        self.connections.insert(connection, Connection::new(port, false));
        self.acts.push_back(Act::Open { connection, port });
        self.go_on(connection);
    }

    /// The socket was read.
    pub fn read(&mut self, connection: u32, data: Bytes) {
        self.told(connection, |open| open.read(data));
    }

    /// The socket has nothing more to be read.
    pub fn read_end(&mut self, connection: u32) {
        self.told(connection, Connection::read_end);
    }

    /// The socket has written so many bytes.
    pub fn wrote(&mut self, connection: u32, bytes: usize) {
        self.told(connection, |open| open.wrote(bytes));
    }

    /// The socket has failed, or could not be opened.
    pub fn failed(&mut self, connection: u32, why: pb::ForwardReset) {
        if self.connections.contains_key(&connection) {
            self.forget(connection, None);
            self.resets.push_back((connection, why));
        }
    }

    fn told(&mut self, connection: u32, tell: impl FnOnce(&mut Connection) -> bool) {
        match self.connections.get_mut(&connection).map(tell) {
            Some(true) => self.go_on(connection),
            Some(false) => self.break_off(connection, "its socket did what nobody asked for"),
            // It was reset meanwhile.
            None => {}
        }
    }

    /// What a socket shall do next.
    pub fn next_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Whether there is something to send.
    pub fn has_frame(&self) -> bool {
        !self.resets.is_empty() || !self.row.is_empty()
    }

    /// What to send next: of each connection that has something one frame, in turn.
    pub fn next_frame(&mut self) -> Option<pb::ForwardFrame> {
        if let Some((connection, why)) = self.resets.pop_front() {
            return Some(pb::ForwardFrame { connection, body: Some(Body::Reset(why)) });
        }
        while let Some(connection) = self.row.pop_front() {
            let Some(open) = self.connections.get_mut(&connection) else { continue };
            open.queued = false;
            let body = open.frame();
            self.go_on(connection);
            if body.is_some() {
                return Some(pb::ForwardFrame { connection, body });
            }
        }
        None
    }

    /// Connections that are open.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Bytes that are held, of all connections.
    pub fn held(&self) -> usize {
        self.connections.values().map(Connection::held).sum()
    }

    /// Lets a connection go on after something has changed.
    fn go_on(&mut self, connection: u32) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        open.act(connection, &mut self.acts);
        if open.has_frame() && !open.queued {
            open.queued = true;
            self.row.push_back(connection);
        }
        if open.is_over() {
            self.connections.remove(&connection);
            self.row.retain(|other| *other != connection);
            self.acts.push_back(Act::Over { connection });
        }
    }

    fn break_off(&mut self, connection: u32, wrong: &str) {
        let why = reset("ProtocolViolation", &format!("the rules of this connection were broken: {wrong}"));
        self.forget(connection, Some(why.clone()));
        self.resets.push_back((connection, why));
    }

    fn forget(&mut self, connection: u32, why: Option<pb::ForwardReset>) {
        let Some(open) = self.connections.remove(&connection) else { return };
        if open.queued {
            self.row.retain(|other| *other != connection);
        }
        self.acts.push_back(Act::Drop { connection, port: open.port, why });
    }
}

/// Why a connection has failed: one CamelCase word, and a sentence for people.
pub fn reset(reason: &str, message: &str) -> pb::ForwardReset {
    pb::ForwardReset { reason: reason.to_owned(), message: message.to_owned() }
}
