//! What Skerry adds to starting and updating a program: `skerry apply` beside `docker run -d`, and processes.
//!
//! Method. The control plane is `skerry up --no-agent` (release build), the agent `skerry-agent` as it is shipped (profile `edge`), all on
//! this machine. Both sides are driven as people drive them, by starting a command: `skerry apply -f app.json`, and `docker run -d`. A run is:
//! apply adds a web server to an app of which another service runs already (so the app's network is there); an apply changes one of its environment
//! values; it is taken away. Then the same with `docker run -d`, and `docker rm -f && docker run -d`, in the same network, with the
//! same image, command and kind of published port. Who is first alternates. Time counts from just before the command's start to
//!
//! - `running`: for Skerry a watch of the app tells that all its instances are ready in this revision; for Docker the command has ended
//! - `http`: the published port answers with the new environment value; asked each 2 ms
//! - `created`, `started`: Docker's own time stamps in the container, to show where time goes; `cli`: the command has ended
//!
//! `added` is our median less Docker's. The image is present (a static busybox) and neither side has a health check. Making
//! an app's network is counted apart: `first` is an app's first apply, network and all, beside `docker network create`.
//!
//! `--quick`: few runs. `--runs=N`.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skerry_proto::scheduler::v1::{WatchAppsRequest, WatchAppsResponse};
use skerry_testing::{BUSYBOX_IMAGE, Budget, Docker, Figures, Response, find_program, free_port, http_get};
use support::control::{AgentPlan, Control, PATIENCE, app_name, is_ready, until};
use support::{edge_bin, median, ms, note_load, option, proc, quick, show_times};
use tokio::process::Command;
use tonic::Streaming;

/// Of the design document.
const ADDED_MS_MAX: f64 = 30.0;
/// Between two questions over HTTP.
const HTTP_POLL: Duration = Duration::from_millis(2);
/// Longest that one of them waits. Docker's proxy takes a connection before the container's network is up; what it sends there then is
/// lost, and sent again only after a second.
const HTTP_TRY_MAX: Duration = Duration::from_millis(25);
/// Before each step, on both sides: a person does not apply more often, and an agent that did would have its reports spread (4 go at once,
/// then one each 200 ms).
const QUIET: Duration = Duration::from_secs(1);
const PORT_IN_CONTAINER: u16 = 8080;

/// Times in ms of all runs, by what they are of.
type Times = BTreeMap<String, Vec<f64>>;

/// When a run began, by both clocks: Docker's stamps are wall time.
#[derive(Clone, Copy)]
struct Begun {
    mono: Instant,
    wall: SystemTime,
}

impl Begun {
    fn now() -> Self {
        Self { mono: Instant::now(), wall: SystemTime::now() }
    }

    fn ms_until_now(self) -> f64 {
        ms(self.mono.elapsed())
    }

    fn ms_until_stamp(self, stamp: &Value) -> Result<f64> {
        let stamp: prost_types::Timestamp =
            stamp.as_str().unwrap_or_default().parse().context("a time stamp of Docker's")?;
        let stamp = SystemTime::try_from(stamp).context("a time stamp of Docker's")?;
        Ok(match stamp.duration_since(self.wall) {
            Ok(after) => ms(after),
            Err(before) => -ms(before.duration()),
        })
    }
}

/// Our side: an app of a service that stays and, at times, a web server.
struct Ours<'a> {
    control: &'a Control,
    docker: Option<&'a Docker>,
    app: String,
    port: u16,
    manifest: PathBuf,
    /// Where processes keep their page.
    page: PathBuf,
    watch: Streaming<WatchAppsResponse>,
    generation: i64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let runs = option("--runs")?.unwrap_or(if quick() { 3 } else { 50 });
    ensure!(runs > 0, "there is nothing to measure");

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
    let app = format!("bench-{}", std::process::id());
    let _cleaning = Cleaning { app: &app, docker: docker.as_ref(), data_dir: &plan.data_dir };
    note_load(&figures);

    if let Some(docker) = &docker {
        docker.busybox()?;
        containers(&figures, &control, docker, &app, runs).await?;
    }
    processes(&figures, &control, &app, runs).await?;
    note_load(&figures);
    agent.terminate(PATIENCE).await?;
    Ok(())
}

