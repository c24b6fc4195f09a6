//! From the names of functions that are used to few patterns that name them and little else.
//!
//! A mangled name spells its path in parts, so that functions of one module share a beginning. A pattern for a whole module is short and
//! outlives many changes of the code, but also names functions that nobody uses; one pattern a function is exact and goes stale. Between
//! the two: a pattern stands for as much as costs less, in bytes of functions that are not used, than the patterns that it replaces.

use std::collections::{BTreeMap, BTreeSet};

/// What one more pattern may cost in bytes of functions that are not used.
const PATTERN_COST_BYTES: u64 = 8;

/// Patterns (`*` is any text) that name each function of `used` that `sizes` knows, apart from those in `done`.
pub(super) fn cover(
    sizes: &BTreeMap<String, u64>,
    used: &BTreeSet<String>,
    done: &BTreeSet<String>,
) -> Vec<String> {
    let done: BTreeSet<String> = done.iter().map(|name| stable(name)).collect();
    // Names that differ in what a compiler chooses are one.
    let mut functions: BTreeMap<String, Function> = BTreeMap::new();
    for (name, size) in sizes {
        let stable = stable(name);
        // What has its place already costs nothing when a pattern names it again.
        let size = if done.contains(&stable) { 0 } else { *size };
        let is_used = size > 0 && used.contains(name);
        let function = functions.entry(stable).or_default();
        function.bytes += size;
        function.used |= is_used;
    }
    let functions: Vec<(&str, Function)> = functions.iter().map(|(name, f)| (name.as_str(), *f)).collect();
    best(&functions, 0).patterns
}

#[derive(Debug, Clone, Copy, Default)]
struct Function {
    bytes: u64,
    used: bool,
}

/// Patterns and what they cost.
#[derive(Default)]
struct Cover {
    patterns: Vec<String>,
    cost: u64,
}

/// The cheapest cover of functions, sorted by name, whose names agree in their first `agreed` bytes.
fn best(functions: &[(&str, Function)], agreed: usize) -> Cover {
    if !functions.iter().any(|(_, function)| function.used) {
        return Cover::default();
    }
    let mut parts = Cover::default();
    let mut rest = functions;
    while let Some((name, function)) = rest.first() {
        let end = if is_mangled(name) { part_end(name, agreed) } else { name.len() };
        let beginning = &name[..end];
        let count = rest.iter().take_while(|(other, _)| other.starts_with(beginning)).count();
        let part = if end == name.len() && count == 1 {
            if function.used {
                Cover { patterns: vec![glob(name)], cost: PATTERN_COST_BYTES }
            } else {
                Cover::default()
            }
        } else if end == name.len() {
            // One name is the beginning of others: only the whole of them has a pattern of its own.
            whole(&rest[..count], beginning)
        } else {
            best(&rest[..count], end)
        };
        parts.patterns.extend(part.patterns);
        parts.cost += part.cost;
        rest = &rest[count..];
    }
    // A pattern needs a beginning that says something.
    if agreed == 0 {
        return parts;
    }
    let whole = whole(functions, &functions[0].0[..agreed]);
    if whole.cost <= parts.cost { whole } else { parts }
}

fn whole(functions: &[(&str, Function)], beginning: &str) -> Cover {
    if !functions.iter().any(|(_, function)| function.used) {
        return Cover::default();
    }
    let unused: u64 = functions.iter().filter(|(_, f)| !f.used).map(|(_, f)| f.bytes).sum();
    Cover { patterns: vec![glob(&format!("{beginning}*"))], cost: PATTERN_COST_BYTES + unused }
}

/// Whether a name is one of Rust's.
pub(super) fn is_mangled(name: &str) -> bool {
    name.starts_with("_ZN") || name.starts_with("_R")
}

/// Where the part of a mangled name ends that begins at or after `from`: parts are a length and so many letters.
fn part_end(name: &str, from: usize) -> usize {
    let bytes = name.as_bytes();
    let mut at = from;
    // What stands before the length.
    while at < bytes.len() && !bytes[at].is_ascii_digit() {
        at += 1;
    }
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    match name[at..at + digits].parse::<usize>() {
        Ok(length) if digits > 0 => (at + digits + length).min(name.len()),
        _ => name.len(),
    }
}

