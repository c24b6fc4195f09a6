//! Commands about who may become a node.

use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::duration;
use super::show::Format;
use crate::complete;

/// `token`
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a token; prints it, once
    Create(TokenCreateArgs),
    /// Show tokens, without their text
    List(TokenListArgs),
    /// Strike tokens out; nodes that enrolled by them stay
    Delete(TokenDeleteArgs),
}

/// `token create`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The token is all that stdout gets, so that a script can take it; what to do with it is said on stderr. It is shown once and kept nowhere.

Examples:
  skerry token create
  skerry token create --cluster plant-7 --system-apps broker,rules
  skerry token create --uses 200 --ttl 72h --once-per-machine --name-template 'cam-{serial}' --labels site=oslo,line=4
  TOKEN=$(skerry token create --quiet)")]
pub struct TokenCreateArgs {
    /// How often it may be used; 0: without bound
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub uses: u32,

    /// How long it is good, as 30m or 72h: 1 minute to 366 days
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = duration)]
    pub ttl: Duration,

    /// Labels that its nodes get, as site=oslo,line=4
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = pair)]
    pub labels: Vec<(String, String)>,

    /// What its nodes are called, with {serial}, {machine_id}, {host} and {n} (the use's number); absent: as they ask
    #[arg(long, value_name = "TEMPLATE")]
    pub name_template: Option<String>,

    /// Each machine may use it once, told by its serial number, or its machine id where it has none
    #[arg(long)]
    pub once_per_machine: bool,

    /// Cluster that its nodes join; it has to be there
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,

    /// System apps that its nodes are chosen for, besides those whose selector matches: they get the label
    /// system.skerry.dev/APP of each
    #[arg(long, value_name = "APP", value_delimiter = ',')]
    pub system_apps: Vec<String>,

    /// Say nothing but the token
    #[arg(short, long)]
    pub quiet: bool,

    /// How to print: table (the token alone), json or yaml (with what it allows), name (its name, without the token)
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT", hide_default_value = true)]
    pub output: Format,
}

/// `token list`
#[derive(Debug, Clone, Args)]
pub struct TokenListArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table, value_name = "FORMAT", hide_default_value = true)]
    pub output: Format,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `token delete`
#[derive(Debug, Clone, Args)]
pub struct TokenDeleteArgs {
    /// Ids of tokens, as `skerry token list` shows them
    #[arg(value_name = "ID", required = true)]
    pub tokens: Vec<String>,
}

/// `node`
#[derive(Debug, Clone, Subcommand)]
pub enum NodeCommand {
    /// Let a machine in that waits: it is a node from then on
    Approve(ApproveArgs),
    /// Turn a machine away that waits
    Deny(DenyArgs),
    /// Strike the keys of nodes out: their sessions end, and no certificate of theirs is good any more. What runs there runs on
    Revoke(RevokeArgs),
}

/// `node approve`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
`skerry get enrollments` shows who waits. Compare the fingerprint with the one that the machine shows: all else is its own claim.

Examples:
  skerry node approve k7ap-2bqd-x3fo-m5ze
  skerry node approve k7ap-2bqd-x3fo-m5ze --name cam-17 --labels site=oslo --replace")]
pub struct ApproveArgs {
    /// The machine's fingerprint, as k7ap-2bqd-x3fo-m5ze
    #[arg(value_name = "FINGERPRINT")]
    pub fingerprint: String,

    /// What the node is called; absent: as it asks
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Labels that the node gets, as site=oslo,line=4
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = pair)]
    pub labels: Vec<(String, String)>,

    /// Put it in the place of the node that has the name: that one's key counts no more
    #[arg(long)]
    pub replace: bool,
}

/// `node deny`
#[derive(Debug, Clone, Args)]
pub struct DenyArgs {
    /// The machine's fingerprint, as k7ap-2bqd-x3fo-m5ze
    #[arg(value_name = "FINGERPRINT")]
    pub fingerprint: String,
}

/// `node revoke`
#[derive(Debug, Clone, Args)]
pub struct RevokeArgs {
    /// Names of nodes
    #[arg(value_name = "NODE", required = true, add = ArgValueCompleter::new(complete::nodes))]
    pub nodes: Vec<String>,
}

/// `KEY=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| format!("write KEY=VALUE, not {text:?}"))?;
    Ok((key.to_owned(), value.to_owned()))
}
