//! The agent as a process, against a gateway that a test plays: processes run, links and disks fail, agents come and go.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::sync_request::Body as Up;
use skerry_proto::gateway::v1::sync_response::Body as Down;
use skerry_proto::gateway::v1::sync_service_server::{SyncService, SyncServiceServer};
use skerry_proto::types::v1 as types;
use skerry_testing::Docker;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use support::{PATIENCE, in_time, is_alive, resources, sleeper, starts, until};

const INSTANCE: &str = "app/sleeper/n1/0";

type Answer = Result<pb::SyncResponse, Status>;

/// One stream of the agent.
struct Session {
    up: Streaming<pb::SyncRequest>,
    down: mpsc::Sender<Answer>,
}

/// Hands each stream to the test.
struct Handler(mpsc::Sender<Session>);

#[tonic::async_trait]
impl SyncService for Handler {
    type SyncStream = ReceiverStream<Answer>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (down, answers) = mpsc::channel(16);
        let session = Session { up: request.into_inner(), down };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

struct FakeGateway {
    address: std::net::SocketAddr,
    sessions: mpsc::Receiver<Session>,
    /// Dropped with the rest, which ends the server and its streams.
    tasks: tokio::task::JoinSet<Result<(), tonic::transport::Error>>,
}

impl FakeGateway {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sessions_in, sessions) = mpsc::channel(4);
        let server = tonic::transport::Server::builder()
            .add_service(SyncServiceServer::new(Handler(sessions_in)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(server);
        Self { address, sessions, tasks }
    }

    /// The next session: its hello, answered with a welcome.
    async fn session(&mut self) -> (Session, pb::Hello) {
        let mut session = in_time("a session", self.sessions.recv()).await.unwrap();
        let Some(Up::Hello(hello)) = session.next().await else { panic!("the first frame is no hello") };
        let welcome = pb::Welcome {
            epoch: Some(pb::Version { store_term: 1, revision: 1 }),
            node_uid: "uid-1".into(),
            gateway: "test".into(),
            full_report: true,
            ..pb::Welcome::default()
        };
        session.send(Down::Welcome(welcome)).await;
        (session, hello)
    }
}

impl Session {
    async fn next(&mut self) -> Option<Up> {
        in_time("a frame", self.up.message()).await.ok().flatten().and_then(|frame| frame.body)
    }

    async fn send(&self, body: Down) {
        self.down.send(Ok(pb::SyncResponse { body: Some(body), ..Default::default() })).await.unwrap();
    }

