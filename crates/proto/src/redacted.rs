//! Messages with values of secrets, as logs and errors may show them: keys and lengths, never a value.

use std::fmt;

use crate::scheduler::v1::SecretSpec;
use crate::types::v1::{ImageCredentials, SecretContent};

/// Keys with the lengths of their values.
struct Lengths<I>(I);

impl<'a, I: Iterator<Item = (&'a String, usize)> + Clone> fmt::Debug for Lengths<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.clone().map(|(key, bytes)| (key, format_args_of(bytes)))).finish()
    }
}

/// `N bytes, redacted`.
fn format_args_of(bytes: usize) -> impl fmt::Debug {
    struct Bytes(usize);
    impl fmt::Debug for Bytes {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} bytes, redacted", self.0)
        }
    }
    Bytes(bytes)
}

impl fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, string_data, image_credentials } = self;
        f.debug_struct("SecretSpec")
            .field("data", &Lengths(data.iter().map(|(key, value)| (key, value.len()))))
            .field("string_data", &Lengths(string_data.iter().map(|(key, value)| (key, value.len()))))
            .field("image_credentials", image_credentials)
            .finish()
    }
}

impl fmt::Debug for ImageCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageCredentials").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, image_credentials } = self;
        f.debug_struct("SecretContent")
            .field("data", &Lengths(data.iter().map(|(key, value)| (key, value.len()))))
            .field("image_credentials", image_credentials)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_shown() {
        let credentials = ImageCredentials {
            registry: "registry.example.org".to_owned(),
            username: "hunter".to_owned(),
            password: "hunter2".to_owned(),
        };
        let spec = SecretSpec {
            data: [("a".to_owned(), b"hunter2".to_vec().into())].into(),
            string_data: [("b".to_owned(), "hunter2".to_owned())].into(),
            image_credentials: Some(credentials.clone()),
        };
        let content = SecretContent { data: spec.data.clone(), image_credentials: Some(credentials) };
        let shown = format!("{spec:?} {content:#?}");
        assert!(
            !shown.contains("hunter") && shown.contains("7 bytes") && shown.contains("registry.example.org")
        );
    }
}
