//! The crate walls of ARCHITECTURE.md: which crate may know which, and who alone may use certain libraries.
//!
//! `Cargo.lock` and the compiler hold what is not declared; so only declared dependencies are looked at.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

/// What a package of the workspace may depend on in the workspace, by package name. Order: from the bottom up.
const ALLOWED: &[(&str, &[&str])] = &[
    ("skerry-proto", &[]),
    ("skerry-etcd-embedded", &[]),
    ("skerry-resident", &[]),
    // For build scripts.
    ("skerry-linking", &[]),
    ("skerry-archive", &[]),
    ("skerry-nvml-sim", &[]),
    ("skerry-nvml-part", &[]),
    // Series of integers, whatever they are of.
    ("skerry-series", &[]),
    ("skerry-model", &["skerry-proto"]),
    ("skerry-identity", &["skerry-proto", "skerry-model"]),
    // It issues certificates for tests.
    ("skerry-testing", &["skerry-identity"]),
    ("skerry-store", &["skerry-proto", "skerry-model"]),
    ("skerry-sync", &["skerry-proto", "skerry-model"]),
    // Connections on a channel: what both of its ends have in common.
    ("skerry-forward", &["skerry-proto"]),
    ("skerry-placement", &["skerry-proto", "skerry-model"]),
    ("skerry-rollout", &["skerry-model"]),
    // The words of GPU telemetry: nodes, the gpu service and who shows it to people have them in common.
    ("skerry-gpu-model", &["skerry-proto", "skerry-model"]),
    ("skerry-manifest", &["skerry-proto", "skerry-model"]),
    ("skerry-compose", &["skerry-proto", "skerry-model", "skerry-manifest"]),
    ("skerry-rpc", &["skerry-proto", "skerry-model", "skerry-identity"]),
    ("skerry-daemon", &["skerry-proto", "skerry-model", "skerry-identity", "skerry-rpc", "skerry-resident"]),
    // What API services share: names, etags, pages, watches over the store.
    ("skerry-api", &["skerry-proto", "skerry-model", "skerry-store", "skerry-identity", "skerry-rpc"]),
    // What each kind of resource means and how it is stored: whoever has this can plan a change of any of them.
    (
        "skerry-resources",
        &[
            "skerry-proto",
            "skerry-model",
            "skerry-store",
            "skerry-rollout",
            "skerry-identity",
            "skerry-rpc",
            "skerry-api",
        ],
    ),
    (
        "skerry-cli",
        &[
            "skerry-archive",
            "skerry-proto",
            "skerry-model",
            "skerry-manifest",
            "skerry-compose",
            "skerry-identity",
            "skerry-rpc",
            "skerry-forward",
            "skerry-gpu-model",
        ],
    ),
    ("skerry-registry", CLOUD_SERVICE),
    ("skerry-scheduler", CLOUD_SERVICE),
    ("skerry-gateway", CLOUD_SERVICE),
    ("skerry-relay", CLOUD_SERVICE),
    ("skerry-gpu", CLOUD_SERVICE),
    // The agent is trusted with little: it knows neither the store nor etcd.
    (
        "skerry-agent",
        &[
            "skerry-archive",
            "skerry-nvml-part",
            "skerry-proto",
            "skerry-model",
            "skerry-sync",
            "skerry-forward",
            "skerry-gpu-model",
            "skerry-identity",
            "skerry-rpc",
            "skerry-daemon",
            "skerry-resident",
            "skerry-linking",
        ],
    ),
    // Holds the agent's reading of a GPU against what the driver's own tool says.
    ("skerry-gpu-check", &["skerry-agent", "skerry-gpu-model", "skerry-model"]),
    ("skerry", EVERYTHING),
    ("skerry-integration", EVERYTHING),
    ("skerry-fuzz-targets", EVERYTHING),
    ("xtask", &[]),
    ("skerry-codegen", &[]),
    ("hello", &[]),
];

/// Services use crates, never each other: their clients come from `skerry-proto`.
const CLOUD_SERVICE: &[&str] = &[
    "skerry-proto",
    "skerry-model",
    "skerry-store",
    "skerry-sync",
    "skerry-placement",
    "skerry-rollout",
    "skerry-gpu-model",
    "skerry-series",
    "skerry-manifest",
    "skerry-identity",
    "skerry-rpc",
    "skerry-daemon",
    "skerry-api",
    "skerry-resources",
    "skerry-linking",
];

