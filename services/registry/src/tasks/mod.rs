//! `TaskService`: long operations in a durable queue, which all replicas of the registry work on.
//!
//! | module | job |
//! |---|---|
//! | `spec` | what may be asked for |
//! | `rules` | what a task is, and what must be there for it |
//! | `shown` | tasks as clients see them |
//! | `queue` | which are due, and which are kept: pure |
//! | `journal` | what comes next of one, and what is remembered of it: pure |
//! | `claim` | who works on it |
//! | `work` | the kinds of tasks, and their steps |
//! | `drive` | goes on with one |
//! | `worker` | claims what is due |

mod claim;
mod drive;
mod journal;
mod queue;
mod rules;
mod shown;
mod spec;
mod work;
mod worker;

use std::sync::Arc;

use skerry_api::{
    Call, Caused, Create, Delete, Kind, ResponseStream, Told, Tries, audit, known_project, reply,
};
use skerry_daemon::Shutdown;
use skerry_model::{Code, ContentHash, Fault, ProjectName, TaskRef};
use skerry_proto::registry::v1::task_service_server::TaskService;
use skerry_proto::registry::v1::{self as pb, ChangeType, Task};
use skerry_proto::store::v1 as stored;
use skerry_proto::store::v1::TaskPhase;
use skerry_proto::types::v1::AuditOutcome;
use skerry_rpc::{Peer, status_of};
use skerry_store::{Key, Mirror, Store, Txn, TxnError, WaitError};
use tonic::{Request, Response, Status};

use self::journal::{Wanted, ended};
use self::rules::{Creator, TaskRules};
use self::shown::Shown;
use self::work::Env;
use self::worker::Worker;
use crate::follow::Shared;
use crate::nodes::Nodes;
use crate::projects::Projects;

/// By which what tasks change was asked for.
const CREATE_METHOD: &str = "skerry.registry.v1.TaskService/CreateTask";

/// The handlers.
#[derive(Clone)]
pub(crate) struct Tasks {
    shown: Arc<Shown>,
    rules: TaskRules,
    shutdown: Shutdown,
}

impl Tasks {
    /// Reads what there is, then follows the store and works until `shutdown`. `member` is the id of this replica.
    pub(crate) async fn start(
        store: &Store,
        member: String,
        (shared, nodes, projects): (Arc<Shared>, Nodes, Projects),
        shutdown: &Shutdown,
    ) -> Result<Self, WaitError> {
        let shown = Arc::new(Shown::new(store));
        shown.mirror.ready().await?;
        shutdown.spawn(shown::follow(Arc::clone(&shown), shutdown.clone()));
        let env = Arc::new(Env { store: store.clone(), shared, nodes, projects });
        let worker = Worker { env, shown: Arc::clone(&shown), member };
        shutdown.spawn(worker.run(shutdown.clone()));
        let rules = TaskRules { store: store.clone(), creator: None };
        Ok(Self { shown, rules, shutdown: shutdown.clone() })
    }

    async fn create(&self, request: &pb::CreateTaskRequest, peer: &Peer) -> Result<Task, Fault> {
        let project = ProjectName::parse_parent(&request.parent);
        let project = project.map_err(|error| Fault::invalid_field("parent", error))?;
        known_project(&self.rules.store, &self.shown.mirror, &project).await?;
        let named = named(request);
        let full = format!("{}/tasks/{}", request.parent, name_of(&named));
        // A repeat is answered as it was, however many there are now.
        let is_there = self.shown.tasks.get(&full).is_some();
        if !is_there && queue::open(&self.shown.tasks.snapshot(), &project) >= queue::OPEN_MAX {
            let message = format!(
                "{} tasks of {} have not ended: cancel some (skerry task cancel)",
                queue::OPEN_MAX,
                request.parent
            );
            return Err(Fault::new(Code::ResourceExhausted, "TOO_MANY_TASKS", message));
        }
        let creator = Creator { caller: audit::caller(peer), request_id: request.request_id.clone() };
        let rules = TaskRules { creator: Some(creator), ..self.rules.clone() };
        let tasks = Self { rules, ..self.clone() };
        let create =
            Create { parent: &request.parent, resource: Some(&named), validate_only: request.validate_only };
        let call = Call { method: CREATE_METHOD, id: &request.request_id, request, peer };
        skerry_api::create(&tasks, call, create).await
    }

