//! Reads blocks into folds, by field.

use std::collections::BTreeMap;

use crate::{
    Damaged, buckets,
    fold::{Fold, Whole},
    raw::{self, Visit},
    types::Span,
};

/// A fold for each field that is wanted.
#[derive(Debug)]
pub(crate) struct Gather<'a, T> {
    /// Empty: all.
    wanted: &'a [u32],
    within: Span,
    span_ms: i64,
    places: BTreeMap<u32, usize>,
    folds: Vec<Fold<T>>,
}

impl<'a, T: Whole> Gather<'a, T> {
    /// Of the fields that are `wanted`, or all, if none is.
    pub(crate) fn new(wanted: &'a [u32], within: Span, span_ms: i64) -> Self {
        Self { wanted, within, span_ms, places: BTreeMap::new(), folds: Vec::new() }
    }

    /// Of a block of samples that says what is known in `time`, takes what is in `part`.
    pub(crate) fn samples(&mut self, time: &Span, block: &[u8], part: &Span) -> Result<(), Damaged> {
        let mut samples = Samples { gather: self, part, columns: Vec::new() };
        raw::decode(time.start, block, &mut samples)?;
        samples.until(time.end);
        Ok(())
    }

    /// Of a block of buckets takes those that begin in `part`.
    pub(crate) fn buckets(
        &mut self,
        time: &Span,
        width: i64,
        block: &[u8],
        part: &Span,
    ) -> Result<(), Damaged> {
        let wanted = self.wanted;
        let mut last = None;
        buckets::decode(
            block,
            width,
            |id| wanted.is_empty() || wanted.contains(&id),
            |id, row, held| {
                let start = time.start + i64::from(row) * width;
                if !part.contains(&start) {
                    return;
                }
                let place = match last {
                    Some((same, place)) if same == id => place,
                    _ => self.place(id),
                };
                last = Some((id, place));
                if let Some(fold) = self.folds.get_mut(place) {
                    fold.add(start, held);
                }
            },
        )
    }

    fn place(&mut self, id: u32) -> usize {
        let next = self.folds.len();
        let place = *self.places.entry(id).or_insert(next);
        if place == next {
            self.folds.push(Fold::new(self.within.clone(), self.span_ms));
        }
        place
    }

    /// The buckets of which something is known, by field.
    pub(crate) fn finish(self) -> BTreeMap<u32, Vec<T>> {
        let mut folds: Vec<_> = self.folds.into_iter().map(Some).collect();
        let fold = |(id, place): (u32, usize)| Some((id, folds.get_mut(place)?.take()?.finish()));
        self.places.into_iter().filter_map(fold).collect()
    }
}

/// A block of samples that is being read.
struct Samples<'a, 'b, T> {
    gather: &'a mut Gather<'b, T>,
    part: &'a Span,
    columns: Vec<Wanted>,
}

struct Wanted {
    /// The fold, if its field is wanted.
    place: Option<usize>,
    /// The value that it has, and since when.
    now: Option<(i64, i64)>,
}

impl<T: Whole> Visit for Samples<'_, '_, T> {
    fn column(&mut self, id: u32) {
        let wanted = self.gather.wanted;
        let place = (wanted.is_empty() || wanted.contains(&id)).then(|| self.gather.place(id));
        self.columns.push(Wanted { place, now: None });
    }

    #[inline]
    fn value(&mut self, column: usize, time: i64, value: i64) {
        let Some(Wanted { place: Some(place), now }) = self.columns.get_mut(column) else { return };
        let before = now.replace((value, time));
        if let Some((value, since)) = before {
            hold(&mut self.gather.folds, *place, value, since..time, self.part);
        }
    }

    fn lost(&mut self, column: usize, time: i64) {
        if let Some(Wanted { place: Some(place), now }) = self.columns.get_mut(column)
            && let Some((value, since)) = now.take()
        {
            hold(&mut self.gather.folds, *place, value, since..time, self.part);
        }
    }

    fn gap(&mut self, time: i64) {
        for column in 0..self.columns.len() {
            self.lost(column, time);
        }
    }
}

impl<T: Whole> Samples<'_, '_, T> {
    /// What it has now, it has until then.
    fn until(&mut self, time: i64) {
        self.gap(time);
    }
}

#[inline]
fn hold<T: Whole>(folds: &mut [Fold<T>], place: usize, value: i64, time: Span, part: &Span) {
    if let Some(fold) = folds.get_mut(place) {
        fold.hold(value, time.start.max(part.start)..time.end.min(part.end));
    }
}
