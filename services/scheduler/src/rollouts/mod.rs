//! Rollouts of apps: how they stand in the store and in memory, who writes them, what clients see of them. What comes next in one is
//! decided by `skerry-rollout`.

mod drive;
mod handlers;
mod seen;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_model::{ClusterName, ContentHash};
use skerry_proto::store::v1 as stored;
use skerry_resources::rollouts;
use skerry_rollout::Rollout;
use skerry_store::Versioned;

pub(crate) use drive::drive;
pub(crate) use handlers::Rollouts;
pub(crate) use seen::status_of;

/// An app's last rollout as the store has it: its record, and the moves that say which cluster has what.
#[derive(Debug, Default)]
pub(crate) struct AppRollout {
    head: Option<Head>,
    moves: BTreeMap<u64, MoveView>,
    /// What the moves that count come to.
    elsewhere: Arc<BTreeMap<ClusterName, ContentHash>>,
}

/// The record, and what it means.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) record: Versioned<stored::RolloutRecord>,
    pub(crate) rollout: Rollout,
}

#[derive(Debug)]
struct MoveView {
    revision: ContentHash,
    clusters: Vec<ClusterName>,
    mod_revision: i64,
}

impl AppRollout {
    /// Takes in the record as it is now.
    pub(crate) fn take_record(&mut self, record: Option<Versioned<stored::RolloutRecord>>) {
        let first = |this: &Self| this.head.as_ref().map_or(0, |head| head.rollout.first_move);
        let before = first(self);
        self.head = record.and_then(|record| Some(Head { rollout: rollouts::read(&record.value)?, record }));
        if first(self) != before {
            self.gather();
        }
    }

    /// Takes in a move; absent: it is gone.
    pub(crate) fn take_move(&mut self, number: u64, record: Option<Versioned<stored::RolloutMoveRecord>>) {
        let Some(record) = record else {
            self.moves.remove(&number);
            return self.gather();
        };
        let Ok(revision) = ContentHash::parse(&record.value.revision) else { return };
        let clusters: Vec<ClusterName> =
            record.value.clusters.iter().filter_map(|name| ClusterName::parse(name).ok()).collect();
        let is_last = self.moves.keys().next_back().is_none_or(|last| *last < number);
        if is_last && number >= self.first_move() {
            let elsewhere = Arc::make_mut(&mut self.elsewhere);
            elsewhere.extend(clusters.iter().map(|cluster| (cluster.clone(), revision)));
        }
        self.moves.insert(number, MoveView { revision, clusters, mod_revision: record.mod_revision });
        if !is_last {
            self.gather();
        }
    }

    fn first_move(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.rollout.first_move)
    }

    fn gather(&mut self) {
        let first = self.first_move();
        let counting = self.moves.range(first..).map(|(_, one)| one);
        let named = counting.flat_map(|one| one.clusters.iter().map(|name| (name.clone(), one.revision)));
        self.elsewhere = Arc::new(named.collect());
    }

    /// Nothing is known of it any more.
    pub(crate) fn is_bare(&self) -> bool {
        self.head.is_none() && self.moves.is_empty()
    }

    /// The rollout that an app's record names, once all of it is there: records and moves come one by one.
    pub(crate) fn named(&self, id: &str) -> Option<&Head> {
        let head = self.head.as_ref().filter(|head| head.record.value.id == id)?;
        let Rollout { first_move, last_move, .. } = head.rollout;
        (first_move > last_move || self.moves.contains_key(&last_move)).then_some(head)
    }

    /// Which clusters have another revision than the base.
    pub(crate) fn elsewhere(&self) -> &Arc<BTreeMap<ClusterName, ContentHash>> {
        &self.elsewhere
    }

    /// Every revision that some cluster has by it, or may go back to.
    pub(crate) fn revisions(&self) -> BTreeSet<ContentHash> {
        let named =
            self.head.iter().flat_map(|Head { rollout, .. }| [rollout.from, rollout.to, rollout.base]);
        named.chain(self.moves.range(self.first_move()..).map(|(_, one)| one.revision)).collect()
    }

    /// Moves that say nothing any more, by number and modification revision: they do not count, or each of their clusters is named by
    /// a later one.
    pub(crate) fn spent_moves(&self) -> Vec<(u64, i64)> {
        let first = self.first_move();
        let mut named = BTreeSet::new();
        let mut spent = Vec::new();
        for (number, one) in self.moves.iter().rev() {
            // Of a record that is not there yet nothing is known.
            let counts = self.head.is_none() || *number >= first;
            let before = named.len();
            named.extend(&one.clusters);
            if !(counts && named.len() > before) {
                spent.push((*number, one.mod_revision));
            }
        }
        spent
    }
}

#[cfg(test)]
mod tests;
