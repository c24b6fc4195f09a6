//! What a grant is: who may use which verb on what, until when. It is made and deleted, never changed.

use std::time::{Duration, SystemTime};

use skerry_api::{Mask, Rules};
use skerry_model::quantity::format_duration;
use skerry_model::{Code, Fault, GrantRef, GrantTarget, GroupRef, UserRef, Verb, Violations, time};
use skerry_proto::registry::v1::{Grant, GrantSpec, GrantStatus};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_store::{Key, Prefix, Store, Txn};

/// Shortest and longest that a grant holds.
const DURATION_MIN: Duration = Duration::from_secs(1);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most grants of a project, those of the last day included that have expired.
const GRANTS_MAX: u64 = 5000;
/// Longest reason, in characters.
const REASON_MAX: usize = 500;

/// The rules of grants.
#[derive(Debug, Clone)]
pub struct GrantRules {
    store: Store,
    by: String,
}

/// A grant with what the server made of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Granted {
    /// What was wished.
    pub spec: GrantSpec,
    /// Nothing, before it is stored.
    pub status: Option<GrantStatus>,
}

impl GrantRules {
    /// Those over this store.
    pub fn new(store: Store) -> Self {
        Self { store, by: String::new() }
    }

    /// The same, for grants that this caller makes.
    #[must_use]
    pub fn by(&self, caller: String) -> Self {
        Self { store: self.store.clone(), by: caller }
    }
}

/// The grant that a record stands for.
pub fn granted(record: &stored::GrantRecord) -> Granted {
    Granted {
        spec: GrantSpec {
            verbs: record.verbs.clone(),
            target: record.target.clone(),
            subject: record.subject.clone(),
            duration: record.duration,
            reason: record.reason.clone(),
        },
        status: Some(GrantStatus { expire_time: record.expire_time, created_by: record.created_by.clone() }),
    }
}

/// Whom a grant is to.
enum Subject {
    User(UserRef),
    Group(GroupRef),
}

impl Subject {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let group = || GroupRef::parse(text).map(Self::Group);
        let form = "projects/<project>/users/<user> or projects/<project>/groups/<group> is wanted";
        UserRef::parse(text).map(Self::User).or_else(|_| group()).map_err(|_| form)
    }
}

impl Rules for GrantRules {
    type Record = stored::GrantRecord;
    type Spec = Granted;
    type Resource = Grant;

    const FIELD: &'static str = "grant";
    const SPEC_PATHS: &'static [&'static str] = &["spec"];

    fn store(&self) -> &Store {
        &self.store
    }

    fn meta(record: &mut stored::GrantRecord) -> &mut Option<stored::Meta> {
        &mut record.meta
    }

    async fn spec(&self, _: &GrantRef, record: &stored::GrantRecord) -> Result<Granted, Fault> {
        Ok(granted(record))
    }

    fn merge(_: Option<&Granted>, sent: &Grant, _: &Mask) -> Result<Granted, Fault> {
        let spec = sent.spec.clone().unwrap_or_default();
        check(&spec)?;
        Ok(Granted { spec, status: None })
    }

    async fn write(
        &self,
        name: &GrantRef,
        record: &mut stored::GrantRecord,
        Granted { spec, .. }: &Granted,
        txn: Txn,
    ) -> Result<Txn, Fault> {
        let (target, _, duration) = check(spec)?;
        if *target.project() != name.project {
            let message = format!("`{target}` is in another project than the grant");
            return Err(Fault::invalid_field("grant.spec.target", message));
        }
        let held = self.store.count(&Prefix::<stored::GrantRecord>::project(&name.project)).await?;
        if held >= GRANTS_MAX {
            let message =
                format!("{} has {held} grants: delete some (skerry delete grant/NAME)", name.project);
            return Err(Fault::new(Code::ResourceExhausted, "TOO_MANY_GRANTS", message));
        }
        let txn = self.there(spec, txn).await?;
        record.verbs.clone_from(&spec.verbs);
        record.target.clone_from(&spec.target);
        record.subject.clone_from(&spec.subject);
        record.duration = spec.duration;
        record.reason.clone_from(&spec.reason);
        record.expire_time = Some(time::to_timestamp(SystemTime::now() + duration));
        record.created_by.clone_from(&self.by);
        Ok(txn)
    }

    fn noted(grant: &Grant) -> String {
        grant.spec.as_ref().map(told).unwrap_or_default()
    }

    fn resource(metadata: Metadata, Granted { spec, status }: Granted) -> Grant {
        Grant { metadata: Some(metadata), spec: Some(spec), status }
    }
}

impl GrantRules {
    /// On condition that what it is about, and whom it is to, are there: a name that was mistyped would let nobody do anything, or later
    /// somebody else.
    async fn there(&self, spec: &GrantSpec, txn: Txn) -> Result<Txn, Fault> {
        let (target, subject, _) = check(spec)?;
        let txn = match target {
            GrantTarget::Project(_) => txn,
            GrantTarget::App(app) => self.has::<stored::AppRecord>("target", &app, txn).await?,
            GrantTarget::Node(node) => self.has::<stored::NodeRecord>("target", &node, txn).await?,
        };
        match subject {
            Subject::User(user) => self.has::<stored::UserRecord>("subject", &user, txn).await,
            Subject::Group(group) => self.has::<stored::GroupRecord>("subject", &group, txn).await,
        }
    }

