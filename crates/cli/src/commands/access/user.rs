//! `user`: users and their keys. A key is made here, and only a request for its certificate goes to the server.

use std::path::{Path, PathBuf};

use skerry_identity::chain::chain_to_pem;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_identity::{KeyId, KeyPair, private_file};
use skerry_model::UserRef;
use skerry_proto::registry::v1::user_service_client::UserServiceClient;
use skerry_proto::registry::v1::{
    CreateUserRequest, DeleteUserRequest, GetUserRequest, IssueCertificateRequest, IssueCertificateResponse,
    ListUsersRequest, UpdateUserRequest, User, UserKey, UserSpec,
};
use skerry_proto::types::v1::Metadata;
use skerry_rpc::{MESSAGE_BYTES_MAX, Traced};
use tonic::transport::Channel;

use super::{role, short, user};
use crate::args::{CreateUserArgs, ListArgs, RenewUserArgs, RevokeUserArgs, UserCommand};
use crate::client::{Client, Service, request, request_id};
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::render::table::Table;
use crate::render::time::{age, moment, now};

/// Asked for at once.
const PAGE_SIZE: i32 = 500;
/// Digits of a key that a listing shows.
const KEY_DIGITS: usize = 12;

fn users(channel: Channel) -> UserServiceClient<Traced> {
    UserServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) async fn run(
    client: &Client,
    command: &UserCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        UserCommand::Create(args) => create(client, args, printer).await,
        UserCommand::Renew(args) => renew(client, args, printer).await,
        UserCommand::List(args) => list(client, args, printer).await,
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
    if keys.is_empty() {
        // Before anybody is made: a user whose files cannot be written is of no use.
        files.check_absent()?;
    }
    let has_keys = !keys.is_empty();
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
    if has_keys {
        return Ok(());
    }
    match issue(client, &name, &files, false).await {
        Ok(issued) => tell(&issued, &name, &files, printer),
        Err(error) => {
            note(&format!(
                "the user is there without a certificate: skerry user renew {} asks for one",
                args.name
            ));
            Err(error)
        }
    }
}

async fn renew(client: &Client, args: &RenewUserArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = user(client.project(), &args.name)?;
    let files = Files::of(&args.out, &name);
    let issued = issue(client, &name, &files, args.replace).await?;
    tell(&issued, &name, &files, printer)
}

/// Has a certificate issued for a new key, and writes both.
async fn issue(
    client: &Client,
    name: &UserRef,
    files: &Files,
    replace: bool,
) -> Result<IssueCertificateResponse, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let asked = CertificateRequest::make(&key).map_err(|error| failed(&error))?;
    let message = IssueCertificateRequest {
        name: name.to_string(),
        certificate_request: asked.as_ref().to_vec().into(),
        replace,
    };
    let issuing = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { users(channel).issue_certificate(request(message, left)).await }
    });
    let issued = issuing.await?;
    let pem = |certificates: &[bytes::Bytes]| {
        let certificates: Vec<_> =
            certificates.iter().map(|der| rustls_pki_types::CertificateDer::from(der.to_vec())).collect();
        chain_to_pem(&certificates)
    };
    for (path, bytes) in [
        (&files.key, key.to_pem().as_bytes()),
        (&files.certificate, pem(&issued.chain).as_bytes()),
        (&files.authority, pem(&issued.roots).as_bytes()),
    ] {
        private_file::replace(path, bytes).map_err(|error| failed(&error))?;
    }
    Ok(issued)
}

fn tell(
    issued: &IssueCertificateResponse,
    name: &UserRef,
    files: &Files,
    printer: &mut Printer,
) -> Result<(), CliError> {
    printer.line(&format!(
        "{} is good until {}",
        files.certificate.display(),
        moment(issued.expire_time.as_ref())
    ))?;
    note(&format!(
        "to use it: skerry config set-context {} --server URL --tls-cert {} --tls-key {} --tls-ca {}",
        name.user,
        files.certificate.display(),
        files.key.display(),
        files.authority.display()
    ));
    Ok(())
}

async fn list(client: &Client, args: &ListArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut rows = Vec::new();
    let mut page_token = String::new();
    loop {
        let message = ListUsersRequest {
            parent: client.project().parent(),
            page_size: PAGE_SIZE,
            page_token,
            ..ListUsersRequest::default()
        };
        let listing = client.call(Service::Registry, |channel, left| {
            let message = message.clone();
            async move { users(channel).list_users(request(message, left)).await }
        });
        let page = listing.await?;
        for user in page.users {
            let metadata = user.metadata.unwrap_or_default();
            let keys: Vec<String> = user
                .spec
                .unwrap_or_default()
                .keys
                .iter()
                .map(|key| key.id.chars().take(KEY_DIGITS).collect())
                .collect();
            rows.push(vec![
                short(client.project(), "users", &metadata.name).to_owned(),
                if keys.is_empty() { "-".to_owned() } else { keys.join(",") },
                age(metadata.create_time.as_ref(), now()),
            ]);
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if rows.is_empty() {
        note(&format!("no users in project {}", client.project()));
        return Ok(());
    }
    printer.text(&Table::new(&["NAME", "KEYS", "AGE"], printer.width(), !args.no_headers).rows(&rows))
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

/// Where a user's key and certificates are.
struct Files {
    key: PathBuf,
    certificate: PathBuf,
    authority: PathBuf,
}

impl Files {
    fn of(directory: &Path, name: &UserRef) -> Self {
        let at = |suffix: &str| directory.join(format!("{}{suffix}", name.user));
        Self { key: at(".key"), certificate: at(".crt"), authority: at("-ca.crt") }
    }

    fn check_absent(&self) -> Result<(), CliError> {
        for path in [&self.key, &self.certificate] {
            if path.exists() {
                return Err(CliError::Usage(format!(
                    "{} is there already: name another directory with --out",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}
