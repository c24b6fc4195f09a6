//! The gateway over real etcd, against agents that a test plays frame by frame.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use prost::Message as _;
use skerry_daemon::Shutdown;
use skerry_gateway::{Config, Gateway};
use skerry_model::{AppRef, ContentHash, NodeRef, ProjectName, RevisionRef, feature};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::closing::Reason;
use skerry_proto::gateway::v1::offer_service_client::OfferServiceClient;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_proto::gateway::v1::sync_service_client::SyncServiceClient;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1 as types;
use skerry_rpc::{Access, Server};
use skerry_store::keys::EventSource;
use skerry_store::{Key, Store, StoreConfig, Target, Txn};
use skerry_testing::Etcd;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn in_time<T>(what: &str, doing: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, doing).await.unwrap_or_else(|_| panic!("{what} did not come in time"))
}

/// One gateway and its store.
struct Stage {
    etcd: Etcd,
    store: Store,
    address: String,
    shutdown: Shutdown,
}

impl Stage {
    async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    async fn start_with(change: impl FnOnce(Config) -> Config) -> Self {
        let etcd = Etcd::start().await.unwrap();
        let store = connect(&etcd).await;
        let (address, shutdown) = gateway(&etcd, change).await;
        Self { etcd, store, address, shutdown }
    }

