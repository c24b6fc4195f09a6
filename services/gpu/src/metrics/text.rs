//! Prometheus' text. Lines of one metric stand together, so each metric has a buffer of its own, and a device is looked at once.
//!
//! Names and labels of what DCGM has are those of NVIDIA's dcgm-exporter, so that dashboards for it work; beside them are `project` and `node`, and `app`,
//! `service` and `app_instance` where one instance alone has the device or the part. How many lines there are is bounded by devices, by the numbers of errors
//! (a few hundred) and by bookings.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use skerry_gpu_model::Field;
use skerry_gpu_model::field::{FIELDS, Kind, Unit};
use skerry_proto::gpu::v1::health::State;

use super::{Seen, Visit, visit};
use crate::Shared;

/// Instances of one device whose use is told.
const INSTANCES_MAX: usize = 64;

/// Our own metrics: name, type, what it is.
const OWN: [(&str, &str, &str); 12] = [
    ("skerry_gpu_info", "gauge", "What a GPU is, as labels; always 1"),
    ("skerry_gpu_health", "gauge", "How a GPU is: 1 well, 2 a warning, 3 critical"),
    ("skerry_gpu_health_reason", "gauge", "1 for each thing that is wrong with a GPU"),
    (
        "skerry_gpu_xid_errors_total",
        "counter",
        "Errors that the driver reported, each counted once, by number",
    ),
    ("skerry_gpu_ecc_events_total", "counter", "Errors of memory that were told as they happened"),
    ("skerry_gpu_processes", "gauge", "Processes that have a context on the device"),
    ("skerry_gpu_booked_memory_bytes", "gauge", "Memory that is booked for an instance"),
    ("skerry_gpu_booked_compute_ratio", "gauge", "Compute that is booked for an instance, of the device's"),
    (
        "skerry_gpu_booked",
        "gauge",
        "1 for each instance that has the device or a part of it, with the isolation that it is granted",
    ),
    (
        "skerry_gpu_used_memory_bytes",
        "gauge",
        "Memory that the processes of an instance have; of no instance: with an empty label",
    ),
    (
        "skerry_gpu_used_compute_ratio",
        "gauge",
        "Time of the multiprocessors that the processes of an instance had",
    ),
    ("skerry_gpu_sample_age_seconds", "gauge", "How long ago a node's GPUs were sampled last"),
];

/// Writes all that this replica has.
pub(crate) fn write(shared: &Shared, out: &mut String) {
    let mut text = Text::default();
    visit(shared, &mut text);
    text.finish(out);
}

/// Lines, by metric.
struct Text {
    fields: [String; FIELDS],
    own: [String; OWN.len()],
}

impl Default for Text {
    fn default() -> Self {
        Self { fields: std::array::from_fn(|_| String::new()), own: std::array::from_fn(|_| String::new()) }
    }
}

impl Visit for Text {
    fn node(&mut self, project: &str, node: &str, age_millis: i64) {
        let labels = Labels::default().with("project", project).with("node", node);
        self.line("skerry_gpu_sample_age_seconds", &labels, age_millis as f64 / 1000.0);
    }

    fn seen(&mut self, seen: &Seen<'_>) {
        let labels = labels(seen);
        // NVIDIA's own name of it, which promtool's rules of style would not have.
        let one = labels.clone().with("modelName", &seen.device.model);
        let one = match owner(seen) {
            Some(instance) => one.of_instance(instance),
            None => one,
        };
        for (field, reading) in seen.sample.iter() {
            if let (Ok(value), Some(dcgm)) = (reading, field.spec().dcgm) {
                let out = &mut self.fields[field.index()];
                sample(out, dcgm.name, &one, dcgm.scale.apply(value));
            }
        }
        self.device(seen, &labels);
        self.bookings(seen, &labels);
        self.uses(seen, &labels);
    }
}

