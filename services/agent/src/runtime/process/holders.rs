//! Who holds an instance's lock, where its records do not say: what the shim and the program have left behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::shim::files::LOCK;
use crate::shim::procfs::{ProcessId, Stat, all_pids};
use crate::shim::{WORD, enter};

/// Who holds the lock.
pub(super) struct Holders {
    /// All of them.
    pub(super) all: Vec<ProcessId>,
    /// Those that the others come from, shims apart: the program, or what it left.
    pub(super) roots: Vec<ProcessId>,
}

/// Processes of `instance` that have its lock open: by the file, and by a mark that only a shim and what it starts have, so that nobody
/// else who happens to look at the file is taken for one.
pub(super) fn holders(dir: &Path, instance: &str) -> Holders {
    let none = Holders { all: Vec::new(), roots: Vec::new() };
    let Ok(lock) = fs::metadata(dir.join(LOCK)) else { return none };
    let lock = (lock.dev(), lock.ino());
    let myself = std::process::id();
    let pids = all_pids().into_iter().filter(|pid| u32::try_from(*pid) != Ok(myself) && has_open(*pid, lock));
    let (mut shims, mut others) = (Vec::new(), BTreeMap::new());
    for pid in pids {
        let Some(stat) = Stat::of(pid) else { continue };
        let id = ProcessId { pid, started: stat.started };
        if is_shim(pid, dir) {
            shims.push(id);
        } else if is_step(pid, dir) || is_of(pid, instance) {
            others.insert(pid, (id, stat.parent));
        }
    }
    let roots =
        others.values().filter(|(_, parent)| !others.contains_key(parent)).map(|(id, _)| *id).collect();
    let all = shims.into_iter().chain(others.values().map(|(id, _)| *id)).collect();
    Holders { all, roots }
}

fn has_open(pid: i32, file: (u64, u64)) -> bool {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().any(|fd| fs::metadata(fd.path()).is_ok_and(|meta| (meta.dev(), meta.ino()) == file))
}

fn is_shim(pid: i32, dir: &Path) -> bool {
    is_ours(pid, WORD, dir)
}

/// Whether it is about to become the program, whose mark it has not yet.
fn is_step(pid: i32, dir: &Path) -> bool {
    is_ours(pid, enter::WORD, dir)
}

fn is_ours(pid: i32, word: &str, dir: &Path) -> bool {
    let line = parts(pid, "cmdline");
    line.get(1).is_some_and(|of| of == word.as_bytes())
        && line.get(2).is_some_and(|place| place == dir.as_os_str().as_bytes())
}

fn is_of(pid: i32, instance: &str) -> bool {
    parts(pid, "environ").contains(&format!("SKERRY_INSTANCE={instance}").into_bytes())
}

/// What is separated by NUL in `/proc/<pid>/<file>`.
fn parts(pid: i32, file: &str) -> Vec<Vec<u8>> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect()
}
