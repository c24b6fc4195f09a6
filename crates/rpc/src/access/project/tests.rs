//! Against the decoder that handlers use: what it finds, this finds, or refuses.

use proptest::prelude::*;
use prost::Message as _;
use skerry_proto::registry::v1::{Node, UpdateNodeRequest};
use skerry_proto::types::v1::Metadata;

use super::*;

const PATH: Path = &[1, 1, 1];

fn decoded(bytes: &[u8]) -> Option<String> {
    let request = UpdateNodeRequest::decode(bytes).ok()?;
    Some(request.node.and_then(|node| node.metadata).map(|metadata| metadata.name).unwrap_or_default())
}

fn number(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(value, &mut bytes);
    bytes
}

/// A field with its bytes counted, as messages and texts are.
fn counted(field: u64, value: &[u8]) -> Vec<u8> {
    [number(field << 3 | 2), number(value.len() as u64), value.to_vec()].concat()
}

/// Fields of one level, right and wrong, in any order and number; texts are few, so that the same one comes twice at times.
fn fields(depth: u32) -> BoxedStrategy<Vec<u8>> {
    let name = prop_oneof![Just("projects/a/nodes/n"), Just("projects/b/nodes/n"), Just("")];
    let mut parts = vec![
        (2..7_u64, proptest::collection::vec(any::<u8>(), 0..4)).prop_map(|(f, v)| counted(f, &v)).boxed(),
        (1..40_u64, any::<u64>()).prop_map(|(f, v)| [number(f << 3), number(v)].concat()).boxed(),
        (8..40_u64).prop_map(|f| [number(f << 3 | 5), vec![0; 4]].concat()).boxed(),
        (8..40_u64).prop_map(|f| [number(f << 3 | 1), vec![0; 8]].concat()).boxed(),
        (1..40_u64, 0..8_u64).prop_map(|(f, kind)| number(f << 3 | kind)).boxed(),
        // A key that is longer than it need be.
        name.clone()
            .prop_map(|text| [vec![0x8a, 0x80, 0x00], number(text.len() as u64), text.into()].concat())
            .boxed(),
    ];
    let wanted = match depth {
        0 => name.prop_map(|text| counted(1, text.as_bytes())).boxed(),
        _ => fields(depth - 1).prop_map(|inner| counted(1, &inner)).boxed(),
    };
    // Half of all fields are the one that is looked for.
    for _ in 0..4 {
        parts.push(wanted.clone());
    }
    proptest::collection::vec(proptest::strategy::Union::new(parts), 0..5)
        .prop_map(|parts| parts.concat())
        .boxed()
}

fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let (Some(wanted), Ok(found)) = (decoded(bytes), find(bytes, PATH)) {
        prop_assert_eq!(found, wanted);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_the_decoder_finds_is_found_or_refused(bytes in fields(2)) {
        agrees(&bytes)?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        agrees(&bytes)?;
    }

    #[test]
    fn a_request_that_a_client_encoded_is_always_read(name in ".{0,40}", id in ".{0,9}", label in ".{0,9}", cut in 0..200_usize) {
        let metadata = Metadata {
            name: name.clone(),
            labels: [(label.clone(), label)].into(),
            generation: -1,
            ..Default::default()
        };
        let node = Node { metadata: Some(metadata), ..Default::default() };
        let request = UpdateNodeRequest { node: Some(node), request_id: id, ..Default::default() };
        let bytes = request.encode_to_vec();
        prop_assert_eq!(find(&bytes, PATH), Ok(name.as_str()));
        // Truncated it is refused, or what is left is a message that the decoder takes too.
        agrees(&bytes[..cut.min(bytes.len())])?;
    }
}

#[test]
fn two_names_are_refused_in_whatever_way_they_come_together() {
    let node = |name: &str| counted(1, &counted(1, &counted(1, name.as_bytes())));
    let (ours, theirs) = (node("projects/a/nodes/n"), node("projects/b/nodes/n"));
    let both = [ours.clone(), theirs.clone()].concat();
    assert_eq!(decoded(&both).as_deref(), Some("projects/b/nodes/n"), "the decoder takes the last");
    assert_eq!(find(&both, PATH), Err(Unreadable::Ambiguous));
    assert_eq!(find(&[theirs, ours.clone()].concat(), PATH), Err(Unreadable::Ambiguous));
    assert_eq!(find(&[node(""), ours.clone()].concat(), PATH), Err(Unreadable::Ambiguous));
    // The same twice is one.
    assert_eq!(find(&[ours.clone(), ours.clone()].concat(), PATH), Ok("projects/a/nodes/n"));
    // Nothing but labels, then the name: merged, as by the decoder.
    let labels = counted(1, &counted(1, &counted(6, &counted(1, b"k"))));
    assert_eq!(find(&[labels, ours].concat(), PATH), Ok("projects/a/nodes/n"));
    assert_eq!(find(&[], PATH), Ok(""));
}
