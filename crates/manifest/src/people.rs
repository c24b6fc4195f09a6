//! Groups and role bindings: whom they name, by short names within their own project or by full ones.

use skerry_model::{Fault, GroupRef, InvalidName, ProjectName, UserRef, Violations};
use skerry_proto::registry::v1::{Group, GroupSpec, Role, RoleBinding, RoleBindingSpec};
use skerry_proto::types::v1::Metadata;

/// A group whose members have full names.
pub(crate) fn group(metadata: Option<Metadata>, mut spec: GroupSpec) -> Group {
    let project = project_of(metadata.as_ref());
    full(&mut spec.members, project.as_ref(), UserRef::parse_in);
    Group { metadata, spec: Some(spec) }
}

/// A binding in which users and groups have full names.
pub(crate) fn binding(metadata: Option<Metadata>, mut spec: RoleBindingSpec) -> RoleBinding {
    let project = project_of(metadata.as_ref());
    full(&mut spec.users, project.as_ref(), UserRef::parse_in);
    full(&mut spec.groups, project.as_ref(), GroupRef::parse_in);
    RoleBinding { metadata, spec: Some(spec) }
}

pub(crate) fn check_group(group: &Group) -> Result<(), Fault> {
    let mut violations = Violations::new();
    let spec = group.spec.clone().unwrap_or_default();
    check_names("spec.members", &spec.members, UserRef::parse, &mut violations);
    violations.finish(Some(()))
}

pub(crate) fn check_binding(binding: &RoleBinding) -> Result<(), Fault> {
    let mut violations = Violations::new();
    let spec = binding.spec.clone().unwrap_or_default();
    if spec.role() == Role::Unspecified {
        violations.add("spec.role", "missing: viewer, operator or admin");
    }
    check_names("spec.users", &spec.users, UserRef::parse, &mut violations);
    check_names("spec.groups", &spec.groups, GroupRef::parse, &mut violations);
    violations.finish(Some(()))
}

fn project_of(metadata: Option<&Metadata>) -> Option<ProjectName> {
    ProjectName::of_resource(&metadata?.name).ok()
}

/// Makes names full. What is no name stays as it is written, for the check to tell.
fn full<R: std::fmt::Display>(
    names: &mut [String],
    project: Option<&ProjectName>,
    parse_in: impl Fn(&ProjectName, &str) -> Result<R, InvalidName>,
) {
    let Some(project) = project else { return };
    for name in names {
        if let Ok(found) = parse_in(project, name) {
            *name = found.to_string();
        }
    }
}

fn check_names<R>(
    field: &str,
    names: &[String],
    parse: impl Fn(&str) -> Result<R, InvalidName>,
    violations: &mut Violations,
) {
    for (index, name) in names.iter().enumerate() {
        violations.check(format!("{field}[{index}]"), parse(name));
    }
}
