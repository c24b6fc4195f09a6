//! What was: of this replica's history (`own`), and of all (`query`). A node that moved from one replica to another has something at both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skerry_api::Replica;
use skerry_gpu_model::Field;
use skerry_model::Fault;
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::peer_service_client::PeerServiceClient;
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced, status_of};
use skerry_series::{Bucket, Time};
use tonic::{Response, Status};

use crate::Shared;
use crate::convert::{millis, now, timestamp};
use crate::group::{group_of, parse_gpu};
use crate::peers::NAMES;
use crate::select::Selection;

/// Most points of an answer.
const POINTS_MAX: u64 = 100_000;
const FIELDS_MAX: usize = 64;
const STEP_MIN_MILLIS: i64 = 1_000;
/// How long another replica may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is asked, checked.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    fields: Vec<i32>,
    /// Milliseconds since 1970.
    start: i64,
    end: i64,
    step: i64,
}

impl Asked {
    fn parse(request: &pb::QueryHistoryRequest, now: i64) -> Result<Self, Fault> {
        let known = |number: &i32| u32::try_from(*number).ok().and_then(Field::from_number).is_some();
        if request.fields.is_empty() || request.fields.len() > FIELDS_MAX {
            return Err(Fault::invalid_field("fields", format!("name 1 to {FIELDS_MAX} fields")));
        }
        if let Some(unknown) = request.fields.iter().find(|field| !known(field)) {
            return Err(Fault::invalid_field("fields", format!("this server knows no field {unknown}")));
        }
        let mut fields = request.fields.clone();
        fields.sort_unstable();
        fields.dedup();
        let start = request.start_time.as_ref().map(millis);
        let start = start.ok_or_else(|| Fault::invalid_field("start_time", "say from when on"))?;
        // What is still to come is not known.
        let end = request.end_time.as_ref().map_or(now, millis).min(now);
        if start >= end {
            let message = "nothing is between it and the end: give a time before `end_time`, and in the past";
            return Err(Fault::invalid_field("start_time", message));
        }
        let step = request.step.as_ref().and_then(|step| Duration::try_from(*step).ok());
        let step = step.and_then(|step| i64::try_from(step.as_millis()).ok());
        let step = step.filter(|step| *step >= STEP_MIN_MILLIS);
        let step = step.ok_or_else(|| Fault::invalid_field("step", "give 1 s or more"))?;
        Ok(Self { fields, start, end, step })
    }

    /// Whether so many series fit into an answer.
    fn check_points(&self, groups: usize) -> Result<(), Fault> {
        let series = (groups * self.fields.len()) as u64;
        let range = self.end.abs_diff(self.start);
        let points = (range / self.step.unsigned_abs() + 2).saturating_mul(series);
        if points <= POINTS_MAX {
            return Ok(());
        }
        let each = POINTS_MAX / series.max(1);
        if each < 3 {
            let message =
                format!("{series} series are too many for one answer: ask for fewer GPUs or fields");
            return Err(Fault::invalid_field("selector", message));
        }
        let fits = range.div_ceil(each - 2).div_ceil(1000);
        let message = format!(
            "the answer would have {points} points, of at most {POINTS_MAX}: a step of {fits} s fits, or a shorter range"
        );
        Err(Fault::invalid_field("step", message))
    }
}

/// What this replica has kept.
pub(crate) async fn own(
    shared: &Shared,
    request: pb::QueryOwnHistoryRequest,
) -> Result<Vec<pb::Series>, Fault> {
    let asked = pb::QueryHistoryRequest {
        fields: request.fields,
        start_time: request.start_time,
        end_time: request.end_time,
        step: request.step,
        ..pb::QueryHistoryRequest::default()
    };
    let asked = Asked::parse(&asked, now())?;
    asked.check_points(request.groups.len())?;
    let fields = asked.fields.iter().filter_map(|field| u32::try_from(*field).ok().map(skerry_series::Field));
    let groups = request.groups.iter().map(|group| group_of(&group.gpu, &group.mig_device)).collect();
    let time = |millis| Time::from_unix_ms(millis).unwrap_or(Time::MIN);
    let range = time(asked.start)..time(asked.end);
    let step = Duration::from_millis(asked.step.unsigned_abs());
    let prepared = shared.recorder.prepare(groups, fields.collect(), range, step).await;
    let queries = prepared
        .ok_or_else(|| Fault::unavailable("this gpu service stops: try again"))?
        .map_err(|error| Fault::invalid_field("step", error))?;
    let answers = tokio::task::spawn_blocking(move || {
        queries.iter().map(skerry_series::Query::run).collect::<Result<Vec<_>, _>>()
    });
    let answers =
        answers.await.map_err(|error| Fault::unavailable(format!("reading the history: {error}")))?;
    let answers = answers.map_err(|error| Fault::unavailable(format!("reading the history: {error}")))?;
    let mut all = Vec::new();
    for (group, answer) in request.groups.iter().zip(answers) {
        let gaps = gaps(shared, &group.gpu, &asked);
        for (field, buckets) in answer.fields {
            if buckets.is_empty() {
                continue;
            }
            all.push(pb::Series {
                gpu: group.gpu.clone(),
                field: i32::try_from(field.0).unwrap_or_default(),
                points: buckets.iter().map(point).collect(),
                gaps: gaps.clone(),
                mig_device: group.mig_device.clone(),
            });
        }
    }
    Ok(all)
}

