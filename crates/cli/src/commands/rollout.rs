//! `rollout`: the revisions of an app. How the current one comes along, which there were, and back to one of them.

mod control;
mod status;

use skerry_manifest::output::other;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{App, Revision};
use skerry_proto::types::v1::AppSpec;

use super::restart;
use super::send::{Sending, send};
use crate::args::{HistoryArgs, RolloutCommand, UndoArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::item::{Item, Query};
use crate::print::Printer;
use crate::render::rows::{self, short_hash};
use crate::render::table::Table;
use crate::render::time;
use crate::target::{Target, Type, parse_all};

pub(crate) async fn run(
    client: &Client,
    command: &RolloutCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        RolloutCommand::Status(args) => status::run(client, args, printer).await,
        RolloutCommand::History(args) => history(client, args, printer).await,
        RolloutCommand::Undo(args) => undo(client, args, printer).await,
        RolloutCommand::Pause(args) => control::pause(client, args, printer).await,
        RolloutCommand::Resume(args) => control::resume(client, args, printer).await,
        RolloutCommand::Abort(args) => control::abort(client, args, printer).await,
        RolloutCommand::Restart(args) => restart::run(client, args, printer).await,
    }
}

/// Reads `app/NAME` or `app NAME`.
pub(super) fn one_app(words: &[String]) -> Result<Target, CliError> {
    match apps(words)?.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(CliError::Usage("one app at a time: app/NAME".into())),
    }
}

fn apps(words: &[String]) -> Result<Vec<Target>, CliError> {
    let targets = parse_all(words)?;
    match targets.iter().find(|target| target.kind != Type::App) {
        None => Ok(targets),
        Some(other) => Err(CliError::Usage(format!("{other} has no revisions: name an app, as app/NAME"))),
    }
}

/// The revisions, newest first, and which is the current one.
async fn revisions(client: &Client, target: &Target) -> Result<(App, Vec<Revision>), CliError> {
    let Item::App(app) = client.get(target).await? else { unreachable!("asked for an app") };
    let query = Query { app: Some(target.name.clone()), ..Query::all(Type::Revision) };
    let (items, _) = client.list(&query).await?;
    let mut revisions: Vec<Revision> = items
        .into_iter()
        .filter_map(|item| match item {
            Item::Revision(revision) => Some(*revision),
            _ => None,
        })
        .collect();
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    Ok((*app, revisions))
}

async fn history(client: &Client, args: &HistoryArgs, printer: &mut Printer) -> Result<(), CliError> {
    let target = one_app(&args.app)?;
    let (app, revisions) = revisions(client, &target).await?;
    if let Some(number) = args.revision {
        let revision = find(&target, &revisions, number)?;
        return printer.text(&other("Revision", "skerry.scheduler.v1.Revision", revision).to_yaml());
    }
    let now = time::now();
    let rows: Vec<Vec<String>> = revisions
        .iter()
        .enumerate()
        .map(|(index, revision)| {
            let before = revisions.get(index + 1);
            let hash = revision.name.rsplit('/').next().unwrap_or_default();
            let is_current = app.status.as_ref().is_some_and(|status| status.revision == hash);
            let state = match revision.rejected.as_str() {
                _ if is_current => "current",
                "" => "",
                _ => "rejected",
            };
            vec![
                revision.number.to_string(),
                short_hash(hash),
                time::age(revision.create_time.as_ref(), now),
                state.to_owned(),
                what(revision, before),
            ]
        })
        .collect();
    let headers = ["REVISION", "HASH", "AGE", "CURRENT", "PROGRAMS"];
    printer.text(&Table::new(&headers, printer.width(), !args.no_headers).rows(&rows))
}

/// What it runs, or that it is only a restart of the one before.
fn what(revision: &Revision, before: Option<&Revision>) -> String {
    let spec = revision.spec.as_ref();
    let same =
        before.is_some_and(|before| spec.map(without_restarts) == before.spec.as_ref().map(without_restarts));
    if same { "restart".to_owned() } else { rows::programs(revision) }
}

fn find<'a>(target: &Target, revisions: &'a [Revision], number: i64) -> Result<&'a Revision, CliError> {
    revisions.iter().find(|revision| revision.number == number).ok_or_else(|| {
        let kept: Vec<String> = revisions.iter().map(|revision| revision.number.to_string()).collect();
        CliError::NotFound(format!(
            "{target} has no revision {number} (any more); kept are {}",
            kept.join(", ")
        ))
    })
}

