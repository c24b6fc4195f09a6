//! Laws over random lives of a job and of a clock.

use super::*;
use crate::world::is_running;

/// What happens in the life of a run.
#[derive(Debug, Clone)]
enum Happens {
    /// The agent looks, and what it learnt is written.
    Look,
    /// The agent looks, and dies before it is written.
    LookAndDie,
    /// What may be started is.
    Start,
    /// A copy ends.
    End(u32, i32),
    /// A copy ends and is removed by other hands, which the agent sees before it dies.
    Lose(u32),
    /// Machine and agent lose power: nobody sees how what ran ended.
    PowerLoss,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => Just(Happens::Look),
        1 => Just(Happens::LookAndDie),
        3 => Just(Happens::Start),
        4 => (0..5u32, prop_oneof![Just(0), Just(1)]).prop_map(|(index, code)| Happens::End(index, code)),
        1 => (0..5u32).prop_map(Happens::Lose),
        1 => Just(Happens::PowerLoss),
    ]
}

/// A run with the copies that there are.
struct Life {
    job: Job,
    run: Run,
    /// As it is on disk.
    disk: Run,
    copies: BTreeMap<u32, Observed>,
    starts: BTreeMap<u32, u32>,
    succeeded: BTreeSet<u32>,
    clock: u64,
}

impl Life {
    fn new(job: Job) -> Self {
        let run = Run::new("f", 0, 0);
        let (disk, copies) = (run.clone(), BTreeMap::new());
        Self { job, run, disk, copies, starts: BTreeMap::new(), succeeded: BTreeSet::new(), clock: SUNDAY }
    }

    fn tick(&mut self) -> SystemTime {
        self.clock += 1;
        wall(self.clock)
    }

    fn look(&mut self) {
        let now = self.tick();
        for index in 0..self.job.completions {
            match self.copies.get(&index) {
                Some(observed) => self.run.see(index, observed),
                None => self.run.miss(index, now),
            };
        }
        if let Some(verdict) = self.run.verdict(&self.job, None).filter(|_| self.run.is_open()) {
            self.run.finish(verdict, now);
        }
    }

    /// Copies that run although it is over are stopped.
    fn write(&mut self) {
        self.disk = self.run.clone();
        if !self.run.is_open() {
            for index in 0..self.job.completions {
                self.end(index, Some(143));
            }
        }
    }

    fn running(&self) -> BTreeSet<u32> {
        self.copies.iter().filter(|(_, copy)| is_running(copy)).map(|(index, _)| *index).collect()
    }

    /// As the agent starts what it may, after what it knows is on disk.
    fn start(&mut self) {
        self.look();
        self.write();
        if !self.run.is_open() {
            return;
        }
        let running = self.running();
        for index in self.run.turns(&self.job, &running) {
            if running.contains(&index) {
                continue;
            }
            assert!(!self.succeeded.contains(&index), "{index} succeeded before");
            *self.starts.entry(index).or_default() += 1;
            let since = self.tick();
            let copy = Observed {
                instance: instance(index),
                fingerprint: "f".to_owned(),
                revision: String::new(),
                runtime_id: format!("copy {}", self.clock),
                state: RunState::Running { since },
                address: None,
                image_health: None,
                drift: None,
                place: Place::Own,
                started: Some(since),
                warnings: Vec::new(),
                gpus: Vec::new(),
            };
            self.copies.insert(index, copy);
        }
        self.look();
        let running = u32::try_from(self.running().len()).unwrap();
        assert!(running <= self.job.parallelism, "{running} at once");
    }

    fn end(&mut self, index: u32, code: Option<i32>) {
        let at = self.tick();
        if let Some(copy) = self.copies.get_mut(&index).filter(|copy| is_running(copy)) {
            copy.state = RunState::Exited { code, at, out_of_memory: false };
            if code == Some(0) {
                self.succeeded.insert(index);
            }
        }
    }

    fn go(&mut self, happens: &Happens) {
        match happens {
            Happens::Look => {
                self.look();
                self.write();
            }
            Happens::LookAndDie => {
                self.look();
                self.run = self.disk.clone();
                self.look();
            }
            Happens::Start => self.start(),
            Happens::End(index, code) => self.end(*index, Some(*code)),
            Happens::Lose(index) => {
                self.look();
                self.write();
                self.copies.remove(index);
            }
            Happens::PowerLoss => {
                for index in self.running() {
                    self.end(index, None);
                }
                self.run = self.disk.clone();
                self.look();
            }
        }
    }
}

