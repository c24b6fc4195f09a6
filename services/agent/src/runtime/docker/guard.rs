//! The process that ends a command in a container when this one gives it up, or is killed: see `shim::guard`.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use crate::runtime::RuntimeError;
use crate::runtime::exec::ExecSignal;
use crate::shim::exec::SIGNAL;
use crate::shim::guard::{LEADER, OVER, WORD};

/// This very program, whatever became of its file.
const SELF: &str = "/proc/self/exe";
/// How long it may take to kill what a command left behind.
const CLEAR_WAIT: Duration = Duration::from_secs(12);

/// The guard of one command. Dropped, it ends the command.
pub(super) struct Guard {
    process: Child,
    says: Option<ChildStdin>,
}

impl Guard {
    /// Of what has the variable `mark` in a container, or of all that is in it.
    pub(super) fn set(container: &str, mark: Option<&str>) -> Result<Self, RuntimeError> {
        let mut process = Command::new(SELF)
            .arg0("skerry-exec")
            .arg(WORD)
            .arg(container)
            .args(mark)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| RuntimeError {
                reason: "StartFailed",
                message: format!("starting the guard of a command: {error}"),
                transient: true,
            })?;
        let says = process.stdin.take();
        Ok(Self { process, says })
    }

    /// The command has this process id on the machine.
    pub(super) async fn leads(&mut self, pid: i64) {
        self.say(&format!("{LEADER}{pid}\n")).await;
    }

    pub(super) async fn signal(&mut self, signal: ExecSignal) {
        self.say(&format!("{SIGNAL}{}\n", signal.number())).await;
    }

    async fn say(&mut self, word: &str) {
        if let Some(says) = &mut self.says {
            // One that is gone has nothing to do any more.
            let _ = says.write_all(word.as_bytes()).await;
        }
    }

    /// The command has ended: returns when nothing is left of it.
    pub(super) async fn over(mut self) {
        self.say(&format!("{OVER}\n")).await;
        if tokio::time::timeout(CLEAR_WAIT, self.process.wait()).await.is_err() {
            tracing::warn!("what a command left behind in its container does not end");
        }
    }
}
