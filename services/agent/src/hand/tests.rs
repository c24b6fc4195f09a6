//! What counts is what is on disk.

use super::*;

fn name() -> InstanceName {
    InstanceName::parse("app/web/n1/0").unwrap()
}

fn ask(act: HandAct) -> (Ask, oneshot::Receiver<Answer>) {
    let (answer, answered) = oneshot::channel();
    (Ask { instance: name(), act, patience: Duration::from_secs(1), answer }, answered)
}

fn desk(dir: &std::path::Path) -> Desk {
    let (_, asks) = mpsc::channel(1);
    Desk::open(Directory::new(dir), asks)
}

#[tokio::test]
async fn a_word_counts_once_it_is_on_disk_and_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = desk(dir.path());
    let (stop, _answered) = ask(HandAct::Stop);
    first.put(stop, Hand::Stopped, MonoTime::default());
    assert!(first.hands().is_empty() && !first.is_heard(&first.pending()[0]));
    assert!(matches!(first.next().await, News::Written));
    assert!(first.is_heard(&first.pending()[0]));
    assert_eq!(first.hands().get(&name()), Some(&Hand::Stopped));
    let mut second = desk(dir.path());
    assert_eq!(second.hands().get(&name()), Some(&Hand::Stopped));

    // A restart that was cut off in its first half is ended by the next process.
    let (restart, _answered) = ask(HandAct::Restart);
    second.put(restart, Hand::Halting, MonoTime::default());
    assert_eq!(second.hands().get(&name()), Some(&Hand::Stopped));
    second.next().await;
    assert_eq!(second.hands().get(&name()), Some(&Hand::Halting));
    let mut third = desk(dir.path());
    assert_eq!(third.hands().get(&name()), Some(&Hand::Due));
    third.started(&name());
    assert!(third.hands().is_empty());
    third.finish().await;
    assert!(desk(dir.path()).hands().is_empty());
}

#[tokio::test]
async fn what_cannot_be_written_is_answered_so_and_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let mut desk = desk(&gone);
    let (stop, mut answered) = ask(HandAct::Stop);
    desk.put(stop, Hand::Stopped, MonoTime::default());
    desk.next().await;
    assert_eq!(answered.try_recv().unwrap().unwrap_err().reason, "NotKept");
    assert!(desk.hands().is_empty() && desk.pending().is_empty());
    std::fs::create_dir(&gone).unwrap();
    let (stop, _answered) = ask(HandAct::Stop);
    desk.put(stop, Hand::Stopped, MonoTime::default());
    desk.next().await;
    assert_eq!(desk.hands().get(&name()), Some(&Hand::Stopped));
}

#[tokio::test]
async fn of_two_asks_the_later_one_counts_and_the_first_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = desk(dir.path());
    let (stop, mut first) = ask(HandAct::Stop);
    desk.put(stop, Hand::Stopped, MonoTime::default());
    let (start, _second) = ask(HandAct::Start);
    desk.put(start, Hand::Due, MonoTime::default());
    assert_eq!(first.try_recv().unwrap().unwrap_err().reason, "Superseded");
    // The first was on its way to the disk.
    desk.next().await;
    assert!(desk.hands().is_empty() && !desk.is_heard(&desk.pending()[0]));
    desk.next().await;
    assert_eq!(desk.hands().get(&name()), Some(&Hand::Due));
}

#[test]
fn a_file_that_does_not_read_is_told_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), b"x").unwrap();
    let mut desk = desk(dir.path());
    assert!(desk.hands().is_empty() && desk.take_damage().is_some());
}
