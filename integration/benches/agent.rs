//! The agent alone, as it is shipped (`skerry-agent`, profile `edge`): memory, start, traffic, size, and boot without a network.
//!
//! Method. The control plane is `skerry up --no-agent` on loopback, over mutual TLS; the agent has enrolled by a token. Instances are containers of a static busybox where a
//! Docker daemon answers, else processes (`--process`: in any case); the bench says which.
//!
//! - `agent.start`: from just before the agent's start to its own log line that its session is open, read from a pipe. The gateway
//!   welcomes an agent after it has committed its session to the store, so this is the whole way, and nothing is polled.
//! - `agent.idle`: five instances run, then nobody touches anything. At the end of the time the kernel says the agent's proportional
//!   set size; shims of process instances are counted apart (they share the agent's code, which makes its own share of it smaller).
//!   Traffic is what the agent's TCP connection counted meanwhile (`ss -ti`), every segment with 52 bytes of TCP/IP headers, acknowledgements
//!   too, carried forward to a day. A window of 60 s holds one heartbeat or two, so that the figure moves in steps.
//! - `agent.boot`: the control plane is killed, the agent stopped, every instance killed, as after a power cut; then the agent is started
//!   with nobody to connect to. Counted until the last of the five runs: for containers by Docker's own `StartedAt`, for processes by the
//!   first thing that they do. `agent.boot.docker_alone`, before each boot and without a budget: the same five containers, started by five
//!   requests to Docker at once and without an agent, to tell what is Docker's and the machine's share.
//!
//! `--otlp`: the agent sends traces and metrics to a collector in the bench meanwhile; its budgets are the same.
//!
//! `--quick`: a few seconds of idling and few runs. `--idle-seconds=N`, `--runs=N` (of start), `--boots=N`.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps;
use skerry_integration::otlp::Collector;
use skerry_proto::types::v1::{AppSpec, ServiceSpec, StopPolicy};
use skerry_testing::{Budget, Docker, Figures, Process, find_program};
use support::control::{AgentPlan, Control, PATIENCE, until};
use support::{edge_bin, median, ms, note_load, option, proc, quick};
use tokio::task::JoinSet;

const INSTANCES: u32 = 5;
const MIB: f64 = 1024.0 * 1024.0;
const SECONDS_A_DAY: f64 = 86_400.0;
/// After the instances are ready, before idling is counted: what their start has brought about ends.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two looks at what a boot has started.
const BOOT_POLL: Duration = Duration::from_millis(2);

// Budgets of the design document.
const PSS_MIB_MAX: f64 = 4.5;
const START_MS_MAX: f64 = 70.0;
const WIRE_MB_A_DAY_MAX: f64 = 1.0;
const BOOT_MS_MAX: f64 = 3_000.0;

/// Five instances, and what is needed to look at them and to clean up.
struct Work {
    app: String,
    docker: Option<Docker>,
    data_dir: PathBuf,
    /// Where process instances say that they have started.
    marks: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let idle = Duration::from_secs(option("--idle-seconds")?.unwrap_or(if quick() { 5 } else { 60 }));
    let runs = option("--runs")?.unwrap_or(if quick() { 3 } else { 10 });
    let boots = option("--boots")?.unwrap_or(if quick() { 1 } else { 3 });
    ensure!(!idle.is_zero(), "idling needs some time");

    let program = edge_bin("skerry-agent")?;
    let size = program.metadata().context("looking at the agent's binary")?.len();
    figures.show("agent.binary", size as f64 / MIB, "MiB");

    let mut control = Control::start().await?;
    let processes_only = std::env::args().any(|arg| arg == "--process");
    let docker = if processes_only { None } else { Docker::find().ok() };
    let traced = std::env::args().any(|arg| arg == "--otlp");
    let collector = if traced { Some(Collector::start().await?) } else { None };
    let plan = AgentPlan {
        otlp: collector.as_ref().map(Collector::endpoint),
        program,
        node: "bench".to_owned(),
        data_dir: control.dir().join("agent"),
        gateway: control.address().to_owned(),
        token: control.token().to_owned(),
        docker: docker.is_some(),
        log: control.dir().join("agent.log"),
    };
    let work = Work::new(docker, &plan.data_dir, control.dir().join("marks"))?;
    let told = if collector.is_some() { ", and the agent sends traces and metrics" } else { "" };
    figures.note(&format!("(instances are {}{told})", work.kind()));
    note_load(&figures);

