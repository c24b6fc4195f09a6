//! One cluster's plan: what stays, what comes and where to, what cannot and why.
//!
//! What a member runs already has its place and comes first; then what is new, or has to move. Round it goes until nobody finds a place any more: one
//! that takes its place may free what another waits for. Each takes one at most, so that comes to an end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_model::app::{Dependency, Kind, ServiceSpec, Spread, start_order};
use skerry_model::{ClusterName, InstanceName, NodeName};

use crate::books::{Books, Placed};
use crate::index::Named;
use crate::reach::Reach;
use crate::reason::Reason;
use crate::state::Node;
use crate::want::Want;

/// What one cluster shall run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterPlan {
    /// What each member shall run, by instance name.
    pub nodes: BTreeMap<NodeName, Vec<Placed>>,
    /// What could not be placed as wanted, by instance name.
    pub unplaced: Vec<Unplaced>,
}

/// An instance that could not be placed as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaced {
    /// Which instance.
    pub instance: InstanceName,
    /// The member that it belongs on. Absent: any of several.
    pub node: Option<NodeName>,
    /// Why.
    pub reason: Reason,
    /// It runs on there in the revision that it had.
    pub kept: bool,
}

/// One member of a cluster, with what it is assigned now.
pub(crate) struct Member<'a> {
    pub(crate) name: &'a NodeName,
    pub(crate) node: &'a Node,
    pub(crate) previous: &'a [Placed],
}

/// Plans one cluster: its members and the apps, both by name. Of the apps those count that go there, none of which may be missing.
pub(crate) fn plan(
    cluster: &ClusterName,
    labels: &BTreeMap<String, String>,
    members: &[Member<'_>],
    apps: &[Named<'_>],
) -> ClusterPlan {
    let wants = wanted(cluster, labels, members, apps);
    let mut desk = Desk::new(cluster, members, &wants);
    let held = held(cluster, members, &wants);
    for (service, held) in held.into_iter().enumerate() {
        desk.open(service, held);
    }
    desk.settle_all();
    desk.into_plan()
}

/// The services that a cluster shall have.
fn wanted<'a>(
    cluster: &ClusterName,
    labels: &BTreeMap<String, String>,
    members: &[Member<'_>],
    apps: &[Named<'a>],
) -> Vec<Want<'a>> {
    let mut wants = Vec::new();
    let here = apps.iter().filter_map(|&(name, app)| {
        let app = app.wanted(cluster);
        let reach = Reach::of(name, &app.spec, labels, members.iter().map(|member| &member.node.labels))?;
        Some((name, app, reach))
    });
    for (name, app, reach) in here {
        let services = &app.spec.services;
        let first = wants.len();
        let ranks = ranks(services);
        for (index, service) in services.iter().enumerate() {
            let needed = |need: &Dependency| services.iter().position(|other| other.name == need.service);
            let needs = service.depends_on.iter().filter_map(needed).map(|at| first + at).collect();
            wants.push(Want { name, app, reach: reach.clone(), service, rank: ranks[index], needs });
        }
    }
    wants
}

/// Of each service its place in an order in which each comes after those that it depends on.
fn ranks(services: &[ServiceSpec]) -> Vec<usize> {
    let mut ranks: Vec<usize> = (0..services.len()).collect();
    if services.iter().any(|service| !service.depends_on.is_empty()) {
        for (rank, service) in start_order(services).unwrap_or_default().into_iter().enumerate() {
            ranks[service] = rank;
        }
    }
    ranks
}

/// An instance that a member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    ordinal: u32,
    /// The member.
    at: usize,
    /// Where in what that has.
    index: usize,
}

/// By service what members have of it.
fn held(cluster: &ClusterName, members: &[Member<'_>], wants: &[Want<'_>]) -> Vec<Vec<Held>> {
    let by_name: BTreeMap<_, usize> =
        wants.iter().enumerate().map(|(n, want)| ((want.name, &want.service.name), n)).collect();
    let mut held = vec![Vec::new(); wants.len()];
    for (at, member) in members.iter().enumerate() {
        for (index, placed) in member.previous.iter().enumerate() {
            let InstanceName { app, service, cluster: of, ordinal } = &placed.instance;
            if let Some(service) = by_name.get(&(app, service)).filter(|_| of == cluster) {
                held[*service].push(Held { ordinal: *ordinal, at, index });
            }
        }
    }
    held
}

/// An instance that has a place, or looks for one.
#[derive(Debug, Clone)]
struct Item {
    service: usize,
    instance: InstanceName,
    /// The member that it has its place on, or has to have it on.
    at: Option<usize>,
    /// Why it could not be placed when it was tried last.
    reason: Option<Reason>,
}

/// Where a plan is made.
struct Desk<'a> {
    cluster: &'a ClusterName,
    members: &'a [Member<'a>],
    wants: &'a [Want<'a>],
    books: Vec<Books<'a>>,
    /// Have their place, and may have to be changed there.
    held: Vec<Item>,
    /// Have their place on a member that is lost, and go elsewhere if somebody takes them.
    stranded: Vec<Item>,
    /// Have their place on a GPU that is sick, and leave it if there is another.
    sick: Vec<Item>,
    /// Have no place.
    fresh: Vec<Item>,
    /// Of each job, the member that it is on.
    homes: Vec<Option<usize>>,
    /// Why nobody takes another instance of a service, until something is placed.
    refused: BTreeMap<usize, Reason>,
}

