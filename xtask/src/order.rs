//! `cargo xtask order`: finds which of the agent's functions are used in its daily work, and writes `services/agent/hot.ld`, by which the
//! linker puts them side by side.
//!
//! Why: the kernel maps a program's code in pieces of 64 KiB around each page that is touched, so functions that are used and lie
//! scattered keep the whole program resident ([ADR 9](../../docs/adr/0009-link-order.md)). How: the agent of the `edge` profile runs under valgrind's
//! callgrind against a `skerry up` of its own, enrols, connects by mutual TLS, runs containers, and idles; once more with telemetry on, whose
//! functions come behind those that everybody uses. Nothing here is needed to build: `hot.ld` is in the repository, and a name in
//! it that no longer exists costs nothing.

mod patterns;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    sh,
    up::{self, Interrupt, Up},
};

const SCRIPT: &str = "services/agent/hot.ld";
const NODE: &str = "order";
const CONTAINERS: usize = 5;
/// Under valgrind everything takes some fifty times as long.
const START_DEADLINE: Duration = Duration::from_secs(180);
/// Longer than every period of the agent that matters: it looks at Docker, sends heartbeats, sweeps.
const IDLE: Duration = Duration::from_secs(90);
const POLL_PERIOD: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// An image with `sleep` that Docker has: the containers are made of it
    #[arg(long, default_value = "skerry-test/busybox:1")]
    image: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let valgrind = sh::find("valgrind").context("valgrind is not installed (apt-get install valgrind)")?;
    sh::run(sh::cargo().args(["build", "--quiet", "--package=skerry"]))?;
    sh::run(sh::cargo().args(["build", "--quiet", "--package=skerry-integration", "--example=collector"]))?;
    // With its symbols: what is built next without these arguments is stripped again.
    sh::run(sh::cargo().args(["rustc", "--quiet", "--profile=edge", "--package=skerry-agent"]).args([
        "--bin=skerry-agent",
        "--",
        "-Cstrip=none",
    ]))?;
    let target = sh::target_dir()?;
    let agent = target.join("edge/skerry-agent");
    let sizes = sizes(&agent)?;

    let interrupt = Interrupt::listen()?;
    let dir = up::fresh_dir("order")?;
    let mut groups = Vec::new();
    let mut seen = BTreeSet::new();
    for traced in [false, true] {
        println!("running the agent under valgrind, telemetry {}", if traced { "on" } else { "off" });
        let collector = target.join("debug/examples/collector");
        let run = Run {
            skerry: target.join("debug/skerry"),
            agent: &agent,
            valgrind: &valgrind,
            collector: &collector,
            traced,
        };
        let used = run.used(&dir.join(if traced { "traced" } else { "plain" }), &args.image, &interrupt)?;
        let group = patterns::cover(&sizes, &used, &seen);
        println!("{} functions used, {} new patterns", used.len(), group.len());
        seen.extend(used);
        groups.push(group);
    }
    let script = sh::root().join(SCRIPT);
    fs::write(&script, text(&groups)).with_context(|| format!("writing {}", script.display()))?;
    fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    println!("wrote {SCRIPT}");
    Ok(())
}

/// The functions of a program and how many bytes each has.
fn sizes(program: &Path) -> Result<BTreeMap<String, u64>> {
    let symbols = sh::output(sh::command("nm").args(["--print-size", "--defined-only"]).arg(program))?;
    let mut sizes = BTreeMap::new();
    for line in symbols.lines() {
        let mut words = line.split(' ');
        let (Some(_), Some(size), Some(kind), Some(name)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if kind.eq_ignore_ascii_case("t")
            && (name.starts_with("_ZN") || name.starts_with("_R"))
            && let Ok(size) = u64::from_str_radix(size, 16)
        {
            sizes.insert(name.to_owned(), size);
        }
    }
    ensure!(!sizes.is_empty(), "{} has no symbols", program.display());
    Ok(sizes)
}

/// One life of the agent under callgrind.
struct Run<'a> {
    skerry: PathBuf,
    agent: &'a Path,
    valgrind: &'a Path,
    collector: &'a Path,
    traced: bool,
}

/// A collector that answers: an agent whose exports fail runs less of its code. Ends when dropped.
struct Collector {
    child: Child,
    endpoint: String,
}

