//! Commands and keys, beside `docker exec`.

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Pty;
use skerry_integration::apps::{app, container};
use skerry_integration::containers::local;
use skerry_testing::{Budget, Docker, percentile};

use crate::Bench;
use crate::support::{ms, quick, show_times};

// Of the design document, in ms.
const EXEC_ADDED_MAX: f64 = 15.0;
const KEY_ADDED_P50_MAX: f64 = 2.0;
const KEY_ADDED_P99_MAX: f64 = 10.0;
/// A key is typed so long after the one before was shown.
const BETWEEN_KEYS: Duration = Duration::from_millis(5);

impl Bench<'_> {
    pub(crate) async fn exec(&self) -> Result<()> {
        let Some(docker) = self.docker else {
            self.figures.note("(no commands in containers to compare)");
            return Ok(());
        };
        let name = self.name("exec");
        self.control.apply(&name, app([local(container("s", "exec sleep 1000000"))])).await?;
        self.control.wait_ready(&name, 1).await?;
        let id = self.container(docker, &name).await?;
        let ours = |flags: &[&str], command: &str| {
            let mut exec = self.control.client();
            exec.args([&["exec"], flags, &[&format!("app/{name}"), "--", command]].concat());
            exec
        };
        let theirs =
            |flags: &[&str], command: &str| plain(docker, &[&["exec"], flags, &[&id, command]].concat());

        let count = if quick() { 5 } else { 100 };
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..count {
            without.push(run(theirs(&[], "true")).await?);
            with.push(run(ours(&[], "true")).await?);
        }
        self.beside("relay.exec", &with, &without);
        let p50 = at(&with, 50.0) - at(&without, 50.0);
        self.figures.hold("relay.exec.added.p50", p50, "ms", Budget::AtMost(EXEC_ADDED_MAX));

        let count = if quick() { 20 } else { 1000 };
        let (with, without) = (ours(&["-it"], "cat"), theirs(&["-it"], "cat"));
        let typing = move || Ok::<_, anyhow::Error>((keys(&with, count)?, keys(&without, count)?));
        let (with, without) = tokio::task::spawn_blocking(typing).await??;
        self.beside("relay.keys", &with, &without);
        for (word, percent, most) in [("p50", 50.0, KEY_ADDED_P50_MAX), ("p99", 99.0, KEY_ADDED_P99_MAX)] {
            let added = at(&with, percent) - at(&without, percent);
            self.figures.hold(&format!("relay.keys.added.{word}"), added, "ms", Budget::AtMost(most));
        }
        self.control.delete(&name).await
    }

    fn beside(&self, name: &str, with: &[f64], without: &[f64]) {
        show_times(self.figures, &format!("{name}.docker"), without);
        show_times(self.figures, &format!("{name}.skerry"), with);
    }
}

fn plain(docker: &Docker, words: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(words).env("DOCKER_HOST", format!("unix://{}", docker.socket().display()));
    command
}

fn at(samples: &[f64], percent: f64) -> f64 {
    percentile(&mut samples.to_vec(), percent).unwrap_or_default()
}

/// Runs it to its end: how long it took, in ms.
async fn run(command: Command) -> Result<f64> {
    let begun = Instant::now();
    let output = tokio::process::Command::from(command).output().await.context("starting a client")?;
    let took = ms(begun.elapsed());
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

/// Types keys into a program that has its terminal show them: from each until it is shown, in ms.
fn keys(command: &Command, count: usize) -> Result<Vec<f64>> {
    let pty = Pty::run(command, 80, 24)?;
    let mut terminal = &pty.master;
    let mut times = Vec::with_capacity(count);
    // The first ones wait for the program.
    for number in 0..count + 10 {
        let begun = Instant::now();
        terminal.write_all(b"k").context("typing")?;
        let mut shown = [0];
        while shown != *b"k" {
            terminal.read_exact(&mut shown).context("reading what is shown")?;
        }
        if number >= 10 {
            times.push(ms(begun.elapsed()));
        }
        std::thread::park_timeout(BETWEEN_KEYS);
        if number % 70 == 69 {
            // A line that is whole is written anew by `cat`; what a terminal keeps of one has an end.
            terminal.write_all(b"\r").context("typing")?;
            let mut newlines = 0;
            while newlines < 2 {
                terminal.read_exact(&mut shown).context("reading what is shown")?;
                newlines += usize::from(shown == *b"\n");
            }
        }
    }
    Ok(times)
}
