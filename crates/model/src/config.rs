//! Configs: files that services mount.

use std::collections::BTreeMap;

use skerry_proto::scheduler::v1 as pb;

use crate::{Fault, Violations};

/// Most bytes of a config, keys and values together.
pub const CONFIG_BYTES_MAX: usize = 512 * 1024;

/// The files of a config, by file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpec {
    /// Contents by file name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Whether `key` may name a file of a config.
pub fn is_config_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 253
        && key != "."
        && key != ".."
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl ConfigSpec {
    /// Parses what travels; violations name fields below `spec`.
    pub fn from_proto(spec: &pb::ConfigSpec) -> Result<Self, Fault> {
        let mut violations = Violations::new();
        let mut files = BTreeMap::new();
        let text = spec.data.iter().map(|(key, value)| ("data", key, value.as_bytes()));
        let binary = spec.binary_data.iter().map(|(key, value)| ("binary_data", key, value.as_ref()));
        for (map, key, value) in text.chain(binary) {
            let at = format!("spec.{map}.{key}");
            if !is_config_key(key) {
                violations.add(&at, "use 1 to 253 of letters, digits, -, _ and . as a file name");
            }
            if files.insert(key.clone(), value.to_vec()).is_some() {
                violations.add(&at, "the key is in data and in binary_data: keep one");
            }
        }
        let bytes: usize = files.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > CONFIG_BYTES_MAX {
            violations
                .add("spec", format!("{bytes} bytes are too many for a config: at most {CONFIG_BYTES_MAX}"));
        }
        violations.finish(Some(Self { files }))
    }
}
