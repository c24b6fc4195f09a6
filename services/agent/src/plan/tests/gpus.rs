//! Nobody is started on what another copy still has of a GPU, and nobody waits for ever.

use skerry_model::{GpuBooking, GpuIsolation, GpuShare, GpuTaken};

use super::*;

/// Bytes of each card of a test.
const CARD: u64 = 10;

fn card(n: u8) -> GpuId {
    GpuId::parse(&format!("GPU-{n}")).unwrap()
}

fn booking(gpu: u8, share: GpuShare) -> GpuBooking {
    GpuBooking { gpu: card(gpu), share, isolation: GpuIsolation::Accounted }
}

fn part(bytes: u64) -> GpuShare {
    GpuShare::Part { memory_bytes: Some(bytes), compute_percent: None }
}

/// What services have that fits on two cards: who would not fit has none.
fn booked() -> impl Strategy<Value = Vec<Vec<GpuBooking>>> {
    let share = prop_oneof![1 => Just(GpuShare::Whole), 3 => (1..=CARD).prop_map(part)];
    let one = prop::option::weighted(0.8, (0..2u8, share));
    prop::collection::vec(one, SERVICES.len()).prop_map(|asks| {
        let mut taken: BTreeMap<GpuId, GpuTaken> = BTreeMap::new();
        let fit = |ask: Option<(u8, GpuShare)>| {
            let (gpu, share) = ask?;
            let taken = taken.entry(card(gpu)).or_default();
            taken.leaves(&share, Some(CARD)).then(|| taken.add(&share))?;
            Some(booking(gpu, share))
        };
        asks.into_iter().map(fit).map(|one| one.into_iter().collect()).collect()
    })
}

fn with(desired: &mut Desired, booked: &[Vec<GpuBooking>]) {
    for (index, gpus) in booked.iter().enumerate() {
        if let Some(spec) = desired.instances.get_mut(&name(index)) {
            let spec = Arc::make_mut(spec);
            spec.gpus.clone_from(gpus);
            spec.fingerprint = format!("{} with {gpus:?}", spec.fingerprint);
        }
    }
}

/// Containers that run for ever, of which each may come after earlier ones.
fn services() -> impl Strategy<Value = Vec<Sketch>> {
    let needs = prop::option::weighted(0.3, any::<prop::sample::Index>());
    prop::collection::vec((prop::bool::weighted(0.8), needs), SERVICES.len()).prop_map(|parts| {
        let wanted: Vec<bool> = parts.iter().map(|part| part.0).collect();
        let sketch = |(at, (wanted_here, needs)): (usize, (bool, Option<prop::sample::Index>))| Sketch {
            image: 0,
            is_process: false,
            when: RestartWhen::Always,
            needs: needs
                .filter(|_| at > 0)
                .map(|on| (on.index(at), DependencyCondition::Started))
                .into_iter()
                .filter(|(on, _)| wanted[*on])
                .collect(),
            wanted: wanted_here,
            start_first: false,
        };
        parts.into_iter().enumerate().map(sketch).collect()
    })
}

fn cards() -> BTreeMap<GpuId, u64> {
    (0..2).map(|n| (card(n), CARD)).collect()
}

