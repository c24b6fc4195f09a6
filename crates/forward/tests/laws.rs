//! Laws of the mux, with two ends of it in one thread: sockets, the channel and the order of all that happens are made up by the test.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;
use skerry_forward::{Act, CONNECTIONS_MAX, DATA_BYTES_MAX, Mux, WINDOW, reset};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::forward_frame::Body;

const PORT: u16 = 80;

/// A socket: what it is to send, and what it was given.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, and all sixteen may be")]
struct Socket {
    to_send: Bytes,
    /// It may read so much, once.
    reads: usize,
    /// It has not taken this yet.
    taking: Bytes,
    taken: Vec<u8>,
    /// It takes nothing.
    stuck: bool,
    shut: bool,
    over: bool,
    dropped: bool,
}

/// One end.
struct End {
    mux: Mux,
    sockets: BTreeMap<u32, Socket>,
    /// What sockets of connections that come will send.
    coming: BTreeMap<u32, Socket>,
    /// What it sent and the other end has not received.
    sent: VecDeque<pb::ForwardFrame>,
}

/// Frames that a channel holds: as few as HTTP/2 may.
const CHANNEL_MAX: usize = 2;

impl End {
    fn new(mux: Mux) -> Self {
        Self { mux, sockets: BTreeMap::new(), coming: BTreeMap::new(), sent: VecDeque::new() }
    }

    fn act(&mut self) {
        while let Some(act) = self.mux.next_act() {
            match act {
                Act::Open { connection, .. } => {
                    self.sockets.insert(connection, self.coming.remove(&connection).unwrap_or_default());
                }
                Act::Read { connection, bytes } => {
                    let socket = self.sockets.get_mut(&connection).expect("it is open");
                    assert!(socket.reads == 0 && bytes > 0 && bytes <= DATA_BYTES_MAX);
                    socket.reads = bytes;
                }
                Act::Write { connection, data } => {
                    let socket = self.sockets.get_mut(&connection).expect("it is open");
                    assert!(
                        socket.taking.is_empty() && !socket.shut,
                        "one at a time, and nothing after the end"
                    );
                    socket.taking = data;
                }
                Act::Shut { connection } => self.sockets.get_mut(&connection).expect("open").shut = true,
                Act::Over { connection } => self.sockets.get_mut(&connection).expect("open").over = true,
                Act::Drop { connection, .. } => {
                    if let Some(socket) = self.sockets.get_mut(&connection) {
                        socket.dropped = true;
                    }
                }
            }
        }
        assert!(self.mux.held() <= self.mux.len() * (WINDOW + DATA_BYTES_MAX), "{}", self.mux.held());
    }

    /// Socket number `which`, if it can do anything: reads, or takes so much. Whether it did.
    fn step(&mut self, which: usize, bytes: usize, writes: bool) -> bool {
        let count = self.sockets.len();
        let Some((connection, socket)) = self.sockets.iter_mut().nth(which % count.max(1)) else {
            return false;
        };
        let connection = *connection;
        if socket.over || socket.dropped {
            return false;
        }
        if writes && !socket.taking.is_empty() && !socket.stuck {
            let taken = socket.taking.split_to(bytes.clamp(1, socket.taking.len()));
            socket.taken.extend_from_slice(&taken);
            self.mux.wrote(connection, taken.len());
        } else if !writes && socket.reads > 0 {
            let most = std::mem::take(&mut socket.reads).min(socket.to_send.len());
            if most == 0 {
                self.mux.read_end(connection);
            } else {
                let data = socket.to_send.split_to(bytes.clamp(1, most));
                self.mux.read(connection, data);
            }
        } else {
            return false;
        }
        self.act();
        true
    }

    /// Sends a frame, if the channel has room. Whether it did.
    fn send(&mut self) -> bool {
        if self.sent.len() >= CHANNEL_MAX || !self.mux.has_frame() {
            return false;
        }
        let frame = self.mux.next_frame();
        self.act();
        let was = frame.is_some();
        self.sent.extend(frame);
        was
    }

    /// Receives one of the other end's. Whether it did.
    fn receive(&mut self, other: &mut Self) -> bool {
        if !self.mux.takes_frames() {
            return false;
        }
        let Some(frame) = other.sent.pop_front() else { return false };
        self.mux.take(frame);
        self.act();
        true
    }
}

/// Bytes that tell where they are from.
fn payload(seed: usize, len: usize) -> Bytes {
    (0..len).map(|at| u8::try_from((at * 31 + at / 251 + seed * 97) % 256).unwrap_or_default()).collect()
}

