//! One connection, as one end sees it: what may be sent, what waits to be written to its socket, how far each direction has ended.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::forward_frame::Body;

use crate::mux::Act;
use crate::{DATA_BYTES_MAX, WINDOW};

/// So much is given back at once, so that there are few credits.
const CREDIT_BYTES_MIN: usize = WINDOW / 4;
/// What came in smaller pieces is put together: a piece has a cost of its own.
const PIECE_BYTES_MIN: usize = 16 * 1024;

/// What our own end has said of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The socket has ended, and what it said before is still to be sent.
    Read,
    Said,
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// The port, as long as the peer has not been asked to connect to it.
    to_open: Option<u32>,
    /// What it is to.
    pub(crate) port: u16,

    /// So much may be sent.
    credit: usize,
    /// Was read and is not sent yet: at most one read.
    outgoing: Bytes,
    /// So much the socket may read, and has not answered yet.
    reading: usize,
    end: End,

    /// So much the peer may still send. With `incoming`, `writing` and `owed` this is always [`WINDOW`].
    window: usize,
    incoming: Pieces,
    /// The socket was given so much and has not written it yet.
    writing: usize,
    /// Was written, and is not given back to the peer yet.
    owed: usize,
    /// The peer says nothing more.
    ended: bool,
    /// The socket was told so.
    shut: bool,

    /// It stands in the row of those that have something to send.
    pub(crate) queued: bool,
}

impl Connection {
    /// With `asks` the peer is still to be asked to open it.
    pub(crate) fn new(port: u16, asks: bool) -> Self {
        Self {
            to_open: asks.then_some(u32::from(port)),
            port,
            credit: WINDOW,
            outgoing: Bytes::new(),
            reading: 0,
            end: End::Open,
            window: WINDOW,
            incoming: Pieces::default(),
            writing: 0,
            owed: 0,
            ended: false,
            shut: false,
            queued: false,
        }
    }

    /// Takes what the peer says. Error: what is wrong with it.
    pub(crate) fn take(&mut self, body: Body) -> Result<(), &'static str> {
        match body {
            Body::Data(_) if self.ended => Err("data came after the end"),
            Body::Data(data) if data.len() > DATA_BYTES_MAX => Err("a frame is larger than 64 KiB"),
            Body::Data(data) if data.len() > self.window => Err("more came than the window has room for"),
            Body::Data(data) => {
                self.window -= data.len();
                self.incoming.push(data);
                Ok(())
            }
            Body::Credit(bytes) => {
                let credit = usize::try_from(bytes).ok().and_then(|bytes| self.credit.checked_add(bytes));
                let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
                let credit = credit.filter(|credit| *credit <= most);
                self.credit = credit.ok_or("more credit came than can be counted")?;
                Ok(())
            }
            Body::End(_) if self.ended => Err("the end came twice"),
            Body::End(_) => {
                self.ended = true;
                Ok(())
            }
            Body::Connect(_) => Err("it was opened already"),
            // The mux has taken it.
            Body::Reset(_) => Ok(()),
        }
    }

    /// The socket was read. `false`: that was not asked for.
    pub(crate) fn read(&mut self, data: Bytes) -> bool {
        if data.is_empty() || data.len() > self.reading {
            return false;
        }
        self.reading = 0;
        self.credit -= data.len();
        self.outgoing = data;
        true
    }

    /// The socket has nothing more. `false`: it had said so.
    pub(crate) fn read_end(&mut self) -> bool {
        self.reading = 0;
        std::mem::replace(&mut self.end, End::Read) == End::Open
    }

    /// The socket wrote so much. `false`: it never had it.
    pub(crate) fn wrote(&mut self, bytes: usize) -> bool {
        if bytes > self.writing {
            return false;
        }
        self.writing -= bytes;
        self.owed += bytes;
        true
    }

    /// What the socket may do now.
    pub(crate) fn act(&mut self, connection: u32, acts: &mut VecDeque<Act>) {
        if self.writing == 0 {
            if let Some(data) = self.incoming.pop() {
                self.writing = data.len();
                acts.push_back(Act::Write { connection, data });
            } else if self.ended && !self.shut {
                self.shut = true;
                acts.push_back(Act::Shut { connection });
            }
        }
        if self.reading == 0 && self.end == End::Open && self.outgoing.is_empty() && self.credit > 0 {
            self.reading = self.credit.min(DATA_BYTES_MAX);
            acts.push_back(Act::Read { connection, bytes: self.reading });
        }
    }

    /// Whether there is something to send.
    pub(crate) fn has_frame(&self) -> bool {
        self.to_open.is_some() || !self.outgoing.is_empty() || self.end == End::Read || self.owes()
    }

    fn owes(&self) -> bool {
        !self.ended && self.owed >= CREDIT_BYTES_MIN
    }

    /// The next thing to send.
    pub(crate) fn frame(&mut self) -> Option<Body> {
        if let Some(port) = self.to_open.take() {
            return Some(Body::Connect(pb::ForwardConnect { port }));
        }
        if self.owes() {
            self.window += self.owed;
            return Some(Body::Credit(u32::try_from(std::mem::take(&mut self.owed)).unwrap_or(u32::MAX)));
        }
        if !self.outgoing.is_empty() {
            return Some(Body::Data(std::mem::take(&mut self.outgoing)));
        }
        if self.end == End::Read {
            self.end = End::Said;
            return Some(Body::End(pb::ForwardEnd {}));
        }
        None
    }

    /// Whether both sides have said all, and all is written.
    pub(crate) fn is_over(&self) -> bool {
        self.end == End::Said && self.shut && self.writing == 0
    }

    /// Bytes that are held.
    pub(crate) fn held(&self) -> usize {
        self.incoming.bytes + self.writing + self.outgoing.len()
    }
}

/// What came, in pieces of which none but the last is small.
#[derive(Debug, Default)]
struct Pieces {
    /// What came in small ones, put together; after all of `whole`.
    small: BytesMut,
    whole: VecDeque<Bytes>,
    bytes: usize,
}

impl Pieces {
    fn push(&mut self, data: Bytes) {
        self.bytes += data.len();
        if data.len() >= PIECE_BYTES_MIN {
            self.close();
            self.whole.push_back(data);
            return;
        }
        self.small.extend_from_slice(&data);
        if self.small.len() >= PIECE_BYTES_MIN {
            self.close();
        }
    }

    fn close(&mut self) {
        if !self.small.is_empty() {
            self.whole.push_back(std::mem::take(&mut self.small).freeze());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        if self.whole.is_empty() {
            self.close();
        }
        let data = self.whole.pop_front()?;
        self.bytes -= data.len();
        Some(data)
    }
}
