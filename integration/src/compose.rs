//! `compose.yaml` on the real Compose: a project of its own name, ports and data, its images made on this machine and nothing pulled.
//!
//! What replaces what: the programs come from the cargo target directory instead of the build stage, the base image holds busybox and
//! the libraries that they need, etcd's image the machine's etcd. All else is the file as people use it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use skerry_testing::{Docker, busybox_root, find_program, free_ports, shared_libraries};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

/// The programs that the images hold.
pub const PROGRAMS: [&str; 7] = [
    "skerry-registry",
    "skerry-scheduler",
    "skerry-gateway",
    "skerry-relay",
    "skerry-gpu",
    "skerry-agent",
    "skerry",
];
/// Longest that one command of Compose may take: images are built on machines that do much else.
const COMMAND_DEADLINE: Duration = Duration::from_mins(5);
/// How many ports each service gets: as many replicas can be.
const PORTS: u16 = 2;
/// How much of a failed command's words an error shows.
const TAIL_LINES: usize = 40;
/// Variables that would change what the file says.
const FOREIGN: [&str; 3] = ["SKERRY_", "COMPOSE_", "DOCKER_"];

/// A project. Dropping it takes it down with everything that it made.
#[derive(Debug)]
pub struct Compose {
    program: PathBuf,
    docker: Docker,
    dir: TempDir,
    /// On a tmpfs, for files of secrets.
    secrets: TempDir,
    project: String,
    ports: Ports,
}

/// First ports on loopback.
#[derive(Clone, Copy, Debug)]
struct Ports {
    registry: u16,
    scheduler: u16,
    gateway: u16,
    relay: u16,
    gpu: u16,
}

impl Compose {
    /// Makes the images that nothing is pulled for, and builds the others. `program` is Compose's; `place` says where a program of
    /// [`PROGRAMS`] lies.
    pub async fn build(
        program: PathBuf,
        docker: Docker,
        place: impl Fn(&str) -> Result<PathBuf>,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("skerry-compose-").tempdir()?;
        let secrets = tempfile::Builder::new().prefix("skerry-compose-").tempdir_in("/dev/shm")?;
        let ports = Ports {
            registry: free_ports(PORTS),
            scheduler: free_ports(PORTS),
            gateway: free_ports(PORTS),
            relay: free_ports(PORTS),
            gpu: free_ports(PORTS),
        };
        let project = format!("skerry-test-{}-{}", std::process::id(), ports.gateway);
        let made = Self { program, docker, dir, secrets, project, ports };
        let programs: Vec<PathBuf> = PROGRAMS.iter().map(|name| place(name)).collect::<Result<_>>()?;
        made.make_images(&programs)?;
        std::fs::write(made.override_file(), made.overrides())?;
        made.run(&["--profile=cli", "build", "--quiet"]).await?;
        Ok(made)
    }

    fn make_images(&self, programs: &[PathBuf]) -> Result<()> {
        let find = |name: &str| find_program(name).with_context(|| format!("{name} is not installed"));
        let store = [find("etcd")?, find("etcdctl")?];
        let everything: Vec<PathBuf> = programs.iter().chain(&store).cloned().collect();
        let mut base = busybox_root()?;
        for library in shared_libraries(&everything)? {
            base = base.file(inside(&library), 0o755, &read(&library)?);
        }
        let path = "ENV PATH=/usr/local/bin:/bin";
        self.docker.import(&self.image("base"), &base.finish(), &[path])?;

        let mut builder = busybox_root()?.dir("programs/", 0o755);
        for (name, file) in PROGRAMS.iter().zip(programs) {
            builder = builder.file(&format!("programs/{name}"), 0o755, &read(file)?);
        }
        self.docker.import(&self.image("builder"), &builder.finish(), &[path])?;

        let mut etcd = busybox_root()?;
        for library in shared_libraries(&store)? {
            etcd = etcd.file(inside(&library), 0o755, &read(&library)?);
        }
        for file in &store {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            etcd = etcd.file(&format!("usr/local/bin/{name}"), 0o755, &read(file)?);
        }
        self.docker.import(&self.image("etcd"), &etcd.finish(), &[path])
    }

