//! Whether what the driver answered can be. Drivers write "not available" as all bits set, as -1, or as a number that no device ever had; none of them is
//! a value.

use skerry_gpu_model::field::Unit;
use skerry_gpu_model::{Absent, Field, Reading};

/// Fans may turn faster than their maker calls full.
const FAN_PERCENT_MAX: i64 = 200;
/// A ratio of two samples may come out a little above the whole; that is the whole.
const PERMILLE_SLACK: i64 = 1_050;
/// No device has 1 PiB, nor moves it in a second.
const BYTES_MAX: i64 = 1 << 50;
/// No board draws, or may draw, 20 kW.
const MILLIWATTS_MAX: i64 = 20_000_000;
const MEGAHERTZ_MAX: i64 = 20_000;
/// All bits of a `u32`, by which drivers say that there is no number.
const ALL_BITS: i64 = u32::MAX as i64;

/// A value that the driver answered, if it can be one.
pub(super) fn plausible(field: Field, value: i64) -> Reading {
    let most = match (field, field.spec().unit) {
        (Field::FanSpeed, _) => FAN_PERCENT_MAX,
        (_, Unit::Percent) => 100,
        (_, Unit::Permille) if (1_001..=PERMILLE_SLACK).contains(&value) => return Ok(1_000),
        (_, Unit::Permille) => 1_000,
        (_, Unit::Bytes | Unit::BytesPerSecond) => BYTES_MAX,
        (_, Unit::Celsius) => 200,
        (_, Unit::Milliwatts) => MILLIWATTS_MAX,
        (_, Unit::Megahertz) => MEGAHERTZ_MAX,
        // What counts up may pass that number in its life, and only then.
        (_, Unit::Millijoules | Unit::Milliseconds) => i64::MAX,
        (_, Unit::Count) => ALL_BITS - 1,
        (_, Unit::State) => state_max(field),
    };
    // What is off, or was never set, has a limit of 0 at some drivers.
    let least = i64::from(matches!(
        field,
        Field::PowerLimit | Field::PowerEnforcedLimit | Field::PowerDefaultLimit | Field::PowerMaxLimit
    ));
    if (least..=most).contains(&value) { Ok(value) } else { Err(Absent::Implausible) }
}

fn state_max(field: Field) -> i64 {
    match field {
        Field::PerformanceState => 15,
        Field::PcieLinkGeneration => 16,
        Field::PcieLinkWidth => 64,
        Field::RetiredPagesPending | Field::RowRemapPending | Field::RowRemapFailure => 1,
        Field::RecoveryAction => 255,
        _ => ALL_BITS - 1,
    }
}

/// The same of a number without a sign, of which all bits set is none.
pub(super) fn unsigned(field: Field, value: u64) -> Reading {
    i64::try_from(value).map_or(Err(Absent::Implausible), |value| plausible(field, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_sentinel_is_a_value() {
        for field in Field::ALL {
            assert_eq!(plausible(field, -1), Err(Absent::Implausible), "{field}");
            assert_eq!(unsigned(field, u64::MAX), Err(Absent::Implausible), "{field}");
            let counts = matches!(
                field.spec().unit,
                Unit::Millijoules | Unit::Milliseconds | Unit::Bytes | Unit::BytesPerSecond
            );
            assert!(counts || unsigned(field, u64::from(u32::MAX)).is_err(), "{field}");
        }
        assert_eq!(plausible(Field::PerformanceState, 32), Err(Absent::Implausible), "NVML_PSTATE_UNKNOWN");
        assert_eq!(plausible(Field::Temperature, 255), Err(Absent::Implausible));
        assert_eq!(plausible(Field::GpuUtilization, 101), Err(Absent::Implausible));
    }

    #[test]
    fn what_devices_show_is_a_value() {
        for (field, value) in [
            (Field::GpuUtilization, 100),
            (Field::FanSpeed, 110),
            (Field::MemoryUsed, 80 << 30),
            (Field::Temperature, 95),
            (Field::Power, 700_000),
            (Field::Energy, 1 << 45),
            (Field::MemoryFree, i64::from(u32::MAX)),
            (Field::PcieLinkWidth, 16),
        ] {
            assert_eq!(plausible(field, value), Ok(value), "{field}");
        }
        assert_eq!(plausible(Field::SmActivity, 1_003), Ok(1_000));
    }

    proptest! {
        #[test]
        fn a_value_is_told_as_it_is_or_as_the_whole(at in 0..skerry_gpu_model::field::FIELDS, value: i64) {
            let field = Field::ALL[at];
            if let Ok(told) = plausible(field, value) {
                prop_assert!(told == value || (field.spec().unit == Unit::Permille && told == 1_000));
            }
        }
    }
}
