//! GPUs: no device over-booked, no share taken from two, whole ones alone, the sick avoided and left; and why a node has none that would do.

use skerry_model::app::{Gpu as Ask, GpuNeed};
use skerry_model::{GpuBooking, GpuId, GpuIsolation, GpuShare, MigProfile};

use super::laws::{Step, each_service, run, was_on};
use super::*;
use crate::books::Books;
use crate::reach::Reach;
use crate::want::Want;

pub(super) fn shapes() -> impl Strategy<Value = GpuShape> {
    let need = prop_oneof![
        2 => (1_u32..3).prop_map(NeedShape::Whole),
        4 => (proptest::option::of(1_i64..60), proptest::option::of(1_u32..=100))
            .prop_map(|(memory, percent)| NeedShape::Share(memory, percent)),
        2 => prop_oneof![Just("1g.10gb"), Just("2g.20gb")].prop_map(NeedShape::Part),
    ];
    let rarely = || proptest::bool::weighted(0.2);
    (need, rarely(), rarely(), proptest::option::of(any::<bool>())).prop_map(|(need, a100, mps, packs)| {
        let mps = mps && matches!(need, NeedShape::Share(..));
        GpuShape { need, a100, mps, packs }
    })
}

pub(super) fn standings() -> impl Strategy<Value = Standing> {
    prop_oneof![
        3 => Just(Standing::Sound),
        1 => Just(Standing::Closed("XidHardware".to_owned())),
        1 => Just(Standing::Sick("FallenOffBus".to_owned())),
    ]
}

/// The GPUs of a machine, which are hardly ever none: most have something to ask for.
pub(super) fn machines() -> impl Strategy<Value = BTreeMap<GpuId, Gpu>> {
    let sharing =
        prop_oneof![Just(GpuIsolation::None), Just(GpuIsolation::Accounted), Just(GpuIsolation::Mps)];
    let size = prop_oneof![2 => Just("1g.10gb"), 1 => Just("2g.20gb")].prop_map(profile);
    let parts = proptest::option::weighted(0.25, proptest::collection::vec(size, 0..4));
    let gpu = (any::<bool>(), proptest::option::weighted(0.9, 20_u64..100), parts, standings(), sharing);
    proptest::collection::vec(gpu, 0..4).prop_map(|gpus| {
        let gpu = |(n, (a100, memory_bytes, parts, standing, sharing)): (usize, _)| {
            let model = if a100 { "NVIDIA A100-SXM4-80GB" } else { "Tesla T4" }.to_owned();
            let part = |(m, size)| (id(&format!("MIG-{n}-{m}")), size);
            let parts = Option::map(parts, |parts: Vec<_>| parts.into_iter().enumerate().map(part).collect());
            (id(&format!("GPU-{n}")), Gpu { model, memory_bytes, parts, standing, sharing })
        };
        gpus.into_iter().enumerate().map(gpu).collect()
    })
}

fn id(text: &str) -> GpuId {
    GpuId::parse(text).unwrap()
}

fn profile(text: &str) -> MigProfile {
    MigProfile::parse(text).unwrap()
}

