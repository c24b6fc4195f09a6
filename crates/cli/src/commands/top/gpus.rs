//! `top gpus`: how busy GPUs are, once or as a live view; and what `describe gpu` shows of one.

mod live;

use std::time::Duration;

use skerry_manifest::output::{self, Value};
use skerry_model::Selector;
use skerry_proto::gpu::v1 as pb;
use tokio::time::{Instant, timeout_at};

use crate::args::{Format, TopGpusArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::render::gpus::Readings;
use crate::render::top_gpus::{self, Card, Cards, Style};
use crate::target::{Target, Type};
use crate::terminal;

/// Most GPUs of one view.
const GPUS_MAX: usize = 1000;
/// Most GPUs that can be named, as servers have it.
const NAMED_MAX: usize = 256;
/// Longest that somebody waits for one sample: nodes tell them each second.
const PATIENCE: Duration = Duration::from_secs(4);

/// What is looked at.
struct View {
    selector: pb::GpuSelector,
    interval: Duration,
    /// Whether nothing narrows it.
    is_all: bool,
}

pub(super) async fn run(client: &Client, args: &TopGpusArgs, printer: &mut Printer) -> Result<(), CliError> {
    let view = View::of(client, args).await?;
    let is_live =
        !args.once && args.output == Format::Table && printer.width().is_some() && terminal::has_screen();
    if is_live {
        return super::live::run(live::Shown::of(client, &view, args.sort).await?).await;
    }
    once(client, &view, args, printer).await
}

impl View {
    async fn of(client: &Client, args: &TopGpusArgs) -> Result<Self, CliError> {
        if args.gpus.len() > NAMED_MAX {
            return Err(CliError::Usage(format!(
                "{} GPUs are named, and at most {NAMED_MAX} can be: choose some with -l or --node",
                args.gpus.len()
            )));
        }
        let labels = args.selector.clone().unwrap_or_default();
        Selector::parse(&labels).map_err(|error| CliError::Usage(error.to_string()))?;
        let mut selector = pb::GpuSelector { label_selector: labels, ..Default::default() };
        for word in &args.gpus {
            let word = word.strip_prefix("gpu/").unwrap_or(word);
            let target = Target { kind: Type::Gpu, name: word.to_owned() };
            selector.gpus.push(client.whole(&target).await?.name);
        }
        if let Some(word) = &args.node {
            let node = Target::node(word);
            client.get(&node).await?;
            selector.nodes.push(node.full_name(client.project())?);
        }
        if let Some(word) = &args.app {
            let name = word.strip_prefix("app/").unwrap_or(word);
            let app = Target { kind: Type::App, name: name.to_owned() };
            client.get(&app).await?;
            selector.app = app.full_name(client.project())?;
        }
        let is_all = selector == pb::GpuSelector::default();
        Ok(Self { selector, interval: args.interval, is_all })
    }

    /// The GPUs that are meant now.
    async fn cards(&self, client: &Client) -> Result<Cards, CliError> {
        let gpus = client.gpus_meant(&self.selector, GPUS_MAX).await?;
        if gpus.len() > GPUS_MAX {
            return Err(CliError::Usage(format!(
                "more than {GPUS_MAX} GPUs are meant: choose some with -l, --node or --app"
            )));
        }
        Ok(gpus.into_iter().map(|gpu| (gpu.name.clone(), Card::new(gpu))).collect())
    }

    fn request(&self, client: &Client, fields: &[pb::Field]) -> pb::StreamSamplesRequest {
        pb::StreamSamplesRequest {
            parent: client.project().parent(),
            selector: Some(self.selector.clone()),
            fields: fields.iter().map(|field| *field as i32).collect(),
            interval: Some(skerry_model::time::to_proto_duration(self.interval)),
            processes: true,
            events: true,
        }
    }

    /// What to say where there is nothing to look at.
    fn nothing(&self) -> &'static str {
        if self.is_all { "no node has told of a GPU" } else { "there are no such GPUs" }
    }
}

/// What a table shows.
const SHOWN: [pb::Field; 7] = [
    pb::Field::GpuUtilizationPercent,
    pb::Field::MemoryUsedBytes,
    pb::Field::TemperatureCelsius,
    pb::Field::PowerMilliwatts,
    pb::Field::PowerEnforcedLimitMilliwatts,
    pb::Field::GraphicsActivityPermille,
    pb::Field::Processes,
];

/// Takes in one sample of each, as far as they come in time.
async fn gather(
    client: &Client,
    request: pb::StreamSamplesRequest,
    cards: &mut Cards,
) -> Result<(), CliError> {
    let until = Instant::now() + PATIENCE;
    let mut answers = client.gpu_samples(request).await?;
    while !cards.values().all(Card::is_complete) {
        match timeout_at(until, answers.message()).await {
            Ok(Ok(Some(answer))) => {
                top_gpus::take(cards, answer);
            }
            Ok(Ok(None)) | Err(_) => break,
            Ok(Err(status)) => return Err(CliError::of_status(&status, client.gpu_address())),
        }
    }
    Ok(())
}

/// One sample.
async fn once(
    client: &Client,
    view: &View,
    args: &TopGpusArgs,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let mut cards = view.cards(client).await?;
    let is_table = matches!(args.output, Format::Table | Format::Wide);
    if !cards.is_empty() && args.output != Format::Name {
        // Programs get all that there is.
        let fields: &[pb::Field] = if is_table { &SHOWN } else { &[] };
        gather(client, view.request(client, fields), &mut cards).await?;
    }
    match args.output {
        Format::Json => printer.text(&(values(&cards).to_json_pretty() + "\n"))?,
        Format::Yaml => printer.text(&values(&cards).to_yaml())?,
        Format::Name => {
            for name in cards.keys() {
                printer.line(&format!("gpu/{}", crate::gpus::short_name(name)))?;
            }
            return Ok(());
        }
        Format::Table | Format::Wide if cards.is_empty() => note(view.nothing()),
        Format::Table | Format::Wide => {
            let width = printer.width().filter(|_| args.output == Format::Table);
            let style = Style { sort: args.sort, width, headers: !args.no_headers, live: false };
            printer.text(&top_gpus::table(&cards, style))?;
        }
    }
    for trouble in top_gpus::troubles(&cards) {
        note(&trouble);
    }
    if !cards.is_empty() && top_gpus::told(&cards).0 == 0 {
        return Err(CliError::Failed("no GPU told what it does".to_owned()));
    }
    Ok(())
}

fn values(cards: &Cards) -> Value {
    let samples = cards.values().flat_map(|card| card.sample.iter().chain(card.parts.values()));
    let each = samples.map(|sample| output::other("GpuSample", "skerry.gpu.v1.Sample", sample));
    output::list(each.collect())
}

/// What is measured of one GPU now. That nothing is known is told, and no failure.
pub(in crate::commands) async fn readings(client: &Client, gpu: &pb::Gpu) -> Readings {
    let request = pb::StreamSamplesRequest {
        parent: client.project().parent(),
        selector: Some(pb::GpuSelector { gpus: vec![gpu.name.clone()], ..Default::default() }),
        processes: true,
        ..Default::default()
    };
    let mut cards = Cards::from([(gpu.name.clone(), Card::new(gpu.clone()))]);
    let failed = gather(client, request, &mut cards).await.err();
    let card = cards.remove(&gpu.name).unwrap_or_default();
    let trouble = failed.map(|error| error.summary()).or_else(|| card.trouble());
    Readings { sample: card.sample, parts: card.parts.into_values().collect(), trouble }
}
