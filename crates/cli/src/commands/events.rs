//! `events`: what happened, and what happens.

use super::describe::find_instance;
use super::get::{Style, show, watch};
use crate::args::EventsArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::Query;
use crate::print::{Printer, note};
use crate::target::{Target, Type};

pub(crate) async fn run(client: &Client, args: &EventsArgs, printer: &mut Printer) -> Result<(), CliError> {
    let target = args.regarding.as_deref().map(Target::parse).transpose()?;
    let regarding = match &target {
        Some(target) => target.full_name(client.project())?,
        None => String::new(),
    };
    let query = Query { regarding, ..Query::all(Type::Event) };
    let style = Style { format: args.output, template: None, headers: !args.no_headers, with_kind: false };
    if args.watch {
        return watch(client, &query, |_| true, style, printer).await;
    }
    let (events, _) = client.list(&query).await?;
    // What is deleted may have left events; what never was has none, and is most likely a slip.
    if let Some(target) = target.filter(|_| events.is_empty()) {
        exists(client, &target).await?;
    }
    if events.is_empty() && matches!(args.output, crate::args::Format::Table | crate::args::Format::Wide) {
        note("no events");
        return Ok(());
    }
    show(&events, Type::Event, style, false, printer)
}

/// Fails where there is no such resource.
async fn exists(client: &Client, target: &Target) -> Result<(), CliError> {
    if target.kind == Type::Instance {
        return find_instance(client, target).await.map(drop);
    }
    match client.get(target).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => {
            Err(CliError::NotFound(format!("{target} does not exist, and there are no events of it")))
        }
        Err(error) => Err(error.into()),
    }
}
