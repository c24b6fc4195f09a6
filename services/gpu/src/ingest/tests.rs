//! A stream of a gateway's over a history that has no room.

use skerry_api::Links;
use skerry_daemon::Shutdown;
use skerry_etcd_embedded::{Config, EmbeddedEtcd};
use skerry_gpu_model::{Encoder, Field, Sample};
use skerry_proto::gpu::v1::gap::Cause;
use skerry_series::Time;
use skerry_store::{Store, StoreConfig, Target};

use super::*;
use crate::convert::timestamp;
use crate::fleet::Fleet;
use crate::group::{gpu_name, group_of};
use crate::inventory::Inventory;
use crate::recorder::Recorder;

const NODE: &str = "projects/p/nodes/n";

struct World {
    /// In milliseconds since 1970, in whole seconds.
    begin: i64,
    shared: Arc<Shared>,
    etcd: EmbeddedEtcd,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = EmbeddedEtcd::open(Config::new(dir.path().join("etcd"))).await.unwrap();
        let channel = etcd.serve_in_process().await.unwrap();
        let store = Store::connect(StoreConfig::new(Target::Channel(channel))).await.unwrap();
        let shutdown = Shutdown::new();
        let config = skerry_series::Config::default();
        let shared = Arc::new(Shared {
            id: "a".into(),
            inventory: Inventory::start(&store, &shutdown).await.unwrap(),
            store,
            fleet: Fleet::default(),
            recorder: Recorder::start(&dir.path().join("history"), config, &shutdown).unwrap(),
            links: Links::new(None),
            shutdown,
        });
        Self { begin: (now() / 1000 - 100) * 1000, shared, etcd, dir }
    }

    async fn end(self) {
        self.shared.recorder.end().await;
        self.shared.shutdown.finish().await;
        self.shared.store.close().await;
        self.etcd.close().await;
    }

    /// By second from the beginning on: the temperature that history has, as far as it knows one.
    async fn history(&self, seconds: i64) -> Vec<Option<i64>> {
        let at = |millis: i64| Time::from_unix_ms(millis).unwrap();
        let group = group_of(&gpu_name(NODE, "GPU-1"), "");
        let field = skerry_series::Field(Field::Temperature.to_wire() as u32);
        let range = at(self.begin)..at(self.begin + seconds * 1000);
        let step = Duration::from_secs(1);
        let prepared = self.shared.recorder.prepare(vec![group], vec![field], range, step).await;
        let answer = prepared.unwrap().unwrap()[0].run().unwrap();
        let mut all = vec![None; usize::try_from(seconds).unwrap()];
        for bucket in &answer.fields[&field] {
            all[usize::try_from((bucket.start.unix_ms() - self.begin) / 1000).unwrap()] = Some(bucket.last);
        }
        all
    }
}

#[tokio::test]
async fn with_a_full_queue_history_has_a_gap_and_never_a_wrong_value() {
    let world = World::new().await;
    let (to, _said) = mpsc::channel(16);
    let mut stream = Stream { shared: Arc::clone(&world.shared), handles: HashMap::new() };
    let session = pb::IngestSession { handle: 5, node: NODE.into(), ..pb::IngestSession::default() };
    stream.open(&session, 1, &to).unwrap();
    let mut encoder = Encoder::new(7, "boot");
    encoder.set_devices(vec![pb::Device { uuid: "GPU-1".into(), ..pb::Device::default() }]).unwrap();
    let begin = world.begin;
    let mut send = |second: i64, temperature: i64| {
        let mut sample = Sample::new();
        sample.set(Field::Temperature, Ok(temperature));
        // What is the same is told too, at the latest after ten seconds.
        let frame = encoder.encode(begin + second * 1000, &[sample]).unwrap();
        stream.take(vec![pb::IngestFrame { handle: 5, frame: frame.encode_to_vec().into() }]);
    };
    send(0, 40);
    // Once that is written down, it makes no room any more.
    world.history(1).await;
    let room: Vec<_> = std::iter::from_fn(|| world.shared.recorder.room()).collect();
    let before = world.shared.recorder.batches_left_out();
    send(1, 60);
    send(2, 70);
    assert_eq!(world.shared.recorder.batches_left_out(), before + 2);
    drop(room);
    // As before the queue was full, so that nothing but the gap tells of what was between.
    send(12, 70);
    send(14, 71);
    let known = world.history(16).await;
    // From the last sample on that it got nothing is known.
    assert!(known[..12].iter().all(Option::is_none), "{known:?}");
    assert_eq!(known[12..], [Some(70), Some(70), Some(71), Some(71)]);
    let gap = pb::Gap {
        start_time: Some(timestamp(begin)),
        end_time: Some(timestamp(begin + 12_000)),
        cause: Cause::Dropped.into(),
    };
    let node = world.shared.fleet.get(NODE).unwrap();
    assert_eq!(node.lock().marks.gaps, [gap]);
    // Samples as they come have all of it.
    assert_eq!(node.lock().now().unwrap().0, begin + 14_000);
    drop(stream);
    assert!(!node.lock().is_ours());
    drop(node);
    world.end().await;
}

#[tokio::test]
async fn of_all_nodes_the_marks_of_those_are_written_that_have_events_and_these_are_acknowledged() {
    let world = World::new().await;
    let (to, mut said) = mpsc::channel(256);
    let mut stream = Stream { shared: Arc::clone(&world.shared), handles: HashMap::new() };
    for handle in 0..100 {
        let node = format!("projects/p/nodes/n{handle}");
        let session = pb::IngestSession { handle, node, ..pb::IngestSession::default() };
        stream.open(&session, 1, &to).unwrap();
    }
    let (data, mut file) = (world.dir.path(), MarksFile::new(world.dir.path()));
    let length = || std::fs::metadata(data.join("nodes")).unwrap().len();
    pass(&world.shared, &mut file, false).await.unwrap();
    let whole = length();
    assert_eq!(file.read().unwrap().len(), 100);
    let mut encoder = Encoder::new(7, "boot");
    encoder.set_devices(vec![pb::Device { uuid: "GPU-1".into(), ..pb::Device::default() }]).unwrap();
    for second in 1..=5_u32 {
        encoder.event(world.begin, "GPU-1", &skerry_gpu_model::Event::xid(31));
        let frame = encoder.encode(world.begin + i64::from(second) * 1000, &[Sample::new()]).unwrap();
        stream.take(vec![pb::IngestFrame { handle: 5, frame: frame.encode_to_vec().into() }]);
        pass(&world.shared, &mut file, false).await.unwrap();
        // Nothing has changed since.
        let before = length();
        pass(&world.shared, &mut file, false).await.unwrap();
        assert_eq!(length(), before);
        assert!(before < 2 * whole, "of {whole} bytes {before} after {second}");
        // As after a kill: what was acknowledged is on disk, once.
        let feedback = said.try_recv().unwrap();
        let feedback = pb::Feedback::decode(feedback.feedback).unwrap();
        let marks = MarksFile::new(data).read().unwrap();
        let marks = marks.iter().find(|marks| marks.node == "projects/p/nodes/n5").unwrap();
        let counted = (marks.events_known().unwrap().sequence, marks.xids[0].count);
        assert_eq!((feedback.events_through, counted), (second.into(), (second.into(), second.into())));
        encoder.feedback(&feedback);
    }
    pass(&world.shared, &mut file, true).await.unwrap();
    assert!(length() < whole + whole / 2, "{} of {whole}", length());
    drop(stream);
    world.end().await;
}
