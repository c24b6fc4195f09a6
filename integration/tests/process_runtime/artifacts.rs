//! Artifacts: what is downloaded for a process, from a server of the test's own that also cuts connections off.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use sha2::{Digest as _, Sha256};
use skerry_agent::desired::InstanceSpec;
use skerry_agent::runtime::process::{Config, ProcessRuntime};
use skerry_agent::runtime::{Needs, Progress, Runtime as _, RuntimeError};
use skerry_model::app::{Artifact, Program, Unpack};
use skerry_testing::TarBuilder;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::support::{World, change, spec_of};

const SCRIPT: &str = "#!/bin/sh\necho served by $0\nexec sleep 1000\n";
/// Longest head of a request.
const HEAD_MAX: usize = 8192;

/// What the server answers with, and what it was asked.
#[derive(Default)]
struct Site {
    content: Vec<u8>,
    /// Answers end after so many bytes of the body.
    cut: Option<usize>,
    /// In place of how much there is.
    length: Option<u64>,
    /// What it says of which content it has. It heeds conditions on the first.
    etag: Option<&'static str>,
    modified: Option<&'static str>,
    /// Path and range of each request.
    asked: Vec<(String, Option<usize>)>,
}

struct Server {
    host: String,
    site: Arc<Mutex<Site>>,
    /// Of https: the certificate, as its clients are to trust it.
    certificate: String,
    _serving: JoinSet<()>,
}

impl Server {
    async fn start(content: &[u8], secure: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = format!("localhost:{}", listener.local_addr().expect("it has one").port());
        let site = Arc::new(Mutex::new(Site { content: content.to_vec(), ..Site::default() }));
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a configuration");
        let acceptor = secure.then(|| TlsAcceptor::from(Arc::new(config)));
        let served = Arc::clone(&site);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // One that goes away, or trusts nothing, is of no concern to the next.
                let _ = match &acceptor {
                    None => answer(stream, &served).await,
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => answer(stream, &served).await,
                        Err(error) => Err(error),
                    },
                };
            }
        });
        Self { host, site, certificate: cert.pem(), _serving: serving }
    }

    fn set(&self, change: impl FnOnce(&mut Site)) {
        change(&mut self.site.lock().expect("not poisoned"));
    }

    fn asked(&self) -> Vec<(String, Option<usize>)> {
        self.site.lock().expect("not poisoned").asked.clone()
    }
}

/// Reads one request and answers it: `/missing` is not there, `/moved` is at `/file`, anything else is the content, from where it is asked.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, site: &Mutex<Site>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let range =
        head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    let bytes = {
        let mut site = site.lock().expect("not poisoned");
        site.asked.push((path.clone(), range));
        let from = range.unwrap_or(0).min(site.content.len());
        let body = &site.content[from..];
        let length = site.length.unwrap_or(body.len() as u64);
        let etag = site.etag.map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
        let modified = site.modified.map(|time| format!("Last-Modified: {time}\r\n")).unwrap_or_default();
        let same = site.etag.is_some_and(|etag| head.contains(&format!("if-none-match: {etag}\r\n")));
        let status = match (path.split('?').next().unwrap_or_default(), range) {
            ("/missing", _) => "404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            ("/busy", _) => "503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned(),
            ("/moved", _) => "302 Found\r\nLocation: /file\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ if same => "304 Not Modified\r\nContent-Length: 0\r\n\r\n".to_owned(),
            (_, None) => format!("200 OK\r\n{etag}{modified}Content-Length: {length}\r\n\r\n"),
            (_, Some(_)) => {
                let total = site.content.len();
                format!(
                    "206 Partial Content\r\nContent-Length: {length}\r\nContent-Range: bytes {from}-{}/{total}\r\n\r\n",
                    total - 1
                )
            }
        };
        let body = if status.contains("Length: 0\r") {
            &[]
        } else {
            &body[..site.cut.unwrap_or(body.len()).min(body.len())]
        };
        [format!("HTTP/1.1 {status}").as_bytes(), body].concat()
    };
    stream.write_all(&bytes).await?;
    stream.shutdown().await
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn artifact(url: &str, content: &[u8], path: &str) -> Artifact {
    Artifact {
        url: url.to_owned(),
        sha256: sha256(content),
        path: path.to_owned(),
        executable: true,
        unpack: None,
    }
}

fn with(spec: &InstanceSpec, fingerprint: &str, artifacts: Vec<Artifact>) -> InstanceSpec {
    change(spec, fingerprint, |service| {
        let Program::Process(process) = &mut service.program else { panic!("a process") };
        process.artifacts = artifacts;
    })
}

