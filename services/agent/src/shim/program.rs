//! Finding the program to run, and why it cannot be run.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Why an instance did not start. `reason` is one of `REASONS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartFailure {
    pub(crate) reason: &'static str,
    /// A sentence for people, on one line.
    pub(crate) message: String,
}

pub(crate) const PROGRAM_NOT_FOUND: &str = "ProgramNotFound";
pub(crate) const PROGRAM_NOT_EXECUTABLE: &str = "ProgramNotExecutable";
pub(crate) const DIRECTORY_MISSING: &str = "WorkingDirectoryMissing";
pub(crate) const DISK_FULL: &str = "DiskFull";
pub(crate) const STATE_UNWRITABLE: &str = "StateUnwritable";
pub(crate) const START_FAILED: &str = "StartFailed";

/// All reasons, to read one back from text.
pub(crate) const REASONS: [&str; 6] =
    [PROGRAM_NOT_FOUND, PROGRAM_NOT_EXECUTABLE, DIRECTORY_MISSING, DISK_FULL, STATE_UNWRITABLE, START_FAILED];

impl StartFailure {
    pub(crate) fn new(reason: &'static str, message: impl AsRef<str>) -> Self {
        Self { reason, message: message.as_ref().replace('\n', " ") }
    }

    /// What was said across processes: `<reason> <message>`.
    pub(crate) fn from_text(text: &str) -> Self {
        let (word, message) = text.trim_end().split_once(' ').unwrap_or(("", text));
        let reason = REASONS.into_iter().find(|reason| *reason == word).unwrap_or(START_FAILED);
        Self::new(reason, message)
    }

    /// A file of ours that could not be read or written.
    pub(crate) fn state(what: &str, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DISK_FULL,
            _ => STATE_UNWRITABLE,
        };
        Self::new(reason, format!("{what}: {error}"))
    }

    /// `exec` of a program that had been found.
    pub(crate) fn exec(program: &Path, error: &io::Error) -> Self {
        let program = program.display();
        match error.kind() {
            io::ErrorKind::NotFound => Self::new(
                PROGRAM_NOT_FOUND,
                format!("`{program}` needs an interpreter or loader that is not there"),
            ),
            io::ErrorKind::PermissionDenied => {
                Self::new(PROGRAM_NOT_EXECUTABLE, format!("`{program}` may not be executed: {error}"))
            }
            _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => Self::new(
                PROGRAM_NOT_EXECUTABLE,
                format!("`{program}` is no program for this machine, and no script with a `#!` line"),
            ),
            _ => Self::new(START_FAILED, format!("starting `{program}`: {error}")),
        }
    }
}

/// The file to execute: `program` itself when it is a path, from `base` if it is relative; else the first of that name in `search_path`.
pub(crate) fn find(program: &str, search_path: &str, base: &Path) -> Result<PathBuf, StartFailure> {
    if program.contains('/') {
        let path = base.join(program);
        return match check(&path) {
            Found::Program => Ok(path),
            Found::NotExecutable => Err(StartFailure::new(
                PROGRAM_NOT_EXECUTABLE,
                format!("`{program}` is not an executable file"),
            )),
            Found::Nothing => {
                Err(StartFailure::new(PROGRAM_NOT_FOUND, format!("`{program}` does not exist")))
            }
        };
    }
    let mut blocked = None;
    for dir in search_path.split(':').filter(|dir| dir.starts_with('/')) {
        let path = Path::new(dir).join(program);
        match check(&path) {
            Found::Program => return Ok(path),
            Found::NotExecutable => blocked = blocked.or(Some(path)),
            Found::Nothing => {}
        }
    }
    Err(match blocked {
        Some(path) => StartFailure::new(
            PROGRAM_NOT_EXECUTABLE,
            format!("`{program}` was found only as {}, which is not an executable file", path.display()),
        ),
        None => StartFailure::new(PROGRAM_NOT_FOUND, format!("`{program}` is not in {search_path}")),
    })
}

enum Found {
    Program,
    NotExecutable,
    Nothing,
}

fn check(path: &Path) -> Found {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => Found::Program,
        Ok(_) => Found::NotExecutable,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Found::NotExecutable,
        Err(_) => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_path_or_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("tool");
        let path = format!("relative:/nonexistent:{}", dir.path().display());
        let reason = |program: &str| find(program, &path, dir.path()).unwrap_err().reason;
        assert_eq!(reason("tool"), PROGRAM_NOT_FOUND);
        assert_eq!(reason(program.to_str().unwrap()), PROGRAM_NOT_FOUND);
        fs::write(&program, "#!/bin/sh\n").unwrap();
        assert_eq!(reason("tool"), PROGRAM_NOT_EXECUTABLE);
        assert_eq!(reason(program.to_str().unwrap()), PROGRAM_NOT_EXECUTABLE);
        assert_eq!(reason(dir.path().to_str().unwrap()), PROGRAM_NOT_EXECUTABLE);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", &path, Path::new("/")), Ok(program.clone()));
        assert_eq!(find("./tool", "", dir.path()).unwrap(), dir.path().join("./tool"));
        assert_eq!(find(program.to_str().unwrap(), "", Path::new("/")), Ok(program));
    }
}
