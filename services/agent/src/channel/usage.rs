//! The verb `usage`: what this machine and the instances on it use, looked at as long as somebody does, and at the pace of who reads.

mod rates;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use skerry_model::AppName;
use skerry_model::time::{from_proto_duration, to_proto_duration, to_timestamp};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::open_request::Body as Up;
use tokio::sync::mpsc;

use self::rates::{Copy, Look, MachineLook};
use crate::hand::failed;
use crate::machine;
use crate::runtime::{Runtime, RuntimeError};

/// Between two looks where nothing is said of it.
const INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks at least and at most.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The first rates are over this, so that nobody waits for them long.
const FIRST: Duration = Duration::from_secs(1);
/// How long a runtime may take to count.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells what is used, until nobody reads it any more.
pub(super) async fn serve(
    runtimes: &[Arc<dyn Runtime>],
    start: &pb::UsageStart,
    data_dir: &Path,
    out: &mpsc::Sender<pb::OpenRequest>,
) -> Result<(), RuntimeError> {
    let app = match start.app.as_str() {
        "" => None,
        name => Some(AppName::parse(name).map_err(|error| failed("AppUnknown", error.to_string()))?),
    };
    let interval = start.interval.as_ref().and_then(from_proto_duration).unwrap_or(INTERVAL);
    let interval = interval.clamp(INTERVALS.0, INTERVALS.1);
    let runtimes = if start.with_instances { runtimes } else { &[] };
    let mut before = look(runtimes, app.as_ref()).await;
    let mut wait = interval.min(FIRST);
    loop {
        tokio::time::sleep(wait).await;
        // Not looked at before there is room for it: who reads slowly costs less.
        let Ok(room) = out.reserve().await else { return Ok(()) };
        let now = look(runtimes, app.as_ref()).await;
        room.send(pb::OpenRequest { body: Some(Up::Usage(sample(&before, &now, data_dir))) });
        if start.once {
            return Ok(());
        }
        (before, wait) = (now, interval);
    }
}

/// Counts all that there is.
async fn look(runtimes: &[Arc<dyn Runtime>], app: Option<&AppName>) -> Look {
    let mut look =
        Look { at: Instant::now(), machine: machine_look(), copies: Vec::new(), warnings: Vec::new() };
    for runtime in runtimes {
        let kind = runtime.kind().as_str();
        match tokio::time::timeout(PATIENCE, runtime.usage(app)).await {
            Ok(Ok(used)) => {
                look.copies.extend(used.into_iter().map(|used| Copy { kind, used, at: Instant::now() }));
            }
            Ok(Err(error)) => look.warnings.push(format!("{kind}: {}", error.message)),
            Err(_) => look.warnings.push(format!("{kind} did not answer in time")),
        }
    }
    look
}

fn machine_look() -> MachineLook {
    MachineLook::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn sample(before: &Look, now: &Look, data_dir: &Path) -> pb::UsageSample {
    pb::UsageSample {
        time: Some(to_timestamp(SystemTime::now())),
        window: Some(to_proto_duration(now.at.saturating_duration_since(before.at))),
        machine: Some(machine(&before.machine, &now.machine, data_dir)),
        instances: rates::instances(&before.copies, &now.copies),
        warnings: now.warnings.clone(),
    }
}

fn machine(before: &MachineLook, now: &MachineLook, data_dir: &Path) -> pb::MachineUsage {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = machine::memory_of(&meminfo, "MemTotal:");
    let available = machine::memory_of(&meminfo, "MemAvailable:");
    let disk = machine::disk_room(data_dir);
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    pb::MachineUsage {
        cpu_millis: now.cpu_millis(before),
        cpu_capacity_millis: now.capacity_millis(),
        memory_bytes: total.zip(available).map(|(total, available)| (total - available).max(0)),
        memory_capacity_bytes: total,
        disk_bytes: disk.map(|disk| bytes(disk.total_bytes.saturating_sub(disk.free_bytes))),
        disk_capacity_bytes: disk.map(|disk| bytes(disk.total_bytes)),
        load_millis: rates::load_millis(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
        uptime: rates::uptime(&fs::read_to_string("/proc/uptime").unwrap_or_default()).map(to_proto_duration),
    }
}
