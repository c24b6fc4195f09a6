//! Users, groups, bindings and grants brought together: pure, from what the store holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use skerry_identity::KeyId;
use skerry_model::{Grant, GrantRef, GrantTarget, GroupRef, ProjectName, UserRef, Verb, time};
use skerry_proto::store::v1 as stored;
use skerry_rpc::access::Role;
use skerry_store::{Prefix, Record, Snapshot};
use tracing::warn;

/// Who is admin of everything whatever the bindings say.
pub const ADMIN: &str = "projects/system/users/admin";

static FIRST_ADMIN: LazyLock<UserRef> = LazyLock::new(|| UserRef::parse(ADMIN).expect("a name"));

/// All users and their roles at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Roles {
    /// The keys that count.
    keys: HashMap<UserRef, Vec<KeyId>>,
    /// The highest role in each project that a binding gives, to users that there are and to those that may come.
    bound: HashMap<UserRef, BTreeMap<ProjectName, Role>>,
    /// Whose which grants are, some of which may have expired.
    granted: HashMap<UserRef, Arc<[Grant]>>,
}

impl Roles {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let groups: HashMap<GroupRef, Vec<UserRef>> = records::<stored::GroupRecord>(snapshot)
            .map(|(name, group)| (name, users(&group.members).collect()))
            .collect();
        let mut roles = Self { granted: granted(snapshot, &groups), ..Self::default() };
        for (name, user) in records::<stored::UserRecord>(snapshot) {
            let keys = user.keys.iter().filter_map(|key| KeyId::try_from(&key.key_id[..]).ok());
            roles.keys.insert(name, keys.collect());
        }
        for (name, binding) in records::<stored::RoleBindingRecord>(snapshot) {
            let Some(role) = role_of(binding.role) else { continue };
            let named = binding.groups.iter().filter_map(|group| groups.get(&GroupRef::parse(group).ok()?));
            let of_groups = named.flatten().cloned();
            for user in users(&binding.users).chain(of_groups) {
                let held = roles.bound.entry(user).or_default().entry(name.project.clone()).or_insert(role);
                *held = role.max(*held);
            }
        }
        roles
    }

    /// The first admin is known without a record by any certificate of ours: whoever can issue that one is trusted with everything.
    pub(super) fn knows(&self, user: &UserRef, key: &KeyId) -> bool {
        match self.keys.get(user) {
            Some(keys) => keys.contains(key),
            None => *user == *FIRST_ADMIN,
        }
    }

    pub(super) fn role(&self, user: &UserRef, project: &ProjectName) -> Option<Role> {
        if *user == *FIRST_ADMIN {
            return Some(Role::Admin);
        }
        let bound = self.bound.get(user)?;
        let everywhere = bound.get(&*SYSTEM).copied();
        bound.get(project).copied().max(everywhere)
    }

    pub(super) fn grants(&self, user: &UserRef) -> Arc<[Grant]> {
        self.granted.get(user).cloned().unwrap_or_default()
    }

    pub(super) fn all(&self, user: &UserRef) -> Vec<(ProjectName, Role)> {
        let mut all = self.bound.get(user).cloned().unwrap_or_default();
        if *user == *FIRST_ADMIN {
            all.insert(ProjectName::system(), Role::Admin);
        }
        all.into_iter().collect()
    }
}

static SYSTEM: LazyLock<ProjectName> = LazyLock::new(ProjectName::system);

/// A role as it is stored; what this version does not know gives nothing.
pub(crate) fn role_of(stored: i32) -> Option<Role> {
    match stored {
        1 => Some(Role::Viewer),
        2 => Some(Role::Operator),
        3 => Some(Role::Admin),
        _ => None,
    }
}

/// The grants of each user, those of its groups included.
fn granted(snapshot: &Snapshot, groups: &HashMap<GroupRef, Vec<UserRef>>) -> HashMap<UserRef, Arc<[Grant]>> {
    let mut granted: HashMap<UserRef, Vec<Grant>> = HashMap::new();
    for (name, record) in records::<stored::GrantRecord>(snapshot) {
        let Some(grant) = grant_of(name, &record) else { continue };
        let of_group = GroupRef::parse(&record.subject).ok().and_then(|group| groups.get(&group));
        for user in UserRef::parse(&record.subject).into_iter().chain(of_group.into_iter().flatten().cloned())
        {
            granted.entry(user).or_default().push(grant.clone());
        }
    }
    granted.into_iter().map(|(user, grants)| (user, grants.into())).collect()
}

