//! Where to work: servers and project, by what flags, the environment and the configuration file say.
//!
//! The first that says something decides: flags, then `SKERRY_*`, then the context, then what is usual. A context that a flag names stands
//! in place of all `SKERRY_*`: who names it means its servers and its project. A registry, scheduler, relay or gpu service apart from the server belongs to
//! the one who names it: `--server` is not sent astray by a registry of the context.

use std::path::PathBuf;

use skerry_model::ProjectName;
use skerry_rpc::TlsPaths;

use crate::args::GlobalArgs;
use crate::config_file::ConfigFile;
use crate::error::CliError;
use crate::tls::{Names, TlsLayer};

/// Where `skerry up` listens if nothing else is said: without TLS, and with it.
const SERVER: &str = "http://127.0.0.1:7770";
const SECURED_SERVER: &str = "https://127.0.0.1:7770";

/// How each source calls certificate, key and authority.
const FLAGS: Names = ["--tls-cert", "--tls-key", "--tls-ca"];
const VARIABLES: Names = ["SKERRY_TLS_CERT", "SKERRY_TLS_KEY", "SKERRY_TLS_CA"];
const FIELDS: Names = ["the context's certificate", "the context's key", "the context's authority"];

/// Where to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) registry: String,
    pub(crate) scheduler: String,
    pub(crate) relay: String,
    pub(crate) gpu: String,
    /// Absent: no TLS.
    pub(crate) tls: Option<TlsPaths>,
    pub(crate) project: ProjectName,
    /// Whether the project is a demand, which a manifest may not contradict: `--project` is, the others are defaults.
    pub(crate) project_is_required: bool,
}

/// What one source says.
#[derive(Debug, Clone, Default)]
struct Layer {
    server: Option<String>,
    registry: Option<String>,
    scheduler: Option<String>,
    relay: Option<String>,
    gpu: Option<String>,
    project: Option<String>,
    tls: TlsLayer,
}

impl Layer {
    /// Whether it says where to go.
    fn names_a_server(&self) -> bool {
        [&self.server, &self.registry, &self.scheduler, &self.relay, &self.gpu]
            .into_iter()
            .any(Option::is_some)
    }
}

impl Settings {
    /// Of the flags, this process's environment and its configuration file.
    pub(crate) fn of(args: &GlobalArgs) -> Result<Self, CliError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::of_all(args, variable, &ConfigFile::load()?)
    }

    fn of_all(
        args: &GlobalArgs,
        variable: impl Fn(&str) -> Option<String>,
        file: &ConfigFile,
    ) -> Result<Self, CliError> {
        let (environment, chosen) = match &args.context {
            Some(named) => (Layer::default(), Some(named.clone())),
            None => (of_environment(&variable), variable("SKERRY_CONTEXT")),
        };
        Self::resolve(of_flags(args), environment, of_context(file, chosen.as_deref())?)
    }

    fn resolve(flags: Layer, environment: Layer, context: Layer) -> Result<Self, CliError> {
        let project_is_required = flags.project.is_some();
        let elsewhere = flags.names_a_server() || environment.names_a_server();
        let layers = [flags, environment, context];
        let counting = if elsewhere { &layers[..2] } else { &layers[..] };
        let tls: Vec<TlsLayer> = counting.iter().map(|layer| layer.tls.clone()).collect();
        let tls = crate::tls::resolve(&tls)?;
        let usual = if tls.is_some() { SECURED_SERVER } else { SERVER };
        let find = |own: fn(&Layer) -> Option<&String>| {
            let found = layers.iter().find_map(|layer| own(layer).or(layer.server.as_ref()));
            found.map_or_else(|| usual.to_owned(), String::clone)
        };
        let project = layers.iter().find_map(|layer| layer.project.as_deref()).unwrap_or("default");
        Ok(Self {
            registry: find(|layer| layer.registry.as_ref()),
            scheduler: find(|layer| layer.scheduler.as_ref()),
            relay: find(|layer| layer.relay.as_ref()),
            gpu: find(|layer| layer.gpu.as_ref()),
            tls,
            project: ProjectName::parse(project).map_err(|error| CliError::Usage(error.to_string()))?,
            project_is_required,
        })
    }
}

fn of_flags(args: &GlobalArgs) -> Layer {
    Layer {
        server: args.server.clone(),
        registry: args.registry.clone(),
        scheduler: args.scheduler.clone(),
        relay: args.relay.clone(),
        gpu: args.gpu.clone(),
        project: args.project.clone(),
        tls: TlsLayer::new(
            FLAGS,
            [args.tls.tls_cert.clone(), args.tls.tls_key.clone(), args.tls.tls_ca.clone()],
        ),
    }
}

fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Layer {
    Layer {
        server: variable("SKERRY_SERVER"),
        registry: variable("SKERRY_REGISTRY"),
        scheduler: variable("SKERRY_SCHEDULER"),
        relay: variable("SKERRY_RELAY"),
        gpu: variable("SKERRY_GPU"),
        project: variable("SKERRY_PROJECT"),
        tls: TlsLayer::new(VARIABLES, VARIABLES.map(|name| variable(name).map(PathBuf::from))),
    }
}

/// The context that was chosen, else the current one, else none.
fn of_context(file: &ConfigFile, chosen: Option<&str>) -> Result<Layer, CliError> {
    let Some(name) = chosen.or(file.config.current.as_deref()) else { return Ok(Layer::default()) };
    let Some(context) = file.config.get(name) else { return Err(file.no_context(name)) };
    Ok(Layer {
        server: context.server.clone(),
        registry: context.registry.clone(),
        scheduler: context.scheduler.clone(),
        relay: context.relay.clone(),
        gpu: context.gpu.clone(),
        project: context.project.clone(),
        tls: TlsLayer::new(
            FIELDS,
            [&context.certificate, &context.key, &context.authority]
                .map(|path| path.as_ref().map(|path| file.beside(path))),
        ),
    })
}

