//! Machines become nodes: by tokens and approvals, over TLS, against a registry and a gateway of their own; and stop being nodes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use skerry_identity::authority::{IntermediateAuthority, Life, Order};
use skerry_identity::certificate::Usage;
use skerry_identity::clock::TimeFloor;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_identity::fingerprint::Fingerprint;
use skerry_identity::hpke::{HpkeKeyPair, OpeningKey as _};
use skerry_identity::key_ring::KeyRing;
use skerry_identity::tls::Credentials;
use skerry_identity::token::Token;
use skerry_identity::verify::{Expected, Time};
use skerry_identity::{
    Identity, KeyId, KeyPair, SigningKey, Trust, TrustBundle, TrustDomain, private_file, seal,
};
use skerry_integration::stack::PATIENCE;
use skerry_model::{NodeRef, ProjectName, ServiceName};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::closing::Reason;
use skerry_proto::gateway::v1::enroll_response::Outcome;
use skerry_proto::gateway::v1::enrollment_service_client::EnrollmentServiceClient;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_proto::gateway::v1::sync_service_client::SyncServiceClient;
use skerry_proto::store::v1 as stored;
use skerry_registry::authority::{self, AuthorityDir, Granted, Issuer};
use skerry_rpc::ClientTls;
use skerry_store::keys::{EventSource, TokenId, TokenName};
use skerry_store::{Key, Store, StoreConfig, Target, Txn};
use skerry_testing::{Etcd, Process, bin, eventually, free_port};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::{Code, Status, Streaming};

/// An installation with an authority: etcd, a registry and a gateway, an operator.
struct World {
    dir: TempDir,
    etcd: Etcd,
    store: Store,
    keys: Arc<KeyRing>,
    pin: KeyId,
    registry: u16,
    gateway: u16,
    _processes: Vec<Process>,
}

