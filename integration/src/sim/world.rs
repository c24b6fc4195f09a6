//! The whole of a simulation: who is in it, its two phases (faults, then calm), and whether in the end all is as it should be.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use skerry_etcd_embedded::mvcc::{KeyRange, Range};
use skerry_placement::solve;
use skerry_proto::store::v1 as stored;
use skerry_scheduler::writes;
use skerry_store::sans_io::Sorted;
use skerry_store::{Entry, Family};

use super::agent::AgentHost;
use super::check::{Assigned, assigned_of};
use super::client::entry_of;
use super::fleet::{Fleet, records};
use super::gateway::GatewayHost;
use super::machine::Machine;
use super::scheduler::SchedulerHost;
use super::sim::Sim;
use super::store::StoreHost;
use super::{Options, Outcome, chaos, operator};

/// Nodes, at most.
const NODES_MAX: usize = 3;
/// Everything has converged so long after the last fault. The longest wait is that of an agent that was told several times that it was
/// superseded: 16 minutes and half as much of jitter.
const CONVERGED_WITHIN: Duration = Duration::from_secs(45 * 60);
/// A simulation that does more than this is in a loop.
const STEPS_MAX: u64 = 6_000_000;

/// Everybody.
pub(super) struct World {
    pub(super) sim: Sim,
    pub(super) store: StoreHost,
    pub(super) gateways: Vec<Rc<GatewayHost>>,
    pub(super) schedulers: Vec<Rc<SchedulerHost>>,
    pub(super) agents: Vec<Rc<AgentHost>>,
    pub(super) twin: RefCell<Option<Rc<AgentHost>>>,
}

/// Runs one seed.
pub(super) fn run(seed: u64, options: Options) -> Outcome {
    let sim = Sim::new(seed, options);
    let store = StoreHost::new(&sim);
    let gateways: Vec<_> = (0..2).map(|index| GatewayHost::new(&sim, &store, index)).collect();
    let schedulers: Vec<_> = (0..2).map(|index| SchedulerHost::new(&sim, &store, index)).collect();
    let nodes = 1 + sim.rng(|rng| rng.below(NODES_MAX));
    let agents = (0..nodes).map(|index| {
        let machine = Machine::new(&sim, &format!("agent-{index}"), &format!("p/n{index}"));
        AgentHost::new(&sim, machine, &gateways)
    });
    let agents = agents.collect();
    let world =
        Rc::new(World { sim: sim.clone(), store, gateways, schedulers, agents, twin: RefCell::default() });
    world.start(nodes);
    let faults_end = operator::duration(&sim);
    world.run_until(faults_end);
    sim.set_calm();
    sim.trace("world", format_args!("calm"));
    let converged = world.converge(faults_end + CONVERGED_WITHIN);
    let outcome = world.outcome(seed, faults_end, converged);
    sim.exec().clear();
    outcome
}

impl World {
    fn start(self: &Rc<Self>, nodes: usize) {
        self.store.start();
        self.gateways.iter().for_each(GatewayHost::start);
        self.schedulers.iter().for_each(SchedulerHost::start);
        self.agents.iter().for_each(AgentHost::start);
        operator::start(&self.sim, &self.store, nodes);
        chaos::start(self);
    }

    /// A second machine under the name of `node`.
    pub(super) fn add_twin(&self, node: &str) -> Rc<AgentHost> {
        let name = format!("twin-{}", self.sim.unique());
        let twin = AgentHost::new(&self.sim, Machine::new(&self.sim, &name, node), &self.gateways);
        *self.twin.borrow_mut() = Some(Rc::clone(&twin));
        twin.start();
        twin
    }

    /// Runs until then, or until something is wrong.
    fn run_until(&self, until: Duration) {
        while self.sim.failure().is_none() && self.sim.step(until) {
            if self.sim.exec().steps() > STEPS_MAX {
                self.sim.fail(format!("more than {STEPS_MAX} steps: somebody goes round and round"));
            }
        }
    }

    /// Waits until all is as it should be; answers when it was.
    fn converge(&self, until: Duration) -> Option<Duration> {
        // The twin is gone, and networks are whole.
        if let Some(twin) = self.twin.borrow_mut().take() {
            twin.wanted.set(false);
            twin.lose_power();
        }
        for agent in &self.agents {
            agent.cut_until.set(Duration::ZERO);
            agent.wanted.set(true);
            agent.start();
        }
        let mut why = String::new();
        while self.sim.failure().is_none() && self.sim.now() < until {
            match self.differences() {
                Ok(()) => return Some(self.sim.now()),
                Err(difference) => why = difference,
            }
            self.run_until(self.sim.now() + chaos::LOOK_EVERY);
        }
        if self.sim.failure().is_none() {
            self.sim.fail(format!("not converged {CONVERGED_WITHIN:?} after the last fault: {why}"));
        }
        None
    }

