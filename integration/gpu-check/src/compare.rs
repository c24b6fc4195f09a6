//! Each field as the agent reads it, beside what `nvidia-smi` says of it.
//!
//! The agent reads before and after. What `nvidia-smi` said in between must lie between the two, give or take what a field may move meanwhile and what
//! `nvidia-smi` rounds. Its names are those of `nvidia-smi --help-query-gpu`; where a name was changed both are tried, and what a version does not know
//! is not asked of it. Rows of memory it tells by another query, and they are not compared.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use skerry_gpu_model::{Absent, Field, Reading, Sample};

/// What `nvidia-smi` writes for a value, and how it becomes ours.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Written {
    /// A number; ours is so many times as much.
    Number(f64),
    /// `0x0000000000000004`
    Bits,
    /// `P0`
    State,
    /// `Yes` or `No`
    Answer,
}

/// How a field is asked for.
struct Query {
    field: Field,
    /// The newest name first.
    names: &'static [&'static str],
    written: Written,
    /// By how much it may be off, in our unit.
    off: i64,
    /// And by how many percent of its value.
    off_percent: i64,
}

const fn query(field: Field, names: &'static [&'static str], written: Written, off: i64) -> Query {
    Query { field, names, written, off, off_percent: 0 }
}

const MIB: f64 = 1_048_576.0;
/// A rounded MiB of each of two, and one more.
const MIB_OFF: i64 = 3 << 20;
const COUNT: Written = Written::Number(1.0);
const WATTS: Written = Written::Number(1000.0);

static QUERIES: [Query; 31] = [
    query(Field::GpuUtilization, &["utilization.gpu"], COUNT, 15),
    query(Field::MemoryUtilization, &["utilization.memory"], COUNT, 15),
    query(Field::EncoderUtilization, &["utilization.encoder"], COUNT, 15),
    query(Field::DecoderUtilization, &["utilization.decoder"], COUNT, 15),
    query(Field::MemoryUsed, &["memory.used"], Written::Number(MIB), MIB_OFF),
    query(Field::MemoryFree, &["memory.free"], Written::Number(MIB), MIB_OFF),
    query(Field::MemoryReserved, &["memory.reserved"], Written::Number(MIB), MIB_OFF),
    query(Field::Temperature, &["temperature.gpu"], COUNT, 3),
    query(Field::MemoryTemperature, &["temperature.memory"], COUNT, 3),
    Query { off_percent: 15, ..query(Field::Power, &["power.draw"], WATTS, 5_000) },
    query(Field::PowerLimit, &["power.limit"], WATTS, 10),
    query(Field::PowerEnforcedLimit, &["enforced.power.limit"], WATTS, 10),
    query(Field::PowerDefaultLimit, &["power.default_limit"], WATTS, 10),
    query(Field::PowerMinLimit, &["power.min_limit"], WATTS, 10),
    query(Field::PowerMaxLimit, &["power.max_limit"], WATTS, 10),
    query(Field::SmClock, &["clocks.sm", "clocks.current.sm"], COUNT, 90),
    query(Field::MemoryClock, &["clocks.mem", "clocks.current.memory"], COUNT, 30),
    query(Field::GraphicsClock, &["clocks.gr", "clocks.current.graphics"], COUNT, 90),
    query(Field::VideoClock, &["clocks.video", "clocks.current.video"], COUNT, 90),
    query(
        Field::ThrottleReasons,
        &["clocks_event_reasons.active", "clocks_throttle_reasons.active"],
        Written::Bits,
        0,
    ),
    query(Field::PerformanceState, &["pstate"], Written::State, 0),
    query(Field::FanSpeed, &["fan.speed"], COUNT, 5),
    query(Field::PcieLinkGeneration, &["pcie.link.gen.current", "pcie.link.gen.gpucurrent"], COUNT, 0),
    query(Field::PcieLinkWidth, &["pcie.link.width.current"], COUNT, 0),
    query(Field::EccCorrected, &["ecc.errors.corrected.volatile.total"], COUNT, 0),
    query(Field::EccUncorrected, &["ecc.errors.uncorrected.volatile.total"], COUNT, 0),
    query(Field::EccCorrectedAggregate, &["ecc.errors.corrected.aggregate.total"], COUNT, 0),
    query(Field::EccUncorrectedAggregate, &["ecc.errors.uncorrected.aggregate.total"], COUNT, 0),
    query(
        Field::RetiredPagesCorrected,
        &["retired_pages.single_bit_ecc.count", "retired_pages.sbe"],
        COUNT,
        0,
    ),
    query(Field::RetiredPagesUncorrected, &["retired_pages.double_bit.count", "retired_pages.dbe"], COUNT, 0),
    query(Field::RetiredPagesPending, &["retired_pages.pending"], Written::Answer, 0),
];

