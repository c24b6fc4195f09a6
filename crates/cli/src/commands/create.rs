//! `create`: a resource without a manifest.

use skerry_model::quantity::parse_bytes;
use skerry_model::time::to_proto_duration;
use skerry_model::{ClusterRef, ProjectRef};
use skerry_proto::registry::v1::{
    Cluster, ClusterSpec, CreateProjectRequest, Project, ProjectQuota, ProjectSpec,
};
use skerry_proto::types::v1::Metadata;

use crate::args::{CreateClusterArgs, CreateCommand, CreateProjectArgs};
use crate::client::{Client, Service, request, request_id};
use crate::error::CliError;
use crate::print::Printer;
use crate::projects::projects;

pub(crate) async fn run(
    client: &Client,
    command: &CreateCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        CreateCommand::Project(args) => project(client, args, printer).await,
        CreateCommand::Cluster(args) => cluster(client, args, printer).await,
    }
}

async fn cluster(client: &Client, args: &CreateClusterArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = ClusterRef::parse_in(client.project(), &args.name)
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let labels = args.labels.iter().cloned().collect();
    let metadata = Metadata { name: name.to_string(), labels, ..Metadata::default() };
    let spec = ClusterSpec { failover_after: args.failover_after.map(to_proto_duration) };
    client.create_cluster(Cluster { metadata: Some(metadata), spec: Some(spec), status: None }).await?;
    printer.line(&format!("cluster/{} created", name.cluster))
}

async fn project(client: &Client, args: &CreateProjectArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = ProjectRef::parse_short(&args.name).map_err(|error| CliError::Usage(error.to_string()))?;
    let quota = quota(&args.quota).map_err(|why| CliError::Usage(format!("--quota: {why}")))?;
    let spec = ProjectSpec { description: args.description.clone(), quota };
    let metadata = Metadata { name: name.to_string(), ..Metadata::default() };
    let message = CreateProjectRequest {
        project: Some(Project { metadata: Some(metadata), spec: Some(spec), status: None }),
        request_id: request_id(),
        validate_only: false,
    };
    let creating = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { projects(channel).create_project(request(message, left)).await }
    });
    creating.await?;
    printer.line(&format!("project/{} created", name.project))
}

/// `nodes=10`, `size=64Mi`, each at most once; none of them: no quota.
fn quota(words: &[String]) -> Result<Option<ProjectQuota>, String> {
    let mut quota = ProjectQuota::default();
    for word in words {
        let known = "use nodes, apps, secrets, configs or size, as nodes=10,size=64Mi";
        let (what, limit) = word.split_once('=').ok_or_else(|| format!("{word:?} is no limit: {known}"))?;
        let field = match what {
            "nodes" => &mut quota.nodes,
            "apps" => &mut quota.apps,
            "secrets" => &mut quota.secrets,
            "configs" => &mut quota.configs,
            "size" => &mut quota.size_bytes,
            _ => return Err(format!("there is no limit of {what:?}: {known}")),
        };
        let limit = if what == "size" {
            parse_bytes(limit).map_err(|error| error.to_string())?
        } else {
            limit
                .parse()
                .ok()
                .filter(|limit| *limit >= 0)
                .ok_or_else(|| format!("{what}={limit}: write a whole number, 0 for none"))?
        };
        if field.replace(limit).is_some() {
            return Err(format!("{what} is limited twice"));
        }
    }
    Ok((!words.is_empty()).then_some(quota))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<ProjectQuota>, String> {
        let words: Vec<String> = text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        quota(&words)
    }

    #[test]
    fn limits_are_read_as_people_write_them_and_what_is_no_limit_is_refused() {
        let quota = ProjectQuota { nodes: Some(0), size_bytes: Some(64 << 20), ..Default::default() };
        assert_eq!(read("nodes=0,size=64Mi"), Ok(Some(quota)));
        assert_eq!(read(""), Ok(None));
        for (text, why) in [
            ("pods=1", "there is no limit of \"pods\""),
            ("nodes", "\"nodes\" is no limit"),
            ("nodes=-1", "nodes=-1: write a whole number"),
            ("size=much", "much"),
            ("apps=1,apps=2", "apps is limited twice"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
