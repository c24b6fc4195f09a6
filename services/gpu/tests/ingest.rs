//! The gpu service against gateways and agents that send whatever they like. Beside them a node with a real encoder goes on, and loses nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use skerry_daemon::Shutdown;
use skerry_etcd_embedded::EmbeddedEtcd;
use skerry_gpu::{Config, GpuTelemetry};
use skerry_gpu_model::{Encoder, Field, Sample, timestamp};
use skerry_proto::gpu::v1 as pb;
use skerry_proto::gpu::v1::ingest_service_client::IngestServiceClient;
use skerry_proto::gpu::v1::keyframe::Reason;
use skerry_proto::gpu::v1::peer_service_client::PeerServiceClient;
use skerry_proto::gpu::v1::stream_samples_response::Body;
use skerry_rpc::{Access, Server, fault_of};
use skerry_store::{Store, StoreConfig, Target};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
const GOOD: &str = "projects/p/nodes/good";
const EVIL: &str = "projects/p/nodes/evil";
/// A handle for sessions that only show how far the service is.
const MARKERS: u32 = 1_000_000;

async fn in_time<T>(what: &str, doing: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, doing).await.unwrap_or_else(|_| panic!("{what} did not come in time"))
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

struct World {
    channel: Channel,
    shutdown: Shutdown,
    store: Store,
    etcd: EmbeddedEtcd,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd =
            EmbeddedEtcd::open(skerry_etcd_embedded::Config::new(dir.path().join("etcd"))).await.unwrap();
        let channel = etcd.serve_in_process().await.unwrap();
        let store = Store::connect(StoreConfig::new(Target::Channel(channel))).await.unwrap();
        let shutdown = Shutdown::new();
        let config = Config::new(dir.path().join("gpu"), None);
        let gpu = GpuTelemetry::start(config, store.clone(), "a", &shutdown).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut server = Server::new(Access::Loopback).unwrap();
        gpu.register(&mut server);
        shutdown.spawn(server.serve(listener, shutdown.token()));
        let channel = skerry_rpc::connect(&address, None).await.unwrap();
        Self { channel, shutdown, store, etcd, _dir: dir }
    }

    async fn end(self) {
        self.shutdown.finish().await;
        self.store.close().await;
        self.etcd.close().await;
    }

    async fn gateway(&self) -> Gateway {
        let (up, requests) = mpsc::channel(4);
        let mut client = IngestServiceClient::new(self.channel.clone());
        let down = in_time("a stream", client.ingest(ReceiverStream::new(requests))).await;
        Gateway { up, down: down.unwrap().into_inner(), markers: MARKERS }
    }

    /// What is told of these nodes, events too.
    async fn follow(&self, nodes: &[&str]) -> Streaming<pb::StreamSamplesResponse> {
        let request = pb::StreamOwnSamplesRequest {
            gpus: nodes.iter().map(|node| format!("{node}/gpus/GPU-1")).collect(),
            events: true,
            ..Default::default()
        };
        PeerServiceClient::new(self.channel.clone()).stream_own_samples(request).await.unwrap().into_inner()
    }

    /// The newest temperature of a node, and its time.
    async fn newest(&self, node: &str) -> (i64, prost_types::Timestamp) {
        let mut stream = self.follow(&[node]).await;
        loop {
            let answer = in_time("a sample", stream.message()).await.unwrap().unwrap();
            if let Some(Body::Sample(sample)) = answer.body {
                return (sample.values[0].value, sample.time.unwrap());
            }
        }
    }

    async fn history(&self, node: &str, start: i64) -> pb::Series {
        let group = pb::HistoryGroup { gpu: format!("{node}/gpus/GPU-1"), mig_device: String::new() };
        let request = pb::QueryOwnHistoryRequest {
            groups: vec![group],
            fields: vec![pb::Field::TemperatureCelsius.into()],
            start_time: Some(timestamp(start)),
            end_time: Some(timestamp(now())),
            step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        };
        let answer = PeerServiceClient::new(self.channel.clone()).query_own_history(request).await;
        answer.unwrap().into_inner().series.pop().unwrap_or_default()
    }
}

