//! Users, groups and role bindings, as rows and in full.

use skerry_proto::registry::v1::{Group, Role, RoleBinding, RoleBindingSpec, User};
use skerry_proto::types::v1::Metadata;

use crate::item::Item;
use crate::render::describe::{field, head, table};
use crate::render::rows::{Cells, age_of, labels, or_dash, short_hash, short_name};
use crate::render::time::moment;

pub(super) fn user_cells(user: &User, now: i64) -> Cells {
    let keys = user.spec.iter().flat_map(|spec| &spec.keys);
    let keys: Vec<String> = keys.map(|key| short_hash(&key.id)).collect();
    let narrow = vec![
        short_name(user.metadata.as_ref()),
        or_dash(&keys.join(",")),
        age_of(user.metadata.as_ref(), now),
    ];
    (narrow, vec![labels(user.metadata.as_ref())])
}

pub(super) fn group_cells(group: &Group, now: i64) -> Cells {
    let spec = group.spec.clone().unwrap_or_default();
    let metadata = group.metadata.as_ref();
    let narrow = vec![short_name(metadata), spec.members.len().to_string(), age_of(metadata, now)];
    let who: Vec<&str> = spec.members.iter().map(|name| beside(metadata, name)).collect();
    (narrow, vec![or_dash(&who.join(",")), labels(metadata)])
}

pub(super) fn binding_cells(binding: &RoleBinding, now: i64) -> Cells {
    let spec = binding.spec.clone().unwrap_or_default();
    let metadata = binding.metadata.as_ref();
    let narrow = vec![
        short_name(metadata),
        role(spec.role()).to_owned(),
        spec.users.len().to_string(),
        spec.groups.len().to_string(),
        age_of(metadata, now),
    ];
    let names = spec.users.iter().chain(&spec.groups);
    let who: Vec<&str> = names.map(|name| beside(metadata, name)).collect();
    (narrow, vec![or_dash(&who.join(",")), labels(metadata)])
}

/// A role as a word.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "-",
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

/// A full name, short if it is of the same project as what names it: `users/ada`.
pub(crate) fn beside<'a>(metadata: Option<&Metadata>, name: &'a str) -> &'a str {
    let of = metadata.and_then(|metadata| metadata.name.split('/').nth(1)).unwrap_or_default();
    let rest = name.strip_prefix("projects/").and_then(|rest| rest.strip_prefix(of));
    rest.and_then(|rest| rest.strip_prefix('/')).unwrap_or(name)
}

/// A user, its keys, the groups that it is in and its roles, as far as `named_by` (groups and bindings) says.
pub(crate) fn user(user: &User, named_by: &[Item]) -> String {
    let mut text = head(user.metadata.as_ref());
    let name = user.metadata.as_ref().map_or("", |metadata| &metadata.name);
    let keys = user.spec.iter().flat_map(|spec| &spec.keys);
    let keys: Vec<_> = keys.map(|key| vec![key.id.clone(), moment(key.create_time.as_ref())]).collect();
    table(&mut text, "Keys", &["SHA-256", "SINCE"], &keys);
    let groups: Vec<&Group> = groups_of(name, named_by);
    let in_groups: Vec<_> = groups.iter().map(|group| vec![short_name(group.metadata.as_ref())]).collect();
    table(&mut text, "Groups", &["NAME"], &in_groups);
    let mut roles = Vec::new();
    for binding in bindings(named_by) {
        let spec = binding.spec.clone().unwrap_or_default();
        let row = |by: String| vec![role(spec.role()).to_owned(), by, short_name(binding.metadata.as_ref())];
        if spec.users.iter().any(|user| user == name) {
            roles.push(row("itself".to_owned()));
        }
        let by_groups = groups.iter().filter(|group| {
            group.metadata.as_ref().is_some_and(|metadata| spec.groups.contains(&metadata.name))
        });
        roles.extend(by_groups.map(|group| row(format!("group {}", short_name(group.metadata.as_ref())))));
    }
    table(&mut text, "Roles", &["ROLE", "BY", "BINDING"], &roles);
    text
}

