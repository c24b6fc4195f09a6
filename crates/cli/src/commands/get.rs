//! `get`: resources as tables, JSON, YAML or names, once or as they change.

use skerry_model::Selector;

use super::Several;
use crate::args::{Format, GetArgs, Output};
use crate::client::Client;
use crate::error::CliError;
use crate::item::{ChangeKind, Item, Query};
use crate::jsonpath::Template;
use crate::print::{Printer, note};
use crate::render::{self, rows, table::Table, time};
use crate::target::{Selection, Target, Type, parse_selection};
use crate::watch::{follow, follow_events};

pub(crate) async fn run(client: &Client, args: &GetArgs, printer: &mut Printer) -> Result<(), CliError> {
    let asked = Asked::of(args)?;
    let (format, template) = match &args.output {
        Output::Format(format) => (*format, None),
        Output::JsonPath(template) => (Format::Json, Some(template)),
    };
    let style = Style { format, template, headers: !args.no_headers, with_kind: args.output_watch_events };
    match asked {
        Asked::Listing(query) if args.watch => {
            watch(client, &client.settled(query).await?, |_| true, style, printer).await
        }
        Asked::Listing(query) => {
            let query = client.settled(query).await?;
            let (items, _) = client.list(&query).await?;
            if items.is_empty() && matches!(format, Format::Table | Format::Wide) {
                note(&render::nothing(&query, client.project().as_str()));
                return Ok(());
            }
            let single = query.names_one() && items.len() == 1;
            show(&items, query.kind, style, single, printer)
        }
        Asked::Listings(_) if args.watch => Err(CliError::Usage("--watch follows one type at a time".into())),
        Asked::Listings(queries) => several_types(client, &queries, style, printer).await,
        Asked::Named(targets) if args.watch => {
            let kind = one_kind(&targets, "--watch follows one type at a time")?;
            // Who waits for what does not exist waits for ever, most likely for a slip of the pen.
            let mut names = Vec::new();
            for target in &targets {
                names.push(client.get(target).await?.target().to_string());
            }
            let among = move |item: &Item| names.contains(&item.target().to_string());
            watch(client, &Query::all(kind), among, style, printer).await
        }
        Asked::Named(targets) => named(client, &targets, style, printer).await,
    }
}

/// What was typed, by how it is fetched.
#[derive(Debug)]
enum Asked {
    Listing(Query),
    /// Of several types.
    Listings(Vec<Query>),
    Named(Vec<Target>),
}

impl Asked {
    fn of(args: &GetArgs) -> Result<Self, CliError> {
        let [kinds] = args.targets.as_slice() else {
            return Self::from(parse_selection(&args.targets)?, args);
        };
        if !kinds.contains(',') || kinds.contains('/') {
            return Self::from(parse_selection(&args.targets)?, args);
        }
        let mut queries: Vec<Query> = Vec::new();
        for kind in kinds.split(',') {
            let Self::Listing(query) = Self::from(Selection::All(Type::parse(kind)?), args)? else {
                unreachable!("all of a type are listed")
            };
            if queries.iter().all(|known| known.kind != query.kind) {
                queries.push(query);
            }
        }
        Ok(Self::Listings(queries))
    }

