//! What a project is: what it is for, and how much it may have.

use skerry_api::{Mask, Rules, uncount};
use skerry_model::{Fault, ProjectRef};
use skerry_proto::registry::v1::{Project, ProjectQuota, ProjectSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::{Store, Txn};

/// The rules of projects.
#[derive(Debug, Clone)]
pub struct ProjectRules {
    store: Store,
}

impl ProjectRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

/// The spec that a record stands for.
pub fn project_spec(record: &stored::ProjectRecord) -> ProjectSpec {
    let quota = record.quota.map(|quota| {
        let stored::QuotaRecord { nodes, apps, secrets, configs, size_bytes } = quota;
        ProjectQuota { nodes, apps, secrets, configs, size_bytes }
    });
    ProjectSpec { description: record.description.clone(), quota }
}

impl Rules for ProjectRules {
    type Record = stored::ProjectRecord;
    type Spec = ProjectSpec;
    type Resource = Project;

    const FIELD: &'static str = "project";
    const SPEC_PATHS: &'static [&'static str] = &["spec", "spec.description", "spec.quota"];
    const IS_PROJECT: bool = true;

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::ProjectRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, _: &ProjectRef, record: &stored::ProjectRecord) -> Result<ProjectSpec, Fault> {
        Ok(project_spec(record))
    }

    fn merge(stored: Option<&ProjectSpec>, sent: &Project, mask: &Mask) -> Result<ProjectSpec, Fault> {
        let mut spec = stored.cloned().unwrap_or_default();
        let sent = sent.spec.clone().unwrap_or_default();
        if mask.covers("spec.description") {
            spec.description = sent.description;
        }
        if mask.covers("spec.quota") {
            // One without a limit is none.
            spec.quota = sent.quota.filter(|quota| *quota != ProjectQuota::default());
        }
        skerry_model::project::check(&spec)?;
        Ok(spec)
    }

    async fn write(
        &self,
        name: &ProjectRef,
        record: &mut stored::ProjectRecord,
        spec: &ProjectSpec,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        record.description.clone_from(&spec.description);
        record.quota = spec.quota.map(|quota| {
            let ProjectQuota { nodes, apps, secrets, configs, size_bytes } = quota;
            stored::QuotaRecord { nodes, apps, secrets, configs, size_bytes }
        });
        Ok(uncount(&name.project, &record.quota.unwrap_or_default(), txn))
    }

    fn resource(metadata: Metadata, spec: ProjectSpec) -> Project {
        Project { metadata: Some(metadata), spec: Some(spec), status: None }
    }
}
