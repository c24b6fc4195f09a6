//! The Lease service.

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService,
    PbLeaseStatus, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::fault::stopped;
use super::{Face, unexpected};
use crate::mvcc::{Answer, Command, Fault};
use crate::writer::Refusal;

/// Answers that wait for the client on one keep-alive stream.
const KEEP_ALIVE_ANSWERS: usize = 16;
/// Attempts at a free lease id. Ids have 63 bits: a second attempt is already unheard of.
const ID_ATTEMPTS: usize = 8;

#[async_trait]
impl PbLeaseService for Face {
    type LeaseKeepAliveStream = ReceiverStream<Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let PbLeaseGrantRequest { ttl, id } = request.into_inner();
        let mut attempts = ID_ATTEMPTS;
        let answer = loop {
            let id = if id == 0 { rand::random_range(1..=i64::MAX) } else { id };
            match self.engine.command(Command::LeaseGrant { id, ttl_s: ttl }).await {
                Err(Refusal::Fault(Fault::LeaseExists)) if attempts > 0 => attempts -= 1,
                answer => break answer,
            }
        };
        match answer? {
            Answer::Lease { revision, id, ttl_s } => Ok(Response::new(PbLeaseGrantResponse {
                header: Some(self.header(revision)),
                id,
                ttl: ttl_s,
                error: String::new(),
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let id = request.into_inner().id;
        match self.engine.command(Command::LeaseRevoke { id }).await? {
            Answer::Done { revision } => {
                Ok(Response::new(PbLeaseRevokeResponse { header: Some(self.header(revision)) }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (out, answers) = mpsc::channel(KEEP_ALIVE_ANSWERS);
        let face = self.clone();
        let mut requests = request.into_inner();
        self.engine.shared.tasks.spawn(async move {
            let stop = face.stop.clone();
            let ended = stop.run_until_cancelled(face.keep_alive(&mut requests, &out)).await;
            if ended.is_none() {
                // The client may have gone, or read too slowly to hear the reason.
                let _ = out.try_send(Err(stopped()));
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let PbLeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let response = match self.engine.command(Command::LeaseTimeToLive { id }).await {
            Ok(Answer::LeaseState { revision, state }) => PbLeaseTimeToLiveResponse {
                header: Some(self.header(revision)),
                id,
                ttl: state.remaining_s,
                granted_ttl: state.granted_ttl_s,
                keys: if keys { state.keys.iter().map(|key| key.to_vec()).collect() } else { Vec::new() },
            },
            // A lease that is gone is an answer here, not an error, as in etcd.
            Err(Refusal::Fault(Fault::LeaseNotFound)) => PbLeaseTimeToLiveResponse {
                header: Some(self.current_header()),
                id,
                ttl: -1,
                granted_ttl: 0,
                keys: Vec::new(),
            },
            Ok(other) => return Err(unexpected(&other)),
            Err(refusal) => return Err(refusal.into()),
        };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        match self.engine.command(Command::LeaseList).await? {
            Answer::LeaseList { revision, ids } => Ok(Response::new(PbLeaseLeasesResponse {
                header: Some(self.header(revision)),
                leases: ids.into_iter().map(|id| PbLeaseStatus { id }).collect(),
            })),
            other => Err(unexpected(&other)),
        }
    }
}

impl Face {
    /// Answers keep-alives in order until either side ends the stream.
    async fn keep_alive(
        &self,
        requests: &mut Streaming<PbLeaseKeepAliveRequest>,
        out: &mpsc::Sender<Result<PbLeaseKeepAliveResponse, Status>>,
    ) {
        // A stream that breaks ends like one that is closed: there is nobody to tell.
        while let Ok(Some(PbLeaseKeepAliveRequest { id })) = requests.message().await {
            let response = match self.engine.command(Command::LeaseKeepAlive { id }).await {
                Ok(Answer::Lease { revision, ttl_s, .. }) => {
                    Ok(PbLeaseKeepAliveResponse { header: Some(self.header(revision)), id, ttl: ttl_s })
                }
                // No time left is how etcd says that the lease is gone.
                Err(Refusal::Fault(Fault::LeaseNotFound)) => {
                    Ok(PbLeaseKeepAliveResponse { header: Some(self.current_header()), id, ttl: 0 })
                }
                Ok(other) => Err(unexpected(&other)),
                Err(refusal) => Err(refusal.into()),
            };
            let failed = response.is_err();
            if out.send(response).await.is_err() || failed {
                return;
            }
        }
    }
}