/// What `prepare` answers, and the reasons of what it tells.
async fn prepare(world: &World, spec: &InstanceSpec) -> (Result<(), RuntimeError>, Vec<&'static str>) {
    let told = Mutex::new(Vec::new());
    let note = |progress: Progress| told.lock().expect("not poisoned").push(progress.reason);
    let result = world.runtime.prepare(spec, &note).await;
    (result, told.into_inner().expect("not poisoned"))
}

async fn refused(world: &World, artifact: Artifact) -> (&'static str, bool) {
    let error =
        prepare(world, &with(&spec_of("app/web/n1/0", "./serve", &[]), "one", vec![artifact])).await.0;
    let error = error.expect_err("it cannot be had");
    (error.reason, error.transient)
}

/// What is in the directory of artifacts.
fn kept(world: &World) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(&world.config.artifacts) else { return BTreeSet::new() };
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_program_is_downloaded_once_and_goes_when_nothing_needs_it() {
    let mut world = World::new();
    let server = Server::start(SCRIPT.as_bytes(), false).await;
    let spec = spec_of("app/web/n1/0", "./bin/serve", &[]);
    let one = artifact(&format!("http://{}/moved?token=secret", server.host), SCRIPT.as_bytes(), "bin/serve");
    let wanted = with(&spec, "one", vec![one.clone()]);
    let (result, told) = prepare(&world, &wanted).await;
    result.expect("prepared");
    assert_eq!(told, ["Downloading", "Downloaded"]);
    world.start(&wanted).await.expect("started");
    world.has_written(&spec, "stdout.log", "served by ").await;
    world.another_agent();
    assert_eq!(
        prepare(&world, &with(&spec, "two", vec![Artifact { path: "b".into(), ..one.clone() }])).await.1,
        [""; 0]
    );
    assert_eq!(server.asked().len(), 2, "the redirect and the file, and then never again");
    // Another place, and not executable any more.
    let moved = with(&spec, "two", vec![Artifact { path: "b".into(), executable: false, ..one.clone() }]);
    assert_eq!(world.start(&moved).await.expect_err("it is elsewhere").reason, "ProgramNotFound");
    assert!(world.path(&spec, "state/b").exists() && !world.path(&spec, "state/bin/serve").exists());
    let needs = |artifacts: &[&Artifact]| Needs {
        artifacts: artifacts.iter().map(|artifact| artifact.sha256.clone()).collect(),
        ..Needs::default()
    };
    assert_eq!(world.runtime.collect(&needs(&[&one])).await.expect("collected"), []);
    assert_eq!(kept(&world), BTreeSet::from([one.sha256.clone()]));
    let told = world.runtime.collect(&needs(&[])).await.expect("collected");
    assert_eq!(told.iter().map(|told| told.reason).collect::<Vec<_>>(), ["ArtifactRemoved"]);
    assert_eq!(kept(&world), BTreeSet::new());
    // Started without having been prepared, and after it was damaged on disk.
    world.start(&wanted).await.expect("downloaded again");
    fs::write(world.config.artifacts.join(&one.sha256), "#!/bin/sh\necho other").expect("written");
    world.runtime.remove(&spec.name).await.expect("removed");
    assert_eq!(world.start(&wanted).await.expect_err("it is not that file").reason, "ChecksumMismatch");
    world.start(&wanted).await.expect("downloaded again");
}

#[tokio::test]
async fn what_was_cut_off_is_gone_on_with() {
    let world = World::new();
    let content = format!("{SCRIPT}{}", "# more\n".repeat(20_000));
    let server = Server::start(content.as_bytes(), false).await;
    let one = artifact(&format!("http://{}/file", server.host), content.as_bytes(), "serve");
    server.set(|site| site.cut = Some(50_000));
    for _ in 0..2 {
        assert_eq!(refused(&world, one.clone()).await, ("DownloadFailed", true));
    }
    server.set(|site| site.cut = None);
    let spec = with(&spec_of("app/web/n1/0", "./serve", &[]), "one", vec![one.clone()]);
    prepare(&world, &spec).await.0.expect("prepared");
    let ranges: Vec<_> = server.asked().into_iter().map(|(_, range)| range).collect();
    assert_eq!(ranges, [None, Some(50_000), Some(100_000)]);
    assert_eq!(fs::read(world.config.artifacts.join(&one.sha256)).expect("it is there"), content.as_bytes());
    // What is there is of another file: begun again.
    fs::rename(world.config.artifacts.join(&one.sha256), world.config.artifacts.join("x")).expect("renamed");
    fs::write(world.config.artifacts.join(format!("{}.part", one.sha256)), "other").expect("written");
    assert_eq!(refused(&world, one.clone()).await, ("ChecksumMismatch", true));
    prepare(&world, &spec).await.0.expect("prepared");
}

