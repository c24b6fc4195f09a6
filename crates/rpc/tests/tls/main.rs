//! TLS over real sockets: who is let in, who is refused and what each is told, and that nobody holds up the others.

mod files;
mod support;

use std::time::{Duration, SystemTime};

use skerry_identity::PeerCertificate;
use skerry_identity::tls::Credentials;
use skerry_identity::verify::{Clients, Expected};
use skerry_identity::{Identity, Trust};
use skerry_rpc::{Access, ServerTls, check_health, connect};
use skerry_testing::Authority;
use support::{ALL_IN_ONE, DOMAIN, GATEWAY, NODE, PATIENCE, USER};
use support::{access, ask, client, credentials, expecting, self_signed, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_caller_is_who_its_certificate_says() {
    let authority = Authority::new(DOMAIN);
    let server = serve(access(&authority, GATEWAY)).await;
    for who in [USER, ALL_IN_ONE] {
        let (issued, key) = authority.issue(who);
        let says = PeerCertificate::parse(&issued.chain[0], authority.bundle().domain()).expect("ours");
        let credentials = Credentials::new(issued.chain, key).expect("they belong together");
        let told = server.who(&client(&authority, credentials)).await.expect("let in");
        assert_eq!(told, format!("{} {}", says.identity, says.key_id));
    }
}

#[tokio::test]
async fn a_node_may_not_call_what_is_for_users() {
    let authority = Authority::new(DOMAIN);
    let server = serve(access(&authority, GATEWAY)).await;
    let refused = server.who(&client(&authority, credentials(&authority, NODE))).await.expect_err("a node");
    assert_eq!(refused.reason(), "NOT_FOR_NODES");
    let told = format!(
        "{NODE} may not call skerry.registry.v1.NodeService/GetNode: a node's certificate is for its agent's stream"
    );
    assert_eq!(refused.sentence(), told);
}

#[tokio::test]
async fn health_is_told_to_who_has_a_certificate_and_to_nobody_else() {
    let authority = Authority::new(DOMAIN);
    let server = serve(access(&authority, GATEWAY)).await;
    let url = server.url("https");
    let known = client(&authority, credentials(&authority, USER));
    check_health(&url, Some(&known), PATIENCE).await.expect("it serves");
    let node = client(&authority, credentials(&authority, NODE));
    check_health(&url, Some(&node), PATIENCE).await.expect("nodes are told too");
    let unknown = client(&authority, Credentials::none());
    let error = check_health(&url, Some(&unknown), PATIENCE).await.expect_err("refused").to_string();
    assert!(error.ends_with("give one with --tls-cert and --tls-key"), "{error}");
}

#[tokio::test]
async fn each_mistake_has_a_sentence_of_its_own() {
    let (authority, other) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let server = serve(access(&authority, GATEWAY)).await;
    let mut sentences = Vec::new();
    for (mistake, tls, told) in [
        (
            "no certificate of its own",
            client(&authority, Credentials::none()),
            "it talks only to who has a certificate: give one with --tls-cert and --tls-key",
        ),
        (
            "a certificate of another authority",
            client(&authority, credentials(&other, USER)),
            "it does not know the authority of our certificate: use one that its own --tls-ca names",
        ),
        (
            "trust in another authority",
            client(&other, credentials(&authority, USER)),
            "its certificate is of an authority that is not trusted here: neither in the file of --tls-ca, nor named by a token or by --ca-pin",
        ),
        (
            "another service is expected",
            expecting(
                &authority,
                credentials(&authority, USER),
                Expected::Services {
                    project: "system".parse().expect("a name"),
                    names: vec!["registry".parse().expect("a name")],
                },
            ),
            "its certificate is refused: the server is spiffe://example.org/project/system/service/gateway, where the service registry of project system is expected",
        ),
        (
            "signed by itself",
            client(&authority, self_signed(USER)),
            "it does not know the authority of our certificate: use one that its own --tls-ca names",
        ),
    ] {
        let sentence = server.who(&tls).await.expect_err(mistake).sentence();
        assert_eq!(sentence, format!("cannot talk to {}: {told}", server.url("https")), "{mistake}");
        sentences.push(sentence);
    }
    // The service that is meant, at an address that its certificate does not have.
    let exactly = Expected::Services {
        project: "system".parse().expect("a name"),
        names: vec!["gateway".parse().expect("a name")],
    };
    let tls = expecting(&authority, credentials(&authority, USER), exactly);
    assert!(server.who(&tls).await.is_ok());
}

#[tokio::test]
async fn a_server_that_cannot_be_believed_is_refused() {
    let authority = Authority::new(DOMAIN);
    let known = client(&authority, credentials(&authority, USER));
    let with = |credentials| {
        let trust = Trust::new(authority.bundle());
        serve(Access::Certificate(ServerTls::new(credentials, trust, Clients::Required)))
    };
    let (issued, key) = authority.issue_expired(GATEWAY);
    let server = with(Credentials::new(issued.chain, key).expect("they belong together")).await;
    let sentence = server.who(&known).await.expect_err("expired").sentence();
    assert!(sentence.ends_with("its certificate has expired: renew it, or set the clock of this machine"));
    let server = with(self_signed(GATEWAY)).await;
    let sentence = server.who(&known).await.expect_err("signed by itself").sentence();
    assert!(sentence.ends_with("is of an authority that is not trusted here: neither in the file of --tls-ca, nor named by a token or by --ca-pin"), "{sentence}");
    let server = with(credentials(&authority, USER)).await;
    let sentence = server.who(&known).await.expect_err("no service").sentence();
    assert!(
        sentence.ends_with("its certificate is refused: a certificate that is not for a server"),
        "{sentence}"
    );

    let server = with(credentials(&authority, GATEWAY)).await;
    // 127.0.0.2 is this machine too, and not in the certificate.
    let url = format!("https://127.0.0.2:{}", server.address.port());
    let listens_there = connect(&url, Some(&known)).await.expect_err("nobody listens there").to_string();
    assert!(listens_there.starts_with(&format!("cannot reach {url}")), "{listens_there}");
    let url = format!("https://localhost:{}", server.address.port());
    ask(connect(&url, Some(&known)).await.expect("by a name that it has")).await.expect("let in");
}

#[tokio::test]
async fn an_expired_certificate_passes_the_handshake_and_no_call() {
    let authority = Authority::new(DOMAIN);
    let server = serve(access(&authority, GATEWAY)).await;
    let (issued, key) = authority.issue_expired(USER);
    let credentials = Credentials::new(issued.chain, key).expect("they belong together");
    let refused = server.who(&client(&authority, credentials)).await.expect_err("refused");
    assert_eq!(refused.reason(), "CERTIFICATE_EXPIRED");
    assert!(refused.sentence().contains(USER), "{}", refused.sentence());
}

#[tokio::test]
async fn who_proves_nothing_is_nobody_where_certificates_are_optional() {
    let authority = Authority::new(DOMAIN);
    let trust = Trust::new(authority.bundle());
    let tls = ServerTls::new(credentials(&authority, GATEWAY), trust, Clients::Optional);
    let server = serve(Access::Certificate(tls)).await;
    let refused = server.who(&client(&authority, Credentials::none())).await.expect_err("refused");
    assert_eq!(refused.reason(), "PEER_UNKNOWN");
    let known = client(&authority, credentials(&authority, USER));
    assert!(server.who(&known).await.is_ok());
}

#[tokio::test]
async fn the_wrong_scheme_is_told_on_both_sides() {
    let authority = Authority::new(DOMAIN);
    let known = client(&authority, credentials(&authority, USER));
    let plain = serve(Access::Loopback).await;
    let sentence = plain.who(&known).await.expect_err("no TLS there").sentence();
    assert!(
        sentence.ends_with("it does not speak TLS: write http://, if the network is trusted"),
        "{sentence}"
    );
    let secured = serve(access(&authority, GATEWAY)).await;
    let channel = connect(&secured.url("http"), None).await.expect("a TCP connection");
    let sentence = ask(channel).await.expect_err("no plain server").sentence();
    assert_eq!(sentence, "it speaks TLS: write https://");

    let unchecked = connect(&secured.url("https"), None).await.expect_err("nothing to check it against");
    assert!(unchecked.to_string().ends_with("--tls-ca FILE"), "{unchecked}");
    let unprotected = connect(&plain.url("http"), Some(&known)).await.expect_err("TLS is set up");
    assert!(unprotected.to_string().ends_with("write https://"), "{unprotected}");
}

#[tokio::test]
async fn what_is_no_tls_is_dropped_and_the_listener_goes_on() {
    let authority = Authority::new(DOMAIN);
    let server = serve(access(&authority, GATEWAY)).await;
    let many = vec![0xff; 64 * 1024];
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", b"\0", &many] {
        let mut stream = TcpStream::connect(server.address).await.expect("connected");
        // It may hang up while this is written.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it hangs up");
        assert!(answer.len() < 64, "no more than an alert: {answer:?}");
    }
    let known = client(&authority, credentials(&authority, USER));
    assert!(server.who(&known).await.is_ok());
}

