//! How busy GPUs are, as a table: a line for each, below it its parts and who uses it.

mod trace;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::Field;
use skerry_proto::gpu::v1::gap::Cause;

use self::trace::Trace;
use super::gpu_sample::{value, watts};
use super::gpus::{booked_memory, health, of};
use super::table::{Table, plain};
use super::time;
use crate::args::TopGpuSort;
use crate::gpus::place;

/// What the server says of a GPU whose node is away.
const AWAY: &str = "NodeDisconnected";
const UNKNOWN: &str = "-";
/// Characters of a bar.
const BAR: usize = 8;
/// Between two columns of a table.
const GAP: usize = 3;
/// How many characters the last minute may have: what divides it.
const SPARKS: [usize; 4] = [60, 30, 20, 12];

/// A GPU and what is known of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Card {
    pub(crate) gpu: pb::Gpu,
    /// The newest sample of all of it.
    pub(crate) sample: Option<pb::Sample>,
    /// The newest of its parts, by UUID.
    pub(crate) parts: BTreeMap<String, pb::Sample>,
    /// Since when nothing is heard of it, and why.
    pub(crate) gap: Option<pb::Gap>,
    trace: Trace,
}

/// GPUs by full name.
pub(crate) type Cards = BTreeMap<String, Card>;

impl Card {
    pub(crate) fn new(gpu: pb::Gpu) -> Self {
        Self { gpu, ..Self::default() }
    }

    /// Takes a sample in.
    pub(crate) fn take(&mut self, sample: pb::Sample) {
        self.gap = None;
        if !sample.mig_device.is_empty() {
            self.parts.insert(sample.mig_device.clone(), sample);
            return;
        }
        if let Some(time) = sample.time {
            self.trace.take(time.seconds, value(&sample, Field::GpuUtilizationPercent));
        }
        self.sample = Some(sample);
    }

    /// Takes in what was before anything was told.
    pub(crate) fn take_history(&mut self, points: &[pb::Point]) {
        let told = points.iter().filter_map(|point| Some((point.time?.seconds, point.last)));
        self.trace.take_before(told);
    }

    /// Whether there is nothing to wait for.
    pub(crate) fn is_complete(&self) -> bool {
        let has = |part: &pb::MigDevice| self.parts.contains_key(&part.uuid);
        let device = self.gpu.device.as_ref();
        let has_parts = device.is_none_or(|device| device.mig_devices.iter().all(has));
        self.gap.is_some() || self.away().is_some() || (self.sample.is_some() && has_parts)
    }

    /// `n1/0`.
    pub(crate) fn place(&self) -> String {
        let (node, index) = place(&self.gpu);
        format!("{node}/{index}")
    }

    fn health(&self) -> Option<&pb::Health> {
        self.gpu.status.as_ref().and_then(|status| status.health.as_ref())
    }

    fn away(&self) -> Option<&pb::HealthReason> {
        self.health()?.reasons.iter().find(|reason| reason.reason == AWAY)
    }

    /// Why nothing is known of it now.
    pub(crate) fn trouble(&self) -> Option<String> {
        if let Some(away) = self.away() {
            return Some(away.message.clone());
        }
        let gap = self.gap.as_ref()?;
        let why = match gap.cause() {
            Cause::Unspecified => "the reason is not known",
            Cause::LinkLost => "the node has no link",
            Cause::AgentRestarted => "the agent was started anew",
            Cause::Dropped => "somebody on the way had no room",
            Cause::DeviceAbsent => "the device is not there",
        };
        Some(format!("nothing is heard since {}: {why}", time::moment(gap.start_time.as_ref())))
    }

    /// What was told last, as long as it holds.
    fn now(&self, field: Field) -> Option<i64> {
        self.fresh().and_then(|sample| value(sample, field))
    }

    fn fresh(&self) -> Option<&pb::Sample> {
        self.sample.as_ref().filter(|_| self.gap.is_none() && self.away().is_none())
    }
}

