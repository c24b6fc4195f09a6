//! How tasks look to people.

use skerry_proto::registry::v1::task_spec::Work;
use skerry_proto::registry::v1::{Task, TaskState, TaskStatus};

use crate::render::describe::{field, head, table};
use crate::render::rows::{Cells, age_of, labels, or_dash, short_name};
use crate::render::time::moment;

/// The columns: always, and where a wide table is asked for.
pub(super) const HEADERS: (&[&str], &[&str]) = (
    &["NAME", "WORK", "STATUS", "PROGRESS", "AGE", "MESSAGE"],
    &["ATTEMPT", "WORKER", "CREATED-BY", "LABELS"],
);

/// The cells of a task.
pub(super) fn cells(task: &Task, now: i64) -> Cells {
    let status = task.status.clone().unwrap_or_default();
    let narrow = vec![
        short_name(task.metadata.as_ref()),
        work(task),
        state(&status),
        format!("{}/{}", status.steps_done, status.steps_total),
        age_of(task.metadata.as_ref(), now),
        or_dash(said(&status)),
    ];
    let attempt = status.attempt.to_string();
    (
        narrow,
        vec![attempt, or_dash(&status.worker), or_dash(&status.created_by), labels(task.metadata.as_ref())],
    )
}

/// What a task does, as `drain cluster/plant-7`.
pub(crate) fn work(task: &Task) -> String {
    match task.spec.as_ref().and_then(|spec| spec.work.as_ref()) {
        Some(Work::DrainCluster(drain)) => format!("drain cluster/{}", drain.cluster),
        Some(Work::DeleteProject(delete)) => format!("delete project/{}", delete.project),
        Some(Work::RelabelNodes(relabel)) => {
            let set = relabel.set.iter().map(|(key, value)| format!("{key}={value}"));
            let edits: Vec<String> = set.chain(relabel.remove.iter().map(|key| format!("{key}-"))).collect();
            format!("label nodes -l {} {}", relabel.label_selector, edits.join(" "))
        }
        Some(Work::PrefetchImages(prefetch)) => {
            let on = match prefetch.label_selector.as_str() {
                "" => String::new(),
                selector => format!(" -l {selector}"),
            };
            format!("prefetch {}{on}", prefetch.images.join(" "))
        }
        None => "unknown to this client".to_owned(),
    }
}

/// The state of a task, as `Running`, or `Cancelling` until it has ended.
pub(crate) fn state(status: &TaskStatus) -> String {
    let word = match status.state() {
        _ if status.cancelling => "Cancelling",
        TaskState::Unspecified | TaskState::Queued => "Queued",
        TaskState::Running => "Running",
        TaskState::Waiting => "Waiting",
        TaskState::Succeeded => "Succeeded",
        TaskState::Failed => "Failed",
        TaskState::Cancelled => "Cancelled",
    };
    word.to_owned()
}

/// What a task is at; else what went wrong, as long as that matters.
pub(crate) fn said(status: &TaskStatus) -> &str {
    match status.state() {
        TaskState::Waiting | TaskState::Failed if !status.last_error.is_empty() => &status.last_error,
        _ => &status.message,
    }
}

