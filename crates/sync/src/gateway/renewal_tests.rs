//! Renewal, revocation and roots at the gateway's end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::closing::Reason;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;

use super::*;
use crate::time::WallTime;

fn now() -> Now {
    let wall = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Now { mono: MonoTime::from_origin(Duration::from_secs(100)), wall: WallTime::from(wall) }
}

fn roots(byte: u8) -> Roots {
    Roots { digest: vec![byte; 32].into(), der: vec![vec![byte].into()] }
}

struct Driver {
    session: GatewaySession,
    out: Vec<SessionEffect>,
}

impl Driver {
    /// A session that was opened as `change` makes it.
    fn open(agent_trusts: &[u8], change: impl FnOnce(&mut Opened)) -> Self {
        let mut driver = Self::hello(agent_trusts);
        let assignment = Assignment { version: Version::new(1, 5), record: Arc::default() };
        let mut opened = Opened {
            epoch: Version::new(1, 9),
            node_uid: "uid".to_owned(),
            status_digest: Bytes::new(),
            acknowledged: None,
            has_refused: false,
            reported: Vec::new(),
            assignment: Some(assignment),
            renew_only: false,
            roots: None,
        };
        change(&mut opened);
        driver.feed(SessionEvent::Opened(Box::new(opened)));
        driver
    }

    fn hello(agent_trusts: &[u8]) -> Self {
        let config = SessionConfig {
            gateway: "gateway".into(),
            heartbeat_interval: limits::HEARTBEAT_INTERVAL,
            seed: 1,
        };
        let mut driver = Self { session: GatewaySession::new(config, now()), out: Vec::new() };
        driver.frame(Up::Hello(pb::Hello {
            protocol_version: limits::PROTOCOL_VERSION,
            node: "projects/p/nodes/n".to_owned(),
            boot_id: "boot".to_owned(),
            roots_digest: Bytes::copy_from_slice(agent_trusts),
            ..pb::Hello::default()
        }));
        driver
    }

    fn feed(&mut self, event: SessionEvent) {
        self.out.extend(self.session.on(event, now()));
    }

    fn frame(&mut self, body: Up) {
        self.feed(SessionEvent::Frame(pb::SyncRequest { body: Some(body) }));
    }

    /// Asks for a certificate; the frames' bytes tell one request from another.
    fn ask(&mut self, byte: u8) {
        let certificate_request = vec![byte].into();
        self.frame(Up::RenewalRequest(pb::RenewalRequest { certificate_request, ..Default::default() }));
    }

    fn asked(&mut self) -> Vec<u8> {
        let asked = self.out.iter().filter_map(|effect| match effect {
            SessionEffect::Renew(request) => Some(request.certificate_request[0]),
            _ => None,
        });
        asked.collect()
    }

    fn sent(&self) -> Vec<Down> {
        let sent = self.out.iter().filter_map(|effect| match effect {
            SessionEffect::Send(frame) => frame.body.clone(),
            _ => None,
        });
        sent.collect()
    }

    fn renewals(&self) -> Vec<pb::Renewal> {
        let renewal = |body| if let Down::Renewal(renewal) = body { Some(renewal) } else { None };
        self.sent().into_iter().filter_map(renewal).collect()
    }

    fn closing(&self) -> Option<Reason> {
        let last = self.sent().pop();
        last.and_then(|body| if let Down::Closing(closing) = body { Some(closing.reason()) } else { None })
    }
}

fn certificate() -> pb::IssuedCertificate {
    pb::IssuedCertificate { chain: vec![vec![1].into()], ..Default::default() }
}

#[test]
fn a_renewal_is_passed_on_and_answered_and_the_session_stays() {
    let mut driver = Driver::open(&[], |_| ());
    driver.ask(1);
    // The agent asks again before the answer came: it is the same wish.
    driver.ask(2);
    assert_eq!(driver.asked(), [1]);
    driver.feed(SessionEvent::Renewed(Ok(certificate())));
    assert_eq!(driver.renewals()[0].certificate, Some(certificate()));
    driver.ask(3);
    driver.feed(SessionEvent::Renewed(Err("no".to_owned())));
    assert_eq!(driver.asked(), [1, 3]);
    assert_eq!(driver.renewals()[1], pb::Renewal { certificate: None, refused: "no".to_owned() });
    assert_eq!(driver.session.epoch(), Some(Version::new(1, 9)));
    // An answer that nobody waits for says nothing.
    driver.feed(SessionEvent::Renewed(Ok(certificate())));
    assert_eq!(driver.renewals().len(), 2);
}

