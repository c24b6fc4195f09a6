//! The agent's identity against the real services: it enrols, renews while its app runs, comes back after its certificate has expired, and
//! is struck out, wherever its data directory was copied to.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use skerry_identity::authority::{IntermediateAuthority, Life, Order};
use skerry_identity::bundle::Trust;
use skerry_identity::certificate::Usage;
use skerry_identity::key_ring::KeyRing;
use skerry_identity::{Identity, KeyPair, PeerCertificate, SigningKey, TrustDomain, seal};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Witness, apps};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::registry::v1::enrollment_request_service_client::EnrollmentRequestServiceClient;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_proto::registry::v1::token_service_client::TokenServiceClient;
use skerry_proto::registry::v1::{
    ApproveEnrollmentRequest, CreateTokenRequest, GetNodeRequest, ListEnrollmentsRequest, RevokeNodeRequest,
    Token,
};
use skerry_proto::scheduler::v1::app_service_client::AppServiceClient;
use skerry_proto::scheduler::v1::{App, DeleteAppRequest, UpdateAppRequest};
use skerry_proto::types::v1::{Metadata, condition};
use skerry_registry::authority::{AuthorityDir, authority_key, init};
use skerry_rpc::{ClientTls, TlsFile, TlsPaths};
use skerry_store::{Store, StoreConfig, Target};
use skerry_testing::{Etcd, Process, bin, eventually, free_port};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::{CertificateDer, DnsName};
use tonic::transport::Channel;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const NODE: &str = "projects/default/nodes/n1";

/// An installation with an authority of its own: registry, scheduler and gateway over mutual TLS.
struct World {
    dir: TempDir,
    intermediate: IntermediateAuthority,
    pin: String,
    root: PathBuf,
    client: ClientTls,
    ports: [u16; 3],
    services: Vec<Process>,
    etcd: Etcd,
}