/// A task, and the steps of it that failed.
pub(crate) fn describe(task: &Task) -> String {
    let mut text = head(task.metadata.as_ref());
    let status = task.status.clone().unwrap_or_default();
    field(&mut text, "Work", &work(task));
    field(&mut text, "Status", &state(&status));
    field(&mut text, "Progress", &format!("{} of {} steps", status.steps_done, status.steps_total));
    field(&mut text, "Message", &status.message);
    field(&mut text, "Last error", &status.last_error);
    field(&mut text, "Run", &format!("{}, attempt {}", status.run, status.attempt));
    if status.next_try_time.is_some() {
        field(&mut text, "Next try", &moment(status.next_try_time.as_ref()));
    }
    field(&mut text, "Worker", &status.worker);
    field(&mut text, "Created by", &status.created_by);
    let or_not = |time: Option<_>| time.as_ref().map(|time| moment(Some(time))).unwrap_or_default();
    field(&mut text, "Started", &or_not(status.start_time));
    field(&mut text, "Ended", &or_not(status.end_time));
    let again = |permanent| if permanent { "no" } else { "yes" };
    let rows: Vec<_> = status
        .failures
        .iter()
        .map(|failure| vec![failure.step.clone(), again(failure.permanent).to_owned(), failure.error.clone()])
        .collect();
    table(&mut text, "Failures", &["STEP", "TRIED-AGAIN", "ERROR"], &rows);
    text
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::{PrefetchImagesWork, RelabelNodesWork, TaskFailure, TaskSpec};
    use skerry_proto::types::v1::Metadata;

    use super::*;
    use crate::item::Item;
    use crate::render::rows::{cells, headers};
    use crate::render::table::Table;
    use crate::target::Type;

    fn task() -> Task {
        let relabel = RelabelNodesWork {
            label_selector: "site=oslo".to_owned(),
            set: [("zone".to_owned(), "b".to_owned())].into(),
            remove: vec!["old".to_owned()],
            overwrite: false,
        };
        let failure = TaskFailure { step: "n7".into(), error: "label zone is \"x\"".into(), permanent: true };
        let status = TaskStatus {
            state: TaskState::Failed.into(),
            run: 1,
            attempt: 1,
            steps_done: 30,
            steps_total: 31,
            message: "30 of 31 nodes labelled".into(),
            last_error: "n7: label zone is \"x\"".into(),
            failures: vec![failure],
            created_by: "spiffe://x/project/p/user/ada".into(),
            ..TaskStatus::default()
        };
        let metadata = Metadata { name: "projects/p/tasks/relabel-1".into(), ..Metadata::default() };
        let spec = TaskSpec { work: Some(Work::RelabelNodes(relabel)) };
        Task { metadata: Some(metadata), spec: Some(spec), status: Some(status) }
    }

    #[test]
    fn a_task_is_a_row_with_what_went_wrong_or_what_it_is_at() {
        let rows = vec![cells(&Item::Task(Box::new(task())), false, 0)];
        let text = Table::new(&headers(Type::Task, false), None, true).rows(&rows);
        let line = text.lines().nth(1).expect("a row");
        assert!(
            line.starts_with("relabel-1   label nodes -l site=oslo zone=b old-   Failed   30/31"),
            "{line}"
        );
        assert!(line.ends_with("n7: label zone is \"x\""), "{line}");
        let running = TaskStatus {
            state: TaskState::Running.into(),
            cancelling: true,
            ..task().status.expect("it has one")
        };
        assert_eq!((state(&running).as_str(), said(&running)), ("Cancelling", "30 of 31 nodes labelled"));
    }

    #[test]
    fn images_are_named_with_the_nodes_that_they_are_for() {
        let prefetch = |selector: &str| {
            let images = vec!["a:1".to_owned(), "b:2".to_owned()];
            let label_selector = selector.to_owned();
            let work = PrefetchImagesWork { label_selector, images, ..PrefetchImagesWork::default() };
            work_of(Work::PrefetchImages(work))
        };
        assert_eq!(prefetch(""), "prefetch a:1 b:2");
        assert_eq!(prefetch("site=oslo"), "prefetch a:1 b:2 -l site=oslo");
    }

    fn work_of(one: Work) -> String {
        work(&Task { spec: Some(TaskSpec { work: Some(one) }), ..Task::default() })
    }

    #[test]
    fn a_task_is_described_with_the_steps_that_failed() {
        let text = describe(&task());
        for line in [
            "Work:        label nodes -l site=oslo zone=b old-",
            "Progress:    30 of 31 steps",
            "Created by:  spiffe://x/project/p/user/ada",
            "  n7     no            label zone is \"x\"",
        ] {
            assert!(text.lines().any(|one| one == line), "{line:?} in\n{text}");
        }
    }
}
