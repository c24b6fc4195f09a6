//! `describe`: one resource with all that belongs to it.

use std::collections::BTreeSet;

use skerry_manifest::nearest;
use skerry_proto::types::v1::InstanceStatus;

use super::Several;
use crate::args::DescribeArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::{Item, Query, is_below};
use crate::print::Printer;
use crate::render::rows::is_system;
use crate::render::{clusters, describe, gpus, grants, people, tasks, time};
use crate::target::{Target, Type, parse_all};

/// Most names that an error suggests.
const NEAR_MAX: usize = 5;

pub(crate) async fn run(client: &Client, args: &DescribeArgs, printer: &mut Printer) -> Result<(), CliError> {
    let targets = parse_all(&args.targets)?;
    let mut several = Several::default();
    for (index, target) in targets.iter().enumerate() {
        let outcome = match text(client, target).await {
            Ok(text) if index > 0 => printer.text(&format!("\n{text}")),
            Ok(text) => printer.text(&text),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

async fn text(client: &Client, target: &Target) -> Result<String, CliError> {
    if target.kind == Type::Gpu {
        return of_gpu(client, target).await;
    }
    let regarding = target.full_name(client.project())?;
    if target.kind == Type::Instance {
        let instance = find_instance(client, target).await?;
        let (events, _) = client.list(&Query { regarding, ..Query::all(Type::Event) }).await?;
        return Ok(describe::instance(&instance, client.project().as_str(), &events, time::now()));
    }
    Ok(match client.get(target).await? {
        Item::Node(node) => {
            let instances = Query { node: Some(target.name.clone()), ..Query::all(Type::Instance) };
            let (instances, events) = both(client, &instances, regarding).await?;
            let system = system_apps(client, &instances).await?;
            let (of_system, own): (Vec<Item>, Vec<Item>) =
                instances.into_iter().partition(|item| app_of(item).is_some_and(|app| system.contains(app)));
            describe::node(&node, (&own, &of_system), &events, time::now())
        }
        Item::App(app) => {
            let instances = Query { app: Some(target.name.clone()), ..Query::all(Type::Instance) };
            let (instances, events) = both(client, &instances, regarding).await?;
            describe::app(&app, &instances, &events, time::now())
        }
        Item::Config(config) => describe::config(&config),
        Item::Secret(secret) => describe::secret(&secret),
        Item::User(user) => {
            let mut named_by = client.list(&Query::all(Type::Group)).await?.0;
            named_by.extend(client.list(&Query::all(Type::RoleBinding)).await?.0);
            people::user(&user, &named_by)
        }
        Item::Group(group) => people::group(&group, &client.list(&Query::all(Type::RoleBinding)).await?.0),
        Item::RoleBinding(binding) => people::binding(&binding),
        Item::Grant(grant) => grants::describe(&grant, time::now()),
        Item::Project(project) => describe::project(&project),
        Item::Cluster(cluster) => clusters::describe(&cluster),
        Item::Task(task) => tasks::describe(&task),
        Item::Instance(_) | Item::Revision(_) | Item::Event(_) | Item::Gpu(_) | Item::Allocation(_) => {
            unreachable!("these are not fetched here")
        }
    })
}

/// A GPU with what is measured of it now, and what its node told about it.
async fn of_gpu(client: &Client, target: &Target) -> Result<String, CliError> {
    let Item::Gpu(gpu) = client.get(target).await? else { unreachable!("a GPU was asked for") };
    let readings = super::top::gpus::readings(client, &gpu).await;
    let (node, uuid) = gpu.name.split_once("/gpus/").unwrap_or_default();
    let query = Query { regarding: node.to_owned(), ..Query::all(Type::Event) };
    let (mut events, _) = client.list(&query).await?;
    events.retain(|event| matches!(event, Item::Event(event) if event.message.contains(uuid)));
    Ok(gpus::describe(&gpu, &readings, &events, time::now()))
}

/// The app that an instance is of.
fn app_of(item: &Item) -> Option<&str> {
    let Item::Instance(instance) = item else { return None };
    instance.instance.split('/').next()
}

/// Which of the apps that instances are of are system apps. One that is gone is none.
async fn system_apps(client: &Client, instances: &[Item]) -> Result<BTreeSet<String>, CliError> {
    let names: BTreeSet<&str> = instances.iter().filter_map(app_of).collect();
    let mut system = BTreeSet::new();
    for name in names {
        let app = client.get(&Target { kind: Type::App, name: name.to_owned() }).await;
        match app.map_err(CliError::from) {
            Ok(Item::App(app)) if is_system(&app) => {
                system.insert(name.to_owned());
            }
            Ok(_) | Err(CliError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(system)
}

/// The instance of this name; else what a name looks like, and which are near.
pub(super) async fn find_instance(client: &Client, target: &Target) -> Result<InstanceStatus, CliError> {
    let app = target.name.split('/').next().unwrap_or_default();
    Target { kind: Type::App, name: app.to_owned() }.full_name(client.project())?;
    let of_app = Query { app: Some(app.to_owned()), ..Query::all(Type::Instance) };
    let present = match client.list(&of_app).await {
        Ok((present, _)) => present,
        Err(CliError::NotFound(_)) => client.list(&Query::all(Type::Instance)).await?.0,
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for item in present {
        match item {
            Item::Instance(instance) if instance.instance == target.name => return Ok(*instance),
            Item::Instance(instance) => names.push(instance.instance),
            _ => {}
        }
    }
    Err(CliError::NotFound(no_instance(&target.name, &names)))
}

fn no_instance(name: &str, present: &[String]) -> String {
    let below: Vec<&str> =
        present.iter().filter(|other| is_below(other, name)).take(NEAR_MAX).map(String::as_str).collect();
    // `wbe` is near to `web`, of which there is web/s/n1/0.
    let depth = name.split('/').count();
    let part = |other: &'_ String| other.split('/').take(depth).collect::<Vec<_>>().join("/");
    let parts: Vec<String> = present.iter().map(part).collect();
    let near = nearest(name, parts.iter().map(String::as_str));
    let near = near.and_then(|near| present.iter().find(|other| is_below(other, near)));
    let hint = match (below.as_slice(), near) {
        ([_, ..], _) => format!("; there are {}", below.join(", ")),
        ([], Some(near)) => format!("; did you mean {near}?"),
        ([], None) => "; `skerry get instances` shows all".to_owned(),
    };
    format!("there is no instance {name:?}: names are APP/SERVICE/NODE/ORDINAL{hint}")
}

async fn both(
    client: &Client,
    instances: &Query,
    regarding: String,
) -> Result<(Vec<Item>, Vec<Item>), CliError> {
    let events = Query { regarding, ..Query::all(Type::Event) };
    Ok((client.list(instances).await?.0, client.list(&events).await?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_told_with_its_form_and_what_is_near() {
        let present = ["web/s/n1/0".to_owned(), "web/s/n2/0".to_owned()];
        assert_eq!(
            no_instance("web", &present),
            "there is no instance \"web\": names are APP/SERVICE/NODE/ORDINAL; there are web/s/n1/0, web/s/n2/0"
        );
        assert!(no_instance("web/s/n1/1", &present).ends_with("; did you mean web/s/n1/0?"));
        assert!(no_instance("wbe", &present).ends_with("; did you mean web/s/n1/0?"));
        assert!(no_instance("other", &present).ends_with("; `skerry get instances` shows all"));
    }
}
