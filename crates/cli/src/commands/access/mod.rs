//! `user`, `role` and `auth`: who may do what. What comes of it is the server's to judge.

pub(crate) mod auth;
pub(crate) mod role;
pub(crate) mod user;

use skerry_model::{ProjectName, UserRef};
use skerry_proto::registry::v1::Role;

use crate::args::RoleName;
use crate::error::CliError;

fn user(project: &ProjectName, name: &str) -> Result<UserRef, CliError> {
    UserRef::parse_in(project, name).map_err(|error| CliError::Usage(error.to_string()))
}

fn role_of(name: RoleName) -> Role {
    match name {
        RoleName::Viewer => Role::Viewer,
        RoleName::Operator => Role::Operator,
        RoleName::Admin => Role::Admin,
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "-",
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

/// A name as it is shown in its project: short, if it is of the same one.
fn short<'a>(project: &ProjectName, collection: &str, name: &'a str) -> &'a str {
    name.strip_prefix(&format!("{}/{collection}/", project.parent())).unwrap_or(name)
}
