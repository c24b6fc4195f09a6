//! Variables in values: `$NAME`, `${NAME}`, what stands in for one that is not set, and `$$`.
//!
//! | form | is |
//! |---|---|
//! | `${X:-d}`, `${X-d}` | X; `d` where X is not set (with the colon: or empty) |
//! | `${X:?e}`, `${X?e}` | X; a fault that says `e` where X is not set (or empty) |
//! | `${X:+r}`, `${X+r}` | `r` where X is set (and not empty), else nothing |
//!
//! `d`, `e` and `r` may hold variables again.

use std::collections::BTreeSet;

/// Deepest variables in variables.
const DEPTH_MAX: usize = 16;

/// Most bytes that one value may grow to.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// A value with its variables replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interpolated {
    /// The value.
    pub text: String,
    /// The variables that are not set and that nothing stood in for.
    pub unset: BTreeSet<String>,
}

/// Replaces the variables of `text`. `lookup` has their values.
///
/// # Errors
/// What is wrong, for who wrote it.
pub fn interpolate(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Interpolated, String> {
    let mut reader = Reader { rest: text, lookup, unset: BTreeSet::new() };
    let text = reader.until(None, true, 0)?;
    Ok(Interpolated { text, unset: reader.unset })
}

struct Reader<'a> {
    rest: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    unset: BTreeSet<String>,
}

impl Reader<'_> {
    /// Reads up to `end`, which is taken, or to the end of the text. What is not `live` is read and does not count.
    fn until(&mut self, end: Option<char>, live: bool, depth: usize) -> Result<String, String> {
        if depth > DEPTH_MAX {
            return Err(format!("variables within variables, deeper than {DEPTH_MAX}"));
        }
        let mut out = String::new();
        loop {
            let Some(at) = self.rest.find(|c| c == '$' || Some(c) == end) else {
                if end.is_some() {
                    return Err("a variable begins with ${ and has no }".to_owned());
                }
                push(&mut out, self.rest)?;
                self.rest = "";
                return Ok(out);
            };
            let (before, from) = self.rest.split_at(at);
            push(&mut out, before)?;
            self.rest = &from[1..];
            if !from.starts_with('$') {
                return Ok(out);
            }
            let value = self.variable(live, depth)?;
            push(&mut out, &value)?;
        }
    }

    /// What follows a `$`.
    fn variable(&mut self, live: bool, depth: usize) -> Result<String, String> {
        if let Some(rest) = self.rest.strip_prefix('$') {
            self.rest = rest;
            return Ok("$".to_owned());
        }
        let Some(rest) = self.rest.strip_prefix('{') else {
            let name = self.name()?;
            return Ok(self.value(&name, live));
        };
        self.rest = rest;
        let name = self.name()?;
        let empty_counts = self.rest.starts_with(':');
        let operator = &self.rest[usize::from(empty_counts)..];
        let Some(operator) = operator.chars().next() else {
            return Err("a variable begins with ${ and has no }".to_owned());
        };
        if operator == '}' && !empty_counts {
            self.rest = &self.rest[1..];
            return Ok(self.value(&name, live));
        }
        if !matches!(operator, '-' | '?' | '+') {
            return Err(format!(
                "`${{{name}` is followed by what no variable has: write ${{{name}}}, ${{{name}:-DEFAULT}}, ${{{name}:?ERROR}} or ${{{name}:+INSTEAD}}"
            ));
        }
        self.rest = &self.rest[usize::from(empty_counts) + 1..];
        let found = (self.lookup)(&name).filter(|value| !(empty_counts && value.is_empty()));
        let word_counts = live && (found.is_some() == (operator == '+'));
        let word = self.until(Some('}'), word_counts, depth + 1)?;
        match (operator, found) {
            ('-' | '?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('?', None) if live && word.is_empty() => {
                Err(format!("the variable {name} is required and not set"))
            }
            ('?', None) if live => Err(format!("the variable {name} is required and not set: {word}")),
            _ => Ok(String::new()),
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let end =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(
                "a `$` that no variable's name follows: write `$$` for the character itself".to_owned()
            );
        }
        self.rest = rest;
        Ok(name.to_owned())
    }

    fn value(&mut self, name: &str, live: bool) -> String {
        let value = (self.lookup)(name);
        if value.is_none() && live {
            self.unset.insert(name.to_owned());
        }
        value.unwrap_or_default()
    }
}

fn push(out: &mut String, text: &str) -> Result<(), String> {
    if out.len() + text.len() > VALUE_BYTES_MAX {
        return Err(format!("with its variables the value is longer than {VALUE_BYTES_MAX} bytes"));
    }
    out.push_str(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            "_under1" => Some("u".to_owned()),
            _ => None,
        };
        interpolate(text, &lookup).map(|done| done.text)
    }

    #[test]
    fn each_form_is_what_the_specification_says() {
        for (text, expected) in [
            ("a $SET b", "a value b"),
            ("${SET}x", "valuex"),
            ("$_under1-$SET", "u-value"),
            ("$UNSET|${UNSET}", "|"),
            ("$$SET and $${SET}", "$SET and ${SET}"),
            ("${UNSET:-d}${EMPTY:-d}${SET:-d}", "ddvalue"),
            ("${UNSET-d}${EMPTY-d}${SET-d}", "dvalue"),
            ("${SET:?e}${SET?e}${EMPTY?e}", "valuevalue"),
            ("[${UNSET:+r}${EMPTY:+r}${SET:+r}]", "[r]"),
            ("[${UNSET+r}|${EMPTY+r}|${SET+r}]", "[|r|r]"),
            ("${UNSET:-${EMPTY:-${SET}}}", "value"),
            ("${UNSET:-a:b/c?d-e}", "a:b/c?d-e"),
            ("${SET:-${UNSET:?no}}", "value"),
            ("${UNSET:-$$x}", "$x"),
        ] {
            assert_eq!(read(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_required_and_not_set_says_so() {
        assert_eq!(
            read("${UNSET:?name it}"),
            Err("the variable UNSET is required and not set: name it".into())
        );
        assert_eq!(read("${EMPTY:?}"), Err("the variable EMPTY is required and not set".into()));
        assert_eq!(
            read("${UNSET?set $SET}"),
            Err("the variable UNSET is required and not set: set value".into())
        );
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for text in
            ["$", "a $ b", "${", "${}", "${1}", "$1", "${SET", "${SET:-a", "${SET:}", "${SET!x}", "${ SET }"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read(&"${A:-".repeat(40)).is_err());
    }

    #[test]
    fn only_what_counts_is_told_to_be_unset() {
        let unset =
            |text: &str| interpolate(text, &|_| None).map(|done| done.unset.into_iter().collect::<Vec<_>>());
        assert_eq!(unset("$A ${B} ${C:-} ${D:+$E}"), Ok(vec!["A".to_owned(), "B".to_owned()]));
    }

    #[test]
    fn values_are_bounded() {
        let long = "x".repeat(VALUE_BYTES_MAX / 2);
        let lookup = |_: &str| Some(long.clone());
        assert!(interpolate("$A$A", &lookup).is_ok());
        assert!(interpolate("$A$A$A", &lookup).is_err());
    }
}
