//! Tasks over real etcd: a worker goes on with them, and handlers say what may be done with one.

use std::collections::BTreeMap;
use std::time::Duration;

use skerry_api::audit;
use skerry_model::NodeRef;
use skerry_proto::registry::v1::task_spec::Work;
use skerry_proto::registry::v1::{DeleteProjectWork, DrainClusterWork, RelabelNodesWork, TaskState};
use skerry_store::{Act, StoreConfig, Target};
use skerry_testing::{Etcd, eventually};

use super::*;
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{ClusterRef, ProjectRef};
use skerry_proto::registry::v1::TaskSpec;
use skerry_proto::store::v1::task_record::Work as StoredWork;

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    _etcd: Etcd,
    store: Store,
    shutdown: Shutdown,
    tasks: Tasks,
    nodes: Nodes,
}

async fn start() -> World {
    let etcd = Etcd::start().await.unwrap();
    let target = Target::parse(&etcd.endpoint()).unwrap();
    let store = Store::connect(StoreConfig::new(target).written_by("registry")).await.unwrap();
    let shutdown = Shutdown::new();
    let shared = Arc::new(Shared::new(&store));
    shared.mirror.ready().await.unwrap();
    shutdown.spawn(crate::follow::follow(Arc::clone(&shared), shutdown.clone()));
    let nodes = Nodes::new(Arc::clone(&shared), store.clone(), shutdown.clone());
    let projects = Projects::start(&store, &shutdown).await.unwrap();
    let works_on = (shared, nodes.clone(), projects);
    let tasks = Tasks::start(&store, "m1".to_owned(), works_on, &shutdown).await.unwrap();
    World { _etcd: etcd, store, shutdown, tasks, nodes }
}

impl World {
    /// Nodes with these labels.
    async fn nodes(&self, names: impl IntoIterator<Item = String>, labels: &[(&str, &str)]) {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        for name in names {
            let name = NodeRef::parse(&format!("projects/default/nodes/{name}")).unwrap();
            let meta = stored::Meta { labels: labels.clone(), ..Default::default() };
            let record = stored::NodeRecord { meta: Some(meta), ..Default::default() };
            let by = audit::command("test");
            let act = Act::new(by, "test", name.project.clone(), name.to_string(), AuditOutcome::Created);
            let done = self.store.commit(Txn::new().put(&Key::of(&name), &record).audit(act)).await.unwrap();
            self.nodes.mirror().wait_for(&done).await.unwrap();
        }
        // What chooses nodes looks at the hub.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    async fn create(&self, request: pb::CreateTaskRequest) -> Result<Task, Status> {
        let made = self.tasks.create_task(called(request)).await?;
        Ok(made.into_inner().task.unwrap())
    }

    async fn get(&self, name: &str) -> Task {
        let request = pb::GetTaskRequest { name: name.to_owned() };
        self.tasks.get_task(called(request)).await.unwrap().into_inner().task.unwrap()
    }