/// A group, who is in it, and its roles, as far as `named_by` says.
pub(crate) fn group(group: &Group, named_by: &[Item]) -> String {
    let metadata = group.metadata.as_ref();
    let mut text = head(metadata);
    let members = group.spec.iter().flat_map(|spec| &spec.members);
    let members: Vec<_> = members.map(|name| vec![beside(metadata, name).to_owned()]).collect();
    table(&mut text, "Members", &["USER"], &members);
    let name = metadata.map_or("", |metadata| &metadata.name);
    let named = bindings(named_by).filter(|binding| {
        binding.spec.as_ref().is_some_and(|spec| spec.groups.iter().any(|group| group == name))
    });
    let roles: Vec<_> = named
        .map(|binding| {
            let held = binding.spec.as_ref().map_or(Role::Unspecified, RoleBindingSpec::role);
            vec![role(held).to_owned(), short_name(binding.metadata.as_ref())]
        })
        .collect();
    table(&mut text, "Roles", &["ROLE", "BINDING"], &roles);
    text
}

/// A binding: its role, and who has it.
pub(crate) fn binding(binding: &RoleBinding) -> String {
    let metadata = binding.metadata.as_ref();
    let mut text = head(metadata);
    let spec = binding.spec.clone().unwrap_or_default();
    field(&mut text, "Role", role(spec.role()));
    let rows = |names: &[String]| -> Vec<_> {
        names.iter().map(|name| vec![beside(metadata, name).to_owned()]).collect()
    };
    table(&mut text, "Users", &["USER"], &rows(&spec.users));
    table(&mut text, "Groups", &["GROUP"], &rows(&spec.groups));
    text
}

fn groups_of<'a>(user: &str, items: &'a [Item]) -> Vec<&'a Group> {
    let groups = items.iter().filter_map(|item| match item {
        Item::Group(group) => Some(group.as_ref()),
        _ => None,
    });
    let has = |group: &&Group| group.spec.as_ref().is_some_and(|spec| spec.members.iter().any(|m| m == user));
    groups.filter(has).collect()
}

fn bindings(items: &[Item]) -> impl Iterator<Item = &RoleBinding> {
    items.iter().filter_map(|item| match item {
        Item::RoleBinding(binding) => Some(binding.as_ref()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::GroupSpec;

    use super::*;

    fn named(name: &str) -> Metadata {
        Metadata { name: name.into(), ..Metadata::default() }
    }

    #[test]
    fn a_user_has_its_own_roles_and_those_of_its_groups() {
        let ada = User { metadata: Some(named("projects/p/users/ada")), spec: None };
        let group = |name: &str, members: &[&str]| {
            let members = members.iter().map(|name| (*name).to_owned()).collect();
            Item::Group(Box::new(Group { metadata: Some(named(name)), spec: Some(GroupSpec { members }) }))
        };
        let binding = |name: &str, role: Role, user: &str, group: &str| {
            let spec = RoleBindingSpec {
                role: role.into(),
                users: vec![user.to_owned()],
                groups: vec![group.to_owned()],
            };
            Item::RoleBinding(Box::new(RoleBinding { metadata: Some(named(name)), spec: Some(spec) }))
        };
        let named_by = [
            group("projects/p/groups/shop", &["projects/p/users/ada"]),
            group("projects/p/groups/others", &["projects/q/users/ada"]),
            binding(
                "projects/p/roleBindings/viewers",
                Role::Viewer,
                "projects/p/users/ada",
                "projects/p/groups/others",
            ),
            binding(
                "projects/p/roleBindings/operators",
                Role::Operator,
                "projects/q/users/ada",
                "projects/p/groups/shop",
            ),
        ];
        let text = user(&ada, &named_by);
        assert!(text.contains("viewer     itself       viewers\n"), "{text}");
        assert!(text.contains("operator   group shop   operators\n"), "{text}");
        assert!(!text.contains("others"), "{text}");
    }

    #[test]
    fn names_of_the_same_project_are_short() {
        let of = Some(named("projects/p/groups/shop"));
        assert_eq!(beside(of.as_ref(), "projects/p/users/ada"), "users/ada");
        assert_eq!(beside(of.as_ref(), "projects/p2/users/ada"), "projects/p2/users/ada");
    }
}
