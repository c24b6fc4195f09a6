//! `IssuerService`: what gateways ask on behalf of machines and nodes.

use skerry_api::{Caused, audit, reply};
use skerry_model::Fault;
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::issuer_service_server::IssuerService;
use tonic::{Request, Response, Status};

use super::asked::Asked;
use super::enroller::Enroller;
use super::renew::Renewal;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Issuing(pub(crate) Enroller);

impl Issuing {
    async fn enrol(&self, request: &Request<pb::EnrollNodeRequest>) -> Result<pb::EnrollNodeResponse, Fault> {
        let (caller, request) = (audit::caller_of(request), request.get_ref());
        let mut sent = request.request.clone().unwrap_or_default();
        let asked = Asked::parse(&sent, &request.address)?;
        // What is remembered of it is a hash: of no token.
        sent.token.clear();
        let blanked = pb::EnrollNodeRequest { request: Some(sent), address: request.address.clone() };
        let caused = Caused::by_caller("skerry.registry.v1.IssuerService/EnrollNode", caller, &blanked);
        Ok(pb::EnrollNodeResponse { response: Some(self.0.enrol(&asked, &caused).await?) })
    }
}

#[tonic::async_trait]
impl IssuerService for Issuing {
    async fn enroll_node(
        &self,
        request: Request<pb::EnrollNodeRequest>,
    ) -> Result<Response<pb::EnrollNodeResponse>, Status> {
        reply(self.enrol(&request).await)
    }

    async fn renew_node(
        &self,
        request: Request<pb::RenewNodeRequest>,
    ) -> Result<Response<pb::RenewNodeResponse>, Status> {
        let caused = Caused::by("skerry.registry.v1.IssuerService/RenewNode", &request);
        let renewed = async { self.0.renew(&Renewal::parse(request.get_ref())?, &caused).await };
        reply(renewed.await.map(|certificate| pb::RenewNodeResponse { certificate: Some(certificate) }))
    }

    async fn get_roots(
        &self,
        _: Request<pb::GetRootsRequest>,
    ) -> Result<Response<pb::GetRootsResponse>, Status> {
        let roots = self.0.issuer.roots().map(|bundle| {
            let der =
                |root: &skerry_identity::bundle::Root| bytes::Bytes::copy_from_slice(root.certificate());
            bundle.roots().iter().map(der).collect()
        });
        reply(roots.map(|roots| pb::GetRootsResponse { roots }))
    }
}
