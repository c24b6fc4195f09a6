//! `bundle`: what a node's agent and the control plane know of it, as an archive for who looks for a fault.
//!
//! What the agent tells was chosen there. Of what the control plane knows no spec of an app goes in: environments and arguments are in those.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use skerry_archive::{Entry, Kind, Writer};
use skerry_manifest::output::{self, Value};
use skerry_proto::registry::v1::GetInstallationRequest;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::bundle_node_response::Body as Part;
use tonic::Streaming;

use crate::args::BundleArgs;
use crate::client::{Client, Service, installation, relay, request};
use crate::error::CliError;
use crate::item::{Item, Query};
use crate::print::{Printer, note};
use crate::target::{Target, Type};

/// Most bytes of all files together: an agent tells at most half of it.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest file of an agent's.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

pub(crate) async fn run(client: &Client, args: &BundleArgs, printer: &mut Printer) -> Result<(), CliError> {
    let target = Target::parse(&args.target)?;
    if target.kind != Type::Node {
        return Err(CliError::Usage(format!("{target} has no bundle: name a node, as node/NAME")));
    }
    let full = target.full_name(client.project())?;
    // That there is such a node is known before a file is begun.
    let node = client.get(&target).await?;
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("skerry-{}.tar.gz", target.name)));
    let mut bundle = Bundle::begin(&path, &target.name)?;
    if let Err(error) = of_agent(client, &full, &mut bundle).await? {
        note(&format!("what the agent knows is missing: {error}"));
        bundle.file("agent/MISSING.txt", format!("{error}\n").as_bytes())?;
    }
    of_cloud(client, &node, &target.name, &full, &mut bundle).await?;
    bundle.finish(&path)?;
    printer.line(&format!("{} written", path.display()))
}

/// What the agent tells. `Err` within: it did not tell all of it.
async fn of_agent(client: &Client, node: &str, bundle: &mut Bundle) -> Result<Result<(), String>, CliError> {
    let mut server = match client.relay_channel().await {
        Ok(channel) => relay(channel),
        Err(error) => return Ok(Err(CliError::from(error).summary())),
    };
    let asked = server.bundle_node(pb::BundleNodeRequest { node: node.to_owned() }).await;
    let mut parts = match asked {
        Ok(parts) => parts.into_inner(),
        Err(status) => return away(client, &status),
    };
    loop {
        match next(&mut parts).await {
            Ok(Some((name, bytes))) => bundle.file(&format!("agent/{name}"), &bytes)?,
            Ok(None) => return Ok(Ok(())),
            Err(Broken::Status(status)) => return away(client, &status),
            Err(Broken::Nonsense(why)) => return Ok(Err(why.to_owned())),
        }
    }
}

/// Who may not, ends; who is not reached, is told so.
fn away(client: &Client, status: &tonic::Status) -> Result<Result<(), String>, CliError> {
    let error = CliError::of_status(status, client.relay_address());
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Err(error),
        _ => Ok(Err(error.summary())),
    }
}

enum Broken {
    Status(Box<tonic::Status>),
    Nonsense(&'static str),
}

/// The next file; nothing once all are told.
async fn next(parts: &mut Streaming<pb::BundleNodeResponse>) -> Result<Option<(String, Vec<u8>)>, Broken> {
    let (mut file, mut bytes): (Option<pb::BundleFile>, Vec<u8>) = (None, Vec::new());
    loop {
        if let Some(head) = file.take_if(|head| bytes.len() as u64 >= head.bytes) {
            return Ok(Some((head.name, bytes)));
        }
        let part = parts.message().await.map_err(|status| Broken::Status(Box::new(status)))?;
        match (part.and_then(|part| part.body), &file) {
            (Some(Part::File(head)), None) if is_plain(&head.name) && head.bytes <= FILE_BYTES_MAX => {
                file = Some(head);
            }
            (Some(Part::Data(data)), Some(head)) if (bytes.len() + data.len()) as u64 <= head.bytes => {
                bytes.extend_from_slice(&data);
            }
            (Some(Part::End(_)), None) => return Ok(None),
            (None, _) => return Err(Broken::Nonsense("the agent ended and did not say that all is told")),
            _ => return Err(Broken::Nonsense("what the agent tells makes no sense")),
        }
    }
}

/// Whether a name stays below the directory that it is put into.
fn is_plain(name: &str) -> bool {
    let is_word = |word: &str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !matches!(word, "" | "." | "..") && word.chars().all(letters)
    };
    name.len() <= 200 && name.split('/').all(is_word)
}

