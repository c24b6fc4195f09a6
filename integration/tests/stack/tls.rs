//! Mutual TLS with certificates from files: everything goes over it, nobody gets in without, and a node speaks for itself only.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_request::Body;
use skerry_proto::gateway::v1::sync_service_client::SyncServiceClient;
use skerry_rpc::{TlsFile, TlsPaths};
use skerry_testing::{Authority, Process, TlsFiles, bin, free_port};
use tempfile::TempDir;
use tonic_types::StatusExt as _;

const SERVICE: &str = "spiffe://example.org/project/system/service/skerry";

/// `skerry up` with certificates, for node n1.
struct World {
    dir: TempDir,
    authority: Authority,
    port: u16,
    up: Process,
}

impl World {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new("example.org");
        let server = authority.write(dir.path(), "up", SERVICE);
        let node = authority.write(dir.path(), "n1", &node("n1"));
        let port = free_port();
        let mut command = command(dir.path(), "skerry");
        command.args(["up", "--no-docker", "--node-name=n1", "--listen"]).arg(format!("127.0.0.1:{port}"));
        command.arg("--data-dir").arg(dir.path().join("data")).args(server.flags());
        command.arg("--node-tls-cert").arg(node.certificate).arg("--node-tls-key").arg(node.key);
        let mut up = Process::spawn_command(&mut command, dir.path().join("up.log"))?;
        let ready = up.wait_for_line("ready after", PATIENCE).await?;
        ensure!(!ready.contains("has not connected"), "{ready}");
        Ok(Self { dir, authority, port, up })
    }

    fn files(&self, name: &str, identity: &str) -> TlsFiles {
        self.authority.write(self.dir.path(), name, identity)
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The `skerry` command; exit code and what it said.
    async fn skerry(&self, words: &[&str]) -> Result<(Option<i32>, String)> {
        let mut command = command(self.dir.path(), "skerry");
        command.args(words);
        ended(command).await
    }

    fn agent(&self, node: &str, files: &TlsFiles) -> Command {
        let mut command = command(self.dir.path(), "skerry-agent");
        command.arg(format!("--gateway={}", self.url("https"))).arg(format!("--node={node}"));
        command.arg("--no-docker").args(files.flags());
        command.arg(format!("--data-dir={}", self.dir.path().join("agents").join(node).display()));
        command
    }

    async fn finish(mut self) -> Result<()> {
        self.up.terminate(PATIENCE).await?;
        Ok(())
    }
}

/// A program with a home of its own and none of the test's settings.
fn command(home: &Path, program: &str) -> Command {
    let mut command = Command::new(bin(program));
    command.current_dir(home).env("HOME", home).stdin(Stdio::null());
    for name in ["XDG_CONFIG_HOME", "SKERRY_CONFIG", "SKERRY_SERVER", "SKERRY_PROJECT", "SKERRY_CONTEXT"] {
        command.env_remove(name);
    }
    command
}

async fn ended(mut command: Command) -> Result<(Option<i32>, String)> {
    let output = tokio::task::spawn_blocking(move || command.output());
    let output: Output = tokio::time::timeout(PATIENCE, output).await.context("it did not end")???;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(said)?))
}

fn node(name: &str) -> String {
    format!("spiffe://example.org/project/default/node/{name}")
}

#[tokio::test]
async fn up_its_client_and_agents_speak_tls_and_nothing_else() -> Result<()> {
    let world = World::start().await?;
    let ada = world.files("ada", "spiffe://example.org/project/default/user/ada");
    let server = format!("--server={}", world.url("https"));
    let flags = ada.flags();
    let mut words = vec!["config", "set-context", "prod", &server];
    words.extend(flags.iter().map(String::as_str));
    assert_eq!(
        world.skerry(&words).await?,
        (Some(0), "context prod created; it is the current one\n".into())
    );
    let connected = world.skerry(&["wait", "node/n1", "--for=connected"]).await?;
    ensure!(connected.0 == Some(0), "{connected:?}");

    // A second machine, with a certificate of its own.
    let files = world.files("n2", &node("n2"));
    let _agent =
        Process::spawn_command(&mut world.agent("n2", &files), world.dir.path().join("agent-n2.log"))?;
    let connected = world.skerry(&["wait", "node/n2", "--for=connected", "--timeout=60s"]).await?;
    ensure!(connected.0 == Some(0), "{connected:?}");

    let authority = format!("--tls-ca={}", ada.authority.display());
    let (code, said) = world.skerry(&["get", "nodes", &server, &authority]).await?;
    ensure!(code == Some(4) && said.contains("it talks only to who has a certificate"), "{said}");
    let plain = format!("--server={}", world.url("http"));
    let (code, said) = world.skerry(&["get", "nodes", &plain]).await?;
    ensure!(code == Some(4) && said.contains("it speaks TLS: write https://"), "{said}");
    let (code, said) = world.skerry(&["get", "nodes", &server]).await?;
    ensure!(code == Some(2) && said.contains("--tls-ca FILE"), "{said}");
    world.finish().await
}

