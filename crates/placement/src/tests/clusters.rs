//! What clusters of several nodes make of services, by example.

use super::*;

/// A cluster `c0` of so many nodes, with that much memory each, and one app.
fn site(memory: &[u64], services: &[ServiceShape]) -> State {
    let mut state = State::default();
    state.clusters.insert(cluster_name(0), Cluster::default());
    for (n, memory) in (0..).zip(memory) {
        let member = Node { joins: Some(cluster_name(0)), ..node(0, false, Some(*memory)) };
        state.nodes.insert(node_name(n), member);
    }
    state.apps.insert(app_name(0), app(None, services, None));
    state
}

/// Which node each instance is on, as `service/ordinal node`.
fn places(state: &State) -> Vec<String> {
    let solution = solve(state);
    let nodes = solution.values().flat_map(|plan| &plan.nodes);
    let mut places: Vec<String> = nodes
        .flat_map(|(node, placed)| {
            placed.iter().map(move |p| format!("{}/{} {node}", p.instance.service, p.instance.ordinal))
        })
        .collect();
    places.sort();
    places
}

fn unplaced(state: &State) -> Vec<(String, String)> {
    let solution = solve(state);
    let all = solution.values().flat_map(|plan| &plan.unplaced);
    all.map(|one| (one.reason.word().to_owned(), one.reason.to_string())).collect()
}

fn settled(mut state: State) -> State {
    let solution = solve(&state);
    commit(&mut state, &solution);
    state
}

fn member(state: &mut State, n: u8) -> &mut Node {
    state.nodes.get_mut(&node_name(n)).unwrap()
}

fn sized(shape: ServiceShape, memory: i64) -> ServiceShape {
    ServiceShape { memory: Some(memory), ..shape }
}

#[test]
fn copies_are_spread_over_the_members_or_packed_on_few() {
    let state = site(&[100, 100, 100], &[sized(copies(4), 10)]);
    assert_eq!(places(&state), ["s0/0 n0", "s0/1 n1", "s0/2 n2", "s0/3 n0"]);
    // Where most is free, of those that have as few.
    let state = site(&[50, 90, 100], &[sized(copies(2), 10)]);
    assert_eq!(places(&state), ["s0/0 n2", "s0/1 n1"]);
    let packed = ServiceShape { packs: true, ..sized(copies(4), 10) };
    let state = site(&[35, 100, 100], &[packed]);
    assert_eq!(places(&state), ["s0/0 n0", "s0/1 n0", "s0/2 n0", "s0/3 n1"]);
    // In any case as many as there is room for, and the rest says why.
    let state = site(&[15, 15, 0], &[ServiceShape { packs: true, ..packed }]);
    assert_eq!(places(&state).len(), 2);
    let expected = ("NoMemberFits".to_owned(), "0/3 members: 3 insufficient memory".to_owned());
    assert_eq!(unplaced(&state), [expected.clone(), expected]);
}

#[test]
fn what_is_placed_stays_when_a_member_comes_and_when_copies_go() {
    let mut state = settled(site(&[100, 100], &[sized(copies(4), 10)]));
    let before = places(&state);
    state.nodes.insert(node_name(2), Node { joins: Some(cluster_name(0)), ..node(0, false, Some(100)) });
    assert_eq!(places(&state), before);
    state.apps.insert(app_name(0), app(None, &[sized(copies(5), 10)], None));
    assert!(places(&state).contains(&"s0/4 n2".to_owned()));
    state.apps.insert(app_name(0), app(None, &[sized(copies(2), 10)], None));
    assert_eq!(places(&state), before[..2]);
}

#[test]
fn a_daemon_set_keeps_the_ordinals_of_members_and_gives_a_new_one_the_lowest_free() {
    let everywhere = ServiceShape { kind: Shape::Everywhere, ..ServiceShape::default() };
    let mut state = settled(site(&[9, 9, 9], &[everywhere]));
    assert_eq!(places(&state), ["s0/0 n0", "s0/1 n1", "s0/2 n2"]);
    state.nodes.remove(&node_name(1));
    let mut state = settled(state);
    assert_eq!(places(&state), ["s0/0 n0", "s0/2 n2"]);
    for n in [3, 4] {
        state.nodes.insert(node_name(n), Node { joins: Some(cluster_name(0)), ..node(0, false, None) });
    }
    assert_eq!(places(&state), ["s0/0 n0", "s0/1 n3", "s0/2 n2", "s0/3 n4"]);
    member(&mut state, 3).cordoned = true;
    let solution = solve(&state);
    let one = &solution[&cluster_name(0)].unplaced[0];
    assert_eq!((&one.node, one.reason.word()), (&Some(node_name(3)), "NodeCordoned"));
}

