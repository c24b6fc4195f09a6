//! What a device does and how it feels: utilisation, power, temperature, clocks, fans.

use std::ffi::{c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlClockId_t, nvmlClockType_t, nvmlDevice_t, nvmlEnableState_t, nvmlFanSpeedInfo_t, nvmlFieldValue_t,
    nvmlPerfPolicyType_t, nvmlPstates_t, nvmlReturn_t, nvmlTemperature_t, nvmlTemperatureSensors_t,
    nvmlTemperatureThresholds_t, nvmlUtilization_t, nvmlValue_t, nvmlViolationTime_t,
};

use super::{exports, pointers::Place};
use crate::{
    code::{Answer, Code},
    model::{
        card::{reason, whole},
        fields::{self, Value},
        view::View,
    },
};

/// Over which utilisation is measured, in microseconds.
const SAMPLED_US: u32 = 167_000;
/// At full speed.
const FAN_RPM: u32 = 4_200;
/// Of `nvmlTemperature_t` and `nvmlFanSpeedInfo_t`: the size and the version, 1.
const fn version_1<T>() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "structures of some bytes")]
    let size = size_of::<T>() as u32;
    size | (1 << 24)
}

exports! {
    device nvmlDeviceGetUtilizationRates(utilization: *mut nvmlUtilization_t) |view| {
        utilization.put(nvmlUtilization_t { gpu: whole(view.card.now.gpu), memory: whole(view.card.now.memory) })
    };
    device nvmlDeviceGetEncoderUtilization(utilization: *mut c_uint, period_us: *mut c_uint) |view| {
        utilization.put(whole(view.card.now.encoder))?;
        period_us.put(SAMPLED_US)
    };
    device nvmlDeviceGetDecoderUtilization(utilization: *mut c_uint, period_us: *mut c_uint) |view| {
        utilization.put(whole(view.card.now.decoder))?;
        period_us.put(SAMPLED_US)
    };
    device nvmlDeviceGetJpgUtilization(utilization: *mut c_uint, period_us: *mut c_uint) |_view| {
        utilization.put(0)?;
        period_us.put(SAMPLED_US)
    };
    device nvmlDeviceGetOfaUtilization(utilization: *mut c_uint, period_us: *mut c_uint) |_view| {
        utilization.put(0)?;
        period_us.put(SAMPLED_US)
    };

    device nvmlDeviceGetTemperature(sensor: nvmlTemperatureSensors_t, degrees: *mut c_uint) |view| {
        if sensor == 0 { degrees.put(whole(view.card.temperature_c)) } else { Err(Code::INVALID_ARGUMENT) }
    };
    device nvmlDeviceGetTemperatureV(temperature: *mut nvmlTemperature_t) |view| {
        let asked = temperature.get()?;
        if asked.version != version_1::<nvmlTemperature_t>() {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let degrees = c_int::try_from(whole(view.card.temperature_c)).map_err(|_| Code::UNKNOWN)?;
        temperature.put(nvmlTemperature_t { temperature: degrees, ..asked })
    };
    device nvmlDeviceGetTemperatureThreshold(
        threshold: nvmlTemperatureThresholds_t,
        degrees: *mut c_uint
    ) |view| {
        let limits = &view.card.profile.temperature;
        degrees.put(match threshold {
            0 => limits.shutdown_c,
            1 => limits.slowdown_c,
            2 => limits.memory_max_c.ok_or(Code::NOT_SUPPORTED)?,
            3 => limits.max_operating_c,
            4..=7 => return Err(Code::NOT_SUPPORTED),
            _ => return Err(Code::INVALID_ARGUMENT),
        })
    };

    device nvmlDeviceGetPowerUsage(milliwatts: *mut c_uint) |view| milliwatts.put(view.power_mw());
    device nvmlDeviceGetTotalEnergyConsumption(millijoules: *mut c_ulonglong) |view| {
        millijoules.put(view.energy_mj())
    };
    device nvmlDeviceGetPowerManagementMode(mode: *mut nvmlEnableState_t) |_view| mode.put(1);
    device nvmlDeviceGetPowerManagementLimit(milliwatts: *mut c_uint) |view| milliwatts.put(view.limit_mw());
    device nvmlDeviceGetEnforcedPowerLimit(milliwatts: *mut c_uint) |view| milliwatts.put(view.limit_mw());
    device nvmlDeviceGetPowerManagementDefaultLimit(milliwatts: *mut c_uint) |view| {
        milliwatts.put(view.card.profile.power.limit_w * 1000)
    };
    device nvmlDeviceGetPowerManagementLimitConstraints(least: *mut c_uint, most: *mut c_uint) |view| {
        least.put(view.card.profile.power.limit_min_w * 1000)?;
        most.put(view.card.profile.power.limit_max_w * 1000)
    };

    device nvmlDeviceGetClockInfo(kind: nvmlClockType_t, mhz: *mut c_uint) |view| mhz.put(view.clock(kind)?);
    device nvmlDeviceGetMaxClockInfo(kind: nvmlClockType_t, mhz: *mut c_uint) |view| {
        mhz.put(view.max_clock(kind)?)
    };
    device nvmlDeviceGetApplicationsClock(kind: nvmlClockType_t, mhz: *mut c_uint) |view| {
        mhz.put(view.max_clock(kind)?)
    };
    device nvmlDeviceGetDefaultApplicationsClock(kind: nvmlClockType_t, mhz: *mut c_uint) |view| {
        mhz.put(view.max_clock(kind)?)
    };
    device nvmlDeviceGetMaxCustomerBoostClock(kind: nvmlClockType_t, mhz: *mut c_uint) |view| {
        mhz.put(view.max_clock(kind)?)
    };
    device nvmlDeviceGetClock(kind: nvmlClockType_t, which: nvmlClockId_t, mhz: *mut c_uint) |view| match which {
        0 => mhz.put(view.clock(kind)?),
        1..=3 => mhz.put(view.max_clock(kind)?),
        _ => Err(Code::INVALID_ARGUMENT),
    };
    device nvmlDeviceGetPerformanceState(state: *mut nvmlPstates_t) |view| {
        state.put(view.performance_state())
    };
    device nvmlDeviceGetPowerState(state: *mut nvmlPstates_t) |view| state.put(view.performance_state());
    device nvmlDeviceGetCurrentClocksThrottleReasons(reasons: *mut c_ulonglong) |view| {
        reasons.put(view.card.reasons)
    };
    device nvmlDeviceGetCurrentClocksEventReasons(reasons: *mut c_ulonglong) |view| {
        reasons.put(view.card.reasons)
    };
    device nvmlDeviceGetSupportedClocksThrottleReasons(reasons: *mut c_ulonglong) |_view| {
        reasons.put(reason::ALL)
    };
    device nvmlDeviceGetSupportedClocksEventReasons(reasons: *mut c_ulonglong) |_view| {
        reasons.put(reason::ALL)
    };
    device nvmlDeviceGetViolationStatus(policy: nvmlPerfPolicyType_t, time: *mut nvmlViolationTime_t) |view| {
        // The reference is in microseconds, the time held back in nanoseconds.
        let held = view.held_back_ns(policy)?;
        time.put(nvmlViolationTime_t { referenceTime: view.driver.now_us(), violationTime: held })
    };

    device nvmlDeviceGetNumFans(fans: *mut c_uint) |view| match view.card.profile.fans {
        0 => Err(Code::NOT_SUPPORTED),
        count => fans.put(count),
    };
    device nvmlDeviceGetFanSpeed(percent: *mut c_uint) |view| percent.put(view.fan(0)?);
    device nvmlDeviceGetFanSpeed_v2(fan: c_uint, percent: *mut c_uint) |view| percent.put(view.fan(fan)?);
    device nvmlDeviceGetFanSpeedRPM(speed: *mut nvmlFanSpeedInfo_t) |view| {
        let asked = speed.get()?;
        if asked.version != version_1::<nvmlFanSpeedInfo_t>() {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        speed.put(nvmlFanSpeedInfo_t { speed: view.fan(asked.fan)? * FAN_RPM / 100, ..asked })
    };
    device nvmlDeviceGetMinMaxFanSpeed(least: *mut c_uint, most: *mut c_uint) |view| {
        view.fan(0)?;
        least.put(30)?;
        most.put(100)
    };

    device nvmlDeviceGetFieldValues(count: c_int, values: *mut nvmlFieldValue_t) |view| {
        field_values(view, count, &values)
    };
}

fn field_values(view: &View<'_>, count: c_int, values: &Place<'_, nvmlFieldValue_t>) -> Answer<()> {
    let count = usize::try_from(count).map_err(|_| Code::INVALID_ARGUMENT)?;
    let driver = &view.driver.control().driver.version;
    values.each(count, |asked| {
        let id = fields::of_driver(driver, asked.fieldId);
        let timestamp = i64::try_from(view.driver.now_us()).unwrap_or(i64::MAX);
        let answered = nvmlFieldValue_t { timestamp, latencyUsec: 1, nvmlReturn: 0, ..asked };
        match fields::value(view, id, asked.scopeId) {
            Ok(Value::I32(value)) => {
                nvmlFieldValue_t { valueType: 5, value: nvmlValue_t { siVal: value }, ..answered }
            }
            Ok(Value::U32(value)) => {
                nvmlFieldValue_t { valueType: 1, value: nvmlValue_t { uiVal: value }, ..answered }
            }
            Ok(Value::U64(value)) => {
                nvmlFieldValue_t { valueType: 3, value: nvmlValue_t { ullVal: value }, ..answered }
            }
            Err(code) => nvmlFieldValue_t { nvmlReturn: code.number(), ..answered },
        }
    })
}
