//! From the wire to the files that are downloaded for a process.

use std::collections::BTreeSet;

use skerry_proto::types::v1 as pb;

use crate::Violations;

use super::ConfigMount;
use super::parse::has_parent;

/// Most artifacts of a service.
const ARTIFACTS_MAX: usize = 16;
/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// A file that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// `http://` or `https://`.
    pub url: String,
    /// SHA-256 of the content: 64 hexadecimal digits in lower case.
    pub sha256: String,
    /// Where it is put, relative to the instance's state directory.
    pub path: String,
    /// Whether the file may be executed.
    pub executable: bool,
    /// Whether it is an archive that is unpacked to a directory of that path.
    pub unpack: Option<Unpack>,
}

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// Tar.
    Tar,
    /// Tar, compressed with gzip.
    TarGz,
}

pub(super) fn parse(at: &str, artifacts: &[pb::Artifact], v: &mut Violations) -> Vec<Artifact> {
    if artifacts.len() > ARTIFACTS_MAX {
        v.add(at, format!("{} artifacts are too many: at most {ARTIFACTS_MAX}", artifacts.len()));
    }
    let mut paths: BTreeSet<String> = BTreeSet::new();
    let mut parsed = Vec::with_capacity(artifacts.len());
    for (n, artifact) in artifacts.iter().enumerate() {
        let at = format!("{at}[{n}]");
        let path = normal_path(&artifact.path);
        if path.is_empty() || artifact.path.starts_with('/') || has_parent(&path) || path.contains('\0') {
            v.add(
                format!("{at}.path"),
                "use a path below the instance's state directory, relative to it, without `..`",
            );
        } else if paths.iter().any(|other| overlap(other, &path)) {
            v.add(format!("{at}.path"), format!("`{path}` is taken by another artifact"));
        }
        paths.insert(path.clone());
        if !is_url(&artifact.url) {
            v.add(
                format!("{at}.url"),
                "use http://HOST/PATH or https://HOST/PATH in printable ASCII, without a user or a fragment",
            );
        }
        let sha256 = artifact.sha256.to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            v.add(
                format!("{at}.sha256"),
                "name the SHA-256 of the file, 64 hexadecimal digits: `sha256sum FILE` tells it",
            );
        }
        let unpack = match pb::artifact::Unpack::try_from(artifact.unpack) {
            Ok(pb::artifact::Unpack::Unspecified) => None,
            Ok(pb::artifact::Unpack::Tar) => Some(Unpack::Tar),
            Ok(pb::artifact::Unpack::TarGz) => Some(Unpack::TarGz),
            Err(_) => {
                v.add(format!("{at}.unpack"), "use tar or tar-gz");
                None
            }
        };
        if unpack.is_some() && artifact.executable {
            v.add(
                format!("{at}.executable"),
                "an archive says itself which of its files may be executed: leave it out",
            );
        }
        parsed.push(Artifact {
            url: artifact.url.clone(),
            sha256,
            path,
            executable: artifact.executable,
            unpack,
        });
    }
    parsed
}

/// Refuses configs that would be laid out where an artifact is.
pub(super) fn check_configs(at: &str, artifacts: &[Artifact], configs: &[ConfigMount], v: &mut Violations) {
    for (n, artifact) in artifacts.iter().enumerate() {
        if let Some(mount) = configs.iter().find(|mount| overlap(&normal_path(&mount.path), &artifact.path)) {
            v.add(format!("{at}[{n}].path"), format!("the files of config `{}` are there", mount.config));
        }
    }
}

/// `path` without `.` and doubled slashes.
pub fn normal_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    parts.join("/")
}

/// Whether one path is the other, or lies in it.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let within = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    within(one, other) || within(other, one)
}

fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
    url.len() <= URL_BYTES_MAX
        && url.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
        && host.is_some_and(|host| !host.is_empty() && !host.starts_with(':') && !host.contains('@'))
}
