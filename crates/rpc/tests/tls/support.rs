//! A server of the tests, which says who calls, and clients of it.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use skerry_identity::clock::SystemClock;
use skerry_identity::tls::Credentials;
use skerry_identity::verify::{Clients, Expected, Time};
use skerry_identity::{KeyId, KeyPair, Trust};
use skerry_model::{Grant, ProjectName, UserRef};
use skerry_proto::registry::v1::GetNodeRequest;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_rpc::access::{Authorizer, Role};
use skerry_rpc::{Access, ClientTls, ConnectError, Peer, Server, ServerTls, TlsFile, TlsPaths, connect};
use skerry_testing::Authority;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

pub(crate) const DOMAIN: &str = "example.org";
pub(crate) const GATEWAY: &str = "spiffe://example.org/project/system/service/gateway";
pub(crate) const ALL_IN_ONE: &str = "spiffe://example.org/project/system/service/skerry";
pub(crate) const NODE: &str = "spiffe://example.org/project/default/node/n1";
pub(crate) const USER: &str = "spiffe://example.org/project/default/user/ada";
/// Longer than anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Stands where a service's handler does, and answers each call with who called.
#[derive(Clone)]
struct WhoCalls;

impl NamedService for WhoCalls {
    const NAME: &'static str = "skerry.registry.v1.NodeService";
}

impl tower::Service<http::Request<Body>> for WhoCalls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().expect("the layer has put it there");
        let who = match &peer.certificate {
            Some(certificate) => format!("{} {}", certificate.identity, certificate.key_id),
            None => "somebody".to_owned(),
        };
        std::future::ready(Ok(Status::failed_precondition(who).into_http()))
    }
}

/// Here every user is an admin: these tests are about who somebody is.
#[derive(Debug)]
struct AllAreAdmins(watch::Sender<u64>);

impl Authorizer for AllAreAdmins {
    fn knows(&self, _: &UserRef, _: &KeyId) -> bool {
        true
    }

    fn role(&self, _: &UserRef, _: &ProjectName) -> Option<Role> {
        Some(Role::Admin)
    }

    fn roles(&self, _: &UserRef) -> Vec<(ProjectName, Role)> {
        Vec::new()
    }

    fn grants(&self, _: &UserRef) -> Arc<[Grant]> {
        Arc::default()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// A running server. It ends when it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) ready: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

pub(crate) async fn serve(access: Access) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut server = Server::new(access).expect("a server");
    server.add(WhoCalls).authorize(Arc::new(AllAreAdmins(watch::Sender::new(0))));
    let (ready, told) = watch::channel(true);
    server.ready_when(told);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.serve(listener, CancellationToken::new()).await.expect("served") });
    Running { address, ready, _tasks: tasks }
}

impl Running {
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// Who the server says that calls.
    pub(crate) async fn who(&self, tls: &ClientTls) -> Result<String, Failed> {
        let channel = connect(&self.url("https"), Some(tls)).await.map_err(Failed::Connect)?;
        ask(channel).await
    }
}

/// Who the server at the other end says that calls.
pub(crate) async fn ask(channel: Channel) -> Result<String, Failed> {
    let answer = NodeServiceClient::new(channel).get_node(GetNodeRequest::default()).await;
    let status = answer.expect_err("it answers by a status");
    match status.code() {
        Code::FailedPrecondition => Ok(status.message().to_owned()),
        _ => Err(Failed::Call(Box::new(status))),
    }
}

#[derive(Debug)]
pub(crate) enum Failed {
    Connect(ConnectError),
    Call(Box<Status>),
}

impl Failed {
    /// The sentence that a person reads.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Connect(error) => error.to_string(),
            Self::Call(status) => {
                let mut cause: &dyn Error = &**status;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                if cause.is::<Status>() { status.message().to_owned() } else { cause.to_string() }
            }
        }
    }

    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Connect(error) => panic!("{error}"),
            Self::Call(status) => skerry_rpc::fault_of(status).metadata["reason"].clone(),
        }
    }
}

pub(crate) fn credentials(authority: &Authority, identity: &str) -> Arc<Credentials> {
    let (issued, key) = authority.issue(identity);
    Credentials::new(issued.chain, key).expect("they belong together")
}

/// An access for who has a certificate of `authority`, with a server's certificate for `identity`.
pub(crate) fn access(authority: &Authority, identity: &str) -> Access {
    let trust = Trust::new(authority.bundle());
    Access::Certificate(ServerTls::new(credentials(authority, identity), trust, Clients::Required))
}

pub(crate) fn client(authority: &Authority, credentials: Arc<Credentials>) -> ClientTls {
    expecting(authority, credentials, Expected::Dialled)
}

pub(crate) fn expecting(
    authority: &Authority,
    credentials: Arc<Credentials>,
    expected: Expected,
) -> ClientTls {
    let time = Time::Exact(Arc::new(SystemClock));
    ClientTls::new(credentials, Trust::new(authority.bundle()), expected, time)
}

/// A certificate of nobody's authority, for the loopback address.
pub(crate) fn self_signed(identity: &str) -> Arc<Credentials> {
    let key = Arc::new(KeyPair::generate().expect("a key"));
    let signs = rcgen::KeyPair::from_pem(&key.to_pem()).expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    params.subject_alt_names.push(rcgen::SanType::URI(identity.try_into().expect("a URI")));
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth, rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&signs).expect("signed");
    Credentials::new(vec![certificate.der().clone()], key).expect("they belong together")
}

/// As the flags of a service would name them.
pub(crate) fn paths(files: &skerry_testing::TlsFiles) -> TlsPaths {
    let file = |setting, path: &Path| TlsFile { setting, path: path.to_owned() };
    TlsPaths {
        own: Some((file("--tls-cert", &files.certificate), file("--tls-key", &files.key))),
        authority: file("--tls-ca", &files.authority),
    }
}
