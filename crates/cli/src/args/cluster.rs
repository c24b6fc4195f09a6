//! Flags of `cluster` and `taint`.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use crate::complete;

/// `cluster`
#[derive(Debug, Clone, Subcommand)]
pub enum ClusterCommand {
    /// Put nodes into a cluster
    Join(JoinArgs),
    /// Take nodes out of their cluster: each is one of its own then
    Leave(LeaveArgs),
}

/// `cluster join`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A node is in the cluster that its label skerry.dev/cluster names; this sets it. What a node ran as a cluster
of its own, or in another cluster, ends there: instances are named by their cluster.

Examples:
  skerry create cluster plant-7
  skerry cluster join plant-7 n1 n2 n3
  skerry token create --uses 3 --cluster plant-7")]
pub struct JoinArgs {
    /// The cluster
    #[arg(value_name = "CLUSTER", add = ArgValueCompleter::new(complete::clusters))]
    pub cluster: String,

    /// Names of nodes
    #[arg(value_name = "NODE", required = true, add = ArgValueCompleter::new(complete::nodes))]
    pub nodes: Vec<String>,
}

/// `cluster leave`
#[derive(Debug, Clone, Args)]
pub struct LeaveArgs {
    /// Names of nodes
    #[arg(value_name = "NODE", required = true, add = ArgValueCompleter::new(complete::nodes))]
    pub nodes: Vec<String>,
}

/// `taint`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A service comes to a node only if it tolerates each of its taints (tolerations of a service). NoSchedule keeps
new ones off, NoExecute also ends those that are there.

Examples:
  skerry taint node n1 gpu=yes:NoSchedule
  skerry taint node n1 n2 maintenance:NoExecute
  skerry taint node n1 gpu-
  skerry taint node n1 maintenance:NoExecute-")]
pub struct TaintArgs {
    /// node/NAME... or node NAME..., then KEY=VALUE:EFFECT or KEY:EFFECT to add, and KEY- or KEY:EFFECT- to remove
    #[arg(value_name = "node/NAME KEY=VALUE:EFFECT", required = true)]
    pub words: Vec<String>,

    /// Change taints that have another value
    #[arg(long)]
    pub overwrite: bool,
}
