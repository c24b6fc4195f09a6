//! A container's variables: from whole configs, from one entry of a config, from files of the machine, with those of its spec over them.

use std::collections::BTreeMap;
use std::fs;

use prost::Message as _;
use skerry_agent::desired::{Desired, InstanceSpec, join};
use skerry_agent::runtime::Runtime as _;
use skerry_manifest::{Project, Resource, parse};
use skerry_model::{ContentHash, ProjectName};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::scheduler::v1 as scheduler;
use skerry_testing::BUSYBOX_IMAGE;

use super::world::{IDLE, World, is_running};

const INSTANCE: &str = "environment/web/n1/0";

type Files<'a> = &'a [(&'a str, &'a [u8])];

/// What an agent is sent of a deployment with this `envFrom` and these configs.
fn sent(env_from: &str, configs: &[(&str, Files<'_>)]) -> Desired {
    let text = format!(
        "apiVersion: skerry/v1
kind: App
metadata: {{name: environment}}
spec:
  services:
    - name: web
      deployment: {{replicas: 1}}
      container:
        image: {BUSYBOX_IMAGE}
        command: [sh, -c, \"{IDLE}\"]
      envFrom: {env_from}
      env: {{OWN: own}}
      stop: {{gracePeriod: 5s}}
"
    );
    let project = Project::Default(ProjectName::parse("default").expect("a name"));
    let manifests =
        parse("web.yaml", text.as_bytes(), &project).unwrap_or_else(|error| panic!("{error}{text}"));
    let Resource::App(app) = &manifests[0].resource else { panic!("an app") };
    let revision = app.spec.clone().expect("a spec").encode_to_vec();
    let hash = ContentHash::of(&revision);
    let resource = |name: String, body| pb::Resource { name, body: Some(body), ..pb::Resource::default() };
    let mut resources = vec![resource(
        format!("revisions/environment/{hash}"),
        pb::resource::Body::Revision(revision.into()),
    )];
    let mut references = Vec::new();
    for (name, files) in configs {
        let binary_data = files.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.to_vec().into()));
        let content =
            scheduler::ConfigSpec { binary_data: binary_data.collect(), ..scheduler::ConfigSpec::default() };
        let content = content.encode_to_vec();
        let hash = ContentHash::of(&content).to_string();
        references.push(pb::ConfigReference { config: (*name).to_owned(), hash: hash.clone() });
        resources
            .push(resource(format!("configs/{name}/{hash}"), pb::resource::Body::Config(content.into())));
    }
    let instance = pb::Instance {
        instance: INSTANCE.to_owned(),
        revision: hash.to_string(),
        configs: references,
        ..Default::default()
    };
    resources.push(resource(format!("instances/{INSTANCE}"), pb::resource::Body::Instance(instance)));
    join(&resources, true).0
}

fn spec(env_from: &str, configs: &[(&str, Files<'_>)]) -> InstanceSpec {
    let desired = sent(env_from, configs);
    let spec = desired.instances.values().next();
    InstanceSpec::clone(spec.unwrap_or_else(|| panic!("blocked: {:?}", desired.blocked)))
}

/// Why nothing is run of it.
fn blocked(env_from: &str, configs: &[(&str, Files<'_>)]) -> (String, String) {
    let desired = sent(env_from, configs);
    assert!(desired.instances.is_empty(), "{:?}", desired.instances);
    let blocked = desired.blocked.values().next().expect("one is blocked");
    (blocked.reason.to_owned(), blocked.message.clone())
}

/// The variables that Docker was told of, less the image's own.
fn told(world: &World, spec: &InstanceSpec) -> BTreeMap<String, String> {
    let seen = world.inspect(spec);
    let all = seen["Config"]["Env"].as_array().cloned().unwrap_or_default();
    let pairs = all.iter().filter_map(|one| one.as_str()?.split_once('='));
    let pairs = pairs.filter(|(name, _)| *name != "PATH");
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_whole_config_and_one_entry_arrive_as_variables_and_changed_content_replaces() {
    let Some(world) = World::new("env-configs") else { return };
    let sources = "[{config: whole}, {config: mixed, key: web.env}]";
    let with = |first: &[u8]| {
        let whole: Files<'_> = &[("FROM", b"whole"), ("WHOLE", first), ("OWN", b"whole")];
        // Only the entry that is named is looked at: the other one would be no variable.
        let mixed: Files<'_> =
            &[("web.env", b"# a comment\nFROM=entry\nENTRY=\"two words\"\n"), ("not-one", &[0xff])];
        spec(sources, &[("whole", whole), ("mixed", mixed)])
    };
    let one = with(b"a = b");
    world.ensure(&one).await.expect("it runs");
    let expected = [("ENTRY", "two words"), ("FROM", "entry"), ("OWN", "own"), ("WHOLE", "a = b")];
    assert_eq!(told(&world, &one), variables(&expected), "a later source wins, and `env` over all");
    let seen = "test \"$FROM-$WHOLE-$ENTRY-$OWN\" = 'entry-a = b-two words-own'";
    assert_eq!(world.exec(&one, seen).await, 0, "what the program sees");
    let first = world.inspect(&one)["Id"].clone();
    world.ensure(&with(b"a = b")).await.expect("it runs on");
    assert_eq!(world.inspect(&one)["Id"], first, "the same content is the same container");

    let two = with(b"c");
    world.ensure(&two).await.expect("the changed one runs");
    assert_eq!((told(&world, &two)["WHOLE"].as_str(), world.containers().len()), ("c", 1));
    assert_ne!(world.inspect(&two)["Id"], first);
    let without = spec("[]", &[]);
    world.ensure(&without).await.expect("it runs without");
    assert_eq!(told(&world, &without), variables(&[("OWN", "own")]), "what was removed is gone");
    world.runtime.remove(&without.name).await.expect("it is removed");
}

#[tokio::test]
async fn a_file_of_the_machine_is_read_and_may_be_missing_only_where_that_is_said() {
    let Some(world) = World::new("env-files") else { return };
    let file = world.dir.path().join("machine.env");
    let path = file.display();
    let optional = spec(&format!("[{{file: {path}, optional: true}}]"), &[]);
    let needed = spec(&format!("[{{file: {path}}}]"), &[]);
    world.ensure(&optional).await.expect("it runs without the file");
    assert_eq!(told(&world, &optional), variables(&[("OWN", "own")]));
    // Told before the image is pulled, and again before the copy that runs is stopped for it.
    for tried in [world.runtime.prepare(&needed, &|_| ()).await, world.ensure(&needed).await] {
        let error = tried.expect_err("the file is missing");
        assert_eq!((error.reason, error.transient), ("InvalidEnvironment", true), "{error}");
        assert!(error.message.contains("machine.env"), "{error}");
    }
    let kept = world.observe(&optional).await;
    assert!(
        is_running(kept.as_ref()) && kept.unwrap().fingerprint == optional.fingerprint,
        "it was taken away"
    );
    // The file comes, and the next try takes it.
    fs::write(&file, "MACHINE='a b'\nOWN=file\n").expect("written");
    world.ensure(&needed).await.expect("the file is there");
    assert_eq!(told(&world, &needed), variables(&[("MACHINE", "a b"), ("OWN", "own")]));
    assert!(is_running(world.observe(&needed).await.as_ref()));
    world.runtime.remove(&needed.name).await.expect("it is removed");
    // One that does not read is no missing one.
    fs::write(&file, "no variable\n").expect("written");
    let error = world.ensure(&optional).await.expect_err("it does not read");
    assert!(error.reason == "InvalidEnvironment" && error.message.contains("line 1"), "{error}");
    assert_eq!(world.containers(), [""; 0], "nothing was made");
}

#[test]
fn a_config_that_did_not_come_or_holds_no_variables_is_told_and_nothing_is_run() {
    let whole = "[{config: whole}]";
    let (reason, message) = blocked(whole, &[]);
    assert!(reason == "ConfigMissing" && message.contains("`whole`"), "{reason}: {message}");
    let no_name: Files<'_> = &[("a.env", b"A=1\n")];
    let (reason, message) = blocked(whole, &[("whole", no_name)]);
    assert!(reason == "InvalidEnvironment" && message.contains("`a.env`"), "{reason}: {message}");
    let no_text: Files<'_> = &[("A", &[0xff])];
    let (reason, message) = blocked(whole, &[("whole", no_text)]);
    assert!(reason == "InvalidEnvironment" && message.contains("no text"), "{reason}: {message}");
    let (reason, message) = blocked("[{config: whole, key: web.env}]", &[("whole", no_name)]);
    assert!(reason == "InvalidEnvironment" && message.contains("`web.env`"), "{reason}: {message}");
}
