//! Clears away revisions of apps and contents of configs: the last ten and all that are referred to stay; of an app that is deleted, though
//! another has its name now, only what is referred to. Of secrets the present values and those
//! that are referred to, and what is sealed to nodes as long as their assignment names it. Images that tasks had nodes fetch ahead, once their time is over.

use std::time::SystemTime;

use skerry_model::{AppRef, ConfigRef, ContentHash, NodeRef, RevisionRef};
use skerry_proto::store::v1 as stored;
use skerry_store::keys::{ConfigRevisionRef, RolloutMoveName, SealedSecretRef, SecretRevisionRef};
use skerry_store::{Key, Leadership, Prefix, Snapshot, Store, Txn};
use tracing::{debug, warn};

use crate::follow::Shared;
use crate::revisions::is_of;
use crate::world::World;
use crate::writes::{
    clear_content, clear_move, clear_prefetch, clear_revision, clear_sealed, clear_values, unused,
};

/// Revisions of one app, or contents of one config, that stay in any case.
const KEPT: usize = 10;
/// Deletions of one pass.
const DELETED_MAX: usize = 500;

/// One pass.
pub(crate) async fn clear_unused(shared: &Shared, store: &Store, leadership: &Leadership) {
    let snapshot = shared.mirror.snapshot();
    let (all_revisions, all_contents) =
        (Prefix::<stored::RevisionRecord>::all(), Prefix::<stored::ConfigRevisionRecord>::all());
    let revisions: Vec<_> = snapshot.iter(&all_revisions).filter_map(Result::ok).collect();
    let contents = snapshot.entries(&all_contents);
    let contents = contents.filter_map(|entry| {
        let ConfigRevisionRef { config, hash } =
            Key::<stored::ConfigRevisionRecord>::parse(entry.key.clone()).ok()?.name();
        Some((config, (entry.mod_revision, hash, entry.mod_revision)))
    });
    let txns: Vec<Txn> = {
        let world = shared.world();
        let app_at = |name: &AppRef| {
            let view = world.project(&name.project).and_then(|project| project.apps.get(&name.app));
            view.map_or(0, |view| view.record.mod_revision)
        };
        let config_at = |name: &ConfigRef| {
            let record = world.project(&name.project).and_then(|project| project.configs.get(&name.config));
            record.map_or(0, |record| record.mod_revision)
        };
        let is_own = |name: &AppRef, revision: &stored::RevisionRecord| {
            let view = world.project(&name.project).and_then(|project| project.apps.get(&name.app));
            view.is_some_and(|view| {
                is_of(revision, view.record.value.meta.as_ref().map_or("", |meta| meta.uid.as_str()))
            })
        };
        let revisions = revisions.iter().map(|revision| {
            let RevisionRef { app, hash } = revision.key.name();
            let is_own = is_own(&app, &revision.value);
            (is_own, (app, (revision.value.number, hash, revision.mod_revision)))
        });
        let (own, others): (Vec<_>, Vec<_>) = revisions.partition(|(is_own, _)| *is_own);
        let unused_of = |kept, revisions: Vec<(bool, _)>| {
            let revisions = revisions.into_iter().map(|(_, revision)| revision);
            unused(kept, revisions, app_at, |app, hash| uses_revision(&world, app, hash))
        };
        let revisions: Vec<_> = unused_of(KEPT, own).into_iter().chain(unused_of(0, others)).collect();
        let contents = unused(KEPT, contents, config_at, |config, hash| uses_content(&world, config, hash));
        let revisions = revisions.into_iter().map(clear_revision);
        let contents = contents.into_iter().map(clear_content);
        let secrets = values(&world, &snapshot).into_iter().chain(sealed(&world, &snapshot));
        let asked =
            world.asked_until(SystemTime::now()).into_iter().map(|(task, at)| clear_prefetch(&task, at));
        let all = revisions.chain(contents).chain(secrets).chain(moves(&world)).chain(asked);
        all.take(DELETED_MAX).collect()
    };
    if txns.is_empty() {
        return;
    }
    let results = store.commit_all(txns, Some(leadership)).await;
    let cleared = results.iter().filter(|result| result.is_ok()).count();
    debug!(cleared, "old revisions cleared away");
    if let Some(error) = results.into_iter().filter_map(Result::err).find(|error| error.conflict().is_none())
    {
        warn!(%error, "old revisions could not all be cleared away; it is tried again");
    }
}

/// Values that are neither a secret's present ones nor used by a node. None is kept for a way back: an old password is a burden.
fn values(world: &World, snapshot: &Snapshot) -> Vec<Txn> {
    let all = Prefix::<stored::SecretRevisionRecord>::all();
    let clear = |entry: &std::sync::Arc<skerry_store::Entry>| {
        let name = Key::<stored::SecretRevisionRecord>::parse(entry.key.clone()).ok()?.name();
        let SecretRevisionRef { secret, version } = name;
        let project = world.project(&secret.project);
        let record = project.and_then(|project| project.secrets.get(&secret.secret));
        let is_current = record.is_some_and(|record| record.value.version == version.to_string());
        let is_used = project.is_some_and(|project| project.has_secret(&secret.secret, &version));
        let at = record.map_or(0, |record| record.mod_revision);
        (!is_current && !is_used).then(|| clear_values(secret, at, version, entry.mod_revision))
    };
    snapshot.entries(&all).filter_map(clear).take(DELETED_MAX).collect()
}

/// What is sealed to nodes that do not use it.
fn sealed(world: &World, snapshot: &Snapshot) -> Vec<Txn> {
    let all = Prefix::<stored::SealedSecretRecord>::all();
    let clear = |entry: &std::sync::Arc<skerry_store::Entry>| {
        let name = Key::<stored::SealedSecretRecord>::parse(entry.key.clone()).ok()?.name();
        let SealedSecretRef { node: NodeRef { project, node }, secret, version } = &name;
        let project = world.project(project);
        let is_used = project.is_some_and(|project| project.has_secret_on(node, secret, version));
        let assignment =
            project.and_then(|project| project.nodes.get(node)).and_then(|view| view.assignment.as_ref());
        let at = assignment.map_or(0, |(_, revision)| *revision);
        (!is_used).then(|| clear_sealed(&name, entry.mod_revision, at))
    };
    snapshot.entries(&all).filter_map(clear).take(DELETED_MAX).collect()
}

/// Moves of rollouts that say nothing any more.
fn moves(world: &World) -> impl Iterator<Item = Txn> + '_ {
    let rollouts =
        world.projects().flat_map(|(project, one)| one.rollouts.iter().map(move |app| (project, app)));
    rollouts.flat_map(|(project, (app, rollout))| {
        let app = AppRef { project: project.clone(), app: app.clone() };
        let spent = rollout.spent_moves().into_iter();
        spent.map(move |(number, at)| clear_move(&RolloutMoveName { app: app.clone(), number }, at))
    })
}

fn uses_revision(world: &World, app: &AppRef, hash: &ContentHash) -> bool {
    world.project(&app.project).is_some_and(|project| {
        let current =
            project.apps.get(&app.app).is_some_and(|view| view.record.value.revision == hash.to_string());
        current || project.is_referenced(&app.app, hash)
    })
}

fn uses_content(world: &World, config: &ConfigRef, hash: &ContentHash) -> bool {
    world.project(&config.project).is_some_and(|project| {
        let current =
            project.configs.get(&config.config).is_some_and(|record| record.value.hash == hash.to_string());
        current || project.is_mounted(&config.config, hash)
    })
}
