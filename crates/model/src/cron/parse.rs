//! From a text to a schedule; each fault names its field.

use super::{InvalidSchedule, Schedule};

/// Longest text. Five full lists have fewer characters.
const TEXT_BYTES_MAX: usize = 512;
/// One of the five.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    /// Of the values from `least` on.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// Sunday, where it ends a range.
const SUNDAY_LAST: u32 = 7;

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day of the month", least: 1, most: 31, names: &[] },
    Field { name: "month", least: 1, most: 12, names: &MONTHS },
    Field { name: "day of the week", least: 0, most: 6, names: &WEEKDAYS },
];

/// Words for schedules that are much used.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Schedule {
    /// Reads `text`: five fields, or a word as `@hourly`.
    ///
    /// # Errors
    /// What is wrong with it, and with which field.
    pub fn parse(text: &str) -> Result<Self, InvalidSchedule> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return wrong(format!("it is longer than {TEXT_BYTES_MAX} bytes"));
        }
        if text.starts_with('@') {
            let known = WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
            let Some((_, fields)) = known else {
                let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
                return wrong(format!(
                    "no schedule is called {text}: use five fields, or {}",
                    words.join(", ")
                ));
            };
            return Self::parse(fields);
        }
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let Ok(words) = <[&str; 5]>::try_from(words.as_slice()) else {
            let names: Vec<&str> = FIELDS.iter().map(|field| field.name).collect();
            let hint = if words.len() == 6 { "; there are no seconds" } else { "" };
            return wrong(format!(
                "use five fields ({}), as 30 3 * * MON-FRI; found {}{hint}",
                names.join(", "),
                words.len()
            ));
        };
        let mut bits = [0; 5];
        for ((bits, field), word) in bits.iter_mut().zip(&FIELDS).zip(words) {
            *bits = field.parse(word)?;
        }
        let [minutes, hours, days, months, weekdays] = bits;
        let either_day = !words[2].starts_with('*') && !words[4].starts_with('*');
        let schedule = Self { minutes, hours, days, months, weekdays, either_day };
        if !either_day && !schedule.has_a_day() {
            return wrong(format!("it never comes: no month of {} has a day {}", words[3], words[2]));
        }
        Ok(schedule)
    }

    /// Whether any of the months is long enough for any of the days.
    fn has_a_day(self) -> bool {
        let first = self.days.trailing_zeros();
        (1..=12).filter(|month| self.months & (1 << month) != 0).any(|month| {
            let length = match month {
                2 => 29,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            first <= length
        })
    }
}

impl Field {
    fn is_weekday(&self) -> bool {
        self.names.len() == WEEKDAYS.len()
    }

    fn parse(&self, word: &str) -> Result<u64, InvalidSchedule> {
        let mut bits = 0;
        for item in word.split(',') {
            let (range, step) = match item.split_once('/') {
                None => (item, None),
                Some((range, step)) => (range, Some(self.step(step)?)),
            };
            let (from, to) = self.range(range, step.is_some())?;
            let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1);
            for value in (from..=to).step_by(step) {
                bits |= 1 << if self.is_weekday() { value % SUNDAY_LAST } else { value };
            }
        }
        Ok(bits)
    }

    fn step(&self, text: &str) -> Result<u32, InvalidSchedule> {
        let most = self.most - self.least + 1;
        match number(text) {
            Some(step) if (1..=most).contains(&step) => Ok(step),
            _ => wrong(format!("{}: a step is 1 to {most}, not `{text}`", self.name)),
        }
    }

    /// First and last. A single value with a step goes on to the end.
    fn range(&self, text: &str, steps: bool) -> Result<(u32, u32), InvalidSchedule> {
        if text == "*" {
            return Ok((self.least, self.most));
        }
        let Some((from, to)) = text.split_once('-') else {
            let value = self.value(text)?;
            return Ok((value, if steps { self.most.max(value) } else { value }));
        };
        let (from, mut to) = (self.value(from)?, self.value(to)?);
        if self.is_weekday() && to == 0 && from > 0 {
            to = SUNDAY_LAST;
        }
        if from > to {
            return wrong(format!("{}: the range `{text}` ends before it begins", self.name));
        }
        Ok((from, to))
    }

    fn value(&self, text: &str) -> Result<u32, InvalidSchedule> {
        let most = if self.is_weekday() { SUNDAY_LAST } else { self.most };
        let named = self.names.iter().zip(self.least..).find(|(name, _)| name.eq_ignore_ascii_case(text));
        match named.map(|(_, value)| value).or_else(|| number(text)) {
            Some(value) if (self.least..=most).contains(&value) => Ok(value),
            _ => {
                let names = match self.names {
                    [] => String::new(),
                    [first, .., last] => format!(" or {first} to {last}"),
                    [only] => format!(" or {only}"),
                };
                wrong(format!("{}: use {} to {most}{names}, not `{text}`", self.name, self.least))
            }
        }
    }
}

/// Digits alone: no sign.
fn number(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn wrong<T>(why: String) -> Result<T, InvalidSchedule> {
    Err(InvalidSchedule(why))
}
