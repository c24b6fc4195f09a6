//! References to images, by the grammar that Docker and registries have: `[registry/]name[:tag][@digest]`
//! (<https://pkg.go.dev/github.com/distribution/reference>).

use crate::Violations;

/// Most bytes of a reference.
const REFERENCE_BYTES_MAX: usize = 1024;
/// Most bytes of a tag.
const TAG_BYTES_MAX: usize = 128;

/// Refuses a reference by name that Docker's daemon would refuse later.
pub fn check_image(at: &str, image: &str, v: &mut Violations) {
    if image.is_empty() {
        v.add(at, "name an image");
        return;
    }
    let fault = if image.len() > REFERENCE_BYTES_MAX { Some("it is too long") } else { fault(image) };
    if let Some(fault) = fault {
        let shown: String = image.chars().take(120).collect();
        v.add(
            at,
            format!("`{shown}` is not an image reference, {fault}: write [registry/]name[:tag][@digest]"),
        );
    }
}

/// Whether the reference means a moving tag: `latest`, or none and no digest.
pub(super) fn is_latest(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    !last.contains('@') && (!last.contains(':') || last.ends_with(":latest"))
}

/// What is wrong with a reference.
fn fault(image: &str) -> Option<&'static str> {
    let (rest, digest) = match image.split_once('@') {
        None => (image, None),
        Some((rest, digest)) => (rest, Some(digest)),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some("a digest is as sha256:<64 hexadecimal digits>");
    }
    // The colon of a port comes before the last slash, that of a tag after it.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Some(
            "a tag is of letters, digits, _, . and -, at most 128, and begins with none of the last two",
        );
    }
    let path = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => {
            if !is_host(first) {
                return Some("a registry is host[:port]");
            }
            path
        }
        _ => name,
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some("the name of an image is in lower case");
    }
    let good = !path.is_empty() && path.split('/').all(is_component);
    (!good).then_some("a name is of words of small letters and digits, with _, . or - between them")
}

/// Whether what stands before the first slash names a registry, and not the first part of a name.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let number = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            return address.parse::<std::net::Ipv6Addr>().is_ok()
                && (rest.is_empty() || rest.strip_prefix(':').is_some_and(number));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(number)
}

/// Words of small letters and digits; between two of them `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let between =
        text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|part| !part.is_empty());
    let separator = |part: &str| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-');
    text.bytes().next().is_some_and(word)
        && text.bytes().last().is_some_and(word)
        && between.into_iter().all(separator)
}

fn is_tag(text: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    !text.is_empty() && text.len() <= TAG_BYTES_MAX && text.bytes().all(fine) && !text.starts_with(['.', '-'])
}

/// `algorithm:hex`, of the algorithms that registries have of their right length.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == digits && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_takes_is_taken_and_the_rest_is_not() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for image in [
            "web",
            "web:1.0",
            "library/web",
            "a/b/c:latest",
            "r.example/web",
            "r.example:5000/team/web:2",
            "localhost/web",
            "localhost:5000/web",
            "[::1]:5000/web",
            "HOST/web",
            "a__b/c-d.e--f",
            "web:_1.2-x",
            &format!("web@{digest}"),
            &format!("r.example/web:1@{digest}"),
        ] {
            assert_eq!(fault(image), None, "{image}");
        }
        for image in [
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:b:c",
            "a:-x",
            "a b",
            "Web",
            "a/B",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            ":a",
            "@a",
            "web@sha256:0123",
            "web@md5:0a",
            "r.example:port/web",
            "[::1/web",
            "ä",
            "a:ä",
            "r.example/",
        ] {
            assert!(fault(image).is_some(), "{image}");
        }
    }
}
