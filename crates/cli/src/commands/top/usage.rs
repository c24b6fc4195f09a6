//! What a live view shows of nodes, apps and instances.

use skerry_proto::relay::v1 as pb;
use tonic::Streaming;

use super::live::{Asking, Live, Page};
use super::{View, What, ask, take};
use crate::args::{TopFlags, TopSort};
use crate::client::Client;
use crate::error::CliError;
use crate::render::top::{self, Known, Nodes, Style};

/// What is shown.
pub(super) struct Shown<'a> {
    client: &'a Client,
    view: &'a View,
    flags: &'a TopFlags,
    nodes: Nodes,
    sort: TopSort,
}

impl<'a> Shown<'a> {
    /// Who may not see it, or names what is not there, is told so here.
    pub(super) async fn of(
        client: &'a Client,
        view: &'a View,
        flags: &'a TopFlags,
    ) -> Result<Self, CliError> {
        let names = view.nodes(client).await?;
        let nodes = names.into_iter().map(|name| (name, Known::Waiting)).collect();
        Ok(Self { client, view, flags, nodes, sort: flags.sort })
    }
}

impl<'a> Live<'a> for Shown<'a> {
    type News = pb::StreamUsageResponse;
    type Found = Vec<String>;

    fn begin(&self) -> Option<Asking<'a, Streaming<Self::News>>> {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        let request = self.view.request(self.client, &names, self.flags, false);
        (!names.is_empty()).then(|| Box::pin(ask(self.client, request)) as _)
    }

    fn look(&self) -> Asking<'a, Self::Found> {
        Box::pin(self.view.nodes(self.client))
    }

    fn take(&mut self, news: Self::News) {
        take(&mut self.nodes, news);
    }

    fn take_found(&mut self, names: Self::Found) -> bool {
        if self.nodes.keys().eq(&names) {
            return false;
        }
        self.nodes.retain(|name, _| names.contains(name));
        for name in names {
            self.nodes.entry(name).or_insert(Known::Waiting);
        }
        true
    }

    fn sort(&mut self, key: u8) -> bool {
        self.sort = match key {
            b'n' => TopSort::Name,
            b'c' => TopSort::Cpu,
            b'm' => TopSort::Memory,
            _ => return false,
        };
        true
    }

    fn page(&self, columns: usize) -> Page {
        let (told, all) = top::told(&self.nodes);
        let what = match &self.view.what {
            What::Nodes => "nodes".to_owned(),
            What::Apps => "apps".to_owned(),
            What::Instances(app) => format!("app/{app}"),
        };
        let style = Style { sort: self.sort, width: Some(columns), headers: true };
        Page {
            head: format!("{what} of project {}, told by {told} of {all} nodes", self.client.project()),
            keys: "q ends, sort by: n name, c cpu, m memory",
            table: match all {
                0 => self.view.nothing().to_owned(),
                _ => self.view.table(&self.nodes, style),
            },
            below: top::troubles(&self.nodes),
        }
    }

    fn address(&self) -> &'a str {
        self.client.relay_address()
    }
}
