//! Each card: who it is, that its figures are plausible, and what it does not support.

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::{device::ThrottleReasons, event::EventTypes},
    enum_wrappers::device::{
        Brand, Clock, EccCounter, MemoryError, MemoryLocation, PcieUtilCounter, PerformancePolicy,
        RetirementCause, TemperatureSensor, TemperatureThreshold,
    },
    enum_wrappers::nv_link::ErrorCounter,
    enums::{
        device::{DeviceArchitecture, SampleValue},
        gpm::GpmMetricId,
    },
    error::NvmlError,
    gpm::gpm_metrics_get,
    structs::device::FieldId,
};
use skerry_nvml_sim::{DeviceControl, Load, Percent, Shape};

use crate::machine::{Machine, becomes, of, until};

/// What is known of a card: its name, MiB, architecture, cores, capability, watts, links, whether it is partitioned, has GPM, a fan,
/// retires pages, remaps rows, has a sensor in its memory.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether a card can do a thing")]
struct Known {
    profile: &'static str,
    name: &'static str,
    memory_mib: u64,
    architecture: DeviceArchitecture,
    cores: u32,
    capability: (i32, i32),
    limit_w: u32,
    pcie: (u32, u32),
    links: u32,
    mig: bool,
    gpm: bool,
    fans: u32,
    retires: bool,
    remaps: bool,
    memory_sensor: bool,
}

const T4: Known = Known {
    profile: "t4",
    name: "Tesla T4",
    memory_mib: 15_360,
    architecture: DeviceArchitecture::Turing,
    cores: 2_560,
    capability: (7, 5),
    limit_w: 70,
    pcie: (3, 16),
    links: 0,
    mig: false,
    gpm: false,
    fans: 0,
    retires: true,
    remaps: false,
    memory_sensor: false,
};

fn known() -> Vec<Known> {
    let ampere =
        Known { architecture: DeviceArchitecture::Ampere, pcie: (4, 16), retires: false, remaps: true, ..T4 };
    let hopper = Known {
        architecture: DeviceArchitecture::Hopper,
        cores: 16_896,
        capability: (9, 0),
        limit_w: 700,
        pcie: (5, 16),
        links: 18,
        mig: true,
        gpm: true,
        retires: false,
        remaps: true,
        memory_sensor: true,
        ..T4
    };
    vec![
        Known {
            profile: "a10",
            name: "NVIDIA A10",
            memory_mib: 23_028,
            cores: 9_216,
            capability: (8, 6),
            limit_w: 150,
            ..ampere.clone()
        },
        Known {
            profile: "a4000",
            name: "NVIDIA RTX A4000",
            memory_mib: 16_376,
            cores: 6_144,
            capability: (8, 6),
            limit_w: 140,
            fans: 1,
            ..ampere.clone()
        },
        Known {
            profile: "a100",
            name: "NVIDIA A100-SXM4-80GB",
            memory_mib: 81_920,
            cores: 6_912,
            capability: (8, 0),
            limit_w: 400,
            links: 12,
            mig: true,
            memory_sensor: true,
            ..ampere.clone()
        },
        Known { profile: "h100", name: "NVIDIA H100 80GB HBM3", memory_mib: 81_559, ..hopper.clone() },
        Known { profile: "h200", name: "NVIDIA H200", memory_mib: 143_771, ..hopper.clone() },
        T4,
    ]
}

/// Always so busy, and at full load without noise: it would now and then be less than what takes a card to its limit.
fn busy(index: u32, gpu: u8) -> DeviceControl {
    let load = Load {
        shape: Shape::Steady,
        gpu_percent: Some(Percent::saturating(gpu)),
        noise_percent: (gpu == 100).then_some(Percent::ZERO),
        ..Load::default()
    };
    DeviceControl { load: Some(load), ..DeviceControl::of(index) }
}

fn field(device: &Device<'_>, id: u32) -> Result<SampleValue, NvmlError> {
    device.field_values_for(&[FieldId(id)]).expect("asked").remove(0).expect("a value").value
}

#[expect(clippy::needless_pass_by_value, reason = "it reads better where it is asked")]
fn unsupported<T>(answer: Result<T, NvmlError>) -> bool {
    matches!(answer, Err(NvmlError::NotSupported))
}

