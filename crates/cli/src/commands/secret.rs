//! `secret`: entries from files and standard input, and sealing anew. Values are read here and never printed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use skerry_identity::key_ring::KeyRing;
use skerry_identity::seal::KeyEncryption as _;
use skerry_model::config::is_config_key;
use skerry_model::secret::SECRET_BYTES_MAX;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{ResealSecretsRequest, ResealSecretsResponse, Secret, SecretSpec};
use skerry_proto::types::v1::Metadata;

use super::send::{Sending, send};
use crate::args::{RotateKeyArgs, SecretCommand, SecretSetArgs};
use crate::client::{Client, Service, request, secrets};
use crate::error::CliError;
use crate::interrupt::while_reading;
use crate::item::Item;
use crate::print::Printer;
use crate::target::{Target, Type};

pub(crate) async fn run(
    client: &Client,
    command: &SecretCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        SecretCommand::Set(args) => set(client, args, printer).await,
        SecretCommand::RotateKey(args) => rotate_key(args, printer),
        SecretCommand::Reseal(_) => reseal(client, printer).await,
    }
}

async fn set(client: &Client, args: &SecretSetArgs, printer: &mut Printer) -> Result<(), CliError> {
    let target = Target { kind: Type::Secret, name: args.name.clone() };
    let name = target.full_name(client.project())?;
    let entries = parse(&args.entries)?;
    let mut data = BTreeMap::new();
    let mut paths = Vec::with_capacity(entries.len());
    for (key, source) in entries {
        paths.push(format!("spec.data.{key}"));
        if let Some(value) = read(&key, source)? {
            data.insert(key, value.into());
        }
    }
    let metadata = Some(Metadata { name, ..Metadata::default() });
    let spec = Some(SecretSpec { data, ..SecretSpec::default() });
    let secret = Item::Secret(Box::new(Secret { metadata, spec, status: None }));
    let how = Sending { create: true, ..Sending::change(paths) };
    let (_, outcome) = send(client, secret, &how).await?;
    let word = match outcome {
        Outcome::Created => "created",
        Outcome::Unchanged => "unchanged",
        Outcome::Updated | Outcome::Unspecified => "configured",
    };
    printer.line(&format!("{target} {word}"))
}

/// Where the value of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source<'a> {
    File(&'a str),
    Input,
    /// The entry goes.
    Removed,
}

fn parse(words: &[String]) -> Result<BTreeMap<String, Source<'_>>, CliError> {
    let mut entries = BTreeMap::new();
    let mut inputs = 0;
    for word in words {
        let (key, source) = match word.split_once('=') {
            Some((key, "-")) => (key, Source::Input),
            Some((key, value)) => match value.strip_prefix('@') {
                Some(file) => (key, Source::File(file)),
                // The word is not quoted: a value may stand in it.
                None => {
                    return Err(CliError::Usage(format!(
                        "a value on the command line is seen by everybody here: write {key}=@FILE, or {key}=- to read it from standard input"
                    )));
                }
            },
            None => match word.strip_suffix('-') {
                Some(key) => (key, Source::Removed),
                None => return Err(CliError::Usage("write KEY=@FILE, KEY=- or KEY-".into())),
            },
        };
        if !is_config_key(key) {
            let message = format!("{key:?} is no key: use 1 to 253 of letters, digits, -, _ and .");
            return Err(CliError::Usage(message));
        }
        inputs += usize::from(source == Source::Input);
        if entries.insert(key.to_owned(), source).is_some() {
            return Err(CliError::Usage(format!("{key:?} is given twice")));
        }
    }
    if inputs > 1 {
        return Err(CliError::Usage("standard input is the value of one entry at most".into()));
    }
    Ok(entries)
}

fn read(key: &str, source: Source<'_>) -> Result<Option<Vec<u8>>, CliError> {
    let most = SECRET_BYTES_MAX as u64 + 1;
    let mut value = Vec::new();
    let read = match source {
        Source::Removed => return Ok(None),
        Source::Input => while_reading(|| std::io::stdin().take(most).read_to_end(&mut value)),
        Source::File(path) => {
            std::fs::File::open(Path::new(path)).and_then(|file| file.take(most).read_to_end(&mut value))
        }
    };
    read.map_err(|error| {
        let from = match source {
            Source::File(path) => path,
            Source::Input | Source::Removed => "standard input",
        };
        CliError::Failed(format!("reading {key:?} from {from}: {error}"))
    })?;
    if value.len() > SECRET_BYTES_MAX {
        let message = format!("{key:?} has more than the {SECRET_BYTES_MAX} bytes that a secret may have");
        return Err(CliError::Usage(message));
    }
    Ok(Some(value))
}

/// Adds a key to a key file. Asks no server.
pub(crate) fn rotate_key(args: &RotateKeyArgs, printer: &mut Printer) -> Result<(), CliError> {
    let ring = KeyRing::rotate(&args.file).map_err(|error| CliError::Failed(error.to_string()))?;
    let newest = ring.newest();
    printer.line(&format!(
        "{newest} seals from now on; the keys before it stay needed until `skerry authority init` (or `skerry up`, started anew) and `skerry secret reseal` are done"
    ))
}

/// Whose the key file of an installation is.
const SYSTEM: &str = "projects/system";

async fn reseal(client: &Client, printer: &mut Printer) -> Result<(), CliError> {
    let mut sealed = 0;
    loop {
        let answer = client.call(Service::Scheduler, |channel, left| async move {
            secrets(channel)
                .reseal_secrets(request(ResealSecretsRequest { parent: SYSTEM.to_owned() }, left))
                .await
        });
        let ResealSecretsResponse { resealed, remaining, unreadable } = answer.await?;
        sealed += resealed;
        // What is left and readable goes with another call, unless this one did nothing.
        if remaining <= unreadable || resealed == 0 {
            printer.line(&format!("{sealed} sealed anew"))?;
            if remaining > 0 {
                return Err(CliError::Failed(format!(
                    "{remaining} are not sealed under the newest key, of which {unreadable} cannot be opened with the keys of this scheduler"
                )));
            }
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Vec<(String, String)>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let entries = parse(&words).map_err(|error| error.text().unwrap_or_default())?;
        Ok(entries.into_iter().map(|(key, source)| (key, format!("{source:?}"))).collect())
    }

    #[test]
    fn values_come_from_files_and_standard_input() {
        let entries = parsed(&["a=@f", "b=-", "c-"]).unwrap();
        let shown: Vec<_> = entries.iter().map(|(key, source)| (key.as_str(), source.as_str())).collect();
        assert_eq!(shown, [("a", "File(\"f\")"), ("b", "Input"), ("c", "Removed")]);
    }

    #[test]
    fn a_value_on_the_command_line_is_refused_and_not_repeated() {
        let why = parsed(&["a=hunter2"]).unwrap_err();
        assert!(why.contains("a=@FILE") && !why.contains("hunter2"), "{why}");
        for wrong in [&["a=-", "b=-"][..], &["a=@f", "a-"], &["word"], &["a/b=-"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
