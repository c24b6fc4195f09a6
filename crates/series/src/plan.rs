//! Which level answers for which time. Pure.
//!
//! Widths are multiples of one another, so a level whose width divides the step answers exactly, and so do all before it. The coarsest of these is
//! asked first; it lacks what was not thinned out yet, for which the finer ones are asked. Where all of these have nothing any more, coarser levels
//! answer, in buckets of their own width: nothing is made up in between.

use crate::types::{Span, ceil, floor};

/// What there is of a level.
#[derive(Clone, Debug)]
pub(crate) struct Have {
    pub(crate) width_ms: i64,
    /// When its oldest block begins, in the range or not. What is before that may be gone; what is missing after it was never there, if nothing was damaged.
    pub(crate) oldest: Option<i64>,
    /// Blocks are known to have gone. (After a restart it is not known; then a coarser level that begins earlier says so.)
    pub(crate) dropped: bool,
    /// Its blocks in the range, in order.
    pub(crate) blocks: Vec<Span>,
}

/// A time that is folded into buckets of one span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) within: Span,
    pub(crate) span_ms: i64,
    /// From which level what comes, in order.
    pub(crate) parts: Vec<(Span, usize)>,
}

/// Plans for a range of whole steps. Runs are in order and do not overlap; the first and the last may be longer than the range, if only a coarse
/// level is left there.
pub(crate) fn plan(levels: &[Have], range: &Span, step: i64) -> Vec<Run> {
    let exact = levels.iter().rposition(|level| step % level.width_ms == 0).unwrap_or_default();
    let mut missing = vec![range.clone()];
    let mut parts = Vec::new();
    for (index, level) in levels.iter().enumerate().take(exact + 1).rev() {
        for time in touching(&level.blocks) {
            parts.extend(take(&mut missing, &time).into_iter().map(|time| (time, index)));
        }
    }
    let oldest = |level: &Have| Some((level.oldest?, level.dropped));
    let begin = levels.iter().take(exact + 1).filter_map(oldest).min().unwrap_or((i64::MAX, false));
    let mut coarse: Vec<(Span, usize)> = Vec::new();
    for (index, level) in levels.iter().enumerate().skip(exact + 1) {
        for time in touching(&level.blocks) {
            let pieces = |gone: &Span| piece(gone, &time, range, level.width_ms, begin);
            for piece in missing.clone().iter().filter_map(pieces) {
                take(&mut missing, &piece);
                coarse = coarse
                    .into_iter()
                    .flat_map(|(time, level)| cut(&time, &piece).map(move |time| (time, level)))
                    .collect();
                coarse.push((piece, index));
            }
        }
    }
    runs(levels, range, step, &parts, coarse)
}

fn runs(
    levels: &[Have],
    range: &Span,
    step: i64,
    parts: &[(Span, usize)],
    coarse: Vec<(Span, usize)>,
) -> Vec<Run> {
    let mut rest = vec![range.clone()];
    for (piece, _) in &coarse {
        take(&mut rest, piece);
    }
    let exact = rest.into_iter().map(|within| {
        let of_run = |(time, level): &(Span, usize)| Some((common(time, &within)?, *level));
        let mut parts: Vec<_> = parts.iter().filter_map(of_run).collect();
        parts.sort_unstable_by_key(|(time, _)| time.start);
        Run { within, span_ms: step, parts }
    });
    let mut runs: Vec<_> = exact.filter(|run| !run.parts.is_empty()).collect();
    runs.extend(coarse.into_iter().filter_map(|(within, level)| {
        let span_ms = ceil(step, levels.get(level)?.width_ms);
        Some(Run { parts: vec![(within.clone(), level)], within, span_ms })
    }));
    runs.sort_unstable_by_key(|run| run.within.start);
    runs
}

/// What of `has`, a coarser level's time, answers for what is `gone`. Only where at least one bucket as a whole is gone; then the buckets at both
/// ends, of which part is gone, come from it too. `oldest` is when the exact levels begin, and whether they once began earlier: before that, what is
/// not in the range is gone too.
fn piece(gone: &Span, has: &Span, range: &Span, width: i64, (oldest, dropped): (i64, bool)) -> Option<Span> {
    let is_old = gone.end <= oldest && (dropped || has.start < floor(oldest, width));
    let goes_back = is_old && gone.start == range.start;
    let start = if goes_back { floor(gone.start, width) } else { ceil(gone.start, width) };
    let goes_on = is_old && (gone.end == range.end || (dropped && gone.end == oldest));
    let end = if goes_on { ceil(gone.end, width) } else { floor(gone.end, width) };
    let whole = common(&(start..end), has)?;
    let start = if whole.start == start { floor(gone.start, width).max(has.start) } else { whole.start };
    let end = if whole.end == end { ceil(gone.end, width).min(has.end) } else { whole.end };
    Some(start..end)
}

