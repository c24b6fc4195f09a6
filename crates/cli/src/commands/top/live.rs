//! Live views: a screen that is drawn anew as news comes in, and the keys that sort it and end it. What is shown is in `usage` and `gpus::live`.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::{Status, Streaming};

use crate::client::jittered;
use crate::error::{CliError, is_transport_failure};
use crate::terminal::{self, Raw, Screen};
use crate::watch::is_version_gone;

/// Between two looks for what came or went.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// News of many comes one after the other: the screen is drawn once for all that come within this.
const DRAW_PERIOD: Duration = Duration::from_millis(100);
/// What ends it: `q`, and Ctrl-C where it is not a signal.
const QUIT: [u8; 3] = [b'q', b'Q', 3];

/// A question that is under way. It borrows nothing of what is shown, which changes meanwhile.
pub(super) type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, CliError>> + 'a>>;

/// What a live view shows, and where that comes from.
pub(super) trait Live<'a> {
    /// What a stream tells.
    type News;
    /// What a look finds.
    type Found;

    /// Opens the stream of news of what is shown now. Absent: there is nothing to ask for.
    fn begin(&self) -> Option<Asking<'a, Streaming<Self::News>>>;
    /// Looks for what came or went.
    fn look(&self) -> Asking<'a, Self::Found>;
    /// Looks for what there was before any news. Absent: for nothing.
    fn look_back(&self) -> Option<Asking<'a, Self::Found>> {
        None
    }
    /// Takes news in.
    fn take(&mut self, news: Self::News);
    /// Takes in what a look has found; answers whether the stream is of others now, and is begun anew.
    fn take_found(&mut self, found: Self::Found) -> bool;
    /// Sorts as a key says. False: it says nothing.
    fn sort(&mut self, key: u8) -> bool;
    /// What is on the screen, of so many columns.
    fn page(&self, columns: usize) -> Page;
    /// The server that tells the news.
    fn address(&self) -> &'a str;
}

/// What is on a screen.
pub(super) struct Page {
    /// What this is.
    pub(super) head: String,
    /// Which keys there are.
    pub(super) keys: &'static str,
    /// The table.
    pub(super) table: String,
    /// What has a place of its own below, however long the table is.
    pub(super) below: Vec<String>,
}

impl Page {
    /// In lines that fit. `trouble` comes first of what is below.
    fn lines(self, trouble: Option<&str>, (columns, rows): (usize, usize)) -> Vec<String> {
        let cut = |line: &str| line.chars().take(columns).collect::<String>();
        let mut lines = vec![cut(&self.head), cut(self.keys), String::new()];
        lines.extend(self.table.lines().map(cut));
        let below: Vec<&str> = trouble.into_iter().chain(self.below.iter().map(String::as_str)).collect();
        if !below.is_empty() {
            let most = rows / 3;
            lines.truncate(rows.saturating_sub(below.len().min(most) + 1));
            lines.push(String::new());
            lines.extend(below.into_iter().take(most).map(cut));
        }
        lines
    }
}

