//! A support archive of a node that has secrets has none of their values.

use std::process::{Command, Stdio};

use skerry_testing::bin;

use super::*;

/// What no archive has.
const PLANTED: &str = "planted-in-a-secret-1234567890";

#[tokio::test]
async fn a_bundle_of_a_node_that_has_a_secret_has_no_value_of_it() -> Result<()> {
    let mut fixture = Fixture::start().await?;
    fixture.add_node("n1", NO_DOCKER).await?;
    fixture.set_password(PLANTED).await?;
    let service = ServiceSpec {
        secrets: vec![mount("", OnChange::Restart)],
        env_from: vec![variable("DB_PASSWORD")],
        ..script("web", "[ -n \"$DB_PASSWORD\" ] && exec sleep 1000000")
    };
    fixture.stack.apply("web", app([service])).await?;
    fixture.stack.wait_ready("web", 1).await;
    let file = fixture.stack.dir().join("n1.tar.gz");
    let mut command = Command::new(bin("skerry"));
    command
        .args(["bundle", "node/n1", "-o"])
        .arg(&file)
        .env("SKERRY_REGISTRY", format!("http://{}", fixture.stack.address("registry-0")))
        .env("SKERRY_SCHEDULER", format!("http://{}", fixture.stack.address("scheduler-0")))
        .env("SKERRY_RELAY", format!("http://{}", fixture.stack.address("relay-0")))
        .env("SKERRY_CONFIG", "/dev/null")
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let all = Command::new("tar").arg("-xzOf").arg(&file).output()?;
    let text = String::from_utf8_lossy(&all.stdout);
    ensure!(all.status.success() && text.contains("hold web/web/n1/0 Runs"), "{text}");
    ensure!(!text.contains(PLANTED), "it has the secret");
    fixture.stack.delete_apps().await?;
    fixture.stack.finish(None).await
}
