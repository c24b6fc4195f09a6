//! A fleet of real agent machines against real session machines, on virtual time, with an authority that is only what it decides: wrong
//! clocks, certificates that end, an absence of three lives, one root after another with half the fleet away. Whatever comes, no machine is
//! told to run anything else than it did, and every node comes back.
//!
//! A certificate lives a day here, and an absence lasts three: the thirty days and ninety of the real ones, to scale.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod world;

use std::time::Duration;

use world::{DAY, World};

/// Of each seed another course.
const SEEDS: u64 = 6;

#[test]
fn clocks_of_1970_and_2099_absence_expiry_and_rollover_cost_no_node_and_stop_nothing() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed, 6);
        world.run(DAY * 2);
        world.check("in everyday life");

        // Half of them go: one is switched off, the others have no network.
        world.agents[0].switch_off();
        world.leave(1);
        world.leave(2);
        world.rotate();
        world.run(DAY * 3);
        for agent in &world.agents[3..] {
            assert_eq!(
                agent.disk.certificate.root,
                world.newest(),
                "seed {seed}: renewed under the new root"
            );
        }
        for agent in &world.agents[..3] {
            assert!(agent.disk.certificate.not_after < world.true_seconds(), "seed {seed}: it has expired");
        }

        for index in 0..3 {
            world.come_back(index);
        }
        world.run(Duration::from_secs(2 * 3600));
        world.check("after the absence");

        // Nobody is left on the old root.
        world.run(DAY);
        world.retire();
        world.drain();
        world.run(Duration::from_secs(2 * 3600));
        world.check("after the old root was retired");
        assert!(world.agents.iter().all(|agent| agent.disk.roots == [world.newest()]), "seed {seed}");
    }
}

#[test]
fn who_was_told_of_no_second_root_is_not_lost_by_one_that_forgets_the_first_too_soon() {
    // The old root goes an hour after the new one has come: certificates under it are good no more, but sessions are still open, and what
    // comes over them is a new certificate.
    let mut world = World::new(7, 3);
    world.faults = false;
    world.run(Duration::from_secs(3600));
    world.rotate();
    world.run(Duration::from_secs(3600));
    world.retire();
    world.run(Duration::from_secs(3600));
    world.drain();
    world.run(Duration::from_secs(3600));
    world.check("after a rollover in haste");
}
