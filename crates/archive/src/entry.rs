//! One thing in an archive, and what is never taken.

use std::io;

use crate::read::Sink;

/// Longest path and longest target of a link, in bytes: the kernel's own bound.
pub(crate) const PATH_BYTES_MAX: usize = 4095;
/// Deepest path, in names: each is an open directory while it is packed.
pub(crate) const DEPTH_MAX: usize = 256;

/// Why nothing comes of an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It holds what must not be taken.
    #[error("{0}")]
    Refused(String),
    /// It does not read.
    #[error("the archive does not read: {0}")]
    Damaged(String),
    /// It cannot be put where it is to go.
    #[error("{0}")]
    InTheWay(String),
    /// Files could not be read or written.
    #[error("{doing}: {error}")]
    Io {
        /// What was done to what.
        doing: String,
        /// What the system says.
        error: io::Error,
    },
}

impl Error {
    /// One CamelCase word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(_) => "EntryRefused",
            Self::Damaged(_) => "ArchiveDamaged",
            Self::InTheWay(_) => "InTheWay",
            Self::Io { error, .. } => match error.kind() {
                io::ErrorKind::NotFound => "PathMissing",
                io::ErrorKind::PermissionDenied => "PermissionDenied",
                io::ErrorKind::ReadOnlyFilesystem => "ReadOnly",
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "DiskFull",
                _ => "CopyFailed",
            },
        }
    }

    /// Of the system, while something is done.
    pub fn io(doing: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self::Io { doing: doing.into(), error: error.into() }
    }
}

/// One thing in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative and plain: names with a slash between them, none of them `.` or `..`. Empty: the archive's own directory.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// Bytes of content: of a file.
    pub size: u64,
}

impl Entry {
    /// The same in an archive of which all is below a directory of that name.
    pub(crate) fn below(&self, under: &[u8]) -> Self {
        let join = |path: &[u8]| match path {
            [] => under.to_vec(),
            path => [under, path].join(&b'/'),
        };
        let kind = match &self.kind {
            Kind::Hardlink(other) => Kind::Hardlink(join(other)),
            kind => kind.clone(),
        };
        Self { path: join(&self.path), kind, ..*self }
    }
}

/// What a thing in an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file, whose content follows.
    File,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// A second name of the file that is at this path of the archive.
    Hardlink(Vec<u8>),
}

/// What symbolic links must not lead out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// The archive.
    Archive,
    /// Each thing at its top.
    Top,
}

/// Looks through an archive while it passes. With bounds: also where its links lead.
#[derive(Debug)]
pub struct Check {
    /// Of links. None: they are not unpacked here.
    pub bounds: Option<Bounds>,
}

impl Sink for Check {
    fn begin(&mut self, entry: &Entry) -> Result<(), Error> {
        match self.bounds {
            Some(bounds) => bounds.check(entry),
            None => Ok(()),
        }
    }
}

impl Bounds {
    /// Whether a link stays within. Up only at its begin: what comes after a name may be a link itself.
    pub(crate) fn check(self, entry: &Entry) -> Result<(), Error> {
        let Kind::Symlink(target) = &entry.kind else { return Ok(()) };
        let parts: Vec<&[u8]> = names(target).collect();
        let up = parts.iter().take_while(|part| **part == b"..").count();
        let above = match self {
            Self::Archive => 1,
            Self::Top => 2,
        };
        let deep = names(&entry.path).count().saturating_sub(above);
        if target.is_empty() || target.starts_with(b"/") || up > deep || parts[up..].contains(&&b".."[..]) {
            return Err(Error::Refused(format!(
                "`{}` is a link to `{}`, which leads out of what is copied",
                shown(&entry.path),
                shown(target)
            )));
        }
        Ok(())
    }
}

/// The names of a path, without those that lead nowhere.
pub(crate) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// A path of an archive, made plain; an error where it leads out.
pub(crate) fn plain(path: &[u8]) -> Result<Vec<u8>, Error> {
    let refuse = |why: &str| Err(Error::Refused(format!("`{}` {why}", shown(path))));
    if path.starts_with(b"/") {
        return refuse("is an absolute path, which leads out of what is copied");
    }
    if names(path).any(|name| name == b"..") {
        return refuse("leads out of what is copied");
    }
    if path.len() > PATH_BYTES_MAX || path.contains(&0) {
        return refuse("is no path that a file can have");
    }
    if names(path).count() > DEPTH_MAX {
        return refuse(&format!("is more than {DEPTH_MAX} deep"));
    }
    Ok(names(path).collect::<Vec<_>>().join(&b"/"[..]))
}

/// For people.
pub(crate) fn shown(path: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let text = String::from_utf8_lossy(path);
    let mut short: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().count() > SHOWN_MAX {
        short.push('…');
    }
    short
}
