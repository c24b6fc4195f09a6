//! Which time a certificate is held against.
//!
//! A cloud machine has a clock that somebody keeps right, and a certificate is held against it: [`SystemClock`].
//!
//! An edge machine may come up in 1970 or in 2099. Its agent must not be locked out by that, and so never holds a server against its own
//! wall clock. What it has instead is a floor ([`TimeFloor`]): the latest time that an authenticated server ever told. The true time is not
//! before the floor. So a certificate that ended before the floor has expired, for certain; one that begins after the floor may well be
//! valid, since time may have passed. A server is therefore accepted exactly if its whole chain is valid together at *some* time not before
//! the floor ([`crate::verify`] says how that is found out). What this gives away: a stolen server key whose certificate expired after the
//! floor is still good for this agent until it hears from an honest server. What it keeps: no wrong clock ever costs a node.
//!
//! The floor itself must not be a trap. A server whose own clock is wrong could tell 2099, and every honest certificate would have ended
//! before it. Hence what a server tells counts only up to the end of the certificate with which it told: a floor is never further ahead
//! of the truth than a certificate's life, and a wrong one heals by itself as certificates are renewed.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::PeerCertificate;

/// A wall clock that is believed.
pub trait Clock: fmt::Debug + Send + Sync {
    /// What it shows.
    fn now(&self) -> SystemTime;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The latest time that an authenticated server told, in whole seconds. It only advances.
#[derive(Debug, Default)]
pub struct TimeFloor {
    /// Seconds since 1970.
    seconds: AtomicU64,
}

impl TimeFloor {
    /// A floor as it was kept: on disk, or where nothing is, the beginning of the machine's own certificate, which a server wrote. The epoch
    /// if there is neither.
    pub fn new(kept: SystemTime) -> Self {
        Self { seconds: AtomicU64::new(seconds(kept)) }
    }

    /// Not before this is it now.
    pub fn get(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.seconds.load(Ordering::Acquire))
    }

    /// It is not before the beginning of the machine's own certificate.
    pub fn raise(&self, own_not_before: SystemTime) {
        self.seconds.fetch_max(seconds(own_not_before), Ordering::AcqRel);
    }

    /// Hears that it is `told`, from a server that proved to be `server`. The new floor, to be kept, if it advanced.
    pub fn advance(&self, told: SystemTime, server: &PeerCertificate) -> Option<SystemTime> {
        let told = seconds(told.min(server.not_after));
        let before = self.seconds.fetch_max(told, Ordering::AcqRel);
        (told > before).then(|| UNIX_EPOCH + Duration::from_secs(told))
    }
}

/// Whole seconds since 1970; none before.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Usage;
    use crate::{Identity, KeyId};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn server_until(not_after: u64) -> PeerCertificate {
        PeerCertificate {
            identity: Identity::parse("spiffe://example.org/project/system/service/gateway").unwrap(),
            key_id: KeyId::from_bytes([1; 32]),
            serial: crate::certificate::Serial::of(&[1]),
            usage: Usage::Both,
            not_before: at(1),
            not_after: at(not_after),
        }
    }

    #[test]
    fn a_floor_only_advances() {
        let floor = TimeFloor::new(at(100));
        assert_eq!(floor.advance(at(90), &server_until(1_000)), None);
        assert_eq!(floor.get(), at(100));
        assert_eq!(floor.advance(at(200), &server_until(1_000)), Some(at(200)));
        assert_eq!(floor.get(), at(200));
    }

    #[test]
    fn a_server_with_a_wrong_clock_moves_the_floor_no_further_than_its_own_end() {
        let floor = TimeFloor::default();
        assert_eq!(floor.advance(at(4_000_000_000), &server_until(1_000)), Some(at(1_000)));
    }
}
