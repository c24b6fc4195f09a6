//! What the leader writes, as transactions, and how it is read again: pure, without the leadership that each is fenced with at its commit. Not part of the
//! interface: public for the simulator, which drives these very transactions.

use std::collections::{BTreeMap, BTreeSet};

use skerry_model::app::{Amounts, UpdateBounds};
use skerry_model::{
    AppRef, ConfigName, ConfigRef, ContentHash, GpuBooking, InstanceName, NodeRef, RevisionRef, SealId,
    SecretName, SecretRef, SecretVersion, TaskRef,
};
use skerry_placement::{Placed, SealedSecret};
use skerry_proto::store::v1 as stored;
use skerry_store::keys::{ConfigRevisionRef, RolloutMoveName, SealedSecretRef, SecretRevisionRef};
use skerry_store::{Key, Txn};

/// Most causes that are named of one assignment.
pub const CAUSES_MAX: usize = 8;
/// Most sealed secrets that go with one assignment. What is left over is cleared away later.
const UNSEALED_MAX: usize = 32;

/// One node whose assignment has to be written.
#[derive(Debug)]
pub struct Unsettled {
    /// Which node.
    pub node: NodeRef,
    /// What it shall be assigned. Absent: the node is gone and its assignment goes too.
    pub placed: Option<Vec<Placed>>,
    /// What it is assigned now.
    pub before: Vec<Placed>,
    /// What it shall be told of other members of its cluster.
    pub peers: Vec<stored::AssignedPeers>,
    /// Images that it shall fetch ahead.
    pub images: Vec<stored::AssignedImage>,
    /// Images that it is to fetch ahead now.
    pub images_before: Vec<stored::AssignedImage>,
    /// Modification revision of the assignment; 0: there is none.
    pub mod_revision: i64,
    /// Trace contexts of the recent changes that led to it, at most [`CAUSES_MAX`].
    pub causes: Vec<String>,
}

/// The transaction that makes a node's assignment what it shall be, with the context of the trace that it is part of.
pub fn assign(open: &Unsettled, trace_parent: String) -> Txn {
    let key = Key::<stored::AssignmentRecord>::of(&open.node);
    let txn = Txn::new().when_unchanged(&key, open.mod_revision);
    let Some(placed) = &open.placed else { return txn.delete(&key) };
    let mut txn = txn.when_exists(&Key::<stored::NodeRecord>::of(&open.node));
    // What the assignment did not refer to before must exist when it is written.
    for revision in revisions(&open.node, placed).difference(&revisions(&open.node, &open.before)) {
        txn = txn.when_exists(&Key::<stored::RevisionRecord>::of(revision));
    }
    for content in contents(&open.node, placed).difference(&contents(&open.node, &open.before)) {
        txn = txn.when_exists(&Key::<stored::ConfigRevisionRecord>::of(content));
    }
    // What nobody there uses any more goes at once. What it names newly was sealed before, by who writes this: nobody else clears away.
    let before = versions(&open.before, &open.images_before);
    let after = versions(placed, &open.images);
    for (secret, version) in before.difference(&after).take(UNSEALED_MAX) {
        let sealed = SealedSecretRef { node: open.node.clone(), secret: secret.clone(), version: *version };
        txn = txn.delete(&Key::<stored::SealedSecretRecord>::of(&sealed));
    }
    let (peers, images) = (open.peers.clone(), open.images.clone());
    txn.put(&key, &stored::AssignmentRecord { trace_parent, peers, images, ..record(placed) })
}

/// The secrets that instances use, and that images are fetched with, each once as it is sealed.
pub(crate) fn secrets(
    placed: &[Placed],
    images: &[stored::AssignedImage],
) -> BTreeSet<(SecretName, SealedSecret)> {
    let of_instances =
        placed.iter().flat_map(|placed| &placed.secrets).map(|(name, one)| (name.clone(), *one));
    of_instances.chain(images.iter().filter_map(credentials)).collect()
}

fn versions(placed: &[Placed], images: &[stored::AssignedImage]) -> BTreeSet<(SecretName, SecretVersion)> {
    secrets(placed, images).into_iter().map(|(name, one)| (name, one.version)).collect()
}

