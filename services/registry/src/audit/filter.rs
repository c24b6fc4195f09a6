//! Which records are meant, and where a page ended. Pure.

use skerry_model::{Fault, ProjectName};
use skerry_proto::registry::v1::AuditFilter;
use skerry_proto::types::v1::AuditEntry;
use skerry_store::keys::ChainId;

/// A time that orders: seconds and nanoseconds.
pub(super) type Moment = (i64, i32);

/// A record's place among all: by time, then by chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) time: Moment,
    pub(super) chain: String,
    pub(super) sequence: u64,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Only of this project; absent: of all.
    project: Option<ProjectName>,
    filter: AuditFilter,
    pub(super) since: Option<Moment>,
    pub(super) until: Option<Moment>,
}

/// The time of an entry.
pub(super) fn moment_of(entry: &AuditEntry) -> Moment {
    entry.time.map_or((0, 0), |time| (time.seconds, time.nanos))
}

impl Wanted {
    /// `projects/system` means those of all projects.
    pub(super) fn parse(parent: &str, filter: Option<AuditFilter>) -> Result<Self, Fault> {
        let project = ProjectName::parse_parent(parent).map_err(|e| Fault::invalid_field("parent", e))?;
        let filter = filter.unwrap_or_default();
        let moment = |time: &Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
        let (since, until) = (moment(&filter.since), moment(&filter.until));
        Ok(Self { project: (!project.is_system()).then_some(project), filter, since, until })
    }

    /// Whether the record with this entry is meant.
    pub(super) fn matches(&self, entry: &AuditEntry) -> bool {
        let AuditFilter { caller, method, resource, outcome, .. } = &self.filter;
        let of_project = self.project.as_ref().is_none_or(|project| entry.project == project.as_str());
        let name = entry.caller.as_ref().map_or("", |caller| caller.name.as_str());
        let (at, within) = (moment_of(entry), entry.resource.splitn(3, '/').nth(2));
        of_project
            && name.contains(caller.as_str())
            && entry.method.contains(method.as_str())
            && (entry.resource.starts_with(resource.as_str())
                || within.is_some_and(|within| within.starts_with(resource.as_str())))
            && (*outcome == 0 || *outcome == entry.outcome)
            && self.since.is_none_or(|since| since <= at)
            && self.until.is_none_or(|until| at < until)
    }
}

impl Place {
    /// The place of an entry.
    pub(super) fn of(entry: &AuditEntry) -> Self {
        Self { time: moment_of(entry), chain: entry.chain.clone(), sequence: entry.sequence }
    }

    /// As a page's token.
    pub(super) fn to_token(&self) -> String {
        format!("{}.{}.{}.{}", self.time.0, self.time.1, self.sequence, self.chain)
    }

    /// Reads a page's token.
    pub(super) fn parse(token: &str) -> Result<Self, Fault> {
        let mut parts = token.splitn(4, '.');
        let mut next = || parts.next().unwrap_or_default();
        let (seconds, nanos, sequence, chain) =
            (next().parse().ok(), next().parse().ok(), next().parse().ok(), ChainId::parse(next()).ok());
        let place =
            (|| Some(Self { time: (seconds?, nanos?), sequence: sequence?, chain: chain?.to_string() }))();
        place.ok_or_else(|| Fault::invalid_field("page_token", "use the one from the page before"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_proto::types::v1::{AuditCaller, AuditOutcome};

    fn entry() -> AuditEntry {
        AuditEntry {
            project: "p".into(),
            method: "skerry.scheduler.v1.AppService/CreateApp".into(),
            resource: "projects/p/apps/web".into(),
            outcome: AuditOutcome::Created.into(),
            time: Some(prost_types::Timestamp { seconds: 10, nanos: 5 }),
            caller: Some(AuditCaller { name: "spiffe://d/project/p/user/ada".into(), ..Default::default() }),
            ..AuditEntry::default()
        }
    }

    #[test]
    fn each_part_of_a_filter_narrows() {
        let matches = |parent: &str, filter: AuditFilter| {
            Wanted::parse(parent, Some(filter)).unwrap().matches(&entry())
        };
        let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        let any = AuditFilter::default;
        assert!(matches("projects/p", any()) && matches("projects/system", any()));
        assert!(!matches("projects/q", any()));
        assert!(matches("projects/p", AuditFilter { caller: "user/ada".into(), ..any() }));
        assert!(!matches("projects/p", AuditFilter { caller: "bob".into(), ..any() }));
        assert!(matches("projects/p", AuditFilter { method: "CreateApp".into(), ..any() }));
        assert!(!matches("projects/p", AuditFilter { method: "DeleteApp".into(), ..any() }));
        for resource in ["apps/web", "apps/", "projects/p/apps/w"] {
            assert!(matches("projects/p", AuditFilter { resource: resource.into(), ..any() }), "{resource}");
        }
        assert!(!matches("projects/p", AuditFilter { resource: "web".into(), ..any() }));
        assert!(!matches("projects/p", AuditFilter { outcome: AuditOutcome::Deleted.into(), ..any() }));
        assert!(matches("projects/p", AuditFilter { since: at(10, 5), until: at(10, 6), ..any() }));
        assert!(!matches("projects/p", AuditFilter { since: at(10, 6), ..any() }));
        assert!(!matches("projects/p", AuditFilter { until: at(10, 5), ..any() }));
    }

    #[test]
    fn a_page_s_token_gives_back_its_place_and_no_other_text_does() {
        let place = Place { time: (-3, 7), chain: "registry-0a.b".into(), sequence: 9 };
        assert_eq!(Place::parse(&place.to_token()).unwrap(), place);
        for bad in ["", "1", "1.2.3", "1.2.3.", "x.2.3.c", "1.2.-3.c", "1.2.3.a/b"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