    fn from(selection: Selection, args: &GetArgs) -> Result<Self, CliError> {
        let kind = match &selection {
            Selection::All(kind) => *kind,
            Selection::Named(targets) => targets.first().map_or(Type::App, |target| target.kind),
        };
        let labelled = !matches!(kind, Type::Instance | Type::Revision | Type::Event);
        if args.selector.is_some() && !(labelled && matches!(selection, Selection::All(_))) {
            return Err(CliError::Usage(
                "-l selects among all of a type that has labels: name none of them".into(),
            ));
        }
        for (flag, given) in [("--node", &args.node), ("--app", &args.app)] {
            if given.is_some() {
                check_flag(flag, kind, matches!(selection, Selection::Named(_)))?;
            }
        }
        if let Some(selector) = &args.selector {
            Selector::parse(selector).map_err(|error| CliError::Usage(error.to_string()))?;
        }
        let mut query = Query::all(kind);
        query.selector = args.selector.clone().unwrap_or_default();
        query.node = args.node.as_deref().map(|word| Target::node(word).name);
        query.app = args.app.as_deref().map(|word| word.strip_prefix("app/").unwrap_or(word).to_owned());
        match (selection, kind) {
            (Selection::All(Type::Revision), _) => {
                Err(CliError::Usage("revisions are those of an app: skerry get revisions APP".into()))
            }
            (Selection::All(_), _) => Ok(Self::Listing(query)),
            (Selection::Named(targets), Type::Instance | Type::Revision) => {
                let [target] = targets.as_slice() else {
                    return Err(CliError::Usage(format!("one app at a time for {}", kind.plural())));
                };
                query.app = target.name.split('/').next().map(str::to_owned);
                query.below = vec![target.name.clone()];
                Ok(Self::Listing(query))
            }
            (Selection::Named(targets), Type::Allocation) => {
                one_kind(&targets, "allocations are listed apart from other types")?;
                query.below = targets.into_iter().map(|target| target.name).collect();
                Ok(Self::Listing(query))
            }
            (Selection::Named(_), Type::Event) => {
                Err(CliError::Usage("events have no names: skerry events --for TYPE/NAME".into()))
            }
            (Selection::Named(targets), _) => Ok(Self::Named(targets)),
        }
    }
}

/// Whether `--node` or `--app` narrows what is asked for.
fn check_flag(flag: &str, kind: Type, is_named: bool) -> Result<(), CliError> {
    let narrows = match kind {
        Type::Allocation => true,
        // Names of instances begin with their app.
        Type::Instance => !is_named || flag == "--node",
        Type::Gpu => !is_named,
        _ => return Err(CliError::Usage(format!("{flag} selects among instances, GPUs and allocations"))),
    };
    if narrows {
        return Ok(());
    }
    Err(CliError::Usage(format!("{flag} selects among all {}: name none of them", kind.plural())))
}

fn one_kind(targets: &[Target], otherwise: &str) -> Result<Type, CliError> {
    let kind = targets.first().map_or(Type::App, |target| target.kind);
    if targets.iter().any(|target| target.kind != kind) {
        return Err(CliError::Usage(otherwise.to_owned()));
    }
    Ok(kind)
}

/// How things are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style<'a> {
    pub(super) format: Format,
    /// In place of the format.
    pub(super) template: Option<&'a Template>,
    pub(super) headers: bool,
    pub(super) with_kind: bool,
}

/// Lists several types: a table for each, or one list of all.
async fn several_types(
    client: &Client,
    queries: &[Query],
    style: Style<'_>,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let is_table = style.template.is_none() && matches!(style.format, Format::Table | Format::Wide);
    let mut all = Vec::new();
    let mut shown = false;
    for query in queries {
        let query = &client.settled(query.clone()).await?;
        let (items, _) = client.list(query).await?;
        if !is_table {
            all.extend(items);
        } else if items.is_empty() {
            note(&render::nothing(query, client.project().as_str()));
        } else {
            if std::mem::replace(&mut shown, true) {
                printer.line("")?;
            }
            show(&items, query.kind, style, false, printer)?;
        }
    }
    if is_table { Ok(()) } else { show(&all, queries[0].kind, style, false, printer) }
}

/// Fetches what was named; what is missing is said, the rest is shown.
async fn named(
    client: &Client,
    targets: &[Target],
    style: Style<'_>,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let mut several = Several::default();
    let mut items = Vec::new();
    for target in targets {
        match client.get(target).await {
            Ok(item) => items.push(item),
            Err(error) => several.take(Err(error.into()))?,
        }
    }
    let single = targets.len() == 1;
    if !items.is_empty() {
        let is_table = matches!(style.format, Format::Table | Format::Wide);
        if is_table {
            // Types have their own columns: a table for each run of one type.
            for run in items.chunk_by(|a, b| a.target().kind == b.target().kind) {
                show(run, run[0].target().kind, style, single, printer)?;
            }
        } else {
            show(&items, items[0].target().kind, style, single, printer)?;
        }
    }
    several.finish()
}

