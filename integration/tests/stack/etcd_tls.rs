//! An etcd that talks by mutual TLS only to who has a certificate of its authority.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use skerry_integration::stack::PATIENCE;
use skerry_testing::{Etcd, Process, ServerFiles, bin, free_port};

use super::operator::said;

/// An authority that knows nothing of Skerry: etcd's own.
struct Authority {
    pem: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = dir.join(format!("{name}.crt"));
        fs::write(&pem, params.self_signed(&key)?.pem())?;
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// Certificate and key of `name`.
    fn issue(&self, dir: &Path, name: &str, usage: ExtendedKeyUsagePurpose) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        // etcd's gateway for HTTP is a client of its own server.
        params.extended_key_usages = vec![usage, ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, private) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        fs::write(&certificate, params.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(&private, key.serialize_pem())?;
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600))?;
        Ok((certificate, private))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

async fn run(command: &mut Command) -> Result<Output> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
    tokio::time::timeout(PATIENCE, ended).await.context("it did not end")??.context("running it")
}

#[tokio::test]
async fn services_keep_their_state_in_an_etcd_that_asks_for_certificates() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let authority = Authority::new(dir, "etcd-ca")?;
    let stranger = Authority::new(dir, "other-ca")?;
    let (certificate, key) = authority.issue(dir, "server", ExtendedKeyUsagePurpose::ServerAuth)?;
    let etcd =
        Etcd::start_secured(ServerFiles { certificate, key, authority: authority.pem.clone() }).await?;
    let target = etcd.secured_endpoint().context("it has TLS")?;
    let (own, own_key) = authority.issue(dir, "skerry", ExtendedKeyUsagePurpose::ClientAuth)?;
    let files = ["--etcd-ca", text(&authority.pem), "--etcd-cert", text(&own), "--etcd-key", text(&own_key)];

    let port = free_port();
    let mut command = Command::new(bin("skerry"));
    command.args(["up", "--no-agent", "--etcd", &target, "--listen"]).arg(format!("127.0.0.1:{port}"));
    command.args(files).arg("--data-dir").arg(dir.join("data")).env("SKERRY_CONFIG", dir.join("config.yaml"));
    let mut up = Process::spawn_command(command.stdin(Stdio::null()), dir.join("up.log"))?;
    up.wait_for_line("ready after", PATIENCE).await?;
    let mut status = Command::new(bin("skerry"));
    let status = run(status.arg("status").env("SKERRY_CONFIG", dir.join("config.yaml"))).await?;
    ensure!(status.status.success(), "{}", said(&status));
    ensure!(
        etcd.ctl(&["get", "--prefix", "--keys-only", "/skerry/v1/"])?.contains("members/"),
        "its state is there"
    );

    // A command besides, with the flags behind its words.
    let mut show = Command::new(bin("skerry"));
    show.args(["authority", "show", "--etcd", &target]).args(files);
    show.arg("--key-file").arg(dir.join("data/keys"));
    let shown = run(&mut show).await?;
    ensure!(said(&shown).contains("skerry"), "{}", said(&shown));
    ensure!(shown.status.success(), "{}", said(&shown));

    // Whoever is not as etcd or we want it is told so. A service waits half a minute for its store before it gives up.
    let refused = async |files: &[&str]| -> Result<String> {
        let mut command = Command::new(bin("skerry-registry"));
        command.args(["--insecure", "--listen", "127.0.0.1:0", "--etcd", &target]).args(files);
        let output = run(&mut command).await?;
        ensure!(output.status.code() == Some(1), "{}", said(&output));
        Ok(said(&output))
    };
    let told = refused(&[]).await?;
    ensure!(told.contains("name the authority of its certificate with --etcd-ca"), "{told}");
    let told = refused(&["--etcd-ca", text(&own_key)]).await?;
    ensure!(told.contains("BEGIN CERTIFICATE is not in it"), "{told}");
    let told = refused(&["--etcd-ca", "/nowhere"]).await?;
    ensure!(told.contains("--etcd-ca /nowhere"), "{told}");
    let told = refused(&["--etcd-ca", text(&stranger.pem)]).await?;
    ensure!(told.contains("a certificate is not as it should be"), "{told}");
    up.terminate(PATIENCE).await?;
    Ok(())
}
