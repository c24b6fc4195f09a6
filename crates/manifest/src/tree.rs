//! A document as it was written: scalars, lists and mappings with their places, before any meaning is given to them.
//!
//! Both readers (`yaml`, `json`) make this tree; `decode` reads it by the descriptors. Compose files are read as such trees too.

use std::rc::Rc;

use crate::position::Position;

/// Deepest nesting that is read. The deepest legal manifest nests below 16.
pub const DEPTH_MAX: usize = 64;

/// Most nodes of one file, aliases expanded: keeps "billion laughs" from costing more than a large honest file.
pub const NODES_MAX: usize = 262_144;

/// Most bytes of text of one file, aliases expanded: four times the largest file.
pub const EXPANDED_BYTES_MAX: usize = 4 * crate::FILE_BYTES_MAX;

/// One node. Shared, so that an alias costs no copy.
#[derive(Debug)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub content: Content,
    /// What its tag says of the node that it is merged into.
    pub mark: Mark,
}

/// A tag of Compose files on how a node is merged with what stands in its place before. Manifests have none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mark {
    /// As usual.
    #[default]
    None,
    /// `!reset`: what was there before is taken away, and this is not put there.
    Reset,
    /// `!override`: what was there before is taken away.
    Override,
}

/// What a node is.
#[derive(Debug)]
pub enum Content {
    /// One value.
    Scalar(Scalar),
    /// Values in order.
    List(Vec<Rc<Node>>),
    /// Values by key, in the order of the text.
    Map(Vec<Entry>),
}

/// One entry of a mapping. Keys are unique within a mapping: the readers refuse duplicates.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: Rc<str>,
    /// Where the key stands.
    pub at: Position,
    /// The value.
    pub value: Rc<Node>,
}

/// A scalar: its text (escapes undone) and what it is without a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text.
    pub text: String,
    /// What it is by its form.
    pub kind: ScalarKind,
}

/// What a scalar is by its form alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarKind {
    /// Nothing, `~` or `null`.
    Null,
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// Another number.
    Float,
    /// Anything else, and what stands in quotes.
    Text,
}

impl Node {
    /// Without a mark.
    pub fn new(at: Position, content: Content) -> Self {
        Self { at, content, mark: Mark::None }
    }

    /// What it is, for "expected ..., found ...".
    pub fn describe(&self) -> String {
        match &self.content {
            Content::List(_) => "a list".into(),
            Content::Map(_) => "a mapping".into(),
            Content::Scalar(scalar) => {
                let text = crate::error::shorten(&scalar.text, 40);
                match scalar.kind {
                    ScalarKind::Null => "nothing".into(),
                    ScalarKind::Bool => text,
                    ScalarKind::Int | ScalarKind::Float => format!("the number {text}"),
                    ScalarKind::Text => format!("the string {text:?}"),
                }
            }
        }
    }

    /// Whether it has no value.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(Scalar { kind: ScalarKind::Null, .. }))
    }
}

impl Scalar {
    /// The value of an `Int`, or of a text that is a plain decimal integer (as canonical JSON writes 64-bit integers).
    pub fn integer(&self) -> Option<i128> {
        match self.kind {
            ScalarKind::Int => parse_int(&self.text),
            ScalarKind::Text if decimal_int(&self.text) => self.text.parse().ok(),
            _ => None,
        }
    }
}

fn decimal_int(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn parse_int(text: &str) -> Option<i128> {
    if let Some(hex) = text.strip_prefix("0x") {
        return i128::from_str_radix(hex, 16).ok();
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return i128::from_str_radix(octal, 8).ok();
    }
    text.parse().ok()
}

/// What a plain (unquoted) YAML scalar is, by the core schema of YAML 1.2.2, section 10.3.2.
pub fn plain_kind(text: &str) -> ScalarKind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ScalarKind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return ScalarKind::Bool,
        ".nan" | ".NaN" | ".NAN" => return ScalarKind::Float,
        _ => {}
    }
    let all = |digits: &str, allowed: fn(char) -> bool| !digits.is_empty() && digits.chars().all(allowed);
    let based = text.strip_prefix("0x").is_some_and(|digits| all(digits, |c| c.is_ascii_hexdigit()))
        || text.strip_prefix("0o").is_some_and(|digits| all(digits, |c| matches!(c, '0'..='7')));
    if based || decimal_int(text) {
        return ScalarKind::Int;
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || is_float(unsigned) {
        return ScalarKind::Float;
    }
    ScalarKind::Text
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_good = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    mantissa_good && exponent.is_none_or(decimal_int)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_the_core_schema_says() {
        let cases = [
            (ScalarKind::Null, &["", "~", "null", "NULL"][..]),
            (ScalarKind::Bool, &["true", "False", "TRUE"]),
            (ScalarKind::Int, &["0", "-7", "+12", "0x1F", "0o17", "007"]),
            (ScalarKind::Float, &["1.5", ".5", "1.", "1e3", "-2.5E-7", ".inf", "-.INF", ".nan"]),
            (
                ScalarKind::Text,
                &["yes", "no", "on", "1.2.3", "500m", "0xg", "0o8", "1e", "e3", ".", "-", "nul", "1_000"],
            ),
        ];
        for (kind, texts) in cases {
            for text in texts {
                assert_eq!(plain_kind(text), kind, "{text:?}");
            }
        }
    }

    #[test]
    fn integers_have_their_value() {
        let int = |text: &str| Scalar { text: text.into(), kind: plain_kind(text) }.integer();
        assert_eq!(int("0x1F"), Some(31));
        assert_eq!(int("0o17"), Some(15));
        assert_eq!(int("+12"), Some(12));
        assert_eq!(int("1.5"), None);
        assert_eq!(Scalar { text: "12".into(), kind: ScalarKind::Text }.integer(), Some(12));
    }
}