impl World {
    async fn start() -> Result<Self> {
        let (dir, etcd) = (tempfile::tempdir()?, Etcd::start().await?);
        let store = Store::connect(StoreConfig::new(Target::parse(&etcd.endpoint())?)).await?;
        let keys = Arc::new(KeyRing::load_or_make(&dir.path().join("key-file"))?);
        let authority_dir = AuthorityDir::new(dir.path().join("authority"));
        let domain = TrustDomain::parse("example.org")?;
        let made = authority::init(&store, &authority_dir, &*keys, &domain).await?;
        let issuer = Issuer::new(&store, Some(keys.clone()));
        eventually("the issuer knows the authority", PATIENCE, || async { issuer.roots() }).await;
        let (registry, gateway) = (free_port(), free_port());
        let mut processes = Vec::new();
        for (program, port) in [("registry", registry), ("gateway", gateway)] {
            let key = KeyPair::generate()?;
            let name = ServiceName::parse(program)?;
            let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST)];
            let service = authority::Service { name: &name, dns_names: &[], addresses: &addresses };
            let granted = issuer.issue_service(service, key.public_key(), None)?;
            let flags = write_files(dir.path(), program, &granted, &key)?;
            let mut command = Command::new(bin(&format!("skerry-{program}")));
            command.arg(format!("--listen=127.0.0.1:{port}")).arg(format!("--etcd={}", etcd.endpoint()));
            command.args(flags).stdin(Stdio::null());
            match program {
                "registry" => command.arg("--key-file").arg(dir.path().join("key-file")),
                _ => command.arg(format!("--registry=https://127.0.0.1:{registry}")),
            };
            let mut process = Process::spawn_command(&mut command, dir.path().join(program))?;
            process.wait_for_port((Ipv4Addr::LOCALHOST, port).into(), PATIENCE).await?;
            processes.push(process);
        }
        let ada = KeyPair::generate()?;
        let (project, name) = (ProjectName::parse("system")?, ServiceName::parse("admin")?);
        let granted = issuer.issue_user(&project, &name, ada.public_key(), None)?;
        write_files(dir.path(), "admin", &granted, &ada)?;
        let pin = made.roots[0];
        Ok(Self { dir, etcd, store, keys, pin, registry, gateway, _processes: processes })
    }

    fn gateway(&self) -> String {
        format!("https://127.0.0.1:{}", self.gateway)
    }

    /// A command of the operator's; what it wrote to stdout.
    async fn skerry(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(bin("skerry"));
        command.args(words).arg(format!("--server=https://127.0.0.1:{}", self.registry));
        command.args(flags(self.dir.path(), "admin")).env("HOME", self.dir.path()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = tokio::time::timeout(PATIENCE, output).await.context("it did not end")???;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{words:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A token, made by the operator's command with these flags.
    async fn token(&self, flags: &[&str]) -> Result<String> {
        let text = self.skerry(&[&["token", "create"], flags].concat()).await?;
        Ok(text.trim_end().to_owned())
    }

    async fn node(&self, name: &str) -> Result<Option<stored::NodeRecord>> {
        let name = NodeRef::parse(&format!("projects/default/nodes/{name}"))?;
        Ok(self.store.get(&Key::<stored::NodeRecord>::of(&name)).await?.map(|read| read.value))
    }

    async fn token_record(&self, text: &str) -> Result<(TokenName, stored::TokenRecord)> {
        let id = TokenId::parse(Token::parse(text)?.id().as_str())?;
        let name = TokenName { project: ProjectName::parse("default")?, id };
        let read = self.store.get(&Key::<stored::TokenRecord>::of(&name)).await?;
        Ok((name, read.context("a token's record")?.value))
    }
}

/// Writes a certificate, its key and the roots, as flags name them.
fn write_files(dir: &Path, name: &str, granted: &Granted, key: &KeyPair) -> Result<[String; 6]> {
    let roots: Result<Vec<_>, _> = granted.roots.iter().map(skerry_identity::bundle::Root::parse).collect();
    let roots = TrustBundle::new(roots?)?.to_pem();
    for (ending, text) in [("crt", granted.issued.to_pem()), ("ca", roots)] {
        fs::write(dir.join(format!("{name}.{ending}")), text)?;
    }
    private_file::replace(&dir.join(format!("{name}.key")), key.to_pem().as_bytes())?;
    Ok(flags(dir, name))
}

fn flags(dir: &Path, name: &str) -> [String; 6] {
    let at = |ending: &str| dir.join(format!("{name}.{ending}")).display().to_string();
    ["--tls-cert".into(), at("crt"), "--tls-key".into(), at("key"), "--tls-ca".into(), at("ca")]
}

/// A machine with keys of its own.
struct Machine {
    key: Arc<KeyPair>,
    sealing: HpkeKeyPair,
    serial: String,
    host: String,
}

impl Machine {
    fn new(host: &str, serial: &str) -> Result<Self> {
        let (key, sealing) = (Arc::new(KeyPair::generate()?), HpkeKeyPair::generate()?);
        Ok(Self { key, sealing, serial: serial.to_owned(), host: host.to_owned() })
    }

    fn fingerprint(&self) -> String {
        Fingerprint::of(&self.key.public_key().id()).to_string()
    }

    /// Asks the gateway, whose root it knows by its pin alone.
    async fn enrol(&self, world: &World, token: &str) -> Result<Outcome, Status> {
        let request = pb::EnrollRequest {
            certificate_request: CertificateRequest::make(&*self.key).expect("a request").to_vec().into(),
            sealing_key: self.sealing.public_key().as_bytes().to_vec().into(),
            token: token.to_owned(),
            parent: if token.is_empty() { "projects/default".to_owned() } else { String::new() },
            node: String::new(),
            machine: Some(pb::MachineFingerprint {
                machine_id: String::new(),
                serial: self.serial.clone(),
                host_name: self.host.clone(),
            }),
            agent_version: "1".to_owned(),
        };
        let tls = ClientTls::pinned(world.pin, Expected::Dialled);
        let channel = skerry_rpc::connect(&world.gateway(), Some(&tls)).await.expect("a gateway");
        let mut client = EnrollmentServiceClient::new(channel);
        Ok(client.enroll(request).await?.into_inner().outcome.expect("an outcome"))
    }

    /// It shall be a node.
    async fn enrolled(&self, world: &World, token: &str) -> Result<pb::Enrolled> {
        match self.enrol(world, token).await {
            Ok(Outcome::Enrolled(enrolled)) => Ok(enrolled),
            other => bail!("not enrolled: {other:?}"),
        }
    }

    /// It shall be refused.
    async fn refused(&self, world: &World, token: &str) -> Result<Status> {
        match self.enrol(world, token).await {
            Err(status) => Ok(status),
            Ok(outcome) => bail!("not refused: {outcome:?}"),
        }
    }

    /// Opens the stream with its certificate; the first frame is the Welcome.
    async fn session(&self, world: &World, enrolled: &pb::Enrolled) -> Result<Session> {
        let certificate = enrolled.certificate.clone().context("a certificate")?;
        let chain = certificate.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let roots: Result<Vec<_>, _> = certificate
            .roots
            .iter()
            .map(|der| skerry_identity::bundle::Root::parse(&CertificateDer::from(der.to_vec())))
            .collect();
        let key: Arc<dyn SigningKey> = self.key.clone();
        let floor = Time::Floor(Arc::new(TimeFloor::new(SystemTime::UNIX_EPOCH)));
        let trust = Trust::new(TrustBundle::new(roots?)?);
        let digest = trust.current().digest().to_vec();
        let tls = ClientTls::new(Credentials::new(chain, key)?, trust, Expected::Dialled, floor);
        let channel = skerry_rpc::connect(&world.gateway(), Some(&tls)).await?;
        let (up, frames) = mpsc::channel(8);
        let hello = pb::Hello {
            protocol_version: 1,
            node: enrolled.node.clone(),
            node_uid: enrolled.node_uid.clone(),
            boot_id: "boot".to_owned(),
            roots_digest: digest.into(),
            ..pb::Hello::default()
        };
        let mut session = Session { up, down: None };
        session.say(Up::Hello(hello)).await?;
        let frames = tokio_stream(frames);
        session.down = Some(SyncServiceClient::new(channel).sync(frames).await?.into_inner());
        Ok(session)
    }
}

fn tokio_stream(
    frames: mpsc::Receiver<pb::SyncRequest>,
) -> impl futures_util::Stream<Item = pb::SyncRequest> {
    futures_util::stream::unfold(frames, |mut frames| async { Some((frames.recv().await?, frames)) })
}

/// The node's end of a stream.
struct Session {
    up: mpsc::Sender<pb::SyncRequest>,
    down: Option<Streaming<pb::SyncResponse>>,
}

impl Session {
    async fn say(&self, body: Up) -> Result<()> {
        Ok(self.up.send(pb::SyncRequest { body: Some(body) }).await?)
    }

    async fn next(&mut self) -> Result<Down> {
        let down = self.down.as_mut().context("an open stream")?;
        let frame = tokio::time::timeout(PATIENCE, down.message()).await.context("no frame came")??;
        frame.and_then(|frame| frame.body).context("the stream has ended")
    }

    async fn welcome(&mut self) -> Result<pb::Welcome> {
        match self.next().await? {
            Down::Welcome(welcome) => Ok(welcome),
            other => bail!("no Welcome: {other:?}"),
        }
    }

    async fn closing(&mut self) -> Result<Reason> {
        match self.next().await? {
            Down::Closing(closing) => Ok(closing.reason()),
            other => bail!("no Closing: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_token_lets_in_as_many_as_it_says_and_whoever_asks_again_is_answered_again() -> Result<()> {
    let world = World::start().await?;
    let token = world.token(&["--uses=2", "--labels=site=oslo,line=4", "--quiet"]).await?;
    let (one, two, three) = (Machine::new("m1.site", "")?, Machine::new("m2", "")?, Machine::new("m3", "")?);
    let first = one.enrolled(&world, &token).await?;
    assert_eq!(first.node, "projects/default/nodes/m1");
    let record = world.node("m1").await?.context("a node")?;
    let meta = record.meta.clone().unwrap_or_default();
    assert_eq!((meta.uid.clone(), meta.labels["site"].as_str()), (first.node_uid.clone(), "oslo"));
    assert_eq!(record.key_id[..], one.key.public_key().id().as_bytes()[..]);

    let again = one.enrolled(&world, &token).await?;
    assert_eq!((again.node, &again.node_uid), (first.node.clone(), &first.node_uid));
    assert_eq!(world.token_record(&token).await?.1.uses, 1);
    // The name is taken, and that uses nothing up.
    let twin = Machine::new("m1", "")?;
    assert_eq!(twin.refused(&world, &token).await?.code(), Code::AlreadyExists);
    assert_eq!(world.token_record(&token).await?.1.uses, 1);
    two.enrolled(&world, &token).await?;

    // Used up, expired, struck out, unknown: the machine cannot tell which.
    let used_up = three.refused(&world, &token).await?;
    assert_eq!(used_up.code(), Code::PermissionDenied);
    one.enrolled(&world, &token).await?;
    let expired = world.token(&["--uses=0"]).await?;
    let (name, record) = world.token_record(&expired).await?;
    let expire_time = Some(skerry_model::time::to_timestamp(SystemTime::now() - Duration::from_secs(1)));
    let record = stored::TokenRecord { expire_time, ..record };
    world.store.commit(Txn::new().put(&Key::of(&name), &record)).await?;
    let struck = world.token(&[]).await?;
    let id = Token::parse(&struck)?.id().to_string();
    world.skerry(&["token", "delete", &id]).await?;
    let unknown = Token::generate(world.pin)?.reveal().to_string();
    for other in [&expired, &struck, &unknown] {
        let refused = three.refused(&world, other).await?;
        assert_eq!((refused.code(), refused.message()), (used_up.code(), used_up.message()));
    }
    // The operator can.
    let ring = Key::<stored::EventsRecord>::of(&EventSource::Token(world.token_record(&token).await?.0));
    let events = world.store.get(&ring).await?.context("events of the token")?.value.events;
    assert_eq!(events.last().map(|event| event.reason.as_str()), Some("TokenUsedUp"));

    // A mistyped token is told as that, and an unusable name too.
    let mut mistyped = token.clone();
    mistyped.replace_range(40..41, if &token[40..41] == "a" { "b" } else { "a" });
    let told = three.refused(&world, &mistyped).await?;
    assert_eq!(told.code(), Code::InvalidArgument);
    assert!(told.message().contains("mistyped"), "{told}");
    let nameless = Machine::new("...", "")?;
    let token = world.token(&[]).await?;
    assert_eq!(nameless.refused(&world, &token).await?.code(), Code::InvalidArgument);
    let listed = world.skerry(&["token", "list", "--no-headers"]).await?;
    assert!(listed.contains("2/2") && listed.contains("expired") && !listed.contains(&id), "{listed}");
    Ok(())
}

#[tokio::test]
async fn a_batch_is_named_by_its_template_and_takes_each_machine_once() -> Result<()> {
    let world = World::start().await?;
    let template = "--name-template=cam-{serial}";
    let token = world.token(&["--uses=0", template, "--once-per-machine", "--system-apps=probe"]).await?;
    let all: Vec<_> =
        (1..=8).map(|n| Machine::new("same-host", &format!("SN/{n}"))).collect::<Result<_>>()?;
    let enrolled = futures_util::future::join_all(all.iter().map(|m| m.enrolled(&world, &token))).await;
    for (n, enrolled) in (1..).zip(enrolled) {
        assert_eq!(enrolled?.node, format!("projects/default/nodes/cam-sn-{n}"));
    }
    assert_eq!(world.token_record(&token).await?.1.uses, 8);
    let labels = world.node("cam-sn-1").await?.and_then(|node| node.meta).unwrap_or_default().labels;
    assert_eq!(labels["system.skerry.dev/probe"], "");
    // Reinstalled, the machine has another key and has had its turn.
    let reinstalled = Machine::new("same-host", "SN/3")?;
    assert_eq!(reinstalled.refused(&world, &token).await?.code(), Code::PermissionDenied);
    let silent = Machine::new("same-host", "")?;
    let told = silent.refused(&world, &token).await?;
    assert_eq!(told.code(), Code::InvalidArgument);
    assert!(told.message().contains("serial"), "{told}");
    Ok(())
}

#[tokio::test]
async fn who_has_no_token_waits_for_an_operator_who_lets_it_in_or_turns_it_away() -> Result<()> {
    let world = World::start().await?;
    let (one, other) = (Machine::new("m1", "SN1")?, Machine::new("m1", "SN2")?);
    for machine in [&one, &other] {
        let Ok(Outcome::Pending(pending)) = machine.enrol(&world, "").await else { bail!("it must wait") };
        assert_eq!(pending.fingerprint, machine.fingerprint());
    }
    let waiting = world.skerry(&["get", "enrollments"]).await?;
    assert!(waiting.contains(&one.fingerprint()) && waiting.contains("SN2"), "{waiting}");
    assert!(world.node("m1").await?.is_none());

    let approved = world.skerry(&["node", "approve", &one.fingerprint(), "--labels=site=oslo"]).await?;
    assert_eq!(approved, "node/m1 approved\n");
    let first = one.enrolled(&world, "").await?;
    assert_eq!(first.node, "projects/default/nodes/m1");
    assert_eq!(one.enrolled(&world, "").await?.node_uid, first.node_uid);

    // Another machine that says it is m1 does not become it by a yes alone.
    let taken = world.skerry(&["node", "approve", &other.fingerprint()]).await.unwrap_err().to_string();
    assert!(taken.contains("--replace"), "{taken}");
    world.skerry(&["node", "deny", &other.fingerprint()]).await?;
    assert_eq!(other.refused(&world, "").await?.code(), Code::PermissionDenied);
    let waiting = world.skerry(&["get", "enrollments", "-o", "name"]).await?;
    assert_eq!(waiting, "");

    // In its place, it is m1 from then on, and the former machine is nobody: its session ends.
    let mut session = one.session(&world, &first).await?;
    session.welcome().await?;
    world.skerry(&["node", "approve", &other.fingerprint(), "--replace"]).await?;
    assert_eq!(session.closing().await?, Reason::Revoked);
    let second = other.enrolled(&world, "").await?;
    assert_eq!((&second.node, &second.node_uid), (&first.node, &first.node_uid));
    other.session(&world, &second).await?.welcome().await?;
    let mut late = one.session(&world, &first).await?;
    assert_eq!(late.closing().await?, Reason::Revoked);
    Ok(())
}

#[tokio::test]
async fn a_node_renews_over_its_stream_until_its_key_is_struck_out() -> Result<()> {
    let world = World::start().await?;
    let token = world.token(&[]).await?;
    let mut machine = Machine::new("m1", "")?;
    let mut enrolled = machine.enrolled(&world, &token).await?;
    let mut session = machine.session(&world, &enrolled).await?;
    assert!(!session.welcome().await?.renew_only);

    // A new key, vouched for by the old one.
    let new = Arc::new(KeyPair::generate()?);
    let certificate_request = CertificateRequest::make(&*new)?.to_vec().into();
    session.say(Up::RenewalRequest(pb::RenewalRequest { certificate_request, ..Default::default() })).await?;
    let renewed = match session.next().await? {
        Down::Renewal(renewal) => renewal.certificate.with_context(|| renewal.refused)?,
        other => bail!("no Renewal: {other:?}"),
    };
    // Both are good until the node was seen with the new one.
    machine.session(&world, &enrolled).await?.welcome().await?;
    let old = std::mem::replace(&mut machine.key, new);
    let former = enrolled.certificate.replace(renewed);
    let mut session = machine.session(&world, &enrolled).await?;
    session.welcome().await?;
    let record = world.node("m1").await?.context("a node")?;
    assert_eq!(record.key_id[..], machine.key.public_key().id().as_bytes()[..]);
    assert!(record.next_key_id.is_empty());
    let stale = Machine { key: old, ..Machine::new("m1", "")? };
    let stale_enrolled = pb::Enrolled { certificate: former, ..enrolled.clone() };
    assert_eq!(stale.session(&world, &stale_enrolled).await?.closing().await?, Reason::Revoked);

    // Struck out: the session that lives ends, and no other begins; a token of before does not help.
    let spare = world.token(&["--uses=5"]).await?;
    world.skerry(&["node", "revoke", "m1"]).await?;
    assert_eq!(session.closing().await?, Reason::Revoked);
    assert_eq!(machine.session(&world, &enrolled).await?.closing().await?, Reason::Revoked);
    assert_eq!(machine.refused(&world, &spare).await?.code(), Code::PermissionDenied);
    let later = world.token(&[]).await?;
    let again = machine.enrolled(&world, &later).await?;
    machine.session(&world, &again).await?.welcome().await?;

    // Deleted and made again by another machine: the former one's certificate is that of nobody.
    world.skerry(&["delete", "node/m1"]).await?;
    let successor = Machine::new("m1", "")?;
    let new = successor.enrolled(&world, &world.token(&[]).await?).await?;
    assert_ne!(new.node_uid, again.node_uid);
    assert_eq!(machine.session(&world, &again).await?.closing().await?, Reason::Revoked);
    successor.session(&world, &new).await?.welcome().await?;
    Ok(())
}

#[tokio::test]
async fn the_agent_itself_enrols_by_its_token_and_is_a_node_until_it_is_revoked() -> Result<()> {
    let world = World::start().await?;
    let token = world.token(&["--labels=site=oslo"]).await?;
    private_file::replace(&world.dir.path().join("token"), token.as_bytes())?;
    let mut command = Command::new(bin("skerry-agent"));
    command.arg(format!("--gateway={}", world.gateway())).args(["--node=a1", "--no-docker"]);
    command.arg("--token-file").arg(world.dir.path().join("token")).env("HOME", world.dir.path());
    command.arg("--data-dir").arg(world.dir.path().join("a1")).stdin(Stdio::null());
    let mut agent = Process::spawn_command(&mut command, world.dir.path().join("agent"))?;
    let connected = async |wanted: bool| {
        let said = world.skerry(&["get", "node/a1", "-o", "jsonpath={.status.connection.connected}"]).await?;
        ensure!((said.trim() == "true") == wanted, "{said}\n{}", agent.output());
        Ok::<_, anyhow::Error>(())
    };
    eventually("a1 is connected", PATIENCE, || connected(true)).await;
    assert_eq!(world.token_record(&token).await?.1.uses, 1);
    world.skerry(&["node", "revoke", "a1"]).await?;
    eventually("a1 is cut off", PATIENCE, || connected(false)).await;
    agent.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn out_of_time_a_known_node_renews_and_does_nothing_else() -> Result<()> {
    let world = World::start().await?;
    let machine = Machine::new("m1", "")?;
    let enrolled = machine.enrolled(&world, &world.token(&[]).await?).await?;
    let key = authority::authority_key();
    let record = world.store.get(&key).await?.context("an authority")?.value;
    let opened = seal::open(&*world.keys, &record.sealed_key, key.as_str().as_bytes())?;
    let issuer = Arc::new(KeyPair::from_pem(opened.expose())?);
    let intermediate = IntermediateAuthority::load(record.chain.as_bytes(), issuer)?;
    let order = Order {
        public_key: machine.key.public_key(),
        identity: &Identity::parse("spiffe://example.org/project/default/node/m1")?,
        usage: Usage::Client,
        dns_names: &[],
        addresses: &[],
        life: Life {
            not_before: SystemTime::now() - Duration::from_secs(240),
            lifetime: Duration::from_secs(60),
        },
    };
    let chain = intermediate.issue(&order)?.chain.iter().map(|der| der.to_vec().into()).collect();
    let certificate = enrolled.certificate.clone().map(|known| pb::IssuedCertificate { chain, ..known });
    let expired = pb::Enrolled { certificate, ..enrolled.clone() };

    let mut session = machine.session(&world, &expired).await?;
    assert!(session.welcome().await?.renew_only);
    session.say(Up::Report(pb::Report { sequence: 1, full: true, ..Default::default() })).await?;
    let certificate_request = CertificateRequest::make(&*machine.key)?.to_vec().into();
    session.say(Up::RenewalRequest(pb::RenewalRequest { certificate_request, ..Default::default() })).await?;
    let renewed = match session.next().await? {
        Down::Renewal(renewal) => renewal.certificate.with_context(|| renewal.refused)?,
        other => bail!("the report is not answered, the renewal is: {other:?}"),
    };
    assert_eq!(session.closing().await?, Reason::Renewed);
    let status = Key::<stored::StatusRecord>::of(&NodeRef::parse(&enrolled.node)?);
    assert!(world.store.get(&status).await?.is_none());
    let renewed = pb::Enrolled { certificate: Some(renewed), ..enrolled };
    assert!(!machine.session(&world, &renewed).await?.welcome().await?.renew_only);
    // Who is out of time and whose key was struck out is nobody.
    world.skerry(&["node", "revoke", "m1"]).await?;
    assert_eq!(machine.session(&world, &expired).await?.closing().await?, Reason::Revoked);
    Ok(())
}

#[tokio::test]
async fn without_a_certificate_nothing_is_answered_but_enrolment() -> Result<()> {
    let world = World::start().await?;
    let tls = ClientTls::pinned(world.pin, Expected::Dialled);
    let channel = skerry_rpc::connect(&world.gateway(), Some(&tls)).await?;
    let hello = pb::Hello {
        protocol_version: 1,
        node: "projects/default/nodes/m1".to_owned(),
        boot_id: "boot".to_owned(),
        ..pb::Hello::default()
    };
    let frames = futures_util::stream::iter([pb::SyncRequest { body: Some(Up::Hello(hello)) }]);
    let refused = SyncServiceClient::new(channel).sync(frames).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // And the registry lets nobody in at all who has none.
    let registry = format!("https://127.0.0.1:{}", world.registry);
    assert!(skerry_rpc::connect(&registry, Some(&tls)).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_stolen_store_has_neither_a_usable_token_nor_a_key() -> Result<()> {
    let mut world = World::start().await?;
    let token = world.token(&["--uses=0"]).await?;
    let machine = Machine::new("m1", "SN-findable")?;
    machine.enrolled(&world, &token).await?;
    let id = Token::parse(&token)?.id().to_string();
    let body = token.rsplit('_').next().context("a body")?.to_owned();
    let read = world.store.get(&authority::authority_key()).await?.context("an authority")?;
    assert!(read.value.chain.contains("BEGIN CERTIFICATE"));
    assert!(read.value.sealed_key.len() > 100);
    // Nothing is left in memory only.
    world.etcd.stop().await?;
    let (mut files, mut bytes) = (Vec::new(), Vec::new());
    list(world.etcd.dir(), &mut files)?;
    for file in &files {
        bytes.extend(fs::read(file)?);
    }
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(has(id.as_bytes()) && has(b"BEGIN CERTIFICATE"), "this looks at what the store wrote");
    assert!(!has(body.as_bytes()) && !has(token.as_bytes()), "the token");
    assert!(!has(b"PRIVATE KEY"), "a key in PEM");
    Ok(())
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