/// Takes an answer in: a sample, or that nothing is heard. Answers an event as a sentence.
pub(crate) fn take(cards: &mut Cards, answer: pb::StreamSamplesResponse) -> Option<String> {
    use pb::stream_samples_response::Body;
    match answer.body? {
        Body::Sample(sample) => {
            if let Some(card) = cards.get_mut(&sample.gpu) {
                card.take(sample);
            }
            None
        }
        Body::Gap(gap) => {
            let card = cards.get_mut(&gap.gpu)?;
            // One that is over is seen in the trace.
            card.gap = gap.gap.filter(|gap| gap.end_time.is_none());
            None
        }
        Body::Event(told) => event(cards, &told),
    }
}

/// As `n1/0: Xid 79 (GPU has fallen off the bus)`.
fn event(cards: &Cards, told: &pb::SampleEvent) -> Option<String> {
    use pb::gpu_event::Kind;
    let event = told.event.as_ref()?;
    let what = match event.kind.as_ref()? {
        Kind::Xid(xid) => {
            let title = skerry_gpu_model::xid::title(xid.code);
            let title = title.map_or_else(String::new, |title| format!(" ({title})"));
            let whose = if xid.instance.is_empty() { String::new() } else { format!(" by {}", xid.instance) };
            format!("Xid {}{title}{whose}", xid.code)
        }
        Kind::Ecc(ecc) if ecc.corrected => return None,
        Kind::Ecc(ecc) => format!("memory errors that ECC could not correct: {}", ecc.count.max(1)),
        Kind::Lost(_) => "it does not answer any more".to_owned(),
        Kind::Reset(_) => "it was reset, or its driver loaded again".to_owned(),
    };
    let place = cards.get(&format!("{}/gpus/{}", told.node, event.uuid)).map(Card::place);
    let place = place.unwrap_or_else(|| told.node.rsplit('/').next().unwrap_or_default().to_owned());
    Some(plain(&format!("{} {place}: {what}", time::moment(event.time.as_ref()))))
}

/// How the table is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) sort: TopGpuSort,
    /// Columns of the terminal, if it is cut to one.
    pub(crate) width: Option<usize>,
    pub(crate) headers: bool,
    /// With bars, and the last minute.
    pub(crate) live: bool,
}

const HEADERS: [&str; 7] = ["GPU", "MODEL", "GPU%", "MEMORY", "TEMP", "POWER", "HEALTH"];
/// Where the last minute stands, and after that the bar.
const AT_SPARKS: usize = 3;
const AT_BAR: usize = 4;
const AT_MODEL: usize = 1;
const AT_TEMPERATURE: usize = 6;
const AT_POWER: usize = 7;

/// What a live table has room for.
struct Room {
    sparks: usize,
    /// Columns that have none, the last first.
    without: &'static [usize],
}

/// What is left out where there is too little room, the least first.
const WITHOUT: [&[usize]; 4] = [&[], &[AT_BAR], &[AT_BAR, AT_MODEL], &[AT_POWER, AT_BAR, AT_MODEL]];
/// The same where there is none for the last minute either: health is what stays.
const WITHOUT_SPARKS: [&[usize]; 2] =
    [&[AT_POWER, AT_BAR, AT_SPARKS, AT_MODEL], &[AT_POWER, AT_TEMPERATURE, AT_BAR, AT_SPARKS, AT_MODEL]];
/// To so much names and health are cut before a column is left out for them, as tables cut what is wide.
const CUT_MIN: usize = 12;

/// What fits beside columns of these widths, with their gaps.
fn room(widths: &[usize; 7], terminal: Option<usize>) -> Room {
    let Some(terminal) = terminal else { return Room { sparks: SPARKS[0], without: WITHOUT[0] } };
    let all: usize = widths.iter().sum::<usize>() + BAR + GAP;
    let width = |at: usize| match at {
        AT_BAR => BAR + GAP,
        // It comes beside all of these.
        AT_SPARKS => 0,
        AT_MODEL => widths[AT_MODEL],
        AT_TEMPERATURE => widths[AT_TEMPERATURE - 2],
        _ => widths[AT_POWER - 2],
    };
    let needed = |without: &[usize]| all - without.iter().map(|at| width(*at)).sum::<usize>();
    for without in WITHOUT {
        let left = terminal.saturating_sub(needed(without));
        if let Some(sparks) = SPARKS.into_iter().find(|sparks| *sparks <= left) {
            return Room { sparks, without };
        }
    }
    let [one, all] = WITHOUT_SPARKS;
    let cut = |width: usize| width.saturating_sub(CUT_MIN + GAP);
    // Behind the last column is no gap.
    let fits = needed(one).saturating_sub(cut(widths[0]) + cut(widths[6]) + GAP) <= terminal;
    Room { sparks: 0, without: if fits { one } else { all } }
}

