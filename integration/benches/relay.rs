//! `cargo xtask bench relay`: what goes through a relay, each figure beside the same without one.
//!
//! Method. The control plane is `skerry up --no-agent` (release build), whose relay owns all channels; the agent is `skerry-agent` as it is shipped
//! (profile `edge`); all is on this machine, over mutual TLS. Who is first alternates, and of rounds the median counts.
//!
//! - `relay.logs`: what a container has written is read to its end by `skerry logs` and by `docker logs`, each through a pipe; both
//!   must tell the same number of bytes. `ratio` is our rate over Docker's.
//! - `relay.forward`: a server in the bench, reached directly over loopback and by `skerry port-forward` to a process on the node. `down` and `up` are rates of
//!   one connection; `setup` is from before connect until one byte has come back. `container.setup` is the same of a container, whose network the
//!   agent enters, beside a connection to its address.
//! - `relay.idle`: anonymous memory of `skerry up` and of the agent with many idle channels, less that without, for one channel: logs that are
//!   followed and say nothing, and port-forwards without a connection.
//! - `relay.sync`: from before a change of an app until a watch tells that its node has acknowledged it; alone (`idle`), and beside an
//!   instance that writes 10 MB/s of logs, which are followed (`loud`).
//! - `relay.exec`: `true` in a container, from before a client is started until it has ended, by `skerry exec` and by `docker exec`.
//! - `relay.keys`: a key that is typed into `cat` in a container, until the terminal shows it, through both.
//!
//! - `relay.silent`: who follows a log of 10 MB/s and takes nothing of it for five minutes: what relay and agent spend on it, less what they spend
//!   in as long without such a reader, and what they hold for it.
//!
//! `--quick`: little of each. `--only=logs`, `exec`, `forward`, `idle`, `sync`, `silent`: one part.

#[path = "relay/exec.rs"]
mod exec;
#[path = "relay/silent.rs"]
mod silent;
mod support;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, stream};
use skerry_integration::apps::{app, container, script, with_env};
use skerry_integration::containers::local;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::port_forward_request::Body as Up;
use skerry_proto::relay::v1::relay_service_client::RelayServiceClient;
use skerry_proto::scheduler::v1::{WatchAppsRequest, WatchAppsResponse};
use skerry_proto::types::v1::{Log, ServiceSpec, service_spec};
use skerry_testing::{Budget, Docker, Figures, Process, anonymous_bytes, percentile};
use support::control::{AgentPlan, Control, PATIENCE, app_name, until};
use support::{edge_bin, median, ms, note_load, option, proc, quick, show_times};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Channel;

// Of the design document.
const LOGS_RATIO_MIN: f64 = 0.8;
const SYNC_RATIO_MAX: f64 = 2.0;
/// Channels that idle: an agent has at most 64.
const IDLE_CHANNELS: usize = 32;
/// Before memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);
/// Between two changes.
const QUIET: Duration = Duration::from_millis(300);
const LINE: &str =
    "a line of a log that is about as long as lines of logs are, which is to say a hundred bytes of it";
const ECHO_PORT: u16 = 7000;
const MB: f64 = 1e6;

/// What each part has.
struct Bench<'a> {
    figures: &'a Figures,
    control: &'a Control,
    agent: u32,
    docker: Option<&'a Docker>,
    /// The name of its apps.
    app: String,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let only = option::<String>("--only")?;
    let parts = ["logs", "exec", "forward", "idle", "sync", "silent"];
    ensure!(only.as_deref().is_none_or(|only| parts.contains(&only)), "--only takes one of {parts:?}");
    let does = |part: &str| only.as_ref().is_none_or(|only| only == part);

    let docker =
        Docker::find().inspect_err(|error| figures.note(&format!("(no containers: {error:#})"))).ok();
    let control = Control::start().await?;
    let plan = AgentPlan {
        otlp: None,
        program: edge_bin("skerry-agent")?,
        node: "bench".to_owned(),
        data_dir: control.dir().join("agent"),
        gateway: control.address().to_owned(),
        token: control.token().to_owned(),
        docker: docker.is_some(),
        log: control.dir().join("agent.log"),
    };
    let mut agent = plan.start()?;
    control.wait_connected(&plan.node).await?;
    if let Some(docker) = &docker {
        docker.busybox()?;
    }
    let bench = Bench {
        figures: &figures,
        control: &control,
        agent: agent.pid(),
        docker: docker.as_ref(),
        app: format!("bench-{}", std::process::id()),
    };
    let _cleaning = Cleaning { bench: &bench, data_dir: plan.data_dir.clone() };
    note_load(&figures);
    // First: what the others leave in memory is not to be counted.
    if does("idle") {
        bench.idle().await?;
    }
    if does("logs") {
        bench.logs().await?;
    }
    if does("exec") {
        bench.exec().await?;
    }
    if does("forward") {
        bench.forward().await?;
    }
    if does("sync") {
        bench.sync().await?;
    }
    if does("silent") {
        bench.silent().await?;
    }
    note_load(&figures);
    agent.terminate(PATIENCE).await?;
    Ok(())
}

