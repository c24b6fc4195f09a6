//! What the agent is told at its start: flags and environment, parsed once into valid types.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use skerry_daemon::TlsArgs;
use skerry_identity::KeyId;
use skerry_identity::verify::Expected;
use skerry_model::{NodeName, NodeRef, ProjectName};
use skerry_rpc::TlsFiles;
use tonic::transport::Uri;

use crate::channel::forbidden::{ForbidArgs, Forbidden};
use crate::gpu::{GpuAccess, GpuArgs};
use crate::identity::{Enrolment, Source, TokenText, check_owner};
use crate::machine::host_name;
use crate::runtime::docker::{CredentialsFile, ImageGc};

/// Where the agent keeps its state if nothing else is said.
pub(crate) const DATA_DIR_DEFAULT: &str = "/var/lib/skerry/agent";
/// Where Docker listens if nothing else is said.
const DOCKER_SOCKET_DEFAULT: &str = "/var/run/docker.sock";
/// Most gateways that are worth trying in turn.
const GATEWAYS_MAX: usize = 16;
/// The least age of images that go: less would pull the same ones again and again.
const IMAGE_GC_AGE_MIN: std::time::Duration = std::time::Duration::from_secs(60);

/// Why the flags cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No gateway.
    #[error("name at least one gateway: --gateway http://127.0.0.1:7770")]
    NoGateway,
    /// Too many gateways.
    #[error("{0} gateways are too many: at most {GATEWAYS_MAX}")]
    TooManyGateways(usize),
    /// Not the address of a gateway.
    #[error("`{text}` is not the address of a gateway: {why}")]
    Gateway {
        /// As given.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A gateway without TLS, and nothing that would prove who it is.
    #[error(
        "the gateway {0} would be talked to without TLS, and nothing would prove who answers there: write https://, or add --insecure"
    )]
    Insecure(String),
    /// TLS is set up, and a gateway would be talked to without.
    #[error("the gateway {0} would be talked to without TLS, although {1} is given: write https://")]
    Plain(String, &'static str),
    /// Some gateways with TLS, and some without.
    #[error("the gateway {0} would be talked to without TLS, and another one with it: write https://")]
    Mixed(String),
    /// The TLS files.
    #[error("{0}")]
    Tls(String),
    /// Metrics for other machines.
    #[error(
        "--metrics-listen {0} is reachable from other machines: an agent serves its metrics on this machine only, as 127.0.0.1:9464; a collector elsewhere gets them by --otlp-endpoint"
    )]
    Metrics(SocketAddr),
    /// No address that other machines could reach this one at.
    #[error(
        "--address {0} is no address that other members of a cluster reach this machine at: name one of its own in their network"
    )]
    Address(IpAddr),
    /// Not a Unix socket.
    #[error("Docker's address `{0}` is not supported: use unix:///<path>, or --no-docker")]
    DockerHost(String),
    /// Not an age of images.
    #[error("--image-gc-age `{0}` cannot be used: write at least 1m, as 168h, or never")]
    ImageGcAge(String),
    /// Not two thresholds.
    #[error(
        "--image-gc-high {high} and --image-gc-low {low} cannot be used: use percents up to 100, the low one below the high one"
    )]
    ImageGcPercent {
        /// As given.
        high: u8,
        /// As given.
        low: u8,
    },
    /// Not the name of a node or project.
    #[error(transparent)]
    Name(#[from] skerry_model::InvalidName),
    /// The host name makes no name.
    #[error("the host name `{0}` does not make the name of a node: name one with --node")]
    HostName(String),
}

/// When the agent removes images that it pulled. For `skerry up` too.
#[derive(Debug, Clone, clap::Args)]
pub struct ImageGcArgs {
    /// Remove an image that this agent pulled when nothing on the machine has used it for so long, as 168h; `never`: not for that
    #[arg(long, env = "SKERRY_IMAGE_GC_AGE", value_name = "DURATION", default_value = "168h")]
    pub image_gc_age: String,

    /// From this use of the disk that Docker keeps images on, in percent, remove those unused for the longest time at once; 100: never
    #[arg(long, env = "SKERRY_IMAGE_GC_HIGH", value_name = "PERCENT", default_value_t = 85)]
    pub image_gc_high: u8,

    /// Until its use is down to this
    #[arg(long, env = "SKERRY_IMAGE_GC_LOW", value_name = "PERCENT", default_value_t = 80)]
    pub image_gc_low: u8,
}

