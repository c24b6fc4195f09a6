//! What a template finds in a document. The document is a tree of a bounded message, so recursion is as deep as the message nests.

use std::cmp::Ordering;

use skerry_manifest::output::Value;

use super::{Compare, Condition, Operand, Part, Path, Pick, Step};

pub(super) fn render(parts: &[Part], root: &Value, here: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(path) => {
                let found: Vec<String> = find(path, root, here).into_iter().map(text).collect();
                out.push_str(&found.join(" "));
            }
            Part::Range(path, inside) => {
                for item in find(path, root, here) {
                    render(inside, root, item, out);
                }
            }
        }
    }
}

/// A value as people see it: texts without quotes, lists and mappings as JSON.
fn text(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Number(text) | Value::Long(text) | Value::String(text) => text.clone(),
        Value::List(_) | Value::Map(_) => value.to_json(),
    }
}

fn find<'v>(path: &Path, root: &'v Value, here: &'v Value) -> Vec<&'v Value> {
    let mut found = vec![if path.from_root { root } else { here }];
    for step in &path.steps {
        found = found.into_iter().flat_map(|value| take(step, root, value)).collect();
    }
    found
}

fn take<'v>(step: &Step, root: &'v Value, value: &'v Value) -> Vec<&'v Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::All => children(value),
        Step::Below => below(value),
        Step::Union(picks) => picks.iter().filter_map(|pick| picked(pick, value)).collect(),
        Step::Slice(from, to, by) => match value {
            Value::List(items) => {
                let bound = |index: i64| place(index, items.len()).min(items.len());
                let (from, to) = (from.map_or(0, bound), to.map_or(items.len(), bound));
                items.get(from..to.max(from)).unwrap_or_default().iter().step_by(*by).collect()
            }
            _ => vec![],
        },
        Step::Filter(any) => {
            let passes = |item: &&Value| any.iter().any(|all| all.iter().all(|one| passes(one, root, item)));
            children(value).into_iter().filter(passes).collect()
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::List(items) => items.iter().collect(),
        Value::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
        _ => vec![],
    }
}

fn below(value: &Value) -> Vec<&Value> {
    let mut all = vec![value];
    for child in children(value) {
        all.extend(below(child));
    }
    all
}

/// An index from the start, where negative ones count from the end.
fn place(index: i64, length: usize) -> usize {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let from_start = if index < 0 { index.saturating_add(length).max(0) } else { index };
    usize::try_from(from_start).unwrap_or(usize::MAX)
}

fn picked<'v>(pick: &Pick, value: &'v Value) -> Option<&'v Value> {
    match (pick, value) {
        // A quoted name with dots is a path too, as kubectl has it, unless there is such a name.
        (Pick::Name(name), value) => value.get(name).or_else(|| name.split('.').try_fold(value, Value::get)),
        (Pick::Index(index), Value::List(items)) => {
            let missing = *index < 0 && index.unsigned_abs() > items.len() as u64;
            items.get(place(*index, items.len())).filter(|_| !missing)
        }
        (Pick::Index(_), _) => None,
    }
}

fn passes(condition: &Condition, root: &Value, item: &Value) -> bool {
    let values = |operand: &Operand| -> Vec<Compared> {
        match operand {
            Operand::Text(text) => vec![Compared { text: text.clone(), is_text: true }],
            Operand::Literal(text) => vec![Compared { text: text.clone(), is_text: false }],
            Operand::Path(path) => find(path, root, item).into_iter().map(Compared::of).collect(),
        }
    };
    let left = values(&condition.left);
    let Some((compare, right)) = &condition.right else { return !left.is_empty() };
    let right = values(right);
    left.iter().any(|left| right.iter().any(|right| holds(*compare, left, right)))
}

/// One side of a comparison.
struct Compared {
    text: String,
    /// It is compared as it is written, even where it looks like a number: version "1.10" is not 1.1.
    is_text: bool,
}

impl Compared {
    fn of(value: &Value) -> Self {
        let is_text = match value {
            Value::String(_) | Value::List(_) | Value::Map(_) => true,
            Value::Bool(_) | Value::Number(_) | Value::Long(_) => false,
        };
        Self { text: text(value), is_text }
    }
}

