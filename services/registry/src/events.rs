//! `EventService`: the rings of nodes and apps, joined in the order of time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use prost::Message as _;
use skerry_api::{ResponseStream, known_project, reply};
use skerry_daemon::Shutdown;
use skerry_model::{Fault, ProjectName};
use skerry_proto::registry::v1::event_service_server::EventService;
use skerry_proto::registry::v1::{self as pb};
use skerry_proto::store::v1::EventsRecord;
use skerry_proto::types::v1::Event;
use skerry_rpc::status_of;
use skerry_store::{Changes, Cursor, Mirror, MirrorConfig, MirrorWake, Prefix, Snapshot, Store};
use tonic::{Request, Response, Status};

use crate::follow::Shared;

/// Events of one answer where no number is named, and at most.
const EVENTS_DEFAULT: usize = 1000;
const EVENTS_MAX: usize = 10_000;
/// Bytes of one answer: below what a message may have.
const BYTES_MAX: usize = 2 * 1024 * 1024;

/// The handlers.
#[derive(Clone)]
pub(crate) struct Events {
    shared: Arc<Shared>,
    store: Store,
    mirror: Arc<Mirror>,
    shutdown: Shutdown,
}

/// Whose events are wanted.
#[derive(Debug, Clone)]
struct Filter {
    project: ProjectName,
    regarding: String,
}

impl Filter {
    fn parse(parent: &str, regarding: &str) -> Result<Self, Fault> {
        let project = ProjectName::parse_parent(parent).map_err(|e| Fault::invalid_field("parent", e))?;
        if !regarding.is_empty() && !regarding.starts_with(&format!("{parent}/")) {
            return Err(Fault::invalid_field(
                "regarding",
                format!("use the full name of a resource of {parent}, as {parent}/apps/web"),
            ));
        }
        Ok(Self { project, regarding: regarding.to_owned() })
    }

    /// An event is about a resource when it names it, comes from it, or names an instance of it.
    fn matches(&self, event: &Event) -> bool {
        let Self { regarding, .. } = self;
        if regarding.is_empty() || event.regarding == *regarding || event.source == *regarding {
            return true;
        }
        let instances = |app: &str| format!("{}/instances/{app}/", self.project.parent());
        let app = regarding.strip_prefix(&format!("{}/apps/", self.project.parent()));
        app.is_some_and(|app| event.regarding.starts_with(&instances(app)))
    }
}

/// What makes events comparable: time, then who counted them.
fn order(event: &Event) -> (i64, i32, &str, u64) {
    let at = event.time.unwrap_or_default();
    (at.seconds, at.nanos, &event.source, event.sequence)
}

impl Events {
    pub(crate) fn new(shared: Arc<Shared>, store: &Store, shutdown: Shutdown) -> Self {
        let mirror = Arc::new(Mirror::start(store, MirrorConfig::new().family::<EventsRecord>()));
        Self { shared, store: store.clone(), mirror, shutdown }
    }

    async fn filter(&self, parent: &str, regarding: &str) -> Result<Filter, Fault> {
        let filter = Filter::parse(parent, regarding)?;
        known_project(&self.store, &self.shared.mirror, &filter.project).await?;
        Ok(filter)
    }

    async fn list(&self, request: &pb::ListEventsRequest) -> Result<pb::ListEventsResponse, Fault> {
        let filter = self.filter(&request.parent, &request.regarding).await?;
        let size = match usize::try_from(request.page_size) {
            Ok(0) => EVENTS_DEFAULT,
            Ok(size) => size.min(EVENTS_MAX),
            Err(_) => return Err(Fault::invalid_field("page_size", "use 1 to 10000, or leave it out")),
        };
        self.ready().await?;
        let mut events = present(&self.mirror.snapshot(), &filter);
        let mut bytes = 0;
        let fits = |event: &&Event| {
            bytes += event.encoded_len();
            bytes < BYTES_MAX
        };
        let kept = events.iter().rev().take(size).take_while(fits).count();
        let excess = events.len() - kept;
        events.drain(..excess);
        Ok(pb::ListEventsResponse { events })
    }

    async fn ready(&self) -> Result<(), Fault> {
        self.mirror.ready().await.map_err(|e| Fault::unavailable(e.to_string()))
    }

