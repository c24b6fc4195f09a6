//! Both machines over a wire that breaks, a disk and a store that fail, and processes that crash, in any order: whatever happens,
//! what is held becomes what is desired, what is stored becomes what is reported, and nothing is acknowledged too early.
//!
//! One agent, any number of gateways. The store is a model with the fence that the real one has. A larger simulator, with the real
//! store's core, is in `integration/`.

mod world;

use proptest::prelude::*;
use world::{Input, World};

#[derive(Debug, Clone)]
enum Step {
    /// One of the things that go on by themselves.
    Run(u16),
    /// One of the things that go wrong.
    Fault(u16),
    /// Something from outside.
    Input(Input),
}

fn step() -> impl Strategy<Value = Step> {
    let input = prop_oneof![
        3 => (0..3_u8, 0..6_u8).prop_map(|(app, variant)| Input::Assign { app, variant }),
        3 => (0..4_u8, any::<u8>()).prop_map(|(instance, restarts)| Input::Instance { instance, restarts }),
        1 => (0..4_u8).prop_map(|instance| Input::Gone { instance }),
        1 => any::<u8>().prop_map(|memory| Input::Machine { memory }),
        3 => (1..40_u8).prop_map(|count| Input::Events { count }),
    ];
    prop_oneof![
        14 => any::<u16>().prop_map(Step::Run),
        2 => any::<u16>().prop_map(Step::Fault),
        3 => input.prop_map(Step::Input),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 800,
        max_shrink_iters: 20_000,
        // A failing case is printed; it is made a test of its own rather than a file.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_both_ends_converge(seed in any::<u64>(), steps in prop::collection::vec(step(), 0..400)) {
        let mut world = World::new(seed);
        for step in steps {
            match step {
                Step::Run(pick) => world.run(pick.into()),
                Step::Fault(pick) => world.fault(pick.into()),
                Step::Input(input) => world.input(input),
            }
        }
        world.settle();
        world.check_converged();
    }
}

#[test]
fn a_quiet_session_says_little_in_a_day() {
    let mut world = World::new(1);
    world.input(Input::Machine { memory: 1 });
    world.settle();
    let before = world.frames;
    world.idle(std::time::Duration::from_secs(24 * 3600));
    let frames = world.frames - before;
    // A heartbeat and its answer every 45 s.
    assert!((3838..=3842).contains(&frames), "{frames} frames a day");
}

#[test]
fn a_link_that_swallows_everything_is_seen_dead_within_65_s() {
    let mut world = World::new(2);
    world.input(Input::Machine { memory: 1 });
    world.settle();
    let seconds = world.seconds_until_a_dead_link_is_seen();
    assert!(seconds.0 <= 65.0, "the agent took {} s", seconds.0);
    assert!(seconds.1 <= 65.0, "the gateway took {} s", seconds.1);
}
