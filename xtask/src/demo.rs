//! `cargo xtask demo`: from nothing to a running app, every command shown before it is run.

use std::{
    fs,
    io::{IsTerminal as _, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    hello, sh,
    up::{CONFIG, Interrupt, Up, free_port, fresh_dir},
};

/// Where `skerry` looks for its server when nothing else is said.
const SERVER_PORT: u16 = 7770;
/// The port in the example's manifests.
const APP_PORT: u16 = 8080;
/// From a ready control plane to a node that is known.
const NODE_DEADLINE: Duration = Duration::from_secs(30);
const HTTP_DEADLINE: Duration = Duration::from_secs(5);
/// From the app's deletion to its port being closed.
const GONE_DEADLINE: Duration = Duration::from_secs(30);
const POLL_PERIOD: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// End when everything has been shown, and clean up
    #[arg(long)]
    once: bool,
    /// Where Skerry keeps its state; the same directory continues where it was [default: a new one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Run the app as a process even where a Docker daemon answers
    #[arg(long)]
    no_docker: bool,
    /// Take the binaries as they lie in the target directory
    #[arg(long, hide = true)]
    no_build: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    let skerry = sh::target_dir()?.join("debug/skerry");
    if !args.no_build {
        show(
            "Build Skerry and the example.",
            sh::cargo().args(["build", "--package=skerry", "--package=hello"]),
        )?;
    }
    let docker = if args.no_docker { Err(anyhow!("--no-docker")) } else { hello::docker_answers() };
    let made_image = match &docker {
        Ok(()) => {
            say("A Docker daemon answers. Make the example's image: a static binary, nothing is pulled.");
            hello::make_image()?;
            true
        }
        Err(error) => {
            say(&format!("Without Docker ({error:#}): the example runs as a process."));
            false
        }
    };

    let fresh = args.data_dir.is_none();
    let data_dir = match &args.data_dir {
        Some(dir) => std::path::absolute(dir).context("finding the data directory")?,
        None => fresh_dir("demo")?,
    };
    let result = with_skerry(args, &skerry, &data_dir, docker.is_ok(), &interrupt);
    if fresh && result.is_ok() {
        fs::remove_dir_all(&data_dir).with_context(|| format!("removing {}", data_dir.display()))?;
    } else if result.is_err() {
        eprintln!("(what Skerry wrote and said stays in {})", data_dir.display());
    }
    if made_image && args.once {
        hello::remove_image();
    }
    result
}

/// Everything between the start of `skerry up` and its end.
fn with_skerry(
    args: &Args,
    skerry: &Path,
    data_dir: &Path,
    docker: bool,
    interrupt: &Interrupt,
) -> Result<()> {
    let port = or_free_port(SERVER_PORT)?;
    say(
        "Start the whole of Skerry in one process: control plane, embedded etcd, and an agent for this machine.",
    );
    println!("$ export {CONFIG}={}", Up::config(data_dir).display());
    println!("$ {} &", sh::describe(&Up::command(skerry, data_dir, port)));
    let start = Instant::now();
    let mut up = Up::start(skerry, data_dir, port, &[], interrupt)?;
    println!("ready after {} ms", start.elapsed().as_millis());

    let app_port = or_free_port(APP_PORT)?;
    let manifest = manifest(docker, app_port, data_dir)?;
    let keep = args.data_dir.is_some() && !args.once;
    let shown = tour(&up, &manifest, app_port, interrupt)
        .and_then(|()| if args.once { Ok(()) } else { stay(&mut up, app_port, keep, interrupt) });
    if keep && shown.is_ok() {
        say("Skerry stops. The app runs on, and the same data directory finds it again.");
        return up.stop();
    }
    let log = up.tail();
    let cleaned = clean_up(&up, app_port).and_then(|()| up.stop());
    match shown {
        Ok(()) => cleaned,
        Err(error) => {
            if let Err(second) = cleaned {
                eprintln!("cleaning up failed too: {second:#}");
            }
            Err(error.context(format!("the last lines of skerry up:\n{log}\n")))
        }
    }
}

