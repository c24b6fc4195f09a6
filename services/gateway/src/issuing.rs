//! Whom the gateway asks who may become a node, and for certificates: the registry, in this process or elsewhere.
//!
//! The gateway judges nothing of this. It passes on what machines and nodes ask, a bounded number at a time and each for a bounded time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use skerry_model::{Code, Fault};
use skerry_proto::gateway::v1 as gateway;
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::issuer_service_client::IssuerServiceClient;
use skerry_proto::registry::v1::issuer_service_server::IssuerService;
use skerry_rpc::{ClientTls, Traced, fault_of, status_of};
use tokio::sync::{OnceCell, Semaphore};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Questions that are asked at once. What comes beyond waits, or is sent off where it may come again at no cost.
const ASKED_AT_ONCE: usize = 64;
/// Longest that a question may take, waiting for its turn included.
const DEADLINE: Duration = Duration::from_secs(10);

/// Who issues. Cheap to clone.
#[derive(Clone)]
pub struct Issuing {
    service: Arc<dyn IssuerService>,
    turns: Arc<Semaphore>,
}

impl fmt::Debug for Issuing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuing").finish_non_exhaustive()
    }
}

impl Issuing {
    /// By `service`, in this process.
    pub fn by(service: Arc<dyn IssuerService>) -> Self {
        Self { service, turns: Arc::new(Semaphore::new(ASKED_AT_ONCE)) }
    }

    /// By registries at these addresses; the first that answers is asked.
    pub fn at(addresses: Vec<String>, tls: Option<ClientTls>) -> Self {
        let registries = addresses.into_iter().map(|address| Registry { address, channel: OnceCell::new() });
        Self::by(Arc::new(Registries { all: registries.collect(), first: AtomicUsize::new(0), tls }))
    }

    /// Passes on what a machine asks that is not a node yet. Where too many ask at once it is sent off: it comes again.
    pub(crate) async fn enrol(
        &self,
        request: pb::EnrollNodeRequest,
    ) -> Result<gateway::EnrollResponse, Status> {
        let Ok(_turn) = self.turns.try_acquire() else {
            let message = "too many machines enrol at once: come back in some seconds";
            return Err(status_of(&Fault::new(Code::ResourceExhausted, "BUSY", message)));
        };
        let asked = self.service.enroll_node(Request::new(request));
        let answer = tokio::time::timeout(DEADLINE, asked).await.map_err(|_| late())??;
        answer.into_inner().response.ok_or_else(|| Status::internal("the registry gave no answer"))
    }

    /// Asks for a node's new certificate.
    pub(crate) async fn renew(
        &self,
        request: pb::RenewNodeRequest,
    ) -> Result<gateway::IssuedCertificate, Fault> {
        let asked = async {
            let _turn = self.turns.acquire().await;
            self.service.renew_node(Request::new(request)).await
        };
        let answer = tokio::time::timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err(late()));
        let certificate = answer.map_err(|status| fault_of(&status))?.into_inner().certificate;
        certificate.ok_or_else(|| Fault::internal("the registry gave no certificate"))
    }
}

fn late() -> Status {
    status_of(&Fault::unavailable("the registry did not answer in time: try again"))
}

/// Registries elsewhere.
struct Registries {
    all: Vec<Registry>,
    /// Which of them answered last, and is asked first.
    first: AtomicUsize,
    tls: Option<ClientTls>,
}

struct Registry {
    address: String,
    /// Open since the first call that needed it; it opens itself again where it broke.
    channel: OnceCell<Channel>,
}

impl Registries {
    async fn client(&self, registry: &Registry) -> Result<IssuerServiceClient<Traced>, Status> {
        let open = || skerry_rpc::connect(&registry.address, self.tls.as_ref());
        let channel = registry.channel.get_or_try_init(open).await.map_err(|error| {
            tracing::warn!(registry = registry.address, %error, "the registry is not reached");
            status_of(&Fault::unavailable("the registry is not reached: try again"))
        })?;
        Ok(IssuerServiceClient::new(Traced::new(channel.clone())))
    }

    /// Asks one after the other, until one answers.
    async fn ask<M, F>(&self, call: impl Fn(IssuerServiceClient<Traced>) -> F) -> Result<M, Status>
    where
        F: Future<Output = Result<M, Status>>,
    {
        let mut last = status_of(&Fault::unavailable("no registry is named: --registry"));
        let first = self.first.load(Ordering::Relaxed);
        for turn in 0..self.all.len() {
            let index = (first + turn) % self.all.len();
            let answer = match self.client(&self.all[index]).await {
                Ok(client) => call(client).await,
                Err(status) => Err(status),
            };
            match answer {
                // It was not reached, or stops. What it may have done, the next finds out: to ask again is free.
                Err(status) if status.code() == tonic::Code::Unavailable => last = status,
                answer => {
                    self.first.store(index, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(last)
    }
}

#[tonic::async_trait]
impl IssuerService for Registries {
    async fn enroll_node(
        &self,
        request: Request<pb::EnrollNodeRequest>,
    ) -> Result<Response<pb::EnrollNodeResponse>, Status> {
        let request = request.into_inner();
        self.ask(|mut client| {
            let request = request.clone();
            async move { client.enroll_node(request).await }
        })
        .await
    }

    async fn renew_node(
        &self,
        request: Request<pb::RenewNodeRequest>,
    ) -> Result<Response<pb::RenewNodeResponse>, Status> {
        let request = request.into_inner();
        self.ask(|mut client| {
            let request = request.clone();
            async move { client.renew_node(request).await }
        })
        .await
    }

    async fn get_roots(
        &self,
        _: Request<pb::GetRootsRequest>,
    ) -> Result<Response<pb::GetRootsResponse>, Status> {
        self.ask(|mut client| async move { client.get_roots(pb::GetRootsRequest {}).await }).await
    }
}
