//! Randomness for keys, serial numbers and tokens: the operating system's, through ring.

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// The operating system gave no randomness. There is nothing to fall back on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct RandomError;

/// `N` random bytes, wiped when dropped.
pub(crate) fn bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, RandomError> {
    let mut bytes = Zeroizing::new([0; N]);
    fill(&mut *bytes)?;
    Ok(bytes)
}

/// Fills `into` with random bytes.
pub(crate) fn fill(into: &mut [u8]) -> Result<(), RandomError> {
    SystemRandom::new().fill(into).map_err(|_| RandomError)
}
