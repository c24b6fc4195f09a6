//! What `up` was told, as valid values, and what it tells people. No I/O but the host name and the environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls_pki_types::DnsName;
use skerry_agent::{
    Config, CredentialsFile, DockerAccess, Forbidden, Gateway, ImageGc, NodeTls, default_node_name,
};
use skerry_cli::OwnContext;
use skerry_daemon::{TlsArgs, local_url};
use skerry_model::{NodeName, NodeRef, ProjectName};
use skerry_store::Target;

use super::UpArgs;
use super::gpus::Gpus;
use super::identity::OwnIdentity;
use super::security::Choice;
use crate::files::default_data_dir;
use crate::store::target_of;

/// What `up` was told.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) data_dir: PathBuf,
    pub(super) listen: SocketAddr,
    pub(super) security: Choice,
    /// Where the certificates are somebody's else, so that machines can enrol all the same.
    pub(super) key_file: Option<PathBuf>,
    /// A real etcd. Absent: the embedded one.
    pub(super) etcd: Option<Target>,
    /// This machine's node. Absent: none.
    pub(super) node: Option<NodeRef>,
    docker: DockerAccess,
    credentials: CredentialsFile,
    image_gc: ImageGc,
    forbidden: Forbidden,
    gpus: Gpus,
    project: ProjectName,
}

impl Settings {
    pub(super) fn of(args: UpArgs, project: Option<String>, tls_args: &TlsArgs) -> anyhow::Result<Self> {
        let project = crate::project_of(project)?;
        let node = match (args.no_agent, &args.node_name) {
            (true, _) => None,
            (false, Some(name)) => Some(NodeName::parse(name)?),
            (false, None) => Some(
                default_node_name()
                    .context("this machine's host name is no name for a node: give one with --node-name")?,
            ),
        };
        let docker = if args.no_docker {
            DockerAccess::Off
        } else {
            DockerAccess::from_host(args.docker_host.as_deref())?
        };
        let credentials = CredentialsFile::find(args.docker_config);
        let image_gc = args.image_gc.parse()?;
        let etcd = match (args.etcd.is_empty(), &args.etcd_tls.etcd_ca) {
            (true, None) => None,
            (true, Some(_)) => bail!("--etcd-ca goes with --etcd: the embedded store needs none"),
            (false, _) => Some(target_of(&args.etcd.join(","), &args.etcd_tls)?),
        };
        let data_dir = match args.data_dir {
            Some(directory) => std::path::absolute(directory).context("finding the data directory")?,
            None => default_data_dir()?,
        };
        let node = node.map(|node| NodeRef { project: project.clone(), node });
        let node_files = (args.node_tls_cert, args.node_tls_key);
        let given =
            Choice::given(tls_args, node_files, node.as_ref(), args.insecure, args.key_file.is_some())?;
        let names = names_of(&args.advertise)?;
        let own = || OwnIdentity::new(&data_dir, args.key_file.clone(), args.listen, names, node.clone());
        let security = given.unwrap_or_else(|| Choice::Own(Box::new(own())));
        Ok(Self {
            data_dir,
            listen: args.listen,
            security,
            key_file: args.key_file.clone(),
            etcd,
            node,
            docker,
            credentials,
            image_gc,
            forbidden: args.forbid.parse(),
            gpus: Gpus::of(args.gpus, args.gpu_sim)?,
            project,
        })
    }

    /// Whether there is TLS.
    fn is_secured(&self) -> bool {
        !matches!(self.security, Choice::Insecure)
    }

    /// Where this machine reaches the services that answer at `address`.
    pub(super) fn url(&self, address: SocketAddr) -> String {
        local_url(address, self.is_secured())
    }

    /// What the agent is told, where the services answer at `address`.
    pub(super) fn agent(&self, address: SocketAddr, tls: Option<NodeTls>) -> anyhow::Result<Option<Config>> {
        let Some(node) = self.node.clone() else { return Ok(None) };
        let gateways = vec![Gateway::parse(&self.url(address))?];
        Ok(Some(Config {
            gateways,
            tls,
            node,
            data_dir: self.data_dir.join("agent"),
            docker: self.docker.clone(),
            credentials: self.credentials.clone(),
            image_gc: self.image_gc,
            gpus: self.gpus.access(&self.data_dir)?,
            forbidden: self.forbidden.clone(),
            secrets_dir: None,
            address: None,
        }))
    }

    /// The lines that say what there is.
    pub(super) fn summary(&self, address: SocketAddr) -> Vec<String> {
        let store = match &self.etcd {
            Some(target) => format!("etcd at {target}"),
            None => "embedded etcd".to_owned(),
        };
        let (scheme, open) = match self.security {
            Choice::Insecure => ("http", ", without TLS, to anybody who can reach it"),
            Choice::Own(_) | Choice::Given(_) => ("https", ", to who has a certificate"),
        };
        let node = match &self.node {
            Some(node) => format!("{} in project {}", node.node, node.project),
            None => "none (--no-agent)".to_owned(),
        };
        let mut lines = vec![
            format!("skerry {}", env!("CARGO_PKG_VERSION")),
            format!("  data     {}", self.data_dir.display()),
            format!("  store    {store}"),
            format!("  serving  {scheme}://{address}{open}"),
            format!("  node     {node}"),
        ];
        lines.extend(self.gpus.summary(&self.data_dir));
        lines
    }

    /// The project to work in, where it is not the usual one.
    pub(super) fn other_project(&self) -> Option<&str> {
        Some(self.project.as_str()).filter(|project| *project != "default")
    }

