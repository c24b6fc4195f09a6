//! The agent's identity, as a process against a control plane that a test plays: it enrols, renews, is struck out, and whatever is wrong
//! with its certificate or its clock, what it runs runs on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod played;
#[path = "../support/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skerry_identity::KeyId;
use skerry_identity::csr::Request;
use skerry_identity::token::Token;
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::closing::Reason;
use skerry_proto::gateway::v1::enroll_response::Outcome;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_proto::types::v1::condition::Status as Holds;
use skerry_testing::{Authority, Process};
use tempfile::TempDir;

use played::{DAY, Played, Session};
use support::{PATIENCE, is_alive, sleeper, starts, until};

/// A machine: a data directory, and an app that shows in a file how often it was started.
struct Machine {
    dir: TempDir,
    agents: u32,
}

impl Machine {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), agents: 0 }
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn agent(&mut self, gateway: &str, flags: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry-agent"));
        command.args(["--no-docker", "--gateway", gateway, "--data-dir"]).arg(self.data());
        command.args(["--log", "info,skerry_agent=debug"]).args(flags);
        self.agents += 1;
        Process::spawn_command(&mut command, self.dir.path().join(format!("{}.log", self.agents))).unwrap()
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("starts")
    }

    /// Runs the app; its process.
    async fn run(&self, session: &mut Session) -> i32 {
        session.update(2, sleeper(&self.file(), "one")).await;
        until("the app runs", || starts(&self.file()).len() == 1).await;
        starts(&self.file())[0]
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for pid in starts(&self.file()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn token(played: &Played) -> String {
    Token::generate(played.pin()).unwrap().reveal().to_string()
}

fn key_of(certificate_request: &[u8]) -> KeyId {
    Request::parse(certificate_request).unwrap().public_key().id()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_machine_enrols_by_its_token_and_then_starts_without_one_and_without_a_network() {
    let (mut played, mut machine) = (Played::start(SystemTime::now()).await, Machine::new());
    let token = token(&played);
    let mut agent = machine.agent(&played.url(), &["--token", &token]);
    let asked = played.let_in("edge-7").await;
    assert_eq!((asked.token.as_str(), asked.parent.as_str(), asked.node.as_str()), (&*token, "", ""));
    assert_eq!(asked.sealing_key.len(), 32);
    let (mut session, hello) = played.session(false).await;
    assert_eq!(hello.node, "projects/default/nodes/edge-7");
    assert_eq!(hello.node_uid, "uid-edge-7");
    let came = played.last().unwrap();
    assert_eq!(came.identity.node().unwrap().to_string(), hello.node);
    assert_eq!(came.key_id, key_of(&asked.certificate_request));
    let first = machine.run(&mut session).await;

    let identity = machine.data().join("identity");
    for (path, wanted) in [("", 0o700), ("1", 0o700), ("1/tls.key", 0o600), ("1/hpke.key", 0o600)] {
        assert_eq!(mode(&identity.join(path)), wanted, "{path}");
    }
    assert!(!agent.output().contains(&token[30..]), "the token is in the log");

    // The machine is switched on again, where there is no network; the token stands in its settings still, and has no meaning any more.
    agent.kill().unwrap();
    drop((session, played));
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let mut again = machine.agent("https://127.0.0.1:1", &["--token", "skt1_nonsense"]);
    until("the app runs again", || starts(&machine.file()).len() == 2).await;
    again.kill().unwrap();
}

/// Has who asks wait for approval.
async fn pending(played: &mut Played) -> pb::EnrollRequest {
    let retry_after = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let pending = pb::EnrollmentPending { retry_after, ..pb::EnrollmentPending::default() };
    played.question().await.answer(Ok(Outcome::Pending(pending)))
}

#[tokio::test]
async fn a_machine_without_a_token_waits_until_it_is_approved_and_shows_one_fingerprint_all_the_while() {
    let (mut played, mut machine) = (Played::start(SystemTime::now()).await, Machine::new());
    let pin = played.pin().to_string();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut agent = machine.agent(&played.url(), &["--ca-pin", &pin, "--node", "n1"]);
        let asked = pending(&mut played).await;
        assert_eq!((asked.parent.as_str(), asked.node.as_str()), ("projects/default", "n1"));
        assert!(asked.token.is_empty());
        let key = key_of(&asked.certificate_request);
        let fingerprint = skerry_identity::fingerprint::Fingerprint::of(&key);
        let told = format!("skerry node approve {fingerprint}");
        agent.wait_for_line(&told, PATIENCE).await.unwrap();
        pending(&mut played).await;
        assert_eq!(agent.output().matches(&told).count(), 1, "it is said once");
        keys.push(key);
        agent.kill().unwrap();
    }
    assert_eq!(keys[0], keys[1], "after a restart too");
    let _agent = machine.agent(&played.url(), &["--ca-pin", &pin, "--node", "n1"]);
    let mut asked = played.let_in("n1").await;
    // Of the agent that was killed, a question may still have been on its way.
    while key_of(&asked.certificate_request) != keys[0] {
        asked = played.let_in("n1").await;
    }
    let (_, hello) = played.session(false).await;
    assert_eq!(hello.node, "projects/default/nodes/n1");
}

#[tokio::test]
async fn a_server_that_does_not_have_the_tokens_root_gets_no_token() {
    let (mut played, mut machine) = (Played::start(SystemTime::now()).await, Machine::new());
    let other = Token::generate(KeyId::from_bytes([7; 32])).unwrap().reveal().to_string();
    let mut agent = machine.agent(&played.url(), &["--token", &other]);
    agent.wait_for_line("not enrolled yet", PATIENCE).await.unwrap();
    agent.kill().unwrap();

    // One that is refused is told, and another one in its file is good.
    let file = machine.dir.path().join("token");
    std::fs::write(&file, token(&played)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let flags = ["--token-file", file.to_str().unwrap()];
    let mut agent = machine.agent(&played.url(), &flags);
    played.question().await.answer(Err(tonic::Status::permission_denied("the token is not good")));
    agent.wait_for_line("--token-file: the token is refused", PATIENCE).await.unwrap();
    assert!(agent.try_wait().unwrap().is_none(), "it goes on trying");
    agent.kill().unwrap();
    let _agent = machine.agent(&played.url(), &flags);
    played.let_in("n1").await;
    played.session(false).await;

    // What can be no token at all ends it, where it is needed.
    let mut bare = Machine::new();
    let mut agent = bare.agent(&played.url(), &["--token", "skt1_cut"]);
    assert_eq!(agent.wait(PATIENCE).await.unwrap().code(), Some(1));
    assert!(agent.output().contains("--token: an enrolment token has"), "{}", agent.output());
}

#[tokio::test]
async fn a_certificate_is_renewed_while_the_session_and_the_app_go_on() {
    let (mut played, mut machine) = (Played::start(SystemTime::now()).await, Machine::new());
    let token = token(&played);
    let _agent = machine.agent(&played.url(), &["--token", &token]);
    played.let_in("n1").await;
    let (mut session, _) = played.session(false).await;
    let app = machine.run(&mut session).await;
    let before = played.last().unwrap();

    // The server's clock says that almost all of its life is over.
    let server_time = Some(skerry_model::time::to_timestamp(played.now + 28 * DAY));
    session.send(Down::HeartbeatAck(pb::HeartbeatAck { sequence: 0, server_time })).await;
    let request = session.renewal_request().await;
    assert_eq!(key_of(&request.certificate_request), before.key_id);
    let certificate = Some(played.issue(&request.certificate_request, "n1", 60));
    session.send(Down::Renewal(pb::Renewal { certificate, refused: String::new() })).await;
    // The session goes on.
    session.update(3, sleeper(&machine.file(), "one")).await;
    // And what came is taken before the next dial, however soon that is.
    session.close(Reason::Draining).await;
    let (_session, _) = played.session(false).await;
    let after = played.last().unwrap();
    assert!(after.not_after > before.not_after && after.key_id == before.key_id);
    assert_eq!(starts(&machine.file()), [app]);
    assert!(is_alive(app));
}

#[tokio::test]
async fn an_expired_node_is_renewed_and_comes_back_at_once() {
    let (mut played, mut machine) = (Played::start(SystemTime::now()).await, Machine::new());
    let token = token(&played);
    let mut agent = machine.agent(&played.url(), &["--token", &token]);
    played.let_in("n1").await;
    let (mut session, _) = played.session(false).await;
    let app = machine.run(&mut session).await;
    agent.kill().unwrap();
    drop(session);

    // Ninety days later.
    played.now += 90 * DAY;
    played.present_anew();
    let _agent = machine.agent(&played.url(), &[]);
    let (mut session, _) = played.session(true).await;
    let request = session.renewal_request().await;
    let certificate = Some(played.issue(&request.certificate_request, "n1", 30));
    session.send(Down::Renewal(pb::Renewal { certificate, refused: String::new() })).await;
    session.close(Reason::Renewed).await;
    let (mut session, hello) = played.session(false).await;
    assert!(hello.version.is_some(), "it holds what it held");
    assert!(played.last().unwrap().not_after > played.now);
    session.find(|body| matches!(body, Up::Report(report) if report.full)).await;
    assert_eq!(starts(&machine.file()), [app], "nothing was stopped");
}

#[tokio::test]
async fn a_machine_whose_key_was_struck_out_runs_on_and_comes_back_by_approval_with_another_key() {
    let (mut played, mut machine) = (Played::start(SystemTime::now()).await, Machine::new());
    let token = token(&played);
    let mut agent = machine.agent(&played.url(), &["--token", &token]);
    let first = played.let_in("n1").await;
    let (mut session, _) = played.session(false).await;
    let app = machine.run(&mut session).await;
    session.close(Reason::Revoked).await;
    agent.wait_for_line("struck out", PATIENCE).await.unwrap();

    // By the token that it had, it does not even try.
    let second = played.let_in("n1").await;
    assert_eq!((second.token.as_str(), second.node.as_str()), ("", "n1"));
    let (old, new) = (key_of(&first.certificate_request), key_of(&second.certificate_request));
    assert_ne!(old, new);
    assert_ne!(first.sealing_key, second.sealing_key);
    let (_session, hello) = played.session(false).await;
    assert_eq!(played.last().unwrap().key_id, new);
    assert!(hello.version.is_some());
    assert_eq!(starts(&machine.file()), [app]);
    assert!(is_alive(app));
    until("the old keys are gone", || !machine.data().join("identity/1").exists()).await;
}

#[tokio::test]
async fn a_wrong_clock_stops_nothing_and_is_told() {
    // This machine's clock is right: in these worlds it is far behind, and far ahead.
    for (now, words) in [(4_100_000_000, "years behind"), (400_000_000, "years ahead of")] {
        let now = UNIX_EPOCH + Duration::from_secs(now);
        let (mut played, mut machine) = (Played::start(now).await, Machine::new());
        let token = token(&played);
        let _agent = machine.agent(&played.url(), &["--token", &token]);
        played.let_in("n1").await;
        let (mut session, _) = played.session(false).await;
        let told = session
            .find(|body| {
                let Up::Report(report) = body else { return false };
                let machine = report.machine.as_ref();
                machine.is_some_and(|machine| machine.conditions.iter().any(|c| c.r#type == "ClockRight"))
            })
            .await;
        let Up::Report(report) = told else { panic!("a report") };
        let conditions = report.machine.unwrap().conditions;
        let clock = conditions.iter().find(|condition| condition.r#type == "ClockRight").unwrap();
        assert_eq!(clock.status(), Holds::False);
        assert!(clock.message.contains(words), "{}", clock.message);
        let app = machine.run(&mut session).await;
        assert!(is_alive(app));
        // The floor is the server's time.
        let floor = machine.data().join("identity/time");
        let seconds = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
        until("the floor is kept", || {
            std::fs::read_to_string(&floor).is_ok_and(|text| text == seconds.to_string())
        })
        .await;
    }
}

#[tokio::test]
async fn roots_that_come_by_themselves_are_trusted_from_the_next_session_on() {
    let (mut played, mut machine) = (Played::start(SystemTime::now()).await, Machine::new());
    let token = token(&played);
    let agent = machine.agent(&played.url(), &["--token", &token]);
    played.let_in("n1").await;
    let (session, hello) = played.session(false).await;
    let before = played.authority.bundle();
    assert_eq!(hello.roots_digest.as_ref(), before.digest());

    let next = Authority::new("example.org");
    let both = before.with(next.bundle().roots()[0].clone()).unwrap();
    played.trust(both.clone());
    session
        .send(Down::Renewal(pb::Renewal { certificate: Some(played.roots()), refused: String::new() }))
        .await;
    // And some that would lock it out are not taken.
    let mut foreign = played.roots();
    foreign.roots.retain(|root| root.as_ref() != before.roots()[0].certificate().as_ref());
    session.send(Down::Renewal(pb::Renewal { certificate: Some(foreign), refused: String::new() })).await;
    until("both were looked at", || agent.output().contains("would be refused")).await;
    session.close(Reason::Draining).await;
    let (_session, hello) = played.session(false).await;
    assert_eq!(hello.roots_digest.as_ref(), both.digest());
}

#[tokio::test]
async fn with_a_broken_certificate_what_is_on_disk_runs_and_the_link_waits_until_it_is_mended() {
    let (mut played, mut machine) = (Played::start(SystemTime::now()).await, Machine::new());
    let identity = "spiffe://example.org/project/default/node/n1";
    let files = played.authority.write(machine.dir.path(), "n1", identity);
    let flags = files.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--node", "n1"]);
    let mut agent = machine.agent(&played.url(), &flags);
    let (mut session, hello) = played.session(false).await;
    assert!(hello.roots_digest.is_empty(), "files are not renewed");
    let app = machine.run(&mut session).await;
    agent.kill().unwrap();
    let pid = rustix::process::Pid::from_raw(app).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();

    let whole = std::fs::read(&files.certificate).unwrap();
    std::fs::write(&files.certificate, "nonsense").unwrap();
    let mut agent = machine.agent(&played.url(), &flags);
    until("the app runs again", || starts(&machine.file()).len() == 2).await;
    agent.wait_for_line("--tls-cert", PATIENCE).await.unwrap();
    std::fs::write(&files.certificate, whole).unwrap();
    played.session(false).await;
    // The floor is kept for files too.
    until("the floor is kept", || machine.data().join("identity/time").exists()).await;
}
