//! `create`: what needs no manifest.

use clap::{Args, Subcommand};

/// `create`
#[derive(Debug, Clone, Subcommand)]
pub enum CreateCommand {
    /// Create a project: a tenant, which every other resource is in
    Project(CreateProjectArgs),
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
