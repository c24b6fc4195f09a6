//! Values by field number (`nvmlDeviceGetFieldValues`); the numbers are `NVML_FI_DEV_...`.

use super::{
    card::{whole, whole_u64},
    view::{ErrorKind, View},
};
use crate::code::{Answer, Code};

/// A value with its C type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    U32(u32),
    U64(u64),
    I32(i32),
}

/// All links together, as the scope of a field of links.
const ALL_LINKS: u32 = u32::MAX;

/// Fields that count errors of one link, by kind as in `nvmlNvLinkErrorCounter_t`: the first of links 0 to 5, that of all links, and
/// the first of links 6 to 11. Those of ECC are in one row.
const LINK_ERRORS: &[(u32, u32, u32, u32)] =
    &[(2, 32, 38, 96), (3, 39, 45, 102), (0, 46, 52, 108), (1, 53, 59, 114), (4, 148, 160, 154)];

/// NVLink of Hopper.
const HOPPER_VERSION: u32 = 4;

/// Some fields from 251 on got other numbers with driver 580.82; here all have those of before.
pub(crate) fn of_driver(version: &str, id: u32) -> u32 {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match id {
        _ if version < (580, 82) => id,
        251..=268 => id + 5,
        269..=273 => id - 18,
        _ => id,
    }
}

fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

/// The value of a field; `scope` is a link where the field is of one.
///
/// # Errors
/// `NOT_SUPPORTED`: the card has no such field, or it is not simulated.
pub(crate) fn value(view: &View<'_>, id: u32, scope: u32) -> Answer<Value> {
    let ecc = |uncorrected, aggregate| view.ecc_errors(ErrorKind { uncorrected, aggregate });
    let flag = |flag: bool| Ok(Value::U32(u32::from(flag)));
    let count = |count: usize| Ok(Value::U32(u32::try_from(count).unwrap_or(u32::MAX)));
    let held = |policy| view.held_back_ns(policy).map(Value::U64);
    let ns = |seconds: f64| Ok(Value::U64(whole_u64(seconds * 1e9)));
    let (card, power) = (view.card, &view.card.profile.power);
    match id {
        1 | 2 => flag(view.ecc()?),
        3 | 11 => ecc(false, false).map(Value::U64),
        4 | 12 => ecc(true, false).map(Value::U64),
        5 | 22 => ecc(false, true).map(Value::U64),
        6 | 23 => ecc(true, true).map(Value::U64),
        // Of caches and registers; errors are simulated in the device's memory.
        7..=10 | 13..=21 | 24..=28 => ecc(false, false).map(|_| Value::U64(0)),
        29 => count(view.retired(false)?.len()),
        30 => count(view.retired(true)?.len()),
        31 | 92 | 93 => flag(view.retirement_pending()?),
        74 => held(0),
        75 => held(1),
        76 => held(2),
        77 => held(3),
        78 => held(4),
        79 => held(5),
        80 => held(10),
        81 => held(11),
        82 if card.profile.memory_temperature => Ok(Value::U32(whole(card.memory_temperature_c()))),
        83 | 191 => Ok(Value::U64(view.energy_mj())),
        94 => Ok(Value::U32(view.control.map_or(0, |control| control.pcie_replays))),
        95 => Ok(Value::U32(0)),
        142 => Ok(Value::U32(view.remapped()?.corrected)),
        143 => Ok(Value::U32(view.remapped()?.uncorrected)),
        144 => flag(view.remapped()?.pending),
        145 => flag(view.remapped()?.failed),
        // nvml.h: averaged over a second on Ampere (except GA100) or newer, and now on all.
        185 if !card.profile.averages_power() => Err(Code::NOT_SUPPORTED),
        185 | 186 => Ok(Value::U32(view.power_mw())),
        187 => Ok(Value::U32(power.limit_min_w * 1000)),
        188 => Ok(Value::U32(power.limit_max_w * 1000)),
        189 => Ok(Value::U32(power.limit_w * 1000)),
        190 | 192 => Ok(Value::U32(view.limit_mw())),
        193..=196 => margin(view, id),
        197 => Ok(Value::U64(whole_u64(card.work.pcie_tx_bytes))),
        198 => Ok(Value::U64(whole_u64(card.work.pcie_rx_bytes))),
        // `nvidia-smi -q` shows "GPU Recovery Action: None" of Volta, Turing and Hopper alike, from driver 565 on.
        230 if major(&view.driver.control().driver.version) >= 565 => Ok(Value::U32(0)),
        251 => ns(card.held_back.sw_thermal),
        252 => ns(card.held_back.hw_thermal),
        253 => ns(0.0),
        _ => of_links(view, id, scope),
    }
}

