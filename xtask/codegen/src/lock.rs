//! The compatibility lock: the contract as it was promised, and what may differ from it.
//!
//! Adding is always allowed. A field may go when its number and its name are reserved. Everything else breaks somebody: on the
//! wire (number, type, repetition, streaming), in JSON and manifests (names), or in generated code (presence, oneofs, methods).

use std::{collections::BTreeSet, fmt};

use anyhow::{Context, Result, bail};

use super::contract::{Contract, Key, Part};

const HEAD: &str = "\
# The API as it was promised, one fact a line: `cargo xtask codegen --check` fails where proto/ breaks one.
# Not edited by hand: `cargo xtask codegen --accept-additions`, and before 1.0 `--break \"why\"`.
";
const BREAK_MARK: &str = "# broken: ";

/// The lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) contract: Contract,
    /// Why it was broken, oldest first.
    breaks: Vec<String>,
}

/// How a contract differs from an older one, as lines for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) breaks: Vec<String>,
    pub(super) additions: Vec<String>,
}

impl Lock {
    pub(super) fn new(contract: Contract) -> Self {
        Self { contract, breaks: Vec::new() }
    }

    /// The lock after additions.
    pub(super) fn extended(self, contract: Contract) -> Self {
        Self { contract, breaks: self.breaks }
    }

    /// The lock after a break that was decided on.
    pub(super) fn broken(mut self, contract: Contract, reason: &str) -> Result<Self> {
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        if reason.is_empty() {
            bail!("a break needs a reason");
        }
        self.breaks.push(reason);
        Ok(Self { contract, breaks: self.breaks })
    }

    /// Reads what `Display` wrote.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut lock = Self::new(Contract::default());
        for (index, line) in text.lines().enumerate() {
            if let Some(reason) = line.strip_prefix(BREAK_MARK) {
                lock.breaks.push(reason.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                let (key, text) = line.split_once(": ").unwrap_or((line, ""));
                let key =
                    Key::parse(key).with_context(|| format!("line {} is no fact: {line}", index + 1))?;
                lock.contract.facts.insert(key, text.to_owned());
            }
        }
        Ok(lock)
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for reason in &self.breaks {
            writeln!(f, "{BREAK_MARK}{reason}")?;
        }
        for (key, text) in &self.contract.facts {
            if text.is_empty() { writeln!(f, "{key}")? } else { writeln!(f, "{key}: {text}")? }
        }
        Ok(())
    }
}

/// What `new` takes from or adds to `old`.
pub(super) fn compare(old: &Contract, new: &Contract) -> Changes {
    let mut changes = Changes::default();
    let owners: BTreeSet<&str> = new.facts.keys().map(|key| key.owner.as_str()).collect();
    for (key, was) in &old.facts {
        match new.facts.get(key) {
            Some(is) if is == was => {}
            Some(is) => changes.breaks.push(format!("{key} changed: `{was}` is now `{is}`")),
            // One line for a thing that is gone, not one for each of its parts.
            None if !owners.contains(key.owner.as_str()) => {
                if matches!(key.part, Part::Message | Part::Enum | Part::Service) {
                    changes.breaks.push(format!("{key} is gone"));
                }
            }
            None => changes.breaks.extend(removal(key, was, new)),
        }
    }
    let gained = new.facts.iter().filter(|(key, _)| !old.facts.contains_key(key));
    for (key, text) in gained {
        changes.breaks.extend(reuse(key, text, old));
        changes.additions.push(if text.is_empty() { key.to_string() } else { format!("{key}: {text}") });
    }
    changes
}

/// What is wrong with taking away one part of a thing that stays.
fn removal(key: &Key, was: &str, new: &Contract) -> Option<String> {
    let Part::Field(number) = key.part else { return Some(format!("{key} is gone (was `{was}`)")) };
    let name = was.split(' ').next().unwrap_or_default();
    let owner = key.owner.as_str();
    match (new.reserves_number(owner, number), new.reserves_name(owner, name)) {
        (true, true) => None,
        (false, _) => Some(format!("{key} (`{name}`) is gone, and its number is not reserved")),
        (true, false) => Some(format!("{key} (`{name}`) is gone, and its name is not reserved")),
    }
}

