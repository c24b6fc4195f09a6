//! `edit`: one resource in the editor of the person who asks. What is wrong with the text is shown above it, and the editor opened again.

use std::path::{Path, PathBuf};
use std::process::Command;

use skerry_manifest::{Manifest, Project, parse};

use super::apply::full_target;
use super::send::{OWNED, Sending, item_of, metadata_of, send};
use crate::args::EditArgs;
use crate::client::{CallError, Client};
use crate::error::CliError;
use crate::item::Item;
use crate::print::Printer;
use crate::render::diff::of_owner;
use crate::target::{Target, Type, parse_all};

/// How often the editor is opened for one command: an editor that is no person might never end.
const ROUNDS_MAX: u32 = 100;
const HEADER: &str = "\
# Lines above the first that does not begin with # are passed over. Saving nothing, or no change, ends
# this and changes nothing. What the server sets (status, uid, etag) is not shown.
";

pub(crate) async fn run(client: &Client, args: &EditArgs, printer: &mut Printer) -> Result<(), CliError> {
    let targets = parse_all(&args.target)?;
    let [target] = targets.as_slice() else {
        return Err(CliError::Usage("edit takes one resource at a time: TYPE/NAME".into()));
    };
    if !matches!(target.kind, Type::Node | Type::App | Type::Config) {
        return Err(CliError::Usage(format!("{} cannot be edited", target.kind.plural())));
    }
    let item = client.get(target).await?;
    let file = Draft::new(target)?;
    edit(client, target, item, file, printer).await
}

/// Opens the editor until what comes out of it is taken, or is given up.
async fn edit(
    client: &Client,
    target: &Target,
    mut item: Item,
    draft: Draft,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let original = of_owner(&item);
    let mut body = original.clone();
    let mut header = HEADER.to_owned();
    let mut wrong = None;
    for _ in 0..ROUNDS_MAX {
        let saved = draft.edit(&format!("{header}{body}"))?;
        let new = without_header(&saved);
        if new.trim().is_empty() || (new == body && wrong.is_none()) {
            return printer.line(&format!("{target} unchanged: the edit was given up"));
        }
        if let Some(error) = wrong.take().filter(|_| new == body) {
            return Err(draft.kept(&error));
        }
        new.clone_into(&mut body);
        let shown = draft.shown();
        let manifest = match read(&shown, &saved, target, client) {
            Ok(manifest) => manifest,
            Err(error) => {
                header = header_with(&body, |text| {
                    read(&shown, text, target, client)
                        .err()
                        .and_then(|error| error.text())
                        .unwrap_or_default()
                });
                wrong = Some(error);
                continue;
            }
        };
        let mut changed = item_of(&manifest.resource);
        let etag = metadata_of(&mut item).map(|metadata| metadata.etag.clone()).unwrap_or_default();
        metadata_of(&mut changed).expect("every manifest has metadata").etag = etag;
        match send(client, changed, &Sending::change(OWNED)).await {
            Ok(_) => return printer.line(&format!("{target} edited")),
            Err(error) if error.code() == Some(tonic::Code::Aborted) => {
                let now = client.get(target).await?;
                if of_owner(&now) != original {
                    return Err(draft.kept(&CliError::Failed(format!(
                        "somebody else changed {target} meanwhile, and nothing was written"
                    ))));
                }
                // Only the version is another one: the same text again, on that.
                item = now;
                header = format!(
                    "{HEADER}# It was written again meanwhile, with the same content: save a change to go on.\n"
                );
                wrong = Some(error.into());
            }
            Err(error @ CallError::Connect(_)) => return Err(draft.kept(&error.into())),
            Err(error) if error.is_unreachable() => return Err(draft.kept(&error.into())),
            Err(error) => {
                header = header_with(&body, |text| match (&error, read(&shown, text, target, client)) {
                    (CallError::Status(status, address), Ok(manifest)) => {
                        let told = CliError::of_manifest_status(status, address, &shown, &manifest.positions);
                        told.text().unwrap_or_default()
                    }
                    _ => String::new(),
                });
                wrong = Some(error.in_manifest(&shown, &manifest.positions));
            }
        }
    }
    Err(draft.kept(&CliError::Failed(format!("the editor was opened {ROUNDS_MAX} times"))))
}

/// The one manifest of the text, still of the same resource.
fn read(file: &str, text: &str, target: &Target, client: &Client) -> Result<Manifest, CliError> {
    let project = Project::Required(client.project().clone());
    let mut manifests =
        parse(file, text.as_bytes(), &project).map_err(|errors| CliError::Manifest(vec![errors]))?;
    let Some(manifest) = manifests.pop().filter(|_| manifests.is_empty()) else {
        return Err(CliError::Usage(format!("keep one document here, that of {target}")));
    };
    let found = full_target(&manifest.resource);
    let same =
        found.kind == target.kind && Ok(found.name) == target.full_name(client.project()).map_err(drop);
    if same {
        Ok(manifest)
    } else {
        Err(CliError::Usage(format!(
            "kind and name stay those of {target}: apply a manifest to make another"
        )))
    }
}