async fn containers(
    figures: &Figures,
    control: &Control,
    docker: &Docker,
    app: &str,
    runs: usize,
) -> Result<()> {
    let mut ours = Ours::new(control, Some(docker), app).await?;
    let mut times = Times::new();
    ours.step("first", None, &mut times).await?;
    figures.show("apply.docker.first.running", median(&times["first.running"]), "ms");
    figures.show("apply.docker.first.started", median(&times["first.started"]), "ms");
    let theirs = Theirs::new(docker, app, ours.network()?);
    figures.show("apply.docker.network_create", theirs.time_network_create().await?, "ms");

    for run in 0..runs {
        if run.is_multiple_of(2) {
            ours.run(run, &mut times).await?;
            theirs.run(run, &mut times).await?;
        } else {
            theirs.run(run, &mut times).await?;
            ours.run(run, &mut times).await?;
        }
    }
    for what in ["start", "update"] {
        for (name, samples) in times.iter().filter(|(name, _)| name.starts_with(&format!("{what}."))) {
            show_times(figures, &format!("apply.docker.{name}"), samples);
        }
        let p50 = |name: &str| median(&times[&format!("{what}.{name}")]);
        let started = p50("skerry.started") - p50("docker.started");
        figures.show(&format!("apply.docker.{what}.started.added"), started, "ms");
        for end in ["running", "http"] {
            let added = p50(&format!("skerry.{end}")) - p50(&format!("docker.{end}"));
            let name = format!("apply.docker.{what}.{end}.added");
            figures.hold(&name, added, "ms", Budget::AtMost(ADDED_MS_MAX));
        }
    }
    control.delete(app).await
}

async fn processes(figures: &Figures, control: &Control, app: &str, runs: usize) -> Result<()> {
    if find_program("busybox").is_none() {
        figures.note("(no processes: busybox is not installed)");
        return Ok(());
    }
    let mut ours = Ours::new(control, None, app).await?;
    let mut times = Times::new();
    ours.step("first", None, &mut times).await?;
    for run in 0..runs {
        ours.run(run, &mut times).await?;
    }
    for (name, samples) in times.iter().filter(|(name, _)| !name.starts_with("first")) {
        show_times(figures, &format!("apply.process.{name}"), samples);
    }
    control.delete(app).await
}

/// A web server whose page is the value of `VERSION`. It is its container's first process, so that only SIGKILL ends it.
fn web_script(dir: &str, port: u16) -> String {
    format!("mkdir -p {dir} && echo $VERSION >{dir}/v && exec busybox httpd -f -p {port} -h {dir}")
}

/// The value of one run, and the one that it is updated to.
fn versions(run: usize) -> [String; 2] {
    [format!("{run}a"), format!("{run}b")]
}

