//! Clears away revisions of apps and contents of configs: the last ten and all that are referred to stay.
//!
//! A deletion compares that the record and its app or config are unchanged (in a store that was restored a moment ago the record may be
//! the current one again, at the same revision), and whoever makes a revision current again writes it again, so neither can undo the
//! other unseen.

use std::collections::BTreeMap;

use skerry_model::{AppRef, ConfigRef, ContentHash, RevisionRef};
use skerry_proto::store::v1 as stored;
use skerry_store::keys::ConfigRevisionRef;
use skerry_store::{Key, Leadership, Prefix, Store, Txn};
use tracing::{debug, warn};

use crate::follow::Shared;
use crate::world::World;

/// Revisions of one app, or contents of one config, that stay in any case.
const KEPT: usize = 10;
/// Deletions of one pass.
const DELETED_MAX: usize = 500;

/// One pass.
pub(crate) async fn clear(shared: &Shared, store: &Store, leadership: &Leadership) {
    let snapshot = shared.mirror.snapshot();
    let (all_revisions, all_contents) =
        (Prefix::<stored::RevisionRecord>::all(), Prefix::<stored::ConfigRevisionRecord>::all());
    let revisions = snapshot.iter(&all_revisions).filter_map(Result::ok);
    let revisions = revisions.map(|r| {
        let RevisionRef { app, hash } = r.key.name();
        (app, (r.value.number, hash, r.mod_revision))
    });
    let contents = snapshot.entries(&all_contents);
    let contents = contents.filter_map(|entry| {
        let ConfigRevisionRef { config, hash } =
            Key::<stored::ConfigRevisionRecord>::parse(entry.key.clone()).ok()?.name();
        Some((config, (entry.mod_revision, hash, entry.mod_revision)))
    });
    let txns: Vec<Txn> = {
        let world = shared.world();
        let has_app =
            |name: &AppRef| world.project(&name.project).is_some_and(|p| p.apps.contains_key(&name.app));
        let has_config = |name: &ConfigRef| {
            world.project(&name.project).is_some_and(|p| p.configs.contains_key(&name.config))
        };
        let revisions = unused(revisions, has_app, |app, hash| uses_revision(&world, app, hash));
        let contents = unused(contents, has_config, |config, hash| uses_content(&world, config, hash));
        let app_at = |name: &AppRef| {
            let view = world.project(&name.project).and_then(|project| project.apps.get(&name.app));
            view.map_or(0, |view| view.record.mod_revision)
        };
        let config_at = |name: &ConfigRef| {
            let record = world.project(&name.project).and_then(|project| project.configs.get(&name.config));
            record.map_or(0, |record| record.mod_revision)
        };
        let revisions = revisions.into_iter().map(|(app, hash, at)| {
            let owner = Key::<stored::AppRecord>::of(&app);
            let owner_at = app_at(&app);
            let key = Key::<stored::RevisionRecord>::of(&RevisionRef { app, hash });
            Txn::new().when_unchanged(&key, at).when_unchanged(&owner, owner_at).delete(&key)
        });
        let contents = contents.into_iter().map(|(config, hash, at)| {
            let owner = Key::<stored::ConfigRecord>::of(&config);
            let owner_at = config_at(&config);
            let key = Key::<stored::ConfigRevisionRecord>::of(&ConfigRevisionRef { config, hash });
            Txn::new().when_unchanged(&key, at).when_unchanged(&owner, owner_at).delete(&key)
        });
        revisions.chain(contents).take(DELETED_MAX).collect()
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

/// Of each owner all but the newest ten (of one that is gone: all), less what is used.
fn unused<O: Ord + Clone>(
    all: impl Iterator<Item = (O, (i64, ContentHash, i64))>,
    exists: impl Fn(&O) -> bool,
    is_used: impl Fn(&O, &ContentHash) -> bool,
) -> Vec<(O, ContentHash, i64)> {
    let mut by_owner: BTreeMap<O, Vec<(i64, ContentHash, i64)>> = BTreeMap::new();
    for (owner, revision) in all {
        by_owner.entry(owner).or_default().push(revision);
    }
    let mut unused = Vec::new();
    for (owner, mut list) in by_owner {
        list.sort_unstable_by_key(|(order, ..)| std::cmp::Reverse(*order));
        let old = list
            .into_iter()
            .skip(if exists(&owner) { KEPT } else { 0 })
            .filter(|(_, hash, _)| !is_used(&owner, hash));
        unused.extend(old.map(|(_, hash, at)| (owner.clone(), hash, at)));
    }
    unused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ten_and_the_used_stay() {
        let hash = |n: i64| ContentHash::of(&n.to_be_bytes());
        let all = (0..15).map(|n| ("app", (n, hash(n), n + 100)));
        let gone = |exists| {
            unused(all.clone(), |_| exists, |_, h| *h == hash(2))
                .into_iter()
                .map(|(_, _, at)| at - 100)
                .collect::<Vec<_>>()
        };
        assert_eq!(gone(true), [4, 3, 1, 0]);
        assert_eq!(gone(false).len(), 14);
    }
}
