//! List, then watch: what is there, then every change, through lost connections and compaction.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use tonic::{Code, Status};

use crate::client::{Client, jittered};
use crate::error::{CliError, is_transport_failure, root_cause};
use crate::item::{ChangeKind, Item, Query};
use crate::patience::Lost;

/// A stream that says nothing for so long is dead: servers send a bookmark about each 30 s.
const SILENCE_MAX: Duration = Duration::from_secs(100);
/// Events that are remembered, to tell none twice after a lost connection: twice what a server answers at most.
const EVENTS_REMEMBERED: usize = 20_000;
/// How often what servers do not stream is asked for.
const POLL: Duration = Duration::from_secs(1);

/// What is known, to tell what a new listing changed.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    known: BTreeMap<String, Item>,
}

impl Tracker {
    /// Takes a whole listing; answers what differs from what was known, in the order of the listing, what is gone last.
    pub(crate) fn replace(&mut self, listing: Vec<Item>) -> Vec<(ChangeKind, Item)> {
        let mut before = std::mem::take(&mut self.known);
        let mut changes = Vec::new();
        for item in listing {
            let key = item.target().to_string();
            match before.remove(&key) {
                None => changes.push((ChangeKind::Added, item.clone())),
                Some(old) if old != item => changes.push((ChangeKind::Modified, item.clone())),
                Some(_) => {}
            }
            self.known.insert(key, item);
        }
        changes.extend(before.into_values().map(|gone| (ChangeKind::Deleted, gone)));
        changes
    }

    /// Takes one change; answers it unless it is known already.
    pub(crate) fn apply(&mut self, kind: ChangeKind, item: Item) -> Option<(ChangeKind, Item)> {
        let key = item.target().to_string();
        if kind == ChangeKind::Deleted {
            return self.known.remove(&key).map(|_| (kind, item));
        }
        match self.known.insert(key, item.clone()) {
            Some(old) if old == item => None,
            Some(_) => Some((ChangeKind::Modified, item)),
            None => Some((ChangeKind::Added, item)),
        }
    }
}

