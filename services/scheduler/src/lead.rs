//! The leader's work: writes assignments that are not what placement says, and clears away revisions that nobody refers to.
//!
//! Level-triggered: each pass looks at the world anew. Whoever is deposed writes nothing: every transaction compares the leadership.

use std::sync::Arc;
use std::time::Duration;

use skerry_daemon::Shutdown;
use skerry_model::AppRef;
use skerry_placement::Placed;
use skerry_proto::store::v1 as stored;
use skerry_store::keys::{ConfigRevisionRef, LeaderName};
use skerry_store::{Committed, Key, Leadership, Lease, Store, Txn, TxnError, campaign};
use tracing::{debug, info, warn};

use crate::follow::Shared;
use crate::gc;
use crate::world::Unsettled;

/// How long a leader may be silent before another takes over.
const LEASE_TTL: Duration = Duration::from_secs(8);
/// Assignments written in one pass.
const NODES_PER_PASS: usize = 500;
/// Between two looks for what can be cleared away.
const CLEAR_EVERY: Duration = Duration::from_secs(60);
/// After a pass in which something failed, before the next.
const RETRY_WAIT: Duration = Duration::from_millis(250);

/// Campaigns and leads, over and over, until the end.
pub(crate) async fn lead(shared: Arc<Shared>, store: Store, shutdown: Shutdown) {
    let name = LeaderName::parse("scheduler").expect("a plain word is a leader's name");
    while !shutdown.is_ending() {
        let lease = Lease::keep(&store, LEASE_TTL);
        tokio::select! {
            () = shutdown.wait() => {}
            () = lead_once(&shared, &store, &name, &lease, &shutdown) => {}
        }
        // So that another replica takes over at once.
        if let Err(error) = lease.revoke().await {
            debug!(%error, "the lease was not given back; it runs out by itself");
        }
    }
}

async fn lead_once(shared: &Shared, store: &Store, name: &LeaderName, lease: &Lease, shutdown: &Shutdown) {
    let leadership = match campaign(store, name, lease).await {
        Ok(leadership) => leadership,
        Err(error) => {
            warn!(%error, "this scheduler cannot lead now");
            tokio::time::sleep(RETRY_WAIT).await;
            return;
        }
    };
    info!("this scheduler leads");
    tokio::select! {
        () = leadership.lost() => warn!("the leadership is lost"),
        () = assign(shared, store, &leadership, shutdown) => {}
    }
}

async fn assign(shared: &Shared, store: &Store, leadership: &Leadership, shutdown: &Shutdown) {
    let mut wake = shared.subscribe();
    let mut clear = tokio::time::interval(CLEAR_EVERY);
    while !shutdown.is_ending() {
        wake.mark_unchanged();
        let open = shared.world().unsettled(NODES_PER_PASS);
        if open.is_empty() {
            tokio::select! {
                _ = wake.changed() => {}
                _ = clear.tick() => gc::clear(shared, store, leadership).await,
            }
            continue;
        }
        let nodes = open.len();
        let results = store.commit_all(open.iter().map(write).collect(), Some(leadership)).await;
        let failed = report(&open, &results);
        debug!(nodes, failed, "assignments written");
        if let Some(last) = newest(&results) {
            // Otherwise the next pass would not see this one's work and repeat it in vain.
            if let Err(error) = shared.mirror.wait_for(last).await {
                debug!(%error, "the mirror lags behind what was written");
            }
        }
        if failed > 0 {
            let _ = tokio::time::timeout(RETRY_WAIT, wake.changed()).await;
        }
    }
}

/// The transaction that makes a node's assignment what it shall be.
fn write(open: &Unsettled) -> Txn {
    let key = Key::<stored::AssignmentRecord>::of(&open.node);
    let txn = match open.mod_revision {
        0 => Txn::new().when_absent(&key),
        revision => Txn::new().when_unchanged(&key, revision),
    };
    let Some(placed) = &open.placed else { return txn.delete(&key) };
    let mut txn = txn.when_exists(&Key::<stored::NodeRecord>::of(&open.node));
    for (app, revision) in new_revisions(open, placed) {
        txn = txn.when_exists(&Key::<stored::RevisionRecord>::of(&skerry_model::RevisionRef {
            app,
            hash: revision,
        }));
    }
    for content in new_contents(open, placed) {
        txn = txn.when_exists(&Key::<stored::ConfigRevisionRecord>::of(&content));
    }
    txn.put(&key, &record(placed))
}

/// The record of an assignment.
fn record(placed: &[Placed]) -> stored::AssignmentRecord {
    let instance = |placed: &Placed| stored::AssignedInstance {
        instance: placed.instance.to_string(),
        revision: placed.revision.to_string(),
        configs: placed
            .configs
            .iter()
            .map(|(config, hash)| stored::AssignedConfig {
                config: config.to_string(),
                hash: hash.to_string(),
            })
            .collect(),
    };
    stored::AssignmentRecord { instances: placed.iter().map(instance).collect() }
}

/// Revisions that the assignment did not refer to before: they must exist when it is written.
fn new_revisions(
    open: &Unsettled,
    placed: &[Placed],
) -> std::collections::BTreeSet<(AppRef, skerry_model::ContentHash)> {
    let of = |placed: &Placed| {
        (AppRef { project: open.node.project.clone(), app: placed.instance.app.clone() }, placed.revision)
    };
    let before: std::collections::BTreeSet<_> = open.before.iter().map(of).collect();
    placed.iter().map(of).filter(|revision| !before.contains(revision)).collect()
}

/// Contents of configs that the assignment did not refer to before.
fn new_contents(open: &Unsettled, placed: &[Placed]) -> Vec<ConfigRevisionRef> {
    let of =
        |placed: &Placed| placed.configs.iter().map(|(name, hash)| (name.clone(), *hash)).collect::<Vec<_>>();
    let before: std::collections::BTreeSet<_> = open.before.iter().flat_map(of).collect();
    let now: std::collections::BTreeSet<_> = placed.iter().flat_map(of).collect();
    now.into_iter()
        .filter(|content| !before.contains(content))
        .map(|(config, hash)| ConfigRevisionRef {
            config: skerry_model::ConfigRef { project: open.node.project.clone(), config },
            hash,
        })
        .collect()
}

fn newest(results: &[Result<Committed, TxnError>]) -> Option<&Committed> {
    results.iter().filter_map(|result| result.as_ref().ok()).max_by_key(|committed| committed.revision)
}

/// Logs what failed for a reason other than somebody else's change; answers how many failed.
fn report(open: &[Unsettled], results: &[Result<Committed, TxnError>]) -> usize {
    let mut failed = 0;
    for (open, result) in open.iter().zip(results) {
        let Err(error) = result else { continue };
        failed += 1;
        match error {
            TxnError::Conflict(_) | TxnError::Deposed { .. } => {
                debug!(node = %open.node, %error, "the assignment is planned anew");
            }
            _ => warn!(node = %open.node, %error, "the assignment could not be written; it is tried again"),
        }
    }
    failed
}
