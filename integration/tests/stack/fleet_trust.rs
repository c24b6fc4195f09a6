//! The fleet's trust as a whole, with real processes: one root after another while half of the fleet is away, clocks that say 1970 and 2099,
//! ninety days without a network, a stolen disk beside the machine that it was copied from. No instance stops, and who was not struck out
//! comes back.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use skerry_identity::{PeerCertificate, TrustBundle};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Witness, apps};
use skerry_proto::scheduler::v1::app_service_client::AppServiceClient;
use skerry_proto::scheduler::v1::{App, DeleteAppRequest, UpdateAppRequest};
use skerry_proto::types::v1::Metadata;
use skerry_rpc::{TlsFile, TlsFiles, TlsPaths};
use skerry_testing::{Authority, Etcd, Process, bin, eventually, free_port};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::transport::Channel;

use super::agent_identity::issued;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SERVICES: [&str; 3] = ["registry", "scheduler", "gateway"];
const AN_APP: &str = "projects/default/apps/app";

/// An installation as an operator makes it by `skerry authority`, and what its clocks say.
pub(crate) struct World {
    dir: TempDir,
    etcd: Etcd,
    ports: [u16; 3],
    services: Vec<Process>,
    /// How `faketime` is told the time of services and commands. Absent: it is right.
    clock: Option<&'static str>,
}

