//! Writes a tree as YAML: block style, literal blocks for text of several lines, quotes only where a reader could take a text for
//! something else (YAML 1.1 readers too: `no`, `1_000` and dates are quoted).

use super::Value;
use crate::tree::{ScalarKind, plain_kind};

/// `value` as one document, ending with a newline.
pub(super) fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Map(entries) if !entries.is_empty() => map(&mut out, entries, 0),
        Value::List(items) if !items.is_empty() => list(&mut out, items, 0),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

/// The entries, the first where the cursor stands (`depth` is where the others begin).
fn map(out: &mut String, entries: &[(String, Value)], depth: usize) {
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 {
            indent(out, depth);
        }
        if plain(key) {
            out.push_str(key);
        } else {
            quoted(out, key);
        }
        out.push(':');
        match value {
            Value::Map(inner) if !inner.is_empty() => {
                out.push('\n');
                indent(out, depth + 1);
                map(out, inner, depth + 1);
            }
            Value::List(items) if !items.is_empty() => {
                out.push('\n');
                indent(out, depth + 1);
                list(out, items, depth + 1);
            }
            other => {
                out.push(' ');
                scalar(out, other, depth + 1);
                out.push('\n');
            }
        }
    }
}

fn list(out: &mut String, items: &[Value], depth: usize) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            indent(out, depth);
        }
        out.push_str("- ");
        match item {
            Value::Map(entries) if !entries.is_empty() => map(out, entries, depth + 1),
            Value::List(inner) if !inner.is_empty() => list(out, inner, depth + 1),
            other => {
                scalar(out, other, depth + 1);
                out.push('\n');
            }
        }
    }
}

/// A scalar or an empty collection, without the newline after it; a literal block is written at `depth`.
fn scalar(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(text) | Value::Long(text) => out.push_str(text),
        Value::List(_) => out.push_str("[]"),
        Value::Map(_) => out.push_str("{}"),
        Value::String(text) if plain(text) => out.push_str(text),
        Value::String(text) if fits_literal(text) => literal(out, text, depth),
        Value::String(text) => quoted(out, text),
    }
}

/// Words that YAML 1.1 takes for something other than a text.
const WORDS: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];

/// Whether `text` without quotes is read back as itself, by any reader.
fn plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let inner = |c: char| c.is_ascii_alphanumeric() || "_-./@+,=%:$()^~ ".contains(c);
    let safe_start = first.is_ascii_alphanumeric() || matches!(first, '/' | '_' | '$' | '.' | '(');
    if !safe_start || !text.chars().all(inner) || text.ends_with([' ', ':']) || text.contains(": ") {
        return false;
    }
    if WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)) || plain_kind(text) != ScalarKind::Text {
        return false;
    }
    // Numbers, dates and base-60 of YAML 1.1 begin with a digit or a point and have none of these letters.
    let numeric_start = first.is_ascii_digit() || first == '.';
    !numeric_start
        || (!text.contains(':')
            && text
                .chars()
                .any(|c| matches!(c, 'g'..='n' | 'p'..='s' | 'u'..='w' | 'y' | 'z' | 'M' | 'G' | 'K')))
}

/// Whether a literal block holds `text` exactly.
fn fits_literal(text: &str) -> bool {
    let printable = |c: char| {
        c == '\n'
            || c == '\t'
            || (' '..='~').contains(&c)
            || ('\u{a0}'..='\u{d7ff}').contains(&c) && !matches!(c, '\u{2028}' | '\u{2029}')
    };
    text.contains('\n')
        && text.chars().all(printable)
        && !text.starts_with([' ', '\n', '\t'])
        && text.lines().all(|line| line.is_empty() || !line.trim().is_empty())
}

fn literal(out: &mut String, text: &str, depth: usize) {
    let body = text.strip_suffix('\n');
    out.push_str(match body {
        None => "|-",
        Some(body) if body.ends_with('\n') => "|+",
        Some(_) => "|",
    });
    for line in body.unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth);
            out.push_str(line);
        }
    }
}

