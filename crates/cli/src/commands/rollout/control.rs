//! `rollout pause`, `resume` and `abort`.

use skerry_proto::scheduler::v1::{AbortRolloutRequest, PauseRolloutRequest, ResumeRolloutRequest};

use super::one_app;
use crate::args::RolloutAppArgs;
use crate::client::{Client, Service, request, request_id, rollouts};
use crate::error::CliError;
use crate::print::Printer;

pub(super) async fn pause(
    client: &Client,
    args: &RolloutAppArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let target = one_app(&args.app)?;
    let wanted = PauseRolloutRequest { app: target.full_name(client.project())?, request_id: request_id() };
    let paused = client.call(Service::Scheduler, |channel, left| {
        let wanted = wanted.clone();
        async move { rollouts(channel).pause_rollout(request(wanted, left)).await }
    });
    paused.await?;
    printer.line(&format!("{target} rollout paused"))
}

pub(super) async fn resume(
    client: &Client,
    args: &RolloutAppArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let target = one_app(&args.app)?;
    let wanted = ResumeRolloutRequest { app: target.full_name(client.project())?, request_id: request_id() };
    let resumed = client.call(Service::Scheduler, |channel, left| {
        let wanted = wanted.clone();
        async move { rollouts(channel).resume_rollout(request(wanted, left)).await }
    });
    resumed.await?;
    printer.line(&format!("{target} rollout resumed"))
}

pub(super) async fn abort(
    client: &Client,
    args: &RolloutAppArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let target = one_app(&args.app)?;
    let wanted = AbortRolloutRequest { app: target.full_name(client.project())?, request_id: request_id() };
    let aborted = client.call(Service::Scheduler, |channel, left| {
        let wanted = wanted.clone();
        async move { rollouts(channel).abort_rollout(request(wanted, left)).await }
    });
    aborted.await?;
    printer.line(&format!("{target} rollout aborted: it goes back"))
}
