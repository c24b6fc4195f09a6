//! What is bounded keeps to its bounds, and what goes for one is counted.

use std::{path::Path, time::Duration};

use skerry_series::{
    Bucket, Config, Field, Group, Keep, OpenError, QueryError, Refusal, Refused, Store, Time, VALUE_MAX,
};

mod curves;

use curves::{Gpu, KINDS};

const BEGIN_MS: i64 = 1_790_000_000_000;
const MIB: u64 = 1 << 20;
const ONE: Group = Group(1);
const TWO: Group = Group(2);
const FIELD: Field = Field(5);

fn time(ms: i64) -> Time {
    Time::from_unix_ms(BEGIN_MS + ms).expect("it is in range")
}

/// Two hours and buckets of 10 s for a day, in a MiB each.
fn small(group_bytes_max: u64) -> Config {
    let keep = |hours: u64, group_bytes_max| Keep {
        time: Duration::from_secs(hours * 3600),
        bytes_max: MIB,
        group_bytes_max,
    };
    let ten_seconds = (Duration::from_secs(10), keep(24, MIB));
    Config::new(keep(2, group_bytes_max), &[ten_seconds]).expect("it is valid")
}

fn open(dir: &Path, config: Config) -> Store {
    Store::open(dir, config).expect("it opens")
}

fn ask(store: &Store, group: Group, to_ms: i64, step_ms: u64) -> Vec<Bucket> {
    let step = Duration::from_millis(step_ms);
    let mut answer = store.query(group, &[FIELD], time(0)..time(to_ms), step).expect("it is read");
    assert_eq!(answer.damaged, 0);
    answer.fields.remove(&FIELD).unwrap_or_default()
}

/// Noise that is hard to compress: eight bytes a value.
fn noise(state: &mut u64) -> i64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 8) as i64
}

#[test]
fn who_has_much_to_say_takes_nothing_from_the_others() {
    let dir = tempfile::tempdir().expect("there is room");
    let mut store = open(dir.path(), small(Config::GROUP_BYTES_MIN));
    let mut state = 1;
    let noisy: Vec<_> = (0..32).map(Field).collect();
    let end = 3_000_000;
    for at in (0..end).step_by(1_000) {
        store.append(TWO, time(at), &[(FIELD, Some(at % 7))]).expect("it is taken");
        let values: Vec<_> = noisy.iter().map(|field| (*field, Some(noise(&mut state)))).collect();
        for more in [0, 500] {
            store.append(ONE, time(at + more), &values).expect("it is taken");
        }
        store.maintain(time(at)).expect("it is written");
        if at % 100_000 == 0 {
            for level in store.stats().levels {
                assert!(level.file_bytes <= MIB && level.files <= 17, "{level:?}");
            }
        }
    }
    let stats = store.stats();
    let samples = stats.levels[0];
    assert!(samples.written_bytes > MIB && samples.dropped_group > 0, "{samples:?}");
    assert_eq!(samples.dropped_level, 0, "{samples:?}");
    assert!(samples.live_bytes <= 2 * Config::GROUP_BYTES_MIN, "{samples:?}");
    assert_eq!(ask(&store, TWO, end, 1_000).len() as i64, end / 1_000);
    // What went was thinned out before.
    let thinned: i64 = ask(&store, ONE, end - 1, 1_000).iter().map(|bucket| bucket.known_ms).sum();
    assert!(stats.levels[1].dropped_group == 0 && thinned == end - 1, "{thinned} {stats:?}");
    // The same is found again.
    store.flush().expect("it is written");
    drop(store);
    let store = open(dir.path(), small(Config::GROUP_BYTES_MIN));
    assert_eq!(ask(&store, TWO, end, 1_000).len() as i64, end / 1_000 - 1);
    assert_eq!(store.stats().levels.iter().map(|level| level.damaged).sum::<u64>(), 0);
}

