//! The threads that call the driver. Each says when a call of it began, so that the watchdog sees one that hangs, and ends once nobody wants it any more:
//! what hangs cannot be ended from outside, so it is left behind, and ends by itself when the driver lets it go.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use skerry_gpu_model::{Event, Place, Sample};
use skerry_proto::gpu::v1 as pb;
use tokio::sync::{Notify, watch};

use super::board::Board;
use super::driver::{Broken, Due, Happened, Reader, Session};
use super::kmsg::{self, Kmsg};
use super::owners::{Containers, Owners};
use crate::lock::lock;

/// What a worker's stack may grow to. What it calls is a library that has seen smaller ones.
const STACK_BYTES: usize = 512 * 1024;
/// After how many readings processes are forgotten that use no device any more.
const FORGET_EVERY: u64 = 60;
/// Most lines of the kernel's log that are read at a time.
const LOGGED_MAX: usize = 256;

/// How often things happen. A test's clock is faster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The least time between two readings: a second. The others are multiples of it.
    pub(super) second: Duration,
    /// Who was seen to use more than is booked is looked at again after that, if its second is not over by then.
    pub(super) again: Duration,
    /// A call that takes longer hangs.
    pub(super) hangs_after: Duration,
    /// A device of which it is not told for so long what processes use has nobody who counts it.
    pub(super) untold_after: Duration,
    /// Between two looks for a driver that is not there.
    pub(super) look_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            second: Duration::from_secs(1),
            again: Duration::from_millis(250),
            hangs_after: Duration::from_secs(5),
            untold_after: Duration::from_secs(30),
            look_every: Duration::from_secs(30),
        }
    }
}

/// Which thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Loads the driver.
    Opener,
    /// Reads what is cheap, and who uses the devices.
    Fast,
    /// Reads what is not, and what devices there are.
    Slow,
    /// Hears of events.
    Events,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Opener => "gpu-open",
            Self::Fast => "gpu-fast",
            Self::Slow => "gpu-slow",
            Self::Events => "gpu-events",
        }
    }

    /// What it reads.
    pub(super) fn reads(self) -> Due {
        match self {
            Self::Fast => Due { second: true, processes: true, ..Due::default() },
            Self::Slow => Due { ten_seconds: true, minute: true, ..Due::default() },
            Self::Opener | Self::Events => Due::default(),
        }
    }
}

/// What the threads and the collector have in common. Locks are held for moments, and never during a call of the driver.
pub(super) struct Shared {
    pub(super) board: Mutex<Board>,
    /// Of the session that counts; what others say is of no interest any more.
    pub(super) epoch: Mutex<Epoch>,
    /// Something is to be looked at before its time.
    pub(super) news: Notify,
}

/// Which session counts, and whether it still does.
#[derive(Debug, Default)]
pub(super) struct Epoch {
    pub(super) number: u64,
    pub(super) broken: bool,
    /// The devices changed: readers of before name others by the same place.
    pub(super) devices: u64,
}

/// A call of the driver that was not answered yet.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) since: Instant,
    /// Of which device; absent: of none, or of all.
    pub(super) device: Option<String>,
}

/// What the watchdog sees of a thread.
pub(super) struct Watched {
    pub(super) kind: Kind,
    call: Arc<Mutex<Option<Call>>>,
    /// Gone with its receiver, when the thread has ended.
    stop: SyncSender<()>,
    alive: std::sync::Weak<()>,
}

impl Watched {
    /// What hangs for longer than that.
    pub(super) fn hangs(&self, after: Duration) -> Option<Call> {
        lock(&self.call).clone().filter(|call| call.since.elapsed() > after)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.alive.strong_count() == 0
    }