/// Few nodes, of which nothing keeps anybody away but their GPUs, and apps that want these: changes step by step, mostly of what is in the store.
fn crowded() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        4 => (1_u32..4).prop_map(Shape::Copies),
        1 => Just(Shape::Everywhere),
        1 => (1_u32..3).prop_map(|count| Shape::Job(count, count)),
    ];
    let service = (kind, shapes(), proptest::bool::weighted(0.2), proptest::option::weighted(0.2, 1_i64..60));
    let service = service.prop_map(|(kind, gpu, stays, memory)| ServiceShape {
        kind,
        stays,
        memory,
        gpu: Some(gpu),
        ..ServiceShape::default()
    });
    let apps = proptest::collection::vec(service, 1..4).prop_map(|services| app(None, &services, None));
    let node = || {
        (machines(), proptest::bool::weighted(0.8)).prop_map(|(gpus, joins)| Node {
            gpus,
            joins: joins.then(|| cluster_name(0)),
            ..node(0, false, Some(100))
        })
    };
    let step = prop_oneof![
        2 => (0_u8..3, proptest::option::weighted(0.9, apps)).prop_map(|(n, app)| Step::App(n, app)),
        4 => (0_u8..3, 0_usize..3, standings()).prop_map(|(n, at, is)| Step::Gpu(n, at, is)),
        1 => (0_u8..3, node()).prop_map(|(n, node)| Step::Node(n, Some(node))),
        1 => (0_u8..3).prop_map(Step::Reach),
        4 => (0_u8..3, any::<u32>()).prop_map(|(n, bits)| Step::Run(n, bits)),
        4 => Just(Step::CommitAll),
    ];
    let fleet = proptest::collection::vec(node(), 3);
    (fleet, proptest::collection::vec(step, 1..30)).prop_map(|(fleet, steps)| {
        let cluster = std::iter::once(Step::Cluster(0, Some(Cluster::default())));
        let nodes = (0..).zip(fleet).map(|(n, node)| Step::Node(n, Some(node)));
        cluster.chain(nodes).chain(steps).collect()
    })
}

/// Whether what an instance has of a node's GPUs drives it to others, by the words of the effect.
pub(super) fn is_bad(node: &Node, placed: &Placed) -> bool {
    placed.gpus.iter().any(|booking| match node.gpus.get(&booking.gpu) {
        Some(gpu) => {
            let device = match &booking.share {
                GpuShare::Mig { device, .. } => Some(device),
                GpuShare::Whole | GpuShare::Part { .. } => None,
            };
            let is_there = match (device, &gpu.parts) {
                (Some(device), Some(parts)) => parts.contains_key(device),
                (None, None) => true,
                _ => false,
            };
            matches!(gpu.standing, Standing::Sick(_)) || !is_there
        }
        None => !node.gpus.is_empty(),
    })
}

/// Every booking of a node, with its instance.
fn bookings(placed: &[Placed]) -> impl Iterator<Item = (&Placed, &GpuBooking)> {
    placed.iter().flat_map(|placed| placed.gpus.iter().map(move |booking| (placed, booking)))
}