/// Shows it until somebody ends it.
pub(super) async fn run<'a, L: Live<'a>>(mut live: L) -> Result<(), CliError> {
    let failed = |error: io::Error| CliError::Failed(format!("setting the terminal up: {error}"));
    // Who may not see it is told so before there is a screen.
    let mut stream = match live.begin() {
        Some(asking) => Some(asking.await?),
        None => None,
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
    let mut asking = live.look_back().map(Question::Look);
    let (mut tries, mut again) = (0, None);
    let mut trouble: Option<String> = None;
    let mut due = Some(Instant::now());
    loop {
        tokio::select! {
            () = at(due) => {
                due = None;
                let (columns, rows) = terminal::shown_size();
                let size = (usize::from(columns), usize::from(rows));
                screen.show(&live.page(size.0).lines(trouble.as_deref(), size)).map_err(failed)?;
                continue;
            }
            news = next(&mut stream) => match news {
                Ok(Some(news)) => {
                    (tries, trouble) = (0, None);
                    live.take(news);
                }
                // Nobody has asked for the end: it is begun anew.
                Ok(None) => (stream, again) = (None, Some(Instant::now() + jittered(tries))),
                Err(status) if is_transport_failure(&status) || is_version_gone(&status) => {
                    (stream, again) = (None, Some(Instant::now() + jittered(tries)));
                }
                Err(status) => return Err(CliError::of_status(&status, live.address())),
            },
            () = at(again), if asking.is_none() => {
                again = None;
                tries += 1;
                asking = live.begin().map(Question::Begin);
            }
            _ = looks.tick(), if asking.is_none() => asking = Some(Question::Look(live.look())),
            answer = answer(&mut asking) => {
                asking = None;
                match answer {
                    Answer::Begun(Ok(begun)) => (stream, trouble) = (Some(begun), None),
                    Answer::Found(Ok(found)) => if live.take_found(found) {
                        (stream, again, tries) = (None, Some(Instant::now()), 0);
                    },
                    Answer::Begun(Err(error)) => {
                        trouble = Some(error.summary());
                        again = Some(Instant::now() + jittered(tries));
                    }
                    Answer::Found(Err(error)) => trouble = Some(error.summary()),
                }
            }
            key = keys.typed.recv() => match key {
                Some(key) if QUIT.contains(&key) => return Ok(()),
                Some(key) => if !live.sort(key.to_ascii_lowercase()) {
                    continue;
                },
                // The terminal is gone.
                None => return Ok(()),
            },
            _ = resized.recv() => {}
            _ = ends.recv() => return Ok(()),
        }
        due.get_or_insert(Instant::now() + DRAW_PERIOD);
    }
}

/// What is asked.
enum Question<'a, News, Found> {
    Begin(Asking<'a, Streaming<News>>),
    Look(Asking<'a, Found>),
}

/// What came of it.
enum Answer<News, Found> {
    Begun(Result<Streaming<News>, CliError>),
    Found(Result<Found, CliError>),
}

async fn answer<News, Found>(asking: &mut Option<Question<'_, News, Found>>) -> Answer<News, Found> {
    match asking {
        Some(Question::Begin(asking)) => Answer::Begun(asking.await),
        Some(Question::Look(asking)) => Answer::Found(asking.await),
        None => std::future::pending().await,
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn next<T>(stream: &mut Option<Streaming<T>>) -> Result<Option<T>, Status> {
    match stream {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
    }
}

/// What is typed.
struct Keys {
    typed: mpsc::Receiver<u8>,
    /// Without a terminal nothing is typed, and that has no end either.
    _held: Option<mpsc::Sender<u8>>,
}

impl Keys {
    /// From a thread of its own, which nobody waits for.
    fn read(is_there: bool) -> io::Result<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(table: &str, below: &[&str], trouble: Option<&str>, size: (usize, usize)) -> Vec<String> {
        let below = below.iter().map(|&line| line.to_owned()).collect();
        Page { head: "head".into(), keys: "keys", table: table.into(), below }.lines(trouble, size)
    }

    #[test]
    fn what_is_wrong_has_its_place_however_long_the_table_is_and_no_more_than_a_third() {
        let table = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        assert_eq!(lines("1\n", &[], None, (4, 9)), ["head", "keys", "", "1"]);
        assert_eq!(
            lines(table, &["a", "b"], Some("lost"), (4, 9)),
            ["head", "keys", "", "1", "2", "", "lost", "a", "b"]
        );
        assert_eq!(lines(table, &["a", "b", "c", "d"], None, (4, 9)).len(), 9);
    }

    #[test]
    fn a_line_is_cut_to_the_screen() {
        assert_eq!(lines("a long line\n", &["another"], None, (3, 9)), ["hea", "key", "", "a l", "", "ano"]);
    }
}
