//! `logs`: what the instances of an app wrote, and write; through lost connections from where it was.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use skerry_model::{ClusterName, InstanceName, ServiceName};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::log_notice::Kind;
use tonic::{Request, Status, Streaming};

use super::audit::{parse_time, wrong_time};
use super::rollout::one_app;
use crate::args::LogsArgs;
use crate::client::{CallError, Client, Service, jittered, relay};
use crate::error::{CliError, is_transport_failure, root_cause};
use crate::item::{Item, Query};
use crate::patience::Lost;
use crate::print::{Printer, note, pass_to_stderr};
use crate::render::logs::{Painter, To};
use crate::target::{Target, Type, parse_all};

/// How often a call that does not follow is made again where the connection was lost.
const TRIES_MAX: u32 = 5;

/// How a stream ended.
enum End {
    /// All is told.
    Done,
    /// It goes on from where it was.
    Again(String),
}

pub(crate) async fn run(client: &Client, args: &LogsArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut request = request_of(client, args, SystemTime::now())?;
    let mut painter = Painter::new(printer.colour(), args.timestamps, is_many(client, &request).await);
    let mut positions: BTreeMap<(String, String), Bytes> = BTreeMap::new();
    let mut failed = BTreeMap::new();
    let (mut lost, mut tries, mut answered) = (Lost::default(), 0, false);
    loop {
        let called = client.call(Service::Relay, |channel, _| {
            let request = request.clone();
            // Without a deadline: it lasts as long as it is read.
            async move { relay(channel).logs(Request::new(request)).await }
        });
        let end = match called.await {
            Ok(answers) => {
                answered = true;
                lost.over();
                let before = positions.clone();
                let end = show(answers, &mut painter, &mut positions, &mut failed, printer).await;
                if positions != before {
                    tries = 0;
                }
                end.map_err(|shown| match shown {
                    Shown::Refused(status) => CliError::of_status(&status, client.relay_address()),
                    Shown::Unread(error) => error,
                })?
            }
            Err(error) if answered && error.is_unreachable() => End::Again(CliError::from(error).summary()),
            Err(CallError::Status(status, address)) => return Err(CliError::of_status(&status, &address)),
            Err(error) => return Err(error.into()),
        };
        let why = match end {
            End::Done => break,
            End::Again(why) => why,
        };
        tries += 1;
        if !args.follow && tries > TRIES_MAX {
            return Err(CliError::Failed(format!("not all of the log could be shown: {why}")));
        }
        lost.say(&why);
        tokio::time::sleep(jittered(tries)).await;
        request.positions = positions
            .iter()
            .map(|((instance, node), position)| pb::LogPosition {
                instance: instance.clone(),
                node: node.clone(),
                position: position.clone(),
            })
            .collect();
    }
    match failed.len() {
        0 => Ok(()),
        1 => Err(CliError::Failed("the log of one instance could not be shown".to_owned())),
        count => Err(CliError::Failed(format!("the logs of {count} instances could not be shown"))),
    }
}

/// Shows one stream to its end.
async fn show(
    mut answers: Streaming<pb::LogsResponse>,
    painter: &mut Painter,
    positions: &mut BTreeMap<(String, String), Bytes>,
    failed: &mut BTreeMap<String, String>,
    printer: &mut Printer,
) -> Result<End, Shown> {
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(End::Done),
            Err(status) if is_transport_failure(&status) => {
                return Ok(End::Again(format!("the stream was interrupted ({})", root_cause(&status))));
            }
            Err(status) => return Err(Shown::Refused(Box::new(status))),
        };
        if let Some(notice) = &answer.notice {
            if notice.kind() == Kind::Failed {
                failed.insert(answer.instance.clone(), notice.message.clone());
            }
            write(painter.pause(), printer)?;
            let about =
                if answer.instance.is_empty() { String::new() } else { format!("{}: ", answer.instance) };
            note(&format!("{about}{}", notice.message));
        }
        if !answer.position.is_empty() {
            positions.insert((answer.instance.clone(), answer.node.clone()), answer.position.clone());
        }
        write(painter.paint(&answer), printer)?;
    }
}

/// Why showing ended early.
enum Shown {
    Refused(Box<Status>),
    Unread(CliError),
}

