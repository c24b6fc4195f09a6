//! Where programs lie: the workspace's own, and those that are installed.

use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// A binary of the workspace, as `target/debug/<name>`: of the same target directory and profile as the running test.
///
/// # Panics
/// When it has not been built: `cargo test` builds a package's own binaries only, so run `cargo build` before.
#[must_use]
pub fn bin(name: &str) -> PathBuf {
    let file = profile_dir().join(name);
    assert!(file.is_file(), "{} is not there: run `cargo build` first", file.display());
    file
}

/// A binary of the workspace in another profile than the running test's, as `target/edge/skerry-agent`.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn bin_in(profile: &str, name: &str) -> PathBuf {
    let file = target_dir().join(profile).join(name);
    assert!(file.is_file(), "{} is not there: run `cargo build --profile {profile}` first", file.display());
    file
}

/// The target directory of the running test.
#[must_use]
pub fn target_dir() -> PathBuf {
    profile_dir().parent().expect("a profile's directory lies in the target directory").to_path_buf()
}

fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("a test has a path");
    let dir = exe.parent().expect("a test lies in a directory");
    let dir =
        if dir.ends_with("deps") || dir.ends_with("examples") { dir.parent().unwrap_or(dir) } else { dir };
    dir.to_path_buf()
}

/// An installed program. Debian keeps daemons out of users' `PATH`, so `sbin` counts too.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/local/sbin"), PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_every_machine_has() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }

    #[test]
    fn the_profile_directory_holds_this_test() {
        assert!(profile_dir().join("deps").is_dir());
    }
}
