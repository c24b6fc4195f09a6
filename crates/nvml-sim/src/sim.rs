//! The simulator of this process: one driver behind a lock, its control file, its clock, and what every call passes through on its way in.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    code::{Answer, Code},
    control::{Control, ControlError, Latencies, Outcome},
    file::ControlFile,
    model::{driver::Driver, events::Happened, latency::LatencyTable, view::View},
};

/// Where the control file is named.
const VARIABLE: &str = "SKERRY_NVML_SIM";
/// How often a call that hangs, or that waits for an event, looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A wait that is shorter does not sleep: a driver that answers so fast does not either.
const SLEEP_FROM: Duration = Duration::from_micros(50);

static SIM: Mutex<Option<Sim>> = Mutex::new(None);
static NAP: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

struct Sim {
    file: Option<ControlFile>,
    host: String,
    driver: Driver,
    clock: Clock,
    table: LatencyTable,
    /// How many calls there were.
    count: u64,
}

/// Milliseconds since 1970, without the jumps of the system's clock.
struct Clock {
    began: Instant,
    began_ms: u64,
}

impl Clock {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), began_ms: millis(since) }
    }

    fn now_ms(&self, control: &Control) -> u64 {
        self.began_ms.saturating_add(millis(self.began.elapsed())).saturating_add(control.time_offset_ms)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Sim {
    fn new() -> Self {
        let mut file = control_path().map(ControlFile::new);
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let clock = Clock::new();
        let mut control = Control::default();
        let mut table = LatencyTable::default();
        if let Some(file) = &mut file {
            match file.look().map(|read| read.and_then(|control| with_table(file.path(), control))) {
                Some(Ok((read, latencies))) => {
                    file.report(None, "");
                    (control, table) = (read, latencies);
                }
                // Nothing good has been said yet, so there is no driver.
                Some(Err(fault)) => {
                    file.report(Some(&fault), "there is no driver");
                    control.driver.loaded = false;
                }
                None => {}
            }
        }
        let driver = Driver::new(control, &host, 0);
        let mut sim = Self { file, host, driver, clock, table, count: 0 };
        let now_ms = sim.clock.now_ms(sim.driver.control());
        sim.driver = Driver::new(sim.driver.control().clone(), &sim.host, now_ms);
        sim
    }

    /// Sees what the file says now, and what time it is.
    fn refresh(&mut self) {
        if let Some(file) = &mut self.file
            && let Some(read) = file.look()
        {
            match read.and_then(|control| with_table(file.path(), control)) {
                Ok((control, table)) => {
                    file.report(None, "");
                    self.table = table;
                    let now_ms = self.clock.now_ms(&control);
                    let before_ms = self.clock.now_ms(self.driver.control());
                    // What changes, changes now: the time that a file skips is under what it says itself.
                    self.driver.adopt(control, &self.host, before_ms.min(now_ms));
                }
                Err(fault) => file.report(Some(&fault), "nothing changes"),
            }
        }
        self.driver.advance(self.clock.now_ms(self.driver.control()));
    }

    /// What becomes of a call by the faults of the file.
    fn outcome(&self, call: &str, handle: Option<usize>) -> Option<Outcome> {
        let control = self.driver.control();
        if control.fault.is_empty() {
            return None;
        }
        let device = handle.and_then(|handle| self.driver.target(handle).ok()).map(|target| target.card);
        control.fault.iter().find(|fault| fault.fits(call, device)).map(|fault| fault.answer)
    }
}

/// The file's latencies are part of what it says.
fn with_table(path: &Path, control: Control) -> Result<(Control, LatencyTable), ControlError> {
    let table = match &control.latencies {
        Latencies::Off => LatencyTable::default(),
        Latencies::Typical => LatencyTable::typical(),
        Latencies::File(file) => {
            let file = path.parent().unwrap_or(Path::new("")).join(file);
            let text = fs::read_to_string(&file)
                .map_err(|source| ControlError::File { path: file.clone(), source })?;
            serde_json::from_str(&text).map_err(|fault| ControlError::Value {
                field: "latencies".to_owned(),
                fault: format!("{} is no table of latencies: {fault}", file.display()),
            })?
        }
    };
    Ok((control, table))
}

/// The file of this library's own name with `.toml` behind it, beside it; else what the variable names.
fn control_path() -> Option<PathBuf> {
    let beside = library().map(|mut library| {
        library.as_mut_os_string().push(".toml");
        library
    });
    beside
        .filter(|path| path.is_file())
        .or_else(|| env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// Where this very code was loaded from: a library that was copied is another one, with a simulator of its own.
fn library() -> Option<PathBuf> {
    let here = library as fn() -> Option<PathBuf> as usize;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
        let path = line.find('/').filter(|_| range.contains(&here))?;
        Some(PathBuf::from(&line[path..]))
    })
}

/// A guard over a simulator that is there.
struct Held(MutexGuard<'static, Option<Sim>>);

impl Held {
    fn take() -> Self {
        let mut guard = SIM.lock().unwrap_or_else(PoisonError::into_inner);
        guard.get_or_insert_with(Sim::new).refresh();
        Self(guard)
    }

    fn sim(&mut self) -> &mut Sim {
        self.0.get_or_insert_with(Sim::new)
    }
}

/// Waits while the file says that this call hangs, holding nothing.
///
/// # Errors
/// What the file says that it answers.
fn enter(call: &str, handle: Option<usize>) -> Answer<Held> {
    loop {
        let mut held = Held::take();
        match held.sim().outcome(call, handle) {
            None => return Ok(held),
            Some(Outcome::Code(code)) => return Err(code),
            Some(Outcome::Hang) => {}
        }
        drop(held);
        nap(LOOK_AGAIN);
    }
}

/// Sleeps; on a condition that nobody meets, since a thread's own token may be the program's.
fn nap(time: Duration) {
    if time < SLEEP_FROM {
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        return;
    }
    let guard = NAP.0.lock().unwrap_or_else(PoisonError::into_inner);
    drop(NAP.1.wait_timeout_while(guard, time, |()| true));
}

/// Every call: nothing unwinds into C, and the answer is a number.
fn number(run: impl FnOnce() -> Answer<()>) -> u32 {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(Code::UNKNOWN)).map_or_else(Code::number, |()| 0)
}

fn timed(call: &str, handle: Option<usize>, run: impl FnOnce(&mut Driver) -> Answer<()>) -> Answer<()> {
    let mut held = enter(call, handle)?;
    let sim = held.sim();
    sim.count += 1;
    let takes = sim.table.of(call, 0, sim.count);
    let answer = run(&mut sim.driver);
    drop(held);
    if !takes.is_zero() {
        nap(takes);
    }
    answer
}

/// A call that needs no initialisation.
pub(crate) fn anytime(call: &'static str, run: impl FnOnce(&mut Driver) -> Answer<()>) -> u32 {
    number(|| timed(call, None, run))
}

/// A call on no device.
pub(crate) fn on_system(call: &'static str, run: impl FnOnce(&mut Driver) -> Answer<()>) -> u32 {
    anytime(call, |driver| driver.ready().and_then(|()| run(driver)))
}

/// A call on the device with that handle, which changes something.
pub(crate) fn with_device(
    call: &'static str,
    handle: usize,
    run: impl FnOnce(&mut Driver) -> Answer<()>,
) -> u32 {
    number(|| timed(call, Some(handle), |driver| driver.ready().and_then(|()| run(driver))))
}

/// A call on the device with that handle.
pub(crate) fn on_device(call: &'static str, handle: usize, run: impl FnOnce(&View<'_>) -> Answer<()>) -> u32 {
    with_device(call, handle, |driver| run(&driver.view(call, handle)?))
}

/// Waits until something happened of what a set asked for; `told` has it with the driver it happened in.
pub(crate) fn wait(
    call: &'static str,
    set: usize,
    timeout: Duration,
    told: impl FnOnce(&Driver, Happened) -> Answer<()>,
) -> u32 {
    number(|| {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let mut held = enter(call, None)?;
            let driver = &mut held.sim().driver;
            driver.ready()?;
            if let Some(event) = driver.poll(set)? {
                return told(driver, event);
            }
            drop(held);
            let left =
                deadline.map_or(LOOK_AGAIN, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Code::TIMEOUT);
            }
            nap(left.clamp(SLEEP_FROM, LOOK_AGAIN));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unwinds_into_c() {
        assert_eq!(number(|| panic!("a mistake of ours")), Code::UNKNOWN.number());
        assert_eq!((number(|| Ok(())), number(|| Err(Code::TIMEOUT))), (0, 10));
    }

    #[test]
    fn this_code_knows_where_it_was_loaded_from() {
        assert_eq!(library(), std::env::current_exe().ok());
    }
}
