//! A message as an ordered tree of plain values, by canonical proto JSON: the common ground of JSON and YAML output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, Kind, MapKey, Value as Field};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A tree with ordered mappings.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A number, as its text.
    Number(String),
    /// A 64-bit integer, as its text: a string in JSON, whose readers may round numbers; plain in YAML.
    Long(String),
    /// A text.
    String(String),
    /// A list.
    List(Vec<Value>),
    /// A mapping, in the order to be written.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// The tree as JSON, over several lines.
    pub fn to_json_pretty(&self) -> String {
        serde_json::to_string_pretty(self).expect("keys are strings and numbers are finite")
    }

    /// The tree as JSON in one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("keys are strings and numbers are finite")
    }

    /// The tree as a YAML document, ending with a newline.
    pub fn to_yaml(&self) -> String {
        super::yaml::write(self)
    }

    /// The entry `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_f64(number),
                _ => serializer.serialize_str(text),
            },
            Self::Long(text) | Self::String(text) => serializer.serialize_str(text),
            Self::List(items) => items.serialize(serializer),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// `message` with the fields that are set, by number.
pub(super) fn of_message(message: &DynamicMessage) -> Value {
    match message.descriptor().full_name() {
        "google.protobuf.Duration" => Value::String(seconds_text(message) + "s"),
        "google.protobuf.Timestamp" => Value::String(timestamp(message)),
        _ => Value::Map(
            message
                .fields()
                .map(|(field, value)| (field.json_name().to_owned(), of_field(&field.kind(), value)))
                .collect(),
        ),
    }
}

use prost_reflect::ReflectMessage as _;

fn of_field(kind: &Kind, value: &Field) -> Value {
    match value {
        Field::Bool(value) => Value::Bool(*value),
        Field::I32(value) => Value::Number(value.to_string()),
        Field::U32(value) => Value::Number(value.to_string()),
        Field::I64(value) => Value::Long(value.to_string()),
        Field::U64(value) => Value::Long(value.to_string()),
        Field::F32(value) => Value::Number(value.to_string()),
        Field::F64(value) => Value::Number(value.to_string()),
        Field::String(value) => Value::String(value.clone()),
        Field::Bytes(value) => Value::String(STANDARD.encode(value)),
        Field::EnumNumber(number) => match kind {
            Kind::Enum(values) => values.get_value(*number).map_or_else(
                || Value::Number(number.to_string()),
                |value| Value::String(value.name().to_owned()),
            ),
            _ => Value::Number(number.to_string()),
        },
        Field::Message(message) => of_message(message),
        Field::List(values) => Value::List(values.iter().map(|value| of_field(kind, value)).collect()),
        Field::Map(values) => {
            let value_kind = match kind {
                Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
                kind => kind.clone(),
            };
            let mut entries: Vec<_> =
                values.iter().map(|(key, value)| (key_text(key), of_field(&value_kind, value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Map(entries)
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn seconds_and_nanos(message: &DynamicMessage) -> (i64, i32) {
    let seconds = message.get_field_by_name("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
    let nanos = message.get_field_by_name("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
    (seconds, nanos)
}

/// `1.5`, `30`, `-0.25`: 0, 3, 6 or 9 digits after the point, as canonical JSON has it.
fn seconds_text(message: &DynamicMessage) -> String {
    let (seconds, nanos) = seconds_and_nanos(message);
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}", seconds.unsigned_abs(), fraction(nanos.unsigned_abs()))
}

fn fraction(nanos: u32) -> String {
    let digits = format!("{nanos:09}");
    match (nanos, nanos % 1_000_000, nanos % 1_000) {
        (0, _, _) => String::new(),
        (_, 0, _) => format!(".{}", &digits[..3]),
        (_, _, 0) => format!(".{}", &digits[..6]),
        _ => format!(".{digits}"),
    }
}

/// RFC 3339 in UTC. Days to a date by Howard Hinnant's `civil_from_days`.
fn timestamp(message: &DynamicMessage) -> String {
    let (seconds, nanos) = seconds_and_nanos(message);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = i128::from(days) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = fraction(nanos.unsigned_abs());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(name: &str, seconds: i64, nanos: i32) -> Value {
        let descriptor = crate::descriptors::message(name).expect("in the protocol");
        let mut message = DynamicMessage::new(descriptor);
        message.set_field_by_name("seconds", Field::I64(seconds));
        message.set_field_by_name("nanos", Field::I32(nanos));
        of_message(&message)
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = |seconds, nanos| moment("google.protobuf.Timestamp", seconds, nanos);
        assert_eq!(time(0, 0), Value::String("1970-01-01T00:00:00Z".into()));
        assert_eq!(time(1_709_210_096, 5_000_000), Value::String("2024-02-29T12:34:56.005Z".into()));
        assert_eq!(time(-1, 0), Value::String("1969-12-31T23:59:59Z".into()));
        assert_eq!(time(4_102_444_799, 1), Value::String("2099-12-31T23:59:59.000000001Z".into()));
    }

    #[test]
    fn durations_are_seconds() {
        let duration = |seconds, nanos| moment("google.protobuf.Duration", seconds, nanos);
        assert_eq!(duration(90, 0), Value::String("90s".into()));
        assert_eq!(duration(0, 500_000_000), Value::String("0.500s".into()));
        assert_eq!(duration(0, -250_000), Value::String("-0.000250s".into()));
    }

    #[test]
    fn json_writes_64_bit_integers_as_strings_in_the_given_order() {
        let value = Value::Map(vec![
            ("b".into(), Value::Long("9007199254740993".into())),
            ("a".into(), Value::List(vec![Value::Number("1".into()), Value::Bool(true)])),
        ]);
        assert_eq!(value.to_json(), r#"{"b":"9007199254740993","a":[1,true]}"#);
        assert_eq!(
            value.to_json_pretty(),
            "{\n  \"b\": \"9007199254740993\",\n  \"a\": [\n    1,\n    true\n  ]\n}"
        );
    }
}
