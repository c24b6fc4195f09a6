//! `explain`: what the fields of a kind mean, which asks no server; and why the instances of an app are, or are not, where they should be.

use skerry_manifest::explain::{explain, kinds};
use skerry_manifest::output::other;
use skerry_proto::scheduler::v1::{ExplainAppRequest, ExplainAppResponse};

use crate::args::{ExplainArgs, Format};
use crate::client::{Client, Service, placement, request};
use crate::error::CliError;
use crate::print::Printer;
use crate::render;
use crate::target::{Target, Type};

/// Ways that are shown without `--all`.
const SHOWN: i32 = 20;
/// Ways that are asked for at once with it.
const PAGE_SIZE: i32 = 1000;
/// Ways of an app that is well.
const EXAMPLES: i32 = 5;

/// What is asked, if it is a resource and not a kind.
pub(crate) fn is_resource(args: &ExplainArgs) -> bool {
    args.path.as_ref().is_some_and(|path| path.contains('/'))
}

/// What the fields of a kind mean.
pub(crate) fn fields(args: &ExplainArgs, printer: &mut Printer) -> Result<(), CliError> {
    if args.node.is_some() || args.all {
        return Err(CliError::Usage("--node and --all are for an app: skerry explain app/NAME".into()));
    }
    let Some(path) = &args.path else {
        return printer.text(&render::explain::kinds(kinds().filter_map(|kind| explain(kind).ok())));
    };
    let explained = explain(path).map_err(CliError::Usage)?;
    printer.text(&render::explain::text(&explained, args.recursive, printer.width()))
}

/// Why instances are, or are not, where they should be.
pub(crate) async fn instances(
    client: &Client,
    args: &ExplainArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let target = Target::parse(args.path.as_deref().unwrap_or_default())?;
    if target.kind != Type::App {
        return Err(CliError::Usage(format!(
            "apps are explained, and kinds: `skerry explain app/NAME`, `skerry explain app.spec`; `skerry describe {target}` shows {target}"
        )));
    }
    if args.recursive {
        return Err(CliError::Usage(
            "--recursive is for the fields of a kind: skerry explain app.spec".into(),
        ));
    }
    let node = match &args.node {
        None => String::new(),
        Some(node) => Target::node(node).full_name(client.project())?,
    };
    let asked = ExplainAppRequest {
        app: target.full_name(client.project())?,
        node,
        stopped_only: !args.all && args.node.is_none(),
        page_size: if args.all { PAGE_SIZE } else { SHOWN },
        page_token: String::new(),
    };
    let mut answer = ask(client, &asked).await?;
    if asked.stopped_only && answer.explanations.is_empty() {
        answer =
            ask(client, &ExplainAppRequest { stopped_only: false, page_size: EXAMPLES, ..asked.clone() })
                .await?;
    }
    while args.all && !answer.next_page_token.is_empty() {
        let page_token = std::mem::take(&mut answer.next_page_token);
        let more = ask(client, &ExplainAppRequest { page_token, ..asked.clone() }).await?;
        answer.explanations.extend(more.explanations);
        answer.next_page_token = more.next_page_token;
    }
    let value = || other("Explanation", "skerry.scheduler.v1.ExplainAppResponse", &answer);
    let text = match args.output {
        Format::Json => value().to_json_pretty() + "\n",
        Format::Yaml => value().to_yaml(),
        Format::Table | Format::Wide | Format::Name => {
            render::placement::explained(&target.to_string(), &answer, printer.colour())
        }
    };
    printer.text(&text)
}

async fn ask(client: &Client, asked: &ExplainAppRequest) -> Result<ExplainAppResponse, CliError> {
    let asking = client.call(Service::Scheduler, |channel, left| {
        let asked = asked.clone();
        async move { placement(channel).explain_app(request(asked, left)).await }
    });
    Ok(asking.await?)
}
