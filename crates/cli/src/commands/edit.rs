//! `edit`: one resource in the editor of the person who asks. What is wrong with the text is shown above it, and the editor opened again.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use skerry_manifest::{Manifest, Project, parse};
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use tempfile::TempPath;

use super::apply::full_target;
use super::send::{OWNED, Sending, item_of, metadata_of, send};
use crate::args::EditArgs;
use crate::client::{CallError, Client};
use crate::error::CliError;
use crate::interrupt::lend_terminal;
use crate::item::Item;
use crate::print::{Printer, note};
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
    if matches!(target.kind, Type::Instance | Type::Revision | Type::Event | Type::Gpu | Type::Allocation) {
        return Err(CliError::Usage(format!("{} cannot be edited", target.kind.plural())));
    }
    let item = client.get(target).await?;
    let mut draft = Draft::new(target)?;
    let editor = editor(|name| std::env::var(name).ok());
    match edit(client, target, item, &mut draft, &editor).await {
        Ok(told) => {
            draft.done();
            printer.line(&told)
        }
        Err(error) => Err(draft.kept(error)),
    }
}

/// Opens the editor until what comes out of it is taken, or is given up. Answers which.
async fn edit(
    client: &Client,
    target: &Target,
    mut item: Item,
    draft: &mut Draft,
    editor: &str,
) -> Result<String, CliError> {
    let original = of_owner(&item);
    let mut body = original.clone();
    let mut header = HEADER.to_owned();
    let mut wrong = None;
    for _ in 0..ROUNDS_MAX {
        let saved = draft.edit(&format!("{header}{body}"), editor)?;
        let new = without_header(&saved);
        if new.trim().is_empty() || (new == body && wrong.is_none()) {
            return Ok(format!("{target} unchanged: the edit was given up"));
        }
        if let Some(error) = wrong.take().filter(|_| new == body) {
            return Err(error);
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
            Ok((_, Outcome::Unchanged)) => return Ok(format!("{target} unchanged")),
            Ok((_, Outcome::Updated | Outcome::Created | Outcome::Unspecified)) => {
                return Ok(format!("{target} edited"));
            }
            Err(error) if error.code() == Some(tonic::Code::Aborted) => {
                let now = client.get(target).await?;
                if of_owner(&now) != original {
                    return Err(CliError::Failed(format!(
                        "somebody else changed {target} meanwhile, and nothing was written"
                    )));
                }
                // Only the version is another one: the same text again, on that.
                item = now;
                header = format!(
                    "{HEADER}# It was written again meanwhile, with the same content: save a change to go on.\n"
                );
                wrong = Some(error.into());
            }
            Err(error @ CallError::Connect(_)) => return Err(error.into()),
            Err(error) if error.is_unreachable() => return Err(error.into()),
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
    Err(CliError::Failed(format!("the editor was opened {ROUNDS_MAX} times")))
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

/// The file that is edited. It goes away, unless somebody's work is in it: then only what became of the work takes it away.
struct Draft {
    path: TempPath,
    /// Something was saved in it that is neither taken nor given up.
    has_work: bool,
}

impl Draft {
    fn new(target: &Target) -> Result<Self, CliError> {
        let prefix = format!("skerry-{}-{}-", target.kind.singular(), target.name.replace('/', "-"));
        let file = tempfile::Builder::new().prefix(&prefix).suffix(".yaml").tempfile();
        let file =
            file.map_err(|error| CliError::Failed(format!("cannot make a file for the editor: {error}")))?;
        Ok(Self { path: file.into_temp_path(), has_work: false })
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// The text after the editor had it.
    fn edit(&mut self, text: &str, editor: &str) -> Result<String, CliError> {
        let shown = self.shown();
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            CliError::Failed(format!("cannot {what} {shown}: {error}"))
        };
        self.write(text).map_err(|error| failed("write", &error))?;
        let edited = open_editor(editor, &self.path);
        // Editors may put a new file in its place: it is found by its name.
        let bytes = std::fs::read(&self.path);
        // However the editor ended: what it saved is somebody's.
        match &bytes {
            Ok(bytes) => self.set_has_work(self.has_work || bytes != text.as_bytes()),
            Err(_) => self.set_has_work(false),
        }
        edited?;
        let bytes = bytes.map_err(|error| failed("read", &error))?;
        String::from_utf8(bytes).map_err(|_| failed("read", &"it is not UTF-8 text"))
    }

    /// In place of what is there, all or nothing: a disk may be full.
    fn write(&self, text: &str) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.path.parent().unwrap_or(Path::new("/")))?;
        file.write_all(text.as_bytes())?;
        file.persist(&self.path)?;
        Ok(())
    }

    fn set_has_work(&mut self, has_work: bool) {
        self.has_work = has_work;
        self.path.disable_cleanup(has_work);
    }

    /// The work was taken or given up.
    fn done(mut self) {
        self.set_has_work(false);
    }

    /// Leaves the file where it is, if somebody's work is in it, and says so.
    fn kept(mut self, error: CliError) -> CliError {
        // Said here.
        if !std::mem::take(&mut self.has_work) {
            return error;
        }
        let text = error.text().unwrap_or_default();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        CliError::Failed(format!("{text}\n  {}", self.whereabouts()))
    }

    fn whereabouts(&self) -> String {
        let path = self.path.display();
        format!(
            "your text is kept in {path}: `skerry diff -f {path}` shows what it would change, `skerry apply -f {path}` does it"
        )
    }
}

impl Drop for Draft {
    /// Ctrl-C while the text was on its way to the server.
    fn drop(&mut self) {
        if self.has_work {
            note(&self.whereabouts());
        }
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
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{editor} \"$@\"")).arg(editor).arg(path);
    match lend_terminal(|| command.status()).flatten() {
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
    fn what_an_editor_saved_is_kept_however_it_ended() {
        let target = Target::of_full_name(Type::App, "projects/p/apps/web");
        let failed = || CliError::Failed("it failed".into());
        for (editor, kept) in [
            ("true", false),
            ("false", false),
            ("rm", false),
            ("f() { echo more >>\"$1\"; }; f", true),
            ("f() { echo more >>\"$1\"; exit 1; }; f", true),
            ("f() { printf '\\377' >>\"$1\"; }; f", true),
            ("f() { echo more >\"$1.new\" && mv \"$1.new\" \"$1\"; }; f", true),
        ] {
            let mut draft = Draft::new(&target).expect("a file");
            let path = draft.path.to_path_buf();
            let _ = draft.edit("text\n", editor);
            let told = draft.kept(failed()).text().expect("printed");
            assert_eq!((path.exists(), told.contains(&path.display().to_string())), (kept, kept), "{editor}");
            let _ = std::fs::remove_file(path);
        }
        // What is saved first is not lost to what goes wrong later; what was taken goes.
        let mut draft = Draft::new(&target).expect("a file");
        let path = draft.path.to_path_buf();
        let saved = draft.edit("text\n", "f() { echo more >>\"$1\"; }; f").expect("edited");
        draft.edit(&saved, "false").expect_err("the editor failed");
        drop(draft);
        assert_eq!(std::fs::read_to_string(&path).expect("kept"), "text\nmore\n");
        std::fs::remove_file(&path).expect("there");
        let mut draft = Draft::new(&target).expect("a file");
        draft.edit("text\n", "f() { echo more >>\"$1\"; }; f").expect("edited");
        let path = draft.path.to_path_buf();
        draft.done();
        assert!(!path.exists());
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
