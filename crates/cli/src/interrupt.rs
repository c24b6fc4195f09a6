//! Ctrl-C ends a command. Not what is typed while another program has the terminal: that is the other's.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGQUIT};
use tokio::signal::unix::{SignalKind, signal};

/// Whether Ctrl-C was typed for another program and the runtime has not told of it yet.
static FOR_ANOTHER: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Whether Ctrl-\ ends this program.
static QUITS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Ready when Ctrl-C was typed for this program. Listens from the call on.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    let signals = signal(SignalKind::interrupt());
    async move {
        // Without signals Ctrl-C ends the process, as it does everywhere.
        let Ok(mut signals) = signals else { return std::future::pending().await };
        while signals.recv().await.is_some() {
            if !FOR_ANOTHER.swap(false, Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Runs what reads a file or standard input, which may wait for somebody who types. It is on the thread of the runtime, which cannot tell of a
/// Ctrl-C then: it ends the process, as it does everywhere.
pub(crate) fn while_reading<T>(read: impl FnOnce() -> T) -> T {
    let ends = signal_hook::flag::register_conditional_default(SIGINT, Arc::new(AtomicBool::new(true)));
    let done = read();
    if let Ok(ends) = ends {
        signal_hook::low_level::unregister(ends);
    }
    done
}

/// Runs what has the terminal until it comes back. On the thread of the runtime, on purpose: of all that was typed meanwhile the runtime
/// tells afterwards, once.
pub(crate) fn lend_terminal<T>(other: impl FnOnce() -> T) -> io::Result<T> {
    QUITS.store(false, Ordering::SeqCst);
    // Once more for each time is no harm: all of them ask the same.
    signal_hook::flag::register_conditional_default(SIGQUIT, Arc::clone(&QUITS))?;
    let typed = signal_hook::flag::register(SIGINT, Arc::clone(&FOR_ANOTHER))?;
    let done = other();
    signal_hook::low_level::unregister(typed);
    QUITS.store(true, Ordering::SeqCst);
    Ok(done)
}