#[test]
fn each_card_is_who_it_is_and_its_figures_are_plausible() {
    let cards = known();
    let spec: Vec<_> = cards.iter().map(|card| card.profile).collect();
    let mut control = of(&spec.join("+"));
    control.device = (0..).zip(&cards).map(|(index, _)| busy(index, 70)).collect();
    let machine = Machine::new(control);
    let nvml = machine.nvml();
    assert_eq!(nvml.sys_driver_version().expect("told"), "570.133.20");
    assert_eq!(nvml.sys_nvml_version().expect("told"), "12.570.133.20");
    assert_eq!(nvml.sys_cuda_driver_version().expect("told"), 12_080);
    assert_eq!(nvml.device_count().expect("told"), 6);
    let mut seen = std::collections::HashSet::new();
    for (index, known) in (0..).zip(&cards) {
        let device = nvml.device_by_index(index).expect("there");
        identity(&nvml, &device, index, known);
        sensors(&device, known);
        memory(&device, known);
        links(&device, known);
        for name in [device.uuid(), device.serial(), device.pci_info().map(|pci| pci.bus_id)] {
            assert!(seen.insert(name.expect("told")), "a name of its own");
        }
    }
    assert!(matches!(nvml.device_by_index(6), Err(NvmlError::InvalidArg)));
}

fn identity(nvml: &Nvml, device: &Device<'_>, index: u32, known: &Known) {
    assert_eq!(device.index().expect("told"), index);
    assert_eq!(device.minor_number().expect("told"), index);
    assert_eq!(device.name().expect("told"), known.name);
    assert_eq!(device.architecture().expect("told"), known.architecture);
    assert_eq!(device.num_cores().expect("told"), known.cores);
    let capability = device.cuda_compute_capability().expect("told");
    assert_eq!((capability.major, capability.minor), known.capability);
    let brand = if known.profile == "a4000" { Brand::NvidiaRTX } else { Brand::Nvidia };
    assert_eq!(device.brand().expect("told"), brand);
    assert!(device.is_in_persistent_mode().expect("told"));
    assert!(
        !device.vbios_version().expect("told").is_empty()
            && !device.board_part_number().expect("told").is_empty()
    );
    let pci = device.pci_info().expect("told");
    assert_eq!(pci.pci_device_id & 0xffff, 0x10de);
    for found in [
        nvml.device_by_uuid(device.uuid().expect("told")),
        nvml.device_by_pci_bus_id(pci.bus_id.as_str()),
        nvml.device_by_pci_bus_id(&pci.bus_id[4..]),
    ] {
        assert_eq!(found.expect("found").index().expect("told"), index);
    }
}

fn sensors(device: &Device<'_>, known: &Known) {
    let used = device.utilization_rates().expect("told");
    assert!((60..=80).contains(&used.gpu) && (25..=45).contains(&used.memory), "{}: {used:?}", known.name);
    assert_eq!(device.encoder_utilization().expect("told").utilization, 0);
    let limit = device.power_management_limit().expect("told");
    assert_eq!(limit, known.limit_w * 1000);
    assert_eq!(device.enforced_power_limit().expect("told"), limit);
    assert_eq!(device.power_management_limit_default().expect("told"), limit);
    let bounds = device.power_management_limit_constraints().expect("told");
    assert!(bounds.min_limit < bounds.max_limit && (bounds.min_limit..=bounds.max_limit).contains(&limit));
    let power = device.power_usage().expect("told");
    assert!((limit / 2..=limit * 102 / 100).contains(&power), "{}: {power} mW", known.name);
    let degrees = device.temperature(TemperatureSensor::Gpu).expect("told");
    let threshold = |which| device.temperature_threshold(which).expect("told");
    assert!(40 < degrees && degrees < threshold(TemperatureThreshold::GpuMax), "{}: {degrees} C", known.name);
    assert!(threshold(TemperatureThreshold::Slowdown) < threshold(TemperatureThreshold::Shutdown));
    let earlier = device.total_energy_consumption().expect("told");
    assert!(earlier > 0);
    for clock in [Clock::Graphics, Clock::SM, Clock::Memory, Clock::Video] {
        let (is, most) =
            (device.clock_info(clock).expect("told"), device.max_clock_info(clock).expect("told"));
        assert!(most / 3 < is && is <= most, "{}: {is} of {most} MHz", known.name);
    }
    let reasons = device.current_throttle_reasons().expect("told");
    assert!(!reasons.contains(ThrottleReasons::GPU_IDLE), "{reasons:?}");
    assert!(device.supported_throttle_reasons().expect("told").contains(reasons));
    assert!(
        device.violation_status(PerformancePolicy::Power).expect("told").reference_time
            > 1_600_000_000_000_000
    );
    if known.fans == 0 {
        assert!(unsupported(device.num_fans()) && unsupported(device.fan_speed(0)));
    } else {
        assert_eq!(device.num_fans().expect("told"), known.fans);
        assert!((30..=100).contains(&device.fan_speed(0).expect("told")));
        assert!((1000..5000).contains(&device.fan_speed_rpm(0).expect("told")));
        assert!(matches!(device.fan_speed(known.fans), Err(NvmlError::InvalidArg)));
    }
    match field(device, 82) {
        Ok(SampleValue::U32(memory)) => {
            assert!(known.memory_sensor && (degrees..100).contains(&memory), "{memory}");
        }
        answer => assert!(!known.memory_sensor && unsupported(answer), "{}", known.name),
    }
    match field(device, 191) {
        Ok(SampleValue::U64(energy)) => {
            let later = device.total_energy_consumption().expect("told");
            assert!((earlier..=later).contains(&energy), "{earlier} {energy} {later} mJ");
        }
        answer => panic!("{answer:?}"),
    }
}

