//! `diff`: what `apply` would change, as the server says.

use skerry_manifest::Resource;
use skerry_proto::scheduler::v1::update_app_response::Outcome;

use super::Several;
use super::apply::{apply, full_target, in_manifest, read, target};
use super::send::{Sending, item_of, send};
use crate::args::DiffArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::files::{Named, Sourced};
use crate::item::CallOrUsage;
use crate::print::Printer;
use crate::render::diff::{of_owner, unified};

pub(crate) async fn run(client: &Client, args: &DiffArgs, printer: &mut Printer) -> Result<(), CliError> {
    match differ(client, args, printer).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(CliError::Differences),
        Err(error) => Err(CliError::OfDiff(Box::new(error))),
    }
}

/// Whether anything would change. All manifests are looked at, whatever one of them brings.
async fn differ(client: &Client, args: &DiffArgs, printer: &mut Printer) -> Result<bool, CliError> {
    let mut several = Several::default();
    let mut differences = false;
    for sourced in
        read(client, Named { names: &args.files, recursive: args.recursive, compose: &args.compose })?
    {
        let outcome = match of_one(client, &sourced, printer.colour()).await {
            Ok(text) => {
                differences |= !text.is_empty();
                printer.text(&text)
            }
            Err(error) => Err(in_manifest(error, &sourced)),
        };
        several.take(outcome)?;
    }
    several.finish()?;
    Ok(differences)
}

async fn of_one(client: &Client, sourced: &Sourced, colour: bool) -> Result<String, CallOrUsage> {
    let resource = &sourced.manifest.resource;
    let before = match client.get(&full_target(resource)).await {
        Ok(item) => of_owner(&item),
        Err(error) if error.is_not_found() => String::new(),
        Err(error) => return Err(error),
    };
    let (after, _) = apply(client, &sourced.manifest, true).await?;
    let mut difference = unified(&target(resource).to_string(), &before, &of_owner(&after), colour);
    if !before.is_empty() && values_change(client, resource).await? {
        difference += &target(resource).to_string();
        difference += ": its values change, which are not shown\n";
    }
    Ok(difference)
}

/// Whether a secret that is there would have other values. They are shown nowhere, so that only the server knows: it is asked of them alone.
async fn values_change(client: &Client, resource: &Resource) -> Result<bool, CallOrUsage> {
    if !matches!(resource, Resource::Secret(_)) {
        return Ok(false);
    }
    let how = Sending { dry_run: true, ..Sending::change(["spec"]) };
    let (_, outcome) = send(client, item_of(resource), &how).await?;
    Ok(outcome == Outcome::Updated)
}
