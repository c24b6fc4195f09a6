//! Samples as they come in, for who follows them: of this replica's nodes (`own`), and of all (`stream`).
//!
//! Nobody is waited for: a reader is looked after once in a while, gets the newest, and is told how many it missed because it was slow. Gaps and events are told
//! all, or the stream ends. First the last events of before are told, so that none is lost between two streams either: their numbers tell what came twice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use skerry_api::Replica;
use skerry_gpu_model::PLACES_MAX;
use skerry_model::{Code, Fault};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::peer_service_client::PeerServiceClient;
use skerry_proto::gpu::v1::stream_samples_response::Body;
use skerry_rpc::{MESSAGE_BYTES_MAX, status_of};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use crate::Shared;
use crate::convert::{self, Wanted, millis};
use crate::fleet::Happening;
use crate::group::gpu_name;
use crate::peers::NAMES;
use crate::select::Selection;
use crate::service::Answers;

/// Shortest time between two samples of one GPU.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Longest.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// How often it is looked for news.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked which GPUs are meant and which replicas there are.
const RESOLVE_EVERY: Duration = Duration::from_secs(3);
/// For so long it is waited for a sample before a gap is told.
const HOLD: Duration = Duration::from_secs(2);
/// Times of one sample at two replicas.
const SAME_MILLIS: i64 = 1_000;
/// Fields of a request: more than there are.
const FIELDS_MAX: usize = 256;
/// What waits for a reader.
const WAITING_MAX: usize = 256;
/// Events of a node by which it is known what was told: those of before that two replicas tell at most.
const EVENTS_KNOWN: usize = 128;

type Told = Result<pb::StreamSamplesResponse, Status>;

/// Reads an interval; absent: the shortest.
pub(crate) fn interval(asked: Option<&prost_types::Duration>) -> Result<Duration, Fault> {
    let Some(asked) = asked else { return Ok(INTERVAL_MIN) };
    let read = Duration::try_from(*asked).ok();
    read.filter(|interval| (INTERVAL_MIN..=INTERVAL_MAX).contains(interval))
        .ok_or_else(|| Fault::invalid_field("interval", "give 1 s to 1 h, or nothing for 1 s"))
}

/// What one replica tells a reader.
pub(crate) fn own(
    shared: &Arc<Shared>,
    request: &pb::StreamOwnSamplesRequest,
) -> Result<ReceiverStream<Told>, Fault> {
    let interval = interval(request.interval.as_ref())?;
    check_fields(&request.fields)?;
    let (to, told) = mpsc::channel(WAITING_MAX);
    let mut follower = Follower::new(shared, request, interval);
    let shutdown = shared.shutdown.clone();
    shared.shutdown.spawn(async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = to.closed() => return,
                _ = look.tick() => {}
            }
            if let Err(status) = follower.look(&to).await {
                let _ = to.send(Err(status)).await;
                return;
            }
        }
    });
    Ok(ReceiverStream::new(told))
}

/// Each is looked for in the others, and one that is not known is told with every sample.
fn check_fields(fields: &[i32]) -> Result<(), Fault> {
    if fields.len() > FIELDS_MAX {
        return Err(Fault::invalid_field(
            "fields",
            format!("name at most {FIELDS_MAX} fields, or none for all"),
        ));
    }
    Ok(())
}

/// How far a reader is.
struct Follower {
    shared: Arc<Shared>,
    interval: Duration,
    wanted: Wanted,
    processes: bool,
    events: bool,
    /// By node: the UUIDs that are meant.
    nodes: BTreeMap<String, Vec<String>>,
    /// By node: what happened that was told.
    seen: HashMap<String, u64>,
    /// By GPU, and by part.
    told: HashMap<String, HashMap<String, Last>>,
}

/// What was told last of a place.
struct Last {
    time: i64,
    at: Instant,
    /// Samples that there was no room for.
    skipped: u32,
}

