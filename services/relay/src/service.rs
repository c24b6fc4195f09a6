//! `RelayService`: what users ask.

use std::sync::Arc;

use futures_util::StreamExt as _;
use skerry_api::{ResponseStream, audit, reply};
use skerry_model::{Fault, ProjectName};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::relay_service_server::RelayService;
use skerry_proto::types::v1::AuditOutcome;
use skerry_rpc::status_of;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::caller::Caller;
use crate::instances::names;
use crate::logs::{Ask, Call, Whose};
use crate::{Shared, act, bundle, copy, exec, forward, instances, peers, records, usage};

#[derive(Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn begin(
        &self,
        request: Request<pb::LogsRequest>,
    ) -> Result<ResponseStream<pb::LogsResponse>, Fault> {
        let caller = Caller::of(&request);
        let ask = Ask::parse(request.into_inner())?;
        let placed = match &ask.whose {
            Whose::Instances(which) => names(which.check(instances::find(&self.shared.reach, which).await?)?),
            Whose::Agent(node) => vec![(String::new(), node.clone())],
        };
        let (call, answers) = Call::new(Arc::clone(&self.shared), ask, caller)?;
        self.shared.shutdown.spawn(call.run(placed));
        Ok(Box::pin(ReceiverStream::new(answers)))
    }

    async fn list(&self, request: &pb::ListChannelsRequest) -> Result<pb::ListChannelsResponse, Fault> {
        let project = ProjectName::parse_parent(&request.parent)
            .map_err(|error| Fault::invalid_field("parent", error))?;
        peers::list_all(&self.shared, &project).await
    }

    async fn cut(&self, request: Request<pb::CutChannelRequest>) -> Result<pb::CutChannelResponse, Fault> {
        let caller = audit::caller_of(&request);
        let name = request.into_inner().name;
        let (project, id) = peers::parse_name(&name)?;
        if !peers::cut_anywhere(&self.shared, &project, id, &caller.name).await? {
            return Err(Fault::not_found(&name));
        }
        let about = (project, name.clone(), AuditOutcome::Deleted);
        records::note(&self.shared, caller, "skerry.relay.v1.RelayService/CutChannel", about, String::new());
        Ok(pb::CutChannelResponse {})
    }
}

/// The answers of a call that was begun, as gRPC has them.
fn stream<T: Send + 'static>(
    begun: Result<mpsc::Receiver<Result<T, Status>>, Fault>,
) -> Result<Response<ResponseStream<T>>, Status> {
    let answers = begun.map_err(|fault| status_of(&fault))?;
    Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
}

#[tonic::async_trait]
impl RelayService for Service {
    type LogsStream = ResponseStream<pb::LogsResponse>;
    type ExecStream = ResponseStream<pb::ExecResponse>;
    type ExecNodeStream = ResponseStream<pb::ExecResponse>;
    type PortForwardStream = ResponseStream<pb::PortForwardResponse>;
    type CopyToStream = ResponseStream<pb::CopyToResponse>;
    type CopyFromStream = ResponseStream<pb::CopyFromResponse>;
    type BundleNodeStream = ResponseStream<pb::BundleNodeResponse>;
    type StreamUsageStream = ResponseStream<pb::StreamUsageResponse>;
    type ActOnInstancesStream = ResponseStream<pb::ActOnInstancesResponse>;

    async fn logs(&self, request: Request<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        self.begin(request).await.map(Response::new).map_err(|fault| status_of(&fault))
    }

    async fn exec(
        &self,
        request: Request<Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let caller = Caller::of(&request);
        stream(exec::in_instance(&self.shared, caller, request.into_inner().boxed()).await)
    }

    async fn exec_node(
        &self,
        request: Request<Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecNodeStream>, Status> {
        let caller = Caller::of(&request);
        stream(exec::on_node(&self.shared, caller, request.into_inner().boxed()).await)
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<pb::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let caller = Caller::of(&request);
        stream(forward::begin(&self.shared, caller, request.into_inner().boxed()).await)
    }

    async fn copy_to(
        &self,
        request: Request<Streaming<pb::CopyToRequest>>,
    ) -> Result<Response<Self::CopyToStream>, Status> {
        let caller = Caller::of(&request);
        stream(copy::to(&self.shared, caller, request.into_inner().boxed()).await)
    }

    async fn copy_from(
        &self,
        request: Request<pb::CopyFromRequest>,
    ) -> Result<Response<Self::CopyFromStream>, Status> {
        let caller = Caller::of(&request);
        stream(copy::from(&self.shared, caller, request.into_inner()).await)
    }

    async fn act_on_instances(
        &self,
        request: Request<pb::ActOnInstancesRequest>,
    ) -> Result<Response<Self::ActOnInstancesStream>, Status> {
        let caller = audit::caller_of(&request);
        stream(act::begin(&self.shared, caller, request.get_ref()).await)
    }

    async fn bundle_node(
        &self,
        request: Request<pb::BundleNodeRequest>,
    ) -> Result<Response<Self::BundleNodeStream>, Status> {
        let caller = Caller::of(&request);
        stream(bundle::begin(&self.shared, caller, request.get_ref()).await)
    }

    async fn stream_usage(
        &self,
        request: Request<pb::StreamUsageRequest>,
    ) -> Result<Response<Self::StreamUsageStream>, Status> {
        let caller = Caller::of(&request);
        stream(usage::begin(&self.shared, caller, request.get_ref()))
    }

    async fn list_channels(
        &self,
        request: Request<pb::ListChannelsRequest>,
    ) -> Result<Response<pb::ListChannelsResponse>, Status> {
        reply(self.list(request.get_ref()).await)
    }

    async fn cut_channel(
        &self,
        request: Request<pb::CutChannelRequest>,
    ) -> Result<Response<pb::CutChannelResponse>, Status> {
        reply(self.cut(request).await)
    }
}