    start(&figures, &control, &plan, runs).await?;
    let agent = settle(&control, &plan, &work).await?;
    idling(&figures, &agent, &control, &work, idle).await?;
    control.kill()?;
    boot(&figures, agent, &plan, &work, boots).await?;
    note_load(&figures);
    Ok(())
}

async fn start(figures: &Figures, control: &Control, plan: &AgentPlan, runs: usize) -> Result<()> {
    let mut times = Vec::new();
    // It enrols.
    tokio::task::block_in_place(|| plan.time_to_connected())?;
    control.wait_disconnected(&plan.node).await?;
    for _ in 0..runs {
        let took = tokio::task::block_in_place(|| plan.time_to_connected())?;
        times.push(ms(took));
        control.wait_disconnected(&plan.node).await?;
    }
    if runs > 0 {
        figures.hold("agent.start.p50", median(&times), "ms", Budget::AtMost(START_MS_MAX));
        figures.show("agent.start.max", times.iter().copied().fold(0.0, f64::max), "ms");
    }
    Ok(())
}

/// An agent on which everything runs and is quiet.
async fn settle(control: &Control, plan: &AgentPlan, work: &Work) -> Result<Process> {
    let agent = plan.start()?;
    control.wait_connected(&plan.node).await?;
    control.apply(&work.app, work.spec()).await?;
    control.wait_ready(&work.app, INSTANCES).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(agent)
}

async fn idling(
    figures: &Figures,
    agent: &Process,
    control: &Control,
    work: &Work,
    idle: Duration,
) -> Result<()> {
    let pid = agent.pid();
    let port = control.address().rsplit(':').next().and_then(|port| port.parse().ok()).context("a port")?;
    let (connection, before) = proc::traffic(pid, port)?;
    let begun = Instant::now();
    tokio::time::sleep(idle).await;
    let (same_connection, after) = proc::traffic(pid, port)?;
    ensure!(connection == same_connection, "the agent has connected anew while it idled");
    let took = begun.elapsed().as_secs_f64();

    let memory = proc::memory(pid)?;
    figures.hold("agent.idle.pss", memory.pss as f64 / MIB, "MiB", Budget::AtMost(PSS_MIB_MAX));
    figures.show("agent.idle.pss.anonymous", memory.anonymous as f64 / MIB, "MiB");
    figures.show("agent.idle.rss", memory.resident as f64 / MIB, "MiB");
    let shims = proc::shims(&work.data_dir);
    figures.show("agent.idle.shims", shims.len() as f64, "");
    let each: Vec<f64> =
        shims.iter().filter_map(|pid| Some(proc::memory(*pid).ok()?.pss as f64 / MIB)).collect();
    if !each.is_empty() {
        figures.show("agent.idle.shims.pss", each.iter().sum(), "MiB");
    }

    let traffic = after.since(before);
    let a_day = SECONDS_A_DAY / took;
    let wire = traffic.wire_bytes() as f64 * a_day / 1e6;
    figures.hold("agent.idle.wire", wire, "MB/day", Budget::AtMost(WIRE_MB_A_DAY_MAX));
    figures.show("agent.idle.wire.payload", traffic.payload_bytes as f64 * a_day / 1e6, "MB/day");
    figures.show("agent.idle.wire.segments", traffic.segments as f64 * a_day, "1/day");
    Ok(())
}

