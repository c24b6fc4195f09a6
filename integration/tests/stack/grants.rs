//! Time-boxed grants from outside: who is let in by one, what ends with it, and what is on record.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skerry_integration::stack::PATIENCE;
use skerry_proto::relay::v1 as relay;
use skerry_proto::relay::v1::relay_service_client::RelayServiceClient;
use skerry_testing::{Process, eventually};

use crate::projects::World;

/// What stays, and says that it has begun.
const STAYS: &str = "echo begun; exec sleep 1000000";
/// What no command's exit code is.
const OWN_FAILURE: i32 = 125;

/// `skerry up` with a node, and two apps of one process on it.
async fn world() -> Result<World> {
    let world = World::start(&["--node-name=n1", "--no-docker"]).await?;
    for app in ["web", "other"] {
        let spec =
            "{services: [{name: s, process: {program: sh, args: [-c, \"echo told; exec sleep 1000000\"]}}]}";
        let head = format!("apiVersion: skerry/v1\nkind: App\nmetadata: {{name: {app}}}\n");
        world.write(&format!("{app}.yaml"), &format!("{head}spec: {spec}\n"))?;
        world.done(&format!("apply -f {app}.yaml --wait")).await?;
    }
    Ok(world)
}

/// A command that goes on in app `web`, by these flags.
async fn open(world: &World, who: &str, log: &str) -> Result<Process> {
    let mut command = world.command("skerry");
    command.args(who.split_whitespace()).args(["exec", "app/web", "--", "sh", "-c", STAYS]);
    let mut open = Process::spawn_command(&mut command, world.dir.path().join(log))?;
    open.wait_for_line("begun", PATIENCE).await?;
    Ok(open)
}

/// It ends by itself, not as its command would, and says these words.
async fn ends(mut open: Process, words: &str) -> Result<()> {
    let ended = open.wait(PATIENCE).await?;
    let said = open.output();
    ensure!(ended.code() == Some(OWN_FAILURE) && said.contains(words), "{ended:?}, not {words:?}: {said}");
    Ok(())
}

/// Waits until nothing is open.
async fn nothing_is_open(world: &World) {
    eventually("no channel is open", PATIENCE, async || {
        let list: Value = serde_json::from_str(&world.done("channel list -o json").await?)?;
        ensure!(list["items"].as_array().is_some_and(Vec::is_empty), "{list}");
        Ok(())
    })
    .await;
}

