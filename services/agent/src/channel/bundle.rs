//! The verb `bundle`: what this agent knows, for who looks for a fault.
//!
//! Each file is put together of what is named here: nothing is told because it lies somewhere. No values of environments, configs and secrets, no
//! keys, no command lines: those of programs and of the kernel may hold any of them.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use skerry_daemon::OwnLog;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::bundle_node_response::Body as Part;
use skerry_proto::relay::v1::open_request::Body as Up;
use tokio::sync::{mpsc, oneshot};

use crate::config::{Config, DockerAccess};
use crate::hand::failed;
use crate::runtime::{Observed, Runtime, RuntimeError};

/// Largest file.
const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most of all files together.
const ALL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest piece of a file.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// Longest that one part may take to answer.
const PATIENCE: Duration = Duration::from_secs(25);
/// Largest file of the kernel's that is told.
const KERNEL_BYTES_MAX: u64 = 256 * 1024;
/// Most files of the data directory that are named, and how deep it is looked.
const NAMES_MAX: usize = 2000;
const DEPTH_MAX: usize = 3;
/// What the kernel says that is told.
const KERNEL: [&str; 16] = [
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/vmstat",
    "/proc/diskstats",
    "/proc/net/dev",
    "/proc/net/sockstat",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/self/status",
    "/proc/self/limits",
    "/proc/self/cgroup",
    "/proc/cgroups",
];

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BundleFile {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Where it is asked what the reconciler knows.
pub(crate) type Looks = mpsc::Sender<oneshot::Sender<Vec<BundleFile>>>;

/// What a bundle is made of, beside the runtimes.
#[derive(Debug)]
pub(crate) struct Sources {
    flags: String,
    data_dir: PathBuf,
    looks: Looks,
}

impl Sources {
    /// Of an agent that was started so.
    pub(crate) fn new(config: &Config, data_dir: &Path, looks: Looks) -> Self {
        Self { flags: flags(config), data_dir: data_dir.to_owned(), looks }
    }

    /// Where the agent keeps its state.
    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}

/// How the agent was started, as far as that is for others.
fn flags(config: &Config) -> String {
    let gateways: Vec<String> = config.gateways.iter().map(|gateway| gateway.uri().to_string()).collect();
    let docker = match &config.docker {
        DockerAccess::Off => "off".to_owned(),
        DockerAccess::Socket(socket) => socket.display().to_string(),
    };
    let identity = if config.tls.is_some() { "a certificate" } else { "none: --insecure" };
    let mut text = String::new();
    for (name, value) in [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("node", config.node.to_string()),
        ("gateways", gateways.join(", ")),
        ("identity", identity.to_owned()),
        ("data directory", config.data_dir.display().to_string()),
        ("docker", docker),
        ("image collection", format!("{:?}", config.image_gc)),
        ("forbidden", format!("{:?}", config.forbidden)),
        ("address", config.address.map(|address| address.to_string()).unwrap_or_default()),
    ] {
        let _ = writeln!(text, "{name}: {value}");
    }
    text
}

/// Tells all files, one after the other, and at last how many.
pub(super) async fn serve(
    runtimes: &[Arc<dyn Runtime>],
    sources: &Arc<Sources>,
    out: &mpsc::Sender<pb::OpenRequest>,
) -> Result<(), RuntimeError> {
    let mut files = vec![BundleFile { name: "agent.txt".to_owned(), text: sources.flags.clone() }];
    files.extend(known(sources).await);
    for runtime in runtimes {
        let kind = runtime.kind().as_str();
        files.push(file(format!("runtimes/{kind}-instances.txt"), seen(&**runtime).await));
        files.push(file(format!("runtimes/{kind}.txt"), described(&**runtime).await));
    }
    files.push(file("log.txt", own_log()));
    let data_dir = sources.data_dir.clone();
    let machine = tokio::task::spawn_blocking(move || machine(&data_dir)).await;
    files.extend(machine.map_err(|_| failed("Internal", "looking at the machine failed".to_owned()))?);
    let (mut count, mut room) = (0, ALL_BYTES_MAX);
    for BundleFile { name, text } in files {
        let text = cut(text, FILE_BYTES_MAX.min(room));
        room -= text.len();
        count += 1;
        let data = Bytes::from(text);
        let head = pb::BundleFile { name, bytes: data.len() as u64 };
        if !send(out, Part::File(head)).await {
            return Ok(());
        }
        for piece in data.chunks(PIECE_BYTES_MAX) {
            if !send(out, Part::Data(data.slice_ref(piece))).await {
                return Ok(());
            }
        }
    }
    send(out, Part::End(pb::BundleEnd { files: count })).await;
    Ok(())
}

/// Whether anybody hears it.
async fn send(out: &mpsc::Sender<pb::OpenRequest>, body: Part) -> bool {
    let frame = pb::OpenRequest { body: Some(Up::Bundle(pb::BundleNodeResponse { body: Some(body) })) };
    out.send(frame).await.is_ok()
}

fn file(name: impl Into<String>, text: String) -> BundleFile {
    BundleFile { name: name.into(), text }
}

/// The end of a text, which is the newest of a log, where all is too long.
fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let from = (text.len() - bytes_max..=text.len()).find(|at| text.is_char_boundary(*at));
        text.drain(..from.unwrap_or(0));
    }
    text
}

