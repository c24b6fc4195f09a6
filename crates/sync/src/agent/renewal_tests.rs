//! Tests of `renewal`, by the whole machine: when it asks, that what came is taken before the next dial, and that no wall clock matters.

use std::sync::Arc;

use proptest::prelude::*;
use skerry_proto::gateway::v1::closing::Reason;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;

use super::*;
use crate::time::Now;
use crate::{AgentConfig, AgentEffect, AgentEvent, AgentMachine, Desired, Told};

const DAY: u64 = 24 * 3600;
/// When the certificate begins, by the server's clock.
const BEGIN: u64 = 1_800_000_000;

fn at(seconds: u64) -> WallTime {
    WallTime::from_epoch(Duration::from_secs(seconds))
}

/// A certificate of thirty days.
fn identity(begin: u64) -> AgentIdentity {
    AgentIdentity {
        certificate_request: Bytes::from_static(b"request"),
        renew_at: at(begin + 20 * DAY),
        not_after: at(begin + 30 * DAY),
        roots_digest: Bytes::copy_from_slice(&begin.to_be_bytes()),
    }
}

/// A machine with what a driver has to remember of it.
#[allow(clippy::struct_excessive_bools, reason = "each is one thing that a law speaks of")]
struct Driver {
    machine: AgentMachine,
    now: Duration,
    /// What the machine's wall clock is off.
    wall: WallTime,
    said: Vec<AgentEffect>,
    dialling: bool,
    connected: bool,
    taking: bool,
    open: bool,
    renew_only: bool,
}

impl Driver {
    fn new(wall: WallTime) -> Self {
        let machine = AgentMachine::new(AgentConfig {
            node: "projects/p/nodes/n".to_owned(),
            node_uid: "uid".to_owned(),
            boot_id: "boot".to_owned(),
            agent_version: "1".to_owned(),
            features: std::collections::BTreeSet::new(),
            identity: Some(identity(BEGIN)),
            seed: 7,
        });
        let mut driver = Self {
            machine,
            now: Duration::from_secs(1),
            wall,
            said: Vec::new(),
            dialling: false,
            connected: false,
            taking: false,
            open: false,
            renew_only: false,
        };
        driver.feed(AgentEvent::Start { held: Arc::new(Desired::default()) });
        driver.feed(AgentEvent::MachineChanged(Box::default()));
        driver
    }

    fn mono(&self) -> MonoTime {
        MonoTime::from_origin(self.now)
    }

    /// Feeds one event, holds the laws, and answers what was said.
    fn feed(&mut self, event: AgentEvent) -> Vec<AgentEffect> {
        let wall = WallTime::from_epoch(self.wall.since_epoch() + self.now);
        if matches!(event, AgentEvent::IdentityTaken { .. }) {
            self.taking = false;
        }
        let effects = self.machine.on(event, Now { mono: self.mono(), wall });
        for effect in &effects {
            match effect {
                AgentEffect::Dial => {
                    assert!(!self.taking, "dials with what is about to be replaced");
                    assert!(!self.connected && !self.dialling);
                    self.dialling = true;
                }
                AgentEffect::Hangup { .. } => {
                    (self.dialling, self.connected, self.open) = (false, false, false);
                }
                AgentEffect::TakeIdentity { .. } => {
                    assert!(!self.taking, "two at once");
                    self.taking = true;
                }
                AgentEffect::Send(frame) => match &frame.body {
                    Some(Up::Hello(_) | Up::Heartbeat(_)) => {}
                    Some(Up::RenewalRequest(_)) => assert!(self.open, "asked outside of a session"),
                    other => assert!(!self.renew_only, "{other:?} in a session that is for renewing only"),
                },
                AgentEffect::Persist { .. }
                | AgentEffect::Apply { .. }
                | AgentEffect::OpenChannel(_)
                | AgentEffect::GpuFeedback(_)
                | AgentEffect::Told(_) => {}
            }
        }
        self.said.extend(effects.iter().cloned());
        effects
    }

    fn frame(&mut self, body: Down) -> Vec<AgentEffect> {
        self.feed(AgentEvent::Frame(pb::SyncResponse { body: Some(body), ..pb::SyncResponse::default() }))
    }

    fn pass(&mut self, time: Duration) -> Vec<AgentEffect> {
        self.now += time;
        self.feed(AgentEvent::Timer)
    }

    /// Goes to the next deadline. Each brings something, or another one: nothing goes round and round.
    fn next_deadline(&mut self) -> Vec<AgentEffect> {
        let Some(deadline) = self.machine.deadline() else { return Vec::new() };
        self.now = self.now.max(deadline.since_origin());
        let effects = self.feed(AgentEvent::Timer);
        assert!(
            !effects.is_empty() || self.machine.deadline() != Some(deadline),
            "woken for nothing, and again"
        );
        effects
    }

