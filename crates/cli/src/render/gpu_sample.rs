//! A sample of a GPU as people read it: in units of daily life, by groups, and why something is not there.

use std::collections::BTreeMap;

use skerry_proto::gpu::v1::{AbsentFields, AbsentReason, Field, Process, Sample};

use crate::render::time;

/// What belongs together: what the group is called, and what each of its fields is.
type Group = (&'static str, &'static [(&'static str, Field)]);

const GROUPS: &[Group] = &[
    (
        "Utilisation",
        &[
            ("GPU", Field::GpuUtilizationPercent),
            ("memory", Field::MemoryUtilizationPercent),
            ("encoder", Field::EncoderUtilizationPercent),
            ("decoder", Field::DecoderUtilizationPercent),
        ],
    ),
    (
        "Activity",
        &[
            ("engine", Field::GraphicsActivityPermille),
            ("SM", Field::SmActivityPermille),
            ("SM occupancy", Field::SmOccupancyPermille),
            ("tensor", Field::TensorActivityPermille),
            ("memory", Field::DramActivityPermille),
            ("FP64", Field::Fp64ActivityPermille),
            ("FP32", Field::Fp32ActivityPermille),
            ("FP16", Field::Fp16ActivityPermille),
        ],
    ),
    (
        "Memory",
        &[
            ("used", Field::MemoryUsedBytes),
            ("free", Field::MemoryFreeBytes),
            ("reserved", Field::MemoryReservedBytes),
        ],
    ),
    (
        "Temperature",
        &[
            ("chip", Field::TemperatureCelsius),
            ("memory", Field::MemoryTemperatureCelsius),
            ("slows down at", Field::TemperatureSlowdownCelsius),
            ("turns off at", Field::TemperatureShutdownCelsius),
            ("memory at most", Field::MemoryTemperatureMaxCelsius),
            ("fan", Field::FanSpeedPercent),
        ],
    ),
    (
        "Power",
        &[
            ("draws", Field::PowerMilliwatts),
            ("limit", Field::PowerEnforcedLimitMilliwatts),
            ("set", Field::PowerLimitMilliwatts),
            ("usual", Field::PowerDefaultLimitMilliwatts),
            ("lowest", Field::PowerMinLimitMilliwatts),
            ("highest", Field::PowerMaxLimitMilliwatts),
            ("energy", Field::EnergyMillijoules),
        ],
    ),
    (
        "Clocks",
        &[
            ("SM", Field::SmClockMegahertz),
            ("memory", Field::MemoryClockMegahertz),
            ("graphics", Field::GraphicsClockMegahertz),
            ("video", Field::VideoClockMegahertz),
            ("state", Field::PerformanceState),
            ("lowered for", Field::ThrottleReasons),
        ],
    ),
    (
        "Lowered for",
        &[
            ("power", Field::ThrottlePowerMilliseconds),
            ("heat", Field::ThrottleThermalMilliseconds),
            ("others' boost", Field::ThrottleSyncBoostMilliseconds),
            ("board", Field::ThrottleBoardLimitMilliseconds),
            ("want of work", Field::ThrottleLowUtilizationMilliseconds),
            ("reliability", Field::ThrottleReliabilityMilliseconds),
            ("below what was asked for", Field::ThrottleApplicationClocksMilliseconds),
            ("below base", Field::ThrottleBaseClocksMilliseconds),
        ],
    ),
    (
        "PCIe",
        &[
            ("sends", Field::PcieTransmitBytesPerSecond),
            ("receives", Field::PcieReceiveBytesPerSecond),
            ("generation", Field::PcieLinkGeneration),
            ("lanes", Field::PcieLinkWidth),
            ("replays", Field::PcieReplays),
        ],
    ),
    (
        "NVLink",
        &[
            ("sends", Field::NvlinkTransmitBytesPerSecond),
            ("receives", Field::NvlinkReceiveBytesPerSecond),
            ("flit errors", Field::NvlinkCrcFlitErrors),
            ("data errors", Field::NvlinkCrcDataErrors),
            ("replays", Field::NvlinkReplayErrors),
            ("recoveries", Field::NvlinkRecoveryErrors),
        ],
    ),
    (
        "ECC",
        &[
            ("corrected", Field::EccCorrected),
            ("uncorrected", Field::EccUncorrected),
            ("corrected ever", Field::EccCorrectedAggregate),
            ("uncorrected ever", Field::EccUncorrectedAggregate),
        ],
    ),
    (
        "Retired pages",
        &[
            ("corrected", Field::RetiredPagesCorrected),
            ("uncorrected", Field::RetiredPagesUncorrected),
            ("at the next reset", Field::RetiredPagesPending),
        ],
    ),
    (
        "Replaced rows",
        &[
            ("corrected", Field::RemappedRowsCorrected),
            ("uncorrected", Field::RemappedRowsUncorrected),
            ("at the next reset", Field::RowRemapPending),
            ("failed", Field::RowRemapFailure),
        ],
    ),
    ("Other", &[("processes", Field::Processes), ("the driver asks for", Field::RecoveryAction)]),
];

/// Why clocks are low, by bit.
const THROTTLES: [(i64, &str); 9] = [
    (1, "idle"),
    (2, "an application's wish"),
    (4, "the power cap"),
    (8, "hardware"),
    (16, "others' boost"),
    (32, "heat"),
    (64, "heat (hardware)"),
    (128, "the power brake"),
    (256, "a display"),
];

/// The value of a field.
pub(crate) fn value(sample: &Sample, field: Field) -> Option<i64> {
    sample.values.iter().find(|one| one.field == field as i32).map(|one| one.value)
}

/// Why a field is not there.
fn absence(sample: &Sample, field: Field) -> &'static str {
    let named = sample.absent.iter().find(|absent| absent.fields.contains(&(field as i32)));
    match named.map_or(AbsentReason::Unspecified, AbsentFields::reason) {
        AbsentReason::Unspecified => "not told",
        AbsentReason::NotYet => "not read yet",
        AbsentReason::NotSupported => "not supported",
        AbsentReason::NoPermission => "not allowed",
        AbsentReason::Lost => "device lost",
        AbsentReason::DriverError => "driver error",
        AbsentReason::TimedOut => "timed out",
        AbsentReason::Implausible => "implausible",
        AbsentReason::NotInThisMode => "not in this mode",
    }
}

/// A line for each group: what it is called, and what is in it.
pub(crate) fn groups(sample: &Sample) -> Vec<(&'static str, String)> {
    GROUPS.iter().map(|(title, fields)| (*title, group(sample, fields))).collect()
}

/// `used 1.0 GiB, free 3.0 GiB; not supported: reserved`.
fn group(sample: &Sample, fields: &[(&'static str, Field)]) -> String {
    let mut there = Vec::new();
    let mut absent: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for &(label, field) in fields {
        match value(sample, field) {
            Some(value) => there.push(format!("{label} {}", shown(field, value))),
            None => absent.entry(absence(sample, field)).or_default().push(label),
        }
    }
    if there.is_empty() && absent.len() == 1 {
        return absent.into_keys().collect();
    }
    let absent = absent.into_iter().map(|(why, which)| format!("{why}: {}", which.join(", ")));
    let there = (!there.is_empty()).then(|| there.join(", "));
    there.into_iter().chain(absent).collect::<Vec<_>>().join("; ")
}

/// A value with its unit, which is in the field's name.
pub(crate) fn shown(field: Field, value: i64) -> String {
    match field {
        Field::ThrottleReasons => return throttles(value),
        Field::PerformanceState => return format!("P{value}"),
        Field::RecoveryAction => return recovery(value),
        Field::RetiredPagesPending | Field::RowRemapPending | Field::RowRemapFailure => {
            return if value == 0 { "no" } else { "yes" }.to_owned();
        }
        _ => {}
    }
    let name = field.as_str_name();
    let in_unit = |unit: &str| name.ends_with(unit);
    let bytes = || time::bytes(u64::try_from(value).unwrap_or(0));
    if in_unit("_PERCENT") {
        format!("{value} %")
    } else if in_unit("_PERMILLE") {
        format!("{}.{} %", value / 10, value % 10)
    } else if in_unit("_BYTES") {
        bytes()
    } else if in_unit("_BYTES_PER_SECOND") {
        format!("{}/s", bytes())
    } else if in_unit("_CELSIUS") {
        format!("{value} °C")
    } else if in_unit("_MILLIWATTS") {
        watts(value)
    } else if in_unit("_MILLIJOULES") {
        watt_hours(value)
    } else if in_unit("_MEGAHERTZ") {
        format!("{value} MHz")
    } else if in_unit("_MILLISECONDS") {
        duration(value)
    } else {
        value.to_string()
    }
}

/// `250 W`, to the watt where it is that many.
pub(crate) fn watts(milliwatts: i64) -> String {
    if milliwatts.abs() < 10_000 {
        return format!("{}.{} W", milliwatts / 1000, milliwatts.abs() % 1000 / 100);
    }
    format!("{} W", (milliwatts + 500) / 1000)
}

fn watt_hours(millijoules: i64) -> String {
    let tenths = millijoules / 360_000;
    if tenths < 10_000 {
        format!("{}.{} Wh", tenths / 10, tenths % 10)
    } else {
        format!("{}.{} kWh", tenths / 10_000, tenths % 10_000 / 1000)
    }
}

fn duration(milliseconds: i64) -> String {
    if milliseconds == 0 {
        return "0 s".to_owned();
    }
    if milliseconds < 120_000 {
        return format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100);
    }
    time::age(Some(&prost_types::Timestamp { seconds: 0, nanos: 0 }), milliseconds / 1000)
}

fn throttles(bits: i64) -> String {
    let known = THROTTLES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, word)| (*word).to_owned());
    let others = bits & !511;
    let others = (others != 0).then(|| format!("bits {others:#x}"));
    let all: Vec<String> = known.chain(others).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(" and ") }
}

