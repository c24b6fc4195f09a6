//! The connection to Docker: finds the socket, agrees on an API version, and puts a deadline on every call.
//!
//! There is no pool: each call dials the socket, which costs microseconds and leaves nothing to go stale when Docker restarts.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};

use super::error::{Failure, Kind};
use crate::lock::lock;
use crate::runtime::RuntimeError;

/// For calls that only look.
pub(super) const LOOK_DEADLINE: Duration = Duration::from_secs(20);
/// For making a container: Docker prepares its file system, and copies the image's content into new volumes.
pub(super) const CREATE_DEADLINE: Duration = Duration::from_secs(120);
/// For starting a container, on a slow disk as well.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(120);
/// Beyond the grace period, until Docker must have killed and reaped a container.
pub(super) const STOP_MARGIN: Duration = Duration::from_secs(30);
/// For removing a container with its file system.
pub(super) const REMOVE_DEADLINE: Duration = Duration::from_secs(60);
/// For making or removing a network.
pub(super) const NETWORK_DEADLINE: Duration = Duration::from_secs(60);

/// bollard's own time limit, above all of ours: stops and pulls are silent for long.
const CLIENT_TIMEOUT_SECONDS: u64 = 24 * 3600;
/// Where Docker listens if `DOCKER_HOST` says nothing else.
const SOCKET_DEFAULT: &str = "/var/run/docker.sock";

/// The path of Docker's socket: of an address as `DOCKER_HOST` has it (`unix://<path>`) or, without one, the usual place.
pub(super) fn socket_path(docker_host: Option<&str>) -> Result<PathBuf, RuntimeError> {
    match docker_host.filter(|host| !host.is_empty()) {
        None => Ok(SOCKET_DEFAULT.into()),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(path.into()),
            _ => Err(RuntimeError {
                reason: "RuntimeUnsupported",
                message: format!("Docker at `{host}`: only unix:///<path> is supported"),
                transient: false,
            }),
        },
    }
}

/// A client of one Docker daemon, which may be away.
pub(super) struct Client {
    socket: PathBuf,
    /// Once a daemon answered and the version is agreed.
    docker: Mutex<Option<Docker>>,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, docker: Mutex::new(None) }
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A handle to make calls on. The first one asks the daemon for its version.
    pub(super) async fn docker(&self) -> Result<Docker, Failure> {
        if let Some(docker) = &*self.slot() {
            return Ok(docker.clone());
        }
        // Not `?` on the error of bollard alone: a path that is no text cannot be dialled either.
        let path = self.socket.to_str().ok_or(Error::SocketNotFoundError("path is not UTF-8".into()))?;
        let docker = Docker::connect_with_unix(path, CLIENT_TIMEOUT_SECONDS, API_DEFAULT_VERSION)?;
        let docker = self.within(LOOK_DEADLINE, docker.negotiate_version()).await?;
        *self.slot() = Some(docker.clone());
        Ok(docker)
    }

    /// Awaits a call, at most for `deadline`. When the daemon turns out to be away, the next call agrees on a version anew: another
    /// daemon may come back.
    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        let failure = match tokio::time::timeout(deadline, call).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => Failure::from(error),
            Err(_) => Failure::timed_out(deadline),
        };
        if failure.kind == Kind::Unavailable {
            *self.slot() = None;
        }
        Err(failure)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Docker>> {
        lock(&self.docker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_is_respected_where_it_is_a_socket() {
        assert_eq!(socket_path(None).unwrap(), PathBuf::from("/var/run/docker.sock"));
        assert_eq!(socket_path(Some("")).unwrap(), PathBuf::from("/var/run/docker.sock"));
        assert_eq!(
            socket_path(Some("unix:///run/user/1/d.sock")).unwrap(),
            PathBuf::from("/run/user/1/d.sock")
        );
        for bad in ["tcp://10.0.0.1:2375", "ssh://host", "unix://relative", "/var/run/docker.sock"] {
            assert_eq!(socket_path(Some(bad)).unwrap_err().reason, "RuntimeUnsupported", "{bad}");
        }
    }
}
