//! `version`: of this program. Servers tell theirs in no call yet; a node's agent is in `get nodes`.

use skerry_manifest::output::Value;

use crate::args::{Format, VersionArgs};
use crate::error::CliError;
use crate::print::Printer;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(args: &VersionArgs, printer: &mut Printer) -> Result<(), CliError> {
    printer.text(&text(args.output))
}

fn text(format: Format) -> String {
    let value = Value::Map(vec![(
        "client".into(),
        Value::Map(vec![("version".into(), Value::String(VERSION.into()))]),
    )]);
    match format {
        Format::Json => value.to_json_pretty() + "\n",
        Format::Yaml => value.to_yaml(),
        Format::Table | Format::Wide | Format::Name => format!("skerry {VERSION}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_one_line_or_an_object() {
        assert_eq!(text(Format::Table), format!("skerry {VERSION}\n"));
        assert_eq!(text(Format::Yaml), format!("client:\n  version: \"{VERSION}\"\n"));
    }
}
