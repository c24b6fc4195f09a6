//! `configs` and `secrets`: those whose values a file brings are resources of the app's, named after it; external ones are there already.

use std::collections::BTreeMap;

use skerry_model::config::{CONFIG_BYTES_MAX, is_config_key};
use skerry_proto::scheduler::v1 as scheduler;
use skerry_proto::types::v1 as pb;

use crate::context::{Context, Field};
use crate::{keys, mounts, names};

/// Where secrets are, unless a service says otherwise.
const SECRETS_DIR: &str = "/run/secrets/";

/// A resource with the place that made it.
#[derive(Debug, Clone)]
pub(crate) struct Made<T> {
    pub(crate) field: Field,
    pub(crate) spec: T,
}

/// An entry of a resource: of which, and its key.
type Entry = (String, String);

/// What the services of an app mount.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Begins the names of the resources.
    app: String,
    configs_declared: Option<Field>,
    secrets_declared: Option<Field>,
    /// By short name.
    pub(crate) configs: BTreeMap<String, Made<scheduler::ConfigSpec>>,
    /// By short name.
    pub(crate) secrets: BTreeMap<String, Made<scheduler::SecretSpec>>,
    known_configs: BTreeMap<String, Option<Entry>>,
    known_secrets: BTreeMap<String, Option<Entry>>,
}

/// How a service mounts one.
struct Reference {
    source: String,
    target: Option<String>,
    owner: Option<(Field, String)>,
    mode: Option<(Field, String)>,
}

impl Contents {
    pub(crate) fn new(app: &str, root: &Field) -> Self {
        Self {
            app: app.to_owned(),
            configs_declared: root.get("configs"),
            secrets_declared: root.get("secrets"),
            configs: BTreeMap::new(),
            secrets: BTreeMap::new(),
            known_configs: BTreeMap::new(),
            known_secrets: BTreeMap::new(),
        }
    }

    pub(crate) fn config_mount(&mut self, cx: &mut Context<'_>, item: &Field) -> Option<pb::ConfigMount> {
        let reference = reference(cx, item)?;
        if let Some((field, _)) = &reference.owner {
            cx.warn(field, "left out: files of configs belong to root, and everybody reads them");
        }
        if let Some((field, mode)) = &reference.mode {
            if mode.bytes().skip(1).any(|digit| digit & 1 == 1) {
                cx.error(
                    field,
                    "files of configs are not executable: run it by its interpreter, as [sh, FILE]",
                );
            } else if mode != "0444" {
                cx.warn(field, "left out: files of configs belong to root, and everybody reads them");
            }
        }
        let (config, key) = self.config(cx, item, &reference.source)?;
        Some(pb::ConfigMount { config, key, path: placed("/", &reference), executable: false })
    }

    pub(crate) fn secret_mount(&mut self, cx: &mut Context<'_>, item: &Field) -> Option<pb::SecretMount> {
        let reference = reference(cx, item)?;
        let (secret, key) = self.secret(cx, item, &reference.source)?;
        Some(pb::SecretMount {
            secret,
            key,
            path: placed(SECRETS_DIR, &reference),
            mode: reference.mode.map(|(_, mode)| mode).unwrap_or_default(),
            owner: reference.owner.map(|(_, owner)| owner).unwrap_or_default(),
            on_change: 0,
        })
    }

    /// A file of the project that a service binds to be read: its content becomes a config.
    pub(crate) fn bound_file(
        &mut self,
        cx: &mut Context<'_>,
        item: &Field,
        path: &str,
        target: &str,
    ) -> Option<pb::ConfigMount> {
        let (resolved, bytes) = cx.read(item, path)?;
        let name = self.named(cx, item, path)?;
        let key = file_key(&resolved, "file");
        cx.warn(item, "the file of this directory is brought as a config: what changes in it later counts when it is applied again");
        if !self.configs.contains_key(&name) {
            let spec = config_spec(cx, item, &key, bytes)?;
            self.configs.insert(name.clone(), Made { field: item.clone(), spec });
        }
        Some(pb::ConfigMount { config: name, key, path: target.to_owned(), executable: false })
    }