#[test]
fn a_job_goes_where_all_of_it_fits_and_stays_there() {
    let job = |completions| sized(ServiceShape { kind: Shape::Job(completions, 9), ..copies(1) }, 10);
    let mut state = settled(site(&[25, 100, 35], &[job(3)]));
    assert_eq!(places(&state), ["s0/0 n1", "s0/1 n1", "s0/2 n1"]);
    member(&mut state, 1).memory_bytes = Some(30);
    state.apps.insert(app_name(0), app(None, &[job(4)], None));
    assert_eq!(places(&state), ["s0/0 n1", "s0/1 n1", "s0/2 n1"]);
    let (word, text) = &unplaced(&state)[0];
    assert_eq!(word, "NoMemberFits");
    assert!(text.contains("1 insufficient memory") && text.contains("2 without the job's other"), "{text}");
    // A member that cannot be reached keeps it: nobody runs it twice.
    member(&mut state, 1).lost = true;
    assert_eq!(places(&state), ["s0/0 n1", "s0/1 n1", "s0/2 n1"]);
    state.nodes.remove(&node_name(1));
    assert!(places(&state).iter().all(|place| place.ends_with("n2")), "{:?}", places(&state));
}

#[test]
fn copies_leave_a_lost_member_if_somebody_takes_them_and_not_if_they_never_may() {
    let never = ServiceShape { stays: true, ..sized(copies(2), 10) };
    let mut state = settled(site(&[25, 45], &[sized(copies(2), 10), never]));
    let before = places(&state);
    assert_eq!(before, ["s0/0 n1", "s0/1 n0", "s1/0 n1", "s1/1 n0"]);
    member(&mut state, 0).lost = true;
    assert_eq!(places(&state), ["s0/0 n1", "s0/1 n1", "s1/0 n1", "s1/1 n0"]);
    let moved = settled(state.clone());
    // It is back, and what was moved stays where it is.
    let mut back = moved.clone();
    member(&mut back, 0).lost = false;
    assert_eq!(places(&back), places(&moved));
    // Between the two writes both, or neither, are assigned it; in the end one has it.
    let name = InstanceName::parse("a0/s0/c0/1").unwrap();
    for (n, other) in [(0, 1), (1, 0)] {
        let mut half = state.clone();
        half.previous.insert(node_name(n), moved.previous[&node_name(n)].clone());
        assert_eq!(places(&half), places(&moved), "first to {n}, then to {other}");
        let both = half.previous.values().flatten().filter(|p| p.instance == name).count();
        assert_eq!(both, if n == 0 { 0 } else { 2 });
    }
    // Nobody else has room: better there than nowhere.
    member(&mut state, 1).memory_bytes = Some(20);
    assert_eq!(places(&state), before);
    assert!(unplaced(&state).is_empty());
}

#[test]
fn a_taint_keeps_off_what_is_new_or_drives_out_what_is_there() {
    let bearing = ServiceShape { bears: true, ..copies(1) };
    let plain = || [copies(1), bearing];
    let taint = |effect| Taint { key: "wet".into(), value: String::new(), effect };
    let mut state = settled(site(&[9], &plain()));
    member(&mut state, 0).taints = vec![taint(TaintEffect::NoSchedule)];
    assert_eq!(places(&state), ["s0/0 n0", "s1/0 n0"]);
    member(&mut state, 0).taints = vec![taint(TaintEffect::NoExecute)];
    assert_eq!(places(&state), ["s1/0 n0"]);
    assert_eq!(unplaced(&state)[0].0, "Tainted");
    assert!(unplaced(&state)[0].1.contains("wet:NoExecute"));
    // Where there is another member, it goes there.
    state.nodes.insert(node_name(1), Node { joins: Some(cluster_name(0)), ..node(0, false, None) });
    assert_eq!(places(&state), ["s0/0 n1", "s1/0 n0"]);
}

