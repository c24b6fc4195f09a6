//! What an archive has put where so far: whether its next entry can be put where it says. Pure, and the same whether it is looked through or
//! unpacked, so that what was passed is unpacked.

use std::collections::HashMap;

use super::super::super::tree::fault;
use super::{Failure, refuse};

/// Most places, directories that are only in the paths of others among them.
const PLACES_MAX: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Symlink,
}

/// The tree of an archive's paths. Place 0 is the archive's own directory.
pub(super) struct Places {
    kinds: Vec<Kind>,
    names: HashMap<(usize, String), usize>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { kinds: vec![Kind::Directory], names: HashMap::new() }
    }

    /// Notes that `kind` is put at `path`, which is plain: the directories on its way are made.
    pub(super) fn put(&mut self, path: &str, kind: Kind) -> Result<(), Failure> {
        let (way, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = 0;
        for name in way.split('/').filter(|name| !name.is_empty()) {
            at = self.enter(at, name, Kind::Directory)?;
            match self.kinds[at] {
                Kind::Directory => {}
                Kind::File => return refuse(format!("`{path}` passes through a file")),
                Kind::Symlink => return refuse(format!("`{path}` passes through a link")),
            }
        }
        let at = self.enter(at, name, kind)?;
        if (self.kinds[at] == Kind::Directory) != (kind == Kind::Directory) {
            return refuse(format!("`{path}` is a directory and something else"));
        }
        self.kinds[at] = kind;
        Ok(())
    }

    /// What is at `path`.
    pub(super) fn get(&self, path: &str) -> Option<Kind> {
        let mut at = 0;
        for name in path.split('/') {
            at = *self.names.get(&(at, name.to_owned()))?;
        }
        Some(self.kinds[at])
    }

    /// The place of `name` in `dir`; a new one is of `kind`.
    fn enter(&mut self, dir: usize, name: &str, kind: Kind) -> Result<usize, Failure> {
        if let Some(fault) = fault(name) {
            return refuse(format!("it has {fault}"));
        }
        let key = (dir, name.to_owned());
        if let Some(at) = self.names.get(&key) {
            return Ok(*at);
        }
        if self.kinds.len() > PLACES_MAX {
            return refuse(format!("it has more than {PLACES_MAX} files and directories"));
        }
        self.kinds.push(kind);
        self.names.insert(key, self.kinds.len() - 1);
        Ok(self.kinds.len() - 1)
    }
}
