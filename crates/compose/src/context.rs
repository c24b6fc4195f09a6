//! What reading takes along: where faults and warnings go, the files that may be read, the environment; and the values of fields.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use skerry_manifest::tree::{Content, Entry, Node, Scalar, ScalarKind};
use skerry_manifest::{ErrorSink, Position, nearest, shorten};

use crate::{Files, Warning};

/// Most warnings that differ.
const WARNINGS_MAX: usize = 100;

pub(crate) struct Context<'a> {
    pub(crate) errors: ErrorSink,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) files: &'a dyn Files,
    /// By source: what paths in that file are relative to.
    pub(crate) directories: Vec<PathBuf>,
    /// The variables of who applies, those of `.env` among them.
    pub(crate) environment: Rc<BTreeMap<String, String>>,
}

impl Context<'_> {
    pub(crate) fn error(&mut self, field: &Field, message: impl Into<String>) {
        self.errors.add(field.node.at, &field.path, message);
    }

    /// A warning. Those that say the same of several places are one.
    pub(crate) fn warn(&mut self, field: &Field, message: impl Into<String>) {
        self.warn_at(field.at, &field.path, message);
    }

    pub(crate) fn warn_at(&mut self, at: Position, path: &str, message: impl Into<String>) {
        let message = message.into();
        let last = |path: &str| {
            path.rsplit('.').next().unwrap_or_default().split('[').next().unwrap_or_default().to_owned()
        };
        let same = self
            .warnings
            .iter_mut()
            .find(|before| before.message == message && last(&before.path) == last(path));
        if let Some(before) = same {
            // A file that is extended twice says a thing once.
            if !before.places.contains(&at) {
                before.places.push(at);
                before.more += 1;
            }
        } else if self.warnings.len() < WARNINGS_MAX {
            let file = self.errors.files().get(usize::from(at.source)).cloned().unwrap_or_default();
            let path = shorten(path, 200);
            self.warnings.push(Warning { file, position: at, path, message, more: 0, places: vec![at] });
        }
    }

    /// Where a path of a file lies: relative ones to the directory of the file that names them.
    pub(crate) fn resolve(&self, path: &str, at: Position) -> PathBuf {
        let directory = self.directories.get(usize::from(at.source)).map_or(Path::new(""), PathBuf::as_path);
        let mut resolved = PathBuf::new();
        for component in directory.join(path).components() {
            match component {
                Component::CurDir => {}
                Component::ParentDir => match resolved.components().next_back() {
                    Some(Component::Normal(_)) => drop(resolved.pop()),
                    // Above the root there is nothing.
                    Some(Component::RootDir) => {}
                    _ => resolved.push(component),
                },
                other => resolved.push(other),
            }
        }
        resolved
    }

    /// The bytes of the file that a field names.
    pub(crate) fn read(&mut self, field: &Field, path: &str) -> Option<(PathBuf, Vec<u8>)> {
        let resolved = self.resolve(path, field.node.at);
        match self.files.read(&resolved) {
            Ok(bytes) => Some((resolved, bytes)),
            Err(why) => {
                self.error(field, format!("cannot read {}: {why}", resolved.display()));
                None
            }
        }
    }

    /// An unknown key beside `known`.
    pub(crate) fn unknown(&mut self, field: &Field, known: &[&str]) {
        let key = field.key().to_owned();
        let hint = match nearest(&key, known.iter().copied()) {
            Some(near) => format!("Compose knows no such key; did you mean {near:?}?"),
            None => {
                "Compose knows no such key: take it away, or begin it with x- if it is for others".to_owned()
            }
        };
        self.errors.add(field.at, &field.path, hint);
    }
}

/// A value with its path and the place of its key.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) path: String,
    pub(crate) at: Position,
    pub(crate) node: Rc<Node>,
}

impl Field {
    pub(crate) fn root(node: &Rc<Node>) -> Self {
        Self { path: String::new(), at: node.at, node: Rc::clone(node) }
    }

    fn below(&self, entry: &Entry) -> Self {
        let path =
            if self.path.is_empty() { entry.key.to_string() } else { format!("{}.{}", self.path, entry.key) };
        Self { path, at: entry.at, node: Rc::clone(&entry.value) }
    }