/// Removes what a bench that failed has left running.
struct Cleaning<'a> {
    bench: &'a Bench<'a>,
    data_dir: std::path::PathBuf,
}

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        let mut pids = proc::shims(&self.data_dir);
        for name in ["idle", "logs", "exec", "forward", "echo", "loud", "changed", "silent"] {
            pids.extend(proc::programs(&self.bench.name(name)));
        }
        proc::kill(&pids);
        if let Some(docker) = self.bench.docker
            && let Err(error) =
                docker.remove_labelled(&format!("skerry.io/managed-by={}", self.bench.owner()))
        {
            eprintln!("containers of the bench were not removed: {error:#}");
        }
    }
}

impl Bench<'_> {
    fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.app)
    }

    fn owner(&self) -> String {
        format!("default/bench/{}", self.control.dir().join("agent").display())
    }

    async fn logs(&self) -> Result<()> {
        let Some(docker) = self.docker else {
            self.figures.note("(no logs of containers to compare)");
            return Ok(());
        };
        let bytes: u64 = if quick() { 8_000_000 } else { 50_000_000 };
        let rounds = if quick() { 1 } else { 5 };
        let name = self.name("logs");
        let writes = format!("yes \"{LINE}\" | head -c {bytes}; echo; echo written; exec sleep 1000000");
        // All of it is kept, where the agent would have Docker keep 30 MB.
        self.control.apply(&name, app([with_log_bytes(local(container("s", &writes)), 2 * bytes)])).await?;
        self.control.wait_ready(&name, 1).await?;
        let id = self.container(docker, &name).await?;
        let docker_logs = |tail: &str| {
            let mut command = Command::new("docker");
            command
                .args(["logs", tail, &id])
                .env("DOCKER_HOST", format!("unix://{}", docker.socket().display()));
            command
        };
        until("all to be written", async || {
            let output = docker_logs("--tail=1").output().await.context("starting docker")?;
            Ok(output.stdout.starts_with(b"written"))
        })
        .await?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let our_own = || {
                let mut command = Command::from(self.control.client());
                command.args(["logs", &format!("app/{name}")]);
                command
            };
            for side in if round % 2 == 0 { [true, false] } else { [false, true] } {
                let command = if side { our_own() } else { docker_logs("--tail=all") };
                let (read, took) = read_all(command).await?;
                ensure!(read >= bytes, "{read} of {bytes} bytes were told");
                let rates = if side { &mut ours } else { &mut theirs };
                rates.push(read as f64 / MB / took.as_secs_f64());
            }
        }
        self.figures.show("relay.logs.docker", median(&theirs), "MB/s");
        self.figures.show("relay.logs.skerry", median(&ours), "MB/s");
        let ratio = median(&ours) / median(&theirs);
        self.figures.hold("relay.logs.ratio", ratio, "", Budget::AtLeast(LOGS_RATIO_MIN));
        self.control.delete(&name).await
    }

    /// The id of the container of an app with one.
    async fn container(&self, docker: &Docker, app: &str) -> Result<String> {
        let mut found = Vec::new();
        until("a container", async || {
            found = docker.containers(&format!("skerry.io/instance={app}/s/bench/0"))?;
            Ok(found.len() == 1)
        })
        .await?;
        found.pop().context("a container")
    }

    async fn forward(&self) -> Result<()> {
        let server = TcpListener::bind("127.0.0.1:0").await?;
        let direct = server.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(serve(server));
        let name = self.name("forward");
        self.control.apply(&name, app([script("s", "exec sleep 1000000")])).await?;
        self.control.wait_ready(&name, 1).await?;
        let (mut forwards, through) = self.port_forward(&name, direct.port()).await?;

        let bytes: u64 = if quick() { 8 << 20 } else { 256 << 20 };
        let rounds = if quick() { 1 } else { 5 };
        for (what, transfer) in [("down", Transfer::Down), ("up", Transfer::Up)] {
            let (mut with, mut without) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                without.push(transfer.rate(direct, bytes).await?);
                with.push(transfer.rate(through, bytes).await?);
            }
            self.figures.show(&format!("relay.forward.{what}.direct"), median(&without), "MB/s");
            self.figures.show(&format!("relay.forward.{what}.skerry"), median(&with), "MB/s");
            self.figures.show(&format!("relay.forward.{what}.ratio"), median(&with) / median(&without), "");
        }
        self.setups("relay.forward.setup", direct, through, b"e!").await?;
        forwards.kill()?;
        self.control.delete(&name).await?;

        let Some(docker) = self.docker else { return Ok(()) };
        let name = self.name("echo");
        let echo = format!("exec nc -ll -p {ECHO_PORT} -e cat");
        self.control.apply(&name, app([local(container("s", &echo))])).await?;
        self.control.wait_ready(&name, 1).await?;
        let seen = docker.inspect(&self.container(docker, &name).await?)?;
        let networks = seen["NetworkSettings"]["Networks"].as_object().context("networks")?;
        let address = networks.values().find_map(|one| one["IPAddress"].as_str()?.parse().ok());
        let direct = SocketAddr::new(address.context("an address")?, ECHO_PORT);
        until("the echo", async || Ok(TcpStream::connect(direct).await.is_ok())).await?;
        let (mut forwards, through) = self.port_forward(&name, ECHO_PORT).await?;
        self.setups("relay.forward.container.setup", direct, through, b"!").await?;
        forwards.kill()?;
        self.control.delete(&name).await
    }

    /// `skerry port-forward` to a port of an app, and where it is reached.
    async fn port_forward(&self, app: &str, port: u16) -> Result<(Process, SocketAddr)> {
        let mut command = self.control.client();
        command.args(["port-forward", &format!("app/{app}"), &format!(":{port}")]);
        let mut process =
            Process::spawn_command(&mut command, self.control.dir().join(format!("{app}.log")))?;
        let line = process.wait_for_line("Forwarding ", PATIENCE).await?;
        let address = line.split(' ').nth(1).context("an address")?.parse().with_context(|| line.clone())?;
        Ok((process, address))
    }

    async fn setups(&self, name: &str, direct: SocketAddr, through: SocketAddr, said: &[u8]) -> Result<()> {
        let count = if quick() { 10 } else { 300 };
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..count {
            without.push(setup(direct, said).await?);
            with.push(setup(through, said).await?);
        }
        show_times(self.figures, &format!("{name}.direct"), &without);
        show_times(self.figures, &format!("{name}.skerry"), &with);
        self.figures.show(&format!("{name}.added"), median(&with) - median(&without), "ms");
        Ok(())
    }

    async fn idle(&self) -> Result<()> {
        let name = self.name("idle");
        self.control.apply(&name, app([script("s", "exec sleep 1000000")])).await?;
        self.control.wait_ready(&name, 1).await?;
        let pids = [("relay", self.control.pid()), ("agent", self.agent)];
        for verb in ["logs", "port-forward"] {
            until("no channel", async || Ok(self.channels().await? == 0)).await?;
            // One before: what the first costs alone is no channel's.
            let _first = self.open(verb, &name).await?;
            tokio::time::sleep(SETTLE).await;
            let before = [anonymous_bytes(pids[0].1)?, anonymous_bytes(pids[1].1)?];
            let mut open = Vec::new();
            for _ in 0..IDLE_CHANNELS {
                open.push(self.open(verb, &name).await?);
            }
            tokio::time::sleep(SETTLE).await;
            for ((who, pid), before) in pids.iter().zip(before) {
                let each = (anonymous_bytes(*pid)? as f64 - before as f64) / IDLE_CHANNELS as f64;
                self.figures.show(&format!("relay.idle.{verb}.{who}"), each / 1024.0, "KiB");
            }
        }
        self.control.delete(&name).await
    }

    /// An idle channel, as long as what comes back is held.
    async fn open(&self, verb: &str, app: &str) -> Result<Idle> {
        let before = self.channels().await?;
        let mut relay = self.control.relay();
        let app = app_name(app);
        let idle = if verb == "logs" {
            let request = pb::LogsRequest { app, follow: true, tail: Some(0), ..Default::default() };
            Idle::Logs(relay.logs(request).await?.into_inner())
        } else {
            let start = pb::PortForwardStart { app, ports: vec![80], ..Default::default() };
            let start = pb::PortForwardRequest { body: Some(Up::Start(start)) };
            let (end, ended) = oneshot::channel();
            let sent = stream::iter([start]).chain(stream::pending()).take_until(ended);
            let mut answers = relay.port_forward(sent).await?.into_inner();
            answers.message().await?.context("it was not opened")?;
            Idle::Forward(answers, end)
        };
        until("a channel", async || Ok(self.channels().await? > before)).await?;
        Ok(idle)
    }

    async fn channels(&self) -> Result<usize> {
        let mut relay: RelayServiceClient<Channel> = self.control.relay();
        let request = pb::ListChannelsRequest { parent: "projects/default".to_owned() };
        Ok(relay.list_channels(request).await?.into_inner().channels.len())
    }

    async fn sync(&self) -> Result<()> {
        let changes = if quick() { 5 } else { 100 };
        let idle = self.changes(changes).await?;
        let name = self.name("loud");
        // 1 MB, ten times a second.
        let loud = format!("while :; do yes \"{LINE}\" | head -c 1000000; sleep 0.09; done");
        self.control.apply(&name, app([script("s", &loud)])).await?;
        self.control.wait_ready(&name, 1).await?;
        let request =
            pb::LogsRequest { app: app_name(&name), follow: true, tail: Some(0), ..Default::default() };
        let mut told = self.control.relay().logs(request).await?.into_inner();
        let read = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&read);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            while let Ok(Some(answer)) = told.message().await {
                let bytes: usize = answer.lines.iter().map(|line| line.data.len() + 1).sum();
                counted.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        });
        until("its log", async || Ok(read.load(Ordering::Relaxed) > 1_000_000)).await?;
        let (before, begun) = (read.load(Ordering::Relaxed), Instant::now());
        let loud = self.changes(changes).await?;
        let rate = (read.load(Ordering::Relaxed) - before) as f64 / MB / begun.elapsed().as_secs_f64();
        drop(reading);
        self.figures.show("relay.sync.logs", rate, "MB/s");
        show_times(self.figures, "relay.sync.idle", &idle);
        show_times(self.figures, "relay.sync.loud", &loud);
        let p99 = |samples: &[f64]| percentile(&mut samples.to_vec(), 99.0).context("no changes");
        self.figures.hold(
            "relay.sync.p99.ratio",
            p99(&loud)? / p99(&idle)?,
            "",
            Budget::AtMost(SYNC_RATIO_MAX),
        );
        self.control.delete(&name).await
    }

    /// Changes an app again and again: times in ms until its node has acknowledged each.
    async fn changes(&self, count: usize) -> Result<Vec<f64>> {
        let name = self.name("changed");
        let request = WatchAppsRequest { parent: "projects/default".into(), ..Default::default() };
        let mut watch = self.control.apps().watch_apps(request).await.context("watching apps")?.into_inner();
        let mut times = Vec::new();
        for change in 0..=count {
            let service = with_env("CHANGE", &change.to_string(), script("s", "exec sleep 1000000"));
            tokio::time::sleep(QUIET).await;
            let begun = Instant::now();
            let applied = self.control.apply(&name, app([service])).await?;
            let generation = applied.metadata.unwrap_or_default().generation;
            let told = tokio::time::timeout(PATIENCE, acknowledged(&mut watch, &name, generation));
            told.await.context("a change was not acknowledged")??;
            // The first one makes it.
            if change > 0 {
                times.push(ms(begun.elapsed()));
            }
            self.control.wait_ready(&name, 1).await?;
        }
        self.control.delete(&name).await?;
        Ok(times)
    }
}

