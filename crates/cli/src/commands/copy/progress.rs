//! How much is copied: one line on stderr that is written over again, on a terminal only.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::render::time;

/// How often it is written.
const PERIOD: Duration = Duration::from_millis(200);

/// The line.
pub(super) struct Progress {
    is_terminal: bool,
    shown: Option<Instant>,
    begun: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), shown: None, begun: Instant::now() }
    }

    /// So many bytes are copied.
    pub(super) fn show(&mut self, bytes: u64) {
        let is_early = self.shown.map_or_else(|| self.begun.elapsed(), |shown| shown.elapsed()) < PERIOD;
        if !self.is_terminal || is_early {
            return;
        }
        self.shown = Some(Instant::now());
        let _ = write!(std::io::stderr().lock(), "\r{} copied\x1b[K", time::bytes(bytes));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
