//! `auth`: who the server says that calls, and whether it would let it.

use skerry_manifest::nearest;
use skerry_proto::registry::v1::access_service_client::AccessServiceClient;
use skerry_proto::registry::v1::{CheckAccessRequest, ListAccessRequest, WhoAmIRequest};
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced};
use tonic::transport::Channel;

use crate::args::{AuthCommand, CanIArgs};
use crate::client::{Client, Service, request};
use crate::error::CliError;
use crate::print::Printer;
use crate::render::grants;
use crate::render::people::role as role_word;
use crate::render::table::Table;
use crate::render::time::moment;
use crate::target::{Target, Type};

/// What may be asked about, as people name many of one: its service, and what its methods call one and many.
const TYPES: [(&str, &str, &str, &str); 16] = [
    ("nodes", "skerry.registry.v1.NodeService", "Node", "Nodes"),
    ("events", "skerry.registry.v1.EventService", "Event", "Events"),
    ("tokens", "skerry.registry.v1.TokenService", "Token", "Tokens"),
    ("enrollments", "skerry.registry.v1.EnrollmentRequestService", "Enrollment", "Enrollments"),
    ("users", "skerry.registry.v1.UserService", "User", "Users"),
    ("groups", "skerry.registry.v1.GroupService", "Group", "Groups"),
    ("rolebindings", "skerry.registry.v1.RoleBindingService", "RoleBinding", "RoleBindings"),
    ("grants", "skerry.registry.v1.GrantService", "Grant", "Grants"),
    ("projects", "skerry.registry.v1.ProjectService", "Project", "Projects"),
    ("gpus", "skerry.gpu.v1.GpuService", "Gpu", "Gpus"),
    ("tasks", "skerry.registry.v1.TaskService", "Task", "Tasks"),
    ("apps", "skerry.scheduler.v1.AppService", "App", "Apps"),
    ("configs", "skerry.scheduler.v1.ConfigService", "Config", "Configs"),
    ("secrets", "skerry.scheduler.v1.SecretService", "Secret", "Secrets"),
    ("instances", "skerry.scheduler.v1.AppService", "Instance", "Instances"),
    ("revisions", "skerry.scheduler.v1.AppService", "Revision", "Revisions"),
];

/// Verbs of the relay, as commands are called, with the method that is of an app, and of a node.
const RELAY: [(&str, &str, &str); 9] = [
    ("logs", "Logs", "Logs"),
    ("exec", "Exec", "ExecNode"),
    ("debug", "Exec", ""),
    ("port-forward", "PortForward", ""),
    ("cp", "CopyTo", ""),
    ("restart", "ActOnInstances", ""),
    ("stop", "ActOnInstances", ""),
    ("start", "ActOnInstances", ""),
    ("bundle", "", "BundleNode"),
];

/// The verbs that are told, in this order.
const VERBS: [&str; 10] =
    ["get", "list", "watch", "create", "update", "delete", "revoke", "approve", "deny", "issue"];

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
    for grant in &told.grants {
        let name = grant.metadata.as_ref().map_or("", |metadata| &metadata.name);
        printer.line(&format!("grant   {} ({name})", grants::told(grant)))?;
    }
    Ok(())
}

async fn can_i(client: &Client, args: &CanIArgs, printer: &mut Printer) -> Result<(), CliError> {
    let (Some(verb), Some(resource)) = (&args.verb, &args.resource) else {
        return list(client, args, printer).await;
    };
    let (method, named) = match of_relay(verb, resource)? {
        Some((method, target)) => (method, target.full_name(client.project())?),
        None => (method(verb, resource).map_err(CliError::Usage)?, String::new()),
    };
    let message = CheckAccessRequest { parent: client.project().parent(), method, resource: named };
    let asking = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { access(channel).check_access(request(message, left)).await }
    });
    let told = asking.await?;
    if args.quiet {
        return if told.allowed {
            Ok(())
        } else {
            Err(CliError::Said(Box::new(CliError::Failed(told.reason))))
        };
    }
    if told.allowed {
        return printer.line("yes");
    }
    printer.line("no")?;
    Err(CliError::Failed(told.reason))
}

