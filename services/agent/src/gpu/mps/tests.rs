//! The keeper over a daemon that is a real process: a script that does what the control program does with its pipe directory.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// `-d`: leaves a daemon, with its pipe and id; `quit` on its input: ends that. Each start is counted.
const FAKE: &str = r#"#!/bin/sh
set -e
dir=$CUDA_MPS_PIPE_DIRECTORY
if [ "$1" = -d ]; then
  [ -d "$CUDA_MPS_LOG_DIRECTORY" ]
  echo start >> "$CUDA_MPS_LOG_DIRECTORY/starts"
  mkfifo "$dir/control"
  sleep 600 <&- >&- 2>&- &
  echo $! > "$dir/nvidia-cuda-mps-control.pid"
else
  read -r word
  [ "$word" = quit ]
  kill "$(cat "$dir/nvidia-cuda-mps-control.pid")"
  echo quit >> "$CUDA_MPS_LOG_DIRECTORY/starts"
fi
"#;

struct Machine {
    dir: TempDir,
    told: watch::Receiver<Mps>,
    told_in: watch::Sender<Mps>,
    stop: CancellationToken,
    agent: JoinSet<()>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (told_in, told) = watch::channel(Mps::default());
        Self { dir, told, told_in, stop: CancellationToken::new(), agent: JoinSet::new() }
    }

    fn with_program(self) -> Self {
        let path = self.dir.path().join(PROGRAM);
        fs::write(&path, FAKE).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// An agent, until it is stopped.
    fn begin(&mut self, own: bool) {
        self.stop = CancellationToken::new();
        let keeper = Keeper {
            program: self.dir.path().join(PROGRAM),
            elsewhere: self.dir.path().join("elsewhere"),
            every: Duration::from_millis(10),
            ..Keeper::new(own, self.dir.path(), self.told_in.clone())
        };
        self.agent.spawn(keeper.run(self.stop.clone()));
    }

    async fn end(&mut self) {
        self.stop.cancel();
        while self.agent.join_next().await.is_some() {}
    }

    fn pipe(&self) -> PathBuf {
        self.dir.path().join("mps/pipe")
    }

    fn starts(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("mps/log/starts")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is(self) {
            assert!(began.elapsed() < LONG, "still not: {what}; {:?}", self.told.borrow());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for pipe in [self.pipe(), self.dir.path().join("elsewhere")] {
            if let Some(pid) = daemon(&pipe).and_then(ProcessId::as_pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

#[tokio::test]
async fn a_daemon_is_begun_begun_again_when_it_crashes_left_to_the_next_agent_and_ended_when_it_is_not_wanted()
 {
    let mut machine = Machine::new().with_program();
    machine.begin(true);
    let pipe = machine.pipe();
    let serves = |machine: &Machine| machine.told.borrow().pipe() == Some(&*pipe);
    machine.until("it serves", serves).await;
    let first = daemon(&pipe).unwrap();
    let inode = || fs::metadata(&pipe).unwrap().ino();
    let directory = inode();
    rustix::process::kill_process(first.as_pid().unwrap(), rustix::process::Signal::KILL).unwrap();
    machine
        .until("another one serves", |machine| {
            serves(machine) && daemon(&pipe).is_some_and(|one| one != first)
        })
        .await;
    assert_eq!(machine.starts(), ["start", "start"]);
    assert_eq!(inode(), directory, "containers that run have this one");
    machine.end().await;
    let second = daemon(&pipe).unwrap();
    machine.begin(true);
    machine.until("it is found", serves).await;
    assert_eq!((daemon(&pipe), machine.starts().len()), (Some(second), 2), "none was begun");
    machine.end().await;
    machine.begin(false);
    machine.until("it is ended", |machine| *machine.told.borrow() == Mps::None && !second.is_alive()).await;
    machine.until("it was told so", |machine| machine.starts() == ["start", "start", "quit"]).await;
    machine.end().await;
}

#[tokio::test]
async fn a_machine_without_the_program_says_so() {
    let mut machine = Machine::new();
    machine.begin(true);
    machine.until("it fails", |machine| matches!(*machine.told.borrow(), Mps::Fails(_))).await;
    let why = machine.told.borrow().why_not();
    assert!(why.contains("nvidia-cuda-mps-control is not on this machine"), "{why}");
    machine.end().await;
}

#[tokio::test]
async fn one_of_other_hands_is_found_and_missed() {
    let mut machine = Machine::new().with_program();
    let elsewhere = machine.dir.path().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    machine.begin(false);
    fs::create_dir_all(machine.dir.path().join("log")).unwrap();
    let begun = std::process::Command::new(machine.dir.path().join(PROGRAM))
        .arg("-d")
        .env(PIPE_DIRECTORY, &elsewhere)
        .env(LOG_DIRECTORY, machine.dir.path().join("log"))
        .status()
        .unwrap();
    assert!(begun.success());
    machine.until("it is found", |machine| machine.told.borrow().pipe() == Some(&*elsewhere)).await;
    let pid = daemon(&elsewhere).and_then(ProcessId::as_pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    machine.until("it is missed", |machine| *machine.told.borrow() == Mps::None).await;
    assert!(!machine.dir.path().join("mps").exists(), "and none of the agent's own was begun");
    machine.end().await;
}

#[tokio::test]
async fn a_directory_of_anybody_is_no_daemon() {
    let machine = Machine::new();
    let elsewhere = machine.dir.path().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::write(elsewhere.join(CONTROL), "").unwrap();
    fs::write(elsewhere.join(PID), std::process::id().to_string()).unwrap();
    assert!(daemon(&elsewhere).is_some());
    // Only root can give a file away.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&elsewhere, Some(65534), None).unwrap();
        assert_eq!(daemon(&elsewhere), None);
    }
    fs::remove_dir_all(&elsewhere).unwrap();
}
