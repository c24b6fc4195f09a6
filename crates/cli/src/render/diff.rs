//! What would change, as a unified diff of YAML.

use similar::TextDiff;
use skerry_manifest::output::Value;

use crate::item::Item;
use crate::render::colour;

/// Metadata that the server sets: in a diff and in an editor it would be noise.
const SERVER_SET: [&str; 4] = ["uid", "createTime", "generation", "etag"];
/// Lines around each change.
const CONTEXT: usize = 3;

/// What of an item is its owner's, as YAML that can be applied.
pub(crate) fn of_owner(item: &Item) -> String {
    let Value::Map(entries) = item.value() else { return String::new() };
    let owned = entries.into_iter().filter(|(key, _)| key != "status").map(|(key, value)| match value {
        Value::Map(fields) if key == "metadata" => {
            let fields = fields.into_iter().filter(|(key, _)| !SERVER_SET.contains(&key.as_str()));
            (key, Value::Map(fields.collect()))
        }
        value => (key, value),
    });
    Value::Map(owned.collect()).to_yaml()
}

/// The differences of two texts, empty when there are none. `name` heads them.
pub(crate) fn unified(name: &str, before: &str, after: &str, in_colour: bool) -> String {
    if before == after {
        return String::new();
    }
    let diff = TextDiff::from_lines(before, after);
    let (old, new) = (format!("{name} (there)"), format!("{name} (applied)"));
    let text = diff.unified_diff().context_radius(CONTEXT).header(&old, &new).to_string();
    if in_colour { text.split_inclusive('\n').map(colour::diff_line).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::{Node, NodeSpec};
    use skerry_proto::types::v1::Metadata;

    use super::*;

    #[test]
    fn only_what_an_owner_says_is_compared() {
        let node = |etag: &str, cordoned| {
            let metadata = Metadata {
                name: "projects/p/nodes/n1".into(),
                etag: etag.into(),
                generation: 3,
                uid: "u".into(),
                ..Default::default()
            };
            of_owner(&Item::Node(Box::new(Node {
                metadata: Some(metadata),
                spec: Some(NodeSpec { cordoned, ..NodeSpec::default() }),
                status: Some(skerry_proto::registry::v1::NodeStatus::default()),
            })))
        };
        assert_eq!(node("1", true), node("2", true));
        assert_eq!(unified("node/n1", &node("1", true), &node("2", true), false), "");
        assert_eq!(
            unified("node/n1", "", "a\n", false),
            "--- node/n1 (there)\n+++ node/n1 (applied)\n@@ -0,0 +1 @@\n+a\n"
        );
        assert!(unified("n", "a\n", "b\n", true).contains("\x1b[31m-a\x1b[0m\n\x1b[32m+b\x1b[0m\n"));
    }
}