    /// The last word of its path.
    pub(crate) fn key(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    pub(crate) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.content, Content::Map(_))
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.content, Content::List(_))
    }

    /// Whether it is a list or mapping with nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.node.content {
            Content::Map(entries) => entries.is_empty(),
            Content::List(items) => items.is_empty(),
            Content::Scalar(_) => false,
        }
    }

    /// The text of a scalar, whatever it is by its form; none for nothing, lists and mappings.
    pub(crate) fn scalar(&self) -> Option<&str> {
        match &self.node.content {
            Content::Scalar(Scalar { kind: ScalarKind::Null, .. }) => None,
            Content::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// An entry, if there is one with a value.
    pub(crate) fn get(&self, key: &str) -> Option<Self> {
        let Content::Map(entries) = &self.node.content else { return None };
        let entry = entries.iter().find(|entry| &*entry.key == key)?;
        Some(self.below(entry)).filter(|field| !field.is_null())
    }

    /// Entries with their keys; nothing for nothing, and an error for what is no mapping. Extensions (`x-`) are not among them.
    pub(crate) fn entries(&self, cx: &mut Context<'_>) -> Vec<(Rc<str>, Self)> {
        match &self.node.content {
            Content::Map(entries) => entries
                .iter()
                .filter(|entry| !entry.key.starts_with("x-"))
                .map(|entry| (Rc::clone(&entry.key), self.below(entry)))
                .collect(),
            _ if self.is_null() => Vec::new(),
            _ => {
                self.expected(cx, "a mapping");
                Vec::new()
            }
        }
    }

    /// Items; nothing for nothing, and an error for what is no list.
    pub(crate) fn items(&self, cx: &mut Context<'_>) -> Vec<Self> {
        match &self.node.content {
            Content::List(items) => items
                .iter()
                .enumerate()
                .map(|(n, item)| Self {
                    path: format!("{}[{n}]", self.path),
                    at: item.at,
                    node: Rc::clone(item),
                })
                .collect(),
            _ if self.is_null() => Vec::new(),
            _ => {
                self.expected(cx, "a list");
                Vec::new()
            }
        }
    }

    /// Items, where one may stand without a list.
    pub(crate) fn one_or_more(&self, cx: &mut Context<'_>) -> Vec<Self> {
        if self.scalar().is_some() || self.is_map() { vec![self.clone()] } else { self.items(cx) }
    }

    fn expected(&self, cx: &mut Context<'_>, what: &str) {
        cx.error(self, format!("expected {what}, found {}", self.node.describe()));
    }

    /// A text, or an error.
    pub(crate) fn text(&self, cx: &mut Context<'_>) -> Option<String> {
        if let Some(text) = self.scalar() {
            return Some(text.to_owned());
        }
        self.expected(cx, "a text");
        None
    }

    /// Texts of a list, or of one text.
    pub(crate) fn texts(&self, cx: &mut Context<'_>) -> Vec<(Self, String)> {
        self.one_or_more(cx).into_iter().filter_map(|item| item.text(cx).map(|text| (item, text))).collect()
    }

    pub(crate) fn boolean(&self, cx: &mut Context<'_>) -> Option<bool> {
        match self.scalar().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "yes" | "on" | "y" | "1") => Some(true),
            Some("false" | "no" | "off" | "n" | "0") => Some(false),
            _ => {
                self.expected(cx, "true or false");
                None
            }
        }
    }

    pub(crate) fn integer(&self, cx: &mut Context<'_>) -> Option<i64> {
        let number = self.scalar().and_then(|text| text.trim().parse().ok());
        if number.is_none() {
            self.expected(cx, "a whole number");
        }
        number
    }

    /// A value that `parse` reads, or its error.
    pub(crate) fn parsed<T>(
        &self,
        cx: &mut Context<'_>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(cx)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                cx.error(self, why);
                None
            }
        }
    }

    /// What was read of it, or its error.
    pub(crate) fn parsed_with<T>(&self, cx: &mut Context<'_>, read: Result<T, String>) -> Option<T> {
        read.map_err(|why| cx.error(self, why)).ok()
    }

    /// Pairs of a mapping, or of a list of `KEY=VALUE`; a value that is not there is none.
    pub(crate) fn pairs(&self, cx: &mut Context<'_>) -> Vec<(Self, String, Option<String>)> {
        if self.is_list() {
            return self
                .texts(cx)
                .into_iter()
                .map(|(item, text)| match text.split_once('=') {
                    Some((key, value)) => (item, key.to_owned(), Some(value.to_owned())),
                    None => (item, text, None),
                })
                .collect();
        }
        let mut pairs = Vec::new();
        for (key, field) in self.entries_all(cx) {
            if field.is_null() {
                pairs.push((field, key.to_string(), None));
            } else if let Some(text) = field.text(cx) {
                pairs.push((field, key.to_string(), Some(text)));
            }
        }
        pairs
    }

    /// Entries whose keys are people's own names, which may begin with `x-`.
    pub(crate) fn entries_all(&self, cx: &mut Context<'_>) -> Vec<(Rc<str>, Self)> {
        match &self.node.content {
            Content::Map(entries) => {
                entries.iter().map(|entry| (Rc::clone(&entry.key), self.below(entry))).collect()
            }
            _ => self.entries(cx),
        }
    }
}
