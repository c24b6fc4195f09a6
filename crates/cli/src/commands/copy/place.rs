//! What is named, and where things go: by the rules of `docker cp`. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::error::CliError;

/// One of the two that a copy is between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Side {
    Local(PathBuf),
    /// Standard input or output.
    Stdio,
    Remote(Remote),
}

/// A path in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// As `app/hello/web`.
    pub(super) app: String,
    pub(super) path: String,
}

impl Side {
    /// What is before a colon names an app, unless it begins as a path does.
    pub(super) fn parse(text: &OsStr) -> Result<Self, CliError> {
        let bytes = text.as_bytes();
        let local = || Ok(Self::Local(PathBuf::from(text)));
        match bytes {
            b"-" => return Ok(Self::Stdio),
            [] => return Err(CliError::Usage("an empty path names nothing".to_owned())),
            [b'/' | b'.', ..] => return local(),
            _ => {}
        }
        let Some(colon) = bytes.iter().position(|byte| *byte == b':') else { return local() };
        let text = text.to_string_lossy();
        let Some((before, after)) = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once(':'))
        else {
            return Err(CliError::Usage(format!(
                "`{text}` is not UTF-8: a file of this machine is written as ./{text}, and paths of instances are UTF-8"
            )));
        };
        if !before.contains('/') {
            return Err(CliError::Usage(format!(
                "`{before}` names no app: app/{text} does, and a file of this machine is written as ./{text}"
            )));
        }
        if after.is_empty() {
            let before = String::from_utf8_lossy(&bytes[..colon]);
            return Err(CliError::Usage(format!(
                "`{text}` has no path: {before}:/etc/hosts has one, and {before}:. is the instance's working directory"
            )));
        }
        Ok(Self::Remote(Remote { app: before.to_owned(), path: after.to_owned() }))
    }
}

/// Whether what is in a directory is meant, and not the directory: `/.` at the end, or a path that gives it no name.
pub(super) fn is_content(path: &[u8]) -> bool {
    path == b"." || path.ends_with(b"/.") || name_of(path).is_none()
}

/// Whether it says that it is a directory.
pub(super) fn says_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || is_content(path)
}

/// The last name of a path, if that is what it is called.
pub(super) fn name_of(path: &[u8]) -> Option<&[u8]> {
    let last = path.split(|byte| *byte == b'/').rfind(|part| !matches!(**part, [] | [b'.']))?;
    (last != b"..").then_some(last)
}

/// The directory that it is in.
pub(super) fn parent_of(path: &str) -> &str {
    let mut rest = path;
    while let Some(shorter) = rest.strip_suffix("/.").or_else(|| rest.strip_suffix('/')) {
        rest = shorter;
    }
    match rest.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => ".",
    }
}

/// What there is at the place that something is copied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Directory,
    File,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    /// Into the directory, by its own name.
    Into,
    /// What is in it, into the directory.
    ContentInto,
    /// To the place itself, by the place's name.
    As,
}

/// Where a thing goes. `to` is the place as it was typed.
pub(super) fn goes(is_directory: bool, content: bool, there: There, to: &[u8]) -> Result<Goes, String> {
    let shown = String::from_utf8_lossy(to);
    match there {
        There::Directory if is_directory && content => Ok(Goes::ContentInto),
        There::Directory => Ok(Goes::Into),
        There::File if is_directory => {
            Err(format!("`{shown}` is a file: a directory cannot be copied to it"))
        }
        There::File if says_directory(to) => Err(format!("`{shown}` is no directory")),
        There::Nothing if !is_directory && says_directory(to) => {
            Err(format!("there is no directory `{shown}`: make it first, or leave out the slash at its end"))
        }
        There::File | There::Nothing => Ok(Goes::As),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(text: &str) -> Result<Side, CliError> {
        Side::parse(OsStr::new(text))
    }

    #[test]
    fn sides_are_told_apart() {
        let remote = |app: &str, path: &str| Side::Remote(Remote { app: app.into(), path: path.into() });
        assert_eq!(side("app/x:/etc/a:b").ok(), Some(remote("app/x", "/etc/a:b")));
        assert_eq!(side("app/x/web:rel").ok(), Some(remote("app/x/web", "rel")));
        assert_eq!(side("-").ok(), Some(Side::Stdio));
        for local in ["./app/x:y", "/a:b", "app/x", "file", "..", "./-"] {
            assert_eq!(side(local).ok(), Some(Side::Local(local.into())), "{local}");
        }
        for (wrong, hint) in [("x:/a", "app/x:/a does"), ("app/x:", "app/x:. is"), ("", "empty")] {
            let error = side(wrong).err().and_then(|error| error.text()).unwrap_or_default();
            assert!(error.contains(hint), "{error}");
        }
        let odd = Side::parse(OsStr::from_bytes(b"app/x:\xff"));
        assert!(odd.err().and_then(|error| error.text()).is_some_and(|text| text.contains("UTF-8")));
        assert!(matches!(Side::parse(OsStr::from_bytes(b"odd\xff")), Ok(Side::Local(_))));
    }

    #[test]
    fn paths_have_names_and_directories() {
        let name = |path: &str| name_of(path.as_bytes()).map(<[u8]>::to_vec);
        assert_eq!(name("/a/b"), Some(b"b".to_vec()));
        assert_eq!(name("a/"), Some(b"a".to_vec()));
        assert_eq!(name("/a/."), Some(b"a".to_vec()));
        assert_eq!((name("/"), name("."), name("a/.."), name("..")), (None, None, None, None));
        for (path, parent) in
            [("/a/b", "/a"), ("/a", "/"), ("a", "."), ("a/b/", "a"), ("/a/b/.", "/a"), ("a/.", ".")]
        {
            assert_eq!(parent_of(path), parent, "{path}");
        }
    }

    #[test]
    fn places_are_those_of_docker_cp() {
        use Goes::{As, ContentInto, Into};
        use There::{Directory, File, Nothing};
        for (is_directory, content, there, to, is) in [
            (false, false, Nothing, "new", Some(As)),
            (false, false, Nothing, "new/", None),
            (false, false, File, "old", Some(As)),
            (false, false, File, "old/", None),
            (false, false, Directory, "dir", Some(Into)),
            (false, false, Directory, "dir/", Some(Into)),
            (true, false, Nothing, "new", Some(As)),
            (true, false, Nothing, "new/", Some(As)),
            (true, true, Nothing, "new", Some(As)),
            (true, false, File, "old", None),
            (true, true, File, "old", None),
            (true, false, Directory, "dir", Some(Into)),
            (true, true, Directory, "dir", Some(ContentInto)),
        ] {
            assert_eq!(
                goes(is_directory, content, there, to.as_bytes()).ok(),
                is,
                "{is_directory} {content} {there:?} {to}"
            );
        }
    }
}
