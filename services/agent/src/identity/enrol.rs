//! How a machine becomes a node: it asks gateways in turn until one says so.
//!
//! With a token, which has the pin of the root to trust; or, without one, until an operator has approved the fingerprint of its key: then
//! `--ca-pin` or `--tls-ca` says whom to trust, or, where a former identity was struck out, the roots that it had.
//!
//! It never gives up. A token that is refused is told, and tried again slowly: under systemd an agent that ended would be started again
//! anyway, faster and with no memory of what it has told; what is wrong may be the clock or the store of the other side; and a file that is
//! named by --token-file may get another token at any time. Only a text after --token that can be no token ends it.
//!
//! A machine whose key was struck out does not come back by the token that it had: else to revoke a node would mean nothing wherever a
//! token may be used twice.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use prost::bytes::Bytes;
use skerry_identity::clock::TimeFloor;
use skerry_identity::csr::Request;
use skerry_identity::fingerprint::Fingerprint;
use skerry_identity::key_store::KeyStore as _;
use skerry_identity::tls::Credentials;
use skerry_identity::token::Token;
use skerry_identity::verify::{Expected, Time};
use skerry_identity::{KeyId, SecretBytes, Trust, TrustBundle, private_file};
use skerry_model::{NodeName, ProjectName};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::enroll_response::Outcome;
use skerry_proto::gateway::v1::enrollment_service_client::EnrollmentServiceClient;
use skerry_rpc::{ClientTls, Presented};
use tonic::Code;

use super::kept::{Generation, Kept, Record};
use super::own::Own;
use crate::clock::random_unit;
use crate::config::Gateway;
use crate::machine::machine_fingerprint;
use crate::uplink::connect;

/// Longest that one question may take: the registry writes before it answers.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest answer: a chain and some roots.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// First and longest wait after a failure that may pass by itself.
const SOON: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// First and longest wait after a refusal, which mostly stays one.
const SLOWLY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// Shortest and longest wait that a gateway may ask for while an operator makes up his mind.
const PENDING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A token as it was given. Not printed.
#[derive(Clone)]
pub struct TokenText(Arc<SecretBytes>);

impl TokenText {
    /// What was given. The name is there to be searched for in review.
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

impl FromStr for TokenText {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(Arc::new(SecretBytes::new(text.as_bytes().to_vec()))))
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(redacted)")
    }
}

/// By what a machine enrols.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// `--token`.
    pub token: Option<TokenText>,
    /// `--token-file`: read anew each time.
    pub token_file: Option<PathBuf>,
    /// `--ca-pin`: the root to trust while it waits for approval.
    pub pin: Option<KeyId>,
    /// `--tls-ca`: likewise.
    pub authority: Option<PathBuf>,
    /// The name to ask for. Absent: as the token says, else the host name.
    pub node: Option<NodeName>,
    /// The project to ask in, where no token says it.
    pub project: ProjectName,
}

/// Why a machine cannot even begin to enrol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoWayIn {
    #[error(
        "this machine is not enrolled, and the gateway speaks TLS: give --token (from `skerry token create`), or, to wait for approval, --ca-pin or --tls-ca"
    )]
    Nothing,
    #[error("--token: {0}")]
    Token(skerry_identity::token::InvalidToken),
}

/// What another identity takes the place of.
pub(crate) struct Former {
    trust: Arc<Trust>,
    token_id: String,
    node: NodeName,
}

impl From<&mut Own> for Former {
    fn from(own: &mut Own) -> Self {
        Self {
            trust: Arc::clone(own.trust()),
            token_id: own.token_id().to_owned(),
            node: own.node().node.clone(),
        }
    }
}

/// Asks until the machine is a node.
#[derive(Debug, Clone)]
pub(crate) struct Enroller {
    enrolment: Enrolment,
    gateways: Vec<Gateway>,
    kept: Kept,
}

/// How one question ended, if not well.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    /// What to tell, if it is news.
    why: String,
    pace: Pace,
}

/// The troubles of before: each gateway's is told once, and again when it is another.
#[derive(Debug)]
struct Troubles {
    last: Vec<Option<String>>,
    attempts: u32,
}

