//! Values of devices and parts: which call gives which field. What a device does not have it is not asked for again for an hour.

use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, PerformancePolicy, PerformanceState, TemperatureSensor,
    TemperatureThreshold,
};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;
use nvml_wrapper::{Device, GpmSample, Nvml};
use skerry_gpu_model::{Absent, Field, Place, Sample};
use skerry_proto::gpu::v1 as pb;

use super::{Failure, links, plausible, processes};
use crate::gpu::driver::{Broken, Due, Reader};

/// For how long a device that does not have something is not asked for it.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(3_600);
/// NVML counts the traffic of PCIe in thousands of bytes.
const KILO: u64 = 1_000;
/// GPM counts the traffic of NVLinks in MiB.
const MIB: f64 = 1_048_576.0;

type Answer = Result<u64, NvmlError>;
type Call = fn(&Device<'_>) -> Answer;

/// Fields that are a call of their own.
static CALLS: [(Field, Call); 38] = [
    (Field::EncoderUtilization, |of| Ok(of.encoder_utilization()?.utilization.into())),
    (Field::DecoderUtilization, |of| Ok(of.decoder_utilization()?.utilization.into())),
    (Field::Temperature, |of| Ok(of.temperature(TemperatureSensor::Gpu)?.into())),
    (Field::Power, |of| Ok(of.power_usage()?.into())),
    (Field::SmClock, |of| Ok(of.clock_info(Clock::SM)?.into())),
    (Field::MemoryClock, |of| Ok(of.clock_info(Clock::Memory)?.into())),
    (Field::ThrottleReasons, |of| {
        of.current_throttle_reasons().map(|reasons: ThrottleReasons| reasons.bits())
    }),
    (Field::PerformanceState, |of| of.performance_state().map(performance_state)),
    (Field::FanSpeed, fastest_fan),
    (Field::MemoryReserved, |of| Ok(of.memory_info()?.reserved)),
    (Field::PowerLimit, |of| Ok(of.power_management_limit()?.into())),
    (Field::PowerEnforcedLimit, |of| Ok(of.enforced_power_limit()?.into())),
    (Field::Energy, |of| of.total_energy_consumption()),
    (Field::GraphicsClock, |of| Ok(of.clock_info(Clock::Graphics)?.into())),
    (Field::VideoClock, |of| Ok(of.clock_info(Clock::Video)?.into())),
    (Field::PcieTransmit, |of| Ok(u64::from(of.pcie_throughput(PcieUtilCounter::Send)?) * KILO)),
    (Field::PcieReceive, |of| Ok(u64::from(of.pcie_throughput(PcieUtilCounter::Receive)?) * KILO)),
    (Field::ThrottlePower, |of| held(of, PerformancePolicy::Power)),
    (Field::ThrottleThermal, |of| held(of, PerformancePolicy::Thermal)),
    (Field::ThrottleSyncBoost, |of| held(of, PerformancePolicy::SyncBoost)),
    (Field::ThrottleBoardLimit, |of| held(of, PerformancePolicy::BoardLimit)),
    (Field::ThrottleLowUtilization, |of| held(of, PerformancePolicy::LowUtilization)),
    (Field::ThrottleReliability, |of| held(of, PerformancePolicy::Reliability)),
    (Field::ThrottleApplicationClocks, |of| held(of, PerformancePolicy::TotalAppClocks)),
    (Field::ThrottleBaseClocks, |of| held(of, PerformancePolicy::TotalBaseClocks)),
    (Field::PcieReplays, |of| Ok(of.pcie_replay_counter()?.into())),
    (Field::PcieLinkGeneration, |of| Ok(of.current_pcie_link_gen()?.into())),
    (Field::PcieLinkWidth, |of| Ok(of.current_pcie_link_width()?.into())),
    (Field::EccCorrected, |of| of.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile)),
    (Field::EccUncorrected, |of| of.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)),
    (Field::EccCorrectedAggregate, |of| of.total_ecc_errors(MemoryError::Corrected, EccCounter::Aggregate)),
    (Field::EccUncorrectedAggregate, |of| {
        of.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Aggregate)
    }),
    (Field::TemperatureSlowdown, |of| Ok(of.temperature_threshold(TemperatureThreshold::Slowdown)?.into())),
    (Field::TemperatureShutdown, |of| Ok(of.temperature_threshold(TemperatureThreshold::Shutdown)?.into())),
    (Field::MemoryTemperatureMax, |of| Ok(of.temperature_threshold(TemperatureThreshold::MemoryMax)?.into())),
    (Field::PowerDefaultLimit, |of| Ok(of.power_management_limit_default()?.into())),
    (Field::PowerMinLimit, |of| Ok(of.power_management_limit_constraints()?.min_limit.into())),
    (Field::PowerMaxLimit, |of| Ok(of.power_management_limit_constraints()?.max_limit.into())),
];

