//! Who speaks nonsense, half a sentence or nothing at all to a port: services stay healthy, forget it, and do not panic.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_rpc::check_health;
use skerry_testing::{Authority, Process, bin, eventually, free_port, http_get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections of each kind in a round, to each port.
const CALLERS: u64 = 60;
/// Those that stall at once. More than the metrics' port takes at a time.
const STALLED: usize = 24;
const ROUNDS: u64 = 2;
const NONSENSE_BYTES_MAX: u64 = 4096;
/// What a process may have grown by afterwards, beside half of what it was: allocators keep some.
const GROWTH_KIB_MAX: u64 = 16 * 1024;
const SERVICE: &str = "spiffe://example.org/project/system/service/skerry";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Random numbers from a seed (the SplitMix64 generator).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn roll(&mut self, below: u64) -> usize {
        usize::try_from(self.next() % below).expect("it is small")
    }

    fn nonsense(&mut self) -> Vec<u8> {
        let length = self.roll(NONSENSE_BYTES_MAX);
        (0..length).map(|_| u8::try_from(self.roll(256)).expect("a byte")).collect()
    }

    /// `good` with some bits flipped.
    fn flipped(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..=self.roll(8) {
            let at = self.roll(bytes.len() as u64);
            bytes[at] ^= 1 << self.roll(8);
        }
        bytes
    }

    /// The beginning of `good`.
    fn cut<'a>(&mut self, good: &'a [u8]) -> &'a [u8] {
        &good[..self.roll(good.len() as u64)]
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is small").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A call, as HTTP/2 frames: its headers, and a message of nothing.
fn call(stream: u32, path: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in headers {
        // A literal that is not indexed, with a new name.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("it is short"));
            block.extend(text.as_bytes());
        }
    }
    [frame(1, 4, stream, &block), frame(0, 1, stream, &[0; 5])].concat()
}

/// What a client of gRPC says.
fn grpc() -> Vec<u8> {
    let settings = frame(4, 0, 0, &[]);
    let calls = [
        call(1, "/grpc.health.v1.Health/Check"),
        call(3, "/skerry.gateway.v1.SyncService/Sync"),
        call(5, "/skerry.scheduler.v1.AppService/ListApps"),
        call(7, "/etcdserverpb.KV/Range"),
    ];
    [PREFACE.to_vec(), settings, calls.concat()].concat()
}

/// The beginning of a TLS handshake, as far as a server reads it without an answer.
fn tls_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session; one suite; no compression; the extension that names the versions.
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0, 0, 7, 0, 43, 0, 3, 2, 3, 4]);
    let length = u8::try_from(body.len()).expect("it is short");
    let hello = [vec![1, 0, 0, length], body].concat();
    [vec![0x16, 3, 1, 0, length + 4], hello].concat()
}

fn http() -> Vec<u8> {
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".to_vec()
}

/// Says `bytes` and hangs up. The other side hangs up too, whatever that was.
async fn say(address: String, bytes: Vec<u8>) -> Result<()> {
    let mut stream = TcpStream::connect(&address).await?;
    // It may have hung up before it has heard all.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    ended.with_context(|| format!("{address} does not let go of who has hung up"))?.ok();
    Ok(())
}

/// One round against one port, whose clients say `good`. Answers those who have begun and say no more.
async fn attack(address: &str, good: &[u8], mut dice: Dice) -> Result<Vec<TcpStream>> {
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut stream = TcpStream::connect(address).await?;
        let _ = stream.write_all(dice.cut(good)).await;
        stalled.push(stream);
    }
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        for bytes in [dice.nonsense(), dice.flipped(good), dice.cut(good).to_vec()] {
            callers.spawn(say(address.to_owned(), bytes));
        }
    }
    while let Some(said) = callers.join_next().await {
        said??;
    }
    Ok(stalled)
}

/// Files and resident memory of a process.
#[derive(Debug, Clone, Copy)]
struct Held {
    files: usize,
    resident_kib: u64,
}

fn held(pid: u32) -> Result<Held> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let resident_kib = resident.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(Held { files: fs::read_dir(format!("/proc/{pid}/fd"))?.count(), resident_kib })
}

/// A process under attack, and what each of its ports hears from its clients.
struct Victim {
    name: String,
    pid: u32,
    ports: Vec<(String, Vec<u8>)>,
}

