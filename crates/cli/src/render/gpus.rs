//! How GPUs look to people.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::allocation::Isolation;
use skerry_proto::gpu::v1::device::{MigMode, Vendor};
use skerry_proto::gpu::v1::health::State;
use skerry_proto::gpu::v1::health_reason::Effect;

use crate::gpus::parts;
use crate::item::Item;
use crate::render::describe::{field, table};
use crate::render::gpu_sample::{self, groups, value, who};
use crate::render::rows::{self, Cells, or_dash};
use crate::render::table::plain;
use crate::render::time::{age, bytes, moment};
use crate::target::Type;

/// The columns: always, and where a wide table is asked for.
pub(super) const HEADERS: (&[&str], &[&str]) = (
    &["NODE", "INDEX", "MODEL", "UUID", "MEMORY", "HEALTH", "BOOKED"],
    &["DRIVER", "CUDA", "ARCH", "PCI", "PARTS", "WHY"],
);
/// Characters of a UUID where it is not shown whole: `GPU-` and eight digits.
const UUID_SHOWN: usize = 12;

/// The cells of a GPU.
pub(super) fn cells(gpu: &pb::Gpu, wide: bool) -> Cells {
    let device = gpu.device.clone().unwrap_or_default();
    let status = gpu.status.clone().unwrap_or_default();
    let (node, uuid) = parts(&gpu.name);
    let narrow = vec![
        node.to_owned(),
        device.index.to_string(),
        or_dash(&device.model),
        uuid_shown(uuid, wide),
        memory(device.memory_bytes),
        health(status.health.as_ref()),
        booked(&device, &status.allocations),
    ];
    let why = status.health.iter().flat_map(|health| &health.reasons).map(|reason| reason.message.as_str());
    let more = vec![
        or_dash(&device.driver_version),
        or_dash(&device.cuda_version),
        or_dash(&device.architecture),
        or_dash(&device.pci_address),
        or_dash(&profiles(&device)),
        or_dash(&why.collect::<Vec<_>>().join("; ")),
    ];
    (narrow, more)
}

/// A UUID, whole only where there is room.
pub(super) fn uuid_shown(uuid: &str, wide: bool) -> String {
    if wide { uuid.to_owned() } else { uuid.chars().take(UUID_SHOWN).collect() }
}

/// A size; 0 is none that is known.
fn memory(size: i64) -> String {
    if size <= 0 { "-".to_owned() } else { amount(size) }
}

pub(super) fn amount(size: i64) -> String {
    bytes(u64::try_from(size).unwrap_or_default())
}

/// `OK`, `Warning (TooHot)`, `Critical (FallenOffBus,EccUncorrected)`.
pub(crate) fn health(health: Option<&pb::Health>) -> String {
    let Some(health) = health else { return "-".to_owned() };
    let word = state(health.state());
    let reasons: Vec<&str> = health.reasons.iter().map(|reason| reason.reason.as_str()).collect();
    if reasons.is_empty() { word.to_owned() } else { format!("{word} ({})", reasons.join(",")) }
}

fn state(state: State) -> &'static str {
    match state {
        State::Ok => "OK",
        State::Warning => "Warning",
        State::Critical => "Critical",
        State::Unknown | State::Unspecified => "Unknown",
    }
}

/// `3 apps, 12.0/16.0 GiB`: how many apps have something of it, and how much of its memory is booked.
fn booked(device: &pb::Device, allocations: &[pb::Allocation]) -> String {
    let apps: BTreeSet<&str> =
        allocations.iter().filter_map(|allocation| allocation.instance.split('/').next()).collect();
    let apps = match apps.len() {
        0 => return "-".to_owned(),
        1 => "1 app".to_owned(),
        count => format!("{count} apps"),
    };
    let is_whole = |one: &pb::Allocation| {
        one.isolation() == Isolation::Exclusive || one.share.as_ref().is_some_and(|share| share.whole)
    };
    if allocations.iter().any(is_whole) {
        return format!("{apps}, all of it");
    }
    let sum: i64 = allocations.iter().filter_map(|allocation| booked_memory(device, allocation)).sum();
    if sum == 0 { apps } else { format!("{apps}, {}", of(sum, device.memory_bytes)) }
}

/// `12.0/16.0 GiB`, or with two units where they differ.
pub(crate) fn of(part: i64, whole: i64) -> String {
    if whole <= 0 {
        return amount(part);
    }
    let (part, whole) = (amount(part), amount(whole));
    match (part.split_once(' '), whole.split_once(' ')) {
        (Some((number, unit)), Some((_, other))) if unit == other => format!("{number}/{whole}"),
        _ => format!("{part}/{whole}"),
    }
}