/// Whether what `name` is started with fits beside what all others run with.
fn fits(world: &World, spec: &InstanceSpec) -> bool {
    let copies = world.values().flat_map(|view| view.instances.values());
    let others = copies.filter(|copy| copy.instance != spec.name && is_running(copy));
    let others: Vec<&GpuBooking> = others.flat_map(|copy| &copy.gpus).collect();
    spec.gpus.iter().all(|booking| {
        let mut taken = GpuTaken::default();
        for other in others.iter().filter(|other| other.gpu == booking.gpu) {
            taken.add(&other.share);
        }
        taken.leaves(&booking.share, Some(CARD))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_slow_nobody_is_started_on_what_another_has_and_in_the_end_all_run(
        (old, new) in (services(), services()),
        (had, booked) in (booked(), booked()),
        slow in prop::collection::vec(any::<u32>(), 12),
    ) {
        let mut before = desired(&old);
        with(&mut before, &had);
        let mut all = desired(&new);
        with(&mut all, &booked);
        all.formers = before.instances.clone();
        let mut world = empty_world();
        for spec in before.instances.values() {
            let copies = &mut world.get_mut(&kind_of(spec)).unwrap().instances;
            copies.insert(spec.name.clone(), observed(spec, running()));
        }
        let mut fixture = Fixture { gpus: cards(), ..Fixture::new() };
        let rounds = slow.into_iter().chain(std::iter::repeat_n(u32::MAX, 40));
        for quick in rounds {
            let plan = fixture.plan(&all, &world);
            for (at, action) in plan.actions.iter().enumerate().filter(|(at, _)| quick >> at & 1 == 1) {
                let starts = matches!(action.act, Act::Start | Act::Restart | Act::Replace);
                let specs = if action.former { &all.formers } else { &all.instances };
                if starts {
                    prop_assert!(fits(&world, &specs[&action.instance]), "{at}: {action:?}");
                }
                let one = Plan { actions: vec![action.clone()], ..Plan::default() };
                carry_out(&one, &all, &mut world, &mut fixture.memories, |_| true);
            }
        }
        let plan = fixture.plan(&all, &world);
        prop_assert!(plan.actions.is_empty(), "{:?}", plan.actions);
        for spec in all.instances.values() {
            prop_assert_eq!(plan.holds.get(&spec.name), Some(&Hold::Runs), "{}", &spec.name);
            prop_assert_eq!(&world[&RuntimeKind::Docker].instances[&spec.name].fingerprint, &spec.fingerprint);
        }
    }
}

fn sketch() -> Sketch {
    Sketch {
        image: 0,
        is_process: false,
        when: RestartWhen::Always,
        needs: vec![],
        wanted: true,
        start_first: false,
    }
}

/// Two services; the first has `had` and is to have `first`, the second is to have `second`.
fn two(had: GpuShare, first: GpuShare, second: GpuShare) -> (Desired, World, Fixture) {
    let sketches = [sketch(), sketch()];
    let mut before = desired(&sketches[..1]);
    with(&mut before, &[vec![booking(0, had)]]);
    let mut all = desired(&sketches);
    with(&mut all, &[vec![booking(0, first)], vec![booking(0, second)]]);
    all.formers = before.instances.clone();
    let mut world = empty_world();
    let copies = &mut world.get_mut(&RuntimeKind::Docker).unwrap().instances;
    copies.insert(name(0), observed(&before.instances[&name(0)], running()));
    let mut fixture = Fixture { gpus: cards(), ..Fixture::new() };
    for spec in all.instances.values() {
        fixture.memories.entry(spec.name.clone()).or_default().fetched(&spec.fingerprint);
    }
    (all, world, fixture)
}

fn acts(plan: &Plan) -> Vec<(InstanceName, Act)> {
    plan.actions.iter().map(|action| (action.instance.clone(), action.act)).collect()
}

#[test]
fn a_former_copy_whose_successor_cannot_start_keeps_others_off_what_it_has() {
    let (all, mut world, mut fixture) = two(part(9), part(2), part(8));
    let fails = RuntimeError { reason: "MountMissing", message: "no file".into(), transient: true };
    let fingerprint = all.instances[&name(0)].fingerprint.clone();
    let memory = fixture.memories.get_mut(&name(0)).unwrap();
    memory.failed(Some(fingerprint), fails, MonoTime::default(), 0.0);
    let plan = fixture.plan(&all, &world);
    assert_eq!(acts(&plan), []);
    let Some(Hold::Gpu { message }) = plan.holds.get(&name(1)) else { panic!("{:?}", plan.holds) };
    assert_eq!(
        message,
        "what is booked for it of GPU-0 is still held by app/a/n1/0: it is started once that has ended"
    );
    world.get_mut(&RuntimeKind::Docker).unwrap().instances.clear();
    assert_eq!(acts(&fixture.plan(&all, &world)), [(name(1), Act::Start)]);
}

#[test]
fn what_is_being_started_has_its_gpu_and_what_nobody_looked_at_may_have_any() {
    let (all, mut world, mut fixture) = two(part(1), part(8), part(8));
    // The first is started and was not seen yet; nobody wants it any more.
    let given = (RuntimeKind::Docker, all.instances[&name(0)].gpus.clone());
    let mut left = all.clone();
    left.instances.remove(&name(0));
    left.formers.clear();
    world.get_mut(&RuntimeKind::Docker).unwrap().instances.clear();
    fixture.memories.get_mut(&name(0)).unwrap().given = Some(given);
    assert_eq!(acts(&fixture.plan(&left, &world)), []);
    fixture.memories.get_mut(&name(0)).unwrap().given = None;
    assert_eq!(acts(&fixture.plan(&left, &world)), [(name(1), Act::Start)]);
    let process = world.get_mut(&RuntimeKind::Process).unwrap();
    process.available = false;
    let plan = fixture.plan(&left, &world);
    assert!(matches!(plan.holds.get(&name(1)), Some(Hold::Gpu { .. })), "{:?}", plan.holds);
    let process = world.get_mut(&RuntimeKind::Process).unwrap();
    (process.error, process.hangs) = (Some(not_there()), true);
    assert_eq!(acts(&fixture.plan(&left, &world)), [], "it hangs, and may have any");
    world.get_mut(&RuntimeKind::Process).unwrap().hangs = false;
    assert_eq!(acts(&fixture.plan(&left, &world)), [(name(1), Act::Start)], "a machine without it");
}

/// Services that have this and run, and are to have that.
fn updated(had: &[Vec<GpuBooking>], booked: &[Vec<GpuBooking>]) -> (Desired, World, Fixture) {
    let sketches = vec![sketch(); had.len()];
    let (mut before, mut all) = (desired(&sketches), desired(&sketches));
    with(&mut before, had);
    with(&mut all, booked);
    all.formers = before.instances.clone();
    let mut world = empty_world();
    let copies = &mut world.get_mut(&RuntimeKind::Docker).unwrap().instances;
    copies.extend(before.instances.values().map(|spec| (spec.name.clone(), observed(spec, running()))));
    let mut fixture = Fixture { gpus: cards(), ..Fixture::new() };
    for spec in all.instances.values() {
        fixture.memories.entry(spec.name.clone()).or_default().fetched(&spec.fingerprint);
    }
    (all, world, fixture)
}

/// Two services, each of which has what the other is to have.
fn crossed() -> (Desired, World, Fixture) {
    let whole = |gpu| vec![booking(gpu, GpuShare::Whole)];
    updated(&[whole(1), whole(0)], &[whole(0), whole(1)])
}

#[test]
fn a_card_that_has_less_than_it_had_keeps_nobody_off_who_is_wanted_there() {
    let (all, mut world, mut fixture) = two(part(5), part(5), part(5));
    fixture.gpus.insert(card(0), CARD - 1);
    let first = &all.instances[&name(0)];
    let copies = &mut world.get_mut(&RuntimeKind::Docker).unwrap().instances;
    copies.insert(name(0), observed(first, running()));
    assert_eq!(acts(&fixture.plan(&all, &world)), [(name(1), Act::Start)]);
    // Not where somebody has more than is wanted.
    let former =
        InstanceSpec { gpus: vec![booking(0, part(6))], fingerprint: "old".into(), ..(**first).clone() };
    let copies = &mut world.get_mut(&RuntimeKind::Docker).unwrap().instances;
    copies.insert(name(0), observed(&former, running()));
    assert_eq!(acts(&fixture.plan(&all, &world)), [(name(0), Act::Replace)]);
}

#[test]
fn two_that_wait_for_each_other_s_gpu_do_not_wait_for_ever() {
    let (mut all, world, fixture) = crossed();
    let plan = fixture.plan(&all, &world);
    assert_eq!(acts(&plan).len(), 1, "one makes way");
    assert_eq!(plan.actions[0].act, Act::Stop);
    all.authoritative = false;
    assert_eq!(acts(&fixture.plan(&all, &world)), [], "nothing is stopped that may be wanted");
}

#[test]
fn what_makes_way_and_could_not_be_stopped_is_left_alone_for_a_while() {
    let (all, world, mut fixture) = crossed();
    let stopped = fixture.plan(&all, &world).actions[0].instance.clone();
    for name in all.instances.keys() {
        let memory = fixture.memories.get_mut(name).unwrap();
        memory.failed(None, not_there(), MonoTime::default(), 0.0);
    }
    let plan = fixture.plan(&all, &world);
    assert_eq!(acts(&plan), [], "{stopped}");
    assert!(plan.wake.is_some());
}

#[test]
fn nobody_is_stopped_where_that_makes_no_room_or_where_room_is_made_anyway() {
    // What the first has on the other card the second is to have, which has what the first is to have; of that a third has too much that cannot be replaced.
    let had = [vec![booking(0, part(5))], vec![booking(1, GpuShare::Whole)], vec![booking(0, part(5))]];
    let booked = [vec![booking(1, GpuShare::Whole)], vec![booking(0, part(8))], vec![booking(0, part(1))]];
    let (all, world, mut fixture) = updated(&had, &booked);
    let third = all.instances[&name(2)].fingerprint.clone();
    fixture.memories.get_mut(&name(2)).unwrap().failed(Some(third), not_there(), MonoTime::default(), 0.0);
    assert_eq!(acts(&fixture.plan(&all, &world)), [], "the third is in the way all the same");

    let had = [2, 2, 6].map(|bytes| vec![booking(0, part(bytes))]);
    let booked = [4, 4, 1].map(|bytes| vec![booking(0, part(bytes))]);
    let (all, world, fixture) = updated(&had, &booked);
    assert_eq!(acts(&fixture.plan(&all, &world)), [(name(2), Act::Replace)], "it makes room for both");
}

#[test]
fn a_former_copy_that_has_no_gpu_any_more_does_not_hold_up_its_successor() {
    let mut before = desired(&[sketch()]);
    with(&mut before, &[vec![booking(0, part(9))]]);
    let mut all = desired(&[Sketch { image: 1, start_first: true, ..sketch() }, sketch()]);
    with(&mut all, &[vec![], vec![booking(0, part(8))]]);
    all.formers = before.instances.clone();
    let mut world = empty_world();
    let copies = &mut world.get_mut(&RuntimeKind::Docker).unwrap().instances;
    copies.insert(name(0), observed(&before.instances[&name(0)], exited(Some(1))));
    copies.insert(name(1), observed(&all.instances[&name(1)], running()));
    let mut fixture = Fixture { gpus: cards(), ..Fixture::new() };
    for spec in all.instances.values() {
        fixture.memories.entry(spec.name.clone()).or_default().fetched(&spec.fingerprint);
    }
    assert_eq!(acts(&fixture.plan(&all, &world)), [(name(0), Act::StartBeside)]);
}

#[test]
fn what_may_be_starting_still_has_its_gpu_while_it_is_removed() {
    let (all, mut world, mut fixture) = two(part(9), part(9), part(8));
    let mut left = all.clone();
    left.instances.remove(&name(0));
    left.formers.clear();
    let copies = &mut world.get_mut(&RuntimeKind::Docker).unwrap().instances;
    copies.get_mut(&name(0)).unwrap().state = RunState::Created;
    assert_eq!(acts(&fixture.plan(&left, &world)), [(name(0), Act::Remove)]);
    let memory = fixture.memories.entry(name(0)).or_default();
    memory.acts(Busy::Stopping, MonoTime::default());
    assert_eq!(acts(&fixture.plan(&left, &world)), []);
    world.get_mut(&RuntimeKind::Docker).unwrap().instances.clear();
    assert_eq!(acts(&fixture.plan(&left, &world)), [(name(1), Act::Start)]);
}
