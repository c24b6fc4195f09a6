//! A control plane that a test plays: it speaks TLS, issues certificates, and does with each question and session what the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use prost::bytes::Bytes;
use skerry_identity::authority::Life;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_identity::tls::{Credentials, server_config};
use skerry_identity::verify::{ClientVerifier, Clients};
use skerry_identity::{KeyId, PeerCertificate, Trust};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::enrollment_service_server::{EnrollmentService, EnrollmentServiceServer};
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_proto::gateway::v1::sync_service_server::{SyncService, SyncServiceServer};
use skerry_testing::Authority;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::support::in_time;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const GATEWAY: &str = "spiffe://example.org/project/system/service/gateway";
/// What a connection may have under way between the handshake and the server.
const PIPE_BYTES: usize = 64 * 1024;

type Answer = Result<pb::SyncResponse, Status>;

/// A question that waits for its answer.
pub(crate) struct Question {
    pub(crate) request: pb::EnrollRequest,
    answer: oneshot::Sender<Result<pb::EnrollResponse, Status>>,
}

/// One stream of an agent.
pub(crate) struct Session {
    up: Streaming<pb::SyncRequest>,
    down: mpsc::Sender<Answer>,
}

struct Handler {
    sessions: mpsc::Sender<Session>,
    questions: mpsc::Sender<Question>,
}

#[tonic::async_trait]
impl SyncService for Handler {
    type SyncStream = ReceiverStream<Answer>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (down, answers) = mpsc::channel(16);
        let session = Session { up: request.into_inner(), down };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

#[tonic::async_trait]
impl EnrollmentService for Handler {
    async fn enroll(
        &self,
        request: Request<pb::EnrollRequest>,
    ) -> Result<Response<pb::EnrollResponse>, Status> {
        let (answer, answered) = oneshot::channel();
        let over = || Status::unavailable("the test is over");
        let question = Question { request: request.into_inner(), answer };
        self.questions.send(question).await.map_err(|_| over())?;
        answered.await.map_err(|_| over())?.map(Response::new)
    }
}

/// The control plane.
pub(crate) struct Played {
    pub(crate) authority: Authority,
    /// What its clock shows.
    pub(crate) now: SystemTime,
    pub(crate) address: SocketAddr,
    credentials: Arc<Credentials>,
    trust: Arc<Trust>,
    questions: mpsc::Receiver<Question>,
    sessions: mpsc::Receiver<Session>,
    /// Who came, in the order of the handshakes; nothing where no certificate was presented.
    came: Arc<Mutex<Vec<Option<PeerCertificate>>>>,
    /// Dropped with the rest, which ends the server and its connections.
    _tasks: JoinSet<()>,
}

impl Played {
    /// In a world where it is `now`.
    pub(crate) async fn start(now: SystemTime) -> Self {
        let authority = Authority::at("example.org", now);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sessions_in, sessions) = mpsc::channel(4);
        let (questions_in, questions) = mpsc::channel(4);
        let credentials = Credentials::none();
        let trust = Trust::new(authority.bundle());
        let clients = ClientVerifier::new(Arc::clone(&trust), Clients::Optional);
        let config = server_config(Arc::clone(&credentials), Arc::new(clients));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let came = Arc::<Mutex<Vec<_>>>::default();
        let (pipes_in, pipes) = mpsc::channel(4);
        let handler = || Handler { sessions: sessions_in.clone(), questions: questions_in.clone() };
        let server = tonic::transport::Server::builder()
            .add_service(SyncServiceServer::new(handler()))
            .add_service(EnrollmentServiceServer::new(handler()))
            .serve_with_incoming(ReceiverStream::new(pipes));
        let mut tasks = JoinSet::new();
        tasks.spawn(async { drop(server.await) });
        tasks.spawn(accept(listener, acceptor, Arc::clone(&trust), Arc::clone(&came), pipes_in));
        let played =
            Self { authority, now, address, credentials, trust, questions, sessions, came, _tasks: tasks };
        played.present_anew();
        played
    }

    /// The gateway gets another certificate, of the authority as it is.
    pub(crate) fn present_anew(&self) {
        let key = Arc::new(skerry_identity::KeyPair::generate().unwrap());
        let issued =
            self.authority.certify(GATEWAY, skerry_identity::SigningKey::public_key(&*key), self.life(30));
        let mut chain = issued.chain;
        chain.extend(self.trust.current().roots().iter().map(|root| root.certificate().clone()));
        self.credentials.replace(chain, key).unwrap();
    }

