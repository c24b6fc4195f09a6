//! What is said of single instances.

use skerry_model::ContentHash;
use skerry_proto::store::v1::RefusedResource;

use super::*;

#[test]
fn an_instance_whose_revision_was_refused_says_why_that_was() {
    let hash = ContentHash::of(b"spec");
    let placed = Placed {
        instance: InstanceName::parse("a/s/n/0").unwrap(),
        revision: hash,
        configs: std::collections::BTreeMap::new(),
        secrets: std::collections::BTreeMap::new(),
        booked: skerry_model::app::Amounts::default(),
        ports: Vec::new(),
        bounds: None,
        gpus: Vec::new(),
    };
    let refused = |name: String, reason: &str| RefusedResource {
        name,
        reason: reason.to_owned(),
        ..RefusedResource::default()
    };
    let own = refused("instances/a/s/n/0".to_owned(), "MissingReference");
    let cause = refused(format!("revisions/a/{hash}"), "UnsupportedFeature");
    let status = StatusRecord { refused: vec![own.clone(), cause], ..StatusRecord::default() };
    assert_eq!(refusal(&status, &placed).unwrap().0, "UnsupportedFeature");
    let alone = StatusRecord { refused: vec![own], ..StatusRecord::default() };
    assert_eq!(refusal(&alone, &placed).unwrap().0, "MissingReference");
}

#[test]
fn an_update_that_cannot_be_made_says_why() {
    let mut waits = InstanceStatus {
        ready: true,
        reason: "ImagePullFailed".into(),
        message: "the former revision still runs: no route".into(),
        ..InstanceStatus::default()
    };
    behind(&mut waits);
    assert!(!waits.ready);
    assert_eq!((waits.reason.as_str(), waits.message.contains("no route")), ("ImagePullFailed", true));
    let mut untold = InstanceStatus { ready: true, ..InstanceStatus::default() };
    behind(&mut untold);
    assert_eq!((untold.ready, untold.reason.as_str()), (false, "Updating"));
}

#[test]
fn a_cluster_is_as_healthy_while_a_cron_job_runs_as_between_its_runs() {
    use InstancePhase::{Backoff, Failed, Pending, Preparing};
    use job_status::State::{Active, Waiting};
    let seen = |end: End, phase: InstancePhase, state: job_status::State| {
        let job = Some(JobStatus { state: state.into(), ..JobStatus::default() });
        let status = InstanceStatus { phase: phase.into(), job, ..InstanceStatus::default() };
        let name = InstanceName::parse("a/s/n/0").unwrap();
        Seen { taken: Taken::Runs, current: true, reached: Some(true), end, ..fresh(name, status) }
    };
    for phase in [Pending, Preparing] {
        assert!(is_in_run(&seen(End::Never, phase, Active)));
        assert!(!is_in_run(&seen(End::Never, phase, Waiting)), "it cannot begin");
        assert!(!is_in_run(&seen(End::Success, phase, Active)), "a job is waited for");
    }
    for phase in [Backoff, Failed] {
        assert!(!is_in_run(&seen(End::Never, phase, Active)));
    }
}

#[test]
fn only_what_runs_is_said_to_run_on() {
    let phase = |phase: InstancePhase| InstanceStatus { phase: phase.into(), ..InstanceStatus::default() };
    assert_eq!(meanwhile(true, Some(&phase(InstancePhase::Running))), "; the former revision runs on");
    for other in [None, Some(phase(InstancePhase::Failed)), Some(phase(InstancePhase::Preparing))] {
        assert!(meanwhile(true, other.as_ref()).ends_with("does not run"));
    }
    assert_eq!(meanwhile(false, None), "");
}
