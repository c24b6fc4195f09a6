//! What a shell may complete: names that the servers, the configuration and the protocol know.
//!
//! Called while a command line is being typed, so: quick, and without a word when something fails.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use skerry_manifest::explain;

use crate::args::GlobalArgs;
use crate::client::Client;
use crate::config_file::ConfigFile;
use crate::item::Query;
use crate::settings::Settings;
use crate::target::Type;

/// Longest that somebody who pressed Tab waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// `TYPE/NAME`, `TYPE NAME`, and the types.
pub(crate) fn targets(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    let line = Line::typed();
    if let Some((kind, _)) = current.split_once('/') {
        let named = Type::parse(kind).map(|parsed| (kind, parsed, line.names(parsed)));
        return named.map_or(vec![], |(kind, _, names)| {
            matching(names.into_iter().map(|name| format!("{kind}/{name}")), current)
        });
    }
    if let Some(kind) = line.kind() {
        return matching(line.names(kind).into_iter(), current);
    }
    let words = Type::ALL.iter().map(|kind| kind.plural().to_owned());
    let begun = Type::ALL.iter().map(|kind| format!("{}/", kind.singular()));
    matching(words.chain(begun), current)
}

/// `app/NAME`, or after `app` just the name.
pub(crate) fn apps(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    let line = Line::typed();
    let names = line.names(Type::App).into_iter();
    if line.kind() == Some(Type::App) {
        return matching(names, current);
    }
    matching(names.map(|name| format!("app/{name}")), current)
}

/// Names of nodes.
pub(crate) fn nodes(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    matching(Line::typed().names(Type::Node).into_iter(), current)
}

/// GPUs, as `NODE/UUID`.
pub(crate) fn gpus(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    matching(Line::typed().names(Type::Gpu).into_iter(), current)
}

/// Names of clusters.
pub(crate) fn clusters(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    matching(Line::typed().names(Type::Cluster).into_iter(), current)
}

/// Names of tasks.
pub(crate) fn tasks(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    matching(Line::typed().names(Type::Task).into_iter(), current)
}

/// Names of nodes, and of clusters as `cluster/NAME`.
pub(crate) fn drained(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(typed) = current.to_str() else { return vec![] };
    if typed.starts_with("cluster/") {
        let names = Line::typed().names(Type::Cluster).into_iter();
        return matching(names.map(|name| format!("cluster/{name}")), typed);
    }
    nodes(current).into_iter().chain(matching(["cluster/".to_owned()].into_iter(), typed)).collect()
}

/// Names of users.
pub(crate) fn users(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    matching(Line::typed().names(Type::User).into_iter(), current)
}

/// Names of groups.
pub(crate) fn groups(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    matching(Line::typed().names(Type::Group).into_iter(), current)
}

/// Names of projects.
pub(crate) fn projects(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    matching(Line::typed().names(Type::Project).into_iter(), current)
}

/// Names of contexts.
pub(crate) fn contexts() -> Vec<CompletionCandidate> {
    let contexts = ConfigFile::load().map(|file| file.config.contexts).unwrap_or_default();
    contexts.into_iter().map(|context| CompletionCandidate::new(context.name)).collect()
}

/// `app/NAME` or `KIND.field.field`.
pub(crate) fn explained(current: &OsStr) -> Vec<CompletionCandidate> {
    match current.to_str() {
        Some(text) if text.contains('/') => targets(current),
        _ => fields(current),
    }
}

/// `KIND.field.field`.
fn fields(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return vec![] };
    let Some((above, _)) = current.rsplit_once('.') else {
        return matching(explain::kinds().map(str::to_ascii_lowercase), current);
    };
    let below = explain::explain(above).map(|explained| explained.fields).unwrap_or_default();
    matching(below.into_iter().map(|field| format!("{above}.{}", field.name)), current)
}

fn matching(words: impl Iterator<Item = String>, current: &str) -> Vec<CompletionCandidate> {
    words.filter(|word| word.starts_with(current)).map(CompletionCandidate::new).collect()
}