/// What the reconciler knows.
async fn known(sources: &Sources) -> Vec<BundleFile> {
    let (answer, answered) = oneshot::channel();
    let asking = async {
        sources.looks.send(answer).await.ok()?;
        answered.await.ok()
    };
    let known = tokio::time::timeout(PATIENCE, asking).await;
    known
        .ok()
        .flatten()
        .unwrap_or_else(|| vec![file("plan.txt", "the reconciler did not answer\n".to_owned())])
}

/// What a runtime shows.
async fn seen(runtime: &dyn Runtime) -> String {
    match tokio::time::timeout(PATIENCE, runtime.observe()).await {
        Ok(Ok(all)) => all.iter().map(line).collect(),
        Ok(Err(error)) => format!("{}: {}\n", error.reason, error.message),
        Err(_) => "it did not answer in time\n".to_owned(),
    }
}

/// One copy of an instance.
pub(crate) fn line(one: &Observed) -> String {
    let Observed {
        instance, revision, runtime_id, state, place, drift, address, warnings, image_health, ..
    } = one;
    format!(
        "{instance} {state:?} place={place:?} id={runtime_id} revision={revision} address={address:?} drift={drift:?} image-health={image_health:?} warnings={warnings:?}\n"
    )
}

/// What a runtime says of itself.
async fn described(runtime: &dyn Runtime) -> String {
    let asking = async { Ok::<_, RuntimeError>((runtime.probe().await?, runtime.describe().await?)) };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok((version, more))) => format!("version: {version}\n{more}"),
        Ok(Err(error)) => format!("{}: {}\n", error.reason, error.message),
        Err(_) => "it did not answer in time\n".to_owned(),
    }
}

fn own_log() -> String {
    let (log, mut text, mut next) = (OwnLog::of_process(), String::new(), 0);
    while let Some(line) = log.from(next) {
        next = line.number + 1;
        text.push_str(&String::from_utf8_lossy(&line.text));
        text.push('\n');
    }
    text
}

/// What the kernel says, and what lies in the data directory: names and sizes.
fn machine(data_dir: &Path) -> Vec<BundleFile> {
    let kernel = KERNEL.iter().filter_map(|path| {
        let mut text = String::new();
        fs::File::open(path).ok()?.take(KERNEL_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(file(path.trim_start_matches('/').to_owned(), text))
    });
    let mut files: Vec<BundleFile> = kernel.collect();
    let mut text = String::new();
    if let Ok(stat) = rustix::fs::statvfs(data_dir) {
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let _ = writeln!(
            text,
            "total bytes: {}\nfree bytes: {}\nfiles: {}\nfree files: {}\n",
            bytes(stat.f_blocks),
            bytes(stat.f_bavail),
            stat.f_files,
            stat.f_favail
        );
    }
    let mut left = NAMES_MAX;
    names(data_dir, data_dir, 0, &mut left, &mut text);
    files.push(file("disk.txt", text));
    files
}

fn names(root: &Path, dir: &Path, depth: usize, left: &mut usize, text: &mut String) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<fs::DirEntry> = entries.flatten().take(*left).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let Ok(about) = entry.metadata() else { continue };
        let path = entry.path();
        let changed = about.modified().unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = now.saturating_sub(changed).as_secs();
        let shown = path.strip_prefix(root).unwrap_or(&path).display();
        let _ = writeln!(text, "{shown} bytes={} changed {age} s ago", about.len());
        if about.is_dir() && depth + 1 < DEPTH_MAX {
            names(root, &path, depth + 1, left, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_text_that_is_too_long_the_end_is_told() {
        assert_eq!(cut("one".to_owned(), 3), "one");
        assert_eq!(cut("one\ntwo".to_owned(), 3), "two");
        assert_eq!(cut("ä".to_owned(), 1), "", "never half a letter");
    }

    #[test]
    fn of_files_the_names_are_told_and_never_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("configs")).unwrap();
        fs::write(dir.path().join("configs/site.conf"), "password=hunter2").unwrap();
        let files = machine(dir.path());
        let disk = files.iter().find(|file| file.name == "disk.txt").unwrap();
        assert!(disk.text.contains("configs/site.conf bytes=16"), "{}", disk.text);
        assert!(files.iter().all(|file| !file.text.contains("hunter2")));
        assert!(files.iter().any(|file| file.name == "proc/meminfo" && file.text.contains("MemTotal")));
    }
}
