//! From the wire to the sources of environment variables.

use skerry_proto::types::v1 as pb;

use crate::{ConfigName, Violations};

use super::parse::{absent_if_empty, bound, is_absolute};

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
    /// An environment file of the machine.
    File {
        /// Absolute path.
        path: String,
        /// Whether it may be missing.
        optional: bool,
    },
}

impl EnvSource {
    /// The config that it needs, if it needs one.
    pub fn config(&self) -> Option<&ConfigName> {
        match self {
            Self::Config { config, .. } => Some(config),
            Self::File { .. } => None,
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
    match &source.source {
        None => {
            v.add(at, "name what to read: config or file");
            None
        }
        Some(Wire::Config(config)) => {
            let config = v.check(format!("{at}.config"), ConfigName::parse(config));
            if key.as_ref().is_some_and(|key| !crate::config::is_config_key(key)) {
                v.add(format!("{at}.key"), "use 1 to 253 of letters, digits, -, _ and . as a file name");
            }
            if source.optional {
                v.add(format!("{at}.optional"), "only a file may be missing: leave it out");
            }
            Some(EnvSource::Config { config: config?, key })
        }
        Some(Wire::File(path)) => {
            if !is_absolute(path) {
                v.add(format!("{at}.file"), "use an absolute path of the machine, without `..`");
            }
            if key.is_some() {
                v.add(format!("{at}.key"), "only a config has entries: leave it out");
            }
            Some(EnvSource::File { path: path.clone(), optional: source.optional })
        }
    }
}
