//! `restart`, `stop` and `start` of instances: what their agents say came of it.

use skerry_model::time::to_proto_duration;
use skerry_model::{ClusterName, InstanceName, ServiceName};
use skerry_proto::relay::v1 as pb;

use crate::args::{ActFlags, StartArgs, StopArgs};
use crate::client::{Client, relay};
use crate::error::CliError;
use crate::print::{Printer, complain};
use crate::target::{Target, Type};

/// What is done, in words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    act: pb::InstanceAct,
    done: &'static str,
    already: &'static str,
}

/// `restart`
pub(crate) const RESTART: Words =
    Words { act: pb::InstanceAct::Restart, done: "restarted", already: "restarted" };
const STOP: Words = Words { act: pb::InstanceAct::Stop, done: "stopped", already: "is stopped already" };
const START: Words = Words { act: pb::InstanceAct::Start, done: "started", already: "runs already" };

pub(crate) async fn stop(client: &Client, args: &StopArgs, printer: &mut Printer) -> Result<(), CliError> {
    run(client, STOP, &args.target, args.service.as_deref(), &args.flags, printer).await
}

pub(crate) async fn start(client: &Client, args: &StartArgs, printer: &mut Printer) -> Result<(), CliError> {
    run(client, START, &args.target, args.service.as_deref(), &args.flags, printer).await
}

/// Does it, and tells of each instance what came of it.
pub(crate) async fn run(
    client: &Client,
    words: Words,
    target: &str,
    service: Option<&str>,
    flags: &ActFlags,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let request = request_of(client, words.act, target, service, flags)?;
    // Once: what was asked for may have been done although nobody said so.
    let mut server = relay(client.relay_channel().await?);
    let refused = |status: tonic::Status| CliError::of_status(&status, client.relay_address());
    let mut answers = server.act_on_instances(request).await.map_err(refused)?.into_inner();
    let mut failed = 0_usize;
    while let Some(answer) = answers.message().await.map_err(refused)? {
        let pb::ActOnInstancesResponse { instance, unchanged, reason, message, .. } = answer;
        if reason.is_empty() {
            let what = if unchanged { words.already } else { words.done };
            printer.line(&format!("instance/{instance} {what}"))?;
        } else {
            failed += 1;
            complain(&CliError::Failed(format!("instance/{instance}: {message}")));
        }
    }
    match failed {
        0 => Ok(()),
        count => Err(CliError::Said(Box::new(CliError::Failed(format!("not {} of {count}", words.done))))),
    }
}

fn request_of(
    client: &Client,
    act: pb::InstanceAct,
    target: &str,
    service: Option<&str>,
    flags: &ActFlags,
) -> Result<pb::ActOnInstancesRequest, CliError> {
    let usage = |error: skerry_model::InvalidName| CliError::Usage(error.to_string());
    let (app, service, instance) = whose(target, service, flags)?;
    if !service.is_empty() {
        ServiceName::parse(&service).map_err(usage)?;
    }
    if let Some(cluster) = &flags.cluster {
        ClusterName::parse(cluster).map_err(usage)?;
    }
    if !instance.is_empty() {
        InstanceName::parse(&instance).map_err(usage)?;
    }
    let node = match &flags.node {
        Some(node) => Target::node(node).full_name(client.project())?,
        None => String::new(),
    };
    Ok(pb::ActOnInstancesRequest {
        app: Target { kind: Type::App, name: app }.full_name(client.project())?,
        service,
        node,
        cluster: flags.cluster.clone().unwrap_or_default(),
        instance,
        act: act.into(),
        all: flags.all,
        wait: Some(to_proto_duration(flags.timeout)),
    })
}

/// The app, its service and its instance, the latter two where they are named: also as `app/hello/web`, since instances are called so.
fn whose(
    target: &str,
    service: Option<&str>,
    flags: &ActFlags,
) -> Result<(String, String, String), CliError> {
    let bare = |instance: &str| instance.strip_prefix("instance/").unwrap_or(instance).to_owned();
    let instance = flags.instance.as_deref().map(bare).unwrap_or_default();
    let service = service.unwrap_or_default().to_owned();
    let words: Vec<&str> = target.split('/').collect();
    match words[..] {
        ["app" | "apps", app] => Ok((app.to_owned(), service, instance)),
        ["app" | "apps", app, within] if service.is_empty() => {
            Ok((app.to_owned(), within.to_owned(), instance))
        }
        ["instance" | "instances" | "inst", app, of, cluster, number] if instance.is_empty() => {
            Ok((app.to_owned(), service, format!("{app}/{of}/{cluster}/{number}")))
        }
        _ => {
            let message = format!(
                "{target:?} is no instance and no app: write app/NAME, or instance/APP/SERVICE/CLUSTER/NUMBER"
            );
            Err(CliError::Usage(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_a_service_and_an_instance_are_read_as_they_are_shown() {
        let flags = ActFlags {
            node: None,
            cluster: None,
            instance: None,
            all: false,
            timeout: std::time::Duration::from_secs(1),
        };
        let read = |target: &str, service: Option<&str>| whose(target, service, &flags).ok();
        let of = |app: &str, service: &str, instance: &str| {
            Some((app.to_owned(), service.to_owned(), instance.to_owned()))
        };
        assert_eq!(read("app/hello", None), of("hello", "", ""));
        assert_eq!(read("app/hello", Some("web")), of("hello", "web", ""));
        assert_eq!(read("app/hello/web", None), of("hello", "web", ""));
        assert_eq!(read("instance/hello/web/n1/0", None), of("hello", "", "hello/web/n1/0"));
        for wrong in ["hello", "node/n1", "instance/hello", "app/hello/web/n1/0"] {
            assert_eq!(read(wrong, None), None, "{wrong}");
        }
        let named = ActFlags { instance: Some("instance/hello/web/n1/0".to_owned()), ..flags.clone() };
        assert_eq!(whose("app/hello", None, &named).ok(), of("hello", "", "hello/web/n1/0"));
    }
}
