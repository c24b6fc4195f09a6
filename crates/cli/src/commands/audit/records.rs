//! Records as people and programs read them, the newest last.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use skerry_manifest::output::{self, Value};
use skerry_model::{quantity, time};
use skerry_proto::registry::v1::{AuditFilter, AuditRecord, ListAuditRecordsRequest};
use skerry_proto::types::v1::AuditOutcome;

use crate::args::{AuditArgs, Format};
use crate::client::{Client, Service, audit, request};
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::render::table::Table;
use crate::render::time::moment;

/// Records of one page.
const PAGE_SIZE: usize = 1000;
const HEADERS: [&str; 5] = ["TIME", "WHO", "OUTCOME", "RESOURCE", "METHOD"];

/// Lists, and answers what was listed.
pub(super) async fn list(
    client: &Client,
    args: &AuditArgs,
    printer: &mut Printer,
) -> Result<Vec<AuditRecord>, CliError> {
    let filter = filter_of(args)?;
    let most = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut records = Vec::new();
    let mut page_token = String::new();
    loop {
        let size = PAGE_SIZE.min(most - records.len());
        let wanted = ListAuditRecordsRequest {
            parent: client.project().parent(),
            filter: Some(filter.clone()),
            page_size: i32::try_from(size).unwrap_or(i32::MAX),
            page_token,
        };
        let page = client.call(Service::Registry, |channel, left| {
            let wanted = wanted.clone();
            async move { audit(channel).list_audit_records(request(wanted, left)).await }
        });
        let page = page.await?;
        records.extend(page.records);
        page_token = page.next_page_token;
        if page_token.is_empty() || records.len() >= most {
            break;
        }
    }
    records.reverse();
    if records.is_empty() && !args.follow && matches!(args.output, Format::Table | Format::Wide) {
        note("no records");
        return Ok(records);
    }
    match args.output {
        Format::Json if !args.follow => {
            printer.text(&(output::list(records.iter().map(value).collect()).to_json_pretty() + "\n"))?;
        }
        Format::Yaml if !args.follow => {
            printer.text(&output::list(records.iter().map(value).collect()).to_yaml())?;
        }
        _ => show(&records, args, !args.no_headers, printer)?,
    }
    Ok(records)
}

/// Seconds and nanoseconds since 1970.
pub(super) type Moment = (i64, i32);

pub(super) fn time_of(record: &AuditRecord) -> Moment {
    let time = record.content.as_ref().and_then(|entry| entry.time);
    time.map_or((0, 0), |time| (time.seconds, time.nanos))
}

/// Which records the flags mean.
pub(super) fn filter_of(args: &AuditArgs) -> Result<AuditFilter, CliError> {
    let now = SystemTime::now();
    let at = |flag: &str, text: &Option<String>| {
        let parse = |text: &String| parse_time(text, now).ok_or_else(|| wrong_time(flag, text));
        text.as_ref().map(parse).transpose()
    };
    Ok(AuditFilter {
        caller: args.user.clone().unwrap_or_default(),
        method: args.method.clone().unwrap_or_default(),
        resource: args.resource.clone().unwrap_or_default(),
        since: at("--since", &args.since)?,
        until: at("--until", &args.until)?,
        outcome: 0,
    })
}

pub(crate) fn wrong_time(flag: &str, text: &str) -> CliError {
    CliError::Usage(format!("{flag} `{text}`: write a time as 2026-01-31T08:00:00Z, or how long ago, as 2h"))
}

/// A time, or a duration back from `now`.
pub(crate) fn parse_time(text: &str, now: SystemTime) -> Option<Timestamp> {
    if let Ok(ago) = quantity::parse_duration(text) {
        return Some(time::to_timestamp(now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)));
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    let seconds = Duration::from_secs(u64::try_from(at.as_second()).ok()?);
    Some(time::to_timestamp(SystemTime::UNIX_EPOCH + seconds))
}

pub(super) fn show(
    records: &[AuditRecord],
    args: &AuditArgs,
    headers: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match args.output {
        Format::Json => records.iter().try_for_each(|record| printer.line(&value(record).to_json())),
        Format::Yaml => {
            records.iter().try_for_each(|record| printer.text(&format!("---\n{}", value(record).to_yaml())))
        }
        Format::Name => records
            .iter()
            .try_for_each(|record| printer.line(&format!("audit/{}/{}", record.chain, record.sequence))),
        Format::Table | Format::Wide => {
            let rows: Vec<_> = records.iter().map(row).collect();
            // Names are what is looked for: they are not cut.
            printer.text(&Table::new(&HEADERS, None, headers).rows(&rows))
        }
    }
}

fn row(record: &AuditRecord) -> Vec<String> {
    let entry = record.content.clone().unwrap_or_default();
    let outcome = entry.outcome().as_str_name().trim_start_matches("AUDIT_OUTCOME_").to_lowercase();
    let outcome = if entry.outcome() == AuditOutcome::Unspecified { "-".to_owned() } else { outcome };
    let who = entry.caller.unwrap_or_default();
    let who = match who.grant.rsplit_once('/') {
        Some((_, grant)) => format!("{} by grant/{grant}", who.name),
        None => who.name,
    };
    let method = entry.method.rsplit('/').next().unwrap_or_default().to_owned();
    vec![moment(entry.time.as_ref()), who, outcome, entry.resource, method]
}

fn value(record: &AuditRecord) -> Value {
    output::other("AuditRecord", "skerry.registry.v1.AuditRecord", record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_proto::types::v1::{AuditCaller, AuditEntry};

    #[test]
    fn a_time_is_a_moment_or_how_long_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let seconds = |text: &str| parse_time(text, now).map(|time| time.seconds);
        assert_eq!(seconds("2h"), Some(1_800_000_000 - 7200));
        assert_eq!(seconds("2027-01-15T08:00:00Z"), Some(1_800_000_000));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn a_row_says_when_who_what_and_how() {
        let entry = AuditEntry {
            time: Some(Timestamp { seconds: 1_800_000_000, nanos: 0 }),
            caller: Some(AuditCaller { name: "spiffe://d/project/p/user/ada".into(), ..Default::default() }),
            outcome: AuditOutcome::Deleted.into(),
            resource: "projects/p/apps/web".into(),
            method: "skerry.scheduler.v1.AppService/DeleteApp".into(),
            ..Default::default()
        };
        let record = AuditRecord { content: Some(entry), ..Default::default() };
        assert_eq!(
            row(&record),
            [
                "2027-01-15T08:00:00Z",
                "spiffe://d/project/p/user/ada",
                "deleted",
                "projects/p/apps/web",
                "DeleteApp"
            ]
        );
    }
}
