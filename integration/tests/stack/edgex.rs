//! EdgeX Foundry's own Compose files as apps. Its images cannot be pulled here: under each name stands a small program that answers as the service
//! would, and that ends at once when one that it needs does not answer by its name. So nothing restarts if order and names are right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use skerry_integration::Stack;
use skerry_integration::containers::{Containers, Running, unique};
use skerry_integration::stack::PATIENCE;
use skerry_manifest::{Project, Resource, parse};
use skerry_model::ProjectName;
use skerry_proto::types::v1::{AppSpec, Container, ServiceSpec, health_check::Probe, mount, service_spec};
use skerry_testing::{Docker, TarBuilder, bin, eventually, free_port, shared_libraries};

use crate::operator::done;

const APP: &str = "edgex";
const OWNER: &str = "skerry.io/managed-by";
/// What an image that stands in for another one bears.
const STAND_IN: &str = "skerry-testing.edgex";
/// Many containers one after the other, on a machine that does much else.
const DEPLOYED: Duration = Duration::from_secs(300);

#[tokio::test]
async fn hanoi_is_deployed_in_order_survives_and_comes_down_clean() -> Result<()> {
    let _images = HANOI.lock().await;
    story("hanoi-no-secty.yml", "hanoi.skerry.yml", 12).await
}

#[tokio::test]
async fn ireland_with_its_ui_is_deployed_in_order_survives_and_comes_down_clean() -> Result<()> {
    story("ireland-no-secty-with-ui.yml", "ireland.skerry.yml", 13).await
}

/// The images that stand in for those of Hanoi are there once.
static HANOI: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn hanoi_goes_to_the_chosen_member_of_three_survives_there_and_comes_down_clean() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    let _images = HANOI.lock().await;
    let nodes = ["ex1", "ex2", "ex3"].map(unique);
    let [first, chosen, last] = &nodes;
    let containers = Containers::of(&docker, chosen);
    let others = [first, last].map(|node| Containers::of(&docker, node));
    let mut stack = Stack::start().await?;
    for node in &nodes {
        stack.add_agent(node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    }
    for node in &nodes {
        stack.wait_connected(node).await;
    }
    done(&stack, &["create", "cluster", "plant"]).await?;
    done(&stack, &["cluster", "join", "plant", first, chosen, last]).await?;
    done(&stack, &["label", &format!("node/{chosen}"), "edgex=yes"]).await?;
    let mut edgex = Edgex::new(&stack, &docker, "hanoi-no-secty.yml", "hanoi.skerry.yml")?;
    edgex.choose("edgex: \"yes\"")?;

    // All is killed while it comes up.
    edgex.skerry(&["apply"])?;
    eventually("some of it runs", DEPLOYED, async || {
        let running = containers.running()?;
        ensure!(running.len() >= 3, "{} run", running.len());
        Ok(())
    })
    .await;
    kill_all(&mut stack, chosen)?;
    start_all(&mut stack, chosen).await?;
    wait_deployed(&stack, 12).await;
    let deployed = edgex.running(&containers)?;
    edgex.check_order(&deployed)?;
    for instance in stack.instances(APP).await? {
        ensure!(instance.restarts == 0 && instance.node.ends_with(chosen.as_str()), "{instance:?}");
    }

    // And again, with a service of it, once it is there.
    kill_all(&mut stack, chosen)?;
    let victim = &deployed["metadata"];
    let pid = i32::try_from(victim.pid).ok().and_then(Pid::from_raw).context("a process")?;
    kill_process(pid, Signal::KILL)?;
    start_all(&mut stack, chosen).await?;
    eventually("metadata is back", PATIENCE, async || {
        let after = edgex.running(&containers)?;
        ensure!(changed(&deployed, &after) == ["metadata"], "{:?}", changed(&deployed, &after));
        Ok(())
    })
    .await;
    wait_deployed(&stack, 12).await;

    edgex.skerry(&["delete"])?;
    for containers in others.iter().chain([&containers]) {
        containers.wait_none().await;
    }
    eventually("nothing left behind", PATIENCE, async || {
        for node in &nodes {
            let left = left(&docker, node)?;
            ensure!(left.is_empty(), "{left:?}");
        }
        Ok(())
    })
    .await;
    stack.finish(None).await
}

