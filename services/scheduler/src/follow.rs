//! Keeps the world, and the resources that clients see, in step with the store.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use skerry_api::{Etag, Hub, metadata_of};
use skerry_daemon::Shutdown;
use skerry_model::{AppRef, ConfigRef, ContentHash, NodeRef, SecretRef, SecretVersion};
use skerry_proto::scheduler::v1::{App, Config, ConfigSpec, Secret};
use skerry_proto::store::v1 as stored;
use skerry_resources::{SecretKeys, shown};
use skerry_store::keys::{ConfigRevisionRef, SecretRevisionRef};
use skerry_store::{Changes, Key, Mirror, MirrorConfig, Snapshot, Store};
use tokio::sync::{Notify, watch};

use crate::pace::Pace;
use crate::status::status_of;
use crate::world::{Touched, World};

/// Between two looks for nodes that are out of reach.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the tasks and handlers of a scheduler share.
pub(crate) struct Shared {
    world: Mutex<World>,
    pub(crate) apps: Arc<Hub<App>>,
    pub(crate) configs: Arc<Hub<Config>>,
    pub(crate) secrets: Arc<Hub<Secret>>,
    pub(crate) keys: SecretKeys,
    pub(crate) mirror: Mirror,
    /// Wakes whoever plans from the world; no payload.
    changed: watch::Sender<()>,
    pace: Mutex<Pace>,
    /// Wakes who shows apps that waited.
    waiting: Notify,
    /// What the world is of.
    seen: Mutex<Option<Arc<Snapshot>>>,
}

/// What a scheduler mirrors.
fn mirrored() -> MirrorConfig {
    MirrorConfig::new()
        .family::<stored::NodeRecord>()
        .family::<stored::ClusterRecord>()
        .family::<stored::AppRecord>()
        .family::<stored::RevisionRecord>()
        .family::<stored::RolloutRecord>()
        .family::<stored::RolloutMoveRecord>()
        .family::<stored::ConfigRecord>()
        .family::<stored::ConfigRevisionRecord>()
        .family::<stored::SecretRecord>()
        .family::<stored::SecretRevisionRecord>()
        .keys_only::<stored::SealedSecretRecord>()
        .family::<stored::AssignmentRecord>()
        .family::<stored::StatusRecord>()
        .family::<stored::SessionRecord>()
        .family::<stored::GatewayRecord>()
        .family::<stored::PrefetchRecord>()
        // What is listed is of projects that are there.
        .family::<stored::ProjectRecord>()
}

