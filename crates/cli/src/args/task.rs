//! Flags of `task`, and of what is left to tasks.

use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::duration;
use crate::complete;

/// `task`
#[derive(Debug, Clone, Subcommand)]
pub enum TaskCommand {
    /// Follow a task to its end
    Watch(WatchTaskArgs),
    /// End tasks between two steps; what was done stays
    Cancel(TaskArgs),
    /// Go on with tasks that failed or were cancelled
    Retry(TaskArgs),
}

/// `task watch`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Exit code 1 when the task fails or is cancelled, with the reason, 5 when the time is over first. Interrupted, it
leaves the task running.

Examples:
  skerry drain cluster/plant-7 --no-wait
  skerry get tasks
  skerry task watch drain-1f0c9a7be2")]
pub struct WatchTaskArgs {
    /// ID, or task/ID
    #[arg(value_name = "ID", add = ArgValueCompleter::new(complete::tasks))]
    pub task: String,

    /// Longest wait, as 30s or 2m
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// `prefetch`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Nodes fetch the images in the background, one at a time, and behind what their instances wait for. A task waits
until each node that is connected has them; one that is not is passed over, and fetches them when it comes back.
As long as they are kept no agent removes them for want of room. What a rollout brings is fetched ahead without
this command. `skerry describe node/NAME` shows how far a node is.

Examples:
  skerry prefetch registry.example/team/app:2.0 -l site=oslo
  skerry prefetch app:2.0 helper:1.4 --secret registry --keep 72h --no-wait
  skerry task cancel prefetch-1f0c9a7be2")]
pub struct PrefetchArgs {
    /// Images, as registry.example/team/app:2.0
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,

    /// Only nodes with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// The secret with the credentials for their registry
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,

    /// How long the images are kept: 1m to 30 days
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = duration)]
    pub keep: Duration,

    /// Only begin it
    #[arg(long)]
    pub no_wait: bool,

    /// Longest wait, as 30s or 2m
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// `task cancel` and `task retry`
#[derive(Debug, Clone, Args)]
pub struct TaskArgs {
    /// IDs, or task/ID
    #[arg(value_name = "ID", required = true, add = ArgValueCompleter::new(complete::tasks))]
    pub tasks: Vec<String>,
}

/// How a task that a command creates is followed.
#[derive(Debug, Clone, Args)]
pub struct FollowFlags {
    /// With -l: wait until all are labelled
    #[arg(
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set,
        requires = "selector",
        value_name = "true|false"
    )]
    pub wait: bool,

    /// With -l: only begin it
    #[arg(long, conflicts_with = "wait", requires = "selector")]
    pub no_wait: bool,

    /// With -l: longest wait, as 30s or 2m
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration, requires = "selector")]
    pub timeout: Duration,
}