    fn config(&mut self, cx: &mut Context<'_>, item: &Field, source: &str) -> Option<Entry> {
        if let Some(known) = self.known_configs.get(source) {
            return known.clone();
        }
        let made = self.make_config(cx, item, source);
        self.known_configs.insert(source.to_owned(), made.clone());
        made
    }

    fn make_config(&mut self, cx: &mut Context<'_>, item: &Field, source: &str) -> Option<Entry> {
        let field = declared(cx, self.configs_declared.as_ref(), item, source, "configs")?;
        keys::CONFIG.check(cx, &field);
        if let Some(entry) = external(cx, &field, source)? {
            return Some(entry);
        }
        let (key, bytes) = match (field.get("file"), field.get("content"), field.get("environment")) {
            (Some(file), None, None) => {
                let path = file.text(cx)?;
                let (resolved, bytes) = cx.read(&file, &path)?;
                (file_key(&resolved, source), bytes)
            }
            (None, Some(content), None) => (key(source), content.text(cx)?.into_bytes()),
            (None, None, Some(variable)) => (key(source), of_environment(cx, &variable)?.into_bytes()),
            _ => {
                cx.error(&field, "name one of file, content, environment and external");
                return None;
            }
        };
        let name = self.named(cx, &field, source)?;
        let spec = config_spec(cx, &field, &key, bytes)?;
        self.configs.insert(name.clone(), Made { field, spec });
        Some((name, key))
    }

    fn secret(&mut self, cx: &mut Context<'_>, item: &Field, source: &str) -> Option<Entry> {
        if let Some(known) = self.known_secrets.get(source) {
            return known.clone();
        }
        let made = self.make_secret(cx, item, source);
        self.known_secrets.insert(source.to_owned(), made.clone());
        made
    }

    fn make_secret(&mut self, cx: &mut Context<'_>, item: &Field, source: &str) -> Option<Entry> {
        let field = declared(cx, self.secrets_declared.as_ref(), item, source, "secrets")?;
        keys::SECRET.check(cx, &field);
        if let Some(entry) = external(cx, &field, source)? {
            return Some(entry);
        }
        let bytes = match (field.get("file"), field.get("environment")) {
            (Some(file), None) => {
                let path = file.text(cx)?;
                cx.read(&file, &path)?.1
            }
            (None, Some(variable)) => of_environment(cx, &variable)?.into_bytes(),
            _ => {
                cx.error(&field, "name one of file, environment and external");
                return None;
            }
        };
        let (name, key) = (self.named(cx, &field, source)?, key(source));
        let spec = scheduler::SecretSpec { data: [(key.clone(), bytes.into())].into(), ..Default::default() };
        self.secrets.insert(name.clone(), Made { field, spec });
        Some((name, key))
    }

    /// The name of the resource of `source`.
    fn named(&self, cx: &mut Context<'_>, field: &Field, source: &str) -> Option<String> {
        let Some(name) = names::label(&format!("{}-{source}", self.app)) else {
            cx.error(field, format!("{source:?} is no name: use letters and digits"));
            return None;
        };
        let taken = self
            .configs
            .get(&name)
            .map(|made| &made.field)
            .or(self.secrets.get(&name).map(|made| &made.field));
        // A file that several services bind is one.
        if taken.is_some_and(|other| other.path != field.path && !is_same_bind(other, field)) {
            cx.error(field, format!("it and another one would both be called {name:?}: rename one of them"));
            return None;
        }
        Some(name)
    }
}

/// Whether two mounts bind the same file.
fn is_same_bind(one: &Field, other: &Field) -> bool {
    let source = |field: &Field| {
        let named = field.get("source").and_then(|source| source.scalar().map(str::to_owned));
        named.or_else(|| field.scalar().map(|text| text.split(':').next().unwrap_or_default().to_owned()))
    };
    source(one).is_some_and(|source_of_one| Some(source_of_one) == source(other))
}

