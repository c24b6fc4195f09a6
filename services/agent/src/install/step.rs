//! What is done to a machine, one step at a time. Each may be done again and then changes nothing.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::under;
use crate::identity::TokenText;

/// One step. Paths are those of the machine, whatever its root.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A directory is there. One that was there keeps its mode.
    Directory { path: PathBuf, mode: u32 },
    /// A file has this in it.
    Write { path: PathBuf, mode: u32, source: Source },
    /// A command of this machine.
    Run(&'static [&'static str]),
    /// A file, or an empty directory, is gone.
    Remove(PathBuf),
    /// A directory is gone with all that is in it.
    RemoveTree(PathBuf),
}

/// What a file has in it.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Text(String),
    /// What this file has, outside of the root.
    File(PathBuf),
    Secret(TokenText),
}

impl Source {
    fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::File(path) => fs::read(path),
            Self::Secret(token) => Ok(token.expose().to_vec()),
        }
    }
}

impl Step {
    /// For people, without what is secret.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Directory { path, mode } => format!("make {} (mode {mode:04o})", path.display()),
            Self::Write { path, mode, source: Source::File(from) } => {
                format!("copy {} to {} (mode {mode:04o})", from.display(), path.display())
            }
            Self::Write { path, mode, source: Source::Text(_) | Source::Secret(_) } => {
                format!("write {} (mode {mode:04o})", path.display())
            }
            Self::Run(words) => format!("run {}", words.join(" ")),
            Self::Remove(path) => format!("remove {}", path.display()),
            Self::RemoveTree(path) => format!("remove {} and all that is in it", path.display()),
        }
    }

    /// Does it on the machine whose root this is. `true`: something was changed.
    pub(super) fn run(&self, root: &Path) -> Result<bool, String> {
        let done = match self {
            Self::Directory { path, mode } => directory(&under(root, path), *mode),
            Self::Write { path, mode, source } => write(&under(root, path), *mode, source),
            Self::Run(words) => return command(words),
            Self::Remove(path) => remove(&under(root, path)),
            Self::RemoveTree(path) => gone(fs::remove_dir_all(under(root, path))),
        };
        done.map_err(|error| error.to_string())
    }
}

fn directory(path: &Path, mode: u32) -> io::Result<bool> {
    if path.is_dir() {
        return Ok(false);
    }
    // Those above it are everybody's, as they would be.
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    DirBuilder::new().mode(mode).create(path)?;
    Ok(true)
}

/// Writes beside it and renames: a program that runs may be replaced, and nobody reads half a file.
fn write(path: &Path, mode: u32, source: &Source) -> io::Result<bool> {
    let bytes = source.read()?;
    let same = fs::read(path).is_ok_and(|there| there == bytes)
        && fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o7777 == mode);
    if same {
        return Ok(false);
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // One that an earlier try left would keep its mode.
    gone(fs::remove_file(&temporary))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    // Against the umask, which may take away what others need.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(true)
}

fn remove(path: &Path) -> io::Result<bool> {
    if path.is_dir() {
        return match fs::remove_dir(path) {
            // Somebody else's files are in it.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            removed => gone(removed),
        };
    }
    gone(fs::remove_file(path))
}

fn gone(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// systemd's commands bound their own time.
fn command(words: &[&str]) -> Result<bool, String> {
    let [program, args @ ..] = words else { return Ok(false) };
    let output = Command::new(program).args(args).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(true);
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}