    /// What this project says otherwise than the file: images, ports, and where Docker and the agent's data are.
    fn overrides(&self) -> String {
        let Ports { registry, scheduler, gateway, relay, gpu } = self.ports;
        let (base, builder) = (self.image("base"), self.image("builder"));
        // No network while building: nothing is to be fetched.
        let build = format!("build: {{network: none, args: {{BASE: \"{base}\", BUILDER: \"{builder}\"}}}}");
        let range = |first: u16, inside: u16| {
            format!("ports: !override [\"127.0.0.1:{first}-{}:{inside}\"]", first + PORTS - 1)
        };
        let all = |first: u16| -> String {
            let urls: Vec<String> =
                (first..first + PORTS).map(|port| format!("https://127.0.0.1:{port}")).collect();
            urls.join(",")
        };
        let data = self.data_dir().display().to_string();
        let socket = self.docker.socket().display();
        format!(
            "services:\n  etcd: {{image: \"{etcd}\"}}\n  registry: {{{build}, {registry}}}\n  scheduler: {{{build}, {scheduler}}}\n  \
             gateway: {{{build}, {gateway}}}\n  relay: {{{build}, {relay}, environment: {{SKERRY_ADVERTISE: \"{relays}\"}}}}\n  gpu: {{{build}, {gpu}}}\n  cli: {{{build}}}\n  init: {{{build}}}\n  agent: {{{build}, environment: {{SKERRY_GATEWAY: \"{gateways}\"}}, \
             volumes: !override [\"{socket}:/var/run/docker.sock\", \"token:/token:ro\", \"{data}:{data}\"]}}\n",
            etcd = self.image("etcd"),
            registry = range(registry, 7771),
            scheduler = range(scheduler, 7772),
            gateway = range(gateway, 7773),
            relay = range(relay, 7774),
            gpu = range(gpu, 7775),
            gateways = all(gateway),
            relays = all(relay),
        )
    }

