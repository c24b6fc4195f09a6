//! How long calls take: tables, and what a call takes of one.

use std::{collections::BTreeMap, f64::consts::TAU, time::Duration};

use serde::{Deserialize, Serialize};

use super::chance::unit;

/// The table of `latencies = "typical"`.
const TYPICAL: &str = include_str!("../../latencies/typical.json");
/// Of a normal distribution's 99th percentile, in standard deviations.
const P99: f64 = 2.326;
/// No call takes longer, whatever the table says.
const LONGEST: Duration = Duration::from_secs(60);

/// What is known of how long each call takes; as JSON the file that `latencies` names.
///
/// ```
/// let text = r#"{"recorded": true, "source": "T4, driver 570", "calls": {"nvmlDeviceGetPowerUsage": {"p50_us": 30, "p99_us": 90}}}"#;
/// let table: skerry_nvml_sim::LatencyTable = serde_json::from_str(text)?;
/// assert!(table.recorded);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyTable {
    /// Whether it was measured on a card; otherwise it is somebody's guess.
    pub recorded: bool,
    /// Which card and driver, or where it comes from.
    #[serde(default)]
    pub source: String,
    /// Of calls that are not among `calls`; no time where nothing stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Latency>,
    /// By the call's name in C.
    pub calls: BTreeMap<String, Latency>,
}

/// How long a call takes, in microseconds: half of the calls at most `p50_us`, all but one in a hundred at most `p99_us`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// The median.
    pub p50_us: f64,
    /// The 99th percentile; what is less than the median counts as the median.
    pub p99_us: f64,
}

impl LatencyTable {
    /// The magnitudes that are known of such calls; not recorded.
    pub fn typical() -> Self {
        serde_json::from_str(TYPICAL).expect("the table of this crate is one: a test reads it")
    }

    /// What the call takes, the `count`th of this process.
    pub(crate) fn of(&self, call: &str, seed: u64, count: u64) -> Duration {
        let latency = self.calls.get(call).copied().or(self.other).unwrap_or_default();
        latency.sample(unit(seed, 2 * count), unit(seed, 2 * count + 1))
    }
}

impl Latency {
    /// Of a log-normal distribution with those percentiles, by two numbers from 0 to below 1 (Box and Muller).
    fn sample(self, one: f64, other: f64) -> Duration {
        let median = self.p50_us.max(0.0);
        if !median.is_finite() || median <= 0.0 {
            return Duration::ZERO;
        }
        let sigma = (self.p99_us.max(median) / median).ln() / P99;
        let normal = (-2.0 * (1.0 - one).ln()).sqrt() * (TAU * other).cos();
        let micros = median * (sigma * normal).exp();
        let seconds = (micros / 1e6).min(LONGEST.as_secs_f64());
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_typical_table_names_calls_and_says_that_it_is_not_recorded() {
        let table = LatencyTable::typical();
        assert!(!table.recorded && table.other.is_some());
        for (call, latency) in &table.calls {
            assert!(crate::ffi::is_call(call), "{call}");
            assert!(0.0 < latency.p50_us && latency.p50_us <= latency.p99_us, "{call}");
        }
    }

    #[test]
    fn the_percentiles_are_those_of_the_table() {
        let latency = Latency { p50_us: 100.0, p99_us: 400.0 };
        let table = LatencyTable { other: Some(latency), ..LatencyTable::default() };
        let mut micros: Vec<_> =
            (0..20_000).map(|count| table.of("x", 9, count).as_secs_f64() * 1e6).collect();
        micros.sort_by(f64::total_cmp);
        assert!((90.0..110.0).contains(&micros[10_000]), "{}", micros[10_000]);
        assert!((340.0..460.0).contains(&micros[19_800]), "{}", micros[19_800]);
    }

    proptest! {
        #[test]
        fn any_table_gives_a_bounded_time(p50: f64, p99: f64, seed: u64, count in 0..u64::MAX / 2) {
            let table = LatencyTable { other: Some(Latency { p50_us: p50, p99_us: p99 }), ..LatencyTable::default() };
            prop_assert!(table.of("x", seed, count) <= LONGEST);
        }
    }
}