fn memory(device: &Device<'_>, known: &Known) {
    let memory = device.memory_info().expect("told");
    assert_eq!(memory.total, known.memory_mib << 20);
    assert_eq!(memory.total, memory.used + memory.free + memory.reserved);
    assert!(memory.reserved > 0 && memory.used > memory.total / 4, "{memory:?}");
    let bar1 = device.bar1_memory_info().expect("told");
    assert!(bar1.total >= 256 << 20 && bar1.used + bar1.free == bar1.total);
    let ecc = device.is_ecc_enabled().expect("told").currently_enabled;
    assert_eq!(ecc, known.profile != "a4000");
    let errors = device.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile);
    if ecc {
        assert_eq!(errors.expect("told"), 0);
    } else {
        assert!(unsupported(errors));
    }
    let retired = device.retired_pages(RetirementCause::DoubleBitEccError);
    if known.retires {
        assert!(retired.expect("told").is_empty());
    } else {
        assert!(unsupported(retired));
    }
    for id in 142..=145 {
        match field(device, id) {
            Ok(value) => assert!(known.remaps && matches!(value, SampleValue::U32(0))),
            answer => assert!(!known.remaps && unsupported(answer)),
        }
    }
}

fn links(device: &Device<'_>, known: &Known) {
    let pcie = [device.max_pcie_link_gen(), device.current_pcie_link_gen()]
        .map(|generation| generation.expect("told"));
    assert_eq!(pcie, [known.pcie.0; 2], "busy, so at full speed");
    assert_eq!(device.current_pcie_link_width().expect("told"), known.pcie.1);
    for counter in [PcieUtilCounter::Send, PcieUtilCounter::Receive] {
        let kbs = device.pcie_throughput(counter).expect("told");
        assert!((1_000..64_000_000).contains(&kbs), "{kbs} KB/s");
    }
    assert_eq!(device.pcie_replay_counter().expect("told"), 0);
    let up = (0..32)
        .map(|link| device.link_wrapper_for(link).is_active())
        .take_while(|up| matches!(up, Ok(true)))
        .count();
    assert_eq!(u32::try_from(up).expect("few"), known.links);
    if known.links == 0 {
        assert!(unsupported(device.link_wrapper_for(0).version()) && unsupported(field(device, 91)));
    } else {
        assert!(matches!(device.link_wrapper_for(known.links).version(), Err(NvmlError::InvalidArg)));
        assert!(matches!(field(device, 91), Ok(SampleValue::U32(links)) if links == known.links));
    }
    assert_eq!(device.mig_mode().is_ok(), known.mig);
    assert_eq!(device.gpm_support().expect("told"), known.gpm);
    assert!(device.supported_event_types().expect("told").contains(EventTypes::CRITICAL_XID_ERROR));
}

