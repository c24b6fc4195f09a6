//! Prints what series cost: bytes a value, values a second, memory, and how long a question takes. `-- --quick` does less of each; `-- bytes`, `fleet` or
//! `questions` only that.

use std::{
    error::Error,
    io::Write as _,
    time::{Duration, Instant},
};

use skerry_series::{Config, Group, Keep, Stats, Store, Time};

#[path = "../tests/curves/mod.rs"]
mod curves;

use curves::{Gpu, KINDS, Sample};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BEGIN_MS: i64 = 1_790_000_000_000;

fn main() -> Result<()> {
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    let names = || std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let is_asked = |name: &str| names().next().is_none() || names().any(|arg| arg == name);
    if is_asked("bytes") {
        bytes(if is_quick { 2 } else { 24 })?;
    }
    if is_asked("fleet") {
        if is_quick { fleet(1_000, 60, 30) } else { fleet(40_000, 300, 120) }?;
    }
    if is_asked("questions") {
        questions(if is_quick { 4 } else { 26 })?;
    }
    Ok(())
}

fn say(what: &str, value: f64, unit: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{what:<62} {value:>12.2} {unit}")?)
}

fn time(ms: i64) -> Result<Time> {
    Time::from_unix_ms(ms).ok_or_else(|| "no time".into())
}

/// What a value costs in files.
fn bytes(hours: i64) -> Result<()> {
    for (name, sample) in KINDS {
        let dir = tempfile::tempdir()?;
        let mut store = Store::open(dir.path(), Config::default())?;
        let mut ended = BEGIN_MS;
        for seed in 0..4 {
            let (mut gpu, mut at) = (Gpu::new(seed), BEGIN_MS);
            for second in 0..hours * 3600 {
                at += gpu.interval();
                store.append(Group(seed.into()), time(at)?, &sample(&mut gpu))?;
                if second % 600 == 0 {
                    store.maintain(time(at)?)?;
                }
            }
            ended = at;
        }
        store.maintain(time(ended)?)?;
        let stats = store.stats();
        say(&format!("{name}: values a sample"), stats.values as f64 / stats.samples as f64, "")?;
        say(&format!("{name}: bytes a value, time and all"), per_value(&stats), "B")?;
        for level in &stats.levels[1..] {
            let covered = level.written_bytes as f64 * level.width_ms as f64;
            let per_hour = covered / level.width_ms as f64 / (4 * hours) as f64 / 1024.0;
            say(&format!("{name}: buckets of {} s, a GPU and hour", level.width_ms / 1000), per_hour, "KiB")?;
        }
        let per_hour = stats.sealed_bytes as f64 / (4 * hours) as f64 / 1024.0;
        say(&format!("{name}: samples, a GPU and hour"), per_hour, "KiB")?;
    }
    Ok(())
}

fn per_value(stats: &Stats) -> f64 {
    stats.sealed_bytes as f64 / stats.sealed_values as f64
}

