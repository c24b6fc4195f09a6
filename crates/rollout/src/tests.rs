//! The laws of rollouts, on fleets that fail, go away and come back at random.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use skerry_model::app::{OnFailure, RolloutStrategy, Share};
use skerry_model::{ClusterName, ContentHash, Selector};

use super::*;

const CLUSTERS: usize = 12;

fn revision(n: u8) -> ContentHash {
    ContentHash::of(&[n])
}

fn name(n: usize) -> ClusterName {
    ClusterName::parse(&format!("c{n:02}")).unwrap()
}

fn strategy() -> RolloutStrategy {
    RolloutStrategy {
        batch_size: Share::Count(2),
        canary: None,
        health_window: Duration::from_secs(10),
        progress_deadline: Duration::from_secs(60),
        max_unavailable: Share::Count(2),
        max_failures: Share::Count(0),
        pause_after_canary: false,
        on_failure: OnFailure::RollBack,
    }
}

fn strategies() -> impl Strategy<Value = RolloutStrategy> {
    let share = || prop_oneof![(1_usize..6).prop_map(Share::Count), (1_u8..=100).prop_map(Share::Percent)];
    let failure = prop_oneof![Just(OnFailure::RollBack), Just(OnFailure::Pause)];
    (share(), share(), 0_usize..3, any::<bool>(), any::<bool>(), failure).prop_map(
        |(batch_size, max_unavailable, failures, canary, pause, on_failure)| RolloutStrategy {
            batch_size,
            max_unavailable,
            max_failures: Share::Count(failures),
            canary: canary.then(|| Selector::parse("ring=canary").unwrap()),
            pause_after_canary: canary && pause,
            on_failure,
            ..strategy()
        },
    )
}

/// A cluster that takes what it is told while it is connected.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own, drawn by chance")]
struct Machine {
    connected: bool,
    /// Fails whatever it runs.
    broken: bool,
    runs: ContentHash,
    /// Takes a while to start.
    starting: bool,
    /// Takes a bad revision back by itself.
    takes_back: bool,
}

#[derive(Debug)]
struct World {
    strategy: RolloutStrategy,
    current: ContentHash,
    rollout: Rollout,
    log: Vec<(u64, Move)>,
    machines: Vec<Machine>,
    bad: Vec<ContentHash>,
    now: SystemTime,
    /// How often each cluster came to each revision in this rollout.
    changes: BTreeMap<(usize, ContentHash), u32>,
}

