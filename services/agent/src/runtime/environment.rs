//! The variables of an instance: from its configs, its secrets and from files of the machine, with those that its spec names over them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::OFlags;
use skerry_model::app::{EnvSource, SecretEntries, ServiceSpec};
use skerry_model::env_file::{self, ENV_BYTES_MAX, VARIABLE_BYTES_MAX, is_variable};
use skerry_model::{ConfigName, SecretName};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::RuntimeError;
use crate::desired::{ConfigContent, InstanceSpec};
use crate::secrets::{Secrets, no_entry};

/// One CamelCase word for what is told of a source that does not read.
pub(crate) const INVALID: &str = "InvalidEnvironment";

/// Longest that the files of an instance may take to be read.
const READ_WAIT: Duration = Duration::from_secs(10);
/// Stack of the thread that reads them, in bytes.
const READ_STACK_BYTES: usize = 256 << 10;

/// Who reads which files: one at a time.
static TURNS: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>> = Mutex::new(BTreeMap::new());

pub(crate) type Variables = BTreeMap<String, String>;

/// All variables of an instance.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    /// Those that may stand on the disk.
    pub(crate) plain: Variables,
    /// Those with values of secrets. No name is in both.
    pub(crate) secret: Variables,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Environment({} and {} secret variables)", self.plain.len(), self.secret.len())
    }
}

impl Environment {
    /// A later one wins over an earlier one of its name.
    fn extend(&mut self, variables: Variables) {
        self.secret.retain(|name, _| !variables.contains_key(name));
        self.plain.extend(variables);
    }

    fn extend_secret(&mut self, variables: Variables) {
        self.plain.retain(|name, _| !variables.contains_key(name));
        self.secret.extend(variables);
    }

    /// Both together, for who takes them in one.
    pub(crate) fn merged(&self) -> Variables {
        self.plain.iter().chain(&self.secret).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// The variables of `instance`, however long the machine takes to read its files: then it is an error.
pub(crate) async fn read(instance: &InstanceSpec, secrets: &Secrets) -> Result<Environment, RuntimeError> {
    let files: Vec<&str> = instance.service.env_from.iter().filter_map(file_of).collect();
    if files.is_empty() {
        return environment(instance, secrets);
    }
    let files = files.join(", ");
    let (spec, secrets) = (instance.clone(), secrets.clone());
    let read = aside(&files, READ_WAIT, move || environment(&spec, &secrets)).await;
    read.unwrap_or_else(|why| {
        let message = format!("reading {files}: {why}");
        Err(RuntimeError { reason: INVALID, message, transient: true })
    })
}

fn file_of(source: &EnvSource) -> Option<&str> {
    match source {
        EnvSource::File { path, .. } => Some(path),
        EnvSource::Config { .. } | EnvSource::Secret { .. } => None,
    }
}

/// Does `work` on a thread of its own, and waits `wait` for it. On a mount that hangs it never ends: that takes none of the threads that all else
/// shares, holds up no end of the agent, and no other work of that `key` begins, so that there is one such thread for each.
async fn aside<T: Send + 'static>(
    key: &str,
    wait: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let turn = {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(key.to_owned()).or_default())
    };
    let done = async {
        let turn = turn.lock_owned().await;
        let (say, answer) = oneshot::channel();
        let run = move || {
            let done = work();
            drop(turn);
            // Nobody listens where it took too long.
            let _ = say.send(done);
        };
        let thread = std::thread::Builder::new().name("skerry-read".to_owned()).stack_size(READ_STACK_BYTES);
        thread.spawn(run).map_err(|error| error.to_string())?;
        answer.await.map_err(|_| "a defect of the agent's: see its log".to_owned())
    };
    timeout(wait, done).await.unwrap_or_else(|_| Err(format!("it takes more than {} s", wait.as_secs())))
}

/// The variables of `instance`. Reads files of the machine: blocks, for ever where a mount hangs.
fn environment(instance: &InstanceSpec, secrets: &Secrets) -> Result<Environment, RuntimeError> {
    let failed = |message| RuntimeError { reason: INVALID, message, transient: true };
    let mut all = Environment::default();
    for source in &instance.service.env_from {
        match source {
            EnvSource::Config { config, key } => {
                let of_config = of_config(config, key.as_deref(), &instance.configs).map_err(failed)?;
                all.extend(of_config);
            }
            EnvSource::Secret { secret, entries } => {
                let data = secrets.open(instance, secret)?.data;
                let of_secret = of_secret(secret, entries, &data)?;
                all.extend_secret(of_secret);
            }
            EnvSource::File { path, optional } => {
                all.extend(of_file(path, *optional).map_err(failed)?);
            }
        }
    }
    all.extend(instance.service.env.clone());
    check_sizes(&all.merged()).map_err(failed)?;
    Ok(all)
}

