//! How often machines of one address may ask to enrol. Many machines may stand behind one address, so it is not little; who guesses at tokens
//! guesses at 256 bits and gets nowhere at any rate, but each question costs the store a read or a write.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Questions at once from one address after a quiet time: a rack that is switched on.
const BURST: u32 = 64;
/// The time in which one more is earned.
const EARNED_IN: Duration = Duration::from_millis(100);
/// Addresses that are remembered. One that has earned all back is as good as forgotten, and is where room is needed.
const ADDRESSES_MAX: usize = 8192;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// When all will be earned back, by address.
    full_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl Rate {
    /// Whether this address may ask now; or how long it shall wait.
    pub(crate) fn admit(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let address = network(address);
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if full_at.len() >= ADDRESSES_MAX && !full_at.contains_key(&address) {
            full_at.retain(|_, at| *at > now);
            if full_at.len() >= ADDRESSES_MAX {
                return Err(EARNED_IN * BURST);
            }
        }
        let at = full_at.entry(address).or_insert(now);
        let full = (*at).max(now) + EARNED_IN;
        let wait = full.saturating_duration_since(now + EARNED_IN * BURST);
        if !wait.is_zero() {
            return Err(wait);
        }
        *at = full;
        Ok(())
    }
}

/// What is one machine's or one site's: an IPv4 address, the first half of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_may_ask_a_burst_at_once_and_the_rate_after_that() {
        let (rate, now) = (Rate::default(), Instant::now());
        let admitted = |at: Instant, tries: u32| {
            (0..tries).filter(|_| rate.admit(address("10.0.0.1"), at).is_ok()).count()
        };
        assert_eq!(admitted(now, 1000), BURST as usize);
        assert_eq!(rate.admit(address("10.0.0.1"), now), Err(EARNED_IN));
        assert_eq!(admitted(now + Duration::from_secs(1), 1000), 10);
        // Another address is not held up by it; one of the same network is.
        assert!(rate.admit(address("10.0.0.2"), now).is_ok());
        for _ in 0..BURST {
            assert!(rate.admit(address("2001:db8::1"), now).is_ok());
        }
        assert!(rate.admit(address("2001:db8::2"), now).is_err());
        assert!(rate.admit(address("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn no_more_addresses_are_remembered_than_there_is_room_for() {
        let (rate, now) = (Rate::default(), Instant::now());
        let all = 0..u32::try_from(ADDRESSES_MAX).expect("a small constant");
        for n in all {
            assert!(rate.admit(IpAddr::from(n.to_be_bytes()), now).is_ok());
        }
        assert!(rate.admit(address("192.0.2.1"), now).is_err());
        assert!(rate.admit(address("0.0.0.1"), now).is_ok(), "one that is known may go on");
        assert!(rate.admit(address("192.0.2.1"), now + EARNED_IN * 2).is_ok(), "room comes back");
    }
}
