//! `cargo xtask order`: finds which of the agent's functions are used in its daily work, and writes `services/agent/hot.ld`, by which the
//! linker puts them side by side.
//!
//! Why: the kernel maps a program's code in pieces of 64 KiB around each page that is touched, so functions that are used and lie
//! scattered keep the whole program resident ([ADR 9](../../docs/adr/0009-link-order.md)). How: the agent of the `edge` profile runs under valgrind's
//! callgrind against a `skerry up` of its own, through the lives that a machine's agent has ([`LIVES`]). What idles lies first, since a quiet agent
//! gives back the rest ([ADR 14](../../docs/adr/0014-resident.md)); then what every agent uses; what only telemetry and only the enrolment use, which come once or never, lies last. Nothing here is needed to build: `hot.ld` is in
//! the repository, and a name in it that no longer exists costs nothing.

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
/// After something was made, before what follows counts as idling.
const SETTLE: Duration = Duration::from_secs(30);
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
    let machine = Machine {
        dir: &dir,
        agent: &agent,
        valgrind: &valgrind,
        image: &args.image,
        collector: target.join("debug/examples/collector"),
        up: Up::start(
            &target.join("debug/skerry"),
            &dir.join("up"),
            up::free_port()?,
            &["--no-agent"],
            &interrupt,
        )?,
        interrupt: &interrupt,
    };
    let mut used: BTreeMap<Group, BTreeSet<String>> = BTreeMap::new();
    for life in LIVES {
        println!("under valgrind: {}", life.what);
        for (group, functions) in machine.live(life)? {
            println!("  {group:?}: {} functions, {} KiB", functions.len(), bytes(&sizes, &functions) / 1024);
            used.entry(group).or_default().extend(functions);
        }
    }
    machine.up.stop()?;
    let (mut groups, mut seen) = (Vec::new(), BTreeSet::new());
    for (group, functions) in used {
        let new = functions.difference(&seen).cloned().collect();
        let cover = patterns::cover(&sizes, &functions, &seen);
        println!("{group:?}: {} patterns for {} KiB", cover.len(), bytes(&sizes, &new) / 1024);
        groups.push(cover);
        seen.extend(functions);
    }
    let script = sh::root().join(SCRIPT);
    fs::write(&script, text(&groups)).with_context(|| format!("writing {}", script.display()))?;
    fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    println!("wrote {SCRIPT}");
    Ok(())
}

fn bytes(sizes: &BTreeMap<String, u64>, functions: &BTreeSet<String>) -> u64 {
    functions.iter().filter_map(|name| sizes.get(name)).sum()
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
            && let Ok(size) = u64::from_str_radix(size, 16)
        {
            sizes.insert(name.to_owned(), size);
        }
    }
    ensure!(!sizes.is_empty(), "{} has no symbols", program.display());
    Ok(sizes)
}

/// Where functions lie, the first of them first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Idle,
    IdleTelemetry,
    Daily,
    Telemetry,
    Enrolment,
}

impl Group {
    /// What idling in a life of this group belongs to.
    fn idling(self) -> Self {
        if self == Self::Telemetry { Self::IdleTelemetry } else { Self::Idle }
    }
}

/// One process of the agent, from its start to its end.
#[derive(Clone, Copy)]
struct Life {
    what: &'static str,
    group: Group,
    traced: bool,
    /// The app is applied while it lives.
    applies: bool,
    idles: Duration,
    /// The app is deleted before it ends.
    deletes: bool,
}

/// In this order, on one data directory.
const LIVES: [Life; 4] = [
    Life {
        what: "enrolment",
        group: Group::Enrolment,
        traced: false,
        applies: false,
        idles: Duration::ZERO,
        deletes: false,
    },
    Life {
        what: "a start, then containers",
        group: Group::Daily,
        traced: false,
        applies: true,
        idles: IDLE,
        deletes: false,
    },
    Life {
        what: "a start with telemetry",
        group: Group::Telemetry,
        traced: true,
        applies: false,
        idles: IDLE,
        deletes: false,
    },
    Life {
        what: "a start beside its containers",
        group: Group::Daily,
        traced: false,
        applies: false,
        idles: Duration::ZERO,
        deletes: true,
    },
];

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

/// An edge machine, and its control plane.
struct Machine<'a> {
    dir: &'a Path,
    agent: &'a Path,
    valgrind: &'a Path,
    image: &'a str,
    collector: PathBuf,
    up: Up,
    interrupt: &'a Interrupt,
}

