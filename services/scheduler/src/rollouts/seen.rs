//! What clusters show of an app that is rolled out, and what clients are told of it. Pure, from the world.

use skerry_model::app::RolloutStrategy;
use skerry_model::{AppName, AppSpec, ProjectName, time};
use skerry_proto::scheduler::v1::{RolloutStatus, rollout_status};
use skerry_rollout::{Cluster, Phase, Reason, Rollout, Shown, told};

use super::Head;
use crate::status;
use crate::world::{Project, World};

/// A rollout with all that decides what comes next.
pub(super) struct Scene<'a> {
    pub(super) head: &'a Head,
    pub(super) strategy: RolloutStrategy,
    pub(super) clusters: Vec<Cluster>,
}

/// The rollout of an app. Absent: there is none, or the store is not seen far enough.
pub(super) fn scene<'a>(
    world: &World,
    project_name: &ProjectName,
    project: &'a Project,
    app: &AppName,
) -> Option<Scene<'a>> {
    let head = project.rollout(app)?;
    let record = &project.apps.get(app)?.record.value;
    let strategy = RolloutStrategy::from_proto(record.rollout.as_ref()?).ok()?;
    let planned = project.state.apps.get(app)?;
    let target = project.spec_of(app, &head.rollout.target())?;
    let elsewhere = project.rollouts.get(app)?.elsewhere();
    let mut clusters = Vec::new();
    for (name, plan) in &project.solution {
        let first = plan.nodes.keys().next();
        let Some(labels) = first.and_then(|first| project.state.labels_of(name, first)) else { continue };
        let wanted = planned.wanted(name);
        let goes = |spec: &AppSpec| project.state.goes_to(name, plan, app, spec);
        if !goes(&wanted.spec) && !goes(target) {
            continue;
        }
        let at = elsewhere.get(name).copied().unwrap_or(head.rollout.base);
        let shown = if wanted.revision == at {
            status::shown(world, project_name, project, app, (name, plan))
        } else {
            Shown::Unhealthy { why: "it is not planned yet".to_owned() }
        };
        let is_canary = strategy.canary.as_ref().is_some_and(|canary| canary.matches(labels));
        clusters.push(Cluster { name: name.clone(), at, is_canary, shown });
    }
    Some(Scene { head, strategy, clusters })
}

/// What clients see of an app's last rollout.
pub(crate) fn status_of(
    world: &World,
    project_name: &ProjectName,
    project: &Project,
    app: &AppName,
) -> Option<RolloutStatus> {
    let Scene { head: Head { rollout, .. }, strategy, clusters } = scene(world, project_name, project, app)?;
    let target = rollout.target();
    let count = |is: &dyn Fn(&&Cluster) -> bool| {
        u32::try_from(clusters.iter().filter(is).count()).unwrap_or(u32::MAX)
    };
    let Rollout { from, to, batch, .. } = rollout;
    Some(RolloutStatus {
        phase: phase(rollout.phase).into(),
        from_revision: from.to_string(),
        to_revision: to.to_string(),
        batch: *batch,
        reason: rollout.reason.map_or("", Reason::word).to_owned(),
        message: told(&strategy, rollout, &clusters),
        clusters: count(&|_| true),
        moved: count(&|cluster| cluster.at == target),
        healthy: count(&|cluster| cluster.at == target && cluster.shown == Shown::Healthy),
        away: count(&|cluster| cluster.shown == Shown::Away),
        start_time: Some(time::to_timestamp(rollout.start)),
        end_time: rollout.end.map(time::to_timestamp),
    })
}

fn phase(phase: Phase) -> rollout_status::Phase {
    match phase {
        Phase::Progressing => rollout_status::Phase::Progressing,
        Phase::Paused => rollout_status::Phase::Paused,
        Phase::RollingBack => rollout_status::Phase::RollingBack,
        Phase::Done => rollout_status::Phase::Done,
        Phase::RolledBack => rollout_status::Phase::RolledBack,
    }
}
