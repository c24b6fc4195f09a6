//! `plan`: what applying manifests would change on each node, as the scheduler reckons it.

use skerry_manifest::Resource;
use skerry_manifest::output::other;
use skerry_proto::scheduler::v1::PlanChangeRequest;

use super::apply::{read, target};
use crate::args::{Format, PlanArgs};
use crate::client::{Client, Service, placement, request};
use crate::error::CliError;
use crate::files::Named;
use crate::print::Printer;
use crate::render;
use crate::target::{Type, parse_all};

pub(crate) async fn run(client: &Client, args: &PlanArgs, printer: &mut Printer) -> Result<(), CliError> {
    let named = Named { names: &args.files, recursive: args.recursive, compose: &args.compose };
    let manifests = if args.files.is_empty() { Vec::new() } else { read(client, named)? };
    let mut asked = PlanChangeRequest { parent: client.project().parent(), ..PlanChangeRequest::default() };
    let mut passed_over = Vec::new();
    for sourced in &manifests {
        match &sourced.manifest.resource {
            Resource::App(app) => asked.apps.push(app.as_ref().clone()),
            Resource::Config(config) => asked.configs.push(config.as_ref().clone()),
            resource => passed_over.push(target(resource).to_string()),
        }
    }
    let deleted = if args.delete.is_empty() { Vec::new() } else { parse_all(&args.delete)? };
    for target in deleted {
        if target.kind != Type::App {
            return Err(CliError::Usage(format!("--delete {target}: name apps, as app/NAME")));
        }
        asked.deleted_apps.push(target.full_name(client.project())?);
    }
    let asking = client.call(Service::Scheduler, |channel, left| {
        let asked = asked.clone();
        async move { placement(channel).plan_change(request(asked, left)).await }
    });
    let answer = asking.await?;
    let value = || other("Plan", "skerry.scheduler.v1.PlanChangeResponse", &answer);
    let text = match args.output {
        Format::Json => value().to_json_pretty() + "\n",
        Format::Yaml => value().to_yaml(),
        Format::Table | Format::Wide | Format::Name => {
            render::placement::planned(&answer, &passed_over, printer.colour())
        }
    };
    printer.text(&text)
}
