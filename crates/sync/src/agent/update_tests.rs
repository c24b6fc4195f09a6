//! Tests of `update`: what is refused, and what stays when it is.

use bytes::Bytes;
use skerry_proto::store::v1 as store;
use skerry_proto::types::v1 as types;

use super::*;
use crate::desired::{content_resource, instance_resource, peers_resource};

fn revision(program: &str) -> pb::Resource {
    let service = types::ServiceSpec {
        name: "s".to_owned(),
        program: Some(types::service_spec::Program::Process(types::Process {
            program: program.to_owned(),
            ..types::Process::default()
        })),
        ..types::ServiceSpec::default()
    };
    let spec = types::AppSpec { services: vec![service], ..types::AppSpec::default() };
    let bytes = Bytes::from(spec.encode_to_vec());
    let name = format!("revisions/a/{}", ContentHash::of(&bytes));
    content_resource(&ResourceName::parse(&name).unwrap(), bytes, Vec::new()).unwrap()
}

fn instance(service: &str, revision: &pb::Resource) -> pb::Resource {
    instance_resource(&store::AssignedInstance {
        instance: format!("a/{service}/n/0"),
        revision: revision.version.clone(),
        ..Default::default()
    })
}

fn update(version: i64, resources: Vec<pb::Resource>, removed: Vec<String>) -> Assembly {
    let version = Some(Version::new(1, version).into());
    Assembly::begin(pb::Update { nonce: 1, version, resources, removed, more: false }).unwrap()
}

fn taken(base: &Base, update: Assembly) -> (Base, Vec<String>) {
    let (base, errors) = take(base, update, &BTreeSet::new());
    (base, errors.into_iter().map(|error| error.reason).collect())
}

fn names(base: &Base) -> Vec<&str> {
    base.desired.resources.keys().map(String::as_str).collect()
}

#[test]
fn an_instance_whose_new_revision_is_refused_keeps_its_old_one_until_it_needs_it_no_longer() {
    let (one, mut two, three) = (revision("/bin/1"), revision("/bin/2"), revision("/bin/3"));
    let (base, errors) =
        taken(&Base::new(Arc::default()), update(1, vec![one.clone(), instance("s", &one)], Vec::new()));
    assert!(errors.is_empty());

    two.requires = vec!["from-the-future".to_owned()];
    let second = update(2, vec![two.clone(), instance("s", &two)], vec![one.name.clone()]);
    let (base, errors) = taken(&base, second);
    assert_eq!(errors, [refusal::UNSUPPORTED_FEATURE, refusal::MISSING_REFERENCE]);
    assert_eq!(names(&base), ["instances/a/s/n/0", one.name.as_str()]);
    assert_eq!(base.desired.version, Some(Version::new(1, 2)));
    assert_eq!(base.desired.instances().next().unwrap().revision, one.version);

    let third = update(3, vec![three.clone(), instance("s", &three)], Vec::new());
    let (base, errors) = taken(&base, third);
    assert!(errors.is_empty());
    assert_eq!(names(&base), ["instances/a/s/n/0", three.name.as_str()]);
}

#[test]
fn one_bad_resource_does_not_hold_up_the_others() {
    let good = revision("/bin/1");
    let mut forged = revision("/bin/2");
    forged.body = good.body.clone();
    let mut garbage = content_resource(
        &ResourceName::parse(&format!("revisions/a/{}", ContentHash::of(b"\xff"))).unwrap(),
        Bytes::from_static(b"\xff"),
        Vec::new(),
    )
    .unwrap();
    garbage.version = ContentHash::of(b"\xff").to_string();
    let unknown = pb::Resource { name: "secrets/s/1".to_owned(), ..pb::Resource::default() };
    let stray = instance("other", &good);
    let resources = vec![forged, garbage, unknown, stray, good.clone(), instance("s", &good)];
    let (base, errors) = taken(&Base::new(Arc::default()), update(1, resources, Vec::new()));
    assert_eq!(
        errors,
        [refusal::HASH_MISMATCH, refusal::INVALID_SPEC, refusal::INVALID_RESOURCE, refusal::INVALID_RESOURCE]
    );
    assert_eq!(names(&base), ["instances/a/s/n/0", good.name.as_str()]);
}

#[test]
fn parts_of_two_updates_do_not_mix() {
    let begun = update(1, Vec::new(), Vec::new());
    let other = pb::Update { nonce: 2, version: Some(Version::new(1, 1).into()), ..pb::Update::default() };
    assert!(begun.clone().append(other).is_err());
    let other = pb::Update { nonce: 1, version: Some(Version::new(1, 2).into()), ..pb::Update::default() };
    assert!(begun.append(other).is_err());
}

#[test]
fn an_update_beyond_the_bounds_is_refused_as_a_whole() {
    let bytes = Bytes::from(vec![0; 1024 * 1024]);
    let large = pb::Resource { body: Some(Body::Config(bytes)), ..pb::Resource::default() };
    let part = |resources| pb::Update {
        nonce: 1,
        version: Some(Version::new(1, 1).into()),
        resources,
        ..pb::Update::default()
    };
    let mut assembly = Assembly::begin(part(Vec::new())).unwrap();
    for _ in 0..65 {
        assembly = assembly.append(part(vec![large.clone()])).unwrap();
    }
    assert!(assembly.fits(&Base::new(Arc::default())).is_err());

    let named = |n| pb::Resource { name: format!("configs/c/{n}"), ..pb::Resource::default() };
    let many = update(1, (0..=limits::RESOURCES_MAX).map(named).collect(), Vec::new());
    assert!(many.fits(&Base::new(Arc::default())).is_err());
}

#[test]
fn what_an_app_has_elsewhere_comes_and_goes_by_itself_and_only_to_who_can_use_it() {
    let peers = |address: &str| {
        let member = store::AssignedPeer { node: "n2".to_owned(), address: address.to_owned() };
        let service = store::AssignedPeerService {
            service: "db".to_owned(),
            members: vec![member],
            ..Default::default()
        };
        peers_resource(&store::AssignedPeers {
            app: "a".to_owned(),
            services: vec![service],
            ..Default::default()
        })
    };
    let features = BTreeSet::from([skerry_model::feature::PEERS.to_owned()]);
    let start = Base::new(Arc::default());
    let (old, errors) = take(&start, update(1, vec![peers("192.0.2.1")], Vec::new()), &BTreeSet::new());
    assert_eq!(errors[0].reason, refusal::UNSUPPORTED_FEATURE);
    assert!(names(&old).is_empty());

    let (base, errors) = take(&start, update(1, vec![peers("192.0.2.1")], Vec::new()), &features);
    assert!(errors.is_empty());
    let (moved, errors) = take(&base, update(2, vec![peers("192.0.2.2")], Vec::new()), &features);
    assert!(errors.is_empty());
    assert_ne!(base.desired.resources["peers/a"].version, moved.desired.resources["peers/a"].version);
    let wrong = pb::Resource { name: "peers/b".to_owned(), ..peers("192.0.2.3") };
    let (same, errors) = take(&moved, update(3, vec![wrong], Vec::new()), &features);
    assert_eq!(errors[0].reason, refusal::INVALID_RESOURCE);
    assert_eq!(names(&same), ["peers/a"]);
    let (none, _) = take(&same, update(4, Vec::new(), vec!["peers/a".to_owned()]), &features);
    assert!(names(&none).is_empty());
}
