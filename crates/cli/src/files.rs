//! Files that `-f` names: read whole, bounded, in a stable order.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use skerry_manifest::{FILE_BYTES_MAX, Manifest, Project, parse};

use crate::error::CliError;

/// Most files that one command reads.
const FILES_MAX: usize = 1_024;

/// A manifest and the file that it is from.
#[derive(Debug, Clone)]
pub(crate) struct Sourced {
    pub(crate) file: String,
    pub(crate) manifest: Manifest,
}

/// Reads everything that the arguments name. All faults of all files are told at once.
pub(crate) fn read_all(names: &[String], project: &Project) -> Result<Vec<Sourced>, CliError> {
    let mut manifests = Vec::new();
    let mut faults = Vec::new();
    for (name, bytes) in read_bytes(names)? {
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
        return Err(CliError::Usage(format!("there is no manifest in {}", names.join(", "))));
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

fn read_bytes(names: &[String]) -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let mut files = Vec::new();
    for name in names {
        if name == "-" {
            files.push(("stdin".to_owned(), bounded("stdin", std::io::stdin().lock())?));
            continue;
        }
        let path = Path::new(name);
        let found = if path.is_dir() { manifests_in(path)? } else { vec![path.to_owned()] };
        if files.len() + found.len() > FILES_MAX {
            return Err(CliError::Usage(format!("more than {FILES_MAX} files")));
        }
        for path in found {
            let shown = path.display().to_string();
            let file = std::fs::File::open(&path).map_err(|error| unreadable(&shown, &error))?;
            files.push((shown.clone(), bounded(&shown, file)?));
        }
    }
    Ok(files)
}

/// The manifests of a directory, by name; not of those below it.
fn manifests_in(directory: &Path) -> Result<Vec<PathBuf>, CliError> {
    let shown = directory.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| unreadable(&shown, &error))? {
        let path = entry.map_err(|error| unreadable(&shown, &error))?.path();
        let is_manifest =
            path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json");
        if is_manifest && path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(CliError::Usage(format!("there is no *.yaml, *.yml or *.json in {shown}")));
    }
    found.sort();
    Ok(found)
}

/// Reads one byte more than is allowed, so that the parser says what is too long; never more.
fn bounded(name: &str, source: impl Read) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    source.take(limit).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
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

    fn node(name: &str) -> String {
        format!("apiVersion: skerry/v1\nkind: Node\nmetadata: {{name: {name}}}\n")
    }

    #[test]
    fn a_directory_is_read_by_name_and_its_other_files_are_not() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("b.yaml"), node("b")).expect("written");
        std::fs::write(directory.path().join("a.yml"), node("a")).expect("written");
        std::fs::write(directory.path().join("notes.txt"), "{{{").expect("written");
        let read = read_all(&[directory.path().display().to_string()], &project()).expect("read");
        let names: Vec<_> = read.iter().map(|s| s.manifest.resource.name()).collect();
        assert_eq!(names, ["projects/default/nodes/a", "projects/default/nodes/b"]);
    }

    #[test]
    fn faults_of_all_files_are_told_together() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("a.yaml"), "kind: Node").expect("written");
        std::fs::write(directory.path().join("b.yaml"), "[").expect("written");
        let Err(CliError::Manifest(faults)) = read_all(&[directory.path().display().to_string()], &project())
        else {
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
        let refused =
            |names: &[String]| read_all(names, &project()).expect_err("refused").text().expect("printed");
        let twice = write("a.yaml", node("a") + "---\n" + &node("a"));
        assert!(refused(&[twice]).contains("projects/default/nodes/a is given twice"));
        assert!(refused(&[write("e.yaml", String::new())]).contains("there is no manifest in"));
        assert!(refused(&["/nonexistent/x.yaml".into()]).contains("cannot read /nonexistent/x.yaml"));
    }
}
