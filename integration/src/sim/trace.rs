//! What happened, line by line: a hash of all of it (two runs of one seed have the same), the last lines for whoever has to
//! understand a failure, and all lines where they are asked for.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::time::Duration;

/// Lines that are kept for a failure.
pub(super) const LINES_KEPT: usize = 40;

pub(super) struct Trace {
    print: bool,
    hash: u64,
    last: VecDeque<String>,
}

impl Trace {
    pub(super) fn new(print: bool) -> Self {
        Self { print, hash: 0xCBF2_9CE4_8422_2325, last: VecDeque::with_capacity(LINES_KEPT) }
    }

    pub(super) fn line(&mut self, now: Duration, who: &str, what: fmt::Arguments<'_>) {
        let mut line = if self.last.len() == LINES_KEPT {
            self.last.pop_front().unwrap_or_default()
        } else {
            String::with_capacity(120)
        };
        line.clear();
        write!(line, "{:>12.6} {who:<12} {what}", now.as_secs_f64()).expect("writing to a string");
        // FNV-1a.
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if self.print {
            eprintln!("{line}");
        }
        self.last.push_back(line);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}
