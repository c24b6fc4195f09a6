//! Writing to stdout, where the reader may go away at any time.

use std::io::{ErrorKind, IsTerminal, Write};

use crate::args::Color;
use crate::error::CliError;
use crate::patience::Seen;
use crate::render::bar;
use crate::render::table::{plain, plain_lines};

/// Where commands write.
pub(crate) struct Printer {
    out: Box<dyn Write>,
    /// Columns of the terminal, if it is one.
    width: Option<usize>,
    colour: bool,
}

impl Printer {
    /// Writes to stdout.
    pub(crate) fn stdout(color: Color) -> Self {
        let stdout = std::io::stdout();
        let width = if stdout.is_terminal() {
            terminal_size::terminal_size().map(|(width, _)| width.0.into())
        } else {
            None
        };
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        let colour = match color {
            Color::Auto => std::io::stdout().is_terminal() && !plain,
            Color::Always => true,
            Color::Never => false,
        };
        Self { out: Box::new(stdout), width, colour }
    }

    /// Whether to write in colours.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// Columns of the terminal, if it is one.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    /// Writes `text`, at once.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Writes `bytes` as they are, at once.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.out.write_all(bytes).and_then(|()| self.out.flush());
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

/// Tells something on stderr that is not a result. Nothing in it commands a terminal.
pub(crate) fn note(message: &str) {
    to_stderr(&format!("{}\n", plain_lines(message)));
}

/// Writes bytes to stderr as they are: the output of another program.
pub(crate) fn pass_to_stderr(bytes: &[u8]) {
    let _ = std::io::stderr().lock().write_all(bytes);
}

/// Nobody is told that stderr is gone: there is nobody to tell.
fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// How something comes along, on stderr: one line that is written over again on a terminal, with bars; else a line for each change.
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

    /// Shows how `subject` stands, in place of what was shown before.
    pub(crate) fn show(&mut self, subject: &str, seen: &Seen) {
        let text = match self.width {
            Some(_) => bar::line(subject, seen),
            None => bar::plain(subject, seen),
        };
        if self.shown != text {
            match self.width {
                Some(width) => to_stderr(&over(&text, width)),
                None => note(&text),
            }
            self.shown = text;
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
    let plain = plain(text);
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
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let mut printer = Printer { out: Box::new(Gone), width: None, colour: false };
        assert!(matches!(printer.line("x"), Err(CliError::BrokenPipe)));
    }
}
