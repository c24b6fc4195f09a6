//! What can be typed: every client command with its flags and help. Meaning is in `commands`.

use std::time::Duration;

use clap::{ArgAction, Args, Subcommand, ValueEnum};

/// Flags of every client command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Client options")]
pub struct GlobalArgs {
    /// Where Skerry answers
    #[arg(
        long,
        global = true,
        env = "SKERRY_SERVER",
        default_value = "http://127.0.0.1:7770",
        value_name = "URL"
    )]
    pub server: String,

    /// Where the registry answers, if not at --server
    #[arg(long, global = true, env = "SKERRY_REGISTRY", value_name = "URL", hide_short_help = true)]
    pub registry: Option<String>,

    /// Where the scheduler answers, if not at --server
    #[arg(long, global = true, env = "SKERRY_SCHEDULER", value_name = "URL", hide_short_help = true)]
    pub scheduler: Option<String>,

    /// Project to work in; with up, that of this machine's node [env: SKERRY_PROJECT] [default: default]
    #[arg(long, short, global = true, value_name = "NAME")]
    pub project: Option<String>,

    /// Longest that one call may take, as 30s
    #[arg(long, global = true, default_value = "30s", value_name = "DURATION", value_parser = duration, hide_short_help = true)]
    pub request_timeout: Duration,
}

/// The client commands.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Create or change resources from manifests
    Apply(ApplyArgs),
    /// Delete resources
    Delete(DeleteArgs),
    /// Show resources
    Get(GetArgs),
    /// Show one resource with all that belongs to it
    Describe(DescribeArgs),
    /// Set and remove labels
    Label(LabelArgs),
    /// Give nodes nothing new; what they run stays
    Cordon(CordonArgs),
    /// Give nodes work again
    Uncordon(CordonArgs),
    /// Show what happened
    Events(EventsArgs),
    /// Wait until resources are in a state
    Wait(WaitArgs),
    /// Show how the installation itself is: services, store, nodes, apps
    Status(StatusArgs),
    /// Show the version of this program
    Version(VersionArgs),
}

const TYPES_HELP: &str = "\
Types: nodes (no, node), apps (app), configs (cfg, config), instances (inst, instance),
       revisions (rev, revision), events (ev, event)";

/// `apply`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Configs come before apps. All manifests are checked before the first is sent; after that an error
does not keep the others back. Applying again what is there changes nothing.

Examples:
  skerry apply -f app.yaml
  skerry apply -f configs/ -f app.yaml
  skerry get app/hello -o yaml | sed s/1.0/1.1/ | skerry apply -f -")]
pub struct ApplyArgs {
    /// Manifest, directory of manifests (*.yaml, *.yml, *.json), or - for stdin; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<String>,

    /// Let the server check everything and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `delete`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
An app is gone from the API at once; the nodes then stop its instances, each in its grace period, and
delete waits for that. Exit code 5 when the time is over first: they are named, and still stopped later.

Examples:
  skerry delete app/hello
  skerry delete app/hello --wait=false
  skerry delete config a b
  skerry delete -f app.yaml --ignore-not-found")]
pub struct DeleteArgs {
    /// TYPE/NAME..., or TYPE NAME...
    #[arg(value_name = "TYPE/NAME", required_unless_present = "files")]
    pub targets: Vec<String>,

    /// What these manifests name; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", conflicts_with = "targets")]
    pub files: Vec<String>,

    /// What is not there counts as deleted
    #[arg(long)]
    pub ignore_not_found: bool,

    /// Wait until the instances of deleted apps have stopped
    #[arg(
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set,
        value_name = "true|false"
    )]
    pub wait: bool,

    /// Longest wait for all together, as 30s or 2m
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// How things are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns
    Table,
    /// More columns, nothing cut to the terminal
    Wide,
    /// JSON; several as one List
    Json,
    /// YAML, fit for apply
    Yaml,
    /// TYPE/NAME
    Name,
}