#[test]
fn a_system_app_goes_to_members_that_are_chosen_or_to_a_cluster_that_is() {
    let everywhere = ServiceShape { kind: Shape::Everywhere, ..copies(1) };
    let mut state = site(&[99, 99, 99], &[everywhere, copies(2)]);
    let plain = state.apps[&app_name(0)].clone();
    state.apps.insert(app_name(0), system(&plain));
    assert!(places(&state).is_empty() && unplaced(&state).is_empty(), "chosen for nobody");
    let label = || ("system.skerry.dev/a0".to_owned(), String::new());
    member(&mut state, 1).labels.extend([label()]);
    assert_eq!(places(&state), ["s0/0 n1", "s1/0 n1", "s1/1 n1"]);
    // Another app's label says nothing of it.
    member(&mut state, 2).labels.insert("system.skerry.dev/a1".to_owned(), String::new());
    assert_eq!(places(&state), ["s0/0 n1", "s1/0 n1", "s1/1 n1"]);
    // Why the others do not take it is told as any other reason.
    member(&mut state, 1).cordoned = true;
    let why = "0/3 members: 2 without the label system.skerry.dev/a0, 1 cordoned";
    assert_eq!(unplaced(&state)[1], ("NoMemberFits".to_owned(), why.to_owned()));
    member(&mut state, 1).cordoned = false;
    // The cluster's own label means all members, and what is placed stays.
    let mut state = settled(state);
    state.clusters.get_mut(&cluster_name(0)).unwrap().labels.extend([label()]);
    assert_eq!(places(&state), ["s0/0 n1", "s0/1 n0", "s0/2 n2", "s1/0 n1", "s1/1 n1"]);
    let mut state = settled(state);
    state.clusters.get_mut(&cluster_name(0)).unwrap().labels.clear();
    member(&mut state, 1).labels.clear();
    assert!(places(&state).is_empty());
}

#[test]
fn a_selector_of_a_system_app_is_one_more_way_to_choose() {
    let mut state = State::default();
    for (n, site) in [(0, 0), (1, 1), (2, 1)] {
        state.nodes.insert(node_name(n), node(site, false, None));
    }
    state.apps.insert(app_name(0), system(&app(Some(0), &[copies(1)], None)));
    member(&mut state, 2).labels.insert("system.skerry.dev/a0".to_owned(), "x".to_owned());
    assert_eq!(places(&state), ["s0/0 n0", "s0/0 n2"]);
}

#[test]
fn copies_with_a_port_are_on_as_many_members_and_one_that_came_first_keeps_it() {
    let web = ServiceShape { port: Some(80), ..copies(3) };
    let mut state = site(&[9, 9], &[web]);
    assert_eq!(places(&state), ["s0/0 n0", "s0/1 n1"]);
    let expected = ("NoMemberFits".to_owned(), "0/2 members: 2 port 80 taken".to_owned());
    assert_eq!(unplaced(&state), [expected]);
    state.nodes.insert(node_name(2), Node { joins: Some(cluster_name(0)), ..node(0, false, None) });
    assert_eq!(places(&state), ["s0/0 n0", "s0/1 n1", "s0/2 n2"]);
    // On one node it is the node's reason.
    let alone = site(&[9], &[web]);
    assert_eq!((places(&alone).len(), unplaced(&alone).len()), (1, 2));
    assert_eq!(unplaced(&alone)[0].0, "PortTaken");
    // Two that share a member before there is a port part, and none is without a place meanwhile.
    let mut state = settled(site(&[9, 0], &[sized(ServiceShape { packs: true, ..copies(2) }, 1)]));
    assert_eq!(places(&state), ["s0/0 n0", "s0/1 n0"]);
    member(&mut state, 1).memory_bytes = Some(9);
    state
        .apps
        .insert(app_name(0), app(None, &[sized(ServiceShape { port: Some(80), ..copies(2) }, 1)], None));
    assert_eq!(places(&state), ["s0/0 n0", "s0/1 n1"]);
    assert!(unplaced(&state).is_empty());
}

