//! Laws of the watchdog, over any bookings and any looks.

use proptest::prelude::*;
use skerry_model::GpuId;

use super::*;

const GIB: u64 = 1 << 30;

fn name(n: usize) -> InstanceName {
    InstanceName::parse(&format!("app/s{n}/c/0")).unwrap()
}

fn booked(n: usize, gpu: usize, memory: Option<u64>, compute: Option<u32>, policy: OnOveruse) -> Booked {
    let booking = GpuBooking {
        gpu: GpuId::parse(&format!("GPU-{gpu}")).unwrap(),
        share: GpuShare::Part { memory_bytes: memory, compute_percent: compute },
        isolation: GpuIsolation::Accounted,
    };
    Booked { instance: name(n), booking, policy }
}

fn usage(look: u64, used: &[(usize, u64, u32)]) -> Usage {
    let of = |(n, memory_bytes, percent): &(usize, u64, u32)| {
        (name(*n).to_string(), Used { memory_bytes: Some(*memory_bytes), percent: *percent })
    };
    let time_ms = i64::try_from(look).unwrap() * 1000;
    Usage { look, time_ms, by_instance: used.iter().map(of).collect() }
}

fn seen(usage: Usage) -> BTreeMap<String, Usage> {
    BTreeMap::from([("GPU-0".to_owned(), usage)])
}

#[test]
fn one_look_is_no_overuse_two_are_and_the_same_look_twice_is_one() {
    let all = [booked(0, 0, Some(GIB), None, OnOveruse::Stop)];
    let mut dog = Watchdog::default();
    let above = |look| seen(usage(look, &[(0, 2 * GIB, 0)]));
    assert!(dog.step(&all, &above(1)).is_empty());
    assert!(dog.step(&all, &above(1)).is_empty(), "nothing new was seen");
    assert_eq!(dog.doubted(), BTreeSet::from(["GPU-0".to_owned()]), "one more look tells");
    let found = dog.step(&all, &above(2));
    assert_eq!(found[0].above, Above::Memory { used: 2 * GIB, booked: GIB });
    assert_eq!((found[0].since_ms, found[0].stop), (1000, true), "a run since then is meant");
    assert_eq!(dog.step(&all, &above(2)), found, "until the next look it is so");
    assert!(dog.doubted().is_empty(), "it is known");
    assert!(dog.step(&all, &seen(usage(3, &[(0, GIB, 0)]))).is_empty());
    assert!(dog.step(&all, &above(4)).is_empty(), "it began anew");
    assert!(dog.step(&[], &above(5)).is_empty(), "it is not booked here any more");
    assert!(dog.step(&all, &above(6)).is_empty(), "and was forgotten");
}

#[test]
fn compute_is_taken_over_a_span_and_only_told() {
    let all = [booked(0, 0, None, Some(25), OnOveruse::Stop)];
    let mut dog = Watchdog::default();
    let mut last = Vec::new();
    for look in 1..=10 {
        assert!(last.is_empty(), "{look}");
        last = dog.step(&all, &seen(usage(look, &[(0, 0, if look % 2 == 0 { 100 } else { 0 })])));
    }
    assert_eq!(last[0].above, Above::Compute { used: 50, booked: 25 });
    assert_eq!((last[0].stop, last[0].since_ms), (false, 1000));
    // A burst in a second that is within its share over the span is none.
    let mut dog = Watchdog::default();
    for look in 1..=40 {
        let percent = if look % 4 == 0 { 100 } else { 0 };
        assert!(dog.step(&all, &seen(usage(look, &[(0, 0, percent)]))).is_empty(), "{look}");
    }
}

#[test]
fn who_is_held_by_something_else_is_not_watched() {
    for isolation in [GpuIsolation::None, GpuIsolation::Mig, GpuIsolation::Exclusive] {
        let mut one = booked(0, 0, Some(GIB), Some(1), OnOveruse::Stop);
        one.booking.isolation = isolation;
        let mut dog = Watchdog::default();
        for look in 1..=20 {
            let found = dog.step(std::slice::from_ref(&one), &seen(usage(look, &[(0, 9 * GIB, 100)])));
            assert!(found.is_empty(), "{isolation}");
        }
    }
}

