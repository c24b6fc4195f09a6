//! Merges the lines of many instances: what they have had is told in the order of time, what comes live as it comes. Pure.

use std::collections::VecDeque;

use skerry_proto::relay::v1::LogLine;

/// What a line takes beside its data, about.
const LINE_BYTES: usize = 48;

/// See the module. A feed is named by its place.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    feeds: Vec<Feed>,
}

#[derive(Debug)]
struct Feed {
    lines: VecDeque<LogLine>,
    stage: Stage,
    /// The time of its last line that was told: one with an earlier or an unknown time counts as of then, so that its order stays.
    clock: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It still tells what it had: nobody's later line goes before it.
    Past,
    /// It tells what comes.
    Live,
    /// Nothing comes any more.
    Over,
}

impl Feed {
    /// When its next line was written, as far as the order goes.
    fn due(&self) -> Option<i64> {
        self.lines.front().map(|line| line.time_unix_nanos.max(self.clock))
    }

    /// Whether all others wait for it.
    fn is_awaited(&self) -> bool {
        self.stage == Stage::Past && self.lines.is_empty()
    }
}

impl Merge {
    /// One more feed, which begins with what it had.
    pub(crate) fn add(&mut self) -> usize {
        self.feeds.push(Feed { lines: VecDeque::new(), stage: Stage::Past, clock: 0 });
        self.feeds.len() - 1
    }

    /// The next lines of a feed.
    pub(crate) fn push(&mut self, feed: usize, lines: impl IntoIterator<Item = LogLine>) {
        if let Some(feed) = self.feeds.get_mut(feed) {
            feed.lines.extend(lines);
        }
    }

    /// What the feed had is told, or it is not known when it will be: nobody waits for it any more.
    pub(crate) fn live(&mut self, feed: usize) {
        self.advance(feed, Stage::Live);
    }

    /// The feed has ended. What it gave is still told.
    pub(crate) fn over(&mut self, feed: usize) {
        self.advance(feed, Stage::Over);
    }

    fn advance(&mut self, feed: usize, stage: Stage) {
        if let Some(feed) = self.feeds.get_mut(feed)
            && feed.stage != Stage::Over
        {
            feed.stage = stage;
        }
    }

    /// Whether more of this feed is to be had: its last lines are told.
    pub(crate) fn wants(&self, feed: usize) -> bool {
        self.feeds.get(feed).is_some_and(|feed| feed.lines.is_empty() && feed.stage != Stage::Over)
    }

    /// Whether all have ended and all is told.
    pub(crate) fn is_over(&self) -> bool {
        self.feeds.iter().all(|feed| feed.stage == Stage::Over && feed.lines.is_empty())
    }

    /// The next lines, all of one feed, of at most so many bytes or one; nothing while a feed is awaited.
    pub(crate) fn next_run(&mut self, bytes_max: usize) -> Option<(usize, Vec<LogLine>)> {
        if self.feeds.iter().any(Feed::is_awaited) {
            return None;
        }
        let dues = self.feeds.iter().enumerate().filter_map(|(feed, state)| Some((state.due()?, feed)));
        let (mut first, mut second) = (None, None);
        for due in dues {
            if first.is_none_or(|first| due < first) {
                second = first.replace(due);
            } else if second.is_none_or(|second| due < second) {
                second = Some(due);
            }
        }
        let (_, index) = first?;
        let feed = self.feeds.get_mut(index)?;
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while let Some(due) = feed.due()
            && second.is_none_or(|second| (due, index) < second)
        {
            let size = feed.lines.front().map_or(0, |line| line.data.len()) + LINE_BYTES;
            if !lines.is_empty() && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            feed.clock = due;
            lines.extend(feed.lines.pop_front());
        }
        Some((index, lines))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(time: i64, data: &str) -> LogLine {
        LogLine { time_unix_nanos: time, data: data.to_owned().into(), ..LogLine::default() }
    }

    fn told(merge: &mut Merge) -> Vec<(usize, i64)> {
        let mut told = Vec::new();
        while let Some((feed, lines)) = merge.next_run(1 << 16) {
            assert!(!lines.is_empty());
            told.extend(lines.iter().map(|line| (feed, line.time_unix_nanos)));
        }
        told
    }

    #[test]
    fn what_was_is_told_in_order_and_nobody_overtakes_one_that_is_awaited() {
        let mut merge = Merge::default();
        let (one, two) = (merge.add(), merge.add());
        merge.push(one, [line(1, "a"), line(5, "b")]);
        assert!(told(&mut merge).is_empty(), "the other one may have had an earlier line");
        merge.push(two, [line(2, "c"), line(3, "d")]);
        assert_eq!(told(&mut merge), [(0, 1), (1, 2), (1, 3)], "and may have another one before 5");
        assert!(merge.wants(two) && !merge.wants(one));
        merge.live(two);
        assert_eq!(told(&mut merge), [(0, 5)]);
        merge.push(two, [line(4, "late")]);
        merge.live(one);
        assert_eq!(told(&mut merge), [(1, 4)], "what is live is told as it comes");
        merge.over(one);
        merge.over(two);
        assert!(merge.is_over());
    }

    #[test]
    fn a_run_has_a_bound_and_at_least_one_line() {
        let mut merge = Merge::default();
        let feed = merge.add();
        merge.push(feed, (0..10).map(|time| line(time, &"x".repeat(1000))));
        let (_, lines) = merge.next_run(2500).expect("lines");
        assert_eq!(lines.len(), 2);
        let (_, lines) = merge.next_run(1).expect("lines");
        assert_eq!(lines.len(), 1);
    }

    proptest! {
        /// However what they had comes in, it is told whole, each feed in its own order, and all in the order of time where each was.
        #[test]
        fn the_order_of_time_is_that_of_all_and_of_each(
            feeds in prop::collection::vec(prop::collection::vec((0i64..50, any::<bool>()), 0..20), 1..6),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
            run_bytes in 1usize..400,
        ) {
            let mut merge = Merge::default();
            let mut left: Vec<VecDeque<LogLine>> = feeds.iter().enumerate().map(|(feed, lines)| {
                let mut times: Vec<i64> = lines.iter().map(|(time, _)| *time).collect();
                times.sort_unstable();
                times.iter().enumerate().map(|(n, time)| line(*time, &format!("{feed}.{n}"))).collect()
            }).collect();
            for _ in &left {
                merge.add();
            }
            let mut out = Vec::new();
            let mut drain = |merge: &mut Merge| {
                while let Some((feed, lines)) = merge.next_run(run_bytes) {
                    out.extend(lines.into_iter().map(|line| (feed, line)));
                }
            };
            for index in order {
                let feed = index.index(left.len());
                if let Some(line) = left[feed].pop_front() {
                    merge.push(feed, [line]);
                }
                drain(&mut merge);
            }
            for (feed, lines) in left.into_iter().enumerate() {
                merge.push(feed, lines);
                merge.over(feed);
            }
            drain(&mut merge);
            prop_assert!(merge.is_over());
            let times: Vec<i64> = out.iter().map(|(_, line)| line.time_unix_nanos).collect();
            prop_assert!(times.is_sorted(), "{:?}", times);
            for (feed, lines) in feeds.iter().enumerate() {
                let of: Vec<String> = out.iter().filter(|(of, _)| *of == feed)
                    .map(|(_, line)| String::from_utf8_lossy(&line.data).into_owned()).collect();
                let wanted: Vec<String> = (0..lines.len()).map(|n| format!("{feed}.{n}")).collect();
                prop_assert_eq!(of, wanted);
            }
        }
    }
}
