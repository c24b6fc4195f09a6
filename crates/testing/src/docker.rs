//! Facts about Docker, and images without a registry. Speaks HTTP to the daemon's socket, so no client need be installed.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{TarBuilder, find_program, http::Response};

/// Set to `1`, this variable lets tests that need Docker pass without one.
pub const NO_DOCKER: &str = "SKERRY_TEST_NO_DOCKER";
/// The image that [`Docker::busybox`] makes: `sh`, `sleep`, `httpd`, `nc` and the rest of busybox, users root and nobody.
pub const BUSYBOX_IMAGE: &str = "skerry-test/busybox:1";

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The longest silence of the daemon within one request; imports are the slowest.
const DEADLINE: Duration = Duration::from_mins(1);

/// A Docker daemon.
#[derive(Clone, Debug)]
pub struct Docker {
    socket: PathBuf,
}

impl Docker {
    /// The daemon at `DOCKER_HOST` (a `unix://` address) or at its usual place, if one answers.
    pub fn find() -> Result<Self> {
        let socket = match env::var("DOCKER_HOST") {
            Ok(host) => {
                let path = host.strip_prefix("unix://");
                path.with_context(|| format!("DOCKER_HOST is {host}, tests need a unix:// one"))?.into()
            }
            Err(_) => PathBuf::from(DEFAULT_SOCKET),
        };
        let docker = Self { socket };
        docker.ping()?;
        Ok(docker)
    }

    /// The daemon that listens at `socket`, whether one answers or not.
    #[must_use]
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Whether it answers.
    pub fn ping(&self) -> Result<()> {
        self.call("GET", "/_ping", &[]).context("no Docker daemon answers").map(drop)
    }

    /// For a test that needs Docker: the daemon, or None where the person who runs the tests has said that there is none
    /// (`SKERRY_TEST_NO_DOCKER=1`). Never silent: says so on standard error.
    ///
    /// # Panics
    /// When no daemon answers and nobody has said that this is fine.
    #[must_use]
    #[track_caller]
    pub fn required() -> Option<Self> {
        match Self::find() {
            Ok(docker) => Some(docker),
            Err(error) if env::var(NO_DOCKER).is_ok_and(|value| value == "1") => {
                eprintln!("NOT TESTED, {NO_DOCKER}=1: {error:#}");
                None
            }
            Err(error) => panic!("this test needs Docker ({NO_DOCKER}=1 to do without): {error:#}"),
        }
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The name of the busybox image, which is made from the installed static busybox where the daemon lacks it.
    pub fn busybox(&self) -> Result<&'static str> {
        if !self.has_image(BUSYBOX_IMAGE)? {
            self.import(BUSYBOX_IMAGE, &busybox_root()?.finish(), &[r#"CMD ["sh"]"#, "ENV PATH=/bin"])?;
        }
        Ok(BUSYBOX_IMAGE)
    }

    /// Whether the daemon has an image.
    pub fn has_image(&self, image: &str) -> Result<bool> {
        Ok(self.request("GET", &format!("/images/{image}/json"), &[])?.status == 200)
    }

    /// Makes an image `name:tag` from the tar of a root file system, as `docker import --change ...` does.
    pub fn import(&self, image: &str, tar: &[u8], changes: &[&str]) -> Result<()> {
        let (name, tag) = image.rsplit_once(':').with_context(|| format!("{image} has no tag"))?;
        let mut path = format!("/images/create?fromSrc=-&repo={}&tag={}", escape(name), escape(tag));
        for change in changes {
            path += "&changes=";
            path += &escape(change);
        }
        let answer = self.call("POST", &path, tar)?.text();
        // Progress, one object a line; a failure on the way comes after the status.
        let failed = answer.lines().find(|line| line.contains("\"error\""));
        failed.map_or(Ok(()), |line| bail!("importing {image}: {line}"))
    }

    /// Ids of all containers, running or not, that carry `label` (`key` or `key=value`).
    pub fn containers(&self, label: &str) -> Result<Vec<String>> {
        let filters = serde_json::json!({ "label": [label] }).to_string();
        let answer = self.json("GET", &format!("/containers/json?all=1&filters={}", escape(&filters)))?;
        let containers = answer.as_array().context("the list of containers is no list")?;
        Ok(containers.iter().filter_map(|one| one["Id"].as_str().map(str::to_owned)).collect())
    }

    /// What `docker inspect` shows of a container.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        self.json("GET", &format!("/containers/{container}/json"))
    }

    /// Removes all containers and networks that carry `label`. For the end of a test; say a label that is yours alone.
    pub fn remove_labelled(&self, label: &str) -> Result<()> {
        for id in self.containers(label)? {
            // Gone by itself in the meantime is as good.
            self.request("DELETE", &format!("/containers/{id}?force=1&v=1"), &[])?;
        }
        let filters = serde_json::json!({ "label": [label] }).to_string();
        let networks = self.json("GET", &format!("/networks?filters={}", escape(&filters)))?;
        for network in networks.as_array().into_iter().flatten() {
            if let Some(id) = network["Id"].as_str() {
                self.request("DELETE", &format!("/networks/{id}"), &[])?;
            }
        }
        Ok(())
    }

    /// A request whose answer is JSON and must be a success.
    pub fn json(&self, method: &str, path: &str) -> Result<Value> {
        let answer = self.call(method, path, &[])?;
        serde_json::from_slice(&answer.body).with_context(|| format!("reading the answer to {method} {path}"))
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Response> {
        let answer = self.request(method, path, body)?;
        if !(200..300).contains(&answer.status) {
            bail!("{method} {path}: {} {}", answer.status, answer.text().trim_end());
        }
        Ok(answer)
    }

    /// Creates a container from the body that Docker's API takes, and returns its id.
    pub fn create_container(&self, body: &Value) -> Result<String> {
        let answer =
            self.send("POST", "/containers/create", "application/json", body.to_string().as_bytes())?;
        let created: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let id = created["Id"].as_str().map(str::to_owned);
        id.with_context(|| format!("creating a container: {} {}", answer.status, answer.text()))
    }

    /// Pushes `repository:tag` to its registry, and answers the digest that it has there.
    pub fn push(&self, repository: &str, tag: &str, user: &str, password: &str) -> Result<String> {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE};
        let login = serde_json::json!({"username": user, "password": password}).to_string();
        let header = format!("X-Registry-Auth: {}\r\n", URL_SAFE.encode(login));
        let path = format!("/images/{repository}/push?tag={tag}");
        let answer = self.send_with("POST", &path, "application/json", &header, &[])?.text();
        // Progress, one object a line; the digest is in one of the last.
        let digest = answer.lines().rev().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["aux"]["Digest"].as_str().map(str::to_owned)
        });
        digest.with_context(|| format!("pushing {repository}:{tag}: {answer}"))
    }

    /// One request with a JSON body, whatever the daemon answers. Blocks as [`Self::request`] does.
    pub fn post_json(&self, path: &str, body: &Value) -> Result<Response> {
        self.send("POST", path, "application/json", body.to_string().as_bytes())
    }

    /// One request to the daemon, whatever it answers; a body is a tar. Blocks, at most 60 s of silence.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Result<Response> {
        self.send(method, path, "application/x-tar", body)
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Response> {
        self.send_with(method, path, kind, "", body)
    }

    /// `headers`: further ones, each with its line end.
    fn send_with(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        headers: &str,
        body: &[u8],
    ) -> Result<Response> {
        let mut stream =
            UnixStream::connect(&self.socket).with_context(|| self.socket.display().to_string())?;
        stream.set_read_timeout(Some(DEADLINE)).context("setting a deadline")?;
        stream.set_write_timeout(Some(DEADLINE)).context("setting a deadline")?;
        // HTTP/1.0: the body ends with the connection, and comes in one piece.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: docker\r\n{headers}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body))
            .context("sending to Docker")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("reading Docker's answer")?;
        Response::parse(&answer)
    }
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The root file system of the busybox image, to add to: made from the installed static busybox.
pub fn busybox_root() -> Result<TarBuilder> {
    let program =
        find_program("busybox").context("busybox is not installed: apt-get install busybox-static")?;
    let binary = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    if !is_static(&binary) {
        bail!("{} is not static: apt-get install busybox-static", program.display());
    }
    let list = Command::new(&program).arg("--list").output().context("asking busybox for its programs")?;
    let mut tar = TarBuilder::new()
        .dir("bin/", 0o755)
        .dir("etc/", 0o755)
        .dir("tmp/", 0o1777)
        .dir("root/", 0o700)
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\nnobody:x:65534:\n")
        .file("bin/busybox", 0o755, &binary);
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(tar)
}

