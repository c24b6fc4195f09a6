//! `convert`: Compose files as manifests. Asks no server.

use skerry_manifest::output::{self, Value};
use skerry_manifest::{Kind, Project};
use skerry_model::ProjectName;

use crate::args::{ConvertArgs, GlobalArgs};
use crate::compose_files;
use crate::error::CliError;
use crate::print::{Printer, note};

use super::apply::target;

/// The project of names, where none is said. It is not printed then.
const ANY_PROJECT: &str = "default";

pub(crate) fn run(global: &GlobalArgs, args: &ConvertArgs, printer: &mut Printer) -> Result<(), CliError> {
    let named = global.project.as_deref();
    let project = ProjectName::parse(named.unwrap_or(ANY_PROJECT))
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let manifests = compose_files::read(&args.files, &args.compose, &Project::Required(project))?;
    for (n, sourced) in manifests.iter().enumerate() {
        let resource = &sourced.manifest.resource;
        if resource.kind() == Kind::Secret {
            note(&format!(
                "{} is printed without its values: `skerry secret set` or `skerry apply --as-app` gives it them",
                target(resource)
            ));
        }
        let mut value = output::resource(resource);
        if named.is_none() {
            without_project(&mut value);
        }
        let before = if n > 0 { "---\n" } else { "" };
        printer.text(&format!("{before}{}", value.to_yaml()))?;
    }
    Ok(())
}

/// So that the manifest goes to the project of who applies it.
fn without_project(value: &mut Value) {
    let Value::Map(entries) = value else { return };
    if let Some((_, Value::Map(metadata))) = entries.iter_mut().find(|(key, _)| key == "metadata") {
        metadata.retain(|(key, _)| key != "project");
    }
}