    async fn assign(&self, node: &NodeRef, revision: &str) {
        let record = stored::AssignmentRecord {
            instances: vec![stored::AssignedInstance {
                instance: "web/s/n/0".to_owned(),
                revision: revision.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        self.store.commit(Txn::new().put(&Key::of(node), &record)).await.unwrap();
    }

    /// Stores a revision of the app `web`; gives its hash.
    async fn revision(&self, program: &str) -> String {
        self.revision_that_requires(program, &[]).await
    }

    async fn revision_that_requires(&self, program: &str, requires: &[&str]) -> String {
        let service = types::ServiceSpec { name: program.to_owned(), ..types::ServiceSpec::default() };
        let spec = types::AppSpec { services: vec![service], ..types::AppSpec::default() };
        let bytes = spec.encode_to_vec();
        let hash = ContentHash::of(&bytes);
        let name = RevisionRef { app: AppRef::parse("projects/p/apps/web").unwrap(), hash };
        let record = stored::RevisionRecord {
            spec: bytes.into(),
            requires: requires.iter().map(ToString::to_string).collect(),
            ..stored::RevisionRecord::default()
        };
        self.store.commit(Txn::new().put(&Key::of(&name), &record)).await.unwrap();
        hash.to_string()
    }

    async fn session_record(&self, node: &NodeRef) -> stored::SessionRecord {
        self.store.get(&Key::<stored::SessionRecord>::of(node)).await.unwrap().unwrap().value
    }

    async fn status(&self, node: &NodeRef) -> Option<stored::StatusRecord> {
        self.store.get(&Key::<stored::StatusRecord>::of(node)).await.unwrap().map(|status| status.value)
    }
}

async fn connect(etcd: &Etcd) -> Store {
    let store = Store::connect(StoreConfig::new(Target::parse(&etcd.endpoint()).unwrap())).await.unwrap();
    // The project of all nodes here.
    skerry_api::ensure_project(&store, &ProjectName::parse("p").unwrap()).await.unwrap();
    store
}

async fn gateway(etcd: &Etcd, change: impl FnOnce(Config) -> Config) -> (String, Shutdown) {
    let shutdown = Shutdown::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let store = connect(etcd).await;
    let gateway = Gateway::start(change(Config::new(address.clone())), store, &shutdown).await.unwrap();
    let mut server = Server::new(Access::Loopback).unwrap();
    gateway.register(&mut server);
    let token = shutdown.token();
    shutdown.spawn(async move { server.serve(listener, token).await });
    (address, shutdown)
}

fn node(name: &str) -> NodeRef {
    NodeRef::parse(&format!("projects/p/nodes/{name}")).unwrap()
}

/// An agent's end of a stream.
struct Agent {
    up: mpsc::Sender<pb::SyncRequest>,
    down: Streaming<pb::SyncResponse>,
}

impl Agent {
    async fn dial(address: &str) -> Self {
        let (up, frames) = mpsc::channel(8);
        let mut client = SyncServiceClient::connect(address.to_owned()).await.unwrap();
        let down = in_time("a stream", client.sync(ReceiverStream::new(frames))).await.unwrap().into_inner();
        Self { up, down }
    }

    async fn open(address: &str, hello: pb::Hello) -> (Self, pb::Welcome) {
        let mut agent = Self::dial(address).await;
        agent.say(Up::Hello(hello)).await;
        match agent.hear().await {
            Down::Welcome(welcome) => (agent, welcome),
            other => panic!("no Welcome: {other:?}"),
        }
    }

    async fn say(&self, body: Up) {
        self.up.send(pb::SyncRequest { body: Some(body) }).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<pb::SyncResponse>, Status> {
        in_time("a frame", self.down.message()).await
    }

    async fn hear(&mut self) -> Down {
        self.next().await.unwrap().expect("a frame and not the end").body.unwrap()
    }

    async fn hear_closing(&mut self) -> pb::Closing {
        match self.hear().await {
            Down::Closing(closing) => closing,
            other => panic!("no Closing: {other:?}"),
        }
    }

    async fn hear_update(&mut self) -> pb::Update {
        match self.hear().await {
            Down::Update(update) => update,
            other => panic!("no Update: {other:?}"),
        }
    }

    async fn ack(&self, update: &pb::Update) {
        let ack = pb::Ack { nonce: update.nonce, version: update.version, ..pb::Ack::default() };
        self.say(Up::Ack(ack)).await;
    }
}

fn hello(node: &NodeRef, boot: &str) -> pb::Hello {
    pb::Hello {
        protocol_version: 1,
        node: node.to_string(),
        boot_id: boot.to_owned(),
        agent_version: "test".to_owned(),
        ..pb::Hello::default()
    }
}

fn report(sequence: u64, restarts: u32) -> pb::Report {
    pb::Report {
        sequence,
        instances: vec![types::InstanceStatus {
            instance: "web/s/n/0".to_owned(),
            restarts,
            ..types::InstanceStatus::default()
        }],
        events: vec![types::Event { sequence, reason: "Test".to_owned(), ..types::Event::default() }],
        ..pb::Report::default()
    }
}

/// Looks until `find` finds something.
async fn eventually<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    in_time(what, async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn what_is_assigned_goes_down_and_what_is_said_comes_into_the_store() {
    let stage = Stage::start().await;
    let n = node("n1");
    let (mut agent, welcome) = Agent::open(&stage.address, hello(&n, "b1")).await;
    assert!(welcome.full_report, "nothing is stored yet");
    let known = stage.store.get(&Key::<stored::NodeRecord>::of(&n)).await.unwrap().expect("registered");
    assert_eq!(known.value.meta.unwrap().uid, welcome.node_uid);

    let first = stage.revision("one").await;
    stage.assign(&n, &first).await;
    let update = agent.hear_update().await;
    let names: Vec<_> = update.resources.iter().map(|resource| resource.name.clone()).collect();
    assert_eq!(names, [format!("revisions/web/{first}"), "instances/web/s/n/0".to_owned()]);
    agent.ack(&update).await;
    eventually("the acknowledgement", async || {
        let status = stage.status(&n).await?;
        (status.acknowledged_revision == update.version.unwrap().revision).then_some(())
    })
    .await;

    agent.say(Up::Report(pb::Report { full: true, ..report(1, 7) })).await;
    let Down::ReportAck(ack) = agent.hear().await else { panic!("no ReportAck") };
    let status = stage.status(&n).await.expect("stored before it is acknowledged");
    assert_eq!((status.instances[0].restarts, status.instances[0].node.as_str()), (7, "projects/p/nodes/n1"));
    let events = Key::<stored::EventsRecord>::of(&EventSource::Node(n.clone()));
    assert_eq!(stage.store.get(&events).await.unwrap().unwrap().value.events.len(), 1);

    // Only the difference, and none of the report, after a reconnect.
    drop(agent);
    eventually("the close", async || stage.session_record(&n).await.close_time).await;
    let second = stage.revision("two").await;
    stage.assign(&n, &second).await;
    let again = pb::Hello {
        version: update.version,
        held: update
            .resources
            .iter()
            .map(|r| pb::HeldResource { name: r.name.clone(), version: r.version.clone() })
            .collect(),
        report_digest: ack.digest,
        ..hello(&n, "b1")
    };
    let (mut agent, welcome) = Agent::open(&stage.address, again).await;
    assert!(!welcome.full_report, "the digest is the stored one");
    let update = agent.hear_update().await;
    assert_eq!(update.removed, [format!("revisions/web/{first}")]);
    assert_eq!(update.resources.len(), 2);
}

#[tokio::test]
async fn the_newer_session_wins_and_the_end_of_the_older_changes_nothing() {
    let stage = Stage::start().await;
    // The two sessions are of two gateways, as with replicas.
    let (other, other_shutdown) = gateway(&stage.etcd, |config| config).await;
    let n = node("n1");
    let (mut old, _) = Agent::open(&stage.address, hello(&n, "b1")).await;
    let (mut new, _) = Agent::open(&other, hello(&n, "b2")).await;

    let closing = old.hear_closing().await;
    assert_eq!(closing.reason(), Reason::Superseded);
    assert!(closing.retry_after.unwrap().seconds >= 60);
    drop(old);

    new.say(Up::Report(pb::Report { full: true, ..report(1, 1) })).await;
    assert!(matches!(new.hear().await, Down::ReportAck(_)));
    let record = stage.session_record(&n).await;
    assert_eq!((record.boot_id.as_str(), record.close_time), ("b2", None));
    other_shutdown.finish().await;
}

#[tokio::test]
async fn a_stream_that_breaks_the_protocol_is_ended_and_told_why() {
    let stage = Stage::start().await;
    let mut silent = Agent::dial(&stage.address).await;
    silent.say(Up::Heartbeat(pb::Heartbeat { sequence: 1 })).await;
    assert_eq!(silent.next().await.unwrap_err().code(), Code::FailedPrecondition);

    let mut foreign = Agent::dial(&stage.address).await;
    foreign.say(Up::Hello(pb::Hello { protocol_version: 9, ..hello(&node("n1"), "b1") })).await;
    assert_eq!(foreign.hear_closing().await.reason(), Reason::ProtocolError);
    assert!(foreign.next().await.unwrap().is_none(), "the stream ends after Closing");

    let (mut hasty, _) = Agent::open(&stage.address, hello(&node("n2"), "b1")).await;
    hasty.say(Up::Report(report(2, 1))).await;
    assert_eq!(hasty.hear_closing().await.reason(), Reason::ProtocolError);
    eventually("the close", async || stage.session_record(&node("n2")).await.close_time).await;
}

#[tokio::test]
async fn a_deleted_node_is_told_and_an_unknown_one_is_refused_where_nodes_are_not_made() {
    let stage = Stage::start_with(|config| Config { auto_register: false, ..config }).await;
    let n = node("n1");
    let mut unknown = Agent::dial(&stage.address).await;
    unknown.say(Up::Hello(hello(&n, "b1"))).await;
    assert_eq!(unknown.hear_closing().await.reason(), Reason::NodeDeleted);

    let record = stored::NodeRecord::default();
    stage.store.commit(Txn::new().put(&Key::of(&n), &record)).await.unwrap();
    let (mut agent, _) = Agent::open(&stage.address, hello(&n, "b1")).await;
    let gone =
        Txn::new().delete(&Key::<stored::NodeRecord>::of(&n)).delete(&Key::<stored::SessionRecord>::of(&n));
    stage.store.commit(gone).await.unwrap();
    assert_eq!(agent.hear_closing().await.reason(), Reason::NodeDeleted);
}

#[tokio::test]
async fn an_agent_that_holds_more_than_the_store_makes_it_a_new_term() {
    let stage = Stage::start().await;
    let n = node("n1");
    let revision = stage.revision("one").await;
    stage.assign(&n, &revision).await;
    let (mut bystander, _) = Agent::open(&stage.address, hello(&node("n2"), "b1")).await;
    let ahead = pb::Version { store_term: stage.store.term(), revision: 1_000_000 };
    let (mut agent, welcome) =
        Agent::open(&stage.address, pb::Hello { version: Some(ahead), ..hello(&n, "b1") }).await;
    assert!(welcome.epoch.unwrap().store_term > ahead.store_term);
    let update = agent.hear_update().await;
    assert!(update.version.unwrap().store_term > ahead.store_term, "else the agent would refuse it");
    assert_eq!(update.resources.len(), 2);
    // Sessions of the old term are opened anew: what fenced them means nothing now.
    let closing = bystander.hear_closing().await;
    assert_eq!(closing.reason(), Reason::Draining);
    assert!(closing.message.contains("restored"), "{closing:?}");
}

#[tokio::test]
async fn an_agent_that_claims_to_be_ahead_again_and_again_sends_nobody_away_twice() {
    let stage = Stage::start().await;
    let claim = |name: &str, store_term, revision| {
        let version = Some(pb::Version { store_term, revision });
        pb::Hello { version, ..hello(&node(name), "b1") }
    };
    let before = stage.store.term();
    let mut absurd = Agent::dial(&stage.address).await;
    absurd.say(Up::Hello(claim("n1", before, i64::MAX))).await;
    assert!(absurd.next().await.is_err(), "no store counts so far");

    let (_liar, welcome) = Agent::open(&stage.address, claim("n1", before, 1_000_000)).await;
    let term = welcome.epoch.unwrap().store_term;
    assert_eq!(term, before + 1);
    for name in ["n1", "n3"] {
        let mut liar = Agent::dial(&stage.address).await;
        liar.say(Up::Hello(claim(name, term, 1_000_000))).await;
        let closing = liar.hear_closing().await;
        assert_eq!(closing.reason(), Reason::Overloaded);
        assert!(closing.retry_after.is_some());
    }
    let (_honest, welcome) = Agent::open(&stage.address, hello(&node("n2"), "b1")).await;
    assert_eq!(welcome.epoch.unwrap().store_term, term);
}

#[tokio::test]
async fn sessions_stay_up_while_the_store_is_away_and_nothing_is_acknowledged() {
    let mut stage = Stage::start().await;
    let n = node("n1");
    let revision = stage.revision("one").await;
    stage.assign(&n, &revision).await;
    let (mut agent, _) = Agent::open(&stage.address, hello(&n, "b1")).await;
    agent.hear_update().await;
    agent.say(Up::Report(pb::Report { full: true, ..report(1, 1) })).await;
    assert!(matches!(agent.hear().await, Down::ReportAck(_)));

    stage.etcd.pause().unwrap();
    agent.say(Up::Report(report(2, 2))).await;
    for sequence in 1..=3 {
        agent.say(Up::Heartbeat(pb::Heartbeat { sequence })).await;
        let Down::HeartbeatAck(ack) = agent.hear().await else {
            panic!("something but the heartbeat's answer")
        };
        assert_eq!(ack.sequence, sequence);
    }
    stage.etcd.resume().unwrap();
    let Down::ReportAck(ack) = agent.hear().await else { panic!("no ReportAck") };
    assert_eq!(ack.sequence, 2);
    assert_eq!(stage.status(&n).await.unwrap().instances[0].restarts, 2);
}

#[tokio::test]
async fn a_gateway_that_stops_sends_its_agents_elsewhere_and_is_gone_at_once() {
    let stage = Stage::start().await;
    let (mut agent, _) = Agent::open(&stage.address, hello(&node("n1"), "b1")).await;
    let gateway = stage.session_record(&node("n1")).await.gateway;
    let key = Key::<stored::GatewayRecord>::of(&skerry_store::keys::GatewayId::parse(&gateway).unwrap());
    assert!(stage.store.get(&key).await.unwrap().is_some());

    stage.shutdown.begin();
    let closing = agent.hear_closing().await;
    assert_eq!(closing.reason(), Reason::Draining);
    assert!(agent.next().await.unwrap().is_none(), "the stream ends after Closing");
    in_time("the end", stage.shutdown.finish()).await;
    assert!(stage.store.get(&key).await.unwrap().is_none(), "the lease is revoked");
}

#[tokio::test]
async fn a_session_that_has_too_many_before_it_is_sent_off() {
    let stage = Stage::start_with(|config| Config { sessions_max: 1, ..config }).await;
    let (_one, _) = Agent::open(&stage.address, hello(&node("n1"), "b1")).await;
    let mut two = Agent::dial(&stage.address).await;
    two.say(Up::Hello(hello(&node("n2"), "b1"))).await;
    let closing = two.hear_closing().await;
    assert_eq!(closing.reason(), Reason::Overloaded);
    assert!(closing.retry_after.unwrap().seconds >= 30);
}

#[tokio::test]
async fn what_a_revision_requires_reaches_the_agent_and_its_refusal_the_status() {
    let stage = Stage::start().await;
    let n = node("n1");
    let revision = stage.revision_that_requires("one", &["from-the-future"]).await;
    stage.assign(&n, &revision).await;
    let (mut agent, _) = Agent::open(&stage.address, hello(&n, "b1")).await;
    let update = agent.hear_update().await;
    assert_eq!(update.resources[0].requires, ["from-the-future"]);
    let error = pb::ResourceError {
        name: update.resources[0].name.clone(),
        version: revision,
        reason: "UnsupportedFeature".to_owned(),
        message: "this agent lacks what it requires: from-the-future".to_owned(),
    };
    let (nonce, version) = (update.nonce, update.version);
    agent.say(Up::Ack(pb::Ack { nonce, version, errors: vec![error], refused: String::new() })).await;
    let refused = eventually("the refusal", async || {
        stage.status(&n).await.filter(|status| !status.refused.is_empty())
    })
    .await
    .refused;
    assert_eq!((refused.len(), refused[0].reason.as_str()), (1, "UnsupportedFeature"));
}

#[tokio::test]
async fn an_agent_is_believed_about_its_own_node_only_and_acknowledged_all_the_same() {
    let stage = Stage::start().await;
    let n = node("n1");
    let (mut agent, _) = Agent::open(&stage.address, hello(&n, "b1")).await;
    let mut lie = report(1, 3);
    lie.full = true;
    lie.events[0].regarding = "projects/p/apps/payroll".to_owned();
    agent.say(Up::Report(lie)).await;
    let Down::ReportAck(ack) = agent.hear().await else { panic!("no ReportAck") };
    assert_eq!((ack.sequence, ack.digest.len()), (1, 0), "all of it is to be said again one day");
    assert_eq!(stage.status(&n).await.map_or(0, |status| status.instances.len()), 0);
    let events = Key::<stored::EventsRecord>::of(&EventSource::Node(n.clone()));
    let stored = stage.store.get(&events).await.unwrap().unwrap().value.events;
    assert_eq!((stored.len(), stored[0].regarding.as_str()), (1, "projects/p/nodes/n1"));

    // Once it is assigned what it spoke of, it says so anew and is believed.
    let revision = stage.revision("one").await;
    stage.assign(&n, &revision).await;
    assert_eq!(agent.hear_closing().await.reason(), Reason::Draining);
    let (mut agent, welcome) = Agent::open(&stage.address, hello(&n, "b1")).await;
    assert!(welcome.full_report);
    agent.hear_update().await;
    agent.say(Up::Report(pb::Report { full: true, ..report(1, 3) })).await;
    let Down::ReportAck(ack) = agent.hear().await else { panic!("no ReportAck") };
    assert!(!ack.digest.is_empty());
    assert_eq!(stage.status(&n).await.unwrap().instances[0].restarts, 3);
}

#[tokio::test]
async fn an_agent_that_floods_is_sent_off_with_the_true_reason_and_others_are_served() {
    let stage = Stage::start().await;
    let (mut flooder, _) = Agent::open(&stage.address, hello(&node("n1"), "b1")).await;
    let (mut other, _) = Agent::open(&stage.address, hello(&node("n2"), "b1")).await;
    let up = flooder.up.clone();
    let flood = async {
        // Until the gateway no longer takes any: it has ended the stream.
        for sequence in 1.. {
            let body = Some(Up::Heartbeat(pb::Heartbeat { sequence }));
            if up.send(pb::SyncRequest { body }).await.is_err() {
                return;
            }
        }
    };
    let served = async {
        for sequence in 1..=5 {
            other.say(Up::Heartbeat(pb::Heartbeat { sequence })).await;
            assert!(matches!(other.hear().await, Down::HeartbeatAck(_)));
        }
        loop {
            match flooder.hear().await {
                Down::HeartbeatAck(_) => {}
                Down::Closing(closing) => return closing,
                body => panic!("no answer to a heartbeat: {body:?}"),
            }
        }
    };
    let ((), closing) = in_time("the end of the flood", async { tokio::join!(flood, served) }).await;
    assert_eq!(closing.reason(), Reason::ProtocolError);
    assert!(closing.message.contains("frames"), "{}", closing.message);
    eventually("the close", async || stage.session_record(&node("n1")).await.close_time).await;
    other.say(Up::Heartbeat(pb::Heartbeat { sequence: 6 })).await;
    assert!(matches!(other.hear().await, Down::HeartbeatAck(_)));
}

/// What a relay is told of the offer of a channel.
async fn offer(
    address: &str,
    node: &NodeRef,
    epoch: Option<pb::Version>,
    channel: &str,
) -> Result<(), Status> {
    let mut relay = OfferServiceClient::connect(address.to_owned()).await.unwrap();
    let offer = pb::ChannelOffer {
        channel: channel.to_owned(),
        verb: "logs".to_owned(),
        ..pb::ChannelOffer::default()
    };
    let request = pb::OfferChannelRequest { node: node.to_string(), epoch, offer: Some(offer) };
    in_time("an answer", relay.offer_channel(request)).await.map(drop)
}

#[tokio::test]
async fn a_channel_is_offered_to_the_session_that_is_meant_and_its_answer_is_the_relays() {
    let stage = Stage::start().await;
    let n = node("n1");
    let able = pb::Hello { features: vec![feature::CHANNELS.to_owned()], ..hello(&n, "b1") };
    let (mut agent, welcome) = Agent::open(&stage.address, able).await;
    for (channel, refused) in [("c1", ""), ("c2", "TooManyChannels")] {
        let (told, ()) = tokio::join!(offer(&stage.address, &n, welcome.epoch, channel), async {
            let Down::ChannelOffer(offer) = agent.hear().await else { panic!("no offer") };
            assert_eq!((offer.channel.as_str(), offer.verb.as_str()), (channel, "logs"));
            let refused = refused.to_owned();
            agent
                .say(Up::ChannelAnswer(pb::ChannelAnswer {
                    channel: offer.channel,
                    refused,
                    message: "no".to_owned(),
                }))
                .await;
        });
        match (told, refused) {
            (Ok(()), "") => {}
            (Err(status), "TooManyChannels") => {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    let code = |told: Result<(), Status>| told.unwrap_err().code();
    let older = welcome.epoch.map(|epoch| pb::Version { revision: epoch.revision - 1, ..epoch });
    assert_eq!(code(offer(&stage.address, &n, older, "c3").await), Code::NotFound, "another session");
    assert_eq!(code(offer(&stage.address, &node("n2"), welcome.epoch, "c3").await), Code::NotFound);
    assert_eq!(code(offer(&stage.address, &n, None, "c3").await), Code::InvalidArgument);
    assert_eq!(code(offer(&stage.address, &n, welcome.epoch, "").await), Code::InvalidArgument);

    // Whose session ends meanwhile is not waited for.
    let (told, ()) = tokio::join!(offer(&stage.address, &n, welcome.epoch, "c4"), async move {
        assert!(matches!(agent.hear().await, Down::ChannelOffer(_)));
        drop(agent);
    });
    assert_eq!(code(told), Code::Unavailable);

    let old = node("n3");
    let (_agent, welcome) = Agent::open(&stage.address, hello(&old, "b1")).await;
    let status = offer(&stage.address, &old, welcome.epoch, "c5").await.unwrap_err();
    assert!(status.code() == Code::FailedPrecondition && status.message().contains("too old"), "{status:?}");
}