fn amounts(booking: &GpuBooking) -> (u64, u32) {
    match &booking.share {
        GpuShare::Part { memory_bytes, compute_percent } => {
            (memory_bytes.unwrap_or(0), compute_percent.unwrap_or(0))
        }
        GpuShare::Whole | GpuShare::Mig { .. } => (0, 0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_crowd_is_placed_the_same_step_by_step_and_moves_no_more_once_it_is_stored(steps in crowded()) {
        run(steps, |state, solution| {
            assert_eq!(*solution, solve(state));
            let mut settled = state.clone();
            commit(&mut settled, solution);
            assert_eq!(*solution, solve(&settled));
        });
    }

    #[test]
    fn no_gpu_is_overbooked_and_whole_ones_and_parts_have_one_owner(steps in crowded()) {
        run(steps, |state, solution| {
            for (name, placed) in solution.values().flat_map(|plan| &plan.nodes) {
                let held = state.previous.get(name).cloned().unwrap_or_default();
                let is_new = |(placed, booking): &(&Placed, &GpuBooking)| {
                    let before = held.iter().find(|one| one.instance == placed.instance);
                    before.is_none_or(|before| !before.gpus.contains(booking))
                };
                let ids: BTreeSet<&GpuId> = bookings(placed).map(|(_, booking)| &booking.gpu).collect();
                for id in ids {
                    let of: Vec<_> = bookings(placed).filter(|(_, booking)| booking.gpu == *id).collect();
                    let wholes = of.iter().filter(|(_, booking)| booking.share == GpuShare::Whole).count();
                    assert!(wholes == 0 || of.len() == 1, "{name} {id}: one has it whole, and others some");
                    let parts = of.iter().filter_map(|(_, booking)| match &booking.share {
                        GpuShare::Mig { device, .. } => Some(device),
                        _ => None,
                    });
                    let (all, distinct) = (parts.clone().count(), parts.collect::<BTreeSet<_>>().len());
                    assert_eq!(all, distinct, "{name} {id}: a part has two owners");
                    let percent: u32 = of.iter().map(|(_, booking)| amounts(booking).1).sum();
                    assert!(percent <= 100, "{name} {id}: {percent} percent of its compute");
                    // A machine may come back with less.
                    let grows = of.iter().any(|one| is_new(one) && amounts(one.1).0 > 0);
                    let memory: u64 = of.iter().map(|(_, booking)| amounts(booking).0).sum();
                    let there = state.nodes[name].gpus.get(id).and_then(|gpu| gpu.memory_bytes).unwrap_or(0);
                    assert!(!grows || memory <= there, "{name} {id}: {memory} bytes of {there}");
                }
            }
        });
    }

    #[test]
    fn nobody_comes_to_what_is_had_by_a_copy_that_still_runs(steps in crowded()) {
        run(steps, |state, solution| {
            for (name, placed) in solution.values().flat_map(|plan| &plan.nodes) {
                let node = &state.nodes[name];
                for (one, booking) in bookings(placed) {
                    let had = was_on(state, name, &one.instance).is_some_and(|was| was.gpus.contains(booking));
                    if had {
                        continue;
                    }
                    let others = node.held_gpus.iter().filter(|(other, _)| other.app != one.instance.app);
                    let held: Vec<_> = others.flat_map(|(other, all)| all.iter().map(move |had| (other, had)))
                        .filter(|(_, had)| had.gpu == booking.gpu).collect();
                    for (other, had) in &held {
                        let apart = match (&booking.share, &had.share) {
                            (GpuShare::Part { .. }, GpuShare::Part { .. }) => true,
                            (GpuShare::Mig { device, .. }, GpuShare::Mig { device: theirs, .. }) => device != theirs,
                            _ => false,
                        };
                        assert!(apart, "{} gets {booking}, and {other} still runs with {had}", one.instance);
                    }
                    // Of each other the larger of what runs and what is to.
                    let GpuShare::Part { memory_bytes: Some(wanted), .. } = booking.share else { continue };
                    let mut most: BTreeMap<&InstanceName, u64> = BTreeMap::new();
                    let planned = bookings(placed).map(|(other, had)| (&other.instance, had));
                    let planned = planned.filter(|(other, had)| **other != one.instance && had.gpu == booking.gpu);
                    for (other, had) in held.into_iter().chain(planned) {
                        let most = most.entry(other).or_default();
                        *most = (*most).max(amounts(had).0);
                    }
                    let (all, there) = (most.values().sum::<u64>() + wanted, node.gpus[&booking.gpu].memory_bytes);
                    assert!(Some(all) <= there, "{}: {all} bytes of {there:?}", one.instance);
                }
            }
        });
    }

    #[test]
    fn each_instance_has_what_it_asks_for_of_one_device_or_whole_ones(steps in crowded()) {
        run(steps, |state, solution| each_service(state, solution, |cluster, _, app, service, placed| {
            let revision = state.apps[app].wanted(cluster).revision;
            for (name, placed) in placed.into_iter().filter(|(_, placed)| placed.revision == revision) {
                let ids: BTreeSet<&GpuId> = placed.gpus.iter().map(|booking| &booking.gpu).collect();
                assert_eq!(ids.len(), placed.gpus.len(), "{} on {name} has one twice", placed.instance);
                let Some(Ask { need, .. }) = &service.gpu else {
                    assert_eq!(placed.gpus, [], "{} asks for none", placed.instance);
                    continue;
                };
                let shares: Vec<&GpuShare> = placed.gpus.iter().map(|booking| &booking.share).collect();
                match (need, shares.as_slice()) {
                    (GpuNeed::Whole { count }, shares) => {
                        assert_eq!(shares.len(), *count as usize);
                        assert!(shares.iter().all(|share| **share == GpuShare::Whole));
                    }
                    (GpuNeed::Share { memory_bytes, compute_percent }, [share]) => {
                        let (memory_bytes, compute_percent) = (*memory_bytes, *compute_percent);
                        assert_eq!(**share, GpuShare::Part { memory_bytes, compute_percent });
                    }
                    (GpuNeed::Mig { profile }, [GpuShare::Mig { profile: found, .. }]) => {
                        assert_eq!(found, profile);
                    }
                    (need, shares) => panic!("{}: {need:?} became {shares:?}", placed.instance),
                }
            }
        }));
    }

    #[test]
    fn what_comes_to_a_gpu_suits_it_and_none_comes_to_one_that_is_not_sound(steps in crowded()) {
        run(steps, |state, solution| each_service(state, solution, |cluster, _, app, service, placed| {
            let revision = state.apps[app].wanted(cluster).revision;
            for (name, placed) in placed.into_iter().filter(|(_, placed)| placed.revision == revision) {
                let Some(ask) = &service.gpu else { continue };
                let before = was_on(state, name, &placed.instance);
                for booking in &placed.gpus {
                    assert!(booking.isolation >= ask.isolation_min, "{}", placed.instance);
                    let had = |before: &Placed| before.gpus.iter().any(|one| one.gpu == booking.gpu);
                    if before.as_ref().is_some_and(had) {
                        continue;
                    }
                    let gpu = &state.nodes[name].gpus[&booking.gpu];
                    assert_eq!(gpu.standing, Standing::Sound, "{} comes to {}", placed.instance, booking.gpu);
                    assert!(ask.models.matches(&gpu.model));
                    let is_part = match (&booking.share, &gpu.parts) {
                        (GpuShare::Mig { device, profile }, Some(parts)) => parts.get(device) == Some(profile),
                        (GpuShare::Whole | GpuShare::Part { .. }, None) => true,
                        _ => false,
                    };
                    assert!(is_part, "{}: {booking}", placed.instance);
                    let granted = match &booking.share {
                        GpuShare::Whole => GpuIsolation::Exclusive,
                        GpuShare::Mig { .. } => GpuIsolation::Mig,
                        GpuShare::Part { .. } => gpu.sharing,
                    };
                    assert_eq!(booking.isolation, granted);
                }
            }
        }));
    }

    #[test]
    fn who_may_leave_a_sick_gpu_stays_only_where_no_other_takes_it(steps in crowded()) {
        run(steps, |state, solution| each_service(state, solution, |cluster, plan, app, service, placed| {
            let may_leave = !service.is_job() && service.placing.failover == Failover::Always;
            let wanted = state.apps[app].wanted(cluster);
            let moves = may_leave && matches!(service.kind, Kind::Deployment { .. });
            for (name, one) in placed {
                let node = &state.nodes[name];
                if !may_leave || node.lost || !is_bad(node, one) {
                    continue;
                }
                for (other, there) in &plan.nodes {
                    if other != name && !moves {
                        continue;
                    }
                    let node = &state.nodes[other];
                    let want = Want { name: app, app: wanted, reach: Reach::Whole, service, rank: 0, needs: vec![] };
                    let mut books = Books::new(node, 1);
                    for other in there.iter().filter(|other| other.instance != one.instance) {
                        books.insert(0, other.clone());
                    }
                    let takes = books.fit(&one.instance, &want).is_ok();
                    let comes = other == name
                        || (state.refusal(solution, app, &service.name, other).is_none() && !node.lost);
                    assert!(!(takes && comes), "{} stays on {name}, and {other} would take it", one.instance);
                }
            }
        }));
    }
}

const GIB: u64 = 1 << 30;

fn t4(standing: Standing) -> Gpu {
    let sharing = GpuIsolation::Accounted;
    Gpu { model: "Tesla T4".to_owned(), memory_bytes: Some(16 * GIB), parts: None, standing, sharing }
}

fn with_gpus(gpus: impl IntoIterator<Item = Gpu>) -> Node {
    let gpus = gpus.into_iter().enumerate().map(|(n, gpu)| (id(&format!("GPU-{n}")), gpu)).collect();
    Node { gpus, ..node(0, false, None) }
}

fn asks(need: NeedShape) -> ServiceShape {
    ServiceShape { gpu: Some(GpuShape { need, a100: false, mps: false, packs: None }), ..copies(1) }
}

/// A share of so many GiB.
fn share(gib: i64) -> ServiceShape {
    asks(NeedShape::Share(Some(gib << 30), None))
}

/// A fleet of these nodes in one cluster with one app of these services.
fn fleet(nodes: Vec<Node>, services: &[ServiceShape]) -> State {
    let mut state = State::default();
    state.clusters.insert(cluster_name(0), Cluster::default());
    for (n, node) in (0..).zip(nodes) {
        state.nodes.insert(node_name(n), Node { joins: Some(cluster_name(0)), ..node });
    }
    state.apps.insert(app_name(0), app(None, services, None));
    state
}

/// Of each instance its node and first GPU, by name.
fn places(solution: &Solution) -> Vec<(NodeName, String)> {
    let placed = solution.values().flat_map(|plan| &plan.nodes);
    let mut all: Vec<_> = placed
        .flat_map(|(name, placed)| bookings(placed).map(move |(p, b)| (p.instance.clone(), name, b)))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, name, booking)| (name.clone(), booking.gpu.to_string())).collect()
}