    /// The store as it is now.
    fn stored(&self) -> Option<Sorted> {
        let live = self.store.live()?;
        let range = Range::new(KeyRange::prefix(skerry_store::keys::ROOT));
        let entries = live.range(&range).ok()?.entries;
        Some(Sorted::from_sorted(entries.iter().map(|entry| entry_of(entry, false).into()).collect()))
    }

    /// What is not as it should be.
    fn differences(&self) -> Result<(), String> {
        let map = self.stored().ok_or("the store is away")?;
        let mut fleet = Fleet::default();
        fleet.take(&map, 0)?;
        // Of what stands there now, solving must change nothing; and the answer is each node's.
        let state = &fleet.state;
        let solution = solve(state);
        for agent in &self.agents {
            let path: &str = &agent.machine.node;
            let node = state.nodes.keys().find(|node| path.ends_with(&format!("/{node}")));
            let node = node.ok_or_else(|| format!("{path} is not registered"))?;
            let wanted = writes::record(state.plan_of(&solution, node).unwrap_or_default());
            let wanted: BTreeSet<Assigned> = wanted.instances.iter().map(assigned_of).collect();
            compare(agent, &map, &wanted)?;
        }
        Ok(())
    }

    fn outcome(&self, seed: u64, faults_end: Duration, converged: Option<Duration>) -> Outcome {
        let (trace_hash, last) = self.sim.with_trace(|trace| (trace.hash(), trace.last()));
        Outcome {
            seed,
            failure: self.sim.failure(),
            trace_hash,
            last,
            faults: self.sim.counts(),
            steps: self.sim.exec().steps(),
            simulated: self.sim.now(),
            converged_after: converged.map(|at| at.saturating_sub(faults_end)),
            acknowledged: self.sim.check(|check| Ok(check.acknowledged)),
        }
    }
}

fn decode<R: skerry_store::Record>(entry: &Entry) -> Result<R, String> {
    R::decode(entry.bytes.clone()).map_err(|error| format!("{}: {error}", entry.key))
}

/// What is not as it should be at one node.
fn compare(agent: &AgentHost, map: &Sorted, wanted: &BTreeSet<Assigned>) -> Result<(), String> {
    let path: &str = &agent.machine.node;
    let find = |family: Family| map.get(&format!("{}{path}", family.prefix()));
    let assignment = find(Family::Assignments).ok_or_else(|| format!("{path} has no assignment"))?;
    let record = decode::<stored::AssignmentRecord>(assignment)?;
    let assigned: BTreeSet<Assigned> = record.instances.iter().map(assigned_of).collect();
    if assigned != *wanted {
        return Err(format!("{path} is assigned {assigned:?} and shall be {wanted:?}"));
    }
    let copies = agent.machine.observe();
    let running: BTreeSet<Assigned> =
        copies.values().filter(|copy| copy.running).map(|copy| copy.what.clone()).collect();
    if running != *wanted {
        return Err(format!("{path} runs {running:?} and shall run {wanted:?}"));
    }
    let status = find(Family::Status).ok_or_else(|| format!("{path} has no status"))?;
    let status = decode::<stored::StatusRecord>(status)?;
    let told = |s: &skerry_proto::types::v1::InstanceStatus| {
        (s.instance.clone(), s.revision.clone(), s.ready, s.runtime_id.clone())
    };
    let reported: BTreeSet<_> = status.instances.iter().map(told).collect();
    let observed: BTreeSet<_> = copies.values().map(|c| told(&super::reconcile::status(c))).collect();
    if reported != observed {
        return Err(format!("the status of {path} says {reported:?}, and there is {observed:?}"));
    }
    if status.acknowledged_revision != assignment.mod_revision || !status.refused.is_empty() {
        return Err(format!(
            "{path} acknowledged {}, refused {:?}, and is assigned {}",
            status.acknowledged_revision, status.refused, assignment.mod_revision
        ));
    }
    compare_session(agent, map, find(Family::Sessions))?;
    match agent.missing_events() {
        Some(missing) => Err(missing),
        None => Ok(()),
    }
}

/// Whether the node counts as connected, with all reported.
fn compare_session(
    agent: &AgentHost,
    map: &Sorted,
    session: Option<&std::sync::Arc<Entry>>,
) -> Result<(), String> {
    let path: &str = &agent.machine.node;
    let session = decode::<stored::SessionRecord>(session.ok_or_else(|| format!("{path} has no session"))?)?;
    let alive: BTreeMap<String, stored::GatewayRecord> = records::<stored::GatewayRecord>(map)
        .into_iter()
        .map(|(id, record, _)| (id.to_string(), record))
        .collect();
    let boot = agent.boot.borrow();
    if session.close_time.is_some() || !alive.contains_key(&session.gateway) || session.boot_id != boot.id {
        return Err(format!("{path} counts as disconnected: {session:?}"));
    }
    if !boot.reported {
        return Err(format!("{path} has not reported all"));
    }
    Ok(())
}
