//! `role`: bindings, one for each role of a project unless another is named.

use skerry_model::{GroupRef, RoleBindingRef, UserRef};
use skerry_proto::registry::v1::{
    GetRoleBindingRequest, ListRoleBindingsRequest, RoleBinding, RoleBindingSpec, UpdateRoleBindingRequest,
};
use skerry_proto::types::v1::Metadata;
use tonic::Code;

use super::{add, remove, role_of, short, user};
use crate::args::{BindArgs, ListArgs, RoleCommand, RoleName};
use crate::client::{CallError, Client, Service, bindings, request, request_id};
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::render::people::role as role_word;
use crate::render::table::Table;

/// Asked for at once.
const PAGE_SIZE: i32 = 500;

/// Whom a binding shall name, or name no more: full names.
struct Named {
    users: Vec<String>,
    groups: Vec<String>,
}

pub(crate) async fn run(
    client: &Client,
    command: &RoleCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        RoleCommand::Bind(args) => {
            let named = named(client, args)?;
            change(client, args.role, args.binding.as_deref(), printer, |spec| {
                add(&mut spec.users, &named.users) | add(&mut spec.groups, &named.groups)
            })
            .await
        }
        RoleCommand::Unbind(args) => {
            let named = named(client, args)?;
            change(client, args.role, args.binding.as_deref(), printer, |spec| {
                remove(&mut spec.users, &named.users) | remove(&mut spec.groups, &named.groups)
            })
            .await
        }
        RoleCommand::List(args) => list(client, args, printer).await,
    }
}

/// Gives a user a role in the project.
pub(super) async fn give(
    client: &Client,
    role: RoleName,
    user: &UserRef,
    printer: &mut Printer,
) -> Result<(), CliError> {
    change(client, role, None, printer, |spec| add(&mut spec.users, &[user.to_string()])).await
}

fn named(client: &Client, args: &BindArgs) -> Result<Named, CliError> {
    let project = client.project();
    let mut named = Named { users: Vec::new(), groups: Vec::new() };
    for name in &args.users {
        named.users.push(user(project, name)?.to_string());
    }
    for name in &args.groups {
        let group = GroupRef::parse_in(project, name).map_err(|error| CliError::Usage(error.to_string()))?;
        named.groups.push(group.to_string());
    }
    Ok(named)
}

/// Changes the binding of a role in the project, or makes it.
async fn change(
    client: &Client,
    role: RoleName,
    binding: Option<&str>,
    printer: &mut Printer,
    edit: impl Fn(&mut RoleBindingSpec) -> bool,
) -> Result<(), CliError> {
    let role = role_of(role);
    let by_role = format!("{}s", role_word(role));
    let name = RoleBindingRef::parse_in(client.project(), binding.unwrap_or(&by_role))
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let mut found = match get(client, &name).await {
        Ok(found) => found,
        Err(error) if error.code() == Some(Code::NotFound) => {
            let metadata = Metadata { name: name.to_string(), ..Metadata::default() };
            RoleBinding {
                metadata: Some(metadata),
                spec: Some(RoleBindingSpec { role: role.into(), ..RoleBindingSpec::default() }),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let spec = found.spec.get_or_insert_default();
    if spec.role() != role {
        return Err(CliError::Usage(format!(
            "{name} gives the role {}, not {}: name another with --binding",
            role_word(spec.role()),
            role_word(role)
        )));
    }
    if !edit(spec) {
        return printer.line(&format!("rolebinding/{} unchanged", name.binding));
    }
    // With the etag that was read: whoever changes it at the same moment loses nothing.
    let message = UpdateRoleBindingRequest {
        role_binding: Some(found),
        request_id: request_id(),
        allow_missing: true,
        ..UpdateRoleBindingRequest::default()
    };
    let updating = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { bindings(channel).update_role_binding(request(message, left)).await }
    });
    updating.await?;
    printer.line(&format!("rolebinding/{} configured", name.binding))
}

async fn get(client: &Client, name: &RoleBindingRef) -> Result<RoleBinding, CallError> {
    let message = GetRoleBindingRequest { name: name.to_string() };
    let getting = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { bindings(channel).get_role_binding(request(message, left)).await }
    });
    Ok(getting.await?.role_binding.unwrap_or_default())
}

async fn list(client: &Client, args: &ListArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut rows = Vec::new();
    let mut page_token = String::new();
    loop {
        let message = ListRoleBindingsRequest {
            parent: client.project().parent(),
            page_size: PAGE_SIZE,
            page_token,
            ..ListRoleBindingsRequest::default()
        };
        let listing = client.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { bindings(channel).list_role_bindings(request(message, left)).await }
        });
        let page = listing.await?;
        for binding in page.role_bindings {
            let name = binding.metadata.unwrap_or_default().name;
            let spec = binding.spec.unwrap_or_default();
            let row = |kind: &str, who: &str| {
                let binding = short(client.project(), "roleBindings", &name).to_owned();
                vec![role_word(spec.role()).to_owned(), kind.to_owned(), who.to_owned(), binding]
            };
            rows.extend(spec.users.iter().map(|user| row("user", short(client.project(), "users", user))));
            rows.extend(
                spec.groups.iter().map(|group| row("group", short(client.project(), "groups", group))),
            );
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if rows.is_empty() {
        note(&format!(
            "nobody has a role in project {}, but who has one in project system",
            client.project()
        ));
        return Ok(());
    }
    let headers = ["ROLE", "KIND", "WHO", "BINDING"];
    printer.text(&Table::new(&headers, printer.width(), !args.no_headers).rows(&rows))
}
