//! `logs` and `channel`: what instances write, and what is open to them.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::{Format, app_targets};
use crate::complete;

/// `logs`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Shows what the instances of an app wrote, of all nodes in the order of time; several with their name
before each line (service, cluster, number). What was written to standard error goes to standard
error. Takes the role viewer. Times: 2026-01-31T08:00:00Z, or a duration back from now, as 10m.

With -f it goes on until interrupted: through lost connections from where it was, and with instances
that come later. What was rotated away before it was read is told with its size. Exit code 1 where the
log of an instance could not be shown.

Of a node, logs shows what its agent itself says: the last 256 KiB of it.

Examples:
  skerry logs app/hello
  skerry logs app/hello web -f --since 10m
  skerry logs app/hello --node n1 --tail 100 --timestamps
  skerry logs app/hello --instance hello/web/n1/0 --previous
  skerry logs node/n1 -f")]
pub struct LogsArgs {
    /// The app, or the node whose agent is meant
    #[arg(value_name = "app/NAME|node/NAME", add = app_targets())]
    pub app: String,

    /// Only this service of it
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    /// Only instances on this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    /// Only instances of this cluster, or of a node that is in none
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,

    /// Only this instance: APP/SERVICE/CLUSTER/NUMBER, as get instances shows it
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,

    /// Go on with what is written, until interrupted
    #[arg(short, long, conflicts_with_all = ["until", "previous"])]
    pub follow: bool,

    /// Only what was written at this time or later
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,

    /// Only what was written before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,

    /// Of what each instance wrote before, only so many lines at the end
    #[arg(long, value_name = "COUNT")]
    pub tail: Option<u32>,

    /// Write before each line when it was written
    #[arg(long)]
    pub timestamps: bool,

    /// Only what was written before the copy that runs now was started
    #[arg(long)]
    pub previous: bool,

    /// Only lines with this text
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
}

/// `channel`
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
A channel is what is open to one instance: the log that somebody follows. Takes the role operator.

Examples:
  skerry channel list
  skerry channel cut 7c0f5e0e-9d0c-4a51-8f1c-6f1f3c7a9b52")]
pub enum ChannelCommand {
    /// Show the channels that are open
    List(ChannelListArgs),
    /// End channels, and the calls that they are part of
    Cut(ChannelCutArgs),
}

/// `channel list`
#[derive(Debug, Clone, Args)]
pub struct ChannelListArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `channel cut`
#[derive(Debug, Clone, Args)]
pub struct ChannelCutArgs {
    /// Names of channels, as channel list shows them
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}
