//! The machine as it is told to the control plane: facts, runtimes, conditions.
//!
//! Sampled often, told only when it says something else: texts hold no figures that move by themselves, and the disk's condition has two
//! thresholds so that it does not flap.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_model::time::to_timestamp;
use skerry_proto::gateway::v1::MachineFingerprint;
use skerry_proto::gpu::v1::health::State;
use skerry_proto::types::v1 as pb;

use crate::reconcile::RuntimeStatuses;

use pb::condition::Status;
use pb::machine_status::Gpu;

/// How often the machine is sampled.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_secs(30);

/// Longest serial number that is sent.
const SERIAL_BYTES_MAX: usize = 128;

const MIB: u64 = 1024 * 1024;

/// The file system that holds the agent's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskRoom {
    /// All bytes.
    pub(crate) total_bytes: u64,
    /// Bytes that the agent may still write.
    pub(crate) free_bytes: u64,
}

/// What other parts of the agent found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// What is wrong with the state on disk, for people.
    pub(crate) damage: Option<String>,
    /// Why the desired state cannot be written.
    pub(crate) save_error: Option<String>,
    /// That another machine uses this node's name, for people.
    pub(crate) conflict: Option<String>,
    /// That the machine's clock is wrong, and by how much, for people.
    pub(crate) clock: Option<String>,
    /// The runtimes.
    pub(crate) runtimes: RuntimeStatuses,
    /// The GPUs, by UUID.
    pub(crate) gpus: Arc<Vec<Gpu>>,
    /// Where other members of its cluster reach this machine, as far as is known.
    pub(crate) address: Option<IpAddr>,
}

/// What the machine looked like last.
pub(crate) struct Sampler {
    data_dir: PathBuf,
    facts: pb::MachineStatus,
    pressed: bool,
    since: BTreeMap<String, (Status, SystemTime)>,
    told: Option<pb::MachineStatus>,
}

impl Sampler {
    /// Reads what does not change while the agent runs. `data_dir` is where the disk is looked at.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            facts: facts(),
            pressed: false,
            since: BTreeMap::new(),
            told: None,
        }
    }

    /// The machine, if it says something else than the last time.
    pub(crate) fn sample(&mut self, findings: &Findings) -> Option<pb::MachineStatus> {
        let disk = disk_room(&self.data_dir);
        let status = self.status(findings, disk, SystemTime::now());
        if self.told.as_ref() == Some(&status) {
            return None;
        }
        self.told = Some(status.clone());
        Some(status)
    }

    fn status(&mut self, findings: &Findings, disk: Option<DiskRoom>, now: SystemTime) -> pb::MachineStatus {
        let mut status = self.facts.clone();
        if let Some(disk) = disk {
            status.disk_bytes = i64::try_from(disk.total_bytes).unwrap_or(i64::MAX);
            self.pressed = is_pressed(disk, self.pressed);
        }
        status.runtimes = findings
            .runtimes
            .iter()
            .map(|(kind, runtime)| pb::machine_status::Runtime {
                kind: kind.as_str().to_owned(),
                version: runtime.version.clone(),
                available: runtime.available,
            })
            .collect();
        status.gpus.clone_from(&findings.gpus);
        let mut conditions = conditions(findings, self.pressed);
        conditions.extend(gpu_condition(&findings.gpus));
        for condition in &mut conditions {
            let new = Status::try_from(condition.status).unwrap_or_default();
            let (_, since) = self
                .since
                .entry(condition.r#type.clone())
                .and_modify(|(old, since)| {
                    if *old != new {
                        (*old, *since) = (new, now);
                    }
                })
                .or_insert((new, now));
            condition.last_transition_time = Some(to_timestamp(*since));
        }
        status.conditions = conditions;
        status.address = findings.address.map(|address| address.to_string()).unwrap_or_default();
        status
    }
}

