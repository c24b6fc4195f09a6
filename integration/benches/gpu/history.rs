//! A day of one node, and how long it takes to answer what was.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use skerry_gpu_model::{Decoder, Encoder, Field, Sample};
use skerry_proto::gpu::v1 as pb;
use skerry_testing::{Budget, Figures, percentile};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::recorded::Recorded;
use crate::service::Service;
use crate::support::{ms, quick};

const NODE: &str = "projects/default/nodes/edge-1";
/// Frames of a message; and how often one is sent, so that the service's disk keeps up.
const FRAMES_AT_ONCE: usize = 50;
const SEND_EVERY: Duration = Duration::from_millis(5);
const QUERIES: usize = 30;
const QUERY_MS_MAX: f64 = 20.0;
const VALUE_BYTES_MAX: f64 = 3.0;

pub(crate) async fn run(figures: &Figures, recorded: &Recorded) -> Result<()> {
    let hours = if quick() { 3 } else { 24 };
    let curves = Curves::of(recorded)?;
    let service = Service::start(false).await?;
    let now = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())?;
    let begin = now - hours * 3_600_000;
    fill(&service, &curves, begin, now).await?;
    // History is maintained once a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let values = service.counted("skerry_gpu_history_values_total").await?;
    let bytes = service.counted("skerry_gpu_history_bytes_total").await?;
    figures.hold("gpu.history.value", bytes / values, "B", Budget::AtMost(VALUE_BYTES_MAX));
    figures.show("gpu.history.values", values / 1e6, "million");
    let files = service.counted("skerry_gpu_history_files_bytes").await?;
    figures.show("gpu.history.files", files / 1_048_576.0, "MiB");

    let gpu = curves.devices.first().context("a GPU")?.uuid.clone();
    let all: Vec<Field> = curves.fields();
    let load = [Field::GpuUtilization];
    let questions = [
        ("load_by_10s", &load[..], 10, Some(Budget::AtMost(QUERY_MS_MAX))),
        ("all_by_300s", &all, 300, Some(Budget::AtMost(QUERY_MS_MAX))),
        ("all_by_60s", &all, 60, None),
    ];
    for (name, fields, step, budget) in questions {
        ask(figures, &service, &gpu, (name, fields, step, budget), (begin, now)).await?;
    }
    Ok(())
}

async fn ask(
    figures: &Figures,
    service: &Service,
    gpu: &str,
    (name, fields, step, budget): (&str, &[Field], i64, Option<Budget>),
    (begin, end): (i64, i64),
) -> Result<()> {
    let mut user = service.user().await?;
    let time = |millis: i64| Some(skerry_gpu_model::timestamp(millis));
    let request = pb::QueryHistoryRequest {
        parent: "projects/default".into(),
        selector: Some(pb::GpuSelector { gpus: vec![format!("{NODE}/gpus/{gpu}")], ..Default::default() }),
        fields: fields.iter().map(|field| field.to_wire().into()).collect(),
        start_time: time(begin),
        end_time: time(end),
        step: Some(prost_types::Duration { seconds: step, nanos: 0 }),
    };
    let mut took = Vec::new();
    let mut points = 0;
    for _ in 0..QUERIES {
        let begun = Instant::now();
        let answer = user.query_history(request.clone()).await?.into_inner();
        took.push(ms(begun.elapsed()));
        points = answer.series.iter().map(|series| series.points.len()).sum();
        let gaps = answer.series.iter().map(|series| series.gaps.len()).sum::<usize>();
        ensure!(gaps == 0, "the service lost some of what it was sent: {gaps} gaps");
    }
    let wanted = (end - begin) / 1000 / step * i64::try_from(fields.len())?;
    ensure!(points as i64 >= wanted * 9 / 10, "{points} points, of {wanted}");
    figures.show(&format!("gpu.history.{name}.points"), points as f64, "");
    let median = percentile(&mut took, 50.0).unwrap_or_default();
    let name_of = |percentile| format!("gpu.history.{name}.{percentile}");
    match budget {
        Some(budget) => figures.hold(&name_of("p50"), median, "ms", budget),
        None => figures.show(&name_of("p50"), median, "ms"),
    }
    let slow = percentile(&mut took, 99.0).unwrap_or_default();
    figures.show(&name_of("p99"), slow, "ms");
    Ok(())
}

/// What was sampled: seconds of all nodes, one after the other, of four GPUs each.
struct Curves {
    devices: Vec<pb::Device>,
    seconds: Vec<Vec<Sample>>,
}

impl Curves {
    fn of(recorded: &Recorded) -> Result<Self> {
        let (mut devices, mut seconds) = (Vec::new(), Vec::new());
        for frames in &recorded.nodes {
            let mut decoder = Decoder::new();
            for frame in frames {
                decoder.take(&pb::Frame::decode(frame.clone())?);
                let samples: Vec<Sample> =
                    decoder.places().iter().map(|followed| followed.sample().clone()).collect();
                seconds.push(samples);
            }
            devices = decoder.devices().to_vec();
        }
        Ok(Self { devices, seconds })
    }

    /// What the first GPU has, at the end.
    fn fields(&self) -> Vec<Field> {
        let last = self.seconds.last().and_then(|samples| samples.first());
        let known = |field: &Field| last.is_some_and(|sample| sample.value(*field).is_some());
        Field::ALL.into_iter().filter(known).collect()
    }
}

/// Sends a sample for each second, over and over, as one session of the node.
async fn fill(service: &Service, curves: &Curves, begin: i64, end: i64) -> Result<()> {
    let mut client = service.gateway().await?;
    let (requests, sent) = mpsc::channel(8);
    let session = pb::IngestSession {
        handle: 1,
        node: NODE.into(),
        epoch_term: 1,
        epoch_revision: 1,
        ..Default::default()
    };
    requests.send(pb::IngestRequest { sessions: vec![session], frames: Vec::new() }).await?;
    let mut answers = client.ingest(ReceiverStream::new(sent)).await?.into_inner();
    let mut encoder = Encoder::new(1, "bench");
    encoder.set_devices(curves.devices.clone())?;
    let mut frames = Vec::new();
    let say = async {
        for (second, samples) in (begin..end).step_by(1000).zip(curves.seconds.iter().cycle()) {
            let frame = encoder.encode(second, samples).map(|frame| frame.encode_to_vec().into());
            frames.extend(frame.map(|frame| pb::IngestFrame { handle: 1, frame }));
            if frames.len() >= FRAMES_AT_ONCE {
                let frames = std::mem::take(&mut frames);
                requests.send(pb::IngestRequest { sessions: Vec::new(), frames }).await?;
                tokio::time::sleep(SEND_EVERY).await;
            }
        }
        requests.send(pb::IngestRequest { sessions: Vec::new(), frames }).await?;
        // What was sent last is to arrive before the stream ends.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    };
    let hear = async {
        while let Some(answer) = answers.message().await? {
            let said =
                answer.feedback.iter().filter_map(|one| pb::Feedback::decode(one.feedback.clone()).ok());
            ensure!(!said.into_iter().any(|said| said.keyframe), "a frame was not followed");
        }
        anyhow::bail!("the service ended the stream")
    };
    tokio::select! {
        said = say => said,
        heard = hear => heard,
    }
}
