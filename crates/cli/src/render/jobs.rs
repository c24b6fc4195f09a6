//! How jobs stand, in descriptions of apps and instances.

use prost_types::Timestamp;
use skerry_proto::types::v1::job_status::State;
use skerry_proto::types::v1::{InstanceStatus, JobRun, JobStatus};

use super::describe::{field, table};
use crate::item::Item;
use crate::render::time::{age, moment};

/// The jobs of an app; nothing where it has none.
pub(super) fn of_app(instances: &[Item], now: i64) -> String {
    let jobs: Vec<(&InstanceStatus, &JobStatus)> = instances
        .iter()
        .filter_map(|item| match item {
            Item::Instance(instance) => Some((&**instance, instance.job.as_ref()?)),
            _ => None,
        })
        .collect();
    let mut text = String::new();
    if !jobs.is_empty() {
        let rows: Vec<_> = jobs.iter().map(|(instance, job)| row(instance, job, now)).collect();
        table(
            &mut text,
            "Jobs",
            &["JOB", "STATE", "SUCCEEDED", "FAILURES", "STARTED", "TOOK", "NEXT"],
            &rows,
        );
    }
    text
}

fn row(instance: &InstanceStatus, job: &JobStatus, now: i64) -> Vec<String> {
    let name = instance.instance.rsplit_once('/').map_or(instance.instance.as_str(), |(name, _)| name);
    vec![
        name.to_owned(),
        state(job),
        format!("{}/{}", job.succeeded, job.completions),
        job.failures.to_string(),
        ago(job.start_time.as_ref(), now),
        took(job.start_time.as_ref(), job.finish_time.as_ref()),
        moment(job.next_time.as_ref()),
    ]
}

/// The job that an instance is the first one of; nothing of any other.
pub(super) fn of_instance(instance: &InstanceStatus, now: i64) -> String {
    let mut text = String::new();
    let Some(job) = &instance.job else { return text };
    let counts = format!("{} of {} succeeded, {} failures", job.succeeded, job.completions, job.failures);
    field(&mut text, "Job", &format!("{}, {counts}", state(job)));
    if job.schedule_time.is_some() {
        field(&mut text, "Run of", &moment(job.schedule_time.as_ref()));
    }
    if job.next_time.is_some() {
        field(&mut text, "Next run", &moment(job.next_time.as_ref()));
    }
    if job.start_time.is_some() {
        let taken = took(job.start_time.as_ref(), job.finish_time.as_ref());
        field(&mut text, "Job started", &format!("{}, took {taken}", moment(job.start_time.as_ref())));
    }
    if !job.history.is_empty() {
        let rows: Vec<_> = job.history.iter().rev().map(|run| past(run, now)).collect();
        table(&mut text, "Runs", &["DUE", "FINISHED", "TOOK", "RESULT", "FAILURES"], &rows);
    }
    text
}

fn past(run: &JobRun, now: i64) -> Vec<String> {
    vec![
        moment(run.schedule_time.as_ref()),
        ago(run.finish_time.as_ref(), now),
        took(run.start_time.as_ref(), run.finish_time.as_ref()),
        if run.reason.is_empty() { "Completed".to_owned() } else { run.reason.clone() },
        run.failures.to_string(),
    ]
}

/// `Complete`, or `Failed (DeadlineExceeded)`.
fn state(job: &JobStatus) -> String {
    let word = match job.state() {
        State::Active => "Active",
        State::Complete => "Complete",
        State::Failed => "Failed",
        State::Waiting => "Waiting",
        State::Unspecified => "Unknown",
    };
    if job.reason.is_empty() { word.to_owned() } else { format!("{word} ({})", job.reason) }
}

fn ago(time: Option<&Timestamp>, now: i64) -> String {
    if time.is_some() { format!("{} ago", age(time, now)) } else { "-".to_owned() }
}

fn took(from: Option<&Timestamp>, to: Option<&Timestamp>) -> String {
    to.map_or_else(|| "-".to_owned(), |to| age(from, to.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    fn nightly() -> InstanceStatus {
        let run = JobRun {
            schedule_time: Some(at(0)),
            start_time: Some(at(1)),
            finish_time: Some(at(61)),
            reason: "DeadlineExceeded".to_owned(),
            failures: 1,
        };
        let job = JobStatus {
            state: State::Failed.into(),
            reason: "DeadlineExceeded".to_owned(),
            completions: 2,
            succeeded: 1,
            failures: 1,
            start_time: Some(at(1)),
            finish_time: Some(at(61)),
            schedule_time: Some(at(0)),
            next_time: Some(at(86_400)),
            history: vec![run],
        };
        InstanceStatus { instance: "shop/backup/n1/0".to_owned(), job: Some(job), ..Default::default() }
    }

    #[test]
    fn an_app_shows_its_jobs_and_an_instance_the_runs_of_its_own() {
        let text = of_app(&[Item::Instance(Box::new(nightly()))], 3600);
        for part in
            ["shop/backup/n1", "Failed (DeadlineExceeded)", "1/2", "59m ago", "60s", "1970-01-02T00:00:00Z"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = of_instance(&nightly(), 3600);
        for part in ["1 of 2 succeeded, 1 failures", "Run of", "Next run", "RESULT"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let other = InstanceStatus { job: None, ..nightly() };
        assert_eq!(of_instance(&other, 0), "");
        assert_eq!(of_app(&[Item::Instance(Box::new(other))], 0), "");
    }
}
