//! Images that the agent pulled go when nothing uses them; those of other hands never do.

use std::time::Duration;

use skerry_agent::ahead::Image;
use skerry_agent::runtime::docker::{DockerRuntime, ImageGc};
use skerry_agent::runtime::{Needs, Runtime as _};
use skerry_integration::Registry;
use skerry_integration::registry::PASSWORD;
use skerry_model::app::{Container, PullPolicy};
use skerry_model::{AppName, VolumeName};

use super::registry::login;
use super::world::{IDLE, World, idle, is_running, runtime, shell, spec};

/// What is unused counts one second when that is first seen.
const AT_ONCE: ImageGc = ImageGc {
    age: Some(Duration::from_secs(1)),
    high_percent: None,
    low_percent: 0,
    pressure_age: Duration::from_secs(1),
};

struct Fixture {
    world: World,
    registry: Registry,
}

impl Fixture {
    async fn new(test: &str) -> Option<Self> {
        let world = World::new(test)?;
        Some(Self { world, registry: Registry::start().await.expect("a registry") })
    }

    /// An image of the registry that this machine has.
    fn present(&self, name: &str) -> String {
        let name = format!("{name}-{}", std::process::id());
        self.registry.push_own(&self.world.docker, &name).expect("the image is pushed");
        format!("{}/{name}:1", self.registry.host())
    }

    /// An image of the registry that this machine does not have.
    fn image(&self, name: &str) -> String {
        let image = self.present(name);
        self.untag(&image);
        image
    }

    fn agent(&self, gc: ImageGc) -> DockerRuntime {
        runtime(&self.world.docker, &self.world.owner, &self.world.dir)
            .with_credentials(login(&self.registry, PASSWORD))
            .with_upkeep(self.world.dir.path(), gc)
    }

    fn has(&self, image: &str) -> bool {
        self.world.docker.has_image(image).expect("Docker answers")
    }

    fn tag(&self, from: &str, image: &str) {
        let (repository, tag) = image.rsplit_once(':').expect("a tag");
        self.world.post(&format!("/images/{from}/tag?repo={repository}&tag={tag}"));
    }

    fn untag(&self, image: &str) {
        self.world.docker.request("DELETE", &format!("/images/{image}"), &[]).expect("Docker answers");
    }
}

fn running(image: &str) -> skerry_agent::desired::InstanceSpec {
    let container =
        Container { image: image.to_owned(), pull_policy: PullPolicy::IfNotPresent, ..shell(IDLE) };
    spec("web", container, |_| ())
}

fn needing(images: &[&str]) -> Needs {
    Needs { images: images.iter().map(ToString::to_string).collect(), ..Needs::default() }
}

#[tokio::test]
async fn an_image_goes_once_no_container_and_no_spec_uses_it() {
    let Some(fixture) = Fixture::new("images").await else { return };
    let (pulled, foreign) = (fixture.image("pulled"), fixture.present("foreign"));
    let agent = fixture.agent(AT_ONCE);
    for image in [&foreign, &pulled] {
        agent.ensure(&running(image), &|_| ()).await.expect("it runs");
    }
    let web = running(&pulled);
    assert_eq!(agent.collect(&Needs::default()).await.unwrap(), [], "a container uses it");
    agent.remove(&web.name).await.expect("it is removed");
    assert_eq!(
        agent.collect(&needing(&[&pulled])).await.unwrap(),
        [],
        "a spec names it, perhaps of a last good revision"
    );
    assert!(fixture.has(&pulled));
    // Not that one yet: the agent starts anew, and knows which it pulled.
    let patient = fixture.agent(ImageGc { age: Some(Duration::from_secs(3600)), ..AT_ONCE });
    assert_eq!(patient.collect(&Needs::default()).await.unwrap(), [], "it is not unused for long");
    let told = fixture.agent(AT_ONCE).collect(&Needs::default()).await.expect("room is freed");
    assert!(!fixture.has(&pulled) && fixture.has(&foreign));
    assert!(
        told.len() == 1 && told[0].reason == "ImagesRemoved" && told[0].message.contains(&pulled),
        "{told:?}"
    );
    assert_eq!(fixture.agent(AT_ONCE).collect(&Needs::default()).await.unwrap(), [], "and no more");
    fixture.untag(&foreign);
}