/// Whether a 64-bit little-endian ELF file asks for no interpreter (a program header of type `PT_INTERP`).
fn is_static(elf: &[u8]) -> bool {
    let number = |at: usize, len: usize| -> Option<usize> {
        let bytes = elf.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    let headers = || -> Option<bool> {
        let (offset, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(offset + index * size, 4))
            .try_fold(true, |so_far, kind| Some(so_far && kind? != 3))
    };
    elf.starts_with(b"\x7fELF\x02\x01") && headers().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_query_would_misread() {
        assert_eq!(escape(r#"CMD ["a&b"]"#), "CMD%20%5B%22a%26b%22%5D");
    }

    #[test]
    fn this_test_is_not_static_and_text_is_no_program() {
        let this = fs::read(env::current_exe().expect("a path")).expect("this test's own file");
        assert!(!is_static(&this));
        assert!(!is_static(b"#!/bin/sh"));
    }

    #[test]
    fn the_busybox_image_runs() {
        let Some(docker) = Docker::required() else { return };
        let image = docker.busybox().expect("the image is made");
        let body = serde_json::json!({
            "Image": image, "Cmd": ["sh", "-c", "exit $(id -u nobody | cut -c1-2)"], "Labels": {"skerry-testing": "busybox"},
        });
        let created = docker.create_container(&body).expect("a container is created");
        let start = docker
            .request("POST", &format!("/containers/{created}/start"), &[])
            .expect("it is asked to start");
        let waited = docker.json("POST", &format!("/containers/{created}/wait"));
        docker.remove_labelled("skerry-testing=busybox").expect("it is removed");
        assert_eq!(start.status, 204, "{}", start.text());
        assert_eq!(waited.expect("it ends")["StatusCode"], 65);
    }
}
