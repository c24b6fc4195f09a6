//! `label` and `annotate`: set and remove labels and annotations of nodes, apps and configs, one key at a time.

use std::collections::BTreeMap;

use skerry_proto::types::v1::Metadata;

use super::Several;
use super::send::{Sending, metadata_of, send};
use crate::client::Client;
use crate::error::CliError;
use crate::print::Printer;
use crate::target::{Target, parse_all};

/// How often a change is made again on a resource that somebody else changed meanwhile.
const TRIES_MAX: u32 = 4;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Labels,
    Annotations,
}

impl Field {
    fn noun(self) -> &'static str {
        match self {
            Self::Labels => "label",
            Self::Annotations => "annotation",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Labels => "labeled",
            Self::Annotations => "annotated",
        }
    }

    fn of(self, metadata: &mut Metadata) -> &mut BTreeMap<String, String> {
        match self {
            Self::Labels => &mut metadata.labels,
            Self::Annotations => &mut metadata.annotations,
        }
    }

    fn path(self, key: &str) -> String {
        match self {
            Self::Labels => format!("metadata.labels.{key}"),
            Self::Annotations => format!("metadata.annotations.{key}"),
        }
    }

    /// Annotations hold any text; what is too long the server says.
    fn takes(self, key: &str, value: Option<&str>) -> bool {
        let value_good = self == Self::Annotations || value.is_none_or(skerry_model::meta::is_label_value);
        skerry_model::meta::is_label_key(key) && value_good
    }
}

pub(crate) async fn run(
    client: &Client,
    field: Field,
    words: &[String],
    overwrite: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let (targets, edits) = parse(field, words)?;
    let mut several = Several::default();
    for target in &targets {
        let outcome = match change(client, field, target, &edits, overwrite).await {
            Ok(true) => printer.line(&format!("{target} {}", field.done())),
            Ok(false) => printer.line(&format!("{target} unchanged")),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// From key to its new value, or `None` to remove it.
pub(super) type Edits = BTreeMap<String, Option<String>>;

fn parse(field: Field, words: &[String]) -> Result<(Vec<Target>, Edits), CliError> {
    let is_edit = |word: &String| word.contains('=') || word.ends_with('-');
    let first = words.iter().position(is_edit).unwrap_or(words.len());
    let (targets, written) = words.split_at(first);
    let targets = parse_all(targets)?;
    Ok((targets, edits_of(field, written)?))
}

/// The edits of labels, and the words before them.
pub(super) fn labels_of(words: &[String]) -> Result<(&[String], Edits), CliError> {
    let is_edit = |word: &String| word.contains('=') || word.ends_with('-');
    let first = words.iter().position(is_edit).unwrap_or(words.len());
    let (named, written) = words.split_at(first);
    Ok((named, edits_of(Field::Labels, written)?))
}

fn edits_of(field: Field, written: &[String]) -> Result<Edits, CliError> {
    let mut edits = Edits::new();
    for word in written {
        let (key, value) = match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) => (key, Some(value.to_owned())),
            (None, Some(key)) => (key, None),
            (None, None) => return Err(CliError::Usage(format!("write KEY=VALUE or KEY-, not {word:?}"))),
        };
        if !field.takes(key, value.as_deref()) {
            let rule = match field {
                Field::Labels => "keys and values are as in Kubernetes",
                Field::Annotations => "keys are as in Kubernetes",
            };
            return Err(CliError::Usage(format!("{word:?} is no {}: {rule}", field.noun())));
        }
        if edits.insert(key.to_owned(), value).is_some() {
            return Err(CliError::Usage(format!("{key:?} is given twice")));
        }
    }
    if edits.is_empty() {
        let noun = field.noun();
        return Err(CliError::Usage(format!("write KEY=VALUE to set a {noun}, or KEY- to remove it")));
    }
    Ok(edits)
}

/// Makes the edits on what is there; answers the mask paths that changed.
fn edit(
    field: Field,
    present: &mut BTreeMap<String, String>,
    edits: &Edits,
    overwrite: bool,
) -> Result<Vec<String>, CliError> {
    let mut paths = Vec::new();
    for (key, value) in edits {
        let changed = match value {
            None => present.remove(key).is_some(),
            Some(value) => match present.insert(key.clone(), value.clone()) {
                Some(old) if old == *value => false,
                Some(old) if !overwrite => {
                    return Err(CliError::Failed(format!(
                        "{} {key} is {old:?} already: --overwrite changes it",
                        field.noun()
                    )));
                }
                _ => true,
            },
        };
        if changed {
            paths.push(field.path(key));
        }
    }
    Ok(paths)
}

/// Whether anything changed.
async fn change(
    client: &Client,
    field: Field,
    target: &Target,
    edits: &Edits,
    overwrite: bool,
) -> Result<bool, CliError> {
    let mut tries = 0;
    loop {
        let mut item = client.get(target).await?;
        let Some(metadata) = metadata_of(&mut item) else {
            return Err(CliError::Usage(format!("{} have no {}s", target.kind.plural(), field.noun())));
        };
        let paths = edit(field, field.of(metadata), edits, overwrite)?;
        if paths.is_empty() {
            return Ok(false);
        }
        tries += 1;
        match send(client, item, &Sending::change(paths)).await {
            Ok(_) => return Ok(true),
            Err(error) if error.code() == Some(tonic::Code::Aborted) && tries < TRIES_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<String>, Edits), String> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let (targets, edits) =
            parse(Field::Labels, &words).map_err(|error| error.text().expect("printed"))?;
        Ok((targets.iter().map(ToString::to_string).collect(), edits))
    }

    #[test]
    fn targets_come_first_then_edits() {
        let (targets, edits) = read("node n1 n2 site=oslo old- a.b/c=").expect("valid");
        assert_eq!(targets, ["node/n1", "node/n2"]);
        let expected = [("a.b/c", Some("")), ("old", None), ("site", Some("oslo"))];
        assert_eq!(edits.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect::<Vec<_>>(), expected);
        for bad in ["node/n1", "node/n1 a", "node/n1 =x", "node/n1 a=b a-", "node/n1 a=b/c"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_value_needs_overwrite() {
        let labels = || BTreeMap::from([("site".to_owned(), "oslo".to_owned())]);
        let edits = |value: Option<&str>| Edits::from([("site".to_owned(), value.map(str::to_owned))]);
        assert!(edit(Field::Labels, &mut labels(), &edits(Some("bergen")), false).is_err());
        assert_eq!(
            edit(Field::Labels, &mut labels(), &edits(Some("bergen")), true).expect("allowed"),
            ["metadata.labels.site"]
        );
        assert_eq!(
            edit(Field::Labels, &mut labels(), &edits(Some("oslo")), false).expect("the same"),
            [""; 0]
        );
        assert_eq!(
            edit(Field::Labels, &mut labels(), &edits(None), false).expect("removed"),
            ["metadata.labels.site"]
        );
        assert_eq!(
            edit(Field::Labels, &mut BTreeMap::new(), &edits(None), false).expect("not there"),
            [""; 0]
        );
    }

    #[test]
    fn an_annotation_is_any_text() {
        let words = ["app/a", "owner=team shop, 3rd floor"].map(str::to_owned);
        assert!(parse(Field::Labels, &words).is_err());
        let (_, edits) = parse(Field::Annotations, &words).expect("valid");
        let paths = edit(Field::Annotations, &mut BTreeMap::new(), &edits, false).expect("new");
        assert_eq!(paths, ["metadata.annotations.owner"]);
        assert!(parse(Field::Annotations, &["app/a".to_owned(), "a b=c".to_owned()]).is_err());
    }
}