#[test]
fn an_orin_says_who_it_is_and_little_else() {
    let machine = Machine::of("orin");
    let nvml = machine.nvml();
    let device = nvml.device_by_index(0).expect("there");
    assert_eq!(device.name().expect("told"), "Orin (nvgpu)");
    assert!(device.uuid().expect("told").starts_with("GPU-"));
    let capability = device.cuda_compute_capability().expect("told");
    assert_eq!((capability.major, capability.minor), (8, 7));
    assert!(unsupported(device.memory_info()) && unsupported(device.utilization_rates()));
    assert!(unsupported(device.power_usage()) && unsupported(device.temperature(TemperatureSensor::Gpu)));
    assert!(unsupported(device.pci_info()) && unsupported(device.serial()));
    assert!(unsupported(device.running_compute_processes()) && unsupported(device.supported_event_types()));
    assert!(unsupported(device.field_values_for(&[FieldId(82)]).map(|_| ())));
    let set = nvml.create_event_set().expect("a set");
    let refused = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).expect_err("no events");
    assert!(matches!(refused.error, NvmlError::NotSupported));
}

#[test]
fn idle_and_busy_cards_differ() {
    let mut control = of("t4x2");
    let idle = Load { shape: Shape::Idle, ..Load::default() };
    control.device = vec![DeviceControl { load: Some(idle), ..DeviceControl::of(0) }, busy(1, 100)];
    let machine = Machine::new(control);
    let nvml = machine.nvml();
    let [idle, busy] = [0, 1].map(|index| nvml.device_by_index(index).expect("there"));
    assert_eq!(idle.utilization_rates().expect("told").gpu, 0);
    assert!(idle.power_usage().expect("told") < 12_000 && busy.power_usage().expect("told") > 60_000);
    assert!(idle.current_throttle_reasons().expect("told").contains(ThrottleReasons::GPU_IDLE));
    assert!(busy.current_throttle_reasons().expect("told").contains(ThrottleReasons::SW_POWER_CAP));
    assert!(busy.violation_status(PerformancePolicy::Power).expect("told").violation_time > 1_000_000_000);
    assert_eq!(idle.current_pcie_link_gen().expect("told"), 1);
    assert!(idle.memory_info().expect("told").used < 16 << 20);
}

#[test]
fn counters_rise_as_time_goes_on_and_heat_slows_a_card_down() {
    let mut machine = Machine::new(of("a10"));
    machine.control.device = vec![busy(0, 100)];
    machine.change(|_| {});
    let nvml = machine.nvml();
    let device = nvml.device_by_index(0).expect("there");
    let before = device.total_energy_consumption().expect("told");
    machine.change(|control| control.time_offset_ms = 3_600_000);
    let energy =
        until(|| device.total_energy_consumption().expect("told") - before, |energy| *energy > 400_000_000);
    // An hour at about 150 W: 540 kJ.
    assert!((480_000_000..560_000_000).contains(&energy), "{energy} mJ");
    assert!(!device.current_throttle_reasons().expect("told").contains(ThrottleReasons::SW_THERMAL_SLOWDOWN));
    machine.change(|control| {
        control.time_offset_ms += 600_000;
        control.device[0].ambient_c = Some(75);
    });
    becomes(
        || device.current_throttle_reasons().expect("told"),
        |reasons| reasons.contains(ThrottleReasons::SW_THERMAL_SLOWDOWN),
    );
    assert!(
        device.violation_status(PerformancePolicy::Thermal).expect("told").violation_time > 1_000_000_000
    );
    let shutdown = device.temperature_threshold(TemperatureThreshold::Shutdown).expect("told");
    assert!(device.temperature(TemperatureSensor::Gpu).expect("told") < shutdown);
}

