//! Images that are fetched ahead: what names one, and how many.

use crate::ContentHash;

/// Most images that a node fetches ahead, and most that one task names.
pub const IMAGES_MAX: usize = 32;
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 16;

/// Names an image with its platform and the secret with the credentials for its registry (each empty: none is named): 16 hexadecimal digits. Other values of that
/// secret make it no other image.
pub fn image_id(image: &str, platform: &str, secret: &str) -> String {
    // None of them has a zero byte.
    let said = [image, platform, secret].join("\0");
    ContentHash::of(said.as_bytes()).to_string().chars().take(ID_DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_apart_has_another_id() {
        let ids = [("a:1", "", ""), ("a:2", "", ""), ("a:1", "linux", ""), ("a:1", "", "linux")];
        let ids: std::collections::BTreeSet<String> =
            ids.iter().map(|(image, platform, secret)| image_id(image, platform, secret)).collect();
        assert_eq!(ids.len(), 4);
        assert!(ids.iter().all(|id| id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
