//! `status`: how the installation itself is. Problems come first, each with what to do next.

use std::fmt::Write as _;

use skerry_manifest::output::Value;
use skerry_model::few;
use skerry_proto::registry::v1::{
    GetInstallationRequest, Installation, InstallationProblem, Member, StoreState,
};
use skerry_proto::types::v1::condition;

use crate::args::{Format, StatusArgs};
use crate::client::{Client, Service, installation, request};
use crate::error::CliError;
use crate::item::{Item, Query};
use crate::print::Printer;
use crate::render::table::Table;
use crate::render::time::{age, bytes, moment, now};
use crate::target::Type;

/// Apps that are named one by one; the others are counted.
const NAMED_MAX: usize = 5;

/// Apps, counted.
#[derive(Debug, Default)]
struct Apps {
    total: usize,
    healthy: usize,
}

pub(crate) async fn run(client: &Client, args: &StatusArgs, printer: &mut Printer) -> Result<(), CliError> {
    let parent = client.project().parent();
    let asking = client.call(Service::Registry, |channel, left| {
        let asked = GetInstallationRequest { parent: parent.clone() };
        async move { installation(channel).get_installation(request(asked, left)).await }
    });
    let mut seen = asking.await?.installation.unwrap_or_default();
    // The registry knows no apps, and tells itself when there is no scheduler to ask.
    let apps = match client.list(&Query::all(Type::App)).await {
        Ok((apps, _)) => {
            let (apps, problem) = count(&apps);
            seen.problems.extend(problem);
            Some(apps)
        }
        Err(error @ CliError::Unreachable { .. }) => {
            seen.problems.push(problem(
                "scheduler",
                "Unreachable",
                error.summary(),
                "look whether it runs; SKERRY_SCHEDULER says where to look",
            ));
            None
        }
        Err(error) => return Err(error),
    };
    let text = match args.output {
        Format::Json => value(&seen, apps.as_ref()).to_json_pretty() + "\n",
        Format::Yaml => value(&seen, apps.as_ref()).to_yaml(),
        Format::Table | Format::Wide | Format::Name => table(&seen, apps.as_ref(), now()),
    };
    printer.text(&text)?;
    match seen.problems.len() {
        0 => Ok(()),
        // What is wrong was said already.
        _ => Err(CliError::Said(Box::new(CliError::Failed(String::new())))),
    }
}

fn problem(subject: &str, reason: &str, message: String, remedy: &str) -> InstallationProblem {
    InstallationProblem {
        subject: subject.to_owned(),
        reason: reason.to_owned(),
        message,
        remedy: remedy.to_owned(),
    }
}

/// How many apps there are and are available, and what to say of the others.
fn count(items: &[Item]) -> (Apps, Option<InstallationProblem>) {
    let mut apps = Apps::default();
    let mut ill = Vec::new();
    for item in items {
        let Item::App(app) = item else { continue };
        apps.total += 1;
        let conditions = app.status.iter().flat_map(|status| &status.conditions);
        if conditions.into_iter().any(|c| c.r#type == "Available" && c.status() == condition::Status::True) {
            apps.healthy += 1;
        } else {
            ill.push(item.target().to_string());
        }
    }
    let told = ill.first().map(|first| {
        let message = format!("not available: {}", few(&ill, NAMED_MAX));
        problem("apps", "NotAvailable", message, &format!("skerry describe {first} says why"))
    });
    (apps, told)
}

fn table(seen: &Installation, apps: Option<&Apps>, now: i64) -> String {
    let mut text = String::new();
    for problem in &seen.problems {
        let InstallationProblem { subject, reason, message, remedy } = problem;
        writeln!(text, "PROBLEM  {subject}: {message} ({reason})\n         {remedy}")
            .expect("writing to a string");
    }
    if !seen.problems.is_empty() {
        text.push('\n');
    }
    let headers = ["SERVICE", "ADDRESS", "VERSION", "UP", "LEADER"];
    let row = |member: &Member| {
        let up = age(member.start_time.as_ref(), now);
        let leader = if member.leader { "yes" } else { "" };
        vec![member.service.clone(), member.address.clone(), member.version.clone(), up, leader.to_owned()]
    };
    let rows: Vec<_> = seen.members.iter().map(row).collect();
    text.push_str(&Table::new(&headers, None, true).rows(&rows));
    text.push('\n');
    let store = seen.store.as_ref().map_or_else(|| "unknown".to_owned(), store_line);
    writeln!(text, "Store  {store}").expect("writing to a string");
    let nodes = seen.nodes.unwrap_or_default();
    writeln!(text, "Nodes  {} of {} connected", nodes.connected, nodes.total).expect("writing to a string");
    match apps {
        Some(apps) => writeln!(text, "Apps   {} of {} available", apps.healthy, apps.total),
        None => writeln!(text, "Apps   unknown"),
    }
    .expect("writing to a string");
    text
}

