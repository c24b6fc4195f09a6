//! What nodes and apps use, as tables.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use skerry_proto::relay::v1 as pb;

use super::table::{Table, plain};
use super::time;
use crate::args::TopSort;

/// What is known of a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Known {
    /// It has told nothing yet.
    Waiting,
    /// What it told last.
    Sample(Box<pb::UsageSample>),
    /// Why it tells nothing.
    Problem(pb::UsageProblem),
}

/// What is known of each node, by its short name.
pub(crate) type Nodes = BTreeMap<String, Known>;

/// How a table is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) sort: TopSort,
    /// Columns of the terminal, if it is one.
    pub(crate) width: Option<usize>,
    pub(crate) headers: bool,
}

const UNKNOWN: &str = "-";

/// A row, by what it may be sorted.
struct Row {
    cpu: Option<i64>,
    memory: Option<i64>,
    cells: Vec<String>,
}

/// A line for each node.
pub(crate) fn nodes(nodes: &Nodes, style: Style) -> String {
    let rows = nodes.iter().map(|(name, known)| match known {
        Known::Sample(sample) => of_machine(name, sample.machine.as_ref()),
        Known::Waiting | Known::Problem(_) => of_machine(name, None),
    });
    let headers = ["NODE", "CPU", "CPU%", "MEMORY", "MEMORY%", "DISK", "DISK%", "LOAD", "UP"];
    draw(&headers, rows.collect(), style)
}

fn of_machine(name: &str, machine: Option<&pb::MachineUsage>) -> Row {
    let Some(machine) = machine else {
        let mut cells = vec![UNKNOWN.to_owned(); 9];
        name.clone_into(&mut cells[0]);
        return Row { cpu: None, memory: None, cells };
    };
    let capacity = Some(machine.cpu_capacity_millis);
    let cells = vec![
        name.to_owned(),
        millis(machine.cpu_millis),
        percent(machine.cpu_millis, capacity),
        bytes(machine.memory_bytes),
        percent(machine.memory_bytes, machine.memory_capacity_bytes),
        bytes(machine.disk_bytes),
        percent(machine.disk_bytes, machine.disk_capacity_bytes),
        shown(machine.load_millis, |load| format!("{}.{:02}", load / 1000, load % 1000 / 10)),
        shown(machine.uptime.as_ref().map(|up| up.seconds), |seconds| {
            time::age(Some(&prost_types::Timestamp { seconds: 0, nanos: 0 }), seconds)
        }),
    ];
    Row { cpu: machine.cpu_millis, memory: machine.memory_bytes, cells }
}

/// A line for each app, with the sums of its instances.
pub(crate) fn apps(nodes: &Nodes, style: Style) -> String {
    let mut apps: BTreeMap<String, (usize, pb::InstanceUsage)> = BTreeMap::new();
    for (_, one) in instances_of(nodes) {
        let app = one.instance.split('/').next().unwrap_or_default().to_owned();
        let (count, sum) = apps.entry(app).or_default();
        *count += 1;
        for (sum, more) in [
            (&mut sum.cpu_millis, one.cpu_millis),
            (&mut sum.memory_bytes, one.memory_bytes),
            (&mut sum.received_bytes_per_second, one.received_bytes_per_second),
            (&mut sum.sent_bytes_per_second, one.sent_bytes_per_second),
        ] {
            *sum = match (*sum, more) {
                (Some(one), Some(other)) => Some(one.saturating_add(other)),
                (one, other) => one.or(other),
            };
        }
    }
    let rows = apps.into_iter().map(|(app, (count, sum))| Row {
        cpu: sum.cpu_millis,
        memory: sum.memory_bytes,
        cells: vec![
            app,
            count.to_string(),
            millis(sum.cpu_millis),
            bytes(sum.memory_bytes),
            rate(sum.received_bytes_per_second),
            rate(sum.sent_bytes_per_second),
        ],
    });
    draw(&["APP", "INSTANCES", "CPU", "MEMORY", "RECEIVED", "SENT"], rows.collect(), style)
}

/// A line for each instance.
pub(crate) fn instances(nodes: &Nodes, style: Style) -> String {
    let rows = instances_of(nodes).map(|(node, one)| Row {
        cpu: one.cpu_millis,
        memory: one.memory_bytes,
        cells: vec![
            one.instance.clone(),
            node.to_owned(),
            millis(one.cpu_millis),
            bytes(one.memory_bytes),
            bytes(one.memory_limit_bytes),
            percent(one.memory_bytes, one.memory_limit_bytes),
            shown(one.processes, |count| count.to_string()),
            rate(one.received_bytes_per_second),
            rate(one.sent_bytes_per_second),
        ],
    });
    let headers = ["INSTANCE", "NODE", "CPU", "MEMORY", "LIMIT", "LIMIT%", "PIDS", "RECEIVED", "SENT"];
    draw(&headers, rows.collect(), style)
}