fn at(node: u8, gpu: usize) -> (NodeName, String) {
    (node_name(node), format!("GPU-{gpu}"))
}

/// Why the first instance has no place.
fn why(node: Node, shape: ServiceShape) -> Reason {
    let plan = solve(&fleet(vec![node], &[shape]));
    plan[&cluster_name(0)].unplaced[0].reason.clone()
}

#[test]
fn a_node_says_what_keeps_it_from_giving_a_gpu() {
    let sound = || t4(Standing::Sound);
    let mig = Gpu { parts: Some(BTreeMap::from([(id("MIG-0"), profile("1g.10gb"))])), ..sound() };
    assert_eq!(why(with_gpus([]), share(1)), Reason::GpuMissing { wanted: 1, found: 0 });
    let two = asks(NeedShape::Whole(2));
    assert_eq!(why(with_gpus([sound()]), two), Reason::GpuMissing { wanted: 2, found: 1 });
    // Never the sum.
    let memory = Reason::GpuMemory { wanted: 17 * GIB, free: 16 * GIB };
    assert_eq!(why(with_gpus([sound(), sound()]), share(17)), memory);
    let unknown = Gpu { memory_bytes: None, ..sound() };
    assert_eq!(why(with_gpus([unknown]), share(1)), Reason::GpuMemory { wanted: GIB, free: 0 });
    let mut a100 = share(1);
    a100.gpu.as_mut().unwrap().a100 = true;
    assert_eq!(why(with_gpus([sound()]), a100).word(), "GpuModel");
    let mut mps = share(1);
    mps.gpu.as_mut().unwrap().mps = true;
    let isolation = Reason::GpuIsolation { wanted: GpuIsolation::Mps, granted: GpuIsolation::Accounted };
    assert_eq!(why(with_gpus([sound()]), mps), isolation);
    for standing in [Standing::Closed("TooHot".to_owned()), Standing::Sick("TooHot".to_owned())] {
        let unhealthy = Reason::GpuUnhealthy { gpu: id("GPU-0"), why: "TooHot".to_owned() };
        assert_eq!(why(with_gpus([t4(standing)]), share(1)), unhealthy);
    }
    assert_eq!(why(with_gpus([mig.clone()]), share(1)), Reason::GpuDivided);
    let large = asks(NeedShape::Part("7g.80gb"));
    assert_eq!(why(with_gpus([mig]), large), Reason::GpuProfile { profile: profile("7g.80gb") });
    // What is taken: two want it whole.
    let whole = ServiceShape { kind: Shape::Copies(2), ..asks(NeedShape::Whole(1)) };
    assert_eq!(why(with_gpus([sound()]), whole), Reason::GpuTaken { wanted: 1, free: 0 });
    let most = ServiceShape { kind: Shape::Copies(2), ..asks(NeedShape::Share(None, Some(60))) };
    assert_eq!(why(with_gpus([sound()]), most), Reason::GpuCompute { wanted: 60, free: 40 });
}