/// One end of a stream.
struct Gateway {
    up: mpsc::Sender<pb::IngestRequest>,
    down: Streaming<pb::IngestResponse>,
    markers: u32,
}

impl Gateway {
    async fn sessions(&self, sessions: Vec<pb::IngestSession>) {
        self.up.send(pb::IngestRequest { sessions, frames: Vec::new() }).await.unwrap();
    }

    async fn open(&self, handle: u32, node: &str, epoch: i64) {
        self.sessions(vec![session(handle, node, epoch)]).await;
    }

    async fn bytes(&self, handle: u32, frame: Vec<u8>) {
        let frames = vec![pb::IngestFrame { handle, frame: frame.into() }];
        self.up.send(pb::IngestRequest { sessions: Vec::new(), frames }).await.unwrap();
    }

    async fn frame(&self, handle: u32, frame: &pb::Frame) {
        self.bytes(handle, frame.encode_to_vec()).await;
    }

    /// Waits until the service has taken all that was sent: then it asks for a keyframe of a new session. Answers for which handles it asked before.
    async fn taken(&mut self) -> Vec<u32> {
        self.markers += 1;
        let marker = self.markers;
        self.open(marker, &format!("projects/p/nodes/marker{marker}"), 1).await;
        self.frame(marker, &pb::Frame { stream: 1, sequence: 2, ..Default::default() }).await;
        let mut asked = Vec::new();
        loop {
            let answer = in_time("feedback", self.down.message()).await.unwrap().expect("the stream goes on");
            for feedback in answer.feedback {
                if pb::Feedback::decode(feedback.feedback).unwrap().keyframe {
                    asked.push(feedback.handle);
                }
            }
            if asked.contains(&marker) {
                asked.retain(|handle| *handle < MARKERS);
                return asked;
            }
        }
    }

    /// How the service ends the stream.
    async fn refusal(&mut self) -> Status {
        loop {
            match in_time("a refusal", self.down.message()).await {
                Ok(answer) => assert!(answer.is_some(), "the stream ended without a word"),
                Err(status) => return status,
            }
        }
    }
}

fn session(handle: u32, node: &str, epoch: i64) -> pb::IngestSession {
    pb::IngestSession {
        handle,
        node: node.into(),
        epoch_term: 1,
        epoch_revision: epoch,
        ..Default::default()
    }
}

fn device(uuid: &str) -> pb::Device {
    pb::Device { uuid: uuid.into(), ..Default::default() }
}

/// An agent that does what it should.
struct Agent {
    encoder: Encoder,
    time: i64,
}

impl Agent {
    fn new(stream: u32) -> Self {
        let mut encoder = Encoder::new(stream, &format!("boot-{stream}"));
        encoder.set_devices(vec![device("GPU-1")]).unwrap();
        Self { encoder, time: now() - 100_000 }
    }

    /// After a second.
    fn next(&mut self, temperature: i64) -> pb::Frame {
        self.time += 1000;
        let mut sample = Sample::absent(skerry_gpu_model::Absent::NotSupported);
        sample.set(Field::Temperature, Ok(temperature));
        self.encoder.encode(self.time, &[sample]).unwrap()
    }
}

/// A node beside the others, by a gateway of its own.
struct Good {
    gateway: Gateway,
    agent: Agent,
    begin: i64,
    sent: Vec<i64>,
}

impl Good {
    async fn start(world: &World) -> Self {
        let (gateway, agent) = (world.gateway().await, Agent::new(7));
        gateway.open(1, GOOD, 1).await;
        let begin = agent.time + 1000;
        Self { gateway, agent, begin, sent: Vec::new() }
    }

    async fn second(&mut self) {
        let temperature = 30 + i64::try_from(self.sent.len()).unwrap();
        self.sent.push(temperature);
        self.gateway.frame(1, &self.agent.next(temperature)).await;
    }

