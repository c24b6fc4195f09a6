//! Running other programs, and finding one's way in the checkout. Small on purpose: std only.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().expect("xtask lies in the root of the checkout").to_path_buf()
}

/// The target directory that this xtask was built in: `CARGO_TARGET_DIR` is honoured, however it was set.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("finding the path of xtask itself")?;
    let profile = exe.parent().context("xtask lies in no directory")?;
    Ok(profile.parent().context("xtask lies in no target directory")?.to_path_buf())
}

/// A command in the root of the checkout. The variables that `cargo run` set for xtask itself are taken out, lest build
/// scripts see another environment than under plain cargo and rebuild.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end with our own output, and fails when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed; on failure the error carries its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = if program.ends_with("cargo") { OsStr::new("cargo") } else { program.as_os_str() };
    let words: Vec<String> = std::iter::once(program)
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let word = word.strip_prefix(&format!("{}/", root().display())).unwrap_or(&word);
            if word.contains([' ', '"']) { format!("'{word}'") } else { word.to_owned() }
        })
        .collect();
    words.join(" ")
}

/// The path of a program, if it is installed. Debian keeps daemons out of users' `PATH`, so `sbin` counts too.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/local/sbin"), PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Waits. xtask has no executor that this could hold up.
#[allow(clippy::disallowed_methods, reason = "xtask is synchronous")]
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}