#[test]
fn of_several_gpus_the_reason_is_that_of_the_nearest() {
    let hot = t4(Standing::Sick("TooHot".to_owned()));
    let small = Gpu { memory_bytes: Some(GIB), ..t4(Standing::Sound) };
    assert_eq!(why(with_gpus([hot, small]), share(8)), Reason::GpuMemory { wanted: 8 * GIB, free: GIB });
}

#[test]
fn shares_fill_a_gpu_before_they_open_another_unless_they_are_spread() {
    let two = || with_gpus([t4(Standing::Sound), t4(Standing::Sound)]);
    let four = ServiceShape { kind: Shape::Copies(4), ..share(6) };
    let filled = solve(&fleet(vec![two(), two()], &[four]));
    assert_eq!(places(&filled), [at(0, 0), at(0, 0), at(0, 1), at(0, 1)]);
    let mut spread = four;
    spread.gpu.as_mut().unwrap().packs = Some(false);
    let spread = solve(&fleet(vec![two(), two()], &[spread]));
    assert_eq!(places(&spread), [at(0, 0), at(1, 0), at(0, 1), at(1, 1)]);
}

#[test]
fn whole_gpus_and_shares_keep_clear_of_each_other() {
    let node = || with_gpus([t4(Standing::Sound), t4(Standing::Sound)]);
    let plan = solve(&fleet(vec![node()], &[share(1), asks(NeedShape::Whole(1)), share(1)]));
    assert_eq!(places(&plan), [at(0, 0), at(0, 1), at(0, 0)]);
}

