//! Samples and history from outside: from the driver to who asks, over kills and lost links, with several replicas.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Stack;
use skerry_integration::stack::PATIENCE;
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::gpu_service_client::GpuServiceClient;
use skerry_proto::gpu::v1::stream_samples_response::Body;
use skerry_proto::gpu::v1::{Field, gpu_event};
use skerry_testing::eventually;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{node, stack};

const PROJECT: &str = "projects/default";

async fn client(stack: &Stack, service: &str) -> Result<GpuServiceClient<Channel>> {
    Ok(GpuServiceClient::new(skerry_rpc::connect(stack.address(service), None).await?))
}

async fn gpus(stack: &Stack, service: &str) -> Result<Vec<pb::Gpu>> {
    let request = pb::ListGpusRequest { parent: PROJECT.into(), ..Default::default() };
    Ok(client(stack, service).await?.list_gpus(request).await?.into_inner().gpus)
}

async fn follow(stack: &Stack, service: &str) -> Result<Streaming<pb::StreamSamplesResponse>> {
    let request = pb::StreamSamplesRequest { parent: PROJECT.into(), events: true, ..Default::default() };
    Ok(client(stack, service).await?.stream_samples(request).await?.into_inner())
}

/// The next answer that is one.
async fn until<T>(
    stream: &mut Streaming<pb::StreamSamplesResponse>,
    what: &str,
    mut is: impl FnMut(Body) -> Option<T>,
) -> Result<T> {
    let found = async {
        loop {
            let answer = stream.message().await?.context("the stream ended")?;
            if let Some(found) = answer.body.and_then(&mut is) {
                return Ok(found);
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.with_context(|| format!("still not: {what}"))?
}

fn value(sample: &pb::Sample, field: Field) -> Option<i64> {
    sample.values.iter().find(|one| one.field() == field).map(|one| one.value)
}

fn sample_of(gpu: &str) -> impl FnMut(Body) -> Option<pb::Sample> + '_ {
    move |body| match body {
        Body::Sample(sample) if sample.gpu == gpu => Some(sample),
        _ => None,
    }
}

async fn history(stack: &Stack, service: &str, gpu: &str, step: i64) -> Result<Vec<pb::Series>> {
    let start = SystemTime::now() - Duration::from_secs(600);
    let request = pb::QueryHistoryRequest {
        parent: PROJECT.into(),
        selector: Some(pb::GpuSelector { gpus: vec![gpu.to_owned()], ..Default::default() }),
        fields: vec![Field::TemperatureCelsius.into()],
        start_time: Some(skerry_model::time::to_timestamp(start)),
        end_time: None,
        step: Some(prost_types::Duration { seconds: step, nanos: 0 }),
    };
    Ok(client(stack, service).await?.query_history(request).await?.into_inner().series)
}

/// Notes the errors of a number that are told of, by which they are told apart, until there is one of number `last`.
async fn note_xids(
    stream: &mut Streaming<pb::StreamSamplesResponse>,
    (code, last): (u32, u32),
    all: &mut BTreeSet<(String, u64)>,
) -> Result<()> {
    until(stream, "the last error", |body| {
        let Body::Event(event) = body else { return None };
        let event = event.event?;
        let Some(gpu_event::Kind::Xid(xid)) = event.kind else { return None };
        if xid.code == code {
            all.insert((event.boot_id, event.sequence));
        }
        (xid.code == last).then_some(())
    })
    .await
}

#[tokio::test]
async fn samples_history_and_errors_come_through_and_survive_kills() -> Result<()> {
    let mut stack = stack(1).await?;
    let mut card = node(&mut stack, "n1", "a100").await?;
    let all = gpus(&stack, "gpu-0").await?;
    ensure!(all.len() == 1, "{all:?}");
    let device = all[0].device.clone().unwrap_or_default();
    ensure!(
        device.model.contains("A100") && device.memory_bytes > 0 && !device.driver_version.is_empty(),
        "{device:?}"
    );
    let gpu = all[0].name.clone();

    let mut stream = follow(&stack, "gpu-0").await?;
    let mut own = sample_of(&gpu);
    let sample = until(&mut stream, "a sample with a temperature", |body| {
        own(body).filter(|sample| value(sample, Field::TemperatureCelsius).is_some())
    })
    .await?;
    ensure!((1..120).contains(&value(&sample, Field::TemperatureCelsius).unwrap_or_default()), "{sample:?}");
    ensure!(sample.absent.iter().all(|absent| !absent.fields.is_empty()), "{sample:?}");

    // The same error again and again: each counts, and none twice, though the service is killed before it has said what it has.
    card.xid(0, 31)?;
    card.xid(0, 31)?;
    card.xid(0, 13)?;
    let mut xids = BTreeSet::new();
    note_xids(&mut stream, (31, 13), &mut xids).await?;
    ensure!(xids.len() == 2, "each counts: {xids:?}");
    drop(stream);
    stack.kill_service("gpu-0")?;
    stack.start_service("gpu-0")?;
    stack.wait_service("gpu-0").await?;
    let mut stream = follow(&stack, "gpu-0").await?;
    until(&mut stream, "samples go on", sample_of(&gpu)).await?;
    card.xid(0, 43)?;
    note_xids(&mut stream, (31, 43), &mut xids).await?;
    ensure!(xids.len() == 2, "none is another one: {xids:?}");

    // A gateway that is away makes a gap, which is told and kept, and what was before it is there still.
    stack.kill_service("gateway-0")?;
    until(&mut stream, "the gap begins", |body| match body {
        Body::Gap(gap) if gap.gpu == gpu && gap.gap?.end_time.is_none() => Some(()),
        _ => None,
    })
    .await?;
    stack.start_service("gateway-0")?;
    stack.wait_service("gateway-0").await?;
    until(&mut stream, "the gap ends", |body| match body {
        Body::Gap(gap) if gap.gpu == gpu && gap.gap?.end_time.is_some() => Some(()),
        _ => None,
    })
    .await?;
    until(&mut stream, "samples go on", sample_of(&gpu)).await?;
    eventually("history has both sides of the gap", PATIENCE, async || {
        let series = history(&stack, "gpu-0", &gpu, 1).await?;
        ensure!(series.len() == 1, "{series:?}");
        // There may be one of the service's own end before it.
        let gap = series[0].gaps.last().context("no gap")?;
        let (from, to) = (gap.start_time.unwrap_or_default(), gap.end_time.unwrap_or_default());
        let times: Vec<i64> =
            series[0].points.iter().filter_map(|point| point.time).map(|at| at.seconds).collect();
        ensure!(
            times.iter().any(|at| *at <= from.seconds) && times.iter().any(|at| *at > to.seconds),
            "{series:?}"
        );
        ensure!(
            !times.iter().any(|at| *at > from.seconds + 1 && *at + 1 < to.seconds),
            "in the gap: {series:?}"
        );
        ensure!(
            series[0].points.iter().all(|p| p.min <= p.last && p.last <= p.max && p.avg >= p.min as f64),
            "{series:?}"
        );
        Ok(())
    })
    .await;
    let told = history(&stack, "gpu-0", &gpu, 0).await.map_err(|error| format!("{error:#}"));
    ensure!(told.as_ref().is_err_and(|told| told.contains("step")), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn replicas_share_the_nodes_and_each_answers_for_all() -> Result<()> {
    let mut stack = stack(2).await?;
    let mut cards = Vec::new();
    for name in ["n1", "n2", "n3", "n4"] {
        cards.push(node(&mut stack, name, "t4").await?);
    }
    let names: Vec<String> = gpus(&stack, "gpu-1").await?.into_iter().map(|gpu| gpu.name).collect();
    ensure!(names.len() == 4, "{names:?}");
    for service in ["gpu-0", "gpu-1"] {
        let mut stream = follow(&stack, service).await?;
        for name in &names {
            until(&mut stream, name, sample_of(name)).await?;
        }
    }
    for name in &names {
        eventually("history", PATIENCE, async || {
            let series = history(&stack, "gpu-0", name, 1).await?;
            ensure!(series.len() == 1 && series[0].points.len() > 1, "{series:?}");
            Ok(())
        })
        .await;
    }
    // One goes: the other one has all nodes after a while, and who follows there sees them go on.
    let mut stream = follow(&stack, "gpu-1").await?;
    stack.kill_service("gpu-0")?;
    for name in &names {
        let mut seen = None;
        until(&mut stream, name, |body| {
            let sample = sample_of(name)(body)?;
            let seen = *seen.get_or_insert(sample.time.unwrap_or_default().seconds);
            (sample.time.unwrap_or_default().seconds > seen + 20).then_some(())
        })
        .await?;
    }
    Ok(())
}
