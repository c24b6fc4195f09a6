//! The laws of runs and of what is due, and jobs as the reconciler sees them.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use skerry_model::AppSpec;
use skerry_model::app::Overlap;
use skerry_model::cron::{Schedule, ZoneName};

use super::*;
use crate::desired::join;
use crate::memory::Busy;
use crate::runtime::{Observed, Place, RunState, RuntimeKind};
use crate::testing::{app, instance_resource, process, revision_resource};
use crate::world::View;

mod laws;

/// 2027-01-10T02:30:00Z, a Sunday.
const SUNDAY: u64 = 1_799_548_200;

fn wall(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn mono(seconds: u64) -> MonoTime {
    MonoTime::from_origin(Duration::from_secs(seconds))
}

/// A node with jobs, and what is seen of its processes.
struct Node {
    jobs: Jobs,
    desired: Arc<Desired>,
    world: World,
    memories: BTreeMap<InstanceName, Memory>,
    /// Of both clocks: seconds since the start, and what the wall clock shows beside that.
    now: u64,
    wall_at_start: u64,
    copies: u64,
}

impl Node {
    fn new(kind: pb::service_spec::Kind) -> Self {
        let view = View { available: true, ..View::default() };
        Self {
            jobs: Jobs::default(),
            desired: wanted(kind),
            world: [(RuntimeKind::Process, view)].into(),
            memories: BTreeMap::new(),
            now: 0,
            wall_at_start: SUNDAY,
            copies: 0,
        }
    }

    fn step(&mut self) -> Step {
        self.jobs.step(Seen {
            desired: &self.desired,
            world: &self.world,
            memories: &self.memories,
            now: mono(self.now),
            wall: wall(self.wall_at_start + self.now),
        })
    }

    fn view(&mut self) -> &mut View {
        self.world.get_mut(&RuntimeKind::Process).unwrap()
    }

    /// Starts an instance as its run says now.
    fn start(&mut self, ordinal: u32) {
        let spec = Arc::clone(&self.step().desired.instances[&instance(ordinal)]);
        self.copies += 1;
        let since = wall(self.wall_at_start + self.now);
        let observed = Observed {
            instance: spec.name.clone(),
            fingerprint: spec.fingerprint.clone(),
            revision: spec.revision.to_string(),
            runtime_id: format!("copy {}", self.copies),
            state: RunState::Running { since },
            address: None,
            image_health: None,
            drift: None,
            place: Place::Own,
            started: Some(since),
            warnings: Vec::new(),
            gpus: Vec::new(),
        };
        self.view().instances.insert(spec.name.clone(), observed);
        self.step();
    }

    /// It ends.
    fn end(&mut self, ordinal: u32, code: i32) -> Step {
        let at = wall(self.wall_at_start + self.now);
        let observed = self.view().instances.get_mut(&instance(ordinal)).unwrap();
        observed.state = RunState::Exited { code: Some(code), at, out_of_memory: false };
        self.step()
    }

    /// Goes on to `seconds` after the start.
    fn at(&mut self, seconds: u64) -> Step {
        self.now = seconds;
        self.step()
    }

    fn gate(&self, ordinal: u32) -> &Gate {
        &self.jobs.gates()[&instance(ordinal)]
    }

    /// The reason why an instance rests.
    fn rests(&self, ordinal: u32) -> &str {
        match self.gate(ordinal) {
            Gate::Rest(rest) => &rest.reason,
            other => panic!("it does not rest: {other:?}"),
        }
    }

    fn status(&self) -> &pb::JobStatus {
        &self.jobs.statuses[&instance(0)]
    }

    /// Another process of the agent, which knows what was written down.
    fn restart(&mut self) {
        let entries = std::mem::take(&mut self.jobs.entries);
        self.jobs = Jobs { entries, ..Jobs::default() };
        self.wall_at_start += self.now;
        self.now = 0;
    }
}

fn instance(ordinal: u32) -> InstanceName {
    InstanceName::parse(&format!("app/load/n1/{ordinal}")).unwrap()
}

fn wanted(kind: pb::service_spec::Kind) -> Arc<Desired> {
    let service = pb::ServiceSpec { kind: Some(kind), ..process("load") };
    let revision = revision_resource("app", &app(vec![service]));
    let spec = AppSpec::from_proto(&app(vec![pb::ServiceSpec { kind: None, ..process("load") }])).unwrap();
    assert!(!spec.services[0].is_job());
    let mut resources: Vec<_> =
        (0..6).map(|ordinal| instance_resource(&instance(ordinal).to_string(), &revision, &[])).collect();
    let count = {
        let (all, refusals) = join(resources.iter().chain([&revision]), true);
        assert_eq!(refusals, []);
        match &all.instances[&instance(0)].service.kind {
            Kind::Job(job) => job.completions,
            Kind::CronJob(cron) => cron.instances(),
            other => panic!("{other:?}"),
        }
    };
    resources.truncate(count as usize);
    resources.push(revision);
    Arc::new(join(&resources, true).0)
}

fn job(completions: u32, parallelism: u32, backoff_limit: u32) -> pb::Job {
    pb::Job {
        completions: Some(completions),
        parallelism: Some(parallelism),
        backoff_limit: Some(backoff_limit),
        deadline: None,
    }
}

fn a_job(job: pb::Job) -> pb::service_spec::Kind {
    pb::service_spec::Kind::Job(job)
}

fn cron(schedule: &str) -> pb::CronJob {
    pb::CronJob { schedule: schedule.to_owned(), ..pb::CronJob::default() }
}

fn a_cron_job(cron: pb::CronJob) -> pb::service_spec::Kind {
    pb::service_spec::Kind::CronJob(cron)
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn reasons(step: &Step) -> Vec<&'static str> {
    step.happenings.iter().map(|happening| happening.reason).collect()
}

#[test]
fn a_job_goes_on_in_order_until_all_have_succeeded() {
    let mut node = Node::new(a_job(job(3, 2, 1)));
    node.step();
    assert_eq!((node.gate(0), node.gate(1)), (&Gate::Go, &Gate::Go));
    assert_eq!(node.gate(2), &Gate::Turn { parallelism: 2 });
    node.start(0);
    node.start(1);
    node.end(0, 0);
    assert!(matches!(node.gate(0), Gate::Done(_)));
    assert_eq!(node.gate(2), &Gate::Go);
    node.end(1, 3);
    assert_eq!((node.gate(1), node.status().failures), (&Gate::Go, 1), "it is tried again");
    node.start(1);
    node.start(2);
    node.end(2, 0);
    node.now = 5;
    let step = node.end(1, 0);
    assert_eq!(reasons(&step), ["JobCompleted"]);
    assert_eq!(node.status().state(), pb::job_status::State::Complete);
    assert_eq!((node.status().succeeded, node.status().failures), (3, 1));
    assert!(reasons(&node.step()).is_empty(), "once");
}

#[test]
fn what_succeeded_is_not_run_again_though_nothing_of_it_is_left() {
    let mut node = Node::new(a_job(job(2, 2, 0)));
    node.start(0);
    node.end(0, 0);
    node.restart();
    node.view().instances.clear();
    node.step();
    assert!(matches!(node.gate(0), Gate::Done(end) if end.exit_code == Some(0)));
    assert_eq!(node.gate(1), &Gate::Go);
    // Until what it runs is another.
    let mut service = process("load");
    service.env.insert("NEW".to_owned(), "1".to_owned());
    service.kind = Some(a_job(job(1, 1, 0)));
    let revision = revision_resource("app", &app(vec![service]));
    let resources = [instance_resource(&instance(0).to_string(), &revision, &[]), revision];
    node.desired = Arc::new(join(&resources, true).0);
    node.step();
    assert_eq!((node.gate(0), node.status().succeeded), (&Gate::Go, 0));
}

#[test]
fn what_is_not_written_down_is_found_by_looking() {
    let mut node = Node::new(a_job(job(2, 2, 5)));
    node.start(0);
    node.end(0, 0);
    node.start(1);
    node.end(1, 9);
    node.jobs = Jobs::default();
    node.step();
    assert!(matches!(node.gate(0), Gate::Done(_)));
    assert_eq!((node.gate(1), node.status().failures), (&Gate::Go, 1));
    // A run of a cron job is told by its copies.
    let mut node = Node::new(a_cron_job(cron("0 3 * * *")));
    node.step();
    node.at(1800);
    node.start(0);
    node.jobs = Jobs::default();
    node.at(1801);
    assert_eq!(node.gate(0), &Gate::Go, "it goes on");
    node.end(0, 0);
    assert_eq!(node.status().history.len(), 1);
    assert_eq!(node.at(1810).happenings, [], "and is not begun again");
}

#[test]
fn nothing_begins_before_what_is_known_is_on_disk() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new(a_job(job(1, 1, 1)));
    let open = || Jobs::open(Directory::new(dir.path()), Arc::default());
    node.jobs = open();
    let guard = runtime.enter();
    node.step();
    assert_eq!(node.gate(0), &Gate::Wait);
    runtime.block_on(node.jobs.written());
    node.step();
    assert_eq!(node.gate(0), &Gate::Go);
    node.start(0);
    node.end(0, 1);
    assert_eq!(node.gate(0), &Gate::Wait, "the failure is not on disk");
    runtime.block_on(node.jobs.finish());
    // A life later all is known, though nothing is to be seen.
    node.jobs = open();
    node.view().instances.clear();
    node.step();
    assert_eq!((node.gate(0), node.status().failures), (&Gate::Go, 1));
    drop(guard);
}

