//! What is remembered, and when the next try is.

use std::time::SystemTime;

use super::*;
use proptest::prelude::*;
use skerry_model::InstanceName;

const POLICY: RestartPolicy = RestartPolicy {
    when: RestartWhen::Always,
    backoff: Duration::from_secs(1),
    backoff_max: Duration::from_secs(300),
};

fn at(seconds: u64) -> MonoTime {
    MonoTime::from_origin(Duration::from_secs(seconds))
}

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn observed(state: RunState) -> Observed {
    Observed {
        instance: InstanceName::parse("a/b/c/0").unwrap(),
        fingerprint: "f".into(),
        revision: "r".into(),
        runtime_id: "id".into(),
        state,
        address: None,
        image_health: None,
        drift: None,
        started: None,
        warnings: Vec::new(),
        gpus: Vec::new(),
        place: crate::runtime::Place::Own,
    }
}

fn running(since: u64) -> Observed {
    observed(RunState::Running { since: wall(since) })
}

fn exited(code: i32, since: u64) -> Observed {
    observed(RunState::Exited { code: Some(code), at: wall(since), out_of_memory: false })
}

/// The waits of a program that runs `run` seconds each time.
fn waits(run: u64, times: usize, jitter: Jitter) -> Vec<Duration> {
    let mut memory = Memory::default();
    let (mut now, mut waits) = (1, Vec::new());
    memory.look(Some(&running(now)), Some(&POLICY), at(now), jitter);
    for _ in 0..times {
        now += run;
        let happening = memory.look(Some(&exited(1, now)), Some(&POLICY), at(now), jitter);
        let Some(Happening::Ended(Ended { wait: Some(wait), .. })) = happening else {
            panic!("{happening:?}")
        };
        waits.push(wait);
        assert_eq!(memory.waits(Some("f"), at(now)).unwrap().until, at(now) + wait);
        now += wait.as_secs() + 1;
        memory.look(Some(&running(now)), Some(&POLICY), at(now), jitter);
    }
    waits
}

#[test]
fn a_restart_wait_doubles_up_to_its_most() {
    let seconds: Vec<u64> = waits(1, 11, 0.0).iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
}

/// A memory that saw three ends, the last at 103, after two restarts; and what it left behind.
fn looping() -> (Memory, Entry) {
    let mut memory = Memory::default();
    let mut entry = None;
    let name = InstanceName::parse("a/b/c/0").unwrap();
    for (n, second) in (101..=103).enumerate() {
        memory.restarts = u32::try_from(n).unwrap();
        memory.look(Some(&running(second)), Some(&POLICY), at(second), 0.0);
        let end = exited(7, second);
        let happening = memory.look(Some(&end), Some(&POLICY), at(second), 0.0).unwrap();
        entry = memory.entry(&name, &happening, Some(&end), wall(second));
    }
    (memory, entry.unwrap())
}

fn recalled(entry: &Entry, observed: &Observed, second: u64) -> Memory {
    let mut memory = Memory::default();
    memory.recall(entry, Some(observed), at(1), wall(second));
    memory
}

#[test]
fn a_crash_loop_goes_on_counting_and_waiting_when_the_agent_is_started_again() {
    let (before, entry) = looping();
    // In the midst of the wait of 4 s: the rest of it is waited, and the end is no news.
    let mut memory = recalled(&entry, &exited(7, 103), 104);
    assert_eq!((memory.restarts, memory.ended.unwrap().code), (before.restarts, Some(7)));
    assert_eq!(memory.look(Some(&exited(7, 103)), Some(&POLICY), at(1), 0.0), None);
    assert_eq!(memory.waits(Some("f"), at(1)).unwrap().until, at(4));
    // A clock that was set back costs one wait; one that was set forward none.
    assert_eq!(recalled(&entry, &exited(7, 103), 1).waits(Some("f"), at(1)).unwrap().until, at(5));
    assert_eq!(recalled(&entry, &exited(7, 103), 9999).waits(Some("f"), at(1)), None);

    // Started again before the agent was: that restart counts, and the next wait is the longer one.
    let mut memory = recalled(&entry, &running(107), 110);
    assert_eq!(memory.restarts, 3);
    assert_eq!(memory.look(Some(&running(107)), Some(&POLICY), at(1), 0.0), None);
    let happening = memory.look(Some(&exited(7, 111)), Some(&POLICY), at(2), 0.0);
    let Some(Happening::Ended(Ended { wait: Some(wait), .. })) = happening else { panic!("it ended") };
    assert_eq!(wait, Duration::from_secs(8));

    // It ended while nobody looked, in a reboot most likely: started at once.
    let mut memory = recalled(&entry, &exited(137, 200), 201);
    assert_eq!(memory.restarts, 3);
    memory.look(Some(&exited(137, 200)), Some(&POLICY), at(1), 0.0);
    assert_eq!(memory.waits(Some("f"), at(1)), None);
}

