//! `delete`: resources go, and with an app its instances.

use skerry_proto::registry::v1::task_spec::Work;
use skerry_proto::registry::v1::{
    DeleteGroupRequest, DeleteNodeRequest, DeleteProjectRequest, DeleteProjectWork, DeleteRoleBindingRequest,
    DeleteUserRequest,
};
use skerry_proto::scheduler::v1::{DeleteAppRequest, DeleteConfigRequest, DeleteSecretRequest};

use super::gone::Watcher;
use super::{Several, apply, task};
use crate::args::DeleteArgs;
use crate::client::{
    Client, Service, apps, bindings, configs, groups, nodes, request, request_id, secrets, users,
};
use crate::error::CliError;
use crate::files::{Named, read_all};
use crate::item::CallOrUsage;
use crate::patience::{Ended, Look, Patience};
use crate::print::{Printer, note};
use crate::projects::projects;
use crate::target::{Target, Type, parse_all};

pub(crate) async fn run(client: &Client, args: &DeleteArgs, printer: &mut Printer) -> Result<(), CliError> {
    if args.background {
        return in_background(client, args, printer).await;
    }
    let mut several = Several::default();
    let mut deleted = Vec::new();
    for (target, name) in targets(client, args)? {
        let outcome = match delete(client, &target, name).await {
            Ok(()) => {
                let said = printer.line(&format!("{target} deleted"));
                deleted.push(target);
                said
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {
                deleted.push(target);
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        several.take(outcome)?;
    }
    if args.wait {
        let patience = Patience::new(args.timeout);
        for target in deleted.iter().filter(|target| target.kind == Type::App) {
            several.take(until_gone(client, target, &patience).await)?;
        }
    }
    several.finish()
}

/// Projects, each by a task that outlives it: as soon as it is empty.
async fn in_background(client: &Client, args: &DeleteArgs, printer: &mut Printer) -> Result<(), CliError> {
    let targets = targets(client, args)?;
    if let Some((target, _)) = targets.iter().find(|(target, _)| target.kind != Type::Project) {
        return Err(CliError::Usage(format!("--background is for projects, and {target} is none")));
    }
    let mut several = Several::default();
    for (target, name) in targets {
        let project = name.rsplit('/').next().unwrap_or_default().to_owned();
        let work = Work::DeleteProject(DeleteProjectWork { project });
        let outcome = match client.create_task("projects/system", work).await {
            Ok(task) => printer.line(&format!(
                "{target} is deleted as soon as it is empty, by {}",
                task::place(client.project(), &task)
            )),
            Err(error) => Err(error.into()),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// Waits until the instances of a deleted app have stopped.
async fn until_gone(client: &Client, target: &Target, patience: &Patience) -> Result<(), CliError> {
    let mut gone = Watcher::new(target);
    let mut anew = false;
    let waited = patience.until(target, async || match client.get(target).await {
        // The instances that are there now are those of the new one.
        Ok(_) => {
            anew = true;
            Ok(Look::Met)
        }
        Err(error) if error.is_not_found() => gone.instances(client).await,
        Err(error) => Err(error.into()),
    });
    waited.await.map_err(|ended| match ended {
        Ended::Failed(error) => error,
        Ended::Over(instead) => {
            CliError::TimedOut(format!("{target} is deleted, but after {} {instead}", patience.shown()))
        }
    })?;
    if anew {
        note(&format!("{target} was created anew meanwhile: its instances were not waited for"));
    }
    Ok(())
}

/// What to delete, with full names. Those of manifests: apps before the configs that they mount, projects after all that is in them.
fn targets(client: &Client, args: &DeleteArgs) -> Result<Vec<(Target, String)>, CliError> {
    if args.files.is_empty() {
        let targets = parse_all(&args.targets)?;
        return targets
            .into_iter()
            .map(|target| target.full_name(client.project()).map(|name| (target, name)))
            .collect();
    }
    let named = Named { names: &args.files, recursive: args.recursive, compose: &args.compose };
    let manifests = read_all(named, &client.manifest_project())?;
    let mut targets: Vec<_> = manifests
        .iter()
        .map(|sourced| {
            (apply::target(&sourced.manifest.resource), sourced.manifest.resource.name().to_owned())
        })
        .collect();
    targets.sort_by_key(|(target, _)| match target.kind {
        Type::App => 0,
        Type::Cluster => 2,
        Type::Project => 3,
        _ => 1,
    });
    Ok(targets)
}

/// Deletes `name`, which `target` says in short.
pub(super) async fn delete(client: &Client, target: &Target, name: String) -> Result<(), CallOrUsage> {
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
        Type::Secret => {
            let message = DeleteSecretRequest { name, etag: String::new(), request_id: id };
            let answer = client.call(Service::Scheduler, |channel, left| {
                let message = message.clone();
                async move { secrets(channel).delete_secret(request(message, left)).await }
            });
            answer.await?;
        }
        Type::User => {
            let message = DeleteUserRequest { name, etag: String::new(), request_id: id };
            let answer = client.call(Service::Registry, |channel, left| {
                let message = message.clone();
                async move { users(channel).delete_user(request(message, left)).await }
            });
            answer.await?;
        }
        Type::Group => {
            let message = DeleteGroupRequest { name, etag: String::new(), request_id: id };
            let answer = client.call(Service::Registry, |channel, left| {
                let message = message.clone();
                async move { groups(channel).delete_group(request(message, left)).await }
            });
            answer.await?;
        }
        Type::RoleBinding => {
            let message = DeleteRoleBindingRequest { name, etag: String::new(), request_id: id };
            let answer = client.call(Service::Registry, |channel, left| {
                let message = message.clone();
                async move { bindings(channel).delete_role_binding(request(message, left)).await }
            });
            answer.await?;
        }
        Type::Grant => super::grant::delete(client, name, id).await?,
        Type::Cluster => client.delete_cluster(name, id).await?,
        Type::Task => client.delete_task(name, id).await?,
        Type::Project => {
            let message = DeleteProjectRequest { name, etag: String::new(), request_id: id };
            let answer = client.call(Service::Registry, |channel, left| {
                let message = message.clone();
                async move { projects(channel).delete_project(request(message, left)).await }
            });
            answer.await?;
        }
        Type::Instance | Type::Revision | Type::Event | Type::Gpu | Type::Allocation => {
            let message = format!("{} cannot be deleted", target.kind.plural());
            return Err(CallOrUsage::Usage(CliError::Usage(message)));
        }
    }
    Ok(())
}