/// Shows all of a type as a table.
pub(super) async fn list_all(
    client: &Client,
    kind: Type,
    no_headers: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let query = Query::all(kind);
    let (items, _) = client.list(&query).await?;
    if items.is_empty() {
        note(&render::nothing(&query, client.project().as_str()));
        return Ok(());
    }
    let style = Style { format: Format::Table, template: None, headers: !no_headers, with_kind: false };
    show(&items, kind, style, false, printer)
}

/// Writes items of one type.
pub(super) fn show(
    items: &[Item],
    kind: Type,
    style: Style<'_>,
    single: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let text = match style.format {
        _ if let Some(template) = style.template => template.render(&render::value(items, single)),
        Format::Table | Format::Wide => {
            let (system, others): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| is_system(item));
            let of = |items: &[&Item], headers: &[&'static str]| {
                let now = time::now();
                let wide = style.format == Format::Wide;
                let rows: Vec<_> = items.iter().map(|item| rows::cells(item, wide, now)).collect();
                table(headers, style, printer).rows(&rows)
            };
            let headers = rows::headers(kind, style.format == Format::Wide);
            let text = if others.is_empty() { String::new() } else { of(&others, &headers) };
            if system.is_empty() {
                text
            } else {
                // Apart from the others, and told so above the names; without column names they only come last.
                let gap = if text.is_empty() || !style.headers { "" } else { "\n" };
                let headers: Vec<&'static str> =
                    ["SYSTEM APP"].into_iter().chain(headers.into_iter().skip(1)).collect();
                format!("{text}{gap}{}", of(&system, &headers))
            }
        }
        format => render::items(items, format, single),
    };
    printer.text(&text)
}

fn is_system(item: &Item) -> bool {
    matches!(item, Item::App(app) if rows::is_system(app))
}

