//! What is in an instance's directory, and the three records that the agent and its shim share there.
//!
//! ```text
//! lock         held (flock) as long as anything of the instance runs: agent while it lays out, then shim, program and what it starts
//! launch       by the agent: what to run and how to end it
//! shim         by the shim: who runs, since when
//! exit         by the shim: how it ended
//! stdout.log   what the program wrote, and stdout.log.1 and so on the files before it; stderr.log likewise
//! stdout.log.marks, stdout.log.1.marks and so on, when it was written (`marks`)
//! shim.log     what the shim itself had to complain of
//! state/       the program's own: its directory, its HOME, its config files
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skerry_model::app::LogBounds;

use super::procfs::ProcessId;
use super::record::{Record, Reserved};

pub(crate) const LOCK: &str = "lock";
pub(crate) const STDOUT: &str = "stdout.log";
pub(crate) const STDERR: &str = "stderr.log";
pub(crate) const SHIM_LOG: &str = "shim.log";
const LAUNCH: &str = "launch";
const SHIM: &str = "shim";
const EXIT: &str = "exit";
/// In memory, beside the files of secrets.
const SECRET_ENV: &str = "env";

/// The search path where neither the spec nor the agent's environment names one.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program's own directory.
pub(crate) fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// What to run and how to end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    /// `<app>/<service>/<cluster>/<ordinal>`.
    pub(crate) instance: String,
    pub(crate) fingerprint: String,
    pub(crate) revision: String,
    /// Boot in which it was written.
    pub(crate) boot: String,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    /// Beside `PATH`, `HOME` and `SKERRY_STATE_DIR`, of which the first two may be replaced here.
    pub(crate) env: Vec<(String, String)>,
    /// Absolute. Absent: the state directory.
    pub(crate) working_directory: Option<String>,
    pub(crate) stop_signal: String,
    pub(crate) stop_grace: Duration,
    /// Files that were laid out, and directories that were unpacked, relative to the state directory.
    pub(crate) configs: Vec<String>,
    /// Directory in memory with further variables, which are secret. It is gone after a boot, and so is what ran.
    pub(crate) secret_env: Option<String>,
    /// Absent: the agent's own user.
    pub(crate) user: Option<RunAs>,
    /// Directories of the cgroups that it is in.
    pub(crate) cgroups: Vec<String>,
    /// What is booked for it of the machine's GPUs, as the agent notes it. Empty: nothing.
    pub(crate) gpus: String,
    /// What is not as the spec says, in sentences for people.
    pub(crate) warnings: Vec<String>,
    pub(crate) log: LogBounds,
}

/// Whose rights a program has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Beside `gid`.
    pub(crate) groups: Vec<u32>,
}

impl RunAs {
    /// `<uid> <gid> <group>...`
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let numbers: Vec<u32> = text.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [uid, gid, groups @ ..] = numbers.as_slice() else { return None };
        Some(Self { uid: *uid, gid: *gid, groups: groups.to_vec() })
    }

    pub(super) fn to_text(&self) -> String {
        let numbers = [self.uid, self.gid].into_iter().chain(self.groups.iter().copied());
        numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
    }
}

