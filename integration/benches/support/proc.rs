//! What the kernel knows of processes and connections.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// IP and TCP headers of a segment, with the timestamps option that Linux uses: 20 + 20 + 12 bytes.
const HEADER_BYTES: u64 = 52;

/// Fields of `/proc/<pid>/smaps_rollup`, in bytes: proportional size, and what of it is memory of its own (the rest is files).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Proportional set size.
    pub(crate) pss: u64,
    /// Of it anonymous: heap and stacks.
    pub(crate) anonymous: u64,
    /// Resident set size: shared pages counted in full.
    pub(crate) resident: u64,
}

/// The memory of a process.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory { pss: field("Pss:")?, anonymous: field("Pss_Anon:")?, resident: field("Rss:")? })
}

/// Ids of the processes of which `is_one` says so.
fn processes(is_one: impl Fn(u32) -> bool) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| is_one(*pid)).collect()
}

/// What a process has had of the processors: proc(5), fields 14 and 15 of `stat`, in hundredths of a second.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("a name")?.1.split_whitespace().collect();
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field - 3).context("a field")?.parse()?) };
    Ok(Duration::from_millis((ticks(14)? + ticks(15)?) * 10))
}

/// The shims of the agent with this data directory.
pub(crate) fn shims(data_dir: &Path) -> Vec<u32> {
    let dir = data_dir.to_string_lossy();
    processes(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0').skip(1);
        words.next() == Some("__shim") && words.next().is_some_and(|word| word.starts_with(&*dir))
    })
}

/// The programs of an app that runs as processes, with what they have started.
pub(crate) fn programs(app: &str) -> Vec<u32> {
    let variable = format!("SKERRY_APP={app}");
    processes(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    })
}

/// `kill -9`. That one is gone already is fine.
pub(crate) fn kill(pids: &[u32]) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// What has gone over a process's TCP connections to `port` of this machine so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Bytes of both directions, retransmitted ones too, without headers.
    pub(crate) payload_bytes: u64,
    /// Segments of both directions, acknowledgements too.
    pub(crate) segments: u64,
}

impl Traffic {
    /// With TCP/IP headers.
    pub(crate) fn wire_bytes(self) -> u64 {
        self.payload_bytes + self.segments * HEADER_BYTES
    }

    /// What was added since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            payload_bytes: self.payload_bytes.saturating_sub(earlier.payload_bytes),
            segments: self.segments.saturating_sub(earlier.segments),
        }
    }
}

/// The counters of the one connection of `pid` to `port`, and its own port: another one means another connection.
///
/// # Errors
/// When there is none, or more than one.
pub(crate) fn traffic(pid: u32, port: u16) -> Result<(String, Traffic)> {
    let port_filter = format!("dport = :{port}");
    let output = Command::new("ss").args(["-tinpHO", "state", "established", &port_filter]).output();
    let output = output.context("running ss: apt-get install iproute2")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let owner = format!("pid={pid},");
    let mut lines = text.lines().filter(|line| line.contains(&owner));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        bail!("process {pid} does not have just one connection to port {port}:\n{text}")
    };
    let local = line.split_whitespace().nth(2).context("ss shows no local address")?.to_owned();
    // Absent: zero.
    let field = |name: &str| -> u64 {
        let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
        found.and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    let traffic = Traffic {
        payload_bytes: field("bytes_sent") + field("bytes_received"),
        segments: field("segs_out") + field("segs_in"),
    };
    Ok((local, traffic))
}
