//! GPUs of this machine: what they are, how they are, who uses them.
//!
//! | module | job |
//! |---|---|
//! | `driver` | what is asked of a vendor's driver: three traits |
//! | `nvml` | NVIDIA's |
//! | `worker` | the threads that call a driver: what is cheap, what is not, events |
//! | `board` | what is known, and how it is judged: pure |
//! | `sight` | whether a driver tells what processes use: pure |
//! | `owners` | whose a process is |
//! | `kmsg` | errors from the kernel's log, where the driver tells no events |
//! | `stream` | what is known, on its way to the gpu service |
//! | `latches` | what is remembered of errors when the agent restarts |
//! | `grant` | what an instance really gets of what is booked for it |
//! | `nodes` | device nodes, for engines that know nothing of GPUs |
//! | `mps` | the daemon that holds shares to what is booked |
//! | `watch` | who uses more than is booked: pure |
//! | `sharing` | the collector and the reconciler, as far as they have to do with each other |
//! | `check` | what `cargo xtask gpu-check` sees of it |
//! | `recording` | what `cargo xtask bench gpu` sees of it |
//!
//! The collector is a task that never calls a driver itself. Once a second it looks at the threads that do. One whose call takes longer than five seconds is
//! left behind: what it reads counts as timed out, another takes its place without the device that it hangs in, and when the driver lets it go it ends, and
//! the device is read again. So there is at most one thread for each kind and device, and never more than [`LEFT_MAX`].
//!
//! A machine without a driver has neither a thread nor a table of all this: it is asked for a few paths every half a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skerry_gpu_model::health::Rules;
use skerry_proto::gpu::v1 as pb;
use skerry_proto::types::v1::machine_status::Gpu;
use tokio::sync::Notify;
use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;
use crate::state::Directory;

mod board;
#[doc(hidden)]
pub mod check;
mod driver;
mod grant;
mod kmsg;
mod latches;
mod mps;
mod nodes;
mod noted;
mod nvml;
mod owners;
#[doc(hidden)]
pub mod recording;
mod sharing;
mod sight;
mod stream;
#[cfg(test)]
mod tests;
mod watch;
mod worker;

use board::Board;
use driver::{Driver, Due, Session, Unopened};
use latches::Latches;
use nvml::NvmlDriver;
use stream::SampleStream;
use worker::{Epoch, Kind, Pace, Shared, Watched, Work, begin, now};

pub use grant::Grants;
pub(crate) use grant::{Granted, ISOLATION, MISSING, UNKNOWN, WARNING, none_by_runtime, none_visible};
pub(crate) use mps::{Keeper, Mps};
pub(crate) use nodes::{Node, Nodes};
pub(crate) use noted::{noted, read_noted};
pub(crate) use owners::Containers;
pub(crate) use sharing::{GpuLink, Shares, sharing};
pub(crate) use stream::{SampleLink, sample_stream};
pub(crate) use watch::{Above, Booked, Overuse};

/// Most threads that are left behind. With so many no new one is begun until one has ended.
const LEFT_MAX: usize = 16;

/// Where GPUs are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuAccess {
    /// Nowhere.
    Off,
    /// By NVIDIA's management library.
    Nvml {
        /// Which one; absent: as the system finds it.
        library: Option<PathBuf>,
        /// Whether the agent runs an MPS daemon for shared ones.
        mps: bool,
    },
}

/// Where GPUs are looked for, as flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct GpuArgs {
    /// NVIDIA's management library; absent: libnvidia-ml.so.1 as the system finds it, where a driver is there
    #[arg(long, env = "SKERRY_NVML_LIBRARY", value_name = "FILE")]
    pub nvml_library: Option<PathBuf>,

    /// Look for no GPUs
    #[arg(long, env = "SKERRY_NO_GPU")]
    pub no_gpu: bool,

    /// Run a daemon of CUDA MPS, which holds instances on a shared GPU to what is booked for them
    #[arg(long, env = "SKERRY_MPS", conflicts_with = "no_gpu")]
    pub mps: bool,
}