impl Shared {
    pub(crate) fn new(store: &Store, keys: SecretKeys) -> Self {
        Self {
            world: Mutex::new(World::new(keys.clone())),
            secrets: Arc::default(),
            keys,
            apps: Arc::default(),
            configs: Arc::default(),
            mirror: Mirror::start(store, mirrored()),
            changed: watch::Sender::new(()),
            pace: Mutex::default(),
            waiting: Notify::new(),
            seen: Mutex::default(),
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Finds out anew which secrets open: the key file is another.
    pub(crate) fn reread_secrets(&self) {
        let snapshot = self.mirror.snapshot();
        let mut touched = Touched::default();
        let mut world = self.world();
        for entry in snapshot.entries(&skerry_store::Prefix::<stored::SecretRevisionRecord>::all()) {
            world.take(&entry.key, Some(entry), &mut touched);
        }
        drop(world);
        self.show_apps(touched);
    }

    /// Takes it that nothing can be sealed to a node.
    pub(crate) fn refuse_sealing(&self, node: &NodeRef) {
        let mut touched = Touched::default();
        self.world().refuse_sealing(node, &mut touched);
        self.show_apps(touched);
    }

    /// Finds out which nodes count as lost now, and what may leave those that are drained.
    fn look(&self, now: Instant) {
        let mut touched = Touched::default();
        let mut world = self.world();
        let (lost, left) = (world.look(now, &mut touched), world.drain(&mut touched));
        drop(world);
        if lost || left {
            self.show_apps(touched);
        }
    }

    /// Shows apps as they stand now, of which the store tells nothing new.
    fn show_apps(&self, touched: Touched) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(seen) = seen {
            let apps = self.reckon(touched);
            self.apps.publish(apps, &seen);
        }
        self.changed.send_replace(());
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reckons the apps that changed, and those that stand otherwise as far as it is time.
    fn reckon(&self, touched: Touched) -> Vec<(String, Option<App>)> {
        let begun = Instant::now();
        let mut due = self.pace().admit(touched.apps, begun);
        due.extend(touched.changed);
        // One by one: others want the world too.
        let apps = due.iter().map(|name| (name.to_string(), self.app(&self.world(), name))).collect();
        let mut pace = self.pace();
        pace.done(&due, begun, Instant::now());
        if pace.due().is_some() {
            self.waiting.notify_one();
        }
        apps
    }

    /// Brings all in step with what the mirror shows now; answers where to continue.
    fn take(&self, cursor: Option<skerry_store::Cursor>) -> skerry_store::Cursor {
        let delta = self.mirror.changes(cursor);
        let snapshot = &delta.snapshot;
        let mut touched = Touched::default();
        match delta.changes {
            Changes::Since(changes) if changes.is_empty() => return delta.cursor,
            Changes::Since(changes) => {
                let mut world = self.world();
                for change in &changes {
                    world.take(change.key(), change.new.as_deref(), &mut touched);
                }
                let configs: Vec<_> = touched
                    .configs
                    .iter()
                    .map(|name| (name.to_string(), config(&world, snapshot, name)))
                    .collect();
                let secrets: Vec<_> = touched
                    .secrets
                    .iter()
                    .map(|name| (name.to_string(), secret(&world, snapshot, name)))
                    .collect();
                drop(world);
                let apps = self.reckon(touched);
                self.apps.publish(apps, snapshot);
                self.configs.publish(configs, snapshot);
                self.secrets.publish(secrets, snapshot);
            }
            Changes::Resync => {
                let mut world = self.world();
                *world = world.emptied();
                take_all(&mut world, snapshot, &mut touched);
                let all: BTreeSet<_> = touched.changed.into_iter().chain(touched.apps).collect();
                let apps = all
                    .iter()
                    .filter_map(|name| Some((name.to_string(), Arc::new(self.app(&world, name)?))))
                    .collect();
                let configs = touched
                    .configs
                    .iter()
                    .filter_map(|name| Some((name.to_string(), Arc::new(config(&world, snapshot, name)?))))
                    .collect();
                let secrets = touched
                    .secrets
                    .iter()
                    .filter_map(|name| Some((name.to_string(), Arc::new(secret(&world, snapshot, name)?))))
                    .collect();
                drop(world);
                self.apps.reset(apps, snapshot);
                self.configs.reset(configs, snapshot);
                self.secrets.reset(secrets, snapshot);
            }
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(delta.snapshot);
        self.changed.send_replace(());
        delta.cursor
    }

    /// Shows the apps that waited, whenever it is time.
    async fn show_waiting(&self) {
        loop {
            let due = self.pace().due();
            match due {
                None => self.waiting.notified().await,
                Some(at) => {
                    tokio::time::sleep_until(at.into()).await;
                    self.show_apps(Touched::default());
                }
            }
        }
    }

    /// An app as clients see it, from the world.
    fn app(&self, world: &World, name: &AppRef) -> Option<App> {
        let project = world.project(&name.project)?;
        let view = project.apps.get(&name.app)?;
        let before = self.apps.get(&name.to_string());
        let before = before.as_ref().and_then(|app| app.status.as_ref());
        let etag = Etag { mod_revision: view.record.mod_revision };
        Some(App {
            metadata: Some(metadata_of(name, view.record.value.meta.as_ref(), etag)),
            spec: view.spec.as_deref().cloned(),
            status: Some(status_of(world, &name.project, project, &name.app, before, SystemTime::now())),
        })
    }
}

fn config(world: &World, snapshot: &Snapshot, name: &ConfigRef) -> Option<Config> {
    let record = world.project(&name.project)?.configs.get(&name.config)?;
    let hash = ContentHash::parse(&record.value.hash).ok()?;
    let content = snapshot
        .get(&Key::<stored::ConfigRevisionRecord>::of(&ConfigRevisionRef { config: name.clone(), hash }))
        .ok()?;
    let spec = content.and_then(|content| <ConfigSpec as prost::Message>::decode(content.value.spec).ok());
    let etag = Etag { mod_revision: record.mod_revision };
    Some(Config { metadata: Some(metadata_of(name, record.value.meta.as_ref(), etag)), spec })
}

fn secret(world: &World, snapshot: &Snapshot, name: &SecretRef) -> Option<Secret> {
    let record = world.project(&name.project)?.secrets.get(&name.secret)?;
    let version = SecretVersion::parse(&record.value.version).ok()?;
    let key = Key::<stored::SecretRevisionRecord>::of(&SecretRevisionRef { secret: name.clone(), version });
    let values = snapshot.get(&key).ok()??;
    Some(shown::secret(name, &record.value, &values.value.sealed, record.mod_revision))
}

fn take_all(world: &mut World, snapshot: &Snapshot, touched: &mut Touched) {
    fn family<R: skerry_store::Record>(world: &mut World, snapshot: &Snapshot, touched: &mut Touched) {
        for entry in snapshot.entries(&skerry_store::Prefix::<R>::all()) {
            world.take(&entry.key, Some(entry), touched);
        }
    }
    // Revisions first: what refers to them then finds them.
    family::<stored::GatewayRecord>(world, snapshot, touched);
    family::<stored::RevisionRecord>(world, snapshot, touched);
    family::<stored::RolloutRecord>(world, snapshot, touched);
    family::<stored::RolloutMoveRecord>(world, snapshot, touched);
    family::<stored::ConfigRecord>(world, snapshot, touched);
    family::<stored::SecretRevisionRecord>(world, snapshot, touched);
    family::<stored::SecretRecord>(world, snapshot, touched);
    family::<stored::StatusRecord>(world, snapshot, touched);
    family::<stored::SessionRecord>(world, snapshot, touched);
    family::<stored::AssignmentRecord>(world, snapshot, touched);
    family::<stored::ClusterRecord>(world, snapshot, touched);
    family::<stored::PrefetchRecord>(world, snapshot, touched);
    family::<stored::NodeRecord>(world, snapshot, touched);
    family::<stored::AppRecord>(world, snapshot, touched);
}

/// Follows the store, looks for nodes that are out of reach, and shows what waited, until the end. One task does it all: what it shows is newer than what it
/// showed before.
pub(crate) async fn follow(shared: Arc<Shared>, shutdown: Shutdown) {
    let follow = skerry_api::follow(&shared.mirror, shutdown.wait(), |cursor| shared.take(cursor));
    tokio::select! {
        () = follow => {}
        () = look_out(&shared, &shutdown) => {}
        () = shared.show_waiting() => {}
    }
}

async fn look_out(shared: &Shared, shutdown: &Shutdown) {
    while !shutdown.is_ending() {
        tokio::select! {
            () = shutdown.wait() => {}
            () = tokio::time::sleep(LOOK_EVERY) => shared.look(Instant::now()),
        }
    }
}