/// Attacks all, round by round; `well` says whether they are, while callers are stalled and afterwards.
async fn hurt<W, F>(victims: &[Victim], seed: u64, mut well: W) -> Result<()>
where
    W: FnMut() -> F,
    F: Future<Output = Result<()>>,
{
    let mut dice = Dice(seed);
    let mut before = BTreeMap::new();
    // The first round is not counted: it is what allocators and pools grow by.
    for round in 0..=ROUNDS {
        let ports = victims.iter().flat_map(|victim| &victim.ports);
        let attacks = ports.map(|(address, good)| attack(address, good, Dice(dice.next())));
        // All at once: a port for metrics takes its time with each of those who stall.
        let stalled = try_join_all(attacks).await?;
        eventually("they answer beside the stalled ones", PATIENCE, &mut well).await;
        drop(stalled);
        for victim in victims {
            let earlier = before.get(&victim.name).copied();
            let now = lets_go(victim, earlier).await;
            if round == 0 {
                before.insert(victim.name.clone(), settled(victim.pid, now).await?);
            }
        }
    }
    eventually("they answer afterwards", PATIENCE, &mut well).await;
    Ok(())
}

/// What a victim holds once that is no more than before, with what allocators keep.
async fn lets_go(victim: &Victim, earlier: Option<Held>) -> Held {
    eventually(&format!("{} lets go", victim.name), PATIENCE, async || -> Result<Held> {
        let now = held(victim.pid)?;
        let Some(Held { files, resident_kib }) = earlier else { return Ok(now) };
        ensure!(now.files <= files + 2, "{} files, {files} before", now.files);
        ensure!(
            now.resident_kib <= resident_kib + resident_kib / 2 + GROWTH_KIB_MAX,
            "{} KiB, {resident_kib} before",
            now.resident_kib
        );
        Ok(now)
    })
    .await
}

/// What is held once it has stopped to become less.
async fn settled(pid: u32, mut last: Held) -> Result<Held> {
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let now = held(pid)?;
        if now.files >= last.files {
            return Ok(now);
        }
        last = now;
    }
}

fn no_panic(log: &str, name: &str) -> Result<()> {
    ensure!(!log.contains("panicked"), "{name} panicked:\n{log}");
    Ok(())
}

/// How often a metric was counted, over all lines that hold every one of `labels`.
async fn counted(metrics: &str, name: &str, labels: &[&str]) -> Result<u64> {
    let text = http_get(metrics, "/metrics").await?.text();
    let lines = text.lines().filter(|line| line.starts_with(name) && labels.iter().all(|l| line.contains(l)));
    let values =
        lines.filter_map(|line| line.rsplit(' ').next()).filter_map(|value| value.parse::<u64>().ok());
    Ok(values.sum())
}

fn victims(stack: &mut Stack, good: &[u8]) -> Result<Vec<Victim>> {
    ["registry-0", "scheduler-0", "gateway-0"]
        .into_iter()
        .map(|name| {
            let grpc = (stack.address(name).to_owned(), good.to_vec());
            let metrics = (stack.metrics(name).to_owned(), http());
            let pid = stack.service(name)?.pid();
            Ok(Victim { name: name.to_owned(), pid, ports: vec![grpc, metrics] })
        })
        .collect()
}

#[tokio::test]
async fn plain_ports_bear_nonsense_flipped_bits_and_those_who_stall() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    let victims = victims(&mut stack, &grpc())?;
    hurt(&victims, 1, async || {
        for victim in &victims {
            check_health(&victim.ports[0].0, None, PATIENCE).await?;
            ensure!(http_get(&victim.ports[1].0, "/healthz").await?.status == 200, "it does not live");
        }
        Ok(())
    })
    .await?;
    let node = stack.node("n1").await?;
    ensure!(
        node.status.and_then(|status| status.connection).is_some_and(|c| c.connected),
        "the agent was lost"
    );
    for victim in &victims {
        no_panic(&fs::read_to_string(stack.log(&victim.name))?, &victim.name)?;
    }
    stack.finish(None).await
}