/// A field or a value that takes what the lock had reserved. protoc refuses it while the reservation stands; this catches
/// the reservation and its use being swapped in one step, beside the reservation's own removal.
fn reuse(key: &Key, text: &str, old: &Contract) -> Option<String> {
    let (Part::Field(number) | Part::Value(number)) = key.part else { return None };
    let name = text.split(' ').next().unwrap_or_default();
    let taken = old.reserves_number(&key.owner, number) || old.reserves_name(&key.owner, name);
    taken.then(|| format!("{key} (`{name}`) takes what was reserved"))
}

#[cfg(test)]
mod tests {
    use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

    use super::*;

    /// One source as `skerry/test/v1/test.proto`.
    struct Source(String);

    impl FileResolver for Source {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            if name == "test.proto" {
                File::from_source(name, &self.0)
            } else {
                Err(protox::Error::file_not_found(name))
            }
        }
    }

    fn contract(body: &str) -> Contract {
        let mut resolver = ChainFileResolver::new();
        resolver.add(Source(format!("syntax = \"proto3\";\npackage skerry.test.v1;\n{body}")));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = protox::Compiler::with_file_resolver(resolver);
        compiler.include_imports(true).open_file("test.proto").expect("the test's proto compiles");
        Contract::of(&compiler.file_descriptor_set())
    }

    fn breaks(old: &str, new: &str) -> Vec<String> {
        compare(&contract(old), &contract(new)).breaks
    }

    #[track_caller]
    fn assert_breaks(old: &str, new: &str, word: &str) {
        let found = breaks(old, new);
        assert!(
            found.iter().any(|line| line.contains(word)),
            "expected a break with `{word}`, found {found:?}"
        );
    }

    #[test]
    fn what_has_not_changed_breaks_nothing() {
        let proto = "message A { int32 a = 1; map<string, int32> m = 2; oneof o { string x = 3; } }";
        assert_eq!(compare(&contract(proto), &contract(proto)), Changes::default());
    }

    #[test]
    fn adding_is_allowed_everywhere() {
        let old = "message A { int32 a = 1; oneof o { string x = 2; } } enum E { E_UNSPECIFIED = 0; } service S { rpc M(A) returns (A); }";
        let new = "message A { int32 a = 1; oneof o { string x = 2; string y = 3; } optional int32 b = 4; message In {} }
                   message B {} enum E { E_UNSPECIFIED = 0; E_ONE = 1; }
                   service S { rpc M(A) returns (A); rpc N(A) returns (stream B); } service T {}";
        let changes = compare(&contract(old), &contract(new));
        assert_eq!(changes.breaks, Vec::<String>::new());
        assert_eq!(changes.additions.len(), 7, "{:?}", changes.additions);
    }

    #[test]
    fn a_field_goes_only_with_its_number_and_name_reserved() {
        let old = "message A { int32 a = 1; int32 b = 2; }";
        assert_breaks(old, "message A { int32 a = 1; }", "number is not reserved");
        assert_breaks(old, "message A { int32 a = 1; reserved 2; }", "name is not reserved");
        assert_breaks(old, "message A { int32 a = 1; reserved \"b\"; }", "number is not reserved");
        assert_eq!(
            breaks(old, "message A { int32 a = 1; reserved 2; reserved \"b\"; }"),
            Vec::<String>::new()
        );
        assert_eq!(
            breaks(old, "message A { int32 a = 1; reserved 2 to max; reserved \"b\"; }"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_reservation_stays() {
        let old = "message A { reserved 2, 4 to 6; reserved \"b\"; }";
        assert_breaks(old, "message A { reserved 2, 4 to 5; reserved \"b\"; }", "reserved 6 is gone");
        assert_breaks(old, "message A { reserved 2, 4 to 6; int32 b = 1; }", "takes what was reserved");
        assert_breaks(
            old,
            "message A { reserved 4 to 6; reserved \"b\"; int32 c = 2; }",
            "takes what was reserved",
        );
        assert_eq!(
            breaks(old, "message A { reserved 2 to 9; reserved \"b\", \"c\"; }"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_field_keeps_number_type_name_and_repetition() {
        let old = "message A { int32 a = 1; }";
        assert_breaks(old, "message A { int32 a = 2; }", "field 1 (`a`) is gone");
        assert_breaks(old, "message A { string a = 1; }", "changed");
        assert_breaks(old, "message A { int64 a = 1; }", "changed");
        assert_breaks(old, "message A { repeated int32 a = 1; }", "changed");
        assert_breaks(old, "message A { optional int32 a = 1; }", "changed");
        assert_breaks(old, "message A { int32 b = 1; }", "changed");
        assert_breaks(old, "message A { int32 a = 1 [json_name = \"z\"]; }", "json=z");
    }

    #[test]
    fn a_field_keeps_its_oneof() {
        let old = "message A { int32 a = 1; oneof o { int32 x = 2; } }";
        assert_breaks(old, "message A { oneof o { int32 a = 1; int32 x = 2; } }", "oneof=o");
        assert_breaks(old, "message A { int32 a = 1; int32 x = 2; }", "changed");
        assert_breaks(old, "message A { int32 a = 1; oneof p { int32 x = 2; } }", "oneof=p");
    }

    #[test]
    fn a_field_keeps_its_message_type() {
        assert_breaks(
            "message A { B b = 1; } message B {} message C {}",
            "message A { C b = 1; } message B {} message C {}",
            "test.v1.C",
        );
    }

    #[test]
    fn an_enum_value_stays() {
        let old = "enum E { E_UNSPECIFIED = 0; E_ONE = 1; }";
        assert_breaks(old, "enum E { E_UNSPECIFIED = 0; }", "value 1 is gone");
        assert_breaks(
            old,
            "enum E { E_UNSPECIFIED = 0; reserved 1; reserved \"E_ONE\"; }",
            "value 1 is gone",
        );
        assert_breaks(old, "enum E { E_UNSPECIFIED = 0; E_TWO = 1; }", "changed");
    }

    #[test]
    fn a_service_and_its_methods_stay_as_they_are() {
        let old = "message A {} message B {} service S { rpc M(A) returns (A); }";
        assert_breaks(old, "message A {} message B {}", "S service is gone");
        assert_breaks(old, "message A {} message B {} service S {}", "method M is gone");
        assert_breaks(old, "message A {} message B {} service S { rpc M(A) returns (B); }", "changed");
        assert_breaks(old, "message A {} message B {} service S { rpc M(stream A) returns (A); }", "changed");
        assert_breaks(old, "message A {} message B {} service S { rpc M(A) returns (stream A); }", "changed");
    }

    #[test]
    fn a_message_that_is_gone_is_one_line() {
        let found = breaks("message A { int32 a = 1; int32 b = 2; }", "message B {}");
        assert_eq!(found, ["skerry.test.v1.A message is gone"]);
    }

    #[test]
    fn nested_types_are_held_too() {
        assert_breaks(
            "message A { message B { int32 c = 1; } }",
            "message A { message B { string c = 1; } }",
            "A.B field 1",
        );
        assert_breaks(
            "message A { enum E { Z = 0; Y = 1; } }",
            "message A { enum E { Z = 0; } }",
            "A.E value 1",
        );
    }

    #[test]
    fn the_lock_reads_what_it_wrote() {
        let contract = contract(
            "message A { reserved 2 to max; reserved \"z\"; oneof o { string x = 1; } }
             enum E { Z = 0; reserved 5; } service S { rpc M(stream A) returns (stream A); }",
        );
        let lock =
            Lock::new(contract.clone()).broken(contract, "because\nof this").expect("there is a reason");
        assert_eq!(Lock::parse(&lock.to_string()).expect("our own text"), lock);
    }

    #[test]
    fn a_break_needs_a_reason() {
        let contract = contract("message A {}");
        assert!(Lock::new(contract.clone()).broken(contract, " \n").is_err());
    }

    #[test]
    fn a_damaged_lock_is_an_error() {
        assert!(Lock::parse("skerry.test.v1.A field x: a int32 json=a").is_err());
    }
}
