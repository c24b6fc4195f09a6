//! `bundle`: a support archive.

use std::path::PathBuf;

use clap::Args;

use super::targets;

/// `bundle`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Writes an archive for who looks for a fault of a node: what its agent knows (how it was started, what is
wanted, seen and planned, its log, what the kernel and Docker say), and what the control plane knows (the
node, its events, the apps and instances there, how the installation is). No values of secrets,
environments and configs are in it, no keys and no command lines. Where the node is not reached, what the
control plane knows is written, and why the rest is missing. Takes the role operator.

The file is there whole or not at all. It is for its owner to read (mode 0600).

Examples:
  skerry bundle node/n1
  skerry bundle node/n1 -o /tmp/n1.tar.gz")]
pub struct BundleArgs {
    /// The node
    #[arg(value_name = "node/NAME", add = targets())]
    pub target: String,

    /// Where to; absent: skerry-NAME.tar.gz in this directory
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
