//! From files to one tree: variables, `extends`, several files over one another, `include`, profiles.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use skerry_manifest::tree::{Content, EXPANDED_BYTES_MAX, Entry, Node, Scalar, ScalarKind};
use skerry_manifest::{Position, check_text, read_yaml};

use crate::context::{Context, Field};
use crate::interpolate::interpolate;
use crate::merge::{merge, without_reset};
use crate::{File, dotenv, keys};

/// Most files that one reading takes, those of `extends` and `include` among them.
pub const FILES_MAX: usize = 64;
/// Most services of one file, before profiles choose among them.
const SERVICES_MAX: usize = 512;
/// Longest chain of `extends`, and of `include`.
const CHAIN_MAX: usize = 16;
/// What an included file may bring.
const SECTIONS: [&str; 5] = ["services", "networks", "volumes", "configs", "secrets"];

type Environment = Rc<BTreeMap<String, String>>;

/// Reads files, by what has been read already.
pub(crate) struct Loader<'c, 'a> {
    cx: &'c mut Context<'a>,
    /// Files that `extends` names, with their variables replaced.
    extended: HashMap<PathBuf, Option<Rc<Node>>>,
    /// How much text there is, with variables replaced, in all files.
    bytes: usize,
}

impl<'c, 'a> Loader<'c, 'a> {
    pub(crate) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx, extended: HashMap::new(), bytes: 0 }
    }

    /// The tree of `files`, the first of which is source 0. None where there is nothing to go on with.
    pub(crate) fn load(&mut self, files: &[File], directory: &Path) -> Option<Rc<Node>> {
        let environment = Rc::clone(&self.cx.environment);
        let mut trees = Vec::new();
        for (n, file) in files.iter().enumerate() {
            let source = if n == 0 { 0 } else { self.add_source(&file.name, directory, Position::START)? };
            trees.extend(self.parse(source, &file.bytes, &environment));
        }
        let merged = self.merge_all(trees, &environment, 0)?;
        Some(without_reset(&merged))
    }

    fn add_source(&mut self, name: &str, directory: &Path, at: Position) -> Option<u16> {
        if self.cx.directories.len() >= FILES_MAX {
            self.cx.errors.add(at, "", format!("more than {FILES_MAX} files"));
            return None;
        }
        self.cx.directories.push(directory.to_owned());
        Some(self.cx.errors.add_file(name))
    }

    /// The documents of a file, with their variables replaced.
    fn parse(&mut self, source: u16, bytes: &[u8], environment: &Environment) -> Vec<Rc<Node>> {
        let Some(text) = check_text(bytes, source, &mut self.cx.errors) else { return Vec::new() };
        let documents = read_yaml(text, source, FILES_MAX, true, &mut self.cx.errors);
        let mut trees = Vec::new();
        for document in documents {
            let root = Field::root(&document);
            if !root.is_map() {
                self.cx.error(&root, format!("expected a mapping, found {}", document.describe()));
                continue;
            }
            let count = root.get("services").map_or(0, |services| match &services.node.content {
                Content::Map(entries) => entries.len(),
                _ => 0,
            });
            if count > SERVICES_MAX {
                self.cx.error(
                    &root,
                    format!("{count} services are too many for a file: at most {SERVICES_MAX}"),
                );
                continue;
            }
            trees.push(self.replaced(&document, "", environment));
        }
        trees
    }

    /// A tree with its variables replaced.
    fn replaced(&mut self, node: &Rc<Node>, path: &str, environment: &Environment) -> Rc<Node> {
        let content = match &node.content {
            Content::Scalar(scalar) if scalar.text.contains('$') => {
                let lookup = |name: &str| environment.get(name).cloned();
                match interpolate(&scalar.text, &lookup) {
                    Ok(done) => {
                        for name in done.unset {
                            let message = format!("the variable {name} is not set: it stands for nothing");
                            self.cx.warn_at(node.at, path, message);
                        }
                        self.bytes += done.text.len();
                        if self.bytes > EXPANDED_BYTES_MAX {
                            self.cx.errors.add(node.at, path, "with their variables the files are too long");
                            return Rc::clone(node);
                        }
                        Content::Scalar(Scalar { text: done.text, kind: ScalarKind::Text })
                    }
                    Err(why) => {
                        self.cx.errors.add(node.at, path, why);
                        return Rc::clone(node);
                    }
                }
            }
            Content::Scalar(_) => return Rc::clone(node),
            Content::List(items) => Content::List(
                items
                    .iter()
                    .enumerate()
                    .map(|(n, item)| self.replaced(item, &format!("{path}[{n}]"), environment))
                    .collect(),
            ),
            Content::Map(entries) => Content::Map(
                entries
                    .iter()
                    .map(|entry| {
                        let dot = if path.is_empty() { "" } else { "." };
                        let value =
                            self.replaced(&entry.value, &format!("{path}{dot}{}", entry.key), environment);
                        Entry { value, ..entry.clone() }
                    })
                    .collect(),
            ),
        };
        Rc::new(Node { at: node.at, content, mark: node.mark })
    }

    /// Trees over one another, the first below; what they extend and include is in them.
    fn merge_all(
        &mut self,
        trees: Vec<Rc<Node>>,
        environment: &Environment,
        depth: usize,
    ) -> Option<Rc<Node>> {
        let mut merged: Option<Rc<Node>> = None;
        for tree in trees {
            let tree = self.with_extended(&tree, environment);
            merged = Some(match merged {
                None => tree,
                Some(base) => merge(&base, &tree, &mut Vec::new()),
            });
        }
        let merged = merged?;
        let root = Field::root(&merged);
        let Some(include) = root.get("include") else { return Some(merged) };
        self.included(&merged, &include, environment, depth)
    }

    /// A tree whose services have what they extend.
    fn with_extended(&mut self, tree: &Rc<Node>, environment: &Environment) -> Rc<Node> {
        let root = Field::root(tree);
        let Some(services) = root.get("services") else { return Rc::clone(tree) };
        let Content::Map(entries) = &services.node.content else { return Rc::clone(tree) };
        if !entries.iter().any(|entry| extends(&entry.value).is_some()) {
            return Rc::clone(tree);
        }
        let resolved = entries
            .iter()
            .map(|entry| {
                let mut chain = Vec::new();
                let value = self.extended(&services, &entry.key, &mut chain, environment);
                Entry { value: value.unwrap_or_else(|| Rc::clone(&entry.value)), ..entry.clone() }
            })
            .collect();
        let services =
            Rc::new(Node { at: services.node.at, content: Content::Map(resolved), mark: services.node.mark });
        with_entry(tree, "services", services)
    }

    /// A service with what it extends below it. `chain` is what extends it.
    fn extended(
        &mut self,
        services: &Field,
        name: &str,
        chain: &mut Vec<(u16, String)>,
        environment: &Environment,
    ) -> Option<Rc<Node>> {
        let service = services.get(name)?;
        let Some(extends) = service.get("extends") else { return Some(service.node) };
        let link = (service.node.at.source, name.to_owned());
        if chain.contains(&link) || chain.len() >= CHAIN_MAX {
            let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).chain([name]).collect();
            self.cx.error(
                &extends,
                format!("extends goes round in a circle, or too far: {}", names.join(" -> ")),
            );
            return None;
        }
        chain.push(link);
        let (base_name, file) = if let Some(name) = extends.scalar() {
            (name.to_owned(), None)
        } else {
            keys::Keys { taken: &["service", "file"], named: &[] }.check(self.cx, &extends);
            let Some(base) = extends.get("service").and_then(|field| field.text(self.cx)) else {
                self.cx.error(&extends, "name the service that is extended: service");
                return None;
            };
            (base, extends.get("file"))
        };
        let base = match file {
            None => self.extended_from(services, &extends, &base_name, chain, environment)?,
            Some(file) => {
                let tree = self.file(&file, environment)?;
                let Some(services) = Field::root(&tree).get("services") else {
                    self.cx.error(&file, "there are no services in this file");
                    return None;
                };
                self.extended_from(&services, &extends, &base_name, chain, environment)?
            }
        };
        chain.pop();
        let own = without_entry(&service.node, "extends");
        Some(merge(&base, &own, &mut vec!["services".to_owned(), name.to_owned()]))
    }

    fn extended_from(
        &mut self,
        services: &Field,
        extends: &Field,
        name: &str,
        chain: &mut Vec<(u16, String)>,
        environment: &Environment,
    ) -> Option<Rc<Node>> {
        if services.get(name).is_none() {
            self.cx.error(extends, format!("there is no service {name:?} to extend"));
            return None;
        }
        self.extended(services, name, chain, environment)
    }

    /// The tree of a file that `extends` names.
    fn file(&mut self, field: &Field, environment: &Environment) -> Option<Rc<Node>> {
        let path = field.text(self.cx)?;
        let resolved = self.cx.resolve(&path, field.node.at);
        if let Some(known) = self.extended.get(&resolved) {
            return known.clone();
        }
        let (resolved, bytes) = self.cx.read(field, &path)?;
        let directory = resolved.parent().unwrap_or(Path::new("")).to_owned();
        let source = self.add_source(&resolved.display().to_string(), &directory, field.node.at)?;
        let tree = self.parse(source, &bytes, environment).into_iter().next();
        self.extended.insert(resolved, tree.clone());
        tree
    }

    /// `merged` with what it includes.
    fn included(
        &mut self,
        merged: &Rc<Node>,
        include: &Field,
        environment: &Environment,
        depth: usize,
    ) -> Option<Rc<Node>> {
        if depth >= CHAIN_MAX {
            self.cx.error(include, "include goes round in a circle, or too far");
            return None;
        }
        let mut result = without_entry(merged, "include");
        for item in include.items(self.cx) {
            if let Some(tree) = self.include(&item, environment, depth) {
                result = self.joined(&result, &tree);
            }
        }
        Some(result)
    }

    fn include(&mut self, item: &Field, environment: &Environment, depth: usize) -> Option<Rc<Node>> {
        let mut paths = Vec::new();
        let (mut directory, mut env_files) = (None, None);
        if item.scalar().is_some() {
            paths.push(item.clone());
        } else {
            for (key, field) in item.entries(self.cx) {
                match &*key {
                    "path" => paths = field.one_or_more(self.cx),
                    "project_directory" => {
                        directory = field.text(self.cx).map(|text| self.cx.resolve(&text, field.node.at));
                    }
                    "env_file" => env_files = Some(field.one_or_more(self.cx)),
                    _ => self.cx.unknown(&field, &["path", "project_directory", "env_file"]),
                }
            }
        }
        if paths.is_empty() {
            self.cx.error(item, "name the file that is included: path");
        }
        let mut files = Vec::new();
        for path in &paths {
            let text = path.text(self.cx)?;
            files.push((path.clone(), self.cx.read(path, &text)?));
        }
        let directory = directory
            .or_else(|| files.first().and_then(|(_, (path, _))| path.parent().map(Path::to_owned)))
            .unwrap_or_default();
        let environment = self.environment_of(item, &directory, env_files, environment)?;
        let mut trees = Vec::new();
        for (field, (path, bytes)) in files {
            let source = self.add_source(&path.display().to_string(), &directory, field.node.at)?;
            trees.extend(self.parse(source, &bytes, &environment));
        }
        self.merge_all(trees, &environment, depth + 1)
    }

    /// The variables of an included project: its own, and over them those of who includes it.
    fn environment_of(
        &mut self,
        item: &Field,
        directory: &Path,
        named: Option<Vec<Field>>,
        environment: &Environment,
    ) -> Option<Environment> {
        let mut all = BTreeMap::new();
        let mut add = |cx: &mut Context<'_>, at: &Field, shown: &str, bytes: &[u8]| {
            let lookup = |name: &str| environment.get(name).cloned();
            match dotenv::read(&String::from_utf8_lossy(bytes), &lookup) {
                Ok(read) => all.extend(read.into_iter().filter_map(|one| Some((one.name, one.value?)))),
                Err((line, why)) => cx.error(at, format!("{shown}:{line}: {why}")),
            }
        };
        if let Some(fields) = named {
            for field in fields {
                let text = field.text(self.cx)?;
                let (path, bytes) = self.cx.read(&field, &text)?;
                add(self.cx, &field, &path.display().to_string(), &bytes);
            }
        } else {
            let path = directory.join(".env");
            if let Ok(bytes) = self.cx.files.read(&path) {
                add(self.cx, item, &path.display().to_string(), &bytes);
            }
        }
        all.extend(environment.iter().map(|(name, value)| (name.clone(), value.clone())));
        Some(Rc::new(all))
    }

    /// Two trees beside one another: nothing is in both.
    fn joined(&mut self, tree: &Rc<Node>, included: &Rc<Node>) -> Rc<Node> {
        let mut result = Rc::clone(tree);
        for section in SECTIONS {
            let Some(more) = Field::root(included).get(section) else { continue };
            let own = Field::root(&result).get(section);
            let mut entries = match own.as_ref().map(|own| &own.node.content) {
                Some(Content::Map(entries)) => entries.clone(),
                _ => Vec::new(),
            };
            let there: HashSet<Rc<str>> = entries.iter().map(|entry| Rc::clone(&entry.key)).collect();
            for (key, field) in more.entries(self.cx) {
                if there.contains(&key) {
                    self.cx.errors.add(
                        field.at,
                        &field.path,
                        "it is in the file that includes this one too: keep one",
                    );
                } else {
                    entries.push(Entry { key, at: field.at, value: field.node });
                }
            }
            let node = Rc::new(Node::new(own.map_or(more.node.at, |own| own.node.at), Content::Map(entries)));
            result = with_entry(&result, section, node);
        }
        result
    }
}

fn extends(service: &Node) -> Option<&Entry> {
    match &service.content {
        Content::Map(entries) => entries.iter().find(|entry| &*entry.key == "extends"),
        _ => None,
    }
}

fn without_entry(node: &Rc<Node>, key: &str) -> Rc<Node> {
    let Content::Map(entries) = &node.content else { return Rc::clone(node) };
    let entries = entries.iter().filter(|entry| &*entry.key != key).cloned().collect();
    Rc::new(Node { at: node.at, content: Content::Map(entries), mark: node.mark })
}

fn with_entry(node: &Rc<Node>, key: &str, value: Rc<Node>) -> Rc<Node> {
    let Content::Map(entries) = &node.content else { return Rc::clone(node) };
    let mut entries = entries.clone();
    match entries.iter_mut().find(|entry| &*entry.key == key) {
        Some(entry) => entry.value = value,
        None => entries.push(Entry { key: key.into(), at: value.at, value }),
    }
    Rc::new(Node { at: node.at, content: Content::Map(entries), mark: node.mark })
}
