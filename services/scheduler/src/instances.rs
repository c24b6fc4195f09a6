//! `ListInstances`: every instance that should be, or is.

use std::collections::BTreeSet;

use skerry_model::{AppName, AppRef, Fault, InstanceName, NodeRef, ProjectName};
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
    let after = check_token(&request.page_token)?;
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

/// The token, if it is one that a page gave, or nothing.
fn check_token(token: &str) -> Result<&str, Fault> {
    let is_ours = token.split_once(' ').is_some_and(|(instance, node)| {
        // One that has no place on any of several nodes has no node.
        InstanceName::parse(instance).is_ok() && (node.is_empty() || NodeRef::parse(node).is_ok())
    });
    if token.is_empty() || is_ours {
        return Ok(token);
    }
    let shown: String = token.chars().take(60).collect();
    Err(Fault::invalid_field("page_token", format!("`{shown}` is not a token that a page gave")))
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
    let of = |app: &AppName| {
        status::instances(&world, name, project, app).into_iter().map(|seen| seen.status).collect::<Vec<_>>()
    };
    if let Some(app) = app {
        // One that is deleted is there until the last of its instances is gone.
        let instances = of(app);
        if instances.is_empty() && !project.apps.contains_key(app) {
            return Err(Fault::not_found(format!("{}/apps/{app}", name.parent())));
        }
        return Ok(instances);
    }
    let apps: BTreeSet<AppName> =
        project.apps.keys().cloned().chain(status::leftover_apps(project)).collect();
    Ok(apps.iter().flat_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_that_a_page_gave() {
        let status = InstanceStatus {
            instance: "web/s/n1/0".into(),
            node: "projects/default/nodes/n1".into(),
            ..Default::default()
        };
        assert_eq!(check_token(&token(&status)), Ok(token(&status).as_str()));
        assert_eq!(check_token(""), Ok(""));
        let nowhere = InstanceStatus { node: String::new(), ..status };
        assert_eq!(check_token(&token(&nowhere)), Ok("web/s/n1/0 "));
        for bad in ["garbage", "zzz zzz", "web/s/n1/0", " "] {
            let fault = check_token(bad).unwrap_err();
            assert_eq!(fault.violations[0].field, "page_token", "{bad}");
        }
    }
}