impl Follower {
    fn new(shared: &Arc<Shared>, request: &pb::StreamOwnSamplesRequest, interval: Duration) -> Self {
        let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (node, uuid) in request.gpus.iter().filter_map(|gpu| gpu.split_once("/gpus/")) {
            nodes.entry(node.to_owned()).or_default().push(uuid.to_owned());
        }
        Self {
            shared: Arc::clone(shared),
            interval,
            wanted: Wanted::of(&request.fields),
            processes: request.processes,
            events: request.events,
            nodes,
            seen: HashMap::new(),
            told: HashMap::new(),
        }
    }

    /// Tells what is new.
    async fn look(&mut self, to: &mpsc::Sender<Told>) -> Result<(), Status> {
        let mut news = Vec::new();
        for (name, uuids) in &self.nodes {
            let Some(cell) = self.shared.fleet.get(name) else { continue };
            let node = cell.lock();
            let is_first = !self.seen.contains_key(name);
            let seen = self.seen.entry(name.clone()).or_insert_with(|| node.happenings());
            let Some(happened) = node.happened_after(*seen) else { return Err(too_slow()) };
            let about = |uuid: &str| {
                uuid.is_empty()
                    || uuids.iter().any(|meant| meant == uuid)
                    || node.devices().iter().any(|device| {
                        uuids.contains(&device.uuid)
                            && device.mig_devices.iter().any(|part| part.uuid == uuid)
                    })
            };
            let before =
                node.marks.events.iter().filter(|event| is_first && self.events && about(&event.uuid));
            for event in before {
                let event = pb::SampleEvent { node: name.clone(), event: Some(event.clone()) };
                news.push((None, Body::Event(event)));
            }
            let open = node.open_gap().filter(|_| is_first).map(Happening::Gap);
            for happening in happened.chain(open.as_ref()) {
                match happening {
                    Happening::Event(event) if self.events && about(&event.uuid) => {
                        let event = pb::SampleEvent { node: name.clone(), event: Some(event.clone()) };
                        news.push((None, Body::Event(event)));
                    }
                    Happening::Event(_) => {}
                    Happening::Gap(gap) => news.extend(uuids.iter().map(|uuid| {
                        let gap = pb::SampleGap { gpu: gpu_name(name, uuid), gap: Some(*gap) };
                        (None, Body::Gap(gap))
                    })),
                }
            }
            *seen = node.happenings();
            let Some((time, places)) = node.now() else { continue };
            let devices = node.devices();
            for (device, part, sample) in places {
                let uuid = devices.get(device).map_or("", |device| &device.uuid);
                if !uuids.iter().any(|meant| meant == uuid) {
                    continue;
                }
                let gpu = gpu_name(name, uuid);
                let last = self.told.get(&gpu).and_then(|parts| parts.get(part));
                let is_due = last.is_none_or(|last| {
                    // A little early is as good as in time: samples come about once a second.
                    time != last.time && last.at.elapsed() + LOOK_EVERY / 2 >= self.interval
                });
                if is_due {
                    let sample = convert::sample(&gpu, part, time, sample, &self.wanted, self.processes);
                    news.push((Some((gpu, part.to_owned())), Body::Sample(sample)));
                }
            }
        }
        self.tell(to, news).await
    }