/// What the audit log has of calls of a method that a grant let in: outcome and detail, the newest last.
async fn on_record(world: &World, method: &str, grant: &str) -> Result<Vec<(String, String)>> {
    let said = world.done("audit --limit=0 -o json").await?;
    let list: Value = serde_json::from_str(&said).context("reading the audit log")?;
    let entries = list["items"].as_array().context("a list")?.iter().map(|record| &record["content"]);
    let ours = entries.filter(|entry| {
        entry["caller"]["grant"] == format!("projects/default/grants/{grant}")
            && entry["method"].as_str().is_some_and(|full| full.ends_with(method))
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(ours.map(|entry| (text(&entry["outcome"]), text(&entry["detail"]))).collect())
}

#[tokio::test]
async fn who_is_granted_a_verb_on_an_app_may_use_it_there_until_it_is_revoked() -> Result<()> {
    let world = world().await?;
    let ada = world.user("default", "ada", "viewer").await?;
    let oscar = world.user("default", "oscar", "operator").await?;
    let exec = format!("{ada} exec app/web -- echo hello");
    let remedy = "skerry -p default grant exec app/web --to user/ada --for 30m --reason";
    world.refused(&exec, OWN_FAILURE, remedy).await?;

    // Only admins grant, and only what makes sense.
    let grant = "grant exec app/web --to ada --for 24h --reason pump --name one";
    world.refused(&format!("{oscar} {grant}"), 1, "that takes the role admin").await?;
    for (words, why) in [
        ("grant exec app/none --to ada --for 1h --reason pump", "projects/default/apps/none does not exist"),
        ("grant exec app/web --to eve --for 1h --reason pump", "projects/default/users/eve does not exist"),
        ("grant exec app/web --to ada --for 25h --reason pump", "1 second to 24 hours"),
        ("grant node-shell app/web --to ada --for 1h --reason pump", "name the node"),
        ("grant copy node/n1 --to ada --for 1h --reason pump", "name the app"),
    ] {
        world.refused(words, 1, why).await?;
    }
    let made = world.done(grant).await?;
    ensure!(made.starts_with("grant/one created: user/ada may exec on app/web until "), "{made}");
    world.refused(grant, 1, "exists already").await?;

    eventually("it works", PATIENCE, async || {
        let said = world.done(&exec).await?;
        ensure!(said == "hello\n", "{said}");
        Ok(())
    })
    .await;
    // Who asks what they may is told of it.
    ensure!(world.done(&format!("{ada} auth can-i exec app/web")).await? == "yes\n");
    world.refused(&format!("{ada} auth can-i exec app/other"), 1, "takes the role operator").await?;
    world.refused(&format!("{ada} auth can-i exec node/n1"), 1, "takes the role admin").await?;
    world.refused(&format!("{ada} auth can-i exec apps"), 2, "name the app: app/NAME").await?;
    let whoami = world.done(&format!("{ada} auth whoami")).await?;
    ensure!(whoami.contains("grant   exec on app/web until"), "{whoami}");
    // On nothing else, and nothing else on it.
    world.refused(&format!("{ada} exec app/other -- true"), OWN_FAILURE, "ROLE_NEEDED").await?;
    world.refused(&format!("{ada} exec node/n1 -- true"), OWN_FAILURE, "grant node-shell node/n1").await?;
    world.refused(&format!("{ada} cp app/web:/etc/hostname here"), 1, "grant copy app/web").await?;
    world.refused(&format!("{ada} get grants"), 1, "that takes the role admin").await?;
    world.refused(&format!("{ada} delete app/web"), 1, "that takes the role operator").await?;

    // What is open ends, whether or not anybody reads it.
    let session = open(&world, &ada, "session.log").await?;
    let unread = unread(&world).await?;
    let listed = world.done("channel list").await?;
    ensure!(listed.matches(" by grant/one").count() == 2, "{listed}");
    world.done("delete grant/one").await?;
    ends(session, "projects/default/grants/one was revoked").await?;
    nothing_is_open(&world).await;
    drop(unread);
    world.refused(&exec, OWN_FAILURE, remedy).await?;

    eventually("all of it is on record", PATIENCE, async || {
        let records = on_record(&world, "RelayService/Exec", "one").await?;
        let of =
            |outcome: &str| records.iter().filter(|(told, _)| told.ends_with(outcome)).collect::<Vec<_>>();
        ensure!(of("OPENED").len() == 3 && of("CLOSED").len() == 3, "{records:?}");
        let revoked =
            of("CLOSED").into_iter().filter(|(_, detail)| detail.contains("grants/one was revoked"));
        ensure!(revoked.count() == 2, "{records:?}");
        Ok(())
    })
    .await;
    let table = world.done("audit --limit=0").await?;
    ensure!(table.contains("user/ada by grant/one"), "{table}");
    let all = world.done("audit --limit=0 -o json").await?;
    ensure!(
        all.contains("exec on projects/default/apps/web to projects/default/users/ada for 1d: pump"),
        "{all}"
    );
    Ok(())
}

/// A command of Ada's that writes without end to somebody who takes nothing of it.
async fn unread(world: &World) -> Result<tonic::Streaming<relay::ExecResponse>> {
    let mut client = RelayServiceClient::new(world.channel(Some("ada"), "ada-ca.crt").await?);
    let start = relay::ExecStart {
        app: "projects/default/apps/web".to_owned(),
        command: vec!["yes".to_owned()],
        ..relay::ExecStart::default()
    };
    let first = relay::ExecRequest { body: Some(relay::exec_request::Body::Start(start)) };
    let requests =
        futures_util::StreamExt::chain(futures_util::stream::iter([first]), futures_util::stream::pending());
    let mut answers = client.exec(requests).await?.into_inner();
    ensure!(answers.message().await?.is_some(), "it has begun");
    Ok(answers)
}

#[tokio::test]
async fn what_is_open_ends_when_the_grant_has_expired() -> Result<()> {
    let world = world().await?;
    let ada = world.user("default", "ada", "viewer").await?;
    world.done("grant exec app/web --to user/ada --for 12s --reason pump --name short").await?;
    // One for longer, of another app, lengthens nothing.
    world.done("grant exec app/other --to user/ada --for 1h --reason pump --name long").await?;
    let session = open(&world, &ada, "session.log").await?;
    ends(session, "projects/default/grants/short has expired").await?;
    nothing_is_open(&world).await;
    world.refused(&format!("{ada} exec app/web -- true"), OWN_FAILURE, "ROLE_NEEDED").await?;
    world.done(&format!("{ada} exec app/other -- true")).await?;
    let listed = world.done("get grants").await?;
    let line = listed.lines().find(|line| line.starts_with("short")).context("it is shown for a while")?;
    ensure!(line.contains("expired"), "{listed}");
    let shown = world.done("describe grant/long").await?;
    ensure!(shown.contains("project/system/user/admin") && shown.contains("app/other"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_group_s_grant_is_its_members_as_long_as_they_are_in_it_and_goes_with_it() -> Result<()> {
    let world = world().await?;
    let bob = world.user("default", "bob", "viewer").await?;
    world.done("group create night --user bob").await?;
    world
        .done("grant exec,copy project/default --to group/night --for 8h --reason release --name night")
        .await?;
    eventually("it works", PATIENCE, async || {
        let said = world.done(&format!("{bob} exec app/other -- true")).await?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    })
    .await;
    world.write("sent", "text\n")?;
    world.done(&format!("{bob} cp sent app/web:/tmp/skerry-granted")).await?;
    let session = open(&world, &bob, "session.log").await?;
    world.done("group remove-user night bob").await?;
    ends(session, "projects/default/grants/night was revoked, or is projects/default/users/bob's no more")
        .await?;
    world.refused(&format!("{bob} exec app/web -- true"), OWN_FAILURE, "ROLE_NEEDED").await?;
    world.done("group delete night").await?;
    world.refused("describe grant/night", 3, "projects/default/grants/night does not exist").await?;

    // Who has no role at all reads a log by a grant, and nothing else.
    world.done("user create carol").await?;
    let carol = bob.replace("bob", "carol");
    let logs = format!("{carol} logs app/web");
    world.refused(&logs, 1, "grant logs app/web --to user/carol").await?;
    world.done("grant logs app/web --to carol --for 1h --reason look --name look").await?;
    eventually("the log is told", PATIENCE, async || {
        let said = world.done(&logs).await?;
        ensure!(said.ends_with("told\n"), "{said}");
        Ok(())
    })
    .await;
    world.refused(&format!("{carol} get apps"), 1, "that takes the role viewer").await?;
    eventually("it is on record", PATIENCE, async || {
        let records = on_record(&world, "RelayService/Logs", "look").await?;
        ensure!(records.len() == 1 && records[0].1.contains("lines: 1"), "{records:?}");
        Ok(())
    })
    .await;
    // A namesake who comes later has nothing of it.
    world.done("user delete carol").await?;
    world.refused("describe grant/look", 3, "projects/default/grants/look does not exist").await?;
    Ok(())
}
