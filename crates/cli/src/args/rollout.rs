//! Commands about the revisions of an app.

use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};

use super::{app_targets, duration};

/// `rollout`
#[derive(Debug, Clone, Subcommand)]
pub enum RolloutCommand {
    /// Follow the current revision until every cluster runs it and is healthy
    Status(RolloutStatusArgs),
    /// Change no further cluster
    Pause(RolloutAppArgs),
    /// Go on with a rollout that is paused
    Resume(RolloutAppArgs),
    /// End a rollout that is under way, and go back
    Abort(RolloutAppArgs),
    /// Show the revisions of an app, or one of them
    History(HistoryArgs),
    /// Go back to an earlier revision
    Undo(UndoArgs),
    /// Start the instances of an app anew; the same as `skerry restart`
    Restart(Box<RestartArgs>),
}

/// `rollout status`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Exit code 1 when it is paused or was rolled back, 5 when the time is over, each with the reason.
Clusters that are not connected are not waited for where the app has a rollout strategy.

Examples:
  skerry rollout status app/hello
  skerry rollout status app/hello --watch=false")]
pub struct RolloutStatusArgs {
    /// app/NAME..., or app NAME...
    #[arg(value_name = "app/NAME", required = true, add = app_targets())]
    pub apps: Vec<String>,

    /// Wait for the end; false: say how it stands now
    #[arg(
        short,
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set,
        value_name = "true|false"
    )]
    pub watch: bool,

    /// Longest wait for all together, as 30s or 2m
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// `rollout pause`, `rollout resume` and `rollout abort`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
An app with spec.rollout comes to its clusters in batches. Paused, what was changed stays, and nothing
more is changed. Aborted, what was changed goes back, and the former revision is the current one again.

Examples:
  skerry rollout pause app/hello
  skerry rollout resume app/hello
  skerry rollout abort app/hello")]
pub struct RolloutAppArgs {
    /// app/NAME, or app NAME
    #[arg(value_name = "app/NAME", required = true, num_args = 1..=2, add = app_targets())]
    pub app: Vec<String>,
}

/// `rollout history`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The last ten revisions are kept, and all that are in use. A revision is also made by a restart.

Examples:
  skerry rollout history app/hello
  skerry rollout history app/hello --revision 3")]
pub struct HistoryArgs {
    /// app/NAME, or app NAME
    #[arg(value_name = "app/NAME", required = true, num_args = 1..=2, add = app_targets())]
    pub app: Vec<String>,

    /// Show this one as it was applied, by its number
    #[arg(long, value_name = "NUMBER")]
    pub revision: Option<i64>,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `rollout undo`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without --to-revision: to the last revision that was something else than the current one, restarts
and what a rollout rejected apart. How it is rolled out stays as it is. Undoing twice is as before. What an earlier revision was becomes the current one under a new number.

Examples:
  skerry rollout undo app/hello
  skerry rollout undo app/hello --to-revision 3")]
pub struct UndoArgs {
    /// app/NAME, or app NAME
    #[arg(value_name = "app/NAME", required = true, num_args = 1..=2, add = app_targets())]
    pub app: Vec<String>,

    /// The number of the revision, as rollout history shows it; 0, as without this flag, is the one before
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
    pub to_revision: Option<i64>,

    /// Let the server check everything and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `restart` and `rollout restart`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Sets restartTime of the services, which makes a new revision: every instance is replaced, as on any
other change of the app. Applying the manifest again does not undo or repeat it.

With --node, --cluster, --instance or --all, or of an instance, it is done at once on the nodes, and the
revision stays: each instance is stopped as its manifest says, started again, and told when it runs, or
why it does not. Where several instances fit then, --all is needed.

Examples:
  skerry restart app/hello
  skerry restart app/hello web worker
  skerry restart app/hello web --node n1
  skerry restart instance/hello/web/n1/0")]
pub struct RestartArgs {
    /// The app, or one instance
    #[arg(value_name = "app/NAME|instance/NAME", add = app_targets())]
    pub app: String,

    /// Only these services of it
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub flags: super::ActFlags,
}
