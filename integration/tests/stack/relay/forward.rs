//! Connections from afar: whole in both directions, each at its own pace, and nothing left of them.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use skerry_integration::apps::{app, container, script};
use skerry_integration::containers::{Containers, local, unique};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::forward_frame::Body;
use skerry_proto::relay::v1::port_forward_request::Body as Up;
use skerry_proto::relay::v1::port_forward_response::Body as Down;
use skerry_testing::{Docker, Process, eventually, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::kills::sockets;
use super::{begin, channels, client, ran, stack, wait_channels};

/// Echoes what each connection sends, until it sends no more.
fn echo(port: u16) -> String {
    format!("exec busybox nc -ll -p {port} -e cat")
}

/// A stack with an app that echoes on a free port of the machine.
async fn echoing() -> Result<(Stack, u16)> {
    let stack = stack(&["n1"]).await?;
    let port = free_port();
    stack.apply("web", app([script("s", &echo(port))])).await?;
    stack.wait_ready("web", 1).await;
    eventually("it listens", PATIENCE, async || TcpStream::connect(("127.0.0.1", port)).await.map(drop))
        .await;
    Ok((stack, port))
}

/// `skerry port-forward` to ports of `app/web`, and where each is reached.
async fn forward(
    stack: &Stack,
    relay: &str,
    ports: &[u16],
    name: &str,
) -> Result<(Process, Vec<SocketAddr>)> {
    let words: Vec<String> = ports.iter().map(|port| format!(":{port}")).collect();
    let words: Vec<&str> =
        ["port-forward", "app/web"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let mut forwards = begin(stack, relay, &words, name)?;
    let mut addresses = Vec::new();
    for port in ports {
        let line = forwards.wait_for_line(&format!(":{port} on node "), PATIENCE).await?;
        let address = line.split(' ').nth(1).context("an address")?;
        addresses.push(address.parse().with_context(|| line.clone())?);
    }
    Ok((forwards, addresses))
}

fn payload(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + at / 65_521 + seed * 97) % 256).unwrap_or_default()).collect()
}

/// Sends so much to an echo and reads it back at the same time: half-closed when all is sent, and ended by the other side.
async fn round_trip(address: SocketAddr, seed: usize, len: usize) -> Result<()> {
    let data = payload(seed, len);
    let mut connection = TcpStream::connect(address).await?;
    let (mut reader, mut writer) = connection.split();
    let sending = async {
        writer.write_all(&data).await?;
        writer.shutdown().await
    };
    let mut back = Vec::new();
    let both = async { tokio::try_join!(sending, reader.read_to_end(&mut back)) };
    timeout(PATIENCE, both).await.with_context(|| format!("connection {seed} stands still"))??;
    ensure!(back == data, "connection {seed}: {} of {len} bytes came back, or others", back.len());
    Ok(())
}

