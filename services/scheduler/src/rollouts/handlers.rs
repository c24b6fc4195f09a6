//! The handlers of `RolloutService`.

use std::sync::Arc;
use std::time::SystemTime;

use prost::Message;
use skerry_api::{Caused, Tries, reply};
use skerry_model::{AppRef, Code, ContentHash, Fault};
use skerry_proto::scheduler::v1 as pb;
use skerry_proto::scheduler::v1::rollout_service_server::RolloutService;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_rollout::{Phase, Refused, Rollout, abort, pause, resume};
use skerry_store::keys::RequestId;
use skerry_store::{Key, RequestMark, Store, TxnError};
use tonic::{Request, Response, Status};

use super::{rollouts, writes};
use crate::follow::Shared;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Rollouts {
    shared: Arc<Shared>,
    store: Store,
}

/// What is asked of a rollout.
struct Asked<'a> {
    method: &'static str,
    app: &'a str,
    request_id: &'a str,
    change: fn(&Rollout, SystemTime) -> Result<Rollout, Refused>,
}

impl Rollouts {
    pub(crate) fn new(shared: Arc<Shared>, store: Store) -> Self {
        Self { shared, store }
    }

    async fn change<M: Message>(&self, request: &Request<M>, asked: Asked<'_>) -> Result<(), Fault> {
        let name = AppRef::parse(asked.app).map_err(|error| Fault::invalid_field("app", error))?;
        let mark = mark(&name, request.get_ref(), &asked)?;
        if let Some(mark) = &mark
            && self.store.find_request(mark).await?.is_some()
        {
            return Ok(());
        }
        let caused = Caused::by(asked.method, request);
        let mut tries = Tries::default();
        loop {
            let app = self.store.get(&Key::<stored::AppRecord>::of(&name)).await?;
            let app = app.ok_or_else(|| Fault::not_found(&name))?.value;
            let read = self.store.get(&Key::<stored::RolloutRecord>::of(&name)).await?;
            let read = read.filter(|read| read.value.id == app.rollout_id);
            let read = read.ok_or_else(|| none(&name))?;
            let before = rollouts::read(&read.value).ok_or_else(|| none(&name))?;
            let next = (asked.change)(&before, SystemTime::now()).map_err(|why| refused(&name, why))?;
            let uid = app.meta.map_or_else(String::new, |meta| meta.uid);
            let mut txn = writes::goes_on(&name, &read, &next, &[]);
            txn = writes::with_event(&self.store, &name, &uid, (&before, &next), txn).await?;
            if next.phase == Phase::RollingBack {
                txn = writes::go_back(&self.store, &name, &next, txn).await?;
            }
            txn = txn.audit(caused.of(&name, AuditOutcome::Updated));
            if let Some(mark) = &mark {
                txn = txn.request(mark.clone());
            }
            match self.store.commit(txn).await {
                Ok(committed) => {
                    let shown = self.shared.mirror.wait_for(&committed).await;
                    return shown.map(drop).map_err(|error| Fault::unavailable(error.to_string()));
                }
                Err(TxnError::Repeated { .. }) => return Ok(()),
                Err(TxnError::Conflict(_)) => tries.again(&name).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn mark<M: Message>(name: &AppRef, request: &M, asked: &Asked<'_>) -> Result<Option<RequestMark>, Fault> {
    if asked.request_id.is_empty() {
        return Ok(None);
    }
    let id = RequestId::parse(asked.request_id).map_err(|error| Fault::invalid_field("request_id", error))?;
    Ok(Some(RequestMark {
        project: name.project.clone(),
        id,
        method: asked.method.to_owned(),
        hash: ContentHash::of(&request.encode_to_vec()),
        resource: name.to_string(),
    }))
}

fn none(name: &AppRef) -> Fault {
    let why = format!(
        "{name} has no rollout: its last change went to all clusters at once (spec.rollout says otherwise)"
    );
    Fault::new(Code::FailedPrecondition, "NO_ROLLOUT", why).with("resource", name)
}

fn refused(name: &AppRef, why: Refused) -> Fault {
    let reason = match why {
        Refused::Ended => "ROLLOUT_ENDED",
        Refused::GoesBack => "ROLLOUT_GOES_BACK",
        Refused::NotPaused => "ROLLOUT_NOT_PAUSED",
        Refused::Paused => "ROLLOUT_PAUSED",
    };
    Fault::new(Code::FailedPrecondition, reason, format!("{name}: {why}")).with("resource", name)
}

#[tonic::async_trait]
impl RolloutService for Rollouts {
    async fn pause_rollout(
        &self,
        request: Request<pb::PauseRolloutRequest>,
    ) -> Result<Response<pb::PauseRolloutResponse>, Status> {
        let method = "skerry.scheduler.v1.RolloutService/PauseRollout";
        let pb::PauseRolloutRequest { app, request_id } = request.get_ref();
        let done = self.change(&request, Asked { method, app, request_id, change: pause }).await;
        reply(done.map(|()| pb::PauseRolloutResponse {}))
    }

    async fn resume_rollout(
        &self,
        request: Request<pb::ResumeRolloutRequest>,
    ) -> Result<Response<pb::ResumeRolloutResponse>, Status> {
        let method = "skerry.scheduler.v1.RolloutService/ResumeRollout";
        let pb::ResumeRolloutRequest { app, request_id } = request.get_ref();
        let done = self.change(&request, Asked { method, app, request_id, change: resume }).await;
        reply(done.map(|()| pb::ResumeRolloutResponse {}))
    }

    async fn abort_rollout(
        &self,
        request: Request<pb::AbortRolloutRequest>,
    ) -> Result<Response<pb::AbortRolloutResponse>, Status> {
        let method = "skerry.scheduler.v1.RolloutService/AbortRollout";
        let pb::AbortRolloutRequest { app, request_id } = request.get_ref();
        let done = self.change(&request, Asked { method, app, request_id, change: abort }).await;
        reply(done.map(|()| pb::AbortRolloutResponse {}))
    }
}
