//! `user`: users and their keys. A key is made where it is used, and only a request for its certificate goes to the server.

use skerry_identity::KeyId;
use skerry_proto::registry::v1::{
    CreateUserRequest, DeleteUserRequest, GetUserRequest, UpdateUserRequest, User, UserKey, UserSpec,
};
use skerry_proto::types::v1::Metadata;

use super::issue::{Asked, Files, issue};
use super::{role, user};
use crate::args::{CreateUserArgs, IssueArgs, RenewUserArgs, RevokeUserArgs, UserCommand};
use crate::client::{Client, Service, request, request_id, users};
use crate::commands::get::list_all;
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::target::Type;

pub(crate) async fn run(
    client: &Client,
    command: &UserCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        UserCommand::Create(args) => create(client, args, printer).await,
        UserCommand::Renew(args) => renew(client, args, printer).await,
        UserCommand::Issue(args) => issue_for(client, args, printer).await,
        UserCommand::Request(args) => super::request::run(args, printer),
        UserCommand::List(args) => list_all(client, Type::User, args.no_headers, printer).await,
        UserCommand::Revoke(args) => revoke(client, args, printer).await,
        UserCommand::Delete(args) => {
            let name = user(client.project(), &args.name)?;
            let message = DeleteUserRequest {
                name: name.to_string(),
                request_id: request_id(),
                ..DeleteUserRequest::default()
            };
            let deleting = client.call(Service::Registry, |channel, left| {
                let message = message.clone();
                async move { users(channel).delete_user(request(message, left)).await }
            });
            deleting.await?;
            printer.line(&format!("user/{} deleted", name.user))
        }
    }
}

async fn create(client: &Client, args: &CreateUserArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = user(client.project(), &args.name)?;
    let mut keys = Vec::new();
    for id in &args.key_id {
        let id = KeyId::parse(id).map_err(|error| CliError::Usage(format!("--key-id: {error}")))?;
        keys.push(UserKey { id: id.to_string(), create_time: None });
    }
    let files = Files::of(&args.out, &name);
    // Before anybody is made: a user whose files cannot be written is of no use.
    let asked = match &args.csr {
        _ if !keys.is_empty() => None,
        Some(csr) => Some(Asked::read(csr)?),
        None => {
            files.check_absent()?;
            Some(Asked::for_new_key()?)
        }
    };
    let metadata = Metadata { name: name.to_string(), ..Metadata::default() };
    let message = CreateUserRequest {
        parent: name.project.parent(),
        user: Some(User { metadata: Some(metadata), spec: Some(UserSpec { keys }) }),
        request_id: request_id(),
        validate_only: false,
    };
    let creating = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { users(channel).create_user(request(message, left)).await }
    });
    creating.await?;
    printer.line(&format!("user/{} created", name.user))?;
    if let Some(wanted) = args.role {
        role::give(client, wanted, &name, printer).await?;
    }
    let Some(asked) = asked else { return Ok(()) };
    let issued = issue(client, &name, &asked, &files, false, printer).await;
    if issued.is_err() {
        let again = if args.csr.is_some() { "issue" } else { "renew" };
        note(&format!(
            "the user is there without a certificate: skerry user {again} {} asks for one",
            args.name
        ));
    }
    issued
}

async fn renew(client: &Client, args: &RenewUserArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = user(client.project(), &args.name)?;
    let files = Files::of(&args.out, &name);
    issue(client, &name, &Asked::for_new_key()?, &files, args.replace, printer).await
}

async fn issue_for(client: &Client, args: &IssueArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = user(client.project(), &args.name)?;
    let files = Files::of(&args.out, &name);
    issue(client, &name, &Asked::read(&args.csr)?, &files, args.replace, printer).await
}

async fn revoke(client: &Client, args: &RevokeUserArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = user(client.project(), &args.name)?;
    let message = GetUserRequest { name: name.to_string() };
    let getting = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { users(channel).get_user(request(message, left)).await }
    });
    let mut found = getting.await?.user.unwrap_or_default();
    let spec = found.spec.get_or_insert_default();
    let before = spec.keys.len();
    for id in &args.key_id {
        if !spec.keys.iter().any(|key| key.id == *id) {
            return Err(CliError::NotFound(format!("{name} has no key {id}: skerry user list shows them")));
        }
    }
    spec.keys.retain(|key| !args.key_id.is_empty() && !args.key_id.contains(&key.id));
    let struck = before - spec.keys.len();
    let message = UpdateUserRequest {
        user: Some(found),
        update_mask: Some(prost_types::FieldMask { paths: vec!["spec.keys".to_owned()] }),
        request_id: request_id(),
        ..UpdateUserRequest::default()
    };
    let updating = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { users(channel).update_user(request(message, left)).await }
    });
    updating.await?;
    let keys = if struck == 1 { "1 key".to_owned() } else { format!("{struck} keys") };
    printer.line(&format!("user/{}: {keys} struck out", name.user))
}
