//! Services of one app on several machines of a cluster: they wait for one another, and reach one another by name, wherever each is and with the link down.
//!
//! Each member is a machine of its own, with a Docker daemon and an address; the agents run beside the control plane, as plain HTTP/2 goes no further.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use skerry_integration::apps::{app, container, once};
use skerry_integration::containers::{Containers, Running, of_image, on_app_network, unique};
use skerry_integration::lan::Lan;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Dockerd, Stack};
use skerry_proto::types::v1::dependency::Condition;
use skerry_proto::types::v1::{
    Dependency, HealthCheck, InstanceStatus, LabelSelector, Mount, Port, ServiceSpec, health_check, mount,
    service_spec,
};
use skerry_testing::{Docker, busybox_root, eventually, shared_libraries};

use crate::operator::done;

/// A shell, and a program that asks for names as any other does.
const IMAGE: &str = "skerry-names:1";

/// A cluster of machines. Dropped in this order: agents, what they run, Docker, the network.
struct Plant {
    stack: Stack,
    containers: Vec<Containers>,
    dockerds: Vec<Dockerd>,
    lan: Lan,
    nodes: Vec<String>,
}

impl Plant {
    async fn new(name: &str, machines: u8) -> Result<Self> {
        let lan = Lan::new(&unique(name), machines)?;
        let mut dockerds = Vec::new();
        for number in 1..=usize::from(machines) {
            let dockerd = Dockerd::start_on(lan.machine(number)).await?;
            make_image(&dockerd.docker())?;
            dockerds.push(dockerd);
        }
        let nodes: Vec<String> = (1..=machines).map(|n| unique(&format!("{name}{n}"))).collect();
        let of = |(dockerd, node): (&Dockerd, &String)| Containers::of(&dockerd.docker(), node);
        let containers = dockerds.iter().zip(&nodes).map(of).collect();
        let mut stack = Stack::start().await?;
        for (number, (dockerd, node)) in dockerds.iter().zip(&nodes).enumerate() {
            add_agent(&mut stack, node, dockerd, lan.machine(number + 1).address())?;
        }
        for node in &nodes {
            stack.wait_connected(node).await;
        }
        done(&stack, &["create", "cluster", "plant"]).await?;
        let members = nodes.iter().map(String::as_str);
        let words: Vec<&str> = ["cluster", "join", "plant"].into_iter().chain(members).collect();
        done(&stack, &words).await?;
        Ok(Self { stack, containers, dockerds, lan, nodes })
    }

    fn book(&self) -> PathBuf {
        self.stack.dir().join("book")
    }

    /// From now on services with this name may be on this machine.
    async fn label(&self, number: usize, label: &str) -> Result<()> {
        done(&self.stack, &["label", &format!("node/{}", self.nodes[number - 1]), label]).await.map(drop)
    }

    /// What runs of a service on a machine.
    fn running(&self, number: usize, service: &str) -> Result<Option<Running>> {
        let running = self.containers[number - 1].running()?;
        Ok(running.into_iter().find(|one| one.instance.split('/').nth(1) == Some(service)))
    }

    async fn instance(&self, service: &str) -> Result<InstanceStatus> {
        let all = self.stack.instances("shop").await?;
        all.into_iter().find(|one| one.instance.split('/').nth(1) == Some(service)).context("an instance")
    }