impl Machine<'_> {
    /// The functions that the agent calls in `life`: in all of it, and those while it idles.
    fn live(&self, life: Life) -> Result<Vec<(Group, BTreeSet<String>)>> {
        let profile = self.dir.join("callgrind.out");
        let url = format!("https://{}", self.up.address());
        let mut agent = sh::command(self.valgrind);
        agent
            .args(["--tool=callgrind", "--demangle=no", "--trace-children=no"])
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(self.agent)
            .args(["--node", NODE, "--gateway", &url, "--data-dir"])
            .arg(self.dir.join("agent"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if life.group == Group::Enrolment {
            let token = sh::output(&mut self.up.client(["token", "create", "--quiet"]))?;
            agent.args(["--token", token.trim()]);
        }
        let collector = if life.traced { Some(Collector::start(&self.collector)?) } else { None };
        if let Some(collector) = &collector {
            agent.args(["--otlp-endpoint", &collector.endpoint]);
        }
        let mut agent = agent.spawn().context("starting valgrind")?;
        let outcome = self.work(life, agent.id());
        sh::output(sh::command("sh").args(["-c", "kill -TERM \"$0\"", &agent.id().to_string()]))?;
        agent.wait().context("waiting for the agent's end")?;
        outcome?;
        // So that the next life is not taken for connected by this one.
        self.until_connected(false)?;

        // What was dumped meanwhile has a number at its end: first what came before idling, then idling.
        let part = |n: u8| profile.with_extension(format!("out.{n}"));
        if life.idles.is_zero() {
            return Ok(vec![(life.group, called(&profile)?)]);
        }
        let idling = called(&part(2))?;
        let mut all = idling.clone();
        all.extend(called(&part(1))?);
        all.extend(called(&profile)?);
        Ok(vec![(life.group.idling(), idling), (life.group, all)])
    }

    /// What happens in `life`. No process runs in it: a shim is this program by its path in `/proc`, which is valgrind's here; and where
    /// processes run, their shims share the agent's code.
    fn work(&self, life: Life, agent: u32) -> Result<()> {
        let dump = || sh::output(sh::command("callgrind_control").args(["--dump", &agent.to_string()]));
        self.until_connected(true)?;
        let deadline = format!("--timeout={}s", START_DEADLINE.as_secs());
        if life.applies {
            let manifest = self.dir.join("work.yaml");
            fs::write(&manifest, self.manifest()).context("writing the manifest")?;
            sh::output(&mut self.up.client(["apply", "-f", &manifest.to_string_lossy()]))?;
            let healthy = ["wait", "app/work", "--for=healthy", &deadline];
            if let Err(error) = sh::output(&mut self.up.client(healthy)) {
                let image = self.image;
                bail!(
                    "{error:#}\n(the containers are made of {image}: `cargo xtask bench agent --quick` makes it)"
                );
            }
        }
        if !life.idles.is_zero() {
            self.pass_time(SETTLE)?;
            dump()?;
            self.pass_time(life.idles)?;
            dump()?;
        }
        if life.deletes {
            sh::output(&mut self.up.client(["delete", "app/work", &deadline]))?;
        }
        Ok(())
    }

    fn pass_time(&self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.interrupt.check()?;
            sh::sleep(POLL_PERIOD);
        }
        Ok(())
    }

    fn until_connected(&self, connected: bool) -> Result<()> {
        let node = format!("node/{NODE}");
        let begun = Instant::now();
        while sh::output(&mut self.up.client(["wait", &node, "--for=ready", "--timeout=1s"])).is_ok()
            != connected
        {
            ensure!(begun.elapsed() < START_DEADLINE, "connected: not {connected} after {START_DEADLINE:?}");
            self.interrupt.check()?;
            sh::sleep(POLL_PERIOD);
        }
        Ok(())
    }

    fn manifest(&self) -> String {
        let image = self.image;
        let service = |n: usize| {
            format!("  - {{name: c{n}, container: {{image: \"{image}\", command: [sleep, \"1000000\"]}}}}\n")
        };
        let services: String = (0..CONTAINERS).map(service).collect();
        let head = "apiVersion: skerry/v1\nkind: App\nmetadata: {name: work}\nspec:\n  services:\n";
        format!("{head}{services}")
    }
}

/// The functions that are called in what callgrind wrote: `fn=(7) NAME` where a name is told for the first time; a recursion is `NAME'2`.
fn called(profile: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(profile).with_context(|| format!("reading {}", profile.display()))?;
    let names = text.lines().filter_map(|line| {
        let name = line.strip_prefix("fn=(").or_else(|| line.strip_prefix("cfn=("))?.split_once(") ")?.1;
        Some(name.split('\'').next().unwrap_or(name).to_owned())
    });
    Ok(names.collect())
}

/// What is used whatever valgrind saw, since its processor is not the machine's: the start, and ring's ciphers, hashes and curve, which has
/// them once for each kind of processor. Functions of assembly have no sections of their own.
const ALWAYS: [&str; 15] = [
    "*crt1.o(.text*)",
    "*-aes*gcm*.o(.text*)",
    "*-aesni-*.o(.text*)",
    "*-chacha*.o(.text*)",
    "*-curve25519*.o(.text*)",
    "*-ecp_nistz*.o(.text*)",
    "*-ghash*.o(.text*)",
    "*-p256-*.o(.text*)",
    "*-sha256-*.o(.text*)",
    "*-sha512-*.o(.text*)",
    "*-mont*.o(.text*)",
    "*(.text*4ring4aead*)",
    // When a task is freed, and by whom, is a matter of time.
    "*(.text*_5tokio7runtime4task3raw7dealloc*)",
    "*(.text*IterNtNtCs*_5bytes5bytes5Bytes*8try_fold*)",
    "*(.text*_8base32ct*)",
];

/// The linker script.
fn text(groups: &[Vec<String>]) -> String {
    let mut text = String::from(
        "/* Written by `cargo xtask order`; do not edit. Functions that the agent uses, side by side, those of its daily work first: why stands in\n   \
         docs/adr/0009-link-order.md. GNU ld and lld read it; a pattern that matches nothing is no fault. */\n\
         SECTIONS {\n  .text_hot : {\n",
    );
    text.extend(ALWAYS.map(|input| format!("    {input}\n")));
    text.extend(groups.iter().flatten().map(|pattern| {
        // A name of C says too little to be the end of another.
        let section = if patterns::is_mangled(pattern) {
            // `.text.` or `.text.unlikely.`, as the compiler thinks.
            ".text*"
        } else {
            ".text."
        };
        format!("    *({section}{pattern})\n")
    }));
    text + "  }\n} INSERT BEFORE .text;\n"
}
