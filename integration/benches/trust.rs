//! `cargo xtask bench trust`: certificates and TLS handshakes a second on one core, what this server adds to a unary call, and the audit log
//! to a change.
//!
//! Method. *Certificates*: a request (PKCS#10) is read, its signature checked, and a node's certificate issued, one after the other on one
//! thread. *Handshakes*: both ends in memory on one thread, TLS 1.3 with certificates on both sides, as services and agents make them;
//! beside them rustls by itself with the same suites, the same certificates, its own verifiers, and no resumption either. *Calls*: a
//! health check over loopback, one at a time on one connection: to a bare tonic server, to ours without TLS, and to ours with it; and there a
//! user's call that is judged by a role in the project which the request names, among a thousand users, beside the user's health check, which
//! is judged by the certificate alone. *Audit*: a
//! transaction on a real etcd that compares a record and writes it anew, one at a time, without a record in the audit log and with it. What is
//! compared takes turns, the first of a round in turn, so that what else the machine does hits all; a figure is the median of the rounds.
//!
//! `--quick`: two short rounds. `--rounds=N`.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use skerry_api::AccessMirror;
use skerry_identity::authority::{Life, Order, RootAuthority};
use skerry_identity::certificate::Usage;
use skerry_identity::clock::SystemClock;
use skerry_identity::csr;
use skerry_identity::tls::{Credentials, client_config, server_config};
use skerry_identity::verify::{ClientVerifier, Clients, Expected, ServerVerifier, Time};
use skerry_identity::{Identity, KeyId, KeyPair, SigningKey as _, Trust, TrustDomain};
use skerry_model::{NodeRef, ProjectName, RoleBindingRef, UserRef};
use skerry_proto::registry::v1::installation_service_client::InstallationServiceClient;
use skerry_proto::registry::v1::installation_service_server::{
    InstallationService, InstallationServiceServer,
};
use skerry_proto::registry::v1::{self as registry, GetInstallationRequest, GetInstallationResponse};
use skerry_proto::store::v1::{Meta, NodeRecord, RoleBindingRecord, UserKeyRecord, UserRecord};
use skerry_proto::types::v1::{AuditCaller, AuditOutcome};
use skerry_rpc::{Access, ClientTls, Server, ServerTls, connect};
use skerry_store::{Act, Key, Store, StoreConfig, Target, Txn};
use skerry_testing::{Authority, Etcd, Figures, percentile};
use support::{median, note_load, option, quick};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const DOMAIN: &str = "example.org";
const SERVICE: &str = "spiffe://example.org/project/system/service/gateway";
const NODE: &str = "spiffe://example.org/project/default/node/n1";
/// Who calls: a service, which is judged by its name alone.
const CALLER: &str = "spiffe://example.org/project/system/service/scheduler";
const USER: &str = "spiffe://example.org/project/default/user/ada";
/// Other users, each with a role in a project of its own: the mirror that is asked holds them all.
const USERS: usize = 1000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ROUNDS: usize = 15;
/// How long a round issues, and shakes hands, each.
const ROUND: Duration = Duration::from_millis(500);
const QUICK_ROUND: Duration = Duration::from_millis(50);
/// Calls of a round on each server.
const CALLS: usize = 300;
const QUICK_CALLS: usize = 30;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let figures = Figures::from_args();
    let rounds = option("--rounds")?.unwrap_or(if quick() { 2 } else { ROUNDS });
    let time = if quick() { QUICK_ROUND } else { ROUND };
    note_load(&figures);
    issue(&figures, rounds, time)?;
    handshakes(&figures, rounds, time)?;
    calls(&figures, rounds).await?;
    let etcd = Etcd::start().await?;
    // Without a writer's name, so that it takes changes without a record too.
    let store = Store::connect(StoreConfig::new(Target::parse(&etcd.endpoint())?)).await?;
    judged(&figures, &store, rounds).await?;
    audit(&figures, &store, rounds).await?;
    store.close().await;
    note_load(&figures);
    Ok(())
}

