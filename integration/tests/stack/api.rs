//! The API as its clients meet it: etags, request ids, pages, watches, masks, revisions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::apps::{app, app_on, script};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_proto::registry::v1::{ListNodesRequest, Node, UpdateNodeRequest};
use skerry_proto::scheduler::v1::{
    App, ChangeType, CreateAppRequest, DeleteConfigRequest, ListAppsRequest, ListRevisionsRequest,
    UpdateAppRequest, WatchAppsRequest,
};
use skerry_proto::types::v1::{ConfigMount, Metadata};
use skerry_testing::eventually;
use tonic::Code;

fn sleeper(seconds: u32) -> skerry_proto::types::v1::AppSpec {
    app([script("s", &format!("sleep {seconds}"))])
}

fn named(name: &str, seconds: u32, etag: &str) -> App {
    let metadata = Metadata {
        name: format!("projects/default/apps/{name}"),
        etag: etag.to_owned(),
        ..Default::default()
    };
    App { metadata: Some(metadata), spec: Some(sleeper(seconds)), status: None }
}

fn etag(app: &App) -> String {
    app.metadata.clone().unwrap_or_default().etag
}

#[tokio::test]
async fn a_stale_etag_is_aborted_and_a_repeated_request_acts_once() -> Result<()> {
    let stack = Stack::start_with(StackConfig { schedulers: 2, ..Default::default() }).await?;
    let mut apps = stack.apps().await?;
    let create = CreateAppRequest {
        parent: "projects/default".into(),
        app: Some(App {
            metadata: Some(Metadata { name: "web".into(), ..Default::default() }),
            ..named("web", 1, "")
        }),
        request_id: "11111111-1111-4111-8111-111111111111".into(),
        validate_only: false,
    };
    let first = apps.create_app(create.clone()).await?.into_inner().app.context("an app")?;
    let again = apps.create_app(create.clone()).await?.into_inner().app.context("an app")?;
    assert_eq!(first.metadata, again.metadata, "a repeat answers as the first did");
    let other = CreateAppRequest { app: Some(named("other", 1, "")), ..create.clone() };
    assert_eq!(
        apps.create_app(other).await.unwrap_err().code(),
        Code::InvalidArgument,
        "the id belongs to another request"
    );
    let fresh = CreateAppRequest { request_id: String::new(), ..create };
    assert_eq!(apps.create_app(fresh).await.unwrap_err().code(), Code::AlreadyExists);

    let update = |seconds, etag: &str| UpdateAppRequest {
        app: Some(named("web", seconds, etag)),
        ..Default::default()
    };
    let second = apps.update_app(update(2, &etag(&first))).await?.into_inner().app.context("an app")?;
    assert_ne!(etag(&first), etag(&second));
    assert_eq!(apps.update_app(update(3, &etag(&first))).await.unwrap_err().code(), Code::Aborted);
    let missing = UpdateAppRequest { app: Some(named("none", 1, "")), ..Default::default() };
    assert_eq!(apps.update_app(missing).await.unwrap_err().code(), Code::NotFound);
    let validate = UpdateAppRequest { validate_only: true, ..update(9, "") };
    apps.update_app(validate).await?;
    assert_eq!(stack.app("web").await?.spec, second.spec, "validate_only changes nothing");

    let revisions = ListRevisionsRequest { parent: "projects/default/apps/web".into(), ..Default::default() };
    let revisions = apps.list_revisions(revisions).await?.into_inner().revisions;
    assert_eq!(revisions.iter().map(|revision| revision.number).collect::<Vec<_>>(), [2, 1]);
    stack.finish(None).await
}