#[tokio::test]
async fn tls_ports_bear_nonsense_flipped_bits_and_those_who_stall() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("example.org");
    let files = authority.write(dir.path(), "services", SERVICE);
    let config = StackConfig { service_args: files.flags().to_vec(), ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    let victims = victims(&mut stack, &tls_hello())?;
    hurt(&victims, 2, async || {
        for victim in &victims {
            ensure!(http_get(&victim.ports[1].0, "/readyz").await?.status == 200, "it is not ready");
        }
        Ok(())
    })
    .await?;
    for victim in &victims {
        let turned = "skerry_door_turned_away_total";
        ensure!(counted(&victim.ports[1].0, turned, &["handshake"]).await? > CALLERS, "nobody was counted");
        no_panic(&fs::read_to_string(stack.log(&victim.name))?, &victim.name)?;
    }
    // Nothing runs in it, and the stack's own clients have no certificate.
    Ok(())
}

/// A session of TLS, as who has a certificate opens it: what it says, whatever the other side answers; then it hangs up.
async fn say_in_session(address: String, tls: tokio_rustls::TlsConnector, bytes: Vec<u8>) -> Result<()> {
    let stream = TcpStream::connect(&address).await?;
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").context("a name")?;
    let mut stream = tls.connect(name, stream).await?;
    // It may be hung up on before it has said all.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    ended.with_context(|| format!("{address} does not let go of who has hung up"))?.ok();
    Ok(())
}

/// What HTTP/2 lets a client say that costs a server more than it costs the client.
fn floods() -> Vec<Vec<u8>> {
    const FRAMES: usize = 20_000;
    let opening = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let flood = |one: Vec<u8>| [opening.clone(), one.repeat(FRAMES)].concat();
    // A window of nothing, so that no answer can go out; then calls, each of which is answered.
    let no_window = [PREFACE, &frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])].concat();
    let calls: Vec<u8> = (0..2000).flat_map(|n| call(2 * n + 1, "/grpc.health.v1.Health/Check")).collect();
    vec![
        flood(frame(4, 0, 0, &[])),
        flood(frame(6, 0, 0, &[0; 8])),
        flood(frame(3, 0, 1, &8_u32.to_be_bytes())),
        flood(frame(2, 0, 1, &[0, 0, 0, 0, 16])),
        flood(frame(8, 0, 0, &[0, 0, 0, 1])),
        // Empty data on a stream that nobody has opened.
        flood(frame(0, 0, 1, &[])),
        // A header that never ends: HEADERS without its end, and CONTINUATION after CONTINUATION.
        [opening.clone(), frame(1, 0, 1, &[]), frame(9, 0, 1, &[0; 1000]).repeat(FRAMES / 20)].concat(),
        // One header list larger than is taken, in one frame after the other.
        [opening.clone(), frame(1, 0, 1, &[0x40; 16_000]), frame(9, 4, 1, &[0x40; 16_000])].concat(),
        // A frame that says it has 16 MiB.
        [opening, vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], vec![0; 100_000]].concat(),
        [no_window, calls].concat(),
    ]
}

#[tokio::test]
async fn sessions_of_who_has_a_certificate_are_borne_whatever_they_say_in_them() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("example.org");
    let files = authority.write(dir.path(), "services", SERVICE);
    let config = StackConfig { service_args: files.flags().to_vec(), ..StackConfig::default() };
    let mut stack = Stack::start_with(config).await?;
    // A node that was stolen.
    let (issued, key) = authority.issue("spiffe://example.org/project/default/node/n1");
    let servers = skerry_identity::verify::ServerVerifier::new(
        skerry_identity::Trust::new(authority.bundle()),
        skerry_identity::verify::Expected::Dialled,
        skerry_identity::verify::Time::Exact(std::sync::Arc::new(skerry_identity::clock::SystemClock)),
    );
    let credentials = skerry_identity::tls::Credentials::new(issued.chain, key)?;
    let client = skerry_identity::tls::client_config(credentials, std::sync::Arc::new(servers));
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let victims = victims(&mut stack, &[])?;
    let mut dice = Dice(4);
    let mut before = BTreeMap::new();
    for round in 0..=ROUNDS {
        let mut callers = JoinSet::new();
        for victim in &victims {
            let address = &victim.ports[0].0;
            for flood in floods() {
                callers.spawn(say_in_session(address.clone(), tls.clone(), flood));
            }
            for _ in 0..CALLERS {
                let good = grpc();
                for bytes in [dice.nonsense(), dice.flipped(&good), dice.cut(&good).to_vec()] {
                    callers.spawn(say_in_session(address.clone(), tls.clone(), bytes));
                }
            }
        }
        for victim in &victims {
            eventually("it is ready meanwhile", PATIENCE, async || -> Result<()> {
                ensure!(http_get(&victim.ports[1].0, "/readyz").await?.status == 200, "it is not ready");
                Ok(())
            })
            .await;
        }
        while let Some(said) = callers.join_next().await {
            said??;
        }
        for victim in &victims {
            let earlier = before.get(&victim.name).copied();
            let now = lets_go(victim, earlier).await;
            if round == 0 {
                before.insert(victim.name.clone(), settled(victim.pid, now).await?);
            }
        }
    }
    for victim in &victims {
        no_panic(&fs::read_to_string(stack.log(&victim.name))?, &victim.name)?;
    }
    // Nothing runs in it, and the stack's own clients have no certificate.
    Ok(())
}