/// Of which times in the range nothing is known of a GPU, as far as they are longer than a step.
fn gaps(shared: &Shared, gpu: &str, asked: &Asked) -> Vec<pb::Gap> {
    let cell = gpu.split_once("/gpus/").and_then(|(node, _)| shared.fleet.get(node));
    let Some(cell) = cell else { return Vec::new() };
    let node = cell.lock();
    let touches = |gap: &&pb::Gap| {
        let start = gap.start_time.as_ref().map_or(0, millis);
        let end = gap.end_time.as_ref().map_or(asked.end, millis);
        start < asked.end && end > asked.start && end - start > asked.step
    };
    node.marks.gaps.iter().chain(&node.open_gap_of_history()).filter(touches).copied().collect()
}

fn point(bucket: &Bucket) -> pb::Point {
    let span = Duration::from_millis(bucket.span_ms.unsigned_abs());
    pb::Point {
        time: Some(timestamp(bucket.start.unix_ms())),
        step: prost_types::Duration::try_from(span).ok(),
        min: bucket.min,
        avg: bucket.mean,
        max: bucket.max,
        last: bucket.last,
    }
}

/// What all replicas have kept.
pub(crate) async fn query(
    shared: &Arc<Shared>,
    request: pb::QueryHistoryRequest,
) -> Result<Response<pb::QueryHistoryResponse>, Status> {
    let series = query_all(shared, &request).await.map_err(|fault| status_of(&fault))?;
    Ok(Response::new(pb::QueryHistoryResponse { series }))
}

async fn query_all(
    shared: &Arc<Shared>,
    request: &pb::QueryHistoryRequest,
) -> Result<Vec<pb::Series>, Fault> {
    let asked = Asked::parse(request, now())?;
    let selection = Selection::parse(&request.parent, request.selector.as_ref())?;
    let mut gpus = shared.inventory.select(&selection).await?;
    // What was is known of those too that are gone.
    for named in selection.named() {
        parse_gpu("selector.gpus", named)?;
        if !gpus.contains(named) {
            gpus.push(named.clone());
        }
    }
    let mut groups = Vec::new();
    for gpu in &gpus {
        let parts = shared.inventory.parts(gpu);
        groups.extend(
            std::iter::once(String::new())
                .chain(parts)
                .map(|mig_device| pb::HistoryGroup { gpu: gpu.clone(), mig_device }),
        );
    }
    asked.check_points(groups.len())?;
    let request = pb::QueryOwnHistoryRequest {
        groups,
        fields: asked.fields.clone(),
        start_time: Some(timestamp(asked.start)),
        end_time: Some(timestamp(asked.end)),
        step: request.step,
    };
    let mut all = own(shared, request.clone()).await?;
    for replica in Replica::all(&shared.store, "gpu").await? {
        if *replica.id != *shared.id {
            all.extend(ask(shared, &replica, request.clone()).await?);
        }
    }
    Ok(merge(all))
}

async fn ask(
    shared: &Shared,
    replica: &Replica,
    request: pb::QueryOwnHistoryRequest,
) -> Result<Vec<pb::Series>, Fault> {
    let of = |why: &str| {
        Fault::unavailable(format!(
            "the gpu service at {} has a part of the answer, and {why}: try again",
            replica.address
        ))
    };
    let connection =
        shared.links.connect(&replica.address, &NAMES).await.map_err(|_| of("cannot be reached"))?;
    let mut client = PeerServiceClient::new(Traced::new(connection.channel.clone()))
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    match tokio::time::timeout(DEADLINE, client.query_own_history(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().series),
        Ok(Err(status)) => {
            shared.links.failed(&replica.address, &status);
            Err(of(&format!("says: {}", status.message())))
        }
        Err(_) => Err(of("does not answer in time")),
    }
}

