//! `task`, and what other commands leave to tasks: they are begun, and followed as long as somebody looks.

use skerry_model::ProjectName;
use skerry_proto::registry::v1::task_spec::Work;
use skerry_proto::registry::v1::{DrainClusterWork, PrefetchImagesWork, RelabelNodesWork, Task, TaskState};

use super::Several;
use super::label::labels_of;
use crate::args::{DrainArgs, LabelArgs, PrefetchArgs, TaskArgs, TaskCommand};
use crate::client::Client;
use crate::error::CliError;
use crate::item::Item;
use crate::patience::{Ended, Look, Patience};
use crate::print::{Printer, note};
use crate::render::tasks::{said, state};
use crate::target::{Target, Type};

pub(crate) async fn run(
    client: &Client,
    command: &TaskCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        TaskCommand::Watch(args) => {
            let target = target(&args.task);
            // It has to be there before anybody waits for it.
            client.get(&target).await?;
            let task = follow(client, &target, Patience::new(args.timeout)).await?;
            printer.line(&format!("{target} succeeded: {}", message(&task)))
        }
        TaskCommand::Cancel(args) => cancel(client, args, printer).await,
        TaskCommand::Retry(args) => retry(client, args, printer).await,
    }
}

async fn cancel(client: &Client, args: &TaskArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut several = Several::default();
    for target in args.tasks.iter().map(|word| target(word)) {
        let name = target.full_name(client.project())?;
        let outcome = match client.cancel_task(name).await {
            Ok(task) => {
                let status = task.status.unwrap_or_default();
                let rest = match status.state() {
                    TaskState::Cancelled => status.message,
                    _ => format!(
                        "{} of {} steps are done; it ends after the one that it is at",
                        status.steps_done, status.steps_total
                    ),
                };
                printer.line(&format!("{target} cancelled: {rest}"))
            }
            Err(error) => Err(error.into()),
        };
        several.take(outcome)?;
    }
    several.finish()
}

