//! `exec` and `debug`: a command in an instance or on a node, as if it ran here.
//!
//! The exit code is the command's. What goes wrong before or beside it is told on stderr, and is exit code 125.

mod flow;

use std::collections::BTreeMap;
use std::process::ExitCode;

use skerry_model::{ClusterName, InstanceName, ServiceName};
use skerry_proto::relay::v1 as pb;

use super::logs::is_many;
use crate::args::{ClientCommand, DebugArgs, ExecArgs, GlobalArgs, RunFlags};
use crate::client::Client;
use crate::error::CliError;
use crate::print::complain;
use crate::renewal;
use crate::settings::Settings;
use crate::target::{Target, Type};
use crate::terminal;

/// Exit code of what is no command's.
pub(crate) const OWN_FAILURE: u8 = 125;

/// What is to run.
pub(crate) struct Asked<'a> {
    target: &'a str,
    service: Option<&'a str>,
    run: RunFlags,
    image: Option<&'a str>,
    command: Vec<String>,
}

impl<'a> Asked<'a> {
    /// Of a command that is one of these.
    pub(crate) fn of(command: &'a ClientCommand) -> Option<Self> {
        match command {
            ClientCommand::Exec(args) => {
                let ExecArgs { target, service, run, debug_image, command } = args.as_ref();
                let (service, image) = (service.as_deref(), debug_image.as_deref());
                Some(Self { target, service, run: run.clone(), image, command: command.clone() })
            }
            ClientCommand::Debug(args) => {
                let DebugArgs { target, service, image, run, command } = args.as_ref();
                let (mut run, mut command) = (run.clone(), command.clone());
                if command.is_empty() {
                    command.push("sh".to_owned());
                    run.stdin = true;
                    run.tty |= terminal::is_there();
                }
                Some(Self { target, service: service.as_deref(), run, image: Some(image), command })
            }
            _ => None,
        }
    }
}

/// Runs it: the exit code of this program.
pub(crate) async fn run(global: &GlobalArgs, asked: Asked<'_>) -> ExitCode {
    match execute(global, &asked).await {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            complain(&error);
            ExitCode::from(OWN_FAILURE)
        }
    }
}

async fn execute(global: &GlobalArgs, asked: &Asked<'_>) -> Result<i32, CliError> {
    let client = &Client::new(Settings::of(global)?, global.request_timeout)?;
    let (start, is_node) = start_of(client, asked)?;
    if start.tty && !terminal::is_there() {
        return Err(CliError::Usage(
            "-t wants a terminal, and standard input is none: leave -t out, or run this in a terminal".into(),
        ));
    }
    let work = async {
        let is_told = global.verbose || (!is_node && is_many(client, &alike(&start)).await);
        flow::run(client, start, is_node, is_told).await
    };
    renewal::beside(client, global.verbose, Box::pin(work)).await
}

/// What is sent, and whether it is for a node.
fn start_of(client: &Client, asked: &Asked<'_>) -> Result<(pb::ExecStart, bool), CliError> {
    let Asked { target, service, run, image, command } = asked;
    // `exec app/hello/web` as `exec app/hello web`: instances are called so.
    let (target, within) = match target.splitn(3, '/').collect::<Vec<_>>()[..] {
        [kind @ ("app" | "apps"), app, service] => (format!("{kind}/{app}"), Some(service)),
        _ => ((*target).to_owned(), None),
    };
    let target = Target::parse(&target)?;
    let service = match (*service, within) {
        (Some(one), Some(other)) if one != other => {
            let command = format!(
                "{one:?} is a second service: the command stands after --, as {target}/{other} -- {one}"
            );
            return Err(CliError::Usage(command));
        }
        (service, within) => service.or(within),
    };
    let start = pb::ExecStart {
        command: command.clone(),
        tty: run.tty,
        stdin: run.stdin,
        env: variables(&run.env)?,
        user: run.user.clone().unwrap_or_default(),
        working_dir: run.workdir.clone().unwrap_or_default(),
        size: run.tty.then(terminal::size),
        debug_image: image.unwrap_or_default().to_owned(),
        ..pb::ExecStart::default()
    };
    match target.kind {
        Type::Node => {
            let narrowed = [service, run.node.as_deref(), run.cluster.as_deref(), run.instance.as_deref()];
            if narrowed.into_iter().any(|word| word.is_some()) || image.is_some() {
                let what = "a service, --node, --cluster, --instance and images are of apps";
                return Err(CliError::Usage(format!("{target} is all that is to be said: {what}")));
            }
            Ok((pb::ExecStart { node: target.full_name(client.project())?, ..start }, true))
        }
        Type::App => Ok((in_app(client, &target, service, run, start)?, false)),
        _ => Err(CliError::Usage(format!("{target} runs nothing: name an app or a node, as app/NAME"))),
    }
}

fn in_app(
    client: &Client,
    target: &Target,
    service: Option<&str>,
    run: &RunFlags,
    start: pb::ExecStart,
) -> Result<pb::ExecStart, CliError> {
    let usage = |error: skerry_model::InvalidName| CliError::Usage(error.to_string());
    if start.command.is_empty() {
        let place = service.map_or_else(|| target.to_string(), |service| format!("{target} {service}"));
        let taken = service.map(|word| format!(" ({word:?} is taken for a service)")).unwrap_or_default();
        return Err(CliError::Usage(format!("say what to run, after --: {place} -- ls{taken}")));
    }
    if let Some(service) = service {
        ServiceName::parse(service).map_err(usage)?;
    }
    if let Some(cluster) = &run.cluster {
        ClusterName::parse(cluster).map_err(usage)?;
    }
    let instance = run.instance.as_deref().unwrap_or_default();
    let instance = instance.strip_prefix("instance/").unwrap_or(instance);
    if !instance.is_empty() {
        InstanceName::parse(instance).map_err(usage)?;
    }
    let node = match &run.node {
        Some(node) => Target::node(node).full_name(client.project())?,
        None => String::new(),
    };
    Ok(pb::ExecStart {
        app: target.full_name(client.project())?,
        service: service.unwrap_or_default().to_owned(),
        node,
        cluster: run.cluster.clone().unwrap_or_default(),
        instance: instance.to_owned(),
        ..start
    })
}

fn variables(words: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(CliError::Usage(format!("-e {word:?}: write NAME=VALUE"))),
    };
    words.iter().map(pair).collect()
}

/// The same instances, as logs are asked for.
fn alike(start: &pb::ExecStart) -> pb::LogsRequest {
    let pb::ExecStart { app, service, node, cluster, instance, .. } = start.clone();
    pb::LogsRequest { app, service, node, cluster, instance, ..pb::LogsRequest::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_pairs() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let read = variables(&words(&["A=b=c", "D="])).unwrap();
        assert_eq!(read, BTreeMap::from([("A".into(), "b=c".into()), ("D".into(), String::new())]));
        assert!(matches!(variables(&words(&["A"])), Err(CliError::Usage(_))));
        assert!(matches!(variables(&words(&["=A"])), Err(CliError::Usage(_))));
    }
}