/// How often a second `work` is done.
fn rate(time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    let mut done = 0_u32;
    while begun.elapsed() < time {
        work()?;
        done += 1;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

fn issue(figures: &Figures, rounds: usize, time: Duration) -> Result<()> {
    let now = SystemTime::now();
    let life = Life { not_before: now - DAY, lifetime: 365 * DAY };
    let root = RootAuthority::create(&TrustDomain::parse(DOMAIN)?, Arc::new(KeyPair::generate()?), life)?;
    let authority = root.intermediate(Arc::new(KeyPair::generate()?), life)?;
    let request = csr::Request::make(&KeyPair::generate()?)?;
    let identity = Identity::parse(NODE)?;
    let mut rates = Vec::new();
    for _ in 0..rounds {
        rates.push(rate(time, || {
            let request = csr::Request::parse(&request)?;
            let life = Life { not_before: now, lifetime: 30 * DAY };
            let issued = authority.issue(&Order {
                public_key: request.public_key(),
                identity: &identity,
                usage: Usage::Client,
                dns_names: &[],
                addresses: &[],
                life,
            })?;
            ensure!(!issued.chain.is_empty(), "nothing was issued");
            Ok(())
        })?);
    }
    figures.show("trust.issue", median(&rates), "/s");
    Ok(())
}

/// One handshake, both ends.
fn shake(client: &Arc<rustls::ClientConfig>, server: &Arc<rustls::ServerConfig>) -> Result<()> {
    let name = rustls::pki_types::ServerName::try_from("localhost")?;
    let mut client = rustls::ClientConnection::new(Arc::clone(client), name)?;
    let mut server = rustls::ServerConnection::new(Arc::clone(server))?;
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire)?;
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire)?;
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
    }
    ensure!(server.peer_certificates().is_some_and(|chain| !chain.is_empty()), "the client proved nothing");
    Ok(())
}

fn handshakes(figures: &Figures, rounds: usize, time: Duration) -> Result<()> {
    let authority = Authority::new(DOMAIN);
    let trust = Trust::new(authority.bundle());
    let ((server_chain, server_key), (client_chain, client_key)) = {
        let ((server, server_key), (client, client_key)) = (authority.issue(SERVICE), authority.issue(NODE));
        ((server.chain, server_key), (client.chain, client_key))
    };
    let ours = (
        Arc::new(client_config(
            Credentials::new(client_chain.clone(), client_key.clone())?,
            Arc::new(ServerVerifier::new(
                Arc::clone(&trust),
                Expected::Dialled,
                Time::Exact(Arc::new(SystemClock)),
            )),
        )),
        Arc::new(server_config(
            Credentials::new(server_chain.clone(), server_key.clone())?,
            Arc::new(ClientVerifier::new(trust, Clients::Required)),
        )),
    );

    let provider = Arc::clone(ours.1.crypto_provider());
    let mut roots = rustls::RootCertStore::empty();
    for root in authority.bundle().roots() {
        roots.add(root.certificate().clone())?;
    }
    let roots = Arc::new(roots);
    let key = |key: &KeyPair| {
        rustls::pki_types::pem::PemObject::from_pem_slice(key.to_pem().as_bytes()).context("a private key")
    };
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::clone(&roots),
        Arc::clone(&provider),
    );
    let mut bare_server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients.build()?)
        .with_single_cert(server_chain, key(&server_key)?)?;
    bare_server.send_tls13_tickets = 0;
    let mut bare_client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(client_chain, key(&client_key)?)?;
    bare_client.resumption = rustls::client::Resumption::disabled();
    let bare = (Arc::new(bare_client), Arc::new(bare_server));

    let (mut ours_rates, mut bare_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let of = |(client, server): &(Arc<_>, Arc<_>)| rate(time, || shake(client, server));
        let (our, their) = if round % 2 == 0 {
            let our = of(&ours)?;
            (our, of(&bare)?)
        } else {
            let their = of(&bare)?;
            (of(&ours)?, their)
        };
        ours_rates.push(our);
        bare_rates.push(their);
        ratios.push(our / their);
    }
    figures.show("trust.handshake", median(&ours_rates), "/s");
    figures.show("trust.handshake.rustls", median(&bare_rates), "/s");
    figures.show("trust.handshake.ratio", median(&ratios), "x");
    Ok(())
}

