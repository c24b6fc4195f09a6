//! The Maintenance and Cluster services: one member that is always the leader, so that tools which look
//! at a cluster see a healthy one.

use std::path::PathBuf;

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbClusterService, PbDefragmentRequest, PbDefragmentResponse,
    PbDowngradeRequest, PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest,
    PbHashResponse, PbMaintenanceService, PbMember, PbMemberAddRequest, PbMemberAddResponse,
    PbMemberListRequest, PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse,
    PbMemberRemoveRequest, PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse,
    PbMoveLeaderRequest, PbMoveLeaderResponse, PbResponseHeader, PbSnapshotRequest, PbSnapshotResponse,
    PbStatusRequest, PbStatusResponse,
};
use redb::ReadTransaction;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::Face;
use super::fault::stopped;
use crate::disk::{self, SNAPSHOT_PREFIX};
use crate::writer::{Refusal, Work};

/// The etcd version whose interface is served.
const ETCD_VERSION: &str = "3.5.21";
const MEMBER_NAME: &str = "skerry-embedded";
/// Bytes in one message of a snapshot, as in etcd.
const SNAPSHOT_CHUNK_BYTES: usize = 32 << 10;
/// Messages of a snapshot that wait for the client.
const SNAPSHOT_CHUNKS: usize = 4;

type SnapshotOut = mpsc::Sender<Result<PbSnapshotResponse, Status>>;

#[async_trait]
impl PbMaintenanceService for Face {
    type SnapshotStream = ReceiverStream<Result<PbSnapshotResponse, Status>>;

    async fn alarm(&self, request: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        /// `AlarmRequest.AlarmAction.ACTIVATE`.
        const ACTIVATE: i32 = 1;
        if request.into_inner().action == ACTIVATE {
            return Err(one_member("raising alarms"));
        }
        // There are none: the quota is looked at on each write and needs no disarming.
        Ok(Response::new(PbAlarmResponse { header: Some(self.current_header()), alarms: Vec::new() }))
    }

    async fn status(&self, _: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        let shared = &self.engine.shared;
        let (revision, term, size_bytes) = {
            let core = shared.read();
            (core.committed(), core.term(), core.size_bytes())
        };
        let count = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let file_bytes = count(shared.file_bytes());
        // There is no raft; what grows with every change and every start stands in for its index.
        let index = revision.saturating_add(term).cast_unsigned();
        Ok(Response::new(PbStatusResponse {
            header: Some(self.header(revision)),
            version: ETCD_VERSION.to_owned(),
            db_size: file_bytes,
            leader: self.identity.member_id,
            raft_index: index,
            raft_term: term.cast_unsigned(),
            raft_applied_index: index,
            errors: Vec::new(),
            db_size_in_use: i64::try_from(size_bytes).unwrap_or(i64::MAX).min(file_bytes),
            is_learner: false,
            storage_version: String::new(),
            db_size_quota: i64::try_from(shared.config.quota_bytes).unwrap_or(i64::MAX),
            downgrade_info: None,
        }))
    }

    async fn defragment(
        &self,
        _: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        self.engine.work(Work::Shrink).await?;
        Ok(Response::new(PbDefragmentResponse { header: Some(self.current_header()) }))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        Err(Status::unimplemented("the embedded store has no hash: there is no other member to compare with"))
    }

    async fn hash_kv(&self, _: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        Err(Status::unimplemented("the embedded store has no hash: there is no other member to compare with"))
    }

    async fn snapshot(
        &self,
        _: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let (reply, _done) = oneshot::channel();
        let (view, seen) = oneshot::channel();
        let request = crate::writer::Request { work: Work::View(view), reply };
        self.engine.queue.send(request).await.map_err(|_| stopped())?;
        let view = seen.await.map_err(|_| stopped())?;
        let view = view.map_err(|error| Status::from(Refusal::Disk(error.to_string())))?;

        let (out, chunks) = mpsc::channel(SNAPSHOT_CHUNKS);
        let face = self.clone();
        self.engine.shared.tasks.spawn(async move {
            let stop = face.stop.clone();
            let sent = stop.run_until_cancelled(face.send_snapshot(view, &out)).await;
            let failed = match sent {
                Some(Ok(())) => return,
                Some(Err(error)) => Status::internal(format!("making the snapshot: {error}")),
                None => stopped(),
            };
            let _ = out.try_send(Err(failed));
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: bad leader transferee"))
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(one_member("downgrades"))
    }
}

impl Face {
    /// Copies the view into a data file of its own, and sends that, followed by its SHA-256, as etcd does.
    async fn send_snapshot(&self, view: ReadTransaction, out: &SnapshotOut) -> std::io::Result<()> {
        let name = format!("{SNAPSHOT_PREFIX}{:016x}", rand::random::<u64>());
        let path = TempPath(self.engine.shared.config.data_dir.join(name));
        let target = path.0.clone();
        let copied = self.engine.shared.tasks.spawn_blocking(move || disk::copy(&view, &target)).await;
        copied.map_err(std::io::Error::other)?.map_err(std::io::Error::other)?;

        let mut file = tokio::fs::File::open(&path.0).await?;
        let mut left = file.metadata().await?.len() + 32;
        let header = self.current_header();
        let mut digest = Sha256::new();
        loop {
            let mut blob = vec![0; SNAPSHOT_CHUNK_BYTES];
            let len = file.read(&mut blob).await?;
            if len == 0 {
                break;
            }
            blob.truncate(len);
            digest.update(&blob);
            left = left.saturating_sub(len as u64);
            if out.send(Ok(chunk(blob, left, header))).await.is_err() {
                return Ok(());
            }
        }
        // A client that has gone needs no digest.
        let _ = out.send(Ok(chunk(digest.finalize().to_vec(), 0, header))).await;
        Ok(())
    }
}

fn chunk(blob: Vec<u8>, remaining_bytes: u64, header: PbResponseHeader) -> PbSnapshotResponse {
    PbSnapshotResponse { header: Some(header), remaining_bytes, blob, version: ETCD_VERSION.to_owned() }
}

/// A file that is removed when nobody needs it any more.
struct TempPath(PathBuf);

impl Drop for TempPath {
    fn drop(&mut self) {
        // What stays behind after a crash is removed at the next opening.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[async_trait]
impl PbClusterService for Face {
    async fn member_list(
        &self,
        _: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        let member = PbMember {
            id: self.identity.member_id,
            name: MEMBER_NAME.to_owned(),
            peer_ur_ls: Vec::new(),
            client_ur_ls: self.engine.shared.addresses(),
            is_learner: false,
        };
        Ok(Response::new(PbMemberListResponse { header: Some(self.header(0)), members: vec![member] }))
    }

    async fn member_add(
        &self,
        _: Request<PbMemberAddRequest>,
    ) -> Result<Response<PbMemberAddResponse>, Status> {
        Err(one_member("adding members"))
    }

    async fn member_remove(
        &self,
        _: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        Err(one_member("removing members"))
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        Err(one_member("changing members"))
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        Err(one_member("promoting members"))
    }
}

fn one_member(what: &str) -> Status {
    Status::unimplemented(format!("the embedded store has exactly one member: {what} is not possible"))
}
