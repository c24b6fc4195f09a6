//! What one core takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use prost::Message as _;
use skerry_gpu_model::{Decoder, Field};
use skerry_proto::gpu::v1 as pb;
use skerry_testing::{Budget, Figures};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::recorded::{GPUS, Recorded};
use crate::service::Service;
use crate::support::{ms, proc, quick};

const GATEWAYS: usize = 4;
/// How long a gateway gathers frames for one message.
const GATHER: Duration = Duration::from_millis(20);
/// So many of these are a second.
const TURNS: usize = 50;
/// Messages that wait for a stream.
const WAITING_MAX: usize = 8;
const SESSIONS_AT_ONCE: usize = 500;
/// GPUs that are asked for at once.
const GPUS_AT_ONCE: usize = 256;

/// What a gateway has done so far.
#[derive(Default)]
struct Done {
    frames: AtomicU64,
    bytes: AtomicU64,
    /// Keyframes that were asked for.
    asked: AtomicU64,
    /// How far the last turn was behind its time, in milliseconds.
    late: AtomicU64,
}

pub(crate) async fn run(figures: &Figures, recorded: &Recorded) -> Result<()> {
    let nodes = if quick() { 1_000 } else { 10_000 };
    let service = Service::start(true).await?;
    let done = Arc::new(Done::default());
    let mut gateways = JoinSet::new();
    for gateway in 0..GATEWAYS {
        let client = service.gateway().await?;
        let nodes: Vec<(usize, Vec<Bytes>)> = (gateway..nodes)
            .step_by(GATEWAYS)
            .map(|node| (node, recorded.nodes[node % recorded.nodes.len()].clone()))
            .collect();
        gateways.spawn(send(client, nodes, Arc::clone(&done)));
    }
    let seconds = recorded.nodes.iter().map(Vec::len).min().context("frames")?;
    let settle = seconds / 3;
    let window = Duration::from_secs((seconds - settle - 2) as u64);
    tokio::time::sleep(Duration::from_secs(settle as u64)).await;
    let look = || -> Result<_> {
        Ok((Instant::now(), proc::processor_time(service.pid())?, done.frames.load(Ordering::Relaxed)))
    };
    let (begun, spent, sent) = look()?;
    tokio::time::sleep(window).await;
    let (ended, spent_then, sent_then) = look()?;
    let late = done.late.load(Ordering::Relaxed);
    let scraped = Instant::now();
    let metrics = service.metrics().await?.len() as f64;
    let scraped = ms(scraped.elapsed());
    let memory = proc::memory(service.pid())?;
    gateways.join_all().await.into_iter().collect::<Result<()>>()?;
    let took = (ended - begun).as_secs_f64();
    let cpu = spent_then.saturating_sub(spent).as_secs_f64() / took;
    let rate = (sent_then - sent) as f64 / took;
    figures.show("gpu.ingest.nodes", nodes as f64, "");
    // One is sent a moment before a look, or after it.
    figures.hold("gpu.ingest.frames", rate, "/s", Budget::AtLeast(nodes as f64 * 0.99));
    figures.show("gpu.ingest.samples", rate * GPUS as f64, "/s");
    figures.hold("gpu.ingest.cpu", cpu * 100.0, "% of a core", Budget::AtMost(100.0));
    figures.hold("gpu.ingest.late", late as f64, "ms", Budget::AtMost(1_000.0));
    let asked = done.asked.load(Ordering::Relaxed);
    figures.hold("gpu.ingest.asked", asked as f64, "keyframes", Budget::AtMost(0.0));
    let (known, gaps) = kept(&service, nodes, recorded).await?;
    figures.hold("gpu.ingest.kept", known as f64, "GPUs", Budget::AtLeast((nodes * GPUS) as f64));
    figures.hold("gpu.ingest.gaps", gaps as f64, "", Budget::AtMost(0.0));
    figures.show("gpu.ingest.memory", memory.anonymous as f64 / (nodes * GPUS) as f64 / 1024.0, "KiB/GPU");
    figures.show("gpu.ingest.metrics", metrics / (nodes * GPUS) as f64 / 1024.0, "KiB/GPU");
    figures.show("gpu.ingest.metrics.took", scraped, "ms");
    let frames = done.frames.load(Ordering::Relaxed) as f64;
    let bytes = done.bytes.load(Ordering::Relaxed) as f64;
    figures.show("gpu.ingest.messages", bytes / frames / GPUS as f64, "B/sample");
    Ok(())
}