    /// All that it sent is there, and nothing else.
    async fn lost_nothing(mut self, world: &World) {
        self.second().await;
        assert_eq!(self.gateway.taken().await, [0; 0], "no keyframe is asked for");
        let last = *self.sent.last().unwrap();
        assert_eq!(world.newest(GOOD).await, (last, timestamp(self.agent.time)));
        let series = world.history(GOOD, self.begin).await;
        assert_eq!(series.gaps, []);
        let mut known: Vec<i64> = series.points.iter().map(|point| point.last).collect();
        known.dedup();
        assert_eq!(known, self.sent);
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_is_told_which_field_is_wrong_and_others_go_on() {
    let world = World::start().await;
    let mut good = Good::start(&world).await;
    good.second().await;
    let twice = vec![session(4, EVIL, 1), session(4, "projects/p/nodes/other", 1)];
    let mut cases = vec![(twice, "sessions.handle")];
    let long = format!("projects/p/nodes/{}", "n".repeat(10_000));
    for name in ["", "n", "projects/p/nodes/", "projects/p/nodes/A b", "projects/p/nodes/n/gpus/g", &long] {
        cases.push((vec![session(4, name, 1)], "sessions.node"));
    }
    for (sessions, field) in cases {
        let mut gateway = world.gateway().await;
        gateway.sessions(sessions).await;
        let status = gateway.refusal().await;
        let fault = fault_of(&status);
        assert_eq!((status.code(), fault.violations[0].field.as_str()), (Code::InvalidArgument, field));
        good.second().await;
    }
    let mut gateway = world.gateway().await;
    for from in [0, 7_000, 14_000] {
        let sessions =
            (from..from + 7_000).map(|number| session(number, &format!("projects/p/nodes/n{number}"), 1));
        // One more than there may be.
        gateway.sessions(sessions.take_while(|session| session.handle <= 20_000).collect()).await;
    }
    let status = gateway.refusal().await;
    assert_eq!(
        (status.code(), fault_of(&status).metadata["reason"].as_str()),
        (Code::ResourceExhausted, "TOO_MANY_SESSIONS")
    );
    assert!(status.message().contains("20000 sessions"), "{status:?}");

    let mut gateway = world.gateway().await;
    gateway.bytes(1, vec![0; 1_200_000]).await;
    let status = gateway.refusal().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(fault_of(&status).metadata["bytes_max"], ((1 << 20) + (64 << 10)).to_string());
    good.lost_nothing(&world).await;
    world.end().await;
}

/// A keyframe of a time that was just now.
fn keyframe(sequence: u32, devices: Vec<pb::Device>) -> pb::Frame {
    let keyframe = pb::Keyframe {
        reason: Reason::Asked.into(),
        time_unix_millis: now() - 50_000,
        boot_id: "evil".into(),
        devices,
    };
    pb::Frame { stream: 66, sequence, keyframe: Some(keyframe), ..Default::default() }
}

fn one() -> Vec<pb::Device> {
    vec![device("GPU-1")]
}

/// With changes of place 0.
fn with(change: pb::Changes) -> pb::Frame {
    pb::Frame { changes: vec![change], ..keyframe(1, one()) }
}

fn with_process(change: pb::ProcessChange) -> pb::Frame {
    pb::Frame { processes: vec![change], ..keyframe(1, one()) }
}

/// Frames of which nothing is to be taken.
fn refused() -> Vec<pb::Frame> {
    let parts = |count: usize| pb::Device {
        mig_devices: (0..count)
            .map(|at| pb::MigDevice { uuid: format!("MIG-{at}"), ..Default::default() })
            .collect(),
        ..device("GPU-1")
    };
    let absent = pb::AbsentSet { reason: 1, fields: vec![1] };
    let process = |text: String| pb::Process { instance: text, ..Default::default() };
    let reasons = vec![pb::HealthReason::default(); 65];
    let health = pb::HealthChange { place: 0, health: Some(pb::Health { reasons, ..Default::default() }) };
    let mut boot = keyframe(1, one());
    boot.keyframe.as_mut().unwrap().boot_id = "b".repeat(65);
    vec![
        boot,
        keyframe(1, (0..65).map(|at| device(&format!("GPU-{at}"))).collect()),
        keyframe(1, vec![parts(256)]),
        keyframe(1, vec![device("GPU-1"), device("GPU-1")]),
        keyframe(1, vec![device("")]),
        keyframe(1, vec![device("GPU 1\n")]),
        with(pb::Changes { place: 999, ..Default::default() }),
        with(pb::Changes { place: u32::MAX, ..Default::default() }),
        with(pb::Changes { fields: vec![u64::MAX; 5], steps: vec![1; 320], ..Default::default() }),
        with(pb::Changes { fields: vec![2], steps: vec![1, 2], ..Default::default() }),
        with(pb::Changes { fields: vec![6], steps: vec![1], ..Default::default() }),
        with(pb::Changes { absent: vec![absent; 65], ..Default::default() }),
        with_process(pb::ProcessChange { place: 9, ..Default::default() }),
        with_process(pb::ProcessChange { pid: 1, memory_bytes: Some(1), ..Default::default() }),
        with_process(pb::ProcessChange { process: Some(process("x".repeat(257))), ..Default::default() }),
        pb::Frame { health: vec![health], ..keyframe(1, one()) },
        pb::Frame { events: vec![pb::FrameEvent::default(); 257], ..keyframe(1, one()) },
        // Differences of nothing.
        pb::Frame { stream: 66, sequence: 9, ..Default::default() },
        pb::Frame { stream: 66, sequence: u32::MAX, elapsed_millis: i64::MAX, ..Default::default() },
        pb::Frame::default(),
    ]
}

#[tokio::test]
async fn of_frames_that_lie_nothing_is_taken_and_the_next_that_is_right_is() {
    let world = World::start().await;
    let mut good = Good::start(&world).await;
    let mut gateway = world.gateway().await;
    // Of sessions that there are not, and no frames at all.
    for bytes in
        [keyframe(1, one()).encode_to_vec(), vec![0xff; 100], Vec::new(), vec![0x2a, 0xff, 0xff, 0x7f]]
    {
        gateway.bytes(12_345, bytes.clone()).await;
        gateway.open(1, EVIL, 1).await;
        gateway.bytes(1, bytes.get(1..).unwrap_or_default().to_vec()).await;
        gateway.sessions(vec![pb::IngestSession { handle: 1, closed: true, ..Default::default() }]).await;
    }
    gateway.taken().await;
    for (handle, frame) in (2..).zip(refused()) {
        gateway.open(handle, EVIL, i64::from(handle)).await;
        gateway.frame(handle, &frame).await;
        assert_eq!(gateway.taken().await, [handle], "{frame:?}");
        good.second().await;
        let right = Agent::new(handle).next(i64::from(handle));
        gateway.frame(handle, &right).await;
        assert_eq!(gateway.taken().await, [0; 0]);
    }
    let last = i64::try_from(refused().len()).unwrap() + 1;
    assert_eq!(world.newest(EVIL).await.0, last);
    good.lost_nothing(&world).await;
    world.end().await;
}

#[tokio::test]
async fn numbers_and_times_that_jump_harm_nobody_else_and_never_lead_far_ahead() {
    let world = World::start().await;
    let mut good = Good::start(&world).await;
    let mut gateway = world.gateway().await;
    gateway.open(1, EVIL, 1).await;
    let times =
        [i64::MIN, -1, 0, 1, now() - 40_000, i64::MAX, now() + 86_400_000, now() - 86_400_000, i64::MAX];
    for (number, time) in (1..).zip(times) {
        let steps = [i64::MAX, i64::MIN, 1, -1][number as usize % 4];
        let changes =
            pb::Changes { fields: vec![0x7fff_fffe; 4], steps: vec![steps; 120], ..Default::default() };
        let mut frame = pb::Frame { changes: vec![changes.clone()], ..keyframe(number * 10, one()) };
        frame.keyframe.as_mut().unwrap().time_unix_millis = time;
        gateway.frame(1, &frame).await;
        // A repeat, one that goes back, one that goes on by more than there is, and one that jumps.
        for (sequence, elapsed_millis) in [(0, 0), (-5, 5), (1, i64::MAX), (2, i64::MIN), (5, 1)] {
            let sequence = (number * 10).saturating_add_signed(sequence);
            let changes = vec![changes.clone()];
            let frame = pb::Frame { stream: 66, sequence, elapsed_millis, changes, ..Default::default() };
            gateway.frame(1, &frame).await;
        }
        good.second().await;
    }
    gateway.taken().await;
    let mut agent = Agent::new(9);
    agent.time = now() + 3_000_000;
    gateway.frame(1, &agent.next(77)).await;
    gateway.taken().await;
    let (temperature, time) = world.newest(EVIL).await;
    assert_eq!(temperature, 77);
    assert!(time.seconds <= now() / 1000 + 3_600, "{time:?}");
    world.history(EVIL, now() - 200_000).await;
    good.lost_nothing(&world).await;
    world.end().await;
}

#[tokio::test]
async fn a_flood_of_events_ends_no_stream_of_others_and_the_last_are_told_first_to_who_comes_later() {
    let world = World::start().await;
    let mut good = Good::start(&world).await;
    good.second().await;
    assert_eq!(good.gateway.taken().await, [0; 0]);
    let mut follower = world.follow(&[GOOD, EVIL]).await;
    let first = in_time("a sample", follower.message()).await.unwrap().unwrap();
    assert!(matches!(first.body, Some(Body::Sample(_))), "{first:?}");
    let mut gateway = world.gateway().await;
    gateway.open(1, EVIL, 1).await;
    for number in 0..30_u32 {
        let event = |at: u64| pb::FrameEvent {
            sequence: u64::from(number) * 200 + at,
            // One of them is none.
            uuid: if at == 7 { "x".repeat(1_000) } else { "GPU-1".into() },
            kind: Some(pb::frame_event::Kind::Lost(pb::LostEvent {})),
            ..Default::default()
        };
        let frame = pb::Frame { events: (1..=200).map(event).collect(), ..keyframe(number + 1, one()) };
        gateway.frame(1, &frame).await;
    }
    gateway.taken().await;
    good.agent.encoder.event(now(), "GPU-1", &skerry_gpu_model::Event::xid(13));
    good.second().await;
    // Nobody was cut off: what happened to the good one comes.
    let of_good = async |follower: &mut Streaming<pb::StreamSamplesResponse>| loop {
        let answer = follower.message().await.unwrap().unwrap();
        if let Some(Body::Event(told)) = answer.body
            && told.node == GOOD
        {
            return told.event.unwrap().sequence;
        }
    };
    assert_eq!(in_time("an event", of_good(&mut follower)).await, 1);
    // Who comes later is told of it too, and of the last ones of the other.
    let mut later = world.follow(&[EVIL, GOOD]).await;
    let mut told = Vec::new();
    let good_event = loop {
        match in_time("an event", later.message()).await.unwrap().unwrap().body {
            Some(Body::Event(event)) if event.node == GOOD => break event.event.unwrap(),
            Some(Body::Event(event)) => told.push(event.event.unwrap().sequence),
            _ => {}
        }
    };
    assert_eq!(good_event.sequence, 1);
    assert!(told.iter().copied().eq(30 * 200 - 63..=30 * 200), "{told:?}");
    good.lost_nothing(&world).await;
    world.end().await;
}

#[tokio::test]
async fn a_gateway_that_takes_no_feedback_or_goes_away_in_the_middle_holds_up_nobody() {
    let world = World::start().await;
    let mut good = Good::start(&world).await;
    let deaf = world.gateway().await;
    // More feedback than fits anywhere: nobody waits for it here.
    let (up, down) = (deaf.up, deaf.down);
    let mut flood = tokio::task::JoinSet::new();
    flood.spawn(async move {
        for number in 0_u32.. {
            let handles = || (number * 100..).take(100);
            let sessions = handles()
                .map(|handle| session(handle, &format!("projects/p/nodes/n{}", handle % 500), handle.into()));
            let frame = pb::Frame { stream: 1, sequence: 2, ..Default::default() }.encode_to_vec();
            let frames = handles().map(|handle| pb::IngestFrame { handle, frame: frame.clone().into() });
            let closed =
                handles().map(|handle| pb::IngestSession { handle, closed: true, ..Default::default() });
            let request = pb::IngestRequest { sessions: sessions.collect(), frames: frames.collect() };
            if up.send(request).await.is_err() {
                return;
            }
            let request = pb::IngestRequest { sessions: closed.collect(), frames: Vec::new() };
            if up.send(request).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..20 {
        good.second().await;
        let gone = world.gateway().await;
        gone.open(1, EVIL, 1).await;
        gone.frame(1, &Agent::new(5).next(50)).await;
        // It closes with its sessions open.
        drop(gone);
    }
    let mut next = world.gateway().await;
    next.open(1, EVIL, 2).await;
    let frame = pb::Frame { stream: 5, sequence: 2, ..Default::default() };
    next.frame(1, &frame).await;
    assert_eq!(next.taken().await, [1], "what it was following may be lost");
    next.frame(1, &Agent::new(6).next(60)).await;
    next.taken().await;
    assert_eq!(world.newest(EVIL).await.0, 60);
    good.lost_nothing(&world).await;
    flood.abort_all();
    drop(down);
    world.end().await;
}

#[tokio::test]
async fn of_two_gateways_that_both_say_they_have_a_node_the_one_with_the_newer_session_does() {
    let world = World::start().await;
    let good = Good::start(&world).await;
    let mut gateways = [world.gateway().await, world.gateway().await];
    let mut agent = Agent::new(9);
    let begin = agent.time + 1000;
    let mut sent = Vec::new();
    for epoch in 1..=10_u32 {
        let at = epoch as usize % 2;
        gateways[at].open(epoch, EVIL, epoch.into()).await;
        agent.encoder.begin_anew(Reason::Asked);
        sent.push(40 + i64::from(epoch));
        let frame = agent.next(40 + i64::from(epoch));
        gateways[at].frame(epoch, &frame).await;
        assert_eq!(gateways[at].taken().await, [0; 0]);
        // What the other one still has, and what it opens with an epoch of before, is passed over.
        let other = &mut gateways[1 - at];
        let mut late = Agent::new(9);
        late.time = agent.time + 500;
        let late = late.next(99);
        other.frame(epoch - 1, &late).await;
        other.open(1_000 + epoch, EVIL, i64::from(epoch) - 1).await;
        other.frame(1_000 + epoch, &late).await;
        assert_eq!(other.taken().await, [0; 0]);
    }
    assert_eq!(world.newest(EVIL).await.0, 50);
    let points = world.history(EVIL, begin).await.points;
    assert!(points.iter().all(|point| sent.contains(&point.last)), "{points:?}");
    good.lost_nothing(&world).await;
    world.end().await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_leaves_a_gap_in_history() {
    let world = World::start().await;
    let mut gateway = world.gateway().await;
    gateway.open(1, EVIL, 1).await;
    let mut agent = Agent::new(9);
    let begin = agent.time + 1000;
    for temperature in 40..50 {
        gateway.frame(1, &agent.next(temperature)).await;
    }
    let last = agent.time;
    agent.time -= 6_000;
    gateway.frame(1, &agent.next(99)).await;
    gateway.taken().await;
    let gap = world.history(EVIL, begin).await.gaps;
    assert_eq!(
        gap.iter().map(|gap| (gap.start_time, gap.end_time)).collect::<Vec<_>>(),
        [(Some(timestamp(last)), None)]
    );
    agent.time = last + 20_000;
    gateway.frame(1, &agent.next(60)).await;
    gateway.taken().await;
    let series = world.history(EVIL, begin).await;
    let times = (Some(timestamp(last)), Some(timestamp(last + 21_000)));
    assert_eq!(series.gaps.iter().map(|gap| (gap.start_time, gap.end_time)).collect::<Vec<_>>(), [times]);
    let between = |point: &&pb::Point| {
        let at = point.time.unwrap().seconds;
        at > last / 1000 && at < (last + 20_000) / 1000
    };
    assert_eq!(series.points.iter().filter(between).count(), 0, "nothing holds there: {:?}", series.points);
    assert!(series.points.iter().all(|point| point.last != 99));
    assert!(series.points.iter().any(|point| point.last == 60));
    world.end().await;
}
