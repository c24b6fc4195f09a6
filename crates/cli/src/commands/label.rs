//! `label`: sets and removes labels of nodes, apps and configs, one key at a time.

use std::collections::BTreeMap;

use prost_types::FieldMask;
use skerry_proto::scheduler::v1::{UpdateAppRequest, UpdateConfigRequest};
use skerry_proto::types::v1::Metadata;

use super::Several;
use super::apply::update_node;
use crate::args::LabelArgs;
use crate::client::{CallError, Client, Service, apps, configs, request, request_id};
use crate::error::CliError;
use crate::item::Item;
use crate::print::Printer;
use crate::target::{Target, parse_all};

/// How often a change is made again on a resource that somebody else changed meanwhile.
const TRIES_MAX: u32 = 4;

pub(crate) async fn run(client: &Client, args: &LabelArgs, printer: &mut Printer) -> Result<(), CliError> {
    let (targets, edits) = parse(&args.words)?;
    let mut several = Several::default();
    for target in &targets {
        let outcome = match label(client, target, &edits, args.overwrite).await {
            Ok(true) => printer.line(&format!("{target} labeled")),
            Ok(false) => printer.line(&format!("{target} unchanged")),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// From key to its new value, or `None` to remove it.
type Edits = BTreeMap<String, Option<String>>;

fn parse(words: &[String]) -> Result<(Vec<Target>, Edits), CliError> {
    let is_edit = |word: &String| word.contains('=') || word.ends_with('-');
    let first = words.iter().position(is_edit).unwrap_or(words.len());
    let (targets, written) = words.split_at(first);
    let targets = parse_all(targets)?;
    let mut edits = Edits::new();
    for word in written {
        let (key, value) = match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) => (key, Some(value.to_owned())),
            (None, Some(key)) => (key, None),
            (None, None) => return Err(CliError::Usage(format!("write KEY=VALUE or KEY-, not {word:?}"))),
        };
        let value_good = value.as_deref().is_none_or(skerry_model::meta::is_label_value);
        if !skerry_model::meta::is_label_key(key) || !value_good {
            return Err(CliError::Usage(format!(
                "{word:?} is no label: keys and values are as in Kubernetes"
            )));
        }
        if edits.insert(key.to_owned(), value).is_some() {
            return Err(CliError::Usage(format!("{key:?} is given twice")));
        }
    }
    if edits.is_empty() {
        return Err(CliError::Usage("write KEY=VALUE to set a label, or KEY- to remove it".into()));
    }
    Ok((targets, edits))
}

/// Makes the edits on `labels`; answers the mask paths that changed.
fn edit(
    labels: &mut BTreeMap<String, String>,
    edits: &Edits,
    overwrite: bool,
) -> Result<Vec<String>, CliError> {
    let mut paths = Vec::new();
    for (key, value) in edits {
        let changed = match value {
            None => labels.remove(key).is_some(),
            Some(value) => match labels.insert(key.clone(), value.clone()) {
                Some(old) if old == *value => false,
                Some(old) if !overwrite => {
                    return Err(CliError::Failed(format!(
                        "label {key} is {old:?} already: --overwrite changes it"
                    )));
                }
                _ => true,
            },
        };
        if changed {
            paths.push(format!("metadata.labels.{key}"));
        }
    }
    Ok(paths)
}

/// Whether anything changed.
async fn label(client: &Client, target: &Target, edits: &Edits, overwrite: bool) -> Result<bool, CliError> {
    let mut tries = 0;
    loop {
        let mut item = client.get(target).await?;
        let Some(metadata) = metadata_of(&mut item) else {
            return Err(CliError::Usage(format!("{} have no labels", target.kind.plural())));
        };
        let paths = edit(&mut metadata.labels, edits, overwrite)?;
        if paths.is_empty() {
            return Ok(false);
        }
        tries += 1;
        match update(client, item, paths).await {
            Ok(()) => return Ok(true),
            Err(error) if error.code() == Some(tonic::Code::Aborted) && tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn metadata_of(item: &mut Item) -> Option<&mut Metadata> {
    match item {
        Item::Node(node) => node.metadata.as_mut(),
        Item::App(app) => app.metadata.as_mut(),
        Item::Config(config) => config.metadata.as_mut(),
        Item::Instance(_) | Item::Revision(_) | Item::Event(_) => None,
    }
}

async fn update(client: &Client, item: Item, paths: Vec<String>) -> Result<(), CallError> {
    if let Item::Node(node) = item {
        update_node(client, *node, paths).await?;
        return Ok(());
    }
    let update_mask = Some(FieldMask { paths });
    match item {
        Item::App(app) => {
            let message = UpdateAppRequest {
                app: Some(*app),
                update_mask,
                request_id: request_id(),
                ..Default::default()
            };
            let answer = client.call(Service::Scheduler, |channel, left| {
                let message = message.clone();
                async move { apps(channel).update_app(request(message, left)).await }
            });
            answer.await?;
        }
        Item::Config(config) => {
            let message = UpdateConfigRequest {
                config: Some(*config),
                update_mask,
                request_id: request_id(),
                ..Default::default()
            };
            let answer = client.call(Service::Scheduler, |channel, left| {
                let message = message.clone();
                async move { configs(channel).update_config(request(message, left)).await }
            });
            answer.await?;
        }
        Item::Node(_) | Item::Instance(_) | Item::Revision(_) | Item::Event(_) => {
            unreachable!("a node is updated above, and the others have no metadata")
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<String>, Edits), String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let (targets, edits) = parse(&words).map_err(|error| error.text().expect("printed"))?;
        Ok((targets.iter().map(ToString::to_string).collect(), edits))
    }

    #[test]
    fn targets_come_first_then_edits() {
        let (targets, edits) = read("node n1 n2 site=oslo old- a.b/c=").expect("valid");
        assert_eq!(targets, ["node/n1", "node/n2"]);
        let expected = [("a.b/c", Some("")), ("old", None), ("site", Some("oslo"))];
        assert_eq!(edits.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect::<Vec<_>>(), expected);
        for bad in ["node/n1", "node/n1 a", "node/n1 =x", "node/n1 a=b a-", "node/n1 a=b/c"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_value_needs_overwrite() {
        let labels = || BTreeMap::from([("site".to_owned(), "oslo".to_owned())]);
        let edits = |value: Option<&str>| Edits::from([("site".to_owned(), value.map(str::to_owned))]);
        assert!(edit(&mut labels(), &edits(Some("bergen")), false).is_err());
        assert_eq!(
            edit(&mut labels(), &edits(Some("bergen")), true).expect("allowed"),
            ["metadata.labels.site"]
        );
        assert_eq!(edit(&mut labels(), &edits(Some("oslo")), false).expect("the same"), [""; 0]);
        assert_eq!(edit(&mut labels(), &edits(None), false).expect("removed"), ["metadata.labels.site"]);
        assert_eq!(edit(&mut BTreeMap::new(), &edits(None), false).expect("not there"), [""; 0]);
    }
}