/// A container of whose output Docker keeps so much.
fn with_log_bytes(mut service: ServiceSpec, bytes: u64) -> ServiceSpec {
    if let Some(service_spec::Program::Container(container)) = &mut service.program {
        let options = [("max-size".to_owned(), bytes.to_string())].into();
        container.log = Some(Log { options, ..Log::default() });
    }
    service
}

/// What holds a channel open.
enum Idle {
    Logs(#[allow(dead_code, reason = "it is held")] Streaming<pb::LogsResponse>),
    Forward(
        #[allow(dead_code, reason = "it is held")] Streaming<pb::PortForwardResponse>,
        /// What is sent ends with it, and with that the channel.
        #[allow(dead_code, reason = "it is held")]
        oneshot::Sender<()>,
    ),
}

async fn acknowledged(watch: &mut Streaming<WatchAppsResponse>, app: &str, generation: i64) -> Result<()> {
    let name = app_name(app);
    loop {
        let app = watch.message().await?.context("the watch ended")?.app.unwrap_or_default();
        let metadata = app.metadata.unwrap_or_default();
        let status = app.status.unwrap_or_default();
        let updated = status.counts.unwrap_or_default().updated;
        if metadata.name == name
            && metadata.generation >= generation
            && status.observed_generation >= generation
            && updated == 1
        {
            return Ok(());
        }
    }
}

/// Runs a command and reads what it writes: how much, and how long it took.
async fn read_all(mut command: Command) -> Result<(u64, Duration)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let mut out = child.stdout.take().context("a pipe")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        match out.read(&mut buffer).await? {
            0 => break,
            count => bytes += count as u64,
        }
    }
    let took = begun.elapsed();
    let status = child.wait().await?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok((bytes, took))
}