    /// Changes a record by what `change` makes of it and of how its run ended, if it has. Nothing: it is as it shall be.
    async fn change(
        &self,
        name: &str,
        caused: &Caused,
        change: impl Fn(&TaskRef, &stored::TaskRecord, Option<TaskPhase>) -> Result<Changed, Fault>,
    ) -> Result<Task, Fault> {
        let name = TaskRef::parse(name)?;
        let (key, progress_key) = (Key::of(&name), Key::<stored::TaskProgressRecord>::of(&name));
        let mut tries = Tries::default();
        loop {
            let Some(read) = self.rules.store.get(&key).await? else {
                return skerry_api::read(self, &name).await;
            };
            let progress = self.rules.store.get(&progress_key).await?;
            let at = progress.as_ref().map_or(0, |progress| progress.mod_revision);
            let phase = ended(progress.as_ref().map(|progress| &progress.value), Wanted::of(&read.value));
            let Some((record, detail)) = change(&name, &read.value, phase)? else {
                return skerry_api::read(self, &name).await;
            };
            let act = caused.of(&name, AuditOutcome::Updated).detail(detail);
            let mut txn = Txn::new().when_same(&read).put(&key, &record).audit(act);
            if phase.is_some() {
                txn = txn.when_unchanged(&progress_key, at);
            }
            match self.rules.store.commit(txn).await {
                Ok(done) => {
                    self.shown.mirror.wait_for(&done).await?;
                    return skerry_api::read(self, &name).await;
                }
                Err(TxnError::Conflict(_)) => tries.again(&name).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A record as it shall be, and what the audit log says of that.
type Changed = Option<(stored::TaskRecord, &'static str)>;

fn cancelled(
    name: &TaskRef,
    record: &stored::TaskRecord,
    phase: Option<TaskPhase>,
) -> Result<Changed, Fault> {
    match phase {
        None if record.cancel => Ok(None),
        None => Ok(Some((stored::TaskRecord { cancel: true, ..record.clone() }, "cancelled"))),
        Some(TaskPhase::Cancelled) => Ok(None),
        Some(phase) => {
            let message = format!("{name} has {} already", said(phase));
            Err(Fault::new(Code::FailedPrecondition, "TASK_ENDED", message))
        }
    }
}

fn retried(name: &TaskRef, record: &stored::TaskRecord, phase: Option<TaskPhase>) -> Result<Changed, Fault> {
    match phase {
        Some(TaskPhase::Failed | TaskPhase::Cancelled) => {
            let run = record.run.saturating_add(1);
            Ok(Some((stored::TaskRecord { run, cancel: false, ..record.clone() }, "retried")))
        }
        Some(phase) => {
            let message = format!("{name} has {}: there is nothing to retry", said(phase));
            Err(Fault::new(Code::FailedPrecondition, "TASK_SUCCEEDED", message))
        }
        None => {
            let message = format!("{name} has not ended: what failed of it is tried again by itself");
            Err(Fault::new(Code::FailedPrecondition, "TASK_NOT_ENDED", message))
        }
    }
}

fn said(phase: TaskPhase) -> &'static str {
    match phase {
        TaskPhase::Succeeded => "succeeded",
        TaskPhase::Failed => "failed",
        TaskPhase::Cancelled => "been cancelled",
        TaskPhase::Running | TaskPhase::Waiting | TaskPhase::Unspecified => "begun",
    }
}

fn name_of(task: &Task) -> &str {
    task.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
}

/// The task of a request, with a name if it has none: the same for the same request.
fn named(request: &pb::CreateTaskRequest) -> Task {
    let mut task = request.task.clone().unwrap_or_default();
    let metadata = task.metadata.get_or_insert_default();
    if metadata.name.is_empty() {
        let id = match request.request_id.as_str() {
            "" => uuid::Uuid::new_v4().to_string(),
            id => format!("{} {id}", request.parent),
        };
        let digits: String = ContentHash::of(id.as_bytes()).to_string().chars().take(NAME_DIGITS).collect();
        metadata.name = format!("{}-{digits}", spec::word_of(task.spec.as_ref()));
    }
    task
}

/// Digits of a name that nobody gave.
const NAME_DIGITS: usize = 10;

impl Kind for Tasks {
    type Rules = TaskRules;

    fn rules(&self) -> &TaskRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        &self.shown.mirror
    }

    /// Only one that has ended; how far it was goes with it.
    fn remove(&self, name: &TaskRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        let snapshot = self.shown.mirror.snapshot();
        let read = |error: skerry_store::DecodeError| Fault::internal(error.to_string());
        let record = snapshot.get(&Key::<stored::TaskRecord>::of(name)).map_err(read)?;
        let progress_key = Key::<stored::TaskProgressRecord>::of(name);
        let progress = snapshot.get(&progress_key).map_err(read)?;
        let wanted = record.map(|record| Wanted::of(&record.value));
        let phase =
            wanted.and_then(|wanted| ended(progress.as_ref().map(|progress| &progress.value), wanted));
        if let (Some(_), Some(progress)) = (phase, progress) {
            let asked = Key::<stored::PrefetchRecord>::of(name);
            return Ok(txn.when_same(&progress).delete(&progress_key).delete(&asked));
        }
        let message = format!("{name} has not ended: cancel it first (skerry task cancel)");
        Err(Fault::new(Code::FailedPrecondition, "TASK_NOT_ENDED", message))
    }

    fn observed(&self, name: &TaskRef, task: Task) -> Task {
        let snapshot = self.shown.mirror.snapshot();
        let record = snapshot.get(&Key::<stored::TaskRecord>::of(name)).ok().flatten();
        let status = record.map(|record| self.shown.status(name, &record.value));
        Task { status, ..task }
    }
}

fn told(told: &Told<Task>) -> pb::WatchTasksResponse {
    let (task, resource_version) = told.parts();
    let change = match told {
        Told::Added(..) => ChangeType::Added,
        Told::Modified(..) => ChangeType::Modified,
        Told::Deleted(..) => ChangeType::Deleted,
        Told::Bookmark(_) => ChangeType::Bookmark,
    };
    pb::WatchTasksResponse {
        r#type: change.into(),
        task: task.map(|task| Task::clone(task)),
        resource_version,
    }
}

#[tonic::async_trait]
impl TaskService for Tasks {
    async fn create_task(
        &self,
        request: Request<pb::CreateTaskRequest>,
    ) -> Result<Response<pb::CreateTaskResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let made = self.create(request.get_ref(), &peer).await;
        reply(made.map(|task| pb::CreateTaskResponse { task: Some(task) }))
    }

    async fn get_task(
        &self,
        request: Request<pb::GetTaskRequest>,
    ) -> Result<Response<pb::GetTaskResponse>, Status> {
        let task = async { skerry_api::read(self, &TaskRef::parse(&request.get_ref().name)?).await };
        reply(task.await.map(|task| pb::GetTaskResponse { task: Some(task) }))
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let pb::ListTasksRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let hub = &self.shown.tasks;
        let page = skerry_api::list(self, hub, parent, label_selector, *page_size, page_token).await;
        reply(page.map(|page| pb::ListTasksResponse {
            tasks: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        }))
    }

    type WatchTasksStream = ResponseStream<pb::WatchTasksResponse>;

    async fn watch_tasks(
        &self,
        request: Request<pb::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let pb::WatchTasksRequest { parent, label_selector, resource_version } = request.get_ref();
        let (hub, ending) = (&self.shown.tasks, self.shutdown.wait());
        reply(skerry_api::watch(self, hub, (parent, label_selector, resource_version), told, ending).await)
    }

    async fn cancel_task(
        &self,
        request: Request<pb::CancelTaskRequest>,
    ) -> Result<Response<pb::CancelTaskResponse>, Status> {
        let caused = Caused::by("skerry.registry.v1.TaskService/CancelTask", &request);
        let task = self.change(&request.get_ref().name, &caused, cancelled).await;
        reply(task.map(|task| pb::CancelTaskResponse { task: Some(task) }))
    }

    async fn retry_task(
        &self,
        request: Request<pb::RetryTaskRequest>,
    ) -> Result<Response<pb::RetryTaskResponse>, Status> {
        let caused = Caused::by("skerry.registry.v1.TaskService/RetryTask", &request);
        let task = self.change(&request.get_ref().name, &caused, retried).await;
        reply(task.map(|task| pb::RetryTaskResponse { task: Some(task) }))
    }

    async fn delete_task(
        &self,
        request: Request<pb::DeleteTaskRequest>,
    ) -> Result<Response<pb::DeleteTaskResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.TaskService/DeleteTask";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteTaskResponse {}))
    }
}

#[cfg(test)]
mod tests;
