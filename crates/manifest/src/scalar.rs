//! Single values: what is expected, what was found, and how to mend it.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value};
use skerry_model::quantity::{parse_bytes, parse_cpu_millis, parse_duration};

use crate::descriptors::Unit;
use crate::error::shorten;
use crate::suggest::nearest;
use crate::tree::{Content, Node, Scalar, ScalarKind};

/// Reads `node` as a value of `kind`. The error says what was expected and found.
pub(crate) fn scalar(kind: &Kind, node: &Node) -> Result<Value, String> {
    let wanted = match kind {
        Kind::Bool => "true or false",
        Kind::String => "a string",
        Kind::Bytes => "bytes in Base64",
        Kind::Enum(_) => "a word",
        Kind::Double | Kind::Float => "a number",
        Kind::Message(_) => "a mapping",
        _ => "an integer",
    };
    let mismatch = || format!("expected {wanted}, found {}", node.describe());
    let Content::Scalar(found) = &node.content else { return Err(mismatch()) };
    match kind {
        Kind::Bool if found.kind == ScalarKind::Bool => {
            Ok(Value::Bool(found.text.eq_ignore_ascii_case("true")))
        }
        Kind::String => match found.kind {
            ScalarKind::Text => Ok(Value::String(found.text.clone())),
            ScalarKind::Null => Err("expected a string, found nothing: write \"\" for the empty one".into()),
            _ => Err(format!("{}: put it in quotes: \"{}\"", mismatch(), shorten(&found.text, 40))),
        },
        Kind::Bytes if found.kind == ScalarKind::Text => match base64(&found.text) {
            Some(bytes) => Ok(Value::Bytes(bytes.into())),
            None => Err(mismatch()),
        },
        Kind::Enum(values) => match found.kind {
            ScalarKind::Text => enum_value(values, &found.text),
            ScalarKind::Int => {
                let number = found.integer().and_then(|number| i32::try_from(number).ok());
                number
                    .filter(|number| values.get_value(*number).is_some())
                    .map(Value::EnumNumber)
                    .ok_or_else(|| format!("expected {}, found {}", known_values(values), node.describe()))
            }
            _ => Err(format!("expected {}, found {}", known_values(values), node.describe())),
        },
        Kind::Double | Kind::Float => float(kind, found).ok_or_else(mismatch),
        Kind::Bool | Kind::Bytes | Kind::Message(_) => Err(mismatch()),
        _ => {
            let number = found.integer().ok_or_else(mismatch)?;
            integer(kind, number)
        }
    }
}

fn integer(kind: &Kind, number: i128) -> Result<Value, String> {
    let (value, least, most) = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            (i32::try_from(number).ok().map(Value::I32), i128::from(i32::MIN), i128::from(i32::MAX))
        }
        Kind::Uint32 | Kind::Fixed32 => (u32::try_from(number).ok().map(Value::U32), 0, i128::from(u32::MAX)),
        Kind::Uint64 | Kind::Fixed64 => (u64::try_from(number).ok().map(Value::U64), 0, i128::from(u64::MAX)),
        _ => (i64::try_from(number).ok().map(Value::I64), i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    value.ok_or_else(|| format!("{number} is out of range: {least} to {most}"))
}

fn float(kind: &Kind, found: &Scalar) -> Option<Value> {
    let number: f64 = match found.kind {
        ScalarKind::Int | ScalarKind::Float => {
            found.text.replace(".inf", "inf").replace(".nan", "nan").parse().ok()?
        }
        _ => return None,
    };
    #[allow(clippy::cast_possible_truncation, reason = "a float field holds what a float can hold")]
    let single = number as f32;
    Some(if matches!(kind, Kind::Float) { Value::F32(single) } else { Value::F64(number) })
}

/// Base64 as canonical proto JSON reads it: either alphabet, padded or not. Line breaks and spaces are passed over.
fn base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let plain: String = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| {
            if c == '-' {
                '+'
            } else if c == '_' {
                '/'
            } else {
                c
            }
        })
        .collect();
    GeneralPurpose::new(&base64::alphabet::STANDARD, config).decode(plain).ok()
}

