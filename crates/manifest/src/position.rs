//! Places in a manifest's text, and the table that finds the place of a field again.
//!
//! Knows no resource: it maps whatever field paths the decoder walked. Checks that run later, here or on a server, name a field
//! path; the table turns it into a line and a column.

use std::collections::BTreeMap;
use std::fmt;

/// A place in a text. Lines and columns count from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which of the texts that are read together, from 0.
    pub source: u16,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Position {
    /// The first character.
    pub const START: Self = Self { source: 0, line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Where a field was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Place of the field, or of the nearest field around it that was written.
    pub position: Position,
    /// The field's path as it was written; the path asked for when the field itself was not written.
    pub path: String,
}

/// What requests call the resources of manifests, as it stands before a field, in its normal form.
const RESOURCES: [&str; 7] = ["app.", "config.", "secret.", "node.", "user.", "group.", "rolebinding."];

/// From field paths to places, for one resource.
#[derive(Debug, Clone)]
pub struct Positions {
    table: BTreeMap<String, (Position, String)>,
    root: Position,
    /// The files, where a resource is made of several.
    files: Vec<String>,
}

impl Positions {
    /// Of a resource that begins at `root`.
    pub fn new(root: Position) -> Self {
        Self { table: BTreeMap::new(), root, files: Vec::new() }
    }

    /// Of a resource that is made of several files, by [`Position::source`].
    pub fn of_files(root: Position, files: Vec<String>) -> Self {
        Self { files, ..Self::new(root) }
    }

    /// The file of a place, where the resource is made of several.
    pub fn file(&self, position: Position) -> Option<&str> {
        self.files.get(usize::from(position.source)).map(String::as_str)
    }

    /// Remembers that the field `path` stands at `position` and was written as `written`. The first word on a field counts.
    pub fn record(&mut self, path: &str, written: &str, position: Position) {
        self.table.entry(normal_form(path)).or_insert_with(|| (position, written.to_owned()));
    }

    /// Takes over the fields below `from` of a part that was read by itself, as those below `to`.
    pub(crate) fn adopt(&mut self, part: &Self, from: &str, to: &str) {
        let (from, to) = (normal_form(from), normal_form(to));
        for (path, found) in &part.table {
            if let Some(rest) = path.strip_prefix(&from).filter(|rest| rest.starts_with('.')) {
                self.table.insert(format!("{to}{rest}"), found.clone());
            }
        }
    }

    /// Where the resource begins.
    pub fn root(&self) -> Position {
        self.root
    }

    /// Finds `field`, as `spec.services[0].health_check.http.port`, in snake_case or camelCase, with or without the resource in front
    /// (`app.spec...`). A field that was not written is found at the nearest one around it.
    pub fn locate(&self, field: &str) -> Found {
        let normal = normal_form(field);
        let without_resource = RESOURCES.iter().find_map(|prefix| normal.strip_prefix(prefix));
        let mut asked = without_resource.unwrap_or(&normal);
        if let Some((position, written)) = self.table.get(asked) {
            return Found { position: *position, path: written.clone() };
        }
        while let Some((around, _)) = asked.rsplit_once('.') {
            if let Some((position, _)) = self.table.get(around) {
                return Found { position: *position, path: camel_path(field) };
            }
            asked = around;
        }
        Found { position: self.root, path: camel_path(field) }
    }
}

/// One spelling for all the spellings of a path: no case, no underscores, dots for brackets.
fn normal_form(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '_' | '"' | '\'' | ']' => {}
            '[' => normal.push('.'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    normal
}

/// `health_check.http` as manifests write it: `healthCheck.http`. Environment-like names in capitals stay.
fn camel_path(path: &str) -> String {
    let mut camel = String::with_capacity(path.len());
    let mut chars = path.chars().peekable();
    let mut previous = '.';
    while let Some(c) = chars.next() {
        match chars.peek().copied() {
            Some(next) if c == '_' && previous.is_ascii_lowercase() && next.is_ascii_lowercase() => {
                camel.push(next.to_ascii_uppercase());
                chars.next();
                previous = next;
            }
            _ => {
                camel.push(c);
                previous = c;
            }
        }
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_in_either_spelling_and_else_around() {
        let mut positions = Positions::new(Position::START);
        let place = |line| Position { line, column: 3, ..Position::START };
        positions.record("spec", "spec", place(2));
        positions.record("spec.services[0]", "spec.services[0]", place(4));
        positions.record("spec.services[0].health_check", "spec.services[0].healthCheck", place(5));
        positions.record("spec.services[0].env.MY_VAR", "spec.services[0].env.MY_VAR", place(6));
        let found = |path| {
            let found = positions.locate(path);
            (found.position.line, found.path)
        };
        assert_eq!(found("spec.services[0].health_check"), (5, "spec.services[0].healthCheck".into()));
        assert_eq!(found("app.spec.services[0].healthCheck"), (5, "spec.services[0].healthCheck".into()));
        assert_eq!(found("spec.services[0].env[\"MY_VAR\"]"), (6, "spec.services[0].env.MY_VAR".into()));
        assert_eq!(found("spec.services[0].depends_on[1]"), (4, "spec.services[0].dependsOn[1]".into()));
        assert_eq!(found("metadata.name"), (1, "metadata.name".into()));
    }
}
