//! `grant`: somebody may use a verb for a while.

use skerry_model::{AppRef, GroupRef, NodeRef, ProjectName, UserRef, time};
use skerry_proto::registry::v1::{CreateGrantRequest, DeleteGrantRequest, Grant, GrantSpec};
use skerry_proto::types::v1::Metadata;

use crate::args::GrantArgs;
use crate::client::{CallError, Client, Service, grants, request, request_id};
use crate::error::CliError;
use crate::print::Printer;
use crate::render::grants::{short, told};

/// Characters of a target's name that are in the name of a grant.
const NAMED_MAX: usize = 40;
/// Characters of the rest.
const RANDOM_DIGITS: usize = 5;

pub(crate) async fn run(client: &Client, args: &GrantArgs, printer: &mut Printer) -> Result<(), CliError> {
    let project = client.project();
    let target = target(project, &args.target)?;
    let spec = GrantSpec {
        verbs: args.verbs.clone(),
        subject: subject(project, &args.to)?,
        duration: Some(time::to_proto_duration(args.duration)),
        reason: args.reason.clone(),
        target,
    };
    let name = args.name.clone().unwrap_or_else(|| name_for(&spec));
    let metadata = Metadata { name, ..Metadata::default() };
    let message = CreateGrantRequest {
        parent: project.parent(),
        grant: Some(Grant { metadata: Some(metadata), spec: Some(spec), status: None }),
        request_id: request_id(),
        validate_only: false,
    };
    let creating = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { grants(channel).create_grant(request(message, left)).await }
    });
    let made = creating.await?.grant.unwrap_or_default();
    let metadata = made.metadata.as_ref();
    let name = metadata.and_then(|metadata| metadata.name.rsplit('/').next()).unwrap_or_default();
    let to = made.spec.as_ref().map(|spec| short(metadata, &spec.subject)).unwrap_or_default();
    printer.line(&format!("grant/{name} created: {to} may {}", told(&made)))
}

/// Deletes one, by its full name.
pub(super) async fn delete(client: &Client, name: String, request_id: String) -> Result<(), CallError> {
    let message = DeleteGrantRequest { name, etag: String::new(), request_id };
    let deleting = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { grants(channel).delete_grant(request(message, left)).await }
    });
    deleting.await.map(|_| ())
}

/// `app/NAME`, `node/NAME` or `project/NAME`, as a full name.
fn target(project: &ProjectName, text: &str) -> Result<String, CliError> {
    let usage = |error: &dyn std::fmt::Display| CliError::Usage(format!("{text}: {error}"));
    match text.split_once('/') {
        Some(("app" | "apps", name)) => {
            AppRef::parse_in(project, name).map(|app| app.to_string()).map_err(|error| usage(&error))
        }
        Some(("node" | "nodes", name)) => {
            NodeRef::parse_in(project, name).map(|node| node.to_string()).map_err(|error| usage(&error))
        }
        Some(("project", name)) if name == project.as_str() => Ok(project.parent()),
        Some(("project", _)) => {
            Err(usage(&format!("a grant is of the project that it is made in: -p {project} is")))
        }
        _ => Err(usage(&"write app/NAME, node/NAME or project/NAME")),
    }
}

/// `user/NAME`, `group/NAME`, a user's name alone, or a full name of another project.
fn subject(project: &ProjectName, text: &str) -> Result<String, CliError> {
    let usage = |error: &dyn std::fmt::Display| CliError::Usage(format!("--to {text}: {error}"));
    match text.split_once('/') {
        None => UserRef::parse_in(project, text).map(|user| user.to_string()).map_err(|error| usage(&error)),
        Some(("user" | "users", name)) => {
            UserRef::parse_in(project, name).map(|user| user.to_string()).map_err(|error| usage(&error))
        }
        Some(("group" | "groups", name)) => {
            GroupRef::parse_in(project, name).map(|group| group.to_string()).map_err(|error| usage(&error))
        }
        Some(_) => match (UserRef::parse(text), GroupRef::parse(text)) {
            (Ok(user), _) => Ok(user.to_string()),
            (_, Ok(group)) => Ok(group.to_string()),
            _ => {
                Err(usage(&"write user/NAME, group/NAME, or projects/PROJECT/users/NAME of another project"))
            }
        },
    }
}

/// A name that tells what it is about: `exec-hello-3f2a1`.
fn name_for(spec: &GrantSpec) -> String {
    let verb = spec.verbs.first().map_or("grant", String::as_str);
    let about: String = spec.target.rsplit('/').next().unwrap_or_default().chars().take(NAMED_MAX).collect();
    let random: String = uuid::Uuid::new_v4().simple().to_string().chars().take(RANDOM_DIGITS).collect();
    format!("{verb}-{}-{random}", about.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use skerry_model::GrantName;

    use super::*;

    #[test]
    fn targets_and_subjects_are_named_as_everywhere() {
        let project = ProjectName::parse("shop").unwrap();
        assert_eq!(target(&project, "app/x").ok().as_deref(), Some("projects/shop/apps/x"));
        assert_eq!(target(&project, "node/n").ok().as_deref(), Some("projects/shop/nodes/n"));
        assert_eq!(target(&project, "project/shop").ok().as_deref(), Some("projects/shop"));
        for wrong in ["x", "project/mill", "config/x", "app/"] {
            assert!(target(&project, wrong).is_err(), "{wrong}");
        }
        for (text, full) in [
            ("ada", "projects/shop/users/ada"),
            ("user/ada", "projects/shop/users/ada"),
            ("group/night", "projects/shop/groups/night"),
            ("projects/mill/users/ada", "projects/mill/users/ada"),
            ("projects/mill/groups/night", "projects/mill/groups/night"),
        ] {
            assert_eq!(subject(&project, text).ok().as_deref(), Some(full), "{text}");
        }
        assert!(subject(&project, "projects/mill/apps/x").is_err() && subject(&project, "team/a").is_err());
    }

    #[test]
    fn a_name_that_is_made_is_a_name() {
        for target in ["projects/p/apps/x", &format!("projects/p/apps/{}-{}", "x".repeat(39), "y".repeat(20))]
        {
            let verbs = vec!["port-forward".to_owned()];
            let name = name_for(&GrantSpec { verbs, target: target.to_owned(), ..GrantSpec::default() });
            assert!(GrantName::parse(&name).is_ok(), "{name}");
        }
    }
}
