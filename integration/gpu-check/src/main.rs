//! `cargo xtask gpu-check`: what to run on a bare machine with an NVIDIA driver, to see that the agent reads it rightly. Changes no mode of a card.
//!
//! | module | job |
//! |---|---|
//! | `calls` | every NVML call of the collector's, with answer and latency |
//! | `profile` | these as files |
//! | `compare` | each field beside what `nvidia-smi` says |
//! | `attribute` | two processes, and whose they are |
//! | `watchdog` | how soon it is found that one of them uses more than is booked |
//! | `limits` | whether a client of MPS is held to memory and compute |
//! | `cuda` | the few calls of CUDA's that such processes make |

mod attribute;
mod calls;
mod compare;
mod cuda;
mod limits;
mod profile;
mod watchdog;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::Serialize;
use skerry_agent::gpu_check::{Check, why_no_limits};

use attribute::{Found, Pair};
use compare::{Row, Verdict};
use limits::Limits;
use profile::Profile;
use watchdog::Latency;

/// Holds what the agent reads of this machine's GPUs against what their driver's own tool says
#[derive(Parser)]
#[command(name = "skerry-gpu-check", disable_version_flag = true)]
struct Cli {
    /// The driver's library [default: libnvidia-ml.so.1, as the system's loader finds it]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// The driver's tool; where it is not found nothing is compared
    #[arg(long, value_name = "FILE", default_value = "nvidia-smi")]
    nvidia_smi: PathBuf,
    /// How often each call is made
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Write a profile and a table of latencies there, for `crates/nvml-sim/profiles/recorded`
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    /// Memory that each of two processes takes of the first device; one of them takes as much again later
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    memory_mib: u64,
    /// The control program of MPS; where it is not found limits are not looked at [default: nvidia-cuda-mps-control]
    #[arg(long, value_name = "FILE")]
    mps_control: Option<PathBuf>,
    /// The driver is simulated, by this file: the two processes are written into it for the time
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
    /// Report as JSON
    #[arg(long)]
    json: bool,
    /// This is one of the two processes
    #[arg(long, hide = true, value_name = "PCI")]
    hold: Option<String>,
    /// This is a client of MPS
    #[arg(long, hide = true, value_name = "BYTES", value_delimiter = ',')]
    take: Vec<u64>,
}

/// All that was found.
#[derive(Serialize)]
struct Report {
    profile: Profile,
    /// Where the profile was written.
    files: Vec<PathBuf>,
    fields: Vec<Row>,
    processes: Vec<Found>,
    watchdog: Option<Latency>,
    limits: Option<Limits>,
    /// What was not looked at, and why.
    left_out: Vec<String>,
    /// What could not be done, though it should have been.
    faults: Vec<String>,
    /// How many comparisons failed, and how many faults there were.
    failed: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.hold {
        Some(pci) => attribute::hold(pci).map(|()| true),
        None if !cli.take.is_empty() => take(&cli.take),
        None => run(&cli),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn run(cli: &Cli) -> Result<bool> {
    let report = look(cli)?;
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&report).context("writing the report")?);
    } else {
        show(&report);
    }
    Ok(report.failed == 0)
}

fn take(tries: &[u64]) -> Result<bool> {
    println!("{}", serde_json::to_string(&limits::take(tries)?).context("writing what it saw")?);
    Ok(true)
}

fn look(cli: &Cli) -> Result<Report> {
    let nvml = calls::load(cli.library.as_deref())?;
    let (profile, times) = calls::dump(&nvml, cli.rounds, cli.control.is_none())?;
    let files = match &cli.profile {
        Some(dir) => profile.write(&times, dir)?.to_vec(),
        None => Vec::new(),
    };
    let check = Check::open(cli.library.clone())?;
    let (mut left_out, mut faults) = (Vec::new(), Vec::new());
    let mut pair = start(cli, &check, &mut left_out).unwrap_or_else(|fault| {
        faults.push(format!("starting two processes: {fault:#}"));
        None
    });
    let uuids: Vec<String> = check.devices().iter().map(|device| device.uuid.clone()).collect();
    let processes = match &pair {
        Some(pair) => pair.find(&check)?,
        None => Vec::new(),
    };
    // While the two work.
    let (before, theirs, after) = check.around(|| compare::ask(&cli.nvidia_smi, &uuids))?;
    let watchdog = watch(cli, &check, pair.as_mut(), &processes);
    drop(pair);
    let mut done = Done { left_out, faults };
    let watchdog = done.take("how soon the watchdog finds a process that uses more than is booked", watchdog);
    let limits = done.take("limits of MPS", limit(cli, &check));
    let Done { mut left_out, mut faults } = done;
    let theirs = match theirs {
        Ok(Some(theirs)) => Some(theirs),
        Ok(None) => {
            left_out.push(format!("what {} says: it is not there", cli.nvidia_smi.display()));
            None
        }
        Err(fault) => {
            faults.push(format!("asking nvidia-smi: {fault:#}"));
            None
        }
    };
    let fields = compare::compare(&before, theirs.as_deref(), &after);
    let verdicts = fields.iter().map(|row| row.verdict).chain(processes.iter().map(|found| found.verdict));
    let verdicts = verdicts.chain(watchdog.iter().map(|latency| latency.verdict));
    let verdicts = verdicts.chain(limits.iter().map(|limits| limits.verdict));
    let failed = faults.len() + verdicts.filter(|verdict| *verdict == Verdict::Different).count();
    Ok(Report { profile, files, fields, processes, watchdog, limits, left_out, faults, failed })
}