impl Text {
    fn device(&mut self, seen: &Seen<'_>, labels: &Labels) {
        let Seen { device, sample, .. } = seen;
        if seen.part.is_none() {
            let info = labels
                .clone()
                .with("model", &device.model)
                .with("architecture", &device.architecture)
                .with("cuda", &device.cuda_version)
                .with("compute_capability", &device.compute_capability);
            self.line("skerry_gpu_info", &info, 1.0);
        }
        if let Some(health) = seen.health
            && !matches!(health.state(), State::Unspecified | State::Unknown)
        {
            self.line("skerry_gpu_health", labels, f64::from(health.state));
        }
        for reason in seen.health.iter().flat_map(|health| &health.reasons) {
            self.line("skerry_gpu_health_reason", &labels.clone().with("reason", &reason.reason), 1.0);
        }
        for xid in &seen.xids {
            let labels = labels.clone().with("xid", &xid.code.to_string());
            self.line("skerry_gpu_xid_errors_total", &labels, xid.count as f64);
        }
        if let Some(ecc) = seen.ecc {
            for (kind, count) in [("corrected", ecc.corrected), ("uncorrected", ecc.uncorrected)] {
                self.line("skerry_gpu_ecc_events_total", &labels.clone().with("kind", kind), count as f64);
            }
        }
        if let Some(processes) = sample.value(Field::Processes) {
            self.line("skerry_gpu_processes", labels, processes as f64);
        }
    }

    fn bookings(&mut self, seen: &Seen<'_>, labels: &Labels) {
        for allocation in &seen.allocations {
            let of = labels.clone().of_instance(&allocation.instance);
            let share = allocation.share.as_ref();
            let memory =
                share.and_then(
                    |share| if share.whole { Some(seen.device.memory_bytes) } else { share.memory_bytes },
                );
            let memory = seen.part.map_or(memory, |part| Some(part.memory_bytes));
            if let Some(memory) = memory {
                self.line("skerry_gpu_booked_memory_bytes", &of, memory as f64);
            }
            let percent = share.and_then(|share| if share.whole { Some(100) } else { share.compute_percent });
            if let Some(percent) = percent {
                self.line("skerry_gpu_booked_compute_ratio", &of, f64::from(percent) / 100.0);
            }
            let isolation =
                allocation.isolation().as_str_name().trim_start_matches("ISOLATION_").to_lowercase();
            let isolation = if isolation == "unspecified" { "none" } else { &isolation };
            self.line("skerry_gpu_booked", &of.with("isolation", isolation), 1.0);
        }
    }

    fn uses(&mut self, seen: &Seen<'_>, labels: &Labels) {
        let mut by_instance: BTreeMap<&str, (Option<u64>, Option<u32>)> = BTreeMap::new();
        for process in &seen.sample.processes {
            let (memory, compute) = by_instance.entry(process.instance.as_str()).or_default();
            add(memory, process.memory_bytes, u64::saturating_add);
            add(compute, process.utilization_percent, u32::saturating_add);
        }
        for (instance, (memory, compute)) in by_instance.into_iter().take(INSTANCES_MAX) {
            let of = labels.clone().of_instance(instance);
            if let Some(memory) = memory {
                self.line("skerry_gpu_used_memory_bytes", &of, memory as f64);
            }
            if let Some(compute) = compute {
                self.line("skerry_gpu_used_compute_ratio", &of, f64::from(compute) / 100.0);
            }
        }
    }

    fn line(&mut self, name: &str, labels: &Labels, value: f64) {
        if let Some(at) = OWN.iter().position(|(known, ..)| *known == name) {
            sample(&mut self.own[at], name, labels, value);
        }
    }

    fn finish(self, out: &mut String) {
        out.reserve(self.fields.iter().chain(&self.own).map(|lines| lines.len() + 256).sum());
        // Each is gone once it is written: of many GPUs all of them are as long as the whole.
        for (field, lines) in Field::ALL.into_iter().zip(self.fields) {
            let Some(dcgm) = field.spec().dcgm.filter(|_| !lines.is_empty()) else { continue };
            let kind = if field.spec().kind == Kind::Counter { "counter" } else { "gauge" };
            let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", dcgm.name, help(field), dcgm.name);
            out.push_str(&lines);
        }
        for ((name, kind, help), lines) in OWN.iter().zip(self.own) {
            if !lines.is_empty() {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
                out.push_str(&lines);
            }
        }
    }
}