/// How far above the most that it may have in operation a Hopper's limits are, as degrees below 0. That of memory is told of the memory's own: `nvidia-smi -q`
/// of an H100 (driver 565.57.01) shows T.Limits of -8 (shutdown), -2 (slowdown), 0 (operation) and 0 (memory).
fn margin(view: &View<'_>, id: u32) -> Answer<Value> {
    let temperature = &view.card.profile.temperature;
    if !view.card.profile.gpm {
        return Err(Code::NOT_SUPPORTED);
    }
    let limit = match id {
        193 => temperature.shutdown_c,
        194 => temperature.slowdown_c,
        195 => return temperature.memory_max_c.map(|_| Value::I32(0)).ok_or(Code::NOT_SUPPORTED),
        _ => temperature.max_operating_c,
    };
    let left = i64::from(temperature.max_operating_c) - i64::from(limit);
    Ok(Value::I32(i32::try_from(left).unwrap_or(0)))
}

fn of_links(view: &View<'_>, id: u32, scope: u32) -> Answer<Value> {
    let nvlink = view.card.profile.nvlink.as_ref().ok_or(Code::NOT_SUPPORTED)?;
    let one = |link: u32| if link < nvlink.links { Ok(link) } else { Err(Code::INVALID_ARGUMENT) };
    let speed = |link: u32| -> Answer<Value> {
        let up = view.nvlink_up(one(link).map_err(|_| Code::NOT_SUPPORTED)?)?;
        Ok(Value::U32(if up { nvlink.speed_mbps } else { 0 }))
    };
    // In KiB; the links of a card share what it sends.
    let part = if scope == ALL_LINKS { 1.0 } else { 1.0 / f64::from(nvlink.links) };
    let kib = |bytes: f64| {
        if scope != ALL_LINKS {
            one(scope)?;
        }
        Ok(Value::U64(whole_u64(bytes * part / 1024.0)))
    };
    match id {
        84..=89 => speed(id - 84),
        90 => Ok(Value::U32(nvlink.speed_mbps)),
        91 => Ok(Value::U32(nvlink.links)),
        132..=137 => speed(id - 126),
        138 | 140 => kib(view.card.work.nvlink_tx_bytes),
        139 | 141 => kib(view.card.work.nvlink_rx_bytes),
        161 => view.nvlink_errors(scope, 0).map(Value::U64),
        162 => view.nvlink_errors(scope, 1).map(Value::U64),
        163 => view.nvlink_errors(scope, 2).map(Value::U64),
        164 => speed(one(scope)?),
        165 => Ok(Value::U32(u32::from(view.nvlink_up(one(scope)?)?))),
        166 => one(scope).map(|_| Value::U32(nvlink.version)),
        _ => {
            let kinds = LINK_ERRORS.iter().find_map(|(kind, low, total, high)| match id {
                _ if id == *total => Some((*kind, 0)),
                _ if (*low..low + 6).contains(&id) => Some((*kind, id - low)),
                _ if (*high..high + 6).contains(&id) => Some((*kind, id - high + 6)),
                _ => None,
            });
            let (kind, link) = kinds.ok_or(Code::NOT_SUPPORTED)?;
            // From Hopper on they succeed and say 0: DataDog/datadog-agent, pull request 55966, "add Hopper NVLink error metrics".
            if nvlink.version >= HOPPER_VERSION {
                return Ok(Value::U64(0));
            }
            view.nvlink_errors(link, kind).map(Value::U64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_newer_drivers_are_those_of_before() {
        assert_eq!(of_driver("570.133.20", 251), 251);
        assert_eq!(of_driver("580.65.06", 256), 256);
        // What `nvml-wrapper` makes of a number for such a driver comes back.
        let translated = |id| match id {
            251..=255 => id + 18,
            256..=273 => id - 5,
            other => other,
        };
        for id in 0..300 {
            assert_eq!(of_driver("580.82.07", translated(id)), id);
        }
    }
}
