//! Rules on jobs and cron jobs.

use super::*;
use crate::feature;

fn with(kind: pb::service_spec::Kind) -> pb::ServiceSpec {
    pb::ServiceSpec { kind: Some(kind), ..container("a") }
}

fn a_job(job: pb::Job) -> pb::ServiceSpec {
    with(pb::service_spec::Kind::Job(job))
}

fn a_cron_job(change: impl FnOnce(&mut pb::CronJob)) -> pb::ServiceSpec {
    let mut cron = pb::CronJob { schedule: "@daily".to_owned(), ..Default::default() };
    change(&mut cron);
    with(pb::service_spec::Kind::CronJob(cron))
}

fn refused_of(service: pb::ServiceSpec) -> Vec<String> {
    refused(&app(vec![service]))
}

fn parsed(service: pb::ServiceSpec) -> ServiceSpec {
    AppSpec::from_proto(&app(vec![service])).unwrap().services.remove(0)
}

fn policy(policy: pb::restart_policy::Policy) -> pb::RestartPolicy {
    pb::RestartPolicy { policy: policy.into(), ..Default::default() }
}

#[test]
fn what_is_not_said_is_as_the_proto_documents() {
    let service = parsed(a_job(pb::Job::default()));
    let job = Job { completions: 1, parallelism: 1, backoff_limit: 6, deadline: None };
    assert_eq!(service.kind, Kind::Job(job));
    assert_eq!(service.restart.when, RestartWhen::OnFailure);
    let Kind::CronJob(cron) = parsed(a_cron_job(|_| ())).kind else { panic!("a cron job") };
    assert_eq!((cron.overlap, cron.job, cron.suspend), (Overlap::Forbid, job, false));
    assert_eq!((cron.successful_history, cron.failed_history, cron.starting_deadline), (3, 1, None));
    assert_eq!(cron.time_zone.as_str(), "UTC");
}

/// Makes a cron job one that is refused.
type Spoil = fn(&mut pb::CronJob);

#[test]
fn each_rule_on_jobs_names_its_field() {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let rows: Vec<(pb::Job, &str)> = vec![
        (pb::Job { completions: Some(0), ..Default::default() }, "completions"),
        (pb::Job { completions: Some(101), ..Default::default() }, "completions"),
        (pb::Job { parallelism: Some(0), ..Default::default() }, "parallelism"),
        (pb::Job { backoff_limit: Some(1001), ..Default::default() }, "backoff_limit"),
        (pb::Job { deadline: seconds(0), ..Default::default() }, "deadline"),
    ];
    for (job, field) in rows {
        assert_eq!(refused_of(a_job(job)), [format!("spec.services[0].job.{field}")]);
        let cron = a_cron_job(|cron| cron.job = Some(job));
        assert_eq!(refused_of(cron), [format!("spec.services[0].cron_job.job.{field}")]);
    }
    let rows: Vec<(Spoil, &str)> = vec![
        (|cron| cron.schedule = "0 25 * * *".into(), "schedule"),
        (|cron| cron.time_zone = "../etc".into(), "time_zone"),
        (|cron| cron.concurrency_policy = 9, "concurrency_policy"),
        (|cron| cron.successful_history = Some(11), "successful_history"),
        (|cron| cron.failed_history = Some(11), "failed_history"),
        (|cron| cron.concurrency_max = Some(2), "concurrency_max"),
        (|cron| cron.starting_deadline = Some(prost_types::Duration::default()), "starting_deadline"),
    ];
    for (change, field) in rows {
        assert_eq!(refused_of(a_cron_job(change)), [format!("spec.services[0].cron_job.{field}")]);
    }
    let allow = |max, completions| {
        a_cron_job(|cron| {
            cron.concurrency_policy = pb::cron_job::ConcurrencyPolicy::Allow.into();
            cron.concurrency_max = max;
            cron.job = Some(pb::Job { completions: Some(completions), ..Default::default() });
        })
    };
    assert_eq!(refused_of(allow(None, 33)), Vec::<String>::new());
    for (max, completions) in [(None, 34), (Some(1), 1), (Some(11), 1)] {
        assert_eq!(refused_of(allow(max, completions)), ["spec.services[0].cron_job.concurrency_max"]);
    }
}