/// So much memory of the device is booked.
pub(crate) fn booked_memory(device: &pb::Device, allocation: &pb::Allocation) -> Option<i64> {
    let part = device.mig_devices.iter().find(|part| part.uuid == allocation.mig_device);
    let share = allocation.share.as_ref();
    match part {
        Some(part) if !allocation.mig_device.is_empty() => Some(part.memory_bytes),
        _ if share.is_some_and(|share| share.whole) => Some(device.memory_bytes),
        _ => share.and_then(|share| share.memory_bytes),
    }
}

/// `2 x 1g.10gb, 3g.40gb`.
fn profiles(device: &pb::Device) -> String {
    let each = device.mig_devices.chunk_by(|a, b| a.profile == b.profile).map(|alike| match alike {
        [one] => one.profile.clone(),
        alike => format!("{} x {}", alike.len(), alike[0].profile),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// What is known of a GPU beside the inventory.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// The newest sample of all of it.
    pub(crate) sample: Option<pb::Sample>,
    /// Those of its parts.
    pub(crate) parts: Vec<pb::Sample>,
    /// Why there is none.
    pub(crate) trouble: Option<String>,
}

/// A GPU with what was measured last, what is booked, who uses it, and what happened.
pub(crate) fn describe(gpu: &pb::Gpu, readings: &Readings, events: &[Item], now: i64) -> String {
    let device = gpu.device.clone().unwrap_or_default();
    let status = gpu.status.clone().unwrap_or_default();
    let (node, uuid) = parts(&gpu.name);
    let mut text = String::new();
    field(&mut text, "UUID", uuid);
    field(&mut text, "Node", node);
    field(&mut text, "Project", gpu.name.split('/').nth(1).unwrap_or_default());
    field(&mut text, "Index", &device.index.to_string());
    field(&mut text, "Model", &model(&device));
    field(&mut text, "Memory", &memory(device.memory_bytes));
    field(&mut text, "PCI", &device.pci_address);
    field(&mut text, "Driver", &driver(&device));
    let ecc = device.ecc.map_or("not known, or none", |on| if on { "on" } else { "off" });
    field(&mut text, "ECC", ecc);
    let mig = match device.mig_mode() {
        MigMode::Unspecified => "not possible, or not known",
        MigMode::Disabled => "off",
        MigMode::Enabled => "on",
    };
    field(&mut text, "MIG", mig);
    field(&mut text, "Health", state(status.health.as_ref().map_or(State::Unknown, pb::Health::state)));
    field(&mut text, "Booked", &booked(&device, &status.allocations));
    let sampled = readings.sample.as_ref().and_then(|sample| sample.time);
    let sampled = match (&sampled, &readings.trouble) {
        (Some(time), _) => format!("{} ({} ago)", moment(Some(time)), age(Some(time), now)),
        (None, trouble) => format!("none: {}", trouble.as_deref().unwrap_or("the node has told nothing yet")),
    };
    field(&mut text, "Sample", &sampled);
    reasons(&mut text, status.health.as_ref(), now);
    if let Some(sample) = &readings.sample {
        measured(&mut text, sample);
    }
    if device.mig_mode() == MigMode::Enabled {
        let rows: Vec<_> = device.mig_devices.iter().map(|part| part_row(part, &readings.parts)).collect();
        table(&mut text, "Parts", &["INDEX", "PROFILE", "UUID", "MEMORY", "USED", "ACTIVITY"], &rows);
    }
    let rows: Vec<_> = status.allocations.iter().map(|one| allocation_row(&device, one)).collect();
    table(&mut text, "Allocations", &["INSTANCE", "SHARE", "ISOLATION", "PART"], &rows);
    processes(&mut text, readings);
    let rows: Vec<_> = events.iter().map(|event| rows::cells(event, false, now)).collect();
    table(&mut text, "Events", &rows::headers(Type::Event, false), &rows);
    text
}

fn model(device: &pb::Device) -> String {
    let vendor = match device.vendor() {
        Vendor::Unspecified | Vendor::Nvidia => "",
        Vendor::Amd => "AMD ",
        Vendor::Intel => "Intel ",
    };
    let generation = [&device.architecture, &device.compute_capability];
    let generation: Vec<&str> =
        generation.into_iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    let generation =
        if generation.is_empty() { String::new() } else { format!(" ({})", generation.join(" ")) };
    format!("{vendor}{}{generation}", device.model)
}

fn driver(device: &pb::Device) -> String {
    match (device.driver_version.as_str(), device.cuda_version.as_str()) {
        (driver, "") => driver.to_owned(),
        (driver, cuda) => format!("{driver}, CUDA up to {cuda}"),
    }
}

fn reasons(text: &mut String, health: Option<&pb::Health>, now: i64) {
    let reasons = health.map_or(&[][..], |health| health.reasons.as_slice());
    if reasons.is_empty() {
        return;
    }
    let effect = |reason: &pb::HealthReason| match reason.effect() {
        Effect::Unspecified => "-",
        Effect::NoSchedule => "NoSchedule",
        Effect::NoExecute => "NoExecute",
    };
    let rows: Vec<_> = reasons
        .iter()
        .map(|reason| {
            vec![
                reason.reason.clone(),
                state(reason.state()).to_owned(),
                age(reason.since.as_ref(), now),
                effect(reason).to_owned(),
                reason.message.clone(),
            ]
        })
        .collect();
    table(text, "What is wrong", &["REASON", "HEALTH", "SINCE", "EFFECT", "MESSAGE"], &rows);
}

fn measured(text: &mut String, sample: &pb::Sample) {
    let _ = writeln!(text, "\nMeasured:");
    for (title, line) in groups(sample) {
        let _ = writeln!(text, "  {title:<16}{}", plain(&line));
    }
}

fn part_row(part: &pb::MigDevice, samples: &[pb::Sample]) -> Vec<String> {
    let sample = samples.iter().find(|sample| sample.mig_device == part.uuid);
    let of = |field| {
        let value = sample.and_then(|sample| value(sample, field));
        value.map_or_else(|| "-".to_owned(), |value| gpu_sample::shown(field, value))
    };
    vec![
        part.index.to_string(),
        part.profile.clone(),
        part.uuid.clone(),
        memory(part.memory_bytes),
        of(pb::Field::MemoryUsedBytes),
        of(pb::Field::GraphicsActivityPermille),
    ]
}

fn allocation_row(device: &pb::Device, allocation: &pb::Allocation) -> Vec<String> {
    let part = device.mig_devices.iter().find(|part| part.uuid == allocation.mig_device);
    let part = match part {
        Some(part) => format!("{} ({})", part.index, part.profile),
        None => or_dash(&allocation.mig_device),
    };
    vec![
        allocation.instance.clone(),
        share(allocation.share.as_ref()),
        isolation(allocation.isolation()).to_owned(),
        part,
    ]
}

/// `4.0 GiB, 25 % of compute`.
fn share(share: Option<&pb::GpuShare>) -> String {
    let Some(share) = share else { return "no bounds".to_owned() };
    if share.whole {
        return "all of it".to_owned();
    }
    let memory = share.memory_bytes.map(amount);
    let compute = share.compute_percent.map(|percent| format!("{percent} % of compute"));
    let part = (!share.mig_profile.is_empty()).then(|| share.mig_profile.clone());
    let all: Vec<String> = part.into_iter().chain(memory).chain(compute).collect();
    if all.is_empty() { "no bounds".to_owned() } else { all.join(", ") }
}

/// How well it is kept from others, in a word as manifests have it.
pub(super) fn isolation(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Unspecified => "none",
        Isolation::Accounted => "accounted",
        Isolation::Mps => "mps",
        Isolation::Mig => "mig",
        Isolation::Exclusive => "exclusive",
    }
}

fn processes(text: &mut String, readings: &Readings) {
    let mut seen = BTreeSet::new();
    let all = readings.parts.iter().chain(&readings.sample).flat_map(|sample| &sample.processes);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for process in all.filter(|process| seen.insert(process.pid)) {
        let percent = process.utilization_percent.map(|percent| format!("{percent} %"));
        rows.push(vec![
            process.pid.to_string(),
            who(process),
            process.memory_bytes.map_or_else(|| "-".to_owned(), amount),
            percent.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let is_told = readings
        .sample
        .as_ref()
        .is_some_and(|sample| !sample.processes.is_empty() || value(sample, pb::Field::Processes).is_some());
    if rows.is_empty() && !is_told {
        let _ = writeln!(text, "\nProcesses: not known");
        return;
    }
    table(text, "Processes", &["PID", "INSTANCE OR COMMAND", "MEMORY", "GPU"], &rows);
}

#[cfg(test)]
mod tests;
