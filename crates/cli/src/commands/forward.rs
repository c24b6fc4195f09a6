//! `port-forward`: connections to this machine, carried to ports of an instance; over lost links by a new channel.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream;
use skerry_forward::{CONNECTIONS_MAX, Mux, Outside, drive, reset};
use skerry_model::{ClusterName, InstanceName, ServiceName};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::port_forward_request::Body as Up;
use skerry_proto::relay::v1::port_forward_response::Body as Down;
use skerry_rpc::fault_of;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::rollout::one_app;
use crate::args::{PortForwardArgs, Ports};
use crate::client::{CallError, Client, Service, jittered, relay};
use crate::error::{CliError, is_transport_failure, root_cause};
use crate::patience::Lost;
use crate::print::{Printer, note};
use crate::target::{Target, Type};

/// Most ports of a call.
const PORTS_MAX: usize = 16;
/// Frames that gRPC has not taken yet.
const FRAMES_MAX: usize = 2;
/// The relay's word for a channel on which nothing moved for hours.
const FORGOTTEN: &str = "CHANNEL_IDLE";
/// After a connection that could not be taken: for want of files, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn run(
    client: &Client,
    args: &PortForwardArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let (start, ports) = request_of(client, args)?;
    let mut local = Local { listeners: Vec::new() };
    for ports in ports {
        local.listeners.push((listen(args, ports).await?, ports.remote));
    }
    let mut shown = None;
    let (mut lost, mut tries) = (Lost::default(), 0);
    loop {
        let why = match open(client, &start).await {
            Ok((up, answers, place)) => {
                lost.over();
                tries = 0;
                if shown.as_ref() != Some(&place) {
                    show(&local, &place, printer)?;
                    shown = Some(place);
                }
                let status = carry(&mut local, &up, answers).await;
                if fault_of(&status).metadata.get("reason").is_some_and(|reason| reason == FORGOTTEN) {
                    return Err(CliError::Failed(format!("the channel was ended: {}", status.message())));
                }
                if !passes(&status) {
                    return Err(CliError::of_status(&status, client.relay_address()));
                }
                if is_transport_failure(&status) {
                    format!("the link was interrupted ({})", root_cause(&status))
                } else {
                    status.message().to_owned()
                }
            }
            // Whoever begins wants to know at once.
            Err(error) if shown.is_none() => return Err(error.into()),
            Err(error) if error.is_unreachable() => CliError::from(error).summary(),
            Err(CallError::Status(status, _)) if passes(&status) => status.message().to_owned(),
            Err(error) => return Err(error.into()),
        };
        tries += 1;
        lost.say(&why);
        tokio::time::sleep(jittered(tries)).await;
    }
}

/// Whether it is worth another try: an agent, a server or an instance that is away, as in a restart.
fn passes(status: &Status) -> bool {
    is_transport_failure(status)
        || matches!(status.code(), Code::Unavailable | Code::FailedPrecondition | Code::DeadlineExceeded)
}

type Opened =
    (mpsc::Sender<pb::PortForwardRequest>, Streaming<pb::PortForwardResponse>, pb::PortForwardStarted);

/// Opens a channel: it is open once the relay says to which instance.
async fn open(client: &Client, start: &pb::PortForwardStart) -> Result<Opened, CallError> {
    let kept = Cell::new(None);
    let answers = client.call(Service::Relay, |channel, _| {
        let (up, requests) = mpsc::channel(FRAMES_MAX);
        let first = pb::PortForwardRequest { body: Some(Up::Start(start.clone())) };
        // There is room: nothing was sent before.
        let _ = up.try_send(first);
        kept.set(Some(up));
        async move { relay(channel).port_forward(ReceiverStream::new(requests)).await }
    });
    let mut answers = answers.await?;
    let failed = |status| CallError::Status(Box::new(status), client.relay_address().to_owned());
    let first = answers.message().await.map_err(failed)?.and_then(|answer| answer.body);
    match (first, kept.take()) {
        (Some(Down::Started(started)), Some(up)) => Ok((up, answers, started)),
        _ => Err(failed(Status::unavailable("the relay did not say to which instance"))),
    }
}

/// Carries connections until the channel ends: how it did.
async fn carry(
    local: &mut Local,
    up: &mpsc::Sender<pb::PortForwardRequest>,
    answers: Streaming<pb::PortForwardResponse>,
) -> Status {
    let ended = Cell::new(None);
    let frames = pin!(stream::unfold(answers, |mut answers| async {
        loop {
            match answers.message().await {
                Ok(Some(pb::PortForwardResponse { body: Some(Down::Frame(frame)) })) => {
                    return Some((frame, answers));
                }
                // Of a newer relay.
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => {
                    ended.set(Some(status));
                    return None;
                }
            }
        }
    }));
    let wrap = |frame| pb::PortForwardRequest { body: Some(Up::Frame(frame)) };
    drive(Mux::connecting(CONNECTIONS_MAX), frames, up, wrap, local).await;
    ended.take().unwrap_or_else(|| Status::unavailable("the relay has ended the channel"))
}

