//! Two processes with memory on the first device, each an instance's: whether the agent finds both, with their memory, and says whose they are.
//!
//! Each is this program again, which makes a context by CUDA's driver, takes as much memory as it is told on its standard input, fills it over and over, and
//! ends when that does. Where the driver is simulated it only answers, and the simulator's control file says what it has.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use skerry_agent::gpu_check::{Check, stand_for};
use skerry_gpu_model::Process;
use skerry_model::InstanceName;
use tempfile::TempDir;

use crate::compare::Verdict;
use crate::cuda::{self, Context, Memory};

/// In what a process writes when it has its memory.
const READY: &str = "ready";
/// Lines that wait to be obeyed.
const LINES_MAX: usize = 4;
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
    halves: Vec<Half>,
    bytes: u64,
    /// As an agent's: instances are below it.
    data: TempDir,
    simulated: Option<Simulated>,
}

struct Half {
    child: Child,
    says: BufReader<ChildStdout>,
    bytes: u64,
}

/// The simulator's file, and what it said before.
struct Simulated {
    control: PathBuf,
    before: String,
}

impl Pair {
    /// Starts both. `control`: the driver is simulated, by this file.
    pub(crate) fn start(pci: &str, bytes: u64, control: Option<&Path>) -> Result<Self> {
        let data = tempfile::tempdir().context("making a directory for the two processes")?;
        let mut pair = Self { halves: Vec::new(), bytes, data, simulated: None };
        for instance in INSTANCES {
            let mut command = Command::new("/proc/self/exe");
            command.args(["--hold", if control.is_some() { "" } else { pci }]);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut child = child.context("starting this program again")?;
            let pid = child.id();
            let says = BufReader::new(child.stdout.take().context("its standard output is a pipe")?);
            pair.halves.push(Half { child, says, bytes: 0 });
            pair.halves.iter_mut().try_for_each(|half| half.hold(bytes))?;
            let name = InstanceName::parse(instance).context("an instance's name")?;
            stand_for(&pair.instances(), &name, pid)?;
        }
        if let Some(control) = control {
            let before =
                fs::read_to_string(control).with_context(|| format!("reading {}", control.display()))?;
            pair.simulated = Some(Simulated { control: control.to_owned(), before });
            pair.tell()?;
        }
        Ok(pair)
    }

    /// What is below an agent's data directory.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    fn instances(&self) -> PathBuf {
        self.data.path().join("instances")
    }

    /// Whose the first process is.
    pub(crate) fn first() -> &'static str {
        INSTANCES[0]
    }

    /// Lets the first process have so many bytes in all.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<()> {
        self.halves.first_mut().context("there are two")?.hold(bytes)?;
        self.tell()
    }

    /// Names both in the simulator's file.
    fn tell(&self) -> Result<()> {
        let Some(Simulated { control, before }) = &self.simulated else { return Ok(()) };
        let mut table: toml::Table =
            toml::from_str(before).with_context(|| format!("reading {}", control.display()))?;
        let devices = table.entry("device").or_insert_with(|| toml::Value::Array(Vec::new()));
        let devices = devices.as_array_mut().context("`device` is an array of tables")?;
        let is_first =
            |device: &toml::Value| device.get("index").and_then(toml::Value::as_integer) == Some(0);
        if !devices.iter().any(is_first) {
            devices.push(toml::Value::Table(toml::Table::from_iter([("index".to_owned(), 0.into())])));
        }
        let first = devices.iter_mut().find(|device| is_first(device)).and_then(toml::Value::as_table_mut);
        let process = |half: &Half| {
            let memory_mib = i64::try_from(half.bytes >> 20).context("so much memory")?;
            let values = [("pid", i64::from(half.child.id())), ("memory_mib", memory_mib)];
            let values = values.map(|(key, value)| (key.to_owned(), toml::Value::from(value)));
            Ok(toml::Value::Table(values.into_iter().collect()))
        };
        let processes: Vec<_> = self.halves.iter().map(process).collect::<Result<_>>()?;
        first.context("the first device")?.insert("process".to_owned(), processes.into());
        replace(control, &toml::to_string(&table).context("writing the simulator's file")?)
    }

    /// Looks until both are found, for a bounded time.
    #[expect(clippy::disallowed_methods, reason = "a program of one thread, without an executor")]
    pub(crate) fn find(&self, check: &Check) -> Result<Vec<Found>> {
        let until = Instant::now() + FOUND_WITHIN;
        loop {
            let told = check.processes(0, &self.instances())?;
            let found: Vec<_> = self.halves.iter().zip(INSTANCES).map(|of| self.judge(of, &told)).collect();
            let is_done = found.iter().all(|found| found.verdict == Verdict::Same);
            if is_done || Instant::now() >= until {
                return Ok(found);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn judge(&self, (half, expected): (&Half, &str), told: &[Process]) -> Found {
        let child = &half.child;
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

impl Half {
    /// Lets it have so many bytes, and waits until it has.
    fn hold(&mut self, bytes: u64) -> Result<()> {
        if self.bytes == bytes {
            return Ok(());
        }
        let hears = self.child.stdin.as_mut().context("its standard input is a pipe")?;
        writeln!(hears, "{bytes}").context("telling a process how much memory to take")?;
        let mut line = String::new();
        self.says.read_line(&mut line).context("hearing of a process")?;
        if line.trim() != READY {
            bail!("a process could not take memory of the device: what it said stands above");
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for Half { child, .. } in &mut self.halves {
            drop(child.stdin.take());
            if let Err(error) = child.wait() {
                eprintln!("waiting for process {}: {error}", child.id());
            }
        }
        if let Some(Simulated { control, before }) = &self.simulated
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

/// The process itself: has as much memory of the device with this PCI address as the last line of its standard input says, and works on it until nobody
/// holds that. Empty: it has none, and only answers.
pub(crate) fn hold(pci: &str) -> Result<()> {
    let context = if pci.is_empty() { None } else { Some(Context::new(Some(pci))?) };
    let (heard, lines) = sync_channel(LINES_MAX);
    let reader = thread::spawn(move || -> io::Result<()> {
        for line in stdin().lines() {
            if heard.send(line?).is_err() {
                break;
            }
        }
        Ok(())
    });
    // What it took, one after the other; it works on the first.
    let mut memory: Vec<Memory> = Vec::new();
    let mut has = 0;
    loop {
        let line = match (&context, memory.first()) {
            (Some(context), Some(first)) => {
                context.work(first)?;
                match lines.try_recv() {
                    Ok(line) => line,
                    Err(TryRecvError::Empty) => continue,
                    Err(TryRecvError::Disconnected) => break,
                }
            }
            _ => match lines.recv() {
                Ok(line) => line,
                Err(_) => break,
            },
        };
        let bytes: u64 = line.trim().parse().with_context(|| format!("{line:?} is no number of bytes"))?;
        if let Some(context) = &context {
            let more = bytes.checked_sub(has).context("memory is only taken")?;
            let more = usize::try_from(more).context("so much memory")?;
            memory.push(context.take(more)?.map_err(|code| anyhow!(cuda::refused("cuMemAlloc", code)))?);
        }
        has = bytes;
        println!("{READY}");
        stdout().flush().context("saying so")?;
    }
    let read = reader.join().map_err(|_| anyhow!("reading standard input"))?;
    read.context("reading standard input")
}
