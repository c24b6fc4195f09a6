//! The catalogue of fields, and their names elsewhere.
//!
//! Numbers and names are those of `Field` in `proto/skerry/gpu/v1/field.proto`, which says what each is; a test holds the two together. Numbers,
//! units and steps stand in frames and on disks and never change. Cadence and threshold may.
//!
//! Names at DCGM are those of its field identifiers (`dcgm_fields.h`) in the units in which dcgm-exporter writes them (its `default-counters.csv` and
//! `dcp-metrics-included.csv`): MiB, W, mJ, ns, and ratios of 0 to 1 for what begins with `DCGM_FI_PROF_`. Those at OpenTelemetry are of the semantic conventions
//! for hardware (`hw.*`, status: development); what they have no name for has none here.

use std::fmt;

use skerry_proto::gpu::v1::Field as Wire;

/// In what a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Hundredths of a whole.
    Percent,
    /// Thousandths of a whole.
    Permille,
    /// Bytes.
    Bytes,
    /// Bytes in a second.
    BytesPerSecond,
    /// Degrees Celsius.
    Celsius,
    /// Thousandths of a watt.
    Milliwatts,
    /// Thousandths of a joule.
    Millijoules,
    /// Millions of cycles in a second.
    Megahertz,
    /// Thousandths of a second.
    Milliseconds,
    /// Things: errors, pages, processes.
    Count,
    /// A state by its number, or several as bits.
    State,
}

impl Unit {
    /// What is written behind a value: `%`, `B/s`. Empty where a number says it all.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Percent => "%",
            Self::Permille => "‰",
            Self::Bytes => "B",
            Self::BytesPerSecond => "B/s",
            Self::Celsius => "°C",
            Self::Milliwatts => "mW",
            Self::Millijoules => "mJ",
            Self::Megahertz => "MHz",
            Self::Milliseconds => "ms",
            Self::Count | Self::State => "",
        }
    }
}

/// How a value moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Up and down.
    Gauge,
    /// Up, and to 0 when the driver is loaded anew.
    Counter,
    /// From one state to another; between two there is nothing.
    State,
}

/// How often a value is read: by what reading it costs, and by what is lost if it is read seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cadence {
    /// Every second.
    Second,
    /// Every ten seconds.
    TenSeconds,
    /// Every minute.
    Minute,
}

impl Cadence {
    /// In seconds.
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
        }
    }
}

/// How our value becomes another's: times `times`, by `by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Multiplied by it.
    pub times: i64,
    /// Divided by it.
    pub by: i64,
}

impl Scale {
    const ONE: Self = Self { times: 1, by: 1 };

    const fn times(times: i64) -> Self {
        Self { times, by: 1 }
    }

    const fn by(by: i64) -> Self {
        Self { times: 1, by }
    }

    /// The value in the other's unit.
    pub fn apply(self, value: i64) -> f64 {
        if self.times == 1 {
            value as f64 / self.by as f64
        } else {
            value as f64 * self.times as f64 / self.by as f64
        }
    }
}

/// A metric of DCGM. Its type is `counter` for [`Kind::Counter`] and `gauge` for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dcgm {
    /// The metric: `DCGM_FI_DEV_GPU_UTIL`.
    pub name: &'static str,
    /// From our unit to its.
    pub scale: Scale,
}

/// A metric of OpenTelemetry's semantic conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Otel {
    /// The metric: `hw.gpu.utilization`.
    pub name: &'static str,
    /// Its instrument.
    pub instrument: Instrument,
    /// Its unit, as UCUM writes it.
    pub unit: &'static str,
    /// From our unit to its.
    pub scale: Scale,
    /// Attributes that tell this field from others under the same name. (`hw.type` is `gpu`, and `hw.id` the UUID, for all.)
    pub attributes: &'static [(&'static str, &'static str)],
}

/// An instrument of OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instrument {
    /// `Gauge`.
    Gauge,
    /// `Counter`.
    Counter,
    /// `UpDownCounter`.
    UpDownCounter,
}

