//! What is stopped by hand does not run, holds up nothing but what depends on it, and comes to what is wanted once it is started.

use super::*;
use crate::hand::Hand;

/// Whether what an instance waits for is stopped, by itself or by what it waits for.
fn waits_for_stopped(sketches: &[Sketch], stopped: &[bool], at: usize) -> bool {
    sketches[at].needs.iter().any(|(on, _)| stopped[*on] || waits_for_stopped(sketches, stopped, *on))
}

proptest! {
    #[test]
    fn what_is_stopped_by_hand_stays_so_holds_up_nobody_and_is_started_to_what_is_wanted(
        old in sketches(),
        new in sketches(),
        states in prop::collection::vec(state(), 4),
        beside in prop::collection::vec(prop::option::of((0..3u8, state())), 4),
        stopped in prop::collection::vec(any::<bool>(), 4),
        fetchable in any::<bool>(),
    ) {
        prop_assume!(!waits_for_ever(&new));
        let mut fixture = Fixture::new();
        let all = desired(&new);
        let mut world = world(&old, &states);
        put_beside(&mut world, &old, &beside);
        let halted = |name: &InstanceName| {
            let at = SERVICES.iter().position(|one| *one == name.service.as_str()).unwrap();
            stopped[at] && all.instances.contains_key(name)
        };
        fixture.hands =
            all.instances.keys().filter(|name| halted(name)).map(|name| (name.clone(), Hand::Stopped)).collect();
        let mut acted: Vec<Action> = Vec::new();
        let rounds = 5 * SERVICES.len() + 1;
        for _ in 0..=rounds {
            let plan = fixture.plan(&all, &world);
            for action in &plan.actions {
                prop_assert!(!halted(&action.instance) || action.act == Act::Stop, "{:?}", action);
                // A copy of each runtime is stopped once.
                prop_assert!(!acted.contains(action), "{:?} again", action);
                acted.push(action.clone());
            }
            // What is stopped need not be there to be fetched.
            carry_out(&plan, &all, &mut world, &mut fixture.memories, |name| fetchable || !halted(name));
            complete(&all, &mut world);
        }
        prop_assert!(fixture.plan(&all, &world).actions.is_empty());
        for (at, sketch) in new.iter().enumerate().filter(|(_, sketch)| sketch.wanted) {
            let spec = spec(at, sketch);
            let copies = world.values().flat_map(|view| [view.instances.get(&name(at)), view.beside.get(&name(at))]);
            if stopped[at] {
                prop_assert!(!copies.flatten().any(is_running));
                let hold = fixture.plan(&all, &world).holds.remove(&name(at));
                prop_assert_eq!(hold, Some(Hold::ByHand));
            } else if !waits_for_stopped(&new, &stopped, at) {
                let there = world[&kind_of(&spec)].instances.get(&name(at)).expect("nobody holds it up");
                prop_assert_eq!(&there.fingerprint, &spec.fingerprint);
            }
        }
        // Somebody starts them again.
        for hand in fixture.hands.values_mut() {
            *hand = Hand::Due;
        }
        let mut starts: BTreeMap<InstanceName, usize> = BTreeMap::new();
        for _ in 0..=rounds {
            let plan = fixture.plan(&all, &world);
            carry_out(&plan, &all, &mut world, &mut fixture.memories, |_| true);
            for action in &plan.actions {
                if matches!(action.act, Act::Start | Act::Restart | Act::Replace | Act::StartBeside)
                    && fixture.hands.remove(&action.instance).is_some()
                {
                    *starts.entry(action.instance.clone()).or_default() += 1;
                }
            }
            complete(&all, &mut world);
        }
        prop_assert!(fixture.plan(&all, &world).actions.is_empty());
        prop_assert!(fixture.hands.is_empty(), "{:?}", fixture.plan(&all, &world).holds);
        prop_assert!(starts.values().all(|count| *count == 1));
        for (name, spec) in &all.instances {
            let there = world[&kind_of(spec)].instances.get(name).expect("it was started");
            prop_assert_eq!(&there.fingerprint, &spec.fingerprint);
        }
    }
}