fn holds(compare: Compare, left: &Compared, right: &Compared) -> bool {
    let number = |side: &Compared| side.text.parse::<f64>().ok().filter(|_| !left.is_text && !right.is_text);
    let order = match (number(left), number(right)) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => Some(left.text.cmp(&right.text)),
    };
    match compare {
        Compare::Equal => order == Some(Ordering::Equal),
        Compare::Unequal => order != Some(Ordering::Equal),
        Compare::Less => order == Some(Ordering::Less),
        Compare::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Compare::Greater => order == Some(Ordering::Greater),
        Compare::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Template;
    use super::*;

    fn map(entries: &[(&str, Value)]) -> Value {
        Value::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    }

    fn string(text: &str) -> Value {
        Value::String(text.into())
    }

    fn document() -> Value {
        let item = |name: &str, restarts: &str, ready: bool| {
            let labels = map(&[("skerry.io/site", string("oslo"))]);
            map(&[
                ("metadata", map(&[("name", string(name)), ("labels", labels)])),
                ("restarts", Value::Long(restarts.into())),
                ("ready", Value::Bool(ready)),
            ])
        };
        let items = vec![item("a", "2", true), item("b", "10", false), item("c", "0", true)];
        map(&[("kind", string("List")), ("items", Value::List(items))])
    }

    #[test]
    fn texts_are_compared_as_they_are_written() {
        let labeled = |name: &str, version: &str| {
            map(&[
                ("name", string(name)),
                ("version", string(version)),
                ("generation", Value::Long("10".into())),
            ])
        };
        let items = vec![labeled("a", "1.1"), labeled("b", "1.10"), labeled("c", "nan"), labeled("d", "9")];
        let document = map(&[("items", Value::List(items))]);
        for (filter, expected) in [
            ("@.version==\"1.10\"", "b"),
            ("@.version=='1.1'", "a"),
            ("@.version==1.10", "b"),
            ("@.version!=\"1.10\"", "a c d"),
            ("@.version==\"nan\"", "c"),
            ("@.version==@.version", "a b c d"),
            ("@.version>\"10\"", "c d"),
            ("@.generation>9", "a b c d"),
            ("@.generation==\"10\"", "a b c d"),
            ("@.generation==10.0", "a b c d"),
        ] {
            let template = format!("{{.items[?({filter})].name}}");
            let read = Template::parse(&template).unwrap_or_else(|fault| panic!("{template}: {fault}"));
            assert_eq!(read.render(&document), expected, "{template}");
        }
    }

    #[test]
    fn templates_find_what_kubectl_finds() {
        for (template, expected) in [
            ("{.kind}", "List"),
            ("{$.kind}", "List"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1].metadata.name}", "c"),
            ("{.items[-4].metadata.name}", ""),
            ("{.items[*].metadata.name}", "a b c"),
            ("{.items[0,2].metadata.name}", "a c"),
            ("{.items[1:].metadata.name}", "b c"),
            ("{.items[0:-1].metadata.name}", "a b"),
            ("{.items[::2].metadata.name}", "a c"),
            ("{.items[5:9].metadata.name}", ""),
            ("{.items[0]['metadata'].name}", "a"),
            ("{.items[0].metadata['name','labels']}", "a {\"skerry.io/site\":\"oslo\"}"),
            ("{.items[0]['metadata.name','restarts']}", "a 2"),
            ("{.items[0].metadata.labels['skerry.io/site']}", "oslo"),
            ("{.items[0].metadata.labels.skerry\\.io/site}", "oslo"),
            ("{.items[0].metadata.labels}", "{\"skerry.io/site\":\"oslo\"}"),
            ("{..name}", "a b c"),
            ("{.items[?(@.ready==true)].metadata.name}", "a c"),
            ("{.items[?(@.restarts>5)].metadata.name}", "b"),
            ("{.items[?(@.restarts >= 2)].metadata.name}", "a b"),
            ("{.items[?(@.metadata.name!=\"a\")].metadata.name}", "b c"),
            ("{.items[?(@.metadata.name=='b')].restarts}", "10"),
            ("{.items[?(@.nothing)].metadata.name}", ""),
            ("{.items[?(@.ready==true && @.restarts>0)].metadata.name}", "a"),
            ("{.items[?(@.restarts==0||@.ready==false)].metadata.name}", "b c"),
            ("{.items[?(@.ready==true)][?(@.name==\"a\")].name}", "a"),
            ("{.nothing.here[0]}", ""),
            ("{range .items[*]}{.metadata.name}{\"\\t\"}{.restarts}{\"\\n\"}{end}", "a\t2\nb\t10\nc\t0\n"),
            ("{range .items[*]}{.metadata.name}={$.kind} {end}!", "a=List b=List c=List !"),
            ("{range .items[0:1]}{range .metadata.labels.*}{@}{end}{end}", "oslo"),
            ("kind: {.kind 'x' \"y\"}{'\\''}", "kind: Listxy'"),
        ] {
            let read = Template::parse(template).unwrap_or_else(|fault| panic!("{template}: {fault}"));
            assert_eq!(read.render(&document()), expected, "{template}");
        }
    }
}