/// What the control plane knows. What it does not answer is told in the archive.
async fn of_cloud(
    client: &Client,
    node: &Item,
    short: &str,
    full: &str,
    bundle: &mut Bundle,
) -> Result<(), CliError> {
    bundle.file("cloud/node.json", json(&node.value()).as_bytes())?;
    let parent = client.project().parent();
    let asking = client.call(Service::Registry, |channel, left| {
        let asked = GetInstallationRequest { parent: parent.clone() };
        async move { installation(channel).get_installation(request(asked, left)).await }
    });
    match asking.await {
        Ok(answer) => {
            let seen = answer.installation.unwrap_or_default();
            let seen = output::other("Installation", "skerry.registry.v1.Installation", &seen);
            bundle.file("cloud/installation.json", json(&seen).as_bytes())?;
        }
        Err(error) => bundle.missing("cloud/installation.json", &CliError::from(error))?,
    }
    let of_node = Query { node: Some(short.to_owned()), ..Query::all(Type::Instance) };
    let instances = match client.list(&of_node).await {
        Ok((instances, _)) => instances,
        Err(error) => {
            bundle.missing("cloud/instances.json", &error)?;
            Vec::new()
        }
    };
    let values = |items: &[Item]| json(&output::list(items.iter().map(Item::value).collect()));
    bundle.file("cloud/instances.json", values(&instances).as_bytes())?;
    let mut regarding = vec![full.to_owned()];
    let mut apps: Vec<String> = Vec::new();
    for item in &instances {
        let Item::Instance(instance) = item else { continue };
        regarding.push(format!("{}/instances/{}", client.project().parent(), instance.instance));
        apps.extend(instance.instance.split('/').next().map(str::to_owned));
    }
    apps.sort_unstable();
    apps.dedup();
    match client.list(&Query::all(Type::Event)).await {
        Ok((events, _)) => {
            let is_of =
                |item: &Item| matches!(item, Item::Event(event) if regarding.contains(&event.regarding));
            let events: Vec<Item> = events.into_iter().filter(is_of).collect();
            bundle.file("cloud/events.json", values(&events).as_bytes())?;
        }
        Err(error) => bundle.missing("cloud/events.json", &error)?,
    }
    for app in apps {
        let name = format!("cloud/apps/{app}.json");
        match client.get(&Target { kind: Type::App, name: app }).await {
            Ok(Item::App(mut app)) => {
                app.spec = None;
                bundle.file(&name, json(&Item::App(app).value()).as_bytes())?;
            }
            Ok(_) => {}
            Err(error) => bundle.missing(&name, &CliError::from(error))?,
        }
    }
    Ok(())
}

fn json(value: &Value) -> String {
    value.to_json_pretty() + "\n"
}

/// The archive, beside the file that it is to be.
struct Bundle {
    file: tempfile::NamedTempFile,
    writer: Writer<GzEncoder<std::io::BufWriter<std::fs::File>>>,
    /// What all is below.
    root: String,
    now: i64,
    left: usize,
}

impl Bundle {
    fn begin(path: &Path, node: &str) -> Result<Self, CliError> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", path.display()));
        let file = tempfile::Builder::new().prefix(".skerry-bundle-").tempfile_in(dir).map_err(failed)?;
        let out = std::io::BufWriter::new(file.reopen().map_err(failed)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self {
            file,
            writer: Writer::new(GzEncoder::new(out, Compression::default())),
            root: format!("skerry-{node}"),
            now: i64::try_from(now).unwrap_or(i64::MAX),
            left: BYTES_MAX,
        })
    }

    /// One file.
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), CliError> {
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            let message = format!("the bundle has more than {} MiB", BYTES_MAX / 1024 / 1024);
            return Err(CliError::Failed(message));
        };
        self.left = left;
        let entry = Entry {
            path: format!("{}/{name}", self.root).into_bytes(),
            kind: Kind::File,
            mode: 0o600,
            mtime: self.now,
            size: bytes.len() as u64,
        };
        let written = self.writer.entry(&entry).and_then(|()| self.writer.data(bytes));
        written.and_then(|()| self.writer.end()).map_err(|error| CliError::Failed(error.to_string()))
    }

    /// That something is not there, and why.
    fn missing(&mut self, what: &str, error: &CliError) -> Result<(), CliError> {
        let why = error.summary();
        note(&format!("{what} is missing: {why}"));
        self.file(&format!("{what}.MISSING.txt"), format!("{why}\n").as_bytes())
    }

    /// All is in it: it gets its name.
    fn finish(self, path: &Path) -> Result<(), CliError> {
        let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", path.display()));
        let zipped = self.writer.finish().map_err(|error| CliError::Failed(error.to_string()))?;
        let mut out = zipped.finish().map_err(failed)?;
        out.flush().map_err(failed)?;
        out.get_ref().sync_all().map_err(failed)?;
        self.file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_puts_no_file_beside_its_own() {
        for plain in ["log.txt", "proc/net/dev", "runtimes/docker-instances.txt"] {
            assert!(is_plain(plain), "{plain}");
        }
        for wrong in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a b", "a\nb", "a\u{e4}"] {
            assert!(!is_plain(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_bundle_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar.gz");
        let mut half = Bundle::begin(&path, "n1").unwrap();
        half.file("a.txt", b"x").unwrap();
        drop(half);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut whole = Bundle::begin(&path, "n1").unwrap();
        whole.file("a.txt", b"x").unwrap();
        whole.left = 1;
        assert!(whole.file("b.txt", b"xy").is_err(), "bounded");
        whole.finish(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