#[tokio::test]
async fn pages_are_of_one_version_and_a_watch_continues_from_there() -> Result<()> {
    let stack = Stack::start().await?;
    for n in 0..7 {
        stack.apply(&format!("app{n}"), sleeper(n)).await?;
    }
    let mut apps = stack.apps().await?;
    let (mut names, mut token, mut version) = (Vec::new(), String::new(), String::new());
    loop {
        let request = ListAppsRequest {
            parent: "projects/default".into(),
            page_size: 3,
            page_token: token,
            label_selector: String::new(),
        };
        let page = apps.list_apps(request).await?.into_inner();
        ensure!(version.is_empty() || version == page.resource_version, "pages of different versions");
        version = page.resource_version;
        names.extend(page.apps.into_iter().map(|app| app.metadata.unwrap_or_default().name));
        if names.len() == 3 {
            stack.apply("app9", sleeper(9)).await?;
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, (0..7).map(|n| format!("projects/default/apps/app{n}")).collect::<Vec<_>>());

    let request = WatchAppsRequest {
        parent: "projects/default".into(),
        resource_version: version,
        ..Default::default()
    };
    let mut watch = apps.watch_apps(request).await?.into_inner();
    let first = tokio::time::timeout(PATIENCE, watch.message()).await??.context("a change")?;
    assert_eq!(first.r#type(), ChangeType::Added);
    assert_eq!(first.app.and_then(|app| app.metadata).unwrap_or_default().name, "projects/default/apps/app9");
    stack.delete_app("app3").await?;
    let deleted = tokio::time::timeout(PATIENCE, async {
        loop {
            let change = watch.message().await?.context("the stream ended")?;
            if change.r#type() == ChangeType::Deleted {
                return anyhow::Ok(change.app.and_then(|app| app.metadata).unwrap_or_default().name);
            }
        }
    });
    assert_eq!(deleted.await??, "projects/default/apps/app3");
    let old = WatchAppsRequest {
        parent: "projects/default".into(),
        resource_version: "0.0.1.0".into(),
        ..Default::default()
    };
    let mut stale = apps.watch_apps(old).await.map(tonic::Response::into_inner);
    let code = match &mut stale {
        Ok(stream) => stream.message().await.map(drop).unwrap_err().code(),
        Err(status) => status.code(),
    };
    assert_eq!(code, Code::OutOfRange);
    stack.finish(None).await
}

#[tokio::test]
async fn labels_decide_where_an_app_goes_and_what_cannot_run_says_why() -> Result<()> {
    let mut stack = Stack::start().await?;
    for node in ["n1", "n2"] {
        stack.add_agent(node, &[])?;
        stack.wait_connected(node).await;
    }
    stack.apply("web", app_on(("site", "oslo"), [script("s", "sleep 1000000")])).await?;
    let reason = |app: &App| {
        app.status
            .iter()
            .flat_map(|s| &s.conditions)
            .find(|c| c.r#type == "Available")
            .map(|c| c.reason.clone())
    };
    eventually("the reason is told", PATIENCE, async || {
        let reason = reason(&stack.app("web").await?);
        ensure!(reason.as_deref() == Some("NoMatchingNode"), "{reason:?}");
        Ok(())
    })
    .await;
    label(&stack, "n1", "oslo").await?;
    stack.wait_ready("web", 1).await;
    assert!(stack.instances("web").await?[0].node.ends_with("/n1"));
    let mut nodes = stack.nodes().await?;
    let listed = nodes.list_nodes(ListNodesRequest {
        parent: "projects/default".into(),
        label_selector: "site in (oslo),!none".into(),
        ..Default::default()
    });
    assert_eq!(listed.await?.into_inner().nodes.len(), 1);
    // The label moves, and the instance with it.
    label(&stack, "n2", "oslo").await?;
    label(&stack, "n1", "bergen").await?;
    eventually("it moved", PATIENCE, async || {
        let instances = stack.instances("web").await?;
        ensure!(
            instances.len() == 1 && instances[0].node.ends_with("/n2") && instances[0].ready,
            "{instances:?}"
        );
        Ok(())
    })
    .await;

    // A config that does not exist is named; once there, the instance starts; while mounted, it stays.
    let mut reader = script("s", "cat configs/motd/text && sleep 1000000");
    reader.configs = vec![ConfigMount { config: "motd".into(), ..Default::default() }];
    stack.apply("reader", app_on(("site", "oslo"), [reader])).await?;
    eventually("the missing config is named", PATIENCE, async || {
        let instances = stack.instances("reader").await?;
        ensure!(instances.iter().any(|i| i.reason == "ConfigMissing"), "{instances:?}");
        Ok(())
    })
    .await;
    stack.apply_config("motd", &[("text", "hello")]).await?;
    stack.wait_ready("reader", 1).await;
    let delete = DeleteConfigRequest { name: "projects/default/configs/motd".into(), ..Default::default() };
    assert_eq!(
        stack.configs().await?.delete_config(delete).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    stack.finish(None).await
}

async fn label(stack: &Stack, node: &str, site: &str) -> Result<()> {
    let labels = BTreeMap::from([("site".to_owned(), site.to_owned())]);
    let metadata = Metadata { name: format!("projects/default/nodes/{node}"), labels, ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["metadata.labels.site".into()] });
    let request = UpdateNodeRequest {
        node: Some(Node { metadata: Some(metadata), ..Default::default() }),
        update_mask,
        request_id: String::new(),
    };
    let node = stack.nodes().await?.update_node(request).await?.into_inner().node.context("a node")?;
    assert_eq!(
        node.metadata.unwrap_or_default().labels.get("site").map(String::as_str),
        Some(site),
        "the answer shows the change"
    );
    Ok(())
}

#[tokio::test]
async fn a_cordoned_node_keeps_what_it_runs_and_gets_nothing_new() -> Result<()> {
    let mut stack = Stack::start().await?;
    stack.add_agent("n1", &[])?;
    stack.wait_connected("n1").await;
    stack.apply("old", sleeper(1_000_000)).await?;
    stack.wait_ready("old", 1).await;
    let metadata = Metadata { name: "projects/default/nodes/n1".into(), ..Default::default() };
    let spec = skerry_proto::registry::v1::NodeSpec { cordoned: true, ..Default::default() };
    let request = UpdateNodeRequest {
        node: Some(Node { metadata: Some(metadata), spec: Some(spec), status: None }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["spec.cordoned".into()] }),
        request_id: String::new(),
    };
    stack.nodes().await?.update_node(request).await?;
    stack.apply("new", sleeper(1_000_000)).await?;
    eventually("the reason is told", PATIENCE, async || {
        let instances = stack.instances("new").await?;
        ensure!(instances.len() == 1 && instances[0].reason == "NodeCordoned", "{instances:?}");
        Ok(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stack.check_ready("old", 1).await?;
    stack.finish(None).await
}