#[test]
fn a_job_is_started_again_on_failure_only_and_never_has_two_copies() {
    use pb::restart_policy::Policy;
    for bad in [Policy::Always, Policy::Never] {
        let service = pb::ServiceSpec { restart: Some(policy(bad)), ..a_job(pb::Job::default()) };
        assert_eq!(refused_of(service), ["spec.services[0].restart.policy"]);
    }
    let service = pb::ServiceSpec { restart: Some(policy(Policy::OnFailure)), ..a_cron_job(|_| ()) };
    assert_eq!(refused_of(service), Vec::<String>::new());
    let update = Some(pb::UpdatePolicy { order: pb::update_policy::Order::StartFirst.into() });
    assert_eq!(
        refused_of(pb::ServiceSpec { update, ..a_job(pb::Job::default()) }),
        ["spec.services[0].update.order"]
    );
    let mut service = a_job(pb::Job { completions: Some(2), parallelism: Some(2), ..Default::default() });
    inner(&mut service).ports = vec![pb::Port { container_port: 80, ..Default::default() }];
    assert_eq!(refused_of(service.clone()), ["spec.services[0].container.ports"]);
    service.kind = Some(pb::service_spec::Kind::Job(pb::Job { completions: Some(2), ..Default::default() }));
    assert_eq!(refused_of(service), Vec::<String>::new(), "one at a time");
}

#[test]
fn only_what_can_become_true_of_a_job_is_waited_for() {
    use pb::dependency::Condition;
    let on = |service: pb::ServiceSpec, condition: Condition| {
        let dependency = pb::Dependency { service: "a".into(), condition: condition.into() };
        refused(&app(vec![service, pb::ServiceSpec { depends_on: vec![dependency], ..container("b") }]))
    };
    for condition in [Condition::Started, Condition::Completed] {
        assert_eq!(on(a_job(pb::Job::default()), condition), Vec::<String>::new());
        assert_eq!(on(a_cron_job(|_| ()), condition), ["spec.services[1].depends_on[0].service"]);
    }
    assert_eq!(
        on(a_job(pb::Job::default()), Condition::Healthy),
        ["spec.services[1].depends_on[0].condition"]
    );
}

#[test]
fn what_runs_at_once_is_kept_free_and_no_more() {
    let requests = pb::ResourceList { memory_bytes: Some(7), ..Default::default() };
    let resources = Some(pb::Resources { requests: Some(requests), limits: None });
    let job = pb::Job { completions: Some(5), parallelism: Some(2), ..Default::default() };
    let kept = |service: pb::ServiceSpec, count: u32| {
        let service = parsed(pb::ServiceSpec { resources, ..service });
        (0..count).filter(|ordinal| service.booked_by(*ordinal).memory_bytes == Some(7)).collect::<Vec<u32>>()
    };
    assert_eq!(kept(a_job(job), 5), [0, 1]);
    let allow = a_cron_job(|cron| {
        cron.concurrency_policy = pb::cron_job::ConcurrencyPolicy::Allow.into();
        cron.job = Some(job);
    });
    assert_eq!(kept(allow, 15), [0, 1, 5, 6, 10, 11]);
    let replicas =
        with(pb::service_spec::Kind::Deployment(pb::Deployment { replicas: Some(3), ..Default::default() }));
    assert_eq!(kept(replicas, 3), [0, 1, 2]);
}

#[test]
fn an_agent_that_does_not_know_jobs_is_asked_for_none() {
    let needed = |service| feature::of_app(&AppSpec::from_proto(&app(vec![service])).unwrap());
    assert_eq!(needed(a_job(pb::Job::default())), [feature::JOBS]);
    assert_eq!(needed(a_cron_job(|_| ())), [feature::CRON_JOBS, feature::JOBS]);
    assert!(needed(container("a")).is_empty());
}
