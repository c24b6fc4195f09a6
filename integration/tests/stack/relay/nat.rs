//! Behind a router that lets nobody in, over a link that loses packets: all verbs arrive whole, and a link that is gone is told.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::geteuid;
use skerry_integration::apps::{app, script};
use skerry_integration::containers::unique;
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Cabinet, Stack, StackConfig, Terminal};
use skerry_testing::{Process, eventually, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{begin, command, done, numbers, wait_channels};

/// Of a hundred packets three never arrive.
const LOSS: f64 = 0.03;
const DATA_BYTES: u32 = 2_000_000;

fn data() -> Vec<u8> {
    (0..DATA_BYTES).map(|at| (at.wrapping_mul(31) ^ (at >> 9)).to_le_bytes()[0]).collect()
}

/// What an echo sends back of all that it is sent.
async fn echoed(address: &str, sent: &[u8]) -> Result<Vec<u8>> {
    let mut connection = TcpStream::connect(address).await?;
    let (mut reader, mut writer) = connection.split();
    let mut back = Vec::new();
    let sending = async {
        writer.write_all(sent).await?;
        writer.shutdown().await
    };
    let both = async { tokio::try_join!(sending, reader.read_to_end(&mut back)) };
    timeout(PATIENCE, both).await.context("the echo stands still")??;
    Ok(back)
}

#[tokio::test]
async fn whatever_stands_between_all_verbs_arrive_whole_and_a_link_that_is_gone_is_told() -> Result<()> {
    if !geteuid().is_root() {
        eprintln!("not run: a network namespace is made by root only");
        return Ok(());
    }
    let name = unique("cab").replace('-', "");
    let cabinet = Cabinet::new(&name[name.len().saturating_sub(10)..], 1, LOSS)?;
    let config = StackConfig {
        gateways: 2,
        relays: 2,
        crossed_relays: true,
        host: cabinet.outside(),
        ..StackConfig::default()
    };
    let mut stack = Stack::start_with(config).await?;
    stack.add_agent_in(Some(cabinet.network()), "n1", &["--no-docker"])?;
    stack.wait_connected("n1").await;
    let port = free_port();
    let ticks = "i=0; while :; do i=$((i+1)); echo \"tick $i\"; sleep 0.05; done";
    let echo = format!("exec busybox nc -ll -p {port} -e cat");
    stack.apply("web", app([script("ticks", ticks), script("echo", &echo)])).await?;
    stack.wait_ready("web", 2).await;
    // Nobody comes in: neither at the router nor, by whatever route, at what is behind it.
    for address in [cabinet.uplink(), Ipv4Addr::new(192, 168, 77, 2)] {
        // Something else may answer for an address that nobody has: a proxy that takes all connections. The echo it is not.
        let echo = async {
            let mut connection = TcpStream::connect((address, port)).await?;
            connection.write_all(b"anybody?").await?;
            let mut back = [0; 8];
            connection.read_exact(&mut back).await?;
            std::io::Result::Ok(back)
        };
        let reached = timeout(Duration::from_secs(1), echo).await;
        ensure!(
            !matches!(reached, Ok(Ok(back)) if back == *b"anybody?"),
            "{address} is reached from outside"
        );
    }

    let mut follows = begin(&stack, "relay-0", &["logs", "app/web", "ticks", "-f"], "follows.log")?;
    follows.wait_for_line("tick 20", PATIENCE).await?;

    // A command: both ways, and its exit code.
    let (sent, file) = (data(), stack.dir().join("data"));
    fs::write(&file, &sent)?;
    let mut cat =
        command(&stack, "relay-1", &["exec", "-i", "app/web", "echo", "--", "sh", "-c", "cat; exit 7"]);
    cat.stdin(File::open(&file)?);
    let output = tokio::task::spawn_blocking(move || cat.output());
    let output = timeout(PATIENCE, output).await.context("cat does not end")???;
    ensure!(
        output.status.code() == Some(7) && output.stdout == sent,
        "{:?}: {} bytes",
        output.status,
        output.stdout.len()
    );
    // A terminal.
    let shell = ["exec", "-it", "app/web", "echo", "--", "sh"];
    let mut terminal = Terminal::run(&command(&stack, "relay-0", &shell), 80, 24)?;
    terminal.press("echo on $((1+1)) sides; exit 9\r")?;
    terminal.wait("its answer", PATIENCE, |text| text.contains("on 2 sides")).await?;
    ensure!(terminal.ended(PATIENCE).await?.code() == Some(9), "{}", terminal.text());
    // Files: there and back.
    let there = format!("app/web/echo:/tmp/{name}");
    let back = stack.dir().join("back");
    done(&stack, &["cp", file.to_str().context("text")?, &there]).await?;
    done(&stack, &["cp", &there, back.to_str().context("text")?]).await?;
    ensure!(fs::read(&back)? == sent, "another file came back");
    fs::remove_file(format!("/tmp/{name}"))?;
    // A port.
    let words = ["port-forward", "app/web", "echo", &format!(":{port}")];
    let mut forwards = begin(&stack, "relay-1", &words, "forwards.log")?;
    let line = forwards.wait_for_line("Forwarding ", PATIENCE).await?;
    let address = line.split(' ').nth(1).context("an address")?.to_owned();
    ensure!(echoed(&address, &sent).await? == sent, "the echo says something else");

    // The link is gone, and nobody is told by it.
    cabinet.cut()?;
    follows.wait_for_line("nodes/n1", 3 * PATIENCE).await?;
    forwards.wait_for_line("trying again", 3 * PATIENCE).await?;
    wait_channels(&stack, 0).await;
    cabinet.join()?;
    let before = numbers(&follows.output(), "tick ").last().copied();
    eventually("the log goes on", 3 * PATIENCE, async || {
        let now = numbers(&follows.output(), "tick ").last().copied();
        ensure!(now > before, "{before:?}, {now:?}");
        Ok(())
    })
    .await;
    whole(&follows)?;
    ensure!(echoed(&address, &sent[..100_000]).await? == sent[..100_000], "the echo says something else");
    for client in [&mut follows, &mut forwards] {
        client.kill()?;
    }
    wait_channels(&stack, 0).await;
    stack.finish(None).await
}

/// Each line once and in order, what was written without a link too.
fn whole(follows: &Process) -> Result<()> {
    let told = numbers(&follows.output(), "tick ");
    let wrong = told.windows(2).find(|pair| pair[1] != pair[0] + 1);
    ensure!(told.first() == Some(&1) && wrong.is_none(), "{wrong:?} among {} lines", told.len());
    Ok(())
}
