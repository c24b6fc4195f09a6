//! The user's guide and the README, done by a reader on this machine: every manifest, every command, every shown output.
//!
//! Each page is run by itself, in a directory of its own, on the `skerry up` that it starts. What stands for what: ports are free ones,
//! `n1` is a node of this test alone, and the images are made on this machine of busybox, so that nothing is pulled.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Registry;
use skerry_integration::containers::{Containers, unique};
use skerry_integration::guide::{self, Block, Page, Setting};
use skerry_testing::{BUSYBOX_IMAGE, Docker, bin, busybox_root, free_port};

/// Ports that pages name.
const PORTS: [u16; 13] = [7770, 7771, 7772, 7773, 7774, 7775, 2379, 2380, 8080, 8081, 8082, 9464, 4317];
/// The images that pages name, all of them busybox: what is shown is Skerry, not what runs.
const IMAGES: [&str; 1] = ["busybox:1.37"];
/// The port of a registry, where a page names one.
const REGISTRY_PORT: &str = "8083";
/// The image that it has, and its tags.
const PRIVATE: (&str, [&str; 2]) = ("team/web", ["1", "2"]);
/// Programs that pages call.
const PROGRAMS: [&str; 5] =
    ["skerry-registry", "skerry-scheduler", "skerry-gateway", "skerry-relay", "skerry-agent"];