    /// Nobody wants it any more.
    pub(super) fn stop(&self) {
        // Full: it was told before.
        let _ = self.stop.try_send(());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A thread's side of it.
pub(super) struct Life {
    call: Arc<Mutex<Option<Call>>>,
    stop: Receiver<()>,
    _alive: Arc<()>,
}

impl Life {
    /// Notes that the driver is called, for as long as that takes.
    pub(super) fn during<T>(&self, device: Option<&str>, call: impl FnOnce() -> T) -> T {
        *lock(&self.call) = Some(Call { since: Instant::now(), device: device.map(str::to_owned) });
        let answer = call();
        *lock(&self.call) = None;
        answer
    }

    /// Whether nobody wants it any more.
    fn is_stopped(&self) -> bool {
        !matches!(self.stop.try_recv(), Err(TryRecvError::Empty))
    }

    /// Waits until then. Answers whether to go on.
    fn wait_until(&self, then: Instant) -> bool {
        matches!(
            self.stop.recv_timeout(then.saturating_duration_since(Instant::now())),
            Err(RecvTimeoutError::Timeout)
        )
    }
}

/// Begins a thread. Detached: one that hangs in the driver can be waited for by nobody.
pub(super) fn begin(kind: Kind, work: impl FnOnce(Life) + Send + 'static) -> io::Result<Watched> {
    let (stop, stopped) = sync_channel(1);
    let (call, alive) = (Arc::new(Mutex::new(None)), Arc::new(()));
    let watched = Watched { kind, call: Arc::clone(&call), stop, alive: Arc::downgrade(&alive) };
    let life = Life { call, stop: stopped, _alive: alive };
    thread::Builder::new().name(kind.name().to_owned()).stack_size(STACK_BYTES).spawn(move || work(life))?;
    Ok(watched)
}

/// What a thread works with.
pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Arc<dyn Session>,
    pub(super) devices: Vec<pb::Device>,
    /// UUIDs of devices in a call of which another thread of this kind hangs.
    pub(super) skipped: BTreeSet<String>,
    pub(super) epoch: u64,
    pub(super) version: u64,
    pub(super) pace: Pace,
    pub(super) containers: watch::Receiver<Arc<Containers>>,
    pub(super) instances: PathBuf,
}

impl Work {
    /// Tells the board, if this session and these devices still count.
    fn tell<T>(&self, tell: impl FnOnce(&mut Board, i64) -> T) -> Option<T> {
        let epoch = lock(&self.shared.epoch);
        let counts = epoch.number == self.epoch && epoch.devices == self.version && !epoch.broken;
        counts.then(|| tell(&mut lock(&self.shared.board), now()))
    }

    fn broken(&self) {
        let mut epoch = lock(&self.shared.epoch);
        if epoch.number == self.epoch {
            epoch.broken = true;
            self.shared.news.notify_one();
        }
    }

    /// Reads values until it is stopped: as a [`Kind::Fast`] or a [`Kind::Slow`] one.
    pub(super) fn read(self, kind: Kind, life: &Life) {
        let session = Arc::clone(&self.session);
        let mut reader = session.reader(&self.devices);
        let mut owners = Owners::new(self.containers.clone(), self.instances.clone());
        let places = Place::all(&self.devices);
        let mut samples = vec![Sample::new(); places.len()];
        let period = self.pace.second * if kind == Kind::Slow { 10 } else { 1 };
        let mut next = Instant::now();
        for pass in 0_u64.. {
            for (at, (place, sample)) in places.iter().zip(&mut samples).enumerate() {
                let uuid = &self.devices[place.device].uuid;
                if self.skipped.contains(uuid) {
                    continue;
                }
                let due = self.due(kind, pass, *place);
                let read = life.during(Some(uuid), || reader.read(at, due, sample));
                if life.is_stopped() {
                    return;
                }
                if read == Err(Broken) {
                    return self.broken();
                }
                if due.processes {
                    owners.name(&mut sample.processes);
                }
                self.tell(|board, now| board.take(*place, due, sample, now));
            }
            // Who uses more than is booked is known at once.
            if kind == Kind::Fast && self.tell(|board, _| board.looks_closely()).unwrap_or(false) {
                self.shared.news.notify_one();
            }
            // Who they are would be asked of the one that hangs too.
            if kind == Kind::Slow && self.skipped.is_empty() && !self.look_at_devices(life) {
                return;
            }
            if pass % FORGET_EVERY == 0 {
                let all = samples.iter().flat_map(|sample| &sample.processes);
                let pids: BTreeSet<u32> = all.map(|process| process.pid).collect();
                owners.forget(|pid| pids.contains(&pid));
            }
            // What took longer than its time is not made up for.
            next = (next + period).max(Instant::now());
            while kind == Kind::Fast
                && Instant::now() + self.pace.again < next
                && self.tell(|board, _| board.looks_closely()).unwrap_or(false)
            {
                if !life.wait_until(Instant::now() + self.pace.again)
                    || !self.look_again(reader.as_mut(), &mut owners, &places, &mut samples, life)
                {
                    return;
                }
            }
            if !life.wait_until(next) {
                return;
            }
        }
    }