    async fn tell(
        &mut self,
        to: &mpsc::Sender<Told>,
        news: Vec<(Option<(String, String)>, Body)>,
    ) -> Result<(), Status> {
        for (key, body) in news {
            let Some(key) = key else {
                // Of these none is left out: who takes none for long has missed what comes after.
                let answer = pb::StreamSamplesResponse { body: Some(body), skipped: 0 };
                let sent = tokio::time::timeout(Duration::from_secs(30), to.send(Ok(answer))).await;
                sent.map_err(|_| too_slow())?.map_err(|_| Status::cancelled("the reader is gone"))?;
                continue;
            };
            let Body::Sample(sample) = &body else { continue };
            let time = sample.time.as_ref().map_or(0, millis);
            let now = Instant::now();
            let (gpu, part) = key;
            let parts = self.told.entry(gpu).or_default();
            make_room(parts, &part);
            let last = parts.entry(part).or_insert(Last { time: 0, at: now, skipped: 0 });
            (last.time, last.at) = (time, now);
            match to.try_reserve() {
                Ok(room) => {
                    let skipped = std::mem::take(&mut last.skipped);
                    room.send(Ok(pb::StreamSamplesResponse { body: Some(body), skipped }));
                }
                Err(_) => last.skipped = last.skipped.saturating_add(1),
            }
        }
        Ok(())
    }
}

/// Forgets the parts of a GPU where there are more than can be: of a node that names its parts anew again and again. At worst a sample is told twice then.
fn make_room<T>(parts: &mut HashMap<String, T>, part: &str) {
    if parts.len() >= PLACES_MAX && !parts.contains_key(part) {
        parts.clear();
    }
}

fn too_slow() -> Status {
    let message = "this reader is too slow: more has happened than is kept for it; begin anew";
    status_of(&Fault::new(Code::OutOfRange, "TOO_SLOW", message))
}

/// What all replicas tell a reader.
pub(crate) async fn stream(
    shared: &Arc<Shared>,
    request: pb::StreamSamplesRequest,
) -> Result<Response<Answers<pb::StreamSamplesResponse>>, Status> {
    let checked = async {
        interval(request.interval.as_ref())?;
        check_fields(&request.fields)?;
        let selection = Selection::parse(&request.parent, request.selector.as_ref())?;
        let gpus = shared.inventory.select(&selection).await?;
        Ok::<_, Fault>((selection, gpus))
    };
    let (selection, gpus) = checked.await.map_err(|fault| status_of(&fault))?;
    let (to, told) = mpsc::channel(WAITING_MAX);
    let merging = Merging {
        shared: Arc::clone(shared),
        request,
        gpus,
        to,
        tasks: JoinSet::new(),
        running: BTreeMap::new(),
        told: Known::default(),
        held: Vec::new(),
    };
    let shutdown = shared.shutdown.clone();
    shared.shutdown.spawn(async move {
        tokio::select! {
            () = shutdown.wait() => {}
            () = merging.run(selection) => {}
        }
    });
    Ok(Response::new(ReceiverStream::new(told).boxed()))
}

struct Merging {
    shared: Arc<Shared>,
    request: pb::StreamSamplesRequest,
    gpus: Vec<String>,
    to: mpsc::Sender<Told>,
    tasks: JoinSet<()>,
    running: BTreeMap<Replica, AbortHandle>,
    told: Known,
    /// Gaps of which it is not known yet whether another replica knows better, and until when that is waited for.
    held: Vec<(Instant, pb::StreamSamplesResponse)>,
}

/// What a reader was told, of whichever replica it came.
#[derive(Debug, Default)]
struct Known {
    /// By GPU, and by part: when the newest sample was taken.
    newest: HashMap<String, HashMap<String, i64>>,
    /// By node: boot ids and numbers of the last events.
    events: HashMap<String, VecDeque<(String, u64)>>,
}

/// What is done with an answer.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Tell,
    /// Somebody knows better.
    Drop,
    /// It is not known yet.
    Hold,
}

