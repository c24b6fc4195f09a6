//! From the wire to the secrets that a service has as files.

use skerry_proto::types::v1 as pb;

use crate::{SecretName, Violations};

use super::artifacts::overlap;
use super::parse::{absent_if_empty, bound, has_parent, is_absolute};
use super::{Artifact, ConfigMount, normal_path};

/// A secret as read-only files in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMount {
    /// Which secret.
    pub secret: SecretName,
    /// With `key` the file's path, else the directory's. Containers: absolute. Processes: relative to the instance's state directory.
    pub path: String,
    /// One entry only.
    pub key: Option<String>,
    /// Permissions of the files, 0 to 0o777.
    pub mode: u32,
    /// User and, if it is named, group, by number. Absent: root, or a process's own user.
    pub owner: Option<(u32, Option<u32>)>,
    /// What happens to an instance when the values change.
    pub on_change: OnChange,
}

/// What happens to an instance when the values of a secret change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnChange {
    /// It is replaced.
    #[default]
    Restart,
    /// It goes on, and its files change.
    Update,
}

pub(super) fn parse(
    at: &str,
    mounts: &[pb::SecretMount],
    is_process: bool,
    v: &mut Violations,
) -> Vec<SecretMount> {
    let at = format!("{at}.secrets");
    bound(&at, mounts.len(), v);
    let mut parsed: Vec<SecretMount> = Vec::with_capacity(mounts.len());
    for (n, mount) in mounts.iter().enumerate() {
        let at = format!("{at}[{n}]");
        let Some(mount) = parse_mount(&at, mount, is_process, v) else { continue };
        let path = normal_path(&mount.path);
        if parsed.iter().any(|other| overlap(&normal_path(&other.path), &path)) {
            v.add(format!("{at}.path"), "another secret is there: neither may lie in the other");
        }
        parsed.push(mount);
    }
    parsed
}

fn parse_mount(
    at: &str,
    mount: &pb::SecretMount,
    is_process: bool,
    v: &mut Violations,
) -> Option<SecretMount> {
    use pb::secret_mount::OnChange as Wire;
    let secret = v.check(format!("{at}.secret"), SecretName::parse(&mount.secret))?;
    let key = absent_if_empty(&mount.key);
    if key.as_ref().is_some_and(|key| !crate::config::is_config_key(key)) {
        v.add(format!("{at}.key"), "use 1 to 253 of letters, digits, -, _ and . as a file name");
    }
    let path = path(at, mount, &secret, is_process, v)?;
    let on_change = match Wire::try_from(mount.on_change) {
        Ok(Wire::Unspecified | Wire::Restart) => OnChange::Restart,
        Ok(Wire::Update) if key.is_some() && !is_process => {
            let why = "a single file of a container cannot be exchanged: leave `key` out and mount the directory, or use restart";
            v.add(format!("{at}.on_change"), why);
            OnChange::Restart
        }
        Ok(Wire::Update) => OnChange::Update,
        Err(_) => {
            v.add(format!("{at}.on_change"), "use restart or update");
            OnChange::Restart
        }
    };
    let mode = absent_if_empty(&mount.mode).map(|text| {
        let digits = text.len() <= 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        u32::from_str_radix(&text, 8).ok().filter(|mode| digits && *mode <= 0o777)
    });
    if mode == Some(None) {
        v.add(format!("{at}.mode"), "use octal digits in quotes, \"0\" to \"0777\", as \"0400\"");
    }
    let owner = absent_if_empty(&mount.owner).and_then(|text| {
        let owner = owner(&text);
        if owner.is_none() {
            v.add(format!("{at}.owner"), "use numbers: uid or uid:gid, as 1000:1000");
        }
        owner
    });
    let mode = mode.flatten().unwrap_or(if is_process { 0o400 } else { 0o444 });
    Some(SecretMount { secret, path, key, mode, owner, on_change })
}

fn path(
    at: &str,
    mount: &pb::SecretMount,
    secret: &SecretName,
    is_process: bool,
    v: &mut Violations,
) -> Option<String> {
    match (mount.path.as_str(), is_process) {
        ("", true) if mount.key.is_empty() => Some(format!("secrets/{secret}")),
        ("", true) => Some(format!("secrets/{secret}/{}", mount.key)),
        (path, true) if path.starts_with('/') || has_parent(path) || normal_path(path).is_empty() => {
            let why = "for a process use a path relative to its state directory, without `..`";
            v.add(format!("{at}.path"), why);
            None
        }
        (path, false) if !is_absolute(path) || normal_path(path).is_empty() => {
            v.add(
                format!("{at}.path"),
                "use an absolute path inside the container, other than /, without `..`",
            );
            None
        }
        (path, _) => Some(path.to_owned()),
    }
}

/// `uid` or `uid:gid`. No number is that of nobody at all, which the kernel takes for "as it is".
fn owner(text: &str) -> Option<(u32, Option<u32>)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|number| digits && *number != u32::MAX)
    };
    match text.split_once(':') {
        None => Some((number(text)?, None)),
        Some((user, group)) => Some((number(user)?, Some(number(group)?))),
    }
}

/// Refuses secrets of a process that would be laid out where the files of a config or an artifact are.
pub(super) fn check_places(
    at: &str,
    secrets: &[SecretMount],
    configs: &[ConfigMount],
    artifacts: &[Artifact],
    v: &mut Violations,
) {
    for (n, secret) in secrets.iter().enumerate() {
        let path = normal_path(&secret.path);
        let taken = |config: &&ConfigMount| overlap(&normal_path(&config.path), &path);
        if let Some(config) = configs.iter().find(taken) {
            v.add(
                format!("{at}.secrets[{n}].path"),
                format!("the files of config `{}` are there", config.config),
            );
        }
        if artifacts.iter().any(|artifact| overlap(&artifact.path, &path)) {
            v.add(format!("{at}.secrets[{n}].path"), "an artifact is there");
        }
    }
}
