//! `apply --prune`: apps, configs and secrets that a selector chooses and no manifest names are deleted.

use std::collections::BTreeSet;

use skerry_manifest::{Kind, Resource};
use skerry_model::Selector;

use super::Several;
use super::apply::target;
use super::delete::delete;
use crate::args::ApplyArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::files::Sourced;
use crate::item::{Item, Query};
use crate::print::Printer;
use crate::target::{Target, Type};

/// What may be pruned, as far as it is known before anything is applied.
pub(super) struct Plan {
    selector: String,
    /// What stays, as `app/hello`.
    named: BTreeSet<String>,
}

impl Plan {
    /// Refuses what would prune more than is meant.
    pub(super) fn new(client: &Client, args: &ApplyArgs, manifests: &[Sourced]) -> Result<Self, CliError> {
        let selector = match (&args.selector, args.all) {
            (Some(text), _) if !text.trim().is_empty() => text.clone(),
            (None, true) => String::new(),
            _ => {
                return Err(CliError::Usage(
                    "--prune needs -l SELECTOR, which says what may be deleted, or --all for everything in the project"
                        .into(),
                ));
            }
        };
        let parsed = Selector::parse(&selector).map_err(|error| CliError::Usage(error.to_string()))?;
        let below = format!("{}/", client.project().parent());
        let selected = |sourced: &&Sourced| {
            matches!(sourced.manifest.resource.kind(), Kind::App | Kind::Config | Kind::Secret)
        };
        for sourced in manifests.iter().filter(selected) {
            check(&sourced.manifest.resource, &selector, &parsed, &below).map_err(|message| {
                let place = sourced.manifest.positions.locate("metadata").position;
                CliError::Usage(format!("{}:{place}: {message}", sourced.file))
            })?;
        }
        let named = manifests.iter().map(|sourced| target(&sourced.manifest.resource).to_string()).collect();
        Ok(Self { selector, named })
    }

    /// Deletes what is not named, apps before the configs and secrets that they use.
    pub(super) async fn carry_out(
        &self,
        client: &Client,
        dry_run: bool,
        printer: &mut Printer,
        several: &mut Several,
    ) -> Result<(), CliError> {
        for kind in [Type::App, Type::Config, Type::Secret] {
            let query = Query { selector: self.selector.clone(), ..Query::all(kind) };
            let (items, _) = client.list(&query).await?;
            for target in self.surplus(&items) {
                several.take(prune(client, &target, dry_run, printer).await)?;
            }
        }
        Ok(())
    }

    fn surplus(&self, items: &[Item]) -> Vec<Target> {
        items.iter().map(Item::target).filter(|target| !self.named.contains(&target.to_string())).collect()
    }
}

fn check(resource: &Resource, written: &str, selector: &Selector, below: &str) -> Result<(), String> {
    let shown = target(resource);
    if !resource.name().starts_with(below) {
        return Err(format!(
            "{shown} is in another project than the one that --prune looks in: apply each project on its own, with -p"
        ));
    }
    let labels = resource.metadata().map(|metadata| metadata.labels.clone()).unwrap_or_default();
    if !selector.matches(&labels) {
        return Err(format!(
            "{shown} does not have the labels of -l {written}: it would be made, and never be pruned; add them to its metadata.labels"
        ));
    }
    Ok(())
}

async fn prune(
    client: &Client,
    target: &Target,
    dry_run: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    if dry_run {
        return printer.line(&format!("{target} pruned (dry run)"));
    }
    match delete(client, target, target.full_name(client.project())?).await {
        Ok(()) => printer.line(&format!("{target} pruned")),
        // Somebody else was faster.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use skerry_manifest::{Project, parse};
    use skerry_model::ProjectName;
    use skerry_proto::scheduler::v1::App;
    use skerry_proto::types::v1::Metadata;

    use super::*;

    fn config(labels: &str) -> Resource {
        let project = Project::Default(ProjectName::parse("p").expect("valid"));
        let text = format!(
            "apiVersion: skerry/v1\nkind: Config\nmetadata: {{name: c, labels: {labels}}}\nspec: {{data: {{a: b}}}}\n"
        );
        parse("c.yaml", text.as_bytes(), &project).expect("valid").remove(0).resource
    }

    #[test]
    fn a_manifest_that_could_never_be_pruned_is_refused() {
        let selector = Selector::parse("team=shop").expect("valid");
        let checked = |labels: &str, below: &str| check(&config(labels), "team=shop", &selector, below);
        assert_eq!(checked("{team: shop}", "projects/p/"), Ok(()));
        assert!(
            checked("{}", "projects/p/")
                .expect_err("refused")
                .contains("does not have the labels of -l team=shop")
        );
        assert!(checked("{team: shop}", "projects/q/").expect_err("refused").contains("in another project"));
    }

    #[test]
    fn what_a_manifest_names_stays() {
        let app = |name: &str| {
            let metadata = Metadata { name: format!("projects/p/apps/{name}"), ..Default::default() };
            Item::App(Box::new(App { metadata: Some(metadata), ..Default::default() }))
        };
        let plan =
            Plan { selector: String::new(), named: ["app/a".to_owned(), "config/b".to_owned()].into() };
        let surplus: Vec<String> =
            plan.surplus(&[app("a"), app("b")]).iter().map(ToString::to_string).collect();
        assert_eq!(surplus, ["app/b"], "of another kind with the same name");
    }
}
