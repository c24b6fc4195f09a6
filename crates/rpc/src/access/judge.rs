//! Whether a caller may make a call: pure decisions over the table, the peer and what the authorizer knows.

use std::sync::LazyLock;
use std::time::SystemTime;

use skerry_identity::{PeerCertificate, Principal};
use skerry_model::{Code, Fault, ProjectName, UserRef};

use super::grants::{By, granted, hint};
use super::project::{Path, Unreadable, find, values};
use super::role::{Authorizer, Role};
use super::table::{ForEach, ForUsers, NAME, Rule, rule};

static SYSTEM: LazyLock<ProjectName> = LazyLock::new(ProjectName::system);

/// What is known of a call before its request is read.
#[derive(Debug)]
pub(crate) enum Early {
    /// It may be made, and its answer streams by no user's role.
    Pass,
    /// It may be made, whatever the project, as long as the user has the role.
    Everywhere(Claim),
    /// That depends on the project.
    ByProject(Claim),
    /// That depends on each of the resources in the request.
    ByEach(UserRef, ForEach),
}

/// A user who calls what is for users.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) user: UserRef,
    pub(crate) needs: ForUsers,
}

/// Judges as far as that goes without the request. `method` is the path of the call.
pub(crate) fn judge(
    method: &str,
    peer: Option<&PeerCertificate>,
    authorizer: &dyn Authorizer,
) -> Result<Early, Fault> {
    let rule = rule(method);
    if rule == Some(Rule::Anybody) {
        return Ok(Early::Pass);
    }
    let peer = peer.ok_or_else(|| {
        let message = "the caller has not proved who it is: without a certificate a machine can only enrol";
        Fault::new(Code::Unauthenticated, "PEER_UNKNOWN", message)
    })?;
    let called = method.trim_start_matches('/');
    let rule = rule.ok_or_else(|| {
        let message = format!("there is no method {called} here");
        Fault::new(Code::Unimplemented, "METHOD_UNKNOWN", message).with("method", called)
    })?;
    let who = &peer.identity;
    let denied = |reason, why: &str| {
        let message = format!("{who} may not call {called}: {why}");
        Fault::new(Code::PermissionDenied, reason, message).with("method", called)
    };
    match (rule, &who.principal) {
        // A user that is nobody any more is not told anything either.
        (_, Principal::User(_)) => {
            let user = known(peer, authorizer)?;
            match rule {
                Rule::Anybody | Rule::Peers => Ok(Early::Pass),
                Rule::Nodes => Err(denied("NOT_FOR_USERS", "it is for the agents of nodes")),
                Rule::Services(_) | Rule::Inside(_) => {
                    Err(denied("NOT_FOR_USERS", "it is for services of the control plane"))
                }
                Rule::UsersOfEach(each) => Ok(Early::ByEach(user, each)),
                Rule::Users(needs) => {
                    let role = authorizer.role(&user, &SYSTEM);
                    let everywhere = role >= Some(needs.role.max(needs.role_in(&SYSTEM)));
                    let claim = Claim { user, needs };
                    match (everywhere, needs.path) {
                        (true, _) => Ok(Early::Everywhere(claim)),
                        (false, []) => Err(role_needed(method, &claim, &SYSTEM)),
                        (false, _) => Ok(Early::ByProject(claim)),
                    }
                }
            }
        }
        (Rule::Anybody | Rule::Peers, _) | (Rule::Nodes, Principal::Node(_)) => Ok(Early::Pass),
        (_, Principal::Node(_)) => {
            Err(denied("NOT_FOR_NODES", "a node's certificate is for its agent's stream"))
        }
        (
            Rule::Services(services) | Rule::Inside(services) | Rule::Users(ForUsers { services, .. }),
            Principal::Service(service),
        ) if who.project.is_system() && services.contains(&service.as_str()) => Ok(Early::Pass),
        (_, Principal::Service(_)) => {
            Err(denied("NOT_FOR_SERVICES", "it is not among what that service needs"))
        }
    }
}

/// Judges a user by the request. Nothing: it is about itself.
pub(crate) fn judge_request(
    method: &str,
    claim: &Claim,
    request: &[u8],
    authorizer: &dyn Authorizer,
    now: SystemTime,
) -> Result<Option<By>, Fault> {
    let Claim { user, needs } = claim;
    let name = find(request, needs.path)?;
    if needs.or_itself && name == user.to_string() {
        return Ok(None);
    }
    let project =
        ProjectName::of_resource(name).map_err(|error| Fault::invalid_field(field(needs.path), error))?;
    let Err(fault) = check_role(method, claim, &project, authorizer) else {
        return Ok(Some(By::Role(project)));
    };
    match (granted(method, user, name, authorizer, now), hint(method, user, name)) {
        (Some(grant), _) => Ok(Some(By::Grant(grant))),
        (None, Some(command)) => {
            let message = format!("{}; an admin can grant it for a while: {command}", fault.message);
            Err(Fault { message, ..fault })
        }
        (None, None) => Err(fault),
    }
}

