//! Values and the times for which they were held, folded into buckets of one span.

use crate::{
    Bucket, Time,
    types::{Span, floor},
};

/// Sums are of so many parts of a unit: what a mean that was stored has behind the point.
pub(crate) const FRACTION_BITS: u32 = 12;

/// What a bucket knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) last: i64,
    /// In milliseconds, 1 or more.
    pub(crate) known_ms: i64,
    /// Of values times milliseconds, shifted by [`FRACTION_BITS`]. Values have 58 bits and times 43, so it does not overflow.
    pub(crate) sum: i128,
}

impl Held {
    /// One value, held for some milliseconds.
    pub(crate) fn new(value: i64, known_ms: i64) -> Self {
        let sum = i128::from(value) * i128::from(known_ms) << FRACTION_BITS;
        Self { min: value, max: value, last: value, known_ms, sum }
    }

    fn then(&mut self, later: Self) {
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.last = later.last;
        self.known_ms += later.known_ms;
        self.sum += later.sum;
    }

    /// As it is told, of the span from `start` on.
    pub(crate) fn bucket(&self, start: i64, span_ms: i64) -> Bucket {
        let Self { min, max, last, known_ms, sum } = *self;
        let mean = sum as f64 / known_ms as f64 / f64::from(1 << FRACTION_BITS);
        Bucket { start: Time::clamped(start), span_ms, known_ms, min, max, mean, last }
    }
}

/// Folds one field in the order of time.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    /// What is of interest.
    within: Span,
    span_ms: i64,
    /// The bucket that is not whole yet, and when it begins.
    open: Option<(i64, Held)>,
    done: Vec<(i64, Held)>,
}

impl Fold {
    /// Into buckets that begin at the multiples of `span_ms`, those at the ends cut off by `within`.
    pub(crate) fn new(within: Span, span_ms: i64) -> Self {
        Self { within, span_ms, open: None, done: Vec::new() }
    }

    /// The value was held for that time, none of which is before what came earlier.
    pub(crate) fn hold(&mut self, value: i64, time: Span) {
        let (mut from, to) = (time.start.max(self.within.start), time.end.min(self.within.end));
        while from < to {
            let end = to.min(floor(from, self.span_ms) + self.span_ms);
            self.add(from, Held::new(value, end - from));
            from = end;
        }
    }

    /// That was held in a bucket that begins then, and ends within one of these.
    pub(crate) fn add(&mut self, start: i64, held: Held) {
        if !self.within.contains(&start) {
            return;
        }
        let start = floor(start, self.span_ms);
        match &mut self.open {
            Some((open, before)) if *open == start => before.then(held),
            open => self.done.extend(open.replace((start, held))),
        }
    }

    /// The buckets of which something is known, and when each begins (also where it is cut off).
    pub(crate) fn finish(mut self) -> Vec<(i64, Held)> {
        self.done.extend(self.open);
        self.done
    }
}