/// Shows a listing with `show`, then every change, for ever. Ends only with an error. The first call of `show` has the whole listing.
pub(crate) async fn follow(
    client: &Client,
    query: &Query,
    mut show: impl FnMut(Vec<(ChangeKind, Item)>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut tracker = Tracker::default();
    let (listing, mut version) = client.list(query).await?;
    show(tracker.replace(listing))?;
    let mut failures = 0;
    let mut lost = Lost::default();
    loop {
        let ended = if query.kind.is_streamed() {
            stream(client, query, &mut version, &mut tracker, &mut failures, &mut lost, &mut show).await?
        } else {
            tokio::time::sleep(POLL).await;
            End::Relist
        };
        match ended {
            End::Resume => tokio::time::sleep(jittered(failures)).await,
            End::Relist => match client.list(query).await {
                Ok((listing, at)) => {
                    version = at;
                    failures = 0;
                    lost.over();
                    let changes = tracker.replace(listing);
                    if !changes.is_empty() {
                        show(changes)?;
                    }
                }
                // The app whose instances or revisions are watched is gone, and they with it.
                Err(CliError::NotFound(_)) => {
                    lost.over();
                    let changes = tracker.replace(Vec::new());
                    if !changes.is_empty() {
                        show(changes)?;
                    }
                }
                Err(error @ CliError::Unreachable { .. }) => {
                    lost.say(&error.summary());
                    tokio::time::sleep(jittered(failures)).await;
                }
                Err(error) => return Err(error),
            },
        }
        failures = failures.saturating_add(1);
    }
}

/// The newest events, by what identifies them.
#[derive(Debug, Default)]
struct Seen {
    names: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    /// Whether the event is new; remembers it.
    fn is_new(&mut self, event: &Item) -> bool {
        // Rings that were begun without a boot id count from 1 alike: what they are about tells them apart.
        let about = match event {
            Item::Event(event) => event.regarding.as_str(),
            _ => "",
        };
        let name = format!("{} {about}", event.target().name);
        if !self.names.insert(name.clone()) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > EVENTS_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
        true
    }
}

/// Shows the events that are kept, then every new one, for ever; each once. Ends only with an error.
pub(crate) async fn follow_events(
    client: &Client,
    query: &Query,
    mut show: impl FnMut(Vec<(ChangeKind, Item)>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut seen = Seen::default();
    let mut failures = 0;
    let mut lost = Lost::default();
    let mut connected_once = false;
    loop {
        match client.changes(query, "").await {
            Ok(mut events) => {
                connected_once = true;
                loop {
                    // Quiet streams have no bookmarks here: HTTP/2 keep-alive finds a dead link.
                    match events.next().await {
                        Ok(Some(change)) => {
                            failures = 0;
                            lost.over();
                            let news: Vec<_> =
                                change.item.into_iter().filter(|(_, event)| seen.is_new(event)).collect();
                            if !news.is_empty() {
                                show(news)?;
                            }
                        }
                        Ok(None) => break,
                        Err(status) if is_version_gone(&status) => break,
                        Err(status) if is_transport_failure(&status) => {
                            lost.say(&interrupted(&status));
                            break;
                        }
                        Err(status) => return Err(CliError::of_status(&status, "the server")),
                    }
                }
            }
            Err(error) if error.is_unreachable() && connected_once => {
                lost.say(&CliError::from(error).summary());
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(jittered(failures)).await;
        failures = failures.saturating_add(1);
    }
}

/// Whether the server no longer knows what came after a version: it is listed again. A message that is too large has the same code.
pub(crate) fn is_version_gone(status: &Status) -> bool {
    status.code() == Code::OutOfRange && !skerry_rpc::is_too_large(status)
}

/// As in "the watch was interrupted (connection reset)".
fn interrupted(status: &Status) -> String {
    format!("the watch was interrupted ({})", root_cause(status))
}

/// How a stream ended.
enum End {
    /// Go on from the last version.
    Resume,
    /// The version is too old: list again.
    Relist,
}

async fn stream(
    client: &Client,
    query: &Query,
    version: &mut String,
    tracker: &mut Tracker,
    failures: &mut u32,
    lost: &mut Lost,
    show: &mut impl FnMut(Vec<(ChangeKind, Item)>) -> Result<(), CliError>,
) -> Result<End, CliError> {
    let mut changes = match client.changes(query, version).await {
        Ok(changes) => changes,
        Err(error) if error.is_version_gone() => return Ok(End::Relist),
        Err(error) if error.is_unreachable() => {
            lost.say(&CliError::from(error).summary());
            return Ok(End::Resume);
        }
        Err(error) => return Err(error.into()),
    };
    loop {
        let change = match tokio::time::timeout(SILENCE_MAX, changes.next()).await {
            Ok(Ok(Some(change))) => change,
            Ok(Ok(None)) | Err(_) => return Ok(End::Resume),
            Ok(Err(status)) if is_version_gone(&status) => return Ok(End::Relist),
            Ok(Err(status)) if is_transport_failure(&status) => {
                lost.say(&interrupted(&status));
                return Ok(End::Resume);
            }
            Ok(Err(status)) => return Err(CliError::of_status(&status, "the server")),
        };
        *failures = 0;
        lost.over();
        if !change.resource_version.is_empty() {
            *version = change.resource_version;
        }
        if let Some(news) = change.item.and_then(|(kind, item)| tracker.apply(kind, item)) {
            show(vec![news])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::{Node, NodeSpec};
    use skerry_proto::types::v1::Metadata;

    use super::*;

    fn node(name: &str, cordoned: bool) -> Item {
        let metadata = Some(Metadata { name: format!("projects/p/nodes/{name}"), ..Default::default() });
        Item::Node(Box::new(Node {
            metadata,
            spec: Some(NodeSpec { cordoned, ..NodeSpec::default() }),
            status: None,
        }))
    }

    fn shown(changes: &[(ChangeKind, Item)]) -> Vec<String> {
        changes.iter().map(|(kind, item)| format!("{} {}", kind.as_str(), item.target())).collect()
    }

    #[test]
    fn listing_again_tells_only_what_changed_in_the_gap() {
        let mut tracker = Tracker::default();
        let first = tracker.replace(vec![node("a", false), node("b", false), node("c", false)]);
        assert_eq!(shown(&first), ["ADDED node/a", "ADDED node/b", "ADDED node/c"]);
        let second = tracker.replace(vec![node("a", false), node("c", true), node("d", false)]);
        assert_eq!(shown(&second), ["MODIFIED node/c", "ADDED node/d", "DELETED node/b"]);
    }

    #[test]
    fn an_event_is_told_once_however_often_it_comes() {
        use skerry_proto::types::v1::Event;
        let event =
            |sequence| Item::Event(Box::new(Event { boot_id: "b".into(), sequence, ..Default::default() }));
        let mut seen = Seen::default();
        assert!(seen.is_new(&event(1)));
        assert!(seen.is_new(&event(2)));
        assert!(!seen.is_new(&event(1)));
        let other =
            Event { boot_id: "b".into(), sequence: 1, regarding: "other".into(), ..Default::default() };
        assert!(seen.is_new(&Item::Event(Box::new(other))), "the same count of another ring");
        for sequence in 3..=(EVENTS_REMEMBERED as u64 + 5) {
            seen.is_new(&event(sequence));
        }
        assert_eq!(seen.names.len(), EVENTS_REMEMBERED);
    }

    #[test]
    fn a_change_that_is_known_is_not_told_twice() {
        let mut tracker = Tracker::default();
        tracker.replace(vec![node("a", false)]);
        assert_eq!(tracker.apply(ChangeKind::Modified, node("a", false)), None);
        assert!(tracker.apply(ChangeKind::Modified, node("a", true)).is_some());
        assert!(tracker.apply(ChangeKind::Deleted, node("a", true)).is_some());
        assert_eq!(tracker.apply(ChangeKind::Deleted, node("a", true)), None);
    }
}
