//! Projects as clients see them, kept in step with the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use skerry_api::{Etag, Hub, metadata_of};
use skerry_daemon::Shutdown;
use skerry_model::{ProjectName, ProjectRef};
use skerry_proto::registry::v1::{Project, ProjectStatus};
use skerry_proto::store::v1 as stored;
use skerry_resources::project_spec;
use skerry_store::{Changes, Cursor, Key, Mirror, MirrorConfig, Prefix, Snapshot, Store, Versioned};
use tracing::warn;

use super::usage::Usage;

/// What the handlers answer from.
pub(super) struct Shown {
    pub(super) mirror: Mirror,
    pub(super) projects: Arc<Hub<Project>>,
    usage: Mutex<Usage>,
}

impl Shown {
    pub(super) fn new(store: &Store) -> Self {
        let mirrored = MirrorConfig::new()
            .family::<stored::ProjectRecord>()
            .keys_only::<stored::NodeRecord>()
            .family::<stored::AppRecord>()
            .family::<stored::ConfigRecord>()
            .family::<stored::SecretRecord>();
        let mirror = Mirror::start(store, mirrored);
        Self { mirror, projects: Arc::default(), usage: Mutex::default() }
    }

    /// What there is of a project.
    pub(super) fn status(&self, name: &ProjectRef) -> ProjectStatus {
        let record = read(&self.mirror.snapshot(), name);
        self.status_of(name, record.as_ref())
    }

    fn status_of(
        &self,
        name: &ProjectRef,
        record: Option<&Versioned<stored::ProjectRecord>>,
    ) -> ProjectStatus {
        let used = self.usage.lock().unwrap_or_else(PoisonError::into_inner).get(&name.project);
        let deleting = record.is_some_and(|record| record.value.delete_time.is_some());
        ProjectStatus { used: Some(used), deleting }
    }

    fn view(&self, snapshot: &Snapshot, name: &ProjectRef) -> Option<Project> {
        let found = read(snapshot, name)?;
        let etag = Etag { mod_revision: found.mod_revision };
        Some(Project {
            metadata: Some(metadata_of(name, found.value.meta.as_ref(), etag)),
            spec: Some(project_spec(&found.value)),
            status: Some(self.status_of(name, Some(&found))),
        })
    }

    /// Brings all in step with what the mirror shows now; answers where to continue.
    fn take(&self, cursor: Option<Cursor>) -> Cursor {
        let delta = self.mirror.changes(cursor);
        let snapshot = &delta.snapshot;
        match &delta.changes {
            Changes::Since(changes) if changes.is_empty() => {}
            Changes::Since(changes) => {
                let mut touched: BTreeSet<ProjectName> = BTreeSet::new();
                {
                    let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
                    for change in changes {
                        if let Ok(key) = Key::<stored::ProjectRecord>::parse(change.key()) {
                            touched.insert(key.name().project);
                        }
                        usage.change(change.old.as_deref(), change.new.as_deref(), &mut touched);
                    }
                }
                let names = touched.into_iter().map(|project| ProjectRef { project });
                let updates: Vec<_> =
                    names.map(|name| (name.to_string(), self.view(snapshot, &name))).collect();
                self.projects.publish(updates, snapshot);
            }
            Changes::Resync => {
                *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = Usage::of(snapshot);
                let all = Prefix::<stored::ProjectRecord>::all();
                let names = snapshot
                    .entries(&all)
                    .filter_map(|entry| Some(Key::<stored::ProjectRecord>::parse(&*entry.key).ok()?.name()));
                let items: BTreeMap<_, _> = names
                    .filter_map(|name| Some((name.to_string(), Arc::new(self.view(snapshot, &name)?))))
                    .collect();
                self.projects.reset(items, snapshot);
            }
        }
        delta.cursor
    }
}

fn read(snapshot: &Snapshot, name: &ProjectRef) -> Option<Versioned<stored::ProjectRecord>> {
    snapshot.get(&Key::of(name)).unwrap_or_else(|error| {
        warn!(%error, "a record that does not decode is passed over");
        None
    })
}

/// Follows the store until the end.
pub(super) async fn follow(shown: Arc<Shown>, shutdown: Shutdown) {
    skerry_api::follow(&shown.mirror, shutdown.wait(), |cursor| shown.take(cursor)).await;
}
