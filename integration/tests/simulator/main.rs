//! A thousand seeds of the simulator: nothing is violated, everything converges, every kind of fault really happens, a seed is the same
//! each time, and planted bugs are found.
//!
//! `SKERRY_SIM_SEED=n` runs one seed and prints its whole trace, `SKERRY_SIM_SEEDS=n` changes how many are run. With `--nocapture` the
//! figures are seen.
#![allow(clippy::print_stdout, reason = "a test that prints its figures and traces")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use skerry_integration::sim::{Counts, Fault, Options, Outcome, Planted, run};

/// Seeds that are run unless it is said otherwise.
const SEEDS: u64 = 1_000;
/// Threads that run them.
const THREADS: usize = 2;
/// Seeds that are run twice.
const TWICE: u64 = 12;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seeds() -> u64 {
    number("SKERRY_SIM_SEEDS").unwrap_or(SEEDS)
}

/// Runs seeds from 0 on until there are none left or `stop` says so; the outcomes, in no order.
fn run_seeds(count: u64, options: Options, stop: impl Fn(&Outcome) -> bool + Sync) -> Vec<Outcome> {
    let next = AtomicU64::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    let outcome = run(seed, options);
                    if stop(&outcome) {
                        next.store(count, Ordering::Relaxed);
                    }
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn explain(outcome: &Outcome) -> String {
    let Outcome { seed, last, .. } = outcome;
    let failure = outcome.failure.as_deref().unwrap_or("nothing");
    format!(
        "seed {seed}: {failure}\n\nthe last {} lines of its trace:\n{}\n\nreplay it:\n    SKERRY_SIM_SEED={seed} cargo test -p skerry-integration --test simulator -- --nocapture\n",
        last.len(),
        last.join("\n"),
    )
}

fn print_figures(outcomes: &[Outcome]) -> Counts {
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let hours = outcomes.iter().map(|outcome| outcome.simulated.as_secs_f64()).sum::<f64>() / 3600.0;
    let mut waits: Vec<Duration> = outcomes.iter().filter_map(|outcome| outcome.converged_after).collect();
    waits.sort_unstable();
    println!("seeds run              {}", outcomes.len());
    println!("virtual hours          {hours:.1}");
    println!("steps                  {}", sum(|outcome| outcome.steps));
    println!("events acknowledged    {}", sum(|outcome| outcome.acknowledged));
    if let (Some(median), Some(longest)) = (waits.get(waits.len() / 2), waits.last()) {
        println!("converged after calm   {median:.0?} in the middle, {longest:.0?} at most");
    }
    let mut counts = Counts::default();
    for (count, fault) in counts.iter_mut().zip(Fault::ALL) {
        *count = outcomes.iter().map(|outcome| outcome.faults[fault as usize]).sum();
        println!("  {:<22} {count}", format!("{fault:?}"));
    }
    counts
}

#[test]
fn whatever_fails_nothing_is_violated_and_in_the_end_observed_is_desired() {
    if let Some(seed) = number("SKERRY_SIM_SEED") {
        let outcome = run(seed, Options { print: true, planted: None });
        assert!(outcome.failure.is_none(), "{}", explain(&outcome));
        print_figures(&[outcome]);
        return;
    }
    let count = seeds();
    let outcomes = run_seeds(count, Options::default(), |outcome| outcome.failure.is_some());
    if let Some(failed) = outcomes.iter().filter(|outcome| outcome.failure.is_some()).min_by_key(|o| o.seed) {
        panic!("{}", explain(failed));
    }
    let counts = print_figures(&outcomes);
    if count >= SEEDS {
        let never: Vec<Fault> = Fault::ALL
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| *count == 0)
            .map(|(fault, _)| fault)
            .collect();
        assert!(never.is_empty(), "these never happened: {never:?}");
    }
}

#[test]
fn a_seed_is_the_same_each_time() {
    let first = run_seeds(TWICE, Options::default(), |_| false);
    let second = run_seeds(TWICE, Options::default(), |_| false);
    let hashes = |mut outcomes: Vec<Outcome>| {
        outcomes.sort_unstable_by_key(|outcome| outcome.seed);
        outcomes
            .into_iter()
            .map(|outcome| (outcome.seed, outcome.trace_hash, outcome.steps))
            .collect::<Vec<_>>()
    };
    let (first, second) = (hashes(first), hashes(second));
    assert_eq!(first, second);
    let distinct: std::collections::BTreeSet<u64> = first.iter().map(|(_, hash, _)| *hash).collect();
    assert_eq!(distinct.len(), first.len(), "different seeds do different things");
}

/// Runs seeds until one shows the planted bug in the words that it is known by.
fn is_found(planted: Planted, words: &[&str]) {
    let options = Options { print: false, planted: Some(planted) };
    let shows = |outcome: &Outcome| {
        outcome.failure.as_ref().is_some_and(|failure| words.iter().any(|word| failure.contains(word)))
    };
    let outcomes = run_seeds(seeds(), options, shows);
    let found = outcomes.iter().filter(|outcome| shows(outcome)).min_by_key(|outcome| outcome.seed);
    let Some(found) = found else { panic!("{planted:?} was not found in {} seeds", outcomes.len()) };
    let failure = found.failure.as_deref().unwrap_or_default();
    println!("{planted:?} is found by seed {}, after {} seeds: {failure}", found.seed, outcomes.len());
}

#[test]
fn an_epoch_that_is_not_compared_is_found() {
    is_found(Planted::EpochNotCompared, &["of it was stored", "a report of it was stored"]);
}

#[test]
fn an_event_acknowledged_before_its_commit_is_found() {
    is_found(Planted::AcknowledgedBeforeCommit, &["was acknowledged and is not in the store"]);
}

#[test]
fn a_desired_state_that_is_not_synced_is_found() {
    is_found(Planted::NotSynced, &["and its disk holds", "went back to", "holds nothing now"]);
}