    fn life(&self, days: u32) -> Life {
        Life { not_before: self.now - DAY, lifetime: days * DAY }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The pin of the root.
    pub(crate) fn pin(&self) -> KeyId {
        self.authority.bundle().roots()[0].pin()
    }

    /// The roots are these from now on.
    pub(crate) fn trust(&self, bundle: skerry_identity::TrustBundle) {
        self.trust.replace(bundle);
    }

    /// A certificate for who made this request: it began a day ago.
    pub(crate) fn issue(&self, request: &[u8], node: &str, days: u32) -> pb::IssuedCertificate {
        let request = CertificateRequest::parse(request).unwrap();
        let identity = format!("spiffe://example.org/project/default/node/{node}");
        let issued = self.authority.certify(&identity, request.public_key(), self.life(days));
        let chain = issued.chain.iter().map(|der| Bytes::copy_from_slice(der)).collect();
        pb::IssuedCertificate { chain, ..self.roots() }
    }

    /// Only the roots.
    pub(crate) fn roots(&self) -> pb::IssuedCertificate {
        let trusted = self.trust.current();
        let roots = trusted.roots().iter().map(|root| Bytes::copy_from_slice(root.certificate())).collect();
        let server_time = Some(skerry_model::time::to_timestamp(self.now));
        pb::IssuedCertificate { chain: Vec::new(), roots, server_time }
    }

    pub(crate) async fn question(&mut self) -> Question {
        in_time("a question", self.questions.recv()).await.unwrap()
    }

    /// Lets in who asks, as `node`.
    pub(crate) async fn let_in(&mut self, node: &str) -> pb::EnrollRequest {
        let question = self.question().await;
        let certificate = Some(self.issue(&question.request.certificate_request, node, 30));
        let enrolled = pb::Enrolled {
            node: format!("projects/default/nodes/{node}"),
            node_uid: format!("uid-{node}"),
            certificate,
        };
        question.answer(Ok(pb::enroll_response::Outcome::Enrolled(enrolled)))
    }

    /// The next session: its hello, answered with a welcome.
    pub(crate) async fn session(&mut self, renew_only: bool) -> (Session, pb::Hello) {
        let mut session = in_time("a session", self.sessions.recv()).await.unwrap();
        let Some(Up::Hello(hello)) = session.next().await else { panic!("the first frame is no hello") };
        let welcome = pb::Welcome {
            epoch: Some(pb::Version { store_term: 1, revision: 1 }),
            node_uid: hello.node_uid.clone(),
            gateway: "played".into(),
            server_time: Some(skerry_model::time::to_timestamp(self.now)),
            full_report: true,
            renew_only,
            ..pb::Welcome::default()
        };
        session.send(Down::Welcome(welcome)).await;
        (session, hello)
    }

    /// Who made the last handshake.
    pub(crate) fn last(&self) -> Option<PeerCertificate> {
        self.came.lock().unwrap().last().cloned().flatten()
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    trust: Arc<Trust>,
    came: Arc<Mutex<Vec<Option<PeerCertificate>>>>,
    pipes: mpsc::Sender<Result<tokio::io::DuplexStream, std::io::Error>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let client = trust.client(presented, SystemTime::now());
        came.lock().unwrap().push(client.ok().map(|client| client.certificate().clone()));
        let (mut near, far) = tokio::io::duplex(PIPE_BYTES);
        if pipes.send(Ok(far)).await.is_err() {
            return;
        }
        connections.spawn(async move { drop(tokio::io::copy_bidirectional(&mut stream, &mut near).await) });
    }
}

impl Question {
    /// Answers it; what was asked.
    pub(crate) fn answer(self, answer: Result<pb::enroll_response::Outcome, Status>) -> pb::EnrollRequest {
        let answer = answer.map(|outcome| pb::EnrollResponse { outcome: Some(outcome) });
        // An agent that was killed meanwhile does not hear it.
        let _ = self.answer.send(answer);
        self.request
    }
}

impl Session {
    pub(crate) async fn next(&mut self) -> Option<Up> {
        in_time("a frame", self.up.message()).await.ok().flatten().and_then(|frame| frame.body)
    }

    pub(crate) async fn send(&self, body: Down) {
        let frame = pb::SyncResponse { body: Some(body), ..pb::SyncResponse::default() };
        self.down.send(Ok(frame)).await.unwrap();
    }

    /// Sends an update and waits until it is acknowledged.
    pub(crate) async fn update(&mut self, revision: i64, resources: Vec<pb::Resource>) {
        let version = Some(pb::Version { store_term: 1, revision });
        let nonce = u64::try_from(revision).unwrap();
        let update = pb::Update { nonce, version, resources, removed: Vec::new(), more: false };
        self.send(Down::Update(update)).await;
        self.find(|body| matches!(body, Up::Ack(_))).await;
    }

    /// Answers what comes until a frame satisfies `check`.
    pub(crate) async fn find(&mut self, check: impl Fn(&Up) -> bool) -> Up {
        loop {
            let body = self.next().await.expect("the stream stays open");
            if let Up::Report(report) = &body {
                let digest = vec![1].into();
                self.send(Down::ReportAck(pb::ReportAck { sequence: report.sequence, digest })).await;
            }
            if check(&body) {
                return body;
            }
        }
    }

    pub(crate) async fn renewal_request(&mut self) -> pb::RenewalRequest {
        match self.find(|body| matches!(body, Up::RenewalRequest(_))).await {
            Up::RenewalRequest(request) => request,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn close(self, reason: pb::closing::Reason) {
        let closing = pb::Closing { reason: reason.into(), ..pb::Closing::default() };
        self.send(Down::Closing(closing)).await;
    }
}