fn a_life() -> impl Strategy<Value = Job> {
    (1..5u32, 1..5u32, 0..4u32).prop_map(|(completions, parallelism, backoff_limit)| Job {
        completions,
        parallelism,
        backoff_limit,
        deadline: None,
    })
}

proptest! {
    // That no more run at once than may, and that what succeeded is not started again, is checked at each start.
    #[test]
    fn a_job_is_started_at_most_as_often_as_it_must_succeed_and_failures_are_borne(
        job in a_life(),
        happens in prop::collection::vec(happens(), 0..60),
    ) {
        let mut life = Life::new(job);
        for one in &happens {
            life.go(one);
            let starts: u32 = life.starts.values().sum();
            prop_assert!(starts <= job.completions + job.backoff_limit, "{} starts of {:?}", starts, job);
        }
    }

    #[test]
    fn once_failures_end_a_job_ends(job in a_life(), happens in prop::collection::vec(happens(), 0..40)) {
        let mut life = Life::new(job);
        for one in &happens {
            life.go(one);
        }
        for _ in 0..=job.completions {
            life.start();
            for index in life.running() {
                life.end(index, Some(0));
            }
            life.look();
        }
        prop_assert!(!life.run.is_open(), "{:?}", life.run);
        let complete = life.run.reason.is_empty();
        prop_assert_eq!(complete, life.run.succeeded(job.completions) == job.completions);
        prop_assert_eq!(complete, life.run.failures <= job.backoff_limit);
    }

    #[test]
    fn no_time_is_run_twice_and_never_more_at_once_than_may_however_the_clock_jumps(
        overlap in prop_oneof![
            Just(Overlap::Forbid),
            Just(Overlap::Replace),
            (2..4u32).prop_map(|runs_max| Overlap::Allow { runs_max }),
        ],
        deadline in prop::option::of(1..20_000u64),
        jumps in prop::collection::vec((-80_000i64..200_000, any::<bool>()), 1..30),
    ) {
        let cron = CronJob {
            schedule: Schedule::parse("*/20 1-23/2 * * *").unwrap(),
            time_zone: ZoneName::default(),
            overlap,
            starting_deadline: deadline.map(Duration::from_secs),
            successful_history: 3,
            failed_history: 1,
            suspend: false,
            job: Job { completions: 1, parallelism: 1, backoff_limit: 0, deadline: None },
        };
        let (mut now, mut known, mut runs) = (SUNDAY, None, Vec::<Run>::new());
        let mut begun = BTreeSet::new();
        for (jump, ends) in jumps {
            // A day back is a clock that was wrong, and more than that together is too.
            now = now.saturating_add_signed(jump).max(SUNDAY);
            let decided = due::decided(known, wall(now));
            if known.is_some_and(|known| decided < known) {
                begun.clear();
            }
            known = Some(decided);
            match due::decide(&cron, &Zone::utc(), decided, wall(now), &runs) {
                Decision::Nothing => {}
                Decision::Pass { due, .. } => known = Some(due),
                Decision::Begin { due, slot, ends } => {
                    prop_assert!(due > decided && due <= wall(now));
                    prop_assert!(cron.starting_deadline.is_none_or(|most| wall(now).duration_since(due).unwrap() <= most));
                    prop_assert!(begun.insert(due), "{:?} again", due);
                    prop_assert_eq!(cron.schedule.last(decided, wall(now), &Zone::utc()), Some(due), "the last that was missed");
                    known = Some(due);
                    let due = i64::try_from(due.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
                    for (ended, reason) in ends {
                        let run = runs.iter_mut().find(|run| run.due == ended && run.is_open()).unwrap();
                        run.finish(Verdict::Failed(reason), wall(now));
                    }
                    runs.retain(|run| run.slot != slot);
                    let started = Some(to_timestamp(wall(now)));
                    runs.push(Run { started, ..Run::new("f", due, slot) });
                }
            }
            let open = runs.iter().filter(|run| run.is_open()).count();
            prop_assert!(open <= cron.runs_max() as usize);
            if ends && let Some(run) = runs.iter_mut().find(|run| run.is_open()) {
                run.finish(Verdict::Complete, wall(now));
            }
        }
    }
}
