//! The documentation of a field as text, in the form that `kubectl explain` has.

use std::fmt::Write as _;

use skerry_manifest::API_VERSION;
use skerry_manifest::explain::{Explained, FieldDoc};

/// Lines are broken before this column where no terminal says another.
const WIDTH: usize = 100;
/// However narrow a terminal is, text has so much room.
const TEXT_MIN: usize = 24;
const INDENT: &str = "    ";

/// The text for a terminal of `width` columns, if it is one. `recursive`: names and types of all that is below, without their texts.
pub(crate) fn text(explained: &Explained, recursive: bool, width: Option<usize>) -> String {
    let width = width.unwrap_or(WIDTH).min(WIDTH);
    let mut out = format!("KIND:     {}\nVERSION:  {API_VERSION}\n\n", explained.kind);
    if let Some(field) = &explained.field {
        write!(out, "FIELD: {} <{}>\n\n", field.name, field.of).expect("writing to a string");
    }
    out.push_str("DESCRIPTION:\n");
    paragraphs(&mut out, &explained.text, INDENT, width);
    if let Some(others) = explained.field.as_ref().and_then(exclusion) {
        paragraphs(&mut out, &others, INDENT, width);
    }
    if !explained.values.is_empty() {
        out.push_str("\nVALUES:\n");
        for (word, meaning) in &explained.values {
            writeln!(out, "  {word}").expect("writing to a string");
            paragraphs(&mut out, meaning, INDENT, width);
        }
    }
    if !explained.fields.is_empty() {
        out.push_str("\nFIELDS:\n");
        for field in &explained.fields {
            if recursive {
                tree(&mut out, field, 1);
            } else {
                writeln!(out, "  {}\t<{}>", field.name, field.of).expect("writing to a string");
                paragraphs(&mut out, &field.text, INDENT, width);
                if let Some(others) = exclusion(field) {
                    paragraphs(&mut out, &others, INDENT, width);
                }
                out.push('\n');
            }
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// The kinds, each with the first sentence about it.
pub(crate) fn kinds(all: impl Iterator<Item = Explained>) -> String {
    let mut out = String::new();
    for kind in all {
        let sentence = kind.text.split(". ").next().unwrap_or_default().trim_end_matches('.');
        writeln!(out, "{:<12} {}", kind.kind.to_ascii_lowercase(), sentence.replace('\n', " "))
            .expect("writing to a string");
    }
    out
}

fn exclusion(field: &FieldDoc) -> Option<String> {
    (!field.excludes.is_empty()).then(|| format!("Excludes {}.", field.excludes.join(", ")))
}

fn tree(out: &mut String, field: &FieldDoc, depth: usize) {
    writeln!(out, "{}{}\t<{}>", "  ".repeat(depth), field.name, field.of).expect("writing to a string");
    for inner in &field.fields {
        tree(out, inner, depth + 1);
    }
}

/// Breaks text between words.
fn paragraphs(out: &mut String, text: &str, indent: &str, width: usize) {
    let room = width.saturating_sub(indent.len()).max(TEXT_MIN);
    for (index, paragraph) in text.split("\n\n").enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                writeln!(out, "{indent}{line}").expect("writing to a string");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            writeln!(out, "{indent}{line}").expect("writing to a string");
        }
    }
}

#[cfg(test)]
mod tests {
    use skerry_manifest::explain::explain;

    use super::*;

    #[test]
    fn a_field_is_told_with_its_type_and_what_it_excludes() {
        let port = text(&explain("app.spec.services.container.ports.hostPort").expect("known"), false, None);
        assert_eq!(
            port,
            "KIND:     App\nVERSION:  skerry/v1\n\nFIELD: hostPort <integer>\n\nDESCRIPTION:\n    Port on the machine: 1 to \
             65535. Absent: the same as `containerPort`. A node has each once:\n    \
             copies of a Deployment that publish one are on as many members of their cluster, and those that\n    \
             find none wait.\n"
        );
        let container = text(&explain("app.spec.services.container").expect("known"), false, Some(60));
        assert!(container.contains("    Excludes process.\n"), "{container}");
        assert!(container.contains("\n  image\t<string>\n    Image reference, as for"), "{container}");
        assert!(container.lines().all(|line| line.chars().count() <= 100));
        let policy = text(&explain("app.spec.services.restart.policy").expect("known"), false, None);
        assert!(policy.contains("VALUES:\n  always\n    Whatever its exit code.\n"), "{policy}");
    }

    #[test]
    fn all_below_a_field_is_one_line_each() {
        let all = text(&explain("app.spec").expect("known"), true, None);
        assert!(all.contains("  services\t<list of ServiceSpec>\n    name\t<string>\n"), "{all}");
        assert!(all.contains("\n        hostPort\t<integer>\n"), "{all}");
        assert!(!all.contains("Port on the machine"));
    }
}