const EVERYTHING: &[&str] = &[
    "skerry-gpu",
    "skerry-proto",
    "skerry-model",
    "skerry-store",
    "skerry-etcd-embedded",
    "skerry-sync",
    "skerry-forward",
    "skerry-archive",
    "skerry-nvml-sim",
    "skerry-nvml-part",
    "skerry-series",
    "skerry-placement",
    "skerry-rollout",
    "skerry-gpu-model",
    "skerry-manifest",
    "skerry-compose",
    "skerry-identity",
    "skerry-rpc",
    "skerry-daemon",
    "skerry-resident",
    "skerry-linking",
    "skerry-api",
    "skerry-resources",
    "skerry-cli",
    "skerry-registry",
    "skerry-scheduler",
    "skerry-gateway",
    "skerry-relay",
    "skerry-agent",
];

/// What tests of a package may use beyond that, each with `skerry-testing`. The agent's tests stay on its side of the wall.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("skerry-store", &["skerry-etcd-embedded"]),
    ("skerry-etcd-embedded", &["skerry-store"]),
    ("skerry-api", &["skerry-etcd-embedded"]),
    ("skerry-resources", &["skerry-etcd-embedded"]),
    ("skerry-registry", &["skerry-etcd-embedded"]),
    ("skerry-scheduler", &["skerry-etcd-embedded"]),
    ("skerry-gateway", &["skerry-etcd-embedded"]),
    ("skerry-gpu", &["skerry-etcd-embedded"]),
    ("skerry-agent", &["skerry-nvml-sim"]),
    ("skerry-gpu-check", &["skerry-nvml-sim"]),
    ("hello", &["skerry-manifest", "skerry-model"]),
];

/// Libraries with an owner.
const OWNED: &[(&str, &[&str])] = &[
    // The black-box tests ask it what a server answers; nothing is built on it there.
    ("etcd-client", &["skerry-store", "skerry-etcd-embedded", "skerry-integration"]),
    ("redb", &["skerry-etcd-embedded"]),
    ("bollard", &["skerry-agent"]),
    ("kube", &["skerry-agent"]),
    // The simulator is tested through it, and a real card is looked at.
    ("nvml-wrapper", &["skerry-agent", "skerry-nvml-part", "skerry-nvml-sim", "skerry-gpu-check"]),
];

/// Sans-io, or pure: no executor but in tests.
const WITHOUT_TOKIO: &[&str] = &[
    "skerry-model",
    "skerry-sync",
    "skerry-placement",
    "skerry-rollout",
    "skerry-gpu-model",
    "skerry-manifest",
    "skerry-compose",
    "skerry-identity",
    "xtask",
    "hello",
];

/// One declared dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge {
    from: String,
    to: String,
    /// Only its tests and benches have it.
    dev: bool,
}

/// The faults of the workspace at `root`.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut cargo = sh::cargo();
    let metadata = sh::output(cargo.current_dir(root).args(["metadata", "--no-deps", "--format-version=1"]))?;
    let (packages, edges) = read(&serde_json::from_str(&metadata).context("reading cargo metadata")?)?;
    Ok(judge(&packages, &edges))
}

fn read(metadata: &Value) -> Result<(Vec<String>, Vec<Edge>)> {
    let (mut names, mut edges) = (Vec::new(), Vec::new());
    for package in metadata["packages"].as_array().context("cargo metadata has no packages")? {
        let from = package["name"].as_str().context("a package has no name")?.to_owned();
        for dependency in package["dependencies"].as_array().context("a package has no dependencies")? {
            let to = dependency["name"].as_str().context("a dependency has no name")?.to_owned();
            edges.push(Edge { from: from.clone(), to, dev: dependency["kind"] == "dev" });
        }
        names.push(from);
    }
    Ok((names, edges))
}

fn judge(packages: &[String], edges: &[Edge]) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        if look_up(ALLOWED, package).is_none() {
            faults.push(format!("{package}: xtask/src/tidy/walls.rs does not say what it may depend on"));
        }
    }
    for edge in edges {
        faults.extend(fault(edge, packages.contains(&edge.to)));
    }
    faults
}

