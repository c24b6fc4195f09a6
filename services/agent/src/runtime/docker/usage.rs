//! What containers have used, as the engine counts it: one question for each that runs, and no second look of the engine's own.

use std::time::Duration;

use bollard::models::{ContainerMemoryStats, ContainerStatsResponse, ContainerSummaryStateEnum as State};
use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt as _;
use skerry_model::{AppName, InstanceName};
use tracing::debug;

use super::client::Client;
use super::error::{Failure, Kind};
use super::observe::list;
use super::spec::{LABEL_INSTANCE, Owner};
use crate::runtime::usage::{Counts, Used};

/// For one container.
const DEADLINE: Duration = Duration::from_secs(5);
/// Questions at one time.
const AT_ONCE: usize = 8;
/// Memory of cached files that the kernel gives back first: cgroup 2, and 1.
const INACTIVE: [&str; 2] = ["inactive_file", "total_inactive_file"];

/// Of the owner's containers that run. One that ends meanwhile, or of which the engine does not answer, is left out.
pub(super) async fn count(
    client: &Client,
    owner: &Owner,
    app: Option<&AppName>,
    machine_bytes: u64,
) -> Result<Vec<Used>, Failure> {
    let listed = list(client, vec![owner.filter()]).await?;
    let running = listed.into_iter().filter(|one| matches!(one.state, Some(State::RUNNING | State::PAUSED)));
    let ours = running.filter_map(|one| {
        let instance = InstanceName::parse(one.labels.as_ref()?.get(LABEL_INSTANCE)?).ok()?;
        let is_meant = app.is_none_or(|app| instance.app == *app);
        is_meant.then_some((instance, one.id?))
    });
    let questions = ours.map(|(instance, id)| async move {
        match stats(client, &id).await {
            Ok(stats) => {
                Some(Used { instance, runtime_id: id, counts: counts(stats.as_ref()?, machine_bytes) })
            }
            Err(failure) => {
                if failure.kind != Kind::NotFound {
                    debug!(container = id, error = failure.message, "what a container uses is not known");
                }
                None
            }
        }
    });
    let answers = futures_util::stream::iter(questions).buffer_unordered(AT_ONCE);
    Ok(answers.filter_map(std::future::ready).collect().await)
}

async fn stats(client: &Client, id: &str) -> Result<Option<ContainerStatsResponse>, Failure> {
    let docker = client.docker().await?;
    let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
    let asking = async {
        let mut answers = std::pin::pin!(docker.stats(id, Some(options)));
        answers.next().await.transpose()
    };
    client.within(DEADLINE, asking).await
}

fn counts(stats: &ContainerStatsResponse, machine_bytes: u64) -> Counts {
    let memory = stats.memory_stats.as_ref();
    // Where there is none the engine answers the machine's memory, or the largest number that the kernel knows.
    let limit = memory.and_then(|memory| memory.limit);
    let cpu = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    // On the machine's network there is none of its own.
    let network = stats.networks.as_ref().filter(|networks| !networks.is_empty()).map(|networks| {
        networks.values().fold((0_u64, 0_u64), |(received, sent), one| {
            let add = |sum: u64, more: Option<u64>| sum.saturating_add(more.unwrap_or(0));
            (add(received, one.rx_bytes), add(sent, one.tx_bytes))
        })
    });
    Counts {
        cpu_nanos: cpu,
        memory_bytes: memory.and_then(used),
        memory_limit_bytes: limit.filter(|limit| *limit < machine_bytes),
        processes: stats.pids_stats.as_ref().and_then(|pids| pids.current),
        network,
    }
}

/// As `docker stats` has it.
fn used(memory: &ContainerMemoryStats) -> Option<u64> {
    let usage = memory.usage?;
    let stat = |name: &&str| memory.stats.as_ref()?.get(*name).copied();
    let inactive = INACTIVE.iter().rev().find_map(stat).filter(|inactive| *inactive < usage);
    Some(usage - inactive.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn memory(usage: u64, stats: &[(&str, u64)]) -> ContainerMemoryStats {
        let stats: HashMap<_, _> = stats.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        ContainerMemoryStats { usage: Some(usage), stats: Some(stats), ..ContainerMemoryStats::default() }
    }

    #[test]
    fn files_that_are_cached_and_unused_are_no_ones_memory() {
        assert_eq!(used(&memory(100, &[("inactive_file", 30)])), Some(70));
        assert_eq!(used(&memory(100, &[("total_inactive_file", 40), ("inactive_file", 30)])), Some(60));
        assert_eq!(used(&memory(100, &[("inactive_file", 300)])), Some(100), "makes no sense");
        assert_eq!(used(&memory(100, &[])), Some(100));
        assert_eq!(used(&ContainerMemoryStats::default()), None, "it has ended");
    }

    #[test]
    fn a_limit_of_all_memory_is_none() {
        let with = |limit| {
            let memory = ContainerMemoryStats { limit: Some(limit), ..memory(1, &[]) };
            let stats =
                ContainerStatsResponse { memory_stats: Some(memory), ..ContainerStatsResponse::default() };
            counts(&stats, 1000).memory_limit_bytes
        };
        assert_eq!(with(999), Some(999));
        assert_eq!(with(1000), None);
        assert_eq!(with(u64::MAX), None);
    }
}