#[tokio::test]
async fn an_image_that_is_fetched_ahead_stays_as_long_as_it_is_wanted() {
    let Some(fixture) = Fixture::new("ahead").await else { return };
    let wanted = fixture.image("ahead");
    let image = |image: &str| Image { image: image.to_owned(), platform: None, credentials: None, round: 1 };
    let agent = fixture.agent(AT_ONCE);
    let told = std::sync::Mutex::new(Vec::new());
    let sink = |progress: skerry_agent::runtime::Progress| told.lock().unwrap().push(progress.reason);
    for _ in 0..2 {
        agent.fetch_image(&image(&wanted), &sink).await.expect("it is fetched");
        assert!(fixture.has(&wanted));
        assert_eq!(agent.collect(&needing(&[&wanted])).await.unwrap(), [], "it is wanted");
    }
    assert_eq!(*told.lock().unwrap(), ["Pulling", "Pulled"], "once");
    let missing = wanted.replace(":1", ":nosuch");
    let error = agent.fetch_image(&image(&missing), &sink).await.unwrap_err();
    assert!(!error.transient && error.message.contains(&missing), "{error}");
    // Nobody wants it any more.
    let told = agent.collect(&Needs::default()).await.expect("room is freed");
    assert!(!fixture.has(&wanted) && told.len() == 1 && told[0].message.contains(&wanted), "{told:?}");
}

#[tokio::test]
async fn a_nearly_full_disk_lets_unused_ones_go_before_their_time() {
    let Some(fixture) = Fixture::new("pressure").await else { return };
    let image = fixture.image("pressure");
    let never = ImageGc { age: None, ..AT_ONCE };
    let agent = fixture.agent(never);
    agent.prepare(&running(&image), &|_| ()).await.expect("it is pulled");
    assert_eq!(agent.collect(&Needs::default()).await.unwrap(), []);
    // No disk is used for less than nothing: there is pressure.
    let pressed = ImageGc { high_percent: Some(0), ..never };
    let agent = fixture.agent(pressed);
    let told = agent.collect(&needing(&[&image])).await.unwrap();
    assert!(fixture.has(&image), "a spec names it");
    assert!(told.len() == 1 && told[0].is_warning() && told[0].reason == "DiskNearlyFull", "{told:?}");
    let figures = told[0].message.contains(" GiB, and images go from 0 % on, but none can: all");
    assert!(figures && told[0].message.ends_with("in use, 1"), "{told:?}");
    for _ in 0..3 {
        assert_eq!(agent.collect(&needing(&[&image])).await.unwrap(), [], "it was told");
    }
    let told = agent.collect(&Needs::default()).await.unwrap();
    assert!(told.len() == 1 && told[0].reason == "ImagesRemoved" && !fixture.has(&image), "{told:?}");
    assert_eq!(agent.collect(&Needs::default()).await.unwrap(), [], "it was told before");
    // An agent that pulled nothing says so too, unless it is to leave images alone.
    let told = fixture.agent(pressed).collect(&Needs::default()).await.unwrap();
    assert!(
        told.len() == 1 && told[0].message.ends_with("nothing here was pulled by this agent"),
        "{told:?}"
    );
    assert_eq!(fixture.agent(never).collect(&Needs::default()).await.unwrap(), []);
}

#[tokio::test]
async fn what_other_hands_pulled_or_named_stays() {
    let Some(fixture) = Fixture::new("foreign-images").await else { return };
    let (named, present) = (fixture.image("named"), fixture.present("present"));
    let agent = fixture.agent(AT_ONCE);
    // Pulled by other hands before: pulling it again makes it nobody else's.
    let container = Container { pull_policy: PullPolicy::Always, image: present.clone(), ..shell(IDLE) };
    agent.prepare(&spec("web", container, |_| ()), &|_| ()).await.expect("it is pulled");
    agent.prepare(&running(&named), &|_| ()).await.expect("it is pulled");
    let mine = format!("mine-{}:1", std::process::id());
    fixture.tag(&named, &mine);
    agent.collect(&Needs::default()).await.expect("room is freed");
    assert!(fixture.has(&present), "it was there before");
    assert!(!fixture.has(&named), "the agent's own name goes");
    assert!(fixture.has(&mine), "and the other name stays");
    agent.collect(&Needs::default()).await.expect("room is freed");
    assert!(fixture.has(&mine));
    for image in [&present, &mine] {
        fixture.untag(image);
    }
}

