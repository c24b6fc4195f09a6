//! Names of nodes from a token's template: `cam-{serial}`, `line-4-{n}`. What comes out is a DNS label, or a refusal that says why not.

use skerry_model::{Fault, NodeName};

use super::asked::{Machine, to_label};

/// Longest template.
const TEMPLATE_BYTES_MAX: usize = 128;

/// A template that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Serial,
    MachineId,
    Host,
    Number,
}

/// A text that is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidTemplate {
    #[error("a template has at most {TEMPLATE_BYTES_MAX} bytes")]
    TooLong,
    #[error("`{{` without `}}`: write {{serial}}, {{machine_id}}, {{host}} or {{n}}")]
    Open,
    #[error("{{{0}}} is not known: write {{serial}}, {{machine_id}}, {{host}} or {{n}}")]
    Unknown(String),
    #[error("`{0}` cannot stand in a node's name: use a-z, 0-9 and -")]
    Character(char),
    #[error(
        "it makes no name: a node's name has 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
    )]
    NoName,
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(InvalidTemplate::TooLong);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            push_text(&mut parts, before)?;
            let (name, after) = after.split_once('}').ok_or(InvalidTemplate::Open)?;
            parts.push(match name {
                "serial" => Part::Serial,
                "machine_id" => Part::MachineId,
                "host" => Part::Host,
                "n" => Part::Number,
                other => return Err(InvalidTemplate::Unknown(other.chars().take(40).collect())),
            });
            rest = after;
        }
        push_text(&mut parts, rest)?;
        let template = Self { parts };
        // With the shortest values it must make a name, else it never does.
        let shortest = Machine { id: "0".into(), serial: "0".into(), host_name: "0".into() };
        template.render(&shortest, 1).map_err(|_| InvalidTemplate::NoName)?;
        Ok(template)
    }

    /// Whether two machines may get different names.
    pub(super) fn varies(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Text(_)))
    }

    /// The name of the machine that uses the token for the `n`th time.
    pub(super) fn render(&self, machine: &Machine, n: u32) -> Result<NodeName, Fault> {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Serial => name.push_str(&value("machine.serial", "serial number", &machine.serial)?),
                Part::MachineId => name.push_str(&value("machine.machine_id", "id", &machine.id)?),
                Part::Host => {
                    let host = machine.host_name.split('.').next().unwrap_or_default();
                    name.push_str(&value("machine.host_name", "host name", host)?);
                }
                Part::Number => name.push_str(&n.to_string()),
            }
        }
        NodeName::parse(&name).map_err(|error| {
            Fault::invalid_field("node", format!("the token's template makes no node's name: {error}"))
        })
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) -> Result<(), InvalidTemplate> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(other) = text.chars().find(|c| !fine(*c)) {
        return Err(if other == '}' { InvalidTemplate::Open } else { InvalidTemplate::Character(other) });
    }
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
    Ok(())
}

/// A value that the machine told, made fit for a name.
fn value(field: &str, what: &str, told: &str) -> Result<String, Fault> {
    let label = to_label(told);
    if label.is_empty() {
        let why =
            format!("the token names nodes by their {what}, and this machine tells none that can be used");
        return Err(Fault::invalid_field(field, why));
    }
    Ok(label)
}
