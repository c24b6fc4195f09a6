//! What is given back is no longer resident, and everything works as before.
#![cfg(target_os = "linux")]

use std::fs;

/// Resident pages of files, in KiB.
fn files_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find(|line| line.starts_with("RssFile:")).expect("RssFile");
    line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a figure")
}

#[test]
fn what_is_given_back_is_read_again() {
    let others: Vec<_> = (0..4)
        .map(|n| {
            std::thread::spawn(move || {
                (0..200).map(|k| format!("{n} {k:?} {:e}", f64::from(k)).len()).sum::<usize>()
            })
        })
        .collect();
    let before = files_kib();
    let mut lowest = u64::MAX;
    for _ in 0..50 {
        assert!(skerry_resident::give_back().expect("given back") > 0);
        lowest = lowest.min(files_kib());
    }
    let lengths: Vec<usize> = others.into_iter().map(|other| other.join().expect("works on")).collect();
    assert!(lengths.iter().all(|length| *length == lengths[0]));
    assert!(lowest < before, "{lowest} KiB of {before}");
}