/// The variables that entries of a secret make. What is wrong is told without a value.
fn of_secret(
    secret: &SecretName,
    entries: &SecretEntries,
    data: &BTreeMap<String, Bytes>,
) -> Result<Variables, RuntimeError> {
    let failed = |message| RuntimeError { reason: INVALID, message, transient: true };
    let text = |key: &str, value: &Bytes| {
        let text = String::from_utf8(value.to_vec()).ok().filter(|text| !text.contains('\0'));
        text.ok_or_else(|| failed(format!("entry `{key}` of secret `{secret}` is no text")))
    };
    let entry = |key: &String| {
        let value = data.get(key).ok_or_else(|| no_entry(secret, key))?;
        text(key, value)
    };
    match entries {
        SecretEntries::All => {
            let variable = |(key, value): (&String, &Bytes)| {
                if is_variable(key) {
                    return Ok((key.clone(), text(key, value)?));
                }
                Err(failed(format!(
                    "entry `{key}` of secret `{secret}` is not the name of a variable: name the entry as `key`"
                )))
            };
            data.iter().map(variable).collect()
        }
        SecretEntries::File(key) => env_file::parse(&entry(key)?)
            .map_err(|error| failed(format!("entry `{key}` of secret `{secret}`, {error}"))),
        SecretEntries::Value { key, variable } => Ok(BTreeMap::from([(variable.clone(), entry(key)?)])),
    }
}

/// Whether a program can be given these.
fn check_sizes(all: &Variables) -> Result<(), String> {
    // With `=`, and the zero at its end.
    let bytes_of = |(name, value): (&String, &String)| name.len() + value.len() + 2;
    if let Some((name, _)) = all.iter().find(|variable| bytes_of(*variable) > VARIABLE_BYTES_MAX) {
        return Err(format!(
            "its variable {name} has more than the {VARIABLE_BYTES_MAX} bytes that Linux hands on"
        ));
    }
    let bytes: usize = all.iter().map(bytes_of).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(format!("its variables have {bytes} bytes: at most {ENV_BYTES_MAX}"));
    }
    Ok(())
}

/// Whether the configs that `service` takes variables from hold such.
pub(crate) fn check_configs(
    service: &ServiceSpec,
    configs: &BTreeMap<ConfigName, Arc<ConfigContent>>,
) -> Result<(), String> {
    for source in &service.env_from {
        if let EnvSource::Config { config, key } = source {
            of_config(config, key.as_deref(), configs)?;
        }
    }
    Ok(())
}

fn of_config(
    config: &ConfigName,
    key: Option<&str>,
    configs: &BTreeMap<ConfigName, Arc<ConfigContent>>,
) -> Result<Variables, String> {
    let content = configs.get(config).ok_or_else(|| format!("config `{config}` is not there"))?;
    let text = |key: &str, bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).ok().filter(|text| !text.contains('\0'));
        text.ok_or_else(|| format!("entry `{key}` of config `{config}` is no text"))
    };
    let Some(key) = key else {
        let variable = |(key, bytes): (&String, &Vec<u8>)| {
            if is_variable(key) {
                return Ok((key.clone(), text(key, bytes)?));
            }
            Err(format!(
                "entry `{key}` of config `{config}` is not the name of a variable: name the entry as `key` if it is an environment file"
            ))
        };
        return content.files.iter().map(variable).collect();
    };
    let bytes = content.files.get(key).ok_or_else(|| format!("config `{config}` has no entry `{key}`"))?;
    env_file::parse(&text(key, bytes)?)
        .map_err(|error| format!("entry `{key}` of config `{config}`, {error}"))
}