fn add<T: Copy>(sum: &mut Option<T>, more: Option<T>, plus: fn(T, T) -> T) {
    *sum = match (*sum, more) {
        (Some(sum), Some(more)) => Some(plus(sum, more)),
        (sum, more) => sum.or(more),
    };
}

/// The instance that has all of it, if there is one.
fn owner<'a>(seen: &Seen<'a>) -> Option<&'a str> {
    match seen.allocations.as_slice() {
        [one] => Some(&one.instance),
        _ => None,
    }
}

/// In DCGM's unit.
fn help(field: Field) -> String {
    let spec = field.spec();
    let (suffix, unit) = match spec.unit {
        Unit::Percent => ("_percent", " (in %)"),
        Unit::Bytes => ("_bytes", " (in MiB)"),
        Unit::Celsius => ("_celsius", " (in C)"),
        Unit::Milliwatts => ("_milliwatts", " (in W)"),
        Unit::Millijoules => ("_millijoules", " (in mJ)"),
        Unit::Megahertz => ("_megahertz", " (in MHz)"),
        Unit::Permille => ("_permille", " (0 to 1)"),
        Unit::Milliseconds => ("_milliseconds", " (in ns)"),
        Unit::BytesPerSecond => ("_bytes_per_second", " (in bytes a second)"),
        Unit::Count | Unit::State => ("", ""),
    };
    let words = spec.name.trim_end_matches(suffix).replace('_', " ");
    format!("{words}{unit}")
}

/// Labels, written once for many lines.
#[derive(Debug, Clone, Default)]
struct Labels(String);

