//! Calls to the servers: connected when first needed, each under a deadline, tried again where that is safe.
//!
//! Every call here may be tried again: reads change nothing, and mutations carry a request id that the server remembers, or do no harm when
//! they are made twice. Which calls there are is in [`crate::item`] and [`crate::commands`].

use std::future::Future;
use std::time::Duration;

use rand::RngExt as _;
use skerry_manifest::{Positions, Project};
use skerry_model::ProjectName;
use skerry_proto::registry::v1::audit_service_client::AuditServiceClient;
use skerry_proto::registry::v1::enrollment_request_service_client::EnrollmentRequestServiceClient;
use skerry_proto::registry::v1::event_service_client::EventServiceClient;
use skerry_proto::registry::v1::grant_service_client::GrantServiceClient;
use skerry_proto::registry::v1::group_service_client::GroupServiceClient;
use skerry_proto::registry::v1::installation_service_client::InstallationServiceClient;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_proto::registry::v1::role_binding_service_client::RoleBindingServiceClient;
use skerry_proto::registry::v1::token_service_client::TokenServiceClient;
use skerry_proto::registry::v1::user_service_client::UserServiceClient;
use skerry_proto::relay::v1::relay_service_client::RelayServiceClient;
use skerry_proto::scheduler::v1::app_service_client::AppServiceClient;
use skerry_proto::scheduler::v1::apply_service_client::ApplyServiceClient;
use skerry_proto::scheduler::v1::config_service_client::ConfigServiceClient;
use skerry_proto::scheduler::v1::placement_service_client::PlacementServiceClient;
use skerry_proto::scheduler::v1::rollout_service_client::RolloutServiceClient;
use skerry_proto::scheduler::v1::secret_service_client::SecretServiceClient;
use skerry_rpc::{ClientTls, ConnectError, MESSAGE_BYTES_MAX, Traced};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::error::{CliError, is_timeout, is_transport_failure, speaks_tls};
use crate::renewal::Own;
use crate::settings::Settings;
use crate::watch::is_version_gone;

/// How often a call is tried again when the server was not reached.
const RETRIES_MAX: u32 = 4;
/// First wait before a retry; doubles up to [`BACKOFF_MAX`], with full jitter.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Which service a call goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Registry,
    Scheduler,
    Relay,
    Gpu,
}

/// The servers, and in which project to work.
pub(crate) struct Client {
    registry: Remote,
    scheduler: Remote,
    relay: Remote,
    gpu: Remote,
    project: ProjectName,
    project_is_required: bool,
    timeout: Duration,
    own: Option<Own>,
}

struct Remote {
    address: String,
    tls: Option<ClientTls>,
    channel: OnceCell<Channel>,
}

impl Remote {
    fn new(address: String, tls: Option<ClientTls>) -> Self {
        Self { address, tls, channel: OnceCell::new() }
    }

    async fn channel(&self) -> Result<Channel, ConnectError> {
        self.channel.get_or_try_init(|| skerry_rpc::connect(&self.address, self.tls.as_ref())).await.cloned()
    }

    fn refused(&self, status: Status) -> CallError {
        CallError::Status(Box::new(status), self.address.clone())
    }
}

/// Why a call brought no answer.
pub(crate) enum CallError {
    /// The server could not be reached at all.
    Connect(ConnectError),
    /// The call failed, or was refused by the server at this address.
    Status(Box<Status>, String),
}

impl CallError {
    /// The status that the server gave, if it was reached.
    pub(crate) fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Connect(_) => None,
            Self::Status(status, _) => Some(status.code()),
        }
    }

    /// Whether a watch must list again.
    pub(crate) fn is_version_gone(&self) -> bool {
        matches!(self, Self::Status(status, _) if is_version_gone(status))
    }

    /// Whether the server could not be reached, or did not answer.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(error) => matches!(error, ConnectError::Unreachable { .. }),
            Self::Status(status, _) => {
                (is_transport_failure(status) && !speaks_tls(status))
                    || status.code() == tonic::Code::DeadlineExceeded
            }
        }
    }

    /// As `From`, with fields shown where the manifest has them.
    pub(crate) fn in_manifest(self, file: &str, positions: &Positions) -> CliError {
        match self {
            Self::Connect(error) => CliError::of_connect(error),
            Self::Status(status, address) => CliError::of_manifest_status(&status, &address, file, positions),
        }
    }
}

impl From<CallError> for CliError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Connect(error) => CliError::of_connect(error),
            CallError::Status(status, address) => CliError::of_status(&status, &address),
        }
    }
}