/// What there is to see.
fn tour(up: &Up, manifest: &Path, app_port: u16, interrupt: &Interrupt) -> Result<()> {
    let (file, node) = (manifest.to_string_lossy(), node(up, interrupt)?);
    let steps: [(&str, &[&str]); 7] = [
        ("Its agent connects.", &["wait", &node, "--for=connected", "--timeout", "30s"]),
        ("This machine is a node.", &["get", "nodes"]),
        ("Apply an app: one service, its health check, how it is run.", &["apply", "-f", &file]),
        (
            "Wait until every instance of it is healthy.",
            &["wait", "app/hello", "--for=healthy", "--timeout", "60s"],
        ),
        ("The app, as the scheduler sees it.", &["get", "apps"]),
        ("Down to the instances, with a reason for whatever does not run.", &["describe", "app/hello"]),
        ("What happened.", &["events"]),
    ];
    for (why, command) in steps {
        interrupt.check()?;
        show(why, &mut up.client(command))?;
    }
    say("Its own answer.");
    println!("$ curl http://127.0.0.1:{app_port}/");
    let answer = http_get(app_port)?;
    print!("{answer}");
    if !answer.starts_with("Hello from ") {
        bail!("the app answers something else than its greeting");
    }
    Ok(())
}

/// The node of this machine, as `node/<name>`, as soon as the registry knows it.
fn node(up: &Up, interrupt: &Interrupt) -> Result<String> {
    let start = Instant::now();
    loop {
        let names = sh::output(&mut up.client(["get", "nodes", "-o", "name"]))?;
        if let Some(name) = names.lines().next() {
            return Ok(name.to_owned());
        }
        if start.elapsed() > NODE_DEADLINE {
            bail!("no node is known {NODE_DEADLINE:?} after the start");
        }
        interrupt.check()?;
        sh::sleep(POLL_PERIOD);
    }
}

/// Until Ctrl-C.
fn stay(up: &mut Up, app_port: u16, keep: bool, interrupt: &Interrupt) -> Result<()> {
    say("It stays up until Ctrl-C. From another terminal, with the same SKERRY_CONFIG:");
    for command in [&["get", "apps", "-w"][..], &["get", "nodes", "-o", "yaml"], &["delete", "app/hello"]] {
        println!("$ {}", sh::describe(&up.client(command)));
    }
    println!("$ curl http://127.0.0.1:{app_port}/");
    while interrupt.check().is_ok() {
        up.check()?;
        sh::sleep(POLL_PERIOD);
    }
    if !keep {
        say("Stopping: the app is deleted, then Skerry ends.");
    }
    Ok(())
}

/// Deletes the app and waits until it has stopped and its instances are gone: nothing of a demo stays behind.
fn clean_up(up: &Up, app_port: u16) -> Result<()> {
    show("Delete the app, and see it stop.", &mut up.client(["delete", "app/hello", "--ignore-not-found"]))?;
    let start = Instant::now();
    loop {
        let answers = http_get(app_port).is_ok();
        let instances = sh::output(&mut up.client(["get", "instances", "-o", "name"]))?;
        let left = instances.lines().filter(|name| name.contains("hello/")).count();
        if !answers && left == 0 {
            return Ok(());
        }
        if start.elapsed() > GONE_DEADLINE {
            bail!(
                "{GONE_DEADLINE:?} after its deletion the app {} and has {left} instances",
                if answers { "still answers" } else { "is silent" }
            );
        }
        sh::sleep(POLL_PERIOD);
    }
}

/// This port where it is free, else another.
fn or_free_port(port: u16) -> Result<u16> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(port),
        Err(_) => free_port(),
    }
}

/// The example's manifest, or where its port is taken a copy with another one.
fn manifest(docker: bool, app_port: u16, data_dir: &Path) -> Result<PathBuf> {
    let (path, text) = hello::manifest(docker)?;
    if app_port == APP_PORT {
        return Ok(path);
    }
    let text = if docker {
        text.replace(&format!("hostPort: {APP_PORT}"), &format!("hostPort: {app_port}"))
    } else {
        text.replace(&APP_PORT.to_string(), &app_port.to_string())
    };
    let copy = data_dir.join("app.yaml");
    fs::write(&copy, text).with_context(|| format!("writing {}", copy.display()))?;
    say(&format!("Port {APP_PORT} is taken: a copy of {} with {app_port} in its place.", path.display()));
    Ok(copy)
}

/// The body that the app answers with.
fn http_get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting to the app")?;
    stream.set_read_timeout(Some(HTTP_DEADLINE)).context("setting a deadline")?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").context("asking the app")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading the app's answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the app's answer has no end of head")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("the app answers {head}");
    }
    Ok(body.to_owned())
}

/// Says why, shows the command, runs it.
fn show(why: &str, command: &mut Command) -> Result<()> {
    say(why);
    println!("$ {}", sh::describe(command));
    sh::run(command)
}

fn say(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m# {text}\x1b[0m");
    } else {
        println!("\n# {text}");
    }
}