impl Labels {
    fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        let _ = write!(self.0, "{name}=\"");
        for char in value.chars() {
            match char {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        self.0.push('"');
        self
    }

    /// `<app>/<service>/<cluster>/<ordinal>`, taken apart.
    fn of_instance(self, instance: &str) -> Self {
        let mut parts = instance.split('/');
        let (app, service) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        self.with("app", app).with("service", service).with("app_instance", instance)
    }
}

fn labels(seen: &Seen<'_>) -> Labels {
    let Seen { device, .. } = seen;
    let labels = Labels::default()
        .with("gpu", &device.index.to_string())
        .with("UUID", &device.uuid)
        .with("pci_bus_id", &pci_bus_id(&device.pci_address))
        .with("device", &format!("nvidia{}", device.index));
    let labels = match seen.part {
        Some(part) => labels
            .with("GPU_I_ID", &part.gpu_instance.to_string())
            .with("GPU_I_PROFILE", &part.profile)
            .with("mig_uuid", &part.uuid),
        None => labels,
    };
    labels
        .with("Hostname", seen.node)
        .with("DCGM_FI_DRIVER_VERSION", &device.driver_version)
        .with("project", seen.project)
        .with("node", seen.node)
}

/// As NVML writes it: eight digits of the domain, in capitals.
fn pci_bus_id(address: &str) -> String {
    match address.split_once(':') {
        Some((domain, rest)) => format!("{domain:0>8}:{rest}").to_uppercase(),
        None => String::new(),
    }
}

fn sample(out: &mut String, name: &str, labels: &Labels, value: f64) {
    let _ = writeln!(out, "{name}{{{}}} {value}", labels.0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skerry_gpu_model::{Absent, Process, Sample};
    use skerry_proto::gpu::v1 as pb;

    use super::*;
    use crate::marks::XidCount;

    fn device() -> pb::Device {
        pb::Device {
            uuid: "GPU-1".into(),
            index: 2,
            model: "NVIDIA A100".into(),
            pci_address: "0000:3b:00.0".into(),
            driver_version: "550.1".into(),
            memory_bytes: 80 << 30,
            ..pb::Device::default()
        }
    }

    fn text(sample: &Sample, allocations: &[pb::Allocation], xids: &[XidCount]) -> String {
        let device = device();
        let mut text = Text::default();
        text.seen(&Seen {
            project: "p",
            node: "n1",
            device: &device,
            part: None,
            sample,
            health: None,
            allocations: allocations.iter().collect(),
            xids: xids.iter().collect(),
            ecc: None,
        });
        let mut out = String::new();
        text.finish(&mut out);
        out
    }

    const DEVICE: &str = "gpu=\"2\",UUID=\"GPU-1\",pci_bus_id=\"00000000:3B:00.0\",device=\"nvidia2\",\
                          Hostname=\"n1\",DCGM_FI_DRIVER_VERSION=\"550.1\",project=\"p\",node=\"n1\"";

    const MODEL: &str = "modelName=\"NVIDIA A100\"";
    const OWNER: &str = "app=\"web\",service=\"s\",app_instance=\"web/s/n1/0\"";

    #[test]
    fn what_dcgm_has_is_told_under_its_names_in_its_units_and_what_is_absent_is_not() {
        let mut read = Sample::new();
        read.set(Field::MemoryUsed, Ok(3 << 30));
        read.set(Field::Power, Ok(251_300));
        read.set(Field::FanSpeed, Err(Absent::NotSupported));
        let told = text(&read, &[], &[]);
        assert!(told.contains(&format!("# HELP DCGM_FI_DEV_FB_USED memory used (in MiB)\n# TYPE DCGM_FI_DEV_FB_USED gauge\nDCGM_FI_DEV_FB_USED{{{DEVICE},{MODEL}}} 3072\n")), "{told}");
        assert!(told.contains(&format!("DCGM_FI_DEV_POWER_USAGE{{{DEVICE},{MODEL}}} 251.3\n")), "{told}");
        assert_eq!(told.matches("\nDCGM_").count() + usize::from(told.starts_with("DCGM_")), 2, "{told}");
        assert!(!told.contains("FAN"), "{told}");
    }

    #[test]
    fn who_alone_has_a_device_is_told_with_it_and_of_several_what_each_uses() {
        let share =
            |gib: i64| Some(pb::GpuShare { memory_bytes: Some(gib << 30), ..pb::GpuShare::default() });
        let allocation = |instance: &str| pb::Allocation {
            instance: instance.into(),
            share: share(4),
            isolation: pb::allocation::Isolation::Accounted.into(),
            ..pb::Allocation::default()
        };
        let process = |instance: &str, mib: u64| Process {
            pid: 7,
            instance: instance.into(),
            memory_bytes: Some(mib << 20),
            utilization_percent: Some(20),
            ..Process::default()
        };
        let mut read = Sample::new();
        read.set(Field::Temperature, Ok(40));
        read.processes = vec![process("web/s/n1/0", 100), process("web/s/n1/0", 28), process("", 1)];
        let xids = [XidCount { uuid: "GPU-1".into(), code: 31, count: 3 }];
        let alone = text(&read, &[allocation("web/s/n1/0")], &xids);
        let of = format!("{DEVICE},{OWNER}");
        for line in [
            format!("DCGM_FI_DEV_GPU_TEMP{{{DEVICE},{MODEL},{OWNER}}} 40\n"),
            format!("skerry_gpu_booked_memory_bytes{{{of}}} 4294967296\n"),
            format!("skerry_gpu_booked{{{of},isolation=\"accounted\"}} 1\n"),
            format!("skerry_gpu_used_memory_bytes{{{of}}} 134217728\n"),
            format!("skerry_gpu_used_compute_ratio{{{of}}} 0.4\n"),
            format!(
                "skerry_gpu_used_memory_bytes{{{DEVICE},app=\"\",service=\"\",app_instance=\"\"}} 1048576\n"
            ),
            format!("skerry_gpu_xid_errors_total{{{DEVICE},xid=\"31\"}} 3\n"),
        ] {
            assert!(alone.contains(&line), "{line} is not in {alone}");
        }
        let shared = text(&read, &[allocation("web/s/n1/0"), allocation("b/s/n1/0")], &[]);
        assert!(shared.contains(&format!("DCGM_FI_DEV_GPU_TEMP{{{DEVICE},{MODEL}}} 40\n")), "{shared}");
    }

    /// Name, labels, value.
    type Line = (String, Vec<(String, String)>, f64);

    /// Reads a line as Prometheus does.
    fn parse(line: &str) -> Option<Line> {
        let (name, rest) = line.split_once('{')?;
        let (mut labels, mut rest) = (Vec::new(), rest);
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let (mut value, mut chars) = (String::new(), after.char_indices());
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        same @ ('\\' | '"') => same,
                        _ => return None,
                    }),
                    (_, '\n') => return None,
                    (_, other) => value.push(other),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        Some((name.to_owned(), labels, rest.strip_prefix("} ")?.parse().ok()?))
    }