impl<'a> Desk<'a> {
    fn new(cluster: &'a ClusterName, members: &'a [Member<'a>], wants: &'a [Want<'a>]) -> Self {
        Self {
            cluster,
            members,
            wants,
            books: members.iter().map(|member| Books::new(member.node, wants.len())).collect(),
            held: Vec::new(),
            stranded: Vec::new(),
            sick: Vec::new(),
            fresh: Vec::new(),
            homes: vec![None; wants.len()],
            refused: BTreeMap::new(),
        }
    }

    /// Notes which instances of a service there shall be, and which of them have their place already.
    fn open(&mut self, service: usize, mut held: Vec<Held>) {
        let want = &self.wants[service];
        held.retain(|one| self.keeps(service, one.at) && !self.gives_up(one));
        held.sort_unstable();
        match &want.service.kind {
            Kind::Deployment { replicas } => self.open_copies(service, &held, 0..*replicas),
            Kind::DaemonSet => self.open_everywhere(service, &held),
            Kind::Job(job) => self.open_job(service, held, job.instances()),
            Kind::CronJob(cron) => self.open_job(service, held, cron.instances()),
        }
    }

    /// Whether a member keeps what it has of a service. While it is lost, it keeps what may not run elsewhere meanwhile.
    fn keeps(&self, service: usize, at: usize) -> bool {
        let (want, node) = (&self.wants[service], self.members[at].node);
        let is_bound = !want.fails_over() && want.service.kind != Kind::DaemonSet;
        (node.lost && is_bound) || want.may_be_on(node).is_ok()
    }

    /// Whether a member is to be without what it has.
    fn gives_up(&self, one: &Held) -> bool {
        let member = &self.members[one.at];
        let leaving = &member.node.leaving;
        !leaving.is_empty() && leaving.contains(&member.previous[one.index].instance)
    }

    fn open_copies(&mut self, service: usize, held: &[Held], ordinals: impl Iterator<Item = u32>) {
        for ordinal in ordinals {
            // While it is moved, it may be assigned to two.
            let holders = held.iter().filter(|one| one.ordinal == ordinal);
            match holders.min_by_key(|one| (self.members[one.at].node.lost, one.at)) {
                Some(one) => self.keep(service, one),
                None => self.look_for(service, ordinal, None),
            }
        }
    }

    /// One on each member that it may be on. A member keeps its ordinal, and a new one gets the lowest that is free.
    fn open_everywhere(&mut self, service: usize, held: &[Held]) {
        let mut taken = BTreeSet::new();
        let mut without = Vec::new();
        for (at, member) in self.members.iter().enumerate() {
            match held.iter().find(|one| one.at == at && taken.insert(one.ordinal)) {
                Some(one) => self.keep(service, one),
                // A cordon is no reason not to belong there.
                None => match self.wants[service].may_come_to(member.node) {
                    Ok(()) | Err(Reason::NodeCordoned) => without.push(at),
                    Err(_) => {}
                },
            }
        }
        let mut free = (0..).filter(|ordinal| !taken.contains(ordinal));
        let ordinals: Vec<u32> = free.by_ref().take(without.len()).collect();
        for (at, ordinal) in without.into_iter().zip(ordinals) {
            self.look_for(service, ordinal, Some(at));
        }
    }

    /// All on one member: where most of them are.
    fn open_job(&mut self, service: usize, mut held: Vec<Held>, instances: u32) {
        held.retain(|one| one.ordinal < instances);
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for one in &held {
            *counts.entry(one.at).or_default() += 1;
        }
        let home = counts.into_iter().max_by_key(|(at, count)| (*count, Reverse(*at))).map(|(at, _)| at);
        self.homes[service] = home;
        held.retain(|one| Some(one.at) == home);
        self.open_copies(service, &held, 0..instances);
    }

    /// An instance has its place.
    fn keep(&mut self, service: usize, held: &Held) {
        let Held { at, index, .. } = *held;
        let placed = &self.members[at].previous[index];
        let item = Item { service, instance: placed.instance.clone(), at: Some(at), reason: None };
        self.books[at].insert(service, placed.clone());
        if self.wants[service].fails_over() && self.members[at].node.lost {
            self.stranded.push(item.clone());
        }
        let is_reached = !self.members[at].node.lost;
        if is_reached && self.wants[service].leaves_sick_gpus() && self.books[at].is_sick(&item.instance) {
            self.sick.push(item.clone());
        }
        self.held.push(item);
    }

    /// An instance has none, and may have it on that member only, or on any.
    fn look_for(&mut self, service: usize, ordinal: u32, at: Option<usize>) {
        let instance = self.wants[service].instance(self.cluster, ordinal);
        self.fresh.push(Item { service, instance, at, reason: None });
    }

    fn settle_all(&mut self) {
        self.held.sort_by(|a, b| a.instance.cmp(&b.instance));
        let wants = self.wants;
        let order = |a: &Item| {
            let want = &wants[a.service];
            (Reverse(want.service.placing.priority), a.instance.app.clone(), want.rank, a.instance.ordinal)
        };
        self.fresh.sort_by_cached_key(order);
        loop {
            while self.settle_held() {}
            // Before what is new: somebody had these.
            if !(self.move_some() || self.place_fresh()) {
                break;
            }
        }
    }

    /// Brings what has its place to the wanted revision there; answers whether any was.
    fn settle_held(&mut self) -> bool {
        let (before, wants) = (self.held.len(), self.wants);
        let books = &mut self.books;
        self.held.retain_mut(|item| {
            let Some(at) = item.at else { return false };
            item.reason = books[at].settle(item.service, &item.instance, &wants[item.service]).err();
            item.reason.is_some()
        });
        let any = self.held.len() < before;
        if any {
            self.refused.clear();
        }
        any
    }

    /// Gives what has its place on a sick GPU another one of its member; answers whether any was given one.
    fn heal_some(&mut self) -> bool {
        let (wants, books) = (self.wants, &mut self.books);
        let order =
            |item: &Item| (Reverse(wants[item.service].service.placing.priority), item.instance.clone());
        self.sick.sort_by_cached_key(order);
        let mut any = false;
        self.sick.retain(|item| {
            let Some(books) = item.at.map(|at| &mut books[at]) else { return false };
            // An update may have brought it elsewhere.
            if !books.is_sick(&item.instance) {
                return false;
            }
            let is_healed = books.heal(item.service, &item.instance, &wants[item.service]);
            any |= is_healed;
            !is_healed
        });
        any
    }

    /// Moves what has its place where it cannot stay as it shall be: on a member that is lost, or has no room for the wanted revision, or on a sick GPU. Answers
    /// whether any was.
    fn move_some(&mut self) -> bool {
        let wants = self.wants;
        let healed = self.heal_some();
        let cramped = |item: &&Item| wants[item.service].fails_over() && item.reason.is_some();
        let sick = self.sick.iter().filter(|item| wants[item.service].fails_over());
        let mut movers: Vec<Item> =
            self.stranded.iter().chain(self.held.iter().filter(cramped)).chain(sick).cloned().collect();
        movers.sort_by(|a, b| {
            let priority = |item: &Item| Reverse(wants[item.service].service.placing.priority);
            (priority(a), &a.instance).cmp(&(priority(b), &b.instance))
        });
        movers.dedup_by(|a, b| a.instance == b.instance);
        let mut any = healed;
        for item in movers {
            let Some(from) = item.at else { continue };
            let Some((to, placed)) = self.find(&item, Some(from)) else { continue };
            self.books[from].remove(item.service, &item.instance);
            self.books[to].insert(item.service, placed);
            self.stranded.retain(|one| one.instance != item.instance);
            self.sick.retain(|one| one.instance != item.instance);
            self.held.retain(|one| one.instance != item.instance);
            any = true;
        }
        if any {
            self.refused.clear();
        }
        any
    }

    /// Gives what is new its place; answers whether any got one.
    fn place_fresh(&mut self) -> bool {
        let before = self.fresh.len();
        let mut open = std::mem::take(&mut self.fresh);
        open.retain_mut(|item| {
            if let Some(reason) = self.refused.get(&item.service) {
                item.reason = Some(reason.clone());
                return true;
            }
            match self.place(item) {
                Ok((at, placed)) => {
                    self.books[at].insert(item.service, placed);
                    self.refused.clear();
                    false
                }
                Err(reason) => {
                    // Later copies of a Deployment need the same, and those of a job come after the one that could not.
                    if item.at.is_none() && self.homes[item.service].is_none() {
                        self.refused.insert(item.service, reason.clone());
                    }
                    item.reason = Some(reason);
                    true
                }
            }
        });
        self.fresh = open;
        self.fresh.len() < before
    }

    fn place(&mut self, item: &Item) -> Result<(usize, Placed), Reason> {
        let want = &self.wants[item.service];
        if let Some(reason) = want.lacks() {
            return Err(reason);
        }
        if let Some(at) = item.at {
            want.may_come_to(self.members[at].node)?;
            return Ok((at, self.books[at].fit(&item.instance, want)?));
        }
        if want.service.is_job() {
            if self.homes[item.service].is_none() {
                self.homes[item.service] = self.home_for(item);
            }
            if let Some(home) = self.homes[item.service] {
                let placed = want
                    .may_come_to(self.members[home].node)
                    .and_then(|()| self.books[home].fit(&item.instance, want));
                return placed.map(|placed| (home, placed)).map_err(|reason| self.refusal(home, reason));
            }
        }
        self.find(item, None).ok_or_else(|| self.refusals(item))
    }

    /// The first member other than `from` that takes an instance.
    fn find(&self, item: &Item, from: Option<usize>) -> Option<(usize, Placed)> {
        let want = &self.wants[item.service];
        let others = self.candidates(item.service).into_iter().filter(|at| Some(*at) != from);
        others.into_iter().find_map(|at| Some((at, self.books[at].fit(&item.instance, want).ok()?)))
    }

    /// The members that an instance of a service may come to, the best first.
    fn candidates(&self, service: usize) -> Vec<usize> {
        let want = &self.wants[service];
        let may = |at: &usize| self.refuses(service, *at).is_none();
        let mut candidates: Vec<usize> = (0..self.members.len()).filter(may).collect();
        candidates.sort_by_cached_key(|at| {
            let books = &self.books[*at];
            // What it depends on is waited for on its own node, and a member that never told anything may never have been there.
            let has_needs = want.needs.iter().all(|need| books.count(*need) > 0);
            let free = books.free(want.service.booked_by(0));
            let (share, instances) = (free.unwrap_or(0), books.len());
            let fill = match want.service.placing.spread {
                Spread::Spread => (books.count(service), u64::MAX - share, instances),
                Spread::Pack => (0, share, usize::MAX - instances),
            };
            (!has_needs, free.is_none(), books.gpu_fill(want), fill, *at)
        });
        candidates
    }

    /// Why a member does not take new instances of a service, whatever room it has.
    fn refuses(&self, service: usize, at: usize) -> Option<Reason> {
        let node = self.members[at].node;
        let lost = node.lost.then_some(Reason::NodeLost);
        self.wants[service].may_come_to(node).err().or(lost)
    }

    /// The member that all instances of a job without a place fit on, or else the first that any fits on.
    fn home_for(&self, first: &Item) -> Option<usize> {
        let want = &self.wants[first.service];
        let instances = match &want.service.kind {
            Kind::Job(job) => job.instances(),
            Kind::CronJob(cron) => cron.instances(),
            Kind::Deployment { .. } | Kind::DaemonSet => 0,
        };
        let mut any = None;
        for at in self.candidates(first.service) {
            let mut trial = self.books[at].clone();
            let mut fitting = 0;
            for ordinal in 0..instances {
                if let Ok(placed) = trial.fit(&want.instance(self.cluster, ordinal), want) {
                    trial.insert(first.service, placed);
                    fitting += 1;
                }
            }
            if fitting == instances {
                return Some(at);
            }
            if any.is_none() && self.books[at].fit(&first.instance, want).is_ok() {
                any = Some(at);
            }
        }
        any
    }

    /// Why none of the members takes an instance.
    fn refusals(&self, item: &Item) -> Reason {
        let want = &self.wants[item.service];
        let selector = &want.service.placing.node_selector;
        let matched = self.members.iter().any(|member| selector.matches(&member.node.labels));
        if !matched && self.members.len() > 1 {
            return Reason::NoMatchingMember { selector: selector.clone(), members: self.members.len() };
        }
        let of = |at: usize| {
            let refused = self.refuses(item.service, at);
            refused.or_else(|| self.books[at].fit(&item.instance, want).err()).unwrap_or(Reason::NodeLost)
        };
        if let [_] = self.members {
            return of(0);
        }
        let members = self.members.iter().enumerate().map(|(at, member)| (member.name.clone(), of(at)));
        Reason::NoMemberFits { members: Arc::new(members.collect()) }
    }

    /// Why a job's next instance cannot be where the others are.
    fn refusal(&self, home: usize, reason: Reason) -> Reason {
        if self.members.len() == 1 {
            return reason;
        }
        let node = self.members[home].name;
        let of =
            |at: usize| if at == home { reason.clone() } else { Reason::JobElsewhere { node: node.clone() } };
        let members = self.members.iter().enumerate().map(|(at, member)| (member.name.clone(), of(at)));
        Reason::NoMemberFits { members: Arc::new(members.collect()) }
    }

    fn into_plan(self) -> ClusterPlan {
        let Self { members, books, held, fresh, .. } = self;
        let alone = if let [member] = members { Some(member.name) } else { None };
        let kept = held.into_iter().map(|item| (item, true));
        let unplaced = kept.chain(fresh.into_iter().map(|item| (item, false))).filter_map(|(item, kept)| {
            let node = item.at.map(|at| members[at].name).or(alone).cloned();
            Some(Unplaced { instance: item.instance, node, reason: item.reason?, kept })
        });
        let mut unplaced: Vec<Unplaced> = unplaced.collect();
        unplaced.sort_by(|a, b| a.instance.cmp(&b.instance));
        let nodes =
            members.iter().zip(books).map(|(member, books)| (member.name.clone(), books.into_placed()));
        ClusterPlan { nodes: nodes.collect(), unplaced }
    }
}