#[tokio::test]
async fn a_stalled_handshake_holds_up_nobody_and_ends() {
    let authority = Authority::new(DOMAIN);
    let server = serve(access(&authority, GATEWAY)).await;
    let began = SystemTime::now();
    let mut stalled = TcpStream::connect(server.address).await.expect("connected");
    // The head of a record that never comes.
    stalled.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.expect("sent");
    let known = client(&authority, credentials(&authority, USER));
    for _ in 0..3 {
        server.who(&known).await.expect("let in beside it");
    }
    assert!(
        began.elapsed().expect("a clock that goes on") < Duration::from_secs(5),
        "before the stalled one ended"
    );
    let ended = tokio::time::timeout(PATIENCE, stalled.read(&mut [0; 64])).await.expect("it is ended");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn more_stalled_handshakes_than_may_be_give_way_to_an_honest_one() {
    let authority = Authority::new(DOMAIN);
    let server = serve(access(&authority, GATEWAY)).await;
    let mut stalled = Vec::new();
    for _ in 0..600 {
        stalled.push(TcpStream::connect(server.address).await.expect("connected"));
    }
    let known = client(&authority, credentials(&authority, USER));
    let who = Identity::parse(USER).expect("an identity").to_string();
    assert!(server.who(&known).await.expect("let in").starts_with(&who));
}

#[tokio::test]
async fn a_listener_for_all_may_be_opened_with_certificates() {
    let authority = Authority::new(DOMAIN);
    let anywhere = "0.0.0.0:7770".parse().expect("an address");
    assert!(access(&authority, GATEWAY).check_listener(anywhere).is_ok());
    assert!(Access::Loopback.check_listener(anywhere).is_err());
}
