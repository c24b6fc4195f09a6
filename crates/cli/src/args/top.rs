//! `top`: what is used, live.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::{Format, app_targets, duration};
use crate::complete;

/// `top`
#[derive(Debug, Clone, Subcommand)]
pub enum TopCommand {
    /// What machines use: processors, memory, disk
    #[command(visible_alias = "node")]
    Nodes(TopNodesArgs),
    /// What apps use, or the instances of one
    #[command(visible_alias = "app")]
    Apps(TopAppsArgs),
    /// How busy GPUs are, and what the instances on each use of it
    #[command(visible_alias = "gpu")]
    Gpus(TopGpusArgs),
}

/// `top nodes`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
On a terminal a live view: q ends it, n, c and m sort by name, processor and memory. Elsewhere, with --once
and with -o, one sample. Nodes look at themselves only as long as somebody watches. Takes the role viewer.

CPU: thousandths of a core that were busy (1500m is one and a half). MEMORY: what new programs would not
get. DISK: of the file system that holds the agent's data. LOAD: the average of a minute. Percentages are of
all that the machine has. Exit code 1 where no node told anything.

Examples:
  skerry top nodes
  skerry top nodes n1 n2 --sort cpu
  skerry top nodes -l site=berlin --once
  skerry top nodes -o json")]
pub struct TopNodesArgs {
    /// Only these nodes
    #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub nodes: Vec<String>,

    /// Only nodes with these labels, as site=berlin
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "nodes")]
    pub selector: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub flags: TopFlags,
}

/// `top apps`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Of all apps the sums, a line each; of one app its instances. On a terminal a live view: q ends it, n, c and m
sort by name, processor and memory. Elsewhere, with --once and with -o, one sample. Takes the role viewer.

CPU: thousandths of a core. MEMORY: of containers as docker stats has it, without cached files that the kernel
would give back; of processes what is theirs, with their share of what they share. LIMIT: the most that it
may have. RECEIVED and SENT: bytes each second on the instance's own network.

Examples:
  skerry top apps
  skerry top apps --sort memory
  skerry top apps hello
  skerry top apps hello --node n1 --once")]
pub struct TopAppsArgs {
    /// Only this app, by instances
    #[arg(value_name = "app/NAME", add = app_targets())]
    pub app: Option<String>,

    /// Only what runs on this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub flags: TopFlags,
}

/// `top gpus`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A line each, and below it who uses it: instances, and by number and command the processes that are of none.
On a terminal a live view with the last minute: q ends it, n, u and m sort by name, utilisation and memory.
Elsewhere, with --once and with -o, one sample. Takes the role viewer.

GPU%: of the last second, the part in which a kernel ran; of a part of a divided GPU, the part in which its
engine was active. MEMORY: used, and what there is; of an instance used, and what is booked. POWER: drawn,
and the limit. What a device does not tell is a dash. Exit code 1 where no GPU told anything.

Examples:
  skerry top gpus
  skerry top gpus n1/0 5d2f --sort utilization
  skerry top gpus --app detector
  skerry top gpus -l site=berlin --once
  skerry top gpus -o json")]
pub struct TopGpusArgs {
    /// Only these: NODE/INDEX, NODE/UUID, or how a UUID begins
    #[arg(value_name = "GPU", add = ArgValueCompleter::new(complete::gpus))]
    pub gpus: Vec<String>,

    /// Only GPUs of this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    /// Only GPUs of nodes with these labels, as site=berlin
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "gpus")]
    pub selector: Option<String>,

    /// Only GPUs that this app has instances on
    #[arg(long, value_name = "NAME", add = app_targets(), conflicts_with = "gpus")]
    pub app: Option<String>,

    /// One sample, and no live view
    #[arg(long)]
    pub once: bool,

    /// Between two samples: 1s to 60s
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = interval)]
    pub interval: Duration,

    /// What comes first: a name, or what is used most
    #[arg(long, value_enum, default_value_t = TopGpuSort::Name, value_name = "BY")]
    pub sort: TopGpuSort,

    /// How to print one sample
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// Which GPU comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopGpuSort {
    /// By node and index
    Name,
    /// Which is busiest
    Utilization,
    /// Which has most memory in use
    Memory,
}

/// Flags of all views.
#[derive(Debug, Clone, Args)]
pub struct TopFlags {
    /// One sample, and no live view
    #[arg(long)]
    pub once: bool,

    /// Between two samples: 1s to 60s
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = interval)]
    pub interval: Duration,

    /// What comes first: a name, or who uses most
    #[arg(long, value_enum, default_value_t = TopSort::Name, value_name = "BY")]
    pub sort: TopSort,

    /// How to print one sample
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopSort {
    /// By the alphabet
    Name,
    /// Who uses most processor time
    Cpu,
    /// Who uses most memory
    Memory,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    let is_fit = (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&interval);
    if is_fit { Ok(interval) } else { Err("from 1s to 60s".into()) }
}