/// A grant as it is stored. A verb that this version does not know lets nobody do anything, and the others hold.
fn grant_of(name: GrantRef, record: &stored::GrantRecord) -> Option<Grant> {
    let target = GrantTarget::parse(&record.target).ok()?;
    if *target.project() != name.project {
        return None;
    }
    let not_after = record.expire_time.as_ref().and_then(time::from_timestamp)?;
    Some(Grant {
        verbs: record.verbs.iter().filter_map(|verb| Verb::parse(verb)).collect(),
        name,
        target,
        not_after,
    })
}

fn users(names: &[String]) -> impl Iterator<Item = UserRef> + '_ {
    names.iter().filter_map(|name| UserRef::parse(name).ok())
}

/// The records of a family. One that does not decode gives nobody anything.
fn records<R: Record>(snapshot: &Snapshot) -> impl Iterator<Item = (R::Name, R)> {
    let prefix = Prefix::<R>::all();
    let entries: Vec<_> = snapshot.entries(&prefix).cloned().collect();
    entries.into_iter().filter_map(|entry| match entry.decode::<R>() {
        Ok(record) => Some((record.key.name(), record.value)),
        Err(error) => {
            warn!(%error, "a record that does not decode gives nobody anything");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserRef {
        UserRef::parse(name).expect("a name")
    }

    fn project(name: &str) -> ProjectName {
        ProjectName::parse(name).expect("a name")
    }

    const KEY: KeyId = KeyId::from_bytes([1; 32]);

    #[test]
    fn the_highest_role_holds_and_that_of_system_holds_everywhere() {
        let ada = user("projects/a/users/ada");
        let bound =
            [(project("a"), Role::Viewer), (project("b"), Role::Admin), (project("system"), Role::Operator)];
        let roles = Roles { bound: HashMap::from([(ada.clone(), bound.into())]), ..Roles::default() };
        for (of, expected) in [("a", Role::Operator), ("b", Role::Admin), ("c", Role::Operator)] {
            assert_eq!(roles.role(&ada, &project(of)), Some(expected), "{of}");
        }
        assert_eq!(roles.role(&user("projects/b/users/ada"), &project("a")), None);
        assert_eq!(roles.all(&ada).len(), 3);
    }

    #[test]
    fn a_grant_is_read_as_far_as_this_version_knows_it_and_never_reaches_out_of_its_project() {
        let name = GrantRef::parse("projects/a/grants/g").expect("a name");
        let record = stored::GrantRecord {
            verbs: ["exec", "of-the-future"].map(str::to_owned).to_vec(),
            target: "projects/a/apps/x".to_owned(),
            expire_time: Some(time::to_timestamp(std::time::SystemTime::UNIX_EPOCH)),
            ..Default::default()
        };
        assert_eq!(grant_of(name.clone(), &record).expect("a grant").verbs, [Verb::Exec]);
        let elsewhere = stored::GrantRecord { target: "projects/b".to_owned(), ..record.clone() };
        assert_eq!(grant_of(name.clone(), &elsewhere), None);
        assert_eq!(
            grant_of(name, &stored::GrantRecord { expire_time: None, ..record }),
            None,
            "it would never end"
        );
    }

    #[test]
    fn a_user_is_known_by_the_keys_of_its_record_only() {
        let ada = user("projects/a/users/ada");
        let mut roles = Roles { keys: HashMap::from([(ada.clone(), vec![KEY])]), ..Roles::default() };
        assert!(roles.knows(&ada, &KEY));
        assert!(!roles.knows(&ada, &KeyId::from_bytes([2; 32])));
        assert!(!roles.knows(&user("projects/b/users/ada"), &KEY));
        roles.keys.insert(ada.clone(), Vec::new());
        assert!(!roles.knows(&ada, &KEY));
    }

    #[test]
    fn the_first_admin_is_admin_and_has_a_record_s_keys_where_there_is_one() {
        let admin = user(ADMIN);
        let mut roles = Roles::default();
        assert!(roles.knows(&admin, &KEY));
        assert_eq!(roles.role(&admin, &project("any")), Some(Role::Admin));
        assert_eq!(roles.all(&admin), [(project("system"), Role::Admin)]);
        roles.keys.insert(admin.clone(), vec![KEY]);
        assert!(!roles.knows(&admin, &KeyId::from_bytes([2; 32])));
        for other in ["projects/a/users/admin", "projects/system/users/administrator"] {
            assert!(!roles.knows(&user(other), &KEY), "{other}");
            assert_eq!(roles.role(&user(other), &project("a")), None);
        }
    }
}
