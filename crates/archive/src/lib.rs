//! Archives of files on their way into and out of instances: packed, looked through while they pass, and unpacked, each in bounded memory.
//!
//! | module | job |
//! |---|---|
//! | `entry` | one thing in an archive, and what is never taken: a path that leads out, a link that does, what is no file |
//! | `read` | entries of an archive that comes in pieces of any size |
//! | `write` | entries as an archive |
//! | `pack` | a file or a tree as an archive |
//! | `unpack` | an archive as files, into a directory of its own that is moved into place when all is there |
//! | `stage` | that directory, and the moving |
//!
//! An archive is what somebody else has made: both who unpacks on a user's machine and who does on a node take it for hostile. No step follows a
//! symbolic link below the directory that is written to, wherever that link comes from.

mod entry;
mod pack;
mod read;
mod stage;
mod unpack;
mod write;

pub use entry::{Bounds, Check, Entry, Error, Kind};
pub use pack::{look, pack};
pub use read::{Reader, Sink};
pub use stage::{Move, Stage};
pub use write::Writer;