/// Only letters and digits, small: `on-failure`, `OnFailure` and `ON_FAILURE` are one word.
fn word(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// `ON_FAILURE` of an enum as people write it: `on-failure`, without the prefix of its type.
pub(crate) fn human_value(values: &EnumDescriptor, name: &str) -> String {
    let prefix = word(values.name());
    let mut taken = 0;
    let cut = name.char_indices().find_map(|(at, c)| {
        if taken == prefix.len() {
            return (c == '_').then_some(at + 1);
        }
        taken += usize::from(c != '_');
        None
    });
    let bare = match cut {
        Some(cut) if word(&name[..cut]) == prefix => &name[cut..],
        _ => name,
    };
    bare.to_ascii_lowercase().replace('_', "-")
}

fn human_values(values: &EnumDescriptor) -> Vec<String> {
    values
        .values()
        .filter(|value| value.number() != 0)
        .map(|value| human_value(values, value.name()))
        .collect()
}

/// `started, healthy or completed`.
fn known_values(values: &EnumDescriptor) -> String {
    let names = human_values(values);
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn enum_value(values: &EnumDescriptor, text: &str) -> Result<Value, String> {
    let wanted = word(text);
    let matches = |name: &str| {
        // The zero value, "not set", is taken only under its whole name, as canonical JSON writes it.
        word(name) == wanted
            || (!name.ends_with("_UNSPECIFIED") && word(&human_value(values, name)) == wanted)
    };
    if let Some(value) = values.values().find(|value| matches(value.name())) {
        return Ok(Value::EnumNumber(value.number()));
    }
    let names = human_values(values);
    let hint = match nearest(text, names.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    Err(format!("expected {}, found {:?}{hint}", known_values(values), shorten(text, 40)))
}

/// How a quantity is written, for hints.
pub(crate) fn example(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "512Mi",
        Unit::CpuMillis => "500m",
    }
}

/// A field written without its unit.
pub(crate) fn quantity(unit: Unit, node: &Node) -> Result<Value, String> {
    let Content::Scalar(Scalar { text, kind: ScalarKind::Int | ScalarKind::Float | ScalarKind::Text }) =
        &node.content
    else {
        return Err(format!("expected a quantity such as {}, found {}", example(unit), node.describe()));
    };
    let parsed = match unit {
        Unit::Bytes => parse_bytes(text),
        Unit::CpuMillis => parse_cpu_millis(text),
    };
    parsed.map(Value::I64).map_err(|error| error.to_string())
}

/// A `google.protobuf.Duration`.
pub(crate) fn duration(message: &MessageDescriptor, node: &Node) -> Result<Value, String> {
    let Content::Scalar(Scalar { text, kind: ScalarKind::Text }) = &node.content else {
        let found = node.describe();
        return Err(format!("expected a duration with its unit, such as 30s, 1m30s or 500ms, found {found}"));
    };
    let parsed = parse_duration(text).map_err(|error| error.to_string())?;
    let wire = skerry_model::time::to_proto_duration(parsed);
    let mut value = DynamicMessage::new(message.clone());
    value.set_field_by_name("seconds", Value::I64(wire.seconds));
    value.set_field_by_name("nanos", Value::I32(wire.nanos));
    Ok(Value::Message(value))
}

/// Reads `2026-01-31T12:00:00Z`, or with another offset from UTC, as the `google.protobuf.Timestamp` of `message`.
pub(crate) fn timestamp(message: &MessageDescriptor, node: &Node) -> Result<Value, String> {
    let wanted = "a time with its offset from UTC, such as 2026-01-31T12:00:00Z";
    let Content::Scalar(Scalar { text, kind: ScalarKind::Text }) = &node.content else {
        return Err(format!("expected {wanted}, found {}", node.describe()));
    };
    let time: jiff::Timestamp = text.parse().map_err(|_| format!("expected {wanted}, found {text:?}"))?;
    // Both have the sign of the whole; the wire counts fractions forward.
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
    let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
    let mut value = DynamicMessage::new(message.clone());
    value.set_field_by_name("seconds", Value::I64(i64::try_from(seconds).unwrap_or_default()));
    value.set_field_by_name("nanos", Value::I32(i32::try_from(nanos).unwrap_or_default()));
    Ok(Value::Message(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Position;
    use crate::tree::plain_kind;

    fn node(text: &str) -> Node {
        let scalar = Scalar { text: text.into(), kind: plain_kind(text) };
        Node::new(Position::START, Content::Scalar(scalar))
    }

    fn enumeration(message: &str, field: &str) -> EnumDescriptor {
        let message = crate::descriptors::message(message).expect("in the protocol");
        match message.get_field_by_name(field).expect("in the message").kind() {
            Kind::Enum(values) => values,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn enum_words_have_no_case_separator_or_prefix() {
        let policy = enumeration("skerry.type.v1.RestartPolicy", "policy");
        for text in ["on-failure", "OnFailure", "ON_FAILURE", "onfailure"] {
            assert_eq!(enum_value(&policy, text), Ok(Value::EnumNumber(2)), "{text}");
        }
        let network = enumeration("skerry.type.v1.Container", "network_mode");
        for text in ["host", "Host", "NETWORK_MODE_HOST", "networkModeHost"] {
            assert_eq!(enum_value(&network, text), Ok(Value::EnumNumber(2)), "{text}");
        }
        assert_eq!(
            enum_value(&network, "hots"),
            Err("expected app, host or none, found \"hots\"; did you mean \"host\"?".into())
        );
        assert!(enum_value(&network, "unspecified").is_err());
        assert_eq!(enum_value(&network, "NETWORK_MODE_UNSPECIFIED"), Ok(Value::EnumNumber(0)));
        assert_eq!(human_value(&policy, "ON_FAILURE"), "on-failure");
    }

    #[test]
    fn wrong_types_say_expected_and_found() {
        let wrong = |kind: Kind, text: &str| scalar(&kind, &node(text)).expect_err("refused");
        assert_eq!(
            wrong(Kind::String, "8080"),
            "expected a string, found the number 8080: put it in quotes: \"8080\""
        );
        assert_eq!(wrong(Kind::String, "true"), "expected a string, found true: put it in quotes: \"true\"");
        assert_eq!(
            wrong(Kind::String, "~"),
            "expected a string, found nothing: write \"\" for the empty one"
        );
        assert_eq!(wrong(Kind::Bool, "yes"), "expected true or false, found the string \"yes\"");
        assert_eq!(wrong(Kind::Uint32, "web"), "expected an integer, found the string \"web\"");
        assert_eq!(wrong(Kind::Uint32, "-1"), "-1 is out of range: 0 to 4294967295");
        assert_eq!(wrong(Kind::Uint32, "1.5"), "expected an integer, found the number 1.5");
        assert_eq!(wrong(Kind::Bytes, "a"), "expected bytes in Base64, found the string \"a\"");
    }

    #[test]
    fn right_values_are_taken() {
        assert_eq!(scalar(&Kind::Int64, &node("0x10")), Ok(Value::I64(16)));
        assert_eq!(scalar(&Kind::Bool, &node("True")), Ok(Value::Bool(true)));
        assert_eq!(scalar(&Kind::Double, &node("1.5")), Ok(Value::F64(1.5)));
        for text in ["_-8=", "/+8=", "/+8", "_-8"] {
            assert_eq!(
                scalar(&Kind::Bytes, &node(text)),
                Ok(Value::Bytes(vec![0xff, 0xef].into())),
                "{text}"
            );
        }
        assert_eq!(quantity(Unit::Bytes, &node("512Mi")), Ok(Value::I64(512 << 20)));
        assert_eq!(quantity(Unit::CpuMillis, &node("1.5")), Ok(Value::I64(1500)));
        assert_eq!(quantity(Unit::CpuMillis, &node("500m")), Ok(Value::I64(500)));
    }

    #[test]
    fn durations_need_their_unit() {
        let message = crate::descriptors::message("google.protobuf.Duration").expect("in the protocol");
        assert!(duration(&message, &node("1m30s")).is_ok());
        let error = duration(&message, &node("30")).expect_err("refused");
        assert_eq!(
            error,
            "expected a duration with its unit, such as 30s, 1m30s or 500ms, found the number 30"
        );
    }
}
