//! Volumes go only when they were told to, once their app has left, and never somebody else's.

use std::collections::BTreeMap;

use skerry_agent::desired::InstanceSpec;
use skerry_agent::runtime::docker::{DockerRuntime, ImageGc};
use skerry_agent::runtime::{Needs, Runtime as _};
use skerry_model::VolumeName;
use skerry_model::app::{Container, Device, Isolation, Mount, MountSource};

use super::world::{IDLE, World, is_running, runtime, shell, spec};

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
    // However full the disk of this machine is: that is told too, and not what is looked for here.
    let images = ImageGc { high_percent: None, ..ImageGc::default() };
    runtime(&world.docker, &world.owner, &world.dir).with_upkeep(world.dir.path(), images)
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

#[tokio::test]
async fn what_was_said_last_of_a_volume_counts_though_nothing_was_collected_since() {
    let Some(world) = World::new("last-word") else { return };
    let said = [("db", true)];
    let web = mounting(&said);
    let agent = keeping(&world);
    agent.ensure(&web, &|_| ()).await.expect("it runs");
    assert_eq!(agent.collect(&needs(&web, &said)).await.unwrap(), []);
    agent.note(&needs(&web, &[("db", false), ("unmade", true)]).volumes).await.expect("it is noted");
    agent.remove(&web.name).await.expect("it is removed");
    // Also for an agent that starts anew.
    assert_eq!(keeping(&world).collect(&Needs::default()).await.unwrap(), []);
    assert_eq!(left(&world), ["db"]);
}

/// An image that asks for a volume at `/db`. Dropping it removes it.
struct Asking<'a> {
    world: &'a World,
    image: String,
}

impl<'a> Asking<'a> {
    fn new(world: &'a World, name: &str) -> Self {
        let image = format!("skerry-test/{name}:{}", std::process::id());
        let root = skerry_testing::busybox_root().expect("busybox is installed").finish();
        world.docker.import(&image, &root, &["ENV PATH=/bin", "VOLUME /db"]).expect("the image is made");
        Self { world, image }
    }

    fn volume(&self, of: &InstanceSpec) -> String {
        let seen = self.world.inspect(of);
        let mounts = seen["Mounts"].as_array().cloned().unwrap_or_default();
        let at_db = mounts.iter().find(|mount| mount["Destination"] == "/db").expect("it has one");
        at_db["Name"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let label = self.world.label();
        self.world.docker.remove_labelled(&label).expect("containers are removed");
        self.world.docker.request("DELETE", &format!("/images/{}", self.image), &[]).expect("Docker answers");
    }
}

#[tokio::test]
async fn what_a_container_wrote_outlives_a_start_that_fails() {
    let Some(world) = World::new("unplugged") else { return };
    let asking = Asking::new(&world, "unplugged");
    let plugged = world.dir.path().join("usb");
    let plug = || std::os::unix::fs::symlink("/dev/null", &plugged).expect("it is plugged in");
    plug();
    let device =
        Device { path: plugged.display().to_string(), target: "/dev/usb".into(), permissions: "rw".into() };
    let container = Container {
        image: asking.image.clone(),
        isolation: Isolation { devices: vec![device], ..Isolation::default() },
        ..shell(IDLE)
    };
    let web = spec("web", container, |_| ());
    world.ensure(&web).await.expect("it runs");
    assert_eq!(world.exec(&web, "echo precious >/db/file").await, 0);
    let volume = asking.volume(&web);
    let name = world.runtime.container_name(&web.name);

    // As after a reboot without the device.
    world.post(&format!("/containers/{name}/kill"));
    std::fs::remove_file(&plugged).expect("it is unplugged");
    for _ in 0..2 {
        let error = world.ensure(&web).await.expect_err("it is not there");
        assert_eq!((error.reason, error.transient), ("StartFailed", true), "{error}");
    }
    plug();
    world.ensure(&web).await.expect("it is there again");
    assert_eq!(world.exec(&web, "test \"$(cat /db/file)\" = precious").await, 0);

    // The network of one that does not run went by other hands.
    world.post(&format!("/containers/{name}/kill"));
    let network = world.runtime.network_name(&web.name.app, None);
    let gone = world.docker.request("DELETE", &format!("/networks/{network}"), &[]).expect("Docker answers");
    assert_eq!(gone.status, 204, "{}", gone.text());
    world.ensure(&web).await.expect("it has another one");
    assert!(is_running(world.observe(&web).await.as_ref()));
    assert_eq!(world.exec(&web, "test \"$(cat /db/file)\" = precious").await, 0);
    assert_eq!(asking.volume(&web), volume);
    world.runtime.remove(&web.name).await.expect("it is removed");
    world.docker.request("DELETE", &format!("/volumes/{volume}"), &[]).expect("Docker answers");
}