impl Known {
    /// Of a node that has moved one replica has a gap where another one has samples; and a stream that began anew tells what was told.
    fn judge(&mut self, answer: &pb::StreamSamplesResponse) -> Verdict {
        match &answer.body {
            Some(Body::Sample(sample)) => {
                let time = sample.time.as_ref().map_or(0, millis);
                let parts = self.newest.entry(sample.gpu.clone()).or_default();
                make_room(parts, &sample.mig_device);
                let before = parts.insert(sample.mig_device.clone(), time);
                if before == Some(time) { Verdict::Drop } else { Verdict::Tell }
            }
            Some(Body::Gap(gap)) => {
                let time = |time: Option<prost_types::Timestamp>| time.as_ref().map(millis);
                let start = gap.gap.as_ref().and_then(|gap| time(gap.start_time)).unwrap_or_default();
                let end = gap.gap.as_ref().and_then(|gap| time(gap.end_time));
                match self.newest.get(&gap.gpu).and_then(|parts| parts.get("")) {
                    None if end.is_none() => Verdict::Hold,
                    // The sample that ends a gap is told with it.
                    Some(newest) if *newest > start + SAME_MILLIS && end.is_none_or(|end| *newest < end) => {
                        Verdict::Drop
                    }
                    None | Some(_) => Verdict::Tell,
                }
            }
            Some(Body::Event(told)) => {
                let Some(event) = &told.event else { return Verdict::Tell };
                let id = (event.boot_id.clone(), event.sequence);
                let known = self.events.entry(told.node.clone()).or_default();
                if known.contains(&id) {
                    return Verdict::Drop;
                }
                if known.len() >= EVENTS_KNOWN {
                    known.pop_front();
                }
                known.push_back(id);
                Verdict::Tell
            }
            None => Verdict::Tell,
        }
    }
}

