//! The last minute of a value, as a line of blocks.

use std::collections::BTreeMap;

/// What is shown.
const SECONDS: i64 = 60;
/// A second of which nothing was told is as the one before, for so long: samples come about once a second.
const HELD_SECONDS: i64 = 3;
/// From nothing to all.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Percentages by second.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(BTreeMap<i64, i64>);

impl Trace {
    /// Takes the value of a second in. What is older than the line is forgotten.
    pub(super) fn take(&mut self, second: i64, value: Option<i64>) {
        if let Some(value) = value {
            self.0.insert(second, value);
        }
        let oldest = second - SECONDS - HELD_SECONDS;
        self.0 = self.0.split_off(&oldest);
    }

    /// Takes in what was, as far as it is not known better.
    pub(super) fn take_before(&mut self, told: impl Iterator<Item = (i64, i64)>) {
        for (second, value) in told {
            self.0.entry(second).or_insert(value);
        }
    }

    /// The minute up to the newest value, each of `cells` (which divides 60) the mean of its time.
    pub(super) fn sparks(&self, cells: usize) -> String {
        let Some((&newest, _)) = self.0.last_key_value() else { return String::new() };
        let cells = i64::try_from(cells).unwrap_or(SECONDS).clamp(1, SECONDS);
        let each = SECONDS / cells;
        // Cells begin at multiples of their length, so that the line moves and does not flicker.
        let last = newest.div_euclid(each);
        (last - cells + 1..=last).map(|cell| self.spark(cell * each, each)).collect()
    }

    fn spark(&self, start: i64, seconds: i64) -> char {
        let known: Vec<i64> = (start..start + seconds).filter_map(|second| self.at(second)).collect();
        let Ok(count) = i64::try_from(known.len()) else { return ' ' };
        if count == 0 {
            return ' ';
        }
        let mean = known.iter().sum::<i64>() / count;
        // 100 is in the last step.
        let step = mean.clamp(0, 99) * 8 / 100;
        usize::try_from(step).ok().and_then(|step| BLOCKS.get(step)).copied().unwrap_or(' ')
    }

    fn at(&self, second: i64) -> Option<i64> {
        let newest = self.0.last_key_value().map_or(second, |(newest, _)| *newest);
        if second > newest {
            return None;
        }
        self.0.range(second - HELD_SECONDS..=second).next_back().map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_a_line_that_ends_with_the_newest() {
        let mut trace = Trace::default();
        assert_eq!(trace.sparks(60), "");
        for second in 1000..1100 {
            trace.take(second, Some(second - 1000));
        }
        let line: Vec<char> = trace.sparks(60).chars().collect();
        assert_eq!((line.len(), line[0], line[59]), (60, '▄', '█'));
        assert!(line.is_sorted());
        assert_eq!(trace.sparks(20).chars().count(), 20);
        assert!(trace.0.len() <= 64, "what is not shown is forgotten");
    }

    #[test]
    fn what_is_not_known_is_empty_and_one_missed_second_is_as_the_one_before() {
        let mut trace = Trace::default();
        for (second, value) in [(100, Some(0)), (110, Some(100)), (111, None), (112, Some(100))] {
            trace.take(second, value);
        }
        trace.take_before([(100, 99), (109, 0)].into_iter());
        let line: String = trace.sparks(60).chars().skip(60 - 13).collect();
        assert_eq!(line, "▁▁▁▁     ▁███");
    }
}
