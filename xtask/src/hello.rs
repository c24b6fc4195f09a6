//! The hello app as a Docker image, without a registry: a static binary in a tar, handed to the daemon.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::sh;

/// As named in `examples/hello/app.yaml`.
pub(crate) const IMAGE: &str = "skerry-example/hello:1";
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The longest silence of the daemon within one request.
const DEADLINE: Duration = Duration::from_secs(30);

/// Whether a Docker daemon answers, and if not, why.
pub(crate) fn docker_answers() -> Result<()> {
    request("GET", "/_ping", &[]).map(drop)
}

/// Builds hello as a static binary and makes the image of it, replacing an older one.
pub(crate) fn make_image() -> Result<()> {
    let target = host_target()?;
    // In a target directory of its own: other flags would throw the shared one's builds away.
    let dir = sh::target_dir()?.join("static");
    let mut build = sh::cargo();
    build
        .args(["build", "--quiet", "--release", "--package=hello", "--target", &target, "--target-dir"])
        .arg(&dir);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    sh::run(&mut build)?;

    let mut tar = sh::command("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--directory"]);
    let tar = tar.arg(dir.join(target).join("release")).arg("hello").output().context("running tar")?;
    if !tar.status.success() {
        bail!("tar failed: {}", String::from_utf8_lossy(&tar.stderr));
    }
    let (name, tag) = IMAGE.split_once(':').context("the image has a tag")?;
    // ENTRYPOINT ["/hello"]
    let entrypoint = "ENTRYPOINT%20%5B%22%2Fhello%22%5D";
    let answer = request(
        "POST",
        &format!("/images/create?fromSrc=-&repo={name}&tag={tag}&changes={entrypoint}"),
        &tar.stdout,
    )?;
    // Progress, one object a line; a failure on the way comes after the status.
    if let Some(line) = answer.lines().find(|line| line.contains("\"error\"")) {
        bail!("importing {IMAGE}: {line}");
    }
    Ok(())
}

/// Removes the image. That it is not there is fine.
pub(crate) fn remove_image() {
    if let Err(error) = request("DELETE", &format!("/images/{IMAGE}"), &[]) {
        println!("(the image {IMAGE} stays: {error:#})");
    }
}

/// The target that this machine's rustc builds for.
fn host_target() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = sh::output(sh::command(rustc).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

/// One request to the daemon, by HTTP/1.0: the body ends with the connection, and comes in one piece.
fn request(method: &str, path: &str, body: &[u8]) -> Result<String> {
    let socket = match env::var("DOCKER_HOST") {
        Ok(host) => match host.strip_prefix("unix://") {
            Some(path) => PathBuf::from(path),
            None => bail!("DOCKER_HOST is {host}; only unix:// is used here"),
        },
        Err(_) => PathBuf::from(DEFAULT_SOCKET),
    };
    let mut stream =
        UnixStream::connect(&socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(DEADLINE)).context("setting a deadline")?;
    stream.set_write_timeout(Some(DEADLINE)).context("setting a deadline")?;
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).context("sending to Docker")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading Docker's answer")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("Docker's answer has no end of head")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("{method} {path}: {status} {}", body.trim_end());
    }
    Ok(body.to_owned())
}

/// A file of this checkout, for messages and changed copies.
pub(crate) fn manifest(docker: bool) -> Result<(PathBuf, String)> {
    let path = sh::root().join("examples/hello").join(if docker { "app.yaml" } else { "app-process.yaml" });
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok((path, text))
}