impl World {
    fn new(strategy: RolloutStrategy, bad: &[u8]) -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let machine =
            Machine { connected: true, broken: false, runs: revision(1), starting: false, takes_back: false };
        Self {
            strategy,
            current: revision(2),
            rollout: begin(None, revision(1), revision(2), now),
            log: Vec::new(),
            machines: vec![machine; CLUSTERS],
            bad: bad.iter().map(|n| revision(*n)).collect(),
            now,
            changes: BTreeMap::new(),
        }
    }

    fn at(&self, cluster: &ClusterName) -> ContentHash {
        let live = self.log.iter().rev().filter(|(number, _)| *number >= self.rollout.first_move);
        let last = live.map(|(_, one)| one).find(|one| one.clusters.contains(cluster));
        last.map_or(self.rollout.base, |one| one.revision)
    }

    fn clusters(&self) -> Vec<Cluster> {
        let one = |(n, machine): (usize, &Machine)| {
            let at = self.at(&name(n));
            let healthy = machine.runs == at
                && !machine.starting
                && !machine.broken
                && !self.bad.contains(&machine.runs);
            let shown = match (machine.connected, healthy) {
                (false, _) => Shown::Away,
                (true, true) => Shown::Healthy,
                (true, false) if machine.takes_back && machine.runs == at && !machine.broken => {
                    Shown::TakenBack { why: "it failed".to_owned() }
                }
                (true, false) => Shown::Unhealthy { why: "it fails".to_owned() },
            };
            Cluster { name: name(n), at, is_canary: self.strategy.canary.is_some() && n % 4 == 3, shown }
        };
        self.machines.iter().enumerate().map(one).collect()
    }

    /// Machines take what they are told, and have started a while later.
    fn machines_act(&mut self) {
        for n in 0..CLUSTERS {
            let at = self.at(&name(n));
            let machine = &mut self.machines[n];
            if !machine.connected {
                continue;
            }
            machine.starting = machine.runs != at;
            machine.runs = at;
        }
    }

    /// One step, written or lost on the way. Checks what it does.
    fn step(&mut self, is_lost: bool) -> Step {
        let clusters = self.clusters();
        let step = step(&self.strategy, &self.rollout, &clusters, self.now);
        let disrupted = clusters.iter().filter(|c| c.shown.is_ill()).count();
        let mut newly = 0;
        for moved in
            step.moves.iter().flat_map(|one| one.clusters.iter().map(move |name| (name, one.revision)))
        {
            let (name, revision) = moved;
            let index = clusters.iter().position(|cluster| cluster.name == *name).unwrap();
            if clusters[index].at == revision {
                continue;
            }
            newly += usize::from(clusters[index].shown == Shown::Healthy);
            if !is_lost {
                *self.changes.entry((index, revision)).or_default() += 1;
            }
        }
        let budget = self.strategy.max_unavailable.at_least_one_of(CLUSTERS);
        assert!(newly == 0 || disrupted + newly <= budget, "{disrupted} + {newly} of {budget}");
        assert_eq!(
            step.moves.len() as u64,
            step.rollout.last_move - self.rollout.last_move,
            "moves are counted"
        );
        if !is_lost {
            for one in &step.moves {
                let number = self.log.last().map_or(0, |(number, _)| *number) + 1;
                assert!(one.clusters.len() <= MOVE_CLUSTERS_MAX);
                self.log.push((number, one.clone()));
            }
            if step.rejects {
                self.current = step.rollout.from;
            }
            self.rollout = step.rollout.clone();
        }
        step
    }

    fn check(&self) {
        assert!(self.changes.values().all(|count| *count <= 1), "{:?}", self.changes);
        match self.rollout.phase {
            Phase::Progressing | Phase::Paused | Phase::Done => assert_eq!(self.current, self.rollout.to),
            Phase::RollingBack | Phase::RolledBack => assert_eq!(self.current, self.rollout.from),
        }
    }

    fn apply(&mut self, new: ContentHash) {
        if new == self.current {
            return;
        }
        self.rollout = begin(Some(&self.rollout), self.current, new, self.now);
        self.current = new;
        self.changes.clear();
    }

    /// Goes on until nothing more is to be done; a time of its own passes between two looks.
    fn run_until_still(&mut self) {
        for _ in 0..2_000 {
            let before = (self.rollout.clone(), self.log.len());
            let step = self.step(false);
            self.check();
            let nobody_starts = self.is_still();
            self.machines_act();
            if before == (self.rollout.clone(), self.log.len()) {
                match step.wait {
                    None if nobody_starts && self.is_still() => return,
                    None => {}
                    Some(wait) => self.now += wait,
                }
            }
            self.now += Duration::from_secs(1);
        }
        panic!("it comes to no end: {:?}", self.rollout);
    }

    fn is_still(&self) -> bool {
        self.machines.iter().all(|machine| !machine.connected || !machine.starting)
    }
}

#[derive(Debug, Clone)]
enum Event {
    Step,
    /// A step is decided and never written: whoever led crashed.
    LostStep,
    Time(u64),
    Connect(usize, bool),
    Break(usize, bool),
    Machines,
    Apply(u8),
    Pause,
    Resume,
    Abort,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => Just(Event::Step),
        2 => Just(Event::LostStep),
        6 => (1_u64..40).prop_map(Event::Time),
        4 => (0..CLUSTERS, any::<bool>()).prop_map(|(n, to)| Event::Connect(n, to)),
        2 => (0..CLUSTERS, any::<bool>()).prop_map(|(n, to)| Event::Break(n, to)),
        6 => Just(Event::Machines),
        1 => (1_u8..5).prop_map(Event::Apply),
        1 => Just(Event::Pause),
        1 => Just(Event::Resume),
        1 => Just(Event::Abort),
    ];
    proptest::collection::vec(event, 0..120)
}

fn run(world: &mut World, events: Vec<Event>) {
    for event in events {
        match event {
            Event::Step => drop(world.step(false)),
            Event::LostStep => drop(world.step(true)),
            Event::Time(seconds) => world.now += Duration::from_secs(seconds),
            Event::Connect(n, connected) => world.machines[n].connected = connected,
            Event::Break(n, broken) => world.machines[n].broken = broken,
            Event::Machines => world.machines_act(),
            Event::Apply(n) => world.apply(revision(n)),
            Event::Pause => {
                let paused = pause(&world.rollout, world.now);
                take(world, paused);
            }
            Event::Resume => {
                let resumed = resume(&world.rollout, world.now);
                take(world, resumed);
            }
            Event::Abort => {
                let aborted = abort(&world.rollout, world.now);
                if aborted.is_ok() {
                    world.current = world.rollout.from;
                }
                take(world, aborted);
            }
        }
        world.check();
    }
}

