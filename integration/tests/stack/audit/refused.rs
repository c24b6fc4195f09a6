//! Calls that are refused for who made them: counted in the service's file and its metrics, and in no chain.

use std::collections::{BTreeMap, BTreeSet};

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
const TRIES: u64 = 7;
/// Methods that are none, each of another name, called by who has no certificate.
const MADE_UP: u64 = 50;
const NOBODY: &str = "nobody, from 127.0.0.1";
const VIEWER: &str = "spiffe://skerry.internal/project/default/user/ada";

/// Calls a method that no service has.
async fn call_made_up(channel: &Channel, number: u64) -> Result<Code> {
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
    let channel = world.channel(None, "ada-ca.crt").await?;
    for number in 0..MADE_UP {
        let code = call_made_up(&channel, number).await?;
        ensure!(code == Code::Unauthenticated, "{code:?}");
    }
    let told = http_get(&metrics, "/metrics").await?;
    let told = String::from_utf8_lossy(&told.body).into_owned();
    let (_, after) = verified(&world.store).await?;
    assert_eq!(before.len(), after.len(), "what is refused leaves no record");

    // What is counted is written down with the end at the latest.
    world.up.take().context("it runs")?.terminate(PATIENCE).await?;
    let file = std::fs::read_to_string(world.dir.path().join("data/denied.jsonl"))?;
    let lines = file.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let (mut counted, mut reasons) = (BTreeMap::new(), BTreeSet::new());
    for line in &lines {
        let text = |field: &str| line[field].as_str().map(str::to_owned).context("a text");
        // A minute may have ended meanwhile: then there is a line of each.
        let count = line["count"].as_u64().context("a count")?;
        *counted.entry((text("who")?, text("method")?)).or_insert(0) += count;
        reasons.insert(text("reason")?);
    }
    let count = |who: &str, method: &str| counted.get(&(who.to_owned(), method.to_owned())).copied();
    let by_ada = count(VIEWER, "skerry.scheduler.v1.ConfigService/UpdateConfig");
    assert_eq!((by_ada, count(NOBODY, "unknown")), (Some(TRIES), Some(MADE_UP)), "{file}");
    ensure!(lines.len() < 10, "made-up names take no lines of their own: {file}");
    let by_reason = reasons.iter().map(|reason| denied(&told, reason).unwrap_or_default());
    assert_eq!(by_reason.sum::<u64>(), counted.values().sum::<u64>(), "{file}{told}");
    ensure!(!told.contains("made-up"), "{told}");
    Ok(())
}