impl Collector {
    fn start(program: &Path) -> Result<Self> {
        let mut child =
            sh::command(program).stdout(Stdio::piped()).spawn().context("starting the collector")?;
        let mut endpoint = String::new();
        let out = child.stdout.take().context("the collector's output")?;
        BufReader::new(out).read_line(&mut endpoint).context("reading the collector's endpoint")?;
        Ok(Self { child, endpoint: endpoint.trim().to_owned() })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Failure means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run<'_> {
    /// The functions that it called.
    fn used(&self, dir: &Path, image: &str, interrupt: &Interrupt) -> Result<BTreeSet<String>> {
        let up = Up::start(&self.skerry, &dir.join("up"), up::free_port()?, &["--no-agent"], interrupt)?;
        let url = format!("https://{}", up.address());
        let token = sh::output(&mut up.client(["token", "create", "--quiet"]))?;
        let profile = dir.join("callgrind.out");
        let mut agent = sh::command(self.valgrind);
        agent
            .args(["--tool=callgrind", "--demangle=no", "--trace-children=no"])
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(self.agent)
            .args(["--node", NODE, "--gateway", &url, "--token", token.trim(), "--data-dir"])
            .arg(dir.join("agent"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let collector = if self.traced { Some(Collector::start(self.collector)?) } else { None };
        if let Some(collector) = &collector {
            agent.args(["--otlp-endpoint", &collector.endpoint]);
        }
        let mut agent = agent.spawn().context("starting valgrind")?;
        let outcome = work(&up, dir, image, interrupt);
        sh::output(sh::command("sh").args(["-c", "kill -TERM \"$0\"", &agent.id().to_string()]))?;
        agent.wait().context("waiting for the agent's end")?;
        outcome?;
        up.stop()?;

        // `fn=(7) NAME` where a name is told for the first time; a recursion is `NAME'2`.
        let profile = fs::read_to_string(&profile).context("reading what callgrind wrote")?;
        let names = profile.lines().filter_map(|line| {
            let name = line.strip_prefix("fn=(").or_else(|| line.strip_prefix("cfn=("))?.split_once(") ")?.1;
            Some(name.split('\'').next().unwrap_or(name).to_owned())
        });
        Ok(names.collect())
    }
}

/// The daily work: connect, run containers, idle, take them away. No process: a shim is this program by its path in `/proc`, which is
/// valgrind's here; and where processes run, their shims share the agent's code.
fn work(up: &Up, dir: &Path, image: &str, interrupt: &Interrupt) -> Result<()> {
    let manifest = dir.join("work.yaml");
    let service = |n: usize| {
        format!("  - {{name: c{n}, container: {{image: \"{image}\", command: [sleep, \"1000000\"]}}}}\n")
    };
    let services: String = (0..CONTAINERS).map(service).collect();
    let head = "apiVersion: skerry/v1\nkind: App\nmetadata: {name: work}\nspec:\n  services:\n";
    fs::write(&manifest, format!("{head}{services}")).context("writing the manifest")?;

    let ready = format!("node/{NODE}");
    let begun = Instant::now();
    while sh::output(&mut up.client(["wait", &ready, "--for=ready", "--timeout=1s"])).is_err() {
        ensure!(begun.elapsed() < START_DEADLINE, "the agent has not connected after {START_DEADLINE:?}");
        interrupt.check()?;
        sh::sleep(POLL_PERIOD);
    }
    let file = manifest.to_string_lossy();
    sh::output(&mut up.client(["apply", "-f", &file]))?;
    let deadline = format!("--timeout={}s", START_DEADLINE.as_secs());
    if let Err(error) = sh::output(&mut up.client(["wait", "app/work", "--for=healthy", &deadline])) {
        bail!("{error:#}\n(the containers are made of {image}: `cargo xtask bench agent --quick` makes it)");
    }
    let begun = Instant::now();
    while begun.elapsed() < IDLE {
        interrupt.check()?;
        sh::sleep(POLL_PERIOD);
    }
    sh::output(&mut up.client(["delete", "app/work", &deadline]))?;
    Ok(())
}

/// The linker script.
fn text(groups: &[Vec<String>]) -> String {
    let mut text = String::from(
        "/* Written by `cargo xtask order`; do not edit. Functions that the agent uses in its daily work, side by side: why stands in\n   \
         docs/adr/0009-link-order.md. GNU ld and lld read it; a pattern that matches nothing is no fault. */\n\
         SECTIONS {\n  .text_hot : {\n",
    );
    // `.text.` or `.text.unlikely.`, as the compiler thinks.
    text.extend(groups.iter().flatten().map(|pattern| format!("    *(.text*{pattern})\n")));
    text + "  }\n} INSERT BEFORE .text;\n"
}
