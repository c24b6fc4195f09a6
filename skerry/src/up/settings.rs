//! What `up` was told, as valid values, and what it tells people. No I/O but the host name and the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use skerry_agent::{Config, CredentialsFile, DockerAccess, Gateway, ImageGc, NodeTls, default_node_name};
use skerry_daemon::{TlsArgs, local_url};
use skerry_model::{NodeName, NodeRef, ProjectName};
use skerry_rpc::{Access, TlsFile, TlsFiles, TlsPaths};
use skerry_store::Target;

use super::UpArgs;
use crate::files::default_data_dir;

/// Where `up` listens if nothing else is said; clients look there.
const DEFAULT_PORT: u16 = 7770;

/// What `up` was told.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) data_dir: PathBuf,
    pub(super) listen: SocketAddr,
    pub(super) access: Access,
    /// What it proves to be and whom it trusts. Absent: no TLS.
    pub(super) tls: Option<Arc<TlsFiles>>,
    node_tls: Option<NodeTls>,
    /// A real etcd. Absent: the embedded one.
    pub(super) etcd: Option<Target>,
    /// This machine's node. Absent: none.
    pub(super) node: Option<NodeRef>,
    docker: DockerAccess,
    credentials: CredentialsFile,
    image_gc: ImageGc,
    project: ProjectName,
}

impl Settings {
    pub(super) fn of(args: UpArgs, project: Option<String>, tls_args: &TlsArgs) -> anyhow::Result<Self> {
        let tls = tls_args.load()?;
        let access = skerry_daemon::access(tls.as_deref(), args.insecure)?;
        access.check_listener(args.listen)?;
        let from_environment = std::env::var("SKERRY_PROJECT").ok().filter(|name| !name.is_empty());
        let project =
            ProjectName::parse(&project.or(from_environment).unwrap_or_else(|| "default".to_owned()))?;
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
        let etcd = if args.etcd.is_empty() { None } else { Some(Target::parse(&args.etcd.join(","))?) };
        let data_dir = match args.data_dir {
            Some(directory) => std::path::absolute(directory).context("finding the data directory")?,
            None => default_data_dir()?,
        };
        let node = node.map(|node| NodeRef { project: project.clone(), node });
        let node_files = (args.node_tls_cert, args.node_tls_key);
        let node_tls = match (&tls, &tls_args.tls_ca, &node) {
            (Some(tls), Some(authority), Some(node)) => {
                Some(NodeTls::new(node_tls(node_files, authority)?, tls.itself()?, node)?)
            }
            _ => None,
        };
        Ok(Self {
            data_dir,
            listen: args.listen,
            access,
            tls,
            node_tls,
            etcd,
            node,
            docker,
            credentials,
            image_gc,
            project,
        })
    }

    /// Where this machine reaches the services that answer at `address`.
    pub(super) fn url(&self, address: SocketAddr) -> String {
        local_url(address, self.tls.is_some())
    }

    /// What the agent is told, where the services answer at `address`.
    pub(super) fn agent(&self, address: SocketAddr) -> anyhow::Result<Option<Config>> {
        let Some(node) = self.node.clone() else { return Ok(None) };
        let gateways = vec![Gateway::parse(&self.url(address))?];
        Ok(Some(Config {
            gateways,
            tls: self.node_tls.clone(),
            node,
            data_dir: self.data_dir.join("agent"),
            docker: self.docker.clone(),
            credentials: self.credentials.clone(),
            image_gc: self.image_gc,
            secrets_dir: None,
        }))
    }