fn take(world: &mut World, changed: Result<Rollout, Refused>) {
    if let Ok(rollout) = changed {
        world.rollout = rollout;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Beside what each step checks: the budget, and that a cluster is changed once in each direction.
    #[test]
    fn whatever_fails_a_rollout_ends_once_failures_stop(
        strategy in strategies(),
        bad in proptest::collection::vec(2_u8..5, 0..3),
        events in events(),
        away in proptest::collection::vec(any::<bool>(), CLUSTERS),
        takes_back in proptest::collection::vec(any::<bool>(), CLUSTERS),
    ) {
        let mut world = World::new(strategy, &bad);
        for (machine, takes_back) in world.machines.iter_mut().zip(takes_back) {
            machine.takes_back = takes_back;
        }
        run(&mut world, events);
        // Failures stop: nobody is broken, who is away stays so, and one at least is there.
        for (n, machine) in world.machines.iter_mut().enumerate() {
            machine.broken = false;
            machine.connected = n == 0 || !away[n];
        }
        // What is rolled back to has been good once, or nothing is.
        let from = world.rollout.from;
        world.bad.retain(|bad| *bad != from);
        world.run_until_still();
        let rollout = world.rollout.clone();
        prop_assert!(rollout.phase != Phase::Progressing && rollout.phase != Phase::RollingBack, "{rollout:?}");
        for cluster in world.clusters() {
            match rollout.phase {
                // One that is let through though it fails may leave no room for those that came back since.
                Phase::Done if world.bad.contains(&rollout.to) => {}
                Phase::Done => prop_assert!(cluster.shown == Shown::Away || cluster.at == rollout.to),
                Phase::RolledBack => prop_assert_eq!(cluster.at, rollout.from),
                _ => {}
            }
        }
        // Those that were away are back: they come to it too.
        if rollout.phase == Phase::Done {
            world.bad.clear();
            for machine in &mut world.machines {
                machine.connected = true;
            }
            world.run_until_still();
            prop_assert!(world.rollout.is_at_rest());
            prop_assert!(world.machines.iter().all(|machine| machine.runs == rollout.to));
        }
    }
}

#[test]
fn a_good_revision_comes_to_all_in_batches_each_after_its_window() {
    let mut world = World::new(strategy(), &[]);
    world.run_until_still();
    assert_eq!((world.rollout.phase, world.rollout.batch), (Phase::Done, 6));
    assert!(world.rollout.is_at_rest());
    assert!(world.now.duration_since(world.rollout.start).unwrap() >= Duration::from_secs(60));
}

#[test]
fn a_bad_revision_comes_to_the_first_batch_alone() {
    let mut world = World::new(strategy(), &[2]);
    world.run_until_still();
    assert_eq!(world.rollout.phase, Phase::RolledBack);
    assert_eq!(world.rollout.reason, Some(Reason::ProgressDeadlineExceeded));
    assert!(world.rollout.message.contains("c00 (1 more): it fails"), "{}", world.rollout.message);
    let touched: Vec<usize> = world.changes.keys().map(|(n, _)| *n).collect();
    assert_eq!(touched, [0, 0, 1, 1], "two to the new one, and back");
    assert_eq!(world.current, revision(1));
}

#[test]
fn a_cluster_that_took_it_back_by_itself_fails_the_rollout_at_once() {
    let mut world = World::new(strategy(), &[2]);
    world.machines[1].takes_back = true;
    let begin = world.now;
    world.step(false);
    // Nobody sees how it begins there.
    world.machines_act();
    world.machines_act();
    world.machines[1].connected = false;
    assert_eq!(world.step(false).rollout.phase, Phase::Progressing);
    world.machines[1].connected = true;
    let back = world.step(false).rollout;
    assert_eq!((back.phase, back.reason), (Phase::RollingBack, Some(Reason::TakenBack)));
    assert_eq!(back.message, "taken back by c01: it failed");
    assert_eq!(world.now, begin, "it is not waited for");
    world.run_until_still();
    assert!(world.machines.iter().all(|machine| machine.runs == revision(1)));
    // As with those that fail otherwise, some may.
    let mut world = World::new(RolloutStrategy { max_failures: Share::Count(1), ..strategy() }, &[2]);
    world.machines[1].takes_back = true;
    world.step(false);
    world.machines_act();
    world.machines_act();
    assert_eq!(world.step(false).rollout.phase, Phase::Progressing);
}

#[test]
fn canary_clusters_go_first_and_it_pauses_after_them() {
    let canary = Some(Selector::parse("ring=canary").unwrap());
    let mut world = World::new(RolloutStrategy { canary, pause_after_canary: true, ..strategy() }, &[]);
    world.run_until_still();
    assert_eq!((world.rollout.phase, world.rollout.reason), (Phase::Paused, Some(Reason::AfterCanary)));
    let changed: Vec<usize> = world.changes.keys().map(|(n, _)| *n).collect();
    assert_eq!(changed, [3, 7, 11]);
    world.rollout = resume(&world.rollout, world.now).unwrap();
    world.run_until_still();
    assert_eq!(world.rollout.phase, Phase::Done);
}

#[test]
fn failures_that_are_let_through_do_not_fail_a_rollout() {
    let mut world = World::new(RolloutStrategy { max_failures: Share::Count(1), ..strategy() }, &[]);
    world.machines[4].broken = true;
    world.run_until_still();
    assert_eq!(world.rollout.phase, Phase::Done);
    let mut strict = World::new(strategy(), &[]);
    strict.machines[4].broken = true;
    for _ in 0..300 {
        strict.step(false);
        strict.machines_act();
        strict.now += Duration::from_secs(1);
    }
    assert!(matches!(strict.rollout.phase, Phase::RollingBack | Phase::RolledBack));
}

#[test]
fn a_control_plane_that_sees_nobody_brings_nothing_to_an_end() {
    let mut world = World::new(strategy(), &[]);
    for machine in &mut world.machines {
        machine.connected = false;
    }
    for _ in 0..50 {
        world.step(false);
        world.now += Duration::from_secs(60);
    }
    assert_eq!((world.rollout.phase, world.log.len()), (Phase::Progressing, 0));
    assert!(told(&world.strategy, &world.rollout, &world.clusters()).contains("none of the clusters"));
}

#[test]
fn those_that_come_back_after_the_end_are_changed_no_more_at_once_than_may_be() {
    let mut world = World::new(strategy(), &[]);
    for machine in &mut world.machines[4..] {
        machine.connected = false;
    }
    world.run_until_still();
    assert_eq!(world.rollout.phase, Phase::Done);
    assert!(!world.rollout.is_at_rest());
    for machine in &mut world.machines[4..] {
        machine.connected = true;
    }
    assert_eq!(world.step(false).moves[0].clusters.len(), 2);
    world.run_until_still();
    assert!(world.rollout.is_at_rest());
}

#[test]
fn what_takes_the_place_of_a_rollout_goes_back_to_what_was_rolled_out_last() {
    let mut world = World::new(strategy(), &[2, 3]);
    world.step(false);
    world.machines_act();
    world.apply(revision(3));
    assert_eq!(world.rollout.from, revision(1));
    world.run_until_still();
    assert_eq!(world.rollout.phase, Phase::RolledBack);
    assert!(world.machines.iter().all(|machine| machine.runs == revision(1)));
    // The former revision, applied in the middle, is a way back.
    world.apply(revision(4));
    world.step(false);
    world.apply(revision(1));
    assert_eq!((world.rollout.phase, world.rollout.reason), (Phase::RollingBack, Some(Reason::Superseded)));
    assert_eq!(world.rollout.to, revision(4));
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let now = SystemTime::UNIX_EPOCH;
    let live = begin(None, revision(1), revision(2), now);
    assert_eq!(resume(&live, now), Err(Refused::NotPaused));
    let paused = pause(&live, now).unwrap();
    assert_eq!(pause(&paused, now), Err(Refused::Paused));
    assert_eq!(paused.reason, Some(Reason::Requested));
    let back = abort(&paused, now).unwrap();
    assert_eq!(abort(&back, now), Err(Refused::GoesBack));
    assert_eq!(pause(&back, now), Err(Refused::GoesBack));
    let done = Rollout { phase: Phase::Done, ..live };
    assert_eq!(abort(&done, now), Err(Refused::Ended));
    assert_eq!(resume(&done, now), Err(Refused::Ended));
}

#[test]
fn a_batch_of_ten_thousand_clusters_is_written_in_five_moves() {
    let name = |n: usize| ClusterName::parse(&format!("c{n}")).unwrap();
    let clusters: Vec<Cluster> = (0..10_500)
        .map(|n| Cluster { name: name(n), at: revision(1), is_canary: false, shown: Shown::Healthy })
        .collect();
    let all = RolloutStrategy {
        batch_size: Share::Percent(100),
        max_unavailable: Share::Percent(100),
        ..strategy()
    };
    let now = SystemTime::UNIX_EPOCH;
    let step = step(&all, &begin(None, revision(1), revision(2), now), &clusters, now);
    assert_eq!(step.moves.len(), 5);
    assert_eq!(step.moves.iter().map(|one| one.clusters.len()).sum::<usize>(), 10_000);
    assert_eq!(step.rollout.last_move, 5);
}

#[test]
fn reasons_are_read_as_they_are_written() {
    for reason in Reason::ALL {
        assert_eq!(Reason::parse(reason.word()), Some(reason));
    }
    assert_eq!(Reason::parse(""), None);
}
