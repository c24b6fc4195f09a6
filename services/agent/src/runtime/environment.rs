//! The variables of an instance: from its configs and from files of the machine, with those that its spec names over them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};

use skerry_model::ConfigName;
use skerry_model::app::{EnvSource, ServiceSpec};
use skerry_model::env_file::{self, ENV_BYTES_MAX, is_variable};
use std::sync::Arc;

use super::RuntimeError;
use crate::desired::{ConfigContent, InstanceSpec};

/// One CamelCase word for what is told of a source that does not read.
pub(crate) const INVALID: &str = "InvalidEnvironment";

type Variables = BTreeMap<String, String>;

/// The variables of `instance`. Reads files of the machine: blocks.
pub(crate) fn environment(instance: &InstanceSpec) -> Result<Variables, RuntimeError> {
    let failed = |message| RuntimeError { reason: INVALID, message, transient: true };
    let mut all = Variables::new();
    for source in &instance.service.env_from {
        all.extend(match source {
            EnvSource::Config { config, key } => {
                of_config(config, key.as_deref(), &instance.configs).map_err(failed)?
            }
            EnvSource::File { path, optional } => of_file(path, *optional).map_err(failed)?,
        });
    }
    all.extend(instance.service.env.clone());
    let bytes: usize = all.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(failed(format!("its variables have {bytes} bytes: at most {ENV_BYTES_MAX}")));
    }
    Ok(all)
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
    let reading = |error: io::Error| format!("reading the environment file {path}: {error}");
    let file = match File::open(path) {
        Err(error) if optional && error.kind() == io::ErrorKind::NotFound => return Ok(Variables::new()),
        file => file.map_err(reading)?,
    };
    if !file.metadata().map_err(reading)?.is_file() {
        return Err(format!("the environment file {path} is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(ENV_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(reading)?;
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
}
