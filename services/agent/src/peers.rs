//! What apps have on other members of this node's cluster: who has a service of which there is none here, under which names it is asked for, and
//! what of it is met. As the control plane says it, kept on disk with the rest of the desired state. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use skerry_model::app::{DependencyCondition, Program, ServiceSpec};
use skerry_model::{AppName, NodeName, ServiceName};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::types::v1::dependency::Condition;

/// What an app has on other members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Services of which this node has none.
    pub services: BTreeMap<ServiceName, PeerService>,
}

/// A service on other members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerService {
    /// Who has it, and at which address it is reached there, if it is.
    pub members: BTreeMap<NodeName, Option<IpAddr>>,
    /// Conditions that it has met.
    pub met: Vec<DependencyCondition>,
    /// More names that containers of the app ask for it by.
    pub aliases: Vec<String>,
}

impl Peers {
    /// From the wire. Error: a sentence for people.
    pub(crate) fn parse(wire: &pb::Peers) -> Result<(AppName, Self), String> {
        let app = AppName::parse(&wire.app).map_err(|error| error.to_string())?;
        let mut services = BTreeMap::new();
        for one in &wire.services {
            let name = ServiceName::parse(&one.service).map_err(|error| error.to_string())?;
            services.insert(name, PeerService::parse(one)?);
        }
        Ok((app, Self { services }))
    }

    /// With the names that each service has beside its own, by the app's services in the revision that the cluster shall have.
    pub(crate) fn name<'a>(&mut self, service: impl Fn(&ServiceName) -> Option<&'a ServiceSpec>) {
        for (name, one) in &mut self.services {
            if let Some(Program::Container(container)) = service(name).map(|service| &service.program) {
                one.aliases.clone_from(&container.network.aliases);
                one.aliases.extend(container.network.further.values().flatten().cloned());
                one.aliases.sort_unstable();
                one.aliases.dedup();
            }
        }
    }

    /// Lines for `/etc/hosts`: an address, and the names that it has.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (IpAddr, Vec<&str>)> {
        self.services.iter().flat_map(|(service, one)| {
            let names: Vec<&str> =
                std::iter::once(service.as_str()).chain(one.aliases.iter().map(String::as_str)).collect();
            one.members.values().flatten().map(move |address| (*address, names.clone()))
        })
    }

    /// Why what waits for this service may not begin yet. Nothing: it may.
    pub(crate) fn unmet(&self, service: &ServiceName, condition: DependencyCondition) -> Option<String> {
        let Some(one) = self.services.get(service).filter(|one| !one.members.is_empty()) else {
            return Some(format!("waits for {service}, of which no member of the cluster has one"));
        };
        if one.met.contains(&condition) {
            return None;
        }
        let until = match condition {
            DependencyCondition::Started => "runs",
            DependencyCondition::Healthy => "is healthy",
            DependencyCondition::Completed => "has completed",
        };
        Some(format!("waits until {service} {until} on {}", members(one.members.keys())))
    }
}

impl PeerService {
    fn parse(wire: &pb::PeerService) -> Result<Self, String> {
        let mut members = BTreeMap::new();
        for one in &wire.members {
            let node = NodeName::parse(&one.node).map_err(|error| error.to_string())?;
            let address = match one.address.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| format!("`{text}` is not an IP address"))?),
            };
            members.insert(node, address);
        }
        let met = wire.met().map(|condition| match condition {
            Condition::Unspecified | Condition::Started => DependencyCondition::Started,
            Condition::Healthy => DependencyCondition::Healthy,
            Condition::Completed => DependencyCondition::Completed,
        });
        Ok(Self { members, met: met.collect(), aliases: Vec::new() })
    }
}

/// `member n2`, `members n2 and n3`, `members n2, n3 and 4 more`.
fn members<'a>(mut names: impl ExactSizeIterator<Item = &'a NodeName>) -> String {
    let count = names.len();
    match (count, names.next(), names.next()) {
        (_, None, _) => "no member".to_owned(),
        (_, Some(one), None) => format!("member {one}"),
        (2, Some(one), Some(two)) => format!("members {one} and {two}"),
        (_, Some(one), Some(two)) => format!("members {one}, {two} and {} more", count - 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(members: &[(&str, &str)], met: &[Condition]) -> pb::Peers {
        let member = |(node, address): &(&str, &str)| pb::Peer {
            node: (*node).to_owned(),
            address: (*address).to_owned(),
        };
        let service = pb::PeerService {
            service: "db".to_owned(),
            members: members.iter().map(member).collect(),
            met: met.iter().map(|one| i32::from(*one)).collect(),
        };
        pb::Peers { app: "shop".to_owned(), revision: String::new(), services: vec![service] }
    }

    #[test]
    fn what_waits_is_told_for_whom_and_where() {
        let db = ServiceName::parse("db").unwrap();
        let unmet = |members: &[(&str, &str)], met: &[Condition]| {
            let (_, peers) = Peers::parse(&wire(members, met)).unwrap();
            peers.unmet(&db, DependencyCondition::Healthy)
        };
        assert_eq!(unmet(&[("n2", "")], &[Condition::Healthy]), None);
        let why = |members: &[(&str, &str)]| unmet(members, &[Condition::Started]).unwrap();
        assert_eq!(why(&[]), "waits for db, of which no member of the cluster has one");
        assert_eq!(why(&[("n2", "")]), "waits until db is healthy on member n2");
        assert_eq!(why(&[("n2", ""), ("n3", "")]), "waits until db is healthy on members n2 and n3");
        let many = [("n2", ""), ("n3", ""), ("n4", "")];
        assert_eq!(why(&many), "waits until db is healthy on members n2, n3 and 1 more");
        let web = ServiceName::parse("web").unwrap();
        assert!(Peers::default().unmet(&web, DependencyCondition::Started).is_some());
    }

    #[test]
    fn a_service_has_its_names_at_each_address_that_is_known() {
        let (app, peers) =
            Peers::parse(&wire(&[("n2", "192.0.2.2"), ("n3", ""), ("n4", "2001:db8::4")], &[])).unwrap();
        assert_eq!(app.as_str(), "shop");
        let lines: Vec<String> =
            peers.lines().map(|(address, names)| format!("{address} {}", names.join(" "))).collect();
        assert_eq!(lines, ["192.0.2.2 db", "2001:db8::4 db"]);
        assert!(Peers::parse(&wire(&[("n2", "here")], &[])).is_err());
    }
}