impl Client {
    /// Reads the TLS files, if there are any, and asks nobody yet.
    pub(crate) fn new(settings: Settings, timeout: Duration) -> Result<Self, CliError> {
        let mut own = None;
        let mut tls = None;
        if let Some(paths) = settings.tls {
            let (client, says) = crate::tls::load(paths.clone())?;
            tls = Some(client);
            own = says.map(|says| Own { paths, says });
        }
        Ok(Self {
            own,
            registry: Remote::new(settings.registry, tls.clone()),
            scheduler: Remote::new(settings.scheduler, tls.clone()),
            relay: Remote::new(settings.relay, tls.clone()),
            gpu: Remote::new(settings.gpu, tls),
            project: settings.project,
            project_is_required: settings.project_is_required,
            timeout,
        })
    }

    /// By which certificate it calls.
    pub(crate) fn own(&self) -> Option<&Own> {
        self.own.as_ref()
    }

    /// Calls the registry once, within `patience`.
    pub(crate) async fn once<T, Fut>(
        &self,
        patience: Duration,
        attempt: impl FnOnce(Channel) -> Fut,
    ) -> Result<T, CallError>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let calling = async {
            let channel = self.registry.channel().await.map_err(CallError::Connect)?;
            let answer = attempt(channel).await;
            answer.map(Response::into_inner).map_err(|status| self.registry.refused(status))
        };
        let silent = || Status::deadline_exceeded(format!("no answer within {patience:?}"));
        let outcome = tokio::time::timeout(patience, calling).await;
        outcome.unwrap_or_else(|_| Err(self.registry.refused(silent())))
    }

    /// Makes a call to a relay once: what it does must not be done twice. Answers when the relay has begun to.
    pub(crate) async fn relay_once<T, Fut>(
        &self,
        attempt: impl FnOnce(Channel) -> Fut,
    ) -> Result<T, CallError>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let calling = async {
            let channel = self.relay.channel().await.map_err(CallError::Connect)?;
            let answer = attempt(channel).await;
            answer.map(Response::into_inner).map_err(|status| self.relay.refused(status))
        };
        let silent = || Status::deadline_exceeded(format!("no answer within {:?}", self.timeout));
        let outcome = tokio::time::timeout(self.timeout, calling).await;
        outcome.unwrap_or_else(|_| Err(self.relay.refused(silent())))
    }

    /// The port of the one server that has all services, as `skerry up` has; `None`: they are apart.
    pub(crate) fn single_port(&self) -> Option<u16> {
        let (registry, scheduler) = (&self.registry.address, &self.scheduler.address);
        if registry != scheduler {
            return None;
        }
        registry.parse::<tonic::codegen::http::Uri>().ok()?.port_u16()
    }

    /// Where a relay answers.
    pub(crate) fn relay_address(&self) -> &str {
        &self.relay.address
    }

    /// Where the gpu service answers.
    pub(crate) fn gpu_address(&self) -> &str {
        &self.gpu.address
    }

    /// A connection to a relay, for a call that cannot be made again.
    pub(crate) async fn relay_channel(&self) -> Result<Channel, CallError> {
        self.relay.channel().await.map_err(CallError::Connect)
    }

    /// The project to work in.
    pub(crate) fn project(&self) -> &ProjectName {
        &self.project
    }

    /// The project for manifests.
    pub(crate) fn manifest_project(&self) -> Project {
        if self.project_is_required {
            Project::Required(self.project.clone())
        } else {
            Project::Default(self.project.clone())
        }
    }

    /// Calls `service`, again if it was not reached, until the deadline of one call is over. `attempt` must be safe to repeat.
    pub(crate) async fn call<T, Fut>(
        &self,
        service: Service,
        attempt: impl Fn(Channel, Duration) -> Fut,
    ) -> Result<T, CallError>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let remote = match service {
            Service::Registry => &self.registry,
            Service::Scheduler => &self.scheduler,
            Service::Relay => &self.relay,
            Service::Gpu => &self.gpu,
        };
        let deadline = Instant::now() + self.timeout;
        let mut tries = 0;
        let mut said = None;
        loop {
            let channel = remote.channel().await.map_err(CallError::Connect)?;
            let left = deadline.saturating_duration_since(Instant::now());
            let outcome = tokio::time::timeout(left, attempt(channel, left)).await;
            let status = match outcome {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) if is_timeout(&status) => said.unwrap_or(status),
                Ok(Err(status)) => status,
                Err(_) => {
                    let silent = || Status::deadline_exceeded(format!("no answer within {:?}", self.timeout));
                    said.unwrap_or_else(silent)
                }
            };
            let wait = asked_wait(&status) + jittered(tries);
            let worth_it = (is_transport_failure(&status) && !speaks_tls(&status)) || is_contended(&status);
            if !worth_it || tries >= RETRIES_MAX || Instant::now() + wait >= deadline {
                return Err(remote.refused(status));
            }
            tries += 1;
            // What the server said says more than that there was too little time for another try.
            said = Some(status);
            tokio::time::sleep(wait).await;
        }
    }
}

/// How long the server asks to wait at least before the next try.
fn asked_wait(status: &Status) -> Duration {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    asked.unwrap_or_default().min(BACKOFF_MAX)
}

