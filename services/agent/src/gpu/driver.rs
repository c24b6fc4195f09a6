//! What the collector asks of a vendor's driver. A driver is behind three small traits, so that it can come, go, hang and be restarted without
//! anybody but the workers noticing: a [`Session`] is one loading of it, and what reads through a session borrows it.
//!
//! Every call may block for as long as the driver likes. Nothing here is called on a request's path, nor by a task of the executor.

use std::sync::Arc;
use std::time::Duration;

use skerry_gpu_model::field::Cadence;
use skerry_gpu_model::{Event, Field, Sample};
use skerry_proto::gpu::v1 as pb;

/// A vendor's driver, loaded or not.
pub(crate) trait Driver: Send + Sync {
    /// Whether it is worth loading it: cheap, and without it. A machine without GPUs is asked this and nothing else.
    fn may_be_there(&self) -> bool;

    /// Loads it.
    fn open(&self) -> Result<Arc<dyn Session>, Unopened>;
}

/// Why a driver cannot be used now. It may come later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unopened(pub(crate) String);

/// The driver is not there any more, or was loaded anew: this session is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// One loading of the driver.
pub(crate) trait Session: Send + Sync {
    /// The devices that there are now, in the driver's order. One that does not answer is as it was in `known`, and left out where it was not there.
    fn devices(&self, known: &[pb::Device]) -> Result<Vec<pb::Device>, Broken>;

    /// What reads values of these devices, for one thread. Its places are those of [`skerry_gpu_model::Place::all`].
    fn reader<'a>(&'a self, devices: &'a [pb::Device]) -> Box<dyn Reader + 'a>;

    /// What hears of events of these devices, for one thread.
    fn events<'a>(&'a self, devices: &'a [pb::Device]) -> Result<Box<dyn Events + 'a>, Broken>;
}

/// Reads values. It remembers what a device does not have, and does not ask for that again for long.
pub(crate) trait Reader {
    /// Reads into `sample` each field that is due, of one place: a value or the reason of its absence.
    fn read(&mut self, place: usize, due: Due, sample: &mut Sample) -> Result<(), Broken>;
}

/// Hears of events.
pub(crate) trait Events {
    /// Waits for one event, for at most `timeout`. Each is told once.
    fn wait(&mut self, timeout: Duration) -> Result<Option<Happened>, Broken>;

    /// UUIDs of the devices whose events the driver does not tell.
    fn untold(&self) -> &[String];
}

/// An event of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happened {
    /// UUID of the device.
    pub(crate) device: String,
    /// What.
    pub(crate) event: Event,
}

/// What is to be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a pace of its own, and any may be due with any")]
pub(crate) struct Due {
    /// What is cheap.
    pub(crate) second: bool,
    /// Who has a context.
    pub(crate) processes: bool,
    /// What costs more.
    pub(crate) ten_seconds: bool,
    /// What hardly moves.
    pub(crate) minute: bool,
}

impl Due {
    /// Whether a field is.
    pub(crate) fn includes(self, field: Field) -> bool {
        if field == Field::Processes {
            return self.processes;
        }
        match field.spec().cadence {
            Cadence::Second => self.second,
            Cadence::TenSeconds => self.ten_seconds,
            Cadence::Minute => self.minute,
        }
    }

    /// All fields that are.
    pub(crate) fn fields(self) -> impl Iterator<Item = Field> {
        Field::ALL.into_iter().filter(move |field| self.includes(*field))
    }
}
