//! Label selectors: parsed from the wire or from text as kubectl writes it, then matched.

use std::collections::BTreeMap;
use std::fmt;

use skerry_proto::types::v1 as pb;

use crate::Violations;
use crate::meta::{is_label_key, is_label_value};

/// Most requirements of one selector.
pub const REQUIREMENTS_MAX: usize = 32;
/// Most values of one requirement.
pub const VALUES_MAX: usize = 64;

/// Which labelled things are meant. An empty selector matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// The label is there and its value is one of these.
    In(String, Vec<String>),
    /// The label is absent, or its value is none of these.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is absent.
    Absent(String),
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{part}` is not a selector: write for example site=oslo,tier!=test,gpu,!old,zone in (a,b)")]
pub struct InvalidSelector {
    /// The part that could not be read.
    pub part: String,
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
        }
    }
}

impl Selector {
    /// Whether all requirements hold.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// The first requirement that does not hold, for an explanation.
    pub fn mismatch(&self, labels: &BTreeMap<String, String>) -> Option<&Requirement> {
        self.requirements.iter().find(|requirement| !requirement.matches(labels))
    }

    /// What it asks for.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Parses what travels; violations are reported below `path`.
    pub fn from_proto(path: &str, selector: Option<&pb::LabelSelector>, violations: &mut Violations) -> Self {
        let Some(selector) = selector else { return Self::default() };
        let count = selector.match_labels.len() + selector.match_expressions.len();
        if count > REQUIREMENTS_MAX {
            violations.add(path, format!("{count} requirements are too many: at most {REQUIREMENTS_MAX}"));
            return Self::default();
        }
        let mut requirements = Vec::with_capacity(count);
        for (key, value) in &selector.match_labels {
            let at = format!("{path}.match_labels.{key}");
            check_key(&at, key, violations);
            check_values(&at, std::slice::from_ref(value), violations);
            requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
        }
        for (index, expression) in selector.match_expressions.iter().enumerate() {
            let at = format!("{path}.match_expressions[{index}]");
            requirements.extend(expression_from_proto(&at, expression, violations));
        }
        Self { requirements }
    }

    /// Parses text as kubectl writes it: `site=oslo,tier!=test,gpu,!old,zone in (a,b),zone notin (c)`. Empty: everything.
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() && text.trim().is_empty() {
                continue;
            }
            let requirement = parse_requirement(part)
                .ok_or_else(|| InvalidSelector { part: part.chars().take(80).collect() })?;
            requirements.push(requirement);
        }
        if requirements.len() > REQUIREMENTS_MAX {
            return Err(InvalidSelector { part: text.chars().take(80).collect() });
        }
        Ok(Self { requirements })
    }
}

fn check_key(at: &str, key: &str, violations: &mut Violations) {
    if !is_label_key(key) {
        violations.add(at, format!("`{key}` is not a label key"));
    }
}

fn check_values(at: &str, values: &[String], violations: &mut Violations) {
    if values.len() > VALUES_MAX {
        violations.add(at, format!("{} values are too many: at most {VALUES_MAX}", values.len()));
    }
    if let Some(bad) = values.iter().find(|value| !is_label_value(value)) {
        violations.add(at, format!("`{bad}` is not a label value"));
    }
}

fn expression_from_proto(
    at: &str,
    expression: &pb::LabelRequirement,
    violations: &mut Violations,
) -> Option<Requirement> {
    use pb::label_requirement::Operator;
    check_key(&format!("{at}.key"), &expression.key, violations);
    check_values(&format!("{at}.values"), &expression.values, violations);
    let (key, values) = (expression.key.clone(), expression.values.clone());
    let operator = Operator::try_from(expression.operator).unwrap_or(Operator::Unspecified);
    let wants_values = matches!(operator, Operator::In | Operator::NotIn);
    if wants_values == values.is_empty() && operator != Operator::Unspecified {
        let what = if wants_values {
            "name at least one value"
        } else {
            "leave values out for EXISTS and DOES_NOT_EXIST"
        };
        violations.add(format!("{at}.values"), what);
    }
    match operator {
        Operator::In => Some(Requirement::In(key, values)),
        Operator::NotIn => Some(Requirement::NotIn(key, values)),
        Operator::Exists => Some(Requirement::Exists(key)),
        Operator::DoesNotExist => Some(Requirement::Absent(key)),
        Operator::Unspecified => {
            violations.add(format!("{at}.operator"), "set it to IN, NOT_IN, EXISTS or DOES_NOT_EXIST");
            None
        }
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    let key = |text: &str| Some(text.trim().to_owned()).filter(|key| is_label_key(key));
    let value = |text: &str| Some(text.trim().to_owned()).filter(|value| is_label_value(value));
    if let Some(absent) = part.strip_prefix('!') {
        return key(absent).map(Requirement::Absent);
    }
    if let Some(list) = part.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let mut words = head.split_whitespace();
        let (name, operator, rest) = (words.next()?, words.next()?, words.next());
        let values: Vec<String> = list.split(',').map(value).collect::<Option<_>>()?;
        return match (operator, rest) {
            ("in", None) => Some(Requirement::In(key(name)?, values)),
            ("notin", None) => Some(Requirement::NotIn(key(name)?, values)),
            _ => None,
        };
    }
    if let Some((name, text)) = part.split_once("!=") {
        return Some(Requirement::NotIn(key(name)?, vec![value(text)?]));
    }
    if let Some((name, text)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(key(name)?, vec![value(text)?]));
    }
    key(part).map(Requirement::Exists)
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Self::In(key, values) => write!(f, "{key} in ({})", values.join(",")),
            Self::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(",")),
            Self::Exists(key) => f.write_str(key),
            Self::Absent(key) => write!(f, "!{key}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn text_is_read_as_kubectl_reads_it() {
        let selector = Selector::parse("site=oslo,tier!=test,gpu,!old,zone in (a,b),rack notin (c)").unwrap();
        assert!(selector.matches(&labels(&[("site", "oslo"), ("gpu", ""), ("zone", "b")])));
        assert!(!selector.matches(&labels(&[("site", "oslo"), ("gpu", ""), ("zone", "c")])));
        assert!(!selector.matches(&labels(&[("site", "oslo"), ("gpu", ""), ("zone", "a"), ("old", "1")])));
        assert!(Selector::parse("").unwrap().is_empty());
        for bad in [",", "a=b,", "=a", "a in b", "a in (b", "a b", "a=b c", "!"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same(text in "[a-c]{1,2}(=|!=)[x-z]{0,2}(,!?[a-c]{1,2}){0,3}(,[a-c] (in|notin) \\(x(,y)?\\))?") {
            let selector = Selector::parse(&text).unwrap();
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = Selector::parse(&text);
        }
    }
}