#[tokio::test]
async fn all_of_many_connections_arrives_while_nobody_reads_one() -> Result<()> {
    let (stack, port) = echoing().await?;
    // Through a relay that does not hold the channel.
    let (mut forwards, addresses) = forward(&stack, "relay-0", &[port], "forwards.log").await?;
    let address = addresses[0];
    round_trip(address, 0, 64 << 20).await?;

    // What comes back is never read: it takes what the windows hold, and then no more.
    let mut stuck = TcpStream::connect(address).await?;
    let filled = async {
        let piece = payload(1, 64 * 1024);
        while timeout(Duration::from_secs(2), stuck.write_all(&piece)).await.is_ok_and(|sent| sent.is_ok()) {}
    };
    timeout(PATIENCE, filled).await.context("it takes all though nobody reads")?;
    let mut all = JoinSet::new();
    for seed in 0..50 {
        all.spawn(round_trip(address, seed, 300_000));
    }
    while let Some(done) = all.join_next().await {
        done??;
    }
    let open = channels(&stack).await?;
    ensure!(open.len() == 1 && open[0]["verb"] == "port-forward", "{open:?}");
    drop(stuck);

    // As kubectl: interrupted is done.
    forwards.signal(rustix::process::Signal::INT)?;
    let ended = forwards.wait(PATIENCE).await?;
    ensure!(ended.code() == Some(0), "{ended:?}: {}", forwards.output());
    wait_channels(&stack, 0).await;
    stack.finish(None).await
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_told_by_its_name() -> Result<()> {
    let (stack, port) = echoing().await?;
    let nobody = free_port();
    let (mut forwards, addresses) = forward(&stack, "relay-1", &[nobody], "forwards.log").await?;
    let mut connection = TcpStream::connect(addresses[0]).await?;
    let failed = timeout(PATIENCE, connection.read_u8()).await.context("it is not told")?;
    ensure!(failed.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{failed:?}");
    let told = forwards.wait_for_line("ConnectionRefused", PATIENCE).await?;
    ensure!(told.contains(&format!("nothing listens on port {nobody} of web/s/n1/0")), "{told}");
    forwards.kill()?;

    // A port that was not named when it began, and more connections than there may be.
    let start = pb::PortForwardStart {
        app: "projects/default/apps/web".to_owned(),
        ports: vec![port.into()],
        ..pb::PortForwardStart::default()
    };
    let frame = |connection, port: u16| {
        let connect = Body::Connect(pb::ForwardConnect { port: port.into() });
        Up::Frame(pb::ForwardFrame { connection, body: Some(connect) })
    };
    let many = (2..600).map(|connection| frame(connection, port));
    let sent = [Up::Start(start), frame(1, nobody)].into_iter().chain(many);
    let sent: Vec<_> = sent.map(|body| pb::PortForwardRequest { body: Some(body) }).collect();
    // The end of what is sent is the end of the channel.
    let (end, ended) = oneshot::channel::<()>();
    let sent = stream::iter(sent).chain(stream::pending()).take_until(ended);
    let mut answers = client(&stack, "relay-0").await?.port_forward(sent).await?.into_inner();
    let (mut not_asked, mut too_many) = (Vec::new(), Vec::new());
    while too_many.len() < 599 - 512 - 1 {
        let answer = timeout(PATIENCE, answers.message()).await.context("it is not told")??;
        let answer = answer.and_then(|answer| answer.body).context("the channel has ended")?;
        let Down::Frame(pb::ForwardFrame { connection, body: Some(Body::Reset(why)) }) = answer else {
            continue;
        };
        match why.reason.as_str() {
            "PortNotAsked" => not_asked.push(connection),
            "TooManyConnections" => too_many.push(connection),
            other => bail!("{connection}: {other}: {}", why.message),
        }
    }
    assert_eq!(not_asked, [1]);
    assert_eq!(too_many, (514..600).collect::<Vec<u32>>());
    drop((answers, end));

    let refused = async |words: &[&str], code: i32, text: &str| -> Result<()> {
        let words = [&["port-forward"], words].concat();
        let (ended, out, err) = ran(&stack, &words).await?;
        ensure!(ended == Some(code) && err.contains(text), "{words:?}: {ended:?}: {out}{err}");
        Ok(())
    };
    refused(&["app/never", "80"], 3, "projects/default/apps/never does not exist").await?;
    refused(&["app/web", "other", "80"], 1, "no instance of service other").await?;
    refused(&["app/web", "8080:http"], 2, "`http` is no port").await?;
    refused(&["app/web", "s"], 2, "name a port").await?;
    refused(&["app/web", "8080:80", "8080:81"], 2, "have the same port of this machine").await?;
    refused(&["app/web", &format!("{port}:80")], 1, "cannot listen on 127.0.0.1").await?;
    wait_channels(&stack, 0).await;
    stack.finish(None).await
}

#[tokio::test]
async fn a_client_that_is_killed_leaves_no_socket_and_a_lost_agent_is_reached_again() -> Result<()> {
    let (mut stack, port) = echoing().await?;
    let pid = stack.agent("n1")?.pid();
    let before = sockets(pid);
    let (mut forwards, addresses) = forward(&stack, "relay-0", &[port], "forwards-0.log").await?;
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut connection = TcpStream::connect(addresses[0]).await?;
        connection.write_all(b"!").await?;
        timeout(PATIENCE, connection.read_u8()).await.context("no echo")??;
        open.push(connection);
    }
    ensure!(sockets(pid) >= before + 10, "{} sockets, {before} before", sockets(pid));
    forwards.kill()?;
    wait_channels(&stack, 0).await;
    eventually("the agent has given all back", PATIENCE, async || {
        let now = sockets(pid);
        ensure!(now <= before, "{now} sockets, {before} before");
        Ok(())
    })
    .await;

    let (mut forwards, addresses) = forward(&stack, "relay-0", &[port], "forwards-1.log").await?;
    let mut connection = TcpStream::connect(addresses[0]).await?;
    connection.write_all(b"!").await?;
    timeout(PATIENCE, connection.read_u8()).await.context("no echo")??;
    stack.kill_agent("n1")?;
    let ended = timeout(PATIENCE, connection.read_u8()).await.context("the connection goes on")?;
    ensure!(ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{ended:?}");
    forwards.wait_for_line("trying again", PATIENCE).await?;
    stack.start_agent("n1")?;
    stack.wait_connected("n1").await;
    // It listens on: what comes meanwhile waits.
    round_trip(addresses[0], 7, 100_000).await?;
    ensure!(forwards.try_wait()?.is_none(), "it has ended: {}", forwards.output());
    forwards.kill()?;
    stack.finish(None).await
}

/// What a server says to a request.
async fn get(address: SocketAddr) -> Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    timeout(PATIENCE, connection.read_to_string(&mut answer)).await.context("no answer")??;
    Ok(answer)
}

#[tokio::test]
async fn a_container_is_reached_where_only_it_itself_could_and_again_after_a_restart() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("forward");
    let containers = Containers::of(&docker, &node);
    let config = StackConfig { gateways: 2, relays: 2, crossed_relays: true, ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    stack.add_agent(&node, &[&format!("--docker-host=unix://{}", docker.socket().display())])?;
    stack.wait_connected(&node).await;
    let pid = stack.agent(&node)?.pid();
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    // Nobody else reaches what listens on loopback there.
    let serves = "mkdir /www; date +%s%N > /www/index.html; nc -ll -p 7000 -e cat & exec httpd -f -p 127.0.0.1:80 -h /www";
    stack.apply("web", app([local(container("s", serves))])).await?;
    stack.wait_ready("web", 1).await;
    let (mut forwards, addresses) = forward(&stack, "relay-0", &[80, 7000], "forwards.log").await?;
    eventually("its page is there", PATIENCE, async || {
        let page = get(addresses[0]).await?;
        ensure!(page.starts_with("HTTP/1.") && page.contains("200 OK"), "{page}");
        Ok(())
    })
    .await;
    let first = get(addresses[0]).await?;
    round_trip(addresses[1], 1, 8 << 20).await?;

    // In the middle of a connection its container ends, and comes back.
    let mut connection = TcpStream::connect(addresses[1]).await?;
    connection.write_all(b"!").await?;
    timeout(PATIENCE, connection.read_u8()).await.context("no echo")??;
    let running = containers.of_app("web")?.context("it runs")?;
    let process = rustix::process::Pid::from_raw(running.pid.try_into()?).context("a process")?;
    rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
    let ended = timeout(PATIENCE, connection.read_u8()).await.context("the connection goes on")?;
    ensure!(ended.is_err(), "{ended:?}");
    eventually("the next copy answers on the same port", PATIENCE, async || {
        let page = get(addresses[0]).await?;
        ensure!(page.contains("200 OK") && page != first, "{page}");
        Ok(())
    })
    .await;
    round_trip(addresses[1], 2, 100_000).await?;
    // No thread that was in the container is kept.
    eventually("as many threads as the agent has", PATIENCE, async || {
        let names: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))?
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
            .collect();
        ensure!(!names.iter().any(|name| name.trim() == "netns"), "{} of them: {names:?}", threads());
        Ok(())
    })
    .await;
    ensure!(forwards.try_wait()?.is_none(), "it has ended: {}", forwards.output());
    forwards.kill()?;
    stack.delete_apps().await?;
    containers.wait_none().await;
    stack.finish(None).await
}
