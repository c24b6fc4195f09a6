//! Questions about a solution: their answers are what the solution itself does.

use super::laws::{run, steps};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn where_an_instance_has_no_place_every_member_refuses_it(steps in steps()) {
        run(steps, |state, solution| {
            for plan in solution.values() {
                for one in plan.unplaced.iter().filter(|one| one.node.is_none()) {
                    let InstanceName { app, service, cluster, .. } = &one.instance;
                    let spec = state.apps[app].wanted(cluster).spec.service(service).unwrap();
                    // The copies of a job stay together, whoever else would take one.
                    if spec.is_job() {
                        continue;
                    }
                    for node in plan.nodes.keys() {
                        assert!(state.refusal(solution, app, service, node).is_some(), "{} {node}", one.instance);
                    }
                }
            }
        });
    }

    #[test]
    fn a_preview_is_what_the_change_then_does_and_names_the_nodes_that_it_changes(steps in steps()) {
        run(steps, |state, solution| {
            for app in state.apps.keys() {
                let delta = Delta::App(app.clone(), None);
                let (previewed, after, changed) = preview(state.clone(), solution, [delta.clone()]);
                let (mut real, mut done) = (state.clone(), solution.clone());
                let told = apply(&mut real, &mut done, delta);
                assert_eq!((&previewed, &after, &changed), (&real, &done, &told.nodes));
            }
        });
    }
}

#[test]
fn a_node_tells_what_is_left_of_it_and_what_it_would_refuse() {
    let shape = |memory| ServiceShape { memory: Some(memory), ..copies(1) };
    let mut state = State::default();
    state.nodes.insert(node_name(0), node(0, false, Some(50)));
    state.apps.insert(app_name(0), app(None, &[shape(20)], None));
    let solution = solve(&state);
    let service = solution.values().next().unwrap().nodes[&node_name(0)][0].instance.service.clone();
    let room = state.room(&solution, &node_name(0));
    assert_eq!(room, Room { cpu_millis: None, memory_bytes: Some(30) });
    assert_eq!(state.refusal(&solution, &app_name(0), &service, &node_name(0)), None);
    state.apps.insert(app_name(0), app(None, &[shape(31)], None));
    let refused = state.refusal(&solution, &app_name(0), &service, &node_name(0));
    assert_eq!(refused, Some(Reason::InsufficientMemory { wanted: 31, free: 30 }));
    state.nodes.insert(node_name(0), node(0, true, Some(50)));
    let refused = state.refusal(&solution, &app_name(0), &service, &node_name(0));
    assert_eq!(refused, Some(Reason::NodeCordoned));
    assert_eq!(state.room(&solution, &node_name(1)), Room::default());
}
