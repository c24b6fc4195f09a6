//! Laws of chains: one that was written whole is taken, and any one change of it is found.

use proptest::prelude::*;
use prost::Message as _;
use skerry_proto::registry::v1::{AuditChain, AuditRecord};
use skerry_proto::types::v1::{AuditEntry, AuditStart, AuditTip};

use super::*;

/// A chain of `length` records of which the first `removed` were removed.
fn chain(name: &str, length: u64, removed: u64, others: &[AuditTip]) -> (AuditChain, Vec<AuditRecord>) {
    let mut head = AuditChain { name: name.to_owned(), ..AuditChain::default() };
    let mut previous = BEGINNING;
    let mut records = Vec::new();
    for sequence in 1..=length {
        let start = (sequence == 1).then(|| AuditStart { others: others.to_vec(), ..AuditStart::default() });
        let time = Some(prost_types::Timestamp { seconds: i64::try_from(sequence).unwrap(), nanos: 0 });
        let resource = format!("projects/p/apps/a{sequence}");
        let entry =
            AuditEntry { chain: name.to_owned(), sequence, time, resource, start, ..Default::default() };
        let entry = Bytes::from(entry.encode_to_vec());
        let hash = AuditHash::of(&previous, &entry);
        let record = AuditRecord {
            chain: name.to_owned(),
            sequence,
            entry,
            previous_hash: previous.to_bytes(),
            hash: hash.to_bytes(),
            content: None,
        };
        if sequence <= removed {
            head.removed_sequence = sequence;
            head.removed_hash = hash.to_bytes();
        } else {
            records.push(record);
        }
        previous = hash;
        head.sequence = sequence;
        head.hash = hash.to_bytes();
    }
    (head, records)
}

fn check(head: &AuditChain, records: &[AuditRecord]) -> Result<Checked, Finding> {
    let mut check = ChainCheck::new(head)?;
    for record in records {
        check.take(record)?;
    }
    check.finish(head)
}

fn flip(bytes: &Bytes, at: usize, bit: u8) -> Bytes {
    let mut bytes = bytes.to_vec();
    let index = at % bytes.len();
    bytes[index] ^= 1 << (bit % 8);
    bytes.into()
}

proptest! {
    #[test]
    fn a_chain_that_was_written_is_whole(length in 1_u64..20, removed in 0_u64..20) {
        let removed = removed.min(length);
        let (head, records) = chain("c", length, removed, &[]);
        let checked = check(&head, &records).unwrap();
        prop_assert_eq!(checked.sequence(), length);
        prop_assert_eq!(checked.removed, removed);
    }

    #[test]
    fn any_flipped_bit_is_found(
        length in 1_u64..12, removed in 0_u64..11, which: usize, field in 0..3, at: usize, bit: u8,
    ) {
        let (head, mut records) = chain("c", length, removed.min(length - 1), &[]);
        let index = which % records.len();
        let record = &mut records[index];
        match field {
            0 => record.entry = flip(&record.entry, at, bit),
            1 => record.previous_hash = flip(&record.previous_hash, at, bit),
            _ => record.hash = flip(&record.hash, at, bit),
        }
        prop_assert!(check(&head, &records).is_err());
    }

    #[test]
    fn a_record_that_was_written_anew_with_its_hash_is_found(length in 1_u64..12, which: usize) {
        let (head, mut records) = chain("c", length, 0, &[]);
        let index = which % records.len();
        let record = &mut records[index];
        let mut entry = AuditEntry::decode(record.entry.clone()).unwrap();
        entry.resource.push('x');
        record.entry = entry.encode_to_vec().into();
        let previous = AuditHash::from_bytes(&record.previous_hash).unwrap();
        record.hash = AuditHash::of(&previous, &record.entry).to_bytes();
        // The next one no longer follows, or the head names another.
        prop_assert!(check(&head, &records).is_err());
    }

    #[test]
    fn a_record_that_was_removed_is_found_wherever_it_was(length in 1_u64..12, which: usize) {
        let (head, mut records) = chain("c", length, 0, &[]);
        records.remove(which % records.len());
        prop_assert!(check(&head, &records).is_err());
    }

    #[test]
    fn records_that_were_swapped_are_found(length in 2_u64..12, one: usize, other: usize, renamed: bool) {
        let (head, mut records) = chain("c", length, 0, &[]);
        let (one, other) = (one % records.len(), other % records.len());
        prop_assume!(one != other);
        records.swap(one, other);
        if renamed {
            // Under each other's keys.
            let (first, second) = (records[one].sequence, records[other].sequence);
            records[one].sequence = second;
            records[other].sequence = first;
        }
        prop_assert!(check(&head, &records).is_err());
    }

    #[test]
    fn a_record_that_stands_twice_is_found(length in 1_u64..12, which: usize) {
        let (head, mut records) = chain("c", length, 0, &[]);
        let index = which % records.len();
        records.insert(index, records[index].clone());
        prop_assert!(check(&head, &records).is_err());
    }

    #[test]
    fn an_end_that_was_cut_together_with_the_head_is_found_by_a_chain_that_began_later(
        length in 2_u64..12, kept in 1_u64..11,
    ) {
        let (head, _) = chain("a", length, 0, &[]);
        let tip = AuditTip { chain: "a".into(), sequence: head.sequence, hash: head.hash.clone() };
        let (later, of_later) = chain("b", 3, 0, &[tip]);
        let later = check(&later, &of_later).unwrap();
        let (short, of_short) = chain("a", kept.min(length - 1), 0, &[]);
        let short = check(&short, &of_short).unwrap();
        let found = compare(&[short, later], Restored::Yes);
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(&found[0].chain, "a");
    }
}

