//! The whole program over the simulated driver, with a small script for `nvidia-smi`, whose values are read of the same simulated card by the driver's
//! own library, not by the agent's reader.

#![allow(clippy::unwrap_used, reason = "a test fails so")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use serde_json::Value;
use skerry_nvml_sim::{
    Control, DeviceControl, LatencyTable, Load, MachineSpec, Percent, Placed, Shape, built_library, calls,
    place,
};
use tempfile::TempDir;

struct Machine {
    dir: TempDir,
    placed: Placed,
}

impl Machine {
    fn new(cards: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let load = Load {
            shape: Shape::Steady,
            gpu_percent: Some(Percent::saturating(30)),
            noise_percent: Some(Percent::saturating(0)),
            ..Load::default()
        };
        let device = DeviceControl { load: Some(load), memory_used_mib: Some(3000), ..DeviceControl::of(0) };
        let control = Control {
            machine: cards.parse::<MachineSpec>().unwrap(),
            seed: Some("gpu-check".into()),
            device: vec![device],
            ..Control::default()
        };
        let placed = place(&built_library().unwrap(), dir.path(), &control).unwrap();
        Self { dir, placed }
    }

    /// What `nvidia-smi` would say of the first card, under names that it knows.
    fn told(&self) -> Vec<(&'static str, String)> {
        let nvml = Nvml::builder().lib_path(self.placed.library.as_os_str()).init().unwrap();
        let card = nvml.device_by_index(0).unwrap();
        let memory = card.memory_info().unwrap();
        let mib = |bytes: u64| (bytes >> 20).to_string();
        let watts = |milliwatts: u32| format!("{}.{:02}", milliwatts / 1000, milliwatts % 1000 / 10);
        let clock = |clock| card.clock_info(clock).unwrap().to_string();
        vec![
            ("uuid", card.uuid().unwrap()),
            ("utilization.gpu", card.utilization_rates().unwrap().gpu.to_string()),
            ("memory.used", mib(memory.used)),
            ("memory.free", mib(memory.free)),
            ("memory.reserved", mib(memory.reserved)),
            ("temperature.gpu", card.temperature(TemperatureSensor::Gpu).unwrap().to_string()),
            ("power.draw", watts(card.power_usage().unwrap())),
            ("power.limit", watts(card.power_management_limit().unwrap())),
            ("enforced.power.limit", watts(card.enforced_power_limit().unwrap())),
            ("clocks.sm", clock(Clock::SM)),
            // By its old name alone.
            ("clocks.current.memory", clock(Clock::Memory)),
            ("clocks_throttle_reasons.active", {
                format!("0x{:016x}", card.current_throttle_reasons().unwrap().bits())
            }),
            ("pstate", format!("P{}", card.performance_state().unwrap().as_c())),
            ("pcie.link.width.current", card.current_pcie_link_width().unwrap().to_string()),
            ("retired_pages.pending", card_pending(&card)),
        ]
    }

    /// The script, which refuses what it does not know as the tool does.
    fn script(&self, told: &[(&str, String)]) -> PathBuf {
        let cases: Vec<_> =
            told.iter().map(|(name, value)| format!("    {name}) value='{value}' ;;")).collect();
        let text = format!(
            "#!/bin/sh\nIFS=,\nout=\nfor name in ${{1#--query-gpu=}}; do\n  case $name in\n{}\n    \
             *) echo \"Field \\\"$name\\\" is not a valid field to query.\"; exit 2 ;;\n  esac\n  \
             out=\"$out, $value\"\ndone\necho \"${{out#, }}\"\n",
            cases.join("\n")
        );
        let script = self.dir.path().join("nvidia-smi");
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script
    }

    fn check(&self, tool: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry-gpu-check"));
        command.args(["--rounds", "5", "--memory-mib", "256", "--library"]).arg(&self.placed.library);
        command.arg("--control").arg(&self.placed.control).arg("--nvidia-smi").arg(tool);
        command.args(more).output().unwrap()
    }
}

/// On a card that retires pages, whether one waits to be; others have none.
fn card_pending(card: &nvml_wrapper::Device<'_>) -> String {
    match card.are_pages_pending_retired() {
        Ok(true) => "Yes".into(),
        Ok(false) => "No".into(),
        Err(_) => "[N/A]".into(),
    }
}

fn report(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

fn verdict<'a>(report: &'a Value, field: &str) -> &'a str {
    let rows = report["fields"].as_array().unwrap();
    rows.iter().find(|row| row["field"] == field).unwrap()["verdict"].as_str().unwrap()
}

