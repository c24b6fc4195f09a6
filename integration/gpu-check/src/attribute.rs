//! Two processes with memory on the first device, each an instance's: whether the agent finds both, with their memory, and says whose they are.
//!
//! Each is this program again, which makes a context by CUDA's driver, fills its memory over and over, and ends when its standard input does. Where the
//! driver is simulated it only waits, and the simulator's control file names it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use skerry_agent::gpu_check::{Check, stand_for};
use skerry_gpu_model::Process;
use skerry_model::InstanceName;
use tempfile::TempDir;

use crate::compare::Verdict;
use crate::cuda;

/// In what a process writes when it has its memory.
const READY: &str = "ready";
/// For how long both are looked for.
const FOUND_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const INSTANCES: [&str; 2] = ["gpu-check/one/here/0", "gpu-check/two/here/0"];

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    pub(crate) pid: u32,
    /// What it took.
    pub(crate) bytes: u64,
    /// As the driver tells.
    pub(crate) told_bytes: Option<u64>,
    pub(crate) utilization_percent: Option<u32>,
    /// Whose it is.
    pub(crate) expected: String,
    pub(crate) instance: String,
    pub(crate) verdict: Verdict,
}

/// Two processes that run until this is dropped.
pub(crate) struct Pair {
    children: Vec<Child>,
    bytes: u64,
    instances: TempDir,
    simulated: Option<(PathBuf, String)>,
}

impl Pair {
    /// Starts both. `control`: the driver is simulated, by this file.
    pub(crate) fn start(pci: &str, bytes: u64, control: Option<&Path>) -> Result<Self> {
        let instances = tempfile::tempdir().context("making a directory for the two processes")?;
        let mut pair = Self { children: Vec::new(), bytes, instances, simulated: None };
        for instance in INSTANCES {
            let mut command = Command::new("/proc/self/exe");
            command.args(["--hold", if control.is_some() { "" } else { pci }]);
            command.args(["--hold-bytes", &bytes.to_string()]);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut child = child.context("starting this program again")?;
            let pid = child.id();
            let output = child.stdout.take();
            pair.children.push(child);
            let mut line = String::new();
            if let Some(output) = output {
                BufReader::new(output).read_line(&mut line).context("hearing of a process")?;
            }
            if line.trim() != READY {
                bail!("a process could not take memory of the device: what it said stands above");
            }
            let name = InstanceName::parse(instance).context("an instance's name")?;
            stand_for(pair.instances.path(), &name, pid)?;
        }
        if let Some(control) = control {
            pair.tell(control)?;
        }
        Ok(pair)
    }

    /// Names both in the simulator's file.
    fn tell(&mut self, control: &Path) -> Result<()> {
        let before = fs::read_to_string(control).with_context(|| format!("reading {}", control.display()))?;
        let mut table: toml::Table =
            toml::from_str(&before).with_context(|| format!("reading {}", control.display()))?;
        let devices = table.entry("device").or_insert_with(|| toml::Value::Array(Vec::new()));
        let devices = devices.as_array_mut().context("`device` is an array of tables")?;
        let is_first =
            |device: &toml::Value| device.get("index").and_then(toml::Value::as_integer) == Some(0);
        if !devices.iter().any(is_first) {
            devices.push(toml::Value::Table(toml::Table::from_iter([("index".to_owned(), 0.into())])));
        }
        let first = devices.iter_mut().find(|device| is_first(device)).and_then(toml::Value::as_table_mut);
        let memory_mib = i64::try_from(self.bytes >> 20).context("so much memory")?;
        let process = |child: &Child| {
            let values = [("pid", i64::from(child.id())), ("memory_mib", memory_mib)];
            let values = values.map(|(key, value)| (key.to_owned(), toml::Value::from(value)));
            toml::Value::Table(values.into_iter().collect())
        };
        let processes: Vec<_> = self.children.iter().map(process).collect();
        first.context("the first device")?.insert("process".to_owned(), processes.into());
        self.simulated = Some((control.to_owned(), before));
        replace(control, &toml::to_string(&table).context("writing the simulator's file")?)
    }

    /// Looks until both are found, for a bounded time.
    #[expect(clippy::disallowed_methods, reason = "a program of one thread, without an executor")]
    pub(crate) fn find(&self, check: &Check) -> Result<Vec<Found>> {
        let until = Instant::now() + FOUND_WITHIN;
        loop {
            let told = check.processes(0, self.instances.path())?;
            let found: Vec<_> = self.children.iter().zip(INSTANCES).map(|of| self.judge(of, &told)).collect();
            let is_done = found.iter().all(|found| found.verdict == Verdict::Same);
            if is_done || Instant::now() >= until {
                return Ok(found);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn judge(&self, (child, expected): (&Child, &str), told: &[Process]) -> Found {
        let process = told.iter().find(|process| process.pid == child.id());
        let told_bytes = process.and_then(|process| process.memory_bytes);
        let instance = process.map_or("", |process| process.instance.as_str()).to_owned();
        // Its context has some beside.
        let is_right = told_bytes.is_some_and(|told| told >= self.bytes) && instance == expected;
        Found {
            pid: child.id(),
            bytes: self.bytes,
            told_bytes,
            utilization_percent: process.and_then(|process| process.utilization_percent),
            expected: expected.to_owned(),
            instance,
            verdict: if is_right { Verdict::Same } else { Verdict::Different },
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.stdin.take());
            if let Err(error) = child.wait() {
                eprintln!("waiting for process {}: {error}", child.id());
            }
        }
        if let Some((control, before)) = &self.simulated
            && let Err(error) = replace(control, before)
        {
            eprintln!("{error:#}");
        }
    }
}

/// In one piece: who reads it meanwhile sees all of the old or all of the new.
fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text).with_context(|| format!("writing {}", new.display()))?;
    fs::rename(&new, file).with_context(|| format!("writing {}", file.display()))
}

/// The process itself: takes memory of the device with this PCI address and works on it until nobody holds its standard input. Empty: only waits.
pub(crate) fn hold(pci: &str, bytes: u64) -> Result<()> {
    let held = if pci.is_empty() {
        None
    } else {
        let library = cuda::library().with_context(|| format!("{} is not there", cuda::LIBRARY))?;
        Some(cuda::Held::new(library, pci, usize::try_from(bytes).context("so much memory")?)?)
    };
    println!("{READY}");
    stdout().flush().context("saying so")?;
    let ends = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&ends);
    let waits = thread::spawn(move || {
        let mut rest = Vec::new();
        let read = stdin().read_to_end(&mut rest);
        ended.store(true, Ordering::Relaxed);
        read
    });
    if let Some(held) = held {
        while !ends.load(Ordering::Relaxed) {
            held.work()?;
        }
    }
    let read = waits.join().map_err(|_| anyhow::anyhow!("waiting for the end of standard input"))?;
    read.map(drop).context("waiting for the end of standard input")
}
