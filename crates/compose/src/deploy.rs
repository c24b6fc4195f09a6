//! `deploy`, and the older keys that say the same: how many copies, with how much, and what happens when they end or change.

use skerry_proto::types::v1::{self as pb, restart_policy::Policy, service_spec::Kind};

use crate::context::{Context, Field};
use crate::{keys, units};

/// What `cpu_quota` counts in, where `cpu_period` says nothing: microseconds.
const CPU_PERIOD_US: i64 = 100_000;

/// What a service says of its copies. None: one of them.
pub(crate) fn kind(cx: &mut Context<'_>, service: &Field) -> Option<(Field, Kind)> {
    let deploy = service.get("deploy");
    let mode = deploy.as_ref().and_then(|deploy| deploy.get("mode"));
    let replicas = deploy.as_ref().and_then(|deploy| deploy.get("replicas"));
    let count = service.get("scale").or(replicas);
    match mode.as_ref().and_then(Field::scalar) {
        Some("global") => {
            if let Some(count) = count {
                cx.error(&count, "with mode: global there is one on each machine: take it away");
            }
            return mode.map(|mode| (mode, Kind::DaemonSet(pb::DaemonSet {})));
        }
        None | Some("replicated") => {}
        Some(_) => {
            if let Some(mode) = &mode {
                cx.error(mode, "use replicated or global");
            }
        }
    }
    let count = count?;
    let number = count.integer(cx)?;
    let Ok(number) = u32::try_from(number) else {
        cx.error(&count, "use 0 or more");
        return None;
    };
    Some((count, Kind::Deployment(pb::Deployment { replicas: Some(number), ..Default::default() })))
}

/// Processor, memory, processes and swap.
pub(crate) fn resources(cx: &mut Context<'_>, service: &Field) -> Vec<(&'static str, Field, i64)> {
    let mut found: Vec<(&'static str, Field, i64)> = Vec::new();
    let mut take = |path: &'static str, field: &Field, amount: Option<i64>| {
        if let Some(amount) = amount {
            found.retain(|(before, ..)| *before != path);
            found.push((path, field.clone(), amount));
        }
    };
    // Those below `deploy` count where both are there, and 0 is as good as nothing.
    let some = |amount: Option<i64>| amount.filter(|amount| *amount != 0);
    if let Some(quota) = service.get("cpu_quota") {
        let period = service
            .get("cpu_period")
            .and_then(|period| period.parsed(cx, microseconds))
            .unwrap_or(CPU_PERIOD_US);
        let millis = quota
            .parsed(cx, microseconds)
            .filter(|quota| *quota > 0)
            .map(|quota| quota.saturating_mul(1000) / period.max(1));
        take("limits.cpu_millis", &quota, millis);
    } else if let Some(period) = service.get("cpu_period") {
        cx.error(&period, "it counts beside cpu_quota: write cpus instead of both");
    }
    if let Some(field) = service.get("cpus") {
        take("limits.cpu_millis", &field, some(field.parsed(cx, units::cpu_millis)));
    }
    if let Some(field) = service.get("mem_limit") {
        take("limits.memory_bytes", &field, some(field.parsed(cx, units::bytes)));
    }
    if let Some(field) = service.get("mem_reservation") {
        take("requests.memory_bytes", &field, some(field.parsed(cx, units::bytes)));
    }
    if let Some(field) = service.get("pids_limit") {
        // -1: as many as it likes.
        take("limits.pids", &field, some(field.integer(cx)).filter(|number| *number > 0));
    }
    let resources = service.get("deploy").and_then(|deploy| deploy.get("resources"));
    if let Some(resources) = resources {
        keys::RESOURCES.check(cx, &resources);
        let rows = [
            ("limits", keys::LIMITS, ["limits.cpu_millis", "limits.memory_bytes"]),
            ("reservations", keys::RESERVATIONS, ["requests.cpu_millis", "requests.memory_bytes"]),
        ];
        for (section, known, paths) in rows {
            let Some(section) = resources.get(section) else { continue };
            known.check(cx, &section);
            if let Some(field) = section.get("cpus") {
                take(paths[0], &field, some(field.parsed(cx, units::cpu_millis)));
            }
            if let Some(field) = section.get("memory") {
                take(paths[1], &field, some(field.parsed(cx, units::bytes)));
            }
        }
        if let Some(field) = resources.get("limits").and_then(|limits| limits.get("pids")) {
            take("limits.pids", &field, some(field.integer(cx)).filter(|number| *number > 0));
        }
    }
    let memory = found.iter().find(|(path, ..)| *path == "limits.memory_bytes").map(|(_, _, bytes)| *bytes);
    if let Some(field) = service.get("memswap_limit") {
        swap(cx, &field, memory, &mut found);
    }
    found
}

