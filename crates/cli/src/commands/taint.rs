//! `taint`: what keeps services off nodes.

use skerry_model::meta::{is_label_key, is_label_value};
use skerry_proto::registry::v1::{Node, NodeSpec};
use skerry_proto::types::v1::taint::Effect;
use skerry_proto::types::v1::{Metadata, Taint};

use super::Several;
use super::send::{Sending, send};
use crate::args::TaintArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::Item;
use crate::print::Printer;
use crate::target::{Target, Type, parse_all};

/// How often a change is made again on a node that somebody else changed meanwhile.
const TRIES_MAX: u32 = 4;

/// One word behind the nodes.
#[derive(Debug, Clone, PartialEq)]
enum Edit {
    Add(Taint),
    /// Of this effect, or of any.
    Remove(String, Option<Effect>),
}

pub(crate) async fn run(client: &Client, args: &TaintArgs, printer: &mut Printer) -> Result<(), CliError> {
    let (targets, edits) = parse(&args.words)?;
    let removes = edits.iter().all(|edit| matches!(edit, Edit::Remove(..)));
    let done = if removes { "untainted" } else { "tainted" };
    let mut several = Several::default();
    for target in &targets {
        let outcome = match change(client, target, &edits, args.overwrite).await {
            Ok(true) => printer.line(&format!("{target} {done}")),
            Ok(false) => printer.line(&format!("{target} unchanged")),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

fn parse(words: &[String]) -> Result<(Vec<Target>, Vec<Edit>), CliError> {
    let is_edit = |word: &String| word.contains(':') || word.contains('=') || word.ends_with('-');
    let first = words.iter().position(is_edit).unwrap_or(words.len());
    let (targets, written) = words.split_at(first);
    let targets = parse_all(targets)?;
    if let Some(other) = targets.iter().find(|target| target.kind != Type::Node) {
        return Err(CliError::Usage(format!("{other} has no taints: name nodes, as node/NAME")));
    }
    if written.is_empty() {
        return Err(CliError::Usage("write KEY=VALUE:EFFECT to add a taint, or KEY- to remove it".into()));
    }
    let edits = written.iter().map(|word| edit(word)).collect::<Result<_, _>>()?;
    Ok((targets, edits))
}

fn edit(word: &str) -> Result<Edit, CliError> {
    let wrong = |why: &str| CliError::Usage(format!("{word:?}: {why}"));
    let (text, removes) = word.strip_suffix('-').map_or((word, false), |text| (text, true));
    let (pair, written) = text.split_once(':').map_or((text, None), |(pair, effect)| (pair, Some(effect)));
    let effect = match written {
        None => None,
        Some("NoSchedule") => Some(Effect::NoSchedule),
        Some("NoExecute") => Some(Effect::NoExecute),
        Some("PreferNoSchedule") => {
            return Err(wrong("there is no PreferNoSchedule: use NoSchedule or NoExecute"));
        }
        Some(_) => return Err(wrong("the effect is NoSchedule or NoExecute")),
    };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if !is_label_key(key) || !is_label_value(value) {
        return Err(wrong("key and value are as those of labels"));
    }
    if removes {
        return Ok(Edit::Remove(key.to_owned(), effect));
    }
    let effect =
        effect.ok_or_else(|| wrong("say what it does: KEY=VALUE:NoSchedule or KEY=VALUE:NoExecute"))?;
    Ok(Edit::Add(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.into() }))
}

/// Makes the edits on what is there; whether anything changed.
fn apply(taints: &mut Vec<Taint>, edits: &[Edit], overwrite: bool) -> Result<bool, CliError> {
    let before = taints.clone();
    for edit in edits {
        match edit {
            Edit::Remove(key, effect) => {
                taints.retain(|taint| {
                    taint.key != *key || effect.is_some_and(|effect| taint.effect() != effect)
                });
            }
            Edit::Add(new) => {
                match taints.iter_mut().find(|taint| taint.key == new.key && taint.effect == new.effect) {
                    Some(old) if old.value == new.value => {}
                    Some(old) if !overwrite => {
                        let (key, value) = (&old.key, &old.value);
                        return Err(CliError::Failed(format!(
                            "taint {key} is {value:?} already: --overwrite changes it"
                        )));
                    }
                    Some(old) => old.clone_from(new),
                    None => taints.push(new.clone()),
                }
            }
        }
    }
    Ok(*taints != before)
}

async fn change(client: &Client, target: &Target, edits: &[Edit], overwrite: bool) -> Result<bool, CliError> {
    let mut tries = 0;
    loop {
        let Item::Node(present) = client.get(target).await? else { unreachable!("asked for a node") };
        let mut spec = present.spec.unwrap_or_default();
        if !apply(&mut spec.taints, edits, overwrite)? {
            return Ok(false);
        }
        let (name, etag) =
            (target.full_name(client.project())?, present.metadata.map(|metadata| metadata.etag));
        let metadata = Some(Metadata { name, etag: etag.unwrap_or_default(), ..Metadata::default() });
        let spec = Some(NodeSpec { taints: spec.taints, ..NodeSpec::default() });
        let node = Item::Node(Box::new(Node { metadata, spec, status: None }));
        tries += 1;
        match send(client, node, &Sending::change(["spec.taints"])).await {
            Ok(_) => return Ok(true),
            Err(error) if error.code() == Some(tonic::Code::Aborted) && tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(text: &str) -> Result<Vec<Edit>, CliError> {
        let words: Vec<String> = ["node/n1"].into_iter().chain(text.split(' ')).map(str::to_owned).collect();
        parse(&words).map(|(_, edits)| edits)
    }

    #[test]
    fn taints_are_written_as_for_kubectl() {
        let mut taints = Vec::new();
        let mut done = |text: &str, overwrite| {
            apply(&mut taints, &edits(text).expect("read"), overwrite)
                .map(|changed| (changed, taints.clone()))
        };
        let shown = |taints: &[Taint]| {
            let one = |taint: &Taint| format!("{}={}:{:?}", taint.key, taint.value, taint.effect());
            taints.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        let (changed, after) = done("gpu=yes:NoSchedule down:NoExecute", false).expect("added");
        assert!(changed);
        assert_eq!(shown(&after), "gpu=yes:NoSchedule down=:NoExecute");
        assert!(!done("gpu=yes:NoSchedule", false).expect("the same").0);
        assert!(done("gpu=no:NoSchedule", false).is_err());
        assert_eq!(
            shown(&done("gpu=no:NoSchedule", true).expect("changed").1),
            "gpu=no:NoSchedule down=:NoExecute"
        );
        assert!(!done("gpu:NoExecute-", false).expect("of another effect").0);
        assert_eq!(shown(&done("gpu- down:NoExecute-", false).expect("removed").1), "");
        for wrong in ["gpu=yes", "gpu=yes:Never", "gpu:PreferNoSchedule", "=x:NoSchedule", "a b:NoSchedule"] {
            assert!(edits(wrong).is_err(), "{wrong}");
        }
    }
}