    /// Runs Compose on the project and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with the end of what it said, or takes longer than five minutes.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        self.run_with(args, "").await
    }

    /// Runs `skerry` as people do with this file: by `docker compose run --rm cli`, with `input` as its standard input.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn cli(&self, args: &[&str], input: &str) -> Result<String> {
        let run = [&["run", "--rm", "--no-TTY", "--quiet-pull", "cli"], args].concat();
        self.run_with(&run, input).await
    }

    async fn run_with(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = tokio::process::Command::from(self.command());
        command.args(args).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = async {
            let mut child = command.spawn().context("starting Compose")?;
            let mut stdin = child.stdin.take().context("a pipe")?;
            // It may end without reading.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await.context("waiting for Compose")
        };
        let output = tokio::time::timeout(COMMAND_DEADLINE, running).await;
        check(args, &output.with_context(|| format!("compose {} has not ended", args.join(" ")))??)
    }

    /// A shell script that stands for `docker`: `docker compose ...` is Compose on this project, wherever it is called.
    pub fn docker_script(&self) -> String {
        let command = self.command();
        let quote = |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"));
        let mut script = "#!/bin/sh\nset -e\n[ \"$1\" = compose ]\nshift\n".to_owned();
        for (name, value) in command.get_envs() {
            let name = name.to_string_lossy();
            script += &value.map_or_else(
                || format!("unset {name}\n"),
                |value| format!("export {name}={}\n", quote(value)),
            );
        }
        let _ = write!(script, "cd {}\nexec {}", quote(root().as_os_str()), quote(command.get_program()));
        for argument in command.get_args() {
            let _ = write!(script, " {}", quote(argument));
        }
        script + " \"$@\"\n"
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars() {
            if FOREIGN.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.current_dir(root()).args(["--project-name", &self.project, "--env-file=/dev/null"]);
        command.args(["--file", "compose.yaml", "--file"]).arg(self.override_file());
        command
            .env("DOCKER_HOST", format!("unix://{}", self.docker.socket().display()))
            .env("DOCKER_CONFIG", self.dir.path().join("docker-config"))
            .env("SKERRY_NODE", self.node())
            .env("SKERRY_AGENT_DATA_DIR", self.data_dir())
            .env("SKERRY_SECRETS_DIR", self.secrets.path());
        command
    }

    /// What this machine's node is called.
    pub fn node(&self) -> &str {
        &self.project
    }

    /// Where the agent's data is, on the machine as in its container.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// Where the first registry is published, as `https://127.0.0.1:7710`.
    pub fn registry(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.registry)
    }

    /// Where the first scheduler is published.
    pub fn scheduler(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.scheduler)
    }

    /// Where the first relay is published.
    pub fn relay(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.relay)
    }

    /// Where the first gpu service is published.
    pub fn gpu(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.gpu)
    }

    /// The files of the stack's administrator, copied out of it as people do: flags of `skerry` on this machine.
    ///
    /// # Errors
    /// When Compose fails.
    pub async fn admin_flags(&self) -> Result<[String; 3]> {
        let admin = self.dir.path().join("admin");
        self.run(&["cp", "init:/tls/admin", &admin.display().to_string()]).await?;
        let flag = |name: &str, file: &str| format!("--{name}={}", admin.join(file).display());
        Ok([flag("tls-cert", "admin.crt"), flag("tls-key", "admin.key"), flag("tls-ca", "ca.crt")])
    }

    /// What `docker inspect` shows of each container of a service, those that have ended too.
    pub fn containers(&self, service: &str) -> Result<Vec<Value>> {
        let all = self.all_containers()?;
        let of_service = |one: &Value| one["Config"]["Labels"]["com.docker.compose.service"] == service;
        Ok(all.into_iter().filter(of_service).collect())
    }

    /// The same of all services.
    pub fn all_containers(&self) -> Result<Vec<Value>> {
        let ids = self.docker.containers(&format!("com.docker.compose.project={}", self.project))?;
        ids.iter().map(|id| self.docker.inspect(id)).collect()
    }

    /// What a container has said so far.
    pub fn log(&self, container: &Value) -> Result<String> {
        let id = container["Id"].as_str().context("a container has an id")?;
        let answer = self.docker.request("GET", &format!("/containers/{id}/logs?stdout=1&stderr=1"), &[])?;
        Ok(answer.text())
    }

    /// Names of containers, networks and volumes that belong to the project.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let label = format!("com.docker.compose.project={}", self.project);
        let mut left = self.docker.containers(&label)?;
        let filters = format!("%7B%22label%22:%5B%22{}%22%5D%7D", label.replace('=', "%3D"));
        let networks = self.docker.json("GET", &format!("/networks?filters={filters}"))?;
        let volumes = self.docker.json("GET", &format!("/volumes?filters={filters}"))?;
        for list in [&networks, &volumes["Volumes"]] {
            let names = list.as_array().into_iter().flatten().map(|one| one["Name"].to_string());
            left.extend(names);
        }
        Ok(left)
    }

    /// Containers and networks of the apps on this project's node, as paths of Docker's API.
    pub fn app_leftovers(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (kind, list) in [("containers", "/containers/json?all=1"), ("networks", "/networks")] {
            let all = self.docker.json("GET", list)?;
            let own = all.as_array().into_iter().flatten().filter(|one| {
                // `<project>/<node>/<place>`: see the agent's `owner`.
                let owner = one["Labels"]["skerry.io/managed-by"].as_str().unwrap_or_default();
                owner.split('/').nth(1) == Some(self.node())
            });
            left.extend(own.map(|one| format!("/{kind}/{}", one["Id"].as_str().unwrap_or_default())));
        }
        Ok(left)
    }

    /// By how many bytes the image of a service is larger than its base.
    pub fn image_bytes_over_base(&self, service: &str) -> Result<u64> {
        let size = |image: &str| {
            let image = self.docker.json("GET", &format!("/images/{image}/json"))?;
            image["Size"].as_u64().context("an image has a size")
        };
        let image = size(&format!("{}-{service}:latest", self.project))?;
        let base = size(&self.image("base"))?;
        ensure!(image >= base, "{service} has {image} bytes, its base {base}");
        Ok(image - base)
    }

    fn image(&self, name: &str) -> String {
        format!("skerry-test/compose-{name}:{}", self.project)
    }

    fn override_file(&self) -> PathBuf {
        self.dir.path().join("override.yaml")
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let down = ["--profile=cli", "down", "--volumes", "--rmi=local", "--timeout=1", "--remove-orphans"];
        let downed = self.command().args(down).output().context("starting Compose");
        if let Err(error) = downed.and_then(|output| check(&down, &output)) {
            eprintln!("taking {} down: {error:#}", self.project);
        }
        // What a failed test has left of its apps.
        for path in self.app_leftovers().unwrap_or_default() {
            if let Err(error) = self.docker.request("DELETE", &format!("{path}?force=1"), &[]) {
                eprintln!("removing {path}: {error:#}");
            }
        }
        for name in ["base", "builder", "etcd"] {
            if let Err(error) = self.docker.request("DELETE", &format!("/images/{}", self.image(name)), &[]) {
                eprintln!("removing the image {name}: {error:#}");
            }
        }
    }
}

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn check(args: &[&str], output: &Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let all = said + &String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = all.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    bail!("compose {}: {}\n{tail}", args.join(" "), output.status)
}

/// Its path in an image: of archives none begins with a slash.
fn inside(file: &Path) -> &str {
    file.to_str().unwrap_or_default().trim_start_matches('/')
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("reading {}", file.display()))
}