/// Serves connections: `d` and a number has it send so much, `u` count what comes, `e` send back what comes.
async fn serve(listener: TcpListener) {
    let mut all = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // One that breaks off is told by who reads.
        all.spawn(async move {
            let _ = answer(stream).await;
        });
        while all.try_join_next().is_some() {}
    }
}

async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        b'd' => {
            let mut left = stream.read_u64().await?;
            let piece = vec![7; 256 * 1024];
            while left > 0 {
                let count = left.min(piece.len() as u64);
                stream.write_all(&piece[..usize::try_from(count)?]).await?;
                left -= count;
            }
        }
        b'u' => {
            let bytes = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            stream.write_u64(bytes).await?;
        }
        b'e' => {
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
        }
        other => bail!("{other} is asked for"),
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Transfer {
    Down,
    Up,
}

impl Transfer {
    /// How fast so much is transferred, in MB/s.
    async fn rate(self, address: SocketAddr, bytes: u64) -> Result<f64> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).await?;
        let counted = match self {
            Self::Down => {
                stream.write_u8(b'd').await?;
                stream.write_u64(bytes).await?;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?
            }
            Self::Up => {
                stream.write_u8(b'u').await?;
                let piece = vec![7; 256 * 1024];
                for _ in 0..bytes / piece.len() as u64 {
                    stream.write_all(&piece).await?;
                }
                stream.shutdown().await?;
                stream.read_u64().await?
            }
        };
        let took = begun.elapsed();
        ensure!(counted == bytes, "{counted} of {bytes} bytes arrived");
        Ok(bytes as f64 / MB / took.as_secs_f64())
    }
}

/// From before connect until what an echo was sent last has come back, in ms.
async fn setup(address: SocketAddr, said: &[u8]) -> Result<f64> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(said).await?;
    stream.read_u8().await?;
    Ok(ms(begun.elapsed()))
}