fn of_file(path: &str, optional: bool) -> Result<Variables, String> {
    let reading = |error: &io::Error| format!("reading the environment file {path}: {error}");
    let irregular = || format!("the environment file {path} is not a regular file");
    match fs::metadata(path) {
        Err(error) if optional && error.kind() == io::ErrorKind::NotFound => return Ok(Variables::new()),
        // Opening some devices does something, and opening a pipe waits for its other end.
        there if !there.as_ref().map_err(reading)?.is_file() => return Err(irregular()),
        _ => {}
    }
    // It may be another one by now.
    let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(|error| reading(&error))?;
    if !file.metadata().map_err(|error| reading(&error))?.is_file() {
        return Err(irregular());
    }
    let mut bytes = Vec::new();
    let read = file.take(ENV_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| reading(&error))?;
    if bytes.len() > ENV_BYTES_MAX {
        return Err(format!("the environment file {path} has more than {ENV_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("the environment file {path} is not UTF-8"))?;
    env_file::parse(&text).map_err(|error| format!("the environment file {path}, {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_model::ContentHash;

    #[test]
    fn what_a_config_holds_is_taken_whole_or_by_one_entry() {
        let config = ConfigName::parse("c").unwrap();
        let content = |files: &[(&str, &[u8])]| {
            let files = files.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.to_vec())).collect();
            let content = ConfigContent { hash: ContentHash::of(b"c"), files };
            BTreeMap::from([(config.clone(), Arc::new(content))])
        };
        let whole = |files: &[(&str, &[u8])]| of_config(&config, None, &content(files));
        assert_eq!(whole(&[("A", b"1\n")]).unwrap(), [("A".to_owned(), "1\n".to_owned())].into());
        assert!(whole(&[("a.env", b"")]).unwrap_err().contains("`a.env`"));
        assert!(whole(&[("A", &[0xff])]).unwrap_err().contains("no text"));
        let entry =
            |key: &str| of_config(&config, Some(key), &content(&[("a.env", b"A=1\nB"), ("b.env", b"B=2")]));
        assert_eq!(entry("b.env").unwrap().len(), 1);
        assert!(entry("a.env").unwrap_err().contains("line 2"));
        assert!(entry("none").unwrap_err().contains("no entry"));
    }

    #[test]
    fn what_a_secret_holds_is_taken_by_its_entries_and_never_quoted() {
        let secret = SecretName::parse("s").unwrap();
        let of = |entries: &SecretEntries, files: &[(&str, &[u8])]| {
            let data = files.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec().into())).collect();
            of_secret(&secret, entries, &data).map_err(|error| error.message)
        };
        let value = SecretEntries::Value { key: "pass.word".into(), variable: "PW".into() };
        assert_eq!(of(&value, &[("pass.word", b"hunter2")]).unwrap()["PW"], "hunter2");
        assert_eq!(of(&SecretEntries::All, &[("A", b"1"), ("B", b"2")]).unwrap().len(), 2);
        assert_eq!(of(&SecretEntries::File("f".into()), &[("f", b"A=1\nB=2\n")]).unwrap().len(), 2);
        let wrong = [
            of(&value, &[("other", b"hunter2")]),
            of(&value, &[("pass.word", b"hunter2\0")]),
            of(&SecretEntries::All, &[("a.b", b"hunter2")]),
            of(&SecretEntries::File("f".into()), &[("f", b"hunter2")]),
        ];
        for wrong in wrong {
            let why = wrong.unwrap_err();
            assert!(why.contains("secret `s`") && !why.contains("hunter2"), "{why}");
        }
        let mut all = Environment::default();
        all.extend([("A".to_owned(), "1".to_owned())].into());
        all.extend_secret([("A".to_owned(), "hunter2".to_owned())].into());
        assert_eq!((all.plain.len(), all.merged().len()), (0, 1), "a later one wins");
        assert!(!format!("{all:?}").contains("hunter2"));
    }

    #[test]
    fn a_file_of_the_machine_may_be_missing_only_where_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        let text = path.to_str().unwrap();
        assert_eq!(of_file(text, true), Ok(Variables::new()));
        assert!(of_file(text, false).is_err());
        std::fs::write(&path, "A='1'\n").unwrap();
        assert_eq!(of_file(text, false).unwrap()["A"], "1");
        std::fs::write(&path, "A").unwrap();
        assert!(of_file(text, true).unwrap_err().contains("line 1"));
        assert!(of_file("/dev/zero", false).unwrap_err().contains("regular"));
    }

    #[test]
    fn one_variable_is_no_longer_than_the_kernel_takes() {
        let with = |value: usize| check_sizes(&BTreeMap::from([("A".to_owned(), "x".repeat(value))]));
        let bound = VARIABLE_BYTES_MAX - "A=".len() - 1;
        assert_eq!(with(bound), Ok(()));
        assert!(with(bound + 1).unwrap_err().contains("variable A"));
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        let path = pipe.to_str().unwrap().to_owned();
        let (say, answer) = std::sync::mpsc::channel();
        // Left behind where it waits.
        std::thread::spawn(move || say.send(of_file(&path, false)));
        let answer = answer.recv_timeout(Duration::from_secs(5)).expect("it is answered");
        assert!(answer.unwrap_err().contains("regular"));
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_and_not_begun_again_until_it_ends() {
        let (end, hangs) = std::sync::mpsc::channel::<()>();
        let short = Duration::from_millis(50);
        let hung = aside("hangs", short, move || hangs.recv()).await;
        assert!(hung.unwrap_err().contains("more than"));
        let begun: Result<(), String> = aside("hangs", short, || unreachable!("it has no turn")).await;
        assert!(begun.unwrap_err().contains("more than"));
        assert_eq!(aside("another", READ_WAIT, || 1).await, Ok(1), "others are not held up");
        end.send(()).unwrap();
        assert_eq!(aside("hangs", READ_WAIT, || 2).await, Ok(2));
    }
}
