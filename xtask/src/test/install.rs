//! The programs that tests need, and how to get them on Debian and its kin.

use std::{path::Path, process::Stdio};

use anyhow::{Context, Result};

use crate::sh;

/// One thing that must be there.
struct Need {
    what: &'static str,
    /// apt packages that bring it; the first set whose packages all exist is taken (they were renamed over time).
    packages: &'static [&'static [&'static str]],
    present: fn() -> bool,
}

const NEEDS: [Need; 16] = [
    Need { what: "a C compiler", packages: &[&["gcc", "libc6-dev"]], present: c_compiler },
    Need {
        what: "Docker's daemon",
        // Newer releases keep the client apart; nothing here needs it.
        packages: &[&["docker.io"]],
        present: || sh::find("dockerd").is_some(),
    },
    Need { what: "etcd", packages: &[&["etcd-server"], &["etcd"]], present: || sh::find("etcd").is_some() },
    Need {
        what: "etcdctl",
        packages: &[&["etcd-client"], &["etcd"]],
        present: || sh::find("etcdctl").is_some(),
    },
    Need {
        what: "a registry of images",
        packages: &[&["docker-registry"]],
        present: || sh::find("docker-registry").is_some(),
    },
    Need { what: "a static busybox", packages: &[&["busybox-static"]], present: static_busybox },
    Need {
        what: "Prometheus",
        packages: &[&["prometheus"]],
        present: || sh::find("prometheus").is_some() && sh::find("promtool").is_some(),
    },
    Need {
        what: "nginx with its stream module",
        packages: &[&["nginx-light", "libnginx-mod-stream"]],
        present: || {
            sh::find("nginx").is_some() && Path::new("/etc/nginx/modules-enabled/50-mod-stream.conf").exists()
        },
    },
    Need { what: "Python with venv", packages: &[&["python3", "python3-venv"]], present: python_venv },
    Need { what: "Node with npm", packages: &[&["nodejs", "npm"]], present: node },
    Need { what: "ip", packages: &[&["iproute2"]], present: || sh::find("ip").is_some() },
    Need { what: "openssl", packages: &[&["openssl"]], present: || sh::find("openssl").is_some() },
    Need { what: "faketime", packages: &[&["faketime"]], present: || sh::find("faketime").is_some() },
    Need { what: "zsh", packages: &[&["zsh"]], present: || sh::find("zsh").is_some() },
    Need { what: "fish", packages: &[&["fish"]], present: || sh::find("fish").is_some() },
    Need { what: "curl", packages: &[&["curl"]], present: || sh::find("curl").is_some() },
];

/// Says what is missing, installs it where that is allowed, and returns a note for each thing that is missing still.
pub(super) fn prepare(only_name: bool) -> Result<Vec<String>> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        println!("everything that the tests need is installed");
        return Ok(Vec::new());
    }
    for need in &missing {
        println!("missing: {} (apt packages {})", need.what, need.packages[0].join(" "));
    }
    if !only_name && is_root()? && sh::find("apt-get").is_some() {
        let update = apt().arg("update").status();
        if !update.context("starting apt-get update")?.success() {
            println!("(apt-get update failed; trying with the lists that are there)");
        }
        let packages: Vec<&str> = missing.iter().flat_map(|need| available(need.packages)).copied().collect();
        println!("installing: {}", packages.join(" "));
        let mut install = apt();
        install.args(["install", "--yes", "--no-install-recommends"]).args(&packages);
        if let Err(error) = sh::run(&mut install) {
            println!("({error:#})");
        }
    } else if !only_name {
        println!("not installed: that needs root and apt-get");
    }
    let still = missing.into_iter().filter(|need| !(need.present)());
    Ok(still
        .map(|need| {
            format!("missing: {}; install it with: apt-get install {}", need.what, need.packages[0].join(" "))
        })
        .collect())
}

fn apt() -> std::process::Command {
    let mut apt = sh::command("apt-get");
    // Services are started by tests, never by their package.
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").stdin(Stdio::null());
    apt
}

/// The first set of packages that all exist here, else the first.
fn available(sets: &'static [&'static [&'static str]]) -> &'static [&'static str] {
    let exists = |package: &&str| {
        // `policy` knows virtual packages too, but says that they have no candidate.
        sh::output(sh::command("apt-cache").args(["policy", package]))
            .is_ok_and(|policy| policy.contains("Candidate:") && !policy.contains("Candidate: (none)"))
    };
    sets.iter().find(|set| set.iter().all(exists)).unwrap_or(&sets[0])
}

fn is_root() -> Result<bool> {
    Ok(sh::output(sh::command("id").arg("-u"))?.trim() == "0")
}

fn c_compiler() -> bool {
    // The headers and static libc come in a package of their own.
    sh::find("cc").is_some() && Path::new("/usr/include/stdlib.h").is_file()
}

fn static_busybox() -> bool {
    // A dynamic one names its interpreter; `ldd` fails on a static one.
    let Some(busybox) = sh::find("busybox") else { return false };
    sh::output(sh::command("ldd").arg(busybox)).is_err()
}

/// As `integration/clients/package.json` asks for it.
fn node() -> bool {
    let version = sh::output(sh::command("node").args(["-p", "process.versions.node.split('.')[0]"]));
    let new_enough = version.is_ok_and(|major| major.trim().parse().is_ok_and(|major: u32| major >= 18));
    new_enough && sh::find("npm").is_some()
}

fn python_venv() -> bool {
    sh::output(sh::command("python3").args(["-c", "import ensurepip, venv"])).is_ok()
}