impl Merging {
    async fn run(mut self, selection: Selection) {
        let (from, mut told) = mpsc::channel::<Told>(1);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut resolve = tokio::time::interval(RESOLVE_EVERY);
        resolve.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.to.closed() => return,
                _ = resolve.tick() => {
                    // What is known of them stays where the store does not answer.
                    if let Ok(gpus) = self.shared.inventory.select(&selection).await
                        && gpus != self.gpus
                    {
                        self.gpus = gpus;
                        self.running.values().for_each(AbortHandle::abort);
                        self.running.clear();
                    }
                    self.follow(&from).await;
                }
                _ = look.tick(), if !self.held.is_empty() => {
                    if !self.tell_held().await {
                        return;
                    }
                }
                Some(answer) = told.recv() => {
                    if let Ok(told) = &answer {
                        match self.told.judge(told) {
                            Verdict::Tell => {}
                            Verdict::Drop => continue,
                            Verdict::Hold => {
                                self.held.push((Instant::now() + HOLD, told.clone()));
                                continue;
                            }
                        }
                    }
                    let ends = answer.is_err();
                    if self.to.send(answer).await.is_err() || ends {
                        return;
                    }
                }
            }
        }
    }

    /// Tells what was held long enough, unless it is known better now. `false`: the reader is gone.
    async fn tell_held(&mut self) -> bool {
        let now = Instant::now();
        for (_, answer) in self.held.extract_if(.., |(until, _)| *until <= now).collect::<Vec<_>>() {
            if self.told.judge(&answer) != Verdict::Drop && self.to.send(Ok(answer)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Follows each replica that is alive.
    async fn follow(&mut self, from: &mpsc::Sender<Told>) {
        while self.tasks.try_join_next().is_some() {}
        let Ok(alive) = Replica::all(&self.shared.store, "gpu").await else { return };
        self.running.retain(|replica, task| alive.contains(replica) && !task.is_finished());
        for replica in alive {
            if self.running.contains_key(&replica) {
                continue;
            }
            let request = pb::StreamOwnSamplesRequest {
                gpus: self.gpus.clone(),
                fields: self.request.fields.clone(),
                interval: self.request.interval,
                processes: self.request.processes,
                events: self.request.events,
            };
            let (shared, to, of) = (Arc::clone(&self.shared), from.clone(), replica.clone());
            let task = self.tasks.spawn(async move { pass_on(&shared, &of, request, to).await });
            self.running.insert(replica, task);
        }
    }
}

/// Passes on what a replica tells. One that is gone is one of which nothing comes; that a reader is too slow is told.
async fn pass_on(
    shared: &Arc<Shared>,
    replica: &Replica,
    request: pb::StreamOwnSamplesRequest,
    to: mpsc::Sender<Told>,
) {
    if *replica.id == *shared.id {
        let Ok(mut own) = own(shared, &request) else { return };
        while let Some(answer) = own.next().await {
            if to.send(answer).await.is_err() {
                return;
            }
        }
        return;
    }
    let Ok(connection) = shared.links.connect(&replica.address, &NAMES).await else { return };
    let mut client =
        PeerServiceClient::new(connection.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let answers = client.stream_own_samples(request).await;
    let answers = answers.inspect_err(|status| shared.links.failed(&replica.address, status));
    let Ok(mut answers) = answers.map(Response::into_inner) else { return };
    while let Some(answer) = answers.next().await {
        if answer.as_ref().is_err_and(|status| status.code() != tonic::Code::OutOfRange) {
            return;
        }
        if to.send(answer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::timestamp;

    fn answer(body: Body) -> pb::StreamSamplesResponse {
        pb::StreamSamplesResponse { body: Some(body), skipped: 0 }
    }

    fn sample(seconds: i64) -> pb::StreamSamplesResponse {
        let time = Some(timestamp(seconds * 1000));
        answer(Body::Sample(pb::Sample { gpu: "g".into(), time, ..pb::Sample::default() }))
    }

    fn gap(start: i64, end: Option<i64>) -> pb::StreamSamplesResponse {
        let end_time = end.map(|end| timestamp(end * 1000));
        let gap = pb::Gap { start_time: Some(timestamp(start * 1000)), end_time, ..pb::Gap::default() };
        answer(Body::Gap(pb::SampleGap { gpu: "g".into(), gap: Some(gap) }))
    }

    #[test]
    fn an_event_is_told_once_whoever_tells_it_and_what_is_known_has_a_bound() {
        let event = |boot: &str, sequence| {
            let event = pb::GpuEvent { boot_id: boot.into(), sequence, ..pb::GpuEvent::default() };
            answer(Body::Event(pb::SampleEvent { node: "n".into(), event: Some(event) }))
        };
        let mut known = Known::default();
        assert_eq!(known.judge(&event("b", 2)), Verdict::Tell);
        assert_eq!(known.judge(&event("b", 1)), Verdict::Tell, "of another replica");
        assert_eq!(known.judge(&event("c", 1)), Verdict::Tell, "of another boot");
        assert_eq!(known.judge(&event("b", 2)), Verdict::Drop);
        for number in 3..2_000 {
            assert_eq!(known.judge(&event("b", number)), Verdict::Tell);
            let mut part = sample(number.cast_signed());
            if let Some(Body::Sample(part)) = &mut part.body {
                part.mig_device = number.to_string();
            }
            assert_eq!(known.judge(&part), Verdict::Tell);
        }
        assert_eq!(known.events["n"].len(), EVENTS_KNOWN);
        assert!(known.newest["g"].len() <= PLACES_MAX);
    }

    #[test]
    fn of_a_node_that_moved_only_what_nobody_knows_is_a_gap() {
        let mut known = Known::default();
        assert_eq!(known.judge(&gap(10, None)), Verdict::Hold, "another one may have samples");
        assert_eq!(known.judge(&sample(100)), Verdict::Tell);
        assert_eq!(known.judge(&gap(10, None)), Verdict::Drop, "and it has");
        assert_eq!(known.judge(&sample(100)), Verdict::Drop, "the same from two");
        assert_eq!(known.judge(&gap(100, None)), Verdict::Tell, "of this nobody knows more");
        assert_eq!(known.judge(&gap(100, Some(130))), Verdict::Tell);
        assert_eq!(known.judge(&sample(130)), Verdict::Tell);
        assert_eq!(
            known.judge(&gap(10, Some(131))),
            Verdict::Drop,
            "it came back: in between it was elsewhere"
        );
    }
}
