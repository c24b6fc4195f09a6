//! The KV service: reads go straight to the core, writes through the writer's queue.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::fault::check_size;
use super::{Face, convert, unexpected};
use crate::mvcc::{Answer, Command};
use crate::writer::Work;

/// Keys in one message of a streamed range.
const STREAM_PART_ENTRIES: usize = 100;
/// Messages of a streamed range that wait for the client.
const STREAM_PARTS: usize = 4;

#[async_trait]
impl PbKvService for Face {
    type RangeStreamStream = ReceiverStream<Result<PbRangeStreamResponse, Status>>;

    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let request = request.into_inner();
        let keys_only = request.keys_only;
        let range = convert::range(request)?;
        // The answer shares its entries with the core; the copy is made when nobody waits for the core.
        let answer = self.engine.shared.read().range(&range)?;
        Ok(Response::new(convert::range_response(&answer, keys_only, self.header(answer.revision))))
    }

    async fn range_stream(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let request = request.into_inner();
        let keys_only = request.keys_only;
        let range = convert::range(request)?;
        let mut answer = self.engine.shared.read().range(&range)?;
        let header = self.header(answer.revision);
        let entries = std::mem::take(&mut answer.entries);
        let (out, parts) = mpsc::channel(STREAM_PARTS);
        let stop = self.stop.clone();
        self.engine.shared.tasks.spawn(stop.run_until_cancelled_owned(async move {
            for entries in entries.chunks(STREAM_PART_ENTRIES) {
                let kvs = convert::key_values(entries, keys_only);
                let part = PbRangeResponse { kvs, ..PbRangeResponse::default() };
                if out.send(Ok(PbRangeStreamResponse { range_response: Some(part) })).await.is_err() {
                    return;
                }
            }
            let last = convert::range_response(&answer, keys_only, header);
            // A client that has gone away needs no end.
            let _ = out.send(Ok(PbRangeStreamResponse { range_response: Some(last) })).await;
        }));
        Ok(Response::new(ReceiverStream::new(parts)))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        match self.engine.command(Command::Put(convert::put(request))).await? {
            Answer::Put(answer) => {
                Ok(Response::new(convert::put_response(&answer, self.header(answer.revision))))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        match self.engine.command(Command::Delete(convert::delete(request))).await? {
            Answer::Delete(answer) => {
                Ok(Response::new(convert::delete_response(&answer, self.header(answer.revision))))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let request = request.into_inner();
        check_size(&request)?;
        let (txn, shape) = convert::txn(request)?;
        let answer = if txn.is_read_only() {
            self.engine.shared.read().read_txn(&txn)?
        } else {
            match self.engine.command(Command::Txn(txn)).await? {
                Answer::Txn(answer) => answer,
                other => return Err(unexpected(&other)),
            }
        };
        Ok(Response::new(convert::txn_response(&answer, &shape, self.header(answer.revision))))
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        let PbCompactionRequest { revision, physical } = request.into_inner();
        let answer = if physical {
            self.engine.work(Work::CompactPhysically { revision }).await?
        } else {
            self.engine.command(Command::Compact { revision }).await?
        };
        match answer {
            Answer::Done { revision } => {
                Ok(Response::new(PbCompactionResponse { header: Some(self.header(revision)) }))
            }
            other => Err(unexpected(&other)),
        }
    }
}
