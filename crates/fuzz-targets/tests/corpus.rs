//! What the fuzzers start from, and what they have found, goes through the same functions with any compiler.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use skerry_fuzz_targets::TARGETS;

/// So that the corpus stays something that one can read through.
const INPUT_BYTES_MAX: u64 = 8 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn names(dir: &Path, suffix: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(suffix).map(str::to_owned))
        .collect()
}

#[test]
fn every_input_that_was_kept_goes_through_its_target() {
    for (name, target) in TARGETS {
        let dir = corpus().join(name);
        let inputs = names(&dir, "");
        assert!(!inputs.is_empty(), "{name} has nothing to start from");
        for input in inputs {
            let path = dir.join(input);
            let bytes = fs::read(&path).expect("a file");
            assert!(bytes.len() as u64 <= INPUT_BYTES_MAX, "{} is too large", path.display());
            println!("{}", path.display());
            target(&bytes);
        }
    }
}

#[test]
fn each_target_has_a_corpus_and_a_program_and_there_are_no_others() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&corpus(), ""), targets);
    assert_eq!(names(&corpus().join("../fuzz_targets"), ".rs"), targets);
}
