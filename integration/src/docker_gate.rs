//! A gate before a Docker daemon: a socket of its own that hands requests on, holds those that it is told to hold, and can be closed.
//!
//! It reads the head of each request and asks for one request a connection, so that none passes unseen. A request that is held is handed on when
//! it is let go, also if its caller has given up meanwhile: so does a Docker that hung.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The longest answer to an inspection that is looked into.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// What a pull answers that has nothing more to say.
const PULLED: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Which requests are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    method: &'static str,
    /// What the path contains.
    path: String,
    query: String,
    /// What the name of the container contains that the path names by its id.
    container: Option<String>,
    pull: bool,
}

impl Call {
    /// Requests of a method whose path (with its query, still escaped) contains `path`.
    pub fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: String::new(), container: None, pull: false }
    }

    /// Only those whose path or query also contains `text`.
    #[must_use]
    pub fn with(self, text: impl Into<String>) -> Self {
        Self { query: text.into(), ..self }
    }

    /// Only those about a container whose name contains `name`.
    #[must_use]
    pub fn of_container(self, name: impl Into<String>) -> Self {
        Self { container: Some(name.into()), ..self }
    }

    /// Pulls of an image. Once let go the gate itself answers that the image was pulled, with no registry asked.
    pub fn pull(image: &str) -> Self {
        Self {
            pull: true,
            ..Self::new("POST", format!("/images/create?fromImage={}", image.replace('/', "%2F")))
        }
    }
}

#[derive(Debug, Clone, Default)]
struct State {
    closed: bool,
    held_calls: Vec<Call>,
}

/// The gate. Dropping it closes it for good.
#[derive(Debug)]
pub struct DockerGate {
    socket: PathBuf,
    state: watch::Sender<State>,
    /// How many requests are held now.
    held: watch::Receiver<usize>,
    /// Ends when it is dropped.
    _keeper: JoinSet<()>,
}

impl DockerGate {
    /// An open gate, at a socket in `dir`, before the daemon at `docker`. Needs a Tokio runtime.
    pub fn new(dir: &Path, docker: &Path) -> Result<Self> {
        let socket = dir.join("docker-gate.sock");
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("listening on {}", socket.display()))?;
        let state = watch::Sender::new(State::default());
        let (count, held) = watch::channel(0);
        let passage = Arc::new(Passage { docker: docker.to_owned(), state: state.subscribe(), held: count });
        let mut keeper = JoinSet::new();
        keeper.spawn(keep(socket.clone(), listener, passage));
        Ok(Self { socket, state, held, _keeper: keeper })
    }

    /// What `--docker-host` takes.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Holds such requests from now on.
    pub fn hold(&self, call: Call) {
        self.state.send_modify(|state| state.held_calls.push(call));
    }

    /// Waits until a request is held.
    pub async fn wait_held(&self) {
        let mut held = self.held.clone();
        let caught = tokio::time::timeout(crate::stack::PATIENCE, held.wait_for(|count| *count > 0)).await;
        caught.expect("a request to hold came in time").expect("the gate is there");
    }

    /// How many requests are held now.
    pub fn held(&self) -> usize {
        *self.held.borrow()
    }

    /// Lets all go that is held, and holds nothing any more.
    pub fn let_go(&self) {
        self.state.send_modify(|state| state.held_calls.clear());
    }

    /// As if Docker had died: all connections are cut, and nobody listens.
    pub fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
    }

    /// Docker is back.
    pub fn open(&self) {
        self.state.send_modify(|state| state.closed = false);
    }
}

struct Passage {
    docker: PathBuf,
    state: watch::Receiver<State>,
    held: watch::Sender<usize>,
}

/// Listens while the gate is open.
async fn keep(socket: PathBuf, mut listener: UnixListener, passage: Arc<Passage>) {
    let mut state = passage.state.clone();
    loop {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((client, _)) = accepted {
                        let passage = Arc::clone(&passage);
                        // One that breaks has broken for its client too.
                        connections.spawn(async move { passage.serve(client).await.ok() });
                    }
                }
                Some(_) = connections.join_next() => {}
                closed = state.wait_for(|state| state.closed) => {
                    if closed.is_err() { return }
                    break;
                }
            }
        }
        drop(listener);
        connections.shutdown().await;
        if state.wait_for(|state| !state.closed).await.is_err() {
            return;
        }
        let _ = std::fs::remove_file(&socket);
        let Ok(again) = UnixListener::bind(&socket) else { return };
        listener = again;
    }
}

impl Passage {
    async fn serve(&self, mut client: UnixStream) -> io::Result<()> {
        let (head, rest) = read_head(&mut client).await?;
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let answered = self.hold(method, path).await?;
        if answered {
            return client.write_all(PULLED).await;
        }
        let mut docker = UnixStream::connect(&self.docker).await?;
        docker.write_all(one_request(&head).as_bytes()).await?;
        docker.write_all(&rest).await?;
        tokio::io::copy_bidirectional(&mut client, &mut docker).await.map(drop)
    }

    /// Waits as long as the request is to be held. Whether the gate answers it itself.
    async fn hold(&self, method: &str, path: &str) -> io::Result<bool> {
        let fits =
            |call: &&Call| call.method == method && path.contains(&call.path) && path.contains(&call.query);
        let fitting: Vec<Call> = self.state.borrow().held_calls.iter().filter(fits).cloned().collect();
        for call in fitting {
            if let Some(name) = &call.container
                && !self.container_name(path).await?.contains(name)
            {
                continue;
            }
            let _held = Held::new(&self.held);
            let let_go = self.state.clone().wait_for(|state| !state.held_calls.contains(&call)).await.is_ok();
            return Ok(let_go && call.pull);
        }
        Ok(false)
    }

    /// The name of the container whose id a path names; empty where it names none.
    async fn container_name(&self, path: &str) -> io::Result<String> {
        let Some((_, rest)) = path.split_once("/containers/") else { return Ok(String::new()) };
        let id = rest.split(['/', '?']).next().unwrap_or_default();
        let mut docker = UnixStream::connect(&self.docker).await?;
        let question = format!("GET /containers/{id}/json HTTP/1.0\r\nHost: docker\r\n\r\n");
        docker.write_all(question.as_bytes()).await?;
        let mut answer = String::new();
        docker.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
        let name = answer.split_once("\"Name\":\"").and_then(|(_, rest)| rest.split('"').next());
        Ok(name.unwrap_or_default().to_owned())
    }
}

/// Counts as held while it lives.
struct Held<'a>(&'a watch::Sender<usize>);

impl<'a> Held<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The head of a request, and what was read beyond it.
async fn read_head(client: &mut UnixStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            let head = String::from_utf8(bytes).map_err(io::Error::other)?;
            return Ok((head, rest));
        }
        if bytes.len() > HEAD_BYTES_MAX || client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// The same head, after whose request the connection ends. One that asks for another protocol keeps its connection to itself anyway.
fn one_request(head: &str) -> String {
    let has_own = head.lines().any(|line| line.to_ascii_lowercase().starts_with("connection:"));
    if has_own { head.to_owned() } else { head.replacen("\r\n", "\r\nConnection: close\r\n", 1) }
}
