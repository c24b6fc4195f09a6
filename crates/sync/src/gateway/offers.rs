//! Channels that relays offer to the agent of this session: each is sent down once, and answered or given up in time.

use std::collections::BTreeMap;

use skerry_model::feature;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_response::Body as Down;

use super::api::{OfferRefusal, SessionEffect};
use super::send;
use crate::limits;
use crate::time::MonoTime;

/// The reason where the session that is meant is not, or no more, this one.
pub const NO_SESSION: &str = "NoSession";
/// The reason where the agent knows nothing of channels.
pub const UNSUPPORTED: &str = "ChannelsUnsupported";
/// The reason where too many offers wait for the agent's answer.
pub const TOO_MANY: &str = "TooManyOffers";
/// The reason where the agent did not answer in time.
pub const NO_ANSWER: &str = "NoAnswer";

/// The offers of one session.
#[derive(Debug, Clone)]
pub(super) struct Offers {
    is_supported: bool,
    /// Those that are not answered yet, and until when that is waited for.
    waiting: BTreeMap<String, MonoTime>,
}

impl Offers {
    pub(super) fn new(features: &[String]) -> Self {
        Self {
            is_supported: features.iter().any(|feature| feature == feature::CHANNELS),
            waiting: BTreeMap::new(),
        }
    }

    /// Sends it down, or refuses it in the agent's name.
    pub(super) fn offered(&mut self, offer: pb::ChannelOffer, now: MonoTime, out: &mut Vec<SessionEffect>) {
        let channel = offer.channel.clone();
        if !self.is_supported {
            let message = "the agent of this node is too old for channels: update it";
            return refuse(channel, UNSUPPORTED, message, out);
        }
        if self.waiting.len() >= limits::OFFERS_MAX || self.waiting.contains_key(&channel) {
            let message = "too many channels to this node are being opened at once: try again";
            return refuse(channel, TOO_MANY, message, out);
        }
        self.waiting.insert(channel, now + limits::OFFER_TIMEOUT);
        send(out, Down::ChannelOffer(offer));
    }

    /// Whether `answer` is of an offer that waits for it.
    pub(super) fn is_awaited(&self, answer: &pb::ChannelAnswer) -> bool {
        self.waiting.contains_key(&answer.channel)
    }

    /// The agent's answer. One that nobody waits for came too late.
    pub(super) fn answered(&mut self, answer: pb::ChannelAnswer, out: &mut Vec<SessionEffect>) {
        let pb::ChannelAnswer { channel, refused, message } = answer;
        if self.waiting.remove(&channel).is_none() {
            return;
        }
        let answer = if refused.is_empty() {
            Ok(())
        } else {
            Err(OfferRefusal {
                reason: cut(refused, limits::REASON_BYTES_MAX),
                message: cut(message, limits::EVENT_MESSAGE_BYTES_MAX),
            })
        };
        out.push(SessionEffect::OfferAnswered { channel, answer });
    }

    /// Gives up what the agent did not answer.
    pub(super) fn expire(&mut self, now: MonoTime, out: &mut Vec<SessionEffect>) {
        while let Some(channel) =
            self.waiting.iter().find(|(_, until)| **until <= now).map(|(name, _)| name.clone())
        {
            self.waiting.remove(&channel);
            refuse(channel, NO_ANSWER, "the agent of this node did not answer in time", out);
        }
    }

    pub(super) fn due(&self) -> Option<MonoTime> {
        self.waiting.values().min().copied()
    }
}

/// Tells the relay that there is no channel.
pub(super) fn refuse(channel: String, reason: &str, message: &str, out: &mut Vec<SessionEffect>) {
    let answer = Err(OfferRefusal { reason: reason.to_owned(), message: message.to_owned() });
    out.push(SessionEffect::OfferAnswered { channel, answer });
}

fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}