/// A name without what a compiler chooses: the hash at its end (legacy mangling, `17h` and 16 digits), the hashes of crates (v0
/// mangling, `Cs…_`; see the Rust reference on symbol mangling), and the number that tells copies of a function apart (`.1289`).
fn stable(name: &str) -> String {
    if let Some(at) = name.rfind("17h")
        && name.len() == at + 3 + 16 + 1
    {
        return format!("{}*", &name[..at]);
    }
    if let Some((before, copy)) = name.rsplit_once('.')
        && !before.is_empty()
        && !copy.is_empty()
        && copy.bytes().all(|byte| byte.is_ascii_digit())
    {
        return format!("{}*", stable(before));
    }
    let mut text = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("Cs") {
        let (before, hash) = rest.split_at(at + 2);
        text += before;
        let length = hash.bytes().take_while(u8::is_ascii_alphanumeric).count();
        if length > 0 && hash[length..].starts_with('_') {
            text.push('*');
            rest = &hash[length..];
        } else {
            rest = hash;
        }
    }
    text + rest
}

/// A pattern: at most one `*` side by side, and what drops a value by whichever name: it changed between compilers.
fn glob(name: &str) -> String {
    DROPS.iter().fold(name.to_owned(), |name, drop| name.replace(drop, "*drop_*")).replace("**", "*")
}

const DROPS: [&str; 2] = ["13drop_in_place", "9drop_glue"];

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 7] = [
        "_ZN5tokio4task3raw4poll17h0123456789abcdefE",
        "_ZN5tokio4task3raw4wake17h0123456789abcdefE",
        "_ZN5tokio4task5abort17h0123456789abcdefE",
        "_ZN5tokio3net3tcp17h0123456789abcdefE",
        "_ZN4clap4help17h0123456789abcdefE",
        "_RNvNtCsgEmfK2I1SDS_4core3str4trim",
        "_RNvNtCsgEmfK2I1SDS_4core3str5split",
    ];

    fn matches(pattern: &str, name: &str) -> bool {
        let mut parts = pattern.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let parts: Vec<&str> = parts.collect();
        for (n, part) in parts.iter().enumerate() {
            if n + 1 == parts.len() && !part.is_empty() {
                return rest.ends_with(part);
            }
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        parts.last().is_some_and(|last| last.is_empty()) || rest.is_empty()
    }

    fn sizes(bytes: u64) -> BTreeMap<String, u64> {
        NAMES.iter().map(|name| ((*name).to_owned(), bytes)).collect()
    }

    #[test]
    fn each_used_function_has_a_pattern_whichever_are_used() {
        for bytes in [1, PATTERN_COST_BYTES, 100_000] {
            for chosen in 0_u32..1 << NAMES.len() {
                let used: BTreeSet<String> = NAMES
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| chosen & (1 << n) != 0)
                    .map(|(_, name)| (*name).to_owned())
                    .collect();
                let patterns = cover(&sizes(bytes), &used, &BTreeSet::new());
                for name in &used {
                    assert!(patterns.iter().any(|pattern| matches(pattern, name)), "{name}: {patterns:?}");
                }
                assert!(patterns.len() <= used.len(), "{patterns:?}");
                let unused = NAMES.iter().filter(|name| {
                    !used.contains(**name) && patterns.iter().any(|pattern| matches(pattern, name))
                });
                let spent = unused.count() as u64 * bytes;
                assert!(spent <= used.len() as u64 * PATTERN_COST_BYTES, "{spent} for {patterns:?}");
            }
        }
    }

    #[test]
    fn small_neighbours_share_a_pattern_and_large_ones_do_not() {
        let used: BTreeSet<String> = [NAMES[0].to_owned(), NAMES[3].to_owned()].into();
        assert_eq!(cover(&sizes(PATTERN_COST_BYTES / 4), &used, &BTreeSet::new()), ["_ZN5tokio*"]);
        let apart = ["_ZN5tokio3net*", "_ZN5tokio4task3raw4poll*"];
        assert_eq!(cover(&sizes(100_000), &used, &BTreeSet::new()), apart);
    }

    #[test]
    fn what_has_its_place_is_not_named_again() {
        let used: BTreeSet<String> = [NAMES[0].to_owned(), NAMES[4].to_owned()].into();
        let done = [NAMES[0].to_owned()].into();
        assert_eq!(cover(&sizes(100_000), &used, &done), ["_ZN4clap*"]);
    }

    #[test]
    fn what_drops_a_value_has_one_pattern_for_all_compilers() {
        let pattern = "_RINvNtCs*_4core3ptr*drop_*NtB4_3Vec";
        for drop in ["13drop_in_place", "9drop_glue"] {
            assert_eq!(glob(&stable(&format!("_RINvNtCsgEmf_4core3ptr{drop}NtB4_3Vec"))), pattern);
        }
    }

    #[test]
    fn what_a_compiler_chooses_is_left_open() {
        assert_eq!(stable(NAMES[0]), "_ZN5tokio4task3raw4poll*");
        assert_eq!(stable(NAMES[5]), "_RNvNtCs*_4core3str4trim");
    }
}
