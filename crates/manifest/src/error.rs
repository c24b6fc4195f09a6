//! What is wrong with a manifest, with the place of each fault.

use std::fmt;

use crate::position::Position;

/// Most errors told of one file.
pub const ERRORS_MAX: usize = 20;

/// One thing to mend. Displays as `file.yaml:12:7: spec.services[0].container.imge: unknown field; did you mean "image"?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The file, as the caller named it.
    pub file: String,
    /// Where in the file.
    pub position: Position,
    /// The field, as it was written. Empty when the fault is in the text itself.
    pub path: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.position)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with one file, in the order of the text: at least one, at most [`ERRORS_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestErrors {
    /// The errors.
    pub errors: Vec<ManifestError>,
    /// How many more there were.
    pub omitted: usize,
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}

/// Collects the errors of one file, or of several that are read together.
#[derive(Debug)]
pub struct ErrorSink {
    /// By [`Position::source`].
    files: Vec<String>,
    errors: Vec<ManifestError>,
    omitted: usize,
}

impl ErrorSink {
    /// For the file that errors call `file`, which is source 0.
    pub fn new(file: &str) -> Self {
        Self { files: vec![file.to_owned()], errors: Vec::new(), omitted: 0 }
    }

    /// One more file: its source.
    pub fn add_file(&mut self, file: &str) -> u16 {
        let source = u16::try_from(self.files.len()).unwrap_or(u16::MAX);
        self.files.push(file.to_owned());
        source
    }

    /// How errors call the files, by their sources.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// Takes an error; beyond [`ERRORS_MAX`] they are only counted.
    pub fn add(&mut self, position: Position, path: &str, message: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            let file = self.files.get(usize::from(position.source)).cloned().unwrap_or_default();
            let path = shorten(path, PATH_CHARS_MAX);
            self.errors.push(ManifestError { file, position, path, message: message.into() });
        } else {
            self.omitted += 1;
        }
    }

    /// How many there are, told or not.
    pub fn count(&self) -> usize {
        self.errors.len() + self.omitted
    }

    /// `value`, if nothing is wrong.
    pub fn finish<T>(mut self, value: T) -> Result<T, ManifestErrors> {
        if self.errors.is_empty() {
            return Ok(value);
        }
        self.errors.sort_by_key(|error| error.position);
        Err(ManifestErrors { errors: self.errors, omitted: self.omitted })
    }
}

/// Longest path that is printed: map keys come from the text and may be as long as it.
const PATH_CHARS_MAX: usize = 200;

/// The first `max` characters of `text`, with `...` for the rest.
pub fn shorten(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
