//! `ApplyService`: several resources of any kinds, changed together. How they are planned into one transaction is `skerry-api`'s.

use skerry_api::{Call, Changed, reply};
use skerry_model::Fault;
use skerry_proto::registry::v1::ChangeOutcome;
use skerry_proto::scheduler::v1::apply_service_server::{ApplyService, ApplyServiceServer};
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{self as pb, AnyResource, AppliedResource};
use skerry_rpc::{MESSAGE_BYTES_MAX, Peer, Server, status_of};
use skerry_store::{Mirror, Store};
use tonic::{Request, Response, Status};

use crate::all::{AllRules, remembered};
use crate::keys::SecretKeys;

/// The handlers.
#[derive(Debug, Clone)]
pub struct Apply {
    rules: AllRules,
    /// What an answer waits for, as far as it follows what was changed.
    mirrors: Vec<Mirror>,
}

impl Apply {
    /// Those over this store, with the keys that seal values of secrets. What is answered, `mirrors` show, as far as they follow it.
    pub fn new(store: Store, keys: SecretKeys, mirrors: impl IntoIterator<Item = Mirror>) -> Self {
        Self { rules: AllRules::new(store, keys), mirrors: mirrors.into_iter().collect() }
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        server.add(
            ApplyServiceServer::new(self.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        );
    }

    /// Answers wait for these too.
    pub fn wait_for(&mut self, mirrors: impl IntoIterator<Item = Mirror>) {
        self.mirrors.extend(mirrors);
    }

    async fn apply(&self, peer: &Peer, request: &pb::ApplyRequest) -> Result<pb::ApplyResponse, Fault> {
        let several = self.rules.several(peer, request)?;
        // What is kept of a request is a hash in the store, in the clear: of no value.
        let kept = remembered(request);
        let method = "skerry.scheduler.v1.ApplyService/Apply";
        let call = Call { method, id: &request.request_id, request: &kept, peer };
        let changed = several.change(self.rules.store(), &self.mirrors, call, request.validate_only).await?;
        Ok(pb::ApplyResponse { resources: changed.into_iter().map(applied).collect() })
    }
}

fn applied(changed: Changed<AnyResource>) -> AppliedResource {
    let outcome = match changed.outcome {
        Outcome::Unspecified => ChangeOutcome::Unspecified,
        Outcome::Created => ChangeOutcome::Created,
        Outcome::Updated => ChangeOutcome::Updated,
        Outcome::Unchanged => ChangeOutcome::Unchanged,
    };
    AppliedResource { name: changed.name, outcome: outcome.into(), resource: changed.resource }
}

#[tonic::async_trait]
impl ApplyService for Apply {
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        reply(self.apply(&peer, request.get_ref()).await)
    }
}