#[tokio::test]
async fn a_node_speaks_for_itself_only() -> Result<()> {
    let world = World::start().await?;
    let other = world.files("n2", &node("n2"));

    // The agent itself sees that it has the wrong certificate. It dials nobody with it, and what is on its disk would run.
    let mut agent =
        Process::spawn_command(&mut world.agent("n1", &other), world.dir.path().join("agent-n1.log"))?;
    let said = agent.wait_for_line(&node("n2"), PATIENCE).await?;
    ensure!(said.contains("and this agent is that of projects/default/nodes/n1"), "{said}");
    agent.kill()?;

    // One that does not look is refused by the gateway.
    for (who, files) in [(node("n2"), other), (SERVICE.to_owned(), world.files("service", SERVICE))] {
        let tls = skerry_rpc::TlsFiles::load(paths(&files))?.client();
        let channel = skerry_rpc::connect(&world.url("https"), Some(&tls)).await?;
        let hello = pb::Hello {
            protocol_version: 1,
            node: "projects/default/nodes/n1".to_owned(),
            boot_id: "another".to_owned(),
            agent_version: "test".to_owned(),
            ..pb::Hello::default()
        };
        let first = pb::SyncRequest { body: Some(Body::Hello(hello)) };
        let frames = futures_util::stream::iter([first]).chain(futures_util::stream::pending());
        let mut answers = SyncServiceClient::new(channel).sync(frames).await?.into_inner();
        let status = tokio::time::timeout(PATIENCE, answers.message()).await?.err().context("let in")?;
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
        assert_eq!(status.message(), format!("{who} may not speak for projects/default/nodes/n1"));
        let reason = status.get_details_error_info().map(|info| info.reason);
        assert_eq!(reason.as_deref(), Some("SESSION_DENIED"));
    }
    world.finish().await
}

fn paths(files: &TlsFiles) -> TlsPaths {
    let file = |setting, path: &PathBuf| TlsFile { setting, path: path.clone() };
    TlsPaths {
        own: Some((file("--tls-cert", &files.certificate), file("--tls-key", &files.key))),
        authority: file("--tls-ca", &files.authority),
    }
}

#[tokio::test]
async fn the_health_of_a_service_with_tls_is_asked_by_the_service_itself() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("example.org");
    let files = authority.write(dir.path(), "services", SERVICE);
    let config = StackConfig { service_args: files.flags().to_vec(), ..StackConfig::default() };
    let stack = Stack::start_with(config).await?;
    let ask = |program: &str, service: &str, flags: &[String]| {
        let mut command = command(dir.path(), program);
        command.arg("--health").arg(format!("--listen={}", stack.address(service))).args(flags);
        ended(command)
    };
    for (program, service) in [
        ("skerry-registry", "registry-0"),
        ("skerry-scheduler", "scheduler-0"),
        ("skerry-gateway", "gateway-0"),
    ] {
        skerry_testing::eventually("it serves", PATIENCE, async || {
            let asked = ask(program, service, &files.flags()).await?;
            ensure!(asked == (Some(0), String::new()), "{asked:?}");
            Ok(())
        })
        .await;
    }
    let (code, said) = ask("skerry-registry", "registry-0", &[]).await?;
    ensure!(code == Some(1) && said.contains("it speaks TLS"), "{said}");
    let other = authority.write(dir.path(), "other", "spiffe://example.org/project/system/service/other");
    let (code, said) = ask("skerry-registry", "registry-0", &other.flags()).await?;
    ensure!(
        code == Some(1) && said.contains("where the service other of project system is expected"),
        "{said}"
    );
    // Nothing runs in it, and the stack's own clients have no certificate.
    Ok(())
}