/// What the catalogue says of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Stable number: on the wire, on disks.
    pub number: u32,
    /// Stable name in snake_case, ending in the unit where it has one.
    pub name: &'static str,
    /// In what it counts.
    pub unit: Unit,
    /// How it moves.
    pub kind: Kind,
    /// How often it is read.
    pub cadence: Cadence,
    /// The least difference from what was last sent that is sent at once, in the field's unit. At least `step`.
    pub threshold: i64,
    /// What one step on the wire is worth, in the field's unit.
    pub step: i64,
    /// Its name at DCGM.
    pub dcgm: Option<Dcgm>,
    /// Its name at OpenTelemetry.
    pub otel: Option<Otel>,
}

impl Spec {
    const fn new(unit: Unit, kind: Kind) -> Self {
        let cadence = Cadence::Second;
        Self { number: 0, name: "", unit, kind, cadence, threshold: 1, step: 1, dcgm: None, otel: None }
    }

    const fn gauge(unit: Unit) -> Self {
        Self::new(unit, Kind::Gauge)
    }

    const fn counter(unit: Unit) -> Self {
        Self::new(unit, Kind::Counter)
    }

    const fn state() -> Self {
        Self::new(Unit::State, Kind::State)
    }

    const fn ratio() -> Self {
        Self::gauge(Unit::Permille).told(20, 10)
    }

    const fn held(milliseconds_name: &'static str) -> Self {
        // NVML, and so DCGM, counts in nanoseconds.
        Self::counter(Unit::Milliseconds).told(10, 1).dcgm(milliseconds_name, Scale::times(1_000_000))
    }

    const fn told(mut self, threshold: i64, step: i64) -> Self {
        self.threshold = threshold;
        self.step = step;
        self
    }

    const fn dcgm(mut self, name: &'static str, scale: Scale) -> Self {
        self.dcgm = Some(Dcgm { name, scale });
        self
    }

    const fn otel(mut self, otel: Otel) -> Self {
        self.otel = Some(otel);
        self
    }

    const fn listed(mut self, number: u32, name: &'static str) -> Self {
        self.number = number;
        self.name = name;
        self.cadence = match number {
            0..30 => Cadence::Second,
            30..60 => Cadence::TenSeconds,
            _ => Cadence::Minute,
        };
        self
    }
}

const fn utilization(attributes: &'static [(&'static str, &'static str)]) -> Otel {
    let name = "hw.gpu.utilization";
    Otel { name, instrument: Instrument::Gauge, unit: "1", scale: Scale::by(100), attributes }
}

const fn temperature(name: &'static str, attributes: &'static [(&'static str, &'static str)]) -> Otel {
    Otel { name, instrument: Instrument::Gauge, unit: "Cel", scale: Scale::ONE, attributes }
}

const fn errors(attributes: &'static [(&'static str, &'static str)]) -> Otel {
    let name = "hw.errors";
    Otel { name, instrument: Instrument::Counter, unit: "{error}", scale: Scale::ONE, attributes }
}

const MEMORY_USAGE: Otel = Otel {
    name: "hw.gpu.memory.usage",
    instrument: Instrument::UpDownCounter,
    unit: "By",
    scale: Scale::ONE,
    attributes: &[],
};
const POWER: Otel = Otel {
    name: "hw.power",
    instrument: Instrument::Gauge,
    unit: "W",
    scale: Scale::by(1000),
    attributes: &[],
};
const ENERGY: Otel = Otel {
    name: "hw.energy",
    instrument: Instrument::Counter,
    unit: "J",
    scale: Scale::by(1000),
    attributes: &[],
};
const FAN: Otel = Otel {
    name: "hw.fan.speed_ratio",
    instrument: Instrument::Gauge,
    unit: "1",
    scale: Scale::by(100),
    attributes: &[],
};

