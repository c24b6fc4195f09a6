//! `grant`: who may do what for a while.

use std::time::Duration;

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::engine::ArgValueCompleter;
use skerry_model::Verb;

use super::{duration, targets};
use crate::complete;

/// `grant`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Who is granted a verb may use it without the role that it takes, on one app, one node, or all of the project, until
the time is over (24 hours at most) or the grant is deleted; what is open by it then ends. Only admins of the project
grant. The audit log has who granted what and why, and names the grant with all that was done by it.

  VERB           TARGET                    role that it takes else
  logs           app, node (its agent)     viewer
  exec           app                       operator
  port-forward   app                       operator
  copy           app                       operator
  node-shell     node                      admin

Examples:
  skerry grant exec app/hello --to ada --for 30m --reason \"the pump stands still\"
  skerry grant logs,exec,copy app/hello --to group/night-shift --for 8h --reason \"release 1.4\"
  skerry grant node-shell node/n1 --to user/ada --for 10m --reason \"disk is full\"
  skerry get grants
  skerry delete grant/exec-hello-3f2a1")]
pub struct GrantArgs {
    /// logs, exec, port-forward, copy, node-shell; several as VERB,VERB
    #[arg(value_name = "VERB", required = true, value_delimiter = ',', num_args = 1,
          value_parser = PossibleValuesParser::new(Verb::ALL.map(Verb::as_str)), hide_possible_values = true)]
    pub verbs: Vec<String>,

    /// app/NAME, node/NAME, or project/NAME for all that is in the project
    #[arg(value_name = "TARGET", add = targets())]
    pub target: String,

    /// user/NAME or group/NAME, or a full name of another project: projects/PROJECT/users/NAME
    #[arg(long, value_name = "WHO", add = ArgValueCompleter::new(complete::users))]
    pub to: String,

    /// How long it holds, as 30m; at most 24h
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Duration,

    /// Why, for who reads the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: String,

    /// A name for the grant [default: one that is made of VERB and TARGET]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}