#[test]
fn out_of_time_a_node_is_given_a_certificate_and_nothing_else() {
    let mut driver = Driver::open(&[], |opened| opened.renew_only = true);
    assert!(matches!(&driver.sent()[0], Down::Welcome(welcome) if welcome.renew_only));
    let assignment = Assignment { version: Version::new(1, 50), record: Arc::default() };
    driver.feed(SessionEvent::AssignmentChanged(assignment));
    driver.frame(Up::Report(pb::Report { sequence: 1, full: true, ..Default::default() }));
    driver.frame(Up::Ack(pb::Ack::default()));
    let does =
        |effect: &SessionEffect| matches!(effect, SessionEffect::Commit { .. } | SessionEffect::Load { .. });
    assert!(!driver.out.iter().any(does));
    assert_eq!(driver.sent().len(), 1, "nothing but the Welcome: {:?}", driver.sent());
    // Refused, it may ask again.
    driver.ask(1);
    driver.feed(SessionEvent::Renewed(Err("not now".to_owned())));
    assert!(!driver.session.is_ended());
    driver.ask(2);
    driver.feed(SessionEvent::Renewed(Ok(certificate())));
    assert_eq!(driver.renewals().len(), 2);
    assert_eq!(driver.closing(), Some(Reason::Renewed));
    assert!(driver.session.is_ended());
}

#[test]
fn a_struck_out_key_ends_the_session_and_the_last_word_says_so() {
    for event in [
        SessionEvent::Revoked,
        SessionEvent::OpenFailed(OpenFailure::Revoked("the key is not the node's".to_owned())),
    ] {
        let opening = matches!(event, SessionEvent::OpenFailed(_));
        let mut driver = if opening { Driver::hello(&[]) } else { Driver::open(&[], |_| ()) };
        driver.feed(event);
        assert_eq!(driver.closing(), Some(Reason::Revoked));
        assert!(driver.session.is_ended());
        // A record that was never written is not to be closed.
        let closes = driver.out.iter().any(|effect| matches!(effect, SessionEffect::Close));
        assert_eq!(closes, !opening);
    }
}

#[test]
fn roots_are_told_to_who_trusts_others_once() {
    let known = roots(1);
    let mut same = Driver::open(&known.digest, |opened| opened.roots = Some(known.clone()));
    assert_eq!(same.renewals(), []);
    let mut other = Driver::open(&roots(2).digest, |opened| opened.roots = Some(known.clone()));
    let told = other.renewals();
    assert_eq!(told.len(), 1);
    let certificate = told[0].certificate.clone().unwrap();
    assert_eq!((certificate.chain.len(), certificate.roots), (0, known.der.clone()));
    assert!(matches!(other.sent()[0], Down::Welcome(_)), "the Welcome is first");
    for (driver, before) in [(&mut same, 0), (&mut other, 1)] {
        driver.feed(SessionEvent::RootsChanged(known.clone()));
        assert_eq!(driver.renewals().len(), before);
        driver.feed(SessionEvent::RootsChanged(roots(3)));
        driver.feed(SessionEvent::RootsChanged(roots(3)));
        assert_eq!(driver.renewals().len(), before + 1);
    }
    // Who does without TLS is told nothing.
    let plain = Driver::open(&[], |opened| opened.roots = Some(known));
    assert_eq!(plain.renewals(), []);
}

#[test]
fn a_renewal_beyond_its_bounds_breaks_the_protocol() {
    let mut driver = Driver::open(&[], |_| ());
    let certificate_request = vec![0; limits::REQUEST_BYTES_MAX + 1].into();
    driver.frame(Up::RenewalRequest(pb::RenewalRequest { certificate_request, ..Default::default() }));
    assert_eq!(driver.closing(), Some(Reason::ProtocolError));
    assert_eq!(driver.asked(), []);
}
