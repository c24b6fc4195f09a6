//! How often machines of one address may ask to enrol. Many machines may stand behind one address, so it is not little; who guesses at tokens
//! guesses at 256 bits and gets nowhere at any rate, but each question costs the store a read or a write.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Questions at once from one address after a quiet time: a rack that is switched on.
const BURST: u32 = 64;
/// The time in which one more is earned.
const EARNED_IN: Duration = Duration::from_millis(100);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 8192;

/// See the module.
#[derive(Debug)]
pub(crate) struct Rate(skerry_rpc::Rate<IpAddr>);

impl Default for Rate {
    fn default() -> Self {
        Self(skerry_rpc::Rate::new(BURST, EARNED_IN, ADDRESSES_MAX))
    }
}

impl Rate {
    /// Whether this address may ask now; or how long it shall wait.
    pub(crate) fn admit(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.0.admit(network(address), now)
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

    #[test]
    fn a_network_asks_as_one() {
        let address = |text: &str| text.parse().expect("an address");
        let (rate, now) = (Rate::default(), Instant::now());
        for _ in 0..BURST {
            assert!(rate.admit(address("2001:db8::1"), now).is_ok());
        }
        assert!(rate.admit(address("2001:db8::2"), now).is_err());
        for other in ["2001:db8:0:1::1", "10.0.0.1"] {
            assert!(rate.admit(address(other), now).is_ok(), "{other}");
        }
    }
}
