//! `restart`, `stop` and `start`: instances, by hand.

use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::{call_time, targets};
use crate::complete;

/// Which instances of an app, and how long it may take.
#[derive(Debug, Clone, Args)]
pub struct ActFlags {
    /// Only instances on this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    /// Only instances of this cluster, or of a node that is in none
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,

    /// Only this instance: APP/SERVICE/CLUSTER/NUMBER, as get instances shows it
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,

    /// All of them are meant, where there are several
    #[arg(long)]
    pub all: bool,

    /// How long to wait for the outcome, at most 1h; what was begun goes on after that
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = call_time)]
    pub timeout: Duration,
}

/// `stop`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Stops instances on their nodes as their manifest says, with its signal and grace, and answers when they
have ended. They stay stopped over restarts of agents and machines, and over new revisions, until `start`,
or until they are no longer wanted there. Where several instances fit, --all is needed. Exit code 1 where
it was not done with one of them.

Examples:
  skerry stop app/hello
  skerry stop app/hello web --node n1
  skerry stop instance/hello/web/n1/0
  skerry stop app/hello --all")]
pub struct StopArgs {
    /// An app, or one instance
    #[arg(value_name = "app/NAME|instance/NAME", add = targets())]
    pub target: String,

    /// Only this service of the app
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub flags: ActFlags,
}

/// `start`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Starts instances that were stopped by hand, or that ended and are not started again, in the revision that
is wanted by then. Answers when they run, or why they do not. Those that run are left alone. Where several
instances fit, --all is needed. Exit code 1 where one of them does not run.

Examples:
  skerry start app/hello
  skerry start instance/hello/web/n1/0
  skerry start app/hello --all")]
pub struct StartArgs {
    /// An app, or one instance
    #[arg(value_name = "app/NAME|instance/NAME", add = targets())]
    pub target: String,

    /// Only this service of the app
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub flags: ActFlags,
}