#[test]
fn each_part_of_a_divided_gpu_has_one_owner() {
    let parts = ["1g.10gb", "2g.20gb", "1g.10gb"].into_iter().enumerate();
    let parts = parts.map(|(n, size)| (id(&format!("MIG-{n}")), profile(size))).collect();
    let node = with_gpus([t4(Standing::Sound), Gpu { parts: Some(parts), ..t4(Standing::Sound) }]);
    let three = ServiceShape { kind: Shape::Copies(3), ..asks(NeedShape::Part("1g.10gb")) };
    let solution = solve(&fleet(vec![node], &[three]));
    let plan = &solution[&cluster_name(0)];
    let devices: Vec<_> = bookings(&plan.nodes[&node_name(0)]).map(|(_, b)| b.share.clone()).collect();
    let part = |device| GpuShare::Mig { profile: profile("1g.10gb"), device: id(device) };
    assert_eq!(devices, [part("MIG-0"), part("MIG-2")]);
    assert_eq!(plan.unplaced[0].reason, Reason::GpuTaken { wanted: 1, free: 0 });
}

/// What comes of a fleet whose plan is in the store, once a GPU of a node is so.
fn after(mut state: State, node: u8, gpu: &str, standing: Standing) -> Solution {
    let solution = solve(&state);
    commit(&mut state, &solution);
    state.nodes.get_mut(&node_name(node)).unwrap().gpus.get_mut(&id(gpu)).unwrap().standing = standing;
    solve(&state)
}