/// The program under a clock of its own. What it starts has the right one: the agent hands nothing of its environment on.
fn program(name: &str, clock: Option<&str>) -> Command {
    let Some(clock) = clock else { return Command::new(bin(name)) };
    let mut command = Command::new("faketime");
    // Only the wall clock: no machine's monotonic one is wrong.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    command.args(["-f", clock]).arg(bin(name));
    command
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let (dir, etcd) = (tempfile::tempdir()?, Etcd::start().await?);
        let ports = [free_port(), free_port(), free_port()];
        let mut world = Self { dir, etcd, ports, services: Vec::new(), clock: None };
        world.skerry(&["authority", "init", "--domain=example.org"]).await?;
        world.issue().await?;
        world.serve(&SERVICES).await?;
        Ok(world)
    }

    /// What a stack's keeper says each day.
    async fn issue(&self) -> Result<()> {
        for name in SERVICES {
            let out = format!("--out={}", self.at(&format!("tls/{name}")).display());
            self.skerry(&["authority", "issue", "service", name, "--ip=127.0.0.1", &out]).await?;
        }
        self.skerry(&["authority", "issue", "user", "admin", "-p", "system", "--out=admin"]).await?;
        Ok(())
    }

    /// Starts these services.
    async fn serve(&mut self, names: &[&str]) -> Result<()> {
        let all = SERVICES.into_iter().zip(self.ports);
        for (name, port) in all.filter(|(name, _)| names.contains(name)) {
            let mut command = program(&format!("skerry-{name}"), self.clock);
            command.arg(format!("--listen=127.0.0.1:{port}"));
            command.arg(format!("--etcd={}", self.etcd.endpoint())).current_dir(self.dir.path());
            for (flag, file) in
                [("cert", format!("{name}.crt")), ("key", format!("{name}.key")), ("ca", "ca.crt".into())]
            {
                command.arg(format!("--tls-{flag}=tls/{name}/{file}"));
            }
            match name {
                "gateway" => command.arg(format!("--registry={}", self.url(0))),
                _ => command.arg("--key-file=keys"),
            };
            let log = self.at(&format!("{name}.log"));
            let mut process = Process::spawn_command(&mut command, log)?;
            process.wait_for_port(format!("127.0.0.1:{port}").parse()?, PATIENCE).await?;
            self.services.push(process);
        }
        Ok(())
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Of registry, scheduler, gateway.
    fn url(&self, index: usize) -> String {
        format!("https://127.0.0.1:{}", self.ports[index])
    }

    /// The `skerry` command as the administrator; what it wrote to stdout, if it succeeded.
    pub(crate) async fn skerry(&self, words: &[&str]) -> Result<String> {
        self.skerry_with("admin", words).await
    }

    /// The same with the certificate in another directory.
    async fn skerry_with(&self, files: &str, words: &[&str]) -> Result<String> {
        let mut command = program("skerry", self.clock);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SKERRY_")) {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).env("HOME", self.dir.path()).stdin(Stdio::null());
        command.env("SKERRY_ETCD", self.etcd.endpoint()).env("SKERRY_KEY_FILE", "keys");
        command.env("SKERRY_AUTHORITY_DIR", "authority");
        if !words.starts_with(&["authority"]) {
            command.env("SKERRY_REGISTRY", self.url(0)).env("SKERRY_SCHEDULER", self.url(1));
            for (name, file) in [("CERT", "admin.crt"), ("KEY", "admin.key"), ("CA", "ca.crt")] {
                command.env(format!("SKERRY_TLS_{name}"), format!("{files}/{file}"));
            }
        }
        command.args(words);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output: Output =
            tokio::time::timeout(2 * PATIENCE, output).await.context("it did not end")???;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "skerry {}: {said}", words.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn token(&self) -> Result<String> {
        Ok(self.skerry(&["token", "create", "--uses=9", "--quiet"]).await?.trim().to_owned())
    }

    pub(crate) fn agent(&self, machine: &str, clock: Option<&str>, words: &[&str]) -> Result<Process> {
        let mut command = program("skerry-agent", clock);
        command.args(["--no-docker", "--gateway", &self.url(2), "--data-dir"]).arg(self.at(machine));
        command.args(words);
        let log = self.at(&format!("{machine}.log"));
        // A life of before has left its lines there.
        let _ = std::fs::remove_file(&log);
        Process::spawn_command(&mut command, log)
    }

    pub(crate) async fn connected(&self, nodes: &[&str]) -> Result<()> {
        for node in nodes {
            let node = format!("node/{node}");
            self.skerry(&["wait", &node, "--for=connected", "--timeout=60s"]).await?;
        }
        Ok(())
    }

    pub(crate) async fn apps(&self) -> Result<AppServiceClient<Channel>> {
        let file = |name: &str| TlsFile { setting: "--tls", path: self.at(&format!("admin/{name}")) };
        let own = Some((file("admin.crt"), file("admin.key")));
        let files = TlsFiles::load(TlsPaths { own, authority: file("ca.crt") })?;
        Ok(AppServiceClient::new(skerry_rpc::connect(&self.url(1), Some(&files.client())).await?))
    }

    /// One copy on each node.
    async fn apply(&self, witness: &Witness) -> Result<()> {
        let metadata = Metadata { name: AN_APP.into(), ..Default::default() };
        let spec = Some(apps::app([witness.service("web", "1")]));
        let app = Some(App { metadata: Some(metadata), spec, status: None });
        let request = UpdateAppRequest { app, allow_missing: true, ..Default::default() };
        self.apps().await?.update_app(request).await?;
        Ok(())
    }

    async fn delete_app(&self) -> Result<()> {
        let request = DeleteAppRequest { name: AN_APP.into(), ..Default::default() };
        self.apps().await?.delete_app(request).await?;
        Ok(())
    }

    /// The certificate and the roots on a machine's disk.
    fn held(&self, machine: &str) -> Result<(PeerCertificate, TrustBundle)> {
        let issued = issued(&self.at(machine))?;
        let roots = TrustBundle::from_der(&issued.roots)?;
        let chain: Vec<_> = issued.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        Ok((PeerCertificate::of_chain(&chain, roots.domain())?, roots))
    }

    /// Waits until all of these machines trust so many roots.
    async fn roots(&self, machines: &[&str], count: usize) {
        eventually(&format!("{machines:?} trust {count} roots"), PATIENCE, async || {
            for machine in machines {
                let roots = self.held(machine)?.1.roots().len();
                ensure!(roots == count, "{machine}: {roots}");
            }
            Ok(())
        })
        .await;
    }

    fn files_of_services(&self) -> Result<Vec<Vec<u8>>> {
        let all =
            SERVICES.into_iter().flat_map(|name| [format!("{name}/{name}.crt"), format!("{name}/ca.crt")]);
        all.map(|file| Ok(std::fs::read(self.at("tls").join(file))?)).collect()
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

#[tokio::test]
async fn a_new_root_reaches_every_service_and_agent_without_a_restart_and_who_was_away_comes_back()
-> Result<()> {
    let (mut world, witness) = (World::start().await?, Witness::new()?);
    let token = world.token().await?;
    let all = ["n1", "n2", "n3", "n4"];
    let mut agents = Vec::new();
    for node in all {
        agents.push(world.agent(node, None, &["--token", &token, "--node", node])?);
    }
    world.connected(&all).await?;
    world.apply(&witness).await?;
    let running = witness.wait_running(4).await;
    copy(&world.at("admin"), &world.at("admin-of-old"))?;

    // Half of the fleet is away, and the root changes. Nobody touches a file of a service.
    for mut agent in agents.drain(2..) {
        agent.kill()?;
    }
    let before = world.files_of_services()?;
    let rotated = world.skerry(&["authority", "rotate"]).await?;
    ensure!(rotated.contains("former"), "{rotated}");
    for service in &mut world.services {
        service.wait_for_line("the roots of the authority have changed", PATIENCE).await?;
    }
    world.roots(&all[..2], 2).await;
    // A person's new certificate, under the new root, is let in by services that were not touched.
    world.skerry(&["authority", "issue", "user", "admin", "-p", "system", "--out=admin"]).await?;
    let of_new = world.skerry(&["get", "nodes", "-o", "name"]).await?;
    assert_eq!(of_new.lines().count(), 4, "{of_new}");
    assert_eq!(before, world.files_of_services()?);

    // Who writes a service's file of authorities gains nothing.
    let mallory = Authority::new("example.org");
    let files = mallory.write(&world.at("authority"), "x", "spiffe://example.org/project/system/user/admin");
    let ours = std::fs::read(world.at("tls/registry/ca.crt"))?;
    let both = [&*ours, &*std::fs::read(&files.authority)?].concat();
    std::fs::write(world.at("tls/registry/ca.crt"), both)?;
    world.services[0].wait_for_line("the TLS files have changed", PATIENCE).await?;
    std::fs::create_dir(world.at("mallory"))?;
    std::fs::copy(&files.certificate, world.at("mallory/admin.crt"))?;
    std::fs::copy(&files.key, world.at("mallory/admin.key"))?;
    std::fs::copy(world.at("admin/ca.crt"), world.at("mallory/ca.crt"))?;
    let refused = world.skerry_with("mallory", &["get", "nodes"]).await.expect_err("nobody knows it");
    ensure!(refused.to_string().contains("authority"), "{refused}");

    // The services' certificates are renewed in their files, and count without a restart; who comes back knows the old root alone.
    world.issue().await?;
    for service in &mut world.services[1..] {
        service.wait_for_line("the TLS files have changed", PATIENCE).await?;
    }
    for node in &all[2..] {
        assert_eq!(world.held(node)?.1.roots().len(), 1);
        agents.push(world.agent(node, None, &[])?);
    }
    world.connected(&all).await?;
    world.roots(&all, 2).await;

    // The old root is not retired too early. Where somebody insists, sessions that are open bring new certificates; each was opened by a
    // gateway's certificate under the new root, for which the gateway is started anew.
    let early = world.skerry(&["authority", "retire"]).await.expect_err("certificates are in use");
    ensure!(early.to_string().contains("--force"), "{early}");
    let mut gateway = world.services.pop().context("a gateway")?;
    gateway.terminate(PATIENCE).await?;
    world.serve(&["gateway"]).await?;
    world.connected(&all).await?;
    let newest = world.held("n1")?.1.roots()[0].pin();
    world.skerry(&["authority", "retire", "--force"]).await?;
    world.roots(&all, 1).await;
    eventually("all have certificates under the new root", PATIENCE, async || {
        for node in all {
            let issued = issued(&world.at(node))?;
            let (_, roots) = world.held(node)?;
            ensure!(roots.roots()[0].pin() == newest, "{node}: another root");
            let chain: Vec<_> = issued.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
            let rooted = skerry_identity::verify::check_client_chain(&chain, &roots);
            ensure!(rooted.is_ok(), "{node}: {rooted:?}");
        }
        Ok(())
    })
    .await;
    let old = world.skerry_with("admin-of-old", &["get", "nodes"]).await.expect_err("its root is retired");
    ensure!(old.to_string().contains("authority"), "{old}");
    for mut agent in agents.drain(..) {
        agent.kill()?;
    }
    for node in all {
        agents.push(world.agent(node, None, &[])?);
    }
    world.connected(&all).await?;
    assert_eq!(witness.running(), running, "an instance was touched");
    witness.check();
    world.delete_app().await?;
    witness.wait_running(0).await;
    Ok(())
}

#[tokio::test]
async fn clocks_of_1970_and_2099_and_ninety_days_away_stop_no_instance_and_every_node_returns() -> Result<()>
{
    let (mut world, witness) = (World::start().await?, Witness::new()?);
    let token = world.token().await?;
    let clocks = [
        ("n1", Some("@1970-01-01 00:10:00")),
        ("n2", Some("@2099-06-01 00:00:00")),
        ("n3", None),
        ("n4", Some("+90d")),
    ];
    let all = clocks.map(|(node, _)| node);
    let mut agents = Vec::new();
    for (node, clock) in clocks {
        agents.push(world.agent(node, clock, &["--token", &token, "--node", node])?);
    }
    world.connected(&all).await?;
    world.apply(&witness).await?;
    let running = witness.wait_running(4).await;

    // The clock jumps: who had 1970 has 2099, and the other way round.
    for mut agent in agents.drain(..2) {
        agent.kill()?;
    }
    for (node, clock) in [("n1", clocks[1].1), ("n2", clocks[0].1)] {
        agents.push(world.agent(node, clock, &[])?);
    }
    for agent in &mut agents[2..] {
        agent.wait_for_line(r#""message":"connected""#, PATIENCE).await?;
    }
    assert_eq!(witness.running(), running, "an instance was touched");

    // Ninety days pass for the cloud while the machines have no network: their certificates ended sixty days ago.
    for mut agent in agents.drain(..) {
        agent.kill()?;
    }
    for mut service in world.services.drain(..) {
        service.kill()?;
    }
    world.clock = Some("+90d");
    world.issue().await?;
    world.serve(&SERVICES).await?;
    let ended = world.held("n1")?.0;
    let now = SystemTime::now() + 90 * DAY;
    ensure!(ended.not_after < now - 50 * DAY, "{ended:?}");
    for (node, clock) in clocks {
        agents.push(world.agent(node, clock, &[])?);
    }
    // First on the disk: that a node was connected before, the store may still say.
    eventually("all have renewed", PATIENCE, async || {
        for node in all {
            let renewed = world.held(node)?.0;
            ensure!(renewed.not_after > now + 20 * DAY, "{node}: {renewed:?}");
        }
        Ok(())
    })
    .await;
    world.connected(&all).await?;
    assert_eq!(witness.running(), running, "an instance was touched");
    witness.check();
    for mut agent in agents.drain(..) {
        agent.kill()?;
    }
    end(&witness);
    Ok(())
}

/// Ends what runs by hand: its control plane is ninety days ahead of this test.
fn end(witness: &Witness) {
    for start in witness.running() {
        let _ = Command::new("kill").args(["-9", &start.pid.to_string()]).status();
    }
}

#[tokio::test]
async fn a_stolen_disk_beside_its_machine_is_told_and_gets_nothing_once_its_key_is_struck_out() -> Result<()>
{
    let (world, witness) = (World::start().await?, Witness::new()?);
    let token = world.token().await?;
    let mut own = world.agent("n1", None, &["--token", &token, "--node", "n1"])?;
    world.connected(&["n1"]).await?;
    copy(&world.at("n1"), &world.at("thief"))?;

    // Whoever came last speaks for the node, and the other is told.
    let mut thief = world.agent("thief", None, &[])?;
    own.wait_for_line("another agent", PATIENCE).await?;
    world.connected(&["n1"]).await?;

    // Its key is struck out: neither gets anything that comes afterwards.
    world.skerry(&["node", "revoke", "n1"]).await?;
    thief.wait_for_line("struck out", PATIENCE).await?;
    world.apply(&witness).await?;
    thief.kill()?;
    let mut thief = world.agent("thief", None, &[])?;
    thief.wait_for_line("struck out", PATIENCE).await?;
    assert_eq!(witness.starts(), [], "it was told what to run");
    thief.kill()?;
    own.kill()?;
    Ok(())
}
