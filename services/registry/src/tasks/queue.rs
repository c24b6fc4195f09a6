//! Which tasks wait for a worker, in which order, and which are kept: pure, from tasks as they are shown.

use std::collections::BTreeMap;
use std::time::SystemTime;

use skerry_api::Listed;
use skerry_model::{ProjectName, TaskRef, time};
use skerry_proto::registry::v1::{Task, TaskState};

/// Tasks of a project that ended and are kept.
pub(super) const KEPT_MAX: usize = 100;
/// Tasks of a project that may be there and not have ended.
pub(super) const OPEN_MAX: usize = 500;

/// What a worker finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// To be begun now, the oldest first.
    pub(super) due: Vec<TaskRef>,
    /// When the next of the others is, if that is known.
    pub(super) next: Option<SystemTime>,
}

/// What is to be done now.
pub(super) fn queue(tasks: &Listed<Task>, now: SystemTime) -> Queue {
    let mut due = Vec::new();
    let mut next = None;
    for (name, task) in tasks.iter() {
        // What a newer version can do, that one does.
        let known = task.spec.as_ref().is_some_and(|spec| spec.work.is_some());
        let (Some(status), Ok(parsed), true) = (&task.status, TaskRef::parse(name), known) else { continue };
        match status.state() {
            TaskState::Queued => {}
            TaskState::Waiting if status.cancelling => {}
            TaskState::Waiting => {
                let at = status.next_try_time.as_ref().and_then(time::from_timestamp).unwrap_or(now);
                if at > now {
                    next = Some(next.map_or(at, |before: SystemTime| before.min(at)));
                    continue;
                }
            }
            _ => continue,
        }
        let age = task.metadata.as_ref().and_then(|metadata| metadata.create_time);
        due.push((age.map_or((0, 0), |age| (age.seconds, age.nanos)), parsed));
    }
    due.sort();
    Queue { due: due.into_iter().map(|(_, name)| name).collect(), next }
}

/// How many tasks of a project have not ended.
pub(super) fn open(tasks: &Listed<Task>, project: &ProjectName) -> usize {
    let below = format!("{}/", project.parent());
    let of_project = tasks.range(below.clone()..).take_while(|(name, _)| name.starts_with(&below));
    of_project.filter(|(_, task)| !has_ended(task)).count()
}

/// The tasks that ended and are not kept: of each project all but the last.
pub(super) fn surplus(tasks: &Listed<Task>) -> Vec<TaskRef> {
    let mut ended: BTreeMap<ProjectName, Vec<_>> = BTreeMap::new();
    for (name, task) in tasks.iter().filter(|(_, task)| has_ended(task)) {
        let Ok(name) = TaskRef::parse(name) else { continue };
        let at = task.status.as_ref().and_then(|status| status.end_time);
        let at = at.map_or((0, 0), |at| (at.seconds, at.nanos));
        ended.entry(name.project.clone()).or_default().push((at, name));
    }
    let mut surplus = Vec::new();
    for mut of_project in ended.into_values() {
        of_project.sort();
        let too_many = of_project.len().saturating_sub(KEPT_MAX);
        surplus.extend(of_project.into_iter().take(too_many).map(|(_, name)| name));
    }
    surplus
}

fn has_ended(task: &Task) -> bool {
    let state = task.status.as_ref().map(skerry_proto::registry::v1::TaskStatus::state);
    matches!(state, Some(TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use skerry_proto::registry::v1::task_spec::Work;
    use skerry_proto::registry::v1::{DrainClusterWork, TaskSpec, TaskStatus};
    use skerry_proto::types::v1::Metadata;

    use super::*;

    fn task(seconds: u64, status: TaskStatus) -> Task {
        let at = Some(time::to_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        Task {
            metadata: Some(Metadata { create_time: at, ..Metadata::default() }),
            spec: Some(TaskSpec { work: Some(Work::DrainCluster(DrainClusterWork::default())) }),
            status: Some(TaskStatus { end_time: at, ..status }),
        }
    }

    fn listed(tasks: impl IntoIterator<Item = (String, Task)>) -> Listed<Task> {
        Arc::new(tasks.into_iter().map(|(name, task)| (name, Arc::new(task))).collect())
    }

    fn of(state: TaskState) -> TaskStatus {
        TaskStatus { state: state.into(), ..TaskStatus::default() }
    }

    #[test]
    fn the_oldest_is_first_and_what_waits_is_due_at_its_time_or_when_it_is_cancelled() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let later = |seconds| Some(time::to_timestamp(now + Duration::from_secs(seconds)));
        let waiting = |seconds| TaskStatus { next_try_time: later(seconds), ..of(TaskState::Waiting) };
        let name = |name: &str| format!("projects/p/tasks/{name}");
        let tasks = listed([
            (name("a"), task(9, of(TaskState::Queued))),
            (name("b"), task(5, of(TaskState::Queued))),
            (name("c"), task(1, waiting(0))),
            (name("d"), task(1, waiting(7))),
            (name("e"), task(1, waiting(9))),
            (name("f"), task(7, TaskStatus { cancelling: true, ..waiting(9) })),
            (name("g"), task(1, of(TaskState::Running))),
            (name("h"), task(1, of(TaskState::Failed))),
            (name("i"), Task { spec: Some(TaskSpec::default()), ..task(1, of(TaskState::Queued)) }),
        ]);
        let found = queue(&tasks, now);
        let names: Vec<_> = found.due.iter().map(|name| name.task.as_str().to_owned()).collect();
        assert_eq!(names, ["c", "b", "f", "a"]);
        assert_eq!(found.next, Some(now + Duration::from_secs(7)));
        assert_eq!(open(&tasks, &ProjectName::parse("p").unwrap()), 8);
        assert_eq!(open(&tasks, &ProjectName::parse("q").unwrap()), 0);
    }

    #[test]
    fn of_those_that_ended_the_last_of_each_project_are_kept() {
        let mut tasks = Vec::new();
        for number in 0..KEPT_MAX + 2 {
            let seconds = u64::try_from(1000 - number).unwrap();
            tasks.push((format!("projects/p/tasks/t{number:03}"), task(seconds, of(TaskState::Succeeded))));
            tasks.push((format!("projects/q/tasks/t{number:03}"), task(seconds, of(TaskState::Running))));
        }
        let names: Vec<_> = surplus(&listed(tasks)).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["projects/p/tasks/t101", "projects/p/tasks/t100"]);
    }
}