/// The two processes, where there is a device and what they need.
fn start(cli: &Cli, check: &Check, left_out: &mut Vec<String>) -> Result<Option<Pair>> {
    let control: Option<&Path> = cli.control.as_deref();
    let why = match check.devices().first() {
        None => "there is no device",
        // A context is made in a part of it, which needs a name of its own.
        Some(device) if !device.mig_devices.is_empty() => "the first device is divided",
        Some(_) if control.is_none() && cuda::library().is_none() => "libcuda.so.1 is not there",
        Some(device) => return Pair::start(&device.pci_address, cli.memory_mib << 20, control).map(Some),
    };
    left_out.push(format!("whose processes are, and fields under load: {why}"));
    Ok(None)
}

/// What a part of the check found; the inner error is why it is left out.
type Part<T> = Result<Result<T, String>>;

/// What parts of the check did not do.
struct Done {
    left_out: Vec<String>,
    faults: Vec<String>,
}

impl Done {
    /// What a part found. `what`: what it looks at.
    fn take<T>(&mut self, what: &str, part: Part<T>) -> Option<T> {
        match part {
            Ok(Ok(found)) => return Some(found),
            Ok(Err(why)) => self.left_out.push(format!("{what}: {why}")),
            Err(fault) => self.faults.push(format!("{what}: {fault:#}")),
        }
        None
    }
}

fn watch(cli: &Cli, check: &Check, pair: Option<&mut Pair>, found: &[Found]) -> Part<Latency> {
    let (Some(pair), Some(device)) = (pair, check.devices().first()) else {
        return Ok(Err("there are no two processes".to_owned()));
    };
    // A machine that simulates has other things to do, too.
    let is_timed = cli.control.is_none();
    watchdog::look(check, pair, found, (&device.uuid, cli.memory_mib << 20), is_timed)
}

fn limit(cli: &Cli, check: &Check) -> Part<Limits> {
    let why = match check.devices().first() {
        None => "there is no device",
        Some(_) if cli.control.is_some() => "the driver is simulated",
        Some(_) if cuda::library().is_none() => "libcuda.so.1 is not there",
        Some(device) => match why_no_limits(device) {
            Some(why) => why,
            None => {
                return limits::look(cli.mps_control.as_deref(), Path::new("/proc/self/exe"), &device.uuid);
            }
        },
    };
    Ok(Err(why.to_owned()))
}

fn show(report: &Report) {
    let Profile { driver, cuda, rounds, device, .. } = &report.profile;
    println!("Driver {driver}, CUDA {cuda}. Each call {rounds} times.\n");
    for (at, device) in device.iter().enumerate() {
        println!("Device {at}: {}", device.model);
        println!("  {:44} {:22} {:>10} {:>10}  answer", "call", "of", "p50 us", "p99 us");
        for call in &device.call {
            let answer = match (&call.value, &call.error) {
                (_, Some(error)) => error,
                (Some(value), None) => value,
                (None, None) => "(told)",
            };
            println!(
                "  {:44} {:22} {:>10.1} {:>10.1}  {answer}",
                call.call, call.argument, call.p50_us, call.p99_us
            );
        }
        println!();
    }
    println!("{:>6} {:42} {:>20} {:>22}  verdict", "device", "field", "agent", "nvidia-smi");
    for row in &report.fields {
        let Row { device, field, ours, theirs, verdict } = row;
        println!("{device:>6} {field:42} {ours:>20} {theirs:>22}  {}", word(*verdict));
    }
    println!();
    for found in &report.processes {
        let Found { pid, bytes, told_bytes, expected, instance, verdict, .. } = found;
        let told = told_bytes.map_or_else(|| "not told".to_owned(), |bytes| bytes.to_string());
        println!(
            "Process {pid} took {bytes} B: told {told}; is {expected}: told {instance:?}. {}",
            word(*verdict)
        );
    }
    let watchdog = report.watchdog.iter().map(|latency| (latency.lines(), latency.verdict));
    let limits = report.limits.iter().map(|limits| (limits.lines(), limits.verdict));
    for (lines, verdict) in watchdog.chain(limits) {
        println!("{}. {}", lines.join("\n"), word(verdict));
    }
    for file in &report.files {
        println!("Written: {}", file.display());
    }
    for what in &report.left_out {
        println!("Not looked at: {what}.");
    }
    for fault in &report.faults {
        println!("FAILED: {fault}");
    }
    println!("{} failed.", report.failed);
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Same => "same",
        Verdict::Different => "DIFFERENT",
        Verdict::Alone => "-",
    }
}
