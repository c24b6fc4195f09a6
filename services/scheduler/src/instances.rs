//! `ListInstances`: every instance that should be, or is.

use std::collections::BTreeSet;

use skerry_model::{AppName, AppRef, Code, Fault, NodeRef, ProjectName};
use skerry_proto::scheduler::v1::{ListInstancesRequest, ListInstancesResponse};
use skerry_proto::types::v1::InstanceStatus;

use crate::follow::Shared;
use crate::status;

/// One page. Pages continue by name: an instance that comes or goes meanwhile may be in it or not.
pub(crate) fn list(shared: &Shared, request: &ListInstancesRequest) -> Result<ListInstancesResponse, Fault> {
    let (project, app) = parent(&request.parent)?;
    let node = match request.node.as_str() {
        "" => None,
        text => Some(NodeRef::parse(text).map_err(|e| Fault::invalid_field("node", e))?.to_string()),
    };
    let size = skerry_api::page_size(request.page_size)?;
    let mut all = gather(shared, &project, app.as_ref())?;
    all.retain(|status| node.as_ref().is_none_or(|node| status.node == *node));
    all.sort_by(|a, b| (&a.instance, &a.node).cmp(&(&b.instance, &b.node)));
    let after = request.page_token.as_str();
    let mut rest = all.into_iter().filter(|status| token(status).as_str() > after).peekable();
    let page: Vec<InstanceStatus> = rest.by_ref().take(size).collect();
    let next_page_token = match (rest.peek(), page.last()) {
        (Some(_), Some(last)) => token(last),
        _ => String::new(),
    };
    Ok(ListInstancesResponse { instances: page, next_page_token })
}

fn token(status: &InstanceStatus) -> String {
    format!("{} {}", status.instance, status.node)
}

fn parent(text: &str) -> Result<(ProjectName, Option<AppName>), Fault> {
    if let Ok(project) = ProjectName::parse_parent(text) {
        return Ok((project, None));
    }
    let app = AppRef::parse(text).map_err(|e| Fault::invalid_field("parent", e))?;
    Ok((app.project, Some(app.app)))
}

fn gather(shared: &Shared, name: &ProjectName, app: Option<&AppName>) -> Result<Vec<InstanceStatus>, Fault> {
    let world = shared.world();
    let Some(project) = world.project(name) else {
        return match app {
            Some(app) => Err(Fault::not_found(format!("{}/apps/{app}", name.parent()))),
            None => Ok(Vec::new()),
        };
    };
    let apps: BTreeSet<AppName> = match app {
        Some(app) if !project.apps.contains_key(app) => {
            return Err(Fault::new(
                Code::NotFound,
                "NOT_FOUND",
                format!("{}/apps/{app} does not exist", name.parent()),
            ));
        }
        Some(app) => BTreeSet::from([app.clone()]),
        // With those that are deleted and of which something still runs.
        None => project.apps.keys().cloned().chain(status::reported_apps(project)).collect(),
    };
    let of = |app: &AppName| {
        status::instances(&world, name, project, app).into_iter().map(|seen| seen.status).collect::<Vec<_>>()
    };
    Ok(apps.iter().flat_map(of).collect())
}