    /// The lines that say that all is ready, and the command to type next. `own`: how a context names this server, or why none does.
    pub(super) fn next_steps(
        &self,
        address: SocketAddr,
        took: Duration,
        connected: bool,
        own: Option<&Result<OwnContext, Unnamed>>,
    ) -> Vec<String> {
        let after = format!("{:.1} s", took.as_secs_f64());
        let state = if connected {
            format!("ready after {after}")
        } else {
            format!(
                "ready after {after}, but this machine's node has not connected yet (--log info says why)"
            )
        };
        let next = if self.node.is_some() { "get nodes" } else { "get apps" };
        let project = self.other_project().map(|project| format!(" -p {project}")).unwrap_or_default();
        let line = |words: String| vec![format!("{state}; now type: {words}")];
        match own {
            Some(Ok(OwnContext::Current)) => line(format!("skerry {next}")),
            Some(Ok(OwnContext::Named(name))) => line(format!("skerry --context {name} {next}")),
            Some(Err(Unnamed { why, command })) => vec![
                format!("no context was kept: {why}"),
                format!("{state}; now type: {command}{project} {next}"),
            ],
            None => {
                let own = if self.is_secured() {
                    ", with --tls-cert, --tls-key and --tls-ca of a user"
                } else {
                    ""
                };
                line(format!("skerry --server {}{project} {next}{own}", self.url(address)))
            }
        }
    }
}

/// Why no context names this server, and `skerry` with the flags that name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unnamed {
    pub(super) why: String,
    pub(super) command: String,
}

/// Names and addresses apart.
fn names_of(texts: &[String]) -> anyhow::Result<(Vec<DnsName<'static>>, Vec<IpAddr>)> {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    for text in texts {
        match text.parse::<IpAddr>() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                names.push(DnsName::try_from(text.clone()).map_err(|_| {
                    anyhow::anyhow!("--advertise `{text}` is neither a DNS name nor an address")
                })?);
            }
        }
    }
    Ok((names, addresses))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: UpArgs,
    }

    fn settings(words: &[&str]) -> anyhow::Result<Settings> {
        let words = ["up", "--data-dir", "/data", "--node-name", "n1"].iter().chain(words);
        Settings::of(Cli::try_parse_from(words)?.args, Some("default".into()), &TlsArgs::default())
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("valid")
    }

    #[test]
    fn without_a_word_it_has_an_authority_of_its_own_wherever_it_listens() {
        for listen in ["127.0.0.1:7770", "0.0.0.0:7770", "[::1]:7770"] {
            let settings = settings(&["--listen", listen]).expect("valid");
            assert!(matches!(settings.security, Choice::Own(_)), "{listen}");
        }
        assert!(matches!(settings(&["--insecure"]).expect("valid").security, Choice::Insecure));
        let error = settings(&["--advertise", "not a name"]).expect_err("refused").to_string();
        assert!(error.contains("--advertise `not a name`"), "{error}");
    }

    #[test]
    fn the_agent_reaches_the_services_on_this_machine() {
        for (more, url) in [(None, "https://127.0.0.1:7000/"), (Some("--insecure"), "http://127.0.0.1:7000/")]
        {
            let words: Vec<&str> = ["--listen", "0.0.0.0:1"].into_iter().chain(more).collect();
            let settings = settings(&words).expect("valid");
            let config = settings.agent(address("0.0.0.0:7000"), None).expect("valid").expect("an agent");
            assert_eq!(config.gateways[0].uri().to_string(), url);
            assert_eq!(config.data_dir, PathBuf::from("/data/agent"));
        }
    }

    #[test]
    fn what_is_said_fits_on_a_few_lines() {
        let plain = settings(&["--insecure"]).expect("valid");
        let settings = settings(&[]).expect("valid");
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            settings.summary(address("127.0.0.1:7770")),
            [
                format!("skerry {version}").as_str(),
                "  data     /data",
                "  store    embedded etcd",
                "  serving  https://127.0.0.1:7770, to who has a certificate",
                "  node     n1 in project default",
            ]
        );
        let took = Duration::from_millis(640);
        let next = |settings: &Settings, connected, own: Option<Result<OwnContext, Unnamed>>| {
            settings.next_steps(address("127.0.0.1:7770"), took, connected, own.as_ref()).join("\n")
        };
        assert_eq!(
            next(&settings, true, Some(Ok(OwnContext::Current))),
            "ready after 0.6 s; now type: skerry get nodes"
        );
        assert_eq!(
            next(&settings, true, Some(Ok(OwnContext::Named("local-1".into())))),
            "ready after 0.6 s; now type: skerry --context local-1 get nodes"
        );
        let unnamed = Unnamed { why: "the disk is full".into(), command: "skerry --server x".into() };
        assert_eq!(
            next(&settings, true, Some(Err(unnamed))),
            "no context was kept: the disk is full\nready after 0.6 s; now type: skerry --server x get nodes"
        );
        assert_eq!(
            next(&plain, true, None),
            "ready after 0.6 s; now type: skerry --server http://127.0.0.1:7770 get nodes"
        );
        assert!(next(&settings, false, None).contains("has not connected yet"));
    }

    #[test]
    fn etcd_may_be_several() {
        let settings = settings(&["--etcd", "http://a:1", "--etcd", "http://b:2"]).expect("valid");
        assert_eq!(settings.etcd.map(|target| target.to_string()).as_deref(), Some("http://a:1,http://b:2"));
    }
}
