//! Chains of the audit log over real etcd, as a service writes them: whatever becomes of their heads, and while the store does not answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use prost::Message as _;
use skerry_model::{NodeRef, ProjectName};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AuditCaller, AuditEntry, AuditOutcome, AuditStart};
use skerry_store::keys::{AuditName, ChainId};
use skerry_store::{Act, Key, Store, StoreConfig, Target, Txn, TxnError};
use skerry_testing::{Etcd, eventually};

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(etcd: &Etcd) -> Store {
    let target = Target::parse(&etcd.endpoint()).unwrap();
    let config = StoreConfig { deadline: Duration::from_secs(2), ..StoreConfig::new(target) };
    Store::connect(config.written_by("law")).await.unwrap()
}

fn change(node: &str) -> Txn {
    let name = NodeRef::parse(&format!("projects/p/nodes/{node}")).unwrap();
    let project = ProjectName::parse("p").unwrap();
    let act = Act::new(AuditCaller::default(), "Put", project, name.to_string(), AuditOutcome::Updated);
    Txn::new().put(&Key::of(&name), &stored::NodeRecord::default()).audit(act)
}

/// How the first record of a chain tells of its beginning.
async fn start_of(store: &Store, chain: &ChainId) -> AuditStart {
    let key = Key::<stored::AuditRecord>::of(&AuditName { chain: chain.clone(), sequence: 1 });
    let read = store.get(&key).await.unwrap().unwrap();
    AuditEntry::decode(read.value.entry).unwrap().start.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_becomes_of_a_head_changes_go_on_in_a_chain_that_names_the_former() {
    let etcd = Etcd::start().await.unwrap();
    let store = connect(&etcd).await;
    store.commit(change("n1")).await.unwrap();
    for harm in ["it does not decode", "it is gone"] {
        let heads = store.audit_heads(10).await.unwrap();
        let [head] = heads.as_slice() else { panic!("{heads:?}") };
        let harmed = match harm {
            "it is gone" => Txn::new().delete(&head.key),
            _ => Txn::new().put_bytes(&head.key, b"\xff".as_slice().into()),
        };
        store.commit(harmed).await.unwrap();
        store.commit(change("n1")).await.unwrap_or_else(|error| panic!("{harm}: {error}"));
        // Who lists heads cannot read it.
        store.commit(Txn::new().delete(&head.key)).await.unwrap();
        let next = store.audit_heads(10).await.unwrap();
        let [next] = next.as_slice() else { panic!("{harm}: {next:?}") };
        let former = start_of(&store, &next.key.name()).await.former.unwrap();
        assert_eq!((former.chain, former.sequence), (head.key.name().to_string(), 1), "{harm}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_changes_in_a_stall_few_are_sent_and_the_others_wait_no_longer_than_those() {
    let mut etcd = Etcd::start().await.unwrap();
    let store = connect(&etcd).await;
    store.commit(change("n0")).await.unwrap();
    etcd.pause().unwrap();
    let names: Vec<_> = (0..80).map(|n| format!("n{n}")).collect();
    let came = futures_util::future::join_all(names.iter().map(|name| store.commit(change(name)))).await;
    etcd.resume().unwrap();
    // Each of eight chains was held by who came first, and perhaps by one more who got it just in time.
    let sent = came.iter().filter(|came| matches!(came, Err(TxnError::Indeterminate { .. }))).count();
    assert!(sent <= 16, "{sent} were sent one after the other");
    let others = came.iter().filter(|came| matches!(came, Err(TxnError::Unavailable { .. }))).count();
    assert_eq!(sent + others, came.len(), "{came:?}");
    eventually("changes are made again", PATIENCE, || store.commit(change("n0"))).await;
    store.close().await;
}