impl Launch {
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        Ok(Record::read(dir, LAUNCH)?.as_ref().and_then(Self::from_record))
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        self.to_record().write(dir, LAUNCH)
    }

    fn from_record(record: &Record) -> Option<Self> {
        let text = |key: &str| record.get(key).map(str::to_owned);
        Some(Self {
            instance: text("instance")?,
            fingerprint: text("fingerprint")?,
            revision: text("revision")?,
            boot: text("boot")?,
            program: text("program")?,
            args: record.all("arg").map(str::to_owned).collect(),
            env: record.all("env").map(pair).collect::<Option<_>>()?,
            working_directory: text("directory"),
            stop_signal: text("stop-signal")?,
            stop_grace: Duration::from_millis(record.number("stop-grace-ms")?),
            configs: record.all("config").map(str::to_owned).collect(),
            secret_env: text("secret-env"),
            user: match record.get("user") {
                // One that does not read must not run with the agent's rights.
                Some(user) => Some(RunAs::from_text(user)?),
                None => None,
            },
            cgroups: record.all("cgroup").map(str::to_owned).collect(),
            gpus: text("gpus").unwrap_or_default(),
            warnings: record.all("warning").map(str::to_owned).collect(),
            log: LogBounds {
                max_size_bytes: record.number("log-bytes").unwrap_or(LogBounds::default().max_size_bytes),
                max_files: record.number("log-files").unwrap_or(LogBounds::default().max_files),
            },
        })
    }

    fn to_record(&self) -> Record {
        let mut record = Record::default();
        record.push("instance", &self.instance);
        record.push("fingerprint", &self.fingerprint);
        record.push("revision", &self.revision);
        record.push("boot", &self.boot);
        record.push("program", &self.program);
        for arg in &self.args {
            record.push("arg", arg);
        }
        for (name, value) in &self.env {
            record.push("env", format!("{name}={value}"));
        }
        if let Some(directory) = &self.working_directory {
            record.push("directory", directory);
        }
        record.push("stop-signal", &self.stop_signal);
        record.push("stop-grace-ms", self.stop_grace.as_millis().to_string());
        for config in &self.configs {
            record.push("config", config);
        }
        if let Some(place) = &self.secret_env {
            record.push("secret-env", place);
        }
        if let Some(user) = &self.user {
            record.push("user", user.to_text());
        }
        for cgroup in &self.cgroups {
            record.push("cgroup", cgroup);
        }
        if !self.gpus.is_empty() {
            record.push("gpus", &self.gpus);
        }
        for warning in &self.warnings {
            record.push("warning", warning);
        }
        record.push("log-bytes", self.log.max_size_bytes.to_string());
        record.push("log-files", self.log.max_files.to_string());
        record
    }

    /// The whole environment of the program. Nothing of the agent's own is handed on.
    pub(crate) fn environment(&self, dir: &Path) -> io::Result<BTreeMap<OsString, OsString>> {
        let state: OsString = state_dir(dir).into();
        let mut all = BTreeMap::from([("PATH".into(), PATH_DEFAULT.into()), ("HOME".into(), state.clone())]);
        all.extend(self.env.iter().map(|(name, value)| (name.into(), value.into())));
        if let Some(place) = &self.secret_env {
            let missing = || io::Error::new(io::ErrorKind::NotFound, "variables with secrets are not there");
            let record = Record::read(Path::new(place), SECRET_ENV)?.ok_or_else(missing)?;
            all.extend(record.all("env").filter_map(pair).map(|(name, value)| (name.into(), value.into())));
        }
        all.insert("SKERRY_STATE_DIR".into(), state);
        Ok(all)
    }

    /// Where programs are looked up.
    pub(crate) fn search_path(&self) -> &str {
        let of_spec = self.env.iter().rev().find(|(name, _)| name == "PATH");
        of_spec.map_or(PATH_DEFAULT, |(_, value)| value)
    }

    pub(crate) fn directory(&self, dir: &Path) -> PathBuf {
        self.working_directory.as_ref().map_or_else(|| state_dir(dir), PathBuf::from)
    }
}

fn pair(pair: &str) -> Option<(String, String)> {
    pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Writes variables with secrets into a directory in memory, for the agent and its shims alone.
pub(crate) fn write_secret_env(place: &Path, variables: &BTreeMap<String, String>) -> io::Result<()> {
    let mut record = Record::default();
    for (name, value) in variables {
        record.push("env", format!("{name}={value}"));
    }
    record.write(place, SECRET_ENV)
}

/// Who runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) boot: String,
    pub(crate) fingerprint: String,
    pub(crate) revision: String,
    pub(crate) shim: ProcessId,
    /// Absent: not started yet.
    pub(crate) program: Option<ProcessId>,
    pub(crate) since: SystemTime,
}

impl Started {
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        Ok(Record::read(dir, SHIM)?.as_ref().and_then(Self::from_record))
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut record = Record::default();
        record.push("boot", &self.boot);
        record.push("fingerprint", &self.fingerprint);
        record.push("revision", &self.revision);
        push_process(&mut record, "shim", self.shim);
        if let Some(program) = self.program {
            push_process(&mut record, "program", program);
        }
        push_time(&mut record, "since", self.since);
        record.write(dir, SHIM)
    }

    fn from_record(record: &Record) -> Option<Self> {
        Some(Self {
            boot: record.get("boot")?.to_owned(),
            fingerprint: record.get("fingerprint")?.to_owned(),
            revision: record.get("revision")?.to_owned(),
            shim: process(record, "shim")?,
            program: process(record, "program"),
            since: time(record, "since")?,
        })
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Which run: the shim of it.
    pub(crate) shim: ProcessId,
    pub(crate) boot: String,
    /// 128 + n for signal n.
    pub(crate) code: i32,
    pub(crate) at: SystemTime,
    /// Something of it was killed because its memory was used up, and it did not end well.
    pub(crate) out_of_memory: bool,
}

impl Ended {
    pub(crate) fn reserve(dir: &Path) -> io::Result<Reserved> {
        Reserved::take(dir, EXIT)
    }

    pub(crate) fn read(dir: &Path) -> io::Result<Option<Self>> {
        Ok(Record::read(dir, EXIT)?.as_ref().and_then(Self::from_record))
    }

