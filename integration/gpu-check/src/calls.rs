//! Every call that the collector makes of a device, made many times: what it answers, and how long it takes.
//!
//! The calls are those of `services/agent/src/gpu/nvml/`, by their names in C. Those that list things are two calls each (how many, and which), and
//! are timed as one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, PerformancePolicy, TemperatureSensor,
    TemperatureThreshold,
};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use skerry_agent::gpu_check::numbered;

use crate::profile::{self, Call, FORMAT, Latency, Profile};

/// How long each call took, by its name in C.
pub(crate) type Times = BTreeMap<String, Vec<Duration>>;

/// `None`: what it tells names this card.
type Told = Result<Option<String>, NvmlError>;
type Ask = fn(&Device<'_>) -> Told;

/// The driver's library, asked directly.
pub(crate) fn load(library: Option<&Path>) -> Result<Nvml> {
    let name = library.unwrap_or(Path::new("libnvidia-ml.so.1"));
    Nvml::builder().lib_path(name.as_os_str()).init().with_context(|| format!("loading {}", name.display()))
}

/// Makes each call `rounds` times on each device.
pub(crate) fn dump(nvml: &Nvml, rounds: u32, recorded: bool) -> Result<(Profile, Times)> {
    let mut times = Times::new();
    let cuda = nvml.sys_cuda_driver_version().unwrap_or(0);
    let mut profile = Profile {
        format: FORMAT,
        recorded,
        driver: nvml.sys_driver_version().context("asking for the driver's version")?,
        cuda: format!("{}.{}", cuda_driver_version_major(cuda), cuda_driver_version_minor(cuda)),
        rounds,
        device: Vec::new(),
    };
    for index in 0..nvml.device_count().context("counting devices")? {
        let device = match nvml.device_by_index(index) {
            Ok(device) => device,
            // It fell off the bus, or this user may not see it.
            Err(error) => {
                let call = measure(1, &mut Times::new(), "nvmlDeviceGetHandleByIndex_v2", "", || {
                    nvml.device_by_index(index).map(|_| None)
                });
                eprintln!("device {index}: {error}");
                profile.device.push(profile::Device { model: String::new(), call: vec![call] });
                continue;
            }
        };
        let mut found = Vec::new();
        for (call, argument, ask) in CALLS {
            found.push(measure(rounds, &mut times, call, argument, || ask(&device)));
        }
        found.extend(fields(&device, rounds, &mut times));
        found.extend(counters(nvml, &device, rounds, &mut times));
        let model = device.name().unwrap_or_default();
        profile.device.push(profile::Device { model, call: found });
    }
    Ok((profile, times))
}

fn measure(
    rounds: u32,
    times: &mut Times,
    call: &str,
    argument: &str,
    mut ask: impl FnMut() -> Told,
) -> Call {
    let mut took = Vec::new();
    let mut last = Err(NvmlError::NoData);
    for _ in 0..rounds.max(1) {
        let began = Instant::now();
        last = ask();
        took.push(began.elapsed());
    }
    let Latency { p50_us, p99_us } = Latency::of(&mut took);
    times.entry(call.to_owned()).or_default().extend(took);
    let (value, error) = match last {
        Ok(value) => (value, None),
        Err(error) => (None, Some(format!("{error:?}"))),
    };
    Call { call: call.to_owned(), argument: argument.to_owned(), value, error, p50_us, p99_us }
}

/// The fields that are read by their numbers: each for its answer, and timed as the collector asks, all in one call.
fn fields(device: &Device<'_>, rounds: u32, times: &mut Times) -> Vec<Call> {
    let ids: Vec<FieldId> = numbered().map(|(_, id)| FieldId(id)).collect();
    let name = "nvmlDeviceGetFieldValues";
    let mut found = vec![measure(rounds, times, name, "all", || {
        device.field_values_for(&ids).map(|answers| Some(format!("{} answers", answers.len())))
    })];
    for (field, id) in numbered() {
        let ask = || {
            let answer = device.field_values_for(&[FieldId(id)])?.pop().ok_or(NvmlError::NoData)??;
            shown(answer.value?)
        };
        // Of one alone no time is noted: the collector never asks so.
        found.push(measure(1, &mut Times::new(), name, &format!("{id} {field}"), ask));
    }
    found
}

/// The chip's own counters: two samples, and what lies between.
fn counters<'a>(nvml: &'a Nvml, device: &Device<'a>, rounds: u32, times: &mut Times) -> Vec<Call> {
    let ask = || device.gpm_support().map(|support| Some(support.to_string()));
    let support = measure(rounds, times, "nvmlGpmQueryDeviceSupport", "", ask);
    if support.value.as_deref() != Some("true") {
        return vec![support];
    }
    let mut last = None;
    let mut found = vec![support];
    found.push(measure(rounds, times, "nvmlGpmSampleGet", "", || {
        let before = last.take();
        last = Some((before.map(|(_, now)| now), device.gpm_sample()?));
        Ok(None)
    }));
    let ids = [GpmMetricId::GraphicsUtil, GpmMetricId::SmUtil, GpmMetricId::DramBwUtil];
    if let Some((Some(before), now)) = &last {
        found.push(measure(rounds, times, "nvmlGpmMetricsGet", "graphics, sm, dram", || {
            let answers = gpm_metrics_get(nvml, before, now, &ids)?;
            let values: Vec<_> = answers.into_iter().map(|answer| answer.map(|one| one.value)).collect();
            shown(values)
        }));
    }
    found
}

