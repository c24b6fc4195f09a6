//! Who the users are and what they may do, kept in step with the store, for the layer that judges calls.
//!
//! Every service has one of these: it is asked with each call and answers from memory. Who was struck out is nobody as soon as the mirror
//! has seen it, which is moments after the write; while the store does not answer, what was known last holds.

mod roles;

use std::sync::Arc;

use arc_swap::ArcSwap;
use skerry_identity::KeyId;
use skerry_model::{Grant, ProjectName, UserRef};
use skerry_proto::store::v1 as stored;
use skerry_rpc::access::{Authorizer, Role};
use skerry_store::{Changes, Cursor, Mirror, MirrorConfig, Store, WaitError};
use tokio::sync::watch;

pub use self::roles::ADMIN;
use self::roles::Roles;

/// Follows users, groups, role bindings and grants. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessMirror {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mirror: Mirror,
    roles: ArcSwap<Roles>,
    changed: watch::Sender<u64>,
}

impl AccessMirror {
    /// Reads what there is, then waits to be kept by [`AccessMirror::follow`].
    pub async fn start(store: &Store) -> Result<Self, WaitError> {
        let mirrored = MirrorConfig::new()
            .family::<stored::UserRecord>()
            .family::<stored::GroupRecord>()
            .family::<stored::RoleBindingRecord>()
            .family::<stored::GrantRecord>()
            // Lists of them are of projects that are there.
            .family::<stored::ProjectRecord>();
        let mirror = Mirror::start(store, mirrored);
        mirror.ready().await?;
        let roles = ArcSwap::from_pointee(Roles::of(&mirror.snapshot()));
        Ok(Self { shared: Arc::new(Shared { mirror, roles, changed: watch::Sender::new(0) }) })
    }

    /// Follows the store until `ending`.
    pub async fn follow(self, ending: impl Future<Output = ()>) {
        crate::follow(&self.shared.mirror, ending, |cursor| self.shared.take(cursor)).await;
    }

    /// What follows the store.
    pub fn mirror(&self) -> &Mirror {
        &self.shared.mirror
    }
}

impl Shared {
    /// Made anew as a whole: there are few, they change seldom, and a group's change may touch any user.
    fn take(&self, cursor: Option<Cursor>) -> Cursor {
        let delta = self.mirror.changes(cursor);
        if !matches!(&delta.changes, Changes::Since(changes) if changes.is_empty()) {
            self.roles.store(Arc::new(Roles::of(&delta.snapshot)));
            self.changed.send_modify(|count| *count += 1);
        }
        delta.cursor
    }
}

impl Authorizer for AccessMirror {
    fn knows(&self, user: &UserRef, key: &KeyId) -> bool {
        self.shared.roles.load().knows(user, key)
    }

    fn role(&self, user: &UserRef, project: &ProjectName) -> Option<Role> {
        self.shared.roles.load().role(user, project)
    }

    fn roles(&self, user: &UserRef) -> Vec<(ProjectName, Role)> {
        self.shared.roles.load().all(user)
    }

    fn grants(&self, user: &UserRef) -> Arc<[Grant]> {
        self.shared.roles.load().grants(user)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}
