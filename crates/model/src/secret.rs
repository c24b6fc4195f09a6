//! Secrets: the rules on their values, and what names a version of them. No fault quotes a value.

use std::fmt;

use skerry_proto::scheduler::v1 as pb;
use skerry_proto::types::v1::{ImageCredentials, SecretContent};

use crate::{Fault, Violations};

/// Most bytes of a secret, keys and values together. Less than a config may have: each node that uses it has a copy of its own in the store.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;
/// Most entries of a secret.
pub const ENTRIES_MAX: usize = 256;
/// Longest registry, user name or password, in bytes. A token may be long.
const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;

/// A text that is not so many lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {what}: {digits} lower-case hexadecimal digits are wanted")]
pub struct InvalidDigits {
    what: &'static str,
    digits: usize,
}

macro_rules! digits {
    ($(#[$doc:meta])* $name:ident, $what:literal, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Of these bytes.
            pub fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Parses lower-case hexadecimal digits.
            pub fn parse(text: &str) -> Result<Self, InvalidDigits> {
                let invalid = InvalidDigits { what: $what, digits: $bytes * 2 };
                let digit = |b: u8| match b {
                    b'0'..=b'9' => Some(b - b'0'),
                    b'a'..=b'f' => Some(b - b'a' + 10),
                    _ => None,
                };
                let text = text.as_bytes();
                if text.len() != $bytes * 2 {
                    return Err(invalid);
                }
                let mut bytes = [0; $bytes];
                for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
                    let (high, low) = (digit(pair[0]).ok_or(invalid)?, digit(pair[1]).ok_or(invalid)?);
                    *byte = high << 4 | low;
                }
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

digits!(
    /// Names the values of a secret. Random and no hash of them: it stands where a gateway, an agent's log and a label of Docker show it, and who
    /// has the hash of a short value can try out what it is.
    SecretVersion,
    "a version of a secret",
    16
);
digits!(
    /// Names the node and the key that a secret is sealed to, so that another key makes another resource.
    SealId,
    "the id of a seal",
    8
);

/// The values that a spec has, checked; violations name fields below `spec`.
pub fn content(spec: &pb::SecretSpec) -> Result<SecretContent, Fault> {
    let mut v = Violations::new();
    let mut data = spec.data.clone();
    for (key, value) in &spec.string_data {
        if data.insert(key.clone(), value.clone().into_bytes().into()).is_some() {
            v.add(format!("spec.string_data.{key}"), "the key is in data and in string_data: keep one");
        }
    }
    let content = SecretContent { data, image_credentials: spec.image_credentials.clone() };
    check(&content, &mut v);
    v.finish(Some(content))
}

/// The rules on all values together, however they came.
pub fn check_content(content: &SecretContent) -> Result<(), Fault> {
    let mut v = Violations::new();
    check(content, &mut v);
    v.finish(Some(()))
}

fn check(content: &SecretContent, v: &mut Violations) {
    let SecretContent { data, image_credentials } = content;
    for key in data.keys().filter(|key| !crate::config::is_config_key(key)) {
        v.add(format!("spec.data.{key}"), "use 1 to 253 of letters, digits, -, _ and . as a file name");
    }
    // Files of the agent's have such names beside those of the entries.
    for key in data.keys().filter(|key| key.starts_with("..")) {
        v.add(format!("spec.data.{key}"), "a key does not begin with two points");
    }
    if data.len() > ENTRIES_MAX {
        v.add("spec", format!("{} entries are too many for a secret: at most {ENTRIES_MAX}", data.len()));
    }
    let bytes: usize = data.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > SECRET_BYTES_MAX {
        v.add("spec", format!("{bytes} bytes are too many for a secret: at most {SECRET_BYTES_MAX}"));
    }
    match image_credentials {
        Some(_) if !data.is_empty() => {
            v.add("spec.image_credentials", "a secret has entries or credentials: make two of it");
        }
        Some(credentials) => check_credentials(credentials, v),
        None if data.is_empty() => v.add("spec", "name at least one entry, or image_credentials"),
        None => {}
    }
}

fn check_credentials(credentials: &ImageCredentials, v: &mut Violations) {
    let ImageCredentials { registry, username, password } = credentials;
    let at = |field: &str| format!("spec.image_credentials.{field}");
    let fine =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    if registry.is_empty() || registry.len() > 253 || !registry.bytes().all(fine) {
        v.add(
            at("registry"),
            "name the registry's host as images do, as registry.example.org:5000, or docker.io",
        );
    }
    for (field, value) in [("username", username), ("password", password)] {
        if value.is_empty() || value.len() > CREDENTIAL_BYTES_MAX || value.contains('\0') {
            v.add(at(field), format!("use 1 to {CREDENTIAL_BYTES_MAX} bytes of text"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &[(&str, &str)]) -> pb::SecretSpec {
        let string_data = text.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        pb::SecretSpec { string_data, ..Default::default() }
    }

    #[test]
    fn text_and_bytes_are_entries_alike() {
        let mut both = spec(&[("a", "1")]);
        both.data = [("b".to_owned(), vec![0xff].into())].into();
        let keys: Vec<_> = content(&both).unwrap().data.into_keys().collect();
        assert_eq!(keys, ["a", "b"]);
        both.data = [("a".to_owned(), vec![0xff].into())].into();
        assert_eq!(content(&both).unwrap_err().violations[0].field, "spec.string_data.a");
    }

    #[test]
    fn no_fault_quotes_a_value() {
        let credentials = ImageCredentials {
            registry: "https://Hunter2".to_owned(),
            username: String::new(),
            password: "hunter2\0".to_owned(),
        };
        let long = "hunter2".repeat(SECRET_BYTES_MAX);
        let mut wrong = spec(&[("not a key", "hunter2"), ("long", long.as_str())]);
        wrong.image_credentials = Some(credentials.clone());
        let beside = content(&wrong).unwrap_err();
        let alone = content(&pb::SecretSpec { image_credentials: Some(credentials), ..Default::default() });
        let alone = alone.unwrap_err();
        assert_eq!((beside.violations.len(), alone.violations.len()), (3, 3), "{beside:?} {alone:?}");
        assert!(!format!("{beside:?} {alone:?}").contains("hunter2"));
        assert!(content(&spec(&[])).is_err(), "nothing is no secret");
    }

    #[test]
    fn a_version_is_read_as_it_is_written() {
        let version = SecretVersion::from_bytes([0xa5; 16]);
        assert_eq!(SecretVersion::parse(&version.to_string()), Ok(version));
        for bad in ["", "a5", &"A5".repeat(16), &"zz".repeat(16), &"é".repeat(16)] {
            assert!(SecretVersion::parse(bad).is_err(), "{bad}");
        }
    }
}