#[test]
fn a_card_that_is_read_rightly_passes() {
    for cards in ["t4", "h100"] {
        let machine = Machine::new(cards);
        let before = fs::read_to_string(&machine.placed.control).unwrap();
        let output = machine.check(&machine.script(&machine.told()), &["--json"]);
        let report = report(&output);
        let different: Vec<_> =
            report["fields"].as_array().unwrap().iter().filter(|row| row["verdict"] == "different").collect();
        assert!(
            output.status.success(),
            "{cards}: {different:?} {} {}",
            report["faults"],
            report["processes"]
        );
        for field in [
            "memory_used_bytes",
            "power_milliwatts",
            "memory_clock_megahertz",
            "throttle_reasons",
            "performance_state",
        ] {
            assert_eq!(verdict(&report, field), "same", "{cards}: {field}");
        }
        // What the tool does not know, and what nobody asks it.
        for field in ["fan_speed_percent", "energy_millijoules"] {
            assert_eq!(verdict(&report, field), "alone", "{cards}: {field}");
        }
        let processes = report["processes"].as_array().unwrap();
        assert_eq!(processes.len(), 2);
        for (process, instance) in processes.iter().zip(["gpu-check/one/here/0", "gpu-check/two/here/0"]) {
            assert_eq!(process["instance"], instance);
            assert_eq!(process["told_bytes"], 256 << 20);
        }
        let watchdog = &report["watchdog"];
        assert_eq!(watchdog["instance"], "gpu-check/one/here/0");
        assert_eq!(watchdog["booked_bytes"], (256 + 128) << 20);
        assert!(
            watchdog["found_ms"].as_f64().unwrap() > 0.0 && watchdog["period_ms"].as_f64().unwrap() > 0.0
        );
        // Two looks that show it are what it takes; one before may have been under way as it grew.
        let looks = watchdog["looks"].as_array().unwrap();
        let above: Vec<_> = looks.iter().filter(|look| look["is_above"] == true).collect();
        assert_eq!(above.len(), 2, "{watchdog}");
        assert!(above.iter().all(|look| look["used_bytes"] == 512 << 20), "{watchdog}");
        assert!((2..=3).contains(&looks.last().unwrap()["number"].as_u64().unwrap()), "{watchdog}");
        let left_out = report["left_out"].as_array().unwrap();
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert_eq!(left_out[0], "limits of MPS: the driver is simulated");
        assert_eq!(fs::read_to_string(&machine.placed.control).unwrap(), before, "it is as it was");
    }
}

#[test]
fn a_value_that_is_not_the_tools_fails() {
    let machine = Machine::new("t4");
    let mut told = machine.told();
    told.iter_mut().find(|(name, _)| *name == "memory.used").unwrap().1 = "2900".into();
    let output = machine.check(&machine.script(&told), &["--json"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(verdict(&report, "memory_used_bytes"), "different");
    assert_eq!(report["failed"], 1);
}

#[test]
fn a_tool_that_fails_is_told_and_one_that_is_not_there_is_left_out() {
    let machine = Machine::new("t4");
    let broken = machine.dir.path().join("broken");
    fs::write(&broken, "#!/bin/sh\necho 'Unable to determine the device handle' >&2\nexit 15\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let output = machine.check(&broken, &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("Unable to determine the device handle"), "{text}");
    let output = machine.check(&machine.dir.path().join("nowhere"), &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("it is not there"), "{text}");
    assert!(text.contains("found after") && text.contains("Not looked at: limits of MPS"), "{text}");
}

#[test]
fn a_profile_says_what_each_call_answered_and_the_simulator_reads_its_latencies() {
    let machine = Machine::new("a100");
    let dir = machine.dir.path().join("recorded");
    let output =
        machine.check(&machine.dir.path().join("nowhere"), &["--json", "--profile", dir.to_str().unwrap()]);
    let report = report(&output);
    let text = fs::read_to_string(report["files"][0].as_str().unwrap()).unwrap();
    let profile: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(profile["recorded"].as_bool(), Some(false), "the driver is simulated");
    let calls_made = profile["device"][0]["call"].as_array().unwrap();
    let of = |name: &str| calls_made.iter().find(|call| call["call"].as_str() == Some(name)).unwrap();
    assert!(of("nvmlDeviceGetPowerUsage")["value"].as_str().unwrap().parse::<u32>().is_ok());
    assert_eq!(of("nvmlDeviceGetFanSpeed_v2")["error"].as_str(), Some("NotSupported"), "it has no fan");
    // Nothing that names this very card.
    assert!(of("nvmlDeviceGetUUID").get("value").is_none());

    let text = fs::read_to_string(report["files"][1].as_str().unwrap()).unwrap();
    let table: LatencyTable = serde_json::from_str(&text).unwrap();
    assert!(!table.recorded && table.calls.len() > 30);
    for (name, latency) in &table.calls {
        assert!(calls().any(|known| known == name), "{name}");
        assert!(latency.p50_us <= latency.p99_us, "{name}");
    }
}