impl ImageGcArgs {
    /// Checks the flags.
    pub fn parse(&self) -> Result<ImageGc, ConfigError> {
        let age = match self.image_gc_age.as_str() {
            "never" => None,
            text => {
                let age = skerry_model::quantity::parse_duration(text).ok();
                let age = age.filter(|age| *age >= IMAGE_GC_AGE_MIN);
                Some(age.ok_or_else(|| ConfigError::ImageGcAge(text.to_owned()))?)
            }
        };
        let (high, low) = (self.image_gc_high, self.image_gc_low);
        if high > 100 || low >= high {
            return Err(ConfigError::ImageGcPercent { high, low });
        }
        let high_percent = (high < 100).then_some(high);
        Ok(ImageGc { age, high_percent, low_percent: low, ..ImageGc::default() })
    }
}

/// By what this machine becomes a node, once. One that is enrolled does without, and takes no notice of them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct EnrolArgs {
    /// Enrol with this token, from `skerry token create`; it also says which gateways to trust
    #[arg(long, env = "SKERRY_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<TokenText>,

    /// Enrol with the token in this file (mode 0600), which is read anew at each try
    #[arg(long, env = "SKERRY_TOKEN_FILE", value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,

    /// Enrol without a token, by an operator's `skerry node approve`, at gateways of the authority with this pin; or give --tls-ca
    /// alone
    #[arg(long, env = "SKERRY_CA_PIN", value_name = "PIN")]
    pub ca_pin: Option<KeyId>,
}

/// Flags of `skerry-agent`, each with its environment variable.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    /// Address of a gateway, as https://host:port (http:// without TLS); repeated (or separated by commas) they are tried in turn
    #[arg(long = "gateway", env = "SKERRY_GATEWAY", value_name = "URL", value_delimiter = ',')]
    pub gateways: Vec<String>,

    /// Name of this node: a DNS label; absent: as it enrolled, else the host name
    #[arg(long, visible_alias = "node-name", env = "SKERRY_NODE", value_name = "NAME")]
    pub node: Option<String>,

    /// Project of this node
    #[arg(long, env = "SKERRY_PROJECT", value_name = "NAME", default_value = "default")]
    pub project: String,

    /// Directory for the agent's state; one agent for each
    #[arg(long, env = "SKERRY_AGENT_DATA_DIR", value_name = "DIR", default_value = DATA_DIR_DEFAULT)]
    pub data_dir: PathBuf,

    /// Talk to http:// gateways, without TLS and although nothing proves who they are
    #[arg(long, env = "SKERRY_INSECURE")]
    pub insecure: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take them for the program's own description")]
    pub tls: TlsArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take them for the program's own description")]
    pub enrol: EnrolArgs,

    /// IP address that other members of this node's cluster reach this machine at; absent: its own in the connection to the gateway
    #[arg(long, env = "SKERRY_ADDRESS", value_name = "IP")]
    pub address: Option<IpAddr>,

    /// Run no containers
    #[arg(long, env = "SKERRY_NO_DOCKER")]
    pub no_docker: bool,

    /// Where Docker listens, as unix:///var/run/docker.sock
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    pub docker_host: Option<String>,

    /// Docker's config file with the credentials of registries, as `docker login` writes it; absent: config.json in
    /// $DOCKER_CONFIG, else in ~/.docker, where it is there
    #[arg(long, env = "SKERRY_DOCKER_CONFIG", value_name = "FILE")]
    pub docker_config: Option<PathBuf>,

    /// Directory on a tmpfs for the files of secrets, as Docker sees it too; absent: one in /run or /dev/shm
    #[arg(long, env = "SKERRY_SECRETS_DIR", value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,

    /// Serve /metrics (for Prometheus), /healthz and /readyz on this loopback address; absent: the agent listens nowhere
    #[arg(long, env = "SKERRY_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take them for the program's own description")]
    pub image_gc: ImageGcArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take them for the program's own description")]
    pub gpus: GpuArgs,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take them for the program's own description")]
    pub forbid: ForbidArgs,
}

