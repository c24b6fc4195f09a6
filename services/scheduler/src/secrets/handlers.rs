//! The handlers of `SecretService`.

use skerry_api::{Call, Caused, Create, Delete, ResponseStream, Told, Update, reply};
use skerry_model::{Fault, ProjectName, SecretRef};
use skerry_proto::scheduler::v1::secret_service_server::SecretService;
use skerry_proto::scheduler::v1::{self as pb, Secret};
use skerry_resources::shown;
use skerry_rpc::{Peer, status_of};
use tonic::{Request, Response, Status};

use super::{Secrets, reseal};
use crate::apps::change_type;

fn told(told: &Told<Secret>) -> pb::WatchSecretsResponse {
    let (secret, resource_version) = told.parts();
    pb::WatchSecretsResponse {
        r#type: change_type(told).into(),
        secret: secret.map(|secret| Secret::clone(secret)),
        resource_version,
    }
}

#[tonic::async_trait]
impl SecretService for Secrets {
    async fn create_secret(
        &self,
        request: Request<pb::CreateSecretRequest>,
    ) -> Result<Response<pb::CreateSecretResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.SecretService/CreateSecret";
        // What is remembered of a request is a hash in the store, in the clear: of no value.
        let secret = shown::redacted(request.secret.as_ref());
        let remembered = pb::CreateSecretRequest {
            secret,
            parent: request.parent.clone(),
            request_id: request.request_id.clone(),
            ..*request
        };
        let create = Create {
            parent: &request.parent,
            resource: request.secret.as_ref(),
            validate_only: request.validate_only,
        };
        let call = Call { method, id: &request.request_id, request: &remembered, peer: &peer };
        let secret = skerry_api::create(self, call, create).await;
        reply(secret.map(|secret| pb::CreateSecretResponse { secret: Some(secret) }))
    }

    async fn get_secret(
        &self,
        request: Request<pb::GetSecretRequest>,
    ) -> Result<Response<pb::GetSecretResponse>, Status> {
        let secret = async { skerry_api::read(self, &SecretRef::parse(&request.get_ref().name)?).await };
        reply(secret.await.map(|secret| pb::GetSecretResponse { secret: Some(secret) }))
    }

    async fn list_secrets(
        &self,
        request: Request<pb::ListSecretsRequest>,
    ) -> Result<Response<pb::ListSecretsResponse>, Status> {
        let pb::ListSecretsRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shared.secrets, parent, label_selector, *page_size, page_token)
                .await;
        reply(page.map(|page| pb::ListSecretsResponse {
            secrets: page.items,
            next_page_token: page.next_page_token,
            resource_version: page.resource_version,
        }))
    }

    type WatchSecretsStream = ResponseStream<pb::WatchSecretsResponse>;

    async fn watch_secrets(
        &self,
        request: Request<pb::WatchSecretsRequest>,
    ) -> Result<Response<Self::WatchSecretsStream>, Status> {
        let pb::WatchSecretsRequest { parent, label_selector, resource_version } = request.get_ref();
        let (hub, ending) = (&self.shared.secrets, self.shutdown.wait());
        reply(skerry_api::watch(self, hub, (parent, label_selector, resource_version), told, ending).await)
    }

    async fn update_secret(
        &self,
        request: Request<pb::UpdateSecretRequest>,
    ) -> Result<Response<pb::UpdateSecretResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.SecretService/UpdateSecret";
        let remembered = pb::UpdateSecretRequest {
            secret: shown::redacted(request.secret.as_ref()),
            update_mask: request.update_mask.clone(),
            request_id: request.request_id.clone(),
            ..*request
        };
        let update = Update {
            resource: request.secret.as_ref(),
            mask: request.update_mask.as_ref(),
            allow_missing: request.allow_missing,
            validate_only: request.validate_only,
        };
        let call = Call { method, id: &request.request_id, request: &remembered, peer: &peer };
        let done = skerry_api::update(self, call, update).await;
        reply(done.map(|(secret, outcome)| pb::UpdateSecretResponse {
            secret: Some(secret),
            outcome: outcome.into(),
        }))
    }

    async fn delete_secret(
        &self,
        request: Request<pb::DeleteSecretRequest>,
    ) -> Result<Response<pb::DeleteSecretResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.scheduler.v1.SecretService/DeleteSecret";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let done =
            skerry_api::delete(self, Call { method, id: &request.request_id, request, peer: &peer }, delete)
                .await;
        reply(done.map(|()| pb::DeleteSecretResponse {}))
    }

    async fn reseal_secrets(
        &self,
        request: Request<pb::ResealSecretsRequest>,
    ) -> Result<Response<pb::ResealSecretsResponse>, Status> {
        let resealed = async {
            let project = ProjectName::parse_parent(&request.get_ref().parent);
            let project = project.map_err(|error| Fault::invalid_field("parent", error))?;
            if !project.is_system() {
                let why = "secrets of all projects are sealed under one key file: name `projects/system`";
                return Err(Fault::invalid_field("parent", why));
            }
            let caused = Caused::by("skerry.scheduler.v1.SecretService/ResealSecrets", &request);
            reseal::reseal(self, &caused).await
        };
        reply(resealed.await)
    }
}
