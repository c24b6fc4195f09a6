//! The node registry: who is in the fleet, how they are, what happened.
//!
//! It follows the store and answers from memory. It writes what operators decide about nodes; what nodes report is written by their gateway.
//! It lets machines in (`enrol`) and issues certificates ([`authority`]) where the installation has an authority; without one all else works.

mod access;
mod audit;
pub mod authority;
mod clusters;
mod enrol;
mod events;
mod follow;
mod installation;
mod keys;
mod nodes;
mod projects;
mod tasks;
mod view;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skerry_api::AccessMirror;
use skerry_daemon::{ServiceArgs, Shutdown};
use skerry_identity::key_file::KeyFile;
use skerry_identity::key_ring::KeyRingError;
use skerry_identity::seal::KeyEncryption;
use skerry_proto::registry::v1::audit_service_server::AuditServiceServer;
use skerry_proto::registry::v1::cluster_service_server::ClusterServiceServer;
use skerry_proto::registry::v1::enrollment_request_service_server::EnrollmentRequestServiceServer;
use skerry_proto::registry::v1::event_service_server::EventServiceServer;
use skerry_proto::registry::v1::installation_service_server::InstallationServiceServer;
use skerry_proto::registry::v1::issuer_service_server::{IssuerService, IssuerServiceServer};
use skerry_proto::registry::v1::node_service_server::NodeServiceServer;
use skerry_proto::registry::v1::project_service_server::ProjectServiceServer;
use skerry_proto::registry::v1::task_service_server::TaskServiceServer;
use skerry_proto::registry::v1::token_service_server::TokenServiceServer;
use skerry_resources::{Apply, SecretKeys};
use skerry_rpc::{MESSAGE_BYTES_MAX, Server};
use skerry_store::{AuditKeep, Mirror, Store, WaitError};

pub use crate::access::count_first_admin_key;

use crate::access::Access;
use crate::audit::Audit;
use crate::authority::Issuer;
use crate::clusters::Clusters;
use crate::enrol::{Enroller, Issuing, Tokens, Waiting};
use crate::events::Events;
use crate::follow::Shared;
use crate::installation::Installations;
use crate::nodes::Nodes;
use crate::projects::{Projects, adopt};
use crate::tasks::Tasks;

/// Flags of the `skerry-registry` process.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub service: ServiceArgs<7771>,

    /// File of the keys under which the authority's key is sealed (`skerry authority init` makes it), for issuing certificates; absent: none
    /// are issued here
    #[arg(long, env = "SKERRY_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become the title of all flags in --help")]
    pub audit: AuditArgs,
}

/// Flags of the audit log's retention.
#[derive(Debug, Clone, clap::Args)]
pub struct AuditArgs {
    /// Records of the audit log that are older are removed, as 90d
    #[arg(long, env = "SKERRY_AUDIT_AGE", value_name = "DURATION", default_value = "2160h", value_parser = age)]
    pub audit_age: Duration,

    /// Of more records in one chain of the audit log the oldest are removed
    #[arg(long, env = "SKERRY_AUDIT_RECORDS", value_name = "COUNT", default_value_t = AUDIT_RECORDS,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub audit_records: u64,
}

impl AuditArgs {
    /// What is kept.
    pub fn keep(&self) -> AuditKeep {
        AuditKeep { age_max: self.audit_age, records_max: self.audit_records }
    }
}

/// How long records of the audit log are kept where nothing is said.
const AUDIT_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How many of each chain.
const AUDIT_RECORDS: u64 = 100_000;

fn age(text: &str) -> Result<Duration, String> {
    match skerry_model::quantity::parse_duration(text).map_err(|error| error.to_string())? {
        Duration::ZERO => Err("no record would be kept: use a longer time, as 2160h".to_owned()),
        age => Ok(age),
    }
}

/// How a registry behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// What opens the authority's key. Absent: no certificates are issued here.
    pub keys: Option<Arc<dyn KeyEncryption>>,
    /// What of the audit log is kept.
    pub audit: AuditKeep,
    /// The id of this replica, by which it is known who works on a task.
    pub member: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys: None,
            audit: AuditKeep { age_max: AUDIT_AGE, records_max: AUDIT_RECORDS },
            member: uuid::Uuid::new_v4().to_string(),
        }
    }
}