#[test]
fn a_closed_gpu_keeps_what_it_has_and_a_sick_one_is_left_for_the_nearest_other() {
    let sound = || t4(Standing::Sound);
    let (closed, sick) = (Standing::Closed("Xid".to_owned()), Standing::Sick("Xid".to_owned()));
    let pair = || fleet(vec![with_gpus([sound(), sound()]), with_gpus([sound()])], &[share(10)]);
    assert_eq!(places(&after(pair(), 0, "GPU-0", closed)), [at(0, 0)]);
    assert_eq!(places(&after(pair(), 0, "GPU-0", sick.clone())), [at(0, 1)], "on its node, if that has one");
    let single = |shape| fleet(vec![with_gpus([sound()]), with_gpus([sound()])], &[shape]);
    assert_eq!(places(&after(single(share(10)), 0, "GPU-0", sick.clone())), [at(1, 0)]);
    let stays = ServiceShape { stays: true, ..share(10) };
    assert_eq!(places(&after(single(stays), 0, "GPU-0", sick.clone())), [at(0, 0)]);
    let nowhere = fleet(vec![with_gpus([sound()])], &[share(10)]);
    let kept = after(nowhere, 0, "GPU-0", sick);
    assert_eq!(places(&kept), [at(0, 0)]);
    assert_eq!(kept[&cluster_name(0)].unplaced, [], "it is as it is wanted");
}

#[test]
fn a_node_that_tells_of_no_gpu_yet_keeps_what_it_has_and_one_that_tells_of_others_does_not() {
    let two = with_gpus([t4(Standing::Sound), t4(Standing::Sound)]);
    let mut state = fleet(vec![two.clone()], &[share(10)]);
    let solution = solve(&state);
    commit(&mut state, &solution);
    let mut told = |gpus: BTreeMap<GpuId, Gpu>| {
        state.nodes.get_mut(&node_name(0)).unwrap().gpus = gpus;
        places(&solve(&state))
    };
    assert_eq!(told(BTreeMap::new()), [at(0, 0)]);
    assert_eq!(told(BTreeMap::from([(id("GPU-1"), t4(Standing::Sound))])), [at(0, 1)]);
}

#[test]
fn an_update_keeps_its_gpu() {
    let closed = Standing::Closed("Xid".to_owned());
    let mut state = fleet(vec![with_gpus([t4(Standing::Sound), t4(Standing::Sound)])], &[share(10)]);
    let solution = solve(&state);
    commit(&mut state, &solution);
    state.nodes.get_mut(&node_name(0)).unwrap().gpus.get_mut(&id("GPU-0")).unwrap().standing = closed;
    let larger = app(None, &[share(12)], None);
    state.apps.insert(app_name(0), larger.clone());
    let solution = solve(&state);
    assert_eq!(places(&solution), [at(0, 0)]);
    assert_eq!(solution[&cluster_name(0)].nodes[&node_name(0)][0].revision, larger.base.revision);
}

#[test]
fn what_still_runs_has_its_gpu_until_it_has_ended_and_is_in_nobody_s_way_but_others() {
    let mut state = fleet(vec![with_gpus([t4(Standing::Sound)])], &[share(12)]);
    let solution = solve(&state);
    commit(&mut state, &solution);
    let first = solution[&cluster_name(0)].nodes[&node_name(0)][0].clone();
    let node = state.nodes.get_mut(&node_name(0)).unwrap();
    node.held_gpus.insert(first.instance.clone(), first.gpus.clone());
    // It is to have less, and its former copy runs on; its own update fits where that is.
    state.apps.insert(app_name(0), app(None, &[share(2)], None));
    state.apps.insert(app_name(1), app(None, &[share(8)], None));
    let solution = solve(&state);
    assert_eq!(places(&solution), [at(0, 0)]);
    let unplaced = &solution[&cluster_name(0)].unplaced[0];
    assert_eq!(unplaced.reason, Reason::GpuMemory { wanted: 8 * GIB, free: 4 * GIB });
    // It is to go, and runs on.
    commit(&mut state, &solution);
    state.apps.remove(&app_name(0));
    assert_eq!(places(&solve(&state)), []);
    state.nodes.get_mut(&node_name(0)).unwrap().held_gpus.clear();
    assert_eq!(places(&solve(&state)), [at(0, 0)]);
}
