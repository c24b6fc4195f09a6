//! Many connections on one channel, each at its own pace: both ends of `proto/skerry/relay/v1/forward.proto`.
//!
//! | module | job |
//! |---|---|
//! | `connection` | one connection: windows, what waits in it, how it ends; pure |
//! | `mux` | all of a channel: takes frames and what sockets tell, answers frames and what sockets shall do; pure |
//! | `socket` | one TCP socket, which does as it is told |
//! | `drive` | the actor that joins the two |
//!
//! What is held of a connection is bounded: what the peer may send without being asked for more ([`WINDOW`]), and one read
//! ([`DATA_BYTES_MAX`]). A connection that nobody reads fills its window and holds up no other one.

mod connection;
mod drive;
mod mux;
mod socket;

pub use self::drive::{Outside, drive};
pub use self::mux::{Act, Mux, reset};

/// What each direction of a connection may send before it is given credit, and most that is held of it.
pub const WINDOW: usize = 256 * 1024;
/// Most bytes of one frame.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// Most connections at once on one channel.
pub const CONNECTIONS_MAX: usize = 512;
