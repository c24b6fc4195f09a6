//! `GrantService`: the handlers, and the end of grants that have expired. What a grant means is in `skerry-resources`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_api::{Call, Caused, Create, Delete, Kind, audit, reply};
use skerry_daemon::Shutdown;
use skerry_model::{Fault, GrantRef, time};
use skerry_proto::registry::v1::grant_service_server::GrantService;
use skerry_proto::registry::v1::{self as pb};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_resources::GrantRules;
use skerry_rpc::{Peer, status_of};
use skerry_store::{Act, Mirror, Prefix, Store, Txn};
use tonic::{Request, Response, Status};

use super::shown::Shown;

/// How long a grant that has expired is still shown.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Between two looks for grants that can go.
const SWEEP_PERIOD: Duration = Duration::from_secs(10 * 60);

/// The handlers.
#[derive(Clone)]
pub(crate) struct Grants {
    pub(crate) rules: GrantRules,
    pub(crate) shown: Arc<Shown>,
}

impl Kind for Grants {
    type Rules = GrantRules;

    fn rules(&self) -> &GrantRules {
        &self.rules
    }

    fn mirror(&self) -> &Mirror {
        self.shown.access.mirror()
    }

    fn remove(&self, _: &GrantRef, txn: Txn, _: &Caused) -> Result<Txn, Fault> {
        Ok(txn)
    }
}

#[tonic::async_trait]
impl GrantService for Grants {
    async fn create_grant(
        &self,
        request: Request<pb::CreateGrantRequest>,
    ) -> Result<Response<pb::CreateGrantResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let by = audit::caller_of(&request).name;
        let request = request.get_ref();
        let method = "skerry.registry.v1.GrantService/CreateGrant";
        let pb::CreateGrantRequest { parent, grant, validate_only, .. } = request;
        let create = Create { parent, resource: grant.as_ref(), validate_only: *validate_only };
        let call = Call { method, id: &request.request_id, request, peer: &peer };
        let grants = Self { rules: self.rules.by(by), shown: Arc::clone(&self.shown) };
        let made = skerry_api::create(&grants, call, create).await;
        reply(made.map(|grant| pb::CreateGrantResponse { grant: Some(grant) }))
    }

    async fn get_grant(
        &self,
        request: Request<pb::GetGrantRequest>,
    ) -> Result<Response<pb::GetGrantResponse>, Status> {
        let grant = async { skerry_api::read(self, &GrantRef::parse(&request.get_ref().name)?).await };
        reply(grant.await.map(|grant| pb::GetGrantResponse { grant: Some(grant) }))
    }

    async fn list_grants(
        &self,
        request: Request<pb::ListGrantsRequest>,
    ) -> Result<Response<pb::ListGrantsResponse>, Status> {
        let pb::ListGrantsRequest { parent, label_selector, page_size, page_token } = request.get_ref();
        let page =
            skerry_api::list(self, &self.shown.grants, parent, label_selector, *page_size, page_token).await;
        reply(
            page.map(|page| pb::ListGrantsResponse {
                grants: page.items,
                next_page_token: page.next_page_token,
            }),
        )
    }

    async fn delete_grant(
        &self,
        request: Request<pb::DeleteGrantRequest>,
    ) -> Result<Response<pb::DeleteGrantResponse>, Status> {
        let peer = Peer::of(&request).map_err(|fault| status_of(&fault))?;
        let request = request.get_ref();
        let method = "skerry.registry.v1.GrantService/DeleteGrant";
        let delete = Delete { name: &request.name, etag: &request.etag };
        let call = Call { method, id: &request.request_id, request, peer: &peer };
        reply(skerry_api::delete(self, call, delete).await.map(|()| pb::DeleteGrantResponse {}))
    }
}

/// Deletes grants that expired a day ago, until the end.
pub(super) async fn sweep(shown: Arc<Shown>, store: Store, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(SWEEP_PERIOD) => {}
        }
        let (snapshot, now) = (shown.access.mirror().snapshot(), SystemTime::now());
        let all = Prefix::<stored::GrantRecord>::all();
        let over: Vec<_> =
            snapshot.iter(&all).filter_map(Result::ok).filter(|read| can_go(&read.value, now)).collect();
        let txns = over.iter().map(|read| {
            let name = read.key.name();
            let by = audit::itself("registry");
            let act = Act::new(by, "sweep", name.project.clone(), name.to_string(), AuditOutcome::Deleted);
            Txn::new().when_same(read).delete(&read.key).audit(act.detail("it had expired"))
        });
        for error in store.commit_all(txns.collect(), None).await.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a grant that has expired stays for now");
        }
    }
}

/// Whether a grant expired so long ago that it is no longer shown.
fn can_go(record: &stored::GrantRecord, now: SystemTime) -> bool {
    let expired = record.expire_time.as_ref().and_then(time::from_timestamp);
    expired.is_none_or(|expired| now >= expired + KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_goes_a_day_after_it_has_expired() {
        let expired = SystemTime::UNIX_EPOCH;
        let record =
            stored::GrantRecord { expire_time: Some(time::to_timestamp(expired)), ..Default::default() };
        assert!(!can_go(&record, expired) && !can_go(&record, expired + KEPT - Duration::from_secs(1)));
        assert!(can_go(&record, expired + KEPT));
    }
}
