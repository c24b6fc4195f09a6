//! The few operations that the state files need of a disk, so that tests can lose power between them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A directory.
pub(crate) trait Disk {
    /// All of a file of at most `bytes_max`; nothing if there is none.
    fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>>;
    /// Makes a file, or makes it anew, and syncs its content.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Renames a file over another, at once as far as readers see; certain only after the directory was synced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Syncs the directory itself.
    fn sync_directory(&self) -> io::Result<()>;
}

/// A directory of the machine. Blocks.
#[derive(Debug, Clone)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// At `path`, which exists.
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Disk for Directory {
    fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.0.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
        }
        Ok(Some(bytes))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(name);
        let mut options = File::options();
        // For the agent alone, though others may be let through the directory.
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if written.is_err() {
            // Half a file only takes room, which may be what is missing.
            let _ = std::fs::remove_file(&path);
        }
        written
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}