/// One series of each GPU, part and field, its points by time: where two replicas have one of the same time, the one that knows of more of it counts, which is
/// the later part of it.
fn merge(all: Vec<pb::Series>) -> Vec<pb::Series> {
    let mut merged: BTreeMap<(String, String, i32), pb::Series> = BTreeMap::new();
    // What one replica has is in order, and most of it nobody else has.
    let mut of_several = BTreeSet::new();
    for series in all {
        let key = (series.gpu.clone(), series.mig_device.clone(), series.field);
        match merged.get_mut(&key) {
            None => drop(merged.insert(key, series)),
            Some(there) => {
                there.points.extend(series.points);
                there.gaps.extend(series.gaps);
                of_several.insert(key);
            }
        }
    }
    let order = |time: &Option<prost_types::Timestamp>| time.as_ref().map_or(i64::MIN, millis);
    for (_, series) in merged.iter_mut().filter(|(key, _)| of_several.contains(*key)) {
        series.points.sort_by_key(|point| order(&point.time));
        series.points.dedup_by(|later, first| {
            let same = later.time == first.time && later.step == first.step;
            if same {
                first.min = first.min.min(later.min);
                first.max = first.max.max(later.max);
                first.avg = f64::midpoint(first.avg, later.avg);
                first.last = later.last;
            }
            same
        });
        // Of a node that moved, what one has no samples of another one has: a whole step in the middle of the gap.
        let known = |gap: &pb::Gap| {
            let (start, end) = (order(&gap.start_time), gap.end_time.as_ref().map_or(i64::MAX, millis));
            series.points.iter().any(|point| {
                let (from, step) =
                    (order(&point.time), point.step.as_ref().map_or(0, |step| step.seconds * 1000));
                from >= start && from + step <= end
            })
        };
        let mut gaps: Vec<pb::Gap> = series.gaps.iter().filter(|gap| !known(gap)).copied().collect();
        gaps.sort_by_key(|gap| (order(&gap.start_time), order(&gap.end_time)));
        gaps.dedup();
        series.gaps = gaps;
    }
    merged.into_values().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> prost_types::Timestamp {
        timestamp(seconds * 1000 + 400)
    }

    fn series(times: &[i64], gaps: &[(i64, Option<i64>)]) -> pb::Series {
        let step = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let point =
            |time: &i64| pb::Point { time: Some(timestamp(time * 1000)), step, ..pb::Point::default() };
        let gap = |(start, end): &(i64, Option<i64>)| pb::Gap {
            start_time: Some(at(*start)),
            end_time: end.map(at),
            ..pb::Gap::default()
        };
        pb::Series {
            gpu: "g".into(),
            field: 7,
            points: times.iter().map(point).collect(),
            gaps: gaps.iter().map(gap).collect(),
            ..pb::Series::default()
        }
    }

    #[test]
    fn what_one_replica_does_not_know_another_one_may() {
        // The first had the node until 3, and again from 8 on; the second in between, but for 5 and 6.
        let one = series(&[1, 2, 3, 8, 9], &[(3, Some(8))]);
        let two = series(&[4, 7], &[(4, Some(7)), (7, None)]);
        let merged = merge(vec![one, two]);
        let times: Vec<i64> = merged[0].points.iter().filter_map(|p| p.time).map(|at| at.seconds).collect();
        assert_eq!((merged.len(), times), (1, vec![1, 2, 3, 4, 7, 8, 9]));
        assert_eq!(merged[0].gaps, series(&[], &[(4, Some(7))]).gaps);
    }

    proptest! {
        #[test]
        fn a_step_that_is_told_to_fit_does(
            groups in 1_usize..2_000, fields in 1_usize..=64, range in 1_000_i64..40_000_000_000, step in 1_000_i64..100_000,
        ) {
            let asked = Asked { fields: vec![0; fields], start: 0, end: range, step };
            let Err(fault) = asked.check_points(groups) else { return Ok(()) };
            let told = format!("{fault:?}");
            if let Some((_, rest)) = told.split_once("a step of ") {
                let seconds: i64 = rest.split(' ').next().unwrap().parse().unwrap();
                let fits = Asked { step: seconds * 1000, ..asked };
                prop_assert!(fits.check_points(groups).is_ok(), "{told}");
            } else {
                prop_assert!(told.contains("fewer GPUs"), "{told}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let right = pb::QueryHistoryRequest {
            fields: vec![7],
            start_time: Some(timestamp(1_000_000)),
            step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..pb::QueryHistoryRequest::default()
        };
        assert!(Asked::parse(&right, 2_000_000).is_ok());
        let cases = [
            (pb::QueryHistoryRequest { fields: vec![], ..right.clone() }, "fields"),
            (pb::QueryHistoryRequest { fields: vec![7; 65], ..right.clone() }, "fields"),
            (pb::QueryHistoryRequest { fields: vec![9_999], ..right.clone() }, "fields"),
            (pb::QueryHistoryRequest { start_time: None, ..right.clone() }, "start_time"),
            (
                pb::QueryHistoryRequest { start_time: Some(timestamp(3_000_000)), ..right.clone() },
                "start_time",
            ),
            (pb::QueryHistoryRequest { end_time: Some(timestamp(5)), ..right.clone() }, "start_time"),
            (pb::QueryHistoryRequest { step: None, ..right.clone() }, "step"),
            (
                pb::QueryHistoryRequest {
                    step: Some(prost_types::Duration { seconds: 0, nanos: 999_000_000 }),
                    ..right
                },
                "step",
            ),
        ];
        for (request, field) in cases {
            let told = format!("{:?}", Asked::parse(&request, 2_000_000).unwrap_err());
            assert!(told.contains(field), "{told}");
        }
    }
}