/// The command line that is being typed.
#[derive(Debug)]
struct Line {
    /// Up to the word that is completed, without it.
    words: Vec<String>,
}

impl Line {
    /// Shells hand it over after `--`, and all but fish say which word it is about.
    fn typed() -> Self {
        let words: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
        let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
        Self::of(&words, index.unwrap_or_else(|| words.len().saturating_sub(1)))
    }

    fn of(words: &[String], index: usize) -> Self {
        let mut whole: Vec<String> = Vec::new();
        let mut joins = false;
        for word in words.iter().take(index).skip(1) {
            // Bash takes `--server=http://x:1` apart at its = and :.
            let is_break = matches!(word.as_str(), "=" | ":");
            match whole.last_mut() {
                Some(last) if is_break || joins => last.push_str(word),
                _ => whole.push(word.clone()),
            }
            joins = is_break;
        }
        Self { words: whole }
    }

    /// The type that was typed as a word of its own.
    fn kind(&self) -> Option<Type> {
        self.words.iter().find_map(|word| Type::parse(word).ok())
    }

    /// The value of a flag.
    fn flag(&self, long: &str, short: Option<&str>) -> Option<String> {
        let words = self.words.iter().zip(self.words.iter().skip(1));
        let apart = words.clone().find(|(word, _)| *word == long || Some(word.as_str()) == short);
        let joined = self.words.iter().find_map(|word| word.strip_prefix(long)?.strip_prefix('='));
        joined.map(str::to_owned).or_else(|| apart.map(|(_, value)| value.clone()))
    }

    fn globals(&self) -> GlobalArgs {
        GlobalArgs {
            server: self.flag("--server", None),
            registry: self.flag("--registry", None),
            scheduler: self.flag("--scheduler", None),
            relay: self.flag("--relay", None),
            gpu: self.flag("--gpu", None),
            project: self.flag("--project", Some("-p")),
            context: self.flag("--context", None),
            request_timeout: PATIENCE,
            ..Default::default()
        }
    }

    /// The names of all resources of a type, as far as the first page goes. None when anything fails.
    fn names(&self, kind: Type) -> Vec<String> {
        let kind = match kind {
            // Revisions are those of an app, and events have no names.
            Type::Revision | Type::Event => return vec![],
            // Those of a GPU, in most cases.
            Type::Allocation => Type::Gpu,
            kind => kind,
        };
        let Ok(settings) = Settings::of(&self.globals()) else { return vec![] };
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return vec![];
        };
        runtime.block_on(async {
            let Ok(client) = Client::new(settings, PATIENCE) else { return vec![] };
            let query = Query::all(kind);
            match tokio::time::timeout(PATIENCE, client.first_page(&query)).await {
                Ok(Ok((items, _))) => items.iter().map(|item| item.target().name).collect(),
                _ => vec![],
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Line::of(&words, words.len() - 1)
    }

    fn shown(candidates: &[CompletionCandidate]) -> Vec<String> {
        candidates.iter().map(|one| one.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_was_typed_before_says_where_to_ask_and_for_what() {
        let globals = line("skerry --server http://x:1 -p shop get app h").globals();
        assert_eq!(
            (globals.server.as_deref(), globals.project.as_deref()),
            (Some("http://x:1"), Some("shop"))
        );
        let bash = line("skerry --server = http : //x : 1 --context=lab delete node ");
        let globals = bash.globals();
        assert_eq!(
            (globals.server.as_deref(), globals.context.as_deref()),
            (Some("http://x:1"), Some("lab"))
        );
        assert_eq!(bash.kind(), Some(Type::Node));
        assert_eq!(line("skerry get ").kind(), None);
    }

    #[test]
    fn fields_are_completed_a_step_at_a_time() {
        assert_eq!(shown(&fields(OsStr::new("a"))), ["app"]);
        assert_eq!(
            shown(&fields(OsStr::new("app.spec.s"))),
            ["app.spec.selector", "app.spec.services", "app.spec.system"]
        );
        assert_eq!(shown(&fields(OsStr::new("nothing.s"))), [""; 0]);
    }
}