/// Fields that are read by their numbers, several in one call.
pub(in crate::gpu) static NUMBERED: [(Field, u32); 13] = [
    (Field::MemoryTemperature, field_id::NVML_FI_DEV_MEMORY_TEMP),
    (Field::RetiredPagesCorrected, field_id::NVML_FI_DEV_RETIRED_SBE),
    (Field::RetiredPagesUncorrected, field_id::NVML_FI_DEV_RETIRED_DBE),
    (Field::RetiredPagesPending, field_id::NVML_FI_DEV_RETIRED_PENDING),
    (Field::RemappedRowsCorrected, field_id::NVML_FI_DEV_REMAPPED_COR),
    (Field::RemappedRowsUncorrected, field_id::NVML_FI_DEV_REMAPPED_UNC),
    (Field::RowRemapPending, field_id::NVML_FI_DEV_REMAPPED_PENDING),
    (Field::RowRemapFailure, field_id::NVML_FI_DEV_REMAPPED_FAILURE),
    (Field::NvlinkCrcFlitErrors, field_id::NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL),
    (Field::NvlinkCrcDataErrors, field_id::NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL),
    (Field::NvlinkReplayErrors, field_id::NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL),
    (Field::NvlinkRecoveryErrors, field_id::NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL),
    (Field::RecoveryAction, field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
];

/// Fields that are computed from two samples of the chip's counters (GPM), and what one of GPM's units is in ours.
static RATIOS: [(Field, GpmMetricId, f64); 10] = [
    (Field::GraphicsActivity, GpmMetricId::GraphicsUtil, 10.0),
    (Field::SmActivity, GpmMetricId::SmUtil, 10.0),
    (Field::SmOccupancy, GpmMetricId::SmOccupancy, 10.0),
    (Field::TensorActivity, GpmMetricId::AnyTensorUtil, 10.0),
    (Field::DramActivity, GpmMetricId::DramBwUtil, 10.0),
    (Field::Fp64Activity, GpmMetricId::Fp64Util, 10.0),
    (Field::Fp32Activity, GpmMetricId::Fp32Util, 10.0),
    (Field::Fp16Activity, GpmMetricId::Fp16Util, 10.0),
    (Field::NvlinkTransmit, GpmMetricId::NvlinkTotalTxPerSec, MIB),
    (Field::NvlinkReceive, GpmMetricId::NvlinkTotalRxPerSec, MIB),
];

/// What a part of a divided device has of its own.
const OF_PARTS: [Field; 4] = [Field::MemoryUsed, Field::MemoryFree, Field::MemoryReserved, Field::Processes];
/// What is not measured of a device as long as it is divided.
const NOT_DIVIDED: [Field; 4] =
    [Field::GpuUtilization, Field::MemoryUtilization, Field::EncoderUtilization, Field::DecoderUtilization];

fn held(of: &Device<'_>, policy: PerformancePolicy) -> Answer {
    Ok(of.violation_status(policy)?.violation_time / 1_000_000)
}

fn fastest_fan(of: &Device<'_>) -> Answer {
    let fans = of.num_fans()?;
    let speeds = (0..fans).map(|fan| of.fan_speed(fan)).collect::<Result<Vec<_>, _>>()?;
    speeds.into_iter().max().map(u64::from).ok_or(NvmlError::NotSupported)
}

/// The number of a state; that of an unknown one is none that can be.
fn performance_state(state: PerformanceState) -> u64 {
    state.as_c().into()
}

/// Why reading one place ends.
enum Stop {
    Lost,
    Broken,
}

/// Reads values through NVML.
pub(super) struct NvmlReader<'a> {
    nvml: &'a Nvml,
    devices: &'a [pb::Device],
    places: Vec<Slot<'a>>,
}

struct Slot<'a> {
    place: Place,
    /// Asked for again where there is none.
    handle: Option<Device<'a>>,
    divided: bool,
    /// Whether errors on its links are counted link by link.
    links_apart: bool,
    /// Fields that it does not have, by their places in the catalogue.
    lacks: u128,
    asked: Instant,
    counters: Option<GpmSample<'a>>,
    processes_since_micros: u64,
}

