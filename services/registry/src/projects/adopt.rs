//! At the start of a registry: projects of before there were records of them get one, and counts that are not what is there are put right.
//!
//! Again at no harm. What cannot be done now is done at the next start; until then nothing new is made in such a project.

use std::collections::BTreeSet;

use skerry_api::{ensure_project, heal};
use skerry_model::{Fault, ProjectName};
use skerry_proto::store::v1 as stored;
use skerry_store::keys::InProject;
use skerry_store::{Mirror, Prefix, Snapshot, Store};
use tracing::{info, warn};

/// Looks at all that the mirrors show.
pub(crate) async fn adopt(store: &Store, mirrors: [&Mirror; 3]) {
    let mut known = BTreeSet::new();
    let mut found: BTreeSet<ProjectName> =
        [ProjectName::DEFAULT, ProjectName::SYSTEM].iter().filter_map(|name| name.parse().ok()).collect();
    for mirror in mirrors {
        let snapshot = mirror.snapshot();
        let records = Prefix::<stored::ProjectRecord>::all();
        known.extend(snapshot.iter(&records).filter_map(Result::ok).map(|read| read.key.name().project));
        projects_of::<stored::NodeRecord>(&snapshot, &mut found);
        projects_of::<stored::AppRecord>(&snapshot, &mut found);
        projects_of::<stored::ConfigRecord>(&snapshot, &mut found);
        projects_of::<stored::SecretRecord>(&snapshot, &mut found);
        projects_of::<stored::TokenRecord>(&snapshot, &mut found);
        projects_of::<stored::UserRecord>(&snapshot, &mut found);
        projects_of::<stored::GroupRecord>(&snapshot, &mut found);
        projects_of::<stored::RoleBindingRecord>(&snapshot, &mut found);
    }
    for project in found.difference(&known) {
        match ensure_project(store, project).await {
            Ok(()) => info!(%project, "the project has a record now"),
            Err(error) => warn!(%project, %error, "the project gets its record at the next start"),
        }
    }
    for project in &known {
        if let Err(error) = put_right(store, project).await {
            warn!(%project, %error, "what the project has was not counted anew");
        }
    }
}

async fn put_right(store: &Store, project: &ProjectName) -> Result<(), Fault> {
    for (counted, was, is) in heal(store, project).await? {
        warn!(%project, what = counted.as_str(), was, is, "a count was not what is there, and was put right");
    }
    Ok(())
}

/// Adds the projects that have a record of the family.
fn projects_of<R: InProject>(snapshot: &Snapshot, found: &mut BTreeSet<ProjectName>) {
    let all = Prefix::<R>::all();
    let of = |key: &str| {
        let path = key.strip_prefix(all.as_str())?;
        ProjectName::parse(path.split('/').next()?).ok()
    };
    found.extend(snapshot.entries(&all).filter_map(|entry| of(&entry.key)));
}
