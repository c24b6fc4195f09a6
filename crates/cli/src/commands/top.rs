//! `top`: what nodes and apps use, once or as a live view. GPUs are in `gpus`.

pub(super) mod gpus;
mod live;
mod usage;

use skerry_manifest::output::{self, Value};
use skerry_proto::relay::v1 as pb;
use skerry_proto::relay::v1::stream_usage_response::Body as News;
use tonic::{Request, Streaming};

use crate::args::{Format, TopAppsArgs, TopCommand, TopFlags, TopNodesArgs};
use crate::client::{Client, relay};
use crate::error::CliError;
use crate::item::{Item, Query};
use crate::print::{Printer, note};
use crate::render::top::{self, Known, Nodes, Style};
use crate::target::{Target, Type};
use crate::terminal;

/// Most nodes of one view: what a relay takes.
const NODES_MAX: usize = 500;

/// What is looked at.
#[derive(Debug, Clone)]
struct View {
    what: What,
    /// These nodes, by short names. Empty: all of the query.
    named: Vec<String>,
    selector: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Nodes,
    Apps,
    /// The instances of this app (short name).
    Instances(String),
}

pub(crate) async fn run(
    client: &Client,
    command: &TopCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let (view, flags) = match command {
        TopCommand::Nodes(args) => (View::of_nodes(client, args).await?, &args.flags),
        TopCommand::Apps(args) => (View::of_apps(client, args).await?, &args.flags),
        TopCommand::Gpus(args) => return gpus::run(client, args, printer).await,
    };
    let is_live =
        !flags.once && flags.output == Format::Table && printer.width().is_some() && terminal::has_screen();
    if is_live {
        return live::run(usage::Shown::of(client, &view, flags).await?).await;
    }
    once(client, &view, flags, printer).await
}

impl View {
    async fn of_nodes(client: &Client, args: &TopNodesArgs) -> Result<Self, CliError> {
        let mut named = Vec::new();
        for word in &args.nodes {
            named.push(known(client, Type::Node, word).await?);
        }
        Ok(Self { what: What::Nodes, named, selector: args.selector.clone().unwrap_or_default() })
    }

    async fn of_apps(client: &Client, args: &TopAppsArgs) -> Result<Self, CliError> {
        let what = match &args.app {
            None => What::Apps,
            Some(word) => What::Instances(known(client, Type::App, word).await?),
        };
        let named = match &args.node {
            None => Vec::new(),
            Some(word) => vec![known(client, Type::Node, word).await?],
        };
        Ok(Self { what, named, selector: String::new() })
    }

    /// The nodes that are meant now, by short names.
    async fn nodes(&self, client: &Client) -> Result<Vec<String>, CliError> {
        let mut nodes = match &self.what {
            What::Nodes | What::Apps if !self.named.is_empty() => self.named.clone(),
            What::Nodes => {
                let query = Query { selector: self.selector.clone(), ..Query::all(Type::Node) };
                let (items, _) = client.list(&query).await?;
                items.iter().map(|item| item.target().name).collect()
            }
            What::Apps => instances_at(client, Query::all(Type::Instance)).await?,
            What::Instances(app) => {
                let query = Query {
                    app: Some(app.clone()),
                    node: self.named.first().cloned(),
                    ..Query::all(Type::Instance)
                };
                instances_at(client, query).await?
            }
        };
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.len() > NODES_MAX {
            let how = if self.what == What::Nodes { "-l SELECTOR, or by names" } else { "an app, or --node" };
            return Err(CliError::Usage(format!(
                "{} nodes are meant, and {NODES_MAX} can be looked at: choose some with {how}",
                nodes.len()
            )));
        }
        Ok(nodes)
    }

    fn request(
        &self,
        client: &Client,
        nodes: &[String],
        flags: &TopFlags,
        once: bool,
    ) -> pb::StreamUsageRequest {
        let parent = client.project().parent();
        let app = match &self.what {
            What::Instances(app) => format!("{parent}/apps/{app}"),
            What::Nodes | What::Apps => String::new(),
        };
        pb::StreamUsageRequest {
            nodes: nodes.iter().map(|node| format!("{parent}/nodes/{node}")).collect(),
            parent,
            with_instances: self.what != What::Nodes,
            app,
            interval: Some(skerry_model::time::to_proto_duration(flags.interval)),
            once,
        }
    }

