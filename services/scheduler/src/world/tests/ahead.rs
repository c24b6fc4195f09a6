//! Images that nodes fetch ahead: by rollouts, and by tasks.

use proptest::prelude::*;
use skerry_identity::hpke::{HpkeKeyPair, OpeningKey as _};
use skerry_model::{IMAGES_MAX, TaskRef, image_id};
use skerry_proto::store::v1::rollout_record::Phase;
use skerry_store::keys::{RolloutMoveName, SecretRevisionRef};

use super::peers::anew;
use super::*;

/// `web` and `db`, of which only `web` has another image in another version; both with credentials in a secret where that is said.
fn spec(version: u8, secret: bool) -> Vec<u8> {
    let service = |name: &str, image: String| {
        let image_credentials = if secret { "registry".to_owned() } else { String::new() };
        let container = types::Container { image, image_credentials, ..Default::default() };
        let env = [("VERSION".to_owned(), version.to_string())].into();
        types::ServiceSpec {
            name: name.to_owned(),
            kind: Some(types::service_spec::Kind::DaemonSet(types::DaemonSet {})),
            program: Some(types::service_spec::Program::Container(container)),
            env,
            ..Default::default()
        }
    };
    let services = vec![service("web", format!("web:{version}")), service("db", "db:1".to_owned())];
    WireSpec { services, ..WireSpec::default() }.encode_to_vec()
}

impl Told {
    /// With a key file, so that secrets open.
    fn with_keys() -> Self {
        Self { world: World::new(KEYS.with(SecretKeys::clone)), ..Self::new() }
    }

    fn revision(&mut self, version: u8, secret: bool) -> ContentHash {
        let spec = spec(version, secret);
        AppSpec::decode(&spec).unwrap();
        let hash = ContentHash::of(&spec);
        let record = stored::RevisionRecord { spec: spec.into(), number: 1, ..Default::default() };
        self.put(&RevisionRef { app: app(), hash }, &record);
        hash
    }

    /// A rollout from one version to another, in which these nodes, clusters of their own, have the new one.
    fn rollout(&mut self, from: u8, to: u8, secret: bool, phase: Phase, moved: &[usize]) {
        let (from, to) = (self.revision(from, secret), self.revision(to, secret));
        let record =
            stored::AppRecord { revision: to.to_string(), rollout_id: "id".to_owned(), ..Default::default() };
        self.put(&app(), &record);
        let clusters: Vec<String> = moved.iter().map(|n| node(*n).node.to_string()).collect();
        let last_move = u64::from(!clusters.is_empty());
        let base = if phase == Phase::Done { to } else { from };
        let rollout = stored::RolloutRecord {
            id: "id".to_owned(),
            from_revision: from.to_string(),
            to_revision: to.to_string(),
            base_revision: base.to_string(),
            phase: phase.into(),
            first_move: 1,
            last_move,
            start_time: Some(prost_types::Timestamp::default()),
            ..Default::default()
        };
        self.put(&app(), &rollout);
        let name = RolloutMoveName { app: app(), number: 1 };
        if last_move == 1 {
            let moved = stored::RolloutMoveRecord { revision: to.to_string(), clusters };
            self.put(&name, &moved);
        } else {
            self.remove::<stored::RolloutMoveRecord>(&name);
        }
    }

    /// A secret with so many versions behind it; none: it is not there.
    fn secret(&mut self, version: Option<u8>) {
        let secret = SecretRef::parse("projects/p/secrets/registry").unwrap();
        let Some(n) = version else { return self.remove::<stored::SecretRecord>(&secret) };
        let version = SecretVersion::from_bytes([n; 16]);
        let name = SecretRevisionRef { secret: secret.clone(), version };
        let sealed = self.world.keys.seal(&Key::of(&name), &types::SecretContent::default()).unwrap();
        self.put(&name, &stored::SecretRevisionRecord { sealed: sealed.into(), ..Default::default() });
        self.put(&secret, &stored::SecretRecord { version: version.to_string(), ..Default::default() });
    }