async fn calls(figures: &Figures, rounds: usize) -> Result<()> {
    let authority = Authority::new(DOMAIN);
    let trust = || Trust::new(authority.bundle());
    let credentials = |identity: &str| {
        let (issued, key) = authority.issue(identity);
        Credentials::new(issued.chain, key)
    };
    let mut tasks = JoinSet::new();
    let mut channels = Vec::new();

    let (listener, url) = listen("http").await?;
    let (reporter, health) = tonic_health::server::health_reporter();
    tasks.spawn(async move {
        // Health of the whole server is SERVING from the start.
        let _reporter = reporter;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming).await.is_ok()
    });
    channels.push(("bare", connect(&url, None).await?));

    let secured = ServerTls::new(credentials(SERVICE)?, trust(), Clients::Required);
    let caller =
        ClientTls::new(credentials(CALLER)?, trust(), Expected::Dialled, Time::Exact(Arc::new(SystemClock)));
    for (name, scheme, access, tls) in [
        ("plain", "http", Access::Insecure, None),
        ("mtls", "https", Access::Certificate(secured), Some(&caller)),
    ] {
        let (listener, url) = listen(scheme).await?;
        let server = Server::new(access)?;
        tasks.spawn(async move { server.serve(listener, CancellationToken::new()).await.is_ok() });
        channels.push((name, connect(&url, tls).await?));
    }

    let calls = if quick() { QUICK_CALLS } else { CALLS };
    let mut medians = vec![Vec::new(); channels.len()];
    for round in 0..=rounds {
        for turn in 0..channels.len() {
            let which = (round + turn) % channels.len();
            let p50 = health_p50_us(&channels[which].1, calls).await?;
            // The first round is for warming up.
            if round > 0 {
                medians[which].push(p50);
            }
        }
    }
    for ((name, _), medians) in channels.iter().zip(&medians) {
        figures.show(&format!("trust.call.{name}.p50"), median(medians), "us");
    }
    for (name, which, beside) in [("layers", 1, 0), ("tls", 2, 1)] {
        let added: Vec<f64> = medians[which].iter().zip(&medians[beside]).map(|(a, b)| a - b).collect();
        figures.show(&format!("trust.call.{name}.adds"), median(&added), "us");
    }
    Ok(())
}

/// Answers at once: what is measured is who may ask.
struct Idle;

#[tonic::async_trait]
impl InstallationService for Idle {
    async fn get_installation(
        &self,
        _: Request<GetInstallationRequest>,
    ) -> Result<Response<GetInstallationResponse>, Status> {
        Ok(Response::new(GetInstallationResponse::default()))
    }
}

/// Writes a user with this key and a role in the user's project.
async fn admit(store: &Store, user: &UserRef, key: &KeyId) -> Result<()> {
    let key = UserKeyRecord { key_id: key.as_bytes().to_vec().into(), create_time: None };
    let record = UserRecord { meta: None, keys: vec![key] };
    let binding = RoleBindingRecord {
        role: registry::Role::Viewer.into(),
        users: vec![user.to_string()],
        ..RoleBindingRecord::default()
    };
    let bound = RoleBindingRef::parse(&format!("projects/{}/roleBindings/viewers", user.project))?;
    let txn = Txn::new().put(&Key::of(user), &record).put(&Key::of(&bound), &binding);
    store.commit(txn).await?;
    Ok(())
}

