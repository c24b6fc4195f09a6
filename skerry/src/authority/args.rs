//! What `skerry authority` is told.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use skerry_daemon::EtcdTlsArgs;
use skerry_identity::TrustDomain;

/// `authority`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
`skerry up` does all of this by itself, in its data directory. This is for services that run apart, and for care by hand: stop
`skerry up` and name its directory with --data-dir. All of it may be said again: what is done stays, and what is good is kept.

Examples:
  skerry authority init --etcd http://127.0.0.1:2379 --key-file /etc/skerry/keys --authority-dir /etc/skerry/authority
  skerry authority issue service registry --dns registry.example.org --out /etc/skerry/tls
  skerry authority issue user ada --project shop --out ./ada
  skerry authority rotate --data-dir /var/lib/skerry")]
pub(crate) struct AuthorityArgs {
    #[command(flatten)]
    pub(crate) place: Where,
    #[command(subcommand)]
    pub(crate) command: Sub,
}

/// Where the store and the keys are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Where {
    /// The store: http://host:port of etcd (https:// with --etcd-ca), several with commas, or unix:/path
    #[arg(
        long,
        global = true,
        env = "SKERRY_ETCD",
        default_value = "http://127.0.0.1:2379",
        value_name = "TARGET"
    )]
    pub(crate) etcd: String,

    #[command(flatten)]
    pub(crate) etcd_tls: EtcdTlsArgs,

    /// The data directory of a `skerry up` that does not run: its store, its key file and its authority directory
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// File that keys are sealed under, made by `init` where there is none; only its owner may read it, and it belongs into a backup apart from the store's
    #[arg(long, global = true, env = "SKERRY_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Directory of the roots' keys, sealed under the key file; needed to make, renew and rotate, not to issue
    #[arg(long, global = true, env = "SKERRY_AUTHORITY_DIR", value_name = "DIR")]
    pub(crate) authority_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Sub {
    /// Make the authority, if there is none; renew its intermediate, if it is time; seal its keys under the newest key of the key file
    Init(InitArgs),
    /// Show the trust domain and the pins of the roots that are trusted
    Show,
    /// Make a new intermediate: once two thirds of the present one's life are over, or --force
    Renew(ForceArgs),
    /// Make a new root; the former one stays trusted until `retire`
    Rotate,
    /// Trust the former root no more, once what was issued under it has expired, or --force
    Retire(ForceArgs),
    /// Write a certificate, its key and the roots into files; what is there is kept while more than a third of its life is left
    #[command(subcommand)]
    Issue(IssueCommand),
}

/// `init`
#[derive(Debug, Clone, Args)]
pub(crate) struct InitArgs {
    /// Trust domain of the installation, which its names begin with; chosen once [default: skerry.internal]
    #[arg(long, value_name = "NAME", value_parser = TrustDomain::parse)]
    pub(crate) domain: Option<TrustDomain>,
}

/// `renew`, `retire`
#[derive(Debug, Clone, Args)]
pub(crate) struct ForceArgs {
    /// Do it now
    #[arg(long)]
    pub(crate) force: bool,
}

/// `issue`
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum IssueCommand {
    /// For a service: registry, scheduler, gateway
    Service(ServiceCertificate),
    /// For a person, or a program of theirs, of the project that --project names; `system` is the installation's own
    User(UserCertificate),
}

/// What certificates have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct IssueArgs {
    /// Directory for NAME.crt, NAME.key and ca.crt
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,

    /// How long it is valid: 720h at most, and by default
    #[arg(long, value_name = "DURATION")]
    pub(crate) life: Option<String>,
}

/// `issue service`
#[derive(Debug, Clone, Args)]
pub(crate) struct ServiceCertificate {
    /// Its name: a DNS label
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// DNS name that it is reached by; may be repeated, or separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) dns: Vec<String>,

    /// Address that it is reached by; may be repeated, or separated by commas
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) ip: Vec<IpAddr>,

    #[command(flatten)]
    pub(crate) common: IssueArgs,
}

/// `issue user`
#[derive(Debug, Clone, Args)]
pub(crate) struct UserCertificate {
    /// Its name: a DNS label
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) common: IssueArgs,
}
