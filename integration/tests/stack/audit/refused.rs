//! Calls that are refused for who made them: counted in the service's file and its metrics, and in no chain.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::stack::PATIENCE;
use skerry_proto::registry::v1::GetNodeRequest;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_testing::{free_port, http_get};
use tonic::Code;
use tonic::transport::Channel;

use super::verified;
use crate::projects::World;

/// How often the viewer tries.
const TRIES: usize = 7;
/// Methods that are none, each of another name.
const MADE_UP: usize = 50;
const VIEWER: &str = "spiffe://skerry.internal/project/default/user/ada";

/// Calls a method that no service has.
async fn call_made_up(channel: &Channel, number: usize) -> Result<Code> {
    // The generated client puts the path of the origin before its own.
    let origin = format!("/made-up-{number}").parse()?;
    let mut client = NodeServiceClient::with_origin(channel.clone(), origin);
    let answer = client.get_node(GetNodeRequest::default()).await;
    Ok(answer.err().context("it was answered")?.code())
}

/// The counter's value where its labels have `reason`.
fn denied(metrics: &str, reason: &str) -> Option<u64> {
    let is_it =
        |line: &&str| line.starts_with("skerry_rpc_denied_total{") && line.contains(&format!("\"{reason}\""));
    metrics.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn refused_calls_are_one_line_with_their_count_and_made_up_names_are_one_more() -> Result<()> {
    let metrics = format!("127.0.0.1:{}", free_port());
    let mut world = World::start(&["--no-agent", &format!("--metrics-listen={metrics}")]).await?;
    let ada = world.user("default", "ada", "viewer").await?;
    world.config("site", "one")?;
    let (_, before) = verified(&world.store).await?;
    for _ in 0..TRIES {
        let (code, said) = world.skerry(&format!("apply -f site.yaml {ada}")).await?;
        ensure!(code == Some(1) && said.contains("that takes the role operator"), "{code:?} {said}");
    }
    let channel = world.channel("ada", "ada-ca.crt").await?;
    for number in 0..MADE_UP {
        let code = call_made_up(&channel, number).await?;
        ensure!(code == Code::PermissionDenied, "{code:?}");
    }
    let told = http_get(&metrics, "/metrics").await?;
    let told = String::from_utf8_lossy(&told.body).into_owned();
    let (_, after) = verified(&world.store).await?;
    assert_eq!(before.len(), after.len(), "what is refused leaves no record");

    // What is counted is written down with the end at the latest.
    world.up.take().context("it runs")?.terminate(PATIENCE).await?;
    let file = std::fs::read_to_string(world.dir.path().join("data/denied.jsonl"))?;
    let lines = file.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let mut counted = BTreeMap::new();
    let (mut reasons, mut by_reason) = (Vec::new(), 0);
    for line in lines.iter().filter(|line| line["who"] == VIEWER) {
        let method = line["method"].as_str().context("a method")?;
        // A minute may have ended meanwhile: then there is a line of each.
        let count = line["count"].as_u64().context("a count")?;
        *counted.entry(method).or_insert(0) += count;
        reasons.push(line["reason"].as_str().context("a reason")?);
    }
    let expected = [
        ("skerry.scheduler.v1.ConfigService/UpdateConfig", u64::try_from(TRIES)?),
        ("unknown", u64::try_from(MADE_UP)?),
    ];
    assert_eq!(counted.into_iter().collect::<Vec<_>>(), expected, "{file}");
    ensure!(lines.len() < 10, "made-up names take no lines of their own: {file}");
    reasons.sort_unstable();
    reasons.dedup();
    for reason in reasons {
        by_reason += denied(&told, reason).with_context(|| format!("no {reason} in {told}"))?;
    }
    assert_eq!(by_reason, u64::try_from(TRIES + MADE_UP)?, "{told}");
    ensure!(!told.contains("made-up"), "{told}");
    Ok(())
}
