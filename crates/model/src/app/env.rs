//! From the wire to the sources of environment variables.

use skerry_proto::types::v1 as pb;

use crate::{ConfigName, SecretName, Violations};

use super::parse::{absent_if_empty, bound, is_absolute};
use crate::env_file::is_variable;

/// Where environment variables come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvSource {
    /// A config.
    Config {
        /// Which.
        config: ConfigName,
        /// One entry, which is an environment file. Absent: each entry is a variable.
        key: Option<String>,
    },
    /// A secret.
    Secret {
        /// Which.
        secret: SecretName,
        /// What of it.
        entries: SecretEntries,
    },
    /// An environment file of the machine.
    File {
        /// Absolute path.
        path: String,
        /// Whether it may be missing.
        optional: bool,
    },
}

/// Which entries of a secret are variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretEntries {
    /// Each, its key the name.
    All,
    /// Those in the environment file that is this entry.
    File(String),
    /// One, as the value of a variable.
    Value {
        /// Which entry.
        key: String,
        /// Which variable.
        variable: String,
    },
}

impl EnvSource {
    /// The config that it needs, if it needs one.
    pub fn config(&self) -> Option<&ConfigName> {
        match self {
            Self::Config { config, .. } => Some(config),
            Self::Secret { .. } | Self::File { .. } => None,
        }
    }

    /// The secret that it needs, if it needs one.
    pub fn secret(&self) -> Option<&SecretName> {
        match self {
            Self::Secret { secret, .. } => Some(secret),
            Self::Config { .. } | Self::File { .. } => None,
        }
    }
}

pub(super) fn parse(at: &str, sources: &[pb::EnvSource], v: &mut Violations) -> Vec<EnvSource> {
    bound(at, sources.len(), v);
    let numbered = sources.iter().enumerate();
    numbered.filter_map(|(n, source)| parse_source(&format!("{at}[{n}]"), source, v)).collect()
}

fn parse_source(at: &str, source: &pb::EnvSource, v: &mut Violations) -> Option<EnvSource> {
    use pb::env_source::Source as Wire;
    let key = absent_if_empty(&source.key);
    let variable = absent_if_empty(&source.variable);
    if variable.is_some() && !matches!(source.source, Some(Wire::Secret(_))) {
        v.add(format!("{at}.variable"), "only an entry of a secret is a variable's value: leave it out");
    }
    if source.optional && matches!(source.source, Some(Wire::Secret(_))) {
        v.add(format!("{at}.optional"), "only a file may be missing: leave it out");
    }
    if key.as_ref().is_some_and(|key| !crate::config::is_config_key(key)) {
        v.add(format!("{at}.key"), "use 1 to 253 of letters, digits, -, _ and . as a file name");
    }
    match &source.source {
        None => {
            v.add(at, "name what to read: config, secret or file");
            None
        }
        Some(Wire::Config(config)) => {
            let config = v.check(format!("{at}.config"), ConfigName::parse(config));
            if source.optional {
                v.add(format!("{at}.optional"), "only a file may be missing: leave it out");
            }
            Some(EnvSource::Config { config: config?, key })
        }
        Some(Wire::Secret(secret)) => {
            let secret = v.check(format!("{at}.secret"), SecretName::parse(secret));
            let entries = match (key, variable) {
                (None, None) => SecretEntries::All,
                (Some(key), None) => SecretEntries::File(key),
                (Some(key), Some(variable)) if is_variable(&variable) => {
                    SecretEntries::Value { key, variable }
                }
                (None, Some(_)) => {
                    v.add(format!("{at}.key"), "name the entry that the variable has as its value");
                    return None;
                }
                (Some(_), Some(_)) => {
                    let why =
                        "use letters, digits and _, not beginning with a digit, as the name of a variable";
                    v.add(format!("{at}.variable"), why);
                    return None;
                }
            };
            Some(EnvSource::Secret { secret: secret?, entries })
        }
        Some(Wire::File(path)) => {
            if !is_absolute(path) {
                v.add(format!("{at}.file"), "use an absolute path of the machine, without `..`");
            }
            if key.is_some() {
                v.add(format!("{at}.key"), "only configs and secrets have entries: leave it out");
            }
            Some(EnvSource::File { path: path.clone(), optional: source.optional })
        }
    }
}
