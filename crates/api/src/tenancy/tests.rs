//! Laws of quotas, over a store in this process: whatever is made and deleted, and however many do it at once, no project has more than it may,
//! and what is counted is what is there.

use proptest::prelude::*;
use skerry_etcd_embedded::{Config, EmbeddedEtcd};
use skerry_model::AppRef;
use skerry_store::{StoreConfig, Target};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::tries::Tries;

struct World {
    store: Store,
    etcd: EmbeddedEtcd,
    project: ProjectName,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = EmbeddedEtcd::open(Config::new(dir.path())).await.unwrap();
        let channel = etcd.serve_in_process().await.unwrap();
        let store = Store::connect(StoreConfig::new(Target::Channel(channel))).await.unwrap();
        let project = ProjectName::parse("p").unwrap();
        ensure_project(&store, &project).await.unwrap();
        Self { store, etcd, project, _dir: dir }
    }

    async fn close(self) {
        self.store.close().await;
        self.etcd.close().await;
    }

    /// Sets limits as the registry does: one that is taken away takes its count along.
    async fn limit(&self, apps: Option<i64>, bytes: Option<i64>) {
        let key = key_of(&self.project);
        let mut record = self.store.get(&key).await.unwrap().unwrap().value;
        let quota = stored::QuotaRecord { apps, size_bytes: bytes, ..Default::default() };
        record.quota = Some(quota);
        let txn = uncount(&self.project, &quota, Txn::new().put(&key, &record));
        self.store.commit(txn).await.unwrap();
    }

    async fn set(&self, app: &str, bytes: i64) -> Result<(), Fault> {
        set(&self.store, &self.project, app, bytes).await
    }

    /// Whether every count there is equals what is there; how many apps and bytes that is.
    async fn checked(&self) -> (i64, i64) {
        for counted in Counted::ALL {
            let name = UsageName { project: self.project.clone(), counted };
            let read = self.store.get(&Key::<stored::UsageRecord>::of(&name)).await.unwrap();
            let there = recount(&self.store, &self.project, counted).await.unwrap();
            assert!(read.is_none_or(|read| read.value.used == there), "{counted:?}: {there}");
        }
        let of = async |counted| recount(&self.store, &self.project, counted).await.unwrap();
        (of(Counted::Apps).await, of(Counted::Bytes).await)
    }
}

fn takes(record: &stored::AppRecord) -> Takes {
    Takes { one_of: Some(Counted::Apps), bytes: record.size_bytes }
}

