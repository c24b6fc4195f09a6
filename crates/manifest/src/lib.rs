//! Manifests: what people write, as resources of the protocol, and resources as people would write them.
//!
//! A manifest is `apiVersion: skerry/v1`, `kind: App | Config | Secret | Node | User | Group | RoleBinding | Project | Cluster`, `metadata` and `spec`, in YAML or
//! JSON, several in a stream or in a `List`. The body is the protocol's canonical JSON, with the forms that people write: `memory: 512Mi` for `memoryBytes`, `cpu: 500m`
//! for `cpuMillis`, `30s`, `policy: on-failure`. Every fault names file, line, column and field. `status` and the metadata that the
//! server sets (`uid`, `createTime`, `generation`, `etag`) are passed over on input, so that what [`output`] writes can be read again.
//!
//! Stricter than canonical JSON in one point: a field without a value (`null`) is refused, but for lists and maps, where it is
//! empty. `daemonSet:` with nothing below it would else silently mean no `daemonSet`.
//!
//! No I/O: callers read files. The rules on meaning are `skerry-model`'s; this crate finds their lines.

pub mod contexts;
mod decode;
mod descriptors;
mod document;
mod error;
pub mod explain;
mod json;
pub mod output;
mod people;
mod position;
mod resource;
mod scalar;
mod suggest;
pub mod tree;
mod yaml;

#[cfg(test)]
mod tests;

use prost::Message as _;
use skerry_model::ProjectName;

pub use error::{ERRORS_MAX, ErrorSink, ManifestError, ManifestErrors, shorten};
pub use position::{Found, Position, Positions};
pub use resource::{API_VERSION, Kind, Resource};
pub use suggest::nearest;
pub use yaml::read_source as read_yaml;

/// Largest file that is read: twice the largest resource.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Most documents, and most resources, of one file.
pub const DOCUMENTS_MAX: usize = 256;

/// A resource and where its fields stand.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The resource. It keeps the rules of `skerry-model`.
    pub resource: Resource,
    /// Places of its fields, for what a server finds wrong with it.
    pub positions: Positions,
}

/// Which project manifests are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Project {
    /// Taken where a manifest names none.
    Default(ProjectName),
    /// As `Default`, and a manifest that names another is refused.
    Required(ProjectName),
}

impl Project {
    fn name(&self) -> &ProjectName {
        match self {
            Self::Default(name) | Self::Required(name) => name,
        }
    }
}

/// Reads all manifests of one file. `file` is how errors name it; the ending `.json` makes it JSON, else it is YAML, or JSON where
/// it is an object from the first character on.
///
/// # Errors
/// All faults of the file, in the order of the text.
pub fn parse(file: &str, bytes: &[u8], project: &Project) -> Result<Vec<Manifest>, ManifestErrors> {
    let mut errors = ErrorSink::new(file);
    let mut manifests = Vec::new();
    if let Some(text) = check_text(bytes, 0, &mut errors) {
        for document in read_trees(file, text, &mut errors) {
            document::read(&document, project, &mut errors, &mut manifests);
        }
    }
    errors.finish(manifests)
}

/// Part of a resource, as the message `name` of the protocol (`skerry.type.v1.ServiceSpec`), encoded; where each of its fields stands is kept
/// in `positions`, as fields of `known_as`. For manifests within other formats: `written` is how errors call it.
///
/// # Errors
/// Faults go to `errors`; None where there are any.
pub fn fragment(
    name: &str,
    node: &tree::Node,
    known_as: &str,
    written: &str,
    positions: &mut Positions,
    errors: &mut ErrorSink,
) -> Option<Vec<u8>> {
    let message = descriptors::message(name).expect("callers name messages of the protocol");
    let before = errors.count();
    let mut decoder = decode::Decoder::new(errors, node.at);
    let decoded = decoder.within(written, written, node.at, |decoder| decoder.message(&message, node));
    positions.adopt(&decoder.positions, written, known_as);
    decoded.filter(|_| errors.count() == before).map(|decoded| decoded.encode_to_vec())
}

/// The text, if it is one and not too long; faults are of the file `source`.
pub fn check_text<'a>(bytes: &'a [u8], source: u16, errors: &mut ErrorSink) -> Option<&'a str> {
    if bytes.len() > FILE_BYTES_MAX {
        let message = format!("the file is longer than the {FILE_BYTES_MAX} bytes that are read");
        errors.add(Position { source, ..Position::START }, "", message);
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = good.matches('\n').count() + 1;
            let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            errors.add(Position { source, line, column }, "", "not UTF-8 text");
            None
        }
    }
}

fn read_trees(file: &str, text: &str, errors: &mut ErrorSink) -> Vec<std::rc::Rc<tree::Node>> {
    let named_json =
        std::path::Path::new(file).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    if named_json || text.trim_start().starts_with('{') {
        let mut json_errors = ErrorSink::new(file);
        let documents = json::read(text, DOCUMENTS_MAX, &mut json_errors);
        // `{a: b}` is a YAML flow mapping; what looks like JSON and is not may be that.
        if named_json || json_errors.count() == 0 {
            *errors = json_errors;
            return documents;
        }
    }
    yaml::read(text, DOCUMENTS_MAX, errors)
}
