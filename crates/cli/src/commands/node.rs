//! `node`: who is let in, who is turned away, whose key is struck out; and `get enrollments`, who waits.

use skerry_manifest::output;
use skerry_model::NodeRef;
use skerry_proto::registry::v1::{
    ApproveEnrollmentRequest, DenyEnrollmentRequest, Enrollment, ListEnrollmentsRequest, RevokeNodeRequest,
};

use super::Several;
use crate::args::{ApproveArgs, DenyArgs, Format, GetArgs, NodeCommand, Output, RevokeArgs};
use crate::client::{Client, Service, enrollments, nodes, request};
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::render::table::Table;
use crate::render::time::{age, now};
use crate::target::Target;

/// What `get` takes for machines that wait.
const WORDS: [&str; 3] = ["enrollments", "enrollment", "enr"];

pub(crate) async fn run(
    client: &Client,
    command: &NodeCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        NodeCommand::Approve(args) => approve(client, args, printer).await,
        NodeCommand::Deny(args) => deny(client, args, printer).await,
        NodeCommand::Revoke(args) => revoke(client, args, printer).await,
    }
}

/// Whether `get` is asked for machines that wait.
pub(crate) fn are_enrollments(args: &GetArgs) -> bool {
    matches!(args.targets.as_slice(), [one] if WORDS.contains(&one.to_ascii_lowercase().as_str()))
}

/// `get enrollments`.
pub(crate) async fn list(client: &Client, args: &GetArgs, printer: &mut Printer) -> Result<(), CliError> {
    if args.watch || args.selector.is_some() || args.node.is_some() || args.app.is_some() {
        return Err(CliError::Usage(
            "enrollments are listed whole: leave -w, -l, --node and --app out".into(),
        ));
    }
    let parent = client.project().parent();
    let waiting = client.call(Service::Registry, |channel, left| {
        let wanted = ListEnrollmentsRequest { parent: parent.clone() };
        async move { enrollments(channel).list_enrollments(request(wanted, left)).await }
    });
    let waiting = waiting.await?.enrollments;
    let value = |one| output::other("Enrollment", "skerry.registry.v1.Enrollment", one);
    let all = || output::list(waiting.iter().map(value).collect());
    match &args.output {
        Output::JsonPath(_) => {
            Err(CliError::Usage("enrollments are printed as table, json, yaml or name".into()))
        }
        Output::Format(Format::Json) => printer.text(&(all().to_json_pretty() + "\n")),
        Output::Format(Format::Yaml) => printer.text(&all().to_yaml()),
        Output::Format(Format::Name) => {
            let line = |text: String, one: &Enrollment| text + "enrollment/" + &one.fingerprint + "\n";
            printer.text(&waiting.iter().fold(String::new(), line))
        }
        Output::Format(Format::Table | Format::Wide) if waiting.is_empty() => {
            note(&format!("no machine waits for approval in project {}", client.project()));
            Ok(())
        }
        Output::Format(Format::Table | Format::Wide) => {
            let now = now();
            let rows: Vec<_> = waiting.iter().map(|one| row(one, now)).collect();
            let headers = ["FINGERPRINT", "NODE", "SERIAL", "MACHINE-ID", "HOST", "ADDRESS", "AGE"];
            printer.text(&Table::new(&headers, printer.width(), !args.no_headers).rows(&rows))
        }
    }
}

fn row(one: &Enrollment, now: i64) -> Vec<String> {
    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let machine = one.machine.clone().unwrap_or_default();
    vec![
        one.fingerprint.clone(),
        text(&one.node),
        text(&machine.serial),
        text(&machine.machine_id),
        text(&machine.host_name),
        text(&one.address),
        age(one.create_time.as_ref(), now),
    ]
}

fn enrollment_name(client: &Client, fingerprint: &str) -> String {
    let fingerprint = fingerprint.strip_prefix("enrollment/").unwrap_or(fingerprint);
    format!("{}/enrollments/{fingerprint}", client.project().parent())
}

async fn approve(client: &Client, args: &ApproveArgs, printer: &mut Printer) -> Result<(), CliError> {
    let wanted = ApproveEnrollmentRequest {
        name: enrollment_name(client, &args.fingerprint),
        node: args.name.clone().unwrap_or_default(),
        labels: args.labels.iter().cloned().collect(),
        replace: args.replace,
    };
    let approved = client.call(Service::Registry, |channel, left| {
        let wanted = wanted.clone();
        async move { enrollments(channel).approve_enrollment(request(wanted, left)).await }
    });
    let node = approved.await?.node.and_then(|node| node.metadata).unwrap_or_default().name;
    printer.line(&format!("node/{} approved", node.rsplit('/').next().unwrap_or_default()))
}

async fn deny(client: &Client, args: &DenyArgs, printer: &mut Printer) -> Result<(), CliError> {
    let name = enrollment_name(client, &args.fingerprint);
    let denied = client.call(Service::Registry, |channel, left| {
        let wanted = DenyEnrollmentRequest { name: name.clone() };
        async move { enrollments(channel).deny_enrollment(request(wanted, left)).await }
    });
    denied.await?;
    printer.line(&format!("{} denied", args.fingerprint))
}

async fn revoke(client: &Client, args: &RevokeArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut several = Several::default();
    for node in &args.nodes {
        let Target { name, .. } = Target::node(node);
        let outcome = revoke_one(client, &name).await;
        several.take(outcome.and_then(|()| printer.line(&format!("node/{name} revoked"))))?;
    }
    several.finish()
}

async fn revoke_one(client: &Client, node: &str) -> Result<(), CliError> {
    let name =
        NodeRef::parse_in(client.project(), node).map_err(|error| CliError::Usage(error.to_string()))?;
    let revoked = client.call(Service::Registry, |channel, left| {
        let wanted = RevokeNodeRequest { name: name.to_string() };
        async move { nodes(channel).revoke_node(request(wanted, left)).await }
    });
    revoked.await?;
    Ok(())
}