#[test]
fn with_one_failure_more_than_is_borne_it_has_failed_and_nothing_of_it_runs_on() {
    let mut node = Node::new(a_job(job(3, 2, 1)));
    node.start(0);
    node.start(1);
    node.end(0, 1);
    node.start(0);
    let step = node.end(0, 1);
    assert_eq!(reasons(&step), ["JobFailed"]);
    assert_eq!(
        (node.rests(0), node.rests(1), node.rests(2)),
        ("BackoffLimitExceeded", "BackoffLimitExceeded", "BackoffLimitExceeded")
    );
    // What is stopped for it is no further failure.
    node.end(1, 143);
    assert_eq!((node.status().failures, node.rests(1)), (2, "BackoffLimitExceeded"));
    // When more are borne it goes on.
    node.desired = wanted(a_job(job(3, 2, 2)));
    node.step();
    assert_eq!(node.gate(0), &Gate::Go);
}

#[test]
fn a_deadline_counts_from_the_first_start_and_no_jump_of_the_clock_moves_it() {
    let mut node = Node::new(a_job(pb::Job { deadline: Some(seconds(60)), ..job(1, 1, 9) }));
    node.at(1000);
    assert_eq!(node.gate(0), &Gate::Go, "it was not started yet");
    node.start(0);
    assert_eq!(node.step().wake, Some(mono(1060)));
    // The clock is set, ten years ahead.
    node.wall_at_start += 10 * 365 * 86_400;
    node.at(1059);
    assert_eq!(node.gate(0), &Gate::Go);
    let step = node.at(1060);
    assert_eq!(reasons(&step), ["JobFailed"]);
    assert_eq!(node.rests(0), "DeadlineExceeded");
    // It counts on in the next life of the agent.
    let mut node = Node::new(a_job(pb::Job { deadline: Some(seconds(60)), ..job(1, 1, 9) }));
    node.start(0);
    node.at(40);
    node.restart();
    node.at(19);
    assert_eq!(node.gate(0), &Gate::Go);
    node.at(20);
    assert_eq!(node.rests(0), "DeadlineExceeded");
}