    async fn has<R: skerry_store::Record>(&self, field: &str, name: &R::Name, txn: Txn) -> Result<Txn, Fault>
    where
        R::Name: std::fmt::Display + Sync,
    {
        let key = Key::<R>::of(name);
        if self.store.get(&key).await?.is_some() {
            return Ok(txn.when_exists(&key));
        }
        let message = format!("grant.spec.{field}: {name} does not exist");
        Err(Fault::new(Code::FailedPrecondition, "NOT_THERE", message).with("resource", name))
    }
}

/// Names each field that is wrong.
fn check(spec: &GrantSpec) -> Result<(GrantTarget, Subject, Duration), Fault> {
    let GrantSpec { verbs, target, subject, duration, reason } = spec;
    let mut wrong = Violations::new();
    let target = wrong.check("grant.spec.target", GrantTarget::parse(target));
    let known = Verb::ALL.map(Verb::as_str).join(", ");
    if verbs.is_empty() {
        wrong.add("grant.spec.verbs", format!("name at least one: {known}"));
    }
    for (index, text) in verbs.iter().enumerate().take(Verb::ALL.len() + 1) {
        let field = format!("grant.spec.verbs[{index}]");
        match (Verb::parse(text), &target) {
            (None, _) => wrong.add(field, format!("there is no such verb; known: {known}")),
            (Some(_), _) if verbs[..index].contains(text) => {
                wrong.add(field, format!("`{text}` stands in it twice"));
            }
            (Some(Verb::NodeShell), Some(target @ GrantTarget::App(_))) => {
                wrong.add(field, format!("`{target}` has no shell of a node: name the node, or the project"));
            }
            (Some(verb), Some(target)) if !verb.is_of(target) => {
                wrong.add(
                    field,
                    format!("`{text}` is for what runs on `{target}`: name the app, or the project"),
                );
            }
            (Some(_), _) => {}
        }
    }
    let subject = wrong.check("grant.spec.subject", Subject::parse(subject));
    let duration = duration.as_ref().and_then(time::from_proto_duration).unwrap_or_default();
    if !(DURATION_MIN..=DURATION_MAX).contains(&duration) {
        wrong.add("grant.spec.duration", "a grant holds for 1 second to 24 hours");
    }
    if reason.trim().is_empty() || reason.chars().count() > REASON_MAX || reason.contains(char::is_control) {
        wrong.add("grant.spec.reason", format!("say why, in one line of 1 to {REASON_MAX} characters"));
    }
    wrong.finish(target.zip(subject).map(|(target, subject)| (target, subject, duration)))
}

/// What the audit log says of it: the record is gone some day.
fn told(spec: &GrantSpec) -> String {
    let duration = spec.duration.as_ref().and_then(time::from_proto_duration).unwrap_or_default();
    format!(
        "{} on {} to {} for {}: {}",
        spec.verbs.join(", "),
        spec.target,
        spec.subject,
        format_duration(duration),
        spec.reason
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> GrantSpec {
        GrantSpec {
            verbs: vec!["exec".to_owned(), "copy".to_owned()],
            target: "projects/p/apps/x".to_owned(),
            subject: "projects/q/users/ada".to_owned(),
            duration: Some(time::to_proto_duration(Duration::from_secs(1800))),
            reason: "the pump stands still".to_owned(),
        }
    }

    fn wrong(spec: &GrantSpec) -> Vec<String> {
        let fault = check(spec).err().expect("refused");
        fault.violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn every_field_that_is_wrong_is_named() {
        assert!(check(&spec()).is_ok());
        assert_eq!(
            wrong(&GrantSpec::default()),
            [
                "grant.spec.target",
                "grant.spec.verbs",
                "grant.spec.subject",
                "grant.spec.duration",
                "grant.spec.reason"
            ]
        );
        let verbs = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            wrong(&GrantSpec { verbs: verbs(&["exec", "shell", "exec", "node-shell"]), ..spec() }),
            ["grant.spec.verbs[1]", "grant.spec.verbs[2]", "grant.spec.verbs[3]"]
        );
        let node = "projects/p/nodes/n".to_owned();
        assert_eq!(
            wrong(&GrantSpec { target: node, ..spec() }),
            ["grant.spec.verbs[0]", "grant.spec.verbs[1]"]
        );
        let long = Some(time::to_proto_duration(DURATION_MAX + Duration::from_secs(1)));
        assert_eq!(wrong(&GrantSpec { duration: long, ..spec() }), ["grant.spec.duration"]);
        for reason in [" ", "two\nlines"] {
            assert_eq!(wrong(&GrantSpec { reason: reason.to_owned(), ..spec() }), ["grant.spec.reason"]);
        }
    }

    #[test]
    fn the_audit_log_has_all_of_it() {
        assert_eq!(
            told(&spec()),
            "exec, copy on projects/p/apps/x to projects/q/users/ada for 30m: the pump stands still"
        );
    }
}