impl World {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let etcd = Etcd::start().await?;
        let store = Store::connect(StoreConfig::new(Target::parse(&etcd.endpoint())?)).await?;
        let key_file = dir.path().join("keys");
        let keys = KeyRing::load_or_make(&key_file)?;
        let domain = TrustDomain::parse("example.org")?;
        let made = init(&store, &AuthorityDir::new(dir.path().join("authority")), &keys, &domain).await?;
        let key = seal::open(&keys, &made.record.sealed_key, authority_key().as_str().as_bytes())?;
        let key = Arc::new(KeyPair::from_pem(key.expose())?);
        let intermediate = IntermediateAuthority::load(made.record.chain.as_bytes(), key)?;
        let root = dir.path().join("root.crt");
        let bundle = skerry_identity::TrustBundle::from_der(&made.record.roots)?;
        std::fs::write(&root, bundle.to_pem())?;
        let ports = [free_port(), free_port(), free_port()];
        let mut world = Self {
            pin: made.roots[0].to_string(),
            client: client(&dir, &root, &intermediate)?,
            intermediate,
            root,
            ports,
            services: Vec::new(),
            etcd,
            dir,
        };
        let registry = format!("--registry={}", world.url(0));
        let keys = format!("--key-file={}", key_file.display());
        let etcd = format!("--etcd={}", world.etcd.endpoint());
        let programs = [("registry", vec![keys]), ("scheduler", vec![]), ("gateway", vec![registry])];
        for ((name, more), port) in programs.into_iter().zip(ports) {
            let mut command = Command::new(bin(&format!("skerry-{name}")));
            command.arg(format!("--listen=127.0.0.1:{port}")).arg(&etcd).args(more);
            let identity = format!("project/system/service/{name}");
            for (flag, path) in flags(&world.dir, &world.root, &world.intermediate, name, &identity)? {
                command.arg(flag).arg(path);
            }
            let log = world.dir.path().join(format!("{name}.log"));
            let mut process = Process::spawn_command(&mut command, log)?;
            process.wait_for_port(format!("127.0.0.1:{port}").parse()?, PATIENCE).await?;
            world.services.push(process);
        }
        Ok(world)
    }

    /// Of registry, scheduler, gateway.
    fn url(&self, index: usize) -> String {
        format!("https://127.0.0.1:{}", self.ports[index])
    }

    async fn channel(&self, index: usize) -> Result<Channel> {
        Ok(skerry_rpc::connect(&self.url(index), Some(&self.client)).await?)
    }

    async fn token(&self) -> Result<String> {
        let request = CreateTokenRequest {
            parent: "projects/default".into(),
            token: Some(Token::default()),
            ttl: None,
        };
        let made = TokenServiceClient::new(self.channel(0).await?).create_token(request).await?;
        Ok(made.into_inner().text)
    }

    fn data(&self, machine: &str) -> PathBuf {
        self.dir.path().join(machine)
    }

    fn agent(&self, machine: &str, words: &[&str]) -> Result<Process> {
        let mut command = Command::new(bin("skerry-agent"));
        command.args(["--no-docker", "--gateway", &self.url(2), "--data-dir"]).arg(self.data(machine));
        command.args(words);
        Process::spawn_command(&mut command, self.dir.path().join(format!("{machine}.log")))
    }

    /// Waits until the node is connected, or is not.
    async fn connected(&self, wanted: bool) -> Result<()> {
        let channel = self.channel(0).await?;
        eventually(if wanted { "the node is connected" } else { "it is not" }, PATIENCE, async || {
            let request = GetNodeRequest { name: NODE.to_owned() };
            let node = NodeServiceClient::new(channel.clone()).get_node(request).await?.into_inner();
            let conditions = node.node.unwrap_or_default().status.unwrap_or_default().conditions;
            let connected = conditions.iter().find(|condition| condition.r#type == "Connected");
            let is = connected.is_some_and(|condition| condition.status() == condition::Status::True);
            ensure!(is == wanted, "{conditions:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await;
        Ok(())
    }

    async fn apply(&self, witness: &Witness) -> Result<()> {
        let metadata = Metadata { name: "projects/default/apps/app".into(), ..Default::default() };
        let spec = Some(apps::app([witness.service("web", "1")]));
        let app = Some(App { metadata: Some(metadata), spec, status: None });
        let request = UpdateAppRequest { app, allow_missing: true, ..Default::default() };
        AppServiceClient::new(self.channel(1).await?).update_app(request).await?;
        Ok(())
    }

    async fn finish(&self, witness: &Witness) -> Result<()> {
        let request = DeleteAppRequest { name: "projects/default/apps/app".into(), ..Default::default() };
        AppServiceClient::new(self.channel(1).await?).delete_app(request).await?;
        witness.wait_running(0).await;
        Ok(())
    }

    /// Lets in the machine that waits for it.
    async fn approve(&self) -> Result<()> {
        let channel = self.channel(0).await?;
        let waiting = eventually("a machine waits", PATIENCE, async || {
            let request = ListEnrollmentsRequest { parent: "projects/default".into() };
            let listed =
                EnrollmentRequestServiceClient::new(channel.clone()).list_enrollments(request).await?;
            listed.into_inner().enrollments.pop().context("nobody")
        })
        .await;
        let request = ApproveEnrollmentRequest { name: waiting.name, replace: true, ..Default::default() };
        EnrollmentRequestServiceClient::new(channel).approve_enrollment(request).await?;
        Ok(())
    }

    /// What is on the machine's disk of its certificate.
    fn certificate(&self, machine: &str) -> Result<PeerCertificate> {
        let (_, record) = read(&self.data(machine))?;
        let issued = record.enrolled.and_then(|enrolled| enrolled.certificate).context("a certificate")?;
        let chain: Vec<_> = issued.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        Ok(Trust::new(self.bundle()?).client(&chain, SystemTime::now())?.certificate().clone())
    }

    fn bundle(&self) -> Result<skerry_identity::TrustBundle> {
        Ok(skerry_identity::TrustBundle::parse_pem(&std::fs::read(&self.root)?)?)
    }

    /// Puts another certificate of the same authority and key onto the machine's disk, as if it had been issued at another time.
    fn age(&self, machine: &str, life: Life) -> Result<()> {
        let (path, mut record) = read(&self.data(machine))?;
        let generation = path.parent().context("a directory")?;
        let key = KeyPair::from_pem(&std::fs::read(generation.join("tls.key"))?)?;
        let order = Order {
            public_key: key.public_key(),
            identity: &Identity::parse("spiffe://example.org/project/default/node/n1")?,
            usage: Usage::Client,
            dns_names: &[],
            addresses: &[],
            life,
        };
        let chain = self.intermediate.issue(&order)?.chain;
        let chain = chain.iter().map(|der| bytes::Bytes::copy_from_slice(der)).collect();
        let enrolled = record.enrolled.as_mut().context("an enrolment")?;
        enrolled.certificate.as_mut().context("a certificate")?.chain = chain;
        let body = record.encode_to_vec();
        let hash = blake3::hash(&body);
        std::fs::write(path, [b"SKRYIDN1".as_slice(), hash.as_bytes(), &body].concat())?;
        Ok(())
    }
}

/// The agent's file, as `services/agent/src/identity/kept.rs` says.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(message, optional, tag = "1")]
    enrolled: Option<pb::Enrolled>,
    #[prost(string, tag = "2")]
    token_id: String,
}

fn read(data: &Path) -> Result<(PathBuf, Record)> {
    let identity = std::fs::read_dir(data.join("identity"))?;
    let enrolled = identity.flatten().map(|entry| entry.path().join("enrolled")).find(|path| path.exists());
    let path = enrolled.context("no enrolment")?;
    let record = Record::decode(&std::fs::read(&path)?[40..])?;
    Ok((path, record))
}

/// The certificate and the roots of a machine, by its data directory.
pub(crate) fn issued(data: &Path) -> Result<pb::IssuedCertificate> {
    read(data)?.1.enrolled.and_then(|enrolled| enrolled.certificate).context("a certificate")
}

/// A certificate from the authority for a service or a user, in files.
fn flags(
    dir: &TempDir,
    root: &Path,
    intermediate: &IntermediateAuthority,
    name: &str,
    identity: &str,
) -> Result<[(&'static str, PathBuf); 3]> {
    let key = KeyPair::generate()?;
    let identity = Identity::parse(&format!("spiffe://example.org/{identity}"))?;
    let is_service = matches!(identity.principal, skerry_identity::Principal::Service(_));
    let addresses = [IpAddr::from([127, 0, 0, 1])];
    let dns_names = [DnsName::try_from("localhost")?];
    let issued = intermediate.issue(&Order {
        public_key: key.public_key(),
        identity: &identity,
        usage: if is_service { Usage::Both } else { Usage::Client },
        dns_names: if is_service { &dns_names } else { &[] },
        addresses: if is_service { &addresses } else { &[] },
        life: Life { not_before: SystemTime::now() - Duration::from_secs(60), lifetime: DAY },
    })?;
    let at = |suffix: &str| dir.path().join(format!("{name}.{suffix}"));
    std::fs::write(at("crt"), issued.to_pem())?;
    ensure!(skerry_identity::private_file::create(&at("key"), key.to_pem().as_bytes())?, "it is there");
    Ok([("--tls-cert", at("crt")), ("--tls-key", at("key")), ("--tls-ca", root.to_owned())])
}

fn client(dir: &TempDir, root: &Path, intermediate: &IntermediateAuthority) -> Result<ClientTls> {
    let files = flags(dir, root, intermediate, "ops", "project/system/user/admin")?;
    let [certificate, key, authority] = files.map(|(setting, path)| TlsFile { setting, path });
    Ok(skerry_rpc::TlsFiles::load(TlsPaths { own: Some((certificate, key)), authority })?.client())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_or_after_its_end_and_what_runs_runs_on() -> Result<()> {
    let (world, witness) = (World::start().await?, Witness::new()?);
    let token = world.token().await?;
    let mut agent = world.agent("one", &["--token", &token, "--node", "n1"])?;
    world.connected(true).await?;
    world.apply(&witness).await?;
    let app = witness.wait_running(1).await;

    // Nine tenths of its life are over; and then: it ended a minute ago. Nothing is older than the authority.
    let now = SystemTime::now();
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let in_time = Life { not_before: now - minutes(4), lifetime: minutes(5) };
    let ended = Life { not_before: now - minutes(4), lifetime: minutes(3) };
    for life in [in_time, ended] {
        agent.kill()?;
        world.age("one", life)?;
        let old = world.certificate("one")?;
        agent = world.agent("one", &[])?;
        eventually("it is renewed", PATIENCE, async || {
            let new = world.certificate("one")?;
            ensure!(new.not_after > now + 20 * DAY && new.key_id == old.key_id, "{new:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await;
        world.connected(true).await?;
        assert_eq!(witness.running(), app, "the app was touched");
    }
    world.finish(&witness).await?;
    agent.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_stolen_disk_is_struck_out_and_the_machine_comes_back_by_approval_with_its_app_running()
-> Result<()> {
    let (world, witness) = (World::start().await?, Witness::new()?);
    // It came in by approval too.
    let mut agent = world.agent("one", &["--ca-pin", &world.pin, "--node", "n1"])?;
    agent.wait_for_line("skerry node approve", PATIENCE).await?;
    world.approve().await?;
    world.connected(true).await?;
    world.apply(&witness).await?;
    let app = witness.wait_running(1).await;
    let stolen = world.certificate("one")?;
    copy(&world.data("one").join("identity"), &world.dir.path().join("loot"))?;

    let request = RevokeNodeRequest { name: NODE.to_owned() };
    NodeServiceClient::new(world.channel(0).await?).revoke_node(request).await?;
    agent.wait_for_line("struck out", PATIENCE).await?;
    world.connected(false).await?;
    assert_eq!(witness.running(), app);

    // Who has the disk gets nothing by it.
    std::fs::create_dir(world.data("thief"))?;
    std::fs::rename(world.dir.path().join("loot"), world.data("thief").join("identity"))?;
    let mut thief = world.agent("thief", &[])?;
    thief.wait_for_line("struck out", PATIENCE).await?;
    thief.kill()?;
    world.connected(false).await?;

    // Of the two that wait, the operator knows the right one by its fingerprint.
    let fingerprint = eventually("the machine shows its new fingerprint", PATIENCE, async || {
        let output = agent.output();
        let mut told = output.split("skerry node approve ").skip(2);
        let word = told.next().and_then(|rest| rest.split_whitespace().next());
        word.map(str::to_owned).context("not yet")
    })
    .await;
    let name = format!("projects/default/enrollments/{fingerprint}");
    let request = ApproveEnrollmentRequest { name, replace: true, ..Default::default() };
    EnrollmentRequestServiceClient::new(world.channel(0).await?).approve_enrollment(request).await?;
    world.connected(true).await?;
    let new = world.certificate("one")?;
    assert_ne!(new.key_id, stolen.key_id);
    assert_eq!(witness.running(), app);
    world.finish(&witness).await?;
    agent.terminate(PATIENCE).await?;
    Ok(())
}