#[cfg(test)]
mod tests {
    use skerry_manifest::contexts::{ClientConfig, Context};

    use super::*;

    fn layer(server: &str, registry: &str, project: &str) -> Layer {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Layer {
            server: given(server),
            registry: given(registry),
            scheduler: None,
            project: given(project),
            ..Layer::default()
        }
    }

    fn resolved(flags: Layer, environment: Layer, context: Layer) -> (String, String, String, bool) {
        let settings = Settings::resolve(flags, environment, context).expect("valid");
        let project = settings.project.to_string();
        (settings.registry, settings.scheduler, project, settings.project_is_required)
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_context() {
        let none = Layer::default;
        let all = |registry: &str, scheduler: &str, project: &str, required: bool| {
            (registry.to_owned(), scheduler.to_owned(), project.to_owned(), required)
        };
        assert_eq!(resolved(none(), none(), none()), all(SERVER, SERVER, "default", false));
        assert_eq!(resolved(none(), none(), layer("c", "r", "p")), all("r", "c", "p", false));
        assert_eq!(resolved(none(), layer("e", "", "q"), layer("c", "r", "p")), all("e", "e", "q", false));
        assert_eq!(resolved(none(), layer("", "er", ""), layer("c", "r", "p")), all("er", "c", "p", false));
        assert_eq!(
            resolved(layer("f", "", "z"), layer("e", "er", "q"), layer("c", "r", "p")),
            all("f", "f", "z", true)
        );
        assert!(Settings::resolve(layer("", "", "Not A Name"), none(), none()).is_err());
    }

    #[test]
    fn the_tls_files_of_a_context_are_for_its_own_server() {
        let file = ConfigFile::at(
            "/etc/skerry/c.yaml",
            ClientConfig {
                current: Some("prod".into()),
                contexts: vec![Context {
                    name: "prod".into(),
                    server: Some("https://prod:7770".into()),
                    authority: Some("ca.crt".into()),
                    ..Default::default()
                }],
            },
        );
        let context = || of_context(&file, None).expect("there");
        let settings = Settings::resolve(Layer::default(), Layer::default(), context()).expect("valid");
        let authority = settings.tls.expect("TLS").authority;
        assert_eq!(authority.path, PathBuf::from("/etc/skerry/ca.crt"), "beside the file");
        let elsewhere = Settings::resolve(layer("http://lab:7770", "", ""), Layer::default(), context());
        assert_eq!(elsewhere.expect("valid").tls, None);
        let tls = TlsLayer::new(FLAGS, [None, None, Some("/ca.crt".into())]);
        let usual = Settings::resolve(Layer { tls, ..Layer::default() }, Layer::default(), Layer::default());
        assert_eq!(usual.expect("valid").registry, SECURED_SERVER);
    }

    #[test]
    fn a_context_that_a_flag_names_stands_in_place_of_all_variables() {
        let context = |name: &str, server: &str, project: Option<&str>| Context {
            name: name.into(),
            server: Some(server.into()),
            project: project.map(str::to_owned),
            ..Default::default()
        };
        let contexts =
            vec![context("lab", "http://lab:1", None), context("site", "http://site:1", Some("s"))];
        let file = ConfigFile::at("/c.yaml", ClientConfig { current: Some("site".into()), contexts });
        let variables = |given: &'static [(&str, &str)]| {
            move |name: &str| given.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let found = |args: &GlobalArgs, given: &'static [(&str, &str)]| {
            let settings = Settings::of_all(args, variables(given), &file).expect("valid");
            (settings.registry, settings.scheduler, settings.project.to_string())
        };
        let prod: &[_] = &[
            ("SKERRY_SERVER", "http://prod:1"),
            ("SKERRY_SCHEDULER", "http://prod:2"),
            ("SKERRY_PROJECT", "p"),
            ("SKERRY_CONTEXT", "site"),
        ];
        let of = |registry: &str, scheduler: &str, project: &str| {
            (registry.to_owned(), scheduler.to_owned(), project.to_owned())
        };
        let lab = GlobalArgs { context: Some("lab".into()), ..Default::default() };
        assert_eq!(found(&lab, prod), of("http://lab:1", "http://lab:1", "default"));
        let other = GlobalArgs { project: Some("o".into()), ..lab };
        assert_eq!(found(&other, prod), of("http://lab:1", "http://lab:1", "o"));
        let none = GlobalArgs::default();
        assert_eq!(found(&none, prod), of("http://prod:1", "http://prod:2", "p"));
        assert_eq!(found(&none, &[("SKERRY_CONTEXT", "lab")]), of("http://lab:1", "http://lab:1", "default"));
        assert_eq!(found(&none, &[]), of("http://site:1", "http://site:1", "s"));
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let config = ClientConfig {
            current: None,
            contexts: vec![Context { name: "prod".into(), project: Some("p".into()), ..Default::default() }],
        };
        let file = ConfigFile::at("/c.yaml", config);
        assert_eq!(of_context(&file, None).expect("none").project, None);
        assert_eq!(of_context(&file, Some("prod")).expect("there").project.as_deref(), Some("p"));
        let error = of_context(&file, Some("prd")).expect_err("not there").text().expect("printed");
        assert_eq!(error, "error: there is no context \"prd\" in /c.yaml; did you mean prod?\n");
    }
}
