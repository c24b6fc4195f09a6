//! Images of a registry that asks for a password, with the credentials that `docker login` would have written.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skerry_agent::runtime::docker::{CredentialsFile, DockerRuntime};
use skerry_agent::runtime::{Progress, Runtime as _, RuntimeDirs};
use skerry_integration::Registry;
use skerry_integration::registry::{PASSWORD, USER};
use skerry_model::app::{Container, PullPolicy};

use super::world::{IDLE, World, is_running, shell, spec};

/// A file as `docker login` writes it.
pub(crate) fn login(registry: &Registry, password: &str) -> CredentialsFile {
    let auth = STANDARD.encode(format!("{USER}:{password}"));
    let file = serde_json::json!({"auths": {registry.host(): {"auth": auth}}});
    let path = registry.dir().join("config.json");
    std::fs::write(&path, file.to_string()).expect("it is done");
    CredentialsFile::Named(path)
}

fn runtime(world: &World, credentials: CredentialsFile) -> DockerRuntime {
    let dirs = RuntimeDirs {
        configs: world.dir.path().join("configs"),
        instances: world.dir.path().join("instances"),
        artifacts: world.dir.path().join("artifacts"),
    };
    DockerRuntime::at_socket(world.docker.socket(), &world.owner, &dirs).with_credentials(credentials)
}

#[tokio::test]
async fn an_image_is_pulled_with_the_nodes_own_credentials_and_refused_with_wrong_ones() {
    let Some(world) = World::new("registry") else { return };
    let registry = Registry::start().await.expect("a registry");
    let name = format!("team/web-{}", std::process::id());
    let digest = registry.push(&world.docker, &name, "1").expect("the image is pushed");
    let (by_tag, by_digest) =
        (format!("{}/{name}:1", registry.host()), format!("{}/{name}@{digest}", registry.host()));
    let using = |image: &str, pull_policy| {
        spec("web", Container { image: image.to_owned(), pull_policy, ..shell(IDLE) }, |_| ())
    };

    let wrong = runtime(&world, login(&registry, "guess"));
    for image in [&by_tag, &by_digest] {
        let error = wrong.ensure(&using(image, PullPolicy::IfNotPresent), &|_| ()).await.unwrap_err();
        assert_eq!((error.reason, error.transient), ("RegistryUnauthorized", false), "{error}");
        assert!(error.message.contains("config.json") && !error.message.contains("guess"), "{error}");
    }
    let nobody = runtime(&world, CredentialsFile::None);
    let error = nobody.ensure(&using(&by_tag, PullPolicy::Always), &|_| ()).await.unwrap_err();
    assert_eq!(error.reason, "RegistryUnauthorized", "{error}");
    assert!(error.message.contains("--docker-config"), "{error}");

    // The same file, mended: it is read anew.
    let right = login(&registry, PASSWORD);
    let told = Mutex::new(Vec::new());
    let sink = |progress: Progress| told.lock().unwrap().push(progress.reason);
    for image in [&by_tag, &by_digest] {
        let web = using(image, PullPolicy::IfNotPresent);
        wrong.ensure(&web, &sink).await.expect("it is pulled and runs");
        assert!(is_running(world.observe(&web).await.as_ref()), "{image}");
        wrong.remove(&web.name).await.expect("it is removed");
        world.docker.request("DELETE", &format!("/images/{image}"), &[]).unwrap();
    }
    assert_eq!(*told.lock().unwrap(), ["Pulling", "Pulled", "Pulling", "Pulled"]);

    let missing = format!("{}/{name}:nosuch", registry.host());
    let error =
        runtime(&world, right).ensure(&using(&missing, PullPolicy::Always), &|_| ()).await.unwrap_err();
    assert_eq!((error.reason, error.transient), ("ImagePullFailed", false), "{error}");
}