#[test]
fn errors_of_memory_and_of_links_are_those_of_the_file() {
    let mut control = of("t4+a100+h100");
    control.device = vec![busy(0, 10), busy(1, 10), busy(2, 10)];
    control.device[2].nvlink.replays = 6;
    control.device[0].ecc.uncorrected = 3;
    control.device[0].retired_pages.double_bit = 2;
    control.device[0].retired_pages.pending = true;
    control.device[0].pcie_replays = 9;
    control.device[1].ecc.corrected_aggregate = 7;
    control.device[1].remapped_rows.uncorrected = 4;
    control.device[1].remapped_rows.failed = true;
    control.device[1].nvlink.down = vec![5];
    control.device[1].nvlink.replays = 6;
    let machine = Machine::new(control);
    let nvml = machine.nvml();
    let [t4, a100, h100] = [0, 1, 2].map(|index| nvml.device_by_index(index).expect("there"));
    let errors = |device: &Device<'_>, error, counter| device.total_ecc_errors(error, counter).expect("told");
    assert_eq!(errors(&t4, MemoryError::Uncorrected, EccCounter::Volatile), 3);
    assert_eq!(errors(&t4, MemoryError::Corrected, EccCounter::Volatile), 0);
    assert_eq!(errors(&a100, MemoryError::Corrected, EccCounter::Aggregate), 7);
    let place =
        |place| t4.memory_error_counter(MemoryError::Uncorrected, EccCounter::Volatile, place).expect("told");
    assert_eq!((place(MemoryLocation::Device), place(MemoryLocation::L2Cache)), (3, 0));
    let pages = t4.retired_pages(RetirementCause::DoubleBitEccError).expect("told");
    assert!(pages.len() == 2 && pages[0].address != pages[1].address && pages[0].timestamp > 1_600_000_000);
    assert!(t4.are_pages_pending_retired().expect("told"));
    assert_eq!(t4.pcie_replay_counter().expect("told"), 9);
    assert!(
        matches!(field(&a100, 143), Ok(SampleValue::U32(4)))
            && matches!(field(&a100, 145), Ok(SampleValue::U32(1)))
    );
    assert!(
        !a100.link_wrapper_for(5).is_active().expect("told")
            && a100.link_wrapper_for(4).is_active().expect("told")
    );
    assert!(matches!(field(&a100, 52), Ok(SampleValue::U64(6))), "replays of all links");
    assert!(matches!(field(&h100, 52), Ok(SampleValue::U64(0))), "Hopper counts them link by link alone");
    let of_link = |link| h100.link_wrapper_for(link).error_counter(ErrorCounter::DlReplay).expect("told");
    assert_eq!((of_link(0), of_link(17)), (6, 0));
    assert!(matches!(field(&h100, 161), Ok(SampleValue::U64(6))), "of link 0, where none is named");
}

#[test]
fn a_newer_driver_has_other_numbers_for_some_fields() {
    for version in ["570.133.20", "580.82.07"] {
        let mut control = of("h100");
        control.driver.version = version.to_owned();
        control.device = vec![DeviceControl { ambient_c: Some(85), ..busy(0, 100) }];
        let machine = Machine::new(control);
        let nvml = machine.nvml();
        let device = nvml.device_by_index(0).expect("there");
        // Time held back for heat, by the number that the wrapper knows.
        let Ok(SampleValue::U64(held)) = field(&device, 251) else {
            panic!("{version}: {:?}", field(&device, 251))
        };
        assert!(held > 1_000_000_000, "{version}: {held}");
    }
}

#[test]
fn hopper_has_ratios_of_activity_and_turing_has_none() {
    let mut control = of("h100+t4");
    control.device = vec![busy(0, 60)];
    let mut machine = Machine::new(control);
    let nvml = machine.nvml();
    let [h100, t4] = [0, 1].map(|index| nvml.device_by_index(index).expect("there"));
    assert!(matches!(t4.gpm_sample(), Err(NvmlError::NotSupported)));
    let earlier = h100.gpm_sample().expect("taken");
    machine.change(|control| control.time_offset_ms = 20_000);
    let ids = [
        GpmMetricId::GraphicsUtil,
        GpmMetricId::SmUtil,
        GpmMetricId::PcieRxPerSec,
        GpmMetricId::NvlinkL3TxPerSec,
    ];
    let metrics = until(
        || gpm_metrics_get(&nvml, &earlier, &h100.gpm_sample().expect("taken"), &ids).expect("told"),
        |metrics| metrics[0].as_ref().is_ok_and(|metric| metric.value > 0.0),
    );
    let [graphics, multiprocessors, received] = [0, 1, 2].map(|at| metrics[at].as_ref().expect("told"));
    assert!((50.0..70.0).contains(&graphics.value) && multiprocessors.value < graphics.value, "{metrics:?}");
    assert!(received.value > 1.0 && received.metric_info.unit == "MiB/sec");
    assert!(matches!(metrics[3], Err(NvmlError::NotSupported)));
    earlier.free().expect("freed");
}