async fn undo(client: &Client, args: &UndoArgs, printer: &mut Printer) -> Result<(), CliError> {
    let target = one_app(&args.app)?;
    let (mut app, revisions) = revisions(client, &target).await?;
    let current = app.spec.clone().unwrap_or_default();
    let revision = match args.to_revision.filter(|number| *number != 0) {
        Some(number) => find(&target, &revisions, number)?,
        None => before(&revisions, &current).ok_or_else(|| {
            CliError::Failed(format!(
                "{target} has no earlier revision that is something else: there is nothing to undo"
            ))
        })?,
    };
    let Some(spec) = revision.spec.clone() else {
        return Err(CliError::Failed(format!(
            "revision {} of {target} cannot be read by this server: apply a manifest instead",
            revision.number
        )));
    };
    app.spec = Some(AppSpec { rollout: current.rollout, ..spec });
    // With the etag of what was looked at: whoever changes the app meanwhile is not undone as well.
    let how = Sending { dry_run: args.dry_run, ..Sending::change(["spec"]) };
    let (_, outcome) = send(client, Item::App(Box::new(app)), &how).await?;
    let dry = if args.dry_run { " (dry run)" } else { "" };
    let number = revision.number;
    printer.line(&match outcome {
        Outcome::Unchanged => format!("{target} unchanged: it is what it was in revision {number}{dry}"),
        _ => format!("{target} rolled back to revision {number}{dry}"),
    })
}

/// The newest revision that is something else than `current`, restarts apart, and that no rollout rejected.
fn before<'a>(revisions: &'a [Revision], current: &AppSpec) -> Option<&'a Revision> {
    let current = Some(without_restarts(current));
    let differs = |revision: &Revision| revision.spec.as_ref().map(without_restarts) != current;
    revisions.iter().find(|revision| revision.rejected.is_empty() && differs(revision))
}

/// What it runs, but for when that was asked to start anew, and how it is rolled out, which is no part of a revision.
fn without_restarts(spec: &AppSpec) -> AppSpec {
    let mut spec = AppSpec { rollout: None, ..spec.clone() };
    for service in &mut spec.services {
        service.restart_time = None;
    }
    spec
}

#[cfg(test)]
mod tests {
    use skerry_proto::types::v1::ServiceSpec;

    use super::*;

    fn spec(user: &str, restarted: Option<i64>) -> AppSpec {
        let restart_time = restarted.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        let service = ServiceSpec { name: "s".into(), user: user.into(), restart_time, ..Default::default() };
        AppSpec { services: vec![service], ..Default::default() }
    }

    fn revision(number: i64, spec: AppSpec) -> Revision {
        Revision { number, spec: Some(spec), ..Default::default() }
    }

    #[test]
    fn undo_passes_over_restarts() {
        let revisions =
            [revision(3, spec("b", Some(9))), revision(2, spec("b", None)), revision(1, spec("a", None))];
        assert_eq!(before(&revisions, &spec("b", Some(9))).map(|found| found.number), Some(1));
        assert_eq!(before(&revisions[..2], &spec("b", Some(9))), None);
        assert_eq!(what(&revisions[0], revisions.get(1)), "restart");
    }

    #[test]
    fn undo_passes_over_what_was_rejected() {
        let rejected = Revision { rejected: "it failed".into(), ..revision(2, spec("b", None)) };
        let revisions = [revision(4, spec("c", None)), rejected, revision(1, spec("a", None))];
        let strategy = Some(skerry_proto::types::v1::RolloutStrategy::default());
        let current = AppSpec { rollout: strategy, ..spec("c", None) };
        assert_eq!(before(&revisions, &current).map(|found| found.number), Some(1));
    }

    #[test]
    fn a_revision_that_is_not_kept_is_told_with_those_that_are() {
        let target = Target { kind: Type::App, name: "a".into() };
        let revisions = [revision(3, spec("b", None)), revision(2, spec("a", None))];
        assert!(find(&target, &revisions, 2).is_ok());
        assert_eq!(
            find(&target, &revisions, 1).expect_err("gone").summary(),
            "app/a has no revision 1 (any more); kept are 3, 2"
        );
        assert!(one_app(&["node/n1".to_owned()]).is_err());
    }
}