const MIB: i64 = 1 << 20;
/// Memory is given out in pages of 64 KiB at least.
const MEMORY: Spec = Spec::gauge(Unit::Bytes).told(MIB, MIB / 16);
const CLOCK: Spec = Spec::gauge(Unit::Megahertz).told(15, 1);
const PERCENT: Spec = Spec::gauge(Unit::Percent).told(2, 1);
const DEGREES: Spec = Spec::gauge(Unit::Celsius);
const LIMIT: Spec = Spec::gauge(Unit::Milliwatts).told(1000, 100);
const RATE: Spec = Spec::gauge(Unit::BytesPerSecond).told(1_000_000, 100_000);
const COUNT: Spec = Spec::counter(Unit::Count);

macro_rules! catalogue {
    ($($(#[$doc:meta])* $field:ident = $number:literal, $name:literal: $spec:expr;)*) => {
        /// What is measured. See `Field` in `proto/skerry/gpu/v1/field.proto`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Field {
            $($(#[$doc])* $field = $number),*
        }

        /// How many fields there are.
        pub const FIELDS: usize = [$($number),*].len();

        impl Field {
            /// All fields, by number.
            pub const ALL: [Self; FIELDS] = [$(Self::$field),*];
        }

        static SPECS: [Spec; FIELDS] = [$($spec.listed($number, $name)),*];
    };
}

catalogue! {
    /// How much of the time a kernel ran.
    GpuUtilization = 1, "gpu_utilization_percent": PERCENT.dcgm("DCGM_FI_DEV_GPU_UTIL", Scale::ONE).otel(utilization(&[("hw.gpu.task", "general")]));
    /// How much of the time memory was read or written.
    MemoryUtilization = 2, "memory_utilization_percent": PERCENT.dcgm("DCGM_FI_DEV_MEM_COPY_UTIL", Scale::ONE);
    /// How busy the video encoders are.
    EncoderUtilization = 3, "encoder_utilization_percent": PERCENT.dcgm("DCGM_FI_DEV_ENC_UTIL", Scale::ONE).otel(utilization(&[("hw.gpu.task", "encoder")]));
    /// How busy the video decoders are.
    DecoderUtilization = 4, "decoder_utilization_percent": PERCENT.dcgm("DCGM_FI_DEV_DEC_UTIL", Scale::ONE).otel(utilization(&[("hw.gpu.task", "decoder")]));
    /// Memory in use, without what is reserved.
    MemoryUsed = 5, "memory_used_bytes": MEMORY.dcgm("DCGM_FI_DEV_FB_USED", Scale::by(MIB)).otel(MEMORY_USAGE);
    /// Memory that nobody has.
    MemoryFree = 6, "memory_free_bytes": MEMORY.dcgm("DCGM_FI_DEV_FB_FREE", Scale::by(MIB));
    /// Temperature of the chip.
    Temperature = 7, "temperature_celsius": DEGREES.dcgm("DCGM_FI_DEV_GPU_TEMP", Scale::ONE).otel(temperature("hw.temperature", &[("hw.sensor_location", "gpu")]));
    /// Temperature of the memory.
    MemoryTemperature = 8, "memory_temperature_celsius": DEGREES.dcgm("DCGM_FI_DEV_MEMORY_TEMP", Scale::ONE).otel(temperature("hw.temperature", &[("hw.sensor_location", "memory")]));
    /// What the board draws.
    Power = 9, "power_milliwatts": LIMIT.dcgm("DCGM_FI_DEV_POWER_USAGE", Scale::by(1000)).otel(POWER);
    /// Clock of the multiprocessors.
    SmClock = 10, "sm_clock_megahertz": CLOCK.dcgm("DCGM_FI_DEV_SM_CLOCK", Scale::ONE);
    /// Clock of the memory.
    MemoryClock = 11, "memory_clock_megahertz": CLOCK.dcgm("DCGM_FI_DEV_MEM_CLOCK", Scale::ONE);
    /// Why clocks are held down, as bits: see [`throttle`].
    ThrottleReasons = 12, "throttle_reasons": Spec::state().dcgm("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", Scale::ONE);
    /// 0, the fastest, to 15.
    PerformanceState = 13, "performance_state": Spec::state().dcgm("DCGM_FI_DEV_PSTATE", Scale::ONE);
    /// Of the fastest fan.
    FanSpeed = 14, "fan_speed_percent": PERCENT.dcgm("DCGM_FI_DEV_FAN_SPEED", Scale::ONE).otel(FAN);
    /// Activity of the graphics or compute engine.
    GraphicsActivity = 15, "graphics_activity_permille": Spec::ratio().dcgm("DCGM_FI_PROF_GR_ENGINE_ACTIVE", Scale::by(1000));
    /// Activity of the multiprocessors.
    SmActivity = 16, "sm_activity_permille": Spec::ratio().dcgm("DCGM_FI_PROF_SM_ACTIVE", Scale::by(1000));
    /// Warps that were resident.
    SmOccupancy = 17, "sm_occupancy_permille": Spec::ratio().dcgm("DCGM_FI_PROF_SM_OCCUPANCY", Scale::by(1000));
    /// Activity of tensor pipes.
    TensorActivity = 18, "tensor_activity_permille": Spec::ratio().dcgm("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", Scale::by(1000));
    /// Activity of the memory interface.
    DramActivity = 19, "dram_activity_permille": Spec::ratio().dcgm("DCGM_FI_PROF_DRAM_ACTIVE", Scale::by(1000));
    /// Activity of pipes for 64 bit floating point.
    Fp64Activity = 20, "fp64_activity_permille": Spec::ratio().dcgm("DCGM_FI_PROF_PIPE_FP64_ACTIVE", Scale::by(1000));
    /// Activity of pipes for 32 bit floating point.
    Fp32Activity = 21, "fp32_activity_permille": Spec::ratio().dcgm("DCGM_FI_PROF_PIPE_FP32_ACTIVE", Scale::by(1000));
    /// Activity of pipes for 16 bit floating point.
    Fp16Activity = 22, "fp16_activity_permille": Spec::ratio().dcgm("DCGM_FI_PROF_PIPE_FP16_ACTIVE", Scale::by(1000));
    /// Processes that have a context.
    Processes = 23, "processes": Spec::gauge(Unit::Count);

    /// Memory of driver and firmware.
    MemoryReserved = 30, "memory_reserved_bytes": MEMORY.dcgm("DCGM_FI_DEV_FB_RESERVED", Scale::by(MIB));
    /// The power limit that is set.
    PowerLimit = 31, "power_limit_milliwatts": LIMIT.dcgm("DCGM_FI_DEV_POWER_MGMT_LIMIT", Scale::by(1000));
    /// The power limit that holds.
    PowerEnforcedLimit = 32, "power_enforced_limit_milliwatts": LIMIT.dcgm("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", Scale::by(1000));
    /// Energy since the driver was loaded.
    Energy = 33, "energy_millijoules": Spec::counter(Unit::Millijoules).told(1000, 1000).dcgm("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", Scale::ONE).otel(ENERGY);
    /// Clock of the graphics engine.
    GraphicsClock = 34, "graphics_clock_megahertz": CLOCK;
    /// Clock of the video engines.
    VideoClock = 35, "video_clock_megahertz": CLOCK.dcgm("DCGM_FI_DEV_VIDEO_CLOCK", Scale::ONE);
    /// From the device over PCIe.
    PcieTransmit = 36, "pcie_transmit_bytes_per_second": RATE.dcgm("DCGM_FI_PROF_PCIE_TX_BYTES", Scale::ONE);
    /// To the device over PCIe.
    PcieReceive = 37, "pcie_receive_bytes_per_second": RATE.dcgm("DCGM_FI_PROF_PCIE_RX_BYTES", Scale::ONE);
    /// From the device over NVLinks.
    NvlinkTransmit = 38, "nvlink_transmit_bytes_per_second": RATE.dcgm("DCGM_FI_PROF_NVLINK_TX_BYTES", Scale::ONE);
    /// To the device over NVLinks.
    NvlinkReceive = 39, "nvlink_receive_bytes_per_second": RATE.dcgm("DCGM_FI_PROF_NVLINK_RX_BYTES", Scale::ONE);
    /// Time held down for the power limit.
    ThrottlePower = 40, "throttle_power_milliseconds": Spec::held("DCGM_FI_DEV_POWER_VIOLATION");
    /// Time held down for the temperature.
    ThrottleThermal = 41, "throttle_thermal_milliseconds": Spec::held("DCGM_FI_DEV_THERMAL_VIOLATION");
    /// Time held down to boost with others.
    ThrottleSyncBoost = 42, "throttle_sync_boost_milliseconds": Spec::held("DCGM_FI_DEV_SYNC_BOOST_VIOLATION");
    /// Time held down for a limit of the board.
    ThrottleBoardLimit = 43, "throttle_board_limit_milliseconds": Spec::held("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION");
    /// Time held down for want of work.
    ThrottleLowUtilization = 44, "throttle_low_utilization_milliseconds": Spec::held("DCGM_FI_DEV_LOW_UTIL_VIOLATION");
    /// Time held down for reliability.
    ThrottleReliability = 45, "throttle_reliability_milliseconds": Spec::held("DCGM_FI_DEV_RELIABILITY_VIOLATION");
    /// Time below the clocks that applications asked for.
    ThrottleApplicationClocks = 46, "throttle_application_clocks_milliseconds": Spec::held("DCGM_FI_DEV_TOTAL_APP_CLOCKS_VIOLATION");
    /// Time below the base clocks.
    ThrottleBaseClocks = 47, "throttle_base_clocks_milliseconds": Spec::held("DCGM_FI_DEV_TOTAL_BASE_CLOCKS_VIOLATION");
    /// Packets that PCIe sent again.
    PcieReplays = 48, "pcie_replays": COUNT.dcgm("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", Scale::ONE).otel(errors(&[("error.type", "pcie_replay")]));
    /// Generation of the PCIe link.
    PcieLinkGeneration = 49, "pcie_link_generation": Spec::state().dcgm("DCGM_FI_DEV_PCIE_LINK_GEN", Scale::ONE);
    /// Lanes of the PCIe link.
    PcieLinkWidth = 50, "pcie_link_width": Spec::state().dcgm("DCGM_FI_DEV_PCIE_LINK_WIDTH", Scale::ONE);

    /// Corrected memory errors since the driver was loaded.
    EccCorrected = 60, "ecc_corrected": COUNT.dcgm("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", Scale::ONE).otel(errors(&[("error.type", "corrected")]));
    /// Uncorrected memory errors since the driver was loaded.
    EccUncorrected = 61, "ecc_uncorrected": COUNT.dcgm("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", Scale::ONE).otel(errors(&[("error.type", "uncorrected")]));
    /// Corrected memory errors in the device's life.
    EccCorrectedAggregate = 62, "ecc_corrected_aggregate": COUNT.dcgm("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", Scale::ONE);
    /// Uncorrected memory errors in the device's life.
    EccUncorrectedAggregate = 63, "ecc_uncorrected_aggregate": COUNT.dcgm("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", Scale::ONE);
    /// Pages retired for corrected errors.
    RetiredPagesCorrected = 64, "retired_pages_corrected": COUNT.dcgm("DCGM_FI_DEV_RETIRED_SBE", Scale::ONE);
    /// Pages retired for uncorrected errors.
    RetiredPagesUncorrected = 65, "retired_pages_uncorrected": COUNT.dcgm("DCGM_FI_DEV_RETIRED_DBE", Scale::ONE);
    /// Whether pages are retired at the next reset.
    RetiredPagesPending = 66, "retired_pages_pending": Spec::state().dcgm("DCGM_FI_DEV_RETIRED_PENDING", Scale::ONE);
    /// Rows replaced for corrected errors.
    RemappedRowsCorrected = 67, "remapped_rows_corrected": COUNT.dcgm("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", Scale::ONE);
    /// Rows replaced for uncorrected errors.
    RemappedRowsUncorrected = 68, "remapped_rows_uncorrected": COUNT.dcgm("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", Scale::ONE);
    /// Whether a row is replaced at the next reset.
    RowRemapPending = 69, "row_remap_pending": Spec::state().dcgm("DCGM_FI_DEV_ROW_REMAP_PENDING", Scale::ONE);
    /// Whether a row could not be replaced.
    RowRemapFailure = 70, "row_remap_failure": Spec::state().dcgm("DCGM_FI_DEV_ROW_REMAP_FAILURE", Scale::ONE);
    /// Errors of the flow control of NVLinks.
    NvlinkCrcFlitErrors = 71, "nvlink_crc_flit_errors": COUNT.dcgm("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", Scale::ONE).otel(errors(&[("error.type", "nvlink_crc_flit")]));
    /// Errors in data on NVLinks.
    NvlinkCrcDataErrors = 72, "nvlink_crc_data_errors": COUNT.dcgm("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", Scale::ONE).otel(errors(&[("error.type", "nvlink_crc_data")]));
    /// What NVLinks sent again.
    NvlinkReplayErrors = 73, "nvlink_replay_errors": COUNT.dcgm("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", Scale::ONE).otel(errors(&[("error.type", "nvlink_replay")]));
    /// How often NVLinks had to recover.
    NvlinkRecoveryErrors = 74, "nvlink_recovery_errors": COUNT.dcgm("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", Scale::ONE).otel(errors(&[("error.type", "nvlink_recovery")]));
    /// Where the hardware slows the chip down.
    TemperatureSlowdown = 75, "temperature_slowdown_celsius": DEGREES.dcgm("DCGM_FI_DEV_SLOWDOWN_TEMP", Scale::ONE).otel(temperature("hw.temperature.limit", &[("hw.sensor_location", "gpu"), ("hw.limit_type", "high.degraded")]));
    /// Where the hardware turns the chip off.
    TemperatureShutdown = 76, "temperature_shutdown_celsius": DEGREES.dcgm("DCGM_FI_DEV_SHUTDOWN_TEMP", Scale::ONE).otel(temperature("hw.temperature.limit", &[("hw.sensor_location", "gpu"), ("hw.limit_type", "high.critical")]));
    /// Up to where the memory may be used.
    MemoryTemperatureMax = 77, "memory_temperature_max_celsius": DEGREES.dcgm("DCGM_FI_DEV_MEM_MAX_OP_TEMP", Scale::ONE).otel(temperature("hw.temperature.limit", &[("hw.sensor_location", "memory"), ("hw.limit_type", "high.degraded")]));
    /// The power limit where nobody set one.
    PowerDefaultLimit = 78, "power_default_limit_milliwatts": LIMIT.dcgm("DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF", Scale::by(1000));
    /// The lowest power limit.
    PowerMinLimit = 79, "power_min_limit_milliwatts": LIMIT.dcgm("DCGM_FI_DEV_POWER_MGMT_LIMIT_MIN", Scale::by(1000));
    /// The highest power limit.
    PowerMaxLimit = 80, "power_max_limit_milliwatts": LIMIT.dcgm("DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX", Scale::by(1000));
    /// What the driver wants done before the device is used again.
    RecoveryAction = 81, "recovery_action": Spec::state();
}

/// No field has this number.
const NONE: u8 = u8::MAX;
/// The place of each number in `Field::ALL`.
static PLACES: [u8; 256] = places();

const fn places() -> [u8; 256] {
    let mut places = [NONE; 256];
    let mut at = 0u8;
    while (at as usize) < FIELDS {
        places[Field::ALL[at as usize] as usize] = at;
        at += 1;
    }
    places
}

impl Field {
    /// What the catalogue says of it.
    pub fn spec(self) -> &'static Spec {
        &SPECS[self.index()]
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Its place in [`Field::ALL`].
    pub fn index(self) -> usize {
        usize::from(PLACES[self as usize])
    }

    /// The field with this number. `None`: of a newer catalogue, or of none.
    pub fn from_number(number: u32) -> Option<Self> {
        let place = *PLACES.get(usize::try_from(number).ok()?)?;
        Self::ALL.get(usize::from(place)).copied()
    }

    /// The field with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// As it is on the API.
    pub fn to_wire(self) -> Wire {
        Wire::try_from(i32::from(self as u8)).unwrap_or(Wire::Unspecified)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bits of [`Field::ThrottleReasons`], which are NVML's.
pub mod throttle {
    /// Nothing runs.
    pub const IDLE: i64 = 1;
    /// An application set the clocks.
    pub const APPLICATION_CLOCKS: i64 = 1 << 1;
    /// The power limit, in software.
    pub const POWER_CAP: i64 = 1 << 2;
    /// The hardware slows it down: heat, power brake, or too much drawn.
    pub const HARDWARE_SLOWDOWN: i64 = 1 << 3;
    /// It boosts together with others.
    pub const SYNC_BOOST: i64 = 1 << 4;
    /// Too hot, in software.
    pub const SOFTWARE_THERMAL: i64 = 1 << 5;
    /// Too hot, in hardware.
    pub const HARDWARE_THERMAL: i64 = 1 << 6;
    /// The power supply asked for it.
    pub const POWER_BRAKE: i64 = 1 << 7;
    /// A display set the clocks.
    pub const DISPLAY_CLOCKS: i64 = 1 << 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_what_names_it() {
        for field in Field::ALL {
            assert_eq!(Field::from_number(field.number()), Some(field));
            assert_eq!(Field::from_name(field.name()), Some(field));
            assert_eq!(Field::ALL[field.index()], field);
            assert_eq!(field.to_wire() as i32, field.number().cast_signed());
        }
        for number in [0, 24, 59, 255, 256, u32::MAX] {
            assert_eq!(Field::from_number(number), None, "{number}");
        }
    }

    #[test]
    fn what_is_on_the_wire_is_never_coarser_than_what_is_promised() {
        for field in Field::ALL {
            let spec = field.spec();
            assert!(spec.step >= 1 && spec.step <= spec.threshold, "{field}");
            assert!(spec.kind != Kind::State || spec.threshold == 1, "{field}: a state is told as it is");
        }
    }

    #[test]
    fn scales_give_the_units_of_others() {
        let dcgm = |field: Field, value| field.spec().dcgm.expect("it is at DCGM").scale.apply(value);
        let otel =
            |field: Field, value| field.spec().otel.expect("it is at OpenTelemetry").scale.apply(value);
        let same = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(same(dcgm(Field::MemoryUsed, 40_536 << 20), 40_536.0));
        assert!(same(dcgm(Field::Power, 251_300), 251.3));
        assert!(same(dcgm(Field::Energy, 5_000), 5_000.0));
        assert!(same(dcgm(Field::ThrottlePower, 7), 7_000_000.0));
        assert!(same(dcgm(Field::SmActivity, 930), 0.93));
        assert!(same(otel(Field::GpuUtilization, 42), 0.42));
        assert!(same(otel(Field::Energy, 5_000), 5.0));
        assert!(same(otel(Field::MemoryUsed, 1 << 30), 1_073_741_824.0));
    }

    #[test]
    fn names_elsewhere_tell_fields_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for field in Field::ALL {
            if let Some(dcgm) = field.spec().dcgm {
                assert!(dcgm.name.starts_with("DCGM_FI_") && seen.insert(dcgm.name.to_owned()), "{field}");
            }
            if let Some(otel) = field.spec().otel {
                let full = format!("{} {:?}", otel.name, otel.attributes);
                assert!(otel.name.starts_with("hw.") && seen.insert(full), "{field}");
            }
        }
    }
}
