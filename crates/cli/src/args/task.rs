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
