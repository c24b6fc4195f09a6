//! Laws of changes, over a store in this process and a kind that is as simple as it can be: what holds for every kind of resource.

use std::sync::atomic::{AtomicUsize, Ordering};

use prost_types::FieldMask;
use skerry_etcd_embedded::{Config, EmbeddedEtcd};
use skerry_model::{Code, NodeRef, ProjectRef};
use skerry_proto::registry::v1::{Node, NodeSpec, UpdateNodeRequest};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::{Mirror, MirrorConfig, Store, StoreConfig, Target};
use tempfile::TempDir;

use super::*;

/// A kind whose spec is one bit, and which may be disturbed.
struct Kinds {
    store: Store,
    mirror: Mirror,
    /// How often somebody else cordons the node while its change is being written.
    disturbed: AtomicUsize,
    must_stay: bool,
}

impl Rules for Kinds {
    type Record = stored::NodeRecord;
    type Spec = NodeSpec;
    type Resource = Node;
    const FIELD: &'static str = "node";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.cordoned"];

    /// As an app or a config does, it takes bytes that are known when it is written.
    fn takes(record: &stored::NodeRecord) -> Takes {
        Takes { one_of: None, bytes: i64::from(record.cordoned) }
    }
    fn store(&self) -> &Store {
        &self.store
    }
    fn meta(record: &mut stored::NodeRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }
    async fn spec(&self, _: &NodeRef, record: &stored::NodeRecord) -> Result<NodeSpec, Fault> {
        Ok(NodeSpec { cordoned: record.cordoned, ..NodeSpec::default() })
    }
    fn merge(stored: Option<&NodeSpec>, sent: &Node, mask: &Mask) -> Result<NodeSpec, Fault> {
        let sent = sent.spec.clone().unwrap_or_default();
        let stored = stored.cloned().unwrap_or_default();
        Ok(if mask.covers("spec.cordoned") { sent } else { stored })
    }
    async fn write(
        &self,
        name: &NodeRef,
        record: &mut stored::NodeRecord,
        spec: &NodeSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        let less = |left: usize| left.checked_sub(1);
        if self.disturbed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            let key = Key::<stored::NodeRecord>::of(name);
            let mut theirs = self.store.get(&key).await?.map(|read| read.value).unwrap_or_default();
            let labels = &mut theirs.meta.get_or_insert_default().labels;
            labels.insert("theirs".to_owned(), "stays".to_owned());
            self.store.commit(Txn::new().put(&key, &theirs)).await?;
        }
        record.cordoned = spec.cordoned;
        Ok(txn)
    }
    fn resource(metadata: Metadata, spec: NodeSpec) -> Node {
        Node { metadata: Some(metadata), spec: Some(spec), status: None }
    }
}

impl Kind for Kinds {
    type Rules = Self;
    fn rules(&self) -> &Self {
        self
    }
    fn mirror(&self) -> &Mirror {
        &self.mirror
    }
    fn remove(&self, name: &NodeRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        if self.must_stay {
            return Err(Fault::new(Code::FailedPrecondition, "IN_USE", format!("{name} is in use")));
        }
        Ok(txn)
    }
}

struct World {
    kinds: Kinds,
    etcd: EmbeddedEtcd,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
        let channel = etcd.serve_in_process().await.unwrap();
        let store = Store::connect(StoreConfig::new(Target::Channel(channel))).await.unwrap();
        tenancy::ensure_project(&store, &ProjectName::parse("p").unwrap()).await.unwrap();
        let mirror = Mirror::start(&store, MirrorConfig::new().family::<stored::NodeRecord>());
        let kinds = Kinds { store, mirror, disturbed: AtomicUsize::new(0), must_stay: false };
        Self { kinds, etcd, _dir: dir }
    }

    async fn close(self) {
        self.kinds.store.close().await;
        self.etcd.close().await;
    }

    async fn create(&self, id: &str, node: &Node) -> Result<Node, Fault> {
        let create = Create { parent: "projects/p", resource: Some(node), validate_only: false };
        create_as(&self.kinds, id, create).await
    }

    async fn update(&self, id: &str, node: &Node, mask: &[&str]) -> Result<(Node, Outcome), Fault> {
        let mask = FieldMask { paths: mask.iter().map(|path| (*path).to_owned()).collect() };
        let update =
            Update { resource: Some(node), mask: Some(&mask), allow_missing: false, validate_only: false };
        update_as(&self.kinds, id, update).await
    }

    async fn delete(&self, id: &str, name: &str, etag: &str) -> Result<(), Fault> {
        let request = UpdateNodeRequest { node: Some(node(name, false, &[])), ..Default::default() };
        let call = Call { method: "Delete", id, request: &request, peer: &NOBODY };
        delete(&self.kinds, call, Delete { name, etag }).await
    }

    async fn read(&self) -> Result<Node, Fault> {
        read(&self.kinds, &NodeRef::parse(NAME).unwrap()).await
    }
}

