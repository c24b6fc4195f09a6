//! Compose files that `-f` names: read with all that they name, and what is not as they say told on stderr.

use std::collections::BTreeMap;
use std::fs::File as OpenFile;
use std::path::{Path, PathBuf};

use skerry_compose::{File, Files, Request};
use skerry_manifest::Project;

use crate::args::ComposeFlags;
use crate::error::CliError;
use crate::files::{Sourced, bounded};
use crate::print::note;

/// The files of this machine.
#[derive(Debug)]
struct OfMachine;

impl Files for OfMachine {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        if path.is_dir() {
            return Err("it is a directory".to_owned());
        }
        let file = OpenFile::open(path).map_err(|error| error.to_string())?;
        bounded(&path.display().to_string(), file).map_err(|error| error.summary())
    }
}

/// The manifests of Compose files, which are `names` one over the other.
pub(crate) fn read(
    names: &[String],
    flags: &ComposeFlags,
    project: &Project,
) -> Result<Vec<Sourced>, CliError> {
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        files.push(if name == "-" {
            File { name: "stdin".to_owned(), bytes: bounded("stdin", std::io::stdin().lock())? }
        } else {
            file(Path::new(name))?
        });
    }
    let directory = directory(names, flags)?;
    let usual = directory.join(".env");
    let env_files =
        if flags.env_files.is_empty() && usual.is_file() { vec![usual] } else { flags.env_files.clone() };
    let first = files.first().map(|file| file.name.clone()).unwrap_or_default();
    let request = Request {
        files,
        directory,
        env_files: env_files.iter().map(|path| file(path)).collect::<Result<_, _>>()?,
        environment: environment(),
        profiles: flags.profiles.clone(),
        app: flags.as_app.as_deref(),
        project,
    };
    let bundle =
        skerry_compose::read(&request, &OfMachine).map_err(|errors| CliError::Manifest(vec![errors]))?;
    for warning in &bundle.warnings {
        note(&format!("warning: {warning}"));
    }
    Ok(bundle.manifests.into_iter().map(|manifest| Sourced { file: first.clone(), manifest }).collect())
}

fn file(path: &Path) -> Result<File, CliError> {
    let name = path.display().to_string();
    let bytes = OfMachine.read(path).map_err(|why| CliError::Usage(format!("cannot read {name}: {why}")))?;
    Ok(File { name, bytes })
}

/// What paths are relative to: that of the first file, unless a flag says otherwise. Absolute, so that paths in it are.
fn directory(names: &[String], flags: &ComposeFlags) -> Result<PathBuf, CliError> {
    let first = names.first().map(String::as_str).filter(|name| *name != "-").unwrap_or_default();
    let named =
        flags.project_directory.as_deref().or_else(|| Path::new(first).parent()).unwrap_or(Path::new(""));
    let here = std::env::current_dir()
        .map_err(|error| CliError::Usage(format!("cannot tell the current directory: {error}")))?;
    Ok(here.join(named))
}

/// The variables that are text.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use skerry_manifest::Resource;
    use skerry_model::ProjectName;
    use skerry_proto::types::v1::service_spec::Program;

    use super::*;

    fn project() -> Project {
        Project::Default(ProjectName::parse("default").expect("a name"))
    }

    fn images(names: &[String], flags: &ComposeFlags) -> Result<Vec<String>, CliError> {
        let manifests = read(names, flags, &project())?;
        let Some(Resource::App(app)) = manifests.last().map(|sourced| &sourced.manifest.resource) else {
            panic!("the app is the last: {manifests:?}")
        };
        let services = app.spec.clone().unwrap_or_default().services.into_iter();
        Ok(services
            .map(|service| match service.program {
                Some(Program::Container(container)) => container.image,
                other => panic!("{other:?}"),
            })
            .collect())
    }

    #[test]
    fn variables_come_from_the_files_beside_and_from_those_that_a_flag_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let file = put("c.yml", "services: {a: {image: 'x:${SKERRY_TEST_TAG}', env_file: a.env}}");
        put("a.env", "A=1\n");
        put(".env", "SKERRY_TEST_TAG=1\n");
        let other = put("other.env", "SKERRY_TEST_TAG=2\n");
        let names = [file.display().to_string()];
        let flags = ComposeFlags { as_app: Some("shop".to_owned()), ..ComposeFlags::default() };
        assert_eq!(images(&names, &flags).expect("read"), ["x:1"]);
        let named = ComposeFlags { env_files: vec![other], ..flags.clone() };
        assert_eq!(images(&names, &named).expect("read"), ["x:2"]);
        let elsewhere = tempfile::tempdir().expect("a directory");
        let moved = ComposeFlags { project_directory: Some(elsewhere.path().to_owned()), ..flags };
        let error = images(&names, &moved).expect_err("there is no a.env").summary();
        assert!(error.contains("cannot read") && error.contains("a.env"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let flags = ComposeFlags { as_app: Some("shop".to_owned()), ..ComposeFlags::default() };
        let error = images(&["/no/such.yml".to_owned()], &flags).expect_err("refused").summary();
        assert!(error.contains("cannot read /no/such.yml"), "{error}");
        let error = images(&["/".to_owned()], &flags).expect_err("refused").summary();
        assert!(error.contains("it is a directory"), "{error}");
    }
}