    /// Opens a session in which the server says that it is `server`.
    fn open(&mut self, server: u64, renew_only: bool) -> Vec<AgentEffect> {
        while !self.dialling {
            assert!(self.machine.deadline().is_some(), "it never dials again");
            self.next_deadline();
        }
        (self.dialling, self.connected) = (false, true);
        self.feed(AgentEvent::Connected);
        (self.open, self.renew_only) = (true, renew_only);
        self.frame(Down::Welcome(pb::Welcome {
            server_time: Some(at(server).to_proto()),
            node_uid: "uid".to_owned(),
            full_report: true,
            renew_only,
            ..pb::Welcome::default()
        }))
    }

    fn renewal(&mut self, begin: u64) -> Vec<AgentEffect> {
        let certificate = pb::IssuedCertificate {
            chain: vec![Bytes::copy_from_slice(&begin.to_be_bytes())],
            server_time: Some(at(begin).to_proto()),
            ..pb::IssuedCertificate::default()
        };
        self.frame(Down::Renewal(pb::Renewal { certificate: Some(certificate), refused: String::new() }))
    }

    fn lose(&mut self) {
        if self.connected || self.dialling {
            (self.dialling, self.connected, self.open) = (false, false, false);
            self.feed(AgentEvent::Disconnected { why: "lost".to_owned(), retry_after: None });
        }
    }

    fn hello_digest(&self) -> Bytes {
        let hellos = self.said.iter().rev().find_map(|effect| match effect {
            AgentEffect::Send(pb::SyncRequest { body: Some(Up::Hello(hello)) }) => Some(hello.clone()),
            _ => None,
        });
        hellos.map(|hello| hello.roots_digest).unwrap_or_default()
    }
}

fn asks(effects: &[AgentEffect]) -> bool {
    effects.iter().any(|effect| {
        matches!(effect, AgentEffect::Send(pb::SyncRequest { body: Some(Up::RenewalRequest(_)) }))
    })
}

fn takes(effects: &[AgentEffect]) -> bool {
    effects.iter().any(|effect| matches!(effect, AgentEffect::TakeIdentity { .. }))
}

#[test]
fn it_asks_once_two_thirds_of_the_life_are_over_by_the_servers_clock() {
    for wall in [0, BEGIN + 19 * DAY, 4_070_908_800] {
        let mut driver = Driver::new(at(wall));
        assert!(!asks(&driver.open(BEGIN + 20 * DAY - 60, false)));
        let mut asked_after = None;
        while asked_after.is_none() {
            if asks(&driver.next_deadline()) {
                asked_after = Some(driver.now);
            }
            // The gateway answers, and its clock goes as the machine's own timers do.
            let server = BEGIN + 20 * DAY - 60 + driver.now.as_secs();
            let ack = pb::HeartbeatAck { sequence: 1, server_time: Some(at(server).to_proto()) };
            driver.frame(Down::HeartbeatAck(ack));
        }
        let asked = asked_after.unwrap();
        // At most an eighth of what is left later, so that not all come at once.
        assert!(asked >= Duration::from_secs(60) && asked.as_secs() <= 60 + 10 * DAY / 8 + 60, "{asked:?}");
    }
}

#[test]
fn what_was_renewed_counts_from_the_next_dial_and_the_session_stays() {
    let mut driver = Driver::new(at(0));
    assert!(asks(&driver.open(BEGIN + 25 * DAY, false)));
    assert!(takes(&driver.renewal(BEGIN + 25 * DAY)));
    let effects = driver.feed(AgentEvent::IdentityTaken { result: Ok(identity(BEGIN + 25 * DAY)) });
    assert!(driver.machine.is_open() && effects.is_empty(), "{effects:?}");
    // Not asked for again before the new one's time.
    assert!(!asks(&driver.pass(Duration::from_secs(10))));
    driver.lose();
    driver.open(BEGIN + 25 * DAY, false);
    assert_eq!(driver.hello_digest(), identity(BEGIN + 25 * DAY).roots_digest);
}

#[test]
fn an_expired_certificate_is_renewed_at_once_and_the_next_session_opened_without_a_wait() {
    let mut driver = Driver::new(at(0));
    assert!(asks(&driver.open(BEGIN + 120 * DAY, true)));
    assert!(takes(&driver.renewal(BEGIN + 120 * DAY)));
    // The gateway ends the session before the disk has answered.
    driver.frame(Down::Closing(pb::Closing { reason: Reason::Renewed.into(), ..pb::Closing::default() }));
    assert!(!driver.dialling, "with the old one");
    assert_eq!(driver.machine.deadline(), None);
    driver.feed(AgentEvent::IdentityTaken { result: Ok(identity(BEGIN + 120 * DAY)) });
    assert!(driver.dialling, "at once");
}

#[test]
fn a_gateway_that_closes_for_a_renewal_which_never_came_is_not_dialled_at_once() {
    let mut driver = Driver::new(at(0));
    let mut dials = 0;
    for _ in 0..20 {
        driver.open(BEGIN + 120 * DAY, true);
        driver.frame(Down::Closing(pb::Closing { reason: Reason::Renewed.into(), ..pb::Closing::default() }));
        dials += usize::from(driver.dialling);
    }
    assert_eq!(dials, 0);
    assert!(driver.now > Duration::from_secs(60), "the waits grow: {:?}", driver.now);
}

