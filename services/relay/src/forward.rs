//! `PortForward`: connections to ports of an instance. What flows on them is between user and agent.

use std::sync::Arc;

use skerry_model::Fault;
use skerry_model::fault::Violations;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_start::Verb as Start;
use skerry_proto::relay::v1::forward_frame::Body as Frame;
use skerry_proto::relay::v1::port_forward_request::Body as Input;
use skerry_proto::relay::v1::port_forward_response::Body as Output;
use skerry_proto::relay::v1::{open_request, open_response};

use crate::Shared;
use crate::caller::Caller;
use crate::duplex::{self, Answers, Asked, Verb};
use crate::exec::{Requests, next};
use crate::instances::{self, Which};

/// Most ports of a call.
const PORTS_MAX: usize = 16;
/// Longest piece of a connection.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// The verb.
#[derive(Default)]
pub(crate) struct Forward {
    /// Connections that were asked for.
    connections: u64,
}

/// Opens the channel that the first request asks for.
pub(crate) async fn begin(
    shared: &Arc<Shared>,
    caller: Caller,
    mut requests: Requests<pb::PortForwardRequest>,
) -> Result<Answers<Forward>, Fault> {
    let Some(Input::Start(start)) = next(&mut requests).await?.and_then(|request| request.body) else {
        return Err(Fault::invalid_field("start", "the first request says to which instance"));
    };
    let mut wrong = Violations::new();
    let pb::PortForwardStart { app, service, node, cluster, instance, ports } = &start;
    let which = Which::parse(&mut wrong, "start.", [app, service, node, cluster, instance]);
    if ports.is_empty() || ports.len() > PORTS_MAX {
        wrong.add("start.ports", format!("1 to {PORTS_MAX} ports"));
    }
    for (index, port) in ports.iter().enumerate().filter(|(_, port)| !(1..=65535).contains(*port)) {
        wrong.add(format!("start.ports[{index}]"), format!("{port} is no port: 1 to 65535"));
    }
    let which = wrong.finish(which)?;
    let (instance, node) = instances::find_one(&shared.reach, &which).await?;
    let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let asked = Asked {
        caller,
        method: "skerry.relay.v1.RelayService/PortForward",
        resource: format!("{}/instances/{instance}", node.project.parent()),
        detail: format!("ports: {ports}"),
        node: node.clone(),
    };
    let started = pb::PortForwardStarted { instance: instance.to_string(), node: node.to_string() };
    let started = pb::PortForwardResponse { body: Some(Output::Started(started)) };
    let start = Start::Forward(pb::PortForwardStart { instance: instance.to_string(), ..start });
    duplex::open(shared, asked, Forward::default(), start, Some(started), requests).await
}

impl Verb for Forward {
    type Request = pb::PortForwardRequest;
    type Answer = pb::PortForwardResponse;

    fn name(&self) -> &'static str {
        "port-forward"
    }

    fn to_agent(&mut self, request: Self::Request) -> Result<Option<open_response::Body>, Fault> {
        let frame = match request.body {
            Some(Input::Frame(frame)) => frame,
            Some(Input::Start(_)) => {
                return Err(Fault::invalid_field("start", "only the first request is one"));
            }
            None => return Ok(None),
        };
        match &frame.body {
            Some(Frame::Data(piece)) if piece.len() > PIECE_BYTES_MAX => {
                Err(Fault::invalid_field("frame.data", format!("at most {PIECE_BYTES_MAX} bytes in a frame")))
            }
            Some(Frame::Connect(_)) => {
                self.connections += 1;
                Ok(Some(open_response::Body::Forward(frame)))
            }
            _ => Ok(Some(open_response::Body::Forward(frame))),
        }
    }

    fn to_user(&mut self, frame: open_request::Body) -> Option<Self::Answer> {
        let open_request::Body::Forward(frame) = frame else { return None };
        Some(pb::PortForwardResponse { body: Some(Output::Frame(frame)) })
    }

    fn finish(&mut self) -> Result<String, Fault> {
        Ok(format!("connections: {}", self.connections))
    }
}
