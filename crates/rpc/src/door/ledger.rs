//! Who has how many connections, and whether one more comes in. Pure: the clock is the caller's.
//!
//! Behind one address there may be a whole site (NAT) or all of the fleet (a balancer that passes TLS through), so no address has a fixed
//! number of connections: one may have nearly all as long as there is room, and only the last of it is kept for those who have few.
//! What an address may do at once is bounded by what it costs: a handshake is a good part of a millisecond of processor time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use super::Turned;

/// Most connections of a listener, however many files the process may have: a session costs up to 28 KiB, so these 900 MiB.
const CONNECTIONS_MAX: usize = 32_768;
/// Of the files that the process may have, this share (and so many at least) is left to the store, to what is on disk and to other
/// listeners.
const FILES_KEPT_SHARE: usize = 16;
const FILES_KEPT_MIN: usize = 64;
/// Once less than this share of the connections is free, who has many gets no more.
const CROWDED_SHARE: usize = 16;
/// Many: more than this share of all.
const MANY_SHARE: usize = 64;
/// New connections of one address at once: a site of so many machines whose power comes back.
const BURST: u32 = 2000;
/// New connections of one address a second after that. With TLS they keep about a quarter of a core busy; ten thousand agents behind one
/// balancer are back after the twenty seconds over which they spread themselves.
const PER_SECOND: u32 = 500;
/// TLS handshakes of one address that are under way: a quarter of all, so that who stalls them leaves room for the rest.
const HANDSHAKES: u32 = 128;
/// From so many accounts on, those that say nothing any more are closed.
const ACCOUNTS_SWEPT_FROM: usize = 1024;

/// What a door bears.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections in all.
    pub(crate) connections: usize,
    /// New connections of one address: at once, and a second after that.
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
    /// Handshakes of one address under way.
    pub(crate) handshakes: u32,
    /// Whether the bounds of an address hold for callers on this machine too: they have other ways to hurt it, and `skerry up` with many
    /// agents, or a proxy beside the service, is one address.
    pub(crate) local: bool,
}

impl Bounds {
    /// What this process may: by the number of files that it may have open.
    pub(crate) fn of_process() -> Self {
        let files = getrlimit(Resource::Nofile).current;
        let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
        Self {
            connections: connections(files),
            burst: BURST,
            per_second: PER_SECOND,
            handshakes: HANDSHAKES,
            local: false,
        }
    }
}

fn connections(files: usize) -> usize {
    let kept = (files / FILES_KEPT_SHARE).max(FILES_KEPT_MIN);
    // Of very few files half are for connections, else nobody could be served at all.
    files.saturating_sub(kept).max(files / 2).clamp(1, CONNECTIONS_MAX)
}

/// Who counts as one: an IPv4 address, or the network of 64 bits that an IPv6 one chooses its address from. `None`: this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Site(Option<IpAddr>);

impl Site {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) if address.is_loopback() => Self(None),
            IpAddr::V6(address) if address.is_loopback() => Self(None),
            IpAddr::V4(address) => Self(Some(address.into())),
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Self(Some(Ipv6Addr::from_bits(network).into()))
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    bounds: Bounds,
    open: usize,
    accounts: HashMap<Site, Account>,
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    open: usize,
    handshakes: u32,
    /// When its burst is whole again: each connection moves this on by the time that one costs.
    rested: Instant,
}

impl Account {
    fn says_nothing(&self, now: Instant) -> bool {
        self.open == 0 && self.rested <= now
    }
}