impl From<CliError> for Shown {
    fn from(error: CliError) -> Self {
        Self::Unread(error)
    }
}

fn write(pieces: Vec<(To, Vec<u8>)>, printer: &mut Printer) -> Result<(), CliError> {
    for (to, bytes) in pieces {
        match to {
            To::Out => printer.bytes(&bytes)?,
            To::Err => pass_to_stderr(&bytes),
        }
    }
    Ok(())
}

fn request_of(client: &Client, args: &LogsArgs, now: SystemTime) -> Result<pb::LogsRequest, CliError> {
    if let Some(node) = node_of(&args.app)? {
        return of_agent(client, args, &node, now);
    }
    let target = one_app(std::slice::from_ref(&args.app))?;
    let usage = |error: skerry_model::InvalidName| CliError::Usage(error.to_string());
    // `logs app/hello/web` as `logs app/hello web`: instances are called so.
    let (app, within) = match target.name.split_once('/') {
        Some((app, service)) if !target.name.starts_with("projects/") => {
            (app.to_owned(), Some(service.to_owned()))
        }
        _ => (target.name.clone(), None),
    };
    let service = args.service.clone().or(within).unwrap_or_default();
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
    Ok(pb::LogsRequest {
        app: Target { kind: Type::App, name: app }.full_name(client.project())?,
        service,
        node,
        cluster,
        instance,
        follow: args.follow,
        since: time_of("--since", args.since.as_ref(), now)?,
        until: time_of("--until", args.until.as_ref(), now)?,
        tail: args.tail,
        previous: args.previous,
        grep: args.grep.clone().unwrap_or_default(),
        positions: Vec::new(),
    })
}

/// The node whose agent is meant, if it is one.
fn node_of(word: &str) -> Result<Option<Target>, CliError> {
    let targets = parse_all(std::slice::from_ref(&word.to_owned()))?;
    Ok(targets.into_iter().find(|target| target.kind == Type::Node))
}

fn of_agent(
    client: &Client,
    args: &LogsArgs,
    node: &Target,
    now: SystemTime,
) -> Result<pb::LogsRequest, CliError> {
    let narrowed = [
        ("SERVICE", args.service.is_some()),
        ("--node", args.node.is_some()),
        ("--cluster", args.cluster.is_some()),
        ("--instance", args.instance.is_some()),
        ("--previous", args.previous),
    ];
    if let Some((word, _)) = narrowed.iter().find(|(_, is_there)| *is_there) {
        return Err(CliError::Usage(format!(
            "{word} is for apps: {node} is a node, of whose agent there is one log"
        )));
    }
    Ok(pb::LogsRequest {
        app: node.full_name(client.project())?,
        follow: args.follow,
        since: time_of("--since", args.since.as_ref(), now)?,
        until: time_of("--until", args.until.as_ref(), now)?,
        tail: args.tail,
        grep: args.grep.clone().unwrap_or_default(),
        ..pb::LogsRequest::default()
    })
}

fn time_of(
    flag: &str,
    text: Option<&String>,
    now: SystemTime,
) -> Result<Option<prost_types::Timestamp>, CliError> {
    text.map(|text| parse_time(text, now).ok_or_else(|| wrong_time(flag, text))).transpose()
}

/// Whether there are several instances, whose lines are to be told apart. Where that cannot be asked, they are.
pub(super) async fn is_many(client: &Client, request: &pb::LogsRequest) -> bool {
    if !request.instance.is_empty() || request.app.contains("/nodes/") {
        return false;
    }
    let app = request.app.rsplit('/').next().unwrap_or_default().to_owned();
    let node = request.node.rsplit('/').next().filter(|node| !node.is_empty()).map(str::to_owned);
    let query = Query { app: Some(app), node, ..Query::all(Type::Instance) };
    let listing = tokio::time::timeout(Duration::from_secs(5), client.list(&query)).await;
    let Ok(Ok((items, _))) = listing else { return true };
    let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    let meant = items.iter().filter(|item| {
        let Item::Instance(status) = item else { return false };
        let mut parts = status.instance.split('/').skip(1);
        is(&request.service, parts.next().unwrap_or_default())
            && is(&request.cluster, parts.next().unwrap_or_default())
    });
    meant.count() > 1
}
