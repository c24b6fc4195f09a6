//! What is sealed, as whoever carries or stores it may change it, and the file of keys that opens it.

use std::sync::LazyLock;

use skerry_identity::SecretBytes;
use skerry_identity::hpke::{HpkeKeyPair, OpeningKey as _, SealContext, seal_to};
use skerry_identity::key_ring::KeyRing;
use skerry_identity::seal;

const CONTEXT: SealContext<'_> = SealContext { project: "p", node_uid: "u", secret: "s", version: "v" };
const AAD: &[u8] = b"secret-revisions/p/s/v";

static NODE: LazyLock<HpkeKeyPair> = LazyLock::new(|| HpkeKeyPair::generate().expect("randomness"));
static RING: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::generate().expect("randomness"));

/// A secret on its way to a node, and one at rest. Nobody seals here but ourselves: what opens is what was sealed, and any change is seen.
pub fn sealed(input: &[u8]) {
    assert!(NODE.open(&CONTEXT, input).is_err(), "a forged secret");
    assert!(seal::open(&*RING, input, AAD).is_err(), "a forged value");
    let _ = seal::needs_reseal(&*RING, input);
    // The input as a change of what is genuine: its first bytes say where.
    let [at, flips, ..] = input else { return };
    if *flips == 0 {
        return;
    }
    let secret = SecretBytes::new(input.to_vec());
    let at = usize::from(*at);
    if let Ok(mut genuine) = seal_to(&NODE.public_key(), &CONTEXT, &secret) {
        let at = at % genuine.len();
        genuine[at] ^= flips;
        assert!(NODE.open(&CONTEXT, &genuine).is_err(), "byte {at} may be changed");
    }
    if let Ok(mut genuine) = seal::seal(&*RING, &secret, AAD) {
        let at = at % genuine.len();
        genuine[at] ^= flips;
        assert!(seal::open(&*RING, &genuine, AAD).is_err(), "byte {at} may be changed");
    }
}

/// The file of keys. It is written as it was read.
pub fn key_rings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(ring) = KeyRing::parse(text) {
        let again = KeyRing::parse(&ring.reveal()).expect("it was one");
        assert!(again.ids().eq(ring.ids()));
    }
}
