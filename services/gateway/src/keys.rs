//! Whose key a node's certificate is for: the record says, and without an authority nobody does. Pure.

use std::time::SystemTime;

use skerry_identity::{PeerCertificate, Standing};
use skerry_proto::store::v1::NodeRecord;

/// What a certificate is to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// Nobody checks: there is no TLS here, or no authority that would have issued it.
    Unchecked,
    /// The node's.
    Ours,
    /// The one that was asked for last: the node is seen with it for the first time.
    Next,
    /// Not the node's, or no more.
    Foreign,
}

impl Key {
    /// What `certificate` is to the node of `record`, in an installation with or without an authority of its own.
    pub(crate) fn of(
        certificate: Option<&PeerCertificate>,
        record: &NodeRecord,
        has_authority: bool,
    ) -> Self {
        let Some(certificate) = certificate else { return Self::Unchecked };
        let proved = certificate.key_id.as_bytes();
        if record.key_id[..] == proved[..] {
            Self::Ours
        } else if record.next_key_id[..] == proved[..] {
            Self::Next
        } else if record.key_id.is_empty() && !has_authority {
            // Certificates come from elsewhere, and a node is its name.
            Self::Unchecked
        } else {
            Self::Foreign
        }
    }

    /// The record once the node was seen with this key, if it is another one.
    pub(crate) fn seen(self, record: &NodeRecord) -> Option<NodeRecord> {
        (self == Self::Next).then(|| {
            let mut seen = record.clone();
            seen.key_id = std::mem::take(&mut seen.next_key_id);
            seen
        })
    }
}

/// Whether a certificate is out of time now: then there is nothing to do but renew it.
pub(crate) fn is_out_of_time(certificate: &PeerCertificate, now: SystemTime) -> bool {
    certificate.standing(now) != Standing::Valid
}

#[cfg(test)]
mod tests {
    use skerry_testing::Authority;

    use super::*;

    fn certificate() -> PeerCertificate {
        let authority = Authority::new("example.org");
        let (issued, _) = authority.issue("spiffe://example.org/project/p/node/n");
        PeerCertificate::of_chain(&issued.chain, authority.bundle().domain()).expect("a node's")
    }

    fn record(key: &[u8], next: &[u8]) -> NodeRecord {
        NodeRecord { key_id: key.to_vec().into(), next_key_id: next.to_vec().into(), ..Default::default() }
    }

    #[test]
    fn a_node_is_its_record_s_key_and_nothing_else_where_there_is_an_authority() {
        let certificate = certificate();
        let ours = certificate.key_id.as_bytes().as_slice();
        let other = [7; 32].as_slice();
        for (key, next, with, without) in [
            (ours, [].as_slice(), Key::Ours, Key::Ours),
            (ours, other, Key::Ours, Key::Ours),
            (other, ours, Key::Next, Key::Next),
            (other, [].as_slice(), Key::Foreign, Key::Foreign),
            // Struck out, or never enrolled.
            ([].as_slice(), [].as_slice(), Key::Foreign, Key::Unchecked),
        ] {
            let record = record(key, next);
            assert_eq!(Key::of(Some(&certificate), &record, true), with, "{record:?}");
            assert_eq!(Key::of(Some(&certificate), &record, false), without, "{record:?}");
            assert_eq!(Key::of(None, &record, true), Key::Unchecked);
        }
    }

    #[test]
    fn the_next_key_takes_the_place_of_the_first_when_the_node_is_seen_with_it() {
        let record = record(&[1; 32], &[2; 32]);
        let seen = Key::Next.seen(&record).expect("a change");
        assert_eq!((seen.key_id, seen.next_key_id.len()), (vec![2; 32].into(), 0));
        for key in [Key::Ours, Key::Unchecked, Key::Foreign] {
            assert_eq!(key.seen(&record), None);
        }
    }
}
