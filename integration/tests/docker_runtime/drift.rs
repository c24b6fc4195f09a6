//! What other hands do to a container of ours is put right; what is theirs is left alone.

use std::collections::BTreeMap;
use std::sync::Mutex;

use skerry_agent::runtime::{Progress, Runtime as _, Wanted};
use skerry_model::NetworkName;
use skerry_model::app::{Container, Network};
use skerry_testing::BUSYBOX_IMAGE;

use super::world::{IDLE, SOON, World, idle, is_running, shell, spec};

#[tokio::test]
async fn what_other_hands_changed_is_put_right_and_said_and_theirs_is_left_alone() {
    let Some(world) = World::new("drift") else { return };
    let back = NetworkName::parse("back").unwrap();
    let network = Network { further: BTreeMap::from([(back.clone(), vec![])]), ..Network::default() };
    let web = spec("web", Container { network, ..shell(IDLE) }, |_| ());
    let other = idle("other");
    world.ensure(&web).await.expect("it runs");
    world.ensure(&other).await.expect("the other runs");
    let name = world.runtime.container_name(&web.name);
    let before = world.inspect(&web);
    assert_eq!(world.observe(&web).await.unwrap().drift, None);
    // A stranger in the app's network, and a volume.
    let own = world.runtime.network_name(&web.name.app, None);
    let body = serde_json::json!({"Image": BUSYBOX_IMAGE, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": own}});
    let theirs = world.docker.create_container(&body).unwrap();
    world.post(&format!("/containers/{theirs}/start"));

    let told = Mutex::new(Vec::new());
    let sink =
        |progress: Progress| told.lock().unwrap().push(format!("{} {}", progress.reason, progress.message));
    world.post(&format!("/containers/{name}/pause"));
    assert_eq!(world.observe(&web).await.unwrap().drift, Some("Paused"));
    world.runtime.ensure(&web, &sink).await.expect("it goes on");
    world.post(&format!("/containers/{name}/rename?name={name}-mine"));
    assert_eq!(world.observe(&web).await.unwrap().drift, Some("Renamed"));
    world.runtime.ensure(&web, &sink).await.expect("it has its name");
    for network in [None, Some(&back)] {
        let network = world.runtime.network_name(&web.name.app, network);
        let body = serde_json::json!({"Container": name, "Force": true});
        world.post_json(&format!("/networks/{network}/disconnect"), &body);
        assert_eq!(world.observe(&web).await.unwrap().drift, Some("Disconnected"));
        world.runtime.ensure(&web, &sink).await.expect("it is connected");
    }
    assert_eq!(world.observe(&web).await.unwrap().drift, None);
    assert_eq!(world.exec(&other, "nslookup web").await, 0, "by its name again");
    let after = world.inspect(&web);
    assert_eq!(
        (&after["Id"], &after["State"]["StartedAt"], &after["State"]["Paused"]),
        (&before["Id"], &before["State"]["StartedAt"], &serde_json::json!(false)),
        "the same one, never stopped"
    );
    let told = told.into_inner().unwrap();
    let expected = ["paused", "renamed", "disconnected", "disconnected"];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, what) in told.iter().zip(expected) {
        assert!(told.starts_with("Repaired") && told.contains(what), "{told}");
    }

    for one in [&web, &other] {
        world.runtime.remove(&one.name).await.expect("it is removed");
    }
    world.runtime.sweep(&Wanted::default()).await.expect("swept");
    let still = world.docker.inspect(&theirs);
    world.docker.request("DELETE", &format!("/containers/{theirs}?force=1"), &[]).unwrap();
    assert_eq!(still.expect("the stranger is there")["State"]["Running"], true);
    assert_eq!(world.listed("networks").len(), 1, "the network that the stranger is in stays for now");
    world.runtime.sweep(&Wanted::default()).await.expect("swept");
    assert_eq!(world.listed("networks").len(), 0);
}

/// `docker commit` writes a container's labels into the image, and what runs of that image has them too.
#[tokio::test]
async fn a_container_of_an_image_that_was_made_of_ours_is_not_ours() {
    let Some(world) = World::new("committed") else { return };
    let web = idle("web");
    world.ensure(&web).await.expect("it runs");
    let name = world.runtime.container_name(&web.name);
    let image = format!("skerry-test-committed-{}", std::process::id());
    world.post_json(&format!("/commit?container={name}&repo={image}&tag=1"), &serde_json::json!({}));
    let body = serde_json::json!({"Image": format!("{image}:1"), "Cmd": ["sleep", "1000"]});
    let theirs = world.docker.create_container(&body).unwrap();
    world.post(&format!("/containers/{theirs}/start"));
    let labels = &world.docker.inspect(&theirs).unwrap()["Config"]["Labels"];
    assert_eq!(labels["skerry.io/instance"], web.name.to_string(), "it has our labels");

    let before = world.inspect(&web)["Id"].clone();
    assert_eq!(world.observe(&web).await.unwrap().runtime_id, before.as_str().unwrap());
    world.ensure(&web).await.expect("it still runs");
    assert_eq!(world.inspect(&web)["Id"], before, "the same one");
    // One of ours that somebody renamed is told from it.
    world.post(&format!("/containers/{name}/rename?name={name}-mine"));
    assert_eq!(world.observe(&web).await.unwrap().drift, Some("Renamed"));
    world.ensure(&web).await.expect("it has its name");
    world.runtime.remove(&web.name).await.expect("it is removed");
    assert!(world.observe(&web).await.is_none());
    let still = world.docker.inspect(&theirs);
    world.docker.request("DELETE", &format!("/containers/{theirs}?force=1"), &[]).unwrap();
    world.docker.request("DELETE", &format!("/images/{image}:1"), &[]).unwrap();
    assert_eq!(still.expect("it is there")["State"]["Running"], true);
}

/// Docker tells that a container died before its list shows it: one bell would be too early, and nothing else may happen on the machine.
#[tokio::test]
async fn the_end_of_a_lone_container_rings_until_it_is_seen() {
    let Some(world) = World::new("lone") else { return };
    let web = idle("web");
    world.ensure(&web).await.expect("it runs");
    world.runtime.changed().await;
    let name = world.runtime.container_name(&web.name);
    for _ in 0..5 {
        world.post(&format!("/containers/{name}/kill"));
        let seen = async {
            while is_running(world.observe(&web).await.as_ref()) {
                world.runtime.changed().await;
            }
        };
        tokio::time::timeout(SOON, seen).await.expect("its end is seen without another event");
        world.ensure(&web).await.expect("it runs again");
    }
}
