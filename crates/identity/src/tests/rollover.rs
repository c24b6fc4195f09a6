//! One root follows another: who was there, who was away, and who comes new.

use rustls_pki_types::pem::PemObject as _;

use super::handshake::{DIALLED, Refusal, exact, meet};
use super::*;
use crate::authority::{IssueError, LoadError};
use crate::clock::TimeFloor;
use crate::tls::{client_config, server_config};
use crate::verify::{ClientVerifier, Clients, Expected, ServerVerifier, Time};

/// Two worlds of one domain, of which the second follows the first.
fn worlds() -> (World, World) {
    (World::new(), World::new())
}

#[test]
fn while_both_roots_are_trusted_certificates_of_either_are() {
    let (old, new) = worlds();
    let trust = Trust::new(old.bundle().with(new.root.trusted().clone()).unwrap());
    for server_of in [&old, &new] {
        for client_of in [&old, &new] {
            let clients = Arc::new(ClientVerifier::new(trust.clone(), Clients::Required));
            let server = server_config(server_of.gateway(), clients);
            let time = Time::Floor(Arc::new(TimeFloor::new(today())));
            let verifier = ServerVerifier::new(trust.clone(), Expected::Dialled, time);
            assert!(meet(client_config(client_of.node(), Arc::new(verifier)), server, DIALLED).is_ok());
        }
    }
}

#[test]
fn a_bundle_that_is_replaced_counts_from_the_next_handshake() {
    let (old, new) = worlds();
    let trust = old.trust();
    let clients = Arc::new(ClientVerifier::new(trust.clone(), Clients::Required));
    let server = server_config(old.gateway(), clients);
    let come = |client_of: &World| {
        meet(client_config(client_of.node(), exact(&old, today())), server.clone(), DIALLED).is_ok()
    };
    assert_eq!((come(&old), come(&new)), (true, false));
    trust.replace(old.bundle().with(new.root.trusted().clone()).unwrap());
    assert_eq!((come(&old), come(&new)), (true, true));
    trust.replace(new.bundle());
    assert_eq!((come(&old), come(&new)), (false, true));
}

#[test]
fn with_a_link_a_node_that_was_away_comes_back_and_tokens_of_both_roots_are_good() {
    let (old, new) = worlds();
    let link = old.root.link(new.root.trusted(), life(today() - DAY, YEAR)).unwrap();
    let bundle = old.bundle().with(new.root.trusted().clone()).unwrap();
    let (old_root, new_root) = (old.root.pin(), new.root.pin());
    let returning = old.node();
    let old_trust = old.trust();
    let World { root, intermediate } = new;
    let new = World { root, intermediate: intermediate.with_link(link, old.root.trusted()).unwrap() };

    let clients = Arc::new(ClientVerifier::new(Trust::new(bundle), Clients::Optional));
    let server = server_config(new.gateway(), clients);
    let time = Time::Floor(Arc::new(TimeFloor::new(today() - 90 * DAY)));
    let knows_old = Arc::new(ServerVerifier::new(old_trust, Expected::Dialled, time));
    assert!(meet(client_config(returning, knows_old), server.clone(), DIALLED).is_ok());
    for pin in [old_root, new_root] {
        let verifier = Arc::new(ServerVerifier::pinned(pin, Expected::Dialled));
        assert!(meet(client_config(Credentials::none(), verifier), server.clone(), DIALLED).is_ok());
    }
    assert!(meet(client_config(Credentials::none(), exact(&new, today())), server, DIALLED).is_ok());
}

#[test]
fn a_link_may_be_younger_than_the_leaf_and_what_is_on_no_path_spoils_none() {
    let (old, new) = worlds();
    // As it is when the link is made later, and the gateway still has its certificate from before.
    let link = old.root.link(new.root.trusted(), life(today() - DAY, YEAR)).unwrap();
    let stranger = World::new().root.intermediate(key(), life(today() + YEAR, YEAR)).unwrap();
    let stranger = CertificateDer::from_pem_slice(stranger.to_pem().as_bytes()).unwrap();
    let key = key();
    let issued = new.issue(GATEWAY, Usage::Both, life(today() - 20 * DAY, 30 * DAY), &*key);
    let chain = vec![issued.chain[0].clone(), stranger, issued.chain[1].clone(), link];
    let clients = Arc::new(ClientVerifier::new(new.trust(), Clients::Optional));
    let server = server_config(Credentials::new(chain, key).unwrap(), clients);
    for (floor, met) in [(-90, true), (0, true), (9, true), (11, false)] {
        let day = DAY * u32::try_from(90 + floor).unwrap();
        let floor = Arc::new(TimeFloor::new(today() - 90 * DAY + day));
        let verifier =
            Arc::new(ServerVerifier::new(old.trust(), Expected::Dialled, Time::Floor(floor.clone())));
        let result = meet(client_config(Credentials::none(), verifier), server.clone(), DIALLED);
        assert_eq!(result.is_ok(), met, "floor {floor:?}");
    }
}

#[test]
fn without_a_link_a_node_that_knows_only_the_old_root_refuses_the_new_one() {
    let (old, new) = worlds();
    let clients = Arc::new(ClientVerifier::new(new.trust(), Clients::Optional));
    let server = server_config(new.gateway(), clients);
    let refusal = meet(client_config(Credentials::none(), exact(&old, today())), server, DIALLED).err();
    assert!(matches!(refusal, Some(Refusal::ByClient(_))), "{refusal:?}");
}

#[test]
fn only_a_link_between_these_two_roots_is_one() {
    let (old, new, foreign) = (World::new(), World::new(), World::of("example.com"));
    let life = life(today() - DAY, YEAR);
    let to_foreign = old.root.link(foreign.root.trusted(), life);
    assert!(matches!(to_foreign, Err(IssueError::LinkDomain { .. })));
    let link = old.root.link(new.root.trusted(), life).unwrap();
    let other = World::new();
    let to_another = other.intermediate.with_link(link.clone(), old.root.trusted());
    assert!(matches!(to_another, Err(LoadError::Foreign(_))));
    let by_another = new.intermediate.with_link(link, other.root.trusted());
    assert!(matches!(by_another, Err(LoadError::Foreign(_))));
}

#[test]
fn an_intermediate_with_a_link_survives_its_file() {
    let (old, new) = worlds();
    let link = old.root.link(new.root.trusted(), life(today() - DAY, YEAR)).unwrap();
    let key = key();
    let intermediate = new.root.intermediate(key.clone(), life(today() - DAY, YEAR)).unwrap();
    let linked = intermediate.with_link(link, old.root.trusted()).unwrap();
    let loaded = IntermediateAuthority::load(linked.to_pem().as_bytes(), key).unwrap();
    assert_eq!(loaded.to_pem(), linked.to_pem());
    let world = World { root: new.root, intermediate: loaded };
    assert_eq!(world.gateway().chain().len(), 5);
}
