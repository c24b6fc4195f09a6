//! Injects the faults that do not strike by themselves: what is cut, stopped, stalled, restored, compacted, set wrong.

use std::rc::Rc;
use std::time::Duration;

use skerry_etcd_embedded::mvcc::Command;

use super::agent::AgentHost;
use super::check::Origin;
use super::faults::Fault;
use super::sim::{Crash, Process, Sim, WallClock};
use super::world::World;

/// Injects faults until it is calm.
pub(super) fn start(world: &Rc<World>) {
    let crash = Crash { per_million: 0, fault: Fault::StoreCrash };
    let process = world.sim.process("chaos", crash, &Rc::<WallClock>::default());
    let chaos = Chaos { world: Rc::clone(world), process: process.clone() };
    process.spawn(async move {
        loop {
            chaos.process.sleep(chaos.process.sim.between_ms(100, 9_000)).await;
            if chaos.process.sim.is_calm() {
                return;
            }
            chaos.strike();
        }
    });
}

struct Chaos {
    world: Rc<World>,
    process: Process,
}

impl Chaos {
    fn sim(&self) -> &Sim {
        &self.world.sim
    }

    fn agent(&self) -> &Rc<AgentHost> {
        let count = self.world.agents.len();
        &self.world.agents[self.sim().rng(|rng| rng.below(count))]
    }

    fn strike(&self) {
        let sim = self.sim();
        let agent = self.agent();
        let link = agent.link.borrow().clone();
        let name = &agent.machine.name;
        match sim.rng(|rng| rng.below(1_000)) {
            0..150 => self.linked(link.as_ref(), Fault::StreamBroken, super::net::Link::cut),
            150..210 => {
                sim.trace(name, format_args!("its network is cut"));
                let long = sim.between_ms(1_000, 150_000);
                agent.cut_until.set(sim.now() + long);
                self.linked(link.as_ref(), Fault::Partition, super::net::Link::silence);
            }
            210..270 => {
                let long = sim.between_ms(500, 80_000);
                self.linked(link.as_ref(), Fault::StreamStalled, |link| link.stall(long));
            }
            270..340 => {
                sim.count(Fault::PowerLoss);
                sim.trace(name, format_args!("loses power"));
                agent.lose_power();
            }
            340..400 => self.agent_leaves(agent),
            400..430 => {
                if let Some(store) = self.world.store.live() {
                    sim.count(Fault::StoreCrash);
                    store.process.trace(format_args!("is killed"));
                    sim.exec().kill(store.process.id);
                }
            }
            430..460 => {
                let gateway = sim.rng(|rng| Rc::clone(rng.pick(&self.world.gateways)));
                if gateway.drain() {
                    sim.count(Fault::GatewayDrain);
                }
            }
            460..475 => {
                sim.count(Fault::StoreStall);
                self.world.store.stall(sim.between_ms(500, 30_000));
            }
            475..540 => self.world.store.take_snapshot(),
            540..555 => {
                let as_another = sim.rng(|rng| rng.below(2) == 0);
                if self.world.store.restore(as_another) {
                    sim.count(if as_another { Fault::StoreRestoredAsAnother } else { Fault::StoreRestored });
                }
            }
            555..690 => self.compact(),
            690..760 => self.jump(),
            760..880 => {
                agent.machine.end_one();
            }
            880..910 => agent.storm(300),
            910..930 => self.twin(),
            _ => {}
        }
    }

    fn linked(&self, link: Option<&Rc<super::net::Link>>, fault: Fault, act: impl FnOnce(&super::net::Link)) {
        if let Some(link) = link {
            self.sim().count(fault);
            self.process.trace(format_args!("{fault:?}"));
            act(link);
        }
    }

    fn agent_leaves(&self, agent: &Rc<AgentHost>) {
        self.sim().count(Fault::AgentLeft);
        agent.wanted.set(false);
        agent.leave();
        let (back, long) = (Rc::clone(agent), self.sim().between_ms(500, 120_000));
        self.sim().exec().at(self.sim().now() + long, move || {
            back.wanted.set(true);
            back.start();
        });
    }

    /// Compacts up to now, or to some time ago.
    fn compact(&self) {
        let Some(store) = self.world.store.live() else { return };
        let (committed, compacted) = store.core(|core| (core.committed(), core.compacted()));
        let span = usize::try_from(committed - compacted.max(0)).unwrap_or(0);
        if span < 2 {
            return;
        }
        let back = self.sim().rng(|rng| if rng.below(2) == 0 { 0 } else { rng.below(span) });
        let revision = committed - i64::try_from(back).unwrap_or(0);
        if revision > compacted {
            self.sim().count(Fault::Compaction);
            drop(store.submit(Command::Compact { revision }, Origin::Other));
        }
    }

    fn jump(&self) {
        let seconds = i64::try_from(self.sim().between_ms(1_000, 400_000_000).as_secs()).unwrap_or(0);
        let seconds = if self.sim().rng(|rng| rng.below(2) == 0) { seconds } else { -seconds };
        let clocks: Vec<&Rc<WallClock>> = self
            .world
            .agents
            .iter()
            .map(|agent| &agent.machine.clock)
            .chain(self.world.gateways.iter().map(|gateway| &gateway.clock))
            .chain(self.world.schedulers.iter().map(|scheduler| &scheduler.clock))
            .collect();
        let clock = self.sim().rng(|rng| clocks[rng.below(clocks.len())]);
        self.sim().count(Fault::ClockJump);
        clock.ahead_s.set(seconds);
    }

    /// A second machine takes a node's name for a while.
    fn twin(&self) {
        if self.world.twin.borrow().is_some() {
            return;
        }
        self.sim().count(Fault::Twin);
        let twin = self.world.add_twin(&self.agent().machine.node);
        let world = Rc::clone(&self.world);
        let long = self.sim().between_ms(5_000, 120_000);
        self.sim().exec().at(self.sim().now() + long, move || {
            twin.wanted.set(false);
            twin.lose_power();
            world.twin.borrow_mut().take();
        });
    }
}

/// How often the end is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);
