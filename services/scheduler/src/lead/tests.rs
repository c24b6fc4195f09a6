//! The leader over real etcd.

use prost::Message as _;
use skerry_model::{AppRef, ConfigRef, ContentHash, NodeRef, RevisionRef};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AppSpec, ConfigMount, Process, ServiceSpec, service_spec};
use skerry_store::{Key, StoreConfig, Target};
use skerry_testing::{Etcd, eventually};

use super::*;
use crate::follow;

const PATIENCE: Duration = Duration::from_secs(20);
/// Revisions of the app, the last of them current.
const REVISIONS: i64 = 13;
/// Those that stay in any case.
const KEPT: usize = 10;

fn app() -> AppRef {
    AppRef::parse("projects/p/apps/web").unwrap()
}

fn node() -> NodeRef {
    NodeRef::parse("projects/p/nodes/n1").unwrap()
}

/// A revision that mounts a config.
fn revision(number: i64) -> (Key<stored::RevisionRecord>, stored::RevisionRecord) {
    let process =
        Process { program: "/bin/sleep".to_owned(), args: vec![number.to_string()], ..Process::default() };
    let mount = ConfigMount { config: "site".to_owned(), path: "site".to_owned(), ..ConfigMount::default() };
    let service = ServiceSpec {
        name: "s".to_owned(),
        program: Some(service_spec::Program::Process(process)),
        configs: vec![mount],
        ..ServiceSpec::default()
    };
    let spec = AppSpec { services: vec![service], ..AppSpec::default() }.encode_to_vec();
    let name = RevisionRef { app: app(), hash: ContentHash::of(&spec) };
    (Key::of(&name), stored::RevisionRecord { spec: spec.into(), number, ..Default::default() })
}

/// An app whose current revision cannot be assigned, since the content of its config is not there, and a node that it belongs on.
async fn fill(store: &Store) {
    let mut txn = Txn::new();
    for number in 1..=REVISIONS {
        let (key, record) = revision(number);
        txn = txn.put(&key, &record);
    }
    let current = revision(REVISIONS).0.name().hash.to_string();
    let record = stored::AppRecord { revision: current, revision_number: REVISIONS, ..Default::default() };
    let config = ConfigRef::parse("projects/p/configs/site").unwrap();
    let content = ContentHash::of(b"a content that got lost").to_string();
    let txn = txn
        .put(&Key::of(&app()), &record)
        .put(&Key::of(&config), &stored::ConfigRecord { hash: content, ..Default::default() })
        .put(&Key::of(&node()), &stored::NodeRecord::default());
    store.commit(txn).await.unwrap();
}

/// The numbers of the revisions that are there.
async fn numbers(store: &Store) -> Vec<i64> {
    let mut numbers = Vec::new();
    for number in 1..=REVISIONS {
        if store.get(&revision(number).0).await.unwrap().is_some() {
            numbers.push(number);
        }
    }
    numbers
}

#[tokio::test]
async fn an_assignment_that_cannot_be_written_keeps_nobody_from_clearing_away() {
    let etcd = Etcd::start().await.unwrap();
    let store = Store::connect(StoreConfig::new(Target::parse(&etcd.endpoint()).unwrap())).await.unwrap();
    fill(&store).await;
    let shutdown = Shutdown::new();
    let shared = Arc::new(Shared::new(&store, skerry_resources::SecretKeys::none()));
    shared.mirror.ready().await.unwrap();
    shutdown.spawn(follow::follow(Arc::clone(&shared), shutdown.clone()));
    // Before anybody leads, so that the first pass of the leader finds it already.
    eventually("there is something to assign", PATIENCE, async || {
        if shared.world().unsettled(1).is_empty() { Err("nothing") } else { Ok(()) }
    })
    .await;
    shutdown.spawn(lead(Arc::clone(&shared), store.clone(), "test".to_owned(), shutdown.clone()));
    eventually("what nobody refers to is cleared away", PATIENCE, async || {
        let left = numbers(&store).await;
        if left.len() == KEPT { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert_eq!(numbers(&store).await, (REVISIONS - 9..=REVISIONS).collect::<Vec<_>>(), "the newest stay");
    let assigned = store.get(&Key::<stored::AssignmentRecord>::of(&node())).await.unwrap();
    assert!(assigned.is_none() && !shared.world().unsettled(1).is_empty(), "it never could be assigned");
    shutdown.begin();
    shutdown.finish().await;
    store.close().await;
}