#[test]
fn a_level_keeps_to_its_bytes_and_the_oldest_goes_first() {
    let dir = tempfile::tempdir().expect("there is room");
    let mut store = open(dir.path(), small(MIB));
    let mut state = 1;
    let end = 400_000;
    for at in (0..end).step_by(1_000) {
        for group in 0..40 {
            let values: Vec<_> = (0..8).map(|field| (Field(field), Some(noise(&mut state)))).collect();
            store.append(Group(group), time(at), &values).expect("it is taken");
        }
        store.maintain(time(at)).expect("it is written");
        assert!(store.stats().levels.iter().all(|level| level.file_bytes <= MIB), "{:?}", store.stats());
    }
    let stats = store.stats();
    assert!(stats.levels[0].dropped_level > 0 && stats.levels[0].dropped_group == 0, "{stats:?}");
    for group in 0..40 {
        let buckets = ask(&store, Group(group), end, 1_000);
        let known: i64 = buckets.iter().map(|bucket| bucket.known_ms).sum();
        // All of it, the older part in buckets of 10 s.
        assert_eq!(known, end, "{group}");
        let (first, last) = (buckets[0], buckets[buckets.len() - 1]);
        assert_eq!((first.span_ms, last.span_ms), (10_000, 1_000), "{group}");
    }
}

#[test]
fn what_is_forgotten_stays_forgotten() {
    let dir = tempfile::tempdir().expect("there is room");
    let config = || small(MIB).with_block_bytes(256).expect("it is in range");
    let mut store = open(dir.path(), config());
    let fill = |store: &mut Store, groups: &[Group], from: i64| {
        for at in (from..from + 4_000_000).step_by(1_000) {
            for group in groups {
                store.append(*group, time(at), &[(FIELD, Some(at / 1000 % 50))]).expect("it is taken");
            }
        }
        store.maintain(time(from)).expect("it is written");
    };
    fill(&mut store, &[ONE, TWO], 4_000_000);
    assert!(store.stats().levels.iter().all(|level| level.blocks > 2), "{:?}", store.stats());
    store.forget(ONE);
    assert!(store.newest(ONE).is_none() && store.groups().eq([TWO]));
    store.flush().expect("it is written");
    drop(store);
    let mut store = open(dir.path(), config());
    assert!(store.groups().eq([TWO]) && ask(&store, ONE, 9_000_000, 1_000).is_empty());
    // It begins anew, also with an older time, and nothing of before comes back.
    fill(&mut store, &[ONE], 0);
    for _ in 0..2 {
        store.flush().expect("it is written");
        drop(store);
        store = open(dir.path(), config());
        let buckets = ask(&store, ONE, 9_000_000, 1_000);
        assert_eq!(buckets.len(), 3_999);
        assert!(buckets.iter().all(|bucket| bucket.start < time(4_000_000)));
        assert_eq!(ask(&store, TWO, 9_000_000, 1_000).len(), 3_999);
    }
}

#[test]
fn a_group_of_which_nothing_is_heard_ends_and_leaves_no_file() {
    let dir = tempfile::tempdir().expect("there is room");
    let mut store = open(dir.path(), small(MIB));
    for at in (0..2_000_000).step_by(1_000) {
        store.append(ONE, time(at), &[(FIELD, Some(at))]).expect("it is taken");
    }
    store.maintain(time(2_000_000)).expect("it is written");
    let hour = 3_600_000;
    store.maintain(time(4 * hour)).expect("it is written");
    assert!(store.groups().eq([ONE]) && store.stats().series == 0, "its open block was closed");
    store.maintain(time(20 * hour)).expect("it is written");
    let known: i64 = ask(&store, ONE, hour, 1_000).iter().map(|bucket| bucket.known_ms).sum();
    // To the last sample, and as long as that held.
    assert_eq!(known, 1_999_000 + 15 * 60_000);
    assert_eq!(store.stats().levels[0].file_bytes, 0);
    store.maintain(time(30 * hour)).expect("it is written");
    assert_eq!(store.groups().count(), 0);
    store.maintain(time(31 * hour)).expect("it is written");
    assert!(
        store.stats().levels.iter().all(|level| level.files == 0 && level.blocks == 0),
        "{:?}",
        store.stats()
    );
}