fn store_line(store: &StoreState) -> String {
    let size = bytes(u64::try_from(store.size_bytes).unwrap_or(0));
    let (kind, version, healthy, members) =
        (&store.kind, &store.version, store.members_healthy, store.members);
    format!(
        "{kind} {version}, {size}, reads take {:.1} ms, {healthy} of {members} members healthy",
        millis(store)
    )
}

fn millis(store: &StoreState) -> f64 {
    let latency = store.latency.unwrap_or_default();
    latency.seconds as f64 * 1e3 + f64::from(latency.nanos) / 1e6
}

fn value(seen: &Installation, apps: Option<&Apps>) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let number = |number: i64| Value::Number(number.to_string());
    let map = |entries: Vec<(&str, Value)>| {
        Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let problems = seen.problems.iter().map(|problem| {
        map(vec![
            ("subject", text(&problem.subject)),
            ("reason", text(&problem.reason)),
            ("message", text(&problem.message)),
            ("remedy", text(&problem.remedy)),
        ])
    });
    let members = seen.members.iter().map(|member| {
        map(vec![
            ("service", text(&member.service)),
            ("id", text(&member.id)),
            ("version", text(&member.version)),
            ("address", text(&member.address)),
            ("metricsAddress", text(&member.metrics_address)),
            ("startTime", text(&moment(member.start_time.as_ref()))),
            ("leader", Value::Bool(member.leader)),
        ])
    });
    let mut all =
        vec![("problems", Value::List(problems.collect())), ("members", Value::List(members.collect()))];
    if let Some(store) = &seen.store {
        let store = vec![
            ("kind", text(&store.kind)),
            ("version", text(&store.version)),
            ("sizeBytes", number(store.size_bytes)),
            ("usedBytes", number(store.used_bytes)),
            ("quotaBytes", number(store.quota_bytes)),
            ("latencyMillis", Value::Number(format!("{:.3}", millis(store)))),
            ("members", number(store.members.into())),
            ("membersHealthy", number(store.members_healthy.into())),
        ];
        all.push(("store", map(store)));
    }
    let nodes = seen.nodes.unwrap_or_default();
    let nodes = vec![("total", number(nodes.total.into())), ("connected", number(nodes.connected.into()))];
    all.push(("nodes", map(nodes)));
    if let Some(apps) = apps {
        let count = |count: usize| Value::Number(count.to_string());
        all.push(("apps", map(vec![("total", count(apps.total)), ("available", count(apps.healthy))])));
    }
    map(all)
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::NodeCounts;

    use super::*;

    #[test]
    fn problems_come_first_with_what_to_do() {
        let member = Member { service: "gateway".into(), address: "a:1".into(), ..Default::default() };
        let seen = Installation {
            problems: vec![problem("nodes", "NotConnected", "not connected: n1".into(), "look at it")],
            members: vec![member],
            store: Some(StoreState { kind: "etcd".into(), version: "3.5".into(), ..Default::default() }),
            nodes: Some(NodeCounts { total: 1, connected: 0 }),
        };
        let shown = table(&seen, None, 0);
        assert!(
            shown.starts_with(
                "PROBLEM  nodes: not connected: n1 (NotConnected)\n         look at it\n\nSERVICE"
            ),
            "{shown}"
        );
        assert!(shown.ends_with("Nodes  0 of 1 connected\nApps   unknown\n"), "{shown}");
        let away = table(&Installation { store: None, ..seen.clone() }, None, 0);
        assert!(away.contains("\nStore  unknown\nNodes  "), "{away}");
        let json = value(&seen, Some(&Apps { total: 2, healthy: 1 })).to_json_pretty();
        assert!(json.contains("\"remedy\": \"look at it\"") && json.contains("\"available\": 1"), "{json}");
    }
}