impl Ledger {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, open: 0, accounts: HashMap::new(), sweep_at: ACCOUNTS_SWEPT_FROM }
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// One more connection of `site`, which begins with a handshake or does not.
    pub(super) fn enter(&mut self, site: Site, handshake: bool, now: Instant) -> Result<(), Turned> {
        let bounds = self.bounds;
        let free = bounds.connections.saturating_sub(self.open);
        if free == 0 {
            return Err(Turned::Full);
        }
        if self.is_bounded(site) {
            self.sweep(now);
            let account =
                self.accounts.entry(site).or_insert(Account { open: 0, handshakes: 0, rested: now });
            let crowded = free <= bounds.connections / CROWDED_SHARE;
            if crowded && account.open > bounds.connections / MANY_SHARE {
                return Err(Turned::AddressConnections);
            }
            if handshake && account.handshakes >= bounds.handshakes {
                return Err(Turned::AddressHandshakes);
            }
            let cost = Duration::from_secs(1) / bounds.per_second.max(1);
            let rested = account.rested.max(now) + cost;
            if rested > now + cost * bounds.burst {
                return Err(Turned::AddressRate);
            }
            account.rested = rested;
            account.open += 1;
            account.handshakes += u32::from(handshake);
        }
        self.open += 1;
        Ok(())
    }

    /// A handshake of `site` has ended.
    pub(super) fn shaken(&mut self, site: Site) {
        if let Some(account) = self.accounts.get_mut(&site) {
            account.handshakes = account.handshakes.saturating_sub(1);
        }
    }

    /// A connection of `site` has ended.
    pub(super) fn leave(&mut self, site: Site, now: Instant) {
        self.open = self.open.saturating_sub(1);
        if let Some(account) = self.accounts.get_mut(&site) {
            account.open = account.open.saturating_sub(1);
            if account.says_nothing(now) {
                self.accounts.remove(&site);
            }
        }
    }

    fn is_bounded(&self, site: Site) -> bool {
        site.0.is_some() || self.bounds.local
    }

    /// Accounts without a connection are those of who came lately; after a burst of them has passed they go.
    fn sweep(&mut self, now: Instant) {
        if self.accounts.len() < self.sweep_at {
            return;
        }
        self.accounts.retain(|_, account| !account.says_nothing(now));
        if self.accounts.len() > 2 * self.bounds.connections {
            // Addresses by the ten thousand, each for a moment: their rates are worth less than the memory.
            self.accounts.retain(|_, account| account.open > 0);
        }
        self.sweep_at = ACCOUNTS_SWEPT_FROM.max(2 * self.accounts.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Bounds =
        Bounds { connections: 640, burst: 1000, per_second: 10, handshakes: 4, local: false };

    fn site(text: &str) -> Site {
        Site::of(text.parse().expect("an address"))
    }

    fn fill(ledger: &mut Ledger, site: Site, now: Instant) -> (usize, Turned) {
        for taken in 0.. {
            if let Err(turned) = ledger.enter(site, false, now) {
                return (taken, turned);
            }
        }
        unreachable!("a ledger has a bound")
    }

    #[test]
    fn one_address_never_takes_the_last_places_and_many_with_few_each_get_them() {
        let (mut ledger, now) = (Ledger::new(SMALL), Instant::now());
        assert_eq!(fill(&mut ledger, site("203.0.113.1"), now), (600, Turned::AddressConnections));
        // 640 / 64, and the one with which it has more than that.
        assert_eq!(fill(&mut ledger, site("203.0.113.2"), now), (11, Turned::AddressConnections));
        assert_eq!(fill(&mut ledger, site("203.0.113.3"), now), (11, Turned::AddressConnections));
        assert_eq!(fill(&mut ledger, site("203.0.113.4"), now), (11, Turned::AddressConnections));
        assert_eq!(fill(&mut ledger, site("203.0.113.5"), now), (7, Turned::Full));
        ledger.leave(site("203.0.113.1"), now);
        assert_eq!(fill(&mut ledger, site("203.0.113.6"), now), (1, Turned::Full));
    }

    #[test]
    fn a_site_comes_back_at_once_and_then_at_its_rate() {
        let (mut ledger, mut now) = (Ledger::new(Bounds { connections: 10_000, ..SMALL }), Instant::now());
        let crowd = site("203.0.113.1");
        assert_eq!(fill(&mut ledger, crowd, now), (1000, Turned::AddressRate));
        assert!(ledger.enter(site("203.0.113.2"), false, now).is_ok(), "others are not held up");
        now += Duration::from_secs(2);
        assert_eq!(fill(&mut ledger, crowd, now), (20, Turned::AddressRate));
        for _ in 0..1020 {
            ledger.leave(crowd, now);
        }
        assert_eq!(fill(&mut ledger, crowd, now), (0, Turned::AddressRate), "to hang up brings nothing back");
    }

    #[test]
    fn who_stalls_its_handshakes_stalls_no_others() {
        let (mut ledger, now) = (Ledger::new(SMALL), Instant::now());
        let slow = site("2001:db8::1");
        for _ in 0..4 {
            ledger.enter(slow, true, now).expect("room");
        }
        let neighbour = site("2001:db8::ffff:1");
        assert_eq!(
            ledger.enter(neighbour, true, now),
            Err(Turned::AddressHandshakes),
            "one network is one site"
        );
        assert!(ledger.enter(site("2001:db8:0:1::1"), true, now).is_ok());
        ledger.shaken(slow);
        assert!(ledger.enter(neighbour, true, now).is_ok());
    }

    #[test]
    fn callers_on_this_machine_are_bounded_by_its_files_alone() {
        let (mut ledger, now) = (Ledger::new(Bounds { burst: 1, ..SMALL }), Instant::now());
        assert_eq!(fill(&mut ledger, site("::ffff:127.0.0.1"), now), (640, Turned::Full));
        assert!(ledger.accounts.is_empty());
    }

    #[test]
    fn files_are_left_for_the_store() {
        for (files, expected) in [(20_000, 18_750), (1024, 960), (100, 50), (0, 1), (usize::MAX, 32_768)] {
            assert_eq!(connections(files), expected);
        }
    }

    proptest! {
        #[test]
        fn what_has_left_leaves_nothing(steps in prop::collection::vec((0u8..6, any::<bool>(), 0u64..300), 0..400)) {
            let (mut ledger, mut now) = (Ledger::new(Bounds { connections: 40, burst: 9, ..SMALL }), Instant::now());
            let mut open = Vec::new();
            for (host, enter, wait) in steps {
                now += Duration::from_millis(wait);
                let site = Site::of(IpAddr::from([203, 0, 113, host]));
                if enter {
                    if ledger.enter(site, host % 2 == 0, now).is_ok() {
                        open.push((site, host % 2 == 0));
                    }
                } else if let Some((site, handshake)) = open.pop() {
                    if handshake {
                        ledger.shaken(site);
                    }
                    ledger.leave(site, now);
                }
                prop_assert_eq!(ledger.open, open.len());
                prop_assert!(ledger.open <= 40);
            }
            now += Duration::from_secs(3600);
            for (site, handshake) in open {
                if handshake {
                    ledger.shaken(site);
                }
                ledger.leave(site, now);
            }
            ledger.sweep_at = 0;
            ledger.sweep(now);
            prop_assert_eq!(ledger.open, 0);
            prop_assert!(ledger.accounts.is_empty());
        }
    }
}
