//! How soon who uses more memory than is booked is found: the agent's collector and watchdog as they run on any machine, and a clock beside them.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use skerry_model::app::OnOveruse;
use skerry_model::{GpuBooking, GpuId, GpuIsolation, GpuShare, InstanceName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Check, CheckError};
use crate::gpu::watch::Usage;
use crate::gpu::worker::Shared;
use crate::gpu::{Above, Booked, Collector, GpuAccess, GpuLink, Mps, sample_stream, sharing};
use crate::lock::lock;

/// For how long each step is waited for.
const WAIT: Duration = Duration::from_secs(20);
/// Between two glances at what the collector knows: by so much a time is too long.
const GLANCE: Duration = Duration::from_millis(1);
/// Looks before the process grows: the time between the last two of them is the collector's period.
const LOOKS_BEFORE: u64 = 3;

/// What is booked of a device for an instance.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    /// UUID of the device.
    pub gpu: &'a str,
    /// Whose share it is.
    pub instance: &'a InstanceName,
    /// Bytes of the device's memory.
    pub memory_bytes: u64,
}

/// A look of the collector's at the processes of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Which look it was since the process grew, from 1.
    pub number: u64,
    /// How long after that its result was there.
    pub after: Duration,
    /// Bytes that the instance used by it.
    pub used_bytes: u64,
}

/// How an overuse was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Between two looks while nobody was above.
    pub period: Duration,
    /// The looks since the process grew.
    pub looks: Vec<Look>,
    /// How long after it grew the watchdog said so; absent: it did not in 20 s.
    pub found: Option<Duration>,
}

impl Check {
    /// Runs the agent's collector with this booked, lets the instance's process grow above it just after a look, which is when it takes longest, and
    /// waits until the watchdog finds it. `data_dir`: as the agent's; the instances are below it. `grow` returns once the process has its memory.
    ///
    /// # Errors
    ///
    /// The collector looks at no process, the instance is above what is booked before it grows, or it cannot grow.
    pub fn discover(
        &self,
        data_dir: &Path,
        share: Share<'_>,
        grow: impl FnOnce() -> Result<(), String>,
    ) -> Result<Discovery, CheckError> {
        let failed = |why: &str| CheckError::Watching(why.to_owned());
        let access = GpuAccess::Nvml { library: self.library.clone(), mps: false };
        let (told_in, told) = watch::channel(Arc::default());
        let (shares, link) = sharing(told, watch::channel(Mps::None).1);
        let (samples, _nobody_reads) = sample_stream("gpu-check");
        let containers = Arc::new(watch::Sender::new(Arc::default()));
        let collector = Collector::new(&access, data_dir, containers, told_in, samples, shares)
            .ok_or_else(|| failed("no collector runs"))?;
        let gpu = GpuId::parse(share.gpu).map_err(|error| CheckError::Watching(error.to_string()))?;
        link.tell_booked(vec![Booked {
            instance: share.instance.clone(),
            booking: GpuBooking {
                gpu,
                share: GpuShare::Part { memory_bytes: Some(share.memory_bytes), compute_percent: None },
                isolation: GpuIsolation::Accounted,
            },
            policy: OnOveruse::Stop,
        }]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CheckError::Watching(error.to_string()))?;
        let shared = Arc::clone(&collector.shared);
        let shutdown = CancellationToken::new();
        let end = shutdown.clone();
        thread::scope(|scope| {
            scope.spawn(move || runtime.block_on(collector.run(end)));
            // However that ends, the collector does too: the scope waits for it.
            let _ended = shutdown.drop_guard();
            Clock { shared: &shared, link: &link, share }.measure(grow)
        })
    }
}

struct Clock<'a> {
    shared: &'a Shared,
    link: &'a GpuLink,
    share: Share<'a>,
}

impl Clock<'_> {
    fn measure(&self, grow: impl FnOnce() -> Result<(), String>) -> Result<Discovery, CheckError> {
        let first = self.next_look(0)?;
        let mut look = first;
        let mut period = Duration::ZERO;
        while look < first + LOOKS_BEFORE {
            let began = Instant::now();
            look = self.next_look(look)?;
            period = began.elapsed();
        }
        if self.is_found() {
            let booked = self.share.memory_bytes;
            let why = format!("before it grew it was told to use more than the {booked} bytes booked for it");
            return Err(CheckError::Watching(why));
        }
        grow().map_err(CheckError::Watching)?;
        let grown = Instant::now();
        // It may have taken so long that there was another.
        let before = self.usage().map_or(look, |usage| usage.look);
        let mut looks: Vec<Look> = Vec::new();
        loop {
            // In this order: the look that showed it was there before it was found.
            let found = self.is_found().then(|| grown.elapsed());
            if let Some(usage) = self.usage().filter(|usage| usage.look > before) {
                let number = usage.look - before;
                if looks.last().is_none_or(|last| last.number < number) {
                    looks.push(Look { number, after: grown.elapsed(), used_bytes: self.used(&usage) });
                }
            }
            if found.is_some() || grown.elapsed() > WAIT {
                return Ok(Discovery { period, looks, found });
            }
            pause();
        }
    }

    /// Waits for another look than this.
    fn next_look(&self, after: u64) -> Result<u64, CheckError> {
        let began = Instant::now();
        loop {
            if let Some(usage) = self.usage().filter(|usage| usage.look > after) {
                return Ok(usage.look);
            }
            if began.elapsed() > WAIT {
                let why = format!("the collector did not look at the device's processes in {WAIT:?}");
                return Err(CheckError::Watching(why));
            }
            pause();
        }
    }

    fn usage(&self) -> Option<Usage> {
        lock(&self.shared.board).usages().remove(self.share.gpu)
    }

    fn used(&self, usage: &Usage) -> u64 {
        usage
            .by_instance
            .get(&self.share.instance.to_string())
            .and_then(|used| used.memory_bytes)
            .unwrap_or(0)
    }

    fn is_found(&self) -> bool {
        let is_it = |above: &Above| matches!(above, Above::Memory { .. });
        self.link.overuse().iter().any(|one| one.instance == *self.share.instance && is_it(&one.above))
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, without an executor")]
fn pause() {
    thread::sleep(GLANCE);
}