/// What comes of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Both say the same, or both say nothing.
    Same,
    /// They do not.
    Different,
    /// There is nothing to compare it with.
    Alone,
}

/// One field of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    pub(crate) device: usize,
    pub(crate) field: &'static str,
    /// As the agent read it last: a number in the field's unit, or why there is none.
    pub(crate) ours: String,
    /// As `nvidia-smi` wrote it.
    pub(crate) theirs: String,
    pub(crate) verdict: Verdict,
}

/// What `nvidia-smi` says: of each query, of each device. `None`: it is not there.
pub(crate) fn ask(program: &Path, uuids: &[String]) -> Result<Option<Vec<Vec<String>>>> {
    // Which of its names each query is asked by; past the last it is not asked.
    let mut chosen = [0; QUERIES.len()];
    loop {
        let asked: Vec<&str> =
            QUERIES.iter().zip(chosen).filter_map(|(query, at)| query.names.get(at).copied()).collect();
        let fields = format!("--query-gpu=uuid,{}", asked.join(","));
        let ran = Command::new(program)
            .args([fields.as_str(), "--format=csv,noheader,nounits"])
            .stdin(Stdio::null())
            .output();
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("running {}", program.display())),
        };
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        if ran.status.success() {
            return table(&text, uuids, &chosen).map(Some);
        }
        let said = format!("{text}{}", String::from_utf8_lossy(&ran.stderr));
        let is_named = |(query, at): (&Query, &usize)| {
            query.names.get(*at).is_some_and(|name| said.contains(&format!("\"{name}\"")))
        };
        let unknown = QUERIES.iter().zip(&chosen).position(is_named);
        match unknown {
            Some(at) => chosen[at] += 1,
            None => bail!("{} failed ({}): {}", program.display(), ran.status, said.trim()),
        }
    }
}

/// A row for each device of ours, in our order, a value for each query; empty where it was not asked.
fn table(text: &str, uuids: &[String], chosen: &[usize; QUERIES.len()]) -> Result<Vec<Vec<String>>> {
    let of = |uuid: &String| {
        let line = text.lines().find(|line| line.split(',').next().map(str::trim) == Some(uuid));
        let line = line.with_context(|| format!("nvidia-smi does not list {uuid}"))?;
        let mut values = line.split(',').skip(1).map(str::trim);
        let value = |(query, at): (&Query, &usize)| {
            if query.names.len() <= *at {
                return Ok(String::new());
            }
            values.next().map(str::to_owned).with_context(|| format!("too few values: {line}"))
        };
        QUERIES.iter().zip(chosen).map(value).collect()
    };
    uuids.iter().map(of).collect()
}

/// All fields of all devices. `theirs`: `None`, nothing to compare with.
pub(crate) fn compare(before: &[Sample], theirs: Option<&[Vec<String>]>, after: &[Sample]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (device, (before, after)) in before.iter().zip(after).enumerate() {
        for field in Field::ALL {
            let at = QUERIES.iter().position(|query| query.field == field);
            let told = theirs.and_then(|theirs| theirs.get(device)?.get(at?)).map_or("", String::as_str);
            let verdict = at
                .map_or(Verdict::Alone, |at| judge(&QUERIES[at], before.get(field), told, after.get(field)));
            let ours = after.get(field).map_or_else(|absent| format!("({absent:?})"), |v| v.to_string());
            rows.push(Row { device, field: field.name(), ours, theirs: told.to_owned(), verdict });
        }
    }
    rows
}

