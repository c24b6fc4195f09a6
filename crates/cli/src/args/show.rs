//! Commands that show resources, and how they print.

use std::str::FromStr;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Args, ValueEnum};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};

use super::{app_targets, duration, targets};
use crate::complete;
use crate::files::read_text;
use crate::jsonpath::Template;

const TYPES_HELP: &str = "\
Types: nodes (no, node), apps (app), configs (cfg, config), secrets (secret),
       instances (inst, instance), revisions (rev, revision), events (ev, event),
       users (user), groups (group), rolebindings (rb, rolebinding), grants (grant),
       projects (proj, project), clusters (cluster), tasks (task), gpus (gpu),
       allocations (alloc, allocation): what is booked on GPUs; get also shows
       enrollments (enr, enrollment), machines that wait for approval";

/// How things are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns
    Table,
    /// More columns, nothing cut to the terminal
    Wide,
    /// JSON; several as one List
    Json,
    /// YAML, fit for apply
    Yaml,
    /// TYPE/NAME
    Name,
}

/// How `get` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// In a format for everything.
    Format(Format),
    /// As a template says.
    JsonPath(Template),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(template) = text.strip_prefix("jsonpath=") {
            return Template::parse(template).map(Self::JsonPath);
        }
        if let Some(file) = text.strip_prefix("jsonpath-file=") {
            return Template::parse(&read_text(file)?).map(Self::JsonPath);
        }
        if let Ok(format) = Format::from_str(text, true) {
            return Ok(Self::Format(format));
        }
        let jsonpath = "jsonpath=TEMPLATE, jsonpath-file=FILE";
        match text.strip_prefix("jsonpath") {
            Some(_) => Err("write the template after it: -o jsonpath='{.metadata.name}'".into()),
            None => Err(format!("use {}, {jsonpath}", FORMATS.join(", "))),
        }
    }
}

/// The words for [`Format`].
const FORMATS: [&str; 5] = ["table", "wide", "json", "yaml", "name"];

fn outputs() -> Vec<CompletionCandidate> {
    FORMATS.into_iter().chain(["jsonpath=", "jsonpath-file="]).map(CompletionCandidate::new).collect()
}

/// `get`
#[derive(Debug, Clone, Args)]
#[command(after_help = format!("{TYPES_HELP}

Instances are named <app>/<service>/<cluster>/<ordinal>; a part from the left shows all below it.
GPUs are named <node>/<uuid>, <node>/<index>, or by a UUID or how one begins that no other has; -l
is of the labels of their nodes. Allocations are named by their GPU: without more all of it, and
<node>/<index>/<instance> one. Revisions need their app, and may be named by the first digits:
revision/hello/12ab. With --watch, -o json prints one object a line. Instances, revisions, users,
groups, rolebindings, grants and allocations are watched by asking again each second. A watch goes
on after a lost connection.

Examples:
  skerry get nodes -l site=oslo,!old
  skerry get apps -w
  skerry get app/hello -o yaml
  skerry get instances hello/web
  skerry get revisions hello
  skerry get gpus --node n1 -o wide
  skerry get allocations n1/0
  skerry get allocations --app detector
  skerry get apps -o jsonpath='{{range .items[*]}}{{.metadata.name}}{{\"\\n\"}}{{end}}'"))]
pub struct GetArgs {
    /// TYPE, TYPE,TYPE..., TYPE/NAME..., or TYPE NAME...
    #[arg(value_name = "TYPE", required = true, add = targets())]
    pub targets: Vec<String>,

