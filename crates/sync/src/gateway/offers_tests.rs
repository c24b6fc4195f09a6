//! Offers of channels at the gateway's end: each is answered exactly once, whatever the agent says and does not say.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use skerry_model::feature;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;

use super::*;
use crate::time::WallTime;

const EPOCH: Version = Version { term: 1, revision: 9 };

struct Driver {
    session: GatewaySession,
    at: Duration,
    /// How often each channel was answered, and the last reason (empty: taken).
    answers: BTreeMap<String, Vec<String>>,
    sent: Vec<String>,
    ended: bool,
}

impl Driver {
    fn open(features: &[&str], renew_only: bool) -> Self {
        let config =
            SessionConfig { gateway: "g".into(), heartbeat_interval: limits::HEARTBEAT_INTERVAL, seed: 1 };
        let at = Duration::from_secs(100);
        let session = GatewaySession::new(config, now(at));
        let mut driver = Self { session, at, answers: BTreeMap::new(), sent: Vec::new(), ended: false };
        driver.say(Up::Hello(pb::Hello {
            protocol_version: limits::PROTOCOL_VERSION,
            node: "projects/p/nodes/n".to_owned(),
            boot_id: "boot".to_owned(),
            features: features.iter().map(ToString::to_string).collect(),
            ..pb::Hello::default()
        }));
        driver.feed(SessionEvent::Opened(Box::new(Opened {
            epoch: EPOCH,
            node_uid: "uid".to_owned(),
            status_digest: Bytes::new(),
            acknowledged: None,
            has_refused: false,
            reported: Vec::new(),
            assignment: None,
            renew_only,
            roots: None,
        })));
        driver
    }

    fn feed(&mut self, event: SessionEvent) {
        for effect in self.session.on(event, now(self.at)) {
            match effect {
                SessionEffect::Send(pb::SyncResponse { body: Some(Down::ChannelOffer(offer)), .. }) => {
                    self.sent.push(offer.channel);
                }
                SessionEffect::OfferAnswered { channel, answer } => {
                    let reason = answer.err().map(|refusal| refusal.reason).unwrap_or_default();
                    self.answers.entry(channel).or_default().push(reason);
                }
                SessionEffect::End(_) => self.ended = true,
                _ => {}
            }
        }
    }

    fn say(&mut self, body: Up) {
        self.feed(SessionEvent::Frame(pb::SyncRequest { body: Some(body) }));
    }

    fn offer(&mut self, channel: &str, epoch: Version) {
        let offer = pb::ChannelOffer { channel: channel.to_owned(), ..pb::ChannelOffer::default() };
        self.feed(SessionEvent::Offered { epoch, offer: Box::new(offer) });
    }

    fn answer(&mut self, channel: &str, refused: &str) {
        let refused = refused.to_owned();
        self.say(Up::ChannelAnswer(pb::ChannelAnswer {
            channel: channel.to_owned(),
            refused,
            message: String::new(),
        }));
    }

    fn wait(&mut self, time: Duration) {
        self.at += time;
        // It lives.
        self.say(Up::Heartbeat(pb::Heartbeat { sequence: 1 }));
        self.feed(SessionEvent::Timer);
    }

    fn answers(&self, channel: &str) -> Vec<&str> {
        self.answers.get(channel).into_iter().flatten().map(String::as_str).collect()
    }
}

fn now(at: Duration) -> Now {
    let wall = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Now { mono: MonoTime::from_origin(at), wall: WallTime::from(wall) }
}

#[test]
fn an_agent_that_knows_channels_is_offered_them_and_its_answer_is_passed_on() {
    let mut driver = Driver::open(&[feature::CHANNELS], false);
    driver.offer("a", EPOCH);
    driver.offer("b", EPOCH);
    assert_eq!(driver.sent, ["a", "b"]);
    driver.answer("b", "ExecForbidden");
    driver.answer("a", "");
    driver.answer("a", "TooLate");
    driver.answer("unknown", "");
    assert_eq!(driver.answers("a"), [""]);
    assert_eq!(driver.answers("b"), ["ExecForbidden"]);
    assert_eq!(driver.answers.len(), 2);
}

#[test]
fn no_offer_goes_to_an_agent_that_does_not_know_them_nor_to_another_session() {
    let mut old = Driver::open(&[], false);
    old.offer("a", EPOCH);
    assert_eq!(old.answers("a"), [UNSUPPORTED]);
    let mut other = Driver::open(&[feature::CHANNELS], false);
    other.offer("a", Version::new(1, 8));
    assert_eq!(other.answers("a"), [NO_SESSION]);
    let mut expired = Driver::open(&[feature::CHANNELS], true);
    expired.offer("a", EPOCH);
    assert_eq!(expired.answers("a"), [NO_SESSION]);
    assert!(old.sent.is_empty() && other.sent.is_empty() && expired.sent.is_empty());
}

#[test]
fn what_the_agent_does_not_answer_is_given_up_in_time() {
    let mut driver = Driver::open(&[feature::CHANNELS], false);
    driver.offer("a", EPOCH);
    assert_eq!(driver.session.deadline(), Some(MonoTime::from_origin(driver.at + limits::OFFER_TIMEOUT)));
    driver.wait(limits::OFFER_TIMEOUT);
    assert_eq!(driver.answers("a"), [NO_ANSWER]);
    driver.answer("a", "");
    assert_eq!(driver.answers("a"), [NO_ANSWER], "it came too late");
    assert!(!driver.ended, "that ends no session");
}

#[test]
fn answers_to_offers_are_none_of_the_frames_that_an_agent_may_send() {
    let mut driver = Driver::open(&[feature::CHANNELS], false);
    for number in 0..limits::FRAMES_BURST_MAX * 2 {
        let channel = number.to_string();
        driver.offer(&channel, EPOCH);
        driver.answer(&channel, "");
    }
    assert!(!driver.ended);
    for _ in 0..=limits::FRAMES_BURST_MAX {
        driver.answer("nobody asked", "");
    }
    assert!(driver.ended, "those that nobody asked for are");
}

proptest! {
    /// Whatever comes in whatever order, an offer has one answer at most while the session lives, and exactly one once time has passed.
    #[test]
    fn every_offer_is_answered_once(steps in prop::collection::vec((0u8..4, 0u8..48), 0..200)) {
        let mut driver = Driver::open(&[feature::CHANNELS], false);
        let mut offered = std::collections::BTreeSet::new();
        for (kind, number) in steps {
            let channel = number.to_string();
            match kind {
                0 | 1 if offered.insert(channel.clone()) => driver.offer(&channel, EPOCH),
                0 | 1 => {}
                2 => driver.answer(&channel, if number % 2 == 0 { "" } else { "No" }),
                _ => driver.wait(Duration::from_secs(u64::from(number % 4))),
            }
            prop_assert!(driver.answers.values().all(|answers| answers.len() == 1));
        }
        driver.wait(limits::OFFER_TIMEOUT);
        prop_assert!(!driver.ended);
        prop_assert_eq!(driver.answers.keys().cloned().collect::<std::collections::BTreeSet<_>>(), offered);
    }
}
