//! `cordon` and `uncordon`: whether nodes get anything new.

use skerry_proto::registry::v1::{Node, NodeSpec};
use skerry_proto::types::v1::Metadata;

use super::Several;
use super::send::{Sending, send};
use crate::args::CordonArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::Item;
use crate::print::Printer;
use crate::target::{Target, Type};

pub(crate) async fn run(
    client: &Client,
    args: &CordonArgs,
    cordoned: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let word = if cordoned { "cordoned" } else { "uncordoned" };
    let mut several = Several::default();
    for target in targets(&args.nodes) {
        let outcome = match set(client, &target, cordoned).await {
            Ok(true) => printer.line(&format!("{target} {word}")),
            Ok(false) => printer.line(&format!("{target} already {word}")),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// Nodes by their names, as `n1`, `node/n1` or, the first of several words, `node`.
pub(super) fn targets(words: &[String]) -> Vec<Target> {
    let names = match words.split_first() {
        Some((first, rest))
            if !rest.is_empty() && Type::parse(first).is_ok_and(|kind| kind == Type::Node) =>
        {
            rest
        }
        _ => words,
    };
    names.iter().map(|name| Target::node(name)).collect()
}

/// Whether anything changed. Who gives a node work again ends its draining.
async fn set(client: &Client, target: &Target, cordoned: bool) -> Result<bool, CliError> {
    let Item::Node(present) = client.get(target).await? else { unreachable!("asked for a node") };
    let before = present.spec.unwrap_or_default();
    if before.cordoned == cordoned && (cordoned || !before.drain) {
        return Ok(false);
    }
    // No etag: whoever else changes the node meanwhile changes something else.
    let name = target.full_name(client.project())?;
    let node = Node {
        metadata: Some(Metadata { name, ..Default::default() }),
        spec: Some(NodeSpec { cordoned, ..NodeSpec::default() }),
        status: None,
    };
    let paths: &[&str] = if cordoned { &["spec.cordoned"] } else { &["spec.cordoned", "spec.drain"] };
    send(client, Item::Node(Box::new(node)), &Sending::change(paths.iter().copied())).await?;
    Ok(true)
}
