//! Commands that change resources.

use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::{ComposeFlags, Format, duration, targets};
use crate::complete;

/// `apply`
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
All manifests are applied together, in one transaction of the store: all of them, or where one is refused
none. They may refer to each other, whatever their order and projects. Applying again what is there changes
nothing. About 60 apps or 120 other resources fit in one apply. With --one-by-one there is no such bound, and
each is applied for itself: projects first, configs and secrets before apps, users and groups before the
bindings that name them; an error does not keep the others back.

--prune then deletes the apps, configs and secrets that the selector chooses and no manifest names, apps first,
one by one. It deletes nothing when a manifest could not be applied. All else is never pruned.

Examples:
  skerry apply -f app.yaml
  skerry apply -f configs/ -f app.yaml --wait
  skerry apply -R -f site/ --prune -l team=shop --dry-run=server
  skerry apply -f docker-compose.yml --as-app shop --wait
  skerry get app/hello -o yaml | sed s/1.0/1.1/ | skerry apply -f -")]
pub struct ApplyArgs {
    /// Manifest, directory of manifests (*.yaml, *.yml, *.json), or - for stdin; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath)]
    pub files: Vec<String>,

    /// Directories with all that is below them
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// Change nothing: server lets the server check everything, client only reads the manifests
    #[arg(long, value_enum, value_name = "WHO", num_args = 0..=1, require_equals = true, default_value_t = DryRun::None,
          default_missing_value = "server", hide_default_value = true)]
    pub dry_run: DryRun,

    /// Apply each manifest for itself, and go on after one that is refused
    #[arg(long)]
    pub one_by_one: bool,

    /// Delete apps, configs and secrets that no manifest names; needs -l or --all
    #[arg(long)]
    pub prune: bool,

    /// With --prune: only what has these labels; every app, config and secret of the manifests must have them too
    #[arg(short = 'l', long, value_name = "SELECTOR", requires = "prune")]
    pub selector: Option<String>,

    /// With --prune: all of the project
    #[arg(long, requires = "prune", conflicts_with = "selector")]
    pub all: bool,

    /// Wait until the apps are healthy; not with --dry-run
    #[arg(long)]
    pub wait: bool,

    /// Longest wait for all together, as 30s or 2m
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub compose: ComposeFlags,
}

/// Who checks manifests of which nothing is to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// It is no dry run
    #[default]
    None,
    /// The server, as if they were applied
    Server,
    /// This program alone, which asks nobody
    Client,
}

/// `diff`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The server says what apply would make of the manifests; that is compared with what is there. Lines
with - would go, lines with + would come.

Exit codes of diff:
  0    no differences
  1    there are differences
  more as with other commands (see skerry --help); what there is 1 is 2 here

Examples:
  skerry diff -f app.yaml
  skerry diff -R -f site/ || skerry apply -R -f site/")]
pub struct DiffArgs {
    /// Manifest, directory of manifests (*.yaml, *.yml, *.json), or - for stdin; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath)]
    pub files: Vec<String>,

    /// Directories with all that is below them
    #[arg(short = 'R', long)]
    pub recursive: bool,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub compose: ComposeFlags,
}

/// `plan`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The scheduler places everything as if the manifests were applied, and changes nothing. Lines with + would
come to the node, lines with ~ be replaced there, lines with - go; lines with ! have no place. Apps and
configs are reckoned with. `skerry diff` shows what changes in the resources themselves.

Examples:
  skerry plan -f app.yaml
  skerry plan -R -f site/ --delete app/old
  skerry plan --delete app/hello")]
pub struct PlanArgs {
    /// Manifest, directory of manifests (*.yaml, *.yml, *.json), or - for stdin; may be repeated
    #[arg(short = 'f', long = "filename", required_unless_present = "delete", value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath)]
    pub files: Vec<String>,

    /// Directories with all that is below them
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// As if this app were deleted, too; may be repeated
    #[arg(long, value_name = "app/NAME", add = targets())]
    pub delete: Vec<String>,

    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub compose: ComposeFlags,
}

/// `edit`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The editor is $SKERRY_EDITOR, $VISUAL, $EDITOR, or vi. What is wrong with the text is written above it
and the editor opened again; leaving the text as it is ends that, and keeps it in a file.

Examples:
  skerry edit app/hello
  EDITOR='code --wait' skerry edit config motd")]
pub struct EditArgs {
    /// TYPE/NAME, or TYPE NAME (nodes, apps, configs, secrets, users, groups, rolebindings)
    #[arg(value_name = "TYPE/NAME", required = true, num_args = 1..=2, add = targets())]
    pub target: Vec<String>,
}

/// `delete`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
An app is gone from the API at once; the nodes then stop its instances, each in its grace period, and
delete waits for that. Exit code 5 when the time is over first: they are named, and still stopped later.