#[test]
fn who_uses_a_device_that_others_have_booked_is_told_of_and_stopped_where_it_has_a_policy() {
    let other = |policy| [booked(0, 0, Some(GIB), None, policy), booked(1, 1, Some(GIB), None, policy)];
    for (policy, stop) in [(OnOveruse::Stop, true), (OnOveruse::Report, false)] {
        let mut dog = Watchdog::default();
        let uses = |look| seen(usage(look, &[(1, GIB, 0)]));
        assert!(dog.step(&other(policy), &uses(1)).is_empty());
        assert!(dog.step(&other(policy), &uses(1)).is_empty(), "the same look");
        assert_eq!(dog.doubted(), BTreeSet::from(["GPU-0".to_owned()]), "one more look tells of him too");
        let found = dog.step(&other(policy), &uses(2));
        assert_eq!((found.len(), found[0].since_ms, found[0].stop), (1, 1000, stop));
        assert!(found[0].words().contains("booked nothing"), "{}", found[0].words());
        assert!(dog.doubted().is_empty(), "it is known");
        assert!(dog.step(&other(policy), &seen(usage(3, &[(1, SLACK_BYTES, 0)]))).is_empty());
    }
}

#[test]
fn several_processes_together_are_not_held_by_mps() {
    let mut one = booked(0, 0, Some(GIB), Some(1), OnOveruse::Stop);
    one.booking.isolation = GpuIsolation::Mps;
    let mut dog = Watchdog::default();
    let mut found = |look, memory| {
        dog.step(std::slice::from_ref(&one), &seen(usage(look, &[(0, memory, 100)])))
            .first()
            .map(|overuse| (overuse.above, overuse.stop))
    };
    for look in 1..=20 {
        assert_eq!(found(look, GIB + SLACK_BYTES_MPS), None, "one process, and what MPS keeps for it");
    }
    assert_eq!(found(21, 2 * GIB), None);
    assert_eq!(found(22, 2 * GIB), Some((Above::Memory { used: 2 * GIB, booked: GIB }, true)));
}

#[derive(Debug, Clone)]
struct Case {
    booked: Vec<(Option<u64>, Option<u32>, bool)>,
    /// For each look what each uses; a stranger's use comes last.
    looks: Vec<Vec<(u64, u32)>>,
}

fn cases() -> impl Strategy<Value = Case> {
    let share = (proptest::option::of(1..8_u64), proptest::option::of(1..=100_u32), any::<bool>());
    proptest::collection::vec(share, 1..4).prop_flat_map(|booked| {
        let look = proptest::collection::vec((0..10_u64, 0..=100_u32), booked.len() + 1);
        proptest::collection::vec(look, 1..30).prop_map(move |looks| Case { booked: booked.clone(), looks })
    })
}

proptest! {
    #[test]
    fn who_is_within_its_booking_is_left_alone_who_is_above_twice_is_found_and_nobody_else_is(case in cases()) {
        let policy = |stop| if stop { OnOveruse::Stop } else { OnOveruse::Report };
        let all: Vec<Booked> = case.booked.iter().enumerate()
            .map(|(n, (memory, compute, stop))| booked(n, 0, memory.map(|gib| gib * GIB), *compute, policy(*stop)))
            .collect();
        let mut dog = Watchdog::default();
        for (at, look) in case.looks.iter().enumerate() {
            let used: Vec<(usize, u64, u32)> =
                look.iter().enumerate().map(|(n, (gib, percent))| (n, gib * GIB, *percent)).collect();
            let found = dog.step(&all, &seen(usage(at as u64 + 1, &used)));
            for (n, (memory, compute, stop)) in case.booked.iter().enumerate() {
                let above = |at: usize| memory.is_some_and(|memory| case.looks[at][n].0 > memory);
                let own: Vec<&Overuse> = found.iter().filter(|one| one.instance == name(n)).collect();
                let in_memory = own.iter().find(|one| matches!(one.above, Above::Memory { .. }));
                prop_assert_eq!(in_memory.is_some(), at > 0 && above(at) && above(at - 1));
                prop_assert!(in_memory.is_none_or(|one| one.stop == *stop));
                let mean = |span: &[Vec<(u64, u32)>]| span.iter().map(|look| look[n].1).sum::<u32>() / 10;
                let in_compute = own.iter().find(|one| matches!(one.above, Above::Compute { .. }));
                prop_assert!(in_compute.is_none_or(|one| !one.stop), "for compute nobody is stopped");
                let is_above = at >= 9 && compute.is_some_and(|booked| mean(&case.looks[at - 9..=at]) > booked + 5);
                prop_assert_eq!(in_compute.is_some(), is_above);
            }
            let stranger = case.booked.len();
            let uses = |at: usize| case.looks[at][stranger].0 > 0;
            let of_stranger: Vec<&Overuse> = found.iter().filter(|one| one.instance == name(stranger)).collect();
            prop_assert_eq!(of_stranger.len(), usize::from(at > 0 && uses(at) && uses(at - 1)));
            prop_assert!(of_stranger.iter().all(|one| !one.stop), "who has no GPUs is only told of");
        }
    }
}
