//! `EnrollmentRequestService`: machines that wait for an operator.

use skerry_api::{Caused, Tries, known_project, reply};
use skerry_identity::KeyId;
use skerry_identity::fingerprint::Fingerprint;
use skerry_model::meta::check_labels;
use skerry_model::{Fault, NodeName, NodeRef, ProjectName, Violations};
use skerry_proto::gateway::v1::MachineFingerprint;
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::enrollment_request_service_server::EnrollmentRequestService;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::{PageRequest, Prefix, Versioned};
use tonic::{Request, Response, Status};

use super::enroller::Enroller;

/// Read at once: more than may wait, since those that were let in or turned away are among them for some minutes.
const PAGE_SIZE: usize = 1000;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Waiting(pub(crate) Enroller);

impl Waiting {
    /// All that were asked lately in a project, those that were answered too.
    async fn all(&self, project: &ProjectName) -> Result<Vec<Versioned<stored::EnrollmentRecord>>, Fault> {
        let prefix = Prefix::<stored::EnrollmentRecord>::project(project);
        let mut all = Vec::new();
        let mut page = PageRequest::first(PAGE_SIZE);
        loop {
            let read = self.0.store.list(&prefix, &page).await?;
            all.extend(read.items);
            match read.next {
                Some(next) => page = PageRequest::after(PAGE_SIZE, next),
                None => return Ok(all),
            }
        }
    }

    async fn list(&self, request: &pb::ListEnrollmentsRequest) -> Result<pb::ListEnrollmentsResponse, Fault> {
        let project = ProjectName::parse_parent(&request.parent);
        let project = project.map_err(|error| Fault::invalid_field("parent", error))?;
        known_project(&self.0.store, &self.0.shared.mirror, &project).await?;
        let waiting = |read: &Versioned<stored::EnrollmentRecord>| {
            read.value.approved_as.is_empty() && !read.value.denied
        };
        let mut enrollments: Vec<_> = self
            .all(&project)
            .await?
            .into_iter()
            .filter(waiting)
            .filter_map(|read| show(&project, read.value))
            .collect();
        enrollments.sort_by_key(|shown| shown.create_time.map_or((0, 0), |time| (time.seconds, time.nanos)));
        Ok(pb::ListEnrollmentsResponse { enrollments })
    }

    /// The machine with this fingerprint, whatever became of it.
    async fn find(&self, name: &str) -> Result<Versioned<stored::EnrollmentRecord>, Fault> {
        let (project, fingerprint) = parse_name(name)?;
        let found = self.all(&project).await?.into_iter().find(|read| {
            KeyId::try_from(read.value.key_id.as_ref()).is_ok_and(|key| fingerprint.matches(&key))
        });
        found.ok_or_else(|| Fault::not_found(format!("{}/enrollments/{fingerprint}", project.parent())))
    }

    async fn approve(
        &self,
        request: &pb::ApproveEnrollmentRequest,
        caused: &Caused,
    ) -> Result<pb::Node, Fault> {
        let mut wrong = Violations::new();
        check_labels("labels", &request.labels, &mut wrong);
        let chosen = match request.node.as_str() {
            "" => None,
            node => wrong.check("node", NodeName::parse(node)),
        };
        wrong.finish(Some(()))?;
        let mut tries = Tries::default();
        loop {
            let read = self.find(&request.name).await?;
            let node = chosen.clone().map_or_else(|| named(&read.value), Ok)?;
            let node = NodeRef { project: read.key.name().project, node };
            let act = caused.of(&node, AuditOutcome::Created).detail(format!("approved {}", request.name));
            if self.0.approve(&read, &node, &request.labels, request.replace, act).await?.is_some() {
                tracing::info!(%node, enrollment = request.name, "a machine was let in");
                return skerry_api::read(&self.0.nodes, &node).await;
            }
            tries.again(&request.name).await?;
        }
    }

    async fn deny(
        &self,
        request: &pb::DenyEnrollmentRequest,
        caused: &Caused,
    ) -> Result<pb::DenyEnrollmentResponse, Fault> {
        let mut tries = Tries::default();
        loop {
            let read = self.find(&request.name).await?;
            if !read.value.approved_as.is_empty() {
                let message = format!(
                    "the machine is the node {} already: `skerry node revoke {}` strikes its key out",
                    read.value.approved_as, read.value.approved_as
                );
                return Err(Fault::new(skerry_model::Code::FailedPrecondition, "ENROLLED_ALREADY", message));
            }
            let project = read.key.name().project;
            let act = caused.of_resource(&project, request.name.clone(), AuditOutcome::Updated);
            if self.0.deny(&read, act.detail("turned away")).await?.is_some() {
                tracing::info!(enrollment = request.name, "a machine was turned away");
                return Ok(pb::DenyEnrollmentResponse {});
            }
            tries.again(&request.name).await?;
        }
    }
}

/// The name that a machine asks for.
fn named(record: &stored::EnrollmentRecord) -> Result<NodeName, Fault> {
    NodeName::parse(&record.node)
        .map_err(|_| Fault::invalid_field("node", "the machine asks for no name: choose one (--name)"))
}

fn parse_name(text: &str) -> Result<(ProjectName, Fingerprint), Fault> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        ["projects", project, "enrollments", fingerprint] => {
            let project = ProjectName::parse(project).map_err(|error| Fault::invalid_field("name", error))?;
            let fingerprint =
                Fingerprint::parse(fingerprint).map_err(|error| Fault::invalid_field("name", error))?;
            Ok((project, fingerprint))
        }
        _ => Err(Fault::invalid_field(
            "name",
            "not the name of an enrolment: projects/<project>/enrollments/<fingerprint> is wanted",
        )),
    }
}

fn show(project: &ProjectName, record: stored::EnrollmentRecord) -> Option<pb::Enrollment> {
    let key = KeyId::try_from(record.key_id.as_ref()).ok()?;
    let fingerprint = Fingerprint::of(&key).to_string();
    Some(pb::Enrollment {
        name: format!("{}/enrollments/{fingerprint}", project.parent()),
        fingerprint,
        node: record.node,
        machine: Some(MachineFingerprint {
            machine_id: record.machine_id,
            serial: record.serial,
            host_name: record.host_name,
        }),
        address: record.address,
        create_time: record.create_time,
    })
}

#[tonic::async_trait]
impl EnrollmentRequestService for Waiting {
    async fn list_enrollments(
        &self,
        request: Request<pb::ListEnrollmentsRequest>,
    ) -> Result<Response<pb::ListEnrollmentsResponse>, Status> {
        reply(self.list(request.get_ref()).await)
    }

    async fn approve_enrollment(
        &self,
        request: Request<pb::ApproveEnrollmentRequest>,
    ) -> Result<Response<pb::ApproveEnrollmentResponse>, Status> {
        let caused = Caused::by("skerry.registry.v1.EnrollmentRequestService/ApproveEnrollment", &request);
        let approved = self.approve(request.get_ref(), &caused).await;
        reply(approved.map(|node| pb::ApproveEnrollmentResponse { node: Some(node) }))
    }

    async fn deny_enrollment(
        &self,
        request: Request<pb::DenyEnrollmentRequest>,
    ) -> Result<Response<pb::DenyEnrollmentResponse>, Status> {
        let caused = Caused::by("skerry.registry.v1.EnrollmentRequestService/DenyEnrollment", &request);
        reply(self.deny(request.get_ref(), &caused).await)
    }
}