impl GpuArgs {
    /// What the flags say.
    pub fn access(self) -> GpuAccess {
        if self.no_gpu {
            GpuAccess::Off
        } else {
            GpuAccess::Nvml { library: self.nvml_library, mps: self.mps }
        }
    }
}

/// Looks after the GPUs of the machine.
pub(crate) struct Collector {
    driver: Arc<dyn Driver>,
    shared: Arc<Shared>,
    pace: Pace,
    latches: Latches,
    /// The containers of instances, from who sees them.
    containers: Arc<Sender<Arc<Containers>>>,
    /// Where the instances are that run as processes.
    instances: PathBuf,
    told: Sender<Arc<Vec<Gpu>>>,
    samples: SampleStream,
    shares: Shares,
    state: State,
    /// Threads that were replaced and have not ended.
    left: Vec<Watched>,
    /// Why the driver could not be used, as it was told.
    why: Option<Unopened>,
}

enum State {
    Closed { look_at: Instant },
    Opening { opener: Watched, answer: Arc<Mutex<Option<Opened>>> },
    Open(Crew),
}

type Opened = Result<(Arc<dyn Session>, Vec<pb::Device>), Unopened>;

/// Threads over one session.
struct Crew {
    session: Arc<dyn Session>,
    /// Of the devices that the threads know.
    version: u64,
    readers: BTreeMap<Kind, (Watched, BTreeSet<String>)>,
    events: Option<Watched>,
    /// UUIDs of the devices whose events are heard.
    heard: BTreeSet<String>,
}

/// Calls that do not come back: by whom, and in which device. Absent: in none.
type Hanging = BTreeSet<(Kind, Option<String>)>;

impl Collector {
    /// One that looks where it is said. `None`: nowhere.
    pub(crate) fn new(
        access: &GpuAccess,
        data_dir: &Path,
        containers: Arc<Sender<Arc<Containers>>>,
        told: Sender<Arc<Vec<Gpu>>>,
        samples: SampleStream,
        shares: Shares,
    ) -> Option<Self> {
        let GpuAccess::Nvml { library, .. } = access else { return None };
        let driver = Arc::new(NvmlDriver::new(library.clone()));
        Some(Self::over(driver, Pace::default(), data_dir, containers, told, (samples, shares)))
    }

