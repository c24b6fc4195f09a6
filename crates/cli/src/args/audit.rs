//! `audit`: who changed what.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Format;

/// `audit`
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Takes the role admin; with --project system those of all projects are shown, and what is done to
chains takes an admin of the installation. Times: 2026-01-31T08:00:00Z, or a duration back from
now, as 2h.

Examples:
  skerry audit --since 24h
  skerry audit --user ada --resource apps/
  skerry audit -f -o json
  skerry audit verify
  skerry audit export > audit.jsonl && skerry audit verify --from-file audit.jsonl"
)]
pub struct AuditArgs {
    #[command(subcommand)]
    #[allow(missing_docs, reason = "a comment here would become a title in --help")]
    pub command: Option<AuditCommand>,

    /// Not before this time
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,

    /// Before this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub until: Option<String>,

    /// Only by callers with this in their name, as user/ada
    #[arg(long, value_name = "TEXT")]
    pub user: Option<String>,

    /// Only of methods with this in their name, as Delete
    #[arg(long, value_name = "TEXT")]
    pub method: Option<String>,

    /// Only of resources that begin so, as apps/ or apps/web
    #[arg(long, value_name = "TEXT")]
    pub resource: Option<String>,

    /// The newest so many; 0 for all
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub limit: usize,

    /// Go on with what comes, until interrupted
    #[arg(short, long)]
    pub follow: bool,

    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// What is done to whole chains.
#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// Find out whether anything was changed, removed or put into another order since it was written
    Verify(VerifyArgs),
    /// Print all chains, one JSON object a line, for `verify --from-file`
    Export,
}

/// `audit verify`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Each record is hashed again here: the server is not trusted for it. Exit code 1 when something is
wrong, with chain and record. A chain whose oldest records were removed for their age is whole.")]
pub struct VerifyArgs {
    /// An export, instead of asking a server
    #[arg(long, value_name = "FILE")]
    pub from_file: Option<PathBuf>,

    /// The store was restored from an older copy: that chains end before what their writers knew is no finding
    #[arg(long)]
    pub restored: bool,
}