impl<'a> NvmlReader<'a> {
    pub(super) fn new(nvml: &'a Nvml, devices: &'a [pb::Device]) -> Self {
        let slot = |place: Place| {
            let device = devices.get(place.device);
            let divided = device.is_some_and(|device| device.mig_mode() == pb::device::MigMode::Enabled);
            let links_apart = device.is_some_and(links::are_apart);
            let lacks = place.part.map_or(0, |_| {
                let lacking = Field::ALL.into_iter().filter(|field| !OF_PARTS.contains(field));
                lacking.fold(0, |bits, field| bits | bit(field))
            });
            let (asked, processes_since_micros) = (Instant::now(), 0);
            Slot {
                place,
                handle: None,
                divided,
                links_apart,
                lacks,
                asked,
                counters: None,
                processes_since_micros,
            }
        };
        Self { nvml, devices, places: Place::all(devices).into_iter().map(slot).collect() }
    }
}

impl Reader for NvmlReader<'_> {
    fn read(&mut self, place: usize, due: Due, sample: &mut Sample) -> Result<(), Broken> {
        let Some(slot) = self.places.get_mut(place) else { return Ok(()) };
        match slot.read(self.nvml, self.devices, due, sample) {
            Ok(()) => Ok(()),
            Err(Stop::Broken) => Err(Broken),
            Err(Stop::Lost) => {
                (slot.handle, slot.counters) = (None, None);
                for field in due.fields() {
                    let absent =
                        if slot.lacks & bit(field) == 0 { Absent::Lost } else { slot.lacking(field) };
                    sample.set(field, Err(absent));
                }
                Ok(())
            }
        }
    }
}

impl<'a> Slot<'a> {
    fn read(
        &mut self,
        nvml: &'a Nvml,
        devices: &[pb::Device],
        due: Due,
        sample: &mut Sample,
    ) -> Result<(), Stop> {
        if self.asked.elapsed() >= ASKED_AGAIN_AFTER && self.place.part.is_none() {
            (self.lacks, self.asked) = (0, Instant::now());
        }
        for field in due.fields().filter(|field| self.lacks & bit(*field) != 0) {
            sample.set(field, Err(self.lacking(field)));
        }
        // Taken out while it is used: what it does not have is noted in the slot.
        let device = match self.handle.take() {
            Some(device) => device,
            None => self.find(nvml, devices)?,
        };
        let read = self.read_device(nvml, &device, due, sample);
        self.handle = Some(device);
        read
    }

