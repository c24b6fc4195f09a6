//! Real handshakes of rustls, in memory: who gets in at which end.

use std::fmt::Debug;

use rcgen::string::Ia5String;
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::client::danger::ServerCertVerifier;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use skerry_model::{ProjectName, ServiceName};

use super::*;
use crate::certificate::{Client, Standing};
use crate::clock::TimeFloor;
use crate::tls::{client_config, server_config};
use crate::verify::{ClientVerifier, Clients, Expected, ServerVerifier, Time, pinned_root};

/// What came of a handshake.
pub(super) struct Met {
    pub(super) client: ClientConnection,
    pub(super) server: ServerConnection,
}

/// Which end refused, and what it said.
#[derive(Debug)]
pub(super) enum Refusal {
    ByClient(rustls::Error),
    ByServer(rustls::Error),
}

impl Met {
    /// Who the server takes its client for.
    fn client_is(&self, trust: &Trust) -> Option<Client> {
        self.server.peer_certificates().map(|chain| trust.client(chain, today()).unwrap())
    }
}

/// Shakes hands until both ends are done, or one refuses.
pub(super) fn meet(client: ClientConfig, server: ServerConfig, dialled: &str) -> Result<Met, Refusal> {
    let name = ServerName::try_from(dialled.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(Refusal::ByServer)?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(Refusal::ByClient)?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Met { client, server })
}

pub(super) fn server(world: &World, clients: Clients) -> ServerConfig {
    server_config(world.gateway(), Arc::new(ClientVerifier::new(world.trust(), clients)))
}

pub(super) fn exact(world: &World, now: SystemTime) -> Arc<dyn ServerCertVerifier> {
    let time = Time::Exact(Arc::new(Shows(now)));
    Arc::new(ServerVerifier::new(world.trust(), Expected::Dialled, time))
}

pub(super) const DIALLED: &str = "gateway.example.org";