fn conditions(findings: &Findings, pressed: bool) -> Vec<pb::Condition> {
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| pb::Condition {
        r#type: kind.to_owned(),
        status: if holds { Status::True } else { Status::False }.into(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: None,
    };
    let any_runtime = findings.runtimes.values().any(|runtime| runtime.available);
    let mut all = vec![if any_runtime {
        condition("Ready", true, "AgentRuns", "the agent runs and a runtime answers")
    } else {
        condition("Ready", false, "NoRuntime", "no runtime of this machine answers")
    }];
    all.push(if pressed {
        let message = "less than 10 % or 100 MiB of the disk that holds the agent's state is free";
        condition("DiskPressure", true, "DiskFull", message)
    } else {
        condition("DiskPressure", false, "DiskHasRoom", "")
    });
    all.push(match (&findings.damage, &findings.save_error) {
        (Some(damage), _) => condition("StateIntact", false, "StateDamaged", &state_damaged(damage)),
        (None, Some(error)) => {
            let message = format!("{error}; the machine goes on with the desired state that it has");
            condition("StateIntact", false, "WriteFailed", &message)
        }
        (None, None) => condition("StateIntact", true, "StateIntact", ""),
    });
    let missed = findings.runtimes.iter().find(|(_, runtime)| runtime.missed);
    all.push(match missed {
        Some((kind, runtime)) => {
            let why = runtime.error.as_ref().map_or("it was not reached yet", |error| error.message.as_str());
            let message = format!("{} does not answer: {why}", kind.as_str());
            condition("RuntimeAvailable", false, "RuntimeUnavailable", &message)
        }
        None => condition("RuntimeAvailable", true, "RuntimesAnswer", ""),
    });
    if let Some(conflict) = &findings.conflict {
        all.push(condition("NameConflict", true, "Superseded", conflict));
    }
    if let Some(clock) = &findings.clock {
        all.push(condition("ClockRight", false, "ClockWrong", clock));
    }
    all
}

/// How the GPUs are, by the one that is worst. `None`: there are none.
fn gpu_condition(gpus: &[Gpu]) -> Option<pb::Condition> {
    let badness = |state: State| match state {
        State::Unspecified | State::Ok => 0,
        State::Warning => 1,
        State::Unknown => 2,
        State::Critical => 3,
    };
    let health =
        |gpu: &Gpu| gpu.health.as_ref().map_or(State::Unspecified, skerry_proto::gpu::v1::Health::state);
    // Of several the first by UUID, so that it stays the same.
    let worst = gpus.iter().rev().max_by_key(|gpu| badness(health(gpu)))?;
    let status = match health(worst) {
        State::Unspecified | State::Ok | State::Warning => Status::True,
        State::Unknown => Status::Unknown,
        State::Critical => Status::False,
    };
    let first = worst.health.as_ref().and_then(|health| health.reasons.first());
    let (reason, message) = first.map_or_else(
        || ("GpusHealthy".to_owned(), String::new()),
        |first| {
            let uuid = worst.device.as_ref().map_or("a GPU", |device| &device.uuid);
            (first.reason.clone(), format!("{uuid}: {}", first.message))
        },
    );
    let kind = "GpuHealthy".to_owned();
    Some(pb::Condition { r#type: kind, status: status.into(), reason, message, last_transition_time: None })
}

/// What a damaged state means, for people.
pub(crate) fn state_damaged(damage: &str) -> String {
    format!("{damage}; nothing that runs is stopped until the gateway has sent what is missing")
}

/// Under pressure below 10 % or 100 MiB; until there is 12 % and 120 MiB again.
fn is_pressed(disk: DiskRoom, pressed: bool) -> bool {
    let (percent, least) = if pressed { (12, 120 * MIB) } else { (10, 100 * MIB) };
    disk.free_bytes < least || disk.free_bytes.saturating_mul(100) < disk.total_bytes.saturating_mul(percent)
}

/// The file system that a path is on.
pub(crate) fn disk_room(path: &Path) -> Option<DiskRoom> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(DiskRoom {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

fn facts() -> pb::MachineStatus {
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    pb::MachineStatus {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        machine_id: line("/etc/machine-id"),
        hostname: host_name(),
        os: std::env::consts::OS.to_owned(),
        architecture: architecture().to_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        cpu_millis: i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1000),
        memory_bytes: memory_bytes(),
        ..pb::MachineStatus::default()
    }
}

/// What tells this machine from others, as far as it says so itself.
pub(crate) fn machine_fingerprint() -> MachineFingerprint {
    // The firmware's of a PC, for root; that of a board with a device tree, which ends with a zero.
    let serial = ["/sys/class/dmi/id/product_serial", "/proc/device-tree/serial-number"]
        .map(line)
        .into_iter()
        .map(|serial| serial.trim_end_matches('\0').to_owned())
        .find(|serial| !serial.is_empty() && serial.len() <= SERIAL_BYTES_MAX);
    MachineFingerprint {
        machine_id: line("/etc/machine-id"),
        serial: serial.unwrap_or_default(),
        host_name: host_name(),
    }
}

/// Whether other machines could reach this one at an address.
pub(crate) fn is_reachable(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_loopback() && !address.is_unspecified() && !address.is_multicast() && !is_broadcast
}

/// The machine's host name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// As Docker names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// All memory of the machine.
pub(crate) fn memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    memory_of(&text, "MemTotal:").unwrap_or(0)
}

/// A line of a file of the kernel's that is in kB, as those of `/proc/meminfo` are; in bytes.
pub(crate) fn memory_of(text: &str, key: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<i64>().ok()?.saturating_mul(1024))
}

/// The first line of a small file; nothing if it cannot be read.
fn line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use skerry_proto::gpu::v1::{Device, Health, HealthReason};

    use super::*;
    use crate::reconcile::RuntimeStatus;
    use crate::runtime::RuntimeKind;

    const GIB: u64 = 1024 * MIB;

    fn disk(free_bytes: u64) -> DiskRoom {
        DiskRoom { total_bytes: 100 * GIB, free_bytes }
    }

    fn findings() -> Findings {
        let process = RuntimeStatus { available: true, ..RuntimeStatus::default() };
        Findings { runtimes: [(RuntimeKind::Process, process)].into(), ..Findings::default() }
    }

    fn find<'a>(status: &'a pb::MachineStatus, kind: &str) -> &'a pb::Condition {
        status.conditions.iter().find(|condition| condition.r#type == kind).unwrap()
    }

    #[test]
    fn a_machine_that_is_well_says_the_same_each_time() {
        let mut sampler = Sampler::new(Path::new("/"));
        let first = sampler.status(&findings(), Some(disk(50 * GIB)), SystemTime::now());
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(sampler.status(&findings(), Some(disk(49 * GIB)), later), first);
        assert!(first.cpu_millis >= 1000 && first.memory_bytes > 0 && !first.kernel.is_empty());
        assert_eq!(find(&first, "Ready").status(), Status::True);
    }

    #[test]
    fn disk_pressure_does_not_flap() {
        let mut sampler = Sampler::new(Path::new("/"));
        let mut pressed = |free| {
            let status = sampler.status(&findings(), Some(disk(free)), SystemTime::now());
            find(&status, "DiskPressure").status() == Status::True
        };
        assert!(!pressed(11 * GIB));
        assert!(pressed(9 * GIB));
        assert!(pressed(11 * GIB), "still");
        assert!(!pressed(13 * GIB));
        assert!(is_pressed(DiskRoom { total_bytes: 200 * MIB, free_bytes: 99 * MIB }, false));
    }

    #[test]
    fn gpus_have_a_condition_where_there_are_any_and_the_worst_one_tells() {
        let gpu = |uuid: &str, state: State, reason: &str| {
            let (reason, message) = (reason.to_owned(), "words".to_owned());
            let reasons =
                vec![HealthReason { reason, state: state.into(), message, ..HealthReason::default() }];
            let reasons = if state == State::Ok { Vec::new() } else { reasons };
            let device = Device { uuid: uuid.to_owned(), ..Device::default() };
            Gpu {
                device: Some(device),
                health: Some(Health { state: state.into(), reasons }),
                ..Gpu::default()
            }
        };
        let told = |gpus: Vec<Gpu>| {
            let findings = Findings { gpus: Arc::new(gpus), ..findings() };
            let status = Sampler::new(Path::new("/")).status(&findings, None, SystemTime::now());
            let found = status.conditions.iter().find(|condition| condition.r#type == "GpuHealthy");
            found.map(|found| (found.status(), found.reason.clone(), found.message.clone()))
        };
        assert_eq!(told(Vec::new()), None);
        let ok = gpu("GPU-1", State::Ok, "");
        assert_eq!(told(vec![ok.clone()]), Some((Status::True, "GpusHealthy".into(), String::new())));
        let hot = gpu("GPU-2", State::Warning, "Hot");
        assert_eq!(told(vec![ok, hot.clone()]), Some((Status::True, "Hot".into(), "GPU-2: words".into())));
        let silent = gpu("GPU-3", State::Unknown, "DriverSilent");
        let silent_told = Some((Status::Unknown, "DriverSilent".into(), "GPU-3: words".into()));
        assert_eq!(told(vec![hot, silent.clone()]), silent_told);
        let lost = gpu("GPU-4", State::Critical, "FallenOffBus");
        let lost_told = Some((Status::False, "FallenOffBus".into(), "GPU-4: words".into()));
        assert_eq!(told(vec![silent, lost.clone(), gpu("GPU-5", State::Critical, "XidBus")]), lost_told);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_time() {
        let mut sampler = Sampler::new(Path::new("/"));
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        sampler.status(&findings(), Some(disk(50 * GIB)), start);
        let mut bad = findings();
        bad.damage = Some("desired.0 is damaged".into());
        bad.conflict = Some("another".into());
        let docker = RuntimeStatus { missed: true, ..RuntimeStatus::default() };
        bad.runtimes.insert(RuntimeKind::Docker, docker);
        let later = start + Duration::from_secs(5);
        let status = sampler.status(&bad, Some(disk(50 * GIB)), later);
        for (kind, holds) in [
            ("StateIntact", Status::False),
            ("RuntimeAvailable", Status::False),
            ("NameConflict", Status::True),
        ] {
            assert_eq!(find(&status, kind).status(), holds, "{kind}");
            assert_eq!(find(&status, kind).last_transition_time, Some(to_timestamp(later)), "{kind}");
        }
        assert_eq!(find(&status, "Ready").last_transition_time, Some(to_timestamp(start)));
        assert_eq!(find(&status, "Ready").status(), Status::True, "processes still run");
    }
}
