//! What the uplink asks: by what to dial, which certificate may be renewed, and what became of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use skerry_identity::clock::TimeFloor;
use skerry_identity::verify::Expected;
use skerry_model::NodeRef;
use skerry_proto::gateway::v1 as pb;
use skerry_rpc::{ClientTls, Presented, TlsFiles, TlsPaths};
use skerry_sync::AgentIdentity;
use tokio::task::JoinHandle;

use super::enrol::Enroller;
use super::floor::Floor;
use super::kept::Kept;
use super::own::{Own, Prepared};

/// By what the agent proves to be its node.
pub(crate) struct Proof {
    kept: Kept,
    node: NodeRef,
    floor: Floor,
    kind: Kind,
    /// What the server of the last dial presented.
    presented: Presented,
    taking: Option<JoinHandle<Result<Prepared, String>>>,
}

enum Kind {
    /// Nothing: a gateway that asks for nothing.
    Plain,
    /// Files that somebody else keeps.
    Files { source: Source, expected: Expected, following: Option<Boxed<()>> },
    /// An identity of its own. Absent: what is on disk cannot be used.
    Own { own: Option<Box<Own>>, enroller: Box<Enroller>, enrolling: Option<Boxed<Own>> },
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where files are, and what they hold once they could be read.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// Not read yet, or not to be read yet.
    Paths(TlsPaths),
    /// Read.
    Loaded(Arc<TlsFiles>),
}

/// What happened.
pub(crate) enum News {
    /// What was sent is used from the next dial on, or cannot be.
    Taken(Result<AgentIdentity, String>),
    /// The machine enrolled anew, as the same node.
    Enrolled { identity: AgentIdentity, node_uid: String },
    /// The machine enrolled anew, as another node.
    Renamed(Box<Own>),
}

impl Proof {
    /// No proof.
    pub(crate) fn plain(kept: Kept, node: NodeRef) -> Self {
        Self::of(kept, node, Kind::Plain)
    }

    /// By files.
    pub(crate) fn files(kept: Kept, node: NodeRef, source: Source, expected: Expected) -> Self {
        Self::of(kept, node, Kind::Files { source, expected, following: None })
    }

    /// By an identity of its own; where it cannot be used, another one is asked for at once.
    pub(crate) fn own(kept: Kept, node: NodeRef, own: Option<Own>, enroller: Enroller) -> Self {
        let enrolling = own.is_none().then(|| Box::pin(enroller.clone().run(None)) as Boxed<Own>);
        let (own, enroller) = (own.map(Box::new), Box::new(enroller));
        Self::of(kept, node, Kind::Own { own, enroller, enrolling })
    }

    fn of(kept: Kept, node: NodeRef, kind: Kind) -> Self {
        let floor = Floor::open(&kept);
        Self { kept, node, floor, kind, presented: Presented::default(), taking: None }
    }

    /// Before this it is not, as servers told.
    pub(crate) fn floor(&self) -> Arc<TimeFloor> {
        Arc::clone(self.floor.shared())
    }

    /// What the machine of sync may renew.
    pub(crate) fn identity(&self) -> Option<AgentIdentity> {
        match &self.kind {
            Kind::Own { own: Some(own), .. } => Some(own.agent_identity()),
            Kind::Own { own: None, .. } | Kind::Plain | Kind::Files { .. } => None,
        }
    }

    /// The node's uid, where its identity says it.
    pub(crate) fn node_uid(&self) -> Option<&str> {
        match &self.kind {
            Kind::Own { own: Some(own), .. } => Some(own.node_uid()),
            Kind::Own { own: None, .. } | Kind::Plain | Kind::Files { .. } => None,
        }
    }

    /// By what to dial now. Nothing: without TLS.
    pub(crate) fn dial(&mut self) -> Result<Option<ClientTls>, String> {
        let (client, not_before) = match &mut self.kind {
            Kind::Plain => return Ok(None),
            Kind::Files { source, expected, following } => {
                let files = source.load(&self.node)?;
                following.get_or_insert_with(|| Box::pin(Arc::clone(&files).follow()));
                let not_before = files.own().map(|own| own.not_before);
                (files.client_of_node(expected.clone(), self.floor.shared()), not_before)
            }
            Kind::Own { own, .. } => {
                if own.is_none() {
                    // Somebody may have mended it.
                    *own = Own::open(&self.kept).map_err(|broken| broken.why)?.map(Box::new);
                }
                let own = own.as_ref().filter(|own| *own.node() == self.node);
                let own = own.ok_or("the machine is not enrolled yet")?;
                (own.client(self.floor.shared()), Some(own.not_before()))
            }
        };
        self.floor.begin(not_before);
        let (client, presented) = client.once();
        self.presented = presented;
        Ok(Some(client))
    }