#[tokio::test]
async fn an_image_that_goes_after_it_was_found_is_pulled_again() {
    let Some(fixture) = Fixture::new("gone-again").await else { return };
    let image = fixture.image("gone-again");
    let agent = fixture.agent(AT_ONCE);
    let web = running(&image);
    agent.prepare(&web, &|_| ()).await.expect("it is pulled");
    fixture.untag(&image);
    assert!(!fixture.has(&image));
    agent.ensure(&web, &|_| ()).await.expect("it is pulled again and runs");
    agent.remove(&web.name).await.expect("it is removed");
    fixture.untag(&image);
}

#[tokio::test]
async fn what_somebody_brought_after_a_pull_that_failed_stays() {
    let Some(fixture) = Fixture::new("brought").await else { return };
    let (image, held) = (fixture.present("brought"), format!("held-{}:1", std::process::id()));
    fixture.tag(&image, &held);
    fixture.untag(&image);
    let refused = runtime(&fixture.world.docker, &fixture.world.owner, &fixture.world.dir)
        .with_credentials(login(&fixture.registry, "guess"))
        .with_upkeep(fixture.world.dir.path(), AT_ONCE);
    let error = refused.prepare(&running(&image), &|_| ()).await.expect_err("it may not");
    assert_eq!(error.reason, "RegistryUnauthorized");
    // As `docker load` does.
    fixture.tag(&held, &image);
    refused.ensure(&running(&image), &|_| ()).await.expect("it runs");
    refused.remove(&running(&image).name).await.expect("it is removed");
    for _ in 0..2 {
        assert_eq!(refused.collect(&Needs::default()).await.unwrap(), []);
    }
    assert!(fixture.has(&image));
    for image in [&image, &held] {
        fixture.untag(image);
    }
}

#[tokio::test]
async fn images_go_also_where_nothing_can_be_kept_of_volumes() {
    let Some(fixture) = Fixture::new("no-words").await else { return };
    let image = fixture.image("no-words");
    let kept = tempfile::tempdir().expect("a directory");
    let agent = runtime(&fixture.world.docker, &fixture.world.owner, &fixture.world.dir)
        .with_credentials(login(&fixture.registry, PASSWORD))
        .with_upkeep(kept.path(), AT_ONCE);
    agent.prepare(&running(&image), &|_| ()).await.expect("it is pulled");
    // As good as a full disk.
    drop(kept);
    let volume = (AppName::parse("app").expect("a name"), VolumeName::parse("db").expect("a name"));
    let needs =
        Needs { apps: [volume.0.clone()].into(), volumes: [(volume, true)].into(), ..Needs::default() };
    let told = agent.collect(&needs).await.expect("what can go goes");
    assert!(told.len() == 1 && told[0].reason == "ImagesRemoved" && !fixture.has(&image), "{told:?}");
}

#[tokio::test]
async fn an_image_for_another_platform_is_no_image() {
    let Some(world) = World::new("platform") else { return };
    let web = idle("web");
    world.ensure(&web).await.expect("it runs");
    let on = |platform: &str| {
        let container =
            Container { platform: Some(platform.into()), pull_policy: PullPolicy::Never, ..shell(IDLE) };
        spec("web", container, |_| ())
    };
    let refused =
        world.ensure(&on("linux/s390x")).await.expect_err("the image is of this machine's platform");
    assert_eq!((refused.reason, refused.transient), ("ImageMissing", false));
    assert!(refused.message.contains("for linux/s390x"), "{}", refused.message);
    assert!(is_running(world.observe(&web).await.as_ref()), "what cannot run takes nothing away");
    world.ensure(&on("linux")).await.expect("this one fits");
}
