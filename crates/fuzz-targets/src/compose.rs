//! Compose files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skerry_compose::{File, Files, Request, dotenv, read};
use skerry_manifest::{Project, output, parse};
use skerry_model::ProjectName;

/// What divides an input: the Compose file, a file over it, and one that they may name.
const DIVIDER: &[u8] = b"\n===\n";

/// Every file that is named is the same.
#[derive(Debug)]
struct Same(Vec<u8>);

impl Files for Same {
    fn read(&self, _: &Path) -> Result<Vec<u8>, String> {
        Ok(self.0.clone())
    }
}

/// Compose files. A refusal says why; what is taken keeps the rules of manifests, and is written and read again as the same.
pub fn compose(input: &[u8]) {
    let mut parts = split(input);
    let named = Same(if parts.len() > 2 { parts.pop().unwrap_or_default() } else { b"A=1\n".to_vec() });
    let project = Project::Default(ProjectName::parse("default").expect("a name"));
    let files =
        parts.into_iter().enumerate().map(|(n, bytes)| File { name: format!("{n}.yml"), bytes }).collect();
    let request = Request {
        files,
        directory: PathBuf::from("/project"),
        env_files: vec![File { name: ".env".to_owned(), bytes: named.0.clone() }],
        environment: BTreeMap::from([("TAG".to_owned(), "1".to_owned())]),
        profiles: vec!["*".to_owned()],
        app: Some("app"),
        project: &project,
    };
    match read(&request, &named) {
        Ok(bundle) => {
            assert!(
                bundle.warnings.iter().all(|warning| !warning.message.is_empty() && !warning.file.is_empty())
            );
            for manifest in bundle.manifests {
                let value = output::resource(&manifest.resource);
                let text = value.to_yaml();
                let again =
                    parse("again.yaml", text.as_bytes(), &project).expect("what is written can be read");
                assert_eq!(output::resource(&again[0].resource).to_json(), value.to_json(), "{text}");
            }
        }
        Err(errors) => assert!(errors.errors.iter().all(|error| !error.message.is_empty())),
    }
}

/// At most three parts.
fn split(input: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut rest = input;
    while parts.len() < 2 {
        let Some(at) = rest.windows(DIVIDER.len()).position(|window| window == DIVIDER) else { break };
        parts.push(rest[..at].to_vec());
        rest = &rest[at + DIVIDER.len()..];
    }
    parts.push(rest.to_vec());
    parts
}

/// Environment files. What is read has names, and lines of the text.
pub fn env_files(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let lines = text.matches('\n').count() + 1;
    let lookup = |name: &str| (name == "HOME").then(|| "/root".to_owned());
    for read in [dotenv::read(text, &lookup), dotenv::read_raw(text)] {
        match read {
            Ok(variables) => {
                assert!(variables.iter().all(|one| !one.name.is_empty() && (1..=lines).contains(&one.line)));
            }
            Err((line, why)) => assert!((1..=lines).contains(&line) && !why.is_empty()),
        }
    }
}