async fn judged(figures: &Figures, store: &Store, rounds: usize) -> Result<()> {
    let authority = Authority::new(DOMAIN);
    let trust = || Trust::new(authority.bundle());
    let credentials = |identity: &str| {
        let (issued, key) = authority.issue(identity);
        let id = key.public_key().id();
        Ok::<_, anyhow::Error>((Credentials::new(issued.chain, key)?, id))
    };
    let (user, key) = credentials(USER)?;
    admit(store, &UserRef::parse("projects/default/users/ada")?, &key).await?;
    for other in 0..USERS {
        admit(store, &UserRef::parse(&format!("projects/p{other}/users/ada"))?, &key).await?;
    }
    let mirror = AccessMirror::start(store).await?;

    let (listener, url) = listen("https").await?;
    let mut server = Server::new(Access::Certificate(ServerTls::new(
        credentials(SERVICE)?.0,
        trust(),
        Clients::Required,
    )))?;
    server.add(InstallationServiceServer::new(Idle)).authorize(Arc::new(mirror));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.serve(listener, CancellationToken::new()).await.is_ok() });
    let tls = ClientTls::new(user, trust(), Expected::Dialled, Time::Exact(Arc::new(SystemClock)));
    let channel = connect(&url, Some(&tls)).await?;

    let calls = if quick() { QUICK_CALLS } else { CALLS };
    let (mut known, mut judged) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (first, second) = if round % 2 == 0 {
            let first = health_p50_us(&channel, calls).await?;
            (first, judged_p50_us(&channel, calls).await?)
        } else {
            let second = judged_p50_us(&channel, calls).await?;
            (health_p50_us(&channel, calls).await?, second)
        };
        // The first round is for warming up.
        if round > 0 {
            known.push(first);
            judged.push(second);
        }
    }
    figures.show("trust.call.user.p50", median(&known), "us");
    figures.show("trust.call.user.judged.p50", median(&judged), "us");
    let added: Vec<f64> = judged.iter().zip(&known).map(|(with, without)| with - without).collect();
    figures.show("trust.call.role.adds", median(&added), "us");
    Ok(())
}

async fn judged_p50_us(channel: &Channel, calls: usize) -> Result<f64> {
    let mut client = InstallationServiceClient::new(channel.clone());
    p50_us(calls, async || {
        let request = GetInstallationRequest { parent: "projects/default".to_owned() };
        Ok(client.get_installation(request).await.map(drop)?)
    })
    .await
}

async fn listen(scheme: &str) -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("{scheme}://{}", listener.local_addr()?);
    Ok((listener, url))
}

/// The median time of `calls` calls, one after the other.
async fn p50_us(calls: usize, mut call: impl AsyncFnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        call().await?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    percentile(&mut times, 50.0).context("no calls")
}

async fn health_p50_us(channel: &Channel, calls: usize) -> Result<f64> {
    let mut client = HealthClient::new(channel.clone());
    p50_us(calls, async || Ok(client.check(HealthCheckRequest::default()).await.map(drop)?)).await
}

async fn audit(figures: &Figures, store: &Store, rounds: usize) -> Result<()> {
    let changes = if quick() { QUICK_CALLS } else { CALLS };
    let name = NodeRef::parse("projects/default/nodes/n1")?;
    let act = Act::new(
        AuditCaller { name: USER.to_owned(), ..AuditCaller::default() },
        "skerry.registry.v1.NodeService/UpdateNode",
        ProjectName::parse("default")?,
        name.to_string(),
        AuditOutcome::Updated,
    );
    let mut medians = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for turn in 0..medians.len() {
            let which = (round + turn) % medians.len();
            let p50 = change_p50_us(store, &Key::of(&name), (which == 1).then_some(&act), changes).await?;
            // The first round is for warming up.
            if round > 0 {
                medians[which].push(p50);
            }
        }
    }
    let added: Vec<f64> = medians[1].iter().zip(&medians[0]).map(|(with, without)| with - without).collect();
    figures.show("trust.change.bare.p50", median(&medians[0]), "us");
    figures.show("trust.change.audited.p50", median(&medians[1]), "us");
    figures.show("trust.change.audit.adds", median(&added), "us");
    Ok(())
}

async fn change_p50_us(
    store: &Store,
    key: &Key<NodeRecord>,
    act: Option<&Act>,
    changes: usize,
) -> Result<f64> {
    let mut times = Vec::with_capacity(changes);
    let mut revision = store.get(key).await?.map_or(0, |read| read.mod_revision);
    for generation in 0..changes {
        let meta = Meta { generation: i64::try_from(generation)?, ..Meta::default() };
        let record = NodeRecord { meta: Some(meta), ..NodeRecord::default() };
        let txn = Txn::new().when_unchanged(key, revision).put(key, &record);
        let txn = match act {
            Some(act) => txn.audit(act.clone()),
            None => txn,
        };
        let begun = Instant::now();
        revision = store.commit(txn).await?.revision;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    percentile(&mut times, 50.0).context("no changes")
}
