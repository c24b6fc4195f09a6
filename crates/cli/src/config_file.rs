//! The client's configuration file on disk: found, read, written whole or not at all, for its owner's eyes only.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use skerry_manifest::contexts::{CONTEXTS_MAX, ClientConfig, Context};
use skerry_manifest::nearest;

use crate::error::CliError;
use crate::files::bounded;

/// The file and what it holds.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    /// Absent where neither SKERRY_CONFIG nor HOME says where it is.
    path: Option<PathBuf>,
    pub(crate) config: ClientConfig,
}

impl ConfigFile {
    /// Reads it; one that is not there has no contexts.
    pub(crate) fn load() -> Result<Self, CliError> {
        let Some(path) = path(|name| std::env::var(name).ok()) else {
            return Ok(Self { path: None, config: ClientConfig::default() });
        };
        Self::load_from(path)
    }

    fn load_from(path: PathBuf) -> Result<Self, CliError> {
        let shown = path.display().to_string();
        let config = match std::fs::File::open(&path) {
            Ok(file) => {
                let bytes = bounded(&shown, file)?;
                ClientConfig::read(&shown, &bytes).map_err(|errors| CliError::Manifest(vec![errors]))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => ClientConfig::default(),
            Err(error) => {
                return Err(CliError::Usage(format!(
                    "cannot read {shown}: {error}; SKERRY_CONFIG names another file"
                )));
            }
        };
        Ok(Self { path: Some(path), config })
    }

    /// For tests.
    #[cfg(test)]
    pub(crate) fn at(path: &str, config: ClientConfig) -> Self {
        Self { path: Some(path.into()), config }
    }

    /// Writes it: beside its place, synced, then moved there. What was there before is there until then.
    pub(crate) fn save(&self) -> Result<(), CliError> {
        let Some(path) = &self.path else {
            return Err(CliError::Usage(
                "there is no place for the configuration: set SKERRY_CONFIG to a file, or HOME".into(),
            ));
        };
        if self.config.contexts.len() > CONTEXTS_MAX {
            return Err(CliError::Usage(format!("more than {CONTEXTS_MAX} contexts: delete some first")));
        }
        // Through a link, so that a configuration which is kept elsewhere stays there.
        let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        // A device such as /dev/null says that there is none; a file in its place would be nobody's wish.
        if std::fs::metadata(&place).is_ok_and(|there| !there.is_file()) {
            return Err(CliError::Failed(format!(
                "{} is no regular file: SKERRY_CONFIG names another place for the configuration",
                path.display()
            )));
        }
        write(&place, &self.config.to_value().to_yaml())
            .map_err(|error| CliError::Failed(format!("cannot write {}: {error}", path.display())))
    }

    /// A path that stands in it: a relative one begins at its directory, wherever the command is typed.
    pub(crate) fn beside(&self, path: &str) -> PathBuf {
        match self.path.as_deref().and_then(Path::parent) {
            Some(directory) => directory.join(path),
            None => path.into(),
        }
    }

    /// The file's name for people.
    pub(crate) fn shown(&self) -> String {
        self.path.as_ref().map_or_else(|| "the configuration".to_owned(), |path| path.display().to_string())
    }

    /// The context `name`, or what to say when there is none.
    pub(crate) fn context(&self, name: &str) -> Result<&Context, CliError> {
        self.config.get(name).ok_or_else(|| self.no_context(name))
    }

    /// What to say of a context that is not there.
    pub(crate) fn no_context(&self, name: &str) -> CliError {
        let names: Vec<&str> = self.config.contexts.iter().map(|context| context.name.as_str()).collect();
        let hint = match (names.as_slice(), nearest(name, names.iter().copied())) {
            ([], _) => "it has none: `skerry config set-context` makes one".to_owned(),
            (_, Some(near)) => format!("did you mean {near}?"),
            (_, None) => "`skerry config get-contexts` shows all".to_owned(),
        };
        CliError::Usage(format!("there is no context {name:?} in {}; {hint}", self.shown()))
    }
}

/// Where it is: `SKERRY_CONFIG`, else by the XDG base directories.
fn path(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of_home = || given("HOME").map(|home| home.join(".config"));
    given("SKERRY_CONFIG").or_else(|| {
        // A relative XDG_CONFIG_HOME counts for nothing, says its specification.
        let base = given("XDG_CONFIG_HOME").filter(|base| base.is_absolute()).or_else(of_home)?;
        Some(base.join("skerry").join("config.yaml"))
    })
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    // Temporary files are made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn its_place_is_that_of_the_variable_then_of_xdg_then_below_home() {
        let of = |given: &[(&str, &str)]| {
            let find = |name: &str| given.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
            path(find).map(|path| path.display().to_string())
        };
        assert_eq!(of(&[("SKERRY_CONFIG", "c.yaml"), ("HOME", "/h")]).as_deref(), Some("c.yaml"));
        let xdg = [("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(of(&xdg).as_deref(), Some("/x/skerry/config.yaml"));
        let relative = [("XDG_CONFIG_HOME", "x"), ("SKERRY_CONFIG", ""), ("HOME", "/h")];
        assert_eq!(of(&relative).as_deref(), Some("/h/.config/skerry/config.yaml"));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn it_is_written_for_its_owner_only_and_through_a_link() {
        let directory = tempfile::tempdir().expect("a directory");
        let (real, link) = (directory.path().join("real/c.yaml"), directory.path().join("link.yaml"));
        let mut file = ConfigFile::load_from(real.clone()).expect("none yet");
        assert_eq!(file.config, ClientConfig::default());
        file.config.contexts.push(Context { name: "a".into(), ..Default::default() });
        file.save().expect("written");
        let mode = std::fs::metadata(&real).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        let mut linked = ConfigFile::load_from(link.clone()).expect("read");
        linked.config.current = Some("a".into());
        linked.save().expect("written");
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(ConfigFile::load_from(real).expect("read").config, linked.config);
        let left = std::fs::read_dir(directory.path().join("real")).expect("there").count();
        assert_eq!(left, 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("c.yaml");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let file = ConfigFile { path: Some(socket.clone()), config: ClientConfig::default() };
        let error = file.save().expect_err("refused").summary();
        assert!(error.contains("is no regular file"), "{error}");
        assert!(!std::fs::metadata(&socket).expect("there").is_file());
    }

    #[test]
    fn a_fault_is_told_with_its_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("c.yaml");
        std::fs::write(&path, "contexts:\n  - nam: a\n").expect("written");
        let error = ConfigFile::load_from(path).expect_err("refused").text().expect("printed");
        assert!(
            error.contains("c.yaml:2:5: contexts[0].nam: unknown field; did you mean \"name\"?"),
            "{error}"
        );
    }
}
