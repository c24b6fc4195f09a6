//! Credentials of image registries: the node's own, from the file that `docker login` writes.
//!
//! The file is read at each pull, so that a login counts at once and no password stays in memory. Only its `auths` are used: helpers that it
//! names are programs, which this agent does not run. Neither a password nor what is derived of one is ever logged.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde_json::Value;
use skerry_model::SecretName;
use skerry_proto::types::v1::ImageCredentials;

use crate::runtime::RuntimeError;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The registry of images that name none, and what it is called in the file.
const HUB: (&str, &str) = ("docker.io", "index.docker.io");

/// Where credentials are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialsFile {
    /// Nowhere.
    None,
    /// Somebody named it: it must be there.
    Named(PathBuf),
    /// Its usual place: it need not be there.
    Usual(PathBuf),
}

impl CredentialsFile {
    /// `named`, else `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
    pub fn find(named: Option<PathBuf>) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let usual = || set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")));
        match named {
            Some(path) => Self::Named(path),
            None => usual().map_or(Self::None, |dir| Self::Usual(dir.join("config.json"))),
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::Named(path) | Self::Usual(path) => Some(path),
        }
    }

    /// The credentials for the registry of `image`, if the file has some. Blocks.
    pub(super) fn of_image(&self, image: &str) -> Result<Option<DockerCredentials>, RuntimeError> {
        let Some(path) = self.path() else { return Ok(None) };
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && matches!(self, Self::Usual(_)) => {
                return Ok(None);
            }
            Err(error) => return Err(unreadable(path, &error.to_string())),
        };
        parse(&text, registry(image)).map_err(|why| unreadable(path, &why))
    }

    /// What a refusal by the registry of `image` says of where credentials came from.
    pub(super) fn describe(&self, image: &str, given: bool) -> String {
        let registry = registry(image);
        match (self.path(), given) {
            (Some(path), true) => format!("the credentials for {registry} are those of {}", path.display()),
            (Some(path), false) => {
                format!("there are no credentials for {registry} in {}: use docker login", path.display())
            }
            (None, _) => format!("there are no credentials for {registry}: name a file with --docker-config"),
        }
    }
}

/// What may be shown to registries: the credentials in a secret that the service names, else the machine's.
#[derive(Debug, Clone)]
pub(super) struct Logins {
    pub(super) file: CredentialsFile,
    pub(super) secret: Option<(SecretName, ImageCredentials)>,
}

impl Logins {
    /// The credentials for the registry of `image`, if there are some. Blocks.
    pub(super) fn of_image(&self, image: &str) -> Result<Option<DockerCredentials>, RuntimeError> {
        match &self.secret {
            Some((_, secret)) if host_of(&secret.registry) == registry(image) => {
                Ok(Some(DockerCredentials {
                    username: Some(secret.username.clone()),
                    password: Some(secret.password.clone()),
                    serveraddress: Some(registry(image).to_owned()),
                    ..DockerCredentials::default()
                }))
            }
            _ => self.file.of_image(image),
        }
    }

