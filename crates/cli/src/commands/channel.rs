//! `channel`: what is open to instances, and cutting it.

use skerry_manifest::output::{self, Value};
use skerry_proto::relay::v1 as pb;

use super::Several;
use crate::args::{ChannelCommand, ChannelCutArgs, ChannelListArgs, Format};
use crate::client::{Client, Service, relay, request};
use crate::error::CliError;
use crate::print::{Printer, note};
use crate::render::table::Table;
use crate::render::time;

pub(crate) async fn run(
    client: &Client,
    command: &ChannelCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    match command {
        ChannelCommand::List(args) => list(client, args, printer).await,
        ChannelCommand::Cut(args) => cut(client, args, printer).await,
    }
}

async fn list(client: &Client, args: &ChannelListArgs, printer: &mut Printer) -> Result<(), CliError> {
    let parent = client.project().parent();
    let answer = client.call(Service::Relay, |channel, left| {
        let message = pb::ListChannelsRequest { parent: parent.clone() };
        async move { relay(channel).list_channels(request(message, left)).await }
    });
    let pb::ListChannelsResponse { channels, unreachable } = answer.await?;
    for relay in unreachable {
        note(&format!("what is open at relay {relay} is not known"));
    }
    let now = time::now();
    match args.output {
        Format::Json => return printer.text(&(values(&channels).to_json_pretty() + "\n")),
        Format::Yaml => return printer.text(&values(&channels).to_yaml()),
        Format::Name => {
            for channel in &channels {
                printer.line(short(&channel.name))?;
            }
            return Ok(());
        }
        Format::Table | Format::Wide => {}
    }
    if channels.is_empty() {
        note("nothing is open");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = channels.iter().map(|channel| row(channel, now)).collect();
    let headers = ["NAME", "VERB", "INSTANCE", "NODE", "AGE", "IDLE", "RECEIVED", "CALLER"];
    printer.text(&Table::new(&headers, printer.width(), !args.no_headers).rows(&rows))
}

fn values(channels: &[pb::Channel]) -> Value {
    let each = channels.iter().map(|channel| output::other("Channel", "skerry.relay.v1.Channel", channel));
    output::list(each.collect())
}

fn row(channel: &pb::Channel, now: i64) -> Vec<String> {
    let instance =
        channel.resource.split_once("/instances/").map_or(channel.resource.as_str(), |(_, name)| name);
    let idle = channel.idle.map_or(0, |idle| idle.seconds);
    vec![
        short(&channel.name).to_owned(),
        channel.verb.clone(),
        instance.to_owned(),
        short(&channel.node).to_owned(),
        time::age(channel.open_time.as_ref(), now),
        format!("{idle}s"),
        time::bytes(channel.received_bytes),
        match short(&channel.grant) {
            "" => channel.caller.clone(),
            grant => format!("{} by grant/{grant}", channel.caller),
        },
    ]
}

fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

async fn cut(client: &Client, args: &ChannelCutArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut several = Several::default();
    for name in &args.names {
        let full = format!("{}/channels/{}", client.project().parent(), short(name));
        let answer = client.call(Service::Relay, |channel, left| {
            let message = pb::CutChannelRequest { name: full.clone() };
            async move { relay(channel).cut_channel(request(message, left)).await }
        });
        let outcome = match answer.await {
            Ok(_) => printer.line(&format!("channel {} cut", short(name))),
            Err(error) => Err(error.into()),
        };
        several.take(outcome)?;
    }
    several.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_one_line() {
        let channel = pb::Channel {
            name: "projects/p/channels/c1".to_owned(),
            verb: "logs".to_owned(),
            resource: "projects/p/instances/a/s/n/0".to_owned(),
            node: "projects/p/nodes/n".to_owned(),
            caller: "ada".to_owned(),
            open_time: Some(prost_types::Timestamp { seconds: 40, nanos: 0 }),
            received_bytes: 2048,
            ..pb::Channel::default()
        };
        assert_eq!(row(&channel, 100), ["c1", "logs", "a/s/n/0", "n", "60s", "0s", "2.0 KiB", "ada"]);
    }
}
