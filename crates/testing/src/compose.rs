//! Finds Docker Compose 2. `cargo xtask test` fetches one where none is installed, and says where it lies.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::find_program;

/// Names the program of Docker Compose 2, where it is neither in `PATH` nor a plugin of the client.
pub const COMPOSE: &str = "SKERRY_TEST_COMPOSE";
/// Set to `1`, this variable lets tests that need Compose pass without.
pub const NO_COMPOSE: &str = "SKERRY_TEST_NO_COMPOSE";
/// Where plugins of Docker's client lie. Each runs by itself as well.
const PLUGINS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// For a test that needs Compose: its program, or None where the person who runs the tests has said to do without
/// (`SKERRY_TEST_NO_COMPOSE=1`). Never silent: says so on standard error.
///
/// # Panics
/// When there is none and nobody has said that this is fine.
#[must_use]
#[track_caller]
pub fn compose_required() -> Option<PathBuf> {
    if env::var(NO_COMPOSE).is_ok_and(|value| value == "1") {
        eprintln!("NOT TESTED, {NO_COMPOSE}=1");
        return None;
    }
    match find() {
        Ok(program) => Some(program),
        Err(error) => panic!("this test needs Docker Compose 2 ({NO_COMPOSE}=1 to do without): {error:#}"),
    }
}

fn find() -> Result<PathBuf> {
    if let Some(named) = env::var_os(COMPOSE) {
        return Ok(named.into());
    }
    let plugins = PLUGINS.iter().map(|dir| PathBuf::from(dir).join("docker-compose"));
    let found = find_program("docker-compose").into_iter().chain(plugins).find(is_second);
    found.with_context(|| {
        format!("it is not installed; `cargo xtask test compose` fetches it, {COMPOSE} names it")
    })
}

/// Compose 1 is another program of the same name.
fn is_second(program: &PathBuf) -> bool {
    let version = Command::new(program).args(["version", "--short"]).output();
    version.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        let major =
            text.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
        output.status.success() && major.is_some_and(|major: u32| major >= 2)
    })
}