/// Compose counts memory and swap together.
fn swap(
    cx: &mut Context<'_>,
    field: &Field,
    memory: Option<i64>,
    found: &mut Vec<(&'static str, Field, i64)>,
) {
    if field.scalar() == Some("-1") {
        cx.error(field, "swap without a limit is not available: name the most of memory and swap together");
        return;
    }
    let Some(both) = field.parsed(cx, units::bytes).filter(|both| *both != 0) else { return };
    match memory {
        None => cx.error(field, "it counts memory and swap together: name the memory too, by mem_limit"),
        Some(memory) if both < memory => {
            cx.error(field, "it counts memory and swap together, and is less than the memory");
        }
        Some(memory) if both == memory => {}
        Some(memory) => found.push(("limits.swap_bytes", field.clone(), both - memory)),
    }
}

fn microseconds(text: &str) -> Result<i64, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let duration = units::duration(text)?;
    i64::try_from(duration.as_micros()).map_err(|_| format!("`{text}` is too long"))
}

/// `restart`, or `deploy.restart_policy`, which counts where both are there.
pub(crate) fn restart(cx: &mut Context<'_>, service: &Field) -> Option<(Field, pb::RestartPolicy)> {
    let policy = |policy: Policy| pb::RestartPolicy { policy: policy.into(), ..Default::default() };
    if let Some(field) = service.get("deploy").and_then(|deploy| deploy.get("restart_policy")) {
        keys::RESTART_POLICY.check(cx, &field);
        let mut restart = match field.get("condition") {
            None => policy(Policy::Always),
            Some(condition) => match condition.scalar() {
                Some("any") => policy(Policy::Always),
                Some("on-failure") => policy(Policy::OnFailure),
                Some("none") => policy(Policy::Never),
                _ => {
                    cx.error(&condition, "use any, on-failure or none");
                    return None;
                }
            },
        };
        if let Some(delay) = field.get("delay") {
            restart.backoff =
                delay.parsed(cx, units::duration).filter(|delay| !delay.is_zero()).map(units::wire);
        }
        return Some((field, restart));
    }
    let field = service.get("restart")?;
    let restart = match field.scalar() {
        Some("no" | "false") => policy(Policy::Never),
        Some("always" | "unless-stopped") => policy(Policy::Always),
        Some("on-failure") => policy(Policy::OnFailure),
        Some(text) if text.strip_prefix("on-failure:").is_some_and(|count| count.parse::<u32>().is_ok()) => {
            cx.warn(
                &field,
                "how often is left out: it is started again without an end, with longer and longer waits",
            );
            policy(Policy::OnFailure)
        }
        _ => {
            cx.error(&field, "use \"no\", always, on-failure or unless-stopped");
            return None;
        }
    };
    Some((field, restart))
}

/// `deploy.update_config.order`.
pub(crate) fn update(cx: &mut Context<'_>, service: &Field) -> Option<(Field, pb::UpdatePolicy)> {
    let config = service.get("deploy")?.get("update_config")?;
    keys::UPDATE_CONFIG.check(cx, &config);
    let order = config.get("order")?;
    let wire = match order.scalar() {
        Some("stop-first") => pb::update_policy::Order::StopFirst,
        Some("start-first") => pb::update_policy::Order::StartFirst,
        _ => {
            cx.error(&order, "use stop-first or start-first");
            return None;
        }
    };
    Some((order, pb::UpdatePolicy { order: wire.into() }))
}
