//! A gateway as a process: its presence, its sessions and what wakes them. The streams' actors are in `session`, what they ask of the
//! store in `upward`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use skerry_model::NodeRef;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_store::keys::GatewayId;
use skerry_store::{Family, Key};
use tokio::sync::Notify;

use super::check::{Origin, session_of};
use super::client::Client;
use super::faults::Fault;
use super::lease::Lease;
use super::mirror::{Mirror, target};
use super::net::End;
use super::sim::{Crash, Process, Sim, WallClock};
use super::store::StoreHost;
use super::txn::{Txn, TxnError};

/// How long a gateway may be silent before it counts as gone.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// How long a gateway that stops waits for its streams.
const DRAIN: Duration = Duration::from_secs(5);

/// The gateway's end of a stream.
pub(super) type Stream = End<pb::SyncResponse, pb::SyncRequest>;

/// One place where a gateway runs, over all its lives.
pub(super) struct GatewayHost {
    sim: Sim,
    store: StoreHost,
    index: usize,
    pub(super) clock: Rc<WallClock>,
    live: RefCell<Option<Rc<Gateway>>>,
    process: RefCell<Option<Process>>,
}

/// One life of a gateway.
pub(super) struct Gateway {
    pub(super) id: Rc<str>,
    pub(super) process: Process,
    pub(super) client: Client,
    pub(super) mirror: Mirror,
    /// Contents that were read: they never change.
    pub(super) contents: RefCell<BTreeMap<String, pb::Resource>>,
    wakes: RefCell<BTreeMap<String, Vec<Rc<Notify>>>>,
    pub(super) streams: Cell<usize>,
    closing: RefCell<VecDeque<Closed>>,
    close: Notify,
    pub(super) ending: super::signal::Sender<bool>,
}

/// A session that ended.
pub(super) struct Closed {
    pub(super) node: NodeRef,
    pub(super) mod_revision: i64,
    pub(super) record: stored::SessionRecord,
    pub(super) close_time: Option<prost_types::Timestamp>,
}

/// `<project>/<node>`.
pub(super) fn path_of(node: &NodeRef) -> String {
    format!("{}/{}", node.project, node.node)
}

impl GatewayHost {
    pub(super) fn new(sim: &Sim, store: &StoreHost, index: usize) -> Rc<Self> {
        Rc::new(Self {
            sim: sim.clone(),
            store: store.clone(),
            index,
            clock: Rc::default(),
            live: RefCell::default(),
            process: RefCell::default(),
        })
    }

    /// The gateway as it runs, once it listens.
    pub(super) fn live(&self) -> Option<Rc<Gateway>> {
        self.live.borrow().clone()
    }

    /// Starts it.
    pub(super) fn start(self: &Rc<Self>) {
        let crash = Crash { per_million: 600, fault: Fault::GatewayCrash };
        let process = self.sim.process(&format!("gateway-{}", self.index), crash, &self.clock);
        process.trace(format_args!("starts"));
        *self.process.borrow_mut() = Some(process.clone());
        let host = Rc::clone(self);
        self.sim.exec().on_kill(process.id, move || {
            host.live.borrow_mut().take();
            let (again, away) = (Rc::clone(&host), host.sim.between_ms(100, 20_000));
            host.sim.exec().at(host.sim.now() + away, move || again.start());
        });
        process.spawn(Rc::clone(self).run(process.clone()));
    }

    async fn run(self: Rc<Self>, process: Process) {
        let client = Client::new(&process, &self.store);
        client.connect().await;
        let mirror = Mirror::start(
            &client,
            vec![
                target::<stored::AssignmentRecord>(true),
                target::<stored::SessionRecord>(true),
                target::<stored::NodeRecord>(true),
            ],
        );
        mirror.ready().await;
        let lease = Lease::keep(&client, LEASE_TTL);
        let gateway = Rc::new(Gateway {
            id: format!("gateway-{}-{}", self.index, self.sim.unique()).into(),
            process: process.clone(),
            client,
            mirror,
            contents: RefCell::default(),
            wakes: RefCell::default(),
            streams: Cell::default(),
            closing: RefCell::default(),
            close: Notify::new(),
            ending: super::signal::Sender::new(false),
        });
        let written = Rc::new(Notify::new());
        process.spawn(presence(Rc::clone(&gateway), lease.clone(), Rc::clone(&written)));
        written.notified().await;
        process.spawn(close(Rc::clone(&gateway)));
        process.spawn(follow(Rc::clone(&gateway)));
        process.trace(format_args!("listens as {}", gateway.id));
        *self.live.borrow_mut() = Some(Rc::clone(&gateway));

        let mut ending = gateway.ending.subscribe();
        let _ = ending.wait_for(|ending| *ending).await;
        self.live.borrow_mut().take();
        let drained = async {
            while gateway.streams.get() > 0 {
                process.sleep(Duration::from_millis(50)).await;
            }
        };
        process.timeout(DRAIN, drained).await;
        lease.revoke().await;
        process.trace(format_args!("has stopped"));
        process.sim.exec().kill(process.id);
        std::future::pending::<()>().await;
    }