/// What the agent is.
#[derive(Debug, Clone)]
pub struct Config {
    /// Gateways, tried in turn. At least one.
    pub gateways: Vec<Gateway>,
    /// How they are talked to. Absent: without TLS.
    pub tls: Option<NodeTls>,
    /// Which node it is.
    pub node: NodeRef,
    /// Where its state is. Made if it is not there.
    pub data_dir: PathBuf,
    /// How Docker is reached.
    pub docker: DockerAccess,
    /// Credentials for the registries of images.
    pub credentials: CredentialsFile,
    /// When images go that the agent pulled.
    pub image_gc: ImageGc,
    /// Where GPUs are looked for.
    pub gpus: GpuAccess,
    /// What others may not do on this machine.
    pub forbidden: Forbidden,
    /// Where values of secrets are laid out: on a tmpfs. Absent: in /run or /dev/shm.
    pub secrets_dir: Option<PathBuf>,
    /// Where other members of its cluster reach this machine. Absent: at its own address in the connection to the gateway.
    pub address: Option<IpAddr>,
}

/// How the agent proves to be its node, and which servers count as gateways.
#[derive(Debug, Clone)]
pub struct NodeTls(pub(crate) Means);

/// By what.
#[derive(Debug, Clone)]
pub(crate) enum Means {
    /// A certificate in files.
    Files(Source, Expected),
    /// An identity of its own, in the data directory, which it has or will have by this. The node of [`Config`] is then only how it is
    /// called where it must be called something.
    Own(Box<Enrolment>),
}

impl NodeTls {
    /// By the certificate in `files`, which must be that of `node`: a gateway would refuse any other.
    pub fn new(files: Arc<TlsFiles>, expected: Expected, node: &NodeRef) -> Result<Self, ConfigError> {
        check_owner(&files, node).map_err(ConfigError::Tls)?;
        Ok(Self(Means::Files(Source::Loaded(files), expected)))
    }

    /// By an identity of its own.
    pub fn own(enrolment: Enrolment) -> Self {
        Self(Means::Own(Box::new(enrolment)))
    }
}

/// How Docker is reached. A daemon need not be there: it may come later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerAccess {
    /// Not at all: only processes are run.
    Off,
    /// At this Unix socket.
    Socket(PathBuf),
}

impl DockerAccess {
    /// From the value of `DOCKER_HOST`; absent or empty: the usual place.
    pub fn from_host(host: Option<&str>) -> Result<Self, ConfigError> {
        match host.filter(|host| !host.is_empty()) {
            None => Ok(Self::Socket(DOCKER_SOCKET_DEFAULT.into())),
            Some(host) => match host.strip_prefix("unix://") {
                Some(path) if path.starts_with('/') => Ok(Self::Socket(path.into())),
                _ => Err(ConfigError::DockerHost(host.to_owned())),
            },
        }
    }
}

/// How a gateway's address is written.
const GATEWAY_FORM: &str = "write it as https://host:port";

/// The address of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway(Uri);

impl Gateway {
    /// Parses `http://host:port` or `https://host:port`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why| ConfigError::Gateway { text: text.to_owned(), why };
        let uri: Uri = text.parse().map_err(|_| wrong(GATEWAY_FORM))?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            _ => return Err(wrong(GATEWAY_FORM)),
        }
        if uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none() {
            return Err(wrong(GATEWAY_FORM));
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(wrong("it has a path"));
        }
        Ok(Self(uri))
    }

    /// The address.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether it is talked to with TLS.
    fn is_secured(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl AgentArgs {
    /// Checks the flags.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        if self.gateways.is_empty() {
            return Err(ConfigError::NoGateway);
        }
        if self.gateways.len() > GATEWAYS_MAX {
            return Err(ConfigError::TooManyGateways(self.gateways.len()));
        }
        if let Some(address) = self.metrics_listen.filter(|address| !address.ip().is_loopback()) {
            return Err(ConfigError::Metrics(address));
        }
        if let Some(address) = self.address.filter(|address| !crate::machine::is_reachable(*address)) {
            return Err(ConfigError::Address(address));
        }
        let gateways: Vec<Gateway> =
            self.gateways.iter().map(|text| Gateway::parse(text)).collect::<Result<_, _>>()?;
        let name = self.node.as_deref().map(NodeName::parse).transpose()?;
        let project = ProjectName::parse(&self.project)?;
        let tls = proof(&gateways, &self.tls, self.enrol, name.as_ref(), &project)?;
        if tls.is_none() && !self.insecure {
            return Err(ConfigError::Insecure(gateways[0].uri().to_string()));
        }
        let node = match name {
            Some(name) => name,
            None => default_node_name()?,
        };
        let docker = if self.no_docker {
            DockerAccess::Off
        } else {
            DockerAccess::from_host(self.docker_host.as_deref())?
        };
        let node = NodeRef { project, node };
        let credentials = CredentialsFile::find(self.docker_config);
        let image_gc = self.image_gc.parse()?;
        let (data_dir, secrets_dir) = (self.data_dir, self.secrets_dir);
        let (address, forbidden) = (self.address, self.forbid.parse());
        let gpus = self.gpus.access();
        Ok(Config {
            gateways,
            tls,
            node,
            data_dir,
            docker,
            credentials,
            image_gc,
            gpus,
            forbidden,
            secrets_dir,
            address,
        })
    }
}

