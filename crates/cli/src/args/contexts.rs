//! `config`: the configuration file of the client.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use crate::complete;

/// `config`
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
The file is $SKERRY_CONFIG, else skerry/config.yaml in $XDG_CONFIG_HOME or ~/.config. Flags come before
SKERRY_* variables, those before the context, that before the defaults.

Examples:
  skerry config set-context lab --server http://lab:7770 --project shop --use
  skerry config get-contexts
  skerry --context lab get nodes")]
pub enum ConfigCommand {
    /// Show all contexts
    GetContexts(GetContextsArgs),
    /// Show the name of the current context
    CurrentContext,
    /// Make a context the current one
    UseContext(ContextName),
    /// Make a context, or change what is named of one: the --server, --registry, --scheduler, --relay, --gpu, --project, --tls-cert, --tls-key and --tls-ca that are given
    SetContext(SetContextArgs),
    /// Delete a context
    DeleteContext(ContextName),
    /// Show the file as it is read
    View,
}

/// A context by its name.
#[derive(Debug, Clone, Args)]
pub struct ContextName {
    /// Name of the context
    #[arg(value_name = "NAME", add = ArgValueCandidates::new(complete::contexts))]
    pub name: String,
}

/// `config get-contexts`
#[derive(Debug, Clone, Args)]
pub struct GetContextsArgs {
    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `config set-context`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
What is given empty is taken out: --project=''.

Examples:
  skerry config set-context lab --server http://lab:7770 --use
  skerry config set-context lab --tls-ca ca.crt --tls-cert me.crt --tls-key me.key
  skerry config set-context --current --project shop")]
pub struct SetContextArgs {
    /// Name of the context
    #[arg(value_name = "NAME", required_unless_present = "current", conflicts_with = "current",
          add = ArgValueCandidates::new(complete::contexts))]
    pub name: Option<String>,

    /// The current one
    #[arg(long)]
    pub current: bool,

    /// Make it the current one as well
    #[arg(long = "use")]
    pub make_current: bool,
}
