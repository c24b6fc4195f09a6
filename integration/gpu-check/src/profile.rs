//! What was found of a card, as files: a profile of every call for people and tests (TOML), and the table of latencies that the simulator reads (JSON).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The format of the file: a reader refuses one that it does not know.
pub(crate) const FORMAT: u32 = 1;

/// Every call of the collector's, on every device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// See [`FORMAT`].
    pub(crate) format: u32,
    /// Whether it was measured on a card; otherwise the driver was simulated.
    pub(crate) recorded: bool,
    /// The driver's version.
    pub(crate) driver: String,
    /// The newest CUDA that the driver bears.
    pub(crate) cuda: String,
    /// How often each call was made.
    pub(crate) rounds: u32,
    /// In the driver's order.
    #[serde(default)]
    pub(crate) device: Vec<Device>,
}

/// What a device answered. What names one card of its kind (UUID, PCI address, pids) is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Device {
    /// Its name at the driver.
    pub(crate) model: String,
    /// In the order in which they were made.
    #[serde(default)]
    pub(crate) call: Vec<Call>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    /// Its name in C.
    pub(crate) call: String,
    /// What was asked for, where the call gives several things.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) argument: String,
    /// The last answer. Absent: an error, or one that names this card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    /// The last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Half of the calls took at most this, in microseconds.
    pub(crate) p50_us: f64,
    /// All but one in a hundred took at most this.
    pub(crate) p99_us: f64,
}

/// The simulator's table: the fields are those of its `LatencyTable`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latencies {
    recorded: bool,
    source: String,
    calls: BTreeMap<String, Latency>,
}

/// In microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// The median.
    pub(crate) p50_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
}

impl Latency {
    /// Of these times, by nearest rank; 0 of none. Tenths of microseconds, which is as well as a clock tells.
    pub(crate) fn of(times: &mut [Duration]) -> Self {
        times.sort_unstable();
        let rank = |percent: usize| {
            let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(at).map_or(0.0, |time| (time.as_secs_f64() * 1e7).round() / 10.0)
        };
        Self { p50_us: rank(50), p99_us: rank(99) }
    }
}

impl Profile {
    /// Writes both files below `dir`, named after the first card and the driver.
    pub(crate) fn write(&self, times: &BTreeMap<String, Vec<Duration>>, dir: &Path) -> Result<[PathBuf; 2]> {
        let model = self.device.first().map_or("none", |device| device.model.as_str());
        let sign = |sign: char| if sign.is_ascii_alphanumeric() || sign == '.' { sign } else { '-' };
        let name: String = format!("{model}-{}", self.driver).to_lowercase().chars().map(sign).collect();
        let calls = times.iter().map(|(call, times)| (call.clone(), Latency::of(&mut times.clone())));
        let latencies = Latencies {
            recorded: self.recorded,
            source: format!("{model}, driver {}, {} rounds of each call", self.driver, self.rounds),
            calls: calls.collect(),
        };
        let files = [dir.join(format!("{name}.toml")), dir.join(format!("{name}.latencies.json"))];
        let texts = [
            toml::to_string(self).context("writing the profile as TOML")?,
            serde_json::to_string_pretty(&latencies).context("writing latencies as JSON")? + "\n",
        ];
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        for (file, text) in files.iter().zip(&texts) {
            fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
        }
        anyhow::ensure!(Self::read(&files[0])? == *self, "{} does not read back", files[0].display());
        Ok(files)
    }

    /// Reads a profile.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let profile: Self = toml::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
        anyhow::ensure!(
            profile.format == FORMAT,
            "{}: format {} is not {FORMAT}",
            file.display(),
            profile.format
        );
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut times: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(Latency::of(&mut times), Latency { p50_us: 100.0, p99_us: 198.0 });
        assert_eq!(Latency::of(&mut [Duration::from_nanos(1_240)]), Latency { p50_us: 1.2, p99_us: 1.2 });
        assert_eq!(Latency::of(&mut []), Latency { p50_us: 0.0, p99_us: 0.0 });
    }
}