async fn list(client: &Client, args: &CanIArgs, printer: &mut Printer) -> Result<(), CliError> {
    let message = ListAccessRequest { parent: client.project().parent() };
    let asking = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { access(channel).list_access(request(message, left)).await }
    });
    let told = asking.await?;
    let methods: Vec<&str> = told.methods.iter().map(String::as_str).collect();
    printer.text(&Table::new(&["TYPE", "VERBS"], printer.width(), !args.no_headers).rows(&by_type(&methods)))
}

/// What one may, by type; methods that no verb stands for last, as `call` takes them.
fn by_type(methods: &[&str]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut left: Vec<&str> = methods.to_vec();
    for (many, ..) in TYPES {
        let verbs: Vec<&str> = VERBS
            .into_iter()
            .filter(|verb| {
                let Ok(method) = method(verb, many) else { return false };
                let there = left.contains(&method.as_str());
                left.retain(|other| *other != method);
                there
            })
            .collect();
        if !verbs.is_empty() {
            rows.push(vec![many.to_owned(), verbs.join(", ")]);
        }
    }
    rows.extend(left.into_iter().map(|method| vec![method.to_owned(), "call".to_owned()]));
    rows
}

/// The method that is meant by a verb of the relay, and what it is about. Nothing: it is no such verb.
fn of_relay(verb: &str, resource: &str) -> Result<Option<(String, Target)>, CliError> {
    let Some((_, of_app, of_node)) = RELAY.iter().find(|(word, ..)| *word == verb) else { return Ok(None) };
    let target = Target::parse(resource)?;
    let method = match target.kind {
        Type::App => *of_app,
        Type::Node => *of_node,
        _ => "",
    };
    if method.is_empty() {
        return Err(CliError::Usage(format!("there is no verb {verb} for {target}: name what it is about")));
    }
    Ok(Some((format!("skerry.relay.v1.RelayService/{method}"), target)))
}

/// The method that is meant by a verb and a type. Whether there is such a one is the server's to say.
fn method(verb: &str, resource: &str) -> Result<String, String> {
    if verb == "call" {
        return Ok(resource.to_owned());
    }
    // What a binding gives is called by its role as often.
    let resource = if matches!(resource, "roles" | "role") { "rolebindings" } else { resource };
    let known = TYPES
        .iter()
        .find(|(many, _, one, _)| resource.eq_ignore_ascii_case(many) || resource.eq_ignore_ascii_case(one));
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
        "approve" | "deny" if matches!(*many, "Nodes" | "Enrollments") => {
            let word = if verb == "approve" { "Approve" } else { "Deny" };
            return Ok(format!("skerry.registry.v1.EnrollmentRequestService/{word}Enrollment"));
        }
        "issue" if *many == "Users" => return Ok(format!("{service}/IssueCertificate")),
        _ => return Err(format!("there is no verb {verb:?} for {resource}; known: {}", VERBS.join(", "))),
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
        assert!(method("issue", "apps").is_err(), "only users have certificates issued");
    }

    #[test]
    fn a_verb_of_the_relay_is_about_something() {
        for (verb, about, expected) in
            [("exec", "app/web", "Exec"), ("exec", "node/n1", "ExecNode"), ("cp", "app/web", "CopyTo")]
        {
            let (method, target) = of_relay(verb, about).unwrap().unwrap();
            assert_eq!(method, format!("skerry.relay.v1.RelayService/{expected}"));
            assert_eq!(target.to_string(), about);
        }
        assert!(of_relay("bundle", "app/web").is_err() && of_relay("exec", "apps").is_err());
        assert!(of_relay("list", "nodes").unwrap().is_none());
    }

    #[test]
    fn what_one_may_is_told_by_type_and_nothing_is_left_out() {
        let methods = [
            "skerry.registry.v1.EnrollmentRequestService/ApproveEnrollment",
            "skerry.registry.v1.NodeService/GetNode",
            "skerry.registry.v1.NodeService/ListNodes",
            "skerry.registry.v1.UserService/IssueCertificate",
            "skerry.scheduler.v1.SecretService/ResealSecrets",
        ];
        let rows: Vec<String> = by_type(&methods).into_iter().map(|row| row.join(": ")).collect();
        assert_eq!(
            rows,
            [
                "nodes: get, list, approve",
                "users: issue",
                "skerry.scheduler.v1.SecretService/ResealSecrets: call"
            ]
        );
    }
}