#[tokio::test]
async fn what_cannot_be_had_says_why_and_is_not_kept() {
    let world = World::new();
    let server = Server::start(SCRIPT.as_bytes(), false).await;
    let at = |path: &str| artifact(&format!("http://{}/{path}", server.host), SCRIPT.as_bytes(), "serve");
    assert_eq!(refused(&world, at("missing")).await, ("DownloadFailed", false));
    assert_eq!(refused(&world, at("busy")).await, ("DownloadFailed", true));
    let nobody = artifact("http://127.0.0.1:1/file", SCRIPT.as_bytes(), "serve");
    assert_eq!(refused(&world, nobody).await, ("DownloadFailed", true));
    let other = Artifact { sha256: sha256(b"other"), ..at("file") };
    assert_eq!(refused(&world, other).await, ("ChecksumMismatch", false));
    server.set(|site| site.length = Some((2 << 30) + 1));
    assert_eq!(refused(&world, at("file")).await, ("ArtifactTooLarge", false));
    assert!(kept(&world).iter().all(|name| name.strip_suffix(".part").is_some()), "{:?}", kept(&world));
    for entry in fs::read_dir(&world.config.artifacts).expect("read") {
        assert_eq!(entry.expect("an entry").metadata().expect("it is there").len(), 0);
    }
}

#[tokio::test]
async fn archives_are_unpacked_and_those_that_lead_out_are_refused_before_anything_stops() {
    let world = World::new();
    let tar = TarBuilder::new()
        .dir("bin/", 0o755)
        .file("bin/serve", 0o755, SCRIPT.as_bytes())
        .file("data", 0o644, b"data")
        .symlink("bin/link", "../data")
        .finish();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&tar).expect("written");
    let packed = packed.finish().expect("packed");
    let server = Server::start(&packed, false).await;
    let url = format!("http://{}/file", server.host);
    let unpacked = |content: &[u8], unpack| Artifact {
        executable: false,
        unpack: Some(unpack),
        ..artifact(&url, content, "release")
    };
    let spec = spec_of("app/web/n1/0", "./release/bin/serve", &[]);
    let wanted = with(&spec, "one", vec![unpacked(&packed, Unpack::TarGz)]);
    prepare(&world, &wanted).await.0.expect("prepared");
    world.start(&wanted).await.expect("started");
    world.has_written(&spec, "stdout.log", "served by ").await;
    let pid = world.pid(&spec).await;
    assert_eq!(world.read(&spec, "state/release/bin/link"), "data");
    for bad in [
        TarBuilder::new().file("../../stdout.log", 0o644, b"x").finish(),
        TarBuilder::new().symlink("out", "/etc").file("out/x", 0o644, b"x").finish(),
        // It stays within, and could not be unpacked.
        TarBuilder::new().symlink("through", "bin").file("through/x", 0o644, b"x").finish(),
        b"no archive at all".to_vec(),
    ] {
        server.set(|site| site.content.clone_from(&bad));
        assert_eq!(refused(&world, unpacked(&bad, Unpack::Tar)).await, ("ArchiveRefused", false));
    }
    assert_eq!(world.pid(&spec).await, pid);
    // What the new archive lacks is gone, as is what the program put there.
    let small = TarBuilder::new().file("bin/serve", 0o755, SCRIPT.as_bytes()).finish();
    server.set(|site| site.content.clone_from(&small));
    fs::write(world.path(&spec, "state/release/own"), "").expect("written");
    let smaller = with(&spec, "two", vec![unpacked(&small, Unpack::Tar)]);
    world.start(&smaller).await.expect("started");
    let names = |path: &str| fs::read_dir(world.path(&spec, path)).expect("read").count();
    assert_eq!((names("state/release"), names("state/release/bin")), (1, 1));
}