    async fn wait(&self, name: &str, state: TaskState) -> pb::TaskStatus {
        eventually(&format!("{name} is {state:?}"), PATIENCE, async || {
            let status = self.get(name).await.status.unwrap();
            if status.state() == state { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    async fn label(&self, node: &str, key: &str) -> Option<String> {
        let key_of = Key::<stored::NodeRecord>::of(
            &NodeRef::parse(&format!("projects/default/nodes/{node}")).unwrap(),
        );
        self.store.get(&key_of).await.unwrap().unwrap().value.meta.unwrap().labels.get(key).cloned()
    }

    async fn finish(self) {
        self.shutdown.finish().await;
        self.store.close().await;
    }
}

/// By a caller of a listener without TLS.
fn called<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer { address: None, certificate: None });
    request
}

fn asked(parent: &str, work: Work) -> pb::CreateTaskRequest {
    let task = Task { spec: Some(TaskSpec { work: Some(work) }), ..Task::default() };
    pb::CreateTaskRequest { parent: parent.to_owned(), task: Some(task), ..Default::default() }
}

fn relabel(selector: &str, key: &str, value: &str) -> Work {
    Work::RelabelNodes(RelabelNodesWork {
        label_selector: selector.to_owned(),
        set: [(key.to_owned(), value.to_owned())].into(),
        ..Default::default()
    })
}

fn name(task: &Task) -> String {
    task.metadata.as_ref().unwrap().name.clone()
}

#[tokio::test]
async fn nodes_are_labelled_one_by_one_and_one_that_cannot_be_is_told_and_retried() {
    let world = start().await;
    world.nodes((0..30).map(|number| format!("n{number:02}")), &[("site", "oslo")]).await;
    world.nodes(["n99".to_owned()], &[("site", "oslo"), ("zone", "x")]).await;
    world.nodes(["other".to_owned()], &[("site", "bergen")]).await;
    let request = pb::CreateTaskRequest {
        request_id: "id-1".to_owned(),
        ..asked("projects/default", relabel("site=oslo", "zone", "b"))
    };
    let made = world.create(request.clone()).await.unwrap();
    let name = name(&made);
    assert!(name.starts_with("projects/default/tasks/relabel-"), "{name}");
    assert_eq!(world.create(request).await.unwrap().metadata.unwrap().name, name, "the repeat is the same");

    let status = world.wait(&name, TaskState::Failed).await;
    assert_eq!((status.steps_done, status.steps_total, status.failures.len()), (30, 31, 1), "{status:?}");
    assert_eq!(status.failures[0].step, "n99");
    assert!(status.failures[0].permanent && status.failures[0].error.contains("zone is \"x\" already"));
    assert_eq!((status.worker.as_str(), status.message.as_str()), ("m1", "30 of 31 nodes labelled"));
    assert_eq!(world.label("n07", "zone").await.as_deref(), Some("b"));
    assert_eq!(world.label("other", "zone").await, None);

    // What was in its way goes, and it goes on with what is left.
    world.nodes(["n99".to_owned()], &[("site", "oslo")]).await;
    let retry = pb::RetryTaskRequest { name: name.clone() };
    world.tasks.retry_task(called(retry.clone())).await.unwrap();
    let status = world.wait(&name, TaskState::Succeeded).await;
    assert_eq!((status.run, status.steps_done, status.failures.len()), (2, 31, 0), "{status:?}");
    assert_eq!(world.label("n99", "zone").await.as_deref(), Some("b"));
    let refused = world.tasks.retry_task(called(retry)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let cancel = pb::CancelTaskRequest { name: name.clone() };
    assert_eq!(
        world.tasks.cancel_task(called(cancel)).await.unwrap_err().code(),
        tonic::Code::FailedPrecondition
    );
    let delete = pb::DeleteTaskRequest { name: name.clone(), ..Default::default() };
    world.tasks.delete_task(called(delete)).await.unwrap();
    let get = pb::GetTaskRequest { name };
    assert_eq!(world.tasks.get_task(called(get)).await.unwrap_err().code(), tonic::Code::NotFound);
    world.finish().await;
}

#[tokio::test]
async fn a_project_is_deleted_when_it_is_empty_and_its_task_outlives_it() {
    let world = start().await;
    let shop = ProjectRef::parse("projects/shop").unwrap();
    let key = Key::<stored::ProjectRecord>::of(&shop);
    let work = || Work::DeleteProject(DeleteProjectWork { project: "shop".to_owned() });
    let refused = world.create(asked("projects/system", work())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "it is not there");
    skerry_api::ensure_project(&world.store, &shop.project).await.unwrap();
    let refused = world.create(asked("projects/default", work())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");

    let cluster = ClusterRef::parse("projects/shop/clusters/c").unwrap();
    let cluster_key = Key::<stored::ClusterRecord>::of(&cluster);
    let act = || {
        let by = audit::command("test");
        Act::new(by, "test", shop.project.clone(), cluster.to_string(), AuditOutcome::Created)
    };
    let txn = Txn::new().put(&cluster_key, &stored::ClusterRecord::default()).audit(act());
    world.store.commit(txn).await.unwrap();
    let name = name(&world.create(asked("projects/system", work())).await.unwrap());
    eventually("it says what is in it", PATIENCE, async || {
        let status = world.get(&name).await.status.unwrap();
        let says = status.message.contains("1 cluster");
        if says { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let delete = pb::DeleteTaskRequest { name: name.clone(), ..Default::default() };
    let refused = world.tasks.delete_task(called(delete)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "it has not ended");

    // Cancelled in the middle, and gone on with.
    let cancel = || called(pb::CancelTaskRequest { name: name.clone() });
    world.tasks.cancel_task(cancel()).await.unwrap();
    let status = world.wait(&name, TaskState::Cancelled).await;
    assert_eq!((status.steps_done, status.message.as_str()), (0, "0 of 1 projects deleted"));
    world.tasks.cancel_task(cancel()).await.unwrap();
    world.store.commit(Txn::new().delete(&cluster_key).audit(act())).await.unwrap();
    assert!(world.store.get(&key).await.unwrap().is_some(), "nobody works on it");
    world.tasks.retry_task(called(pb::RetryTaskRequest { name: name.clone() })).await.unwrap();
    let status = world.wait(&name, TaskState::Succeeded).await;
    assert_eq!((status.steps_done, status.steps_total), (1, 1));
    assert_eq!(world.store.get(&key).await.unwrap(), None);
    world.finish().await;
}

#[tokio::test]
async fn a_namesake_of_a_project_is_not_deleted() {
    let world = start().await;
    let shop = ProjectRef::parse("projects/shop").unwrap();
    let key = Key::<stored::ProjectRecord>::of(&shop);
    skerry_api::ensure_project(&world.store, &shop.project).await.unwrap();
    let work = Work::DeleteProject(DeleteProjectWork { project: "shop".to_owned() });
    let mut wanted = spec::stored_work(&TaskSpec { work: Some(work) }).unwrap();
    if let StoredWork::DeleteProject(delete) = &mut wanted {
        delete.uid = "another".to_owned();
    }
    let task = TaskRef::parse("projects/system/tasks/t").unwrap();
    let record = stored::TaskRecord { work: Some(wanted), run: 1, ..Default::default() };
    let by = audit::command("test");
    let act = Act::new(by, "test", task.project.clone(), task.to_string(), AuditOutcome::Created);
    world.store.commit(Txn::new().put(&Key::of(&task), &record).audit(act)).await.unwrap();
    eventually("the task is shown", PATIENCE, async || {
        world.tasks.shown.tasks.get(&task.to_string()).map(|_| ()).ok_or("not yet")
    })
    .await;
    world.wait(&task.to_string(), TaskState::Succeeded).await;
    assert!(world.store.get(&key).await.unwrap().is_some());
    world.finish().await;
}

#[tokio::test]
async fn what_a_task_is_about_is_there_or_it_is_refused() {
    let world = start().await;
    let drain = Work::DrainCluster(DrainClusterWork { cluster: "plant".to_owned() });
    let refused = world.create(asked("projects/default", drain)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("skerry create cluster plant"), "{}", refused.message());
    let into = relabel("site=oslo", CLUSTER_LABEL, "plant");
    let refused = world.create(asked("projects/default", into)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let request =
        pb::CreateTaskRequest { validate_only: true, ..asked("projects/default", relabel("a=b", "c", "d")) };
    let valid = world.create(request).await.unwrap();
    assert!(world.tasks.shown.tasks.get(&name(&valid)).is_none(), "nothing is made");
    world.finish().await;
}