#[test]
fn an_end_that_is_not_followed_by_a_start_is_told_once_whatever_ends_the_agent() {
    let name = InstanceName::parse("a/b/c/0").unwrap();
    for code in [0, 7] {
        let policy = RestartPolicy { when: RestartWhen::Never, ..POLICY };
        let end = exited(code, 103);
        let mut memory = Memory::default();
        memory.look(Some(&running(101)), Some(&policy), at(101), 0.0);
        let happening = memory.look(Some(&end), Some(&policy), at(103), 0.0).expect("it ended");
        let entry = memory.entry(&name, &happening, Some(&end), wall(103)).expect("it is remembered");
        let mut memory = recalled(&entry, &end, 200);
        assert_eq!(memory.look(Some(&end), Some(&policy), at(1), 0.0), None, "told before");
        assert_eq!(memory.ended.unwrap().code, Some(code));
        let next = memory.look(Some(&exited(code, 300)), Some(&policy), at(2), 0.0);
        assert!(matches!(next, Some(Happening::Ended(_))), "the next end is news");
    }
}

#[test]
fn what_runs_steadily_has_its_wait_start_anew_also_across_a_start_of_the_agent() {
    let (_, entry) = looping();
    let mut memory = recalled(&entry, &running(107), 107 + STEADY.as_secs());
    memory.look(Some(&running(107)), Some(&POLICY), at(1), 0.0);
    let happening = memory.look(Some(&exited(7, 900)), Some(&POLICY), at(2), 0.0);
    let Some(Happening::Ended(Ended { wait: Some(wait), .. })) = happening else { panic!("it ended") };
    assert_eq!((wait, memory.restarts), (Duration::from_secs(1), 3));
}

#[test]
fn an_update_is_not_told_as_the_same_running_again() {
    let mut memory = Memory::default();
    let running_of = |fingerprint: &str, since| Observed {
        fingerprint: fingerprint.into(),
        runtime_id: format!("{fingerprint}{since}"),
        ..running(since)
    };
    memory.acts(Busy::Starting, at(1));
    let mut look = |fingerprint: &str, since| {
        memory.look(Some(&running_of(fingerprint, since)), Some(&POLICY), at(since), 0.0)
    };
    assert_eq!(look("f", 1), Some(Happening::Started(Run::First)));
    assert_eq!(look("f", 2), Some(Happening::Started(Run::Again)));
    assert_eq!(look("g", 3), Some(Happening::Started(Run::Other)));
}

#[test]
fn after_ten_minutes_of_running_the_wait_starts_anew() {
    assert_eq!(waits(600, 3, 0.0), [Duration::from_secs(1); 3]);
    assert_eq!(waits(599, 3, 0.0)[2], Duration::from_secs(4));
}

proptest! {
    #[test]
    fn a_wait_is_never_longer_than_its_most(jitter in 0.0..1.0f64, step in 0..64u32) {
        let wait = backoff((POLICY.backoff, POLICY.backoff_max), step, jitter);
        prop_assert!(wait <= POLICY.backoff_max && wait >= POLICY.backoff.mul_f64(0.75));
    }
}

#[test]
fn what_ended_before_the_agent_looked_is_started_at_once() {
    let mut memory = Memory::default();
    memory.look(Some(&exited(137, 5)), Some(&POLICY), at(1), 0.0);
    assert_eq!(memory.waits(Some("f"), at(1)), None);
    assert_eq!(memory.ended.unwrap().code, Some(137));
}

#[test]
fn what_the_agent_started_itself_and_ends_before_the_first_look_waits_like_any_other() {
    let mut memory = Memory::default();
    memory.acts(Busy::Starting, at(1));
    memory.look(Some(&exited(1, 2)), Some(&POLICY), at(2), 0.0);
    assert_eq!(memory.waits(Some("f"), at(2)).unwrap().until, at(3));
}

#[test]
fn an_end_is_counted_once_however_often_it_is_seen() {
    let mut memory = Memory::default();
    memory.look(Some(&running(1)), Some(&POLICY), at(1), 0.0);
    assert!(memory.look(Some(&exited(1, 2)), Some(&POLICY), at(2), 0.0).is_some());
    let until = memory.waits.clone();
    for later in 3..9 {
        assert_eq!(memory.look(Some(&exited(1, 2)), Some(&POLICY), at(later), 0.0), None);
    }
    assert_eq!(memory.waits, until);
}

#[test]
fn the_same_error_again_is_no_news_and_waits_longer() {
    let error = |transient| RuntimeError { reason: "ImagePullFailed", message: "no".into(), transient };
    let mut memory = Memory::default();
    assert!(memory.failed(Some("f".into()), error(true), at(0), 0.0));
    assert_eq!(memory.wait(Some("f")).unwrap().until, at(1));
    assert!(!memory.failed(Some("f".into()), error(true), at(1), 0.0));
    assert_eq!(memory.wait(Some("f")).unwrap().until, at(3));
    assert!(memory.failed(Some("g".into()), error(false), at(3), 0.0), "another fingerprint");
    assert_eq!(memory.waits(Some("f"), at(3)), None);
    assert_eq!(memory.waits(Some("g"), at(3)).unwrap().until, at(13));
    memory.hurry("ImagePullFailed", at(4));
    assert_eq!(memory.waits(Some("g"), at(4)), None);
}
