//! What a store answers is what brute force answers, whatever happened to it.

use std::{collections::BTreeMap, fs, time::Duration};

use proptest::prelude::*;
use skerry_series::{Answer, Bucket, Field};

mod model;

use model::{Act, BEGIN_MS, Both, GROUP, Held, acts, bucket, is_same, time};

/// Whole buckets by brute force.
fn expected(held: &BTreeMap<u32, Vec<Held>>, from: i64, to: i64, step: i64) -> BTreeMap<u32, Vec<Bucket>> {
    let starts = || (from.div_euclid(step)..(to + step - 1).div_euclid(step)).map(|number| number * step);
    let of = |held: &Vec<Held>| starts().filter_map(|start| bucket(held, start, step)).collect::<Vec<_>>();
    held.iter().map(|(field, held)| (*field, of(held))).filter(|(_, buckets)| !buckets.is_empty()).collect()
}

fn ask(both: &mut Both, from: i64, to: i64, step: i64) -> Answer {
    let step = Duration::from_millis(step.unsigned_abs());
    both.store().query(GROUP, &[], time(from)..time(to), step).expect("it is read")
}

fn steps() -> impl Strategy<Value = i64> {
    prop_oneof![Just(1_000_i64), Just(5_000), Just(10_000), Just(60_000), Just(300_000), 700_i64..70_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_answer_is_what_brute_force_answers(
        acts in acts(500), steps in proptest::collection::vec(steps(), 3), from in 0_i64..200_000, back in 0_i64..200_000,
    ) {
        let mut both = Both::new();
        for act in &acts {
            both.act(act);
        }
        let end = both.model.newest + 3_000;
        for step in steps {
            for (from, to) in [(BEGIN_MS, end), (BEGIN_MS + from, (end - back).max(BEGIN_MS + from + 1))] {
                // Buckets are whole, but the last value is not taken to hold after the range.
                let held = both.model.until(to.max(both.model.newest));
                let answer = ask(&mut both, from, to, step);
                prop_assert_eq!(answer.damaged, 0);
                let expected = expected(&held, from, to, step);
                prop_assert!(answer.fields.keys().map(|field| field.0).eq(expected.keys().copied()));
                for (field, buckets) in answer.fields {
                    let wanted = &expected[&field.0];
                    prop_assert_eq!(buckets.len(), wanted.len(), "{:?}", field);
                    for (is, was) in buckets.iter().zip(wanted) {
                        prop_assert!(is_same(is, was), "{:?} in steps of {}: {:?} is {:?}", field, step, was, is);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_thinned_out_is_as_it_was_but_coarser(acts in acts(700), step in steps(), age in 0_i64..600_000) {
        let mut both = Both::new();
        for act in &acts {
            both.act(act);
        }
        let (newest, end) = (both.model.newest, both.model.newest + 30_000);
        both.store().maintain(time(newest + age)).expect("it is written");
        let held = both.model.until(end);
        let answer = ask(&mut both, BEGIN_MS, end, step);
        let none = Vec::new();
        for (field, buckets) in &answer.fields {
            let held = held.get(&field.0).unwrap_or(&none);
            let mut after = i64::MIN;
            for is in buckets {
                let start = is.start.unix_ms();
                prop_assert!(start >= after, "{:?} is not behind {}", is, after);
                after = start + is.span_ms;
                let was = bucket(held, start, is.span_ms);
                prop_assert!(was.as_ref().is_some_and(|was| is_same(is, was)), "{:?} in steps of {}: {:?} is {:?}", field, step, was, is);
            }
        }
        // All of an hour is there, at one level or another, in buckets of a minute at most where the step is shorter.
        for (field, held) in &held {
            let found = answer.fields.get(&Field(*field)).map(Vec::as_slice).unwrap_or_default();
            for (_, from, to) in held.iter().filter(|(_, _, to)| *to > newest + age - 3_000_000) {
                let known: i64 = found
                    .iter()
                    .map(|bucket| (bucket.start.unix_ms(), bucket.start.unix_ms() + bucket.span_ms))
                    .map(|(start, end)| (end.min(*to) - start.max(*from)).max(0))
                    .sum();
                prop_assert_eq!(known, to - from, "field {} from {}", field, from);
            }
        }
    }

    #[test]
    fn a_crash_loses_the_end_alone(acts in acts(400), more in acts(200), written: bool) {
        let mut both = Both::new();
        for act in &acts {
            both.act(act);
        }
        both.store().flush().expect("it is written");
        let flushed = both.store().newest(GROUP);
        for act in more.iter().filter(|act| !matches!(act, Act::Reopen)) {
            both.act(act);
        }
        if written {
            both.store().maintain(time(BEGIN_MS)).expect("it is written");
        }
        let before = both.store().newest(GROUP);
        both.crash();
        let newest = both.store().newest(GROUP);
        prop_assert!(newest >= flushed && newest <= before);
        let end = both.model.newest + 1_000;
        if let Some(newest) = newest {
            both.model.cut(newest.unix_ms());
        }
        // And goes on as if there was a gap.
        for act in more.iter().filter(|_| newest.is_some()) {
            both.act(act);
        }
        let end = end.max(both.model.newest + 1_000);
        let expected = expected(&both.model.until(end), BEGIN_MS, end, 1_000);
        let answer = ask(&mut both, BEGIN_MS, end, 1_000);
        if newest.is_some() {
            prop_assert_eq!(answer.fields.len(), expected.len());
            for (field, buckets) in answer.fields {
                prop_assert_eq!(buckets.len(), expected[&field.0].len());
                prop_assert!(buckets.iter().zip(&expected[&field.0]).all(|(is, was)| is_same(is, was)));
            }
        }
    }

    #[test]
    fn damage_in_a_file_loses_what_is_damaged_alone(
        acts in acts(400), file in any::<proptest::sample::Index>(), at in any::<proptest::sample::Index>(), by in 1_u8.., torn: bool,
        open: bool,
    ) {
        let mut both = Both::new();
        for act in &acts {
            both.act(act);
        }
        both.store().flush().expect("it is written");
        let full = both.store().stats().levels.iter().map(|level| level.blocks).sum::<u64>();
        let mut files: Vec<_> = fs::read_dir(both.dir.path()).expect("it is there").map(|entry| entry.expect("it is there").path()).collect();
        files.retain(|path| fs::metadata(path).is_ok_and(|about| about.len() > 0));
        files.sort();
        let path = file.get(&files);
        let mut bytes = fs::read(path).expect("it is there");
        let at = at.index(bytes.len());
        if torn {
            bytes.truncate(at);
        } else {
            bytes[at] ^= by;
        }
        let end = both.model.newest + 1_000;
        let held = both.model.until(end);
        // Also while it is open.
        if open {
            fs::write(path, &bytes).expect("there is room");
        }
        let answer = if open {
            ask(&mut both, BEGIN_MS, end, 1_000)
        } else {
            fs::write(path, &bytes).expect("there is room");
            both.crash();
            let stats = both.store().stats();
            let damaged: u64 = stats.levels.iter().map(|level| level.damaged).sum();
            let left: u64 = stats.levels.iter().map(|level| level.blocks).sum();
            prop_assert!(damaged <= 1);
            prop_assert!(torn || damaged == 1);
            prop_assert!(torn || left + 1 >= full);
            ask(&mut both, BEGIN_MS, end, 1_000)
        };
        for (field, buckets) in &answer.fields {
            for is in buckets {
                let was = bucket(&held[&field.0], is.start.unix_ms(), is.span_ms).expect("it was known");
                prop_assert!(is.known_ms <= was.known_ms && is.min >= was.min && is.max <= was.max);
            }
        }
    }
}