async fn story(file: &str, overlay: &str, services: u32) -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    let node = unique(file.split('-').next().unwrap_or_default());
    let containers = Containers::of(&docker, &node);
    let mut stack = Stack::start().await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    let mut edgex = Edgex::new(&stack, &docker, file, overlay)?;
    ensure!(edgex.spec.services.len() == services as usize, "{} services", edgex.spec.services.len());

    // All is killed while it comes up.
    edgex.skerry(&["apply"])?;
    eventually("some of it runs", DEPLOYED, async || {
        let running = containers.running()?.len();
        ensure!(running >= 3, "{running} run");
        Ok(())
    })
    .await;
    kill_all(&mut stack, &node)?;
    start_all(&mut stack, &node).await?;
    wait_deployed(&stack, services).await;
    let deployed = edgex.running(&containers)?;
    edgex.check_order(&deployed)?;
    for instance in stack.instances(APP).await? {
        ensure!(instance.restarts == 0, "started before what it needs answered: {instance:?}");
    }

    // Nobody misses the control plane and the agent.
    kill_all(&mut stack, &node)?;
    ensure!(edgex.running(&containers)? == deployed, "something ended with them");
    start_all(&mut stack, &node).await?;
    wait_deployed(&stack, services).await;
    ensure!(edgex.running(&containers)? == deployed, "something was started again");

    // One of its services dies, and comes back alone.
    let victim = &deployed["metadata"];
    let pid = i32::try_from(victim.pid).ok().and_then(Pid::from_raw).context("a process")?;
    kill_process(pid, Signal::KILL)?;
    eventually("metadata is back", PATIENCE, async || {
        let instances = stack.instances(APP).await?;
        let back =
            instances.iter().find(|one| one.instance.starts_with("edgex/metadata/")).context("metadata")?;
        ensure!(back.restarts == 1 && back.ready, "{back:?}");
        Ok(())
    })
    .await;
    let after = edgex.running(&containers)?;
    ensure!(changed(&deployed, &after) == ["metadata"], "{:?}", changed(&deployed, &after));

    // One image changes: its service alone is replaced.
    edgex.update("scheduler")?;
    let told = edgex.skerry(&["apply", "--wait", "--timeout=5m"])?;
    ensure!(told.contains("app/edgex configured"), "{told}");
    wait_deployed(&stack, services).await;
    let updated = edgex.running(&containers)?;
    ensure!(changed(&after, &updated) == ["scheduler"], "{:?}", changed(&after, &updated));

    // It goes as one, with its network and the volumes that were told to.
    edgex.skerry(&["delete"])?;
    containers.wait_none().await;
    eventually("nothing left behind", PATIENCE, async || {
        let left = left(&docker, &node)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await;
    stack.finish(None).await
}

fn kill_all(stack: &mut Stack, node: &str) -> Result<()> {
    stack.kill_agent(node)?;
    ["gateway-0", "scheduler-0", "registry-0"].iter().try_for_each(|service| stack.kill_service(service))
}

async fn start_all(stack: &mut Stack, node: &str) -> Result<()> {
    for service in ["registry-0", "scheduler-0", "gateway-0"] {
        stack.start_service(service)?;
        stack.wait_service(service).await?;
    }
    stack.start_agent(node)?;
    stack.wait_connected(node).await;
    Ok(())
}

async fn wait_deployed(stack: &Stack, services: u32) {
    eventually("edgex is ready", DEPLOYED, async || stack.check_ready(APP, services).await).await;
}

/// Which services run in another copy, or were started another time.
fn changed(before: &BTreeMap<String, Running>, after: &BTreeMap<String, Running>) -> Vec<String> {
    let differs = |name: &&String| before.get(*name) != after.get(*name);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(differs).cloned().collect()
}

/// Networks and volumes of the node.
fn left(docker: &Docker, node: &str) -> Result<Vec<String>> {
    let owner = format!("default/{node}/");
    let (networks, volumes) = (docker.json("GET", "/networks")?, docker.json("GET", "/volumes")?);
    let all =
        networks.as_array().into_iter().flatten().chain(volumes["Volumes"].as_array().into_iter().flatten());
    let ours = all.filter(|one| one["Labels"][OWNER].as_str().is_some_and(|of| of.starts_with(&owner)));
    Ok(ours.map(|one| one["Name"].to_string()).collect())
}

/// One of EdgeX's files, as it is deployed here.
struct Edgex {
    docker: Docker,
    servers: [String; 2],
    files: Vec<PathBuf>,
    /// What is Skerry's over the files, and this machine's: other ports, where Docker is, volumes that go with the app.
    own: PathBuf,
    spec: AppSpec,
    images: Vec<String>,
}

impl Edgex {
    fn new(stack: &Stack, docker: &Docker, file: &str, overlay: &str) -> Result<Self> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/edgex");
        let mut this = Self {
            docker: docker.clone(),
            servers: [
                format!("--registry=http://{}", stack.address("registry-0")),
                format!("--scheduler=http://{}", stack.address("scheduler-0")),
            ],
            files: vec![examples.join(file), examples.join(overlay)],
            own: stack.dir().join("own.yml"),
            spec: AppSpec::default(),
            images: Vec::new(),
        };
        let converted = this.run(&["convert"])?;
        let project = Project::Default(ProjectName::parse("default")?);
        let manifests = parse("converted.yaml", converted.as_bytes(), &project)?;
        for manifest in manifests {
            match manifest.resource {
                Resource::App(app) => this.spec = app.spec.context("a spec")?,
                other => bail!("the files have nothing but services: {other:?}"),
            }
        }
        std::fs::write(&this.own, this.own()?)?;
        this.files.push(this.own.clone());
        for service in this.spec.services.clone() {
            this.make_image(&container(&service)?.image, &service)?;
        }
        Ok(this)
    }

    /// A command on the files, as one app.
    fn skerry(&self, words: &[&str]) -> Result<String> {
        self.run(words)
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(bin("skerry"));
        command.env("SKERRY_CONFIG", self.own.with_extension("config")).args(&self.servers).args(words);
        for file in &self.files {
            command.arg("-f").arg(file);
        }
        let output = command.args(["--as-app", APP]).output().context("running skerry")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "skerry {words:?}: {told}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Ports that are free here, Docker's own socket, and volumes that go with the app.
    fn own(&self) -> Result<String> {
        let (mut text, mut volumes) = ("services:\n".to_owned(), BTreeSet::new());
        for service in &self.spec.services {
            let container = container(service)?;
            let ports: Vec<String> = container
                .ports
                .iter()
                .map(|port| format!("\"127.0.0.1:{}:{}\"", free_port(), port.container_port))
                .collect();
            writeln!(text, "  {}:\n    ports: !override [{}]", service.name, ports.join(", "))?;
            for mount in &container.mounts {
                match &mount.source {
                    Some(mount::Source::Bind(_)) => {
                        let socket = self.docker.socket().display();
                        writeln!(text, "    volumes: [\"{socket}:{}\"]", mount.target)?;
                    }
                    Some(mount::Source::Volume(volume)) => drop(volumes.insert(volume.name.clone())),
                    _ => {}
                }
            }
        }
        text += "volumes:\n";
        for volume in volumes {
            writeln!(text, "  {volume}: {{x-skerry: {{removeWithApp: true}}}}")?;
        }
        Ok(text)
    }

    /// Makes an image that stands in for that of `service`.
    fn make_image(&mut self, image: &str, service: &ServiceSpec) -> Result<()> {
        if self.docker.has_image(image)? {
            let seen = self.docker.json("GET", &format!("/images/{image}/json"))?;
            ensure!(
                seen["Config"]["Labels"][STAND_IN] == "1",
                "{image} is there, and it is the real one: remove it"
            );
        }
        let mut words = vec!["/stand-in".to_owned()];
        for dependency in &service.depends_on {
            let other = self
                .spec
                .services
                .iter()
                .find(|other| other.name == dependency.service)
                .context("a service")?;
            let (port, kind) = main_port(other)?;
            words.push(format!("{}:{port}={kind}", container(other)?.hostname));
        }
        let (main, kind) = main_port(service)?;
        for port in &container(service)?.ports {
            let kind = if port.container_port == main { kind } else { "tcp" };
            words.push(format!("{}={kind}", port.container_port));
        }
        let program = PathBuf::from(env!("CARGO_BIN_EXE_edgex-stand-in"));
        let mut root = TarBuilder::new()
            .dir("etc/", 0o755)
            .file("etc/passwd", 0o644, b"root:x:0:0::/:/\nkuiper:x:1001:1001::/:/\n")
            .file("etc/group", 0o644, b"root:x:0:\nkuiper:x:1001:\n")
            .file("stand-in", 0o755, &std::fs::read(&program)?);
        for library in shared_libraries(&[program])? {
            let inside = library.to_str().context("a path")?.trim_start_matches('/');
            root = root.file(inside, 0o755, &std::fs::read(&library)?);
        }
        let entrypoint = format!("ENTRYPOINT {}", serde_json::to_string(&words)?);
        self.docker.import(image, &root.finish(), &[&entrypoint, &format!("LABEL {STAND_IN}=1")])?;
        self.images.push(image.to_owned());
        Ok(())
    }

    /// Goes only to nodes with this label, as YAML has it.
    fn choose(&mut self, label: &str) -> Result<()> {
        let mut text = "services:\n".to_owned();
        for service in &self.spec.services {
            let name = &service.name;
            writeln!(text, "  {name}:\n    x-skerry: {{nodeSelector: {{matchLabels: {{{label}}}}}}}")?;
        }
        let file = self.own.with_file_name("choose.yml");
        std::fs::write(&file, text)?;
        self.files.push(file);
        Ok(())
    }

    /// Another tag of a service's image, from now on.
    fn update(&mut self, service: &str) -> Result<()> {
        let spec = self.spec.services.iter().find(|one| one.name == service).context("a service")?.clone();
        let (name, _) = container(&spec)?.image.rsplit_once(':').context("a tag")?;
        let image = format!("{name}:{}", unique("next"));
        self.make_image(&image, &spec)?;
        let file = self.own.with_file_name("update.yml");
        std::fs::write(&file, format!("services:\n  {service}: {{image: \"{image}\"}}\n"))?;
        self.files.push(file);
        Ok(())
    }

    /// What runs, by service.
    fn running(&self, containers: &Containers) -> Result<BTreeMap<String, Running>> {
        let running = containers.running()?;
        let by_service: BTreeMap<String, Running> = running
            .iter()
            .map(|one| (one.instance.split('/').nth(1).unwrap_or_default().to_owned(), one.clone()))
            .collect();
        ensure!(by_service.len() == running.len(), "twice: {running:?}");
        ensure!(by_service.len() == self.spec.services.len(), "{:?} run", by_service.keys());
        Ok(by_service)
    }

    /// Nothing has started before what it waits for.
    fn check_order(&self, running: &BTreeMap<String, Running>) -> Result<()> {
        for service in &self.spec.services {
            for dependency in &service.depends_on {
                let (later, earlier) = (&running[&service.name], &running[&dependency.service]);
                ensure!(time(&earlier.started_at) < time(&later.started_at), "{later:?} before {earlier:?}");
            }
        }
        Ok(())
    }
}

impl Drop for Edgex {
    fn drop(&mut self) {
        for image in &self.images {
            // In use, where a test ended early: its containers go first the next time.
            let _ = self.docker.request("DELETE", &format!("/images/{image}"), &[]);
        }
    }
}

/// Docker's times, in which zeros at the end are not written, as texts that compare.
fn time(text: &str) -> String {
    let (seconds, fraction) = text.trim_end_matches('Z').split_once('.').unwrap_or((text, ""));
    format!("{seconds}.{fraction:0<9}")
}

fn container(service: &ServiceSpec) -> Result<&Container> {
    match &service.program {
        Some(service_spec::Program::Container(container)) => Ok(container),
        other => bail!("{}: {other:?}", service.name),
    }
}

/// The port that says whether a service works, and what answers there.
fn main_port(service: &ServiceSpec) -> Result<(u32, &'static str)> {
    let check = service.health_check.as_ref().and_then(|check| check.probe.as_ref());
    match (service.name.as_str(), check) {
        ("consul", Some(Probe::Http(http))) => Ok((http.port, "consul")),
        ("database", Some(Probe::Tcp(tcp))) => Ok((tcp.port, "redis")),
        (_, Some(Probe::Http(http))) => Ok((http.port, "http")),
        (_, Some(Probe::Tcp(tcp))) => Ok((tcp.port, "tcp")),
        (name, other) => bail!("{name} has no health check over the network: {other:?}"),
    }
}