impl Troubles {
    fn new(gateways: usize) -> Self {
        Self { last: vec![None; gateways], attempts: 0 }
    }

    /// Takes the trouble with the gateway of this index: the how manieth it is since something changed, from 0.
    fn attempt(&mut self, gateway: usize, why: &str) -> u32 {
        let last = &mut self.last[gateway];
        if last.as_deref() != Some(why) {
            tracing::warn!("not enrolled yet: {why}");
            if last.replace(why.to_owned()).is_some() {
                self.attempts = 0;
            }
        }
        let attempt = self.attempts;
        self.attempts = attempt.saturating_add(1);
        attempt
    }
}

/// When to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Soon,
    Slowly,
    After(Duration),
}

/// Whom the question is put to, and with what.
struct Way {
    tls: ClientTls,
    token: Option<(Token, &'static str)>,
    text: String,
}

impl Enrolment {
    /// Whether a machine that is not enrolled could be, by these flags.
    pub(crate) fn check(&self) -> Result<(), NoWayIn> {
        if let Some(text) = &self.token {
            return parse(text.expose()).map(drop).map_err(NoWayIn::Token);
        }
        let any = self.token_file.is_some() || self.pin.is_some() || self.authority.is_some();
        if any { Ok(()) } else { Err(NoWayIn::Nothing) }
    }

    /// The token, and the flag that names it.
    fn token(&self) -> Result<Option<(Token, &'static str)>, String> {
        let (flag, read) = match (&self.token, &self.token_file) {
            (Some(text), _) => ("--token", parse(text.expose())),
            (None, Some(path)) => {
                let bytes = private_file::read(path).map_err(|error| format!("--token-file: {error}"))?;
                let bytes =
                    bytes.ok_or_else(|| format!("--token-file {}: there is no such file", path.display()))?;
                ("--token-file", parse(&bytes))
            }
            (None, None) => return Ok(None),
        };
        read.map(|token| Some((token, flag))).map_err(|error| format!("{flag}: {error}"))
    }
}

fn parse(text: &[u8]) -> Result<Token, skerry_identity::token::InvalidToken> {
    // What is no text has no prefix of ours.
    Token::parse(std::str::from_utf8(text).unwrap_or_default())
}

impl Enroller {
    pub(crate) fn new(enrolment: Enrolment, gateways: Vec<Gateway>, kept: Kept) -> Self {
        Self { enrolment, gateways, kept }
    }

    /// Asks until the machine is a node, and what that needs is on disk. To be dropped where it is not needed any more.
    pub(crate) async fn run(self, former: Option<Former>) -> Own {
        let mut troubles = Troubles::new(self.gateways.len());
        let mut gateways = self.gateways.iter().enumerate().cycle();
        loop {
            let Some((index, gateway)) = gateways.next() else { std::future::pending().await };
            let trouble = match self.ask(gateway, former.as_ref()).await {
                Ok(own) => {
                    tracing::info!(node = %own.node(), "enrolled");
                    return own;
                }
                Err(trouble) => trouble,
            };
            let attempt = troubles.attempt(index, &trouble.why);
            tokio::time::sleep(wait(trouble.pace, attempt, random_unit())).await;
        }
    }

