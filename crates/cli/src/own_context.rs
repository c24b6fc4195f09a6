//! The context of a server on this very machine. `skerry up` makes its own certificates and keeps a context for them, so that the next command
//! needs no flags.
//!
//! Whose a context is shows in its certificate: it is ours where it names our file. One of another server stays as it is, and so does the
//! choice of the current one, unless there is none.

use std::path::Path;

use skerry_manifest::contexts::{ClientConfig, Context};

use crate::config_file::ConfigFile;

/// What the context is called, if that is free.
const NAME: &str = "local";

/// The server and the files by which it is talked to.
#[derive(Debug, Clone, Copy)]
pub struct OwnServer<'a> {
    /// Where it answers, as `https://127.0.0.1:7770`.
    pub url: &'a str,
    /// Its port: in the name where several servers of this machine have a context.
    pub port: u16,
    /// The project to work in, where it is not the usual one.
    pub project: Option<&'a str>,
    /// The user's certificate.
    pub certificate: &'a Path,
    /// Its key.
    pub key: &'a Path,
    /// The roots to trust.
    pub authority: &'a Path,
}

/// How the server is named from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnContext {
    /// Not at all: its context is the current one.
    Current,
    /// By `--context` with this name.
    Named(String),
}

/// Keeps a context for the server in the client's configuration file. An error is a sentence for people: nothing was changed then.
pub fn keep_own_context(server: &OwnServer<'_>) -> Result<OwnContext, String> {
    let mut file = ConfigFile::load().map_err(|error| error.summary())?;
    let wanted = context(server)?;
    let is_left =
        |context: &Context| context.certificate.as_deref().is_some_and(|path| !file.beside(path).exists());
    let (config, own) = placed(&file.config, &wanted, server.port, is_left).ok_or_else(|| {
        format!(
            "{} has contexts of other servers by the names {NAME} and {NAME}-{}",
            file.shown(),
            server.port
        )
    })?;
    if config != file.config {
        file.config = config;
        file.save().map_err(|error| error.summary())?;
    }
    Ok(own)
}

/// `skerry` with the flags that do the same for one command.
pub fn without_context(server: &OwnServer<'_>) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    format!(
        "skerry --server {} --tls-cert {} --tls-key {} --tls-ca {}",
        server.url,
        quoted(server.certificate),
        quoted(server.key),
        quoted(server.authority)
    )
}

fn context(server: &OwnServer<'_>) -> Result<Context, String> {
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is no text in UTF-8", path.display()))
    };
    Ok(Context {
        server: Some(server.url.to_owned()),
        project: server.project.map(str::to_owned),
        certificate: Some(text(server.certificate)?),
        key: Some(text(server.key)?),
        authority: Some(text(server.authority)?),
        ..Context::default()
    })
}

/// The configuration with the context in it. `is_left`: its files are gone, so that it opens nothing any more. `None` where every name is taken.
fn placed(
    config: &ClientConfig,
    wanted: &Context,
    port: u16,
    is_left: impl Fn(&Context) -> bool,
) -> Option<(ClientConfig, OwnContext)> {
    let ours = |context: &Context| context.certificate == wanted.certificate;
    let names = [NAME.to_owned(), format!("{NAME}-{port}")];
    let free = |name: &String| config.get(name).is_none_or(|context| ours(context) || is_left(context));
    // One that we have already, before a better name that has become free.
    let had = names.iter().find(|name| config.get(name).is_some_and(ours));
    let name = had.or_else(|| names.iter().find(|name| free(name)))?.clone();
    let mut config = config.clone();
    match config.contexts.iter_mut().find(|context| context.name == name) {
        Some(context) if ours(context) => {
            // What somebody set besides is theirs.
            let project = wanted.project.clone().or_else(|| context.project.take());
            *context = Context { name: name.clone(), project, ..wanted.clone() };
        }
        Some(context) => *context = Context { name: name.clone(), ..wanted.clone() },
        None => config.contexts.push(Context { name: name.clone(), ..wanted.clone() }),
    }
    let nobody = config.current.as_ref().is_none_or(|current| config.get(current).is_none());
    if nobody {
        config.current = Some(name.clone());
    }
    let own =
        if config.current.as_ref() == Some(&name) { OwnContext::Current } else { OwnContext::Named(name) };
    Some((config, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(directory: &str, project: Option<&str>) -> Context {
        Context {
            server: Some("https://127.0.0.1:7770".into()),
            certificate: Some(format!("{directory}/admin.crt")),
            project: project.map(str::to_owned),
            ..Context::default()
        }
    }

    fn named(name: &str, directory: &str) -> Context {
        Context { name: name.into(), ..wanted(directory, None) }
    }

    fn config(current: Option<&str>, contexts: Vec<Context>) -> ClientConfig {
        ClientConfig { current: current.map(str::to_owned), contexts }
    }

    fn place(config: &ClientConfig, wanted: &Context) -> Option<(ClientConfig, OwnContext)> {
        placed(config, wanted, 7770, |context| context.certificate.as_deref() == Some("/gone/admin.crt"))
    }

    #[test]
    fn the_first_context_is_the_current_one_and_a_choice_that_was_made_stays() {
        let (first, own) = place(&ClientConfig::default(), &wanted("/a", None)).expect("free");
        assert_eq!((first.current.as_deref(), own), (Some("local"), OwnContext::Current));
        let lab = Context { name: "lab".into(), server: Some("https://lab:1".into()), ..Context::default() };
        let (second, own) = place(&config(Some("lab"), vec![lab]), &wanted("/a", None)).expect("free");
        assert_eq!((second.current.as_deref(), own), (Some("lab"), OwnContext::Named("local".into())));
    }

    #[test]
    fn keeping_it_again_changes_nothing_and_leaves_what_somebody_set() {
        let (mut kept, _) = place(&ClientConfig::default(), &wanted("/a", None)).expect("free");
        assert_eq!(place(&kept, &wanted("/a", None)), Some((kept.clone(), OwnContext::Current)));
        kept.contexts[0].project = Some("shop".into());
        assert_eq!(place(&kept, &wanted("/a", None)), Some((kept.clone(), OwnContext::Current)));
        let (other, _) = place(&kept, &wanted("/a", Some("line"))).expect("ours");
        assert_eq!(other.contexts[0].project.as_deref(), Some("line"));
    }

    #[test]
    fn another_server_s_context_is_not_touched_unless_its_files_are_gone() {
        let others = config(Some("local"), vec![named("local", "/b")]);
        let (kept, own) = place(&others, &wanted("/a", None)).expect("the second name");
        assert_eq!(own, OwnContext::Named("local-7770".into()));
        assert_eq!(kept.contexts[0], named("local", "/b"));
        assert_eq!(
            place(&config(None, vec![named("local", "/b"), named("local-7770", "/c")]), &wanted("/a", None)),
            None
        );
        let left = config(Some("local"), vec![named("local", "/gone")]);
        let (kept, own) = place(&left, &wanted("/a", None)).expect("free again");
        assert_eq!((kept.contexts, own), (vec![named("local", "/a")], OwnContext::Current));
    }

    #[test]
    fn by_hand_it_is_one_command() {
        let server = OwnServer {
            url: "https://127.0.0.1:7770",
            port: 7770,
            project: None,
            certificate: Path::new("/it's/admin.crt"),
            key: Path::new("/d/admin.key"),
            authority: Path::new("/d/ca.crt"),
        };
        assert_eq!(
            without_context(&server),
            r"skerry --server https://127.0.0.1:7770 --tls-cert '/it'\''s/admin.crt' --tls-key '/d/admin.key' --tls-ca '/d/ca.crt'"
        );
    }
}
