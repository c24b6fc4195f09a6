//! An ordered end: one token that says "end", one tracker that knows who has not ended yet.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// How long tracked tasks may take after the token fired.
const TASKS_DEADLINE: Duration = Duration::from_secs(10);
/// Exit code after a second signal, as shells give for an interrupt.
const EXIT_INTERRUPTED: u8 = 130;

/// Handed to everything that lives as long as the process: says when to end, and waits until all have.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Not ending yet, nobody tracked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires when all shall end.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Waits until all shall end.
    pub fn wait(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// Whether all shall end.
    pub fn is_ending(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Says that all shall end.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Runs a task that the end waits for. It must end soon after the token fires.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Says that all shall end and waits for the tracked tasks, under a deadline.
    pub async fn finish(&self) {
        self.token.cancel();
        self.tasks.close();
        if tokio::time::timeout(TASKS_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time");
        }
    }
}

/// On the first SIGTERM or SIGINT fires `token`; returns on the second, with the exit code for it.
pub async fn signals(token: CancellationToken) -> ExitCode {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; the process ends only by SIGKILL");
        return std::future::pending().await;
    };
    let mut next = async || {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    next().await;
    tracing::info!("stopping; a second signal stops at once");
    token.cancel();
    next().await;
    ExitCode::from(EXIT_INTERRUPTED)
}
