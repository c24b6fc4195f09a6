//! `describe`: one resource with all that belongs to it.

use super::Several;
use crate::args::DescribeArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::{Item, Query};
use crate::print::Printer;
use crate::render::{describe, time};
use crate::target::{Target, Type, parse_all};

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
    let regarding = target.full_name(client.project())?;
    Ok(match client.get(target).await? {
        Item::Node(node) => {
            let instances = Query { node: Some(target.name.clone()), ..Query::all(Type::Instance) };
            let (instances, events) = both(client, &instances, regarding).await?;
            describe::node(&node, &instances, &events, time::now())
        }
        Item::App(app) => {
            let instances = Query { app: Some(target.name.clone()), ..Query::all(Type::Instance) };
            let (instances, events) = both(client, &instances, regarding).await?;
            describe::app(&app, &instances, &events, time::now())
        }
        Item::Config(config) => describe::config(&config),
        Item::Instance(_) | Item::Revision(_) | Item::Event(_) => {
            unreachable!("these are not fetched by name")
        }
    })
}

async fn both(
    client: &Client,
    instances: &Query,
    regarding: String,
) -> Result<(Vec<Item>, Vec<Item>), CliError> {
    let events = Query { regarding, ..Query::all(Type::Event) };
    Ok((client.list(instances).await?.0, client.list(&events).await?.0))
}