const NAME: &str = "projects/p/nodes/n";
/// A caller of a listener without TLS.
const NOBODY: Peer = Peer { address: None, certificate: None };

async fn create_as(kinds: &Kinds, id: &str, create: Create<'_, Node>) -> Result<Node, Fault> {
    let request = UpdateNodeRequest { node: create.resource.cloned(), ..Default::default() };
    super::create(kinds, Call { method: "Create", id, request: &request, peer: &NOBODY }, create).await
}

async fn update_as(kinds: &Kinds, id: &str, update: Update<'_, Node>) -> Result<(Node, Outcome), Fault> {
    let request = UpdateNodeRequest { node: update.resource.cloned(), ..Default::default() };
    super::update(kinds, Call { method: "Update", id, request: &request, peer: &NOBODY }, update).await
}

fn node(name: &str, cordoned: bool, labels: &[(&str, &str)]) -> Node {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let metadata = Metadata { name: name.to_owned(), labels, ..Default::default() };
    Node { metadata: Some(metadata), spec: Some(NodeSpec { cordoned, ..NodeSpec::default() }), status: None }
}

fn with_etag(mut node: Node, etag: &str) -> Node {
    node.metadata.get_or_insert_default().etag = etag.to_owned();
    node
}

fn meta(node: &Node) -> &Metadata {
    node.metadata.as_ref().unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, Fault>) -> Code {
    result.unwrap_err().code
}

fn field<T: std::fmt::Debug>(result: Result<T, Fault>) -> String {
    result.unwrap_err().violations.swap_remove(0).field
}