    /// The device, or the part. A part that is not there any more counts as lost until the devices are looked at again.
    fn find(&self, nvml: &'a Nvml, devices: &[pb::Device]) -> Result<Device<'a>, Stop> {
        let uuid = self.place.uuid(devices).unwrap_or_default();
        nvml.device_by_uuid(uuid).map_err(|error| match Failure::of(&error) {
            Failure::Broken => Stop::Broken,
            Failure::Lost | Failure::Field(_) => Stop::Lost,
        })
    }

    fn read_device(
        &mut self,
        nvml: &'a Nvml,
        device: &Device<'a>,
        due: Due,
        sample: &mut Sample,
    ) -> Result<(), Stop> {
        if self.is_due(due, Field::GpuUtilization) {
            let used = device.utilization_rates().map(|used| [used.gpu.into(), used.memory.into()]);
            self.note_both(sample, [Field::GpuUtilization, Field::MemoryUtilization], used)?;
        }
        if self.is_due(due, Field::MemoryUsed) {
            let memory = device.memory_info().map(|memory| [memory.used, memory.free]);
            self.note_both(sample, [Field::MemoryUsed, Field::MemoryFree], memory)?;
        }
        for (field, call) in &CALLS {
            if self.is_due(due, *field) {
                self.note(sample, *field, call(device))?;
            }
        }
        self.read_numbered(device, due, sample)?;
        for (field, counter) in &links::COUNTERS {
            if self.links_apart && self.is_due(due, *field) {
                self.note(sample, *field, links::errors(device, *counter))?;
            }
        }
        self.read_ratios(nvml, device, due, sample)?;
        if self.is_due(due, Field::Processes) {
            sample.processes.clear();
            let count = processes::read(device, &mut self.processes_since_micros).map(|(all, told)| {
                sample.processes = told;
                u64::try_from(all).unwrap_or(u64::MAX)
            });
            self.note(sample, Field::Processes, count)?;
        }
        Ok(())
    }

    fn read_numbered(&mut self, device: &Device<'_>, due: Due, sample: &mut Sample) -> Result<(), Stop> {
        let apart = |field| self.links_apart && links::COUNTERS.iter().any(|(link, _)| *link == field);
        let is_asked = |(field, _): &(Field, u32)| self.is_due(due, *field) && !apart(*field);
        let asked: Vec<(Field, u32)> = NUMBERED.iter().copied().filter(is_asked).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let ids: Vec<FieldId> = asked.iter().map(|(_, id)| FieldId(*id)).collect();
        match device.field_values_for(&ids) {
            Ok(answers) => {
                for ((field, _), answer) in asked.into_iter().zip(answers) {
                    self.note(sample, field, answer.and_then(|answer| number(answer.value)))?;
                }
            }
            Err(error) => {
                let failure = Failure::of(&error);
                for (field, _) in asked {
                    self.fail(sample, field, failure)?;
                }
            }
        }
        Ok(())
    }

    /// Ratios between the counters as they are now and as they were at the last call; nothing yet at the first.
    fn read_ratios(
        &mut self,
        nvml: &'a Nvml,
        device: &Device<'a>,
        due: Due,
        sample: &mut Sample,
    ) -> Result<(), Stop> {
        let asked: Vec<_> = RATIOS.iter().filter(|(field, ..)| self.is_due(due, *field)).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let answers = match (device.gpm_support(), self.counters.take()) {
            (Ok(false), _) => Err(NvmlError::NotSupported),
            (Err(error), _) => Err(error),
            (Ok(true), before) => device.gpm_sample().and_then(|now| {
                let ids: Vec<GpmMetricId> = asked.iter().map(|(_, id, _)| *id).collect();
                let answers = before.map(|before| gpm_metrics_get(nvml, &before, &now, &ids));
                self.counters = Some(now);
                answers.unwrap_or(Err(NvmlError::NoData))
            }),
        };
        match answers {
            Ok(answers) => {
                for ((field, _, unit), answer) in asked.into_iter().zip(answers) {
                    self.note(sample, *field, answer.and_then(|answer| whole(answer.value * unit)))?;
                }
            }
            Err(error) => {
                let failure = Failure::of(&error);
                for (field, ..) in asked {
                    self.fail(sample, *field, failure)?;
                }
            }
        }
        Ok(())
    }

    fn is_due(&self, due: Due, field: Field) -> bool {
        due.includes(field) && self.lacks & bit(field) == 0
    }

    fn note(&mut self, sample: &mut Sample, field: Field, answer: Answer) -> Result<(), Stop> {
        match answer {
            Ok(value) => {
                sample.set(field, plausible::unsigned(field, value));
                Ok(())
            }
            Err(error) => self.fail(sample, field, Failure::of(&error)),
        }
    }

    /// Two values of one call; what went wrong is told of both.
    fn note_both(
        &mut self,
        sample: &mut Sample,
        fields: [Field; 2],
        answer: Result<[u64; 2], NvmlError>,
    ) -> Result<(), Stop> {
        match answer {
            Ok(values) => {
                for (field, value) in fields.into_iter().zip(values) {
                    sample.set(field, plausible::unsigned(field, value));
                }
                Ok(())
            }
            Err(error) => {
                let failure = Failure::of(&error);
                fields.into_iter().try_for_each(|field| self.fail(sample, field, failure))
            }
        }
    }

    fn fail(&mut self, sample: &mut Sample, field: Field, failure: Failure) -> Result<(), Stop> {
        let absent = match failure {
            Failure::Broken => return Err(Stop::Broken),
            Failure::Lost => return Err(Stop::Lost),
            Failure::Field(Absent::NotSupported) => {
                self.lacks |= bit(field);
                self.lacking(field)
            }
            Failure::Field(absent) => absent,
        };
        sample.set(field, Err(absent));
        Ok(())
    }

    fn lacking(&self, field: Field) -> Absent {
        let by_mode = self.divided && self.place.part.is_none() && NOT_DIVIDED.contains(&field);
        if by_mode { Absent::NotInThisMode } else { Absent::NotSupported }
    }
}

fn bit(field: Field) -> u128 {
    1 << field.index()
}

const _: () = assert!(skerry_gpu_model::field::FIELDS <= 128, "a field has a bit");

fn number(value: Result<SampleValue, NvmlError>) -> Answer {
    match value? {
        SampleValue::U32(value) => Ok(value.into()),
        SampleValue::U64(value) => Ok(value),
        // One below 0 is no value of any field that is asked for.
        SampleValue::I64(value) => Ok(u64::try_from(value).unwrap_or(u64::MAX)),
        SampleValue::F64(value) => whole(value),
    }
}

/// The next whole number. What is none, as after a division by 0, is not there yet.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in bounds")]
fn whole(value: f64) -> Answer {
    if !value.is_finite() {
        return Err(NvmlError::NoData);
    }
    Ok(if (0.0..9e18).contains(&value) { value.round() as u64 } else { u64::MAX })
}
