//! `cp`: files into instances and out of them.

use std::ffi::OsString;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use crate::complete;

/// `cp`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Copies files and directories between this machine and an instance of an app, which is written as
app/NAME:PATH or app/NAME/SERVICE:PATH; where several instances are left, the first by name that runs.
A path that is not absolute counts from the instance's working directory. Takes the role operator.

The places are those of docker cp. A file goes to TO, or into it where that is a directory. A directory
is TO where nothing is there, and goes into it where it is a directory; with /. at the end of FROM,
what is in it does. The directory that TO is in must be there. As one of them, - is an archive (tar)
from standard input, unpacked into a directory of the instance, or to standard output.

Links are copied as links. What an instance sends is not trusted: entries with .. or absolute paths,
links that lead out of what is copied, devices and pipes are refused. Files come to their places here,
and in processes, once all is there and its checksum is right; nothing is left of a copy that failed.

Examples:
  skerry cp app/hello:/etc/hosts .
  skerry cp ./site app/hello/web:/usr/share/nginx/html
  skerry cp app/hello:/data/. ./backup --instance hello/web/n1/0
  skerry cp app/hello:/data - | tar tf -")]
pub struct CpArgs {
    /// What is copied: a path of this machine, app/NAME:PATH, or - for an archive on standard input
    #[arg(value_name = "FROM")]
    pub from: OsString,

    /// Where to: the same the other way round
    #[arg(value_name = "TO")]
    pub to: OsString,

    /// Only instances on this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    /// Only instances of this cluster, or of a node that is in none
    #[arg(long, value_name = "CLUSTER")]
    pub cluster: Option<String>,

    /// This instance: APP/SERVICE/CLUSTER/NUMBER, as get instances shows it
    #[arg(long, value_name = "INSTANCE")]
    pub instance: Option<String>,
}