fn show(local: &Local, place: &pb::PortForwardStarted, printer: &mut Printer) -> Result<(), CliError> {
    let node = place.node.rsplit('/').next().unwrap_or_default();
    for (listener, remote) in &local.listeners {
        let address = address_of(listener)?;
        printer.line(&format!("Forwarding {address} -> {}:{remote} on node {node}", place.instance))?;
    }
    Ok(())
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, CliError> {
    listener.local_addr().map_err(|error| CliError::Failed(format!("a listener has no address: {error}")))
}

async fn listen(args: &PortForwardArgs, ports: Ports) -> Result<TcpListener, CliError> {
    let address = SocketAddr::from((args.address, ports.local));
    TcpListener::bind(address).await.map_err(|error| {
        let remote = ports.remote;
        CliError::Failed(format!(
            "cannot listen on {address} for port {remote}: {error}; :{remote} takes any free port"
        ))
    })
}

/// The ports of this machine, and the instance's ports that they are for.
struct Local {
    listeners: Vec<(TcpListener, u16)>,
}

impl Outside for Local {
    async fn arrived(&mut self) -> (TcpStream, u16) {
        loop {
            let accepted = poll_fn(|context| {
                for (listener, remote) in &self.listeners {
                    if let Poll::Ready(accepted) = listener.poll_accept(context) {
                        return Poll::Ready((accepted, *remote));
                    }
                }
                Poll::Pending
            });
            match accepted.await {
                (Ok((stream, _)), remote) => return (stream, remote),
                (Err(error), remote) => {
                    note(&format!("a connection for port {remote} could not be taken: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn dial(&self, _port: u16) -> impl Future<Output = Result<TcpStream, pb::ForwardReset>> + Send + 'static {
        // Never asked: this end connects.
        std::future::ready(Err(reset("NotHere", "nothing is connected to here")))
    }

    fn was_reset(&mut self, port: u16, why: &pb::ForwardReset) {
        note(&format!("a connection to port {port} failed: {} ({})", why.message, why.reason));
    }
}

fn request_of(
    client: &Client,
    args: &PortForwardArgs,
) -> Result<(pb::PortForwardStart, Vec<Ports>), CliError> {
    let target = one_app(std::slice::from_ref(&args.app))?;
    let usage = |error: skerry_model::InvalidName| CliError::Usage(error.to_string());
    // `app/hello/web 80` as `app/hello web 80`: instances are called so.
    let (app, within) = match target.name.split_once('/') {
        Some((app, service)) if !target.name.starts_with("projects/") => {
            (app.to_owned(), Some(service.to_owned()))
        }
        _ => (target.name.clone(), None),
    };
    let (first, words) = match args.words.split_first() {
        Some((first, rest)) if !Ports::is_meant(first) => (Some(first.clone()), rest),
        _ => (None, &args.words[..]),
    };
    let service = first.or(within).unwrap_or_default();
    if !service.is_empty() {
        ServiceName::parse(&service).map_err(usage)?;
    }
    let cluster = args.cluster.clone().unwrap_or_default();
    if !cluster.is_empty() {
        ClusterName::parse(&cluster).map_err(usage)?;
    }
    let instance = args.instance.clone().unwrap_or_default();
    let instance = instance.strip_prefix("instance/").unwrap_or(&instance).to_owned();
    if !instance.is_empty() {
        InstanceName::parse(&instance).map_err(usage)?;
    }
    let node = match &args.node {
        Some(node) => Target::node(node).full_name(client.project())?,
        None => String::new(),
    };
    let ports = ports_of(words)?;
    let mut remote: Vec<u32> = ports.iter().map(|ports| u32::from(ports.remote)).collect();
    remote.sort_unstable();
    remote.dedup();
    let app = Target { kind: Type::App, name: app }.full_name(client.project())?;
    Ok((pb::PortForwardStart { app, service, node, cluster, instance, ports: remote }, ports))
}

fn ports_of(words: &[String]) -> Result<Vec<Ports>, CliError> {
    let ports: Result<Vec<Ports>, String> = words.iter().map(|word| Ports::parse(word)).collect();
    let ports = ports.map_err(CliError::Usage)?;
    if ports.is_empty() {
        return Err(CliError::Usage("name a port of the instance, as 8080:80".to_owned()));
    }
    if ports.len() > PORTS_MAX {
        return Err(CliError::Usage(format!("{} ports at once: at most {PORTS_MAX}", ports.len())));
    }
    let mut taken = BTreeMap::new();
    for ports in ports.iter().filter(|ports| ports.local != 0) {
        if let Some(other) = taken.insert(ports.local, ports.remote) {
            let Ports { local, remote } = ports;
            return Err(CliError::Usage(format!(
                "{local}:{other} and {local}:{remote} have the same port of this machine"
            )));
        }
    }
    Ok(ports)
}
