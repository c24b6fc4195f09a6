//! Secrets of containers, and the credentials of a registry.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};
use skerry_integration::Registry;
use skerry_integration::apps::{app, container};
use skerry_integration::containers::{Containers, unique};
use skerry_integration::registry::{PASSWORD, USER};
use skerry_integration::stack::PATIENCE;
use skerry_proto::scheduler::v1::SecretSpec;
use skerry_proto::types::v1::secret_mount::OnChange;
use skerry_proto::types::v1::{ImageCredentials, ServiceSpec, container::PullPolicy, service_spec};
use skerry_testing::{Docker, eventually};

use super::{FIRST, Fixture, SECOND, mount, variable};

/// A file as the container sees it, through its root on the machine.
fn inside(pid: u32, path: &str) -> Result<String> {
    let path = format!("/proc/{pid}/root{path}");
    std::fs::read_to_string(&path).with_context(|| path.clone())
}

#[tokio::test]
async fn a_container_has_its_secrets_as_files_and_variables_and_its_labels_do_not() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("sealed");
    let containers = Containers::of(&docker, &node);
    let mut fixture = Fixture::start().await?;
    let socket = format!("--docker-host=unix://{}", docker.socket().display());
    fixture.add_node(&node, &socket).await?;
    fixture.set_password(FIRST).await?;

    let replaced = ServiceSpec {
        secrets: vec![mount("/secrets/all", OnChange::Restart)],
        env_from: vec![variable("DB_PASSWORD")],
        ..container("replaced", "exec sleep 1000")
    };
    let mut updated = mount("/secrets/live", OnChange::Update);
    (updated.mode, updated.owner) = ("0400".into(), "1000:1001".into());
    let kept = ServiceSpec { secrets: vec![updated], ..container("kept", "exec sleep 1000") };
    fixture.stack.apply("replaced", app([replaced])).await?;
    fixture.stack.apply("kept", app([kept])).await?;
    fixture.stack.wait_ready("replaced", 1).await;
    fixture.stack.wait_ready("kept", 1).await;
    let running = |app: &str| containers.of_app(app)?.context("it does not run");
    let (old, unmoved) = (running("replaced")?, running("kept")?);
    assert_eq!(inside(old.pid, "/secrets/all/password")?, FIRST);
    assert_eq!(inside(unmoved.pid, "/secrets/live/password")?, FIRST);
    let owned = std::fs::metadata(format!("/proc/{}/root/secrets/live/password", unmoved.pid))?;
    assert_eq!((owned.uid(), owned.gid(), owned.permissions().mode() & 0o777), (1000, 1001, 0o400));
    let seen = docker.inspect(&old.id)?;
    assert!(
        seen["Config"]["Env"].to_string().contains(FIRST),
        "a variable is what Docker shows, as documented"
    );
    assert!(!seen["Config"]["Labels"].to_string().contains(FIRST));
    assert!(seen["Mounts"].to_string().contains("/secrets/all"));
    let environ = std::fs::read(format!("/proc/{}/environ", old.pid))?;
    assert!(super::contains(&environ, &format!("DB_PASSWORD={FIRST}")));

    fixture.set_password(SECOND).await?;
    eventually("the new value is in both", PATIENCE, async || {
        let (new, kept) = (running("replaced")?, running("kept")?);
        ensure!(new.id != old.id && kept.id == unmoved.id, "{new:?} {kept:?}");
        ensure!(inside(new.pid, "/secrets/all/password")? == SECOND, "the file of the new container");
        ensure!(inside(kept.pid, "/secrets/live/password")? == SECOND, "the file of the one that goes on");
        Ok(())
    })
    .await;
    fixture.stack.finish(None).await
}

#[tokio::test]
async fn an_image_of_a_registry_with_a_password_is_pulled_with_the_credentials_in_a_secret() -> Result<()> {
    let Some(docker) = Docker::required() else { return Ok(()) };
    docker.busybox()?;
    let node = unique("pulls");
    let _containers = Containers::of(&docker, &node);
    let registry = Registry::start().await?;
    let name = format!("team/secret-{}", std::process::id());
    registry.push(&docker, &name, "1")?;
    let mut fixture = Fixture::start().await?;
    let socket = format!("--docker-host=unix://{}", docker.socket().display());
    fixture.add_node(&node, &socket).await?;
    let credentials = |password: &str| SecretSpec {
        image_credentials: Some(ImageCredentials {
            registry: registry.host().to_owned(),
            username: USER.to_owned(),
            password: password.to_owned(),
        }),
        ..SecretSpec::default()
    };
    let shown = fixture.set("registry", credentials("wrong-password-of-nobody")).await?;
    assert_eq!(shown.status.unwrap_or_default().registry, registry.host());

    let mut service = container("web", "exec sleep 1000");
    if let Some(service_spec::Program::Container(container)) = &mut service.program {
        container.image = format!("{}/{name}:1", registry.host());
        container.pull_policy = PullPolicy::Always.into();
        container.image_credentials = "registry".into();
    }
    fixture.stack.apply("web", app([service])).await?;
    eventually("the wrong password is refused, and said to be the secret's", PATIENCE, async || {
        let told = fixture.instance("web").await?;
        ensure!(
            told.reason == "RegistryUnauthorized" && told.message.contains("secret `registry`"),
            "{told:?}"
        );
        ensure!(!told.message.contains("wrong-password"), "it is quoted");
        Ok(())
    })
    .await;
    fixture.set("registry", credentials(PASSWORD)).await?;
    fixture.stack.wait_ready("web", 1).await;
    fixture.stack.finish(None).await
}