/// By what these flags prove who the agent is: files, an identity of its own where a gateway speaks TLS, or nothing. Files are not looked
/// at: an agent whose certificate is broken still runs what is on its disk.
fn proof(
    gateways: &[Gateway],
    tls: &TlsArgs,
    enrol: EnrolArgs,
    name: Option<&NodeName>,
    project: &ProjectName,
) -> Result<Option<NodeTls>, ConfigError> {
    let plain = gateways.iter().find(|gateway| !gateway.is_secured());
    let is_authority_only = tls.tls_cert.is_none() && tls.tls_key.is_none();
    let given = [
        (tls != &TlsArgs::default(), if is_authority_only { "--tls-ca" } else { "--tls-cert" }),
        (enrol.token.is_some(), "--token"),
        (enrol.token_file.is_some(), "--token-file"),
        (enrol.ca_pin.is_some(), "--ca-pin"),
    ];
    if let Some(plain) = plain {
        let address = plain.uri().to_string();
        if let Some((_, flag)) = given.iter().find(|(given, _)| *given) {
            return Err(ConfigError::Plain(address, flag));
        }
        let mixed = gateways.iter().any(Gateway::is_secured);
        return if mixed { Err(ConfigError::Mixed(address)) } else { Ok(None) };
    }
    if is_authority_only {
        let EnrolArgs { token, token_file, ca_pin: pin } = enrol;
        let (authority, node, project) = (tls.tls_ca.clone(), name.cloned(), project.clone());
        return Ok(Some(NodeTls::own(Enrolment { token, token_file, pin, authority, node, project })));
    }
    let paths = tls.paths().map_err(|error| ConfigError::Tls(error.to_string()))?;
    Ok(paths.map(|paths| NodeTls(Means::Files(Source::Paths(paths), Expected::Dialled))))
}

/// The host name, made a DNS label.
pub fn default_node_name() -> Result<NodeName, ConfigError> {
    let host = host_name();
    let label = label_of(&host);
    NodeName::parse(&label).map_err(|_| ConfigError::HostName(host))
}

