//! Over random fleets that change step by step.

use skerry_model::GpuBooking;

use super::*;

fn shapes() -> impl Strategy<Value = Vec<ServiceShape>> {
    let kind = prop_oneof![
        3 => (0_u32..4).prop_map(Shape::Copies),
        1 => Just(Shape::Everywhere),
        1 => (1_u32..4, 1_u32..3).prop_map(|(completions, parallelism)| Shape::Job(completions, parallelism)),
    ];
    let takes = (kind, proptest::option::of(8000_u16..8003), proptest::option::of(1_i64..60), any::<bool>());
    let one_of_four = || proptest::bool::weighted(0.25);
    let keeps =
        (one_of_four(), one_of_four(), proptest::option::weighted(0.25, prop_oneof!["amd64", "arm64"]));
    let ways = (any::<bool>(), any::<bool>(), -1_i32..2, one_of_four());
    let takes = (takes, proptest::option::weighted(0.4, gpus::shapes()));
    let shape = (takes, keeps, ways).prop_map(|(takes, keeps, ways)| {
        let ((kind, port, memory, config), gpu) = takes;
        let (on_ssd, bears, architecture) = keeps;
        let architecture = architecture.map(|name| if name == "arm64" { "arm64" } else { "amd64" });
        let (stays, packs, priority, needs_first) = ways;
        // What a job needs beside others of its own it cannot have with ports.
        let port = if matches!(kind, Shape::Job(..)) { None } else { port };
        ServiceShape {
            kind,
            port,
            memory,
            config,
            on_ssd,
            bears,
            architecture,
            stays,
            packs,
            priority,
            needs_first,
            gpu,
        }
    });
    proptest::collection::vec(shape, 1..4).prop_map(|mut shapes| {
        // Nobody waits for a service without copies.
        if matches!(shapes[0].kind, Shape::Copies(0)) {
            for shape in &mut shapes {
                shape.needs_first = false;
            }
        }
        shapes
    })
}

fn whole_apps() -> impl Strategy<Value = App> {
    let spec = (proptest::option::of(0_u8..2), shapes(), proptest::option::of(0_u8..2));
    (spec, proptest::bool::weighted(0.3)).prop_map(|((site, shapes, config), is_system)| {
        let app = app(site, &shapes, config);
        if is_system { system(&app) } else { app }
    })
}

/// Labels that choose for some of the apps.
fn choices() -> impl Strategy<Value = BTreeMap<String, String>> {
    let label = |n: u8| (format!("system.skerry.dev/{}", app_name(n)), String::new());
    proptest::collection::btree_set(0_u8..3, 0..3).prop_map(move |apps| apps.into_iter().map(label).collect())
}

/// Apps of which some clusters have another revision than the rest.
fn apps() -> impl Strategy<Value = App> {
    let elsewhere = proptest::collection::vec((any::<bool>(), 0_u8..3), 0..3);
    (whole_apps(), whole_apps(), elsewhere).prop_map(|(app, other, elsewhere)| {
        let other = other.base;
        let cluster = |(alone, n): (bool, u8)| {
            let name = if alone { ClusterName::from(node_name(n)) } else { cluster_name(n) };
            (name, other.revision)
        };
        let elsewhere = Arc::new(elsewhere.into_iter().map(cluster).collect());
        App { others: BTreeMap::from([(other.revision, other)]), elsewhere, ..app }
    })
}

fn nodes() -> impl Strategy<Value = Node> {
    let effect = prop_oneof![Just(TaintEffect::NoSchedule), Just(TaintEffect::NoExecute)];
    let taint = effect.prop_map(|effect| Taint { key: "k".to_owned(), value: String::new(), effect });
    let is = (0_u8..2, any::<bool>(), proptest::option::weighted(0.7, 0_u8..2));
    let takes = (
        proptest::bool::weighted(0.2),
        proptest::collection::vec(taint, 0..2),
        proptest::option::weighted(0.8, any::<bool>()),
        proptest::bool::weighted(0.25),
        proptest::option::of(20_u64..100),
    );
    (is, takes, choices(), gpus::machines()).prop_map(|(is, takes, choices, gpus)| {
        let ((site, ssd, joins), (cordoned, taints, arm, lost, memory)) = (is, takes);
        let mut node = node(site, cordoned, memory);
        node.labels.extend(choices);
        if ssd {
            node.labels.insert("disk".to_owned(), "ssd".to_owned());
        }
        let architecture = arm.map(|arm| if arm { "arm64" } else { "amd64" }.to_owned());
        Node { joins: joins.map(cluster_name), taints, architecture, lost, gpus, ..node }
    })
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Node(u8, Option<Node>),
    Cluster(u8, Option<Cluster>),
    App(u8, Option<App>),
    /// A node is out of reach, or found again; nothing else about it changes.
    Reach(u8),
    /// A GPU of a node is so now; nothing else about it changes.
    Gpu(u8, usize, Standing),
    /// Of a node's copies those that the bits choose are as planned now, or gone; the others run on as they did.
    Run(u8, u32),
    /// The store takes a node's plan as its assignment.
    Commit(u8),
    /// It takes all.
    CommitAll,
}

