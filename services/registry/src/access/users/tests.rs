//! Which keys of a user count.

use skerry_proto::types::v1::Metadata;

use super::super::issue::with_key;
use super::*;

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

#[test]
fn the_server_says_since_when_a_key_counts() {
    let long_ago = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let before = UserSpec { keys: vec![UserKey { id: key(1).to_string(), create_time: long_ago }] };
    let claimed = Some(prost_types::Timestamp { seconds: 7, nanos: 0 });
    let sent = [key(1), key(2)].map(|key| UserKey { id: key.to_string(), create_time: claimed });
    let user = User { metadata: Some(Metadata::default()), spec: Some(UserSpec { keys: sent.to_vec() }) };
    let merged = Users::merge(Some(&before), &user, &Mask::all()).unwrap();
    assert_eq!(merged.keys[0].create_time, long_ago);
    assert_ne!(merged.keys[1].create_time, claimed);
    let wrong = UserKey { id: "me".into(), create_time: None };
    let user = User { spec: Some(UserSpec { keys: vec![wrong] }), ..user };
    assert_eq!(Users::merge(None, &user, &Mask::all()).unwrap_err().violations[0].field, "user.spec.keys[0]");
}