    /// Puts the question once.
    async fn ask(&self, gateway: &Gateway, former: Option<&Former>) -> Result<Own, Trouble> {
        let generation = self.kept.next();
        let keys = generation.keys();
        let broken = |why: String| Trouble { why, pace: Pace::Slowly };
        let key = keys.signing_key().map_err(|error| broken(error.to_string()))?;
        let sealing = keys.opening_key().map_err(|error| broken(error.to_string()))?.public_key();
        let request = Request::make(key.as_ref()).map_err(|error| broken(error.to_string()))?;
        let way = self.way(former).map_err(broken)?;
        let fingerprint = Fingerprint::of(&key.public_key().id());
        let question = pb::EnrollRequest {
            certificate_request: Bytes::copy_from_slice(&request),
            sealing_key: Bytes::copy_from_slice(sealing.as_bytes()),
            token: way.text.clone(),
            parent: if way.token.is_some() {
                String::new()
            } else {
                format!("projects/{}", self.enrolment.project)
            },
            node: self.name(former),
            machine: Some(machine_fingerprint()),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (tls, presented) = way.tls.once();
        let answer = call(gateway, tls, question)
            .await
            .map_err(|failure| of_failure(failure, way.token.as_ref().map(|(_, flag)| *flag)))?;
        match answer {
            Some(Outcome::Enrolled(enrolled)) => {
                let token_id = way.token.map(|(token, _)| token.id().to_string()).unwrap_or_default();
                let record = Record { enrolled: Some(enrolled), token_id };
                self.keep(generation, record, &presented).await.map_err(broken)
            }
            Some(Outcome::Pending(pending)) => {
                let asked = pending.retry_after.as_ref().and_then(skerry_model::time::from_proto_duration);
                Err(Trouble {
                    why: format!(
                        "an operator must let this machine in: skerry node approve {fingerprint} (from {})",
                        gateway.uri()
                    ),
                    pace: Pace::After(asked.unwrap_or(PENDING.0)),
                })
            }
            None => Err(broken(format!("{} answers in a way that is not understood", gateway.uri()))),
        }
    }

    /// The name to ask for.
    fn name(&self, former: Option<&Former>) -> String {
        let name = self.enrolment.node.as_ref().or(former.map(|former| &former.node));
        name.map(ToString::to_string).unwrap_or_default()
    }

    /// Whom to trust, and what to show.
    fn way(&self, former: Option<&Former>) -> Result<Way, String> {
        let spent = |token: &Token| former.is_some_and(|former| former.token_id == token.id().as_str());
        let approval = |tls| Way { tls, token: None, text: String::new() };
        if let Some((token, flag)) = self.enrolment.token()?.filter(|(token, _)| !spent(token)) {
            let tls = ClientTls::pinned(token.pin(), Expected::Dialled);
            let text = token.reveal().to_string();
            return Ok(Way { tls, token: Some((token, flag)), text });
        }
        let trusting = |trust| {
            let time = Time::Floor(Arc::new(TimeFloor::default()));
            approval(ClientTls::new(Credentials::none(), trust, Expected::Dialled, time))
        };
        if let Some(former) = former {
            return Ok(trusting(Arc::clone(&former.trust)));
        }
        if let Some(pin) = self.enrolment.pin {
            return Ok(approval(ClientTls::pinned(pin, Expected::Dialled)));
        }
        let path = self.enrolment.authority.as_ref().ok_or_else(|| NoWayIn::Nothing.to_string())?;
        let told = |why: String| format!("--tls-ca {}: {why}", path.display());
        let pem = std::fs::read(path).map_err(|error| told(error.to_string()))?;
        let bundle = TrustBundle::parse_pem(&pem).map_err(|error| told(error.to_string()))?;
        Ok(trusting(Trust::new(bundle)))
    }

    /// Checks what came and writes it.
    async fn keep(&self, generation: Generation, record: Record, from: &Presented) -> Result<Own, String> {
        let own = Own::enrolled(generation.clone(), record.clone(), from.chain())?;
        let kept = self.kept.clone();
        let written = tokio::task::spawn_blocking(move || {
            generation.write(&record)?;
            kept.forget_before(&generation);
            Ok(())
        });
        written.await.unwrap_or_else(|error| Err(format!("a defect ended the write: {error}")))?;
        Ok(own)
    }
}

/// How a question failed.
enum Failure {
    /// Nobody was asked.
    Dial(String),
    /// It was refused.
    Status(tonic::Status),
}

async fn call(
    gateway: &Gateway,
    tls: ClientTls,
    question: pb::EnrollRequest,
) -> Result<Option<Outcome>, Failure> {
    let channel = connect(gateway.uri().clone(), Some(tls)).await.map_err(Failure::Dial)?;
    let mut client = EnrollmentServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let late = |_| Failure::Dial(format!("{} does not answer", gateway.uri()));
    let answer = tokio::time::timeout(CALL_TIMEOUT, client.enroll(question)).await.map_err(late)?;
    Ok(answer.map_err(Failure::Status)?.into_inner().outcome)
}

/// What a failure means. `flag`: what named the token, if one was shown.
fn of_failure(failure: Failure, flag: Option<&str>) -> Trouble {
    let status = match failure {
        Failure::Dial(why) => return Trouble { why, pace: Pace::Soon },
        Failure::Status(status) => status,
    };
    let said = status.message();
    let (why, pace) = match (status.code(), flag) {
        (Code::PermissionDenied, Some(flag)) => {
            let why = format!("{flag}: the token is refused ({said}): make another by `skerry token create`");
            (why, Pace::Slowly)
        }
        (Code::PermissionDenied, None) => (format!("this machine was turned away: {said}"), Pace::Slowly),
        (
            Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::Unimplemented,
            _,
        ) => (said.to_owned(), Pace::Slowly),
        (code, _) => (format!("{code:?}: {said}"), Pace::Soon),
    };
    Trouble { why, pace }
}

/// How long to wait before the question is put again, the `attempt`-th time after the same trouble. `chance`: between 0 and 1.
fn wait(pace: Pace, attempt: u32, chance: f64) -> Duration {
    let (base, cap) = match pace {
        Pace::Soon => SOON,
        Pace::Slowly => SLOWLY,
        Pace::After(asked) => {
            let asked = asked.clamp(PENDING.0, PENDING.1);
            return asked + (asked / 4).mul_f64(chance);
        }
    };
    let most = base.saturating_mul(1 << attempt.min(20)).min(cap);
    most / 2 + (most / 2).mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn enrolment() -> Enrolment {
        Enrolment {
            token: None,
            token_file: None,
            pin: None,
            authority: None,
            node: None,
            project: ProjectName::parse("default").unwrap(),
        }
    }

    #[test]
    fn gateways_that_fail_each_in_its_own_way_are_asked_more_and_more_rarely() {
        let mut troubles = Troubles::new(2);
        let mut ask = |gateway, why| troubles.attempt(gateway, why);
        assert_eq!([ask(0, "a is refused"), ask(1, "b is away"), ask(0, "a is refused")], [0, 1, 2]);
        assert_eq!([ask(1, "b is away"), ask(0, "a is away"), ask(1, "b is away")], [3, 0, 1]);
    }

    #[test]
    fn a_machine_needs_a_way_in_and_a_token_that_could_be_one() {
        assert!(matches!(enrolment().check(), Err(NoWayIn::Nothing)));
        let token = Token::generate(KeyId::from_bytes([7; 32])).unwrap().reveal().to_string();
        let with = |text: &str| Enrolment { token: Some(text.parse().unwrap()), ..enrolment() };
        assert!(with(&token).check().is_ok());
        let error = with(&token[..token.len() - 1]).check().unwrap_err().to_string();
        assert!(error.starts_with("--token: an enrolment token has"), "{error}");
        assert!(!format!("{:?}", with(&token)).contains(&token[22..]), "printed");
        assert!(Enrolment { pin: Some(KeyId::from_bytes([1; 32])), ..enrolment() }.check().is_ok());
    }

    #[test]
    fn a_refused_token_is_told_with_its_flag_and_asked_with_slowly() {
        let refused = |flag| of_failure(Failure::Status(tonic::Status::permission_denied("no")), flag);
        let trouble = refused(Some("--token-file"));
        assert_eq!(trouble.pace, Pace::Slowly);
        assert!(trouble.why.starts_with("--token-file: the token is refused (no)"), "{}", trouble.why);
        assert_eq!(refused(None).why, "this machine was turned away: no");
        let away = of_failure(Failure::Status(tonic::Status::unavailable("away")), Some("--token"));
        assert_eq!(away, Trouble { why: "Unavailable: away".into(), pace: Pace::Soon });
    }

    proptest! {
        #[test]
        fn no_wait_is_without_bounds(attempt in any::<u32>(), chance in 0.0..=1.0f64, asked in any::<u32>()) {
            prop_assert!(wait(Pace::Soon, attempt, chance) <= SOON.1);
            let slowly = wait(Pace::Slowly, attempt, chance);
            prop_assert!(slowly >= SLOWLY.0 / 2 && slowly <= SLOWLY.1);
            let pending = wait(Pace::After(Duration::from_secs(asked.into())), attempt, chance);
            prop_assert!(pending >= PENDING.0 && pending <= PENDING.1 * 5 / 4);
        }
    }
}
