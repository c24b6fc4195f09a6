//! Logs from outside: two gateways, two relays, agents that reach no relay but the one that does not hold their channel.

mod act;
mod bundle;
mod copy;
mod exec;
mod forward;
mod kills;
mod many;
mod nat;
mod pace;
mod refused;
mod told;
mod top;

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_proto::relay::v1::relay_service_client::RelayServiceClient;
use skerry_proto::types::v1::{ProcessLog, ServiceSpec, service_spec};
use skerry_testing::{Process, bin, eventually};
use tonic::transport::Channel;

/// Two gateways, two relays, and agents of these names without Docker.
async fn stack(nodes: &[&str]) -> Result<Stack> {
    let config = StackConfig { gateways: 2, relays: 2, crossed_relays: true, ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    for node in nodes {
        stack.add_agent(node, &[])?;
        stack.wait_connected(node).await;
    }
    Ok(stack)
}

/// `skerry` at a relay.
fn command(stack: &Stack, relay: &str, words: &[&str]) -> Command {
    let mut command = Command::new(bin("skerry"));
    command
        .args(words)
        .env("SKERRY_REGISTRY", format!("http://{}", stack.address("registry-0")))
        .env("SKERRY_SCHEDULER", format!("http://{}", stack.address("scheduler-0")))
        .env("SKERRY_RELAY", format!("http://{}", stack.address(relay)))
        .env("SKERRY_CONFIG", "/dev/null")
        .stdin(Stdio::null());
    command
}

/// What a command comes to: exit code, standard output, standard error.
async fn ran(stack: &Stack, words: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = command(stack, "relay-0", words);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(PATIENCE, output).await.context("skerry did not end")???;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

/// The same of one that must succeed: both outputs.
async fn done(stack: &Stack, words: &[&str]) -> Result<(String, String)> {
    let (code, out, err) = ran(stack, words).await?;
    ensure!(code == Some(0), "{words:?}: {code:?}: {out}{err}");
    Ok((out, err))
}

/// A command that goes on, at a relay.
fn begin(stack: &Stack, relay: &str, words: &[&str], name: &str) -> Result<Process> {
    Process::spawn_command(&mut command(stack, relay, words), stack.dir().join(name))
}

/// A client of a relay.
async fn client(stack: &Stack, relay: &str) -> Result<RelayServiceClient<Channel>> {
    let channel = skerry_rpc::connect(stack.address(relay), None).await?;
    Ok(RelayServiceClient::new(channel))
}

/// The channels that are open, as `channel list` shows them.
async fn channels(stack: &Stack) -> Result<Vec<Value>> {
    let (out, _) = done(stack, &["channel", "list", "-o", "json"]).await?;
    let mut list: Value = serde_json::from_str(&out).context("reading the channels")?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// Waits until so many channels are open.
async fn wait_channels(stack: &Stack, count: usize) {
    eventually(&format!("{count} channels"), PATIENCE, async || {
        let open = channels(stack).await?;
        ensure!(open.len() == count, "{open:?}");
        Ok(())
    })
    .await;
}

/// With little of its output kept.
fn keeping(bytes: i64, files: u32, mut service: ServiceSpec) -> ServiceSpec {
    if let Some(service_spec::Program::Process(process)) = &mut service.program {
        process.log = Some(ProcessLog { max_size_bytes: Some(bytes), max_files: Some(files) });
    }
    service
}

/// The numbers after `word` in lines of a text, in their order.
fn numbers(text: &str, word: &str) -> Vec<u64> {
    let after = |line: &str| line.rsplit_once(word).and_then(|(_, number)| number.trim().parse().ok());
    text.lines().filter_map(after).collect()
}
