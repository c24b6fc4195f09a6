//! A hold on a running process: signals that reach no other, and a wait for its end.
//!
//! By a pidfd; where the kernel has none (before 5.3) or no more files may be opened, by its id with its start time compared, and by
//! looking now and then.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::shim::procfs::ProcessId;

/// How often it is looked where there is no pidfd.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A process that was alive when this was made.
pub(super) struct ProcessHandle {
    id: ProcessId,
    pidfd: Option<AsyncFd<OwnedFd>>,
}

impl ProcessHandle {
    /// `None` when it runs no more. Must be called within a tokio runtime.
    pub(super) fn open(id: ProcessId) -> Option<Self> {
        let pidfd = match pidfd_open(id.as_pid()?, PidfdFlags::empty()) {
            Ok(fd) => register(fd),
            Err(rustix::io::Errno::SRCH) => return None,
            Err(_) => None,
        };
        // After opening: now the id can no longer pass to another process unseen.
        id.is_alive().then_some(Self { id, pidfd })
    }

    pub(super) fn id(&self) -> ProcessId {
        self.id
    }

    /// Signals it. One that has ended is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let sent = match (&self.pidfd, self.id.as_pid()) {
            (Some(fd), _) => pidfd_send_signal(fd.get_ref(), signal),
            (None, Some(pid)) if self.id.is_alive() => kill_process(pid, signal),
            (None, _) => Ok(()),
        };
        match sent {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Returns when it has ended.
    pub(super) async fn gone(&self) {
        if let Some(fd) = &self.pidfd
            && fd.readable().await.is_ok()
        {
            return;
        }
        while self.id.is_alive() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types that do not own their file; `OwnedFd` does"
)]
fn register(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE).ok()
}

/// The signal of that name (`SIGTERM`). Unknown ones cannot come out of a valid spec: SIGTERM.
pub(super) fn signal_of(name: &str) -> Signal {
    match name {
        "SIGINT" => Signal::INT,
        "SIGQUIT" => Signal::QUIT,
        "SIGHUP" => Signal::HUP,
        "SIGUSR1" => Signal::USR1,
        "SIGUSR2" => Signal::USR2,
        "SIGKILL" => Signal::KILL,
        "SIGABRT" => Signal::ABORT,
        "SIGALRM" => Signal::ALARM,
        "SIGWINCH" => Signal::WINCH,
        _ => Signal::TERM,
    }
}
