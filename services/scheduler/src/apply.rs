//! `ApplyService`: several resources of any kinds, changed together. What each kind means is in `skerry-resources`, how several are planned
//! into one transaction in `skerry-api`.

use skerry_api::{Call, Changed, reply};
use skerry_model::Fault;
use skerry_proto::registry::v1::ChangeOutcome;
use skerry_proto::scheduler::v1::apply_service_server::ApplyService;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{self as pb, AnyResource, AppliedResource};
use skerry_resources::{AllRules, SecretKeys, remembered};
use skerry_rpc::{Peer, status_of};
use skerry_store::{Mirror, Store};
use tonic::{Request, Response, Status};

/// The handlers.
#[derive(Clone)]
pub(crate) struct Apply {
    rules: AllRules,
    /// What an answer waits for, as far as it follows what was changed.
    mirrors: Vec<Mirror>,
}

impl Apply {
    pub(crate) fn new(store: Store, keys: SecretKeys, mirror: Mirror) -> Self {
        Self { rules: AllRules::new(store, keys), mirrors: vec![mirror] }
    }

    /// Answers wait for these too.
    pub(crate) fn wait_for(&mut self, mirrors: impl IntoIterator<Item = Mirror>) {
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