    /// By what relays are dialled: as gateways are, but what they say of time and certificates is not heard. Nothing: without TLS.
    pub(crate) fn channel(&self) -> Result<Option<ClientTls>, String> {
        match &self.kind {
            Kind::Plain => Ok(None),
            Kind::Files { source: Source::Loaded(files), expected, .. } => {
                Ok(Some(files.client_of_node(expected.clone(), self.floor.shared())))
            }
            Kind::Own { own: Some(own), .. } => Ok(Some(own.client(self.floor.shared()))),
            Kind::Files { .. } | Kind::Own { own: None, .. } => {
                Err("this machine has no identity now".to_owned())
            }
        }
    }

    /// The server of this connection says what time it is.
    pub(crate) fn heard(&mut self, told: SystemTime) {
        let presented = self.presented.clone();
        let trust = match &self.kind {
            Kind::Files { source: Source::Loaded(files), .. } => Arc::clone(files.trust()),
            Kind::Own { own: Some(own), .. } => Arc::clone(own.trust()),
            Kind::Plain | Kind::Files { .. } | Kind::Own { .. } => return,
        };
        self.floor.hear(told, &presented, &trust);
    }

    /// Begins to take what the server of this connection sent: `News::Taken` comes of it.
    pub(crate) fn take(&mut self, sent: pb::IssuedCertificate) {
        let floor = self.floor.shared().get();
        let prepared = match &self.kind {
            Kind::Own { own: Some(own), .. } => own.prepare(sent, self.presented.chain(), floor),
            Kind::Own { own: None, .. } | Kind::Plain | Kind::Files { .. } => {
                Err("there is no certificate that could be renewed".to_owned())
            }
        };
        // Written on a thread of its own, as `fsync` blocks.
        self.taking = Some(tokio::task::spawn_blocking(move || {
            let prepared = prepared?;
            prepared.write()?;
            Ok(prepared)
        }));
    }

    /// The node's key was struck out, or the node is gone: asks to be let in anew, with another key. `true`: that begins now.
    pub(crate) fn struck_out(&mut self) -> bool {
        let Kind::Own { own: Some(own), enroller, enrolling } = &mut self.kind else { return false };
        if enrolling.is_some() {
            return false;
        }
        *enrolling = Some(Box::pin(enroller.clone().run(Some(own.as_mut().into()))));
        true
    }

    /// A session with all rights is open: what was asked for anew is not needed.
    pub(crate) fn accepted(&mut self) {
        if let Kind::Own { own: Some(_), enrolling, .. } = &mut self.kind {
            *enrolling = None;
        }
    }

    /// What happens next. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> News {
        let taking = &mut self.taking;
        match &mut self.kind {
            Kind::Plain => std::future::pending().await,
            Kind::Files { following, .. } => tokio::select! {
                taken = wait(taking) => News::Taken(taken.and_then(|_| Err("files are not renewed".to_owned()))),
                () = polled(following) => std::future::pending().await,
            },
            Kind::Own { own, enrolling, .. } => tokio::select! {
                taken = wait(taking) => News::Taken(taken.and_then(|prepared| {
                    let own = own.as_mut().ok_or("the identity is gone")?;
                    own.install(prepared)?;
                    Ok(own.agent_identity())
                })),
                enrolled = polled(enrolling) => {
                    *enrolling = None;
                    if *enrolled.node() != self.node {
                        return News::Renamed(Box::new(enrolled));
                    }
                    let news = News::Enrolled {
                        identity: enrolled.agent_identity(),
                        node_uid: enrolled.node_uid().to_owned(),
                    };
                    *own = Some(Box::new(enrolled));
                    news
                }
            },
        }
    }
}

impl Source {
    /// What they hold, if it is `node`'s.
    fn load(&mut self, node: &NodeRef) -> Result<Arc<TlsFiles>, String> {
        match self {
            Self::Loaded(files) => Ok(Arc::clone(files)),
            Self::Paths(paths) => {
                let files = TlsFiles::load(paths.clone()).map_err(|error| error.to_string())?;
                check_owner(&files, node)?;
                let files = Arc::new(files);
                *self = Self::Loaded(Arc::clone(&files));
                Ok(files)
            }
        }
    }
}

/// A gateway would refuse the certificate of anybody but `node`.
pub(crate) fn check_owner(files: &TlsFiles, node: &NodeRef) -> Result<(), String> {
    let identity = files.own().map(|own| own.identity);
    match identity.filter(|identity| identity.node().as_ref() != Some(node)) {
        Some(identity) => {
            let why = format!("it is the certificate of {identity}, and this agent is that of {node}");
            Err(files.refuse_own(why).to_string())
        }
        None => Ok(()),
    }
}

async fn wait<T>(handle: &mut Option<JoinHandle<Result<T, String>>>) -> Result<T, String> {
    let Some(running) = handle else { return std::future::pending().await };
    let joined = running.await;
    *handle = None;
    joined.unwrap_or_else(|error| Err(format!("a defect ended it: {error}")))
}

async fn polled<T>(future: &mut Option<Boxed<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