#[test]
fn a_copy_that_other_hands_took_away_has_failed() {
    let mut node = Node::new(a_job(job(1, 1, 0)));
    node.start(0);
    node.memories.entry(instance(0)).or_default().busy = Some((Busy::Stopping, mono(0)));
    node.view().instances.clear();
    node.step();
    assert_eq!(node.status().failures, 0, "the agent itself is at it");
    node.memories.clear();
    node.step();
    assert_eq!((node.status().failures, node.rests(0)), (1, "BackoffLimitExceeded"));
}

#[test]
fn what_runs_of_before_ends_before_anything_else_of_the_job_begins() {
    let mut node = Node::new(a_job(job(2, 1, 0)));
    node.start(0);
    node.end(0, 0);
    node.start(1);
    let mut service = process("load");
    service.env.insert("NEW".to_owned(), "1".to_owned());
    service.kind = Some(a_job(job(2, 1, 0)));
    let revision = revision_resource("app", &app(vec![service]));
    let resources = [0, 1].map(|n| instance_resource(&instance(n).to_string(), &revision, &[]));
    node.desired = Arc::new(join(resources.iter().chain([&revision]), true).0);
    node.step();
    assert_eq!((node.gate(0), node.gate(1)), (&Gate::Wait, &Gate::Turn { parallelism: 1 }));
    node.end(1, 143);
    assert_eq!(node.gate(0), &Gate::Go);
}