impl Config {
    /// With the keys in the file at `path`, if one is named.
    pub fn with_key_file(path: Option<&Path>) -> Result<Self, KeyRingError> {
        let keys = path.map(KeyFile::load).transpose()?;
        Ok(Self { keys: keys.map(|keys| Arc::new(keys) as Arc<dyn KeyEncryption>), ..Self::default() })
    }
}

/// Why a registry did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The fleet could not be read.
    #[error("reading the fleet from the store: {0}")]
    Store(#[from] WaitError),
}

/// A running registry.
pub struct Registry {
    store: Store,
    mirror: Mirror,
    nodes: Nodes,
    clusters: Clusters,
    projects: Projects,
    tasks: Tasks,
    events: Events,
    installation: Installations,
    tokens: Tokens,
    enroller: Enroller,
    access: Access,
    audit: Audit,
}

impl Registry {
    /// Reads the fleet, then follows the store until `shutdown`. `access` is what its server judges callers by.
    pub async fn start(
        config: Config,
        store: Store,
        access: &AccessMirror,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let shared = Arc::new(Shared::new(&store));
        let issuer = Issuer::new(&store, config.keys);
        shared.mirror.ready().await?;
        issuer.ready().await?;
        shutdown.spawn(follow::follow(Arc::clone(&shared), shutdown.clone()));
        let projects = Projects::start(&store, shutdown).await?;
        adopt(&store, [projects.mirror(), &shared.mirror, access.mirror()]).await;
        let events = Events::new(Arc::clone(&shared), &store, shutdown.clone());
        let installation = Installations::new(Arc::clone(&shared), store.clone());
        let nodes = Nodes::new(Arc::clone(&shared), store.clone(), shutdown.clone());
        let clusters = Clusters::new(Arc::clone(&shared), store.clone(), shutdown.clone());
        let works_on = (Arc::clone(&shared), nodes.clone(), projects.clone());
        let tasks = Tasks::start(&store, config.member, works_on, shutdown).await?;
        let tokens = Tokens::new(Arc::clone(&shared), store.clone(), issuer.clone());
        shutdown.spawn(enrol::sweep(Arc::clone(&shared), store.clone(), shutdown.clone()));
        let audit = Audit::new(&store, shutdown.clone());
        shutdown.spawn(audit::retain(store.clone(), config.audit, shutdown.clone()));
        let access = Access::start(&store, access, issuer.clone(), shutdown);
        let mirror = shared.mirror.clone();
        let enroller = Enroller::new(shared, store.clone(), issuer, nodes.clone());
        Ok(Self {
            store,
            mirror,
            nodes,
            clusters,
            projects,
            tasks,
            events,
            installation,
            tokens,
            enroller,
            access,
            audit,
        })
    }

    /// What a gateway in the same process asks for machines that enrol and nodes that renew.
    pub fn issuing(&self) -> Arc<dyn IssuerService> {
        Arc::new(Issuing(self.enroller.clone()))
    }

    /// Adds what changes several resources together, where no scheduler beside it does. It has no keys, and so takes no secrets.
    pub fn register_apply(&self, server: &mut Server) {
        Apply::new(self.store.clone(), SecretKeys::none(), self.mirrors()).register(server);
    }

    /// What its answers are of: whoever changes resources beside it in the same process waits until these show it.
    pub fn mirrors(&self) -> [Mirror; 3] {
        [self.mirror.clone(), self.projects.mirror().clone(), self.access.mirror().clone()]
    }

    /// Adds the handlers to a server.
    pub fn register(&self, server: &mut Server) {
        self.access.register(server);
        let audit = AuditServiceServer::new(self.audit.clone());
        let nodes = NodeServiceServer::new(self.nodes.clone());
        let clusters = ClusterServiceServer::new(self.clusters.clone());
        let projects = ProjectServiceServer::new(self.projects.clone());
        let tasks = TaskServiceServer::new(self.tasks.clone());
        let events = EventServiceServer::new(self.events.clone());
        let waiting = EnrollmentRequestServiceServer::new(Waiting(self.enroller.clone()));
        let issuing = IssuerServiceServer::new(Issuing(self.enroller.clone()));
        server
            .add(TokenServiceServer::new(self.tokens.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add(
                audit
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(waiting.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add(issuing.max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add(
                InstallationServiceServer::new(self.installation.clone())
                    .max_decoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                nodes
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                clusters
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                projects
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                tasks
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .add(
                events
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            );
    }
}
