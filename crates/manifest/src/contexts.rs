//! The client's configuration: named sets of servers and a project, and which of them is current. The same reader as for manifests, so
//! that each fault has its line and column. Where the file lies, and what flags and the environment say, is the CLI's.

use crate::decode::Decoder;
use crate::error::{ErrorSink, ManifestErrors};
use crate::output::Value;
use crate::position::Position;
use crate::suggest::nearest;
use crate::tree::{Content, Node};
use crate::{check_text, yaml};

/// Most contexts of one file.
pub const CONTEXTS_MAX: usize = 256;
/// Longest name of a context, in characters.
const NAME_CHARS_MAX: usize = 128;

const TOP: [&str; 2] = ["currentContext", "contexts"];
const FIELDS: [&str; 10] =
    ["name", "server", "registry", "scheduler", "relay", "gpu", "project", "certificate", "key", "authority"];

/// What the configuration file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// The context that is used if nothing else is said. It need not exist (any more).
    pub current: Option<String>,
    /// All contexts; names are unique.
    pub contexts: Vec<Context>,
}

/// Where to work, under a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// Its name.
    pub name: String,
    /// Where Skerry answers.
    pub server: Option<String>,
    /// Where the registry answers, if not there.
    pub registry: Option<String>,
    /// Where the scheduler answers, if not there.
    pub scheduler: Option<String>,
    /// Where a relay answers, if not there.
    pub relay: Option<String>,
    /// Where the gpu service answers, if not there.
    pub gpu: Option<String>,
    /// Project to work in.
    pub project: Option<String>,
    /// The file of the certificate that proves who calls.
    pub certificate: Option<String>,
    /// The file of its key.
    pub key: Option<String>,
    /// The file of the authorities that servers are held against.
    pub authority: Option<String>,
}

impl Context {
    /// Checks a name: 1 to 128 visible characters without white space.
    ///
    /// # Errors
    /// What is wrong, as a sentence for people.
    pub fn check_name(name: &str) -> Result<(), String> {
        let visible = |c: char| !c.is_whitespace() && !c.is_control();
        if !name.is_empty() && name.chars().count() <= NAME_CHARS_MAX && name.chars().all(visible) {
            return Ok(());
        }
        Err(format!(
            "{:?} is no name of a context: use 1 to {NAME_CHARS_MAX} characters without spaces",
            crate::error::shorten(name, 40)
        ))
    }
}

impl ClientConfig {
    /// Reads the file's text. `file` is how errors name it. An empty file has no contexts.
    ///
    /// # Errors
    /// All faults of the file, in the order of the text.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self, ManifestErrors> {
        let mut errors = ErrorSink::new(file);
        let mut config = Self::default();
        if let Some(text) = check_text(bytes, 0, &mut errors) {
            let documents = yaml::read(text, 1, &mut errors);
            if let Some(node) = documents.first().filter(|node| !node.is_null()) {
                config = read_top(&mut Decoder::new(&mut errors, node.at), node);
            }
        }
        errors.finish(config)
    }

    /// The context `name`.
    pub fn get(&self, name: &str) -> Option<&Context> {
        self.contexts.iter().find(|context| context.name == name)
    }

    /// As a tree that [`Self::read`] reads back.
    pub fn to_value(&self) -> Value {
        let text = |text: &str| Value::String(text.to_owned());
        let contexts = self.contexts.iter().map(|context| {
            let fields = [
                ("name", Some(&context.name)),
                ("server", context.server.as_ref()),
                ("registry", context.registry.as_ref()),
                ("scheduler", context.scheduler.as_ref()),
                ("relay", context.relay.as_ref()),
                ("gpu", context.gpu.as_ref()),
                ("project", context.project.as_ref()),
                ("certificate", context.certificate.as_ref()),
                ("key", context.key.as_ref()),
                ("authority", context.authority.as_ref()),
            ];
            let given = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), text(value?))));
            Value::Map(given.collect())
        });
        let current = self.current.iter().map(|name| ("currentContext".to_owned(), text(name)));
        Value::Map(current.chain([("contexts".to_owned(), Value::List(contexts.collect()))]).collect())
    }
}

fn read_top(decoder: &mut Decoder<'_>, node: &Node) -> ClientConfig {
    let mut config = ClientConfig::default();
    for entry in decoder.entries(node).unwrap_or_default() {
        decoder.within(&entry.key, &entry.key, entry.at, |decoder| match &*entry.key {
            "currentContext" => config.current = decoder.text(&entry.value),
            "contexts" => config.contexts = read_contexts(decoder, &entry.value),
            key => unknown(decoder, key, entry.at, &TOP),
        });
    }
    config
}

