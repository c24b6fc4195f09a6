//! The whole of it over a daemon and a client that are scripts: the daemon does with its directory what NVIDIA's does, the client answers as a device would.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

const UUID: &str = "GPU-9f1a0c2e-0000-4000-8000-00000000000a";

/// `-d`: leaves a process with its pipe and id; `quit` on its input: ends that. What it was told is written down beside it.
const DAEMON: &str = r#"#!/bin/sh
set -e
dir=$CUDA_MPS_PIPE_DIRECTORY
if [ "$1" = -d ]; then
  [ -d "$CUDA_MPS_LOG_DIRECTORY" ]
  : > "$dir/control"
  sleep 600 <&- >&- 2>&- &
  echo $! > "$dir/nvidia-cuda-mps-control.pid"
  echo "begun $!" >> "$(dirname "$0")/told"
else
  read -r word
  echo "$word" >> "$(dirname "$0")/told"
  kill "$(cat "$dir/nvidia-cuda-mps-control.pid")"
fi
"#;

/// Has 132 multiprocessors and all the memory without a daemon, and half of them and 2 GiB with one, if it is told so.
const CLIENT: &str = r#"#!/bin/sh
[ "$1 $2" = "--take 1073741824,2214592512" ] || exit 3
[ "$CUDA_VISIBLE_DEVICES" = GPU-9f1a0c2e-0000-4000-8000-00000000000a ] || exit 4
if [ -e "$CUDA_MPS_PIPE_DIRECTORY/control" ]; then
  [ "$CUDA_MPS_PINNED_DEVICE_MEM_LIMIT $CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" = "0=2048M 50" ] || exit 5
  echo '{"multiprocessors": 66, "mps": true, "tries": [0, 2]}'
else
  [ -z "$CUDA_MPS_PINNED_DEVICE_MEM_LIMIT$CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" ] || exit 6
  echo '{"multiprocessors": 132, "mps": false, "tries": [0, 0]}'
fi
"#;

struct Scripts(TempDir);

impl Scripts {
    fn new(daemon: &str, client: &str) -> Self {
        let scripts = Self(tempfile::tempdir().unwrap());
        for (path, text) in [(scripts.daemon(), daemon), (scripts.client(), client)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        scripts
    }

    fn daemon(&self) -> PathBuf {
        self.0.path().join("nvidia-cuda-mps-control")
    }

    fn client(&self) -> PathBuf {
        self.0.path().join("client")
    }

    fn look(&self) -> Result<std::result::Result<Limits, String>> {
        look(Some(&self.daemon()), &self.client(), UUID)
    }

    /// What the daemon was told; its process is gone.
    fn told(&self) -> Vec<String> {
        let told = fs::read_to_string(self.0.path().join("told")).unwrap_or_default();
        let words = told.lines().map(|line| match line.strip_prefix("begun ") {
            Some(pid) => {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                assert!(!stat.contains("(sleep) S"), "it lives: {stat}");
                "begun".to_owned()
            }
            None => line.to_owned(),
        });
        words.collect()
    }
}

fn client(multiprocessors: i32, mps: Option<bool>, tries: [i32; 2]) -> Client {
    Client { multiprocessors, mps, tries }
}

#[test]
fn limits_that_hold_pass_and_the_daemon_is_ended() {
    let scripts = Scripts::new(DAEMON, CLIENT);
    let limits = scripts.look().unwrap().unwrap();
    assert_eq!(limits.wrong, Vec::<String>::new());
    assert_eq!(limits.verdict, Verdict::Same);
    assert_eq!((limits.free.multiprocessors, limits.limited.multiprocessors), (132, 66));
    assert_eq!(scripts.told(), ["begun", "quit"]);
    let text = limits.lines().join("\n");
    assert!(text.contains("1073741824 B are given, 2214592512 B are refused (2)"), "{text}");
    assert!(text.contains("66 of 132 multiprocessors"), "{text}");
}

#[test]
fn where_the_program_is_not_there_is_why() {
    let scripts = Scripts::new(DAEMON, CLIENT);
    fs::remove_file(scripts.daemon()).unwrap();
    let why = scripts.look().unwrap().unwrap_err();
    assert!(why.contains("nvidia-cuda-mps-control is not there"), "{why}");
    // By its name, along PATH.
    let name = Path::new("nvidia-cuda-mps-control-that-nobody-has");
    let why = look(Some(name), &scripts.client(), UUID).unwrap().unwrap_err();
    assert!(why.contains("is not on this machine"), "{why}");
}

#[test]
fn a_client_that_fails_is_a_fault_and_the_daemon_is_ended_all_the_same() {
    let failing = CLIENT.replace("[0, 2]}'", "[0, 2]}'; exit 9");
    let scripts = Scripts::new(DAEMON, &failing);
    let fault = format!("{:#}", scripts.look().unwrap_err());
    assert!(fault.contains("a client of MPS") && fault.contains("exit status: 9"), "{fault}");
    assert_eq!(scripts.told(), ["begun", "quit"]);
    let scripts = Scripts::new(DAEMON, "#!/bin/sh\necho 66\n");
    let fault = format!("{:#}", scripts.look().unwrap_err());
    assert!(fault.contains("a client without MPS") && fault.contains("reading what it says"), "{fault}");
    assert!(scripts.told().is_empty(), "no daemon was begun for that");
}

#[test]
fn what_does_not_hold_is_told() {
    let free = client(132, Some(false), [0, 0]);
    for (limited, wrong) in [
        (client(66, Some(true), [0, 0]), "more than the limit is given"),
        (client(66, Some(true), [0, 999]), "refused with 999"),
        (client(66, Some(true), [2, 2]), "less than the limit is refused (2)"),
        (client(132, Some(true), [0, 2]), "it sees 132 of 132 multiprocessors"),
        (client(0, Some(true), [0, 2]), "it sees 0 of 132 multiprocessors"),
        (client(66, Some(false), [0, 2]), "did not come to the daemon"),
    ] {
        let limits = judge(free.clone(), limited);
        assert_eq!(limits.verdict, Verdict::Different, "{wrong}");
        assert_eq!(limits.wrong.len(), 1, "{:?}", limits.wrong);
        assert!(limits.wrong[0].contains(wrong), "{:?}", limits.wrong);
    }
    // A driver before CUDA 12.1 does not say who is a client, and groups of multiprocessors may round.
    for of in [66, 64, 70] {
        assert_eq!(judge(free.clone(), client(of, None, [0, 2])).verdict, Verdict::Same, "{of}");
    }
    let full = judge(client(40, None, [0, 2]), client(20, None, [0, 2]));
    assert!(full.wrong[0].contains("without MPS the device has not as much either"), "{:?}", full.wrong);
}
