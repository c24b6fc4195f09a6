//! The words of GPU telemetry, pure: what is measured, how it travels as differences, when a device is sick, whose a process is.
//!
//! | module | job |
//! |---|---|
//! | `field` | the catalogue: number, name, unit, cadence and threshold of each field, and its names at DCGM and OpenTelemetry |
//! | `sample` | all that was read of a device at a time: for each field a value or the reason of its absence |
//! | `event` | what happens to a device |
//! | `place` | what of a node is sampled: devices, and parts of divided ones |
//! | `wire` | sets of fields as they are in frames |
//! | `encode` | samples to frames: keyframes, differences, events until they are acknowledged |
//! | `decode` | frames to samples: what is lost is noticed and asked for anew, never guessed |
//! | `health` | rules over samples and events: what is wrong with a device, how bad that is, and what follows for scheduling |
//! | `xid` | the numbers of errors of NVIDIA's driver, by what they mean for the device |
//! | `attribution` | from the text of `/proc/<pid>/cgroup` to a container or an instance |
//!
//! No clock is read here and nothing is drawn at random: times and ids come from the caller. Frames are `proto/skerry/gpu/v1/frame.proto`, whose
//! head has the rules.

mod absent;
pub mod attribution;
pub mod decode;
pub mod encode;
pub mod event;
pub mod field;
pub mod health;
mod place;
mod sample;
mod wire;
pub mod xid;

pub use absent::Absent;
pub use decode::Decoder;
pub use encode::Encoder;
pub use event::Event;
pub use field::Field;
pub use place::{InvalidDevice, Place};
pub use sample::{Process, Reading, Sample};

/// Most devices of a node.
pub const DEVICES_MAX: usize = 64;
/// Most places of a node: devices and their parts.
pub const PLACES_MAX: usize = 256;
/// Most processes that are told of one device; of more, those with the lowest pids are.
pub const PROCESSES_MAX: usize = 1024;
/// Most processes that are told of one node, of all places together; of more, those that were told already.
pub const NODE_PROCESSES_MAX: usize = 4096;
/// Most events that a node keeps until they are acknowledged. Older ones give way, which shows by their numbers.
pub const EVENTS_MAX: usize = 256;

/// A time in milliseconds since 1970, as messages have it; before 1970 too.
pub fn timestamp(unix_millis: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(unix_millis.rem_euclid(1000)).unwrap_or_default() * 1_000_000;
    prost_types::Timestamp { seconds: unix_millis.div_euclid(1000), nanos }
}

/// As much of a text from its beginning as fits, in whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