#[tokio::test]
async fn the_embedded_etcd_bears_nonsense_flipped_bits_and_those_who_stall() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{}", free_port());
    let data = format!("--data-dir={}", dir.path().join("data").display());
    let listen = format!("--listen={address}");
    let mut etcd = Process::spawn(bin("skerry"), ["etcd", &data, &listen], dir.path().join("etcd.log"))?;
    etcd.wait_for_line("ready", PATIENCE).await?;
    let victim = Victim { name: "etcd".to_owned(), pid: etcd.pid(), ports: vec![(address.clone(), grpc())] };
    hurt(&[victim], 3, async || {
        let mut client = etcd_client::Client::connect([&address], None).await?;
        client.put("a", "b", None).await?;
        ensure!(client.get("a", None).await?.count() == 1, "it has forgotten");
        Ok(())
    })
    .await?;
    no_panic(&etcd.output(), "etcd")
}

#[tokio::test]
async fn who_begins_calls_and_gives_them_up_is_hung_up_on() -> Result<()> {
    const CALLS: u32 = 20_000;
    let stack = Stack::start().await?;
    let gateway = stack.address("gateway-0").to_owned();
    let (mut reading, mut writing) = TcpStream::connect(&gateway).await?.into_split();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut answers = Vec::new();
        // Cut off or closed: it is over in both cases.
        let _ = reading.read_to_end(&mut answers).await;
    });
    writing.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await?;
    for n in 0..CALLS {
        let stream = 2 * n + 1;
        let reset = frame(3, 0, stream, &8_u32.to_be_bytes());
        let asked = [call(stream, "/grpc.health.v1.Health/Watch"), reset].concat();
        if writing.write_all(&asked).await.is_err() {
            break;
        }
    }
    tokio::time::timeout(PATIENCE, tasks.join_next()).await.context("it is let go on for ever")?;
    eventually("it goes on", PATIENCE, async || check_health(&gateway, None, PATIENCE).await).await;
    let metrics = stack.metrics("gateway-0").to_owned();
    let begun = counted(&metrics, "grpc_server_started_total", &["grpc.health.v1.Health", "Watch"]).await?;
    ensure!(begun < u64::from(CALLS) / 2, "{begun} of {CALLS} calls were begun");
    let log = fs::read_to_string(stack.log("gateway-0"))?;
    no_panic(&log, "the gateway")?;
    stack.finish(None).await
}

#[tokio::test]
async fn who_keeps_all_places_of_the_metrics_port_gives_way_to_a_probe() -> Result<()> {
    let stack = Stack::start().await?;
    let metrics = stack.metrics("gateway-0").to_owned();
    let mut askers = JoinSet::new();
    for _ in 0..STALLED {
        let address = metrics.clone();
        askers.spawn(async move {
            // Each asks again as soon as it is answered, and connects anew when it is hung up on, so it is never idle.
            loop {
                let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
                let mut answer = [0; 4096];
                while stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.is_ok()
                    && stream.read(&mut answer).await.is_ok_and(|bytes| bytes > 0)
                {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        });
    }
    for _ in 0..5 {
        eventually("a probe is answered", PATIENCE, async || -> Result<()> {
            ensure!(http_get(&metrics, "/healthz").await?.status == 200, "it does not live");
            Ok(())
        })
        .await;
    }
    askers.shutdown().await;
    stack.finish(None).await
}