fn read_contexts(decoder: &mut Decoder<'_>, node: &Node) -> Vec<Context> {
    let items = match &node.content {
        Content::List(items) => items.as_slice(),
        _ if node.is_null() => &[],
        _ => {
            decoder.error(node.at, format!("expected a list, found {}", node.describe()));
            &[]
        }
    };
    if items.len() > CONTEXTS_MAX {
        decoder.error(node.at, format!("{} contexts are too many: at most {CONTEXTS_MAX}", items.len()));
        return Vec::new();
    }
    let mut contexts: Vec<Context> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let step = format!("[{index}]");
        let Some(context) = decoder.within(&step, &step, item.at, |decoder| read_context(decoder, item))
        else {
            continue;
        };
        if contexts.iter().any(|other| other.name == context.name) {
            decoder.error(item.at, format!("context {:?} is given twice", context.name));
        }
        contexts.push(context);
    }
    contexts
}

fn read_context(decoder: &mut Decoder<'_>, node: &Node) -> Option<Context> {
    let mut context = Context::default();
    let entries = decoder.entries(node)?;
    for entry in entries {
        decoder.within(&entry.key, &entry.key, entry.at, |decoder| {
            let field = match &*entry.key {
                "name" => {
                    if let Some(name) = decoder.text(&entry.value) {
                        if let Err(message) = Context::check_name(&name) {
                            decoder.error(entry.value.at, message);
                        }
                        context.name = name;
                    }
                    return;
                }
                "server" => &mut context.server,
                "registry" => &mut context.registry,
                "scheduler" => &mut context.scheduler,
                "relay" => &mut context.relay,
                "gpu" => &mut context.gpu,
                "project" => &mut context.project,
                "certificate" => &mut context.certificate,
                "key" => &mut context.key,
                "authority" => &mut context.authority,
                key => return unknown(decoder, key, entry.at, &FIELDS),
            };
            *field = decoder.text(&entry.value);
        });
    }
    if !entries.iter().any(|entry| &*entry.key == "name") {
        decoder.error(node.at, "name: missing; name the context");
        return None;
    }
    Some(context)
}

fn unknown(decoder: &mut Decoder<'_>, key: &str, at: Position, known: &[&str]) {
    let hint = match nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown field; did you mean {near:?}?"),
        None => format!("unknown field; known here: {}", known.join(", ")),
    };
    decoder.error(at, hint);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let context = Context {
            name: "prod".into(),
            server: Some("http://10.0.0.1:7770".into()),
            project: Some("shop".into()),
            certificate: Some("/me.crt".into()),
            key: Some("/me.key".into()),
            authority: Some("/ca.crt".into()),
            ..Default::default()
        };
        let config = ClientConfig { current: Some("prod".into()), contexts: vec![context] };
        let text = config.to_value().to_yaml();
        assert_eq!(ClientConfig::read("c", text.as_bytes()), Ok(config), "{text}");
        assert_eq!(ClientConfig::read("c", b""), Ok(ClientConfig::default()));
        let empty = ClientConfig::default().to_value().to_yaml();
        assert_eq!(ClientConfig::read("c", empty.as_bytes()), Ok(ClientConfig::default()));
    }

    #[test]
    fn faults_have_their_line_and_say_how_to_mend_them() {
        let faults = |text: &str| match ClientConfig::read("c.yaml", text.as_bytes()) {
            Ok(config) => panic!("{config:?}"),
            Err(errors) => errors.to_string(),
        };
        assert_eq!(
            faults("currentContex: a\n"),
            "c.yaml:1:1: currentContex: unknown field; did you mean \"currentContext\"?"
        );
        assert_eq!(
            faults("contexts:\n  - name: a\n    sever: http://x\n"),
            "c.yaml:3:5: contexts[0].sever: unknown field; did you mean \"server\"?"
        );
        assert_eq!(
            faults("contexts:\n  - server: http://x\n"),
            "c.yaml:2:5: contexts[0]: name: missing; name the context"
        );
        assert_eq!(
            faults("contexts:\n  - name: a\n  - name: a\n"),
            "c.yaml:3:5: contexts: context \"a\" is given twice"
        );
        assert!(faults("contexts:\n  - name: 'a b'\n").contains("c.yaml:2:11: contexts[0].name"));
        assert!(faults("contexts: [\n").starts_with("c.yaml:2:1: not valid YAML"));
    }
}
