//! `AccessService`: what the server sees in a caller, and what it would say to it.

use std::time::SystemTime;

use skerry_api::{AccessMirror, reply};
use skerry_model::{Code, Fault, ProjectName, UserRef, time};
use skerry_proto::registry::v1::access_service_server::AccessService;
use skerry_proto::registry::v1::{self as pb};
use skerry_proto::store::v1 as stored;
use skerry_rpc::Peer;
use skerry_rpc::access::{self, Authorizer as _, Role};
use tonic::{Request, Response, Status};

use super::shown::view;

/// The handlers.
#[derive(Clone)]
pub(crate) struct WhoAmI {
    pub(crate) access: AccessMirror,
}

fn role(role: Role) -> pb::Role {
    match role {
        Role::Viewer => pb::Role::Viewer,
        Role::Operator => pb::Role::Operator,
        Role::Admin => pb::Role::Admin,
    }
}

impl WhoAmI {
    fn who(&self, peer: &Peer) -> pb::WhoAmIResponse {
        let Some(certificate) = &peer.certificate else { return pb::WhoAmIResponse::default() };
        let roles = certificate.identity.user().map(|user| self.access.roles(&user)).unwrap_or_default();
        let told = |(project, held): (ProjectName, Role)| pb::ProjectRole {
            project: project.parent(),
            role: role(held).into(),
        };
        pb::WhoAmIResponse {
            identity: certificate.identity.to_string(),
            key_id: certificate.key_id.to_string(),
            expire_time: Some(time::to_timestamp(certificate.not_after)),
            roles: roles.into_iter().map(told).collect(),
            grants: certificate.identity.user().map(|user| self.grants(&user)).unwrap_or_default(),
        }
    }

    /// Those that hold now, by name.
    fn grants(&self, user: &UserRef) -> Vec<pb::Grant> {
        let (snapshot, now) = (self.access.mirror().snapshot(), SystemTime::now());
        let held = self.access.grants(user);
        let holding = held.iter().filter(|grant| grant.holds(now));
        let mut grants: Vec<_> =
            holding.filter_map(|grant| view::<stored::GrantRecord>(&snapshot, &grant.name)).collect();
        grants.sort_by(|a, b| name_of(a).cmp(name_of(b)));
        grants
    }

    fn check(&self, peer: &Peer, request: &pb::CheckAccessRequest) -> Result<pb::CheckAccessResponse, Fault> {
        let project = parent(&request.parent)?;
        let named = named(&project, &request.resource)?;
        let needed = access::role_for(&request.method).map_or(pb::Role::Unspecified, role).into();
        match access::check(&request.method, peer, &named, &self.access) {
            Ok(()) => Ok(pb::CheckAccessResponse { allowed: true, reason: String::new(), role: needed }),
            Err(fault) if fault.code == Code::Unimplemented => {
                Err(Fault::invalid_field("method", format!("there is no method `{}`", request.method)))
            }
            Err(fault) => Ok(pb::CheckAccessResponse { allowed: false, reason: fault.message, role: needed }),
        }
    }
}

fn name_of(grant: &pb::Grant) -> &str {
    grant.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

/// The project that a request is about.
fn parent(text: &str) -> Result<ProjectName, Fault> {
    ProjectName::parse_parent(text).map_err(|error| Fault::invalid_field("parent", error))
}

/// What a call would be about.
fn named(project: &ProjectName, resource: &str) -> Result<String, Fault> {
    if resource.is_empty() {
        return Ok(project.parent());
    }
    match ProjectName::of_resource(resource) {
        Ok(of) if of == *project => Ok(resource.to_owned()),
        Ok(_) => Err(Fault::invalid_field("resource", "of another project than `parent`")),
        Err(error) => Err(Fault::invalid_field("resource", error)),
    }
}

#[tonic::async_trait]
impl AccessService for WhoAmI {
    async fn who_am_i(
        &self,
        request: Request<pb::WhoAmIRequest>,
    ) -> Result<Response<pb::WhoAmIResponse>, Status> {
        reply(Peer::of(&request).map(|peer| self.who(&peer)))
    }

    async fn check_access(
        &self,
        request: Request<pb::CheckAccessRequest>,
    ) -> Result<Response<pb::CheckAccessResponse>, Status> {
        let answer = Peer::of(&request).and_then(|peer| self.check(&peer, request.get_ref()));
        reply(answer)
    }

    async fn list_access(
        &self,
        request: Request<pb::ListAccessRequest>,
    ) -> Result<Response<pb::ListAccessResponse>, Status> {
        reply(Peer::of(&request).and_then(|peer| {
            let project = parent(&request.get_ref().parent)?;
            let methods = access::allowed(&peer, &project, &self.access);
            Ok(pb::ListAccessResponse { methods: methods.into_iter().map(str::to_owned).collect() })
        }))
    }
}
