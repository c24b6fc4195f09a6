//! `group`: users who get roles together.

use skerry_model::GroupRef;
use skerry_proto::registry::v1::{CreateGroupRequest, Group, GroupSpec};
use skerry_proto::types::v1::Metadata;
use tonic::Code;

use super::{add, remove, user};
use crate::args::{CreateGroupArgs, GroupCommand, ListArgs, MembersArgs};
use crate::client::{Client, Service, groups, request, request_id};
use crate::commands::Several;
use crate::commands::delete::delete;
use crate::commands::get::list_all;
use crate::commands::send::{Sending, send};
use crate::error::CliError;
use crate::item::Item;
use crate::print::Printer;
use crate::target::{Target, Type};

/// How often a change is made again on a group that somebody else changed meanwhile.
const TRIES_MAX: u32 = 4;

pub(crate) async fn run(
    client: &Client,
    command: &GroupCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        GroupCommand::Create(args) => create(client, args, printer).await,
        GroupCommand::List(ListArgs { no_headers }) => {
            list_all(client, Type::Group, *no_headers, printer).await
        }
        GroupCommand::Delete(args) => {
            let mut several = Several::default();
            for name in &args.groups {
                let target = Target { kind: Type::Group, name: name.clone() };
                let full = target.full_name(client.project())?;
                several.take(match delete(client, &target, full).await {
                    Ok(()) => printer.line(&format!("{target} deleted")),
                    Err(error) => Err(error.into()),
                })?;
            }
            several.finish()
        }
        GroupCommand::AddUser(args) => change(client, args, printer, add).await,
        GroupCommand::RemoveUser(args) => change(client, args, printer, remove).await,
    }
}

async fn create(client: &Client, args: &CreateGroupArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = GroupRef::parse_in(client.project(), &args.name)
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let mut members = Vec::new();
    add(&mut members, &full(client, &args.users)?);
    let message = CreateGroupRequest {
        parent: name.project.parent(),
        group: Some(Group {
            metadata: Some(Metadata { name: name.to_string(), ..Metadata::default() }),
            spec: Some(GroupSpec { members }),
        }),
        request_id: request_id(),
        validate_only: false,
    };
    let creating = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { groups(channel).create_group(request(message, left)).await }
    });
    creating.await?;
    printer.line(&format!("group/{} created", name.group))
}

/// The full names of users.
fn full(client: &Client, names: &[String]) -> Result<Vec<String>, CliError> {
    names.iter().map(|name| Ok(user(client.project(), name)?.to_string())).collect()
}

/// Edits who is in a group, on what is there.
async fn change(
    client: &Client,
    args: &MembersArgs,
    printer: &mut Printer,
    edit: fn(&mut Vec<String>, &[String]) -> bool,
) -> Result<(), CliError> {
    let target = Target { kind: Type::Group, name: args.group.clone() };
    let names = full(client, &args.users)?;
    let mut tries = 0;
    loop {
        let Item::Group(mut group) = client.get(&target).await? else {
            unreachable!("a group was asked for")
        };
        if !edit(&mut group.spec.get_or_insert_default().members, &names) {
            return printer.line(&format!("{target} unchanged"));
        }
        tries += 1;
        // With the etag that was read: whoever changes it at the same moment loses nothing.
        match send(client, Item::Group(group), &Sending::change(["spec.members"])).await {
            Ok(_) => return printer.line(&format!("{target} configured")),
            Err(error) if error.code() == Some(Code::Aborted) && tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}
