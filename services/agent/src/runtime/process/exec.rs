//! A command beside a running instance: its environment, directory, user and cgroups, for health checks.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::error::failed;
use crate::runtime::RuntimeError;
use crate::shim::enter;
use crate::shim::files::{Launch, state_dir};
use crate::shim::program::find;

/// Runs `command` to its end: its exit code, 128 + n for signal n, 127 if it cannot be executed. It and what it has started are killed when this is dropped before.
pub(super) async fn run(
    shim: &Path,
    dir: &Path,
    launch: &Launch,
    command: &[String],
) -> Result<i32, RuntimeError> {
    let [name, args @ ..] = command else {
        return Err(failed("StartFailed", "no command was named", false));
    };
    let path = find(name, launch.search_path(), &state_dir(dir))?;
    let child = Command::new(shim)
        .arg0("skerry-shim")
        .args([OsStr::new(enter::WORD), dir.as_os_str(), path.as_os_str(), OsStr::new(name)])
        .args(args)
        // The command's environment is for the command: the step is linked with the agent's rights.
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("StartFailed", format!("starting `{name}`: {error}"), true))?;
    let mut group = Group { child };
    let status = group
        .child
        .wait()
        .await
        .map_err(|error| failed("StartFailed", format!("waiting for `{name}`: {error}"), true))?;
    let by_signal = || status.signal().map(|signal| 128 + signal);
    Ok(status.code().or_else(by_signal).unwrap_or(255))
}

/// A command and its process group.
struct Group {
    child: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        // The id is there as long as the command was not reaped, and as long is the group's its own.
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}