const NODES: u8 = 5;

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cluster = (0_u8..2, choices()).prop_map(|(site, mut labels)| {
        labels.insert("site".to_owned(), site.to_string());
        Cluster { labels }
    });
    let step = prop_oneof![
        3 => (0..NODES, proptest::option::weighted(0.9, nodes())).prop_map(|(n, node)| Step::Node(n, node)),
        2 => (0_u8..2, proptest::option::weighted(0.9, cluster)).prop_map(|(n, one)| Step::Cluster(n, one)),
        3 => (0_u8..3, proptest::option::weighted(0.8, apps())).prop_map(|(n, app)| Step::App(n, app)),
        3 => (0..NODES).prop_map(Step::Reach),
        3 => (0..NODES, 0_usize..3, gpus::standings()).prop_map(|(n, at, is)| Step::Gpu(n, at, is)),
        2 => (0..NODES, any::<u32>()).prop_map(|(n, bits)| Step::Run(n, bits)),
        4 => (0..NODES).prop_map(Step::Commit),
        2 => Just(Step::CommitAll),
    ];
    // Mostly of a fleet that is there.
    let fleet = proptest::option::weighted(0.8, proptest::collection::vec(nodes(), usize::from(NODES)));
    (fleet, proptest::collection::vec(step, 1..40)).prop_map(|(fleet, steps)| {
        let clusters = (0..2).map(|n| Step::Cluster(n, Some(Cluster::default())));
        let nodes = fleet.into_iter().flatten().zip(0..).map(|(node, n)| Step::Node(n, Some(node)));
        clusters.chain(nodes).chain(steps).collect()
    })
}

pub(super) fn run(steps: Vec<Step>, mut check: impl FnMut(&State, &Solution)) {
    let (mut state, mut solution) = (State::default(), Solution::new());
    for step in steps {
        for delta in deltas(step, &state, &solution) {
            let before = solution.clone();
            let changed = apply(&mut state, &mut solution, delta);
            check_changed(&before, &solution, &changed);
            check(&state, &solution);
        }
    }
}

fn deltas(step: Step, state: &State, solution: &Solution) -> Vec<Delta> {
    let commit = |name: NodeName| {
        let placed = state.plan_of(solution, &name).unwrap_or_default().to_vec();
        Delta::Previous(name, placed)
    };
    match step {
        Step::Node(n, node) => vec![Delta::Node(node_name(n), node)],
        Step::Cluster(n, cluster) => vec![Delta::Cluster(cluster_name(n), cluster)],
        Step::App(n, app) => vec![Delta::App(app_name(n), app)],
        Step::Reach(n) => {
            let name = node_name(n);
            let node = state.nodes.get(&name).map(|node| Node { lost: !node.lost, ..node.clone() });
            node.map(|node| Delta::Node(name, Some(node))).into_iter().collect()
        }
        Step::Gpu(n, at, standing) => {
            let name = node_name(n);
            let Some(mut node) = state.nodes.get(&name).cloned() else { return Vec::new() };
            if let Some(gpu) = node.gpus.values_mut().nth(at) {
                gpu.standing = standing;
            }
            vec![Delta::Node(name, Some(node))]
        }
        Step::Run(n, bits) => {
            let name = node_name(n);
            let Some(mut node) = state.nodes.get(&name).cloned() else { return Vec::new() };
            let planned = state.plan_of(solution, &name).unwrap_or_default();
            let runs = std::mem::take(&mut node.held_gpus);
            let planned: BTreeMap<&InstanceName, &Vec<GpuBooking>> =
                planned.iter().map(|placed| (&placed.instance, &placed.gpus)).collect();
            let names: BTreeSet<&InstanceName> = runs.keys().chain(planned.keys().copied()).collect();
            for (at, instance) in (0_u32..).zip(names) {
                let chosen = bits >> (at % 32) & 1 == 1;
                let has = if chosen { planned.get(instance).copied() } else { runs.get(instance) };
                let has = has.filter(|has| !has.is_empty());
                node.held_gpus.extend(has.map(|has| (instance.clone(), has.clone())));
            }
            vec![Delta::Node(name, Some(node))]
        }
        Step::Commit(n) => vec![commit(node_name(n))],
        // What was solved before the first of them: in the end all are as that says.
        Step::CommitAll => (0..NODES).map(|n| commit(node_name(n))).collect(),
    }
}

