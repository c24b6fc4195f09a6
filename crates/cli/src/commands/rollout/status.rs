//! `rollout status`: follows a rollout to its end, whichever that is.

use skerry_proto::scheduler::v1::rollout_status::Phase;
use skerry_proto::scheduler::v1::{App, RolloutStatus};

use super::apps;
use crate::args::RolloutStatusArgs;
use crate::client::Client;
use crate::commands::{Several, wait};
use crate::error::CliError;
use crate::item::Item;
use crate::patience::{Ended, Look, Patience, Seen};
use crate::print::Printer;
use crate::render::rows::short_hash;
use crate::target::Target;

pub(super) async fn run(
    client: &Client,
    args: &RolloutStatusArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let targets = apps(&args.apps)?;
    let patience = Patience::new(args.timeout);
    let mut several = Several::default();
    for target in &targets {
        let waited = if args.watch { follow(client, target, patience).await } else { Ok(()) };
        let outcome = match waited {
            Ok(()) => said(client, target, printer).await,
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// Waits until the app has been rolled out. Fails where that comes to another end.
async fn follow(client: &Client, target: &Target, patience: Patience) -> Result<(), CliError> {
    let waited = patience.until(target, async || {
        let item = client.get(target).await?;
        Ok(look(&item))
    });
    waited.await.map_err(|ended| match ended {
        Ended::Failed(error) => error,
        Ended::Over(instead) => {
            CliError::TimedOut(format!("{target} is not rolled out after {}: {instead}", patience.shown()))
        }
    })
}

fn look(item: &Item) -> Look {
    let Item::App(app) = item else { unreachable!("asked for an app") };
    let Some(rollout) = current(app) else { return wait::health(item) };
    let other_end = |what: &str| Look::Never(format!("{what}: {}", reason(rollout)));
    match rollout.phase() {
        Phase::Progressing | Phase::RollingBack => Look::NotYet(under_way(rollout)),
        Phase::Paused => other_end("is paused"),
        Phase::RolledBack => other_end("was rolled back"),
        // Who is away gets it later, and that is no reason to wait.
        Phase::Done if rollout.healthy + rollout.away >= rollout.clusters => Look::Met,
        Phase::Done | Phase::Unspecified => wait::health(item),
    }
}

/// The rollout of what is the app's spec now.
fn current(app: &App) -> Option<&RolloutStatus> {
    let status = app.status.as_ref()?;
    let generation = app.metadata.as_ref().map_or(0, |metadata| metadata.generation);
    status.rollout.as_ref().filter(|_| status.observed_generation >= generation)
}

fn reason(rollout: &RolloutStatus) -> String {
    match rollout.reason.as_str() {
        "" => rollout.message.clone(),
        reason => format!("{reason}: {}", rollout.message),
    }
}

fn under_way(rollout: &RolloutStatus) -> Seen {
    let what = if rollout.phase() == Phase::RollingBack { "rolling back; " } else { "" };
    Seen {
        text: format!(
            "{what}{} of {} clusters changed; {}",
            rollout.moved,
            rollout.clusters,
            reason(rollout)
        ),
        ready: Some((rollout.healthy, rollout.clusters)),
    }
}

/// Says how the app stands now.
async fn said(client: &Client, target: &Target, printer: &mut Printer) -> Result<(), CliError> {
    let item = client.get(target).await?;
    let looked = look(&item);
    let Item::App(app) = item else { unreachable!("asked for an app") };
    let rest = current(&app).map(reason).filter(|text| !text.is_empty());
    let status = app.status.unwrap_or_default();
    let counts = status.counts.unwrap_or_default();
    let (ready, desired) = (counts.ready, counts.desired);
    let line = match looked {
        Look::Met => {
            let rest = rest.map(|rest| format!("; {rest}")).unwrap_or_default();
            let revision = short_hash(&status.revision);
            format!("{target} rolled out: {ready}/{desired} ready in revision {revision}{rest}")
        }
        Look::NotYet(Seen { text, .. }) | Look::Never(text) => {
            format!("{target} not rolled out: {ready}/{desired} ready; {text}")
        }
    };
    printer.line(&line)
}

#[cfg(test)]
mod tests {
    use skerry_proto::scheduler::v1::AppStatus;
    use skerry_proto::types::v1::Metadata;

    use super::*;

    fn seen(observed: i64, rollout: RolloutStatus) -> Look {
        let metadata = Metadata { name: "projects/p/apps/a".into(), generation: 3, ..Default::default() };
        let status =
            AppStatus { observed_generation: observed, rollout: Some(rollout), ..Default::default() };
        let app = App { metadata: Some(metadata), spec: None, status: Some(status) };
        look(&Item::App(Box::new(app)))
    }

    fn rollout(phase: Phase) -> RolloutStatus {
        RolloutStatus { phase: phase.into(), clusters: 4, moved: 2, healthy: 2, ..Default::default() }
    }

    #[test]
    fn a_rollout_is_followed_until_it_ends_and_only_success_is_one() {
        assert!(matches!(seen(3, rollout(Phase::Progressing)), Look::NotYet(_)));
        assert!(matches!(seen(3, rollout(Phase::RollingBack)), Look::NotYet(_)));
        let failed = RolloutStatus {
            reason: "ProgressDeadlineExceeded".into(),
            message: "n1 fails".into(),
            ..rollout(Phase::RolledBack)
        };
        let expected = Look::Never("was rolled back: ProgressDeadlineExceeded: n1 fails".into());
        assert_eq!(seen(3, failed), expected);
        assert!(matches!(seen(3, rollout(Phase::Paused)), Look::Never(_)));
    }

    #[test]
    fn clusters_that_are_away_do_not_keep_a_rollout_from_being_done() {
        assert_eq!(seen(3, RolloutStatus { away: 2, ..rollout(Phase::Done) }), Look::Met);
        assert!(matches!(seen(3, rollout(Phase::Done)), Look::NotYet(_)));
    }

    #[test]
    fn the_rollout_of_a_former_change_says_nothing_of_this_one() {
        assert!(matches!(seen(2, rollout(Phase::RolledBack)), Look::NotYet(_)));
    }
}