/// A line for each GPU, its parts and who uses it.
pub(crate) fn table(cards: &Cards, style: Style) -> String {
    let mut all: Vec<&Card> = cards.values().collect();
    all.sort_by(|a, b| place(&a.gpu).cmp(&place(&b.gpu)));
    match style.sort {
        TopGpuSort::Name => {}
        // Who tells nothing comes last.
        TopGpuSort::Utilization => {
            all.sort_by_key(|card| Reverse(card.now(Field::GpuUtilizationPercent)));
        }
        TopGpuSort::Memory => all.sort_by_key(|card| Reverse(card.now(Field::MemoryUsedBytes))),
    }
    let mut rows: Vec<(Option<&Card>, Vec<String>)> = Vec::new();
    for card in all {
        rows.push((Some(card), device_row(card)));
        rows.extend(rows_below(card).into_iter().map(|row| (None, row)));
    }
    let mut headers = HEADERS.to_vec();
    if style.live {
        let natural = |index: usize| {
            let cells = rows.iter().filter_map(|(_, row)| row.get(index)).map(|cell| cell.chars().count());
            cells.chain([HEADERS[index].len()]).max().unwrap_or_default() + GAP
        };
        let room = room(&std::array::from_fn(natural), style.width);
        headers.insert(AT_SPARKS, "LAST MINUTE");
        headers.insert(AT_BAR, "");
        for (card, row) in &mut rows {
            let card = card.filter(|card| card.fresh().is_some());
            row.insert(AT_SPARKS, card.map_or_else(String::new, |card| card.trace.sparks(room.sparks)));
            row.insert(AT_BAR, card.map_or_else(String::new, memory_bar));
        }
        for at in room.without {
            headers.remove(*at);
            for (_, row) in rows.iter_mut().filter(|(_, row)| row.len() > *at) {
                row.remove(*at);
            }
        }
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
    Table::new(&headers, style.width, style.headers).rows(&rows)
}

fn device_row(card: &Card) -> Vec<String> {
    let device = card.gpu.device.clone().unwrap_or_default();
    let used = card.now(Field::MemoryUsedBytes).map(|used| of(used, device.memory_bytes));
    let power = card.now(Field::PowerMilliwatts).map(watts);
    let power = match (power, card.now(Field::PowerEnforcedLimitMilliwatts).map(watts)) {
        (Some(power), Some(limit)) => Some(format!("{}/{limit}", power.trim_end_matches(" W"))),
        (power, _) => power,
    };
    vec![
        card.place(),
        device.model.strip_prefix("NVIDIA ").unwrap_or(&device.model).to_owned(),
        shown(card.now(Field::GpuUtilizationPercent), percent),
        used.unwrap_or_else(|| UNKNOWN.to_owned()),
        shown(card.now(Field::TemperatureCelsius), |value| format!("{value} °C")),
        power.unwrap_or_else(|| UNKNOWN.to_owned()),
        health(card.health()),
    ]
}

/// Who uses all of it, then its parts, each with who uses that.
fn rows_below(card: &Card) -> Vec<Vec<String>> {
    let device = card.gpu.device.clone().unwrap_or_default();
    let Some(sample) = card.fresh() else { return users(card, "", &[], "  ") };
    let of_parts: Vec<u32> =
        card.parts.values().flat_map(|part| &part.processes).map(|process| process.pid).collect();
    let of_all = sample.processes.iter().filter(|process| !of_parts.contains(&process.pid));
    let mut rows = users(card, "", &of_all.collect::<Vec<_>>(), "  ");
    for part in &device.mig_devices {
        let sample = card.parts.get(&part.uuid);
        let of_part = |field| sample.and_then(|sample| value(sample, field));
        let used = of_part(Field::MemoryUsedBytes).map(|used| of(used, part.memory_bytes));
        rows.push(vec![
            format!("  part {}", part.index),
            part.profile.clone(),
            shown(of_part(Field::GraphicsActivityPermille), |value| percent((value + 5) / 10)),
            used.unwrap_or_else(|| UNKNOWN.to_owned()),
        ]);
        let processes: Vec<&pb::Process> = sample.iter().flat_map(|sample| &sample.processes).collect();
        rows.extend(users(card, &part.uuid, &processes, "    "));
    }
    rows
}

/// What an instance, or a process that is of none, has of a GPU or a part.
#[derive(Default)]
struct User {
    percent: Option<i64>,
    memory: Option<i64>,
    booked: Option<i64>,
}

/// Those that have something booked there, with what they use, and whoever else is there.
fn users(card: &Card, part: &str, processes: &[&pb::Process], indent: &str) -> Vec<Vec<String>> {
    let device = card.gpu.device.clone().unwrap_or_default();
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    let allocations = card.gpu.status.iter().flat_map(|status| &status.allocations);
    for allocation in allocations.filter(|allocation| allocation.mig_device == part) {
        let user = users.entry(allocation.instance.clone()).or_default();
        user.booked = booked_memory(&device, allocation);
    }
    for process in processes {
        let name = match process.instance.as_str() {
            "" => format!("pid {} {}", process.pid, process.command).trim_end().to_owned(),
            instance => instance.to_owned(),
        };
        let user = users.entry(name).or_default();
        user.percent = plus(user.percent, process.utilization_percent.map(i64::from));
        user.memory = plus(user.memory, process.memory_bytes);
    }
    let row = |(name, user): (String, User)| {
        let bytes = |size: i64| time::bytes(u64::try_from(size).unwrap_or(0));
        let memory = match (user.memory, user.booked) {
            (Some(used), Some(booked)) => of(used, booked),
            (Some(used), None) => bytes(used),
            (None, Some(booked)) => format!("-/{}", bytes(booked)),
            (None, None) => UNKNOWN.to_owned(),
        };
        vec![format!("{indent}{name}"), String::new(), shown(user.percent, percent), memory]
    };
    users.into_iter().map(row).collect()
}

fn plus(sum: Option<i64>, more: Option<i64>) -> Option<i64> {
    match (sum, more) {
        (Some(sum), Some(more)) => Some(sum.saturating_add(more)),
        (sum, more) => sum.or(more),
    }
}

/// How full its memory is.
fn memory_bar(card: &Card) -> String {
    let all = card.gpu.device.as_ref().map_or(0, |device| device.memory_bytes);
    let Some(used) = card.now(Field::MemoryUsedBytes).filter(|_| all > 0) else { return String::new() };
    let cells = BAR as i64;
    // To the nearest.
    let full = (used.saturating_mul(cells).saturating_add(all / 2) / all).clamp(0, cells);
    (0..cells).map(|cell| if cell < full { '█' } else { '░' }).collect()
}

/// What is not known and why, a sentence each.
pub(crate) fn troubles(cards: &Cards) -> Vec<String> {
    let mut all: Vec<&Card> = cards.values().collect();
    all.sort_by(|a, b| place(&a.gpu).cmp(&place(&b.gpu)));
    let each = all.into_iter().filter_map(|card| Some(format!("{}: {}", card.place(), card.trouble()?)));
    each.map(|text| plain(&text)).collect()
}

/// How many tell something, and how many there are.
pub(crate) fn told(cards: &Cards) -> (usize, usize) {
    (cards.values().filter(|card| card.fresh().is_some()).count(), cards.len())
}

fn percent(value: i64) -> String {
    format!("{value}%")
}

fn shown(value: Option<i64>, show: impl FnOnce(i64) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), show)
}

#[cfg(test)]
mod tests;