#[tokio::test]
async fn what_has_the_wrong_checksum_is_not_downloaded_again_before_it_is_another() {
    let rows = [
        (Some("\"1\""), None, Some("\"2\"")),
        (None, Some("Mon, 01 Jan 2024 00:00:00 GMT"), Some("\"2\"")),
        (None, None, None),
    ];
    for (etag, modified, later) in rows {
        let world = World::new();
        let server = Server::start(b"another", false).await;
        server.set(|site| (site.etag, site.modified) = (etag, modified));
        let one = artifact(&format!("http://{}/latest", server.host), SCRIPT.as_bytes(), "serve");
        let spec = with(&spec_of("app/web/n1/0", "./serve", &[]), "one", vec![one.clone()]);
        for told in [&["Downloading"][..], &[], &[]] {
            let (result, said) = prepare(&world, &spec).await;
            let error = result.expect_err("it is another");
            assert_eq!((error.reason, error.transient), ("ChecksumMismatch", false));
            assert_eq!(said, told, "{etag:?} {modified:?}");
        }
        let is_told = etag.or(modified).is_some();
        assert_eq!(server.asked().len(), if is_told { 3 } else { 1 }, "{etag:?} {modified:?}");
        server.set(|site| (site.etag, site.content) = (later, SCRIPT.as_bytes().to_vec()));
        if !is_told {
            assert_eq!(refused(&world, one.clone()).await, ("ChecksumMismatch", false), "for some hours");
            let elsewhere = Artifact { url: format!("{}?2", one.url), ..one };
            let spec = with(&spec, "two", vec![elsewhere]);
            prepare(&world, &spec).await.0.expect("it is asked for at another place");
            continue;
        }
        let (result, said) = prepare(&world, &spec).await;
        result.expect("it is there now");
        assert_eq!(said, ["Downloading", "Downloaded"]);
    }
}

/// Long to decompress and short to download.
fn zeros() -> Vec<u8> {
    const BYTES: usize = 8 << 20;
    let pack = |bytes: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).expect("written");
        packed.finish().expect("packed")
    };
    let tar = TarBuilder::new().file("zeros", 0o644, &vec![0; BYTES]).finish();
    let (file, end) = tar.split_at(512 + BYTES);
    [pack(file).repeat(32), pack(end)].concat()
}

#[test]
fn large_artifacts_hold_up_no_look_at_what_runs() {
    let archive = zeros();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build();
    runtime.expect("a runtime").block_on(async {
        let world = World::new();
        let server = Server::start(&archive, false).await;
        let one = Artifact {
            executable: false,
            unpack: Some(Unpack::TarGz),
            ..artifact(&format!("http://{}/file", server.host), &archive, "release")
        };
        let prepared = AtomicUsize::new(0);
        let one_of_four = async |ordinal: usize| {
            let spec = spec_of(&format!("app/web/n1/{ordinal}"), "./release/serve", &[]);
            prepare(&world, &with(&spec, "one", vec![one.clone()])).await.0.expect("prepared");
            prepared.fetch_add(1, Ordering::Relaxed);
        };
        let look = async || {
            while !kept(&world).contains(&one.sha256) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut looks = 0;
            while prepared.load(Ordering::Relaxed) == 0 {
                world.runtime.observe().await.expect("observed");
                looks += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            looks
        };
        let prepares = async { tokio::join!(one_of_four(0), one_of_four(1), one_of_four(2), one_of_four(3)) };
        let (_, looks) = tokio::join!(prepares, look());
        // Some come before the archives are read.
        assert!(looks >= 5, "{looks} looks while four archives are looked through");
    });
}

#[tokio::test]
async fn https_trusts_only_what_it_is_told_to() {
    let mut world = World::new();
    let server = Server::start(SCRIPT.as_bytes(), true).await;
    let one = artifact(&format!("https://{}/file", server.host), SCRIPT.as_bytes(), "serve");
    let trust = |world: &World, certificate: &str| {
        let file = world.dir.path().join("trusted.pem");
        fs::write(&file, certificate).expect("written");
        Config { certificates: Some(file), ..world.config.clone() }
    };
    let other = Server::start(b"", true).await;
    for certificate in [&other.certificate, ""] {
        world.runtime = ProcessRuntime::new(trust(&world, certificate));
        assert_eq!(refused(&world, one.clone()).await, ("DownloadFailed", true));
    }
    assert_eq!(server.asked(), [], "nothing was asked over a connection that is not trusted");
    world.runtime = ProcessRuntime::new(trust(&world, &server.certificate));
    let spec = with(&spec_of("app/web/n1/0", "./serve", &[]), "one", vec![one]);
    prepare(&world, &spec).await.0.expect("prepared");
    world.start(&spec).await.expect("started");
    world.has_written(&spec, "stdout.log", "served by ").await;
}