    pub(crate) fn write(&self, dir: &Path, room: Reserved) -> io::Result<()> {
        let mut record = Record::default();
        push_process(&mut record, "shim", self.shim);
        record.push("boot", &self.boot);
        record.push("code", self.code.to_string());
        push_time(&mut record, "at", self.at);
        if self.out_of_memory {
            record.push("out-of-memory", "yes");
        }
        room.write(dir, EXIT, &record)
    }

    fn from_record(record: &Record) -> Option<Self> {
        Some(Self {
            shim: process(record, "shim")?,
            boot: record.get("boot")?.to_owned(),
            code: record.number("code")?,
            at: time(record, "at")?,
            out_of_memory: record.get("out-of-memory").is_some(),
        })
    }
}

/// Forgets the last run, so that it is not mistaken for the next one.
pub(crate) fn forget_run(dir: &Path) -> io::Result<()> {
    for name in [SHIM, EXIT] {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn push_process(record: &mut Record, key: &str, process: ProcessId) {
    record.push(key, format!("{} {}", process.pid, process.started));
}

fn process(record: &Record, key: &str) -> Option<ProcessId> {
    let (pid, started) = record.get(key)?.split_once(' ')?;
    Some(ProcessId { pid: pid.parse().ok().filter(|pid| *pid > 0)?, started: started.parse().ok()? })
}

/// Milliseconds since 1970.
fn push_time(record: &mut Record, key: &str, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    record.push(key, since.as_millis().to_string());
}

fn time(record: &Record, key: &str) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(record.number(key)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn the_records_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let secret = tempfile::tempdir().unwrap();
        let launch = Launch {
            instance: "app/web/n1/0".into(),
            fingerprint: "f".into(),
            revision: "r".into(),
            boot: "b".into(),
            program: "sh".into(),
            args: vec!["-c".into(), "echo \\n \n two".into(), String::new()],
            env: vec![("A".into(), "x=y\n".into()), ("PATH".into(), "/opt".into())],
            working_directory: Some("/tmp".into()),
            stop_signal: "SIGTERM".into(),
            stop_grace: Duration::from_millis(1500),
            configs: vec!["configs/c/k".into()],
            secret_env: Some(secret.path().to_str().unwrap().into()),
            user: Some(RunAs { uid: 1, gid: 2, groups: vec![3, 4] }),
            cgroups: vec!["/sys/fs/cgroup/x".into()],
            gpus: "AA BB".into(),
            warnings: vec!["no".into()],
            log: LogBounds { max_size_bytes: 9, max_files: 8 },
        };
        launch.write(dir.path()).unwrap();
        assert_eq!(Launch::read(dir.path()).unwrap(), Some(launch.clone()));
        assert_eq!(launch.search_path(), "/opt");
        assert!(launch.environment(dir.path()).is_err(), "it does not run without its secrets");
        write_secret_env(secret.path(), &[("S".to_owned(), "a=b\n".to_owned())].into()).unwrap();
        let environment = launch.environment(dir.path()).unwrap();
        assert_eq!(environment.get(OsStr::new("S")).cloned(), Some("a=b\n".into()));
        let of = |name: &str| environment.get(OsStr::new(name)).cloned();
        assert_eq!(of("HOME"), Some(dir.path().join("state").into()));
        assert_eq!(of("PATH"), Some("/opt".into()), "the spec's, and only that");

        // The most that a spec and its variables may have, each byte of them escaped.
        let large = Launch {
            args: vec!["\\".repeat(256 << 10)],
            env: (0..4).map(|n| (format!("V{n}"), "\n".repeat(128 << 10))).collect(),
            ..launch
        };
        large.write(dir.path()).unwrap();
        assert_eq!(Launch::read(dir.path()).unwrap(), Some(large));

        let shim = ProcessId { pid: 7, started: 8 };
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let mut started = Started {
            boot: "b".into(),
            fingerprint: "f".into(),
            revision: "r".into(),
            shim,
            program: None,
            since: at,
        };
        started.write(dir.path()).unwrap();
        assert_eq!(Started::read(dir.path()).unwrap(), Some(started.clone()));
        started.program = Some(ProcessId { pid: 9, started: 10 });
        started.write(dir.path()).unwrap();
        assert_eq!(Started::read(dir.path()).unwrap(), Some(started));

        let ended = Ended { shim, boot: "b".into(), code: 137, at, out_of_memory: true };
        ended.write(dir.path(), Ended::reserve(dir.path()).unwrap()).unwrap();
        assert_eq!(Ended::read(dir.path()).unwrap(), Some(ended));
        forget_run(dir.path()).unwrap();
        forget_run(dir.path()).unwrap();
        assert_eq!((Started::read(dir.path()).unwrap(), Ended::read(dir.path()).unwrap()), (None, None));
    }
}
