//! `auth`: who the server says that calls, and whether it would let it.

use skerry_manifest::nearest;
use skerry_proto::registry::v1::access_service_client::AccessServiceClient;
use skerry_proto::registry::v1::{CheckAccessRequest, WhoAmIRequest};
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced};
use tonic::transport::Channel;

use super::role_word;
use crate::args::{AuthCommand, CanIArgs};
use crate::client::{Client, Service, request};
use crate::error::CliError;
use crate::print::Printer;
use crate::render::time::moment;

/// What may be asked about, as people name many of one: its service, and what its methods call one and many.
const TYPES: [(&str, &str, &str, &str); 11] = [
    ("nodes", "skerry.registry.v1.NodeService", "Node", "Nodes"),
    ("events", "skerry.registry.v1.EventService", "Event", "Events"),
    ("tokens", "skerry.registry.v1.TokenService", "Token", "Tokens"),
    ("users", "skerry.registry.v1.UserService", "User", "Users"),
    ("groups", "skerry.registry.v1.GroupService", "Group", "Groups"),
    ("roles", "skerry.registry.v1.RoleBindingService", "RoleBinding", "RoleBindings"),
    ("projects", "skerry.registry.v1.ProjectService", "Project", "Projects"),
    ("apps", "skerry.scheduler.v1.AppService", "App", "Apps"),
    ("configs", "skerry.scheduler.v1.ConfigService", "Config", "Configs"),
    ("instances", "skerry.scheduler.v1.AppService", "Instance", "Instances"),
    ("revisions", "skerry.scheduler.v1.AppService", "Revision", "Revisions"),
];

fn access(channel: Channel) -> AccessServiceClient<Traced> {
    AccessServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) async fn run(
    client: &Client,
    command: &AuthCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        AuthCommand::Whoami => whoami(client, printer).await,
        AuthCommand::CanI(args) => can_i(client, args, printer).await,
    }
}

async fn whoami(client: &Client, printer: &mut Printer) -> Result<(), CliError> {
    let asking = client.call(Service::Registry, |channel, left| async move {
        access(channel).who_am_i(request(WhoAmIRequest {}, left)).await
    });
    let told = asking.await?;
    if told.identity.is_empty() {
        return printer.line("the server asks nobody who it is: whoever reaches it may do everything");
    }
    printer.line(&told.identity)?;
    printer.line(&format!("key     {}", told.key_id))?;
    printer.line(&format!("until   {}", moment(told.expire_time.as_ref())))?;
    for held in &told.roles {
        let project = held.project.strip_prefix("projects/").unwrap_or(&held.project);
        let place =
            if project == "system" { "every project".to_owned() } else { format!("project {project}") };
        printer.line(&format!("role    {} in {place}", role_word(held.role())))?;
    }
    Ok(())
}

async fn can_i(client: &Client, args: &CanIArgs, printer: &mut Printer) -> Result<(), CliError> {
    let message = CheckAccessRequest {
        parent: client.project().parent(),
        method: method(&args.verb, &args.resource).map_err(CliError::Usage)?,
    };
    let asking = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { access(channel).check_access(request(message, left)).await }
    });
    let told = asking.await?;
    if told.allowed {
        return printer.line("yes");
    }
    printer.line("no")?;
    Err(CliError::Failed(told.reason))
}

/// The method that is meant by a verb and a type. Whether there is such a one is the server's to say.
fn method(verb: &str, resource: &str) -> Result<String, String> {
    if verb == "call" {
        return Ok(resource.to_owned());
    }
    let known =
        TYPES.iter().find(|(many, _, one, _)| resource == *many || resource.eq_ignore_ascii_case(one));
    let Some((_, service, one, many)) = known else {
        let names = TYPES.map(|(many, ..)| many);
        let hint = match nearest(resource, names) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known: {}", names.join(", ")),
        };
        return Err(format!("there is no type {resource:?}; {hint}"));
    };
    let word = match verb {
        "get" => "Get",
        "list" => return Ok(format!("{service}/List{many}")),
        "watch" => return Ok(format!("{service}/Watch{many}")),
        "create" => "Create",
        // What changes a part of it goes the same way.
        "update" | "apply" | "edit" | "label" | "annotate" | "cordon" | "uncordon" | "restart" => "Update",
        "delete" => "Delete",
        "revoke" => "Revoke",
        "approve" => return Ok("skerry.registry.v1.EnrollmentRequestService/ApproveEnrollment".to_owned()),
        _ => {
            return Err(format!(
                "there is no verb {verb:?}; known: get, list, watch, create, update, delete, revoke, approve"
            ));
        }
    };
    Ok(format!("{service}/{word}{one}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_and_a_type_are_a_method_of_the_contract() {
        for (verb, resource, expected) in [
            ("list", "nodes", "skerry.registry.v1.NodeService/ListNodes"),
            ("cordon", "node", "skerry.registry.v1.NodeService/UpdateNode"),
            ("delete", "app", "skerry.scheduler.v1.AppService/DeleteApp"),
            ("create", "roles", "skerry.registry.v1.RoleBindingService/CreateRoleBinding"),
            ("watch", "configs", "skerry.scheduler.v1.ConfigService/WatchConfigs"),
            ("call", "a.b/C", "a.b/C"),
        ] {
            assert_eq!(method(verb, resource).as_deref(), Ok(expected));
        }
        assert!(method("get", "nods").unwrap_err().contains("did you mean nodes?"));
        assert!(method("fetch", "nodes").unwrap_err().contains("known: get"));
    }
}
