//! `explain`: what the fields of a kind mean. Asks no server.

use skerry_manifest::explain::explain;

use crate::args::ExplainArgs;
use crate::error::CliError;
use crate::print::Printer;
use crate::render;

pub(crate) fn run(args: &ExplainArgs, printer: &mut Printer) -> Result<(), CliError> {
    if args.path.contains('/') {
        return Err(CliError::Usage(format!(
            "{:?} is a resource, and kinds are explained: `skerry explain app.spec`; `skerry describe {}` shows it with the reasons of what is pending",
            args.path, args.path
        )));
    }
    let explained = explain(&args.path).map_err(CliError::Usage)?;
    printer.text(&render::explain::text(&explained, args.recursive, printer.width()))
}