    fn table(&self, nodes: &Nodes, style: Style) -> String {
        match self.what {
            What::Nodes => top::nodes(nodes, style),
            What::Apps => top::apps(nodes, style),
            What::Instances(_) => top::instances(nodes, style),
        }
    }

    /// What to say where there is nothing to look at.
    fn nothing(&self) -> &'static str {
        match self.what {
            What::Nodes => "there are no such nodes",
            What::Apps | What::Instances(_) => "no instance is on a node",
        }
    }
}

/// Where instances are, as short names of nodes.
async fn instances_at(client: &Client, query: Query) -> Result<Vec<String>, CliError> {
    let (items, _) = client.list(&query).await?;
    let nodes = items.iter().filter_map(|item| match item {
        Item::Instance(instance) => instance.node.rsplit('/').next(),
        _ => None,
    });
    Ok(nodes.filter(|node| !node.is_empty()).map(str::to_owned).collect())
}

/// The short name of something of this kind. That it is there is known before anything is shown.
async fn known(client: &Client, kind: Type, word: &str) -> Result<String, CliError> {
    let target = match word.split_once('/') {
        None => Target { kind, name: word.to_owned() },
        Some(_) => Target::parse(word)?,
    };
    if target.kind != kind {
        return Err(CliError::Usage(format!("{target} is no {}", kind.singular())));
    }
    client.get(&target).await?;
    Ok(target.name.rsplit('/').next().unwrap_or_default().to_owned())
}

/// Asks a relay.
async fn ask(
    client: &Client,
    request: pb::StreamUsageRequest,
) -> Result<Streaming<pb::StreamUsageResponse>, CliError> {
    // Without a deadline: it lasts as long as somebody looks.
    Ok(client
        .relay_once(|channel| async move { relay(channel).stream_usage(Request::new(request)).await })
        .await?)
}

/// Takes an answer in.
fn take(nodes: &mut Nodes, answer: pb::StreamUsageResponse) {
    let Some(known) = nodes.get_mut(answer.node.rsplit('/').next().unwrap_or_default()) else { return };
    *known = match answer.body {
        Some(News::Sample(sample)) => Known::Sample(Box::new(sample)),
        Some(News::Problem(problem)) => Known::Problem(problem),
        None => return,
    };
}

/// One sample.
async fn once(client: &Client, view: &View, flags: &TopFlags, printer: &mut Printer) -> Result<(), CliError> {
    let names = view.nodes(client).await?;
    let mut nodes: Nodes = names.iter().map(|name| (name.clone(), Known::Waiting)).collect();
    let mut told: Vec<pb::StreamUsageResponse> = Vec::new();
    if !names.is_empty() {
        let mut answers = ask(client, view.request(client, &names, flags, true)).await?;
        loop {
            match answers.message().await {
                Ok(Some(answer)) => {
                    told.push(answer.clone());
                    take(&mut nodes, answer);
                }
                Ok(None) => break,
                Err(status) => return Err(CliError::of_status(&status, client.relay_address())),
            }
        }
    }
    told.sort_by(|a, b| a.node.cmp(&b.node));
    match flags.output {
        Format::Json => printer.text(&(values(&told).to_json_pretty() + "\n"))?,
        Format::Yaml => printer.text(&values(&told).to_yaml())?,
        Format::Name => {
            for name in &names {
                printer.line(&format!("node/{name}"))?;
            }
        }
        Format::Table | Format::Wide if names.is_empty() => note(view.nothing()),
        Format::Table | Format::Wide => {
            let width = printer.width().filter(|_| flags.output == Format::Table);
            let style = Style { sort: flags.sort, width, headers: !flags.no_headers };
            printer.text(&view.table(&nodes, style))?;
        }
    }
    for trouble in top::troubles(&nodes) {
        note(&trouble);
    }
    if !names.is_empty() && top::told(&nodes).0 == 0 {
        return Err(CliError::Failed("no node told what it uses".to_owned()));
    }
    Ok(())
}

fn values(told: &[pb::StreamUsageResponse]) -> Value {
    let each = told.iter().map(|one| output::other("Usage", "skerry.relay.v1.StreamUsageResponse", one));
    output::list(each.collect())
}