    /// Looks once more at the processes of devices of which somebody was seen to use more than is booked. Answers whether to go on.
    fn look_again(
        &self,
        reader: &mut dyn Reader,
        owners: &mut Owners,
        places: &[Place],
        samples: &mut [Sample],
        life: &Life,
    ) -> bool {
        let doubted = self.tell(|board, _| board.doubted().clone()).unwrap_or_default();
        let due = Due { processes: true, ..Due::default() };
        for (at, (place, sample)) in places.iter().zip(samples).enumerate() {
            let uuid = &self.devices[place.device].uuid;
            if place.part.is_some() || !doubted.contains(uuid) || self.skipped.contains(uuid) {
                continue;
            }
            let before = std::mem::take(&mut sample.processes);
            let read = life.during(Some(uuid), || reader.read(at, due, sample));
            if life.is_stopped() {
                return false;
            }
            if read == Err(Broken) {
                self.broken();
                return false;
            }
            // So soon the driver has no newer measure of what each does: it does what it did.
            for process in &mut sample.processes {
                let known = before.iter().find(|known| known.pid == process.pid);
                process.utilization_percent =
                    process.utilization_percent.or(known.and_then(|known| known.utilization_percent));
            }
            owners.name(&mut sample.processes);
            self.tell(|board, now| board.take(*place, due, sample, now));
        }
        if !doubted.is_empty() {
            self.shared.news.notify_one();
        }
        true
    }

    /// Who uses a device is looked at every second where it is shared, else every ten.
    fn due(&self, kind: Kind, pass: u64, place: Place) -> Due {
        match kind {
            Kind::Slow => Due { ten_seconds: true, minute: pass.is_multiple_of(6), ..Due::default() },
            Kind::Opener | Kind::Fast | Kind::Events => {
                let is_shared = || self.tell(|board, _| board.is_shared(place.device)).unwrap_or(false);
                Due { second: true, processes: pass.is_multiple_of(10) || is_shared(), ..Due::default() }
            }
        }
    }

    /// Answers whether to go on.
    fn look_at_devices(&self, life: &Life) -> bool {
        let found = life.during(None, || self.session.devices(&self.devices));
        if life.is_stopped() {
            return false;
        }
        let Ok(found) = found else {
            self.broken();
            return false;
        };
        let mut epoch = lock(&self.shared.epoch);
        let counts = epoch.number == self.epoch && epoch.devices == self.version && !epoch.broken;
        if counts && lock(&self.shared.board).put_devices(found, now()) {
            epoch.devices += 1;
            self.shared.news.notify_one();
        }
        true
    }

    /// Hears of events until it is stopped: from the driver, and from the kernel's log of devices of which the driver tells none.
    pub(super) fn hear(self, life: &Life) {
        let session = Arc::clone(&self.session);
        let Ok(mut events) = life.during(None, || session.events(&self.devices)) else {
            return self.broken();
        };
        let untold: Vec<&pb::Device> =
            self.devices.iter().filter(|device| events.untold().contains(&device.uuid)).collect();
        let mut log = if untold.iter().any(|device| !device.pci_address.is_empty()) {
            Kmsg::open(Path::new(kmsg::PATH)).inspect_err(|error| {
                tracing::warn!(%error, path = kmsg::PATH, "errors of GPUs cannot be read from the kernel's log");
            }).ok()
        } else {
            None
        };
        let is_told = untold.len() < self.devices.len();
        let mut owners = Owners::new(self.containers.clone(), self.instances.clone());
        while is_told || log.is_some() {
            let until = Instant::now() + self.pace.second;
            let mut heard = false;
            if is_told {
                match life.during(None, || events.wait(self.pace.second)) {
                    Ok(Some(Happened { device, event })) => {
                        heard = true;
                        self.happened(&device, event, &mut owners);
                    }
                    Ok(None) => {}
                    Err(Broken) => return self.broken(),
                }
            }
            let mut left = LOGGED_MAX;
            while let Some(kmsg) = log.as_mut().filter(|_| left > 0) {
                match kmsg.wait(Duration::ZERO) {
                    Ok(Some(logged)) => {
                        let meant =
                            untold.iter().find(|device| kmsg::is_of(&logged.pci, &device.pci_address));
                        if let Some(device) = meant {
                            self.happened(&device.uuid, logged.event, &mut owners);
                        }
                        left -= 1;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, path = kmsg::PATH, "the kernel's log cannot be read any more");
                        log = None;
                    }
                }
            }
            // A driver that answers at once that there is nothing, as of a device that is lost, is not asked in circles.
            if life.is_stopped() || (!heard && !life.wait_until(until)) {
                return;
            }
        }
    }

    fn happened(&self, device: &str, mut event: Event, owners: &mut Owners) {
        if let Event::Xid { pid, instance, .. } = &mut event
            && *pid != 0
        {
            *instance = owners.instance(*pid);
        }
        let epoch = lock(&self.shared.epoch);
        if epoch.number == self.epoch {
            lock(&self.shared.board).happened(device, &event, now());
            self.shared.news.notify_one();
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
