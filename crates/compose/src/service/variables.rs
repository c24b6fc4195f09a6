//! Variables and labels of a service: those of files, and those that stand in it.

use std::path::Path;

use super::Reader;
use crate::context::Field;
use crate::{dotenv, keys};

impl Reader<'_, '_, '_> {
    /// `env_file` below, `environment` above.
    pub(super) fn environment(&mut self) {
        if let Some(field) = self.get("env_file") {
            for item in field.one_or_more(self.cx) {
                for (name, value, at) in self.env_file(&item) {
                    self.record(&format!("env.{name}"), &at);
                    self.spec.env.insert(name, value);
                }
            }
        }
        let Some(field) = self.get("environment") else { return };
        self.record("env", &field);
        for (item, name, value) in field.pairs(self.cx) {
            // Who applies has it, or nobody.
            let value = value.or_else(|| self.cx.environment.get(&name).cloned());
            if let Some(value) = value {
                self.record(&format!("env.{name}"), &item);
                self.spec.env.insert(name, value);
            } else {
                self.spec.env.remove(&name);
                self.cx.warn(&item, format!("left out: the variable {name} is not set here"));
            }
        }
    }

    fn env_file(&mut self, item: &Field) -> Vec<(String, String, Field)> {
        let (mut required, mut raw, mut path) = (true, false, Some(item.clone()));
        if item.is_map() {
            keys::Keys { taken: &["path", "required", "format"], named: &[] }.check(self.cx, item);
            path = item.get("path");
            required = item.get("required").and_then(|field| field.boolean(self.cx)).unwrap_or(true);
            if let Some(format) = item.get("format") {
                raw = format.scalar() == Some("raw");
                if !raw {
                    self.cx.error(&format, "use raw, or take it away");
                }
            }
        }
        let Some(text) = path.and_then(|path| path.text(self.cx)) else {
            self.cx.error(item, "name a file: path");
            return Vec::new();
        };
        let resolved = self.cx.resolve(&text, item.node.at);
        let bytes = match self.cx.files.read(&resolved) {
            Ok(bytes) => bytes,
            Err(_) if !required => return Vec::new(),
            Err(why) => {
                self.cx.error(item, format!("cannot read {}: {why}", resolved.display()));
                return Vec::new();
            }
        };
        self.variables(item, &resolved, &bytes, raw)
    }

    fn variables(
        &mut self,
        item: &Field,
        path: &Path,
        bytes: &[u8],
        raw: bool,
    ) -> Vec<(String, String, Field)> {
        let shown = path.display();
        let Ok(text) = std::str::from_utf8(bytes) else {
            self.cx.error(item, format!("{shown} is not UTF-8 text"));
            return Vec::new();
        };
        let environment = std::rc::Rc::clone(&self.cx.environment);
        let read = if raw {
            dotenv::read_raw(text)
        } else {
            dotenv::read(text, &|name| environment.get(name).cloned())
        };
        match read {
            Ok(variables) => variables
                .into_iter()
                .filter_map(|one| {
                    let value = one.value.or_else(|| environment.get(&one.name).cloned())?;
                    Some((one.name, value, item.clone()))
                })
                .collect(),
            Err((line, why)) => {
                self.cx.error(item, format!("{shown}:{line}: {why}"));
                Vec::new()
            }
        }
    }

    pub(super) fn labels(&mut self) {
        if let Some(field) = self.get("label_file") {
            for (item, path) in field.texts(self.cx) {
                let Some((resolved, bytes)) = self.cx.read(&item, &path) else { continue };
                for (key, value, _) in self.variables(&item, &resolved, &bytes, false) {
                    self.container.labels.insert(key, value);
                }
            }
        }
        let Some(field) = self.get("labels") else { return };
        for (item, key, value) in field.pairs(self.cx) {
            self.record(&format!("container.labels.{key}"), &item);
            self.container.labels.insert(key, value.unwrap_or_default());
        }
    }
}