#[test]
fn a_cron_job_runs_at_its_time_in_a_copy_of_its_own() {
    let mut node = Node::new(a_cron_job(cron("0 3 * * *")));
    let step = node.step();
    assert_eq!((node.rests(0), step.wake), ("Scheduled", Some(mono(1800))));
    let before = step.desired.instances[&instance(0)].fingerprint.clone();
    let step = node.at(1800);
    assert_eq!((node.gate(0), reasons(&step)), (&Gate::Go, vec!["RunBegan"]));
    let in_run = step.desired.instances[&instance(0)].fingerprint.clone();
    assert_eq!(in_run, run::mark(&before, i64::try_from(SUNDAY).unwrap() + 1800));
    node.start(0);
    node.now += 60;
    let step = node.end(0, 0);
    assert_eq!(reasons(&step), ["RunCompleted"]);
    assert_eq!(node.rests(0), "Scheduled");
    let status = node.status();
    assert_eq!((status.state(), status.history.len()), (pb::job_status::State::Complete, 1));
    assert_eq!(status.next_time.unwrap().seconds, i64::try_from(SUNDAY).unwrap() + 1800 + 86_400);
    // The next day it fails: that is told, and it runs on by its schedule.
    node.at(1800 + 86_400);
    node.desired = wanted(a_cron_job(pb::CronJob { job: Some(job(1, 1, 0)), ..cron("0 3 * * *") }));
    node.start(0);
    let step = node.end(0, 1);
    assert_eq!((reasons(&step), node.rests(0)), (vec!["RunFailed"], "LastRunFailed"));
    assert_eq!(
        node.status().history.iter().map(|run| run.reason.as_str()).collect::<Vec<_>>(),
        ["", "BackoffLimitExceeded"]
    );
}

#[test]
fn a_run_that_was_missed_is_made_up_for_once_if_it_is_not_too_late() {
    let hourly = |deadline| {
        a_cron_job(pb::CronJob { starting_deadline: Some(seconds(deadline)), ..cron("0 * * * *") })
    };
    let mut node = Node::new(hourly(600));
    node.step();
    node.restart();
    // Three were missed; the last one is ten minutes ago.
    let step = node.at(3 * 3600 - 1800 + 600);
    assert_eq!((reasons(&step), node.gate(0)), (vec!["RunBegan"], &Gate::Go));
    assert_eq!(reasons(&node.step()), Vec::<&str>::new());
    let mut node = Node::new(hourly(600));
    node.step();
    node.restart();
    let step = node.at(3 * 3600 - 1800 + 601);
    assert_eq!((reasons(&step), node.rests(0)), (vec!["RunMissed"], "Scheduled"));
    assert_eq!(reasons(&node.step()), Vec::<&str>::new(), "it is told once");
}

#[test]
fn a_clock_that_cannot_be_right_begins_nothing() {
    let mut node = Node::new(a_cron_job(cron("* * * * *")));
    node.wall_at_start = 3600;
    node.at(600);
    assert_eq!(node.rests(0), "ClockWrong");
    node.jobs.floor = Some(Arc::new(TimeFloor::new(wall(SUNDAY + 7200))));
    node.wall_at_start = SUNDAY;
    node.at(660);
    assert_eq!(node.rests(0), "ClockWrong", "a server told a later time");
    // Nothing was missed meanwhile: what was due is not known.
    node.wall_at_start = SUNDAY + 7200;
    assert_eq!(reasons(&node.at(661)), Vec::<&str>::new());
    assert_eq!(node.rests(0), "Scheduled");
    assert_eq!(reasons(&node.at(720)), ["RunBegan"]);
}

#[test]
fn a_zone_that_the_machine_does_not_know_is_told() {
    let mut node =
        Node::new(a_cron_job(pb::CronJob { time_zone: "Nowhere/Atlantis".into(), ..cron("@daily") }));
    node.step();
    assert_eq!(node.rests(0), "TimeZoneUnknown");
    assert_eq!(node.status().next_time, None);
}