fn judge(query: &Query, before: Reading, told: &str, after: Reading) -> Verdict {
    if told.is_empty() {
        return Verdict::Alone;
    }
    let theirs = match (parse(query.written, told), after) {
        (Some(theirs), _) => theirs,
        // It has no number either.
        (None, Err(_)) if is_none(told) => return Verdict::Same,
        (None, Ok(_)) if is_none(told) => return Verdict::Alone,
        (None, _) => return Verdict::Different,
    };
    let (Ok(before), Ok(after)) = (before, after) else {
        let comes_later = [before, after].contains(&Err(Absent::NotYet));
        return if comes_later { Verdict::Alone } else { Verdict::Different };
    };
    let fits = if query.written == Written::Bits {
        // Each bit as it was before or after.
        (theirs ^ before) & (theirs ^ after) == 0
    } else {
        let off = query.off.saturating_add(theirs.saturating_mul(query.off_percent) / 100);
        let (least, most) = (before.min(after).saturating_sub(off), before.max(after).saturating_add(off));
        (least..=most).contains(&theirs)
    };
    if fits { Verdict::Same } else { Verdict::Different }
}

/// `[N/A]`, `[Not Supported]`, `[Unknown Error]`, `N/A`
fn is_none(told: &str) -> bool {
    told.starts_with('[') || told == "N/A"
}

#[expect(clippy::cast_possible_truncation, reason = "a cast to the nearest that there is")]
fn parse(written: Written, told: &str) -> Option<i64> {
    match written {
        Written::Number(times) => {
            told.parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| (n * times).round() as i64)
        }
        Written::Bits => i64::from_str_radix(told.strip_prefix("0x")?, 16).ok(),
        Written::State => told.strip_prefix('P')?.parse().ok(),
        Written::Answer => match told {
            "Yes" => Some(1),
            "No" => Some(0),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(field: Field) -> &'static Query {
        QUERIES.iter().find(|query| query.field == field).expect("it is asked for")
    }

    #[test]
    fn a_field_is_asked_for_once() {
        for (at, query) in QUERIES.iter().enumerate() {
            assert!(QUERIES[..at].iter().all(|other| other.field != query.field), "{}", query.field);
            assert!(!query.names.is_empty());
        }
    }

    #[test]
    fn what_nvidia_smi_writes_becomes_our_unit() {
        assert_eq!(parse(WATTS, "71.52"), Some(71_520));
        assert_eq!(parse(Written::Number(MIB), "1024"), Some(1 << 30));
        assert_eq!(parse(Written::Bits, "0x0000000000000005"), Some(5));
        assert_eq!(parse(Written::State, "P8"), Some(8));
        assert_eq!(parse(Written::Answer, "No"), Some(0));
        assert_eq!(parse(COUNT, "[N/A]"), None);
    }

    #[test]
    fn what_lies_between_two_readings_is_the_same() {
        let query = of(Field::Temperature);
        for (told, verdict) in [
            ("47", Verdict::Same),
            ("63", Verdict::Same),
            ("46", Verdict::Different),
            ("64", Verdict::Different),
        ] {
            assert_eq!(judge(query, Ok(50), told, Ok(60)), verdict, "{told}");
        }
    }

    #[test]
    fn no_value_is_the_same_as_no_value_only() {
        let query = of(Field::FanSpeed);
        let lacks = Err(Absent::NotSupported);
        assert_eq!(judge(query, lacks, "[N/A]", lacks), Verdict::Same);
        assert_eq!(judge(query, lacks, "30", lacks), Verdict::Different);
        assert_eq!(judge(query, Ok(30), "[N/A]", Ok(30)), Verdict::Alone);
        assert_eq!(judge(query, Ok(30), "fast", Ok(30)), Verdict::Different);
        assert_eq!(judge(query, Ok(30), "", Ok(30)), Verdict::Alone);
        assert_eq!(judge(query, Err(Absent::NotYet), "30", Err(Absent::NotYet)), Verdict::Alone);
    }

    #[test]
    fn a_bit_is_as_it_was_before_or_after() {
        let query = of(Field::ThrottleReasons);
        assert_eq!(judge(query, Ok(1), "0x0000000000000004", Ok(4)), Verdict::Same);
        assert_eq!(judge(query, Ok(1), "0x0000000000000005", Ok(4)), Verdict::Same);
        assert_eq!(judge(query, Ok(1), "0x0000000000000008", Ok(4)), Verdict::Different);
        assert_eq!(judge(query, Ok(4), "0x0000000000000000", Ok(4)), Verdict::Different);
    }
}