#[test]
fn a_head_that_was_changed_is_found() {
    let (head, records) = chain("c", 5, 2, &[]);
    let changed = |change: &dyn Fn(&mut AuditChain)| {
        let mut head = head.clone();
        change(&mut head);
        check(&head, &records).expect_err("found").wrong
    };
    assert_eq!(changed(&|head| head.sequence = 4), Wrong::BehindHead);
    assert_eq!(changed(&|head| head.sequence = 6), Wrong::Missing);
    assert_eq!(changed(&|head| head.hash = flip(&head.hash, 0, 0)), Wrong::Head);
    assert_eq!(changed(&|head| head.removed_sequence = 1), Wrong::Missing);
    assert_eq!(changed(&|head| head.removed_hash = flip(&head.removed_hash, 3, 1)), Wrong::NotLinked);
    assert_eq!(changed(&|head| head.removed_hash = Bytes::new()), Wrong::BadHead);
}

#[test]
fn what_a_later_chain_says_of_others_holds_over_removal_and_finds_a_chain_that_is_gone() {
    let (head, records) = chain("a", 5, 0, &[]);
    let tip = AuditTip { chain: "a".into(), sequence: head.sequence, hash: head.hash.clone() };
    let later = || {
        let (later, of_later) = chain("b", 2, 0, std::slice::from_ref(&tip));
        check(&later, &of_later).unwrap()
    };
    assert_eq!(compare(&[check(&head, &records).unwrap(), later()], Restored::No), []);
    let (grown, of_grown) = chain("a", 8, 6, &[]);
    assert_eq!(compare(&[check(&grown, &of_grown).unwrap(), later()], Restored::No), []);
    let gone = compare(&[later()], Restored::Yes);
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].to_string(), "chain a, record 5: the chain `b` knows it, and the whole chain is gone");
}

#[test]
fn an_end_that_its_own_writer_misses_is_found_unless_the_store_was_restored() {
    let (long, of_long) = chain("a", 5, 0, &[]);
    let former = AuditTip { chain: "a".into(), sequence: long.sequence, hash: long.hash.clone() };
    let successor = || {
        let (head, records) = chain("b", 1, 0, &[]);
        let mut checked = check(&head, &records).unwrap();
        checked.start = Some(AuditStart { former: Some(former.clone()), ..AuditStart::default() });
        checked
    };
    let (short, of_short) = chain("a", 3, 0, &[]);
    let cut = || vec![check(&short, &of_short).unwrap(), successor()];
    let found = compare(&cut(), Restored::No);
    assert_eq!(found[0].wrong, Wrong::CutShort { successor: "b".into() });
    assert_eq!((found.len(), found[0].sequence), (1, 5));
    assert_eq!(compare(&cut(), Restored::Yes), []);
    assert_eq!(compare(&[successor()], Restored::No).len(), 1, "all of it");
    assert_eq!(compare(&[check(&long, &of_long).unwrap(), successor()], Restored::No), []);
}

#[test]
fn a_chain_whose_beginning_was_cut_is_found() {
    let (mut head, records) = chain("c", 5, 0, &[]);
    assert_eq!(check(&head, &records[2..]).expect_err("found").wrong, Wrong::Missing);
    // Removal is what the head says, and that is known to nobody but the head; the end is what other chains know.
    head.removed_sequence = 2;
    head.removed_hash = records[1].hash.clone();
    assert_eq!(check(&head, &records[2..]).unwrap().removed, 2);
}

#[test]
fn the_hash_is_the_one_that_the_contract_spells_out() {
    let previous = [7_u8; 32];
    let mut bytes = b"skerry audit record v1\0".to_vec();
    bytes.extend_from_slice(&previous);
    bytes.extend_from_slice(b"entry");
    let expected: [u8; 32] = Sha256::digest(&bytes).into();
    let previous = AuditHash::from_bytes(&previous).unwrap();
    assert_eq!(AuditHash::of(&previous, b"entry").to_bytes(), expected.to_vec());
    assert_eq!(AuditHash::from_bytes(&[1; 31]), None);
}
