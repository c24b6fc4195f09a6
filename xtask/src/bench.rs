//! `cargo xtask bench NAME`: builds for release and runs `integration/benches/NAME.rs`.
//!
//! A bench prints its figures itself (`skerry_testing::figures`), each beside its budget; nothing here knows more of what they measure
//! than which programs it takes.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{sh, test::compose};

const BENCHES: &str = "integration/benches";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; without it, says what there is
    name: Option<String>,
    /// One JSON object a line: name, value, unit, budget, holds
    #[arg(long)]
    json: bool,
    /// Fewer and shorter rounds, to see that the bench works; its figures say little
    #[arg(long)]
    quick: bool,
    /// Passed on to the bench
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let known = known()?;
    let Some(name) = &args.name else {
        println!("benches, each run by `cargo xtask bench NAME [--json]`: {}", known.join(", "));
        return Ok(());
    };
    if !known.contains(name) {
        bail!("there is no bench {name}; there are: {}", known.join(", "));
    }
    // What is measured: the agent as it is shipped to edge machines, apart so that it has its own features only; and
    // everything in one binary, or for the stack in containers and the fifty apps each service by itself, as it runs in the cloud.
    let cloud: &[&str] = match name.as_str() {
        "stack" => {
            &["skerry", "skerry-registry", "skerry-scheduler", "skerry-gateway", "skerry-relay", "skerry-gpu"]
        }
        // Looks at how the agent grows, not at how large it is: in the profile of the rest.
        "churn" => &["skerry-registry", "skerry-scheduler", "skerry-gateway", "skerry-agent"],
        "gpu" => &["skerry", "skerry-gpu"],
        // Libraries only.
        "schedule" | "trust" => &[],
        _ => &["skerry"],
    };
    let edge: &[&str] = if cloud.is_empty() { &[] } else { &["skerry-agent"] };
    for (packages, profile) in [(edge, "edge"), (cloud, "release")] {
        if packages.is_empty() {
            continue;
        }
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        sh::run(sh::cargo().args(["build", "--quiet", "--profile", profile]).args(packages))?;
    }
    let mut bench = sh::cargo();
    if let Some(compose) = compose::find()? {
        compose::name_to(&mut bench, &compose);
    }
    bench.args(["bench", "--quiet", "--package=skerry-integration", "--bench", name, "--"]);
    for (flag, set) in [("--json", args.json), ("--quick", args.quick)] {
        if set {
            bench.arg(flag);
        }
    }
    sh::run(bench.args(&args.rest))
}

fn known() -> Result<Vec<String>> {
    let dir = sh::root().join(BENCHES);
    if !dir.is_dir() {
        bail!("there are no benches: {BENCHES} does not exist");
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {BENCHES}"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
