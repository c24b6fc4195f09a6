//! `BundleNode`: what the agent of a node knows, for who looks for a fault. What is in it is the agent's to say; here it passes.

use std::sync::Arc;

use futures_util::stream;
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::bundle_node_response::Body as Part;
use skerry_proto::relay::v1::channel_start::Verb as Start;
use skerry_proto::relay::v1::{open_request, open_response};

use crate::Shared;
use crate::caller::Caller;
use crate::duplex::{self, Answers, Asked, Verb};

/// Asks the agent that the request names.
pub(crate) async fn begin(
    shared: &Arc<Shared>,
    caller: Caller,
    request: &pb::BundleNodeRequest,
) -> Result<Answers<Bundle>, Fault> {
    let node = NodeRef::parse(&request.node).map_err(|error| Fault::invalid_field("node", error))?;
    let asked = Asked {
        caller,
        method: "skerry.relay.v1.RelayService/BundleNode",
        resource: node.to_string(),
        detail: "what the agent knows, without secrets".to_owned(),
        node: node.clone(),
    };
    let verb = Bundle { node, files: None };
    // The user says nothing more, and ends nothing by that.
    let nothing = stream::pending();
    duplex::open(shared, asked, verb, Start::Bundle(pb::BundleStart {}), None, nothing).await
}

/// The verb.
pub(crate) struct Bundle {
    node: NodeRef,
    files: Option<u32>,
}

impl Verb for Bundle {
    type Request = ();
    type Answer = pb::BundleNodeResponse;

    fn name(&self) -> &'static str {
        "bundle"
    }

    fn to_agent(&mut self, (): ()) -> Result<Option<open_response::Body>, Fault> {
        Ok(None)
    }

    fn to_user(&mut self, frame: open_request::Body) -> Option<pb::BundleNodeResponse> {
        let open_request::Body::Bundle(part) = frame else { return None };
        if let Some(Part::End(end)) = &part.body {
            self.files = Some(end.files);
        }
        Some(part)
    }

    fn finish(&mut self) -> Result<String, Fault> {
        let lost = || {
            let message = format!("{} ended and did not say that all is told", self.node);
            Fault::new(Code::Unavailable, "NOT_WHOLE", message)
        };
        self.files.map(|files| format!("files: {files}")).ok_or_else(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_whole() {
        let mut verb = Bundle { node: NodeRef::parse("projects/p/nodes/n").unwrap(), files: None };
        let part = |body| open_request::Body::Bundle(pb::BundleNodeResponse { body: Some(body) });
        assert!(verb.to_user(part(Part::Data("x".into()))).is_some());
        assert_eq!(verb.finish().unwrap_err().reason, "NOT_WHOLE");
        assert!(verb.to_user(part(Part::End(pb::BundleEnd { files: 3 }))).is_some());
        assert_eq!(verb.finish().unwrap(), "files: 3");
        assert!(verb.to_user(open_request::Body::End(pb::ChannelEnd::default())).is_none());
    }
}