/// `get`
#[derive(Debug, Clone, Args)]
#[command(after_help = format!("{TYPES_HELP}

Instances are named <app>/<service>/<cluster>/<ordinal>; a part from the left shows all below it.
Revisions need their app, and may be named by the first digits: revision/hello/12ab. With --watch, -o json prints one object a line. Instances and revisions
are watched by asking again each second. A watch goes on after a lost connection.

Examples:
  skerry get nodes -l site=oslo,!old
  skerry get apps -w
  skerry get app/hello -o yaml
  skerry get instances hello/web
  skerry get revisions hello"))]
pub struct GetArgs {
    /// TYPE, TYPE/NAME..., or TYPE NAME...
    #[arg(value_name = "TYPE", required = true)]
    pub targets: Vec<String>,

    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Only what has these labels, as site=oslo,tier!=test,gpu,!old,zone in (a,b)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// Only instances on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,

    /// Show what is there, then every change, until interrupted
    #[arg(short, long)]
    pub watch: bool,

    /// With --watch -o json or yaml: {type, object}, where type is ADDED, MODIFIED or DELETED
    #[arg(long, requires = "watch")]
    pub output_watch_events: bool,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `describe`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  skerry describe app/hello
  skerry describe node n1
  skerry describe instance hello/web/n1/0")]
pub struct DescribeArgs {
    /// TYPE/NAME..., or TYPE NAME... (nodes, apps, configs, instances)
    #[arg(value_name = "TYPE/NAME", required = true)]
    pub targets: Vec<String>,
}

/// `label`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  skerry label node/n1 site=oslo gpu=yes
  skerry label node n1 n2 site=bergen --overwrite
  skerry label app/hello tier-")]
pub struct LabelArgs {
    /// TYPE/NAME... or TYPE NAME..., then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "TYPE/NAME KEY=VALUE", required = true)]
    pub words: Vec<String>,

    /// Change labels that have another value
    #[arg(long)]
    pub overwrite: bool,
}

/// `cordon` and `uncordon`
#[derive(Debug, Clone, Args)]
pub struct CordonArgs {
    /// Names of nodes
    #[arg(value_name = "NODE", required = true)]
    pub nodes: Vec<String>,
}

/// `events`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Events are kept in bounded rings: the newest 64 of each node and each app. Those that nodes told
of a deleted app are still shown.

Examples:
  skerry events --for app/hello
  skerry events -w -o json")]
pub struct EventsArgs {
    /// Only about this resource and what belongs to it
    #[arg(long = "for", value_name = "TYPE/NAME")]
    pub regarding: Option<String>,

    /// Go on with every new event, until interrupted
    #[arg(short, long)]
    pub watch: bool,

    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `wait`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
States:
  healthy               apps: every instance runs the current revision and is ready;
                        nodes: connected and ready
  connected             nodes: the agent is connected (a node that is not there yet is waited for)
  deleted               it is gone; apps: its instances have stopped as well
  condition=TYPE        a condition of it is True; condition=TYPE=False for another value

A server that is away is asked again until the time is over. Exit code 5 when it is over, with the
reason that was seen last; 4 when the server is away at the end.

Examples:
  skerry wait app/hello --for=healthy --timeout 2m
  skerry wait node/n1 --for=connected
  skerry wait app/hello --for=condition=Progressing=False")]
pub struct WaitArgs {
    /// TYPE/NAME..., or TYPE NAME... (nodes, apps, configs)
    #[arg(value_name = "TYPE/NAME", required = true)]
    pub targets: Vec<String>,

    /// What to wait for
    #[arg(long = "for", value_name = "STATE")]
    pub state: String,

    /// Longest wait for all together, as 30s or 2m
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// `status`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Exit code 1 when there is a problem, 4 when the registry cannot be reached.

Examples:
  skerry status
  skerry status -o json")]
pub struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// `version`
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// How to print: table for one line of text
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

fn duration(text: &str) -> Result<Duration, String> {
    skerry_model::quantity::parse_duration(text).map_err(|error| error.to_string())
}
