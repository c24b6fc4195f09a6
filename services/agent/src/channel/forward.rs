//! The verb `port-forward`: connections to ports of an instance. Each goes to the copy that runs when it is opened.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures_util::stream;
use skerry_forward::{CONNECTIONS_MAX, Mux, Outside, drive, reset};
use skerry_model::InstanceName;
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::open_request::Body as Up;
use skerry_proto::relay::v1::open_response::Body as Down;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{logs, netns};
use crate::lock::lock;
use crate::runtime::{Reach, Runtime, RuntimeError};

/// Carries connections until the relay ends its half.
pub(super) async fn serve(
    runtimes: &Arc<[Arc<dyn Runtime>]>,
    start: &pb::PortForwardStart,
    out: &mpsc::Sender<pb::OpenRequest>,
    frames: &mut Streaming<pb::OpenResponse>,
) -> Result<(), RuntimeError> {
    let name = InstanceName::parse(&start.instance).map_err(|error| RuntimeError {
        reason: "InstanceUnknown",
        message: error.to_string(),
        transient: false,
    })?;
    let instance = Instance { runtimes: Arc::clone(runtimes), name, reach: Mutex::new(None) };
    instance.look().await?;
    let ports = start.ports.iter().filter_map(|port| u16::try_from(*port).ok());
    let mux = Mux::accepting(ports, CONNECTIONS_MAX);
    let frames = pin!(stream::unfold(frames, |frames| async {
        loop {
            match frames.message().await {
                Ok(Some(pb::OpenResponse { body: Some(Down::Forward(frame)) })) => {
                    return Some((frame, frames));
                }
                Ok(Some(pb::OpenResponse { body: Some(Down::End(_)) }) | None) | Err(_) => return None,
                // Of a newer relay.
                Ok(Some(_)) => {}
            }
        }
    }));
    let wrap = |frame| pb::OpenRequest { body: Some(Up::Forward(frame)) };
    drive(mux, frames, out, wrap, &mut Ports(Arc::new(instance))).await;
    Ok(())
}

/// The instance that connections go to.
struct Instance {
    runtimes: Arc<[Arc<dyn Runtime>]>,
    name: InstanceName,
    /// Where its ports were when it was looked last.
    reach: Mutex<Option<Reach>>,
}

impl Instance {
    /// Looks where its ports are.
    async fn look(&self) -> Result<Reach, RuntimeError> {
        let (runtime, copy) = logs::find(&self.runtimes, &self.name).await?;
        let reach = runtime.reach(&copy).await?;
        *lock(&self.reach) = Some(reach.clone());
        Ok(reach)
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, pb::ForwardReset> {
        let known = lock(&self.reach).clone();
        if let Some(known) = &known
            && let Ok(stream) = netns::connect(known, port, false).await
        {
            return Ok(stream);
        }
        // It may be another copy by now.
        let reach = self.look().await.map_err(|error| reset(error.reason, &error.message))?;
        let connected = netns::connect(&reach, port, true).await;
        connected.map_err(|error| self.why(port, &error))
    }

    fn why(&self, port: u16, error: &io::Error) -> pb::ForwardReset {
        let name = &self.name;
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                let message = format!("nothing listens on port {port} of {name}");
                reset("ConnectionRefused", &message)
            }
            io::ErrorKind::TimedOut => {
                reset("TimedOut", &format!("port {port} of {name} does not take connections"))
            }
            _ => reset("ConnectionFailed", &format!("connecting to port {port} of {name}: {error}")),
        }
    }
}

/// Its ports, as connections are dialled.
struct Ports(Arc<Instance>);

impl Outside for Ports {
    fn dial(&self, port: u16) -> impl Future<Output = Result<TcpStream, pb::ForwardReset>> + Send + 'static {
        let instance = Arc::clone(&self.0);
        async move { instance.connect(port).await }
    }
}
