//! The figures that benches print: for people a table line, with `--json` one object a line.

use std::{env, fs};

use anyhow::{Context, Result};

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Holds when the value is not greater.
    AtMost(f64),
    /// Holds when the value is not smaller.
    AtLeast(f64),
}

impl Budget {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

/// One measured value.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was measured, as `agent.idle.pss`.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what, as `MiB` or `ms`.
    pub unit: &'static str,
    /// Its bound, where the design names one.
    pub budget: Option<Budget>,
}

/// Prints figures as they come.
#[derive(Debug)]
pub struct Figures {
    json: bool,
}

impl Figures {
    /// Reads `--json` from the command line of the bench.
    #[must_use]
    pub fn from_args() -> Self {
        Self { json: env::args().any(|arg| arg == "--json") }
    }

    /// Prints a figure without a budget.
    pub fn show(&self, name: &str, value: f64, unit: &'static str) {
        self.print(&Figure { name: name.to_owned(), value, unit, budget: None });
    }

    /// Prints a figure beside its budget.
    pub fn hold(&self, name: &str, value: f64, unit: &'static str, budget: Budget) {
        self.print(&Figure { name: name.to_owned(), value, unit, budget: Some(budget) });
    }

    fn print(&self, figure: &Figure) {
        println!("{}", if self.json { json_line(figure) } else { table_line(figure) });
    }

    /// A remark for people; nothing with `--json`.
    pub fn note(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }
}

/// `budget` is a number, at most or at least as `bound` says; both and `holds` are null without a budget.
fn json_line(figure: &Figure) -> String {
    let (budget, bound) = match figure.budget {
        Some(Budget::AtMost(value)) => (Some(value), Some("at_most")),
        Some(Budget::AtLeast(value)) => (Some(value), Some("at_least")),
        None => (None, None),
    };
    serde_json::json!({
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "budget": budget,
        "bound": bound,
        "holds": figure.budget.map(|budget| budget.holds(figure.value)),
    })
    .to_string()
}

fn table_line(figure: &Figure) -> String {
    let Figure { name, value, unit, budget } = figure;
    let verdict = budget.map_or(String::new(), |budget| {
        let (sign, bound) = match budget {
            Budget::AtMost(bound) => ("<=", bound),
            Budget::AtLeast(bound) => (">=", bound),
        };
        let holds = if budget.holds(*value) { "holds" } else { "DOES NOT HOLD" };
        format!("   budget {sign} {} {unit}: {holds}", round(bound))
    });
    format!("{name:<44} {:>12} {unit:<10}{verdict}", round(*value)).trim_end().to_owned()
}

/// Three decimals below 100, none above 10,000.
fn round(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 10_000.0 => 0,
        size if size >= 100.0 => 1,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The value below which a share of `percent` of the samples lies, by nearest rank; sorts them. `None` without samples.
pub fn percentile(samples: &mut [f64], percent: f64) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().checked_sub(1)?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is small and not negative"
    )]
    let rank = (percent / 100.0 * samples.len() as f64).ceil().max(1.0) as usize - 1;
    samples.get(rank.min(last)).copied()
}

/// The proportional set size of a process, in bytes: what it would cost to have one more of it. Grows when another process of the same program
/// ends, as what they share is then its own.
pub fn pss_bytes(pid: u32) -> Result<u64> {
    rollup(pid, "Pss:")
}

/// What of it is in no file, in bytes: its heap, its stacks, and what it has written of its own data.
pub fn anonymous_bytes(pid: u32) -> Result<u64> {
    rollup(pid, "Pss_Anon:")
}

fn rollup(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib =
        line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no line {field}"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, budget: Option<Budget>) -> Figure {
        Figure { name: "a.b".into(), value, unit: "ms", budget }
    }

    #[test]
    fn a_json_line_carries_the_verdict() {
        let line = json_line(&figure(31.5, Some(Budget::AtMost(30.0))));
        let object: serde_json::Value = serde_json::from_str(&line).expect("one object");
        assert_eq!(
            object,
            serde_json::json!({"name": "a.b", "value": 31.5, "unit": "ms", "budget": 30.0, "bound": "at_most", "holds": false})
        );
        let object: serde_json::Value =
            serde_json::from_str(&json_line(&figure(1.0, None))).expect("one object");
        assert!(object["holds"].is_null() && object["budget"].is_null());
    }

    #[test]
    fn a_table_line_says_whether_it_holds() {
        assert!(table_line(&figure(30.0, Some(Budget::AtMost(30.0)))).ends_with("budget <= 30 ms: holds"));
        assert!(table_line(&figure(9.0, Some(Budget::AtLeast(10.0)))).ends_with("DOES NOT HOLD"));
        assert!(table_line(&figure(12345.678, None)).ends_with("12346 ms"));
    }

    #[test]
    fn percentiles_are_samples() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut samples, 50.0), Some(50.0));
        assert_eq!(percentile(&mut samples, 99.0), Some(99.0));
        assert_eq!(percentile(&mut samples, 100.0), Some(100.0));
        assert_eq!(percentile(&mut [7.0], 99.0), Some(7.0));
        assert_eq!(percentile(&mut [], 50.0), None);
    }

    #[test]
    fn this_process_has_a_size() {
        let (all, anonymous) = (pss_bytes(std::process::id()), anonymous_bytes(std::process::id()));
        let (all, anonymous) = (all.expect("its own size"), anonymous.expect("a part of it"));
        assert!(anonymous > 100 * 1024 && anonymous < all);
    }
}
