//! Grants, as rows and in full.

use prost_types::Timestamp;
use skerry_model::{quantity, time as model_time};
use skerry_proto::registry::v1::{Grant, GrantSpec};
use skerry_proto::types::v1::Metadata;

use crate::render::describe::{field, head};
use crate::render::people::beside;
use crate::render::rows::{Cells, age_of, labels, or_dash, short_name};
use crate::render::time::{age, moment};

/// The columns, and those of the wide table.
pub(super) const HEADERS: (&[&str], &[&str]) =
    (&["NAME", "VERBS", "TARGET", "TO", "LEFT", "REASON"], &["AGE", "BY", "LABELS"]);

pub(super) fn cells(grant: &Grant, now: i64) -> Cells {
    let spec = grant.spec.clone().unwrap_or_default();
    let metadata = grant.metadata.as_ref();
    let narrow = vec![
        short_name(metadata),
        spec.verbs.join(","),
        short(metadata, &spec.target),
        short(metadata, &spec.subject),
        left(until(grant), now),
        or_dash(&spec.reason),
    ];
    let by = grant.status.as_ref().map_or("", |status| &status.created_by);
    (narrow, vec![age_of(metadata, now), or_dash(by), labels(metadata)])
}

/// A grant: what, to whom, until when and why.
pub(crate) fn describe(grant: &Grant, now: i64) -> String {
    let metadata = grant.metadata.as_ref();
    let mut text = head(metadata);
    let spec = grant.spec.clone().unwrap_or_default();
    field(&mut text, "Verbs", &spec.verbs.join(", "));
    field(&mut text, "Target", &short(metadata, &spec.target));
    field(&mut text, "To", &short(metadata, &spec.subject));
    field(&mut text, "For", &duration(&spec));
    field(&mut text, "Until", &moment(until(grant)));
    field(&mut text, "Left", &left(until(grant), now));
    field(&mut text, "Reason", &spec.reason);
    field(&mut text, "Granted by", grant.status.as_ref().map_or("", |status| &status.created_by));
    text
}

/// As in "exec, copy on app/hello until 2026-11-24T00:29:07Z".
pub(crate) fn told(grant: &Grant) -> String {
    let spec = grant.spec.clone().unwrap_or_default();
    let metadata = grant.metadata.as_ref();
    format!("{} on {} until {}", spec.verbs.join(", "), short(metadata, &spec.target), moment(until(grant)))
}

/// A name as people type it, full if it is of another project: `app/hello`.
pub(crate) fn short(metadata: Option<&Metadata>, name: &str) -> String {
    let near = beside(metadata, name);
    match near.split_once('/') {
        Some(("apps", app)) => format!("app/{app}"),
        Some(("nodes", node)) => format!("node/{node}"),
        Some(("users", user)) => format!("user/{user}"),
        Some(("groups", group)) => format!("group/{group}"),
        Some(("projects", project)) if !project.contains('/') => format!("project/{project}"),
        _ => near.to_owned(),
    }
}

fn until(grant: &Grant) -> Option<&Timestamp> {
    grant.status.as_ref().and_then(|status| status.expire_time.as_ref())
}

fn left(until: Option<&Timestamp>, now: i64) -> String {
    match until {
        Some(until) if until.seconds <= now => "expired".to_owned(),
        Some(until) => age(Some(&Timestamp { seconds: now, nanos: 0 }), until.seconds),
        None => "-".to_owned(),
    }
}

fn duration(spec: &GrantSpec) -> String {
    let duration = spec.duration.as_ref().and_then(model_time::from_proto_duration);
    duration.map(quantity::format_duration).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::GrantStatus;

    use super::*;

    #[test]
    fn a_grant_is_one_line_and_says_what_is_left_of_it() {
        let spec = GrantSpec {
            verbs: vec!["exec".to_owned(), "copy".to_owned()],
            target: "projects/p/apps/hello".to_owned(),
            subject: "projects/q/users/ada".to_owned(),
            duration: Some(prost_types::Duration { seconds: 1800, nanos: 0 }),
            reason: "the pump stands still".to_owned(),
        };
        let metadata = Metadata { name: "projects/p/grants/g".to_owned(), ..Metadata::default() };
        let expire_time = Some(Timestamp { seconds: 1900, nanos: 0 });
        let status = Some(GrantStatus { expire_time, created_by: "root".to_owned() });
        let grant = Grant { metadata: Some(metadata), spec: Some(spec), status };
        let row = |now| cells(&grant, now).0.join(" ");
        assert_eq!(row(700), "g exec,copy app/hello projects/q/users/ada 20m the pump stands still");
        assert_eq!(row(1900), "g exec,copy app/hello projects/q/users/ada expired the pump stands still");
        assert_eq!(told(&grant), "exec, copy on app/hello until 1970-01-01T00:31:40Z");
        let text = describe(&grant, 700);
        assert!(text.contains("For:         30m\n") && text.contains("Granted by:  root\n"), "{text}");
    }

    #[test]
    fn names_are_short_within_the_project() {
        let metadata = Some(Metadata { name: "projects/p/grants/g".to_owned(), ..Metadata::default() });
        for (name, expected) in [
            ("projects/p", "project/p"),
            ("projects/p/nodes/n", "node/n"),
            ("projects/p/groups/night", "group/night"),
            ("projects/q/groups/night", "projects/q/groups/night"),
        ] {
            assert_eq!(short(metadata.as_ref(), name), expected);
        }
    }
}
