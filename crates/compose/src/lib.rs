//! Compose files as apps: version 3 and the Compose specification.
//!
//! Text and environment in, an `App` with the `Config`s and `Secret`s that the files bring out. What cannot be taken is a fault with file, line and
//! column; what can safely be left out is a warning with them; nothing is dropped in silence. What Compose has no word for, as health checks over
//! HTTP or the nodes of an app, is written below `x-skerry`, in the words of manifests.
//!
//! No I/O: files are read by [`Files`], relative to the project directory as Compose does. What apps may say is `skerry-model`'s matter: its
//! rules are held against what was read, and their faults have the places of the Compose file.

mod app;
mod contents;
mod context;
mod deploy;
pub mod dotenv;
mod gpus;
mod health;
pub mod interpolate;
mod keys;
mod load;
mod merge;
mod mounts;
mod names;
mod networks;
mod ports;
mod service;
mod units;
pub mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use skerry_manifest::{ErrorSink, Manifest, ManifestErrors, Position, Project};

use context::{Context, Field};

pub use load::FILES_MAX;

/// What Compose chooses profiles by, beside the flag.
const PROFILES: &str = "COMPOSE_PROFILES";

/// A file with its content.
#[derive(Debug, Clone)]
pub struct File {
    /// How faults call it.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// What is read.
#[derive(Debug)]
pub struct Request<'a> {
    /// The Compose files, each over those before it. At least one.
    pub files: Vec<File>,
    /// What paths in them are relative to.
    pub directory: PathBuf,
    /// `.env`, or what stands in its place; a later one over an earlier one.
    pub env_files: Vec<File>,
    /// The environment of who applies. It counts before the files.
    pub environment: BTreeMap<String, String>,
    /// Profiles that are chosen, beside those of `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
    /// The name of the app; else that of the file.
    pub app: Option<&'a str>,
    /// Whose it is.
    pub project: &'a Project,
}

/// The files that Compose files name.
pub trait Files: fmt::Debug {
    /// All of a file. At most [`skerry_manifest::FILE_BYTES_MAX`] and one byte of it are looked at.
    ///
    /// # Errors
    /// Why it cannot be read, for people.
    fn read(&self, path: &Path) -> Result<Vec<u8>, String>;
}

/// Something that is not as the file says, which is safe. Displays as `file.yml:12:7: services.web.container_name: ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub file: String,
    /// Where in the file.
    pub position: Position,
    /// The field, as it was written.
    pub path: String,
    /// What it is instead.
    pub message: String,
    /// At how many further places the same is so.
    pub more: usize,
    places: Vec<Position>,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.position, self.path, self.message)?;
        match self.more {
            0 => Ok(()),
            1 => f.write_str(" (and in 1 more place)"),
            more => write!(f, " (and in {more} more places)"),
        }
    }
}

/// What was read.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The configs and secrets, and the app, which is the last.
    pub manifests: Vec<Manifest>,
    /// What is not as the files say.
    pub warnings: Vec<Warning>,
}

/// Reads Compose files.
///
/// # Errors
/// All faults, by file and line.
pub fn read(request: &Request<'_>, files: &dyn Files) -> Result<Bundle, ManifestErrors> {
    let first = request.files.first().map_or("compose.yaml", |file| file.name.as_str()).to_owned();
    let mut cx = Context {
        errors: ErrorSink::new(&first),
        warnings: Vec::new(),
        files,
        directories: vec![request.directory.clone()],
        environment: Rc::new(BTreeMap::new()),
    };
    cx.environment = Rc::new(environment(&mut cx, request));
    let mut profiles = request.profiles.clone();
    let named = cx.environment.get(PROFILES).cloned().unwrap_or_default();
    profiles.extend(named.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
    let tree = load::Loader::new(&mut cx).load(&request.files, &request.directory);
    let mut manifests = Vec::new();
    match tree {
        // What was not read well would only be blamed again.
        Some(tree) if cx.errors.count() == 0 => {
            manifests = app::build(&mut cx, &Field::root(&tree), request.app, request.project, &profiles);
        }
        None if cx.errors.count() == 0 => {
            cx.errors.add(Position::START, "", "there is nothing in this file");
        }
        _ => {}
    }
    let warnings = cx.warnings;
    cx.errors.finish(Bundle { manifests, warnings })
}

/// The variables of the files, and over them those of who applies.
fn environment(cx: &mut Context<'_>, request: &Request<'_>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in &request.env_files {
        let source = cx.errors.add_file(&file.name);
        cx.directories.push(request.directory.clone());
        let Some(text) = skerry_manifest::check_text(&file.bytes, source, &mut cx.errors) else { continue };
        let lookup = |name: &str| request.environment.get(name).or_else(|| all.get(name)).cloned();
        match dotenv::read(text, &lookup) {
            Ok(read) => all.extend(read.into_iter().filter_map(|one| Some((one.name, one.value?)))),
            Err((line, why)) => cx.errors.add(Position { source, line, column: 1 }, "", why),
        }
    }
    all.extend(request.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}
