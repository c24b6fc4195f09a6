//! A copy of files, as the instance's user: this process enters the instance's cgroups, becomes its user, goes to its directory, and packs or
//! unpacks. So the kernel decides what may be read and written, and a link that the program has put somewhere leads to nothing that it could not
//! reach by itself.

use std::ffi::OsString;
use std::io::{self, BufWriter, Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use skerry_archive::{Bounds, Error, Stage, Writer, look, pack};

use super::cgroup;
use super::enter::take_user;
use super::files::Launch;
use super::program::{DIRECTORY_MISSING, START_FAILED, STATE_UNWRITABLE, StartFailure};

/// The first argument that asks for it. Then: the instance's directory, the way, the path. What went wrong is said on standard error, as
/// `<reason> <message>`.
pub(crate) const WORD: &str = "__copy";
/// The way: from standard input, in parts with their length (four bytes, the highest first) before them. [`WHOLE`] ends them; without it
/// nothing of it stays.
pub(crate) const TO: &str = "to";
/// The way: to standard output.
pub(crate) const FROM: &str = "from";
/// The same, only of what is at the path itself.
pub(crate) const BARE: &str = "bare";
/// In the place of a length.
pub(crate) const WHOLE: u32 = u32::MAX;
/// All reasons.
pub(crate) const REASONS: [&str; 13] = [
    "EntryRefused",
    "ArchiveDamaged",
    "InTheWay",
    "PathMissing",
    "PermissionDenied",
    "ReadOnly",
    "CopyFailed",
    "Truncated",
    "DiskFull",
    "ProgramNotFound",
    DIRECTORY_MISSING,
    STATE_UNWRITABLE,
    START_FAILED,
];

/// Longest part.
const PART_BYTES_MAX: usize = 1 << 20;
/// What is written at once.
const BUFFER: usize = 64 * 1024;

/// Why it did not work.
struct Failure {
    reason: &'static str,
    message: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { reason: error.reason(), message: error.to_string() }
    }
}

impl From<StartFailure> for Failure {
    fn from(failure: StartFailure) -> Self {
        Self { reason: failure.reason, message: failure.message }
    }
}

pub(super) fn run(mut args: impl Iterator<Item = OsString>) -> i32 {
    let (Some(dir), Some(way), Some(path)) = (args.next(), args.next(), args.next()) else { return 2 };
    let done = become_user(Path::new(&dir)).and_then(|()| match way.to_str() {
        Some(TO) => unpack(Path::new(&path), io::stdin().lock()),
        Some(FROM) => packed(Path::new(&path)),
        Some(BARE) => looked_at(Path::new(&path)),
        _ => Err(Failure { reason: "CopyFailed", message: "it was not said which way".to_owned() }),
    });
    let Err(Failure { reason, message }) = done else { return 0 };
    let _ = write!(io::stderr(), "{reason} {message}");
    1
}

fn become_user(dir: &Path) -> Result<(), Failure> {
    let _ = rustix::thread::set_name(c"skerry-copy");
    let launch = match Launch::read(dir) {
        Ok(Some(launch)) => launch,
        Ok(None) => {
            let why = "what the instance runs as is not there or not whole";
            return Err(StartFailure::new(STATE_UNWRITABLE, why).into());
        }
        Err(error) => return Err(StartFailure::state("reading what the instance runs as", &error).into()),
    };
    for cgroup in &launch.cgroups {
        match cgroup::enter(Path::new(cgroup)) {
            // It ends with the instance, whose files are still there.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let why = format!("entering the cgroup {cgroup}: {error}");
                return Err(StartFailure::new(START_FAILED, why).into());
            }
            _ => {}
        }
    }
    if let Some(user) = &launch.user
        && let Err(error) = take_user(user)
    {
        let why = format!("becoming user {} of group {}: {error}", user.uid, user.gid);
        return Err(StartFailure::new(START_FAILED, why).into());
    }
    let directory = launch.directory(dir);
    rustix::process::chdir(&directory).map_err(|error| {
        let why = format!("the working directory {} cannot be entered: {error}", directory.display());
        StartFailure::new(DIRECTORY_MISSING, why).into()
    })
}

/// Unpacks the parts that come.
fn unpack(path: &Path, mut input: impl Read) -> Result<(), Failure> {
    let mut stage = Stage::within(path, Bounds::Archive, b"")?;
    let (mut length, mut part) = ([0; 4], Vec::new());
    let cut = |_| Failure { reason: "Truncated", message: "not all of the archive came".to_owned() };
    loop {
        input.read_exact(&mut length).map_err(cut)?;
        let length = u32::from_be_bytes(length);
        if length == WHOLE {
            break;
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PART_BYTES_MAX {
            return Err(Failure { reason: "CopyFailed", message: "a part is too long".to_owned() });
        }
        part.resize(length, 0);
        input.read_exact(&mut part).map_err(cut)?;
        stage.feed(&part)?;
    }
    let places: Vec<_> = stage.tops()?.into_iter().map(|top| (top.clone(), top)).collect();
    Ok(stage.place(&places)?)
}

fn packed(path: &Path) -> Result<(), Failure> {
    let name = path.file_name().map(OsStrExt::as_bytes);
    pack(path, name, BufWriter::with_capacity(BUFFER, io::stdout().lock())).map(drop)?;
    Ok(())
}

fn looked_at(path: &Path) -> Result<(), Failure> {
    let entry = look(path, path.file_name().map(OsStrExt::as_bytes).unwrap_or_default())?;
    let mut writer = Writer::new(BufWriter::new(io::stdout().lock()));
    writer.entry(&entry)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn parts(archive: &[u8], ends: bool) -> Vec<u8> {
        let mut parts = Vec::new();
        for part in archive.chunks(700) {
            parts.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            parts.extend_from_slice(part);
        }
        if ends {
            parts.extend(WHOLE.to_be_bytes());
        }
        parts
    }

    #[test]
    fn what_is_not_whole_does_not_stay() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("file"), "content").unwrap();
        let archive = pack(from.path(), Some(b"top"), Vec::new()).unwrap();
        let cut = unpack(to.path(), &parts(&archive, false)[..]).unwrap_err();
        assert_eq!(cut.reason, "Truncated");
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
        assert!(unpack(to.path(), &parts(&archive, true)[..]).is_ok());
        assert_eq!(fs::read_to_string(to.path().join("top/file")).unwrap(), "content");
        let long = unpack(to.path(), &0x0fff_ffff_u32.to_be_bytes()[..]).unwrap_err();
        assert_eq!(long.reason, "CopyFailed");
    }
}