/// Whether the server gave up because others kept changing the same thing; nothing was written.
fn is_contended(status: &Status) -> bool {
    status.code() == tonic::Code::Aborted
        && skerry_rpc::fault_of(status).metadata.get("reason").is_some_and(|reason| reason == "CONTENDED")
}

/// The wait before the retry after `tries` retries: up to `BACKOFF * 2^tries`, with full jitter.
pub(crate) fn jittered(tries: u32) -> Duration {
    let most = BACKOFF.saturating_mul(1 << tries.min(8)).min(BACKOFF_MAX);
    most.mul_f64(rand::rng().random_range(0.1..=1.0))
}

/// A request that tells the server how long the caller waits.
pub(crate) fn request<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// A fresh id for one mutation, sent with each try of it.
pub(crate) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

pub(crate) fn nodes(channel: Channel) -> NodeServiceClient<Traced> {
    NodeServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn installation(channel: Channel) -> InstallationServiceClient<Traced> {
    InstallationServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn events(channel: Channel) -> EventServiceClient<Traced> {
    EventServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn audit(channel: Channel) -> AuditServiceClient<Traced> {
    AuditServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn tokens(channel: Channel) -> TokenServiceClient<Traced> {
    TokenServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn enrollments(channel: Channel) -> EnrollmentRequestServiceClient<Traced> {
    EnrollmentRequestServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn users(channel: Channel) -> UserServiceClient<Traced> {
    UserServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn groups(channel: Channel) -> GroupServiceClient<Traced> {
    GroupServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn bindings(channel: Channel) -> RoleBindingServiceClient<Traced> {
    RoleBindingServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn grants(channel: Channel) -> GrantServiceClient<Traced> {
    GrantServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn apps(channel: Channel) -> AppServiceClient<Traced> {
    AppServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn relay(channel: Channel) -> RelayServiceClient<Traced> {
    RelayServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn applying(channel: Channel) -> ApplyServiceClient<Traced> {
    ApplyServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn placement(channel: Channel) -> PlacementServiceClient<Traced> {
    PlacementServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn rollouts(channel: Channel) -> RolloutServiceClient<Traced> {
    RolloutServiceClient::new(Traced::new(channel))
}

pub(crate) fn configs(channel: Channel) -> ConfigServiceClient<Traced> {
    ConfigServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn secrets(channel: Channel) -> SecretServiceClient<Traced> {
    SecretServiceClient::new(Traced::new(channel)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn client(server: &str) -> Client {
        let settings = Settings {
            registry: server.to_owned(),
            scheduler: server.to_owned(),
            relay: server.to_owned(),
            gpu: server.to_owned(),
            project: ProjectName::parse("default").expect("valid"),
            project_is_required: false,
            tls: None,
        };
        Client::new(settings, Duration::from_secs(5)).expect("without files")
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        for tries in 0..40 {
            let wait = jittered(tries);
            assert!(wait >= BACKOFF / 10 && wait <= BACKOFF_MAX, "{wait:?}");
        }
    }

    #[tokio::test]
    async fn an_absent_server_is_told_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        drop(listener);
        let outcome: Result<(), _> =
            client(&address).call(Service::Registry, |_, _| async { Ok(Response::new(())) }).await;
        assert!(outcome.is_err_and(|error| error.is_unreachable()));
    }

    #[tokio::test]
    async fn what_was_not_reached_is_tried_again_and_a_refusal_is_not() {
        // A listener that never answers is enough: the attempts below use no channel.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = client(&format!("http://{}", listener.local_addr().expect("bound")));
        let tries = Cell::new(0);
        let again = server.call(Service::Scheduler, |_, _| {
            tries.set(tries.get() + 1);
            let failed = tries.get() < 3;
            async move { if failed { Err(Status::unavailable("not yet")) } else { Ok(Response::new(7)) } }
        });
        assert_eq!(again.await.ok(), Some(7));
        assert_eq!(tries.get(), 3);
        let once = Cell::new(true);
        let told: Result<(), _> = Client { timeout: Duration::from_millis(700), ..server }
            .call(Service::Scheduler, |_, _| {
                let first = once.replace(false);
                async move {
                    if first { Err(Status::unavailable("no store")) } else { std::future::pending().await }
                }
            })
            .await;
        let told = told.err().map(CliError::from).and_then(|error| error.text()).unwrap_or_default();
        assert!(told.contains("no store"), "what the server said is kept: {told}");
        let server = client(&format!("http://{}", listener.local_addr().expect("bound")));
        let refused: Result<(), _> = server
            .call(Service::Scheduler, |_, _| {
                tries.set(tries.get() + 1);
                async { Err(Status::invalid_argument("no")) }
            })
            .await;
        assert_eq!(refused.err().and_then(|error| error.code()), Some(tonic::Code::InvalidArgument));
        assert_eq!(tries.get(), 4);
    }
}
