//! Docker Compose 2: found where it is installed, else fetched as its Debian package and unpacked into the target directory.
//!
//! Nothing is installed, so nobody need be root: the package's one program runs by itself. It comes through apt, which checks its
//! signature: from this machine's own sources where they have it, else from a later Debian release at the same mirror, by lists kept
//! apart from the system's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::sh;

/// Names the program, to the tests as well: `skerry_testing` reads it.
const COMPOSE: &str = "SKERRY_TEST_COMPOSE";
/// Set to `1`, it lets the tests that need Compose pass without. Read by `skerry_testing` too.
pub(crate) const NO_COMPOSE: &str = "SKERRY_TEST_NO_COMPOSE";
/// Where plugins of Docker's client lie, under a root: the machine's, or that of an unpacked package.
const PLUGINS: [&str; 4] = [
    "usr/local/lib/docker/cli-plugins",
    "usr/local/libexec/docker/cli-plugins",
    "usr/lib/docker/cli-plugins",
    "usr/libexec/docker/cli-plugins",
];
/// Ubuntu's name for it, and Debian's, which was Compose 1's before.
const PACKAGES: [&str; 2] = ["docker-compose-v2", "docker-compose"];
/// The first Debian release that has it, and what signs that.
const RELEASE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Compose 2 on this machine or in the target directory.
pub(crate) fn find() -> Result<Option<PathBuf>> {
    if let Some(named) = std::env::var_os(COMPOSE) {
        return Ok(Some(named.into()));
    }
    let installed = sh::find("docker-compose").into_iter().chain(plugins(Path::new("/")));
    Ok(installed.chain(plugins(&dir()?.join("unpacked"))).find(|program| is_second(program)))
}

/// The same, fetched where it is missing, unless it shall `only` be `named`.
///
/// # Errors
/// Where there is none; says how to get it.
pub(super) fn ensure(only_name: bool) -> Result<PathBuf> {
    if let Some(found) = find()? {
        return Ok(found);
    }
    let missing = format!("Docker Compose 2 is missing: install it, or name it by {COMPOSE}");
    if only_name || sh::find("apt-get").is_none() {
        bail!(missing);
    }
    println!("Docker Compose 2 is missing: fetching its package into the target directory");
    fetch().context(missing.clone())?;
    find()?.context(missing)
}

/// Tells a command where Compose is.
pub(crate) fn name_to<'a>(command: &'a mut Command, program: &Path) -> &'a mut Command {
    command.env(COMPOSE, program)
}

fn plugins(root: &Path) -> impl Iterator<Item = PathBuf> {
    PLUGINS.iter().map(move |dir| root.join(dir).join("docker-compose"))
}

fn is_second(program: &Path) -> bool {
    sh::output(sh::command(program).args(["version", "--short"])).is_ok_and(|version| is_new_enough(&version))
}

fn is_new_enough(version: &str) -> bool {
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    major.is_some_and(|major: u32| major >= 2)
}

fn dir() -> Result<PathBuf> {
    Ok(sh::target_dir()?.join("xtask/compose"))
}

fn fetch() -> Result<()> {
    let dir = dir()?;
    let packages = dir.join("packages");
    for needed in [&packages, &dir.join("lists/partial"), &dir.join("cache/archives/partial")] {
        fs::create_dir_all(needed).with_context(|| format!("creating {}", needed.display()))?;
    }
    let own =
        PACKAGES.iter().find(|package| candidate(package).is_some_and(|version| is_new_enough(&version)));
    match own {
        Some(package) => sh::run(apt(&packages).args(["download", package]))?,
        None => fetch_from_later(&dir, &packages)?,
    }
    for entry in fs::read_dir(&packages).with_context(|| format!("reading {}", packages.display()))? {
        sh::run(sh::command("dpkg-deb").arg("--extract").arg(entry?.path()).arg(dir.join("unpacked")))?;
    }
    fs::remove_dir_all(&packages).with_context(|| format!("removing {}", packages.display()))
}

/// By a source file, lists and a cache of our own: the system's apt knows nothing of it.
fn fetch_from_later(dir: &Path, packages: &Path) -> Result<()> {
    let source = dir.join("later.sources");
    let text = format!(
        "Types: deb\nURIs: {}\nSuites: {RELEASE}\nComponents: main\nSigned-By: {KEYRING}\n",
        debian_mirror()?
    );
    fs::write(&source, text).with_context(|| format!("writing {}", source.display()))?;
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    let options = [
        option("Dir::Etc::sourcelist", &source),
        option("Dir::Etc::sourceparts", Path::new("/dev/null")),
        option("Dir::State::lists", &dir.join("lists")),
        option("Dir::Cache", &dir.join("cache")),
        // Its own user could not write into our directories.
        format!("APT::Sandbox::User={}", sh::output(sh::command("id").arg("-un"))?.trim()),
    ];
    let with_options = |words: &[&str]| {
        let mut command = apt(packages);
        command.args(options.iter().flat_map(|option| ["-o", option])).args(words);
        command
    };
    sh::run(&mut with_options(&["update"]))?;
    sh::run(&mut with_options(&["download", "docker-compose"]))
}

/// The version that apt would install, if any.
fn candidate(package: &str) -> Option<String> {
    let policy = sh::output(sh::command("apt-cache").args(["policy", package])).ok()?;
    policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ").map(str::to_owned))
}

/// Where this machine gets Debian's packages.
fn debian_mirror() -> Result<String> {
    let format = ["--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Component: main"];
    let known = sh::output(sh::command("apt-get").arg("indextargets").args(format))?;
    // Security updates come from a place of their own, which lacks the release itself.
    let mirror = known.lines().find(|uri| !uri.contains("security"));
    Ok(mirror.context("apt has no Debian source to fetch it from (apt-get update first)")?.to_owned())
}

fn apt(dir: &Path) -> Command {
    let mut apt = sh::command("apt-get");
    apt.current_dir(dir).arg("--quiet");
    apt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_compose_is_not_enough() {
        for good in ["2.26.1-4", "v2.40.0\n", "5.0.0"] {
            assert!(is_new_enough(good), "{good}");
        }
        for bad in ["1.29.2-3", "", "(none)"] {
            assert!(!is_new_enough(bad), "{bad}");
        }
    }
}
