//! `create`: what needs no manifest.

use clap::{Args, Subcommand};

/// `create`
#[derive(Debug, Clone, Subcommand)]
pub enum CreateCommand {
    /// Create a project: a tenant, which every other resource is in
    Project(CreateProjectArgs),
    /// Create a cluster: nodes at one place that are scheduled together
    Cluster(CreateClusterArgs),
}

/// `create cluster`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Nodes join it by `skerry cluster join`, by the label skerry.dev/cluster, or by a token with --cluster.

Examples:
  skerry create cluster plant-7
  skerry create cluster plant-7 --labels site=oslo,line=4 --failover-after 2m")]
pub struct CreateClusterArgs {
    /// Name of the cluster
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Its labels, by which apps select it
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = super::enrol::pair)]
    pub labels: Vec<(String, String)>,

    /// How long a member may be out of reach before its replicas move [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    pub failover_after: Option<std::time::Duration>,
}

/// `create project`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Takes the role admin in project `system`. What is not limited may grow as far as the store does. Limits are changed
with `skerry edit project/NAME` or a manifest.

Examples:
  skerry create project shop
  skerry create project shop --quota nodes=10,apps=20,size=64Mi --description \"the web shop\"")]
pub struct CreateProjectArgs {
    /// Name of the project
    #[arg(value_name = "NAME")]
    pub name: String,

    /// How much it may have: of nodes, apps, secrets, configs, and size in bytes
    #[arg(long, value_name = "WHAT=LIMIT,...", value_delimiter = ',')]
    pub quota: Vec<String>,

    /// Whose it is, or what it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub description: String,
}