fn reference(cx: &mut Context<'_>, item: &Field) -> Option<Reference> {
    if !item.is_map() {
        return Some(Reference { source: item.text(cx)?, target: None, owner: None, mode: None });
    }
    keys::FILE_MOUNT.check(cx, item);
    let Some(source) = item.get("source") else {
        cx.error(item, "name which: source");
        return None;
    };
    let source = source.text(cx)?;
    let target = item.get("target").and_then(|target| target.text(cx));
    let uid = item.get("uid").and_then(|uid| Some((uid.clone(), uid.text(cx)?)));
    let gid = item.get("gid").and_then(|gid| Some((gid.clone(), gid.text(cx)?)));
    let owner = match (uid, gid) {
        (Some((field, uid)), Some((_, gid))) => Some((field, format!("{uid}:{gid}"))),
        (Some(uid), None) => Some(uid),
        (None, Some((field, gid))) => Some((field, format!("0:{gid}"))),
        (None, None) => None,
    };
    let mode = item.get("mode").and_then(|mode| Some((mode.clone(), mode.parsed(cx, mounts::octal)?)));
    Some(Reference { source, target, owner, mode })
}

fn placed(directory: &str, reference: &Reference) -> String {
    match &reference.target {
        Some(target) if target.starts_with('/') => target.clone(),
        Some(target) => format!("{directory}{target}"),
        None => format!("{directory}{}", reference.source),
    }
}

fn declared(
    cx: &mut Context<'_>,
    section: Option<&Field>,
    item: &Field,
    source: &str,
    words: &str,
) -> Option<Field> {
    let found = section.and_then(|section| section.get(source));
    if found.is_none() {
        cx.error(item, format!("there is no {source:?}: declare it below {words}"));
    }
    found
}

/// An entry of a resource that is there already: its key is the name that the file gives it, or `key` below `x-skerry`.
#[expect(clippy::option_option, reason = "a fault, no external one, and one are three things")]
fn external(cx: &mut Context<'_>, field: &Field, source: &str) -> Option<Option<Entry>> {
    let Some(external) = field.get("external") else {
        if let Some(name) = field.get("name") {
            cx.warn(&name, "left out: it is named after the app");
        }
        return Some(None);
    };
    // As files of version 3.3 had it.
    let name = if external.is_map() {
        external.get("name").or_else(|| field.get("name"))
    } else if external.boolean(cx)? {
        field.get("name")
    } else {
        return Some(None);
    };
    let name = match name {
        Some(name) => name.text(cx)?,
        None => source.to_owned(),
    };
    let own = match field.get("x-skerry") {
        Some(own) => {
            keys::Keys { taken: &["key"], named: &[] }.check(cx, &own);
            own.get("key").and_then(|key| key.text(cx))
        }
        None => None,
    };
    Some(Some((name, own.unwrap_or_else(|| source.to_owned()))))
}

fn of_environment(cx: &mut Context<'_>, field: &Field) -> Option<String> {
    let name = field.text(cx)?;
    let value = cx.environment.get(&name).cloned();
    if value.is_none() {
        cx.error(field, format!("the variable {name} is not set"));
    }
    value
}

fn config_spec(
    cx: &mut Context<'_>,
    field: &Field,
    key: &str,
    bytes: Vec<u8>,
) -> Option<scheduler::ConfigSpec> {
    if bytes.len() + key.len() > CONFIG_BYTES_MAX {
        cx.error(
            field,
            format!("{} bytes are too many for a config: at most {CONFIG_BYTES_MAX}", bytes.len()),
        );
        return None;
    }
    let mut spec = scheduler::ConfigSpec::default();
    match String::from_utf8(bytes) {
        Ok(text) => drop(spec.data.insert(key.to_owned(), text)),
        Err(error) => drop(spec.binary_data.insert(key.to_owned(), error.into_bytes().into())),
    }
    Some(spec)
}

/// The name of a file as a key, if it is one.
fn file_key(path: &std::path::Path, source: &str) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_config_key(name));
    name.map_or_else(|| key(source), str::to_owned)
}

/// `source` as a key.
fn key(source: &str) -> String {
    if is_config_key(source) {
        source.to_owned()
    } else {
        names::label(source).unwrap_or_else(|| "content".to_owned())
    }
}
