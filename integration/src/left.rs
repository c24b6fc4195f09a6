//! Processes that outlive their agents by design, ended with the test that made them.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Kills the shims of all agents below `dir`, and what they keep. Their agents must be gone: they would start it again.
pub fn kill_left(dir: &Path) {
    let dir = format!("{}/", dir.display());
    let all = processes();
    let shims: Vec<i32> = all
        .iter()
        .filter(|one| one.words.len() > 2 && one.words[1] == "__shim" && one.words[2].starts_with(&dir))
        .map(|one| one.pid)
        .collect();
    // Each leads the session of what it keeps. It goes first: it would note how that ended.
    for pid in &shims {
        kill(*pid);
    }
    for one in all.iter().filter(|one| shims.contains(&one.session)) {
        kill(one.pid);
    }
}

struct One {
    pid: i32,
    session: i32,
    words: Vec<String>,
}

fn processes() -> Vec<One> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): after the name, which may hold anything, come state, parent, group and session.
        let session = stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        Some(One { pid: pid.parse().ok()?, session, words: words.collect() })
    };
    entries.filter_map(|entry| read(entry.file_name().to_str()?)).collect()
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }
}
