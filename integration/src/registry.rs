//! A registry of images that asks for a password: Debian's `docker-registry`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skerry_testing::{BUSYBOX_IMAGE, Docker, Process, busybox_root, find_program, free_port};
use tempfile::TempDir;

/// Who may push and pull.
pub const USER: &str = "skerry";
/// Their password.
pub const PASSWORD: &str = "open sesame";
/// What `htpasswd -nbB` says for these two, and for `deploy` with `secret`.
const HTPASSWD: &str = "skerry:$2y$04$yzW/B8O.s4FZTx6BrOzMPu8Nw7XDldMRArlbaFptRfuH4b.rEfk6.\n\
                        deploy:$2y$04$yzW/B8O.s4FZTx6BrOzMPu1sM3pZYx5m4ctok16Z1k1qd3nVveLb6\n";
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A registry that lets nobody in without a password. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    host: String,
    _process: Process,
    dir: TempDir,
}

impl Registry {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When none is installed, or it does not answer.
    pub async fn start() -> Result<Self> {
        let program = find_program("docker-registry")
            .context("docker-registry is not installed: apt-get install docker-registry")?;
        let dir = TempDir::new().context("making a directory for the registry")?;
        let host = format!("127.0.0.1:{}", free_port());
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("htpasswd"), HTPASSWD)?;
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("data"),
            at("htpasswd"),
        );
        std::fs::write(at("config.yml"), config)?;
        let arguments = ["serve".to_owned(), at("config.yml")];
        let mut process = Process::spawn(program, arguments, at("log"))?;
        let address: SocketAddr = host.parse()?;
        process.wait_for_port(address, START_DEADLINE).await?;
        Ok(Self { host, _process: process, dir })
    }

    /// Where it is, as names of images have it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A directory that goes with it.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Puts the busybox image there as `name:tag`, and answers its digest.
    ///
    /// # Errors
    /// When Docker or the registry refuses.
    pub fn push(&self, docker: &Docker, name: &str, tag: &str) -> Result<String> {
        let repository = format!("{}/{name}", self.host);
        let tagging = format!("/images/{BUSYBOX_IMAGE}/tag?repo={repository}&tag={tag}");
        let tagged = docker.request("POST", &tagging, &[])?;
        ensure!(tagged.status == 201, "{}", tagged.text());
        let digest = docker.push(&repository, tag, USER, PASSWORD)?;
        docker.request("DELETE", &format!("/images/{repository}:{tag}"), &[])?;
        Ok(digest)
    }

    /// Puts an image there that is nobody else's, as `name:1`, and leaves it on this machine too.
    ///
    /// # Errors
    /// When Docker or the registry refuses.
    pub fn push_own(&self, docker: &Docker, name: &str) -> Result<()> {
        let repository = format!("{}/{name}", self.host);
        let files = busybox_root()?.file("own", 0o644, name.as_bytes()).finish();
        docker.import(&format!("{repository}:1"), &files, &["ENV PATH=/bin"])?;
        docker.push(&repository, "1", USER, PASSWORD).map(drop)
    }
}