#[test]
fn what_cannot_be_taken_is_refused_as_a_whole_and_counted() {
    let dir = tempfile::tempdir().expect("there is room");
    let config = small(MIB)
        .with_groups_max(1)
        .and_then(|config| config.with_fields_max(3))
        .expect("they are in range");
    let mut store = open(dir.path(), config);
    let three = [(Field(1), Some(1)), (Field(2), Some(2)), (FIELD, Some(3))];
    store.append(ONE, time(1_000), &three).expect("it is taken");
    assert!(matches!(store.append(ONE, time(999), &[]), Err(Refusal::Late { .. })));
    let sentinel = [(FIELD, Some(1)), (Field(1), Some(VALUE_MAX + 1))];
    let refusal = Refusal::Value { field: Field(1), value: VALUE_MAX + 1 };
    assert_eq!(store.append(ONE, time(2_000), &sentinel), Err(refusal));
    assert_eq!(store.append(TWO, time(2_000), &[]), Err(Refusal::Groups { most: 1 }));
    let fourth = store.append(ONE, time(2_000), &[(Field(4), Some(4)), (FIELD, Some(9))]);
    assert_eq!(fourth, Err(Refusal::Fields { fields: 4, most: 3 }));
    assert_eq!(store.newest(ONE), Some(time(1_000)), "nothing of these was taken");
    assert_eq!(store.stats().refused, Refused { late: 1, values: 1, fields: 1, groups: 1 });
    // One that is lost makes room, as processes do that come and go.
    for at in (3..100).filter(|at| Field(*at) != FIELD) {
        // Of the three FIELD and one more stay.
        let change = [
            (Field(at), Some(7)),
            (
                Field(match at {
                    3 => 2,
                    6 => 4,
                    _ => at - 1,
                }),
                None,
            ),
        ];
        store.append(ONE, time(i64::from(at) * 1_000), &change).expect("it is taken");
    }
    let fields = store.fields(ONE, time(0)..time(200_000)).expect("it is read");
    let all: Vec<_> = (1..100).map(Field).collect();
    assert_eq!(fields, all);
    assert_eq!(ask(&store, ONE, 100_000, 100_000)[0].known_ms, 99_000);
    // And so does silence.
    let others: Vec<_> = (200..203).map(|field| (Field(field), Some(1))).collect();
    assert!(store.append(ONE, time(200_000), &others).is_err());
    store.append(ONE, time(100_000 + 16 * 60_000), &others).expect("it is taken");
}

#[test]
fn a_question_has_bounds_and_needs_the_store_no_more_once_it_is_asked() {
    let dir = tempfile::tempdir().expect("there is room");
    let mut store = open(dir.path(), small(MIB));
    for at in (0..600_000).step_by(1_000) {
        store.append(ONE, time(at), &[(FIELD, Some(at))]).expect("it is taken");
    }
    store.flush().expect("it is written");
    let week = time(0)..time(7 * 86_400_000);
    let refused = store.prepare(ONE, &[], week.clone(), Duration::from_secs(1)).expect_err("it is too much");
    let QueryError::Step { buckets, at_least_ms, .. } = refused else { panic!("{refused}") };
    assert_eq!(buckets, 604_800);
    let step = Duration::from_millis(at_least_ms.unsigned_abs());
    assert!(store.prepare(ONE, &[], week.clone(), step).is_ok());
    assert!(store.prepare(ONE, &[], week, Duration::ZERO).is_err());
    assert!(store.query(TWO, &[], time(0)..time(1_000), step).expect("it is read").fields.is_empty());
    let query =
        store.prepare(ONE, &[], time(0)..time(600_000), Duration::from_secs(1)).expect("it is in bounds");
    store.forget(ONE);
    store.maintain(time(600_000)).expect("it is written");
    assert_eq!(query.run().expect("it is read").fields[&FIELD].len(), 600);
}

#[test]
fn a_directory_has_one_store() {
    let dir = tempfile::tempdir().expect("there is room");
    let store = open(dir.path(), small(MIB));
    assert!(matches!(Store::open(dir.path(), small(MIB)), Err(OpenError::InUse(_))));
    drop(store);
    drop(open(dir.path(), small(MIB)));
    let file = dir.path().join("lock");
    assert!(matches!(Store::open(&file, small(MIB)), Err(OpenError::Disk(_))));
}

