//! Writing to stdout, where the reader may go away at any time.

use std::io::{ErrorKind, IsTerminal, Write};

use crate::error::CliError;

/// Where commands write.
pub(crate) struct Printer {
    out: Box<dyn Write>,
    /// Columns of the terminal, if it is one.
    width: Option<usize>,
}

impl Printer {
    /// Writes to stdout.
    pub(crate) fn stdout() -> Self {
        let stdout = std::io::stdout();
        let width = if stdout.is_terminal() {
            terminal_size::terminal_size().map(|(width, _)| width.0.into())
        } else {
            None
        };
        Self { out: Box::new(stdout), width }
    }

    /// Columns of the terminal, if it is one.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Writes `text`, at once.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        let written = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        written.map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => CliError::BrokenPipe,
            _ => CliError::Failed(format!("cannot write to stdout: {error}")),
        })
    }

    /// Writes one line, at once.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), CliError> {
        self.text(&format!("{line}\n"))
    }
}

/// Says on stderr what went wrong and that the command goes on.
pub(crate) fn complain(error: &CliError) {
    if let Some(text) = error.text() {
        to_stderr(&text);
    }
}

/// Tells something on stderr that is not a result.
pub(crate) fn note(message: &str) {
    to_stderr(&format!("{message}\n"));
}

/// Nobody is told that stderr is gone: there is nobody to tell.
fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// One line on stderr that is written over again, if stderr is a terminal: nothing else is.
pub(crate) struct Progress {
    /// Columns of the terminal, if it is one.
    width: Option<usize>,
    shown: String,
}

impl Progress {
    /// On stderr.
    pub(crate) fn stderr() -> Self {
        let stderr = std::io::stderr();
        let width = if stderr.is_terminal() {
            terminal_size::terminal_size_of(stderr).map(|(w, _)| w.0.into())
        } else {
            None
        };
        Self { width, shown: String::new() }
    }

    /// Shows `text` in place of what was shown before.
    pub(crate) fn show(&mut self, text: &str) {
        let Some(width) = self.width else { return };
        if self.shown != text {
            to_stderr(&over(text, width));
            text.clone_into(&mut self.shown);
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.width.is_some() && !self.shown.is_empty() {
            to_stderr("\r\x1b[K");
            self.shown.clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `text` in one line of a terminal, over what is there.
fn over(text: &str, width: usize) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // The last column stays free: some terminals go to the next line after it.
    let room = width.saturating_sub(1);
    let cut = if plain.chars().count() > room {
        plain.chars().take(room.saturating_sub(1)).chain(['…']).collect()
    } else {
        plain
    };
    format!("\r{cut}\x1b[K")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn progress_is_one_line_however_long_it_is() {
        assert_eq!(over("a\nb", 20), "\ra b\x1b[K");
        assert_eq!(over("abcdefgh", 6), "\rabcd…\x1b[K");
        let mut nowhere = Progress { width: None, shown: String::new() };
        nowhere.show("x");
        assert_eq!(nowhere.shown, "");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let mut printer = Printer { out: Box::new(Gone), width: None };
        assert!(matches!(printer.line("x"), Err(CliError::BrokenPipe)));
    }
}