fn instances_of(nodes: &Nodes) -> impl Iterator<Item = (&str, &pb::InstanceUsage)> {
    nodes.iter().flat_map(|(node, known)| {
        let all: &[pb::InstanceUsage] = match known {
            Known::Sample(sample) => &sample.instances,
            Known::Waiting | Known::Problem(_) => &[],
        };
        all.iter().map(|one| (node.as_str(), one))
    })
}

/// What is not known and why, a sentence each.
pub(crate) fn troubles(nodes: &Nodes) -> Vec<String> {
    let each = nodes.iter().flat_map(|(node, known)| match known {
        Known::Waiting => Vec::new(),
        Known::Sample(sample) => sample.warnings.iter().map(|why| format!("{node}: {why}")).collect(),
        Known::Problem(problem) => vec![format!("{node}: {}", problem.message)],
    });
    each.map(|text| plain(&text)).collect()
}

/// How many have told something, and how many there are.
pub(crate) fn told(nodes: &Nodes) -> (usize, usize) {
    let told = nodes.values().filter(|known| matches!(known, Known::Sample(_))).count();
    (told, nodes.len())
}

fn draw(headers: &[&'static str], mut rows: Vec<Row>, style: Style) -> String {
    match style.sort {
        TopSort::Name => rows.sort_by(|a, b| a.cells.cmp(&b.cells)),
        // Who tells nothing comes last.
        TopSort::Cpu => rows.sort_by_key(|row| Reverse(row.cpu)),
        TopSort::Memory => rows.sort_by_key(|row| Reverse(row.memory)),
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.cells).collect();
    Table::new(headers, style.width, style.headers).rows(&rows)
}

fn shown(value: Option<i64>, show: impl FnOnce(i64) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), show)
}

fn millis(value: Option<i64>) -> String {
    shown(value, |value| format!("{value}m"))
}

fn bytes(value: Option<i64>) -> String {
    shown(value, |value| time::bytes(u64::try_from(value).unwrap_or(0)))
}

fn rate(value: Option<i64>) -> String {
    shown(value, |value| format!("{}/s", time::bytes(u64::try_from(value).unwrap_or(0))))
}

fn percent(part: Option<i64>, whole: Option<i64>) -> String {
    let percent = part.zip(whole).filter(|(_, whole)| *whole > 0);
    shown(percent.map(|(part, whole)| part.saturating_mul(100) / whole), |value| format!("{value}%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { sort: TopSort::Name, width: None, headers: true };

    fn instance(name: &str, cpu: Option<i64>, memory: i64) -> pb::InstanceUsage {
        pb::InstanceUsage {
            instance: name.to_owned(),
            cpu_millis: cpu,
            memory_bytes: Some(memory),
            ..pb::InstanceUsage::default()
        }
    }

    fn known(instances: Vec<pb::InstanceUsage>) -> Known {
        let machine = pb::MachineUsage {
            cpu_millis: Some(1500),
            cpu_capacity_millis: 2000,
            memory_bytes: Some(512 << 20),
            memory_capacity_bytes: Some(1 << 30),
            load_millis: Some(1234),
            uptime: Some(prost_types::Duration { seconds: 7200, nanos: 0 }),
            ..pb::MachineUsage::default()
        };
        Known::Sample(Box::new(pb::UsageSample {
            machine: Some(machine),
            instances,
            ..pb::UsageSample::default()
        }))
    }

    fn three() -> Nodes {
        let away = pb::UsageProblem { reason: "AWAY".to_owned(), message: "not connected".to_owned() };
        Nodes::from([
            ("n1".to_owned(), known(vec![instance("a/web/n1/0", Some(10), 3 << 20)])),
            (
                "n2".to_owned(),
                known(vec![instance("a/web/n2/0", None, 1 << 20), instance("b/db/n2/0", Some(700), 1 << 20)]),
            ),
            ("n3".to_owned(), Known::Problem(away)),
        ])
    }

    #[test]
    fn machines_are_told_in_parts_of_what_they_have_and_who_is_away_has_a_line() {
        let text = nodes(&three(), STYLE);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(lines[0], ["NODE", "CPU", "CPU%", "MEMORY", "MEMORY%", "DISK", "DISK%", "LOAD", "UP"]);
        assert_eq!(lines[1], ["n1", "1500m", "75%", "512.0 MiB", "50%", "-", "-", "1.23", "2h"]);
        assert_eq!(lines[3], ["n3", "-", "-", "-", "-", "-", "-", "-", "-"]);
        assert_eq!(troubles(&three()), ["n3: not connected"]);
        assert_eq!(told(&three()), (2, 3));
    }

    #[test]
    fn apps_are_sums_and_may_come_by_what_they_use() {
        let first = |sort| {
            let text = apps(&three(), Style { sort, ..STYLE });
            text.lines().nth(1).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(first(TopSort::Name)[..5], ["a", "2", "10m", "4.0", "MiB"]);
        assert_eq!(first(TopSort::Memory)[0], "a");
        assert_eq!(first(TopSort::Cpu)[0], "b");
        let text = instances(&three(), Style { sort: TopSort::Cpu, ..STYLE });
        let names: Vec<&str> = text.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["b/db/n2/0", "a/web/n1/0", "a/web/n2/0"], "what is not known comes last");
    }
}