fn services(names: &[&str]) -> Expected {
    let names = names.iter().map(|name| ServiceName::parse(name).unwrap()).collect();
    Expected::Services { project: ProjectName::parse("system").unwrap(), names }
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn said(refusal: &impl Debug) -> String {
    format!("{refusal:?}")
}

/// A client with `chain`, as it comes to a server of `world` today.
fn come(
    world: &World,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Result<Met, Refusal> {
    let credentials = Credentials::unchecked(chain, key);
    meet(client_config(credentials, exact(world, today())), server(world, Clients::Required), DIALLED)
}

#[test]
fn a_client_with_a_certificate_is_who_it_says_whenever_it_was_valid() {
    let world = World::new();
    for (life, standing) in [
        (life(today() - DAY, 30 * DAY), Standing::Valid),
        (life(today() - 300 * DAY, 30 * DAY), Standing::Expired),
        (life(today() + 30 * DAY, 30 * DAY), Standing::NotYetValid),
    ] {
        let key = key();
        let issued = world.issue(NODE, Usage::Client, life, &*key);
        let met =
            come(&world, issued.chain, key.clone()).unwrap_or_else(|error| panic!("{life:?}: {error:?}"));
        let client = met.client_is(&world.trust()).unwrap();
        let peer = client.certificate();
        assert_eq!(matches!(client, Client::Valid(_)), standing == Standing::Valid);
        assert_eq!(peer.identity.to_string(), NODE);
        assert_eq!(peer.key_id, key.public_key().id());
        assert_eq!(peer.standing(today()), standing);
        assert_eq!(met.server.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(met.server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
}

/// A client's certificate that is wrong in one way: which, a word of the server's refusal, and the chain, of this world or another.
type Row = (&'static str, &'static str, fn(&World, &World, &dyn SigningKey) -> Vec<CertificateDer<'static>>);

#[test]
fn a_client_whose_certificate_has_any_other_defect_is_refused() {
    let world = World::new();
    let other = World::new();
    let rows: &[Row] = &[
        ("of another authority", "UnknownIssuer", |_, other, key| {
            other.issue(NODE, Usage::Client, life(today(), DAY), key).chain
        }),
        ("with the intermediate missing", "UnknownIssuer", |world, _, key| {
            world.issue(NODE, Usage::Client, life(today(), DAY), key).chain[..1].to_vec()
        }),
        ("with another authority's intermediate", "UnknownIssuer", |world, other, key| {
            let own = world.issue(NODE, Usage::Client, life(today(), DAY), key).chain;
            let others = other.issue(NODE, Usage::Client, life(today(), DAY), key).chain;
            vec![own[0].clone(), others[1].clone()]
        }),
        ("for servers", "not for a client", |world, _, key| {
            world.issue(GATEWAY, Usage::Server, life(today(), DAY), key).chain
        }),
        ("for nothing", "neither that it is a client's", |world, _, key| {
            world.forge(|params| params.extended_key_usages.clear(), key)
        }),
        ("for other things", "neither that it is a client's", |world, _, key| {
            world.forge(
                |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection],
                key,
            )
        }),
        ("not for signing", "neither that it is a client's", |world, _, key| {
            world.forge(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment], key)
        }),
        ("with two URI names", "with 2 URI names", |world, _, key| {
            world.forge(
                |params| params.subject_alt_names.push(uri("spiffe://example.org/project/default/node/n2")),
                key,
            )
        }),
        ("with the same URI name twice", "with 2 URI names", |world, _, key| {
            world.forge(|params| params.subject_alt_names.push(uri(NODE)), key)
        }),
        ("without a name", "with 0 URI names", |world, _, key| {
            world.forge(|params| params.subject_alt_names.clear(), key)
        }),
        ("with its name in the subject only", "with 0 URI names", |world, _, key| {
            world.forge(
                |params| {
                    params.subject_alt_names.clear();
                    params.distinguished_name.push(rcgen::DnType::CommonName, NODE);
                },
                key,
            )
        }),
        ("with a name of nobody", "not an identity", |world, _, key| {
            world.forge(|params| params.subject_alt_names = vec![uri("https://example.org/n1")], key)
        }),
        ("with a mail address too", "neither a URI", |world, _, key| {
            world.forge(
                |params| {
                    params.subject_alt_names.push(SanType::Rfc822Name(Ia5String::try_from("a@b.c").unwrap()));
                },
                key,
            )
        }),
        ("of another trust domain", "of the trust domain example.com", |world, _, key| {
            world.forge(
                |params| params.subject_alt_names = vec![uri("spiffe://example.com/project/default/node/n1")],
                key,
            )
        }),
        ("of an authority", "of an authority, not of a peer", |world, _, key| {
            world.forge(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained), key)
        }),
        ("with a critical extension that is not known", "BadEncoding", |world, _, key| {
            world.forge(
                |params| {
                    let mut extension =
                        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                    extension.set_criticality(true);
                    params.custom_extensions.push(extension);
                },
                key,
            )
        }),
        ("with an extension twice", "BadEncoding", |world, _, key| {
            world.forge(
                |params| {
                    params.custom_extensions.push(CustomExtension::from_oid_content(
                        &[2, 5, 29, 37],
                        vec![0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02],
                    ));
                },
                key,
            )
        }),
        ("that it issued itself", "UnknownIssuer", |_, _, key| {
            let key_pair = rcgen_key(key);
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names = vec![uri(NODE)];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            vec![params.self_signed(&key_pair).unwrap().into()]
        }),
        ("that a peer issued", "UnknownIssuer|EndEntityUsedAsCa", |world, _, key| {
            let honest = world.issue(NODE, Usage::Client, life(today(), DAY), key).chain;
            let mut issuer = rcgen::CertificateParams::default();
            issuer.distinguished_name = rcgen::DistinguishedName::new();
            let issuer = rcgen::Issuer::new(issuer, rcgen_key(key));
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.subject_alt_names = vec![uri(GATEWAY)];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let leaf = params.signed_by(&rcgen_key(key), &issuer).unwrap();
            vec![leaf.into(), honest[0].clone(), honest[1].clone()]
        }),
        ("in a chain that is too long", "BadEncoding", |world, _, key| {
            let mut chain = world.issue(NODE, Usage::Client, life(today(), DAY), key).chain;
            chain.extend(vec![chain[1].clone(); 5]);
            chain
        }),
    ];
    for (what, word, make) in rows {
        let key = key();
        let refusal = come(&world, make(&world, &other, &*key), key.clone()).err();
        let Some(Refusal::ByServer(error)) = refusal else { panic!("a certificate {what}: {refusal:?}") };
        let said = error.to_string();
        assert!(word.split('|').any(|word| said.contains(word)), "a certificate {what}: {said}");
    }
}

/// A key of ours with which rcgen signs.
fn rcgen_key(key: &dyn SigningKey) -> crate::authority::Signs<'_> {
    crate::authority::Signs(key)
}

#[test]
fn a_stranger_is_heard_only_where_machines_enrol_and_is_nobody_there() {
    let world = World::new();
    let config = || client_config(Credentials::none(), exact(&world, today()));
    let refusal = meet(config(), server(&world, Clients::Required), DIALLED).err();
    assert!(
        matches!(refusal, Some(Refusal::ByServer(rustls::Error::NoCertificatesPresented))),
        "{refusal:?}"
    );
    let met = meet(config(), server(&world, Clients::Optional), DIALLED).unwrap();
    assert_eq!(met.client_is(&world.trust()), None);

    // A certificate that is presented must pass there too.
    let (other, key) = (World::new(), key());
    let issued = other.issue(NODE, Usage::Client, life(today(), DAY), &*key);
    let client = client_config(Credentials::new(issued.chain, key).unwrap(), exact(&world, today()));
    assert!(matches!(meet(client, server(&world, Clients::Optional), DIALLED), Err(Refusal::ByServer(_))));
}

/// Says that it has a key, and signs with another.
#[derive(Debug)]
struct Liar(crate::PublicKey, Arc<dyn SigningKey>);
impl SigningKey for Liar {
    fn public_key(&self) -> &crate::PublicKey {
        &self.0
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, crate::key::SignError> {
        self.1.sign(message)
    }
}

#[test]
fn a_stolen_certificate_is_nothing_without_its_key() {
    let world = World::new();
    let (own, stolen) = (key(), key());
    let issued = world.issue(NODE, Usage::Client, life(today(), DAY), &*stolen);
    assert!(Credentials::new(issued.chain.clone(), own.clone()).is_err());
    let liar = Arc::new(Liar(stolen.public_key().clone(), own));
    let Err(Refusal::ByServer(error)) = come(&world, issued.chain, liar) else { panic!("let in") };
    assert!(said(&error).contains("BadSignature"), "{error:?}");
}

#[test]
fn a_leaf_has_expired_with_the_intermediate_that_issued_it() {
    let world = World::new();
    let retired = world.root.intermediate(key(), life(today() - YEAR, 30 * DAY)).unwrap();
    let world = World { intermediate: retired, ..world };
    let key = key();
    let order = Order {
        public_key: key.public_key(),
        identity: &Identity::parse(NODE).unwrap(),
        usage: Usage::Client,
        dns_names: &[],
        addresses: &[],
        life: life(today() - YEAR, DAY),
    };
    let honest = world.intermediate.issue(&order).unwrap().chain;
    // Whoever stole the key of the retired intermediate issues what no honest one would: beyond its end.
    let leaf = world.intermediate.forge(&order, |params| params.not_after = rcgen::date_time_ymd(2099, 1, 1));
    let trust = world.trust();
    let gateway = World::new();
    let server =
        server_config(gateway.gateway(), Arc::new(ClientVerifier::new(trust.clone(), Clients::Required)));
    let credentials = Credentials::new(vec![leaf, honest[1].clone()], key).unwrap();
    let met = meet(client_config(credentials, exact(&gateway, today())), server, DIALLED).unwrap();
    let Client::OutOfTime(peer) = met.client_is(&trust).unwrap() else { panic!("valid") };
    assert_eq!(peer.not_after, today() - YEAR + 30 * DAY);
    assert_eq!(peer.standing(today()), Standing::Expired);
}

#[test]
fn a_client_with_a_right_clock_refuses_a_server_that_is_not_valid_now() {
    let world = World::new();
    for (life, word) in [
        (life(today() - 300 * DAY, 30 * DAY), "Expired"),
        (life(today() + 30 * DAY, 30 * DAY), "NotValidYet"),
    ] {
        let clients = Arc::new(ClientVerifier::new(world.trust(), Clients::Optional));
        let server = server_config(world.gateway_for(life), clients);
        let refusal = meet(client_config(world.node(), exact(&world, today())), server, DIALLED).err();
        let Some(Refusal::ByClient(error)) = refusal else { panic!("{life:?}: {refusal:?}") };
        assert!(said(&error).contains(word), "{error:?}");
    }
}

/// Floors an agent may have, and lives a server's certificate may have, relative to today, in days.
#[test]
fn an_agent_refuses_a_server_for_its_time_only_if_it_ended_before_the_floor() {
    let world = World::new();
    let day = |days: i64| {
        let offset = DAY * u32::try_from(days.unsigned_abs()).unwrap();
        if days < 0 { today() - offset } else { today() + offset }
    };
    for (floor, begins, lasts, met) in [
        (None, -1, 30, true),      // never heard any time: 1970
        (None, -300, 30, true),    // even one that has expired; the agent cannot know
        (Some(-90), -1, 30, true), // offline for 90 days
        (Some(0), -1, 30, true),   // up to date
        (Some(20), -1, 30, true),  // a floor that is ahead of the truth, but within the certificate's life
        (Some(0), 1, 30, true),    // begins after the floor: time may have passed
        (Some(0), -31, 30, false), // ended before the floor
        (Some(0), -300, 30, false),
    ] {
        let clients = Arc::new(ClientVerifier::new(world.trust(), Clients::Required));
        let server = server_config(world.gateway_for(life(day(begins), DAY * lasts)), clients);
        let floor = Arc::new(TimeFloor::new(floor.map_or(UNIX_EPOCH, day)));
        let verifier = ServerVerifier::new(world.trust(), services(&["gateway"]), Time::Floor(floor.clone()));
        let result = meet(client_config(world.node(), Arc::new(verifier)), server, "10.0.0.1");
        assert_eq!(result.is_ok(), met, "floor {floor:?}, from day {begins} for {lasts}: {:?}", result.err());
    }
}

#[test]
fn a_server_that_is_not_the_expected_one_is_refused() {
    let world = World::new();
    let other = World::new();
    let floor = || Time::Floor(Arc::new(TimeFloor::default()));
    let dial = |server_of: &World, expected: Expected, dialled: &str| {
        let clients = Arc::new(ClientVerifier::new(server_of.trust(), Clients::Optional));
        let server = server_config(server_of.gateway(), clients);
        let verifier = ServerVerifier::new(world.trust(), expected, floor());
        meet(client_config(Credentials::none(), Arc::new(verifier)), server, dialled).map(|_| ())
    };
    assert!(dial(&world, Expected::Dialled, DIALLED).is_ok());
    assert!(dial(&world, Expected::Dialled, "127.0.0.1").is_ok());
    assert!(dial(&world, services(&["registry", "gateway"]), "anything.example").is_ok());
    let elsewhere = Expected::Services {
        project: ProjectName::parse("default").unwrap(),
        names: vec![ServiceName::parse("gateway").unwrap()],
    };
    for (server_of, expected, dialled, word) in [
        (&world, Expected::Dialled, "other.example.org", "NotValidForName"),
        (&world, Expected::Dialled, "127.0.0.2", "NotValidForName"),
        (&world, services(&["registry"]), DIALLED, "the service registry of project system"),
        (&world, elsewhere, DIALLED, "the service gateway of project default"),
        (&world, services(&[]), DIALLED, "is spiffe://example.org/project/system/service/gateway, where"),
        (&other, Expected::Dialled, DIALLED, "UnknownIssuer"),
    ] {
        let Err(Refusal::ByClient(error)) = dial(server_of, expected, dialled) else { panic!("{word}") };
        let said = format!("{error:?} {error}");
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_node_cannot_stand_as_a_server() {
    let world = World::new();
    for usage in ["as it is", "with a server's purpose"] {
        let key = key();
        let chain = world.forge(
            |params| {
                if usage != "as it is" {
                    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                    let name = Ia5String::try_from(DIALLED).unwrap();
                    params.subject_alt_names.push(SanType::DnsName(name));
                }
            },
            &*key,
        );
        let clients = Arc::new(ClientVerifier::new(world.trust(), Clients::Optional));
        let server = server_config(Credentials::new(chain, key).unwrap(), clients);
        let refusal = meet(client_config(world.node(), exact(&world, today())), server, DIALLED).err();
        assert!(matches!(refusal, Some(Refusal::ByClient(_))), "{usage}: {refusal:?}");
    }
}

#[test]
fn a_token_s_pin_is_enough_to_know_the_server_and_no_other_is() {
    let (world, other) = (World::new(), World::new());
    let dial = |pin, server_of: &World, expected| {
        let verifier = Arc::new(ServerVerifier::pinned(pin, expected));
        let server = server(server_of, Clients::Optional);
        meet(client_config(Credentials::none(), verifier), server, DIALLED)
    };
    let met = dial(world.root.pin(), &world, Expected::Dialled).unwrap();
    let root = pinned_root(met.client.peer_certificates().unwrap(), world.root.pin()).unwrap();
    assert_eq!(&root, world.root.trusted());
    assert!(dial(world.root.pin(), &world, services(&["gateway"])).is_ok());
    assert!(dial(world.root.pin(), &world, services(&["registry"])).is_err());
    assert!(matches!(dial(world.root.pin(), &other, Expected::Dialled), Err(Refusal::ByClient(_))));
}

#[test]
fn the_pinned_root_must_have_issued_what_comes_with_it() {
    let (world, attacker) = (World::new(), World::new());
    // The attacker presents the true root, which is no secret, above a chain of its own.
    let key = key();
    let mut chain = attacker.issue(GATEWAY, Usage::Both, life(today(), DAY), &*key).chain;
    chain.push(world.root.trusted().certificate().clone());
    let clients = Arc::new(ClientVerifier::new(attacker.trust(), Clients::Optional));
    let server = server_config(Credentials::new(chain, key).unwrap(), clients);
    let verifier = Arc::new(ServerVerifier::pinned(world.root.pin(), Expected::Dialled));
    let refusal = meet(client_config(Credentials::none(), verifier), server, DIALLED).err();
    let Some(Refusal::ByClient(error)) = refusal else { panic!("{refusal:?}") };
    assert!(said(&error).contains("UnknownIssuer"), "{error:?}");
}

#[test]
fn renewed_credentials_count_from_the_next_handshake_and_open_connections_stay() {
    let world = World::new();
    let node = world.node();
    let (client, server) =
        (client_config(node.clone(), exact(&world, today())), server(&world, Clients::Required));
    let first = meet(client.clone(), server.clone(), DIALLED).unwrap();
    let renewed = key();
    let issued = world.issue(NODE, Usage::Client, life(today(), 30 * DAY), &*renewed);
    node.replace(issued.chain, renewed.clone()).unwrap();
    let second = meet(client, server, DIALLED).unwrap();
    let trust = world.trust();
    assert_ne!(first.client_is(&trust).unwrap().certificate().key_id, renewed.public_key().id());
    assert_eq!(second.client_is(&trust).unwrap().certificate().key_id, renewed.public_key().id());
    // A certificate for another key changes nothing.
    let wrong = world.issue(NODE, Usage::Client, life(today(), DAY), &*key());
    assert!(node.replace(wrong.chain, renewed).is_err());
    assert_eq!(trust.server(&node.chain()).unwrap().serial, issued.serial);
}

#[test]
fn no_session_is_resumed_even_by_a_client_that_would() {
    let world = World::new();
    let ours = client_config(world.node(), exact(&world, today()));
    let mut eager = ours.clone();
    eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let server = server(&world, Clients::Required);
    for client in [ours, eager] {
        for _ in 0..3 {
            let met = meet(client.clone(), server.clone(), DIALLED).unwrap();
            assert_eq!(met.client.tls13_tickets_received(), 0);
            assert_eq!(met.client.handshake_kind(), Some(rustls::HandshakeKind::Full));
            assert_eq!(met.server.handshake_kind(), Some(rustls::HandshakeKind::Full));
        }
    }
}