/// The text below the lines that begin with #.
fn without_header(text: &str) -> &str {
    let mut rest = text;
    while rest.starts_with('#') {
        rest = rest.split_once('\n').map_or("", |(_, below)| below);
    }
    rest
}

/// A header that tells what is wrong with the text below it. Places in it depend on how long it is itself: it is told twice.
fn header_with(body: &str, tell: impl Fn(&str) -> String) -> String {
    let lines = tell(&format!("{HEADER}{body}")).lines().count();
    let room = "#\n".repeat(lines);
    let told = tell(&format!("{HEADER}{room}{body}"));
    told.lines().fold(HEADER.to_owned(), |header, line| format!("{header}# {line}\n"))
}

/// The file that is edited. It goes away, unless somebody's work is in it.
struct Draft {
    file: tempfile::NamedTempFile,
}

impl Draft {
    fn new(target: &Target) -> Result<Self, CliError> {
        let prefix = format!("skerry-{}-{}-", target.kind.singular(), target.name.replace('/', "-"));
        let file = tempfile::Builder::new().prefix(&prefix).suffix(".yaml").tempfile();
        let file =
            file.map_err(|error| CliError::Failed(format!("cannot make a file for the editor: {error}")))?;
        Ok(Self { file })
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn shown(&self) -> String {
        self.path().display().to_string()
    }

    /// The text after the editor had it.
    fn edit(&self, text: &str) -> Result<String, CliError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            CliError::Failed(format!("cannot {what} {}: {error}", self.shown()))
        };
        std::fs::write(self.path(), text).map_err(|error| failed("write", &error))?;
        open_editor(&editor(|name| std::env::var(name).ok()), self.path())?;
        // Editors may put a new file in its place: it is found by its name.
        let bytes = std::fs::read(self.path()).map_err(|error| failed("read", &error))?;
        String::from_utf8(bytes).map_err(|_| failed("read", &"it is not UTF-8 text"))
    }

    /// Leaves the file where it is and says so.
    fn kept(self, error: &CliError) -> CliError {
        let path: PathBuf = match self.file.into_temp_path().keep() {
            Ok(path) => path,
            Err(kept) => {
                return CliError::Failed(format!("{}; the text cannot be kept: {kept}", error.summary()));
            }
        };
        let text = error.text().unwrap_or_default();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        let path = path.display();
        CliError::Failed(format!(
            "{text}\n  your text is kept in {path}: `skerry diff -f {path}` shows what it would change, `skerry apply -f {path}` does it"
        ))
    }
}

/// Which editor, as a command of the shell.
fn editor(variable: impl Fn(&str) -> Option<String>) -> String {
    let given = ["SKERRY_EDITOR", "VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| variable(name).filter(|value| !value.trim().is_empty()));
    given.unwrap_or_else(|| "vi".into())
}

/// Through the shell, as git does it: an editor may be named with arguments.
fn open_editor(editor: &str, path: &Path) -> Result<(), CliError> {
    let choose = "SKERRY_EDITOR names another";
    let status =
        Command::new("/bin/sh").arg("-c").arg(format!("{editor} \"$@\"")).arg(editor).arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if status.code() == Some(127) => {
            Err(CliError::Failed(format!("the editor {editor:?} was not found: {choose}")))
        }
        Ok(status) => {
            Err(CliError::Failed(format!("the editor {editor:?} failed ({status}); nothing was changed")))
        }
        Err(error) => Err(CliError::Failed(format!("cannot run the editor {editor:?}: {error}; {choose}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_editor_is_the_most_particular_that_is_named() {
        let of = |given: &[(&str, &str)]| {
            editor(|name| given.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(
            of(&[("EDITOR", "nano"), ("VISUAL", "code --wait"), ("SKERRY_EDITOR", " ")]),
            "code --wait"
        );
        assert_eq!(of(&[("EDITOR", "nano"), ("SKERRY_EDITOR", "ed")]), "ed");
        assert_eq!(of(&[]), "vi");
    }

    #[test]
    fn what_is_wrong_is_told_at_the_lines_that_the_person_sees() {
        let tell = |text: &str| {
            let line = text.lines().position(|line| line == "bad").expect("there") + 1;
            format!("f:{line}:1: no\nand more\n")
        };
        let header = header_with("good\nbad\n", tell);
        let whole = format!("{header}good\nbad\n");
        assert_eq!(whole.lines().nth(5), Some("bad"));
        assert!(header.ends_with("# f:6:1: no\n# and more\n"), "{header}");
        assert_eq!(without_header(&whole), "good\nbad\n");
        assert_eq!(without_header("# only"), "");
    }
}
