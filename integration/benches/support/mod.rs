//! What the benches share: their command line, the release builds that they run, and sums over samples.
#![allow(dead_code, reason = "each bench is a crate of its own and uses its part")]

pub(crate) mod control;
pub(crate) mod fleet;
pub(crate) mod proc;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skerry_testing::{Figures, percentile, target_dir};

/// Whether `--quick` was said: fewer and shorter rounds, to see that the bench works. Its figures say little.
pub(crate) fn quick() -> bool {
    std::env::args().any(|arg| arg == "--quick")
}

/// The value of `--name=value` or `--name value`, if it was given.
pub(crate) fn option<T: FromStr>(name: &str) -> Result<Option<T>> {
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix(name) {
            Some("") => args.next().with_context(|| format!("{name} needs a value"))?,
            Some(rest) if rest.starts_with('=') => rest[1..].to_owned(),
            _ => continue,
        };
        let parsed = value.parse().ok();
        return parsed.map(Some).with_context(|| format!("`{value}` does not suit {name}"));
    }
    Ok(None)
}

/// A binary of the workspace in profile `edge`, as it is shipped to edge machines.
pub(crate) fn edge_bin(name: &str) -> Result<PathBuf> {
    let file = target_dir().join("edge").join(name);
    ensure!(file.is_file(), "{} is not there: `cargo build --profile edge --package {name}`", file.display());
    Ok(file)
}

/// The median. Zero without samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    percentile(&mut samples.to_vec(), 50.0).unwrap_or_default()
}

/// Shows the median and the 99th percentile of times in ms, as `<name>.p50` and `<name>.p99`.
pub(crate) fn show_times(figures: &Figures, name: &str, samples: &[f64]) {
    for (label, percent) in [("p50", 50.0), ("p99", 99.0)] {
        if let Some(value) = percentile(&mut samples.to_vec(), percent) {
            figures.show(&format!("{name}.{label}"), value, "ms");
        }
    }
}

/// In milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How busy the machine is with other things: the load of the last minute, beside the number of processors.
pub(crate) fn note_load(figures: &Figures) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    figures.note(&format!("(load {load} on {processors} processors)"));
}
