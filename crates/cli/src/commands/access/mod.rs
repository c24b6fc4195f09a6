//! `user`, `group`, `role` and `auth`: who may do what. What comes of it is the server's to judge.

pub(crate) mod auth;
pub(crate) mod group;
mod issue;
pub(crate) mod request;
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

/// Adds those that are missing; whether there were any.
fn add(to: &mut Vec<String>, names: &[String]) -> bool {
    let before = to.len();
    for name in names {
        if !to.contains(name) {
            to.push(name.clone());
        }
    }
    to.len() != before
}

/// Takes out those that are there; whether there were any.
fn remove(from: &mut Vec<String>, names: &[String]) -> bool {
    let before = from.len();
    from.retain(|name| !names.contains(name));
    from.len() != before
}

/// A name as it is shown in its project: short, if it is of the same one.
fn short<'a>(project: &ProjectName, collection: &str, name: &'a str) -> &'a str {
    name.strip_prefix(&format!("{}/{collection}/", project.parent())).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_once_and_taken_out_wherever_they_are() {
        let names = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut there = names(&["a"]);
        assert!(add(&mut there, &names(&["b", "a", "b"])));
        assert_eq!(there, names(&["a", "b"]));
        assert!(!add(&mut there, &names(&["a"])));
        assert!(remove(&mut there, &names(&["a", "c"])));
        assert!(!remove(&mut there, &names(&["c"])));
        assert_eq!(there, names(&["b"]));
    }
}