/// One test for each page, so that a page that fails is named and the others still run.
macro_rules! pages {
    ($($test:ident: $page:literal, $needs:ident;)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(
            #[tokio::test]
            async fn $test() -> Result<()> {
                run($page, Needs::$needs).await
            }
        )*
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Docker,
    /// A network namespace, which stands for another machine: agents run there.
    Namespace,
    /// Docker, and at [`REGISTRY_PORT`] a registry that has [`PRIVATE`] for who has a password.
    Registry,
}

pages! {
    first_app: "first-app.md", Docker;
    nodes: "nodes.md", Nothing;
    containers: "containers.md", Docker;
    compose_files: "compose.md", Docker;
    edgex: "edgex.md", Nothing;
    processes: "processes.md", Nothing;
    configs: "configs.md", Docker;
    access: "access.md", Nothing;
    time_boxed_grants: "grants.md", Nothing;
    secret_values: "secrets.md", Nothing;
    audit: "audit.md", Nothing;
    health: "health.md", Docker;
    clusters: "clusters.md", Nothing;
    tasks: "tasks.md", Nothing;
    placement: "placement.md", Nothing;
    system_apps: "system-apps.md", Nothing;
    jobs: "jobs.md", Docker;
    updates: "updates.md", Docker;
    rollouts: "rollouts.md", Nothing;
    offline: "offline.md", Docker;
    second_machine: "second-machine.md", Namespace;
    images: "images.md", Registry;
    projects: "projects.md", Nothing;
    logs: "logs.md", Nothing;
    commands: "exec.md", Docker;
    by_hand: "acts.md", Nothing;
    port_forward: "port-forward.md", Docker;
    cp: "cp.md", Nothing;
    top: "top.md", Nothing;
    gpu: "gpu.md", Nothing;
    gpu_metrics: "gpu-metrics.md", Nothing;
    watching: "watching.md", Nothing;
    scripting: "scripting.md", Nothing;
    help: "help.md", Nothing;
    services_apart: "services.md", Nothing;
    authority: "authority.md", Nothing;
    tls: "tls.md", Nothing;
    troubleshooting: "troubleshooting.md", Docker;
}

#[test]
fn every_page_of_the_guide_is_run() -> Result<()> {
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(root().join("docs/guide"))? {
        there.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    let run: BTreeSet<String> =
        PAGES.iter().chain(&["README.md", "stack.md"]).map(|page| (*page).to_owned()).collect();
    assert_eq!(there, run);
    Ok(())
}

/// The image that the README names, of busybox: it serves a page on port 80.
const NGINX: &str = "skerry-test/httpd:1";

#[tokio::test]
async fn the_readme_by_hand() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    if !docker.has_image(NGINX)? {
        let root = busybox_root()?.dir("www/", 0o755).file("www/index.html", 0o644, b"hello\n");
        let command = r#"CMD ["httpd", "-f", "-p", "80", "-h", "/www"]"#;
        docker.import(NGINX, &root.finish(), &[command, "ENV PATH=/bin"])?;
    }
    let readme = fs::read_to_string(root().join("README.md"))?;
    let scripts: Vec<&str> =
        readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let up = scripts.iter().any(|script| script.lines().any(|line| line.starts_with("skerry up ")));
    ensure!(up, "the README no longer shows `skerry up`");
    let by_hand = scripts.iter().find(|script| script.contains("skerry apply -f web.yaml"));
    let by_hand = by_hand.context("the README no longer applies web.yaml")?;
    // A watch has no end of its own.
    let watch = "skerry get instances -w";
    ensure!(by_hand.contains(watch), "the README no longer shows `{watch}`");
    let script = by_hand.replace(watch, "skerry get instances").replace("node/NAME", "node/n1");
    let blocks = vec![
        Block::Background {
            command: Some("skerry up --node-name n1".to_owned()),
            shown: vec!["...".to_owned(), "ready after ...".to_owned()],
        },
        Block::Script("skerry wait node/n1 --for=connected".to_owned()),
        Block::Script(script),
    ];
    let page = Page { name: "README.md".to_owned(), blocks: (1..).zip(blocks).collect() };
    let node = unique("guide-readme");
    let data = tempfile::tempdir()?;
    let _containers = Containers::of(&docker, &node);
    let mut setting = setting(&node, data.path())?;
    setting.instead.push(("nginx:1.27".to_owned(), NGINX.to_owned()));
    guide::run(&page, setting).await
}

async fn run(name: &str, needs: Needs) -> Result<()> {
    let machine = if needs == Needs::Namespace {
        // As for all that makes networks and mounts.
        if !rustix::process::geteuid().is_root() {
            eprintln!("{name} is not run: a network namespace is made by root only");
            return Ok(());
        }
        Some(Machine::new()?)
    } else {
        None
    };
    let docker = if matches!(needs, Needs::Nothing | Needs::Namespace) {
        None
    } else {
        let Some(docker) = Docker::required() else { return Ok(()) };
        docker.busybox()?;
        Some(docker)
    };
    let file = root().join("docs/guide").join(name);
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let page = Page::parse(&format!("docs/guide/{name}"), &text)?;
    let node = unique(&format!("guide-{}", name.trim_end_matches(".md")));
    // What is below is closed by itself; processes with users of their own go through.
    let outer = tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir()?;
    let data = outer.path().join("skerry");
    let mut setting = setting(&node, &data)?;
    if let Some(machine) = &machine {
        machine.take_agents(&mut setting, &data);
    }
    let mut registry = None;
    if let Some(docker) = docker.as_ref().filter(|_| needs == Needs::Registry) {
        let started = Registry::start().await?;
        for tag in PRIVATE.1 {
            started.push(docker, PRIVATE.0, tag)?;
        }
        let port = started.host().rsplit(':').next().unwrap_or_default().to_owned();
        setting.instead.push((REGISTRY_PORT.to_owned(), port));
        registry = Some(started);
    }
    let ran = {
        // After the page, whatever became of it.
        let _containers = docker.as_ref().map(|docker| Containers::of(docker, &node));
        guide::run(&page, setting).await
    };
    if let (Some(docker), Some(registry)) = (&docker, &registry) {
        for tag in PRIVATE.1 {
            let image = format!("/images/{}/{}:{tag}", registry.host(), PRIVATE.0);
            docker.request("DELETE", &image, &[])?;
        }
    }
    ran
}

/// How the page on a second machine calls the first one.
const FIRST_MACHINE: &str = "10.0.0.1";

/// Another machine: a network namespace that reaches this one by one cable. Dropping it takes it down.
struct Machine {
    name: String,
    /// This machine's end of the cable, as the other one dials it.
    address: String,
}

impl Machine {
    fn new() -> Result<Self> {
        let name = unique("sk").replace('-', "");
        let name = format!("sk{}", &name[name.len().saturating_sub(10)..]);
        let id = std::process::id();
        let machine = Self { address: format!("10.213.{}.1", id % 250), name };
        let Self { name, address } = &machine;
        let other = format!("10.213.{}.2/24", id % 250);
        for words in [
            vec!["netns", "add", name],
            vec!["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name],
            vec!["addr", "add", &format!("{address}/24"), "dev", name],
            vec!["link", "set", name, "up"],
            vec!["-n", name, "addr", "add", &other, "dev", "eth0"],
            vec!["-n", name, "link", "set", "eth0", "up"],
        ] {
            let output = Command::new("ip").args(&words).output().context("starting ip (iproute2)")?;
            ensure!(output.status.success(), "ip {}: {output:?}", words.join(" "));
        }
        Ok(machine)
    }

    /// Lets the page's agents run there, and its first machine be this one, listening where the page says.
    fn take_agents(&self, setting: &mut Setting, data: &Path) {
        setting.instead.push((FIRST_MACHINE.to_owned(), self.address.clone()));
        let agent = format!(
            "#!/bin/sh\nexec ip netns exec {} '{}' \"$@\"\n",
            self.name,
            bin("skerry-agent").display()
        );
        setting.programs.insert("skerry-agent".to_owned(), agent);
        let skerry = format!(
            "#!/bin/sh\nif [ \"$1\" = up ]; then\n  shift\n  exec '{skerry}' up --data-dir '{}' \"$@\"\nfi\nexec '{skerry}' \"$@\"\n",
            data.display(),
            skerry = bin("skerry").display()
        );
        setting.programs.insert("skerry".to_owned(), skerry);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The cable goes with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn setting(node: &str, data: &Path) -> Result<Setting> {
    let ports: Vec<(String, String)> =
        PORTS.iter().map(|port| (port.to_string(), free_port().to_string())).collect();
    let server = format!("127.0.0.1:{}", ports[0].1);
    let mut instead = ports;
    instead.push(("/var/lib/skerry".to_owned(), data.display().to_string()));
    instead.extend(IMAGES.iter().map(|image| ((*image).to_owned(), BUSYBOX_IMAGE.to_owned())));
    instead.push(("n1".to_owned(), node.to_owned()));
    instead.push(("examples/edgex".to_owned(), format!("{}/examples/edgex", root().display())));
    let mut programs = BTreeMap::new();
    // As on a machine of its own: the usual port and the usual directory are others here.
    let skerry = bin("skerry").display().to_string();
    ensure!(!skerry.contains('\''), "{skerry} cannot be quoted");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = up ]; then\n  shift\n  exec '{skerry}' up --listen {server} --data-dir '{}' \"$@\"\nfi\n\
         exec '{skerry}' \"$@\"\n",
        data.display()
    );
    programs.insert("skerry".to_owned(), script);
    for name in PROGRAMS {
        programs.insert(name.to_owned(), format!("#!/bin/sh\nexec '{}' \"$@\"\n", bin(name).display()));
    }
    // Processes outlive `skerry up`, by design.
    let farewell = "skerry get apps -o name | xargs -r skerry delete --timeout 60s".to_owned();
    // How full the disk of this machine is belongs to no page: an agent warns of it among the lines that pages show.
    let env = BTreeMap::from([("SKERRY_IMAGE_GC_HIGH".to_owned(), "100".to_owned())]);
    Ok(Setting { instead, env, programs, farewell: Some(farewell) })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