/// Both ends, with connections that send so much up and down.
fn ends(sizes: &[(usize, usize)]) -> (End, End) {
    let mut near = End::new(Mux::connecting(CONNECTIONS_MAX));
    let mut far = End::new(Mux::accepting([PORT], CONNECTIONS_MAX));
    for (seed, (up, down)) in sizes.iter().enumerate() {
        let connection = near.mux.connect(PORT).expect("there is room");
        near.sockets.insert(connection, Socket { to_send: payload(seed, *up), ..Socket::default() });
        far.coming.insert(connection, Socket { to_send: payload(seed + 1000, *down), ..Socket::default() });
    }
    near.act();
    (near, far)
}

/// What happens next: which of six things, with which socket, with how many bytes.
type Step = (u8, usize, usize);

fn happen(near: &mut End, far: &mut End, (what, which, bytes): Step) -> bool {
    match what % 8 {
        0 => near.send(),
        1 => far.send(),
        2 => near.receive(far),
        3 => far.receive(near),
        4 => near.step(which, bytes, false),
        5 => far.step(which, bytes, false),
        6 => near.step(which, bytes, true),
        _ => far.step(which, bytes, true),
    }
}

/// Lets happen what can, until nothing can any more.
fn settle(near: &mut End, far: &mut End) {
    loop {
        let mut happened = false;
        for what in 0..8 {
            for which in 0..near.sockets.len().max(1) {
                happened |= happen(near, far, (what, which, usize::MAX));
            }
        }
        if !happened {
            return;
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((any::<u8>(), any::<usize>(), 1..100_000_usize), 0..400)
}

fn sizes() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let size = prop_oneof![Just(0), 1..2000_usize, 1..(3 * WINDOW)];
    proptest::collection::vec((size.clone(), size), 1..6)
}

/// A frame of any sort, about one of some connections.
fn garbage() -> impl Strategy<Value = pb::ForwardFrame> {
    let body = prop_oneof![
        Just(None),
        any::<u32>().prop_map(|port| Some(Body::Connect(pb::ForwardConnect { port }))),
        (0..2 * WINDOW).prop_map(|len| Some(Body::Data(vec![7; len].into()))),
        prop_oneof![any::<u32>(), Just(u32::MAX)].prop_map(|bytes| Some(Body::Credit(bytes))),
        Just(Some(Body::End(pb::ForwardEnd {}))),
        Just(Some(Body::Reset(reset("Any", "")))),
    ];
    (0..4_u32, body).prop_map(|(connection, body)| pb::ForwardFrame { connection, body })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_arrives_once_and_in_order_and_ends_arrive(sizes in sizes(), steps in steps()) {
        let (mut near, mut far) = ends(&sizes);
        for step in steps {
            happen(&mut near, &mut far, step);
        }
        settle(&mut near, &mut far);
        prop_assert_eq!(near.sockets.len(), sizes.len());
        for (seed, ((up, down), connection)) in sizes.iter().zip(near.sockets.keys()).enumerate() {
            let (a, b) = (&near.sockets[connection], &far.sockets[connection]);
            prop_assert!(b.taken == payload(seed, *up), "up: {} of {up}", b.taken.len());
            prop_assert!(a.taken == payload(seed + 1000, *down), "down: {} of {down}", a.taken.len());
            prop_assert!(a.over && b.over && a.shut && b.shut && !a.dropped && !b.dropped);
        }
        prop_assert!(near.mux.is_empty() && far.mux.is_empty());
        prop_assert_eq!((near.mux.held(), far.mux.held()), (0, 0));
    }

    #[test]
    fn a_connection_that_nobody_reads_holds_up_no_other_one(sizes in sizes(), steps in steps()) {
        let all: Vec<(usize, usize)> = [(4 * WINDOW, 4 * WINDOW)].into_iter().chain(sizes).collect();
        let (mut near, mut far) = ends(&all);
        near.sockets.values_mut().next().expect("the first").stuck = true;
        far.coming.get_mut(&1).expect("the first").stuck = true;
        for step in steps {
            happen(&mut near, &mut far, step);
        }
        settle(&mut near, &mut far);
        for (seed, ((up, down), connection)) in all.iter().zip(near.sockets.keys()).enumerate().skip(1) {
            let (a, b) = (&near.sockets[connection], &far.sockets[connection]);
            prop_assert!(b.taken == payload(seed, *up) && a.taken == payload(seed + 1000, *down));
            prop_assert!(a.over && b.over);
        }
        // Of it there is the window, and no more.
        let stuck = near.sockets.values().next().expect("the first");
        prop_assert!(!stuck.over && !stuck.dropped);
        prop_assert_eq!(4 * WINDOW - stuck.to_send.len(), WINDOW);
        prop_assert!(far.mux.held() <= WINDOW + DATA_BYTES_MAX);
    }

    #[test]
    fn who_breaks_the_rules_loses_its_own_connection_alone(
        frames in proptest::collection::vec(garbage(), 0..60), steps in steps(), to_far in any::<bool>(),
    ) {
        // The first three have garbage come for them, the fourth has none.
        let sizes = [(400_000, 10), (10, 400_000), (0, 70_000), (300_000, 300_000)];
        let (mut near, mut far) = ends(&sizes);
        let mut frames = frames.into_iter();
        for step in steps {
            happen(&mut near, &mut far, step);
            if step.0 % 3 == 0 && let Some(frame) = frames.next() {
                let end = if to_far { &mut far } else { &mut near };
                end.mux.take(frame);
                end.act();
            }
        }
        for frame in frames {
            let end = if to_far { &mut far } else { &mut near };
            end.mux.take(frame);
            end.act();
        }
        settle(&mut near, &mut far);
        let (a, b) = (&near.sockets[&4], &far.sockets[&4]);
        prop_assert!(b.taken == payload(3, 300_000) && a.taken == payload(1003, 300_000));
        prop_assert!(a.over && b.over);
    }

    #[test]
    fn garbage_alone_does_no_harm(frames in proptest::collection::vec(garbage(), 0..200)) {
        for mut mux in [Mux::connecting(3), Mux::accepting([1, 2, 80], 3)] {
            for frame in frames.clone() {
                mux.take(frame);
                prop_assert!(mux.len() <= 3 && mux.held() <= 3 * (WINDOW + DATA_BYTES_MAX));
                while mux.next_act().is_some() {}
            }
            while mux.next_frame().is_some() {}
            prop_assert!(!mux.has_frame());
        }
    }
}

fn frame(connection: u32, body: Body) -> pb::ForwardFrame {
    pb::ForwardFrame { connection, body: Some(body) }
}

fn connect(connection: u32, port: u32) -> pb::ForwardFrame {
    frame(connection, Body::Connect(pb::ForwardConnect { port }))
}

/// Why a connection was reset, as the peer is told.
fn reason(mux: &mut Mux) -> Option<(u32, String)> {
    match mux.next_frame() {
        Some(pb::ForwardFrame { connection, body: Some(Body::Reset(why)) }) => Some((connection, why.reason)),
        _ => None,
    }
}

#[test]
fn ports_that_were_not_asked_for_and_connections_beyond_the_most_are_refused() {
    let mut mux = Mux::accepting([80], 2);
    for (connection, port) in [(1, 81), (2, 0), (3, 65_536 + 80)] {
        mux.take(connect(connection, port));
        assert_eq!(reason(&mut mux), Some((connection, "PortNotAsked".to_owned())));
    }
    assert!(mux.is_empty() && mux.next_act().is_none());
    (4..=6).for_each(|connection| mux.take(connect(connection, 80)));
    assert_eq!(reason(&mut mux), Some((6, "TooManyConnections".to_owned())));
    assert_eq!(mux.len(), 2);
}

#[test]
fn a_peer_that_takes_no_resets_is_not_heard_until_it_does() {
    let mut mux = Mux::accepting([80], 2);
    let mut connection = 0;
    while mux.takes_frames() {
        connection += 1;
        assert!(connection < 10);
        mux.take(connect(connection, 81));
    }
    assert!(reason(&mut mux).is_some() && mux.takes_frames());
}

#[test]
fn a_socket_that_fails_resets_its_connection_at_the_other_end() {
    let (mut near, mut far) = ends(&[(10, 10)]);
    settle_frames(&mut near, &mut far);
    far.mux.failed(1, reset("ConnectionRefused", "nobody listens"));
    far.act();
    let frame = far.mux.next_frame().expect("a reset");
    near.mux.take(frame);
    let acts: Vec<Act> = std::iter::from_fn(|| near.mux.next_act()).collect();
    let why = Some(reset("ConnectionRefused", "nobody listens"));
    assert!(acts.contains(&Act::Drop { connection: 1, port: PORT, why }), "{acts:?}");
    assert!(near.mux.is_empty() && far.mux.is_empty() && !near.mux.has_frame());
}

fn settle_frames(near: &mut End, far: &mut End) {
    while near.send() || far.receive(near) {}
}
