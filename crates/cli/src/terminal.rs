//! This terminal, while what is typed is not for the shell: another program's keys, or a live view's. It is put back however this program ends.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, Once, PoisonError};

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use skerry_proto::relay::v1::TerminalSize;

/// As it was before, while it is another program's.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();
/// The screen beside the one of the shell, with the cursor hidden; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";
/// Whether the other screen is shown.
static SCREEN: Mutex<bool> = Mutex::new(false);

/// Whether standard input is one.
pub(crate) fn is_there() -> bool {
    io::stdin().is_terminal()
}

/// How large it is.
pub(crate) fn size() -> TerminalSize {
    let size = tcgetwinsize(stdin()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or(TerminalSize { columns: 80, rows: 24 }, |size| TerminalSize {
        columns: size.ws_col.into(),
        rows: size.ws_row.into(),
    })
}

/// What is typed is not looked at, as long as this is there.
pub(crate) struct Raw(());

impl Raw {
    pub(crate) fn set() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        on_panic();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        put_back();
    }
}

/// Whether the terminal is one that can be drawn on.
pub(crate) fn has_screen() -> bool {
    std::env::var_os("TERM").is_some_and(|name| !name.is_empty() && name != "dumb" && name != "unknown")
}

/// A screen of this program's own, as long as this is there.
pub(crate) struct Screen(io::Stdout);

impl Screen {
    /// On standard output, which is a terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        on_panic();
        *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let shown = Self(io::stdout());
        let mut out = shown.0.lock();
        out.write_all(ENTER).and_then(|()| out.flush())?;
        Ok(shown)
    }

    /// Shows these lines and nothing else, cut to the screen.
    pub(crate) fn show(&self, lines: &[String]) -> io::Result<()> {
        let rows = usize::from(shown_size().1);
        let mut frame = String::from("\x1b[H");
        for (index, line) in lines.iter().take(rows).enumerate() {
            if index > 0 {
                frame.push_str("\r\n");
            }
            frame.push_str(line);
            frame.push_str("\x1b[K");
        }
        frame.push_str("\x1b[J");
        let mut out = self.0.lock();
        out.write_all(frame.as_bytes()).and_then(|()| out.flush())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Columns and rows of standard output.
pub(crate) fn shown_size() -> (u16, u16) {
    let size = tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((80, 24), |size| (size.ws_col, size.ws_row))
}

/// A panic may end the process without unwinding; its message is for a terminal that is in order.
fn on_panic() {
    HOOK.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            leave();
            put_back();
            next(panic);
        }));
    });
}

fn leave() {
    if std::mem::take(&mut *SCREEN.lock().unwrap_or_else(PoisonError::into_inner)) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(LEAVE).and_then(|()| out.flush());
    }
}

fn put_back() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}