#[test]
fn why_no_member_takes_it_is_counted() {
    let picky = ServiceShape { architecture: Some("arm64"), ..sized(copies(1), 50) };
    let mut state = site(&[9, 9, 9, 99, 99], &[picky]);
    for n in 0..5 {
        member(&mut state, n).architecture = Some("arm64".to_owned());
    }
    member(&mut state, 3).cordoned = true;
    member(&mut state, 4).architecture = Some("amd64".to_owned());
    let expected = "0/5 members: 3 insufficient memory, 1 cordoned, 1 of architecture amd64";
    assert_eq!(unplaced(&state), [("NoMemberFits".to_owned(), expected.to_owned())]);
    member(&mut state, 3).cordoned = false;
    assert_eq!(places(&state), ["s0/0 n3"]);
    let on_ssd = ServiceShape { on_ssd: true, ..copies(1) };
    let state = site(&[9, 9], &[on_ssd]);
    let expected = "none of the cluster's 2 members matches the node selector `disk=ssd`";
    assert_eq!(unplaced(&state), [("NoMatchingMember".to_owned(), expected.to_owned())]);
    assert_eq!(unplaced(&site(&[9], &[on_ssd]))[0].0, "NodeSelectorMismatch");
}

#[test]
fn a_node_that_told_no_architecture_keeps_what_it_has_and_gets_nothing_picky() {
    let picky = ServiceShape { architecture: Some("arm64"), ..copies(1) };
    let mut state = site(&[9], &[picky]);
    assert_eq!(unplaced(&state)[0].0, "ArchitectureMismatch");
    member(&mut state, 0).architecture = Some("arm64".to_owned());
    let mut state = settled(state);
    member(&mut state, 0).architecture = None;
    assert_eq!(places(&state), ["s0/0 n0"]);
    member(&mut state, 0).architecture = Some("amd64".to_owned());
    assert!(places(&state).is_empty());
}

#[test]
fn what_has_priority_is_placed_first_and_drives_nothing_out() {
    let low = sized(copies(1), 60);
    let high = ServiceShape { priority: 5, ..sized(copies(1), 60) };
    assert_eq!(places(&site(&[100], &[low, high])), ["s1/0 n0"]);
    let mut state = settled(site(&[100], std::slice::from_ref(&low)));
    state.apps.insert(app_name(0), app(None, &[low, high], None));
    assert_eq!(places(&state), ["s0/0 n0"]);
}

#[test]
fn what_depends_on_something_goes_where_that_is() {
    let web = ServiceShape { needs_first: true, ..copies(3) };
    let state = site(&[100, 100, 100], &[copies(1), web]);
    assert_eq!(places(&state), ["s0/0 n0", "s1/0 n0", "s1/1 n0", "s1/2 n0"]);
}

#[test]
fn an_update_that_has_no_room_on_its_member_goes_to_another() {
    let mut state = settled(site(&[40, 100], &[sized(ServiceShape { packs: true, ..copies(1) }, 30)]));
    assert_eq!(places(&state), ["s0/0 n0"], "the fuller one");
    state.apps.insert(app_name(0), app(None, &[sized(copies(1), 60)], None));
    assert_eq!(places(&state), ["s0/0 n1"]);
    // One that may have a copy on one member only stays, and says why.
    state.apps.insert(app_name(0), app(None, &[ServiceShape { stays: true, ..sized(copies(1), 60) }], None));
    assert_eq!(places(&state), ["s0/0 n0"]);
    let solution = solve(&state);
    let one = &solution[&cluster_name(0)].unplaced[0];
    assert_eq!((one.kept, &one.node, one.reason.word()), (true, &Some(node_name(0)), "InsufficientMemory"));
}

#[test]
fn a_node_whose_cluster_is_not_there_is_one_of_its_own_and_a_cluster_without_members_wants_nothing() {
    let mut state = site(&[9, 9], &[copies(1)]);
    state.clusters.clear();
    assert_eq!(solve(&state).keys().map(ToString::to_string).collect::<Vec<_>>(), ["n0", "n1"]);
    let mut solution = solve(&state);
    let changed = apply(&mut state, &mut solution, Delta::Cluster(cluster_name(0), Some(Cluster::default())));
    assert_eq!(changed.nodes, [node_name(0), node_name(1)].into());
    assert_eq!(solution.keys().map(ToString::to_string).collect::<Vec<_>>(), ["c0"]);
    for n in 0..2 {
        apply(&mut state, &mut solution, Delta::Node(node_name(n), None));
    }
    assert!(solution.is_empty());
}