    /// A node that is a cluster of its own.
    fn alone(&mut self, n: usize, site: &str, key: bool) {
        let sealing_key = if key { KEY.with(Vec::clone) } else { Vec::new() };
        self.node(n, |record| {
            let meta = record.meta.as_mut().unwrap();
            meta.labels = [("site".to_owned(), site.to_owned())].into();
            meta.uid = format!("uid-{n}");
            record.sealing_key = sealing_key.into();
        });
    }

    fn ask(&mut self, task: u8, selector: &str, images: &[&str], secret: bool, round: u32) {
        let record = stored::PrefetchRecord {
            label_selector: selector.to_owned(),
            images: images.iter().map(ToString::to_string).collect(),
            secret: if secret { "registry".to_owned() } else { String::new() },
            round,
            ..Default::default()
        };
        self.put(&task_ref(task), &record);
    }

    /// The images that a node is assigned.
    fn ahead(&self, n: usize) -> Vec<String> {
        let mut images: Vec<String> =
            self.project().assigned_images(&node(n).node).iter().map(|one| one.image.clone()).collect();
        images.sort();
        images
    }
}

thread_local! {
    /// Read once: the file may go.
    static KEYS: SecretKeys = {
        let dir = tempfile::tempdir().unwrap();
        SecretKeys::load_or_make(&dir.path().join("key-ring")).unwrap()
    };
    static KEY: Vec<u8> = HpkeKeyPair::generate().unwrap().public_key().as_bytes().to_vec();
}

