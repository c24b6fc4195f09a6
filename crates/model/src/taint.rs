//! Taints of nodes, and which of them a service bears.

use std::collections::BTreeSet;
use std::fmt;

use skerry_proto::types::v1 as pb;

use crate::meta::{is_label_key, is_label_value};
use crate::{Fault, Violations};

/// Keeps services off a node, unless they bear it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// What it keeps off.
    pub effect: TaintEffect,
}

/// Most taints of one node.
pub const TAINTS_MAX: usize = 32;

/// Checks the taints of a node; the fault names each field that is wrong.
pub fn check_taints(taints: &[pb::Taint]) -> Result<(), Fault> {
    let mut v = Violations::new();
    if taints.len() > TAINTS_MAX {
        v.add("spec.taints", format!("{} taints are too many: at most {TAINTS_MAX}", taints.len()));
    }
    let mut known = BTreeSet::new();
    for (n, taint) in taints.iter().enumerate().take(TAINTS_MAX) {
        let at = format!("spec.taints[{n}]");
        if !is_label_key(&taint.key) {
            v.add(format!("{at}.key"), "use a key as labels have");
        }
        if !is_label_value(&taint.value) {
            v.add(format!("{at}.value"), "use a value as labels have, or none");
        }
        match Taint::from_stored(taint) {
            None => v.add(format!("{at}.effect"), "use no-schedule or no-execute"),
            Some(taint) if !known.insert((taint.key.clone(), taint.effect)) => {
                v.add(at, format!("`{}` is there twice with this effect", taint.key));
            }
            Some(_) => {}
        }
    }
    v.finish(Some(()))
}

/// What a taint keeps off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaintEffect {
    /// Nothing new comes.
    NoSchedule,
    /// Nothing new comes, and what is there leaves.
    NoExecute,
}

/// Taints that a service bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Key of the taint. Absent: every taint.
    pub key: Option<String>,
    /// Value of the taint. Absent: whatever it is.
    pub value: Option<String>,
    /// Effect of the taint. Absent: any.
    pub effect: Option<TaintEffect>,
}

impl TaintEffect {
    /// As it is written: `NoSchedule`.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }
}

impl Taint {
    /// What is stored of a node. Absent: it has an effect that is not known.
    pub fn from_stored(taint: &pb::Taint) -> Option<Self> {
        let effect = match taint.effect() {
            pb::taint::Effect::NoSchedule => TaintEffect::NoSchedule,
            pb::taint::Effect::NoExecute => TaintEffect::NoExecute,
            pb::taint::Effect::Unspecified => return None,
        };
        Some(Self { key: taint.key.clone(), value: taint.value.clone(), effect })
    }
}

impl Toleration {
    /// Whether it bears `taint`.
    pub fn bears(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }

    /// Parses what travels; violations name fields below `at`.
    pub(crate) fn from_proto(at: &str, wire: &pb::Toleration, v: &mut Violations) -> Self {
        use pb::taint::Effect;
        use pb::toleration::Operator;
        let effect = match Effect::try_from(wire.effect) {
            Ok(Effect::Unspecified) => None,
            Ok(Effect::NoSchedule) => Some(TaintEffect::NoSchedule),
            Ok(Effect::NoExecute) => Some(TaintEffect::NoExecute),
            Err(_) => {
                v.add(format!("{at}.effect"), "use no-schedule or no-execute, or leave it out for both");
                None
            }
        };
        let is_equal = match Operator::try_from(wire.operator) {
            Ok(Operator::Unspecified | Operator::Equal) => true,
            Ok(Operator::Exists) => false,
            Err(_) => {
                v.add(format!("{at}.operator"), "use equal or exists");
                false
            }
        };
        if wire.key.is_empty() {
            if is_equal {
                v.add(format!("{at}.key"), "name the taint, or use the operator exists for every taint");
            }
        } else if !is_label_key(&wire.key) {
            v.add(format!("{at}.key"), "use a key as of a label: an optional DNS prefix and /, then at most 63 of letters, digits, -, _ and .");
        }
        if !is_equal && !wire.value.is_empty() {
            v.add(format!("{at}.value"), "the operator exists asks for no value: leave it out, or use equal");
        } else if !is_label_value(&wire.value) {
            v.add(
                format!("{at}.value"),
                "use a value as of a label: at most 63 of letters, digits, -, _ and .",
            );
        }
        Self {
            key: (!wire.key.is_empty()).then(|| wire.key.clone()),
            value: is_equal.then(|| wire.value.clone()),
            effect,
        }
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{}", self.effect.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: TaintEffect) -> Taint {
        Taint { key: key.to_owned(), value: value.to_owned(), effect }
    }

    fn parsed(wire: &pb::Toleration) -> Result<Toleration, Vec<String>> {
        let mut v = Violations::new();
        let parsed = Toleration::from_proto("t", wire, &mut v);
        let fields: Vec<String> = v.into_vec().into_iter().map(|violation| violation.field).collect();
        if fields.is_empty() { Ok(parsed) } else { Err(fields) }
    }

    #[test]
    fn a_toleration_bears_what_it_names_and_no_more() {
        use pb::taint::Effect;
        use pb::toleration::Operator::{Equal, Exists};
        let toleration = |key: &str, operator: pb::toleration::Operator, value: &str, effect: Effect| {
            let (key, value) = (key.to_owned(), value.to_owned());
            parsed(&pb::Toleration { key, operator: operator.into(), value, effect: effect.into() }).unwrap()
        };
        let gpu = taint("gpu", "a100", TaintEffect::NoSchedule);
        let out = taint("gpu", "a100", TaintEffect::NoExecute);
        let other = taint("wet", "", TaintEffect::NoExecute);
        let rows = [
            (toleration("gpu", Equal, "a100", Effect::Unspecified), [true, true, false]),
            (toleration("gpu", Equal, "a100", Effect::NoSchedule), [true, false, false]),
            (toleration("gpu", Equal, "", Effect::Unspecified), [false, false, false]),
            (toleration("gpu", Exists, "", Effect::NoExecute), [false, true, false]),
            (toleration("wet", Equal, "", Effect::Unspecified), [false, false, true]),
            (toleration("", Exists, "", Effect::Unspecified), [true, true, true]),
        ];
        for (toleration, expected) in rows {
            assert_eq!([&gpu, &out, &other].map(|taint| toleration.bears(taint)), expected, "{toleration:?}");
        }
        assert_eq!(
            (gpu.to_string(), other.to_string()),
            ("gpu=a100:NoSchedule".into(), "wet:NoExecute".into())
        );
    }

    #[test]
    fn what_makes_no_toleration_is_named_by_field() {
        let wire = pb::Toleration { operator: 1, ..Default::default() };
        assert_eq!(parsed(&wire), Err(vec!["t.key".to_owned()]));
        let wire = pb::Toleration { key: "a b".into(), operator: 2, value: "x".into(), effect: 9 };
        assert_eq!(parsed(&wire), Err(["t.effect", "t.key", "t.value"].map(str::to_owned).to_vec()));
        let wire = pb::Toleration { key: "a".into(), operator: 9, ..Default::default() };
        assert_eq!(parsed(&wire), Err(vec!["t.operator".to_owned()]));
        let wire = pb::Toleration { key: "a".into(), value: "x y".into(), ..Default::default() };
        assert_eq!(parsed(&wire), Err(vec!["t.value".to_owned()]));
    }
}