fn quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match (c, u32::from(c)) {
            ('"', _) => out.push_str("\\\""),
            ('\\', _) => out.push_str("\\\\"),
            ('\n', _) => out.push_str("\\n"),
            ('\r', _) => out.push_str("\\r"),
            ('\t', _) => out.push_str("\\t"),
            (' '..='~' | '\u{a1}'..='\u{2027}' | '\u{2030}'..='\u{d7ff}', _) => out.push(c),
            (_, code @ ..=0xff) => out.push_str(&escape('x', 2, code)),
            (_, code @ ..=0xffff) => out.push_str(&escape('u', 4, code)),
            (_, code) => out.push_str(&escape('U', 8, code)),
        }
    }
    out.push('"');
}

fn escape(letter: char, digits: usize, code: u32) -> String {
    format!("\\{letter}{code:0digits$x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn yaml_is_as_a_person_would_write_it() {
        let value = Value::Map(vec![
            ("kind".into(), string("App")),
            ("empty".into(), Value::Map(vec![])),
            (
                "services".into(),
                Value::List(vec![
                    Value::Map(vec![
                        ("name".into(), string("web")),
                        ("args".into(), Value::List(vec![string("-p"), string("80")])),
                    ]),
                    Value::Map(vec![
                        ("memoryBytes".into(), Value::Long("512".into())),
                        ("flag".into(), Value::Bool(true)),
                    ]),
                ]),
            ),
            (
                "data".into(),
                Value::Map(vec![("a.conf".into(), string("one\n  two\n")), ("b".into(), string("x\ny"))]),
            ),
        ]);
        let text = "kind: App\nempty: {}\nservices:\n  - name: web\n    args:\n      - \"-p\"\n      - \"80\"\n  - memoryBytes: 512\n    \
                    flag: true\ndata:\n  a.conf: |\n    one\n      two\n  b: |-\n    x\n    y\n";
        assert_eq!(write(&value), text);
    }

    #[test]
    fn what_could_be_mistaken_is_quoted() {
        for text in [
            "",
            "no",
            "Yes",
            "null",
            "1.5",
            "0x1f",
            "12:30",
            "2026-01-02",
            "1_000",
            "a: b",
            "a #b",
            "- a",
            "~",
            "x:",
            " x",
            "é",
            "1e3",
            "*a",
        ] {
            assert!(!plain(text), "{text:?}");
        }
        for text in [
            "hello",
            "512Mi",
            "nginx:1.27",
            "/bin/sh",
            "a b",
            "30s",
            "ghcr.io/x/y:v1@sha256",
            "$HOME",
            "500m",
        ] {
            assert!(plain(text), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "([ -~]|\\PC|\n|\t|[\u{0}-\u{ff}]){0,60}", key in "([ -~]|\\PC|\n){0,20}") {
            let value = Value::Map(vec![("list".into(), Value::List(vec![Value::Map(vec![(key.clone(), string(&text)), ("x".repeat(21), string("after"))])]))]);
            let written = write(&value);
            let project = crate::Project::Default(skerry_model::ProjectName::parse("p").expect("valid"));
            let _ = crate::parse("f", written.as_bytes(), &project);
            let mut errors = crate::error::ErrorSink::new("f");
            let documents = crate::yaml::read(&written, 2, &mut errors);
            prop_assert!(errors.count() == 0, "{written}");
            let crate::tree::Content::Map(top) = &documents[0].content else { panic!("{written}") };
            let crate::tree::Content::List(items) = &top[0].value.content else { panic!("{written}") };
            let crate::tree::Content::Map(entries) = &items[0].content else { panic!("{written}") };
            prop_assert_eq!(&*entries[0].key, key.as_str());
            let crate::tree::Content::Scalar(scalar) = &entries[0].value.content else { panic!("{written}") };
            prop_assert_eq!(&scalar.text, &text, "{}", written);
            prop_assert_eq!(scalar.kind, ScalarKind::Text);
            prop_assert_eq!(entries.len(), 2);
        }
    }
}