fn task_ref(n: u8) -> TaskRef {
    TaskRef::parse(&format!("projects/p/tasks/t{n}")).unwrap()
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_rollout_has_those_that_wait_for_their_turn_fetch_the_images_that_change() {
    let mut told = Told::new();
    for n in 1..=3 {
        told.alone(n, "oslo", false);
    }
    told.rollout(1, 1, false, Phase::Done, &[]);
    told.write();
    assert_eq!(told.ahead(1), NOTHING);
    told.rollout(1, 2, false, Phase::Progressing, &[1]);
    told.write();
    assert_eq!(
        (told.ahead(1), told.ahead(2), told.ahead(3)),
        (vec![], vec!["web:2".into()], vec!["web:2".into()])
    );
    told.rollout(1, 2, false, Phase::Paused, &[1, 2]);
    assert_eq!(told.world.unsettled(9).len(), 1, "no other assignment changes");
    told.write();
    assert_eq!((told.ahead(2), told.ahead(3)), (vec![], vec!["web:2".into()]));
    // It fails, and is gone back.
    told.rollout(1, 2, false, Phase::RollingBack, &[1, 2]);
    told.write();
    assert_eq!(told.ahead(3), NOTHING);
    told.remove::<stored::RolloutRecord>(&app());
    assert!(told.project().coming.is_empty());
}

#[test]
fn what_a_task_asks_for_is_assigned_where_its_selector_says_as_long_as_it_is_there() {
    let mut told = Told::with_keys();
    told.alone(1, "oslo", true);
    told.alone(2, "bergen", true);
    told.alone(3, "oslo", false);
    told.ask(1, "site=oslo", &["a:1", "b:1"], false, 1);
    told.write();
    assert_eq!((told.ahead(1), told.ahead(2)), (vec!["a:1".into(), "b:1".into()], vec![]));
    // Asked for again it is another round; by two tasks it is once.
    told.ask(1, "site=oslo", &["a:1"], false, 2);
    told.ask(2, "", &["a:1"], false, 1);
    told.write();
    let assigned = told.project().assigned_images(&node(1).node).to_vec();
    assert_eq!(assigned.iter().map(|one| (one.image.as_str(), one.round)).collect::<Vec<_>>(), [("a:1", 2)]);
    assert_eq!(told.ahead(2), ["a:1"]);
    told.remove::<stored::PrefetchRecord>(&task_ref(1));
    told.remove::<stored::PrefetchRecord>(&task_ref(2));
    told.write();
    assert_eq!(told.ahead(1), NOTHING);

    // With credentials: where they can be sealed, and with the present ones.
    told.ask(1, "", &["a:1"], true, 1);
    told.write();
    assert_eq!(told.ahead(1), NOTHING, "the secret is not there");
    for version in [1, 2] {
        told.secret(Some(version));
        let open = told.world.unsettled(9);
        assert_eq!(open.iter().map(|one| one.node.node.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
        let used = writes::secrets(&[], &open[0].images);
        let (name, one) = used.first().unwrap();
        assert_eq!((name.as_str(), one.version), ("registry", SecretVersion::from_bytes([version; 16])));
        told.write();
        assert!(told.project().has_secret_on(&node(1).node, name, &one.version));
        assert!(!told.project().has_secret_on(&node(3).node, name, &one.version), "it has no key");
    }
}

#[test]
fn a_node_fetches_no_more_ahead_than_it_may_and_what_a_rollout_brings_first() {
    let mut told = Told::new();
    told.alone(1, "oslo", false);
    told.rollout(1, 2, false, Phase::Progressing, &[]);
    let many: Vec<String> = (0..2 * IMAGES_MAX).map(|n| format!("a:{n}")).collect();
    told.ask(1, "", &many.iter().map(String::as_str).collect::<Vec<_>>(), false, 1);
    told.write();
    let ahead = told.ahead(1);
    assert!(ahead.len() == IMAGES_MAX && ahead.contains(&"web:2".to_owned()), "{ahead:?}");
    let long: Vec<String> = (0..IMAGES_MAX).map(|n| format!("{n}{}", "x".repeat(3000))).collect();
    for task in 1..4 {
        told.ask(task, "", &long.iter().map(String::as_str).collect::<Vec<_>>(), false, task.into());
    }
    told.write();
    let record = &told.project().nodes[&node(1).node].assignment.as_ref().unwrap().0;
    assert!(record.encoded_len() < 64 * 1024 && record.images.len() > 9, "{}", record.images.len());
}

#[derive(Debug, Clone)]
enum Op {
    Node { n: usize, oslo: bool, key: bool },
    Gone { n: usize },
    Rollout { from: u8, to: u8, secret: bool, phase: Phase, moved: Vec<usize> },
    NoApp,
    Secret { version: Option<u8> },
    Ask { task: u8, oslo: bool, image: u8, secret: bool, round: u32 },
    Over { task: u8 },
    Write,
}

fn op() -> impl Strategy<Value = Op> {
    let phase = prop_oneof![
        4 => Just(Phase::Progressing),
        2 => Just(Phase::Paused),
        1 => Just(Phase::RollingBack),
        1 => Just(Phase::Done)
    ];
    let rollout = (1..4_u8, 1..4_u8, any::<bool>(), phase, proptest::collection::vec(1..=3_usize, 0..3));
    prop_oneof![
        3 => (1..=3_usize, any::<bool>(), any::<bool>()).prop_map(|(n, oslo, key)| Op::Node { n, oslo, key }),
        1 => (1..=3_usize).prop_map(|n| Op::Gone { n }),
        4 => rollout.prop_map(|(from, to, secret, phase, moved)| Op::Rollout { from, to, secret, phase, moved }),
        1 => Just(Op::NoApp),
        2 => proptest::option::of(1..3_u8).prop_map(|version| Op::Secret { version }),
        3 => (1..3_u8, any::<bool>(), 1..4_u8, any::<bool>(), 1..3_u32)
            .prop_map(|(task, oslo, image, secret, round)| Op::Ask { task, oslo, image, secret, round }),
        1 => (1..3_u8).prop_map(|task| Op::Over { task }),
        4 => Just(Op::Write),
    ]
}

fn carry_out(told: &mut Told, op: &Op) {
    match op {
        Op::Node { n, oslo, key } => told.alone(*n, if *oslo { "oslo" } else { "bergen" }, *key),
        Op::Gone { n } => told.remove::<stored::NodeRecord>(&node(*n)),
        Op::Rollout { from, to, secret, phase, moved } => told.rollout(*from, *to, *secret, *phase, moved),
        Op::NoApp => told.remove::<stored::AppRecord>(&app()),
        Op::Secret { version } => told.secret(*version),
        Op::Ask { task, oslo, image, secret, round } => {
            let selector = if *oslo { "site=oslo" } else { "" };
            // Some are what rollouts bring too.
            let images = [format!("web:{image}"), format!("more:{image}")];
            told.ask(*task, selector, &images.each_ref().map(String::as_str), *secret, *round);
        }
        Op::Over { task } => told.remove::<stored::PrefetchRecord>(&task_ref(*task)),
        Op::Write => told.write(),
    }
}

/// What is to be assigned is known to be open, and nothing else is.
fn check_unsettled(told: &Told) {
    let project = told.project();
    for name in project.state.nodes.keys() {
        let record = project.nodes.get(name).and_then(|view| view.assignment.as_ref());
        let placed = project.plan_of(name).unwrap_or_default();
        let stored = project.state.previous.get(name).cloned().unwrap_or_default();
        let is_settled = record.is_some_and(|(record, _)| {
            placed == stored.as_slice() && record.images == project.images_of(name)
        });
        assert_eq!(is_settled, !project.unsettled.contains(name), "{name}");
    }
}

/// Each image is fetched for something, and where all is said of it that is needed all are.
fn check_exact(told: &Told) {
    let project = told.project();
    for name in project.state.nodes.keys() {
        let placed = project.plan_of(name).unwrap_or_default();
        let images = project.images_of(name);
        let labels = &project.state.nodes[name].labels;
        let runs =
            |image: &str| placed.iter().any(|one| project.image_of(one).is_some_and(|(has, _)| has == image));
        let asked = |image: &str| {
            let mut asked = project.asked.values().filter(|asked| asked.selector.matches(labels));
            asked.any(|asked| asked.images.iter().any(|one| one == image))
        };
        for one in &images {
            let secret = one.credentials.as_ref().map_or("", |one| one.secret.as_str());
            assert_eq!(one.id, image_id(&one.image, "", secret));
            let comes = || {
                let coming = project.coming.get(&app().app);
                coming.is_some_and(|coming| placed.iter().any(|placed| placed.revision != coming.to))
                    && !runs(&one.image)
            };
            assert!(asked(&one.image) || comes(), "{one:?}");
        }
        for asked in project.asked.values().filter(|one| one.secret.is_none() && one.selector.matches(labels))
        {
            for image in &asked.images {
                let found = images.iter().find(|one| one.image == *image && one.credentials.is_none());
                assert!(found.is_some_and(|one| one.round >= asked.round), "{image} {images:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn one_change_after_the_other_comes_to_what_all_at_once_does_and_written_once_is_settled(
        ops in proptest::collection::vec(op(), 1..30)
    ) {
        let mut told = Told::with_keys();
        for n in 1..=3 {
            told.alone(n, "oslo", true);
        }
        told.rollout(1, 1, false, Phase::Done, &[]);
        for op in &ops {
            carry_out(&mut told, op);
            check_unsettled(&told);
            check_exact(&told);
            let anew = anew(&told);
            let (project, anew) = (told.project(), anew.project(&app().project).unwrap());
            if project.solution == anew.solution {
                for name in project.state.nodes.keys() {
                    prop_assert_eq!(project.images_of(name), anew.images_of(name), "{}", name);
                }
            }
            prop_assert_eq!(&project.coming, &anew.coming);
            prop_assert_eq!(&project.asked, &anew.asked);
        }
        told.write();
        prop_assert!(told.world.unsettled(9).is_empty(), "written once is settled");
    }
}
