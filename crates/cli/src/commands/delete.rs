//! `delete`: resources go.

use skerry_proto::registry::v1::DeleteNodeRequest;
use skerry_proto::scheduler::v1::{DeleteAppRequest, DeleteConfigRequest};

use super::{Several, apply};
use crate::args::DeleteArgs;
use crate::client::{Client, Service, apps, configs, nodes, request, request_id};
use crate::error::CliError;
use crate::files::read_all;
use crate::item::CallOrUsage;
use crate::print::Printer;
use crate::target::{Target, Type, parse_all};

pub(crate) async fn run(client: &Client, args: &DeleteArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut several = Several::default();
    for (target, name) in targets(client, args)? {
        let outcome = match delete(client, &target, name).await {
            Ok(()) => printer.line(&format!("{target} deleted")),
            Err(error) if error.is_not_found() && args.ignore_not_found => Ok(()),
            Err(error) => Err(error.into()),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// What to delete, with full names. Those of manifests: apps before the configs that they mount.
fn targets(client: &Client, args: &DeleteArgs) -> Result<Vec<(Target, String)>, CliError> {
    if args.files.is_empty() {
        let targets = parse_all(&args.targets)?;
        return targets
            .into_iter()
            .map(|target| target.full_name(client.project()).map(|name| (target, name)))
            .collect();
    }
    let manifests = read_all(&args.files, &client.manifest_project())?;
    let mut targets: Vec<_> = manifests
        .iter()
        .map(|sourced| {
            (apply::target(&sourced.manifest.resource), sourced.manifest.resource.name().to_owned())
        })
        .collect();
    targets.sort_by_key(|(target, _)| target.kind != Type::App);
    Ok(targets)
}

async fn delete(client: &Client, target: &Target, name: String) -> Result<(), CallOrUsage> {
    let id = request_id();
    match target.kind {
        Type::Node => {
            let message = DeleteNodeRequest { name, etag: String::new(), request_id: id };
            let answer = client.call(Service::Registry, |channel, left| {
                let message = message.clone();
                async move { nodes(channel).delete_node(request(message, left)).await }
            });
            answer.await?;
        }
        Type::App => {
            let message = DeleteAppRequest { name, etag: String::new(), request_id: id };
            let answer = client.call(Service::Scheduler, |channel, left| {
                let message = message.clone();
                async move { apps(channel).delete_app(request(message, left)).await }
            });
            answer.await?;
        }
        Type::Config => {
            let message = DeleteConfigRequest { name, etag: String::new(), request_id: id };
            let answer = client.call(Service::Scheduler, |channel, left| {
                let message = message.clone();
                async move { configs(channel).delete_config(request(message, left)).await }
            });
            answer.await?;
        }
        Type::Instance | Type::Revision | Type::Event => {
            let message = format!("{} cannot be deleted", target.kind.plural());
            return Err(CallOrUsage::Usage(CliError::Usage(message)));
        }
    }
    Ok(())
}
