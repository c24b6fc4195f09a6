//! Text from resources: tables, descriptions, lists in JSON and YAML. Pure: no clock, no terminal, no server.

mod allocations;
pub(crate) mod bar;
pub(crate) mod clusters;
mod colour;
pub(crate) mod describe;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod gpu_sample;
pub(crate) mod gpus;
pub(crate) mod grants;
mod jobs;
pub(crate) mod logs;
pub(crate) mod people;
pub(crate) mod placement;
pub(crate) mod rows;
pub(crate) mod table;
pub(crate) mod tasks;
pub(crate) mod time;
pub(crate) mod top;
pub(crate) mod top_gpus;

use skerry_manifest::output;

use crate::args::Format;
use crate::item::{ChangeKind, Item, Query};
use crate::target::Target;

/// Items as one document. `single`: one item was asked for by name, so no `List` around it.
pub(crate) fn value(items: &[Item], single: bool) -> output::Value {
    match items {
        [one] if single => one.value(),
        items => output::list(items.iter().map(Item::value).collect()),
    }
}

/// Items in a format that is no table. `single`: one item was asked for by name, so no `List` around it.
pub(crate) fn items(items: &[Item], format: Format, single: bool) -> String {
    match format {
        Format::Json => value(items, single).to_json_pretty() + "\n",
        Format::Yaml => value(items, single).to_yaml(),
        Format::Name | Format::Table | Format::Wide => lines(items.iter().map(Item::target)),
    }
}

fn lines(targets: impl Iterator<Item = Target>) -> String {
    targets.fold(String::new(), |text, target| text + &target.to_string() + "\n")
}

/// One change of a watch in a format that is no table: JSON in one line, YAML as a document of a stream.
pub(crate) fn change(kind: ChangeKind, item: &Item, format: Format, with_kind: bool) -> String {
    let value = if with_kind {
        output::Value::Map(vec![
            ("type".into(), output::Value::String(kind.as_str().into())),
            ("object".into(), item.value()),
        ])
    } else {
        item.value()
    };
    match format {
        Format::Json => value.to_json() + "\n",
        Format::Yaml => format!("---\n{}", value.to_yaml()),
        Format::Name | Format::Table | Format::Wide => format!("{}\n", item.target()),
    }
}

/// What is said when there is nothing to show.
pub(crate) fn nothing(query: &Query, project: &str) -> String {
    let named = query.node.is_some() || query.app.is_some() || !query.below.is_empty();
    let narrowed = named || !query.selector.is_empty();
    let what = query.kind.plural();
    if narrowed {
        format!("no {what} in project {project} that match")
    } else {
        format!("no {what} in project {project}")
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::{Node, NodeSpec};
    use skerry_proto::types::v1::Metadata;

    use super::*;

    fn node() -> Item {
        let metadata = Some(Metadata { name: "projects/p/nodes/n1".into(), ..Default::default() });
        Item::Node(Box::new(Node {
            metadata,
            spec: Some(NodeSpec { cordoned: true, ..NodeSpec::default() }),
            status: None,
        }))
    }

    #[test]
    fn one_by_name_is_itself_and_several_are_a_list() {
        let one = "apiVersion: skerry/v1\nkind: Node\nmetadata:\n  name: n1\n  project: p\nspec:\n  cordoned: true\n";
        assert_eq!(items(&[node()], Format::Yaml, true), one);
        assert_eq!(
            items(&[node()], Format::Yaml, false),
            "apiVersion: skerry/v1\nkind: List\nitems:\n  - apiVersion: skerry/v1\n    kind: Node\n    metadata:\n      name: n1\n      \
             project: p\n    spec:\n      cordoned: true\n"
        );
        assert_eq!(
            items(&[], Format::Json, false),
            "{\n  \"apiVersion\": \"skerry/v1\",\n  \"kind\": \"List\",\n  \"items\": []\n}\n"
        );
        assert_eq!(items(&[node(), node()], Format::Name, false), "node/n1\nnode/n1\n");
    }

    #[test]
    fn a_change_is_one_line_of_json() {
        let object = r#"{"apiVersion":"skerry/v1","kind":"Node","metadata":{"name":"n1","project":"p"},"spec":{"cordoned":true}}"#;
        assert_eq!(change(ChangeKind::Deleted, &node(), Format::Json, false), format!("{object}\n"));
        assert_eq!(
            change(ChangeKind::Deleted, &node(), Format::Json, true),
            format!("{{\"type\":\"DELETED\",\"object\":{object}}}\n")
        );
    }
}
