//! `explain`: what the fields of a kind mean. Asks no server.

use skerry_manifest::explain::{explain, kinds};

use crate::args::ExplainArgs;
use crate::error::CliError;
use crate::print::Printer;
use crate::render;

pub(crate) fn run(args: &ExplainArgs, printer: &mut Printer) -> Result<(), CliError> {
    let Some(path) = &args.path else {
        return printer.text(&render::explain::kinds(kinds().filter_map(|kind| explain(kind).ok())));
    };
    if path.contains('/') {
        return Err(CliError::Usage(format!(
            "{path:?} is a resource, and kinds are explained: `skerry explain app.spec`; `skerry describe {path}` shows it with the reasons of what is pending"
        )));
    }
    let explained = explain(path).map_err(CliError::Usage)?;
    printer.text(&render::explain::text(&explained, args.recursive, printer.width()))
}