/// Blocks that follow on one another as one.
fn touching(blocks: &[Span]) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for block in blocks {
        match all.last_mut() {
            Some(last) if block.start <= last.end => last.end = last.end.max(block.end),
            _ => all.push(block.clone()),
        }
    }
    all
}

/// What both have.
fn common(one: &Span, other: &Span) -> Option<Span> {
    let both = one.start.max(other.start)..one.end.min(other.end);
    (!both.is_empty()).then_some(both)
}

/// Takes `time` out of `from`, and answers what was in it.
fn take(from: &mut Vec<Span>, time: &Span) -> Vec<Span> {
    let taken = from.iter().filter_map(|span| common(span, time)).collect();
    *from = from.iter().flat_map(|span| cut(span, time)).collect();
    taken
}

/// What is left of `span` without `time`.
fn cut(span: &Span, time: &Span) -> impl Iterator<Item = Span> + use<> {
    let left = [span.start..span.end.min(time.start), span.start.max(time.end)..span.end];
    left.into_iter().filter(|span| !span.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDTHS: [i64; 3] = [1, 10, 60];

    fn levels() -> impl Strategy<Value = Vec<Have>> {
        let blocks = || (any::<bool>(), proptest::collection::vec((0_i64..40, 1_i64..60), 0..6));
        [blocks(), blocks(), blocks()].prop_map(|levels| {
            let have = |(width_ms, (dropped, blocks)): (i64, (bool, Vec<(i64, i64)>))| {
                let mut at = 0;
                let blocks = blocks.into_iter().map(|(skip, length)| {
                    let start = at + skip / 2 * width_ms;
                    at = start + length * width_ms;
                    start..at
                });
                let blocks: Vec<_> = blocks.collect();
                Have { width_ms, oldest: blocks.first().map(|block| block.start), dropped, blocks }
            };
            WIDTHS.into_iter().zip(levels).map(have).collect()
        })
    }

    proptest! {
        #[test]
        fn each_moment_is_answered_once_and_by_the_best_that_has_it(
            levels in levels(), from in 0_i64..40, steps in 1_i64..60, step in prop_oneof![Just(1_i64), Just(7), Just(10), Just(20), Just(60), Just(180)],
        ) {
            let range = from * step..(from + steps) * step;
            let runs = plan(&levels, &range, step);
            let has = |level: usize, ms: i64| levels[level].blocks.iter().any(|block| block.contains(&ms));
            let exact = WIDTHS.iter().rposition(|width| step % width == 0).expect("1 does");
            let mut end = i64::MIN;
            for run in &runs {
                prop_assert!(run.within.start >= end && !run.within.is_empty());
                end = run.within.end;
                let mut at = run.within.start;
                for (time, level) in &run.parts {
                    prop_assert!(time.start >= at && time.end <= run.within.end && !time.is_empty());
                    at = time.end;
                    let width = WIDTHS[*level];
                    prop_assert_eq!((time.start % width, time.end % width, run.span_ms % width), (0, 0, 0));
                    prop_assert!(time.clone().all(|ms| has(*level, ms)));
                    prop_assert!(run.span_ms >= step && (*level > exact || run.span_ms == step));
                }
            }
            for ms in range.clone() {
                let answers: Vec<_> = runs.iter().flat_map(|run| &run.parts).filter(|(time, _)| time.contains(&ms)).collect();
                prop_assert!(answers.len() <= 1);
                let best = (0..=exact).rev().find(|level| has(*level, ms));
                match (answers.first().map(|(_, level)| *level), best) {
                    (Some(level), Some(best)) if level <= exact => prop_assert_eq!(level, best),
                    // In a bucket of which part is gone.
                    (Some(level), Some(_)) => {
                        let width = WIDTHS[level];
                        let mut bucket = floor(ms, width)..floor(ms, width) + width;
                        prop_assert!(bucket.any(|ms| range.contains(&ms) && (0..=exact).all(|level| !has(level, ms))));
                    }
                    (None, Some(_)) => prop_assert!(false, "{ms} is not answered"),
                    (None, None) => {
                        for level in exact + 1..3 {
                            let width = WIDTHS[level];
                            let mut bucket = floor(ms, width)..floor(ms, width) + width;
                            let gone = bucket.all(|ms| range.contains(&ms) && (0..level).all(|finer| !has(finer, ms)));
                            prop_assert!(!gone || !has(level, ms), "{ms} is answered by {level}");
                            // However short the range is.
                            let finer = levels[..level].iter().filter_map(|level| level.oldest).min();
                            let is_old = finer.is_none_or(|oldest| ms < floor(oldest, width));
                            prop_assert!(!is_old || !has(level, ms), "{ms} is answered by {level}");
                        }
                    }
                    (Some(level), None) => prop_assert!(level > exact),
                }
            }
        }
    }
}
