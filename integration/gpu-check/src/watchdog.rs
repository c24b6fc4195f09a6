//! How soon the agent's watchdog finds a process on a shared device that takes more memory than is booked for it.
//!
//! The agent's own collector runs in this program with a booking for the first of the two processes, a little above what that has. Just after one of its
//! looks the process grows: so the whole time between two looks passes before the first that can see it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use skerry_agent::gpu_check::{Check, Discovery, Look, Share};
use skerry_model::InstanceName;

use crate::attribute::{Found, Pair};
use crate::compare::Verdict;

/// What the agent promises: so long after it grew a process is found, where the driver answers at once.
const PROMISED: Duration = Duration::from_secs(2);

/// How it went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) instance: String,
    pub(crate) booked_bytes: u64,
    pub(crate) grown_by_bytes: u64,
    /// Between two looks of the collector's while all was well.
    pub(crate) period_ms: f64,
    /// Those since it grew.
    pub(crate) looks: Vec<Seen>,
    /// From then until it was found.
    pub(crate) found_ms: Option<f64>,
    pub(crate) promised_ms: f64,
    pub(crate) verdict: Verdict,
}

/// A look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Seen {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) after_ms: f64,
    pub(crate) used_bytes: u64,
    /// Whether it shows more than is booked.
    pub(crate) is_above: bool,
}

/// Lets the first of the two processes grow by `by` bytes. `uuid`: the device. `is_timed`: whether what is promised is held against the clock, and not
/// only that it is found. `Err` in it: why that cannot be seen here.
pub(crate) fn look(
    check: &Check,
    pair: &mut Pair,
    found: &[Found],
    (uuid, by): (&str, u64),
    is_timed: bool,
) -> Result<Result<Latency, String>> {
    let first = found.first().context("there are two processes")?;
    let Some(told) = first.told_bytes.filter(|_| first.verdict == Verdict::Same) else {
        return Ok(Err("the driver does not tell what the two processes use".to_owned()));
    };
    let instance = InstanceName::parse(Pair::first()).context("an instance's name")?;
    // It has a context beside its memory, so what is booked begins from what is told of it.
    let booked_bytes = told + by / 2;
    let share = Share { gpu: uuid, instance: &instance, memory_bytes: booked_bytes };
    let data = pair.data().to_owned();
    let grow = || pair.grow(first.bytes + by).map_err(|error| format!("{error:#}"));
    let discovery = check.discover(&data, share, grow)?;
    Ok(Ok(judge(&discovery, Pair::first(), (booked_bytes, by), is_timed)))
}

fn judge(
    discovery: &Discovery,
    instance: &str,
    (booked_bytes, grown_by_bytes): (u64, u64),
    is_timed: bool,
) -> Latency {
    let seen = |look: &Look| Seen {
        number: look.number,
        after_ms: milliseconds(look.after),
        used_bytes: look.used_bytes,
        is_above: look.used_bytes > booked_bytes,
    };
    let is_right = discovery.found.is_some_and(|found| !is_timed || found <= PROMISED);
    Latency {
        instance: instance.to_owned(),
        booked_bytes,
        grown_by_bytes,
        period_ms: milliseconds(discovery.period),
        looks: discovery.looks.iter().map(seen).collect(),
        found_ms: discovery.found.map(milliseconds),
        promised_ms: milliseconds(PROMISED),
        verdict: if is_right { Verdict::Same } else { Verdict::Different },
    }
}

impl Latency {
    /// For people, in lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} has {} B booked and took {} B more just after a look; looks come every {:.0} ms:",
            self.instance, self.booked_bytes, self.grown_by_bytes, self.period_ms
        )];
        lines.extend(self.looks.iter().map(|look| {
            let shows = if look.is_above { "more than is booked" } else { "no more than is booked" };
            format!("  look {} after {:.0} ms: {} B, {shows}", look.number, look.after_ms, look.used_bytes)
        }));
        lines.push(match self.found_ms {
            Some(found) => format!("  found after {found:.0} ms of {:.0}", self.promised_ms),
            None => "  not found".to_owned(),
        });
        lines
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(found: Option<u64>, is_timed: bool) -> Latency {
        let look =
            |number, after, used_bytes| Look { number, after: Duration::from_millis(after), used_bytes };
        let discovery = Discovery {
            period: Duration::from_secs(1),
            looks: vec![look(1, 990, 300), look(2, 1250, 300)],
            found: found.map(Duration::from_millis),
        };
        judge(&discovery, "gpu-check/one/here/0", (250, 100), is_timed)
    }

    #[test]
    fn what_is_found_too_late_or_not_at_all_fails() {
        assert_eq!(found(Some(1255), true).verdict, Verdict::Same);
        assert_eq!(found(Some(2001), true).verdict, Verdict::Different);
        assert_eq!(found(Some(2001), false).verdict, Verdict::Same, "the driver is simulated");
        assert_eq!(found(None, false).verdict, Verdict::Different);
    }

    #[test]
    fn it_is_told_with_its_parts() {
        let text = found(Some(1255), true).lines().join("\n");
        assert!(text.contains("looks come every 1000 ms"), "{text}");
        assert!(text.contains("look 2 after 1250 ms: 300 B, more than is booked"), "{text}");
        assert!(text.contains("found after 1255 ms of 2000"), "{text}");
        assert!(found(None, true).lines().join("\n").contains("not found"));
    }
}
