//! `CopyTo` and `CopyFrom`: files into and out of an instance. The archive is between user and agent; that it is whole is said by its digest.

use std::sync::Arc;

use futures_util::stream;
use skerry_model::fault::Violations;
use skerry_model::{Code, Fault, InstanceName, NodeRef};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::channel_start::Verb as Start;
use skerry_proto::relay::v1::copy_frame::Body as Frame;
use skerry_proto::relay::v1::copy_from_response::Body as Output;
use skerry_proto::relay::v1::copy_to_request::Body as Input;
use skerry_proto::relay::v1::{open_request, open_response};

use crate::Shared;
use crate::caller::Caller;
use crate::duplex::{self, Answers, Asked, Verb};
use crate::exec::{Requests, next};
use crate::instances::{self, Which};
use crate::words::quoted;

/// Longest path.
const PATH_BYTES_MAX: usize = 4096;
/// Longest piece of an archive.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Copies files into the instance that the first request names.
pub(crate) async fn to(
    shared: &Arc<Shared>,
    caller: Caller,
    mut requests: Requests<pb::CopyToRequest>,
) -> Result<Answers<To>, Fault> {
    let Some(Input::Start(start)) = next(&mut requests).await?.and_then(|request| request.body) else {
        return Err(Fault::invalid_field("start", "the first request says where to"));
    };
    let (instance, node, start) = find(shared, start).await?;
    let asked = asked(caller, "skerry.relay.v1.RelayService/CopyTo", &instance, &node, &start);
    let verb = To { instance: instance.to_string(), node: node.to_string(), copied: None };
    duplex::open(shared, asked, verb, Start::CopyTo(start), None, requests).await
}

/// Copies files out of the instance that the request names.
pub(crate) async fn from(
    shared: &Arc<Shared>,
    caller: Caller,
    request: pb::CopyFromRequest,
) -> Result<Answers<From>, Fault> {
    let start = request.start.ok_or_else(|| Fault::invalid_field("start", "say where from"))?;
    let (instance, node, start) = find(shared, start).await?;
    let asked = asked(caller, "skerry.relay.v1.RelayService/CopyFrom", &instance, &node, &start);
    let started = pb::CopyStarted { instance: instance.to_string(), node: node.to_string() };
    let started = pb::CopyFromResponse { body: Some(Output::Started(started)) };
    // The user says nothing more, and ends nothing by that.
    let nothing = stream::pending();
    duplex::open(shared, asked, From::default(), Start::CopyFrom(start), Some(started), nothing).await
}

async fn find(
    shared: &Shared,
    start: pb::CopyStart,
) -> Result<(InstanceName, NodeRef, pb::CopyStart), Fault> {
    let mut wrong = Violations::new();
    let pb::CopyStart { app, service, node, cluster, instance, path, bare: _ } = &start;
    let which = Which::parse(&mut wrong, "start.", [app, service, node, cluster, instance]);
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.contains('\0') {
        wrong.add("start.path", format!("1 to {PATH_BYTES_MAX} bytes, and no NUL"));
    }
    let which = wrong.finish(which)?;
    let (instance, node) = instances::find_one(&shared.reach, &which).await?;
    let start = pb::CopyStart { instance: instance.to_string(), ..start };
    Ok((instance, node, start))
}

fn asked(
    caller: Caller,
    method: &'static str,
    instance: &InstanceName,
    node: &NodeRef,
    start: &pb::CopyStart,
) -> Asked {
    Asked {
        caller,
        method,
        resource: format!("{}/instances/{instance}", node.project.parent()),
        detail: format!(
            "path: {}{}",
            quoted(&start.path),
            if start.bare { ", only what is there" } else { "" }
        ),
        node: node.clone(),
    }
}

/// Whether an archive was whole.
fn whole(digest: Option<&pb::CopyDigest>) -> Result<String, Fault> {
    let lost =
        || Fault::new(Code::Unavailable, "NOT_WHOLE", "the node ended and did not say that all is copied");
    digest.map(|digest| format!("archive bytes: {}", digest.bytes)).ok_or_else(lost)
}

/// Into an instance.
#[derive(Default)]
pub(crate) struct To {
    instance: String,
    node: String,
    copied: Option<pb::CopyDigest>,
}

impl Verb for To {
    type Request = pb::CopyToRequest;
    type Answer = pb::CopyToResponse;

    fn name(&self) -> &'static str {
        "copy"
    }

    fn to_agent(&mut self, request: Self::Request) -> Result<Option<open_response::Body>, Fault> {
        let body = match request.body {
            Some(Input::Start(_)) => {
                return Err(Fault::invalid_field("start", "only the first request is one"));
            }
            Some(Input::Data(piece)) if piece.len() > PIECE_BYTES_MAX => {
                let message = format!("at most {PIECE_BYTES_MAX} bytes in a request");
                return Err(Fault::invalid_field("data", message));
            }
            Some(Input::Data(piece)) => Frame::Data(piece),
            Some(Input::End(digest)) => Frame::End(digest),
            None => return Ok(None),
        };
        Ok(Some(open_response::Body::Copy(pb::CopyFrame { body: Some(body) })))
    }

    fn to_user(&mut self, frame: open_request::Body) -> Option<Self::Answer> {
        match frame {
            open_request::Body::Copy(pb::CopyFrame { body: Some(Frame::End(digest)) }) => {
                self.copied = Some(digest.clone());
                let (instance, node) = (self.instance.clone(), self.node.clone());
                Some(pb::CopyToResponse { instance, node, copied: Some(digest) })
            }
            _ => None,
        }
    }

    fn finish(&mut self) -> Result<String, Fault> {
        whole(self.copied.as_ref())
    }
}

/// Out of an instance.
#[derive(Default)]
pub(crate) struct From {
    sent: Option<pb::CopyDigest>,
}

impl Verb for From {
    type Request = ();
    type Answer = pb::CopyFromResponse;

    fn name(&self) -> &'static str {
        "copy"
    }

    fn to_agent(&mut self, (): ()) -> Result<Option<open_response::Body>, Fault> {
        Ok(None)
    }

    fn to_user(&mut self, frame: open_request::Body) -> Option<Self::Answer> {
        let open_request::Body::Copy(frame) = frame else { return None };
        let body = match frame.body? {
            Frame::Data(piece) => Output::Data(piece),
            Frame::End(digest) => {
                self.sent = Some(digest.clone());
                Output::End(digest)
            }
        };
        Some(pb::CopyFromResponse { body: Some(body) })
    }

    fn finish(&mut self) -> Result<String, Fault> {
        whole(self.sent.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_digest_is_not_whole() {
        let digest = pb::CopyDigest { bytes: 5, blake3: bytes::Bytes::new() };
        let frame = |body| open_request::Body::Copy(pb::CopyFrame { body: Some(body) });
        let (mut to, mut from) = (To::default(), From::default());
        assert!(from.to_user(frame(Frame::Data(bytes::Bytes::new()))).is_some());
        assert_eq!(to.finish().unwrap_err().reason, "NOT_WHOLE");
        assert_eq!(from.finish().unwrap_err().reason, "NOT_WHOLE");
        assert!(to.to_user(frame(Frame::End(digest.clone()))).is_some());
        assert!(from.to_user(frame(Frame::End(digest))).is_some());
        assert_eq!(to.finish().unwrap(), "archive bytes: 5");
        assert_eq!(from.finish().unwrap(), "archive bytes: 5");
    }
}
