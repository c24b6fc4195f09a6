//! How many files a cloud service may have open. A connection is a file, and the soft limit that most systems begin with (1,024) would be the
//! bound of agents; it is low for programs that use `select`, which none of these does.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit before it was raised.
static BEFORE: OnceLock<u64> = OnceLock::new();

/// Raises this process's soft limit of open files to its hard one. To be done before a listener counts by it how many connections it bears.
/// Where it cannot be raised, the listener bears fewer.
pub(crate) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is no limit at all.
    let Some(soft) = current.filter(|soft| maximum.is_none_or(|hard| *soft < hard)) else { return };
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => {
            let _ = BEFORE.set(soft);
            tracing::debug!(before = soft, now = maximum, "this process may have more files open");
        }
        Err(error) => tracing::debug!(%error, "the limit of open files stays as it is"),
    }
}

/// The soft limit of open files that this process was started with, if it has raised it since: what the programs that it starts are given.
pub fn open_files_before() -> Option<u64> {
    BEFORE.get().copied()
}
