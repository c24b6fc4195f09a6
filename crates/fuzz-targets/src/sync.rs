//! Frames of the stream into both machines, each driven as its driver does, and the state that travels in them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use skerry_model::AppSpec;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_proto::scheduler::v1::ConfigSpec;
use skerry_proto::store::v1 as stored;
use skerry_sync::desired::{self, ResourceName};
use skerry_sync::{
    AgentConfig, AgentEffect, AgentEvent, AgentIdentity, AgentMachine, Assignment, Desired, Ending,
    GatewaySession, MonoTime, Now, Opened, Roots, SessionConfig, SessionEffect, SessionEvent, Version,
    WallTime, limits, merge,
};

use crate::steps;

const NODE: &str = "projects/default/nodes/n1";
/// Most effects that one event may lead to, over all that follow from it.
const EFFECTS_MAX: usize = 4096;

/// Time goes on by what a step's low bits say; the others say what goes wrong.
fn wait(how: u8) -> Duration {
    [0, 1, 200, 1_000, 15_000, 45_000, 60_000, 3_600_000].map(Duration::from_millis)[usize::from(how & 7)]
}

fn now(since: Duration) -> Now {
    Now { mono: MonoTime::from_origin(since), wall: WallTime::from_epoch(since) }
}

/// What a gateway, or who stands in for one, may send an agent. Only what is on disk is acknowledged, and only that is applied.
pub fn agent_frames(input: &[u8]) {
    let mut machine = AgentMachine::new(AgentConfig {
        node: NODE.to_owned(),
        node_uid: String::new(),
        boot_id: "boot".to_owned(),
        agent_version: "1".to_owned(),
        features: BTreeSet::new(),
        identity: Some(identity()),
        seed: 1,
    });
    let mut since = Duration::from_secs(1);
    let mut disk = Arc::new(Desired::default());
    let mut events = VecDeque::from([AgentEvent::Start { held: Arc::clone(&disk) }, AgentEvent::Timer]);
    let mut steps = steps(input);
    loop {
        let mut disk_fails = false;
        if events.is_empty() {
            let Some((how, bytes)) = steps.next() else { return };
            since += wait(how);
            disk_fails = how & 0x08 != 0;
            if how & 0x10 != 0 {
                events.push_back(AgentEvent::Disconnected { why: "cut".to_owned(), retry_after: None });
            }
            if how & 0x20 != 0 {
                events.push_back(AgentEvent::Timer);
            }
            if let Ok(frame) = pb::SyncResponse::decode(bytes) {
                events.push_back(AgentEvent::Frame(frame));
            }
        }
        let mut effects = 0;
        while let Some(event) = events.pop_front() {
            for effect in machine.on(event, now(since)) {
                effects += 1;
                assert!(effects < EFFECTS_MAX, "one frame never keeps an agent busy for ever");
                match effect {
                    AgentEffect::Dial => events.push_back(AgentEvent::Connected),
                    AgentEffect::Persist { token, desired } => {
                        let result = if disk_fails { Err("full".to_owned()) } else { Ok(()) };
                        disk_fails = false;
                        if result.is_ok() {
                            disk = desired;
                        }
                        events.push_back(AgentEvent::Persisted { token, result });
                    }
                    AgentEffect::Apply { desired } => {
                        assert_eq!(desired, disk, "only what is on disk is run");
                    }
                    AgentEffect::Send(pb::SyncRequest { body: Some(Up::Ack(ack)), .. })
                        if ack.refused.is_empty() =>
                    {
                        assert_eq!(
                            ack.version.map(|version| Version::new(version.store_term, version.revision)),
                            disk.version
                        );
                    }
                    AgentEffect::TakeIdentity { .. } => {
                        let result = if disk_fails { Err("full".to_owned()) } else { Ok(identity()) };
                        events.push_back(AgentEvent::IdentityTaken { result });
                    }
                    AgentEffect::OpenChannel(offer) => {
                        let answer = pb::ChannelAnswer { channel: offer.channel, ..Default::default() };
                        events.push_back(AgentEvent::ChannelAnswered(answer));
                    }
                    AgentEffect::Send(_)
                    | AgentEffect::Hangup { .. }
                    | AgentEffect::Told(_)
                    | AgentEffect::GpuFeedback(_) => {}
                }
            }
        }
        for (name, resource) in &disk.resources {
            assert_eq!(*name, resource.name);
        }
        assert!(disk.resources.len() <= limits::RESOURCES_MAX);
    }
}

/// A certificate that is to be renewed some hours after the beginning.
fn identity() -> AgentIdentity {
    AgentIdentity {
        certificate_request: Bytes::from_static(b"request"),
        renew_at: WallTime::from_epoch(Duration::from_hours(5)),
        not_after: WallTime::from_epoch(Duration::from_hours(8)),
        roots_digest: Bytes::from_static(b"digest"),
    }
}