/// Of how many GPUs history has something, and how many times it lacks something of one.
async fn kept(service: &Service, nodes: usize, recorded: &Recorded) -> Result<(usize, usize)> {
    let mut gpus = Vec::new();
    let (mut begin, mut end) = (i64::MAX, i64::MIN);
    for (at, frames) in recorded.nodes.iter().enumerate() {
        let mut decoder = Decoder::new();
        for frame in frames {
            decoder.take(&pb::Frame::decode(frame.clone())?);
            let time = decoder.time().context("a time")?;
            (begin, end) = (begin.min(time), end.max(time + 1_000));
        }
        let uuids: Vec<&str> = decoder.devices().iter().map(|device| &*device.uuid).collect();
        let of_nodes = (at..nodes).step_by(recorded.nodes.len());
        gpus.extend(
            of_nodes.flat_map(|node| uuids.iter().map(move |uuid| format!("{}/gpus/{uuid}", name(node)))),
        );
    }
    let mut user = service.user().await?;
    let (mut known, mut gaps) = (0, 0);
    for some in gpus.chunks(GPUS_AT_ONCE) {
        let request = pb::QueryHistoryRequest {
            parent: "projects/default".into(),
            selector: Some(pb::GpuSelector { gpus: some.to_vec(), ..Default::default() }),
            fields: vec![Field::GpuUtilization.to_wire().into()],
            start_time: Some(skerry_gpu_model::timestamp(begin)),
            end_time: Some(skerry_gpu_model::timestamp(end)),
            step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        };
        let series = user.query_history(request).await?.into_inner().series;
        known += series.len();
        gaps += series.iter().map(|series| series.gaps.len()).sum::<usize>();
    }
    Ok((known, gaps))
}

fn name(node: usize) -> String {
    format!("projects/default/nodes/node-{node}")
}

/// One gateway: its nodes' frames, each a second after the one before, the nodes of a second apart.
async fn send(
    mut client: pb::ingest_service_client::IngestServiceClient<tonic::transport::Channel>,
    nodes: Vec<(usize, Vec<Bytes>)>,
    done: Arc<Done>,
) -> Result<()> {
    let (requests, sent) = mpsc::channel(WAITING_MAX);
    for some in nodes.chunks(SESSIONS_AT_ONCE) {
        let session = |(node, _): &(usize, _)| -> Result<_> {
            Ok(pb::IngestSession {
                handle: u32::try_from(*node)?,
                node: name(*node),
                epoch_term: 1,
                epoch_revision: 1,
                ..pb::IngestSession::default()
            })
        };
        let sessions = some.iter().map(session).collect::<Result<_>>()?;
        let request = pb::IngestRequest { sessions, ..pb::IngestRequest::default() };
        // The first of them open the stream.
        if requests.try_send(request).is_err() {
            anyhow::bail!("more sessions than a stream takes at once");
        }
    }
    let mut answers = client.ingest(ReceiverStream::new(sent)).await?.into_inner();
    let hearing = Arc::clone(&done);
    let hear = async move {
        while let Ok(Some(answer)) = answers.message().await {
            let said =
                answer.feedback.iter().filter_map(|one| pb::Feedback::decode(one.feedback.clone()).ok());
            hearing.asked.fetch_add(said.filter(|said| said.keyframe).count() as u64, Ordering::Relaxed);
        }
        anyhow::bail!("the service ended the stream")
    };
    let turns = nodes.iter().map(|(_, frames)| frames.len()).min().unwrap_or_default() * TURNS;
    let say = async move {
        let begun = Instant::now();
        for turn in 0..turns {
            let due = begun + GATHER * u32::try_from(turn)?;
            tokio::time::sleep_until(due.into()).await;
            let (second, part) = (turn / TURNS, turn % TURNS);
            let some = nodes.iter().enumerate().filter(|(at, _)| at % TURNS == part);
            let frame = |(_, (node, frames)): (usize, &(usize, Vec<Bytes>))| -> Result<_> {
                Ok(pb::IngestFrame { handle: u32::try_from(*node)?, frame: frames[second].clone() })
            };
            let frames: Vec<_> = some.map(frame).collect::<Result<_>>()?;
            let count = frames.len() as u64;
            let request = pb::IngestRequest { frames, ..pb::IngestRequest::default() };
            let bytes = request.encoded_len() as u64;
            requests.send(request).await.context("the stream to the service")?;
            done.frames.fetch_add(count, Ordering::Relaxed);
            done.bytes.fetch_add(bytes, Ordering::Relaxed);
            let late = u64::try_from(due.elapsed().as_millis())?;
            done.late.store(late, Ordering::Relaxed);
        }
        // What was sent last is to arrive before the stream ends.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    };
    tokio::select! {
        said = say => said,
        heard = hear => heard,
    }
}