    /// Stops it in order; it starts again later.
    pub(super) fn drain(&self) -> bool {
        let live = self.live();
        if let Some(gateway) = &live {
            gateway.process.trace(format_args!("is told to stop"));
            gateway.ending.set(true);
        }
        live.is_some()
    }
}

impl Gateway {
    /// Takes a stream that an agent opened.
    pub(super) fn accept(self: &Rc<Self>, stream: Stream) {
        self.process.spawn(super::session::Actor::new(Rc::clone(self), stream).run());
    }

    /// From now on changes of this node wake it.
    pub(super) fn follow(&self, node: &NodeRef, wake: &Rc<Notify>) {
        self.wakes.borrow_mut().entry(path_of(node)).or_default().push(Rc::clone(wake));
    }

    pub(super) fn unfollow(&self, node: &NodeRef, wake: &Rc<Notify>) {
        if let Some(wakes) = self.wakes.borrow_mut().get_mut(&path_of(node)) {
            wakes.retain(|other| !Rc::ptr_eq(other, wake));
        }
    }

    /// Has a session closed in the store.
    pub(super) fn queue_close(&self, closed: Closed) {
        self.closing.borrow_mut().push_back(closed);
        self.close.notify_one();
    }
}

/// Keeps the gateway's key.
async fn presence(gateway: Rc<Gateway>, lease: Lease, written: Rc<Notify>) {
    let process = gateway.process.clone();
    let Ok(id) = GatewayId::parse(&gateway.id) else { return };
    let key = Key::<stored::GatewayRecord>::of(&id);
    let record = stored::GatewayRecord {
        start_time: Some(process.now().wall.to_proto()),
        address: gateway.id.to_string(),
    };
    let mut state = lease.state();
    loop {
        let alive = state.take();
        let Some(lease) = alive else {
            if state.changed().await.is_err() {
                return;
            }
            continue;
        };
        let txn = Txn::new().put_leased(&key, &record, lease);
        if gateway.client.commit(txn, Origin::Other).await.is_ok() {
            written.notify_one();
            if state.changed().await.is_err() {
                return;
            }
        } else {
            process.sleep(process.sim.between_ms(200, 2_200)).await;
        }
    }
}

/// Writes into session records that their sessions are closed.
async fn close(gateway: Rc<Gateway>) {
    let process = gateway.process.clone();
    loop {
        let next = gateway.closing.borrow_mut().pop_front();
        let Some(closed) = next else {
            gateway.close.notified().await;
            continue;
        };
        if *gateway.ending.borrow() {
            // The end of the lease closes all of them at once.
            continue;
        }
        let key = Key::<stored::SessionRecord>::of(&closed.node);
        let record = stored::SessionRecord { close_time: closed.close_time, ..closed.record.clone() };
        let txn = Txn::new().when_written(&key, closed.mod_revision, &closed.record).put(&key, &record);
        let origin = Origin::Close { node: path_of(&closed.node), session: session_of(&closed.record) };
        let done = gateway.client.commit(txn, origin).await;
        if matches!(done, Err(TxnError::Unavailable | TxnError::Indeterminate)) {
            gateway.closing.borrow_mut().push_back(closed);
            process.sleep(process.sim.between_ms(500, 5_500)).await;
        }
    }
}

/// Wakes sessions whose node's keys changed, and all when the term rises.
async fn follow(gateway: Rc<Gateway>) {
    let mut term = gateway.client.watch_term();
    loop {
        let changed = tokio::select! {
            biased;
            changed = gateway.mirror.changed() => changed,
            raised = term.changed() => if raised.is_err() { return } else { None },
        };
        let wakes = gateway.wakes.borrow();
        match changed {
            None => wakes.values().flatten().for_each(|wake| wake.notify_one()),
            Some(keys) => {
                for key in keys {
                    let Some(family) = Family::of_key(&key) else { continue };
                    let node = &key[family.prefix().len()..];
                    wakes.get(node).into_iter().flatten().for_each(|wake| wake.notify_one());
                }
            }
        }
    }
}