    /// What a refusal by the registry of `image` says of where credentials came from.
    pub(super) fn describe(&self, image: &str, given: bool) -> String {
        match &self.secret {
            Some((name, secret)) if host_of(&secret.registry) == registry(image) => {
                format!("the credentials for {} are those of secret `{name}`", registry(image))
            }
            Some((name, secret)) => {
                let file = self.file.describe(image, given);
                format!("secret `{name}` is for {}, not for {}; {file}", secret.registry, registry(image))
            }
            None => self.file.describe(image, given),
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn unreadable(path: &Path, why: &str) -> RuntimeError {
    RuntimeError {
        reason: "CredentialsUnreadable",
        message: format!("reading credentials of registries from {}: {why}", path.display()),
        transient: false,
    }
}

/// The registry that an image reference names, as Docker reads it: the first part, if it looks like a host.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB.0,
    }
}

/// Names of registries in the file have a scheme and a path, or not.
fn host_of(key: &str) -> &str {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or(bare);
    if host == HUB.1 { HUB.0 } else { host }
}

/// The credentials for `registry` in the text of such a file. Errors quote nothing of it.
fn parse(text: &str, registry: &str) -> Result<Option<DockerCredentials>, String> {
    let file: Value = serde_json::from_str(text)
        .map_err(|error| format!("not JSON: line {}, column {}", error.line(), error.column()))?;
    let auths: BTreeMap<&str, &Value> = file["auths"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| host_of(key) == registry)
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    // The bare name before one with a scheme or path.
    let entry = auths.get(registry).or_else(|| auths.values().next());
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let credentials = entry.map(|entry| -> Result<_, String> {
        let (mut username, mut password) = (text(&entry["username"]), text(&entry["password"]));
        if let Some(auth) = text(&entry["auth"]) {
            let wrong = || format!("auth of {registry} is not the Base64 of user:password");
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| wrong())?;
            let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
            let (user, word) = decoded.split_once(':').ok_or_else(wrong)?;
            (username, password) = (Some(user.to_owned()), Some(word.trim_end_matches('\0').to_owned()));
        }
        let identitytoken = text(&entry["identitytoken"]);
        let registrytoken = text(&entry["registrytoken"]);
        let any = username.is_some() || identitytoken.is_some() || registrytoken.is_some();
        Ok(any.then(|| DockerCredentials {
            username,
            password,
            identitytoken,
            registrytoken,
            serveraddress: Some(registry.to_owned()),
            ..DockerCredentials::default()
        }))
    });
    let helped = file["credHelpers"].get(registry).is_some() || text(&file["credsStore"]).is_some();
    match credentials.transpose()?.flatten() {
        None if helped => Err(format!(
            "the credentials for {registry} are kept by a helper, which the agent does not run: put them below auths"
        )),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_of_an_image_is_the_one_that_docker_asks() {
        for (image, expected) in [
            ("web", "docker.io"),
            ("team/web:1", "docker.io"),
            ("docker.io/library/web", "docker.io"),
            ("localhost/web", "localhost"),
            ("r.example/web@sha256:00", "r.example"),
            ("127.0.0.1:5000/team/web:1", "127.0.0.1:5000"),
        ] {
            assert_eq!(registry(image), expected, "{image}");
        }
    }

    fn login(text: &str, registry: &str) -> Option<(String, String)> {
        let found = parse(text, registry).unwrap()?;
        Some((found.username.unwrap(), found.password.unwrap()))
    }

    #[test]
    fn credentials_are_found_however_the_registry_is_written() {
        // me:pass:word
        let file = |key: &str| format!(r#"{{"auths": {{"{key}": {{"auth": "bWU6cGFzczp3b3Jk"}}}}}}"#);
        let expected = Some(("me".to_owned(), "pass:word".to_owned()));
        for key in ["r.example:5000", "https://r.example:5000", "http://r.example:5000/v2/"] {
            assert_eq!(login(&file(key), "r.example:5000"), expected, "{key}");
            assert_eq!(login(&file(key), "r.example"), None, "{key}");
        }
        assert_eq!(login(&file("https://index.docker.io/v1/"), "docker.io"), expected);
        let plain = r#"{"auths": {"r.example": {"username": "u", "password": "p"}}, "credsStore": ""}"#;
        assert_eq!(login(plain, "r.example"), Some(("u".into(), "p".into())));
        assert_eq!(login("{}", "r.example"), None);
        assert_eq!(login(r#"{"auths": {"r.example": {}}}"#, "r.example"), None);
    }

    #[test]
    fn what_is_wrong_is_said_without_quoting_a_secret() {
        let cases = [
            (r#"{"auths": hunter2}"#, "not JSON"),
            (r#"{"auths": {"r.example": {"auth": "hunter2!"}}}"#, "not the Base64"),
            (r#"{"auths": {"r.example": {"auth": "aHVudGVyMg=="}}}"#, "not the Base64"),
            (r#"{"auths": {"r.example": {}}, "credsStore": "hunter2"}"#, "by a helper"),
            (r#"{"credHelpers": {"r.example": "hunter2"}}"#, "by a helper"),
        ];
        for (text, expected) in cases {
            let error = parse(text, "r.example").unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn only_a_file_that_somebody_named_must_be_there() {
        let absent = PathBuf::from("/nosuch/config.json");
        assert!(CredentialsFile::Usual(absent.clone()).of_image("web").unwrap().is_none());
        let error = CredentialsFile::Named(absent).of_image("web").unwrap_err();
        assert_eq!((error.reason, error.transient), ("CredentialsUnreadable", false));
    }
}
