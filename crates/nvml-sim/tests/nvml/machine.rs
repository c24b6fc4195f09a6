//! A simulated machine of one test: a copy of the library, which is a library of its own, with its file.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper::{Nvml, error::NvmlError};
use skerry_nvml_sim::{Control, MachineSpec, Placed, built_library, place};
use tempfile::TempDir;

/// What a test waits for comes within milliseconds; a machine that is very busy may take longer.
const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Machine {
    pub(crate) placed: Placed,
    pub(crate) control: Control,
    _dir: TempDir,
}

impl Machine {
    pub(crate) fn new(control: Control) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let placed = place(&built_library().expect("built"), dir.path(), &control).expect("placed");
        Self { placed, control, _dir: dir }
    }

    pub(crate) fn of(machine: &str) -> Self {
        Self::new(of(machine))
    }

    /// As a program does it.
    pub(crate) fn nvml(&self) -> Nvml {
        self.init().expect("initialised")
    }

    pub(crate) fn init(&self) -> Result<Nvml, NvmlError> {
        Nvml::builder().lib_path(self.placed.library.as_os_str()).init()
    }

    /// Writes another file.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Control)) {
        change(&mut self.control);
        self.control.write(&self.placed.control).expect("written");
    }
}

/// A machine whose names are the same in each run.
pub(crate) fn of(machine: &str) -> Control {
    Control { seed: Some("test".to_owned()), ..Control::of(MachineSpec::parse(machine).expect("a machine")) }
}

/// Asks until the answer is as it should be, since the library sees its file some milliseconds late.
#[track_caller]
pub(crate) fn until<T: Debug>(mut ask: impl FnMut() -> T, is: impl Fn(&T) -> bool) -> T {
    let began = Instant::now();
    loop {
        let answer = ask();
        if is(&answer) {
            return answer;
        }
        assert!(began.elapsed() < LONG, "still {answer:?}");
        pause();
    }
}

/// As `until`, where only that it comes to it counts.
#[track_caller]
pub(crate) fn becomes<T: Debug>(ask: impl FnMut() -> T, is: impl Fn(&T) -> bool) {
    drop(until(ask, is));
}

#[expect(clippy::disallowed_methods, reason = "a test without an executor")]
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(5));
}
