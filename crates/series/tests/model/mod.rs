//! What a store should know, by brute force: every value, and the times from and to which it was held.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use skerry_series::{Bucket, Config, Field, Group, Keep, Refusal, Store, Time};

pub(crate) const GROUP: Group = Group(0xfeed);
pub(crate) const HOLD_MS: i64 = 20_000;
pub(crate) const BEGIN_MS: i64 = 1_790_000_000_000;

pub(crate) fn time(ms: i64) -> Time {
    Time::from_unix_ms(ms).expect("it is in range")
}

/// Small, so that a few hundred samples fill blocks and are thinned out: samples for 160 s, buckets of 5 s for 480 s, of 60 s for an hour.
pub(crate) fn config() -> Config {
    let keep =
        |seconds| Keep { time: Duration::from_secs(seconds), bytes_max: 1 << 20, group_bytes_max: 1 << 18 };
    let buckets = [(Duration::from_secs(5), keep(480)), (Duration::from_secs(60), keep(3600))];
    let config = Config::new(keep(160), &buckets).expect("it is valid");
    let config = config.with_block_bytes(256).expect("it is in range");
    config.with_hold(Duration::from_millis(HOLD_MS.unsigned_abs())).expect("it is in range")
}

/// A value, from when, and until when.
pub(crate) type Held = (i64, i64, i64);

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    held: BTreeMap<u32, Vec<Held>>,
    now: BTreeMap<u32, (i64, i64)>,
    /// Of the last word of the group.
    pub(crate) newest: i64,
}

impl Model {
    pub(crate) fn sample(&mut self, time: i64, values: &[(u32, Option<i64>)]) {
        self.hear(time);
        for (field, value) in values {
            self.end(*field, time);
            if let Some(value) = value {
                self.now.insert(*field, (*value, time));
            }
        }
    }

    pub(crate) fn gap(&mut self, time: i64) {
        self.hear(time);
        self.end_all(time);
    }

    /// What did not hold until then is not known any more.
    fn hear(&mut self, time: i64) {
        if time - self.newest > HOLD_MS {
            self.end_all(self.newest + HOLD_MS);
        }
        self.newest = time;
    }

    fn end_all(&mut self, time: i64) {
        for field in self.now.keys().copied().collect::<Vec<_>>() {
            self.end(field, time);
        }
    }

    fn end(&mut self, field: u32, time: i64) {
        if let Some((value, from)) = self.now.remove(&field)
            && from < time
        {
            self.held.entry(field).or_default().push((value, from, time));
        }
    }

    /// Everything that was known before `time`, and nothing after.
    pub(crate) fn cut(&mut self, time: i64) {
        self.end_all(self.newest + HOLD_MS);
        for held in self.held.values_mut() {
            held.retain(|(_, from, _)| *from < time);
            for (_, _, to) in held {
                *to = (*to).min(time);
            }
        }
        self.newest = time;
    }

    /// What is known until `time`, if nothing more is heard.
    pub(crate) fn until(&self, time: i64) -> BTreeMap<u32, Vec<Held>> {
        let mut all = self.clone();
        all.end_all(time.min(all.newest + HOLD_MS));
        all.held
    }
}

/// The bucket of a span, if anything is known in it.
pub(crate) fn bucket(held: &[Held], start: i64, span_ms: i64) -> Option<Bucket> {
    let (mut known_ms, mut sum) = (0, 0_i128);
    let mut all: Option<(i64, i64, i64)> = None;
    for (value, from, to) in held {
        let ms = (*to).min(start + span_ms) - (*from).max(start);
        if ms > 0 {
            known_ms += ms;
            sum += i128::from(*value) * i128::from(ms);
            let (min, max, _) = all.unwrap_or((*value, *value, *value));
            all = Some((min.min(*value), max.max(*value), *value));
        }
    }
    let (min, max, last) = all?;
    let mean = sum as f64 / known_ms as f64;
    Some(Bucket { start: time(start), span_ms, known_ms, min, max, mean, last })
}

/// Whether it is the same, and the mean nearly: two times thinned out, it is off by two places.
pub(crate) fn is_same(one: &Bucket, other: &Bucket) -> bool {
    let off = (one.max.abs_diff(one.min) as f64 / 1000.0).max(0.1) * 1.001;
    Bucket { mean: 0.0, ..*one } == Bucket { mean: 0.0, ..*other } && (one.mean - other.mean).abs() <= off
}

/// What happens to a store.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Sample(i64, Vec<(u32, Option<i64>)>),
    Gap(i64),
    Late(i64),
    Maintain,
    Reopen,
}

pub(crate) fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
    let value = prop_oneof![
        20 => 0_i64..100,
        5 => (-50_i64..50).prop_map(|step| step * 1000),
        1 => -(1_i64 << 58) + 1..1 << 58,
    ];
    let values = proptest::collection::vec((0_u32..8, proptest::option::weighted(0.95, value)), 0..8);
    let interval = prop_oneof![40 => 900_i64..1100, 5 => 0_i64..50, 3 => 1_000_i64..HOLD_MS, 1 => HOLD_MS - 2..3 * HOLD_MS];
    let act = prop_oneof![
        200 => (interval, values).prop_map(|(interval, values)| Act::Sample(interval, values)),
        4 => (0_i64..HOLD_MS * 2).prop_map(Act::Gap),
        4 => (1_i64..100_000).prop_map(Act::Late),
        8 => Just(Act::Maintain),
        1 => Just(Act::Reopen),
    ];
    proptest::collection::vec(act, 1..most)
}

/// A store and what it should know.
pub(crate) struct Both {
    pub(crate) dir: tempfile::TempDir,
    store: Option<Store>,
    pub(crate) model: Model,
}

impl Both {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is room");
        let mut both = Self { dir, store: None, model: Model::default() };
        both.model.newest = BEGIN_MS;
        both.open();
        both
    }

    pub(crate) fn store(&mut self) -> &mut Store {
        self.store.as_mut().expect("it is open")
    }

    fn open(&mut self) {
        self.store = Some(Store::open(self.dir.path(), config()).expect("it opens"));
    }

    /// Closes it without a word, and opens it again.
    pub(crate) fn crash(&mut self) {
        self.store = None;
        self.open();
    }

    /// Nothing is too old in this.
    pub(crate) fn act(&mut self, act: &Act) {
        let newest = self.model.newest;
        let is_known = self.store().newest(GROUP).is_some();
        match act {
            Act::Sample(interval, values) => {
                let at = newest + interval;
                let fields: Vec<_> = values.iter().map(|(field, value)| (Field(*field), *value)).collect();
                self.store().append(GROUP, time(at), &fields).expect("it is taken");
                self.model.sample(at, values);
            }
            Act::Gap(interval) if is_known => {
                self.store().gap(GROUP, time(newest + interval)).expect("it is taken");
                self.model.gap(newest + interval);
            }
            Act::Late(by) if is_known => {
                let at = time(newest - by);
                let late = Refusal::Late { time: at, newest: time(newest) };
                assert_eq!(self.store().append(GROUP, at, &[(Field(1), Some(1))]), Err(late.clone()));
                assert_eq!(self.store().gap(GROUP, at), Err(late));
            }
            Act::Gap(_) | Act::Late(_) => {}
            Act::Maintain => self.store().maintain(Time::MIN).expect("it is written"),
            Act::Reopen => {
                self.store().flush().expect("it is written");
                self.crash();
                if is_known {
                    assert_eq!(self.store().newest(GROUP), Some(time(newest)));
                    self.model.gap(newest);
                }
            }
        }
    }
}
