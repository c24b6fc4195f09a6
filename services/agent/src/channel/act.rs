//! The verb `act`: asks the reconciler, and says what came of it.

use std::time::Duration;

use skerry_model::InstanceName;
use skerry_model::time::from_proto_duration;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::open_request::Body as Up;
use tokio::sync::{mpsc, oneshot};

use crate::hand::{Ask, Done, HandAct, failed};
use crate::runtime::RuntimeError;

/// How long an outcome is waited for where nothing is said of it.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// The same at most.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// Has done what `start` asks for, and says so.
pub(super) async fn serve(
    desk: &mpsc::Sender<Ask>,
    start: &pb::ActStart,
    out: &mpsc::Sender<pb::OpenRequest>,
) -> Result<(), RuntimeError> {
    let (answer, answered) = oneshot::channel();
    let ask = parse(start, answer)?;
    let stops = || failed("AgentStops", "the agent stops: ask again in a moment".to_owned());
    desk.send(ask).await.map_err(|_| stops())?;
    let done = answered.await.map_err(|_| stops())??;
    let done = pb::ActDone { unchanged: done == Done::Unchanged };
    let _ = out.send(pb::OpenRequest { body: Some(Up::Act(done)) }).await;
    Ok(())
}

fn parse(start: &pb::ActStart, answer: oneshot::Sender<crate::hand::Answer>) -> Result<Ask, RuntimeError> {
    let instance =
        InstanceName::parse(&start.instance).map_err(|error| failed("InstanceUnknown", error.to_string()))?;
    let act = match start.act() {
        pb::InstanceAct::Restart => HandAct::Restart,
        pb::InstanceAct::Stop => HandAct::Stop,
        pb::InstanceAct::Start => HandAct::Start,
        pb::InstanceAct::Unspecified => {
            let message = "this agent does not know what is to be done: update it".to_owned();
            return Err(failed("ActUnknown", message));
        }
    };
    let patience = start.wait.as_ref().and_then(from_proto_duration).unwrap_or(PATIENCE);
    Ok(Ask { instance, act, patience: patience.min(PATIENCE_MAX), answer })
}
