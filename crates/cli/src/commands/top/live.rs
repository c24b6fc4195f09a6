//! The live view: a screen that is drawn anew with each sample, and the keys that sort it and end it.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::time::Duration;

use skerry_proto::relay::v1 as pb;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::Streaming;

use super::{View, What, ask, take};
use crate::args::{TopFlags, TopSort};
use crate::client::{Client, jittered};
use crate::error::{CliError, is_transport_failure};
use crate::render::top::{self, Known, Nodes, Style};
use crate::terminal::{self, Raw, Screen};

/// Between two looks for nodes that came or went.
pub(super) const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Samples of many nodes come one after the other: the screen is drawn once for all that come within this.
pub(super) const DRAW_PERIOD: Duration = Duration::from_millis(100);
/// What ends it: `q`, and Ctrl-C where it is not a signal.
pub(super) const QUIT: [u8; 3] = [b'q', b'Q', 3];

/// Shows it until somebody ends it.
pub(super) async fn run(client: &Client, view: &View, flags: &TopFlags) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::Failed(format!("setting the terminal up: {error}"));
    // Who may not see it, or names what is not there, is told so before there is a screen.
    let names = view.nodes(client).await?;
    let mut shown = Shown::new(view, flags, &names);
    let mut answers = match names.as_slice() {
        [] => None,
        names => Some(ask(client, view.request(client, names, flags, false)).await?),
    };
    let mut ends = signal(SignalKind::terminate()).map_err(failed)?;
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let screen = Screen::enter().map_err(failed)?;
    // Without a terminal to type at it lasts until it is interrupted.
    let raw = if terminal::is_there() { Some(Raw::set().map_err(failed)?) } else { None };
    let mut keys = Keys::read(raw.is_some()).map_err(failed)?;
    let mut looks = interval_at(Instant::now() + LOOK_PERIOD, LOOK_PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What is asked meanwhile: keys are heard though a server is away.
    let mut asking: Option<Asking<'_>> = None;
    let (mut tries, mut again) = (0, None);
    let mut due = Some(Instant::now());
    loop {
        tokio::select! {
            () = at(due) => {
                due = None;
                screen.show(&shown.lines(client)).map_err(failed)?;
                continue;
            }
            answer = next(&mut answers) => match answer {
                Ok(Some(answer)) => {
                    tries = 0;
                    shown.trouble = None;
                    take(&mut shown.nodes, answer);
                }
                // Nobody has asked for the end: it is begun anew.
                Ok(None) => (answers, again) = (None, Some(Instant::now() + jittered(tries))),
                Err(status) if is_transport_failure(&status) => {
                    (answers, again) = (None, Some(Instant::now() + jittered(tries)));
                }
                Err(status) => return Err(CliError::of_status(&status, client.relay_address())),
            },
            () = at(again), if asking.is_none() => {
                again = None;
                tries += 1;
                let names: Vec<String> = shown.nodes.keys().cloned().collect();
                if !names.is_empty() {
                    let request = view.request(client, &names, flags, false);
                    asking = Some(Box::pin(async move { Asked::Begun(ask(client, request).await) }));
                }
            }
            _ = looks.tick(), if asking.is_none() => {
                asking = Some(Box::pin(async move { Asked::Names(view.nodes(client).await) }));
            }
            asked = wait(&mut asking) => {
                asking = None;
                match asked {
                    Asked::Begun(Ok(begun)) => answers = Some(begun),
                    Asked::Names(Ok(names)) if shown.take_names(&names) => {
                        (answers, again, tries) = (None, Some(Instant::now()), 0);
                    }
                    Asked::Names(Ok(_)) => continue,
                    Asked::Begun(Err(error)) => {
                        shown.trouble = Some(error.summary());
                        again = Some(Instant::now() + jittered(tries));
                    }
                    Asked::Names(Err(error)) => shown.trouble = Some(error.summary()),
                }
            }
            key = keys.typed.recv() => match key {
                Some(key) if QUIT.contains(&key) => return Ok(()),
                Some(b'n' | b'N') => shown.sort = TopSort::Name,
                Some(b'c' | b'C') => shown.sort = TopSort::Cpu,
                Some(b'm' | b'M') => shown.sort = TopSort::Memory,
                Some(_) => continue,
                // The terminal is gone.
                None => return Ok(()),
            },
            _ = resized.recv() => {}
            _ = ends.recv() => return Ok(()),
        }
        due.get_or_insert(Instant::now() + DRAW_PERIOD);
    }
}