    /// Names of metrics in the queries of a dashboard.
    fn asked_for(dashboard: &str) -> std::collections::BTreeSet<&str> {
        let words = dashboard.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.filter(|word| word.starts_with("DCGM_FI_") || word.starts_with("skerry_gpu_")).collect()
    }

    #[test]
    fn what_dashboards_ask_for_is_told() {
        let asked = asked_for(include_str!("../../../../deploy/grafana/skerry-gpu.json"));
        assert!(asked.len() >= 12, "{asked:?}");
        // All of NVIDIA's dashboard for dcgm-exporter (12239), its variables too.
        let nvidia = [
            "DCGM_FI_DEV_GPU_TEMP",
            "DCGM_FI_DEV_POWER_USAGE",
            "DCGM_FI_DEV_SM_CLOCK",
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
            "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
            "DCGM_FI_DEV_FB_USED",
            "DCGM_FI_DEV_FB_FREE",
        ];
        for name in asked.into_iter().chain(nvidia) {
            let ours = OWN.iter().any(|(own, ..)| *own == name);
            let dcgm =
                || Field::ALL.into_iter().filter_map(|field| field.spec().dcgm).any(|dcgm| dcgm.name == name);
            assert!(ours || dcgm(), "{name} is not told");
        }
        for label in ["Hostname=", "gpu=", "UUID=", "project=", "node="] {
            assert!(DEVICE.contains(label), "{label}");
        }
    }

    proptest! {
        #[test]
        fn any_label_comes_back_as_it_was(values in proptest::collection::vec(any::<String>(), 1..4)) {
            let labels = values.iter().fold(Labels::default(), |labels, value| labels.with("a", value));
            let mut out = String::new();
            sample(&mut out, "m", &labels, 1.5);
            let (_, read, value) = parse(out.strip_suffix('\n').unwrap()).unwrap();
            prop_assert_eq!(read.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), values);
            prop_assert!((value - 1.5).abs() < f64::EPSILON);
        }

        #[test]
        fn each_metric_is_described_once_and_its_lines_follow(read in proptest::collection::vec(any::<Option<i64>>(), FIELDS)) {
            let mut sample = Sample::new();
            for (field, value) in Field::ALL.into_iter().zip(read) {
                sample.set(field, value.ok_or(Absent::NotSupported));
            }
            let out = text(&sample, &[], &[]);
            let (mut described, mut current) = (std::collections::BTreeSet::new(), String::new());
            for line in out.lines() {
                if let Some(rest) = line.strip_prefix("# TYPE ") {
                    current = rest.split(' ').next().unwrap().to_owned();
                    prop_assert!(described.insert(current.clone()), "twice: {}", current);
                } else if !line.starts_with('#') {
                    prop_assert_eq!(&parse(line).unwrap().0, &current);
                }
            }
        }
    }
}