    /// Lines for `server` in the client's hosts file, at the times when it was reached.
    fn reached(&self) -> Vec<String> {
        let text = fs::read_to_string(self.book().join("reached")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn wait_reached_at(&self, address: Ipv4Addr) {
        let line = format!("{address}\tserver");
        let before = self.reached().len();
        eventually(&format!("reached at `{line}`"), PATIENCE, async || {
            let reached = self.reached();
            let why = fs::read_to_string(self.book().join("why")).unwrap_or_default();
            ensure!(reached[before..].contains(&line), "{:?} {why}", reached.last());
            Ok(())
        })
        .await;
    }

    /// Hosts files that the agent of a machine keeps.
    fn hosts_files(&self, number: usize) -> Vec<PathBuf> {
        fn below(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() { below(&entry.path(), found) } else { found.push(entry.path()) }
            }
        }
        let mut found = Vec::new();
        below(&self.stack.agent_dir(&self.nodes[number - 1]).join("hosts"), &mut found);
        found
    }
}

/// An agent of a machine that other members reach at this address.
fn add_agent(stack: &mut Stack, node: &str, dockerd: &Dockerd, address: Ipv4Addr) -> Result<()> {
    let docker = format!("--docker-host=unix://{}", dockerd.docker().socket().display());
    stack.add_agent(node, &[&docker, &format!("--address={address}")])
}

fn make_image(docker: &Docker) -> Result<()> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_edgex-stand-in"));
    let mut root = busybox_root()?.file("stand-in", 0o755, &fs::read(&program)?);
    for library in shared_libraries(&[program])? {
        let inside = library.to_str().context("a path")?.trim_start_matches('/');
        root = root.file(inside, 0o755, &fs::read(&library)?);
    }
    docker.import(IMAGE, &root.finish(), &[r#"CMD ["sh"]"#, "ENV PATH=/bin"])
}

/// A service in a container, on machines that have its name as a label, with the book at `/book`.
fn service(name: &str, script: &str, book: &Path) -> ServiceSpec {
    let mut service = on_app_network(of_image(IMAGE, container(name, script)));
    let match_labels = [(name.to_owned(), "yes".to_owned())].into();
    service.node_selector = Some(LabelSelector { match_labels, ..Default::default() });
    if let Some(service_spec::Program::Container(container)) = &mut service.program {
        let source = mount::Bind { path: book.display().to_string(), ..Default::default() };
        container.mounts = vec![Mount {
            target: "/book".to_owned(),
            source: Some(mount::Source::Bind(source)),
            read_only: false,
        }];
    }
    service
}

fn published(mut service: ServiceSpec, port: u32) -> ServiceSpec {
    if let Some(service_spec::Program::Container(container)) = &mut service.program {
        container.ports = vec![Port { container_port: port, host_port: Some(port), ..Default::default() }];
    }
    service
}

fn after(service: ServiceSpec, waits: &[(&str, Condition)]) -> ServiceSpec {
    let dependency = |(service, condition): &(&str, Condition)| Dependency {
        service: (*service).to_owned(),
        condition: (*condition).into(),
    };
    ServiceSpec { depends_on: waits.iter().map(dependency).collect(), ..service }
}

/// A server that is healthy once it is told so, work that is done once it is told so, and a client that comes after both and asks the server for ever.
fn shop(book: &Path) -> [ServiceSpec; 3] {
    let command = ["test", "-e", "/book/open"].map(str::to_owned).to_vec();
    let check = HealthCheck {
        probe: Some(health_check::Probe::Exec(health_check::Exec { command })),
        interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let server = published(service("server", "exec /stand-in 8080=http", book), 8080);
    let server = ServiceSpec { health_check: Some(check), ..server };
    let seed = once(service("seed", "until [ -e /book/seeded ]; do sleep 0.1; done", book));
    let client = "while :; do
        /stand-in server:8080=http 2>/book/why && grep -w server /etc/hosts >>/book/reached
        sleep 0.2
    done";
    let client = service("client", client, book);
    [server, seed, after(client, &[("server", Condition::Healthy), ("seed", Condition::Completed)])]
}

#[tokio::test]
async fn services_wait_for_and_reach_one_another_on_other_members() -> Result<()> {
    if Docker::required().is_none() {
        return Ok(());
    }
    let mut plant = Plant::new("nam", 3).await?;
    let book = plant.book();
    fs::create_dir(&book)?;
    for (number, service) in [(1, "server"), (2, "client"), (3, "seed")] {
        plant.label(number, &format!("{service}=yes")).await?;
    }
    let wide = done(&plant.stack, &["get", "nodes", "-o", "wide"]).await?;
    let address = plant.lan.machine(2).address().to_string();
    ensure!(wide.contains(&address), "{wide}");

    // The order of start is that of a Compose file on one machine.
    plant.stack.apply("shop", app(shop(&book))).await?;
    let waits = |until: String| {
        let plant = &plant;
        async move {
            eventually(&format!("the client {until}"), PATIENCE, async || {
                let client = plant.instance("client").await?;
                ensure!(client.reason == "WaitingForDependency" && client.message == until, "{client:?}");
                ensure!(plant.running(2, "client")?.is_none(), "it runs");
                Ok(())
            })
            .await;
        }
    };
    waits(format!("waits until server is healthy on member {}", plant.nodes[0])).await;
    let explained = done(&plant.stack, &["explain", "app/shop"]).await?;
    ensure!(explained.contains(&format!("healthy on member {}", plant.nodes[0])), "{explained}");
    fs::write(book.join("open"), "")?;
    waits(format!("waits until seed has completed on member {}", plant.nodes[2])).await;
    fs::write(book.join("seeded"), "")?;
    plant.stack.wait_ready("shop", 3).await;
    plant.wait_reached_at(plant.lan.machine(1).address()).await;
    let client = plant.running(2, "client")?.context("the client runs")?;

    // The server moves; the client finds it again and is not touched.
    plant.label(3, "server=yes").await?;
    plant.label(1, "server-").await?;
    plant.wait_reached_at(plant.lan.machine(3).address()).await;
    eventually("the server has left", PATIENCE, async || {
        ensure!(plant.running(1, "server")?.is_none(), "it runs twice");
        Ok(())
    })
    .await;
    plant.stack.wait_ready("shop", 3).await;

    // Its machine is reached at another address, and its agent is another process.
    plant.stack.kill_agent(&plant.nodes[2])?;
    let moved = plant.lan.machine(3).other_address();
    add_agent(&mut plant.stack, &plant.nodes[2], &plant.dockerds[2], moved)?;
    plant.wait_reached_at(moved).await;
    ensure!(plant.running(2, "client")? == Some(client.clone()), "the client was started again");

    // With the link down it starts again on its own, after what was there before, and reaches the server.
    plant.stack.kill_service("gateway-0")?;
    plant.stack.kill_agent(&plant.nodes[1])?;
    fs::remove_file(book.join("open"))?;
    let pid = i32::try_from(client.pid).ok().and_then(Pid::from_raw).context("a process")?;
    kill_process(pid, Signal::KILL)?;
    eventually("the client has ended", PATIENCE, async || {
        ensure!(plant.running(2, "client")?.is_none(), "it runs");
        Ok(())
    })
    .await;
    plant.stack.start_agent(&plant.nodes[1])?;
    plant.wait_reached_at(moved).await;
    let again = plant.running(2, "client")?.context("the client runs")?;
    ensure!(again.started_at != client.started_at, "{again:?}");
    fs::write(book.join("open"), "")?;

    // The link is back, and nothing is touched.
    plant.stack.start_service("gateway-0")?;
    plant.stack.wait_service("gateway-0").await?;
    for node in &plant.nodes {
        plant.stack.wait_connected(node).await;
    }
    plant.stack.wait_ready("shop", 3).await;
    ensure!(plant.running(2, "client")? == Some(again), "the client was started again");
    ensure!(plant.hosts_files(2).len() == 1, "{:?}", plant.hosts_files(2));

    plant.stack.delete_apps().await?;
    for containers in &plant.containers {
        containers.wait_none().await;
    }
    eventually("no hosts file is left", PATIENCE, async || {
        ensure!(plant.hosts_files(2).is_empty(), "{:?}", plant.hosts_files(2));
        Ok(())
    })
    .await;
    let Plant { stack, containers, dockerds, lan, .. } = plant;
    stack.finish(None).await?;
    drop((containers, dockerds, lan));
    Ok(())
}