#[expect(clippy::unnecessary_wraps, reason = "the answer of a call")]
fn shown(value: impl Debug) -> Told {
    Ok(Some(format!("{value:?}")))
}

#[expect(clippy::unnecessary_wraps, reason = "the answer of a call")]
fn hidden<T>(_: T) -> Told {
    Ok(None)
}

const CALLS: [(&str, &str, Ask); 56] = [
    ("nvmlDeviceGetUUID", "", |of| hidden(of.uuid()?)),
    ("nvmlDeviceGetName", "", |of| shown(of.name()?)),
    ("nvmlDeviceGetPciInfo_v3", "", |of| hidden(of.pci_info()?)),
    ("nvmlDeviceGetArchitecture", "", |of| shown(of.architecture()?)),
    ("nvmlDeviceGetCudaComputeCapability", "", |of| shown(of.cuda_compute_capability()?)),
    ("nvmlDeviceGetEccMode", "", |of| shown(of.is_ecc_enabled()?)),
    ("nvmlDeviceGetMigMode", "", |of| shown(of.mig_mode()?)),
    ("nvmlDeviceGetMaxMigDeviceCount", "", |of| shown(of.mig_device_count()?)),
    ("nvmlDeviceGetSupportedEventTypes", "", |of| shown(of.supported_event_types()?)),
    ("nvmlDeviceGetUtilizationRates", "", |of| shown(of.utilization_rates()?)),
    ("nvmlDeviceGetMemoryInfo_v2", "", |of| shown(of.memory_info()?)),
    ("nvmlDeviceGetEncoderUtilization", "", |of| shown(of.encoder_utilization()?)),
    ("nvmlDeviceGetDecoderUtilization", "", |of| shown(of.decoder_utilization()?)),
    ("nvmlDeviceGetTemperature", "gpu", |of| shown(of.temperature(TemperatureSensor::Gpu)?)),
    ("nvmlDeviceGetPowerUsage", "", |of| shown(of.power_usage()?)),
    ("nvmlDeviceGetClockInfo", "sm", |of| shown(of.clock_info(Clock::SM)?)),
    ("nvmlDeviceGetClockInfo", "memory", |of| shown(of.clock_info(Clock::Memory)?)),
    ("nvmlDeviceGetClockInfo", "graphics", |of| shown(of.clock_info(Clock::Graphics)?)),
    ("nvmlDeviceGetClockInfo", "video", |of| shown(of.clock_info(Clock::Video)?)),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", "", |of| shown(of.current_throttle_reasons()?.bits())),
    ("nvmlDeviceGetPerformanceState", "", |of| shown(of.performance_state()?)),
    ("nvmlDeviceGetNumFans", "", |of| shown(of.num_fans()?)),
    ("nvmlDeviceGetFanSpeed_v2", "0", |of| shown(of.fan_speed(0)?)),
    ("nvmlDeviceGetPowerManagementLimit", "", |of| shown(of.power_management_limit()?)),
    ("nvmlDeviceGetEnforcedPowerLimit", "", |of| shown(of.enforced_power_limit()?)),
    ("nvmlDeviceGetTotalEnergyConsumption", "", |of| shown(of.total_energy_consumption()?)),
    ("nvmlDeviceGetPcieThroughput", "send", |of| shown(of.pcie_throughput(PcieUtilCounter::Send)?)),
    ("nvmlDeviceGetPcieThroughput", "receive", |of| shown(of.pcie_throughput(PcieUtilCounter::Receive)?)),
    ("nvmlDeviceGetViolationStatus", "power", |of| held(of, PerformancePolicy::Power)),
    ("nvmlDeviceGetViolationStatus", "thermal", |of| held(of, PerformancePolicy::Thermal)),
    ("nvmlDeviceGetViolationStatus", "sync boost", |of| held(of, PerformancePolicy::SyncBoost)),
    ("nvmlDeviceGetViolationStatus", "board limit", |of| held(of, PerformancePolicy::BoardLimit)),
    ("nvmlDeviceGetViolationStatus", "low utilization", |of| held(of, PerformancePolicy::LowUtilization)),
    ("nvmlDeviceGetViolationStatus", "reliability", |of| held(of, PerformancePolicy::Reliability)),
    ("nvmlDeviceGetViolationStatus", "application clocks", |of| held(of, PerformancePolicy::TotalAppClocks)),
    ("nvmlDeviceGetViolationStatus", "base clocks", |of| held(of, PerformancePolicy::TotalBaseClocks)),
    ("nvmlDeviceGetPcieReplayCounter", "", |of| shown(of.pcie_replay_counter()?)),
    ("nvmlDeviceGetCurrPcieLinkGeneration", "", |of| shown(of.current_pcie_link_gen()?)),
    ("nvmlDeviceGetCurrPcieLinkWidth", "", |of| shown(of.current_pcie_link_width()?)),
    ("nvmlDeviceGetTotalEccErrors", "corrected", |of| {
        shown(of.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile)?)
    }),
    ("nvmlDeviceGetTotalEccErrors", "uncorrected", |of| {
        shown(of.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)?)
    }),
    ("nvmlDeviceGetTotalEccErrors", "corrected, aggregate", |of| {
        shown(of.total_ecc_errors(MemoryError::Corrected, EccCounter::Aggregate)?)
    }),
    ("nvmlDeviceGetTotalEccErrors", "uncorrected, aggregate", |of| {
        shown(of.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Aggregate)?)
    }),
    ("nvmlDeviceGetNvLinkErrorCounter", "link 0, replay", |of| errors(of, ErrorCounter::DlReplay)),
    ("nvmlDeviceGetNvLinkErrorCounter", "link 0, recovery", |of| errors(of, ErrorCounter::DlRecovery)),
    ("nvmlDeviceGetNvLinkErrorCounter", "link 0, crc of flits", |of| errors(of, ErrorCounter::DlCrcFlit)),
    ("nvmlDeviceGetNvLinkErrorCounter", "link 0, crc of data", |of| errors(of, ErrorCounter::DlCrcData)),
    ("nvmlDeviceGetTemperatureThreshold", "slowdown", |of| threshold(of, TemperatureThreshold::Slowdown)),
    ("nvmlDeviceGetTemperatureThreshold", "shutdown", |of| threshold(of, TemperatureThreshold::Shutdown)),
    ("nvmlDeviceGetTemperatureThreshold", "memory max", |of| threshold(of, TemperatureThreshold::MemoryMax)),
    ("nvmlDeviceGetPowerManagementDefaultLimit", "", |of| shown(of.power_management_limit_default()?)),
    ("nvmlDeviceGetPowerManagementLimitConstraints", "", |of| {
        shown(of.power_management_limit_constraints()?)
    }),
    ("nvmlDeviceGetComputeRunningProcesses_v3", "", |of| hidden(of.running_compute_processes()?)),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", "", |of| hidden(of.running_graphics_processes()?)),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", "", |of| hidden(of.mps_running_compute_processes()?)),
    ("nvmlDeviceGetProcessUtilization", "", |of| hidden(of.process_utilization_stats(0)?)),
];

fn held(of: &Device<'_>, policy: PerformancePolicy) -> Told {
    shown(of.violation_status(policy)?.violation_time)
}

fn errors(of: &Device<'_>, counter: ErrorCounter) -> Told {
    shown(of.link_wrapper_for(0).error_counter(counter)?)
}

fn threshold(of: &Device<'_>, which: TemperatureThreshold) -> Told {
    shown(of.temperature_threshold(which)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_one_that_the_simulator_knows_by_that_name() {
        for (call, argument, _) in CALLS {
            assert!(skerry_nvml_sim::calls().any(|known| known == call), "{call} {argument}");
        }
    }
}