#[tokio::test]
async fn a_stale_etag_is_aborted_and_the_present_one_is_taken() {
    let world = World::new().await;
    let old = world.create("", &node("n", false, &[])).await.unwrap();
    let (new, _) = world.update("", &with_etag(node(NAME, true, &[]), &meta(&old).etag), &[]).await.unwrap();
    assert_ne!(meta(&old).etag, meta(&new).etag);

    let late = with_etag(node(NAME, false, &[]), &meta(&old).etag);
    assert_eq!(code(world.update("", &late, &[]).await), Code::Aborted);
    assert_eq!(code(world.delete("", NAME, &meta(&old).etag).await), Code::Aborted);
    assert_eq!(world.read().await.unwrap(), new);

    world.delete("", NAME, &meta(&new).etag).await.unwrap();
    let upsert = Update { resource: Some(&late), mask: None, allow_missing: true, validate_only: false };
    // Who read it expects it to be there.
    assert_eq!(code(update_as(&world.kinds, "", upsert).await), Code::Aborted);
    world.close().await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found_unless_it_may_be_created() {
    let world = World::new().await;
    let wanted = node(NAME, true, &[("a", "1")]);
    assert_eq!(code(world.update("", &wanted, &[]).await), Code::NotFound);
    assert_eq!(code(world.delete("", NAME, "").await), Code::NotFound);
    assert_eq!(code(world.read().await), Code::NotFound);

    // What it becomes does not depend on the mask: there is nothing that could stay.
    let mask = FieldMask { paths: vec!["metadata.annotations".to_owned()] };
    let upsert =
        Update { resource: Some(&wanted), mask: Some(&mask), allow_missing: true, validate_only: false };
    let (created, outcome) = update_as(&world.kinds, "", upsert).await.unwrap();
    assert_eq!((outcome, &created.spec, meta(&created).generation), (Outcome::Created, &wanted.spec, 1));
    assert_eq!(meta(&created).labels, meta(&wanted).labels);
    assert_eq!(code(world.create("", &wanted).await), Code::AlreadyExists);
    world.close().await;
}

#[tokio::test]
async fn a_repeated_request_acts_once_and_its_id_is_no_other_request_s() {
    let world = World::new().await;
    let wanted = node("n", false, &[]);
    // At once, and afterwards.
    let (one, two) = tokio::join!(world.create("id-1", &wanted), world.create("id-1", &wanted));
    let created = one.unwrap();
    assert_eq!(two.unwrap(), created);
    assert_eq!(world.create("id-1", &wanted).await.unwrap(), created);
    assert_eq!(field(world.create("id-1", &node("other", false, &[])).await), "request_id");
    assert_eq!(field(world.update("id-1", &node(NAME, false, &[]), &[]).await), "request_id");

    let cordon = node(NAME, true, &[]);
    assert_eq!(world.update("id-2", &cordon, &[]).await.unwrap().1, Outcome::Updated);
    let (free, _) = world.update("", &node(NAME, false, &[]), &[]).await.unwrap();
    assert_eq!(world.update("id-2", &cordon, &[]).await.unwrap(), (free, Outcome::Unchanged));

    world.delete("id-3", NAME, "").await.unwrap();
    let again = world.create("", &wanted).await.unwrap();
    world.delete("id-3", NAME, "").await.unwrap();
    assert_eq!(world.read().await.unwrap(), again, "the delayed repeat deletes nothing");
    assert_eq!(field(world.create("not an id", &wanted).await), "request_id");
    world.close().await;
}

#[tokio::test]
async fn to_validate_shows_what_would_be_and_writes_nothing() {
    let world = World::new().await;
    let wanted = node("n", true, &[]);
    let create = Create { parent: "projects/p", resource: Some(&wanted), validate_only: true };
    let shown = create_as(&world.kinds, "", create).await.unwrap();
    assert_eq!((meta(&shown).name.as_str(), &shown.spec), (NAME, &wanted.spec));
    assert_eq!(code(world.read().await), Code::NotFound);

    let created = world.create("", &node("n", false, &[])).await.unwrap();
    let cordon = node(NAME, true, &[]);
    let update = Update { resource: Some(&cordon), mask: None, allow_missing: false, validate_only: true };
    let (shown, outcome) = update_as(&world.kinds, "", update).await.unwrap();
    assert_eq!((&shown.spec, meta(&shown).generation, outcome), (&cordon.spec, 2, Outcome::Updated));
    assert_eq!(world.read().await.unwrap(), created);
    world.close().await;
}

#[tokio::test]
async fn to_validate_is_refused_for_the_quota_as_the_change_would_be() {
    let world = World::new().await;
    let key = Key::<stored::ProjectRecord>::of(&ProjectRef::parse("projects/p").unwrap());
    let quota = Some(stored::QuotaRecord { size_bytes: Some(0), ..Default::default() });
    let record = stored::ProjectRecord { quota, ..Default::default() };
    world.kinds.store.commit(Txn::new().put(&key, &record)).await.unwrap();

    let wanted = node("n", true, &[]);
    let create = Create { parent: "projects/p", resource: Some(&wanted), validate_only: true };
    assert_eq!(create_as(&world.kinds, "", create).await.unwrap_err().reason, "QUOTA_USED_UP");
    world.create("", &node("n", false, &[])).await.unwrap();
    let cordon = node(NAME, true, &[]);
    let update = Update { resource: Some(&cordon), mask: None, allow_missing: false, validate_only: true };
    assert_eq!(update_as(&world.kinds, "", update).await.unwrap_err().reason, "QUOTA_USED_UP");
    world.close().await;
}

#[tokio::test]
async fn only_a_new_spec_is_a_new_generation_and_what_is_equal_is_not_written() {
    let world = World::new().await;
    let created = world.create("", &node("n", false, &[("a", "1")])).await.unwrap();
    let same = world.update("", &node(NAME, false, &[("a", "1")]), &[]).await.unwrap();
    assert_eq!(same, (created.clone(), Outcome::Unchanged));

    let (labelled, outcome) = world.update("", &node(NAME, false, &[("a", "2")]), &[]).await.unwrap();
    assert_eq!((outcome, meta(&labelled).generation), (Outcome::Updated, 1));
    let (cordoned, outcome) = world.update("", &node(NAME, true, &[("a", "2")]), &[]).await.unwrap();
    assert_eq!((outcome, meta(&cordoned).generation), (Outcome::Updated, 2));
    assert_eq!(meta(&cordoned).uid, meta(&created).uid);

    let shown = world.kinds.mirror.snapshot();
    let shown = shown.get(&Key::<stored::NodeRecord>::of(&NodeRef::parse(NAME).unwrap())).unwrap().unwrap();
    let etag = Etag { mod_revision: shown.mod_revision }.to_string();
    assert_eq!(etag, meta(&cordoned).etag, "whoever has the answer finds it in a list of this replica");
    world.close().await;
}

#[tokio::test]
async fn the_mask_says_what_is_meant_and_an_unknown_path_is_named() {
    let world = World::new().await;
    world.create("", &node("n", false, &[("a", "1")])).await.unwrap();
    let wanted = node(NAME, true, &[("b", "2")]);
    let (changed, _) = world.update("", &wanted, &["metadata.labels.b"]).await.unwrap();
    assert_eq!((meta(&changed).labels.len(), &changed.spec), (2, &Some(NodeSpec::default())));
    let (changed, _) = world.update("", &wanted, &["spec"]).await.unwrap();
    assert_eq!((meta(&changed).labels.len(), &changed.spec), (2, &wanted.spec));

    let fault = world.update("", &wanted, &["spec", "spec.colour"]).await.unwrap_err();
    assert_eq!((fault.code, fault.violations.len()), (Code::InvalidArgument, 1));
    assert_eq!(fault.violations[0].field, "update_mask");
    assert!(fault.violations[0].description.contains("`spec.colour`"), "{fault:?}");
    world.close().await;
}

#[tokio::test]
async fn who_is_not_the_first_merges_again_and_gives_up_in_the_end() {
    let world = World::new().await;
    world.create("", &node("n", false, &[])).await.unwrap();
    world.kinds.disturbed.store(2, Ordering::Relaxed);
    let (changed, _) = world.update("", &node(NAME, true, &[]), &["spec"]).await.unwrap();
    assert!(changed.spec.as_ref().is_some_and(|spec| spec.cordoned));
    assert!(meta(&changed).labels.contains_key("theirs"), "the other's change is kept");

    world.kinds.disturbed.store(usize::MAX, Ordering::Relaxed);
    let fault = world.update("", &node(NAME, false, &[]), &["spec"]).await.unwrap_err();
    assert_eq!(fault, Fault::contended(NAME));
    world.close().await;
}

#[tokio::test]
async fn a_refusal_names_the_field_and_what_is_in_use_stays() {
    let mut world = World::new().await;
    let refusal = async |parent: &str, resource: Option<Node>| {
        let create = Create { parent, resource: resource.as_ref(), validate_only: false };
        field(create_as(&world.kinds, "", create).await)
    };
    assert_eq!(refusal("p", Some(node("n", false, &[]))).await, "parent");
    assert_eq!(refusal("projects/p", None).await, "node");
    assert_eq!(refusal("projects/p", Some(node("N", false, &[]))).await, "node.metadata.name");
    assert_eq!(refusal("projects/q", Some(node(NAME, false, &[]))).await, "node.metadata.name");
    assert_eq!(field(world.update("", &node("n", false, &[]), &[]).await), "node.metadata.name");
    let labels = field(world.create("", &node("n", false, &[("no good", "1")])).await);
    assert!(labels.starts_with("metadata.labels"), "{labels}");

    let created = world.create("", &node("n", false, &[])).await.unwrap();
    world.kinds.must_stay = true;
    assert_eq!(code(world.delete("", NAME, "").await), Code::FailedPrecondition);
    assert_eq!(world.read().await.unwrap(), created);
    world.close().await;
}