async fn retry(client: &Client, args: &TaskArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut several = Several::default();
    for target in args.tasks.iter().map(|word| target(word)) {
        let name = target.full_name(client.project())?;
        let outcome = match client.retry_task(name).await {
            Ok(task) => printer.line(&format!("{target} goes on: {}", goes_on(&task))),
            Err(error) => Err(error.into()),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// `drain` of clusters.
pub(super) async fn drain(
    client: &Client,
    clusters: &[Target],
    args: &DrainArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let patience = Patience::new(args.timeout);
    let mut several = Several::default();
    let mut begun = Vec::new();
    // All of them first: they are drained side by side.
    for cluster in clusters {
        let full = cluster.full_name(client.project())?;
        let name = full.rsplit('/').next().unwrap_or_default().to_owned();
        let work = Work::DrainCluster(DrainClusterWork { cluster: name });
        match client.create_task(&client.project().parent(), work).await {
            Ok(task) => begun.push((cluster, task)),
            Err(error) => several.take(Err(error.into()))?,
        }
    }
    for (cluster, task) in begun {
        let outcome = if args.wait && !args.no_wait {
            match follow(client, &target_of(client.project(), &task), patience).await {
                Ok(task) => printer.line(&format!("{cluster} drained: {}", message(&task))),
                Err(error) => Err(error),
            }
        } else {
            printer.line(&format!("{cluster} drains, by {}", place(client.project(), &task)))
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// `label -l`.
pub(crate) async fn relabel(
    client: &Client,
    args: &LabelArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let (named, edits) = labels_of(&args.words)?;
    let is_nodes = matches!(named, [kind] if Type::parse(kind)? == Type::Node);
    if !is_nodes {
        let message = "-l chooses among all nodes: skerry label nodes -l SELECTOR KEY=VALUE";
        return Err(CliError::Usage(message.to_owned()));
    }
    let mut work = RelabelNodesWork {
        label_selector: args.selector.clone().unwrap_or_default(),
        overwrite: args.overwrite,
        ..RelabelNodesWork::default()
    };
    for (key, value) in edits {
        match value {
            Some(value) => {
                work.set.insert(key, value);
            }
            None => work.remove.push(key),
        }
    }
    let task = client.create_task(&client.project().parent(), Work::RelabelNodes(work)).await?;
    if !args.follow.wait || args.follow.no_wait {
        return printer.line(&format!("nodes are labelled by {}", place(client.project(), &task)));
    }
    let done =
        follow(client, &target_of(client.project(), &task), Patience::new(args.follow.timeout)).await?;
    printer.line(&message(&done))
}

/// `prefetch`.
pub(crate) async fn prefetch(
    client: &Client,
    args: &PrefetchArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let work = PrefetchImagesWork {
        label_selector: args.selector.clone().unwrap_or_default(),
        images: args.images.clone(),
        secret: args.secret.clone().unwrap_or_default(),
        keep: Some(skerry_model::time::to_proto_duration(args.keep)),
    };
    let task = client.create_task(&client.project().parent(), Work::PrefetchImages(work)).await?;
    if args.no_wait {
        return printer.line(&format!("images are fetched by {}", place(client.project(), &task)));
    }
    let done = follow(client, &target_of(client.project(), &task), Patience::new(args.timeout)).await?;
    printer.line(&message(&done))
}

/// A task by what was typed: `ID` or `task/ID`.
fn target(word: &str) -> Target {
    let name = word.strip_prefix("task/").or(word.strip_prefix("tasks/")).unwrap_or(word);
    Target { kind: Type::Task, name: name.to_owned() }
}

/// By its full name where it is in another project than `here`.
fn target_of(here: &ProjectName, task: &Task) -> Target {
    let name = task.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    let short = name.strip_prefix(&format!("{}/tasks/", here.parent()));
    Target { kind: Type::Task, name: short.unwrap_or(name).to_owned() }
}

/// A task, and how to look at it.
pub(super) fn place(here: &ProjectName, task: &Task) -> String {
    let target = target_of(here, task);
    format!("{target} (skerry task watch {})", words(&target))
}

/// What is typed to name a task.
fn words(target: &Target) -> String {
    match target.name.split('/').collect::<Vec<_>>().as_slice() {
        ["projects", project, _, id] => format!("-p {project} {id}"),
        _ => target.name.clone(),
    }
}

fn message(task: &Task) -> String {
    task.status.as_ref().map(|status| status.message.clone()).unwrap_or_default()
}

fn goes_on(task: &Task) -> String {
    let status = task.status.clone().unwrap_or_default();
    format!("{} of {} steps are done", status.steps_done, status.steps_total)
}

/// Follows a task to its end; answers it. Fails where it ends otherwise than well.
async fn follow(client: &Client, target: &Target, patience: Patience) -> Result<Task, CliError> {
    let mut leaves = Leaves { target: Some(target) };
    let mut last = Task::default();
    let waited = patience.until(target, async || {
        let Item::Task(task) = client.get(target).await? else { unreachable!("asked for a task") };
        let look = look(&task);
        last = *task;
        Ok(look)
    });
    let ended = waited.await;
    leaves.target = None;
    match ended {
        Ok(()) => Ok(last),
        Err(Ended::Failed(error)) => {
            if matches!(error, CliError::Unreachable { .. }) {
                leaves.target = Some(target);
            }
            Err(error)
        }
        Err(Ended::Over(instead)) => Err(CliError::TimedOut(format!(
            "{target} has not ended after {}: {instead}; it goes on (`skerry task watch {words}` looks at it, `skerry task cancel {words}` ends it)",
            patience.shown(),
            words = words(target)
        ))),
    }
}

/// Says that a task goes on when nobody looks at it any more, as after Ctrl-C.
struct Leaves<'a> {
    target: Option<&'a Target>,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if let Some(target) = self.target {
            let words = words(target);
            note(&format!(
                "{target} goes on: `skerry task watch {words}` looks at it, `skerry task cancel {words}` ends it"
            ));
        }
    }
}

/// How a task stands, for who waits for its end.
pub(super) fn look(task: &Task) -> Look {
    let status = task.status.clone().unwrap_or_default();
    let (done, total) = (status.steps_done, status.steps_total);
    match status.state() {
        TaskState::Succeeded => Look::Met,
        TaskState::Cancelled => Look::Never(format!("was cancelled: {}", status.message)),
        TaskState::Failed => {
            Look::Never(format!("has failed: {}; last, {}", status.message, status.last_error))
        }
        TaskState::Unspecified | TaskState::Queued | TaskState::Running | TaskState::Waiting => {
            let rest = match said(&status) {
                "" => String::new(),
                said => format!("; {said}"),
            };
            Look::NotYet(format!("{} {done}/{total}{rest}", state(&status)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::TaskStatus;

    use super::*;

    fn seen(state: TaskState, message: &str, last_error: &str) -> Look {
        let status = TaskStatus {
            state: state.into(),
            steps_done: 1,
            steps_total: 3,
            message: message.to_owned(),
            last_error: last_error.to_owned(),
            ..TaskStatus::default()
        };
        look(&Task { status: Some(status), ..Task::default() })
    }

    #[test]
    fn how_a_task_stands_is_told_with_its_progress_and_what_it_waits_for() {
        assert_eq!(
            seen(TaskState::Running, "n2: 1 instance", ""),
            Look::NotYet("Running 1/3; n2: 1 instance".into())
        );
        assert_eq!(seen(TaskState::Queued, "", ""), Look::NotYet("Queued 1/3".into()));
        assert_eq!(seen(TaskState::Waiting, "", "n1: no"), Look::NotYet("Waiting 1/3; n1: no".into()));
        assert_eq!(seen(TaskState::Succeeded, "", ""), Look::Met);
        let never = Look::Never("has failed: 1 of 3 members drained; last, n1: no".to_owned());
        assert_eq!(seen(TaskState::Failed, "1 of 3 members drained", "n1: no"), never);
    }

    #[test]
    fn a_task_is_named_as_it_is_typed() {
        assert_eq!(target("task/a").to_string(), "task/a");
        let metadata = skerry_proto::types::v1::Metadata {
            name: "projects/system/tasks/a".into(),
            ..Default::default()
        };
        let task = Task { metadata: Some(metadata), ..Task::default() };
        let here = |name: &str| ProjectName::parse(name).expect("valid");
        assert_eq!(place(&here("shop"), &task), "task/a (skerry task watch -p system a)");
        assert_eq!(place(&here("system"), &task), "task/a (skerry task watch a)");
    }
}
