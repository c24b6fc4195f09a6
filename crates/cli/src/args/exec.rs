//! `exec` and `debug`: commands in instances, beside them, and on nodes.

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use super::targets;
use crate::complete;

/// Where a command runs, and how.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    /// Send standard input to it
    #[arg(short = 'i', long)]
    pub stdin: bool,

    /// Give it a terminal: this one
    #[arg(short = 't', long)]
    pub tty: bool,

    /// Only instances on this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    /// Only instances of this cluster, or of a node that is in none
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,

    /// This instance: APP/SERVICE/CLUSTER/NUMBER, as get instances shows it
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,

    /// A variable for it, beside those of the instance; repeated for more
    #[arg(short = 'e', long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,

    /// As this user, USER or USER:GROUP; absent: that of the instance
    #[arg(short = 'u', long, value_name = "USER")]
    pub user: Option<String>,

    /// In this directory; absent: that of the instance
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<String>,
}

/// `exec`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Runs a command in an instance of an app, with its environment, user and directory; where several are
meant, in the first that runs, and says which. On a node (node/NAME) it runs as the user of its agent,
and without a command that is the user's shell: the node's agent has to allow it (--allow-node-shell).

What the command writes goes to standard output and standard error, byte by byte; with -t both are one.
Without -t, Ctrl-C and the signals SIGTERM, SIGQUIT and SIGHUP go to the command; the third ends this
program. When it ends, whatever ends it, the command is killed with all that it has started. What it leaves
running when it ends itself is killed too.

Exit code: that of the command; 128 + n where signal n ended it, 126 where it cannot be run, 127 where
there is no such program. 125, with a message, where nobody knows how the command ended, or where it was
not even tried.

Examples:
  skerry exec app/hello -- ls -l
  skerry exec -it app/hello web --node n1 -- sh
  tar c . | skerry exec -i app/hello -- tar x -C /tmp
  skerry exec -it node/n1
  skerry exec node/n1 -- uptime")]
pub struct ExecArgs {
    /// An app, or a node
    #[arg(value_name = "app/NAME|node/NAME", add = targets())]
    pub target: String,

    /// Only this service of the app
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub run: RunFlags,

    /// Run it in a new container of this image, beside the instance's container
    #[arg(long, value_name = "IMAGE")]
    pub debug_image: Option<String>,

    /// The program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `debug`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Runs a command in a new container, of an image that has the tools: it sees the processes of the
instance's container and shares its network, and is removed when the command has ended. Without a command
it is `sh`, with this terminal. The file system of the instance is below /proc/PID/root there. Else it
is as exec, exit codes included.

Examples:
  skerry debug app/hello --image busybox:1
  skerry debug app/hello web --image nicolaka/netshoot -- ss -ltn")]
pub struct DebugArgs {
    /// An app
    #[arg(value_name = "app/NAME", add = targets())]
    pub target: String,

    /// Only this service of it
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    /// The image with the tools; pulled where the node has it not
    #[arg(long, value_name = "IMAGE")]
    pub image: String,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub run: RunFlags,

    /// The program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