/// What an image is fetched with.
pub(crate) fn credentials(image: &stored::AssignedImage) -> Option<(SecretName, SealedSecret)> {
    sealed_secret(image.credentials.as_ref()?)
}

fn sealed_secret(secret: &stored::AssignedSecret) -> Option<(SecretName, SealedSecret)> {
    let (version, seal) = (SecretVersion::parse(&secret.version).ok()?, SealId::parse(&secret.seal).ok()?);
    Some((SecretName::parse(&secret.secret).ok()?, SealedSecret { version, seal }))
}

/// The record of an assignment.
pub fn record(placed: &[Placed]) -> stored::AssignmentRecord {
    let config = |(config, hash): (&ConfigName, &ContentHash)| stored::AssignedConfig {
        config: config.to_string(),
        hash: hash.to_string(),
    };
    let secret = |(secret, one): (&SecretName, &SealedSecret)| stored::AssignedSecret {
        secret: secret.to_string(),
        version: one.version.to_string(),
        seal: one.seal.to_string(),
    };
    let instance = |placed: &Placed| stored::AssignedInstance {
        instance: placed.instance.to_string(),
        revision: placed.revision.to_string(),
        configs: placed.configs.iter().map(config).collect(),
        secrets: placed.secrets.iter().map(secret).collect(),
        bounds: placed.bounds.map(UpdateBounds::to_proto),
        gpus: placed.gpus.iter().map(GpuBooking::to_proto).collect(),
    };
    let instances = placed.iter().map(instance).collect();
    stored::AssignmentRecord { instances, ..Default::default() }
}

/// One instance of an assignment as placement sees it, but for what is booked for it: that is in the revision. `None`: it does not parse.
pub fn placed(assigned: &stored::AssignedInstance) -> Option<Placed> {
    let config = |config: &stored::AssignedConfig| {
        Some((ConfigName::parse(&config.config).ok()?, ContentHash::parse(&config.hash).ok()?))
    };
    Some(Placed {
        instance: InstanceName::parse(&assigned.instance).ok()?,
        revision: ContentHash::parse(&assigned.revision).ok()?,
        configs: assigned.configs.iter().filter_map(config).collect(),
        secrets: assigned.secrets.iter().filter_map(sealed_secret).collect(),
        booked: Amounts::default(),
        ports: Vec::new(),
        bounds: assigned.bounds.as_ref().map(UpdateBounds::from_proto),
        gpus: assigned.gpus.iter().filter_map(GpuBooking::from_proto).collect(),
    })
}

fn revisions(node: &NodeRef, placed: &[Placed]) -> BTreeSet<RevisionRef> {
    let app = |placed: &Placed| AppRef { project: node.project.clone(), app: placed.instance.app.clone() };
    placed.iter().map(|placed| RevisionRef { app: app(placed), hash: placed.revision }).collect()
}

fn contents(node: &NodeRef, placed: &[Placed]) -> BTreeSet<ConfigRevisionRef> {
    let configs = placed.iter().flat_map(|placed| &placed.configs);
    let config = |name: &ConfigName| ConfigRef { project: node.project.clone(), config: name.clone() };
    configs.map(|(name, hash)| ConfigRevisionRef { config: config(name), hash: *hash }).collect()
}

/// A revision of an app, or a content of a config, that can be cleared away, and how both were seen.
#[derive(Debug)]
pub struct Unused<O> {
    /// The app or config.
    pub owner: O,
    /// Modification revision of that; 0: it is gone.
    pub owner_at: i64,
    /// Which of its revisions.
    pub hash: ContentHash,
    /// Modification revision of that.
    pub at: i64,
}