    /// How to print: table, wide, json, yaml, name, jsonpath=TEMPLATE, jsonpath-file=FILE
    #[arg(short, long, default_value = "table", value_name = "FORMAT", hide_default_value = true,
          value_parser = ValueParser::new(Output::from_str), add = ArgValueCandidates::new(outputs))]
    pub output: Output,

    /// Only what has these labels, as site=oslo,tier!=test,gpu,!old,zone in (a,b)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    /// Only instances, GPUs or allocations on this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    /// Only instances or allocations of this app, or GPUs that it has something of
    #[arg(long, value_name = "NAME", add = app_targets())]
    pub app: Option<String>,

    /// Show what is there, then every change, until interrupted
    #[arg(short, long)]
    pub watch: bool,

    /// With --watch -o json or yaml: {type, object}, where type is ADDED, MODIFIED or DELETED
    #[arg(long, requires = "watch")]
    pub output_watch_events: bool,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `describe`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  skerry describe app/hello
  skerry describe node n1
  skerry describe instance hello/web/n1/0
  skerry describe gpu n1/0
  skerry describe gpu 5d2f")]
pub struct DescribeArgs {
    /// TYPE/NAME..., or TYPE NAME... (nodes, apps, configs, secrets, instances, users, groups, rolebindings, grants, gpus)
    #[arg(value_name = "TYPE/NAME", required = true, add = targets())]
    pub targets: Vec<String>,
}

/// `explain`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Of an app: the way to each instance that is not as it should be, from the app's selector over cluster,
member, resources, assignment, image and dependency to the runtime, and the one step that stops it. With
--node also why a node has none of a service.

Of a kind: the names are those of manifests; lists are passed through. Without a word it lists the
kinds. This needs no server.

Examples:
  skerry explain app/hello
  skerry explain app/hello --node n1
  skerry explain
  skerry explain app.spec.services.healthCheck
  skerry explain app.spec --recursive")]
pub struct ExplainArgs {
    /// An app, a kind, or a field of a kind
    #[arg(value_name = "app/NAME|KIND[.FIELD...]", add = ArgValueCompleter::new(complete::explained))]
    pub path: Option<String>,

    /// Of a kind: also the names and types of all fields below, without their documentation
    #[arg(long)]
    pub recursive: bool,

    /// Of an app: only on this node
    #[arg(long, value_name = "NODE", add = ArgValueCompleter::new(complete::nodes))]
    pub node: Option<String>,

    /// Of an app: every instance, ready or not
    #[arg(long)]
    pub all: bool,

    /// Of an app: how to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// `events`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Events are kept in bounded rings: the newest 64 of each node and each app. Those that nodes told
of a deleted app are still shown.

Examples:
  skerry events --for app/hello
  skerry events -w -o json")]
pub struct EventsArgs {
    /// Only about this resource and what belongs to it
    #[arg(long = "for", value_name = "TYPE/NAME", add = targets())]
    pub regarding: Option<String>,

    /// Go on with every new event, until interrupted
    #[arg(short, long)]
    pub watch: bool,

    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Print no column names
    #[arg(long)]
    pub no_headers: bool,
}

/// `wait`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
States:
  healthy               apps: every instance runs the current revision and is ready;
                        nodes: connected and ready
  complete              apps: each of its jobs has succeeded
  connected             nodes: the agent is connected (a node that is not there yet is waited for)
  deleted               it is gone; apps: its instances have stopped as well
  condition=TYPE        a condition of it is True; condition=TYPE=False for another value

A job that has failed for good is not waited for any longer: exit code 1, also with healthy.
A server that is away is asked again until the time is over. Exit code 5 when it is over, with the
reason that was seen last; 4 when the server is away at the end.

Examples:
  skerry wait app/hello --for=healthy --timeout 2m
  skerry wait node/n1 --for=connected
  skerry wait app/hello --for=condition=Progressing=False")]
pub struct WaitArgs {
    /// TYPE/NAME..., or TYPE NAME... (nodes, apps, configs)
    #[arg(value_name = "TYPE/NAME", required = true, add = targets())]
    pub targets: Vec<String>,

    /// What to wait for
    #[arg(long = "for", value_name = "STATE")]
    pub state: String,

    /// Longest wait for all together, as 30s or 2m
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// `status`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Exit code 1 when there is a problem, 4 when the registry cannot be reached.

Examples:
  skerry status
  skerry status -o json")]
pub struct StatusArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// `version`
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// How to print: table for one line of text
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}
