//! What can be typed: every client command with its flags and help. Meaning is in `commands`.

mod access;
mod act;
mod audit;
mod bundle;
mod change;
mod cluster;
mod compose;
mod contexts;
mod copy;
mod create;
mod enrol;
mod exec;
mod forward;
mod grant;
mod logs;
mod rollout;
mod secret;
mod show;
mod task;
mod top;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter};

use crate::complete;

pub use access::{
    AuthCommand, BindArgs, CanIArgs, CreateGroupArgs, CreateUserArgs, GroupCommand, GroupsArgs, IssueArgs,
    ListArgs, MembersArgs, RenewUserArgs, RequestArgs, RevokeUserArgs, RoleCommand, RoleName, UserArgs,
    UserCommand,
};
pub use act::{ActFlags, StartArgs, StopArgs};
pub use audit::{AuditArgs, AuditCommand, VerifyArgs};
pub use bundle::BundleArgs;
pub use change::{
    AnnotateArgs, ApplyArgs, CordonArgs, DeleteArgs, DiffArgs, DrainArgs, DryRun, EditArgs, LabelArgs,
    PlanArgs,
};
pub use cluster::{ClusterCommand, JoinArgs, LeaveArgs, TaintArgs};
pub use compose::{ComposeFlags, ConvertArgs};
pub use contexts::{ConfigCommand, GetContextsArgs, SetContextArgs};
pub use copy::CpArgs;
pub use create::{CreateClusterArgs, CreateCommand, CreateProjectArgs};
pub use enrol::{
    ApproveArgs, DenyArgs, NodeCommand, RevokeArgs, TokenCommand, TokenCreateArgs, TokenDeleteArgs,
    TokenListArgs,
};
pub use exec::{DebugArgs, ExecArgs, RunFlags};
pub use forward::{PortForwardArgs, Ports};
pub use grant::GrantArgs;
pub use logs::{ChannelCommand, ChannelCutArgs, ChannelListArgs, LogsArgs};
pub use rollout::{HistoryArgs, RestartArgs, RolloutAppArgs, RolloutCommand, RolloutStatusArgs, UndoArgs};
pub use secret::{ResealArgs, RotateKeyArgs, SecretCommand, SecretSetArgs};
pub use show::{
    DescribeArgs, EventsArgs, ExplainArgs, Format, GetArgs, Output, StatusArgs, VersionArgs, WaitArgs,
};
pub use task::{PrefetchArgs, TaskArgs, TaskCommand, WatchTaskArgs};
pub use top::{TopAppsArgs, TopCommand, TopFlags, TopGpuSort, TopGpusArgs, TopNodesArgs, TopSort};

/// Flags of every client command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Client options")]
pub struct GlobalArgs {
    /// Where Skerry answers [env: SKERRY_SERVER] [default: http://127.0.0.1:7770]
    #[arg(long, global = true, value_name = "URL")]
    pub server: Option<String>,

    /// Where the registry answers, if not at --server [env: SKERRY_REGISTRY]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub registry: Option<String>,

    /// Where the scheduler answers, if not at --server [env: SKERRY_SCHEDULER]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub scheduler: Option<String>,

    /// Where a relay answers, if not at --server [env: SKERRY_RELAY]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub relay: Option<String>,

    /// Where the gpu service answers, if not at --server [env: SKERRY_GPU]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub gpu: Option<String>,

    /// Project to work in; with up, that of this machine's node [env: SKERRY_PROJECT] [default: default]
    #[arg(long, short, global = true, value_name = "NAME", add = ArgValueCompleter::new(complete::projects))]
    pub project: Option<String>,

    /// Servers and project under a name, see `skerry config`; this flag comes before SKERRY_SERVER and all like it
    /// [env: SKERRY_CONTEXT] [default: the current one]
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true, add = ArgValueCandidates::new(complete::contexts))]
    pub context: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub tls: TlsFlags,

    /// Longest that one call may take, as 30s
    #[arg(long, global = true, default_value = "30s", value_name = "DURATION", value_parser = call_time, hide_short_help = true)]
    pub request_timeout: Duration,

    /// Say on stderr also what goes on beside the command, as the renewal of one's certificate
    #[arg(long, short, global = true, hide_short_help = true)]
    pub verbose: bool,

    /// When to use colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN", hide_short_help = true)]
    pub color: Color,
}

/// Flags that name TLS files. With up, they are the server's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Client options")]
pub struct TlsFlags {
    /// Certificate to prove who calls (PEM: its own first, then the intermediates); with up, that of the server, which then lets in only
    /// who has one. Files of up that change are read again within a minute and count from the next handshake on [env: SKERRY_TLS_CERT]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub tls_cert: Option<PathBuf>,