/// The first label of a host name, in lower case, with what a label cannot hold made dashes.
fn label_of(host: &str) -> String {
    let first = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let clean: String =
        first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    clean.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(gateways: &[&str]) -> AgentArgs {
        AgentArgs {
            gateways: gateways.iter().map(ToString::to_string).collect(),
            node: Some("n1".into()),
            project: "default".into(),
            data_dir: "/tmp/agent".into(),
            insecure: false,
            tls: TlsArgs::default(),
            enrol: EnrolArgs::default(),
            no_docker: false,
            docker_host: None,
            docker_config: None,
            metrics_listen: None,
            image_gc: gc("168h", 85, 80),
            gpus: GpuArgs::default(),
            forbid: ForbidArgs::default(),
            secrets_dir: None,
            address: None,
        }
    }

    fn gc(age: &str, high: u8, low: u8) -> ImageGcArgs {
        ImageGcArgs { image_gc_age: age.into(), image_gc_high: high, image_gc_low: low }
    }

    #[test]
    fn images_go_by_age_and_between_two_thresholds() {
        assert_eq!(gc("168h", 85, 80).parse().unwrap(), ImageGc::default());
        let off = gc("never", 100, 0).parse().unwrap();
        assert_eq!((off.age, off.high_percent), (None, None));
        for bad in ["", "7", "soon", "1s"] {
            assert!(matches!(gc(bad, 85, 80).parse(), Err(ConfigError::ImageGcAge(_))), "{bad}");
        }
        for (high, low) in [(80, 80), (101, 80), (0, 0)] {
            assert!(
                matches!(gc("1h", high, low).parse(), Err(ConfigError::ImageGcPercent { .. })),
                "{high} {low}"
            );
        }
    }

    #[test]
    fn without_tls_every_gateway_needs_insecure() {
        for plain in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1/", "http://10.0.0.1:1"] {
            let error = args(&[plain]).into_config().unwrap_err();
            assert!(matches!(&error, ConfigError::Insecure(uri) if uri.starts_with(plain)), "{error}");
            let insecure = AgentArgs { insecure: true, ..args(&[plain]) };
            assert!(insecure.into_config().is_ok(), "{plain}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_dialled_is_refused() {
        for bad in [
            "",
            "127.0.0.1:1",
            "ftp://127.0.0.1:1",
            "https://127.0.0.1",
            "http://127.0.0.1",
            "http://:1",
            "http://a:1/x",
        ] {
            assert!(matches!(Gateway::parse(bad), Err(ConfigError::Gateway { .. })), "{bad}");
        }
        assert!(matches!(args(&[]).into_config(), Err(ConfigError::NoGateway)));
    }

    #[test]
    fn who_speaks_tls_has_files_or_an_identity_of_its_own() {
        let means = |args: AgentArgs| args.into_config().map(|config| config.tls.map(|tls| tls.0));
        let plain = |gateways: &[&str]| AgentArgs { insecure: true, ..args(gateways) };
        assert!(matches!(means(plain(&["http://127.0.0.1:1"])), Ok(None)));
        let secured = || args(&["https://a:1"]);
        assert!(matches!(means(secured()), Ok(Some(Means::Own(_)))));
        let ca = TlsArgs { tls_ca: Some("/nowhere".into()), ..TlsArgs::default() };
        let own = means(AgentArgs { tls: ca.clone(), ..secured() });
        assert!(matches!(own, Ok(Some(Means::Own(enrolment))) if enrolment.authority.is_some()));
        // They are not looked at: an agent whose certificate is broken starts.
        let (tls_cert, tls_key) = (Some("/nowhere".into()), Some("/nowhere".into()));
        let files = means(AgentArgs { tls: TlsArgs { tls_cert, tls_key, ..ca.clone() }, ..secured() });
        assert!(matches!(files, Ok(Some(Means::Files(Source::Paths(_), _)))));
        let half = means(AgentArgs { tls: TlsArgs { tls_key: Some("k".into()), ..ca.clone() }, ..secured() });
        assert!(matches!(half, Err(ConfigError::Tls(why)) if why.ends_with("--tls-cert is missing")));

        let enrol = EnrolArgs { ca_pin: Some(KeyId::from_bytes([1; 32])), ..EnrolArgs::default() };
        let pinned = means(AgentArgs { enrol, ..plain(&["http://127.0.0.1:1"]) });
        assert!(matches!(pinned, Err(ConfigError::Plain(_, "--ca-pin"))));
        let mixed = means(plain(&["http://127.0.0.1:1", "https://127.0.0.1:2"]));
        assert!(matches!(mixed, Err(ConfigError::Mixed(_))));
    }

    #[test]
    fn an_agent_listens_for_nobody_but_its_machine() {
        let listening = |address: &str| AgentArgs {
            metrics_listen: Some(address.parse().unwrap()),
            insecure: true,
            ..args(&["http://127.0.0.1:1"])
        };
        assert!(listening("127.0.0.1:9464").into_config().is_ok());
        let error = listening("0.0.0.0:9464").into_config().unwrap_err().to_string();
        assert!(error.starts_with("--metrics-listen 0.0.0.0:9464 is reachable"), "{error}");
    }

    #[test]
    fn docker_is_reached_by_its_socket() {
        let at = |path: &str| DockerAccess::Socket(path.into());
        assert_eq!(DockerAccess::from_host(None).unwrap(), at("/var/run/docker.sock"));
        assert_eq!(DockerAccess::from_host(Some("unix:///run/d.sock")).unwrap(), at("/run/d.sock"));
        for bad in ["tcp://127.0.0.1:2375", "unix://run/d.sock", "/run/d.sock"] {
            assert!(DockerAccess::from_host(Some(bad)).is_err(), "{bad}");
        }
        let off = AgentArgs {
            no_docker: true,
            docker_host: Some("tcp://a:1".into()),
            insecure: true,
            ..args(&["http://[::1]:1"])
        };
        assert_eq!(off.into_config().unwrap().docker, DockerAccess::Off);
    }

    #[test]
    fn a_host_name_becomes_a_label() {
        assert_eq!(label_of("Edge_7.example.org"), "edge-7");
        assert_eq!(label_of("--x--"), "x");
        assert_eq!(label_of(&"a".repeat(80)).len(), 63);
        assert_eq!(label_of("..."), "");
    }
}