/// What an agent, or who has its certificate, may send a gateway. A report is acknowledged after its commit, and what is stored of a node
/// stays within its bounds.
pub fn gateway_frames(input: &[u8]) {
    let mut since = Duration::from_secs(1);
    let config =
        SessionConfig { gateway: "g".into(), heartbeat_interval: limits::HEARTBEAT_INTERVAL, seed: 1 };
    let mut session = GatewaySession::new(config, now(since));
    let (mut status, mut events) = (stored::StatusRecord::default(), stored::EventsRecord::default());
    let mut committed = 0;
    for (how, bytes) in steps(input) {
        since += wait(how);
        let (mut load_fails, mut commit_fails) = (how & 0x08 != 0, how & 0x10 != 0);
        let mut queue = VecDeque::new();
        if how & 0x20 != 0 {
            queue.push_back(SessionEvent::Timer);
        }
        queue.extend(pb::SyncRequest::decode(bytes).ok().map(SessionEvent::Frame));
        let mut effects = 0;
        while let Some(event) = queue.pop_front() {
            for effect in session.on(event, now(since)) {
                effects += 1;
                assert!(effects < EFFECTS_MAX, "one frame never keeps a gateway busy for ever");
                match effect {
                    SessionEffect::Open(_) => {
                        let opened = Opened { renew_only: how & 0x40 != 0, ..opened(&status) };
                        queue.push_back(SessionEvent::Opened(Box::new(opened)));
                    }
                    SessionEffect::Load { token, names } => {
                        queue.push_back(if std::mem::take(&mut load_fails) {
                            SessionEvent::LoadFailed { token, why: "away".to_owned() }
                        } else {
                            load(token, names)
                        });
                    }
                    SessionEffect::Commit { token, change } => {
                        if std::mem::take(&mut commit_fails) {
                            let why = "away".to_owned();
                            queue.push_back(SessionEvent::CommitFailed { token, why });
                            continue;
                        }
                        let merged = merge::merge(&status, &events, &change);
                        status = merged.status.unwrap_or(status);
                        events = merged.events.unwrap_or(events);
                        assert!(status.encoded_len() <= limits::STATUS_BYTES_MAX);
                        assert!(events.events.len() <= limits::EVENTS_STORED_MAX);
                        assert_eq!(merge::merge(&status, &events, &change), merge::Merged::default());
                        committed += u32::from(change.report.is_some());
                        queue.push_back(SessionEvent::Committed {
                            token,
                            digest: merge::status_digest(&status),
                        });
                    }
                    SessionEffect::Send(pb::SyncResponse { body: Some(Down::ReportAck(_)), .. }) => {
                        assert!(committed > 0, "a report is acknowledged after its commit");
                    }
                    SessionEffect::Renew(_) => {
                        queue.push_back(SessionEvent::Renewed(if std::mem::take(&mut load_fails) {
                            Err("away".to_owned())
                        } else {
                            Ok(pb::IssuedCertificate::default())
                        }));
                    }
                    SessionEffect::End(Ending::NotReading) => panic!("only its driver knows that"),
                    SessionEffect::OfferAnswered { .. } => panic!("nothing is offered here"),
                    SessionEffect::Send(_)
                    | SessionEffect::GpuFrame(_)
                    | SessionEffect::Close
                    | SessionEffect::End(_) => {}
                }
            }
            if session.is_ended() {
                return;
            }
        }
    }
}

fn assigned() -> stored::AssignmentRecord {
    let hash = skerry_model::ContentHash::of(b"spec").to_string();
    let instance = stored::AssignedInstance {
        instance: "web/a/n1/0".to_owned(),
        revision: hash,
        ..stored::AssignedInstance::default()
    };
    stored::AssignmentRecord { instances: vec![instance], ..stored::AssignmentRecord::default() }
}

fn opened(status: &stored::StatusRecord) -> Opened {
    Opened {
        epoch: Version::new(1, 7),
        node_uid: "uid".to_owned(),
        status_digest: merge::status_digest(status),
        acknowledged: merge::acknowledged_version(status),
        has_refused: false,
        reported: status.instances.iter().map(|instance| instance.instance.clone()).collect(),
        assignment: Some(Assignment { version: Version::new(1, 5), record: Arc::new(assigned()) }),
        renew_only: false,
        roots: Some(Roots { digest: Bytes::from_static(b"other"), der: vec![Bytes::from_static(b"root")] }),
    }
}

fn load(token: u64, names: Vec<String>) -> SessionEvent {
    let (mut resources, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let content = ResourceName::parse(&name)
            .and_then(|name| desired::content_resource(&name, Bytes::from_static(b"spec"), Vec::new()));
        match content {
            Some(resource) => resources.push(resource),
            None => missing.push(name),
        }
    }
    SessionEvent::Loaded { token, resources, missing }
}

/// An assignment, a desired state, and what is in them, as the scheduler, the gateway and the agent read them.
pub fn desired_state(input: &[u8]) {
    if let Ok(record) = stored::AssignmentRecord::decode(input) {
        let versions = desired::resources_of(&record);
        let again = desired::difference(&versions, &versions);
        assert!(again.is_empty(), "nothing is between a state and itself");
        for instance in &record.instances {
            let resource = desired::instance_resource(instance);
            let _ = ResourceName::parse(&resource.name);
        }
        for image in &record.images {
            let _ = ResourceName::parse(&desired::image_resource(image).name);
        }
        for peers in &record.peers {
            let _ = ResourceName::parse(&desired::peers_resource(peers).name);
        }
    }
    if let Ok(resource) = pb::Resource::decode(input) {
        let _ = ResourceName::parse(&resource.name);
        if let Some(pb::resource::Body::Instance(instance)) = &resource.body {
            assert!(desired::references(instance).count() > 0, "an instance names its revision");
        }
    }
    if let Ok(spec) = ConfigSpec::decode(input) {
        let _ = skerry_model::config::ConfigSpec::from_proto(&spec);
    }
    let _ = AppSpec::decode(input);
}
