//! The leader's work: writes assignments that are not what placement says, and clears away revisions that nobody refers to. Beside it, rollouts
//! are driven (`rollouts::drive`).
//!
//! Level-triggered: each pass looks at the world anew. Whoever is deposed writes nothing: every transaction compares the leadership.

use std::sync::Arc;
use std::time::Duration;

use skerry_daemon::Shutdown;
use skerry_rpc::trace;
use skerry_store::keys::LeaderName;
use skerry_store::{Committed, Leadership, Lease, Store, Txn, TxnError, campaign};
use tokio::time::MissedTickBehavior;
use tracing::{Span, debug, info, warn};

use crate::follow::Shared;
use crate::writes::{self, Unsettled};
use crate::{gc, meters, rollouts, sealing};

/// How long a leader may be silent before another takes over.
const LEASE_TTL: Duration = Duration::from_secs(8);
/// Assignments written in one pass.
const NODES_PER_PASS: usize = 500;
/// Between two looks for what can be cleared away.
const CLEAR_EVERY: Duration = Duration::from_secs(60);
/// After a pass in which something failed, before the next.
const RETRY_WAIT: Duration = Duration::from_millis(250);

/// Campaigns and leads, over and over, until the end.
pub(crate) async fn lead(shared: Arc<Shared>, store: Store, member: String, shutdown: Shutdown) {
    meters::leads(false);
    let name = LeaderName::parse("scheduler").expect("a plain word is a leader's name");
    while !shutdown.is_ending() {
        let lease = Lease::keep_for(&store, LEASE_TTL, &member);
        tokio::select! {
            () = shutdown.wait() => {}
            () = lead_once(&shared, &store, &name, &lease, &shutdown) => {}
        }
        meters::leads(false);
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
    meters::leads(true);
    tokio::select! {
        () = leadership.lost() => warn!("the leadership is lost"),
        () = assign(shared, store, &leadership, shutdown) => {}
        () = rollouts::drive(shared, store, &leadership, shutdown) => {}
    }
}

async fn assign(shared: &Shared, store: &Store, leadership: &Leadership, shutdown: &Shutdown) {
    let mut wake = shared.subscribe();
    let mut clear = tokio::time::interval(CLEAR_EVERY);
    clear.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shutdown.is_ending() {
        wake.mark_unchanged();
        let open = shared.world().unsettled(NODES_PER_PASS);
        if open.is_empty() {
            tokio::select! {
                _ = wake.changed() => {}
                _ = clear.tick() => gc::clear_unused(shared, store, leadership).await,
            }
            continue;
        }
        let sealing::Sealed { ready: open, failed: unsealed } =
            sealing::seal_new(shared, store, leadership, open).await;
        let nodes = open.len() + unsealed;
        let (txns, spans): (Vec<_>, Vec<_>) = open.iter().map(traced).unzip();
        let results = store.commit_all(txns, Some(leadership)).await;
        drop(spans);
        let failed = report(&open, &results) + unsealed;
        meters::assigned(nodes - failed, failed);
        debug!(nodes, failed, "assignments written");
        if let Some(last) = newest(&results) {
            // Otherwise the next pass would not see this one's work and repeat it in vain.
            if let Err(error) = shared.mirror.wait_for(last).await {
                debug!(%error, "the mirror lags behind what was written");
            }
        }
        if failed > 0 {
            // One assignment that cannot be written keeps nobody from clearing away.
            tokio::select! {
                _ = wake.changed() => {}
                () = tokio::time::sleep(RETRY_WAIT) => {}
                _ = clear.tick() => gc::clear_unused(shared, store, leadership).await,
            }
        }
    }
}

/// The transaction for a node and, where somebody's change led to it, the span that goes on with the trace of that.
fn traced(open: &Unsettled) -> (Txn, Span) {
    let Some(first) = open.causes.first() else { return (writes::assign(open, String::new()), Span::none()) };
    let span = tracing::info_span!("assign", node = %open.node, trace_id = tracing::field::Empty);
    trace::follow(&span, first);
    for other in &open.causes[1..] {
        trace::link(&span, other);
    }
    (writes::assign(open, trace::trace_parent(&span)), span)
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

#[cfg(test)]
mod tests;