    async fn watch(
        &self,
        request: &pb::WatchEventsRequest,
    ) -> Result<ResponseStream<pb::WatchEventsResponse>, Fault> {
        let filter = self.filter(&request.parent, &request.regarding).await?;
        self.ready().await?;
        let wake = self.mirror.subscribe();
        let now = self.mirror.changes(None);
        let (cursor, ready) = (now.cursor, present(&now.snapshot, &filter).into());
        let follower = Follower {
            mirror: Arc::clone(&self.mirror),
            wake,
            cursor,
            filter,
            ready,
            shutdown: self.shutdown.clone(),
        };
        let events = futures_util::stream::unfold(Some(follower), |follower| async {
            let mut follower = follower?;
            match follower.next().await {
                Ok(event) => Some((Ok(pb::WatchEventsResponse { event: Some(event) }), Some(follower))),
                Err(fault) => Some((Err(status_of(&fault)), None)),
            }
        });
        Ok(Box::pin(events))
    }
}

/// The events that are kept, oldest first.
fn present(snapshot: &Snapshot, filter: &Filter) -> Vec<Event> {
    let prefix = Prefix::<EventsRecord>::project(&filter.project);
    let rings = snapshot.iter(&prefix).filter_map(Result::ok);
    let mut events: Vec<Event> =
        rings.flat_map(|ring| ring.value.events).filter(|event| filter.matches(event)).collect();
    events.sort_by(|a, b| order(a).cmp(&order(b)));
    events
}

/// One watch. It has no buffer but one batch of changes: the mirror remembers changes for a while, and says when it no longer does.
struct Follower {
    mirror: Arc<Mirror>,
    wake: MirrorWake,
    cursor: Cursor,
    filter: Filter,
    ready: VecDeque<Event>,
    shutdown: Shutdown,
}

impl Follower {
    async fn next(&mut self) -> Result<Event, Fault> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let delta = self.mirror.changes(Some(self.cursor));
            self.cursor = delta.cursor;
            match delta.changes {
                Changes::Resync => {
                    return Err(Fault::version_gone("events were not read fast enough: watch again"));
                }
                Changes::Since(changes) => self.take(&changes),
            }
            if !self.ready.is_empty() {
                continue;
            }
            tokio::select! {
                more = self.wake.changed() => if !more { return Err(Fault::unavailable("the service is stopping")) },
                () = self.shutdown.wait() => return Err(Fault::unavailable("the service is stopping: connect again")),
            }
        }
    }

    fn take(&mut self, changes: &[skerry_store::Change]) {
        let prefix = Prefix::<EventsRecord>::project(&self.filter.project);
        let events = |entry: &Option<Arc<skerry_store::Entry>>| {
            entry
                .as_ref()
                .and_then(|entry| entry.decode::<EventsRecord>().ok())
                .map(|ring| ring.value.events)
                .unwrap_or_default()
        };
        let mut fresh = Vec::new();
        for change in changes.iter().filter(|change| prefix.contains(change.key())) {
            let old = events(&change.old);
            let known: BTreeSet<(&str, u64)> =
                old.iter().map(|event| (event.boot_id.as_str(), event.sequence)).collect();
            let new = events(&change.new)
                .into_iter()
                .filter(|event| !known.contains(&(event.boot_id.as_str(), event.sequence)));
            fresh.extend(new.filter(|event| self.filter.matches(event)));
        }
        fresh.sort_by(|a, b| order(a).cmp(&order(b)));
        self.ready.extend(fresh);
    }
}

#[tonic::async_trait]
impl EventService for Events {
    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        reply(self.list(request.get_ref()).await)
    }

    type WatchEventsStream = ResponseStream<pb::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        reply(self.watch(request.get_ref()).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_s_events_are_those_of_its_instances_too() {
        let filter = Filter::parse("projects/p", "projects/p/apps/web").unwrap();
        let about = |regarding: &str| {
            filter.matches(&Event { regarding: regarding.to_owned(), ..Default::default() })
        };
        assert!(about("projects/p/apps/web"));
        assert!(about("projects/p/instances/web/a/n1/0"));
        assert!(!about("projects/p/instances/webby/a/n1/0"));
        assert!(Filter::parse("projects/p", "apps/web").is_err());
    }
}
