//! From the wire to a process of the machine: what it runs, what is downloaded for it, how much of its output is kept.

use skerry_proto::types::v1 as pb;

use crate::Violations;

use super::artifacts::{self, Artifact};
use super::parse::has_parent;
use super::program::check_argv;

/// Least and most bytes of a log file.
const LOG_BYTES: (u64, u64) = (64 << 10, 1 << 30);
/// Most log files of a stream.
const LOG_FILES_MAX: u32 = 100;

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Absolute path, a path relative to the instance's state directory (with a slash in it), or a name looked up in PATH.
    pub program: String,
    /// Arguments.
    pub args: Vec<String>,
    /// What is downloaded for it. No path lies in another one's.
    pub artifacts: Vec<Artifact>,
    /// How much of its output is kept.
    pub log: LogBounds,
}

/// How much of each output stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// A file is put aside at this size, in bytes.
    pub max_size_bytes: u64,
    /// Files, the current one among them.
    pub max_files: u32,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self { max_size_bytes: 10 << 20, max_files: 3 }
    }
}

pub(super) fn parse(at: &str, process: &pb::Process, v: &mut Violations) -> Process {
    let program = &process.program;
    if program.is_empty() || program.contains('\0') {
        v.add(format!("{at}.program"), "name a program: an absolute path, `./path`, or a name in PATH");
    } else if has_parent(program) || program.ends_with('/') {
        v.add(
            format!("{at}.program"),
            "use an absolute path without `..`, one below the state directory as `./server`, or a plain name that is looked up in PATH",
        );
    }
    check_argv(&format!("{at}.args"), &process.args, v);
    Process {
        program: program.clone(),
        args: process.args.clone(),
        artifacts: artifacts::parse(&format!("{at}.artifacts"), &process.artifacts, v),
        log: process.log.as_ref().map(|log| log_bounds(&format!("{at}.log"), log, v)).unwrap_or_default(),
    }
}

fn log_bounds(at: &str, log: &pb::ProcessLog, v: &mut Violations) -> LogBounds {
    let default = LogBounds::default();
    let (least, most) = LOG_BYTES;
    let size = log.max_size_bytes.map_or(Some(default.max_size_bytes), |bytes| u64::try_from(bytes).ok());
    let size = size.filter(|size| (least..=most).contains(size));
    if size.is_none() {
        v.add(format!("{at}.max_size_bytes"), "use 64Ki to 1Gi");
    }
    let files = log.max_files.unwrap_or(default.max_files);
    if !(1..=LOG_FILES_MAX).contains(&files) {
        v.add(format!("{at}.max_files"), format!("use 1 to {LOG_FILES_MAX}"));
    }
    LogBounds { max_size_bytes: size.unwrap_or(default.max_size_bytes), max_files: files }
}
