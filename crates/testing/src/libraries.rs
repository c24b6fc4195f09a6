//! The shared libraries of a program, for images that hold little else.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// What `programs` need to run, the loader too, by their places on this machine.
///
/// # Errors
/// When `ldd` cannot read one of them, or a library is not there.
pub fn shared_libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for program in programs {
        let output = Command::new("ldd").arg(program).output().context("running ldd")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("ldd {}: {}", program.display(), why.trim_end());
        }
        all.extend(parse(program, &String::from_utf8_lossy(&output.stdout))?);
    }
    Ok(all)
}

/// `libc.so.6 => /lib/libc.so.6 (0x7f)`, `/lib64/ld-linux.so.2 (0x7f)`, or `linux-vdso.so.1 (0x7f)`, which is the kernel's.
fn parse(program: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines() {
        if line.contains("=> not found") {
            bail!("{}: {}", program.display(), line.trim());
        }
        let place = line.split_once("=>").map_or(line, |(_, place)| place);
        let place = place.split_whitespace().next().unwrap_or_default();
        if place.starts_with('/') {
            found.push(PathBuf::from(place));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_count_and_the_kernel_does_not() {
        let text =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux.so.2 (0x3)\n";
        let found = parse(Path::new("x"), text).expect("all are there");
        assert_eq!(found, [PathBuf::from("/lib/libc.so.6"), "/lib64/ld-linux.so.2".into()]);
        assert!(parse(Path::new("x"), "\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn this_test_needs_libc() {
        let this = std::env::current_exe().expect("a path");
        let found = shared_libraries(&[this]).expect("ldd reads it");
        assert!(found.iter().any(|file| file.to_string_lossy().contains("libc.so")), "{found:?}");
    }
}