    fn over(
        driver: Arc<dyn Driver>,
        pace: Pace,
        data_dir: &Path,
        containers: Arc<Sender<Arc<Containers>>>,
        told: Sender<Arc<Vec<Gpu>>>,
        (samples, shares): (SampleStream, Shares),
    ) -> Self {
        let latches = Latches::open(Directory::new(data_dir));
        let board = Mutex::new(Board::new(Rules::default(), latches.kept(), pace.untold_after));
        Self {
            driver,
            shared: Arc::new(Shared { board, epoch: Mutex::default(), news: Notify::new() }),
            pace,
            latches,
            containers,
            instances: data_dir.join("instances"),
            told,
            samples,
            shares,
            state: State::Closed { look_at: Instant::now() },
            left: Vec::new(),
            why: None,
        }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        loop {
            let wait = self.pass();
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = shared.news.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        lock(&self.shared.epoch).number += 1;
        self.latches.finish().await;
    }

    /// Looks at all once. Answers for how long nothing is to be done.
    fn pass(&mut self) -> Duration {
        self.left.retain(|thread| !thread.has_ended());
        let state = std::mem::replace(&mut self.state, State::Closed { look_at: Instant::now() });
        self.state = match state {
            State::Closed { look_at } if Instant::now() < look_at => State::Closed { look_at },
            State::Closed { .. } => self.look(),
            State::Opening { opener, answer } => {
                let opened = lock(&answer).take();
                match opened {
                    Some(opened) => self.opened(opened),
                    None if opener.has_ended() => {
                        State::Closed { look_at: Instant::now() + self.pace.look_every }
                    }
                    None => State::Opening { opener, answer },
                }
            }
            State::Open(crew) => self.watch(crew),
        };
        let is_open = matches!(self.state, State::Open(_));
        let (report, latches, wait) = {
            let mut board = lock(&self.shared.board);
            if is_open {
                board.tick(now());
            } else {
                board.driver_away(now());
            }
            let wait = self.samples.pass(&mut board, self.pace.second);
            self.shares.pass(&mut board);
            (board.report(), board.latches(), wait)
        };
        let mut report = report;
        self.shares.mark(&mut report);
        let is_empty = report.is_empty();
        self.told.send_if_modified(|told| {
            let is_news = **told != report;
            if is_news {
                *told = Arc::new(report);
            }
            is_news
        });
        self.latches.put(latches);
        match &self.state {
            State::Closed { look_at } if is_empty => look_at.saturating_duration_since(Instant::now()),
            State::Closed { .. } | State::Opening { .. } | State::Open(_) => {
                wait.map_or(self.pace.second, |wait| wait.min(self.pace.second))
            }
        }
    }

    /// Loads the driver, where it may be there, on a thread: that may hang too.
    fn look(&mut self) -> State {
        let later = State::Closed { look_at: Instant::now() + self.pace.look_every };
        if self.left.len() >= LEFT_MAX || !self.driver.may_be_there() {
            return later;
        }
        let answer: Arc<Mutex<Option<Opened>>> = Arc::default();
        let (driver, shared, to) = (Arc::clone(&self.driver), Arc::clone(&self.shared), Arc::clone(&answer));
        let known = lock(&self.shared.board).devices();
        let opener = begin(Kind::Opener, move |life| {
            let opened = life.during(None, || {
                let session = driver.open()?;
                let devices = session.devices(&known);
                let devices = devices
                    .map_err(|_| Unopened("the driver was just being loaded or removed".to_owned()))?;
                Ok((session, devices))
            });
            *lock(&to) = Some(opened);
            shared.news.notify_one();
        });
        match opener {
            Ok(opener) => State::Opening { opener, answer },
            Err(error) => {
                tracing::warn!(%error, "no thread can be begun for the GPUs' driver");
                later
            }
        }
    }

    fn opened(&mut self, opened: Opened) -> State {
        let (session, devices) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                if self.why.as_ref() != Some(&why) {
                    tracing::info!(%why, "the GPUs' driver cannot be used");
                }
                self.why = Some(why);
                return State::Closed { look_at: Instant::now() + self.pace.look_every };
            }
        };
        self.why = None;
        let version = {
            let mut epoch = lock(&self.shared.epoch);
            let mut board = lock(&self.shared.board);
            if epoch.number > 0 {
                board.driver_came_back(now());
            }
            board.put_devices(devices, now());
            *epoch = Epoch { number: epoch.number + 1, broken: false, devices: epoch.devices + 1 };
            epoch.devices
        };
        tracing::info!(devices = lock(&self.shared.board).devices().len(), "the GPUs' driver is there");
        let crew = Crew { session, version, readers: BTreeMap::new(), events: None, heard: BTreeSet::new() };
        self.watch(crew)
    }

    /// Looks at the threads: leaves behind what hangs, and begins what is missing.
    fn watch(&mut self, mut crew: Crew) -> State {
        let (is_broken, version) = {
            let epoch = lock(&self.shared.epoch);
            (epoch.broken, epoch.devices)
        };
        if is_broken {
            tracing::warn!("the GPUs' driver is gone, or was loaded anew");
            let events = std::mem::take(&mut crew.events);
            self.left.extend(crew.readers.into_values().map(|(thread, _)| thread).chain(events));
            self.left.iter().for_each(Watched::stop);
            return State::Closed { look_at: Instant::now() + self.pace.second };
        }
        let is_new = std::mem::replace(&mut crew.version, version) != version;
        for kind in [Kind::Fast, Kind::Slow] {
            let Some((thread, _)) = crew.readers.get(&kind) else { continue };
            if is_new || thread.hangs(self.pace.hangs_after).is_some() {
                self.leave(crew.readers.remove(&kind).map(|(thread, _)| thread));
            }
        }
        let hearing = crew.events.as_ref();
        let hears_of_others = is_new && self.uuids() != crew.heard;
        if hearing.is_some_and(|thread| hears_of_others || thread.hangs(self.pace.hangs_after).is_some()) {
            self.leave(crew.events.take());
        }
        let hanging = self.hanging();
        self.tell_hanging(&hanging);
        for kind in [Kind::Fast, Kind::Slow] {
            let of_kind = hanging.iter().filter(|(hanging, _)| *hanging == kind);
            let skipped: BTreeSet<String> = of_kind.filter_map(|(_, device)| device.clone()).collect();
            let is_right = crew
                .readers
                .get(&kind)
                .is_some_and(|(thread, without)| *without == skipped && !thread.has_ended());
            if is_right {
                continue;
            }
            self.leave(crew.readers.remove(&kind).map(|(thread, _)| thread));
            if !hanging.contains(&(kind, None)) {
                let work = self.work(&crew, skipped.clone());
                let thread = self.begin(kind, move |life| work.read(kind, &life));
                crew.readers.extend(thread.map(|thread| (kind, (thread, skipped))));
            }
        }
        // Two of them would hear of the same.
        if crew.events.is_none() && self.left.iter().all(|thread| thread.kind != Kind::Events) {
            crew.heard = self.uuids();
            let work = self.work(&crew, BTreeSet::new());
            crew.events = self.begin(Kind::Events, move |life| work.hear(&life));
        }
        State::Open(crew)
    }

    fn uuids(&self) -> BTreeSet<String> {
        lock(&self.shared.board).devices().into_iter().map(|device| device.uuid).collect()
    }

    fn work(&self, crew: &Crew, skipped: BTreeSet<String>) -> Work {
        // One lock after the other: workers take both, in the other order.
        let epoch = lock(&self.shared.epoch).number;
        let devices = lock(&self.shared.board).devices();
        Work {
            shared: Arc::clone(&self.shared),
            session: Arc::clone(&crew.session),
            devices,
            skipped,
            epoch,
            version: crew.version,
            pace: self.pace,
            containers: self.containers.subscribe(),
            instances: self.instances.clone(),
        }
    }

    fn begin(&self, kind: Kind, work: impl FnOnce(worker::Life) + Send + 'static) -> Option<Watched> {
        if self.left.len() >= LEFT_MAX {
            return None;
        }
        let begun = begin(kind, work);
        begun.inspect_err(|error| tracing::warn!(%error, "no thread can be begun for the GPUs' driver")).ok()
    }

    fn leave(&mut self, thread: Option<Watched>) {
        if let Some(thread) = thread {
            if let Some(call) = thread.hangs(self.pace.hangs_after) {
                let gpu = call.device.unwrap_or_default();
                tracing::warn!(gpu, thread = thread.kind.name(), "the GPUs' driver does not answer");
            }
            thread.stop();
            self.left.push(thread);
        }
    }

    fn hanging(&self) -> Hanging {
        let hangs =
            |thread: &Watched| thread.hangs(self.pace.hangs_after).map(|call| (thread.kind, call.device));
        self.left.iter().filter_map(hangs).collect()
    }

    /// What is not answered counts as timed out.
    fn tell_hanging(&self, hanging: &Hanging) {
        let mut board = lock(&self.shared.board);
        for (kind, device) in hanging {
            let due = kind.reads();
            if due == Due::default() {
                continue;
            }
            match device {
                Some(uuid) => board.timed_out(uuid, due, now()),
                None => {
                    for device in board.devices() {
                        board.timed_out(&device.uuid, due, now());
                    }
                }
            }
        }
    }
}