/// What comes of many GPUs, one sample of each a second, on one thread, files and all. They come one by one, so that their blocks are not full all at once.
fn fleet(gpus: u64, join_s: i64, seconds: i64) -> Result<()> {
    const CURVES: u64 = 32;
    let curve = |seed| {
        let mut gpu = Gpu::new(seed);
        (0..256).map(|_| gpu.changes()).collect()
    };
    let curves: Vec<Vec<Sample>> = (0..CURVES).map(curve).collect();
    let dir = tempfile::tempdir()?;
    let keep = |hours: u64| Keep {
        time: Duration::from_secs(hours * 3600),
        bytes_max: 16 << 30,
        group_bytes_max: 4 << 20,
    };
    let levels = [(Duration::from_secs(10), keep(24)), (Duration::from_secs(300), keep(720))];
    let mut store = Store::open(dir.path(), Config::new(keep(2), &levels)?)?;
    let (mut appending, mut keeping, mut longest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut before = Stats::default();
    for second in 0..join_s + seconds {
        if second == join_s {
            before = store.stats();
            (appending, keeping, longest) = Default::default();
        }
        let begun = Instant::now();
        for gpu in 0..gpus {
            let joined = (gpu * 7919 % join_s.unsigned_abs()).cast_signed();
            if let Some(at) = (second - joined).checked_rem(256).filter(|_| second >= joined) {
                let curve = &curves[usize::try_from(gpu % CURVES)?];
                let at_ms = BEGIN_MS + second * 1000 + (gpu % 1000).cast_signed();
                store.append(Group(u128::from(gpu) << 64 | 7), time(at_ms)?, &curve[usize::try_from(at)?])?;
            }
        }
        appending += begun.elapsed();
        let begun = Instant::now();
        store.maintain(time(BEGIN_MS + second * 1000 + 1000)?)?;
        keeping += begun.elapsed();
        longest = longest.max(begun.elapsed());
    }
    let stats = store.stats();
    let (samples, values) = ((stats.samples - before.samples) as f64, (stats.values - before.values) as f64);
    let say =
        |what: &str, value: f64, unit: &str| say(&format!("{gpus} GPUs, {seconds} s: {what}"), value, unit);
    let all = (appending + keeping).as_secs_f64();
    say("samples a second, in memory", samples / appending.as_secs_f64(), "")?;
    say("values a second, in memory", values / appending.as_secs_f64(), "")?;
    say("values a second, files and all", values / all, "")?;
    say("of one core, files and all", all / seconds as f64 * 100.0, "%")?;
    say("longest maintenance", longest.as_secs_f64() * 1000.0, "ms")?;
    let memory = (stats.head_bytes + stats.index_bytes + stats.pending_bytes) as f64;
    say("memory a series", memory / stats.series as f64, "B")?;
    let written: u64 = stats.levels.iter().map(|level| level.written_bytes).sum();
    say("written", written as f64 / 1_048_576.0, "MiB")?;
    let begun = Instant::now();
    store.flush()?;
    say("flush", begun.elapsed().as_secs_f64() * 1000.0, "ms")?;
    drop(store);
    let begun = Instant::now();
    let store = Store::open(dir.path(), Config::new(keep(2), &levels)?)?;
    say("open again", begun.elapsed().as_secs_f64() * 1000.0, "ms")?;
    say("groups then", store.groups().count() as f64, "")
}

/// How long questions take, of a GPU that was sampled for some hours.
fn questions(hours: i64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut store = Store::open(dir.path(), Config::default())?;
    let group = Group(1);
    let (mut gpu, mut at) = (Gpu::new(9), BEGIN_MS);
    for second in 0..hours * 3600 {
        at += gpu.interval();
        store.append(group, time(at)?, &gpu.changes())?;
        if second % 60 == 0 {
            store.maintain(time(at)?)?;
        }
    }
    store.flush()?;
    let begun = Instant::now();
    drop(store);
    let store = Store::open(dir.path(), Config::default())?;
    say("open again", begun.elapsed().as_secs_f64() * 1000.0, "ms")?;
    for (name, back_s, step_s, fields) in [
        ("24 h in steps of 10 s, all 15 fields", 86_400, 10, &[][..]),
        ("24 h in steps of 10 s, one field", 86_400, 10, &[skerry_series::Field(30)]),
        ("24 h in steps of 60 s, all 15 fields", 86_400, 60, &[]),
        ("24 h in steps of 300 s, all 15 fields", 86_400, 300, &[]),
        ("2 h in steps of 1 s, all 15 fields", 7_200, 1, &[]),
    ] {
        let range = time(at - back_s * 1000)?..time(at)?;
        let mut took = Vec::new();
        let mut buckets = 0;
        for _ in 0..20 {
            let begun = Instant::now();
            let answer = store.query(group, fields, range.clone(), Duration::from_secs(step_s))?;
            took.push(begun.elapsed());
            buckets = answer.fields.values().map(Vec::len).sum();
        }
        took.sort_unstable();
        let ms = |index: usize| took[index].as_secs_f64() * 1000.0;
        say(&format!("{name}: least of 20 ({buckets} buckets)"), ms(0), "ms")?;
        say(&format!("{name}: median of 20"), ms(10), "ms")?;
    }
    Ok(())
}
