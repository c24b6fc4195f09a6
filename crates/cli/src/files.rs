//! Files that `-f` names: read whole, bounded, in a stable order.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use skerry_manifest::{FILE_BYTES_MAX, Manifest, Project, parse};

use crate::args::ComposeFlags;
use crate::compose_files;
use crate::error::CliError;
use crate::interrupt::while_reading;

/// Most files that one command reads.
const FILES_MAX: usize = 1_024;
/// Deepest directories that are read: links may go round in a circle.
const DEPTH_MAX: usize = 32;

/// What `-f` names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) names: &'a [String],
    /// Directories with all that is below them.
    pub(crate) recursive: bool,
    /// What makes an app of Compose files.
    pub(crate) compose: &'a ComposeFlags,
}

/// A manifest and the file that it is from.
#[derive(Debug, Clone)]
pub(crate) struct Sourced {
    pub(crate) file: String,
    pub(crate) manifest: Manifest,
}

/// Reads everything that the arguments name. All faults of all files are told at once.
pub(crate) fn read_all(named: Named<'_>, project: &Project) -> Result<Vec<Sourced>, CliError> {
    if named.compose.as_app.is_some() {
        if named.recursive {
            return Err(CliError::Usage(
                "-R looks for manifests, and --as-app takes -f for Compose files: name each of them".into(),
            ));
        }
        return compose_files::read(named.names, named.compose, project);
    }
    if let Some(flag) = named.compose.stray() {
        return Err(CliError::Usage(format!(
            "{flag} is for Compose files, which --as-app NAME makes an app of"
        )));
    }
    let mut manifests = Vec::new();
    let mut faults = Vec::new();
    for (name, bytes) in read_bytes(named)? {
        match parse(&name, &bytes, project) {
            Ok(read) => {
                manifests.extend(read.into_iter().map(|manifest| Sourced { file: name.clone(), manifest }));
            }
            Err(errors) => faults.push(errors),
        }
    }
    if !faults.is_empty() {
        return Err(CliError::Manifest(faults));
    }
    if manifests.is_empty() {
        return Err(CliError::Usage(format!("there is no manifest in {}", named.names.join(", "))));
    }
    refuse_duplicates(&manifests)?;
    Ok(manifests)
}

fn refuse_duplicates(manifests: &[Sourced]) -> Result<(), CliError> {
    let mut seen: HashMap<&str, &Sourced> = HashMap::new();
    for sourced in manifests {
        let name = sourced.manifest.resource.name();
        if let Some(first) = seen.insert(name, sourced) {
            let place = |s: &Sourced| format!("{}:{}", s.file, s.manifest.positions.root());
            return Err(CliError::Usage(format!(
                "{name} is given twice: {} and {}",
                place(first),
                place(sourced)
            )));
        }
    }
    Ok(())
}

fn read_bytes(named: Named<'_>) -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let mut files = Vec::new();
    for name in named.names {
        if name == "-" {
            files.push(("stdin".to_owned(), bounded("stdin", std::io::stdin().lock())?));
            continue;
        }
        let path = Path::new(name);
        let found = if path.is_dir() { manifests_in(path, named.recursive)? } else { vec![path.to_owned()] };
        if files.len() + found.len() > FILES_MAX {
            return Err(too_many_files());
        }
        for path in found {
            let shown = path.display().to_string();
            let file = std::fs::File::open(&path).map_err(|error| unreadable(&shown, &error))?;
            files.push((shown.clone(), bounded(&shown, file)?));
        }
    }
    Ok(files)
}

fn too_many_files() -> CliError {
    CliError::Usage(format!("more than {FILES_MAX} files: apply a part at a time"))
}

