//! What build scripts tell the linker about a program that is shipped.

use std::env;
use std::process::Command;

/// The first glibc whose loader reads packed relocations.
const PACKED_RELOCATIONS_GLIBC: (u32, u32) = (2, 36);

/// Has the linker pack the relocations of program `bin` where it is built to be shipped (profile `release` and what inherits from it) and
/// this machine's glibc reads them: over a megabyte of `skerry`, and pages that each start would read, are 50 KiB. For a build script, of which
/// it must be the package's.
#[allow(clippy::print_stdout, reason = "how a build script talks to cargo")]
pub fn pack_relocations(bin: &str) {
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|have| have == value);
    if is("PROFILE", "release")
        && is("CARGO_CFG_TARGET_OS", "linux")
        // Where the build is for another machine, its loader is not known.
        && env::var("HOST") == env::var("TARGET")
        && glibc().is_some_and(|version| version >= PACKED_RELOCATIONS_GLIBC)
    {
        println!("cargo::rustc-link-arg-bin={bin}=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's glibc, if it has one and says so.
fn glibc() -> Option<(u32, u32)> {
    let answer = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    version(&String::from_utf8(answer.stdout).ok()?)
}

/// Of `glibc 2.36`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_what_is_none_is_not() {
        assert_eq!(version("glibc 2.36\n"), Some((2, 36)));
        assert!(version("glibc 2.36").unwrap() >= PACKED_RELOCATIONS_GLIBC);
        assert!(version("glibc 2.9").unwrap() < PACKED_RELOCATIONS_GLIBC);
        assert_eq!(version("musl 1.2"), None);
        assert_eq!(version(""), None);
    }
}