/// What is said to have changed has, and all that has.
fn check_changed(before: &Solution, after: &Solution, changed: &Changed) {
    let plans = |solution: &Solution| -> BTreeMap<NodeName, Vec<Placed>> {
        solution.values().flat_map(|plan| plan.nodes.clone()).collect()
    };
    let (old, new) = (plans(before), plans(after));
    for name in old.keys().chain(new.keys()) {
        assert_eq!(old.get(name) != new.get(name), changed.nodes.contains(name), "{name}");
    }
    let of = |solution: &Solution, app: &AppName| -> (Vec<(NodeName, Placed)>, Vec<Unplaced>) {
        let placed = plans(solution).into_iter().flat_map(|(node, placed)| {
            placed.into_iter().map(move |placed| (node.clone(), placed)).collect::<Vec<_>>()
        });
        let unplaced = solution.values().flat_map(|plan| plan.unplaced.clone());
        (
            placed.filter(|(_, placed)| placed.instance.app == *app).collect(),
            unplaced.filter(|one| one.instance.app == *app).collect(),
        )
    };
    for app in (0..3).map(app_name) {
        assert!(of(before, &app) == of(after, &app) || changed.apps.contains(&app), "{app}");
    }
}

/// The members of a cluster, by the words of its definition.
fn members(state: &State, cluster: &ClusterName) -> BTreeSet<NodeName> {
    let is_in = |(name, node): &(&NodeName, &Node)| match &node.joins {
        Some(joins) if state.clusters.contains_key(joins) => joins == cluster,
        _ => name.as_str() == cluster.as_str(),
    };
    state.nodes.iter().filter(is_in).map(|(name, _)| name.clone()).collect()
}

/// Whether an app goes to a member of a cluster, by the words of the field `system`.
fn goes_to(state: &State, cluster: &ClusterName, app: &AppName, node: &Node) -> bool {
    let spec = &state.apps[app].wanted(cluster).spec;
    let labels = state.clusters.get(cluster).map_or(&node.labels, |cluster| &cluster.labels);
    if !spec.system {
        return spec.selector.matches(labels);
    }
    let chosen = format!("system.skerry.dev/{app}");
    (!spec.selector.is_empty() && spec.selector.matches(labels))
        || [labels, &node.labels].iter().any(|labels| labels.contains_key(&chosen))
}

/// What a cluster shall have of an app.
fn services<'a>(state: &'a State, cluster: &ClusterName, app: &AppName) -> &'a [ServiceSpec] {
    let Some(wanted) = state.apps.get(app).map(|app| app.wanted(cluster)) else { return &[] };
    let goes = |member: &NodeName| goes_to(state, cluster, app, &state.nodes[member]);
    if members(state, cluster).iter().any(goes) { &wanted.spec.services } else { &[] }
}

/// A service that a cluster shall have.
#[derive(Clone, Copy)]
struct Case<'a> {
    state: &'a State,
    cluster: &'a ClusterName,
    app: &'a AppName,
    service: &'a ServiceSpec,
}

/// Whether a node drives a service out.
fn drives_out(Case { state, cluster, app, service }: Case<'_>, node: &Node) -> bool {
    let placing = &service.placing;
    let wrong = |found: &String| !placing.architectures.is_empty() && !placing.architectures.contains(found);
    !goes_to(state, cluster, app, node)
        || !placing.node_selector.matches(&node.labels)
        || node.architecture.as_ref().is_some_and(wrong)
        || (node.taints.iter().any(|taint| taint.effect == TaintEffect::NoExecute)
            && placing.tolerations.is_empty())
}

/// Whether a node keeps new instances of a service away, its room apart.
fn keeps_away(case: Case<'_>, node: &Node) -> bool {
    let placing = &case.service.placing;
    drives_out(case, node)
        || (!node.taints.is_empty() && placing.tolerations.is_empty())
        || (node.architecture.is_none() && !placing.architectures.is_empty())
        || node.cordoned
}