/// The manifests of a directory, by name; of those below it only if asked for.
fn manifests_in(directory: &Path, recursive: bool) -> Result<Vec<PathBuf>, CliError> {
    let mut found = Vec::new();
    let mut to_read = vec![(directory.to_owned(), 0)];
    let mut directories_below = false;
    while let Some((directory, depth)) = to_read.pop() {
        let shown = directory.display().to_string();
        if depth > DEPTH_MAX {
            return Err(CliError::Usage(format!(
                "{shown} is deeper than {DEPTH_MAX} directories: a link in a circle?"
            )));
        }
        for entry in std::fs::read_dir(&directory).map_err(|error| unreadable(&shown, &error))? {
            let path = entry.map_err(|error| unreadable(&shown, &error))?.path();
            if path.is_dir() {
                directories_below = true;
                if recursive {
                    to_read.push((path, depth + 1));
                }
            } else if is_manifest(&path) && path.is_file() {
                found.push(path);
            }
            if found.len() + to_read.len() > FILES_MAX {
                return Err(too_many_files());
            }
        }
    }
    if found.is_empty() {
        let below =
            if directories_below && !recursive { "; -R looks in the directories below it too" } else { "" };
        return Err(CliError::Usage(format!(
            "there is no *.yaml, *.yml or *.json in {}{below}",
            directory.display()
        )));
    }
    found.sort();
    Ok(found)
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json")
}

/// A small text file that a flag names.
pub(crate) fn read_text(name: &str) -> Result<String, String> {
    let file = std::fs::File::open(name).map_err(|error| format!("cannot read {name}: {error}"))?;
    let bytes = bounded(name, file).map_err(|error| error.summary())?;
    String::from_utf8(bytes).map_err(|_| format!("{name} is not UTF-8 text"))
}

/// Reads one byte more than is allowed, so that the parser says what is too long; never more.
pub(crate) fn bounded(name: &str, source: impl Read) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    while_reading(|| source.take(limit).read_to_end(&mut bytes)).map_err(|error| unreadable(name, &error))?;
    Ok(bytes)
}

fn unreadable(name: &str, error: &std::io::Error) -> CliError {
    CliError::Usage(format!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use skerry_model::ProjectName;

    use super::*;

    fn project() -> Project {
        Project::Default(ProjectName::parse("default").expect("valid"))
    }

    fn read(names: &[String]) -> Result<Vec<Sourced>, CliError> {
        read_all(Named { names, recursive: false, compose: &ComposeFlags::default() }, &project())
    }

    fn node(name: &str) -> String {
        format!("apiVersion: skerry/v1\nkind: Node\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn a_directory_is_read_by_name_and_its_other_files_are_not() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("b.yaml"), node("b")).expect("written");
        std::fs::write(directory.path().join("a.yml"), node("a")).expect("written");
        std::fs::write(directory.path().join("notes.txt"), "{{{").expect("written");
        let read = read(&[directory.path().display().to_string()]).expect("read");
        let names: Vec<_> = read.iter().map(|s| s.manifest.resource.name()).collect();
        assert_eq!(names, ["projects/default/nodes/a", "projects/default/nodes/b"]);
    }

    #[test]
    fn faults_of_all_files_are_told_together() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("a.yaml"), "kind: Node").expect("written");
        std::fs::write(directory.path().join("b.yaml"), "[").expect("written");
        let Err(CliError::Manifest(faults)) = read(&[directory.path().display().to_string()]) else {
            panic!("refused")
        };
        assert_eq!(faults.len(), 2);
    }

    #[test]
    fn duplicates_absent_and_empty_files_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let refused = |names: &[String]| read(names).expect_err("refused").text().expect("printed");
        let twice = write("a.yaml", node("a") + "---\n" + &node("a"));
        assert!(refused(&[twice]).contains("projects/default/nodes/a is given twice"));
        assert!(refused(&[write("e.yaml", String::new())]).contains("there is no manifest in"));
        assert!(refused(&["/nonexistent/x.yaml".into()]).contains("cannot read /nonexistent/x.yaml"));
    }

    #[test]
    fn directories_below_are_read_only_when_asked_for_and_circles_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let below = directory.path().join("x/y");
        std::fs::create_dir_all(&below).expect("made");
        std::fs::write(below.join("b.yaml"), node("b")).expect("written");
        let names = [directory.path().display().to_string()];
        let refused = read(&names).expect_err("none").text().expect("printed");
        assert!(refused.contains("-R looks in the directories below it too"), "{refused}");
        let all = || {
            read_all(Named { names: &names, recursive: true, compose: &ComposeFlags::default() }, &project())
        };
        assert_eq!(all().expect("read").len(), 1);
        std::os::unix::fs::symlink(directory.path(), below.join("round")).expect("linked");
        assert!(all().expect_err("a circle").text().expect("printed").contains("a link in a circle"));
    }
}
