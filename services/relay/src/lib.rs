//! The relay: what programs on nodes write, seen from anywhere.
//!
//! A user asks any relay. That one owns the channels of the call: it finds the instances (`instances`), has the gateway of each node offer the
//! agent a channel (`reach`), and waits until the agent dials (`channels`). An agent may dial any relay: one that does not own the channel passes
//! the stream on, frame by frame (`peers`). What comes of several instances is merged (`logs`); of the other verbs both halves flow (`duplex`). Nothing here is kept but what is open, and
//! all that is open ends with the stream of who asked for it.

mod act;
mod answers;
mod bundle;
mod caller;
mod channels;
mod config;
mod copy;
mod door;
mod duplex;
mod exec;
mod forward;
mod instances;
mod logs;
mod meters;
mod peers;
mod reach;
mod records;
mod service;
mod usage;
mod words;

use std::sync::Arc;

use skerry_daemon::Shutdown;
use skerry_proto::relay::v1::channel_service_server::ChannelServiceServer;
use skerry_proto::relay::v1::peer_service_server::PeerServiceServer;
use skerry_proto::relay::v1::relay_service_server::RelayServiceServer;
use skerry_rpc::{MESSAGE_BYTES_MAX, Server};
use skerry_store::Store;

pub use self::config::{Args, Config};

use self::channels::Channels;
use self::door::Door;
use self::peers::Peers;
use self::reach::Reach;
use self::service::Service;

/// Largest frame of a channel: a batch of lines, or one line, with what surrounds it.
const FRAME_BYTES_MAX: usize = 256 * 1024;

/// A running relay.
pub struct Relay {
    shared: Arc<Shared>,
}

/// What all calls and channels share.
pub(crate) struct Shared {
    /// Which replica this is: `members/<id>`.
    pub(crate) id: Arc<str>,
    pub(crate) store: Store,
    pub(crate) channels: Channels,
    pub(crate) reach: Reach,
    pub(crate) shutdown: Shutdown,
}

impl Relay {
    /// A relay that is the member of that id, until `shutdown`.
    pub fn start(config: Config, store: Store, member: &str, shutdown: &Shutdown) -> Self {
        let shared = Shared {
            id: member.into(),
            channels: Channels::default(),
            reach: Reach::new(config, store.clone()),
            store,
            shutdown: shutdown.clone(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Channels that are open or being opened.
    pub fn channels(&self) -> usize {
        self.shared.channels.len()
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        let users = RelayServiceServer::new(Service::new(Arc::clone(&self.shared)));
        let agents = ChannelServiceServer::new(Door::new(Arc::clone(&self.shared)));
        let peers = PeerServiceServer::new(Peers::new(Arc::clone(&self.shared)));
        server
            .carry_channels()
            .add(users.max_encoding_message_size(MESSAGE_BYTES_MAX))
            .add(agents.max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(FRAME_BYTES_MAX))
            .add(
                peers.max_decoding_message_size(FRAME_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
            );
    }
}