Examples:
  skerry delete app/hello
  skerry delete app/hello --wait=false
  skerry delete config a b
  skerry delete -f app.yaml --ignore-not-found
  skerry delete project/shop --background")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct DeleteArgs {
    /// TYPE/NAME..., or TYPE NAME...
    #[arg(value_name = "TYPE/NAME", required_unless_present = "files", add = targets())]
    pub targets: Vec<String>,

    /// What these manifests name; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", conflicts_with = "targets", value_hint = ValueHint::AnyPath)]
    pub files: Vec<String>,

    /// Directories with all that is below them
    #[arg(short = 'R', long, requires = "files")]
    pub recursive: bool,

    /// What is not there counts as deleted
    #[arg(long)]
    pub ignore_not_found: bool,

    /// Of projects: leave it to a task, which deletes each as soon as it is empty
    #[arg(long)]
    pub background: bool,

    /// Wait until the instances of deleted apps have stopped
    #[arg(
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set,
        value_name = "true|false"
    )]
    pub wait: bool,

    /// Longest wait for all together, as 30s or 2m
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub compose: ComposeFlags,
}

/// `label`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
`apply` makes the labels of an app, config or secret those of its manifest: one that shall stay belongs there.

Examples:
  skerry label node/n1 site=oslo gpu=yes
  skerry label node n1 n2 site=bergen --overwrite
  skerry label app/hello tier-
  skerry label nodes -l site=oslo zone=b old-")]
pub struct LabelArgs {
    /// TYPE/NAME... or TYPE NAME..., then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "TYPE/NAME KEY=VALUE", required = true, add = targets())]
    pub words: Vec<String>,

    /// Change labels that have another value
    #[arg(long)]
    pub overwrite: bool,

    /// Of all nodes with these labels, by a task that goes on by itself: `nodes` is then all that is named
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub follow: super::task::FollowFlags,
}

/// `annotate`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Annotations are notes for people and programs; unlike labels nothing is selected by them.

Examples:
  skerry annotate app/hello owner='team shop' example.com/ticket=OPS-7
  skerry annotate node n1 n2 rack=b4 --overwrite
  skerry annotate app/hello owner-")]
pub struct AnnotateArgs {
    /// TYPE/NAME... or TYPE NAME..., then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "TYPE/NAME KEY=VALUE", required = true, add = targets())]
    pub words: Vec<String>,

    /// Change annotations that have another value
    #[arg(long)]
    pub overwrite: bool,
}

/// `drain`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
A drained node gets nothing new, and what it runs goes to other members of its cluster, or waits for one that
takes it: copies of Deployments, as many at once as their `maxUnavailable` allows, and cron jobs between two
runs. What is one on each node stays, and jobs come to their end. It stays so until `skerry uncordon`, and
goes on if this command is interrupted. Exit code 5 when the time is over first.

A cluster is drained by a task: all its members are cordoned, then drained one after the other. It is followed
here and goes on by itself; `skerry task cancel` ends it.

Examples:
  skerry drain n1
  skerry drain n1 n2 --timeout 30m
  skerry drain cluster/plant-7 --no-wait
  skerry uncordon n1")]
pub struct DrainArgs {
    /// Names of nodes, or cluster/NAME
    #[arg(value_name = "NODE", required = true, add = ArgValueCompleter::new(complete::drained))]
    pub nodes: Vec<String>,

    /// Only begin it
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,

    /// Wait until all that leaves has left
    #[arg(
        long,
        default_value_t = true,
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub wait: bool,

    /// Longest wait for all nodes together, as 30s or 2m
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
}

/// `cordon` and `uncordon`
#[derive(Debug, Clone, Args)]
pub struct CordonArgs {
    /// Names of nodes
    #[arg(value_name = "NODE", required = true, add = ArgValueCompleter::new(complete::nodes))]
    pub nodes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Apply {
        #[command(flatten)]
        args: ApplyArgs,
    }

    #[test]
    fn a_dry_run_is_spelled_as_kubectl_s() {
        let read = |flags: &[&str]| {
            let words = ["apply", "-f", "a.yaml"].iter().chain(flags);
            Apply::try_parse_from(words).map(|apply| apply.args.dry_run).map_err(|error| error.kind())
        };
        assert_eq!(read(&[]), Ok(DryRun::None));
        assert_eq!(read(&["--dry-run"]), Ok(DryRun::Server));
        assert_eq!(read(&["--dry-run", "--one-by-one"]), Ok(DryRun::Server));
        assert_eq!(read(&["--dry-run=server"]), Ok(DryRun::Server));
        assert_eq!(read(&["--dry-run=client"]), Ok(DryRun::Client));
        assert_eq!(read(&["--dry-run=none"]), Ok(DryRun::None));
        assert!(read(&["--dry-run=maybe"]).is_err());
    }
}
