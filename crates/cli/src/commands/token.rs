//! `token`: leave for machines to enrol.

use skerry_manifest::output::{self, Value};
use skerry_model::time::to_proto_duration;
use skerry_proto::registry::v1::{
    CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, ListTokensRequest, Token,
};

use super::Several;
use crate::args::{Format, TokenCommand, TokenCreateArgs, TokenDeleteArgs, TokenListArgs};
use crate::client::{Client, Service, request, tokens};
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::render::table::Table;
use crate::render::time::{moment, now};

/// Tokens of one page: all that a project may have.
const PAGE_SIZE: i32 = 1000;

pub(crate) async fn run(
    client: &Client,
    command: &TokenCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        TokenCommand::Create(args) => create(client, args, printer).await,
        TokenCommand::List(args) => list(client, args, printer).await,
        TokenCommand::Delete(args) => delete(client, args, printer).await,
    }
}

async fn create(client: &Client, args: &TokenCreateArgs, printer: &mut Printer) -> Result<(), CliError> {
    let wanted = CreateTokenRequest {
        parent: client.project().parent(),
        token: Some(Token {
            uses_max: args.uses,
            node_labels: args.labels.iter().cloned().collect(),
            node_name_template: args.name_template.clone().unwrap_or_default(),
            once_per_machine: args.once_per_machine,
            cluster: args.cluster.clone().unwrap_or_default(),
            system_apps: args.system_apps.clone(),
            ..Token::default()
        }),
        ttl: Some(to_proto_duration(args.ttl)),
    };
    let made = client.call(Service::Registry, |channel, left| {
        let wanted = wanted.clone();
        async move { tokens(channel).create_token(request(wanted, left)).await }
    });
    let CreateTokenResponse { token, text } = made.await?;
    let token = token.unwrap_or_default();
    match args.output {
        Format::Json => printer.text(&(with_text(&token, &text).to_json_pretty() + "\n"))?,
        Format::Yaml => printer.text(&with_text(&token, &text).to_yaml())?,
        Format::Name => printer.line(&format!("token/{}", id(&token)))?,
        Format::Table | Format::Wide => printer.line(&text)?,
    }
    if !args.quiet && matches!(args.output, Format::Table | Format::Wide) {
        note(&hint(&token, client.single_port().unwrap_or(GATEWAY_PORT)));
    }
    Ok(())
}

/// Where a gateway listens that is a process of its own, unless it is told otherwise.
const GATEWAY_PORT: u16 = 7773;

/// What to do with a token: four commands. The gateway listens on `port`.
fn hint(token: &Token, port: u16) -> String {
    let uses = match token.uses_max {
        0 => "any number of machines".to_owned(),
        1 => "one machine".to_owned(),
        uses => format!("{uses} machines"),
    };
    format!(
        "Good for {uses} until {}. On the machine, where GATEWAY is a gateway as it reaches it (paste the token after the first):\n  \
         install -m 600 /dev/stdin token\n  \
         skerry-agent --gateway https://GATEWAY:{port} --token-file token\n\
         Then here:\n  \
         skerry get nodes\n  \
         skerry apply -f app.yaml",
        moment(token.expire_time.as_ref())
    )
}

async fn list(client: &Client, args: &TokenListArgs, printer: &mut Printer) -> Result<(), CliError> {
    let all = all(client).await?;
    match args.output {
        Format::Json => printer.text(&(values(&all).to_json_pretty() + "\n")),
        Format::Yaml => printer.text(&values(&all).to_yaml()),
        Format::Name => {
            printer.text(&all.iter().fold(String::new(), |text, token| text + "token/" + id(token) + "\n"))
        }
        Format::Table | Format::Wide if all.is_empty() => {
            note(&format!("no tokens in project {}", client.project()));
            Ok(())
        }
        Format::Table | Format::Wide => {
            let now = now();
            let rows: Vec<_> = all.iter().map(|token| row(token, now)).collect();
            let headers = ["ID", "USES", "EXPIRES", "LABELS", "NAMES", "MACHINES"];
            printer.text(&Table::new(&headers, printer.width(), !args.no_headers).rows(&rows))
        }
    }
}

