//! Which keys of a user count.

use skerry_identity::KeyId;
use skerry_proto::store::v1 as stored;

use super::super::issue::with_key;

fn key(byte: u8) -> KeyId {
    KeyId::from_bytes([byte; 32])
}

fn ids(record: &stored::UserRecord) -> Vec<u8> {
    record.keys.iter().map(|key| key.key_id[0]).collect()
}

#[test]
fn a_key_is_added_once_and_replaces_only_when_asked() {
    let one = with_key(Some(&stored::UserRecord::default()), key(1), None, false).unwrap().expect("new");
    assert_eq!(ids(&one), [1]);
    assert_eq!(with_key(Some(&one), key(1), None, false).unwrap(), None, "it counts already");
    let two = with_key(Some(&one), key(2), None, false).unwrap().expect("new");
    assert_eq!(ids(&two), [1, 2]);
    assert_eq!(ids(&with_key(Some(&two), key(3), None, true).unwrap().expect("new")), [3]);
    let full = (0..16).fold(stored::UserRecord::default(), |record, n| {
        with_key(Some(&record), key(n), None, false).unwrap().expect("new")
    });
    assert_eq!(with_key(Some(&full), key(99), None, false).unwrap_err().reason, "KEYS_MAX");
}

#[test]
fn the_first_record_of_the_admin_has_the_key_by_which_it_calls() {
    let record = with_key(None, key(2), Some(key(1)), false).unwrap().expect("new");
    assert_eq!(ids(&record), [1, 2]);
    assert!(record.meta.is_some_and(|meta| !meta.uid.is_empty()));
}
