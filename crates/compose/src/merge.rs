//! One file over another, and a service over the one that it extends, by the rules of Compose.
//!
//! Mappings are merged by key, lists are put one after the other, values are replaced. What is an exception from that is in [`rule`]. `!reset` takes
//! away what was there, `!override` puts something else in its place.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use skerry_manifest::tree::{Content, Entry, Mark, Node, Scalar, ScalarKind};

use crate::mounts;

/// How two values of a field become one.
#[derive(Clone, Copy)]
enum Rule {
    /// The later one.
    Replace,
    /// Mappings of values, or lists of `KEY=VALUE` (or with another of these characters): by key.
    Pairs(&'static [char]),
    /// Mappings, or lists of their keys: by key.
    Names,
    /// Lists, where a later item takes the place of one with the same key.
    Keyed(fn(&Node) -> Option<String>),
    /// Lists, or one item without a list.
    OneOrMore,
    /// By key, unless the driver changes.
    Logging,
    /// By what they are.
    Usual,
}

fn rule(path: &[&str]) -> Rule {
    match path {
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"] => Rule::Replace,
        ["services", _, "environment" | "labels" | "annotations" | "sysctls"]
        | ["services", _, "deploy", "labels"]
        | ["networks" | "volumes" | "configs" | "secrets", _, "labels"] => Rule::Pairs(&['=']),
        ["services", _, "extra_hosts"] => Rule::Pairs(&['=', ':']),
        ["services", _, "depends_on" | "networks"] => Rule::Names,
        ["services", _, "volumes"] => Rule::Keyed(mounts::target_of),
        ["services", _, "devices"] => Rule::Keyed(mounts::device_target_of),
        ["services", _, "configs" | "secrets"] => Rule::Keyed(mounts::file_target_of),
        ["services", _, "ports"] => Rule::Keyed(scalar_of),
        ["services", _, "env_file" | "dns" | "dns_search" | "tmpfs" | "label_file"] => Rule::OneOrMore,
        ["services", _, "logging"] => Rule::Logging,
        _ => Rule::Usual,
    }
}

/// `over` on top of `base`, which stand at `path`.
pub(crate) fn merge(base: &Rc<Node>, over: &Rc<Node>, path: &mut Vec<String>) -> Rc<Node> {
    if over.mark != Mark::None || base.mark == Mark::Reset {
        return Rc::clone(over);
    }
    let steps: Vec<&str> = path.iter().map(String::as_str).collect();
    let (base, over) = match rule(&steps) {
        Rule::Replace => return Rc::clone(over),
        Rule::Pairs(separators) => (as_map(base, separators), as_map(over, separators)),
        Rule::Names => (as_map(base, &[]), as_map(over, &[])),
        Rule::Keyed(key) => return keyed(base, over, key),
        Rule::OneOrMore => return keyed(&as_list(base), &as_list(over), scalar_of),
        Rule::Logging
            if driver(base).is_some() && driver(over).is_some_and(|new| Some(new) != driver(base)) =>
        {
            return Rc::clone(over);
        }
        Rule::Logging | Rule::Usual => (Rc::clone(base), Rc::clone(over)),
    };
    match (&base.content, &over.content) {
        (Content::Map(before), Content::Map(after)) => {
            let mut entries = before.clone();
            let places: HashMap<Rc<str>, usize> =
                before.iter().enumerate().map(|(n, entry)| (Rc::clone(&entry.key), n)).collect();
            for entry in after {
                match places.get(&entry.key) {
                    Some(at) => {
                        path.push(entry.key.to_string());
                        let value = merge(&entries[*at].value, &entry.value, path);
                        path.pop();
                        entries[*at] = Entry { value, ..entry.clone() };
                    }
                    None => entries.push(entry.clone()),
                }
            }
            Rc::new(Node { at: over.at, content: Content::Map(entries), mark: base.mark })
        }
        (Content::List(_), Content::List(_)) => keyed(&base, &over, scalar_of),
        // Nothing said over something leaves it.
        (Content::Map(_) | Content::List(_), _) if over.is_null() => base,
        _ => over,
    }
}

/// Lists one after the other, without the items of the first whose key the second has too.
fn keyed(base: &Rc<Node>, over: &Rc<Node>, key: fn(&Node) -> Option<String>) -> Rc<Node> {
    let (Content::List(before), Content::List(after)) = (&base.content, &over.content) else {
        return if over.is_null() { Rc::clone(base) } else { Rc::clone(over) };
    };
    let taken: HashSet<String> = after.iter().filter_map(|item| key(item)).collect();
    let stays = |item: &&Rc<Node>| key(item).is_none_or(|key| !taken.contains(&key));
    let items = before.iter().filter(stays).chain(after).cloned().collect();
    Rc::new(Node { at: over.at, content: Content::List(items), mark: base.mark })
}

fn scalar_of(node: &Node) -> Option<String> {
    match &node.content {
        Content::Scalar(scalar) => Some(scalar.text.clone()),
        _ => None,
    }
}

fn driver(node: &Node) -> Option<&str> {
    let Content::Map(entries) = &node.content else { return None };
    let driver = entries.iter().find(|entry| &*entry.key == "driver")?;
    match &driver.value.content {
        Content::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}

/// A list of keys, or of `KEY=VALUE`, as a mapping. Anything else as it is.
fn as_map(node: &Rc<Node>, separators: &[char]) -> Rc<Node> {
    let Content::List(items) = &node.content else { return Rc::clone(node) };
    let mut entries: Vec<Entry> = Vec::with_capacity(items.len());
    let mut places: HashMap<Rc<str>, usize> = HashMap::with_capacity(items.len());
    for item in items {
        let Content::Scalar(scalar) = &item.content else { return Rc::clone(node) };
        let text = scalar.text.as_str();
        let (key, value) = match separators.iter().find_map(|separator| text.split_once(*separator)) {
            Some((key, value)) => (key, Scalar { text: value.to_owned(), kind: ScalarKind::Text }),
            None => (text, Scalar { text: String::new(), kind: ScalarKind::Null }),
        };
        let value = Rc::new(Node::new(item.at, Content::Scalar(value)));
        let entry = Entry { key: key.into(), at: item.at, value };
        let place = *places.entry(Rc::clone(&entry.key)).or_insert(entries.len());
        match entries.get_mut(place) {
            Some(before) => *before = entry,
            None => entries.push(entry),
        }
    }
    Rc::new(Node { at: node.at, content: Content::Map(entries), mark: node.mark })
}

/// One item without a list, as a list.
fn as_list(node: &Rc<Node>) -> Rc<Node> {
    if matches!(node.content, Content::List(_)) || node.is_null() {
        return Rc::clone(node);
    }
    Rc::new(Node::new(node.at, Content::List(vec![Rc::clone(node)])))
}

/// Without what `!reset` marks.
pub(crate) fn without_reset(node: &Rc<Node>) -> Rc<Node> {
    let content = match &node.content {
        Content::Map(entries) => Content::Map(
            entries
                .iter()
                .filter(|entry| entry.value.mark != Mark::Reset)
                .map(|entry| Entry { value: without_reset(&entry.value), ..entry.clone() })
                .collect(),
        ),
        Content::List(items) => {
            Content::List(items.iter().filter(|item| item.mark != Mark::Reset).map(without_reset).collect())
        }
        Content::Scalar(_) => return Rc::clone(node),
    };
    Rc::new(Node { at: node.at, content, mark: Mark::None })
}
