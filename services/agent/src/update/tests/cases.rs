//! Single cases.

use super::*;

/// The first revision, and a second one of which one service is bad.
fn bad_update() -> Vec<Sketch> {
    let one = Sketch { specs: [Some(1), Some(1), None], start_first: false, bad: [false; 3] };
    let two = Sketch { specs: [Some(2), None, Some(2)], bad: [false, false, true], ..one.clone() };
    let three = Sketch { specs: [Some(3), Some(3), None], ..one.clone() };
    vec![one, two, three]
}

/// What runs, by service and spec.
fn runs(node: &Node) -> Vec<(String, bool)> {
    let (first, _) = join(resources(&node.sketches[0]).values().map(AsRef::as_ref), true);
    let is_first = |copy: &Observed| {
        first.instances.get(&copy.instance).is_some_and(|spec| spec.fingerprint == copy.fingerprint)
    };
    let copies = node.world[&RuntimeKind::Docker].instances.values();
    copies.map(|copy| (copy.instance.service.to_string(), is_first(copy))).collect()
}

#[test]
fn a_service_that_was_dropped_comes_back_and_one_that_was_new_goes_and_is_told() {
    let mut node = Node::new(bad_update());
    node.settle();
    node.receive(1);
    node.link = false;
    node.settle();
    assert_eq!(runs(&node), [("a".to_owned(), true), ("b".to_owned(), true)]);
    let told = &node.desired.taken_back[&name()];
    assert_eq!(told.rejected, node.content().revisions[0]);
    let withheld: Vec<String> = told.withheld.iter().map(ToString::to_string).collect();
    assert_eq!(withheld, ["app/c/n1/0"]);
    let short = &told.rejected[..12];
    assert!(
        told.message.starts_with(&format!(
            "revision {short} was taken back here (not healthy after 5m without a link: app/c/n1/0: bad)"
        )),
        "{}",
        told.message
    );

    // With the link nothing changes while the control plane wants what it wanted.
    node.link = true;
    node.settle();
    assert_eq!(runs(&node).len(), 2);
    assert!(node.rejected().is_some());
    // It sends something else: that is tried.
    node.receive(2);
    node.settle();
    assert_eq!(
        (node.rejected(), runs(&node)),
        (None, vec![("a".to_owned(), false), ("b".to_owned(), false)])
    );
    assert!(node.disk.good.is_empty(), "nothing is left to go back to");
}

#[test]
fn with_a_link_nothing_is_taken_back_and_it_is_said_once() {
    let mut node = Node::new(bad_update());
    node.settle();
    node.receive(1);
    node.time(4 * DEADLINE.as_secs());
    assert_eq!(node.rejected(), None);
    assert_eq!(node.told, ["UpdateUnhealthy"]);
    // Only time without a link counts, and all of it.
    for link in [false, true, false] {
        node.link = link;
        node.time(140);
        assert_eq!(node.rejected(), None, "280 s of 300 s");
    }
    node.time(60);
    assert!(node.rejected().is_some());
    assert_eq!(node.told, ["UpdateUnhealthy", ROLLED_BACK]);
}

#[test]
fn an_app_whose_strategy_says_so_stays_as_it_is() {
    let mut node = Node::new(bad_update());
    node.settle();
    node.receive(1);
    node.link = false;
    let mut wanted = Desired::clone(&node.wanted);
    wanted.apps.get_mut(&name()).unwrap().bounds.stays = true;
    node.wanted = Arc::new(wanted);
    node.settle();
    assert_eq!((node.rejected(), runs(&node).len()), (None, 2));
    assert!(node.world[&RuntimeKind::Docker].instances.keys().any(|name| name.service.as_str() == "c"));
}

#[test]
fn where_what_was_good_is_lost_nothing_is_started_and_what_runs_is_left_alone() {
    let mut node = Node::new(bad_update());
    node.settle();
    node.receive(1);
    node.link = false;
    node.settle();
    node.disk.good.clear();
    node.crash(false);
    node.settle();
    assert_eq!(runs(&node), [("a".to_owned(), true), ("b".to_owned(), true)]);
    assert!(node.desired.instances.is_empty());
    let blocked = &node.desired.blocked.values().next().unwrap();
    assert!(blocked.reason == ROLLED_BACK && blocked.message.contains("so that it cannot be started"));
}