type Asking<'a> = Pin<Box<dyn Future<Output = Asked> + 'a>>;

/// What came of a question.
enum Asked {
    Names(Result<Vec<String>, CliError>),
    Begun(Result<Streaming<pb::StreamUsageResponse>, CliError>),
}

async fn wait(asking: &mut Option<Asking<'_>>) -> Asked {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

pub(super) async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn next<T>(answers: &mut Option<Streaming<T>>) -> Result<Option<T>, tonic::Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

/// What is typed.
pub(super) struct Keys {
    pub(super) typed: mpsc::Receiver<u8>,
    /// Without a terminal nothing is typed, and that has no end either.
    _held: Option<mpsc::Sender<u8>>,
}

impl Keys {
    /// From a thread of its own, which nobody waits for.
    pub(super) fn read(is_there: bool) -> io::Result<Self> {
        let (send, typed) = mpsc::channel(8);
        if !is_there {
            return Ok(Self { typed, _held: Some(send) });
        }
        std::thread::Builder::new().name("keys".into()).spawn(move || {
            let mut key = [0];
            while matches!(io::stdin().lock().read(&mut key), Ok(1)) {
                if send.blocking_send(key[0]).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { typed, _held: None })
    }
}

/// What is shown.
struct Shown<'a> {
    view: &'a View,
    nodes: Nodes,
    sort: TopSort,
    /// What is in the way of news.
    trouble: Option<String>,
}

impl<'a> Shown<'a> {
    fn new(view: &'a View, flags: &TopFlags, names: &[String]) -> Self {
        let nodes = names.iter().map(|name| (name.clone(), Known::Waiting)).collect();
        Self { view, nodes, sort: flags.sort, trouble: None }
    }

    /// Whether these are others than before.
    fn take_names(&mut self, names: &[String]) -> bool {
        if self.nodes.keys().eq(names) {
            return false;
        }
        self.nodes.retain(|name, _| names.contains(name));
        for name in names {
            self.nodes.entry(name.clone()).or_insert(Known::Waiting);
        }
        true
    }

    fn lines(&self, client: &Client) -> Vec<String> {
        let (columns, rows) = terminal::shown_size();
        let (columns, rows) = (usize::from(columns), usize::from(rows));
        let (told, all) = top::told(&self.nodes);
        let what = match &self.view.what {
            What::Nodes => "nodes".to_owned(),
            What::Apps => "apps".to_owned(),
            What::Instances(app) => format!("app/{app}"),
        };
        let head = format!("{what} of project {}, told by {told} of {all} nodes", client.project());
        let mut lines = vec![
            cut(&head, columns),
            cut("q ends, sort by: n name, c cpu, m memory", columns),
            String::new(),
        ];
        if self.nodes.is_empty() {
            lines.push(cut(self.view.nothing(), columns));
        } else {
            let style = Style { sort: self.sort, width: Some(columns), headers: true };
            lines.extend(self.view.table(&self.nodes, style).lines().map(|line| cut(line, columns)));
        }
        let troubles: Vec<String> = self.trouble.iter().cloned().chain(top::troubles(&self.nodes)).collect();
        if !troubles.is_empty() {
            // They have a place of their own, however long the table is.
            let kept = rows.saturating_sub(troubles.len().min(rows / 3) + 1);
            lines.truncate(kept);
            lines.push(String::new());
            lines.extend(troubles.iter().take(rows / 3).map(|trouble| cut(trouble, columns)));
        }
        lines
    }
}

/// A line that does not go on in the next one.
pub(super) fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns).collect()
}