#[test]
fn a_disk_that_fails_holds_nobody_up_and_what_waits_is_bounded() {
    let dir = tempfile::tempdir().expect("there is room");
    let path = dir.path().join("series");
    let mut store = open(&path, small(MIB).with_pending_bytes_max(1 << 18).expect("it is in range"));
    std::fs::remove_dir_all(&path).expect("it is there");
    let end = 500_000;
    for at in (0..end).step_by(1_000) {
        let values: Vec<_> = (0..32).map(|field| (Field(field), Some(at * at % 7_919))).collect();
        store.append(ONE, time(at), &values).expect("it is taken");
    }
    let error = store.maintain(time(end)).expect_err("there is no directory");
    assert!(error.to_string().starts_with("writing the series in "), "{error}");
    assert!(store.stats().pending_bytes > 0);
    assert_eq!(ask(&store, ONE, end, 1_000).len() as i64, end / 1_000);
    std::fs::create_dir(&path).expect("there is room");
    store.maintain(time(end)).expect("it is written");
    assert_eq!(store.stats().pending_bytes, 0);
    assert_eq!(ask(&store, ONE, end, 1_000).len() as i64, end / 1_000);
    // Nobody writes.
    let mut state = 1;
    for at in end..end + 2_000 {
        let values: Vec<_> = (0..32).map(|field| (Field(field), Some(noise(&mut state)))).collect();
        store.append(ONE, time(at), &values).expect("it is taken");
    }
    let stats = store.stats();
    assert!(stats.unwritten > 0 && stats.pending_bytes <= 1 << 18, "{stats:?}");
}

#[test]
fn very_many_fields_cost_no_table_with_each_sample() {
    let dir = tempfile::tempdir().expect("there is room");
    let mut store = open(dir.path(), small(MIB).with_fields_max(4096).expect("it is in range"));
    let values: Vec<_> = (0..4096).map(|field| (Field(field), Some(1 << 40))).collect();
    store.append(ONE, time(0), &values).expect("it is taken");
    for at in 1..20_000 {
        let value = (Field(4095), Some(i64::from(at) % 9));
        store.append(ONE, time(i64::from(at) * 50), &[value]).expect("it is taken");
    }
    store.maintain(time(0)).expect("it is written");
    let stats = store.stats();
    assert!(stats.sealed_bytes < 400_000, "{stats:?}");
    let step = Duration::from_secs(100);
    let answer = store.query(ONE, &[], time(0)..time(1_000_000), step).expect("it is read");
    assert_eq!(answer.fields.len(), 4096);
}

#[test]
fn a_level_that_is_not_configured_any_more_goes() {
    let dir = tempfile::tempdir().expect("there is room");
    let mut store = open(dir.path(), small(MIB));
    for at in (0..7_000_000).step_by(1_000) {
        store.append(ONE, time(at), &[(FIELD, Some(at))]).expect("it is taken");
    }
    store.flush().expect("it is written");
    assert_eq!(store.stats().levels[1].files, 1);
    drop(store);
    let keep = Keep { time: Duration::from_secs(7200), bytes_max: MIB, group_bytes_max: MIB };
    let store = open(dir.path(), Config::new(keep, &[]).expect("it is valid"));
    assert_eq!(ask(&store, ONE, 6_999_000, 1_000).len(), 6_999);
    let names = std::fs::read_dir(dir.path())
        .expect("it is there")
        .map(|entry| entry.expect("it is there").file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().starts_with("buckets")));
}

#[test]
fn noisy_curves_cost_at_most_3_bytes_a_value_and_a_series_little_memory() {
    for (name, sample) in KINDS {
        let dir = tempfile::tempdir().expect("there is room");
        let mut store = open(dir.path(), Config::default());
        for seed in 0..4 {
            let (mut gpu, mut at) = (Gpu::new(seed), 0);
            for second in 0..7_200 {
                at += gpu.interval();
                store.append(Group(seed.into()), time(at), &sample(&mut gpu)).expect("it is taken");
                if second % 60 == 0 {
                    store.maintain(time(at)).expect("it is written");
                }
            }
        }
        let stats = store.stats();
        let bytes = stats.sealed_bytes as f64 / stats.sealed_values as f64;
        let buckets =
            stats.levels[1].written_bytes as f64 / (stats.levels[1].written_blocks * 180 * 15) as f64;
        println!("{name}: {bytes:.2} bytes a value, {buckets:.2} a bucket of 10 s");
        assert!(stats.sealed_values > 100_000 && bytes <= 3.0, "{name}: {bytes}");
        assert!(buckets <= 6.0, "{name}: {buckets}");
        let memory = (stats.head_bytes + stats.index_bytes) / stats.series;
        assert!(memory <= 100 + 4096 * 5 / 4 / 15, "{name}: {memory} bytes a series");
    }
}