#[test]
fn while_its_runtime_is_away_nothing_begins_and_what_was_due_is_made_up_for() {
    let mut node = Node::new(a_cron_job(cron("0 3 * * *")));
    node.step();
    node.view().available = false;
    assert_eq!(reasons(&node.at(1810)), Vec::<&str>::new());
    node.view().available = true;
    assert_eq!(reasons(&node.at(1820)), ["RunBegan"]);
}

#[test]
fn overlap_goes_as_the_policy_says() {
    use pb::cron_job::ConcurrencyPolicy as Policy;
    let with = |policy: Policy| {
        let mut node =
            Node::new(a_cron_job(pb::CronJob { concurrency_policy: policy.into(), ..cron("0,30 * * * *") }));
        node.step();
        node.at(1800);
        node.start(0);
        let step = node.at(3600);
        (node, reasons(&step))
    };
    let (node, told) = with(Policy::Forbid);
    assert_eq!((told, node.gate(0)), (vec!["RunSkipped"], &Gate::Go));
    let (mut node, told) = with(Policy::Replace);
    assert_eq!(told, ["RunFailed", "RunBegan"]);
    let wanted = node.step().desired.instances[&instance(0)].fingerprint.clone();
    assert_ne!(
        node.view().instances[&instance(0)].fingerprint,
        wanted,
        "the plan puts the new one in its place"
    );
    assert_eq!((node.gate(0), node.status().history[0].reason.as_str()), (&Gate::Go, "Replaced"));
    let (mut node, told) = with(Policy::Allow);
    assert_eq!((told, node.gate(1)), (vec!["RunBegan"], &Gate::Go));
    node.start(1);
    assert_eq!(reasons(&node.at(5400)), ["RunBegan"]);
    node.start(2);
    assert_eq!(reasons(&node.at(7200)), ["RunSkipped"], "three at most");
    // One that could not be started gives way.
    let mut node = Node::new(a_cron_job(cron("0,30 * * * *")));
    node.step();
    node.at(1800);
    assert_eq!(reasons(&node.at(3600)), ["RunFailed", "RunBegan"]);
    assert_eq!(node.status().history[0].reason, "NotStarted");
}

#[test]
fn what_is_due_while_it_is_suspended_is_not_made_up_for() {
    let suspended = |suspend| a_cron_job(pb::CronJob { suspend, ..cron("0 3 * * *") });
    let mut node = Node::new(suspended(true));
    node.step();
    assert_eq!((reasons(&node.at(1800)), node.rests(0)), (Vec::new(), "Suspended"));
    node.desired = wanted(suspended(false));
    assert_eq!((reasons(&node.at(1900)), node.rests(0)), (Vec::new(), "Scheduled"));
}

#[test]
fn another_program_ends_the_run_and_keeps_the_history() {
    let mut node = Node::new(a_cron_job(cron("0 3 * * *")));
    node.step();
    node.at(1800);
    node.start(0);
    let mut service = process("load");
    service.env.insert("NEW".to_owned(), "1".to_owned());
    service.kind = Some(a_cron_job(cron("0 3 * * *")));
    let revision = revision_resource("app", &app(vec![service]));
    let resources = [instance_resource(&instance(0).to_string(), &revision, &[]), revision];
    node.desired = Arc::new(join(&resources, true).0);
    let step = node.step();
    assert_eq!((reasons(&step), node.rests(0)), (vec!["RunFailed"], "Scheduled"));
    assert_eq!(node.status().history[0].reason, "Superseded");
}

#[test]
fn jobs_that_nobody_wants_are_forgotten_but_not_while_that_is_not_certain() {
    let mut node = Node::new(a_job(job(1, 1, 0)));
    node.start(0);
    node.end(0, 0);
    let wanted = std::mem::take(&mut node.desired);
    node.step();
    assert_eq!(node.jobs.entries.len(), 1, "no state is known yet");
    node.desired = Arc::clone(&wanted);
    node.step();
    assert!(matches!(node.gate(0), Gate::Done(_)));
    node.desired = Arc::new(Desired { authoritative: true, ..Desired::default() });
    node.step();
    assert!(node.jobs.entries.is_empty());
}