fn table(headers: &[&'static str], style: Style<'_>, printer: &Printer) -> Table {
    let width = if style.format == Format::Wide { None } else { printer.width() };
    Table::new(headers, width, style.headers).in_colour(printer.colour())
}

/// Writes what is there and every change, of items that are `among` those wanted.
pub(super) async fn watch(
    client: &Client,
    query: &Query,
    among: impl Fn(&Item) -> bool,
    style: Style<'_>,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let wide = style.format == Format::Wide;
    let mut table =
        table(&rows::headers(query.kind, wide), style, printer).at_least(rows::usual_widths(query.kind));
    let show = |changes: Vec<(ChangeKind, Item)>| {
        let wanted = changes.into_iter().filter(|(_, item)| among(item));
        let text = match style.format {
            Format::Table | Format::Wide => {
                let now = time::now();
                let rows: Vec<_> =
                    wanted.map(|(kind, item)| rows::change_cells(kind, &item, wide, now)).collect();
                if rows.is_empty() { String::new() } else { table.rows(&rows) }
            }
            _ if let Some(template) = style.template => {
                wanted.map(|(_, item)| template.render(&item.value())).collect()
            }
            format => {
                wanted.map(|(kind, item)| render::change(kind, &item, format, style.with_kind)).collect()
            }
        };
        printer.text(&text)
    };
    if query.kind == Type::Event {
        follow_events(client, query, show).await
    } else {
        follow(client, query, show).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> GetArgs {
        GetArgs {
            targets: words.iter().map(|&word| word.to_owned()).collect(),
            output: Output::Format(Format::Table),
            selector: None,
            node: None,
            app: None,
            watch: false,
            output_watch_events: false,
            no_headers: false,
        }
    }

    fn asked(args: &GetArgs) -> Result<Asked, String> {
        Asked::of(args).map_err(|error| error.text().expect("printed"))
    }

    #[test]
    fn instances_are_asked_for_by_app_and_path() {
        let Ok(Asked::Listing(query)) = asked(&args(&["inst", "hello/web"])) else { panic!() };
        assert_eq!((query.app.as_deref(), query.below), (Some("hello"), vec!["hello/web".to_owned()]));
        let Ok(Asked::Listing(query)) = asked(&GetArgs { node: Some("n1".into()), ..args(&["instances"]) })
        else {
            panic!()
        };
        assert_eq!((query.app.as_deref(), query.node.as_deref()), (None, Some("n1")));
    }

    #[test]
    fn allocations_are_asked_for_by_gpus_node_and_app() {
        let Ok(Asked::Listing(query)) = asked(&args(&["alloc", "n1/0", "5d2f"])) else { panic!() };
        assert_eq!((query.kind, query.below), (Type::Allocation, vec!["n1/0".to_owned(), "5d2f".to_owned()]));
        let (node, app) = (Some("node/n1".into()), Some("app/hello".into()));
        for kind in ["allocations", "gpus", "instances"] {
            let narrowed = GetArgs { node: node.clone(), app: app.clone(), ..args(&[kind]) };
            let Ok(Asked::Listing(query)) = asked(&narrowed) else { panic!() };
            assert_eq!((query.node.as_deref(), query.app.as_deref()), (Some("n1"), Some("hello")), "{kind}");
        }
        let Ok(Asked::Listing(query)) = asked(&GetArgs { node, app, ..args(&["alloc/n1/0"]) }) else {
            panic!()
        };
        assert_eq!((query.node.as_deref(), query.app.as_deref()), (Some("n1"), Some("hello")));
        assert!(asked(&args(&["alloc/n1/0", "app/x"])).expect_err("refused").contains("apart"));
    }

    #[test]
    fn a_revision_is_asked_for_by_the_first_digits_of_its_hash() {
        let Ok(Asked::Listing(query)) = asked(&args(&["rev/hello/12ab"])) else { panic!() };
        assert_eq!((query.app.as_deref(), query.below), (Some("hello"), vec!["hello/12ab".to_owned()]));
    }

    #[test]
    fn several_types_are_asked_for_as_kubectl_does() {
        let Ok(Asked::Listings(queries)) = asked(&args(&["apps,inst,app"])) else { panic!() };
        let kinds: Vec<Type> = queries.iter().map(|query| query.kind).collect();
        assert_eq!(kinds, [Type::App, Type::Instance]);
        assert!(asked(&args(&["apps,pods"])).expect_err("refused").contains("\"pods\""));
        let labelled = GetArgs { selector: Some("a=b".into()), ..args(&["apps,instances"]) };
        assert!(asked(&labelled).expect_err("refused").contains("-l"));
    }

    #[test]
    fn a_whole_name_is_one_and_an_app_s_are_a_list() {
        let one = |words: &[&str]| {
            let Ok(Asked::Listing(query)) = asked(&args(words)) else { panic!() };
            query.names_one()
        };
        assert!(one(&["allocation/n1/GPU-1/hello/web/n1/0"]) && !one(&["allocation/n1/GPU-1"]));
        assert!(one(&["rev/hello/12ab"]) && one(&["instance/hello/web/n1/0"]));
        assert!(!one(&["revisions", "hello"]) && !one(&["instance/hello/web"]) && !one(&["apps"]));
    }

    #[test]
    fn what_makes_no_sense_is_refused_before_any_call() {
        let refused = |args: GetArgs| asked(&args).expect_err("refused");
        assert!(refused(args(&["revisions"])).contains("skerry get revisions APP"));
        assert!(refused(args(&["events", "x"])).contains("--for"));
        assert!(refused(GetArgs { selector: Some("a=b".into()), ..args(&["app", "x"]) }).contains("-l"));
        assert!(refused(GetArgs { node: Some("n".into()), ..args(&["apps"]) }).contains("--node"));
        assert!(refused(GetArgs { app: Some("a".into()), ..args(&["nodes"]) }).contains("--app"));
        assert!(refused(GetArgs { app: Some("a".into()), ..args(&["inst", "x"]) }).contains("name none"));
        assert!(refused(GetArgs { node: Some("n".into()), ..args(&["gpu", "n1/0"]) }).contains("name none"));
        assert!(refused(args(&["instances", "a", "b"])).contains("one app at a time"));
    }
}