/// Waits until the web server answers with `version`.
async fn answers(port: u16, version: &str, begun: Begun) -> Result<f64> {
    let address = format!("127.0.0.1:{port}");
    let asking = async {
        loop {
            let answer = tokio::time::timeout(HTTP_TRY_MAX, http_get(&address, "/v")).await;
            let is_new = |answer: Response| answer.status == 200 && answer.text().trim() == version;
            if answer.is_ok_and(|answer| answer.is_ok_and(is_new)) {
                return begun.ms_until_now();
            }
            tokio::time::sleep(HTTP_POLL).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .with_context(|| format!("{address} does not answer {version}"))
}

/// Runs a command to its end; answers when that was.
async fn command(command: &mut Command, begun: Begun) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.spawn().context("starting a command")?.wait_with_output().await?;
    let ended = begun.ms_until_now();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(ended)
}

fn add(times: &mut Times, name: &str, values: &[(&str, f64)]) {
    for (end, value) in values {
        times.entry(format!("{name}.{end}")).or_default().push(*value);
    }
}

/// Docker's stamps of a container.
fn stamps(docker: &Docker, container: &str, begun: Begun) -> Result<[(&'static str, f64); 2]> {
    let found = docker.inspect(container)?;
    let created = begun.ms_until_stamp(&found["Created"])?;
    Ok([("created", created), ("started", begun.ms_until_stamp(&found["State"]["StartedAt"])?)])
}

impl<'a> Ours<'a> {
    async fn new(control: &'a Control, docker: Option<&'a Docker>, app: &str) -> Result<Self> {
        let request = WatchAppsRequest { parent: "projects/default".into(), ..Default::default() };
        let watch = control.apps().watch_apps(request).await.context("watching apps")?.into_inner();
        Ok(Self {
            control,
            docker,
            app: app.to_owned(),
            port: free_port(),
            manifest: control.dir().join("app.json"),
            page: control.dir().join("page"),
            watch,
            generation: 0,
        })
    }

    async fn run(&mut self, run: usize, times: &mut Times) -> Result<()> {
        let [first, second] = versions(run);
        self.step("start.skerry", Some(&first), times).await?;
        self.step("update.skerry", Some(&second), times).await?;
        self.step("remove.skerry", None, times).await?;
        let gone = || Ok(self.containers()?.is_none_or(|containers| containers.len() == 1));
        until("the web server to be gone", async || gone()).await
    }

    /// One apply: of the service that stays, and with a version of the web server too.
    async fn step(&mut self, name: &str, version: Option<&str>, times: &mut Times) -> Result<()> {
        std::fs::write(&self.manifest, self.document(version).to_string()).context("writing a manifest")?;
        let mut apply = Command::from(self.control.client());
        apply.arg("apply").arg("-f").arg(&self.manifest);

        let port = self.port;
        tokio::time::sleep(QUIET).await;
        let begun = Begun::now();
        let http = async {
            match version {
                Some(version) => Ok(Some(answers(port, version, begun).await?)),
                None => Ok(None),
            }
        };
        let told = self.told(if version.is_some() { 2 } else { 1 }, begun);
        let (cli, running, http) = tokio::try_join!(command(&mut apply, begun), told, http)?;
        add(times, name, &[("cli", cli), ("running", running)]);
        if let Some(http) = http {
            add(times, name, &[("http", http)]);
        }
        if let Some((docker, containers)) = self.docker.zip(self.containers()?)
            && name != "remove.skerry"
        {
            // The newest: Docker lists them so.
            let newest = containers.first().context("no container")?;
            add(times, name, &stamps(docker, newest, begun)?);
        }
        Ok(())
    }

    /// Waits until the watch tells that all is ready in a newer generation than before.
    async fn told(&mut self, instances: u32, begun: Begun) -> Result<f64> {
        let name = app_name(&self.app);
        let telling = async {
            loop {
                let app = self.watch.message().await?.context("the watch ended")?.app.unwrap_or_default();
                let metadata = app.metadata.clone().unwrap_or_default();
                if metadata.name == name && metadata.generation > self.generation && is_ready(&app, instances)
                {
                    self.generation = metadata.generation;
                    return Ok::<_, anyhow::Error>(begun.ms_until_now());
                }
            }
        };
        tokio::time::timeout(PATIENCE, telling).await.context("the app does not become ready")?
    }

    /// Ids of the app's containers; None for processes.
    fn containers(&self) -> Result<Option<Vec<String>>> {
        let label = format!("skerry.io/app={}", self.app);
        self.docker.map(|docker| docker.containers(&label)).transpose()
    }

    /// The network of the app.
    fn network(&self) -> Result<String> {
        let (docker, containers) = self.docker.zip(self.containers()?).context("no containers")?;
        let found = docker.inspect(containers.first().context("no container")?)?;
        let networks = found["NetworkSettings"]["Networks"].as_object().context("no networks")?;
        networks.keys().next().cloned().context("no network")
    }

    fn document(&self, version: Option<&str>) -> Value {
        let mut services = vec![self.service("keep", "exec sleep 1000000", None)];
        if let Some(version) = version {
            let (dir, port) = match self.docker {
                Some(_) => ("/tmp/www".to_owned(), PORT_IN_CONTAINER),
                None => (self.page.display().to_string(), self.port),
            };
            services.push(self.service("web", &web_script(&dir, port), Some(version)));
        }
        json!({
            "apiVersion": "skerry/v1",
            "kind": "App",
            "metadata": {"name": self.app},
            "spec": {"services": services},
        })
    }

    fn service(&self, name: &str, script: &str, version: Option<&str>) -> Value {
        let env = version.map_or(json!({}), |version| json!({"VERSION": version}));
        let mut service =
            json!({"name": name, "deployment": {"replicas": 1}, "env": env, "stop": {"signal": "SIGKILL"}});
        if self.docker.is_some() {
            let ports = version.map_or(json!([]), |_| {
                json!([{"containerPort": PORT_IN_CONTAINER, "hostPort": self.port, "hostAddress": "127.0.0.1"}])
            });
            service["container"] =
                json!({"image": BUSYBOX_IMAGE, "command": ["sh", "-c", script], "ports": ports});
        } else {
            service["process"] = json!({"program": "/bin/sh", "args": ["-c", script]});
        }
        service
    }
}

/// Docker's side.
struct Theirs<'a> {
    docker: &'a Docker,
    container: String,
    network: String,
    port: u16,
}

impl<'a> Theirs<'a> {
    fn new(docker: &'a Docker, app: &str, network: String) -> Self {
        Self { docker, container: format!("{app}-docker"), network, port: free_port() }
    }

    async fn run(&self, run: usize, times: &mut Times) -> Result<()> {
        let [first, second] = versions(run);
        let start = self.run_line(&first);
        self.step("start.docker", &start, &first, times).await?;
        let update = format!("docker rm -f {} && {}", self.container, self.run_line(&second));
        self.step("update.docker", &update, &second, times).await?;
        command(Command::new("docker").args(["rm", "-f", &self.container]), Begun::now()).await?;
        Ok(())
    }

    async fn step(&self, name: &str, line: &str, version: &str, times: &mut Times) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line);
        tokio::time::sleep(QUIET).await;
        let begun = Begun::now();
        let http = answers(self.port, version, begun);
        let (running, http) = tokio::try_join!(command(&mut shell, begun), http)?;
        add(times, name, &[("running", running), ("http", http)]);
        add(times, name, &stamps(self.docker, &self.container, begun)?);
        Ok(())
    }

    fn run_line(&self, version: &str) -> String {
        let Self { container, network, port, .. } = self;
        let script = web_script("/tmp/www", PORT_IN_CONTAINER);
        // Single quotes: VERSION is the container's.
        format!(
            "exec docker run -d --name {container} --network {network} -p 127.0.0.1:{port}:{PORT_IN_CONTAINER} \
             -e VERSION={version} {BUSYBOX_IMAGE} sh -c '{script}'"
        )
    }

    /// Median of three, in ms.
    async fn time_network_create(&self) -> Result<f64> {
        let name = format!("{}-network", self.container);
        let mut samples = Vec::new();
        for _ in 0..3 {
            let begun = Begun::now();
            samples.push(command(Command::new("docker").args(["network", "create", &name]), begun).await?);
            command(Command::new("docker").args(["network", "rm", &name]), begun).await?;
        }
        Ok(median(&samples))
    }
}

/// Takes away what a bench that failed has left.
struct Cleaning<'a> {
    app: &'a str,
    docker: Option<&'a Docker>,
    data_dir: &'a Path,
}

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        proc::kill(&proc::shims(self.data_dir));
        proc::kill(&proc::programs(self.app));
        if let Some(docker) = self.docker {
            let rm = StdCommand::new("docker").args(["rm", "-f", &format!("{}-docker", self.app)]).output();
            let labelled = docker.remove_labelled(&format!("skerry.io/app={}", self.app));
            if let (Err(error), _) | (_, Err(error)) = (rm.context("running docker"), labelled) {
                eprintln!("containers of {} may be left: {error:#}", self.app);
            }
        }
    }
}
