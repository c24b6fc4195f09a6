//! Draining: who leaves, and how many at once.

use super::*;

/// Two members, of which the first has all the copies.
fn two(replicas: u32, max_unavailable: &str) -> Told {
    let mut told = Told::new();
    told.put(&GatewayId::parse("g").unwrap(), &stored::GatewayRecord::default());
    told.cluster();
    told.app_with(replicas, max_unavailable);
    told.node(1, |_| ());
    told.connect(1, true);
    while !told.settle().is_empty() {}
    told.node(2, |_| ());
    told.connect(2, true);
    while !told.settle().is_empty() {}
    told
}

impl Told {
    /// Copies on a node that are to be there.
    fn planned(&self, n: usize) -> usize {
        self.project().plan_of(&node(n).node).unwrap().len()
    }

    /// Copies that run nowhere as they should.
    fn unready(&self) -> usize {
        let seen = status::instances(&self.world, &app().project, self.project(), &app().app);
        seen.iter().filter(|one| one.is_wanted() && !one.is_well()).count()
    }
}

#[test]
fn copies_leave_a_drained_node_as_many_at_once_as_may_be_unready() {
    for (budget, most) in [("1", 1), ("2", 2), ("50%", 3), ("10%", 1), ("100%", 5), ("", 5)] {
        let mut told = two(5, budget);
        assert_eq!((told.planned(1), told.planned(2)), (5, 0));
        told.node(1, |node| node.drain = true);
        assert_eq!(told.planned(1), 5, "nothing leaves before it is looked at");
        let mut rounds = 0;
        while told.planned(1) > 0 {
            let before = told.planned(1);
            assert!(told.later(5), "{budget}: {before} are left");
            let left = before - told.planned(1);
            assert!((1..=most).contains(&left), "{budget}: {left} at once");
            assert!(told.unready() <= most, "{budget}");
            // Those that left are not ready elsewhere yet: nobody follows them.
            if left == most {
                assert!(!told.later(30), "{budget}");
            }
            while !told.settle().is_empty() {}
            assert_eq!(told.unready(), 0, "{budget}");
            rounds += 1;
        }
        assert_eq!((told.planned(2), rounds), (5, 5_usize.div_ceil(most)), "{budget}");
        // It stays so, and the node comes back with nothing.
        told.later(60);
        assert_eq!(told.planned(1), 0);
        told.node(1, |_| ());
        told.later(60);
        assert_eq!((told.planned(1), told.planned(2)), (0, 5), "nobody moves without need");
    }
}

#[test]
fn what_is_unready_counts_and_may_leave_itself() {
    let mut told = two(3, "1");
    // One of them has an end.
    let placed = told.project().plan_of(&node(1).node).unwrap().to_vec();
    told.report(&node(1), &placed[1..]);
    assert_eq!(told.unready(), 1);
    told.node(1, |node| node.drain = true);
    assert!(told.later(5));
    let on = |n: usize, told: &Told| -> Vec<u32> {
        told.project().plan_of(&node(n).node).unwrap().iter().map(|one| one.instance.ordinal).collect()
    };
    assert_eq!((on(1, &told), on(2, &told)), (vec![1, 2], vec![0]), "the unready one, and no other");
    assert!(!told.later(30));
}

#[test]
fn what_nobody_else_takes_waits_and_comes_back_when_that_ends() {
    let mut told = two(2, "");
    told.node(2, |node| node.cordoned = true);
    told.node(1, |node| node.drain = true);
    assert!(told.later(5));
    assert_eq!((told.planned(1), told.planned(2)), (0, 0));
    while !told.settle().is_empty() {}
    let reasons: Vec<String> = told.shown();
    assert!(reasons.iter().all(|one| one.ends_with("NoMemberFits")), "{reasons:?}");
    told.later(30);
    assert_eq!((told.planned(1), told.planned(2)), (0, 0));
    told.node(1, |_| ());
    assert_eq!(told.planned(1), 2);
}

#[test]
fn drained_together_nobody_goes_from_one_to_the_other() {
    let mut told = two(4, "");
    told.node(1, |node| node.drain = true);
    told.node(2, |node| node.drain = true);
    told.node(3, |_| ());
    told.connect(3, true);
    assert!(told.later(5));
    assert_eq!((told.planned(1), told.planned(2), told.planned(3)), (0, 0, 4));
}