async fn boot(
    figures: &Figures,
    mut agent: Process,
    plan: &AgentPlan,
    work: &Work,
    boots: usize,
) -> Result<()> {
    let (mut times, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..boots {
        agent.terminate(PATIENCE).await?;
        work.cut_power()?;
        if let Some(docker) = &work.docker {
            let (begun, begun_wall) = (Instant::now(), SystemTime::now());
            start_all(docker, work.label()).await?;
            alone.push(ms(work.all_started(begun, begun_wall).await?));
            work.cut_power()?;
        }
        let (begun, begun_wall) = (Instant::now(), SystemTime::now());
        agent = plan.start()?;
        times.push(ms(work.all_started(begun, begun_wall).await?));
    }
    agent.terminate(PATIENCE).await?;
    if !alone.is_empty() {
        figures.show("agent.boot.docker_alone.p50", median(&alone), "ms");
    }
    figures.show("agent.boot.p50", median(&times), "ms");
    if boots > 0 {
        let worst = times.iter().copied().fold(0.0, f64::max);
        figures.hold("agent.boot.max", worst, "ms", Budget::AtMost(BOOT_MS_MAX));
    }
    Ok(())
}

/// Starts all containers with a label, all at once.
async fn start_all(docker: &Docker, label: String) -> Result<()> {
    let mut starts = JoinSet::new();
    for id in docker.containers(&label)? {
        let docker = docker.clone();
        starts.spawn_blocking(move || docker.request("POST", &format!("/containers/{id}/start"), &[]));
    }
    while let Some(started) = starts.join_next().await {
        let answer = started??;
        ensure!(answer.status == 204, "starting a container: {}", answer.text());
    }
    Ok(())
}

impl Work {
    fn new(docker: Option<Docker>, data_dir: &Path, marks: PathBuf) -> Result<Self> {
        match &docker {
            Some(docker) => drop(docker.busybox()?),
            None => drop(find_program("sleep").context("`sleep` is not installed")?),
        }
        std::fs::create_dir(&marks).context("making a directory for marks")?;
        let app = format!("bench-{}", std::process::id());
        Ok(Self { app, docker, data_dir: data_dir.to_owned(), marks })
    }

    fn kind(&self) -> &'static str {
        if self.docker.is_some() { "containers" } else { "processes" }
    }

    fn label(&self) -> String {
        format!("skerry.io/app={}", self.app)
    }

    fn spec(&self) -> AppSpec {
        apps::app((0..INSTANCES).map(|number| self.service(&format!("s{number}"))))
    }

    fn service(&self, name: &str) -> ServiceSpec {
        let service = if self.docker.is_some() {
            apps::container(name, "exec sleep 1000000")
        } else {
            let mark = self.marks.join(name);
            apps::script(name, &format!(": > {}; exec sleep 1000000", mark.display()))
        };
        // It has nothing to clean up.
        let stop = Some(StopPolicy { signal: "SIGKILL".to_owned(), ..Default::default() });
        ServiceSpec { stop, ..apps::replicas(1, service) }
    }

    /// Ends every instance at once, as a power cut does.
    fn cut_power(&self) -> Result<()> {
        if let Some(docker) = &self.docker {
            for id in docker.containers(&self.label())? {
                docker.request("POST", &format!("/containers/{id}/kill"), &[])?;
            }
        } else {
            proc::kill(&proc::shims(&self.data_dir));
            proc::kill(&proc::programs(&self.app));
            for mark in std::fs::read_dir(&self.marks)? {
                std::fs::remove_file(mark?.path())?;
            }
        }
        Ok(())
    }

    /// Waits until every instance runs. Answers how long after `begun` the last one did.
    async fn all_started(&self, begun: Instant, begun_wall: SystemTime) -> Result<Duration> {
        let Some(docker) = &self.docker else {
            let all = async {
                while !(0..INSTANCES).all(|number| self.marks.join(format!("s{number}")).exists()) {
                    tokio::time::sleep(BOOT_POLL).await;
                }
            };
            tokio::time::timeout(PATIENCE, all).await.context("not every process was started")?;
            return Ok(begun.elapsed());
        };
        let mut last = Duration::ZERO;
        until("every container to run", async || {
            let ids = docker.containers(&self.label())?;
            let mut running = 0;
            for id in ids {
                let state = docker.inspect(&id)?["State"].take();
                let started: prost_types::Timestamp =
                    state["StartedAt"].as_str().unwrap_or_default().parse().context("StartedAt")?;
                let started = SystemTime::try_from(started).context("StartedAt")?;
                if state["Running"] == true
                    && let Ok(after) = started.duration_since(begun_wall)
                {
                    running += 1;
                    last = last.max(after);
                }
            }
            Ok(running == INSTANCES)
        })
        .await?;
        Ok(last)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        proc::kill(&proc::shims(&self.data_dir));
        proc::kill(&proc::programs(&self.app));
        if let Some(docker) = &self.docker
            && let Err(error) = docker.remove_labelled(&self.label())
        {
            eprintln!("containers of {} may be left: {error:#}", self.app);
        }
    }
}