/// Judges a user by each of the resources in the request: it must be one whose own method the user may call about it.
pub(crate) fn judge_each(
    user: &UserRef,
    each: &ForEach,
    request: &[u8],
    authorizer: &dyn Authorizer,
) -> Result<(), Fault> {
    let entries = values(request, each.entries)?;
    if entries.is_empty() {
        return Err(Fault::invalid_field("resources", "name at least one resource"));
    }
    for (index, entry) in entries.into_iter().enumerate() {
        let mut judged = false;
        for (number, method) in each.kinds {
            if !has(entry, each.resource, *number)? {
                continue;
            }
            let Some(Rule::Users(needs)) = rule(method) else {
                return Err(Fault::internal(format!("{method} is not for users")));
            };
            let project = if needs.path.is_empty() {
                ProjectName::system()
            } else {
                let name = find(entry, &[&[each.resource, *number][..], NAME].concat())?;
                let field = format!("resources[{index}].metadata.name");
                ProjectName::of_resource(name).map_err(|error| Fault::invalid_field(field, error))?
            };
            check_role(method, &Claim { user: user.clone(), needs }, &project, authorizer)?;
            judged = true;
        }
        if !judged {
            let field = format!("resources[{index}].resource");
            return Err(Fault::invalid_field(field, "name a resource of a kind that this server knows"));
        }
    }
    Ok(())
}

/// Whether `entry` has a field `number` anywhere in its fields `outer`.
fn has(entry: &[u8], outer: u32, number: u32) -> Result<bool, Unreadable> {
    for value in values(entry, outer)? {
        if !values(value, number)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the user has the role that the call takes in `project`.
pub(crate) fn check_role(
    method: &str,
    claim: &Claim,
    project: &ProjectName,
    authorizer: &dyn Authorizer,
) -> Result<(), Fault> {
    let allowed = authorizer.role(&claim.user, project) >= Some(claim.needs.role_in(project));
    if allowed { Ok(()) } else { Err(role_needed(method, claim, project)) }
}

fn role_needed(method: &str, Claim { user, needs }: &Claim, project: &ProjectName) -> Fault {
    let (called, role) = (method.trim_start_matches('/'), needs.role_in(project));
    let message = format!("{user} may not call {called} in project {project}: that takes the role {role}");
    Fault::new(Code::PermissionDenied, "ROLE_NEEDED", message)
        .with("method", called)
        .with("project", project)
        .with("role", role)
}

/// The user of a certificate, if it has a record with that key.
pub(crate) fn known(peer: &PeerCertificate, authorizer: &dyn Authorizer) -> Result<UserRef, Fault> {
    let user = peer.identity.user().filter(|user| authorizer.knows(user, &peer.key_id));
    user.ok_or_else(|| {
        let message = format!(
            "{} with this key is nobody here: the user was deleted, or its key struck out; an admin can issue a certificate",
            peer.identity
        );
        Fault::new(Code::Unauthenticated, "USER_UNKNOWN", message)
    })
}

/// What a caller would be told who calls `method` about `named`: a project as requests name it, or what is in it.
pub(crate) fn would_say(
    method: &str,
    peer: Option<&PeerCertificate>,
    named: &str,
    authorizer: &dyn Authorizer,
    now: SystemTime,
) -> Result<(), Fault> {
    let project =
        &ProjectName::of_resource(named).map_err(|error| Fault::invalid_field("resource", error))?;
    match judge(method, peer, authorizer)? {
        Early::Pass | Early::Everywhere(_) => Ok(()),
        Early::ByProject(claim) => check_role(method, &claim, project, authorizer)
            .or_else(|fault| granted(method, &claim.user, named, authorizer, now).map(drop).ok_or(fault)),
        // As far as that goes without knowing which resources.
        Early::ByEach(user, ForEach { role, .. }) => {
            let needs = ForUsers {
                role,
                path: &[],
                streams: false,
                or_itself: false,
                services: &[],
                in_system: None,
            };
            check_role(method, &Claim { user, needs }, project, authorizer)
        }
    }
}

/// The role that users need for `method`, if it is theirs.
pub(crate) fn role_for(method: &str) -> Option<Role> {
    match rule(method)? {
        Rule::Users(ForUsers { role, .. }) | Rule::UsersOfEach(ForEach { role, .. }) => Some(role),
        Rule::Anybody | Rule::Peers | Rule::Nodes | Rule::Services(_) | Rule::Inside(_) => None,
    }
}

/// As a person calls what is at `path`.
fn field(path: Path) -> &'static str {
    if path.len() == 1 { "name" } else { "metadata.name" }
}

#[cfg(test)]
mod tests;