/// Of each owner all but the newest `kept` (of one that is gone, whose modification revision is 0: all), less what is used. Of each of
/// `all` are given its order, its hash and its modification revision.
pub fn unused<O: Ord + Clone>(
    kept: usize,
    all: impl Iterator<Item = (O, (i64, ContentHash, i64))>,
    owner_at: impl Fn(&O) -> i64,
    is_used: impl Fn(&O, &ContentHash) -> bool,
) -> Vec<Unused<O>> {
    let mut by_owner: BTreeMap<O, Vec<(i64, ContentHash, i64)>> = BTreeMap::new();
    for (owner, revision) in all {
        by_owner.entry(owner).or_default().push(revision);
    }
    let mut unused = Vec::new();
    for (owner, mut list) in by_owner {
        list.sort_unstable_by_key(|(order, ..)| std::cmp::Reverse(*order));
        let owner_at = owner_at(&owner);
        let old = list.into_iter().skip(if owner_at == 0 { 0 } else { kept });
        let old = old.filter(|(_, hash, _)| !is_used(&owner, hash));
        unused.extend(old.map(|(_, hash, at)| Unused { owner: owner.clone(), owner_at, hash, at }));
    }
    unused
}

/// The transaction that clears away the revision of an app.
pub fn clear_revision(unused: Unused<AppRef>) -> Txn {
    let owner = Key::<stored::AppRecord>::of(&unused.owner);
    let key = Key::<stored::RevisionRecord>::of(&RevisionRef { app: unused.owner, hash: unused.hash });
    clear(&key, unused.at, &owner, unused.owner_at)
}

/// The transaction that clears away the content of a config.
pub fn clear_content(unused: Unused<ConfigRef>) -> Txn {
    let owner = Key::<stored::ConfigRecord>::of(&unused.owner);
    let content = ConfigRevisionRef { config: unused.owner, hash: unused.hash };
    clear(&Key::<stored::ConfigRevisionRecord>::of(&content), unused.at, &owner, unused.owner_at)
}

/// The transaction that clears away a move of a rollout. Moves never change.
pub(crate) fn clear_move(name: &RolloutMoveName, at: i64) -> Txn {
    let key = Key::<stored::RolloutMoveRecord>::of(name);
    Txn::new().when_unchanged(&key, at).delete(&key)
}

/// The transaction that ends what a task had nodes fetch ahead.
pub(crate) fn clear_prefetch(name: &TaskRef, at: i64) -> Txn {
    let key = Key::<stored::PrefetchRecord>::of(name);
    Txn::new().when_unchanged(&key, at).delete(&key)
}

/// The transaction that clears away values of a secret.
pub(crate) fn clear_values(secret: SecretRef, secret_at: i64, version: SecretVersion, at: i64) -> Txn {
    let owner = Key::<stored::SecretRecord>::of(&secret);
    clear(
        &Key::<stored::SecretRevisionRecord>::of(&SecretRevisionRef { secret, version }),
        at,
        &owner,
        secret_at,
    )
}

/// The transaction that clears away what is sealed to a node whose assignment, as it was seen, does not name it.
pub(crate) fn clear_sealed(sealed: &SealedSecretRef, at: i64, assignment_at: i64) -> Txn {
    let assignment = Key::<stored::AssignmentRecord>::of(&sealed.node);
    clear(&Key::<stored::SealedSecretRecord>::of(sealed), at, &assignment, assignment_at)
}

/// It compares that the record and its app or config are unchanged (in a store that was restored a moment ago the record may be the current
/// one again, at the same revision), and whoever makes a revision current again writes it again, so neither can undo the other unseen.
fn clear<R, O>(key: &Key<R>, at: i64, owner: &Key<O>, owner_at: i64) -> Txn {
    Txn::new().when_unchanged(key, at).when_unchanged(owner, owner_at).delete(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_used_stay_and_nothing_of_an_owner_that_is_gone() {
        let hash = |n: i64| ContentHash::of(&n.to_be_bytes());
        let all = (0..15).map(|n| ("app", (n, hash(n), n + 100)));
        let cleared = |owner_at| {
            let unused = unused(10, all.clone(), |_| owner_at, |_, h| *h == hash(2));
            unused.into_iter().map(|one| one.at - 100).collect::<Vec<_>>()
        };
        assert_eq!(cleared(7), [4, 3, 1, 0]);
        assert_eq!(cleared(0).len(), 14);
    }
}
