//! Users, groups, bindings and grants as clients see them, kept in step with the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_api::{AccessMirror, Etag, Hub, Resource, metadata_of};
use skerry_daemon::Shutdown;
use skerry_proto::registry::v1::{Grant, Group, GroupSpec, RoleBinding, User};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_resources::{Granted, binding_spec, granted, user_spec};
use skerry_store::{Changes, Cursor, Key, Prefix, Record, Snapshot};
use tracing::warn;

/// What the handlers answer lists from.
pub(crate) struct Shown {
    pub(crate) access: AccessMirror,
    pub(crate) users: Hub<User>,
    pub(crate) groups: Hub<Group>,
    pub(crate) bindings: Hub<RoleBinding>,
    pub(crate) grants: Hub<Grant>,
}

/// A record that clients see as a resource.
pub(crate) trait Visible: Record<Name: std::fmt::Display> {
    type Resource: Resource;

    fn meta(&self) -> Option<&stored::Meta>;

    fn shown(&self, metadata: Metadata) -> Self::Resource;
}

impl Visible for stored::UserRecord {
    type Resource = User;

    fn meta(&self) -> Option<&stored::Meta> {
        self.meta.as_ref()
    }

    fn shown(&self, metadata: Metadata) -> User {
        User { metadata: Some(metadata), spec: Some(user_spec(self)) }
    }
}

impl Visible for stored::GroupRecord {
    type Resource = Group;

    fn meta(&self) -> Option<&stored::Meta> {
        self.meta.as_ref()
    }

    fn shown(&self, metadata: Metadata) -> Group {
        Group { metadata: Some(metadata), spec: Some(GroupSpec { members: self.members.clone() }) }
    }
}

impl Visible for stored::RoleBindingRecord {
    type Resource = RoleBinding;

    fn meta(&self) -> Option<&stored::Meta> {
        self.meta.as_ref()
    }

    fn shown(&self, metadata: Metadata) -> RoleBinding {
        RoleBinding { metadata: Some(metadata), spec: Some(binding_spec(self)) }
    }
}

impl Visible for stored::GrantRecord {
    type Resource = Grant;

    fn meta(&self) -> Option<&stored::Meta> {
        self.meta.as_ref()
    }

    fn shown(&self, metadata: Metadata) -> Grant {
        let Granted { spec, status } = granted(self);
        Grant { metadata: Some(metadata), spec: Some(spec), status }
    }
}

impl Shown {
    pub(crate) fn new(access: AccessMirror) -> Self {
        let (users, groups, bindings) = (Hub::default(), Hub::default(), Hub::default());
        let shown = Self { access, users, groups, bindings, grants: Hub::default() };
        shown.take(None);
        shown
    }

    /// Brings all in step with what the mirror shows now; answers where to continue.
    fn take(&self, cursor: Option<Cursor>) -> Cursor {
        let delta = self.access.mirror().changes(cursor);
        let snapshot = &delta.snapshot;
        match &delta.changes {
            Changes::Since(changes) if changes.is_empty() => {}
            Changes::Since(changes) => {
                let keys: Vec<&str> = changes.iter().map(skerry_store::Change::key).collect();
                publish::<stored::UserRecord>(&self.users, snapshot, &keys);
                publish::<stored::GroupRecord>(&self.groups, snapshot, &keys);
                publish::<stored::RoleBindingRecord>(&self.bindings, snapshot, &keys);
                publish::<stored::GrantRecord>(&self.grants, snapshot, &keys);
            }
            Changes::Resync => {
                reset::<stored::UserRecord>(&self.users, snapshot);
                reset::<stored::GroupRecord>(&self.groups, snapshot);
                reset::<stored::RoleBindingRecord>(&self.bindings, snapshot);
                reset::<stored::GrantRecord>(&self.grants, snapshot);
            }
        }
        delta.cursor
    }
}

/// Publishes those of the changed keys that are of the family.
fn publish<R: Visible>(hub: &Hub<R::Resource>, snapshot: &Snapshot, keys: &[&str]) {
    let names = keys.iter().filter_map(|key| Some(Key::<R>::parse(*key).ok()?.name()));
    let updates: Vec<_> = names.map(|name| (name.to_string(), view::<R>(snapshot, &name))).collect();
    hub.publish(updates, snapshot);
}

fn reset<R: Visible>(hub: &Hub<R::Resource>, snapshot: &Snapshot) {
    let all = Prefix::<R>::all();
    let names = snapshot.entries(&all).filter_map(|entry| Some(Key::<R>::parse(&*entry.key).ok()?.name()));
    let items: BTreeMap<_, _> =
        names.filter_map(|name| Some((name.to_string(), Arc::new(view::<R>(snapshot, &name)?)))).collect();
    hub.reset(items, snapshot);
}

pub(super) fn view<R: Visible>(snapshot: &Snapshot, name: &R::Name) -> Option<R::Resource> {
    let found = snapshot.get(&Key::<R>::of(name)).unwrap_or_else(|error| {
        warn!(%error, "a record that does not decode is passed over");
        None
    })?;
    let etag = Etag { mod_revision: found.mod_revision };
    Some(found.value.shown(metadata_of(name, found.value.meta(), etag)))
}

/// Follows the store until the end.
pub(crate) async fn follow(shown: Arc<Shown>, shutdown: Shutdown) {
    skerry_api::follow(shown.access.mirror(), shutdown.wait(), |cursor| shown.take(cursor)).await;
}