async fn all(client: &Client) -> Result<Vec<Token>, CliError> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let wanted =
            ListTokensRequest { parent: client.project().parent(), page_size: PAGE_SIZE, page_token };
        let page = client.call(Service::Registry, |channel, left| {
            let wanted = wanted.clone();
            async move { tokens(channel).list_tokens(request(wanted, left)).await }
        });
        let page = page.await?;
        all.extend(page.tokens);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}

fn row(token: &Token, now: i64) -> Vec<String> {
    let text = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let uses = match token.uses_max {
        0 => token.uses.to_string(),
        most => format!("{}/{most}", token.uses),
    };
    let over = token.expire_time.as_ref().is_none_or(|time| time.seconds <= now);
    let expires = if over { "expired".to_owned() } else { moment(token.expire_time.as_ref()) };
    let labels: Vec<_> = token.node_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let machines = if token.once_per_machine { "once each" } else { "any" };
    let names = text(&token.node_name_template);
    vec![id(token).to_owned(), uses, expires, text(&labels.join(",")), names, machines.to_owned()]
}

async fn delete(client: &Client, args: &TokenDeleteArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut several = Several::default();
    for token in &args.tokens {
        let id = token.strip_prefix("token/").unwrap_or(token);
        let name = if id.contains('/') {
            id.to_owned()
        } else {
            format!("{}/tokens/{id}", client.project().parent())
        };
        let deleted = client.call(Service::Registry, |channel, left| {
            let wanted = DeleteTokenRequest { name: name.clone() };
            async move { tokens(channel).delete_token(request(wanted, left)).await }
        });
        let outcome = match deleted.await {
            Ok(_) => printer.line(&format!("token/{id} deleted")),
            Err(error) => Err(error.into()),
        };
        several.take(outcome)?;
    }
    several.finish()
}

fn id(token: &Token) -> &str {
    let name = token.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    name.rsplit('/').next().unwrap_or_default()
}

fn value(token: &Token) -> Value {
    output::other("Token", "skerry.registry.v1.Token", token)
}

fn values(tokens: &[Token]) -> Value {
    output::list(tokens.iter().map(value).collect())
}

fn with_text(token: &Token, text: &str) -> Value {
    match value(token) {
        Value::Map(mut fields) => {
            fields.push(("text".into(), Value::String(text.into())));
            Value::Map(fields)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use skerry_proto::types::v1::Metadata;

    use super::*;

    #[test]
    fn the_hint_says_how_often_and_until_when_and_has_no_secret() {
        let expire_time = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });
        let told = hint(&Token { uses_max: 3, expire_time, ..Token::default() }, 7770);
        assert!(told.contains("https://GATEWAY:7770 "), "{told}");
        assert!(told.starts_with("Good for 3 machines until 2027-01-15T08:00:00Z."), "{told}");
        assert!(!told.contains("skt1_"), "{told}");
        assert_eq!(told.lines().filter(|line| line.starts_with("  ")).count(), 4, "{told}");
    }

    #[test]
    fn a_token_s_row_says_what_is_left_of_it() {
        let token = Token {
            metadata: Some(Metadata { name: "projects/p/tokens/abc".into(), ..Default::default() }),
            uses_max: 5,
            uses: 2,
            expire_time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
            node_labels: [("site".to_owned(), "oslo".to_owned())].into(),
            once_per_machine: true,
            ..Token::default()
        };
        let shown = row(&token, 1_799_999_999);
        assert_eq!(shown, ["abc", "2/5", "2027-01-15T08:00:00Z", "site=oslo", "-", "once each"]);
        assert_eq!(row(&token, 1_800_000_000)[2], "expired");
        assert_eq!(row(&Token { uses_max: 0, ..token }, 0)[1], "2");
    }
}
