//! Volumes go only when they were told to, once their app has left, and never somebody else's.

use std::collections::BTreeMap;

use skerry_agent::desired::InstanceSpec;
use skerry_agent::runtime::docker::{DockerRuntime, ImageGc};
use skerry_agent::runtime::{Needs, Runtime as _};
use skerry_model::VolumeName;
use skerry_model::app::{Mount, MountSource};

use super::world::{IDLE, World, runtime, shell, spec};

fn name(volume: &str) -> VolumeName {
    VolumeName::parse(volume).expect("a name")
}

/// An instance that mounts these volumes, each with what is said of its end.
fn mounting(volumes: &[(&str, bool)]) -> InstanceSpec {
    let mut container = shell(IDLE);
    for (volume, remove_with_app) in volumes {
        let source = MountSource::Volume { name: name(volume), remove_with_app: *remove_with_app };
        container.mounts.push(Mount { target: format!("/{volume}"), source, read_only: false });
    }
    spec("web", container, |_| ())
}

/// What is needed while `spec` is wanted.
fn needs(spec: &InstanceSpec, volumes: &[(&str, bool)]) -> Needs {
    let app = &spec.name.app;
    let volumes = volumes.iter().map(|(volume, remove)| ((app.clone(), name(volume)), *remove));
    Needs { apps: [app.clone()].into(), volumes: volumes.collect(), ..Needs::default() }
}

fn left(world: &World) -> Vec<String> {
    let label = |volume: serde_json::Value| volume["Labels"]["skerry.io/volume"].as_str().map(str::to_owned);
    let mut left: Vec<String> = world.listed("volumes").into_iter().filter_map(label).collect();
    left.sort();
    left
}

fn keeping(world: &World) -> DockerRuntime {
    runtime(&world.docker, &world.owner, &world.dir).with_upkeep(world.dir.path(), ImageGc::default())
}

#[tokio::test]
async fn a_volume_goes_with_its_app_only_where_it_was_told_to() {
    let Some(world) = World::new("volumes") else { return };
    let said = [("cache", true), ("db", false), ("moved", true), ("spared", true)];
    let web = mounting(&said);
    let agent = keeping(&world);
    agent.ensure(&web, &|_| ()).await.expect("it runs");
    // Labelled as ours by other hands: another name.
    let labels = BTreeMap::from([
        ("skerry.io/managed-by", world.owner.as_str()),
        ("skerry.io/app", "app"),
        ("skerry.io/volume", "foreign"),
        ("skerry.io/remove-with-app", "true"),
    ]);
    let foreign = format!("foreign-{}", std::process::id());
    world.post_json("/volumes/create", &serde_json::json!({"Name": foreign, "Labels": labels}));

    assert_eq!(agent.collect(&needs(&web, &said)).await.unwrap(), [], "its app is here");
    // What is said later counts, though Docker's labels never change, and also for an agent that starts anew.
    let said = [("cache", true), ("db", true), ("moved", true), ("spared", false)];
    assert_eq!(agent.collect(&needs(&web, &said)).await.unwrap(), []);
    let said = [("cache", true), ("db", false), ("moved", true), ("spared", false)];
    assert_eq!(agent.collect(&needs(&web, &said)).await.unwrap(), []);
    let agent = keeping(&world);

    assert_eq!(agent.collect(&Needs::default()).await.unwrap(), [], "a container still uses them");
    assert_eq!(left(&world), ["cache", "db", "foreign", "moved", "spared"]);
    agent.remove(&web.name).await.expect("it is removed");
    let told = agent.collect(&Needs::default()).await.expect("room is freed");
    assert_eq!(left(&world), ["db", "foreign", "spared"]);
    assert_eq!(told.len(), 1);
    assert!(told[0].reason == "VolumesRemoved" && told[0].message.contains("`cache` of app"), "{told:?}");
    assert_eq!(agent.collect(&Needs::default()).await.unwrap(), [], "and no more");
}
