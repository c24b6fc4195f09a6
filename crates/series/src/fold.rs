//! Values and the times for which they were held, folded into buckets of one span.

use crate::{
    Bucket, Time,
    types::{Span, floor},
};

/// Sums are of so many parts of a unit: what a mean that was stored has behind the point.
pub(crate) const FRACTION_BITS: u32 = 12;

/// For so many buckets at most there is room from the beginning.
const ROOM_MAX: i64 = 10_000;

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
        let sum = (i128::from(value) * i128::from(known_ms)) << FRACTION_BITS;
        Self { min: value, max: value, last: value, known_ms, sum }
    }

    fn then(&mut self, later: Self) {
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.last = later.last;
        self.known_ms += later.known_ms;
        self.sum += later.sum;
    }

    fn bucket(&self, start: i64, span_ms: i64) -> Bucket {
        let Self { min, max, last, known_ms, sum } = *self;
        // Nearly all fit 64 bits, which is much faster.
        let sum = i64::try_from(sum).map_or_else(|_| sum as f64, |sum| sum as f64);
        let mean = sum / (known_ms << FRACTION_BITS) as f64;
        Bucket { start: Time::clamped(start), span_ms, known_ms, min, max, mean, last }
    }
}

/// What is made of a bucket.
pub(crate) trait Whole {
    /// Of the span from `start` on.
    fn whole(held: Held, start: i64, span_ms: i64) -> Self;
}

impl Whole for Bucket {
    fn whole(held: Held, start: i64, span_ms: i64) -> Self {
        held.bucket(start, span_ms)
    }
}

/// When it begins, and what it knows.
impl Whole for (i64, Held) {
    fn whole(held: Held, start: i64, _: i64) -> Self {
        (start, held)
    }
}

/// Folds one field in the order of time.
#[derive(Clone, Debug)]
pub(crate) struct Fold<T> {
    /// What is of interest.
    within: Span,
    span_ms: i64,
    /// The time of the bucket that is not whole yet, and what it knows. Before the first one, and where there is none, it is empty.
    open: Span,
    held: Option<Held>,
    done: Vec<T>,
}

impl<T: Whole> Fold<T> {
    /// Into buckets that begin at the multiples of `span_ms`, those at the ends cut off by `within`.
    pub(crate) fn new(within: Span, span_ms: i64) -> Self {
        Self { within, span_ms, open: 0..0, held: None, done: Vec::new() }
    }

    /// The value was held for that time, none of which is before what came earlier.
    #[inline]
    pub(crate) fn hold(&mut self, value: i64, time: Span) {
        let (mut from, to) = (time.start.max(self.within.start), time.end.min(self.within.end));
        while from < to {
            self.go_to(from);
            let end = to.min(self.open.end);
            self.then(Held::new(value, end - from));
            from = end;
        }
    }

    /// That was held in a bucket that begins then, and ends within one of these.
    #[inline]
    pub(crate) fn add(&mut self, start: i64, held: Held) {
        if self.within.contains(&start) {
            self.go_to(start);
            self.then(held);
        }
    }

    /// Opens the bucket of that time.
    #[inline]
    fn go_to(&mut self, time: i64) {
        if !self.open.contains(&time) {
            self.close();
            // Mostly it is the next one.
            let is_next =
                time >= self.open.end && time - self.open.end < self.span_ms && !self.open.is_empty();
            let start = if is_next { self.open.end } else { floor(time, self.span_ms) };
            self.open = start..start + self.span_ms;
        }
    }

    fn then(&mut self, later: Held) {
        match &mut self.held {
            Some(held) => held.then(later),
            None => self.held = Some(later),
        }
    }

    fn close(&mut self) {
        if let Some(held) = self.held.take() {
            if self.done.capacity() == 0 {
                // As many as there will be, if it is known for all of the time.
                let most = (self.within.end - self.open.start) / self.span_ms + 1;
                self.done.reserve(most.clamp(1, ROOM_MAX) as usize);
            }
            let (from, to) = (self.open.start.max(self.within.start), self.open.end.min(self.within.end));
            self.done.push(T::whole(held, from, to - from));
        }
    }

    /// The buckets of which something is known.
    pub(crate) fn finish(mut self) -> Vec<T> {
        self.close();
        self.done
    }
}
