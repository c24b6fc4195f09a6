//! Compose files in memory.

#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skerry_compose::{Bundle, File, Files, Request, read};
use skerry_manifest::{Project, Resource};
use skerry_model::ProjectName;
use skerry_proto::scheduler::v1::{ConfigSpec, SecretSpec};
use skerry_proto::types::v1::{AppSpec, Container, ServiceSpec, service_spec};

/// Where the files are.
pub(crate) const DIRECTORY: &str = "/project";

/// Files below [`DIRECTORY`], and an environment.
#[derive(Debug, Default, Clone)]
pub(crate) struct World {
    files: BTreeMap<PathBuf, Vec<u8>>,
    environment: BTreeMap<String, String>,
    env_file: Option<String>,
    profiles: Vec<String>,
}

impl World {
    pub(crate) fn file(mut self, name: &str, content: &str) -> Self {
        self.files.insert(Path::new(DIRECTORY).join(name), content.as_bytes().to_vec());
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn env_file(self, content: &str) -> Self {
        Self { env_file: Some(content.to_owned()), ..self }
    }

    pub(crate) fn profile(mut self, name: &str) -> Self {
        self.profiles.push(name.to_owned());
        self
    }

    /// What the texts become, which are `1.yml`, `2.yml` and so on.
    pub(crate) fn bundle(&self, texts: &[&str]) -> Result<Bundle, Vec<String>> {
        let file = |(n, text): (usize, &&str)| File {
            name: format!("{}.yml", n + 1),
            bytes: text.as_bytes().to_vec(),
        };
        let project = Project::Default(ProjectName::parse("default").expect("a name"));
        let request = Request {
            files: texts.iter().enumerate().map(file).collect(),
            directory: PathBuf::from(DIRECTORY),
            env_files: self
                .env_file
                .iter()
                .map(|text| File { name: ".env".to_owned(), bytes: text.clone().into_bytes() })
                .collect(),
            environment: self.environment.clone(),
            profiles: self.profiles.clone(),
            app: Some("shop"),
            project: &project,
        };
        read(&request, self).map_err(|errors| errors.to_string().lines().map(str::to_owned).collect())
    }

    pub(crate) fn read(&self, texts: &[&str]) -> Read {
        let bundle = self.bundle(texts).unwrap_or_else(|errors| panic!("{errors:#?}"));
        Read::of(bundle)
    }

    pub(crate) fn errors(&self, texts: &[&str]) -> Vec<String> {
        match self.bundle(texts) {
            Ok(bundle) => panic!("it was taken: {:?}", bundle.warnings),
            Err(errors) => errors,
        }
    }
}

impl Files for World {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.files.get(path).cloned().ok_or_else(|| "no such file".to_owned())
    }
}

/// What a bundle has.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) app: AppSpec,
    pub(crate) configs: BTreeMap<String, ConfigSpec>,
    pub(crate) secrets: BTreeMap<String, SecretSpec>,
    pub(crate) warnings: Vec<String>,
}

impl Read {
    fn of(bundle: Bundle) -> Self {
        let warnings = bundle.warnings.iter().map(ToString::to_string).collect();
        let mut this =
            Self { app: AppSpec::default(), configs: BTreeMap::new(), secrets: BTreeMap::new(), warnings };
        for manifest in bundle.manifests {
            let name = manifest.resource.name().rsplit('/').next().unwrap_or_default().to_owned();
            match manifest.resource {
                Resource::App(app) => this.app = app.spec.expect("a spec"),
                Resource::Config(config) => drop(this.configs.insert(name, config.spec.expect("a spec"))),
                Resource::Secret(secret) => drop(this.secrets.insert(name, secret.spec.expect("a spec"))),
                other => panic!("{other:?}"),
            }
        }
        this
    }

    pub(crate) fn service(&self, name: &str) -> &ServiceSpec {
        self.app
            .services
            .iter()
            .find(|service| service.name == name)
            .unwrap_or_else(|| panic!("no {name}: {:?}", self.app))
    }

    pub(crate) fn container(&self, name: &str) -> &Container {
        match &self.service(name).program {
            Some(service_spec::Program::Container(container)) => container,
            other => panic!("{other:?}"),
        }
    }

    /// Warnings, but for that which each service without `restart` brings.
    pub(crate) fn warned(&self) -> Vec<&str> {
        self.warnings
            .iter()
            .map(String::as_str)
            .filter(|text| !text.contains(".restart: nothing is said"))
            .collect()
    }
}

/// The one service `a` with these lines.
pub(crate) fn one(lines: &str) -> String {
    let indented: Vec<String> = lines.lines().map(|line| format!("    {line}\n")).collect();
    let indented = indented.concat();
    format!("services:\n  a:\n    image: busybox:1\n{indented}")
}

/// What these lines of one service become.
pub(crate) fn read_one(lines: &str) -> Read {
    World::default().read(&[&one(lines)])
}

/// What is wrong with these lines of one service.
pub(crate) fn errors_of(lines: &str) -> Vec<String> {
    World::default().errors(&[&one(lines)])
}
