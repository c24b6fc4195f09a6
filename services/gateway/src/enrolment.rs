//! `EnrollmentService`: what machines ask that are no nodes yet, passed on to the registry. The one thing that may be asked without a
//! certificate.

use std::sync::Arc;

use skerry_model::{Code, Fault, time};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::enrollment_service_server::EnrollmentService;
use skerry_proto::registry::v1::EnrollNodeRequest;
use skerry_rpc::{Peer, status_of};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::Shared;

/// Largest request: a certificate request of 4 KiB, and short texts.
pub(crate) const REQUEST_BYTES_MAX: usize = 16 * 1024;

#[derive(Clone)]
pub(crate) struct Enrolment {
    shared: Arc<Shared>,
}

impl Enrolment {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl EnrollmentService for Enrolment {
    async fn enroll(
        &self,
        request: Request<pb::EnrollRequest>,
    ) -> Result<Response<pb::EnrollResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let Some(issuing) = &self.shared.config.issuing else {
            let message = "this gateway knows no registry: give it --registry URL (SKERRY_REGISTRY)";
            return Err(status_of(&Fault::new(Code::FailedPrecondition, "NO_REGISTRY", message)));
        };
        let address = peer.address.map(|address| address.ip().to_canonical());
        if let Some(address) = address
            && let Err(wait) = self.shared.rate.admit(address, Instant::now())
        {
            let message = format!("{address} asks too often: come back in {} s", wait.as_secs() + 1);
            let fault = Fault::new(Code::ResourceExhausted, "TOO_OFTEN", message);
            let retry_after = time::to_proto_duration(wait);
            return Err(status_of(&fault.with("retry_after_seconds", retry_after.seconds + 1)));
        }
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        let request = EnrollNodeRequest { request: Some(request.into_inner()), address };
        issuing.enrol(request).await.map(Response::new)
    }
}