fn fails_over(service: &ServiceSpec) -> bool {
    matches!(service.kind, Kind::Deployment { .. }) && service.placing.failover == Failover::Always
}

pub(super) type Pairs<'a> = Vec<(&'a NodeName, &'a Placed)>;

fn placed_of<'a>(plan: &'a ClusterPlan, app: &AppName, service: &ServiceSpec) -> Pairs<'a> {
    let all = plan.nodes.iter().flat_map(|(node, placed)| placed.iter().map(move |placed| (node, placed)));
    all.filter(|(_, p)| p.instance.app == *app && p.instance.service == service.name).collect()
}

pub(super) fn was_on(state: &State, node: &NodeName, instance: &InstanceName) -> Option<Placed> {
    state.previous.get(node)?.iter().find(|placed| placed.instance == *instance).cloned()
}

/// Each service of each cluster, with what it is given there.
pub(super) fn each_service(
    state: &State,
    solution: &Solution,
    mut check: impl FnMut(&ClusterName, &ClusterPlan, &AppName, &ServiceSpec, Pairs<'_>),
) {
    for (cluster, plan) in solution {
        for app in state.apps.keys() {
            for service in services(state, cluster, app) {
                check(cluster, plan, app, service, placed_of(plan, app, service));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_incremental_answer_is_the_full_one(steps in steps()) {
        run(steps, |state, solution| assert_eq!(*solution, solve(state)));
    }

    #[test]
    fn solving_again_moves_nothing(steps in steps()) {
        run(steps, |state, solution| {
            let mut settled = state.clone();
            commit(&mut settled, solution);
            assert_eq!(*solution, solve(&settled));
        });
    }

    #[test]
    fn each_node_is_planned_in_its_cluster(steps in steps()) {
        run(steps, |state, solution| {
            let mut seen = BTreeSet::new();
            for (cluster, plan) in solution {
                assert_eq!(plan.nodes.keys().cloned().collect::<BTreeSet<_>>(), members(state, cluster));
                seen.extend(plan.nodes.keys().cloned());
                for placed in plan.nodes.values().flatten() {
                    assert_eq!(placed.instance.cluster, *cluster);
                }
            }
            assert_eq!(seen, state.nodes.keys().cloned().collect());
        });
    }

    #[test]
    fn what_is_wanted_is_placed_once_or_has_a_reason_and_nothing_else_is_placed(steps in steps()) {
        run(steps, |state, solution| {
            let mut known = BTreeSet::new();
            each_service(state, solution, |cluster, plan, app, service, placed| {
                let revision = state.apps[app].wanted(cluster).revision;
                let unplaced: Vec<&Unplaced> = plan.unplaced.iter()
                    .filter(|u| u.instance.app == *app && u.instance.service == service.name).collect();
                let mut open: Vec<&InstanceName> =
                    unplaced.iter().filter(|u| !u.kept).map(|u| &u.instance).collect();
                let names: BTreeSet<_> =
                    placed.iter().map(|(_, p)| &p.instance).chain(open.iter().copied()).collect();
                assert_eq!(names.len(), placed.len() + open.len(), "{app}: something is there twice");
                known.extend(names.iter().map(|name| (*name).clone()));
                for (_, one) in &placed {
                    let kept = unplaced.iter().any(|u| u.kept && u.instance == one.instance);
                    let met = one.revision == revision && one.configs.len() == service.config_names().len();
                    assert!(met || kept, "{} is not as wanted, without a reason", one.instance);
                }
                for one in unplaced.iter().filter(|u| u.kept) {
                    let on = one.node.as_ref().unwrap();
                    assert!(placed.iter().any(|(node, p)| *node == on && p.instance == one.instance));
                }
                let count = match &service.kind {
                    Kind::Deployment { replicas } => *replicas,
                    Kind::Job(job) => job.completions,
                    Kind::CronJob(cron) => cron.instances(),
                    Kind::DaemonSet => {
                        // Exactly one on each member that matches.
                        let mut on: Vec<&NodeName> = placed.iter().map(|(node, _)| *node).collect();
                        on.extend(unplaced.iter().filter(|u| !u.kept).map(|u| u.node.as_ref().unwrap()));
                        on.sort();
                        let matches = |(name, _): &(&NodeName, &Vec<Placed>)| {
                            let node = &state.nodes[*name];
                            let uncordoned = Node { cordoned: false, ..node.clone() };
                            let has = placed.iter().any(|(on, _)| on == name);
                            let case = Case { state, cluster, app, service };
                            if has { !drives_out(case, node) } else { !keeps_away(case, &uncordoned) }
                        };
                        let expected: Vec<&NodeName> =
                            plan.nodes.iter().filter(matches).map(|(name, _)| name).collect();
                        assert_eq!(on, expected, "{app} in {cluster}");
                        return;
                    }
                };
                open.extend(placed.iter().map(|(_, p)| &p.instance));
                let ordinals: BTreeSet<u32> = open.iter().map(|name| name.ordinal).collect();
                assert_eq!(ordinals, (0..count).collect(), "{app} in {cluster}");
            });
            let all = solution.values().flat_map(|plan| plan.nodes.values().flatten());
            for placed in all {
                assert!(known.contains(&placed.instance), "{} is not wanted", placed.instance);
            }
            for one in solution.values().flat_map(|plan| &plan.unplaced) {
                assert!(known.contains(&one.instance), "{} is not wanted", one.instance);
            }
        });
    }

    #[test]
    fn nothing_new_overbooks_a_node_or_a_port(steps in steps()) {
        run(steps, |state, solution| {
            for (name, placed) in solution.values().flat_map(|plan| &plan.nodes) {
                let held = state.previous.get(name).cloned().unwrap_or_default();
                let used: u64 = placed.iter().filter_map(|p| p.booked.memory_bytes).sum();
                let grows = placed.iter().any(|p| !held.contains(p) && p.booked.memory_bytes.is_some());
                if let (true, Some(capacity)) = (grows, state.nodes[name].memory_bytes) {
                    assert!(used <= capacity, "{name}: {used} of {capacity}");
                }
                let mut ports: Vec<u16> = placed.iter().flat_map(|p| &p.ports).map(|p| p.host_port).collect();
                let count = ports.len();
                ports.sort_unstable();
                ports.dedup();
                assert_eq!(ports.len(), count, "{name}");
            }
        });
    }

    #[test]
    fn choices_selectors_taints_and_architectures_are_kept_to(steps in steps()) {
        run(steps, |state, solution| each_service(state, solution, |cluster, _, app, service, placed| {
            let case = Case { state, cluster, app, service };
            for (name, placed) in placed {
                let node = &state.nodes[name];
                let is_bound = !fails_over(service) && service.kind != Kind::DaemonSet;
                assert!(!drives_out(case, node) || (node.lost && is_bound), "{} on {name}", placed.instance);
                if was_on(state, name, &placed.instance).is_none() {
                    assert!(!keeps_away(case, node), "{} comes to {name}", placed.instance);
                    let goes_anyway = service.kind == Kind::DaemonSet || service.is_job();
                    assert!(!node.lost || goes_anyway, "{} comes to {name}, which is lost", placed.instance);
                }
            }
        }));
    }

    #[test]
    fn all_of_a_job_is_on_one_member(steps in steps()) {
        run(steps, |state, solution| each_service(state, solution, |_, _, app, service, placed| {
            let on: BTreeSet<&NodeName> = placed.iter().map(|(name, _)| *name).collect();
            assert!(!service.is_job() || on.len() <= 1, "{app}: {on:?}");
        }));
    }

    #[test]
    fn what_may_stay_stays(steps in steps()) {
        run(steps, |state, solution| each_service(state, solution, |cluster, plan, app, service, placed| {
            let Kind::Deployment { replicas } = service.kind else { return };
            let wanted = state.apps[app].wanted(cluster);
            let case = Case { state, cluster, app, service };
            for ordinal in 0..replicas {
                let (app, service_name) = (app.clone(), service.name.clone());
                let name = InstanceName { app, service: service_name, cluster: cluster.clone(), ordinal };
                let holders: Vec<(&NodeName, Placed)> = plan.nodes.keys()
                    .filter_map(|on| Some((on, was_on(state, on, &name)?))).collect();
                let [(holder, before)] = holders.as_slice() else { continue };
                let node = &state.nodes[*holder];
                let on = placed.iter().find(|(_, p)| p.instance == name).map(|(on, _)| *on);
                let is_met = before.revision == wanted.revision
                    && before.configs.iter().all(|(config, hash)| wanted.configs.get(config) == Some(hash));
                let stays = if fails_over(service) {
                    // Lost, it may go, and what cannot be changed there may go to where it can.
                    is_met && !node.lost && !drives_out(case, node) && !gpus::is_bad(node, before)
                } else {
                    node.lost || !drives_out(case, node)
                };
                assert!(!stays || on == Some(*holder), "{name} left {holder} for {on:?}");
            }
        }));
    }
}
