//! This terminal, while it is another program's: what is typed goes there as it is, and it is put back however this program ends.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, Once, PoisonError};

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use skerry_proto::relay::v1::TerminalSize;

/// As it was before, while it is another program's.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Whether standard input is one.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal()
}

/// How large it is.
pub(super) fn size() -> TerminalSize {
    let size = tcgetwinsize(stdin()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or(TerminalSize { columns: 80, rows: 24 }, |size| TerminalSize {
        columns: size.ws_col.into(),
        rows: size.ws_row.into(),
    })
}

/// What is typed is not looked at, as long as this is there.
pub(super) struct Raw(());

impl Raw {
    pub(super) fn set() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        // A panic may end the process without unwinding; its message is for a terminal that is in order.
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                put_back();
                next(panic);
            }));
        });
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        put_back();
    }
}

fn put_back() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}
