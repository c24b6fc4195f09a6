//! What a task is, as far as users decide: it is only created, and what it is about is there.

use skerry_api::{Mask, Rules};
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{ClusterName, ClusterRef, Code, Fault, ProjectRef, TaskRef};
use skerry_proto::registry::v1::{Task, TaskSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::store::v1::task_record::Work as StoredWork;
use skerry_proto::types::v1::{AuditCaller, Metadata};
use skerry_resources::named_cluster;
use skerry_store::{Key, Store, Txn};

use super::{spec, work};

/// Who creates a task.
#[derive(Clone)]
pub(crate) struct Creator {
    pub(super) caller: AuditCaller,
    pub(super) request_id: String,
}

/// The rules of tasks.
#[derive(Clone)]
pub(crate) struct TaskRules {
    pub(super) store: Store,
    /// Who creates the one that is created.
    pub(super) creator: Option<Creator>,
}

impl Rules for TaskRules {
    type Record = stored::TaskRecord;
    type Spec = TaskSpec;
    type Resource = Task;

    const FIELD: &'static str = "task";
    const SPEC_PATHS: &'static [&'static str] = &["spec"];

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::TaskRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, _: &TaskRef, record: &stored::TaskRecord) -> Result<TaskSpec, Fault> {
        Ok(spec::shown_spec(record))
    }

    fn merge(_: Option<&TaskSpec>, sent: &Task, _: &Mask) -> Result<TaskSpec, Fault> {
        spec::check(sent.spec.clone().unwrap_or_default())
    }

    /// A task is only created. What it is about is there.
    async fn write(
        &self,
        name: &TaskRef,
        record: &mut stored::TaskRecord,
        spec: &TaskSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        spec::check_place(&name.project, spec)?;
        let creator = self.creator.clone();
        let creator = creator.ok_or_else(|| Fault::internal("a task is written without who creates it"))?;
        record.caller = Some(creator.caller);
        record.request_id = creator.request_id;
        record.run = 1;
        record.work = spec::stored_work(spec);
        match &mut record.work {
            Some(StoredWork::DrainCluster(drain)) => {
                named_cluster(&self.store, &cluster_of(name, &drain.cluster)?, txn).await
            }
            Some(StoredWork::DeleteProject(delete)) => {
                let project = ProjectRef::parse_short(&delete.project)?;
                let key = Key::<stored::ProjectRecord>::of(&project);
                let Some(read) = self.store.get(&key).await? else {
                    let message = format!("there is no {project}");
                    return Err(Fault::new(Code::FailedPrecondition, "NO_PROJECT", message));
                };
                delete.uid = read.value.meta.map(|meta| meta.uid).unwrap_or_default();
                Ok(txn.when_exists(&key))
            }
            Some(StoredWork::RelabelNodes(relabel)) => match relabel.set.get(CLUSTER_LABEL) {
                Some(cluster) => named_cluster(&self.store, &cluster_of(name, cluster)?, txn).await,
                None => Ok(txn),
            },
            Some(StoredWork::PrefetchImages(prefetch)) => {
                work::named_secret(&self.store, name, prefetch, txn).await
            }
            None => Ok(txn),
        }
    }

    fn resource(metadata: Metadata, spec: TaskSpec) -> Task {
        Task { metadata: Some(metadata), spec: Some(spec), status: None }
    }
}

fn cluster_of(task: &TaskRef, cluster: &str) -> Result<ClusterRef, Fault> {
    let cluster = ClusterName::parse(cluster).map_err(|error| Fault::invalid_field("task.spec", error))?;
    Ok(ClusterRef { project: task.project.clone(), cluster })
}