fn recovery(action: i64) -> String {
    match action {
        0 => "nothing".to_owned(),
        1 => "reset the device".to_owned(),
        2 => "reboot the machine".to_owned(),
        3 => "stop what uses links to other devices".to_owned(),
        4 => "stop what uses links to other devices and reset the device".to_owned(),
        other => format!("action {other}"),
    }
}

/// Who a process is: its instance, else its command.
pub(crate) fn who(process: &Process) -> String {
    match (process.instance.as_str(), process.command.as_str()) {
        ("", "") => "-".to_owned(),
        ("", command) => command.to_owned(),
        (instance, _) => instance.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::gpu::v1::FieldValue;

    use super::*;

    #[test]
    fn every_field_of_the_catalogue_is_in_one_group() {
        let mut shown: Vec<i32> =
            GROUPS.iter().flat_map(|(_, fields)| fields.iter()).map(|(_, field)| *field as i32).collect();
        shown.sort_unstable();
        let all: Vec<i32> = (1..1000).filter(|number| Field::try_from(*number).is_ok()).collect();
        assert_eq!(shown, all);
    }

    #[test]
    fn values_have_units_of_daily_life() {
        let cases = [
            (Field::GpuUtilizationPercent, 83, "83 %"),
            (Field::SmActivityPermille, 123, "12.3 %"),
            (Field::MemoryUsedBytes, 12 << 30, "12.0 GiB"),
            (Field::PcieTransmitBytesPerSecond, 3 << 20, "3.0 MiB/s"),
            (Field::TemperatureCelsius, 63, "63 °C"),
            (Field::PowerMilliwatts, 250_600, "251 W"),
            (Field::PowerMilliwatts, 9_870, "9.8 W"),
            (Field::EnergyMillijoules, 3_600_000, "1.0 Wh"),
            (Field::EnergyMillijoules, 9_000_000_000, "2.5 kWh"),
            (Field::SmClockMegahertz, 1410, "1410 MHz"),
            (Field::ThrottlePowerMilliseconds, 0, "0 s"),
            (Field::ThrottlePowerMilliseconds, 1_250, "1.2 s"),
            (Field::ThrottlePowerMilliseconds, 600_000, "10m"),
            (Field::ThrottleReasons, 0, "nothing"),
            (Field::ThrottleReasons, 36, "the power cap and heat"),
            (Field::ThrottleReasons, 1 << 12, "bits 0x1000"),
            (Field::PerformanceState, 0, "P0"),
            (Field::RowRemapPending, 1, "yes"),
            (Field::EccCorrected, 7, "7"),
            (Field::RecoveryAction, 1, "reset the device"),
        ];
        for (field, value, expected) in cases {
            assert_eq!(shown(field, value), expected, "{field:?}");
        }
    }

    #[test]
    fn what_is_absent_says_why() {
        let fields = |fields: &[Field]| fields.iter().map(|field| *field as i32).collect();
        let sample = Sample {
            values: vec![FieldValue { field: Field::MemoryUsedBytes.into(), value: 1 << 30 }],
            absent: vec![
                AbsentFields {
                    reason: AbsentReason::NotSupported.into(),
                    fields: fields(&[Field::MemoryReservedBytes, Field::EccCorrected, Field::EccUncorrected]),
                },
                AbsentFields {
                    reason: AbsentReason::TimedOut.into(),
                    fields: fields(&[Field::MemoryFreeBytes]),
                },
                AbsentFields {
                    reason: AbsentReason::NotSupported.into(),
                    fields: fields(&[Field::EccCorrectedAggregate, Field::EccUncorrectedAggregate]),
                },
            ],
            ..Sample::default()
        };
        let lines: BTreeMap<&str, String> = groups(&sample).into_iter().collect();
        assert_eq!(lines["Memory"], "used 1.0 GiB; not supported: reserved; timed out: free");
        assert_eq!(lines["ECC"], "not supported");
        assert_eq!(lines["PCIe"], "not told");
    }
}