#[test]
fn a_key_that_was_struck_out_is_told_and_another_identity_dials_at_once() {
    let mut driver = Driver::new(at(0));
    driver.open(BEGIN, false);
    let said = driver.frame(Down::Closing(pb::Closing {
        reason: Reason::Revoked.into(),
        message: "struck out".to_owned(),
        ..pb::Closing::default()
    }));
    let revoked = said.iter().find_map(|effect| match effect {
        AgentEffect::Told(Told::Revoked { retry, .. }) => Some(*retry),
        _ => None,
    });
    assert!(revoked.is_some_and(|retry| retry >= limits::DELETED_WAIT), "{said:?}");
    let held = driver.said.iter().filter(|effect| matches!(effect, AgentEffect::Apply { .. })).count();
    assert_eq!(held, 1, "what runs is not touched");
    let (identity, node_uid) = (identity(BEGIN + DAY), "other".to_owned());
    driver.feed(AgentEvent::Enrolled { identity, node_uid });
    assert!(driver.dialling);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u32),
    Deadline,
    Open { server: u32, renew_only: bool },
    Renewal { begin: u32 },
    Roots,
    Refused,
    Closing(i32),
    Lose,
    Taken { begin: u32 },
    NotTaken,
    HeartbeatAck { server: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u32..5_000_000).prop_map(Step::Wait),
        6 => Just(Step::Deadline),
        3 => (any::<u32>(), any::<bool>()).prop_map(|(server, renew_only)| Step::Open { server, renew_only }),
        3 => any::<u32>().prop_map(|begin| Step::Renewal { begin }),
        1 => Just(Step::Roots),
        1 => Just(Step::Refused),
        2 => (0i32..9).prop_map(Step::Closing),
        1 => Just(Step::Lose),
        3 => any::<u32>().prop_map(|begin| Step::Taken { begin }),
        1 => Just(Step::NotTaken),
        2 => any::<u32>().prop_map(|server| Step::HeartbeatAck { server }),
    ]
}

impl Driver {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait(milliseconds) => drop(self.pass(Duration::from_millis(milliseconds.into()))),
            Step::Deadline => drop(self.next_deadline()),
            Step::Open { server, renew_only } if !self.connected && !self.taking => {
                self.open(server.into(), renew_only);
            }
            Step::Renewal { begin } if self.open => drop(self.renewal(begin.into())),
            Step::Roots if self.open => {
                let certificate = Some(pb::IssuedCertificate::default());
                self.frame(Down::Renewal(pb::Renewal { certificate, refused: String::new() }));
            }
            Step::Refused if self.open => {
                self.frame(Down::Renewal(pb::Renewal { certificate: None, refused: "no".to_owned() }));
            }
            Step::Closing(reason) if self.open => {
                self.frame(Down::Closing(pb::Closing { reason, ..pb::Closing::default() }));
            }
            Step::Lose => self.lose(),
            Step::Taken { begin } if self.taking => {
                self.feed(AgentEvent::IdentityTaken { result: Ok(identity(begin.into())) });
            }
            Step::NotTaken if self.taking => {
                self.feed(AgentEvent::IdentityTaken { result: Err("no".to_owned()) });
            }
            Step::HeartbeatAck { server } if self.open => {
                let server_time = Some(at(server.into()).to_proto());
                self.frame(Down::HeartbeatAck(pb::HeartbeatAck { sequence: 1, server_time }));
            }
            Step::Open { .. }
            | Step::Renewal { .. }
            | Step::Roots
            | Step::Refused
            | Step::Closing(_)
            | Step::Taken { .. }
            | Step::NotTaken
            | Step::HeartbeatAck { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_laws_hold_and_no_wall_clock_decides_anything(
        steps in prop::collection::vec(step(), 0..120),
        wall in any::<u32>(),
    ) {
        let mut drivers = [Driver::new(at(0)), Driver::new(at(wall.into()))];
        for step in &steps {
            for driver in &mut drivers {
                driver.step(step);
            }
            let [one, other] = &drivers;
            prop_assert_eq!(one.machine.deadline(), other.machine.deadline());
            prop_assert_eq!(format!("{:?}", one.said), format!("{:?}", other.said));
        }
        // Whatever was, a machine that is let in with an expired certificate asks, and comes back with the new one.
        let [mut driver, _] = drivers;
        driver.lose();
        while driver.taking {
            driver.feed(AgentEvent::IdentityTaken { result: Err("no".to_owned()) });
        }
        let mut asked = asks(&driver.open(u64::from(u32::MAX), true));
        for _ in 0..200 {
            if asked {
                break;
            }
            asked = asks(&driver.next_deadline());
            if !driver.open {
                asked |= asks(&driver.open(u64::from(u32::MAX), true));
            }
        }
        prop_assert!(asked);
    }
}