    /// Key of --tls-cert (PEM, PKCS#8, P-256), readable by its owner only [env: SKERRY_TLS_KEY]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub tls_key: Option<PathBuf>,

    /// Authorities that an https:// server is held against (PEM); with up, also its clients and agents [env: SKERRY_TLS_CA]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub tls_ca: Option<PathBuf>,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Also into files and pipes
    Always,
    /// Nowhere
    Never,
}

/// The client commands.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Create or change resources from manifests
    Apply(ApplyArgs),
    /// Show Compose files as manifests
    Convert(ConvertArgs),
    /// Create a resource without a manifest
    #[command(subcommand)]
    Create(CreateCommand),
    /// Show what apply would change
    Diff(DiffArgs),
    /// Show what apply would change on each node
    Plan(PlanArgs),
    /// Change one resource in an editor
    Edit(EditArgs),
    /// Delete resources
    Delete(DeleteArgs),
    /// Show resources
    Get(GetArgs),
    /// Show one resource with all that belongs to it
    Describe(DescribeArgs),
    /// Show why the instances of an app are, or are not, where they should be; or what the fields of a kind mean
    Explain(ExplainArgs),
    /// Set and remove labels
    Label(LabelArgs),
    /// Set and remove annotations
    Annotate(AnnotateArgs),
    /// Give nodes nothing new; what they run stays
    Cordon(CordonArgs),
    /// Give nodes work again, also those that are drained
    Uncordon(CordonArgs),
    /// Take what nodes or clusters run off them
    Drain(DrainArgs),
    /// Have nodes fetch images before anything there uses them
    Prefetch(PrefetchArgs),
    /// Long operations: watch, cancel and retry them
    #[command(subcommand)]
    Task(TaskCommand),
    /// Keep services off nodes that do not tolerate it
    Taint(TaintArgs),
    /// Put nodes into clusters and take them out
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Tokens, by which machines become nodes
    #[command(subcommand)]
    Token(TokenCommand),
    /// Let machines in that wait, turn them away, strike the keys of nodes out
    #[command(subcommand)]
    Node(NodeCommand),
    /// The revisions of an app: how the current one comes along, go back to another, start anew
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Values that services are given and nobody reads back
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Start the instances of an app anew
    Restart(Box<RestartArgs>),
    /// Stop instances on their nodes, until they are started
    Stop(Box<StopArgs>),
    /// Start instances that were stopped
    Start(Box<StartArgs>),
    /// Show what the instances of an app write
    Logs(LogsArgs),
    /// Write what is known of a node into an archive, for who looks for a fault
    Bundle(BundleArgs),
    /// Run a command in an instance, or on a node
    Exec(Box<ExecArgs>),
    /// Run a command beside an instance, in a container that has the tools
    Debug(Box<DebugArgs>),
    /// Reach ports of an instance at ports of this machine
    PortForward(PortForwardArgs),
    /// Copy files into instances and out of them
    Cp(CpArgs),
    /// Show what nodes and apps use, and how busy GPUs are, live
    #[command(subcommand)]
    Top(TopCommand),
    /// What is open to instances, and cutting it
    #[command(subcommand)]
    Channel(ChannelCommand),
    /// Show what happened
    Events(EventsArgs),
    /// Who changed what: the audit log
    Audit(AuditArgs),
    /// Wait until resources are in a state
    Wait(WaitArgs),
    /// Show how the installation itself is: services, store, nodes, apps
    Status(StatusArgs),
    /// Users: their keys and certificates
    #[command(subcommand)]
    User(UserCommand),
    /// Groups of users, who get roles together
    #[command(subcommand)]
    Group(GroupCommand),
    /// Who may do what in a project
    #[command(subcommand)]
    Role(RoleCommand),
    /// Let somebody use a verb for a while, without the role
    Grant(GrantArgs),
    /// Who calls, and what it may
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Contexts: servers and a project under a name
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the version of this program
    Version(VersionArgs),
}

/// Completes `TYPE/NAME` and `TYPE NAME`.
fn targets() -> ArgValueCompleter {
    ArgValueCompleter::new(complete::targets)
}

/// Completes the names of apps, as `app/NAME`.
fn app_targets() -> ArgValueCompleter {
    ArgValueCompleter::new(complete::apps)
}

/// A duration in which a call can be made.
fn call_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("no call can be made in no time: use a longer one, as 30s".into()),
        time => Ok(time),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    skerry_model::quantity::parse_duration(text).map_err(|error| error.to_string())
}
