//! `events`: what happened, and what happens.

use super::get::{Style, show, watch};
use crate::args::EventsArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::Query;
use crate::print::{Printer, note};
use crate::target::{Target, Type};

pub(crate) async fn run(client: &Client, args: &EventsArgs, printer: &mut Printer) -> Result<(), CliError> {
    let regarding = match &args.regarding {
        Some(target) => Target::parse(target)?.full_name(client.project())?,
        None => String::new(),
    };
    let query = Query { regarding, ..Query::all(Type::Event) };
    let style = Style { format: args.output, headers: !args.no_headers, with_kind: false };
    if args.watch {
        return watch(client, &query, |_| true, style, printer).await;
    }
    let (events, _) = client.list(&query).await?;
    if events.is_empty() && matches!(args.output, crate::args::Format::Table | crate::args::Format::Wide) {
        note("no events");
        return Ok(());
    }
    show(&events, Type::Event, style, false, printer)
}