    /// Sends an update and answers reports until it is acknowledged.
    async fn update(&mut self, revision: i64, resources: Vec<pb::Resource>, removed: Vec<String>) -> pb::Ack {
        let version = Some(pb::Version { store_term: 1, revision });
        let nonce = u64::try_from(revision).unwrap();
        self.send(Down::Update(pb::Update { nonce, version, resources, removed, more: false })).await;
        loop {
            match self.next().await.expect("the stream stays open") {
                Up::Ack(ack) => return ack,
                Up::Report(report) => self.acknowledge(&report).await,
                Up::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn acknowledge(&self, report: &pb::Report) {
        let digest = vec![1].into();
        self.send(Down::ReportAck(pb::ReportAck { sequence: report.sequence, digest })).await;
    }

    /// Reads reports until one satisfies `check`.
    async fn report(&mut self, mut check: impl FnMut(&pb::Report) -> bool) -> pb::Report {
        loop {
            match self.next().await.expect("the stream stays open") {
                Up::Report(report) => {
                    self.acknowledge(&report).await;
                    if check(&report) {
                        return report;
                    }
                }
                Up::Heartbeat(_) | Up::Ack(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The status of `instance` once it satisfies `check`.
    async fn status(
        &mut self,
        instance: &str,
        check: impl Fn(&types::InstanceStatus) -> bool,
    ) -> types::InstanceStatus {
        let found = |report: &pb::Report| {
            report.instances.iter().find(|status| status.instance == instance && check(status)).cloned()
        };
        found(&self.report(|report| found(report).is_some()).await).unwrap()
    }
}

/// An agent that is killed with the test.
struct Agent(Child);

impl Agent {
    fn start(gateway: std::net::SocketAddr, data_dir: &Path) -> Self {
        Self::start_with(gateway, data_dir, &["--no-docker"])
    }

    fn start_with(gateway: std::net::SocketAddr, data_dir: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry-agent"));
        command
            .args(["--insecure", "--gateway", &format!("http://{gateway}"), "--node", "n1", "--data-dir"])
            .arg(data_dir)
            .args(more)
            .args(["--log", "info,skerry_agent=debug"])
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    async fn terminate(mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the agent does not end");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn names(resources: &[pb::Resource]) -> Vec<String> {
    resources.iter().map(|resource| resource.name.clone()).collect()
}

#[tokio::test]
async fn an_agent_runs_what_it_is_sent_keeps_it_over_kills_and_starts_it_without_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("agent"), dir.path().join("starts"));
    let mut gateway = FakeGateway::start().await;

    // First contact: nothing held, an update, acknowledged, running, reported.
    let agent = Agent::start(gateway.address, &data);
    let (mut session, hello) = gateway.session().await;
    assert_eq!(
        (hello.node.as_str(), hello.version, hello.held.len()),
        ("projects/default/nodes/n1", None, 0)
    );
    let first = sleeper(&file, "1");
    let ack = session.update(5, first.clone(), Vec::new()).await;
    assert_eq!((ack.version.unwrap().revision, ack.errors.len(), ack.refused.as_str()), (5, 0, ""));
    let status = session.status(INSTANCE, |status| status.ready).await;
    assert_eq!(status.phase(), types::InstancePhase::Running);
    until("the process runs", || starts(&file).len() == 1).await;
    let pid = starts(&file)[0];

    // kill -9 of the agent: the process runs on, and the next agent takes it over and says what it holds.
    agent.kill();
    assert!(is_alive(pid));
    let agent = Agent::start(gateway.address, &data);
    let (mut session, hello) = gateway.session().await;
    assert_eq!(hello.version.unwrap().revision, 5);
    assert_eq!(hello.node_uid, "uid-1");
    let mut held: Vec<String> = hello.held.into_iter().map(|held| held.name).collect();
    held.sort();
    let mut sent = names(&first);
    sent.sort();
    assert_eq!(held, sent);
    let full = session.report(|report| report.full).await;
    assert!(full.machine.is_some() && full.instances[0].ready, "{full:?}");
    assert_eq!(starts(&file), [pid], "nothing was started again");

    // An ordered end: a farewell, exit code 0, the process runs on.
    let ended = tokio::join!(agent.terminate(), async {
        loop {
            match session.next().await {
                Some(Up::Farewell(_)) => return,
                Some(_) => {}
                None => panic!("no farewell"),
            }
        }
    });
    assert!(ended.0.success());
    assert!(is_alive(pid));

    // No gateway, and everything was killed: it is started from what is on disk.
    let address = gateway.address;
    gateway.tasks.shutdown().await;
    drop(gateway);
    kill(pid);
    until("the process is gone", || !is_alive(pid)).await;
    let begin = Instant::now();
    let agent = Agent::start(address, &data);
    until("it runs again", || starts(&file).len() == 2).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let pid = starts(&file)[1];
    drop(agent);

    // The state is damaged: what runs is left alone until the state is sent anew.
    for slot in ["desired.0", "desired.1"] {
        if let Ok(mut bytes) = std::fs::read(data.join(slot)) {
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(data.join(slot), bytes).unwrap();
        }
    }
    let mut gateway = FakeGateway::start().await;
    let agent = Agent::start(gateway.address, &data);
    let (mut session, hello) = gateway.session().await;
    assert_eq!((hello.version, hello.held.len()), (None, 0));
    let intact = |report: &pb::Report| {
        let conditions = report.machine.iter().flat_map(|machine| &machine.conditions);
        conditions.into_iter().find(|one| one.r#type == "StateIntact").map(types::Condition::status)
    };
    let report = session.report(|report| intact(report).is_some()).await;
    assert_eq!(intact(&report), Some(types::condition::Status::False));
    assert!(is_alive(pid));
    // A change, and the removal of what was there before.
    session.update(9, sleeper(&file, "2"), Vec::new()).await;
    until("the new one runs", || starts(&file).len() == 3).await;
    assert!(!is_alive(pid), "one copy at a time");
    let pid = starts(&file)[2];
    session.update(10, Vec::new(), names(&sleeper(&file, "2"))).await;
    session.report(|report| report.removed_instances.iter().any(|name| name == INSTANCE)).await;
    assert!(!is_alive(pid));
    assert!(agent.terminate().await.success());
}

#[tokio::test]
async fn while_the_disk_takes_no_writes_nothing_is_acknowledged_and_what_runs_runs_on() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("agent"), dir.path().join("starts"));
    let mut gateway = FakeGateway::start().await;
    let agent = Agent::start(gateway.address, &data);
    let (mut session, _) = gateway.session().await;
    session.update(5, sleeper(&file, "1"), Vec::new()).await;
    until("the process runs", || starts(&file).len() == 1).await;
    let pid = starts(&file)[0];

    // A directory in place of the temporary file fails writes as a full disk does, for root as well.
    let obstacle = data.join("desired.new");
    std::fs::create_dir(&obstacle).unwrap();
    let version = Some(pb::Version { store_term: 1, revision: 6 });
    let (resources, removed) = (sleeper(&file, "2"), Vec::new());
    session.send(Down::Update(pb::Update { nonce: 6, version, resources, removed, more: false })).await;
    let why = |report: &pb::Report| {
        let conditions = report.machine.iter().flat_map(|machine| machine.conditions.clone());
        conditions.into_iter().find(|one| one.r#type == "StateIntact").map(|one| one.reason)
    };
    loop {
        match session.next().await.expect("the stream stays open") {
            Up::Report(report) => {
                session.acknowledge(&report).await;
                if why(&report).as_deref() == Some("WriteFailed") {
                    break;
                }
            }
            Up::Ack(ack) => panic!("acknowledged what is not on disk: {ack:?}"),
            _ => {}
        }
    }
    assert!(is_alive(pid));
    assert_eq!(starts(&file), [pid]);

    std::fs::remove_dir(&obstacle).unwrap();
    let mut acknowledged = false;
    let mut intact = false;
    while !(acknowledged && intact) {
        match session.next().await.expect("the stream stays open") {
            Up::Report(report) => {
                session.acknowledge(&report).await;
                intact |= why(&report).as_deref() == Some("StateIntact");
            }
            Up::Ack(ack) => acknowledged = ack.version.unwrap().revision == 6,
            _ => {}
        }
    }
    until("the new one runs", || starts(&file).len() == 2).await;
    session.update(7, Vec::new(), names(&sleeper(&file, "2"))).await;
    session.report(|report| report.removed_instances.iter().any(|name| name == INSTANCE)).await;
    assert!(agent.terminate().await.success());
}

fn container(name: &str, image: &str, value: &str) -> types::ServiceSpec {
    types::ServiceSpec {
        name: name.into(),
        program: Some(types::service_spec::Program::Container(types::Container {
            image: image.into(),
            pull_policy: types::container::PullPolicy::Never.into(),
            command: vec!["sleep".into(), "600".into()],
            ..types::Container::default()
        })),
        env: [("VALUE".to_owned(), value.to_owned())].into(),
        stop: Some(types::StopPolicy { signal: "SIGKILL".into(), grace_period: None }),
        ..types::ServiceSpec::default()
    }
}

#[tokio::test]
async fn containers_are_run_replaced_only_when_their_image_is_there_and_removed() {
    let Some(docker) = Docker::required() else { return };
    let image = docker.busybox().unwrap();
    let host = format!("unix://{}", docker.socket().display());
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = FakeGateway::start().await;
    let agent = Agent::start_with(gateway.address, dir.path(), &["--docker-host", &host]);
    let (mut session, _) = gateway.session().await;

    let first = resources(vec![container("web", image, "1"), container("db", image, "1")]);
    session.update(5, first.clone(), Vec::new()).await;
    let (mut web, mut db) = (None, None);
    session
        .report(|report| {
            for status in report.instances.iter().filter(|status| status.ready) {
                match status.instance.as_str() {
                    "app/web/n1/0" => web = Some(status.runtime_id.clone()),
                    _ => db = Some(status.runtime_id.clone()),
                }
            }
            web.is_some() && db.is_some()
        })
        .await;
    let (web, db) = (web.unwrap(), db.unwrap());
    assert_eq!(docker.inspect(&web).unwrap()["State"]["Running"], true);

    // `web` gets an image that is not there, `db` another value: they are of one app, so both run on as they are.
    let second = resources(vec![container("web", "skerry-test/missing:1", "1"), container("db", image, "2")]);
    let gone = |old: &[pb::Resource], new: &[pb::Resource]| {
        let new = names(new);
        names(old).into_iter().filter(|name| !new.contains(name)).collect::<Vec<_>>()
    };
    let removed = gone(&first, &second);
    session.update(6, second.clone(), removed).await;
    session.status("app/web/n1/0", |status| status.ready && status.reason == "ImageMissing").await;
    for container in [&web, &db] {
        assert_eq!(docker.inspect(container).unwrap()["State"]["Running"], true);
    }

    // Killed from outside: seen at once, told, and started again.
    docker.request("POST", &format!("/containers/{web}/kill"), &[]).unwrap();
    session.update(7, first.clone(), gone(&second, &first)).await;
    session.status("app/web/n1/0", |status| status.ready && status.restarts == 1).await;
    assert_eq!(docker.inspect(&web).unwrap()["State"]["Running"], true, "the same container again");

    // All images are there: what has changed is replaced, and nothing else.
    let third = resources(vec![container("web", image, "1"), container("db", image, "2")]);
    session.update(8, third.clone(), gone(&first, &third)).await;
    session.status("app/db/n1/0", |status| status.ready && status.runtime_id != db).await;
    assert!(docker.inspect(&db).is_err());
    assert_eq!(docker.inspect(&web).unwrap()["State"]["Running"], true);

    session.update(9, Vec::new(), names(&third)).await;
    let mut left = vec!["app/db/n1/0", "app/web/n1/0"];
    session
        .report(|report| {
            left.retain(|name| !report.removed_instances.iter().any(|gone| gone == name));
            left.is_empty()
        })
        .await;
    assert!(docker.inspect(&web).is_err());
    assert!(agent.terminate().await.success());
}

#[tokio::test]
async fn with_no_network_the_former_copy_runs_on_until_the_image_of_its_successor_is_there() {
    let Some(docker) = Docker::required() else { return };
    let image = docker.busybox().unwrap();
    // Names of this run alone, since containers and images are looked for by them.
    let (service, missing) =
        (format!("keep{}", std::process::id()), format!("skerry-test/keep:{}", std::process::id()));
    let keep = &format!("app/{service}/n1/0");
    let host = format!("unix://{}", docker.socket().display());
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = FakeGateway::start().await;
    let start = |address| Agent::start_with(address, dir.path(), &["--docker-host", &host]);
    let agent = start(gateway.address);
    let (mut session, _) = gateway.session().await;
    let (first, second) = (
        resources(vec![container(&service, image, "1")]),
        resources(vec![container(&service, &missing, "2")]),
    );
    session.update(5, first.clone(), Vec::new()).await;
    let first_status = session.status(keep, |status| status.ready).await;
    let former = |status: &types::InstanceStatus| {
        status.ready && status.reason == "ImageMissing" && status.revision == first_status.revision
    };

    // Its successor's image is not there, and another one supersedes that without it ever having run.
    session.update(6, second.clone(), vec![first[1].name.clone()]).await;
    session.status(keep, former).await;
    let third = resources(vec![container(&service, &missing, "3")]);
    session.update(7, third.clone(), vec![second[1].name.clone()]).await;

    // No gateway, no agent, and the copy is stopped, then even removed: each time it runs again.
    let address = gateway.address;
    gateway.tasks.shutdown().await;
    drop((gateway, session));
    agent.kill();
    let label = format!("skerry.io/instance={keep}");
    let value = |container: &str| {
        let found = docker.inspect(container).ok()?;
        let is_running = found["State"]["Running"] == true;
        is_running.then(|| found["Config"]["Env"].to_string())
    };
    docker.request("POST", &format!("/containers/{}/kill", first_status.runtime_id), &[]).unwrap();
    let agent = start(address);
    until("the stopped copy runs again", || value(&first_status.runtime_id).is_some()).await;
    agent.kill();
    docker.request("DELETE", &format!("/containers/{}?force=true", first_status.runtime_id), &[]).unwrap();
    let agent = start(address);
    let running = || docker.containers(&label).unwrap().into_iter().find_map(|one| value(&one));
    until("the former copy is made anew", || running().is_some_and(|env| env.contains("VALUE=1"))).await;
    assert_eq!(docker.containers(&label).unwrap().len(), 1);
    agent.kill();

    // The image comes: its successor takes its place, and what was kept is forgotten.
    let mut gateway = FakeGateway::start().await;
    let agent = start(gateway.address);
    let (mut session, _) = gateway.session().await;
    session.status(keep, former).await;
    let (repository, tag) = missing.split_once(':').unwrap();
    let tagging = format!("/images/{image}/tag?repo={repository}&tag={tag}");
    docker.request("POST", &tagging, &[]).unwrap();
    // Within the ten seconds after which the agent tries again.
    session.status(keep, |status| status.ready && status.reason.is_empty()).await;
    assert!(running().unwrap().contains("VALUE=3"));
    let kept = || std::fs::metadata(dir.path().join("formers")).unwrap().len();
    until("nothing is kept", || kept() < 200).await;
    session.update(8, Vec::new(), names(&third)).await;
    session.report(|report| report.removed_instances.iter().any(|name| name == keep)).await;
    let _ = docker.request("DELETE", &format!("/images/{missing}?force=true"), &[]);
    assert!(agent.terminate().await.success());
}

#[tokio::test]
async fn a_gateway_that_is_away_is_left_for_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = FakeGateway::start().await;
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let both = format!("http://{gone},http://{}", gateway.address);
    let mut command = Command::new(env!("CARGO_BIN_EXE_skerry-agent"));
    let flags = ["--insecure", "--gateway", &both, "--node", "n1", "--no-docker", "--data-dir"];
    command.args(flags).arg(dir.path());
    let agent = Agent(command.stdin(Stdio::null()).spawn().unwrap());
    gateway.session().await;
    let second =
        Command::new(env!("CARGO_BIN_EXE_skerry-agent")).args(flags).arg(dir.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("used by another agent"));
    assert!(agent.terminate().await.success());
}

#[test]
fn a_gateway_without_tls_needs_insecure() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_skerry-agent"))
        .args(["--gateway", "http://127.0.0.1:1", "--node", "n1", "--no-docker", "--data-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--insecure"));
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