/// Makes an app of so many bytes, or gives it so many; none: deletes it.
async fn set(store: &Store, project: &ProjectName, app: &str, bytes: i64) -> Result<(), Fault> {
    let key = Key::<stored::AppRecord>::of(&AppRef::parse_in(project, app).unwrap());
    let mut tries = Tries::default();
    loop {
        let before = store.get(&key).await?;
        let old = before.as_ref().map(|before| takes(&before.value));
        let record = stored::AppRecord { size_bytes: bytes, ..Default::default() };
        let revision = before.as_ref().map_or(0, |before| before.mod_revision);
        let txn = Txn::new().when_unchanged(&key, revision);
        let txn = match (old, bytes) {
            (None, 0) => return Ok(()),
            (None, _) => {
                let charges = Takes::charges(None, Some(takes(&record)));
                admit(store, project, &charges, txn.put(&key, &record)).await?
            }
            (Some(_), 0) => account(store, project, &Takes::charges(old, None), txn.delete(&key)).await?,
            (Some(_), _) => {
                let charges = Takes::charges(old, Some(takes(&record)));
                account(store, project, &charges, txn.put(&key, &record)).await?
            }
        };
        match store.commit(txn).await {
            Ok(_) => return Ok(()),
            Err(TxnError::Conflict(_)) => tries.again(&app).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Set { app: u8, bytes: i64 },
    Limit { apps: Option<i64>, bytes: Option<i64> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..6_u8, 0..50_i64).prop_map(|(app, bytes)| Step::Set { app, bytes }),
        1 => (proptest::option::of(0..5_i64), proptest::option::of(0..120_i64))
            .prop_map(|(apps, bytes)| Step::Limit { apps, bytes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn counts_are_what_is_there_and_only_more_than_a_limit_is_refused(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let (mut apps_max, mut bytes_max) = (None::<i64>, None::<i64>);
            let (mut apps, mut bytes) = (0, 0);
            for step in steps {
                match step {
                    Step::Limit { apps, bytes } => {
                        world.limit(apps, bytes).await;
                        (apps_max, bytes_max) = (apps, bytes);
                    }
                    Step::Set { app, bytes: size } => {
                        let done = world.set(&format!("a{app}"), size).await;
                        let now = world.checked().await;
                        let more = |max: Option<i64>, before: i64, after: i64| after > before && max.is_some_and(|max| after > max);
                        match done {
                            Ok(()) => assert!(!more(apps_max, apps, now.0) && !more(bytes_max, bytes, now.1)),
                            Err(fault) => {
                                assert_eq!((fault.reason, now), ("QUOTA_USED_UP", (apps, bytes)));
                                assert!(apps_max.is_some() || bytes_max.is_some());
                            }
                        }
                        (apps, bytes) = now;
                    }
                }
            }
            world.close().await;
        });
    }
}

#[tokio::test]
async fn of_many_that_come_at_once_exactly_as_many_get_through_as_fit() {
    let world = World::new().await;
    for app in 0..3 {
        world.set(&format!("before-{app}"), 10).await.unwrap();
    }
    // The first of them after that counts what there is.
    world.limit(Some(10), None).await;
    let mut creating = JoinSet::new();
    for app in 0..24 {
        let (store, project) = (world.store.clone(), world.project.clone());
        creating.spawn(async move { set(&store, &project, &format!("a{app}"), 1).await });
    }
    let outcomes = creating.join_all().await;
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    for fault in refused.clone() {
        assert_eq!(fault.message, "projects/p has 10 of 10 apps; raise spec.quota.apps or delete some");
    }
    assert_eq!((outcomes.len() - refused.count(), world.checked().await), (7, (10, 37)));
    world.set("a0", 0).await.unwrap();
    world.set("before-0", 0).await.unwrap();
    world.set("late", 1).await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn a_count_that_went_astray_is_put_right_and_told_once() {
    let world = World::new().await;
    world.limit(Some(5), None).await;
    world.set("a", 7).await.unwrap();
    let name = UsageName { project: world.project.clone(), counted: Counted::Apps };
    let key = Key::<stored::UsageRecord>::of(&name);
    world.store.commit(Txn::new().put(&key, &stored::UsageRecord { used: 4 })).await.unwrap();
    assert_eq!(heal(&world.store, &world.project).await, Ok(vec![(Counted::Apps, 4, 1)]));
    assert_eq!(heal(&world.store, &world.project).await, Ok(Vec::new()));
    world.checked().await;
    world.close().await;
}

#[tokio::test]
async fn nothing_is_made_where_there_is_no_project_or_one_that_goes() {
    let world = World::new().await;
    let in_project = async |name: &str| {
        let project = ProjectName::parse(name).unwrap();
        set(&world.store, &project, "web", 1).await.map_err(|fault| (fault.reason, fault.message))
    };
    let (reason, message) = in_project("typo").await.unwrap_err();
    assert_eq!(reason, "PROJECT_NOT_FOUND");
    assert!(message.contains("skerry create project typo"), "{message}");
    // What is always there gets its record by being used.
    in_project("default").await.unwrap();
    let key = key_of(&ProjectName::parse("default").unwrap());
    let made = world.store.get(&key).await.unwrap().unwrap();
    assert!(!made.value.meta.unwrap().uid.is_empty());

    let key = key_of(&world.project);
    let read = world.store.get(&key).await.unwrap().unwrap();
    let going = stored::ProjectRecord { delete_time: Some(prost_types::Timestamp::default()), ..read.value };
    // Whoever has looked before the project began to go comes to nothing.
    let early = admit(&world.store, &world.project, &[], Txn::new()).await.unwrap();
    world.store.commit(Txn::new().put(&key, &going)).await.unwrap();
    let app = Key::<stored::AppRecord>::of(&AppRef::parse("projects/p/apps/late").unwrap());
    let late = world.store.commit(early.put(&app, &stored::AppRecord::default())).await;
    assert!(matches!(late, Err(TxnError::Conflict(_))));
    assert_eq!(in_project("p").await.unwrap_err().0, "PROJECT_DELETING");
    world.close().await;
}

#[test]
fn a_refusal_says_figure_limit_and_remedy() {
    let project = ProjectName::parse("x").unwrap();
    let told = |counted, used, change, limit| after(&project, counted, used, change, limit);
    let fault = told(Counted::Bytes, 900, 300, 1000).unwrap_err();
    assert_eq!(
        fault.message,
        "projects/x has 900 of 1000 bytes, and this takes 300 more; raise spec.quota.size or delete some"
    );
    assert_eq!(fault.code, Code::ResourceExhausted);
    assert_eq!((fault.metadata["used"].as_str(), fault.metadata["limit"].as_str()), ("900", "1000"));
    // Above a limit that was lowered, less is never refused; and a count is never below nothing.
    assert_eq!(told(Counted::Apps, 12, -1, 10), Ok(11));
    assert_eq!(told(Counted::Apps, 0, -1, 10), Ok(0));
    assert!(told(Counted::Apps, 0, 1, 0).is_err());
}

#[tokio::test]
async fn the_first_in_a_permanent_project_makes_its_record_and_leaves_one_of_that_too() {
    let world = World::new().await;
    let channel = world.etcd.serve_in_process().await.unwrap();
    let config = StoreConfig::new(Target::Channel(channel)).written_by("registry");
    let store = Store::connect(config).await.unwrap();
    let project = ProjectName::parse(ProjectName::DEFAULT).unwrap();
    // What comes first may be nothing that is audited, as a machine that waits for approval.
    let txn = admit(&store, &project, &[], Txn::new()).await.unwrap();
    store.commit(txn).await.unwrap();
    assert!(store.get(&key_of(&project)).await.unwrap().is_some());
    let heads = store.audit_heads(10).await.unwrap();
    assert_eq!(heads.iter().filter(|head| head.key.to_string().contains("/registry-")).count(), 1);
    store.close().await;
    world.close().await;
}