fn fault(edge: &Edge, ours: bool) -> Option<String> {
    let Edge { from, to, dev } = edge;
    if let Some(owners) = look_up(OWNED, to) {
        let owned = owners.contains(&from.as_str());
        return (!owned).then(|| format!("{from}: only {} may use {to}", owners.join(" and ")));
    }
    if to == "tokio" && !dev && WITHOUT_TOKIO.contains(&from.as_str()) {
        return Some(format!("{from}: does no I/O, so it has no {to}"));
    }
    if !ours {
        return None;
    }
    if to == "skerry-testing" {
        // The black-box tests are all test, library and all.
        let allowed = *dev || from == "skerry-integration";
        return (!allowed).then(|| format!("{from}: {to} is a dev-dependency only"));
    }
    let in_tests = if *dev { look_up(ALLOWED_IN_TESTS, from).unwrap_or_default() } else { &[] };
    let allowed = look_up(ALLOWED, from).unwrap_or_default();
    // A package may name itself to turn features on in its tests.
    let allowed = allowed.contains(&to.as_str()) || in_tests.contains(&to.as_str()) || (*dev && from == to);
    (!allowed).then(|| format!("{from}: must not know {to}{}", if *dev { ", not even in tests" } else { "" }))
}

fn look_up(table: &[(&str, &'static [&'static str])], name: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(known, _)| *known == name).map(|(_, values)| *values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(from: &str, to: &str, dev: bool) -> Vec<String> {
        let packages: Vec<String> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
        judge(&packages, &[Edge { from: from.into(), to: to.into(), dev }])
    }

    #[test]
    fn services_never_know_each_other() {
        assert_eq!(faults("skerry-registry", "skerry-scheduler", false).len(), 1);
        assert_eq!(faults("skerry-gateway", "skerry-agent", true).len(), 1);
        assert!(faults("skerry-gateway", "skerry-store", false).is_empty());
    }

    #[test]
    fn the_agent_knows_neither_store_nor_etcd() {
        for forbidden in ["skerry-store", "skerry-etcd-embedded", "etcd-client"] {
            assert_eq!(faults("skerry-agent", forbidden, false).len(), 1, "{forbidden}");
            assert_eq!(faults("skerry-agent", forbidden, true).len(), 1, "{forbidden} in tests");
        }
    }

    #[test]
    fn layers_are_known_from_above_only() {
        assert!(faults("skerry-store", "skerry-model", false).is_empty());
        assert_eq!(faults("skerry-model", "skerry-store", false).len(), 1);
        assert_eq!(faults("skerry-proto", "skerry-model", false).len(), 1);
        assert_eq!(faults("skerry-rpc", "skerry-daemon", false).len(), 1);
        assert_eq!(faults("skerry-placement", "skerry-sync", false).len(), 1);
    }

    #[test]
    fn libraries_stay_with_their_owners() {
        assert!(faults("skerry-store", "etcd-client", false).is_empty());
        assert_eq!(faults("skerry-gateway", "etcd-client", false).len(), 1);
        assert_eq!(faults("skerry-integration", "bollard", true).len(), 1);
        assert!(faults("skerry-agent", "bollard", false).is_empty());
    }

    #[test]
    fn testing_is_for_tests() {
        assert!(faults("skerry-store", "skerry-testing", true).is_empty());
        assert_eq!(faults("skerry-store", "skerry-testing", false).len(), 1);
        assert!(faults("skerry-integration", "skerry-testing", false).is_empty());
        assert!(faults("skerry-store", "skerry-etcd-embedded", true).is_empty());
        assert_eq!(faults("skerry-store", "skerry-etcd-embedded", false).len(), 1);
    }

    #[test]
    fn pure_crates_have_no_executor() {
        assert_eq!(faults("skerry-sync", "tokio", false).len(), 1);
        assert!(faults("skerry-sync", "tokio", true).is_empty());
        assert!(faults("skerry-store", "tokio", false).is_empty());
    }

    #[test]
    fn a_new_package_must_be_placed() {
        let found = judge(&["skerry-new".to_owned()], &[]);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn metadata_is_read_with_its_kinds() {
        let metadata = serde_json::json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "kind": null}, {"name": "c", "kind": "dev"}, {"name": "d", "kind": "build"},
        ]}]});
        let (names, edges) = read(&metadata).expect("it is read");
        assert_eq!(names, ["a"]);
        let devs: Vec<bool> = edges.iter().map(|edge| edge.dev).collect();
        assert_eq!(devs, [false, true, false]);
    }

    #[test]
    fn the_tables_are_closed() {
        let known: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
        for (name, targets) in ALLOWED.iter().chain(ALLOWED_IN_TESTS) {
            assert!(known.contains(name), "{name}");
            for target in *targets {
                assert!(known.contains(target), "{name} -> {target}");
            }
        }
    }
}