    /// The lines that say what there is.
    pub(super) fn summary(&self, address: SocketAddr) -> Vec<String> {
        let store = match &self.etcd {
            Some(target) => format!("etcd at {target}"),
            None => "embedded etcd".to_owned(),
        };
        let open = match self.access {
            Access::Insecure => ", to anybody who can reach it",
            Access::Loopback => "",
            Access::Certificate(_) => ", to who has a certificate",
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let node = match &self.node {
            Some(node) => format!("{} in project {}", node.node, node.project),
            None => "none (--no-agent)".to_owned(),
        };
        vec![
            format!("skerry {}", env!("CARGO_PKG_VERSION")),
            format!("  data     {}", self.data_dir.display()),
            format!("  store    {store}"),
            format!("  serving  {scheme}://{address}{open}"),
            format!("  node     {node}"),
        ]
    }

    /// The line that says that all is ready, and the command to type next.
    pub(super) fn next_steps(&self, address: SocketAddr, took: Duration, connected: bool) -> Vec<String> {
        let is_default = address.port() == DEFAULT_PORT && address.ip().is_loopback() && self.tls.is_none();
        let server = if is_default { String::new() } else { format!(" --server {}", self.url(address)) };
        let project =
            if self.project.as_str() == "default" { String::new() } else { format!(" -p {}", self.project) };
        let after = format!("{:.1} s", took.as_secs_f64());
        let state = if connected {
            format!("ready after {after}")
        } else {
            format!(
                "ready after {after}, but this machine's node has not connected yet (--log info says why)"
            )
        };
        let next = if self.node.is_some() { "get nodes" } else { "get apps" };
        let own = if self.tls.is_some() { ", with --tls-cert, --tls-key and --tls-ca of a user" } else { "" };
        vec![format!("{state}; now type: skerry{server}{project} {next}{own}")]
    }
}

/// The files of this machine's node, which trusts the authority that the services trust.
fn node_tls(
    files: (Option<PathBuf>, Option<PathBuf>),
    authority: &std::path::Path,
) -> anyhow::Result<Arc<TlsFiles>> {
    let (Some(certificate), Some(key)) = files else {
        bail!(
            "with --tls-cert, this machine's node needs a certificate of its own: --node-tls-cert FILE and --node-tls-key FILE, or --no-agent"
        );
    };
    let own = (
        TlsFile { setting: "--node-tls-cert", path: certificate },
        TlsFile { setting: "--node-tls-key", path: key },
    );
    let authority = TlsFile { setting: "--tls-ca", path: authority.to_owned() };
    Ok(Arc::new(TlsFiles::load(TlsPaths { own: Some(own), authority })?))
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
    fn a_listener_for_others_needs_insecure() {
        let error = settings(&["--listen", "0.0.0.0:7770"]).expect_err("refused").to_string();
        assert!(error.contains("--insecure"), "{error}");
        assert!(settings(&["--listen", "0.0.0.0:7770", "--insecure"]).is_ok());
        assert!(settings(&["--listen", "[::1]:7770"]).is_ok());
    }

    #[test]
    fn the_agent_reaches_the_services_on_this_machine() {
        let settings = settings(&["--listen", "0.0.0.0:1", "--insecure"]).expect("valid");
        let config = settings.agent(address("0.0.0.0:7000")).expect("valid").expect("an agent");
        assert_eq!(config.gateways[0].uri().to_string(), "http://127.0.0.1:7000/");
        assert_eq!(config.data_dir, PathBuf::from("/data/agent"));
    }

    #[test]
    fn what_is_said_fits_on_a_few_lines() {
        let settings = settings(&[]).expect("valid");
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            settings.summary(address("127.0.0.1:7770")),
            [
                format!("skerry {version}").as_str(),
                "  data     /data",
                "  store    embedded etcd",
                "  serving  http://127.0.0.1:7770",
                "  node     n1 in project default",
            ]
        );
        let took = Duration::from_millis(640);
        let next = |port: &str, connected| settings.next_steps(address(port), took, connected).join("\n");
        assert_eq!(next("127.0.0.1:7770", true), "ready after 0.6 s; now type: skerry get nodes");
        assert_eq!(
            next("127.0.0.1:1", true),
            "ready after 0.6 s; now type: skerry --server http://127.0.0.1:1 get nodes"
        );
        assert!(next("127.0.0.1:7770", false).contains("has not connected yet"));
    }

    #[test]
    fn etcd_may_be_several() {
        let settings = settings(&["--etcd", "http://a:1", "--etcd", "http://b:2"]).expect("valid");
        assert_eq!(settings.etcd.map(|target| target.to_string()).as_deref(), Some("http://a:1,http://b:2"));
    }
}
