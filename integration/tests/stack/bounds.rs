//! Bounds: what is too much is refused by name, and the service goes on.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use skerry_integration::Stack;
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_proto::scheduler::v1::{App, UpdateAppRequest};
use skerry_proto::types::v1::{AppSpec, Metadata};
use skerry_testing::{Process, bin, free_port};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

async fn refusal(stack: &Stack, name: &str, spec: AppSpec) -> Result<Status> {
    let app = App {
        metadata: Some(Metadata { name: name.to_owned(), ..Default::default() }),
        spec: Some(spec),
        status: None,
    };
    let request = UpdateAppRequest { app: Some(app), allow_missing: true, ..Default::default() };
    stack.apps().await?.update_app(request).await.err().context("it was taken")
}

fn fields(status: &Status) -> Vec<String> {
    let request =
        status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    request.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn what_is_too_much_is_refused_by_field_and_the_service_goes_on() -> Result<()> {
    let stack = Stack::start().await?;
    let name = "projects/default/apps/big";

    let many = (0..65).map(|n| script(&format!("s{n}"), "sleep 1"));
    let status = refusal(&stack, name, app(many)).await?;
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["spec.services".to_owned()]));
    let info = status.get_details_error_info().context("an ErrorInfo")?;
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_FIELD", "skerry.dev"));

    let long = script("s", &"x".repeat(300 * 1024));
    let status = refusal(&stack, name, app([long])).await?;
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["spec".to_owned()]));

    let huge = script("s", &"x".repeat(5 * 1024 * 1024));
    let status = refusal(&stack, name, app([huge])).await?;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let info = status.get_details_error_info().context("an ErrorInfo")?;
    assert_eq!(info.metadata.get("bytes_max").map(String::as_str), Some("1048576"));

    let status = refusal(&stack, "projects/default/apps/Not-A-Name", app([script("s", "sleep 1")])).await?;
    assert_eq!(fields(&status), ["app.metadata.name"]);

    let mut job = script("s", "true");
    let none = skerry_proto::types::v1::Job { completions: Some(0), ..Default::default() };
    job.kind = Some(skerry_proto::types::v1::service_spec::Kind::Job(none));
    let status = refusal(&stack, name, app([job])).await?;
    assert_eq!(fields(&status), ["spec.services[0].job.completions"]);

    stack.apply("small", app([script("s", "sleep 1")])).await?;
    stack.finish(None).await
}

#[tokio::test]
async fn a_service_bears_as_many_connections_as_its_hard_limit_of_files_allows() -> Result<()> {
    let stack = Stack::start().await?;
    // By the soft limit alone there would be 48.
    let (soft, many) = (96, 200);
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -Sn {soft}; exec \"$@\""), "sh"]).arg(bin("skerry-registry"));
    command.args(["--insecure", "--listen", &address, "--etcd", &stack.etcd.endpoint()]);
    command.args(["--log", "info,skerry_daemon=debug"]);
    let mut registry = Process::spawn_command(&mut command, stack.dir().join("limited.log"))?;
    registry.wait_for_line("may have more files open", PATIENCE).await?;
    registry.wait_for_port(address.parse()?, PATIENCE).await?;
    let mut open = Vec::new();
    for _ in 0..many {
        let channel = skerry_rpc::connect(&address, None).await?;
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        let mut request = tonic::Request::new(tonic_health::pb::HealthCheckRequest::default());
        request.set_timeout(Duration::from_secs(10));
        health.check(request).await.context("asking for its health")?;
        open.push(channel);
    }
    registry.terminate(PATIENCE).await?;
    Ok(())
}
