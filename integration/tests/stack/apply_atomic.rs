//! `skerry apply` of several manifests: all of them or none, whatever is wrong, whoever else applies, and whatever is killed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use skerry_integration::stack::PATIENCE;
use skerry_model::{AppRef, ConfigRef, ProjectName, ProjectRef};
use skerry_proto::registry::v1::ChangeOutcome;
use skerry_proto::scheduler::v1::any_resource::Kind;
use skerry_proto::scheduler::v1::apply_service_client::ApplyServiceClient;
use skerry_proto::scheduler::v1::{AnyResource, ApplyRequest, Config, ConfigSpec, ResourceChange};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::Metadata;
use skerry_rpc::fault_of;
use skerry_store::{Key, Record, Store};
use skerry_testing::eventually;
use tonic::Code;

use crate::audit::verified;
use crate::projects::World;

fn app(name: &str, program: &str) -> String {
    format!(
        "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: {name}}}\nspec: {{services: [{{name: s, process: {{program: {program}}}}}]}}\n---\n"
    )
}

fn config(name: &str, text: &str) -> String {
    format!(
        "apiVersion: skerry/v1\nkind: Config\nmetadata: {{name: {name}}}\nspec: {{data: {{text: \"{text}\"}}}}\n---\n"
    )
}

/// Where a record of each of these names was written last; none for what is not there.
async fn revisions<R: Record>(
    store: &Store,
    names: impl Iterator<Item = R::Name>,
) -> Result<Vec<Option<i64>>> {
    let mut revisions = Vec::new();
    for name in names {
        revisions.push(store.get(&Key::<R>::of(&name)).await?.map(|read| read.mod_revision));
    }
    Ok(revisions)
}

fn configs_named(prefix: &str, count: usize) -> impl Iterator<Item = ConfigRef> + '_ {
    let name = move |number| ConfigRef::parse(&format!("projects/default/configs/{prefix}{number}"));
    (0..count).map(move |number| name(number).expect("a name"))
}

/// The hashes of what these configs hold.
async fn contents(store: &Store, prefix: &str, count: usize) -> Result<BTreeSet<String>> {
    let mut contents = BTreeSet::new();
    for name in configs_named(prefix, count) {
        let read = store.get(&Key::<stored::ConfigRecord>::of(&name)).await?;
        contents.insert(read.map_or_else(String::new, |read| read.value.hash));
    }
    Ok(contents)
}

#[tokio::test]
async fn of_ten_with_a_wrong_one_none_comes_and_its_file_line_and_field_are_named() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    let mut text: String = (0..9).map(|number| config(&format!("c{number}"), "x")).collect();
    text += &app("web", "/bin/true");
    text += "apiVersion: skerry/v1\nkind: Node\nmetadata: {name: none, labels: {a: b}}\n";
    world.write("all.yaml", &text)?;
    for words in ["apply -f all.yaml", "apply -f all.yaml --dry-run=server", "apply -f all.yaml --dry-run"] {
        let (code, said) = world.skerry(words).await?;
        ensure!(code == Some(3), "{code:?} {said}");
        ensure!(said.contains("node/none does not exist") && said.contains("nothing was changed"), "{said}");
    }
    // Who may not change one of them changes none.
    world.write(
        "mixed.yaml",
        &(config("c0", "x") + "apiVersion: skerry/v1\nkind: User\nmetadata: {name: eve}\n"),
    )?;
    let ada = world.user("default", "ada", "operator").await?;
    let (code, said) = world.skerry(&format!("apply -f mixed.yaml {ada}")).await?;
    ensure!(
        code == Some(1) && said.contains("UserService/UpdateUser") && said.contains("takes the role admin"),
        "{said}"
    );
    ensure!(said.contains("nothing was changed"), "{said}");
    // A quota is of all of them together.
    world.done("create project small --quota configs=2").await?;
    world.write("three.yaml", &["a", "b", "c"].map(|name| config(name, "x")).concat())?;
    let (code, said) = world.skerry("apply -p small -f three.yaml").await?;
    ensure!(code == Some(1) && said.contains("has 0 of 2 configs, and these are 3 more"), "{said}");
    ensure!(said.contains("nothing was changed"), "{said}");
    // What is one's own fault is shown where it stands.
    let nowhere =
        "apiVersion: skerry/v1\nkind: Config\nmetadata: {name: b, project: none}\nspec: {data: {text: x}}\n";
    world.write("nowhere.yaml", &(config("c1", "x") + nowhere))?;
    let (code, said) = world.skerry("apply -f nowhere.yaml").await?;
    ensure!(code == Some(3) && said.contains("projects/none does not exist"), "{code:?} {said}");
    ensure!(said.contains("nowhere.yaml:8:1: config/b is what was refused"), "{said}");
    ensure!(said.contains("nothing was changed"), "{said}");

    let store = &world.store;
    let there = revisions::<stored::ConfigRecord>(store, configs_named("c", 9)).await?;
    ensure!(there.iter().all(Option::is_none), "{there:?}");
    ensure!(
        world.done("get configs -p small -o name").await?.is_empty(),
        "nothing in the other project either"
    );
    // One by one, the others come.
    let (code, said) = world.skerry("apply -f all.yaml --one-by-one").await?;
    ensure!(
        code == Some(3) && said.contains("config/c8 created") && said.contains("app/web created"),
        "{said}"
    );
    verified(store).await?;
    Ok(())
}

#[tokio::test]
async fn what_refers_to_each_other_comes_at_one_revision_of_the_store() -> Result<()> {
    let world = World::start(&["--no-docker", "--node-name=n1"]).await?;
    let mut text: String = (0..30).map(|number| app(&format!("a{number}"), "/bin/true")).collect();
    text +=
        "apiVersion: skerry/v1\nkind: Node\nmetadata: {name: n1, labels: {skerry.dev/cluster: plant}}\n---\n";
    text += "apiVersion: skerry/v1\nkind: Cluster\nmetadata: {name: plant}\n---\n";
    text +=
        "apiVersion: skerry/v1\nkind: Project\nmetadata: {name: shop}\nspec: {quota: {configs: 1}}\n---\n";
    text += "apiVersion: skerry/v1\nkind: Config\nmetadata: {name: motd, project: shop}\nspec: {data: {text: x}}\n---\n";
    text += "apiVersion: skerry/v1\nkind: User\nmetadata: {name: ada, project: shop}\n---\n";
    text += "apiVersion: skerry/v1\nkind: RoleBinding\nmetadata: {name: viewers, project: shop}\nspec: {role: VIEWER, users: [ada]}\n";
    world.write("site.yaml", &text)?;
    let dry = world.done("apply -f site.yaml --dry-run").await?;
    ensure!(dry.lines().count() == 36 && dry.contains("node/n1 configured (dry run)"), "{dry}");
    let read = world.done("apply -f site.yaml --dry-run=client").await?;
    ensure!(read.contains("app/a0 read (client dry run)"), "{read}");
    let said = world.done("apply -f site.yaml").await?;
    ensure!(said.lines().count() == 36 && said.contains("project/shop created"), "{said}");

    // Whoever has the answer finds them in lists.
    let clusters = world.done("get clusters -o name").await?;
    ensure!(clusters.contains("cluster/plant"), "{clusters}");
    ensure!(world.done("get projects -o name").await?.contains("project/shop"));
    let store = &world.store;
    let apps =
        (0..30).map(|number| AppRef::parse(&format!("projects/default/apps/a{number}")).expect("a name"));
    let mut revisions: BTreeSet<Option<i64>> =
        revisions::<stored::AppRecord>(store, apps).await?.into_iter().collect();
    let project = ProjectRef { project: ProjectName::parse("shop")? };
    revisions
        .insert(store.get(&Key::<stored::ProjectRecord>::of(&project)).await?.map(|read| read.mod_revision));
    ensure!(revisions.len() == 1 && !revisions.contains(&None), "{revisions:?}");
    let (_, entries) = verified(store).await?;
    let of_apply = entries.iter().filter(|entry| entry.method.ends_with("ApplyService/Apply"));
    ensure!(of_apply.count() == 36, "a record for each");

    let again = world.done("apply -f site.yaml").await?;
    ensure!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
    // What does not fit is refused whole, and comes one by one.
    let many: String = (0..200).map(|number| config(&format!("m{number}"), "x")).collect();
    world.write("many.yaml", &many)?;
    world.refused("apply -f many.yaml", 1, "--one-by-one").await?;
    ensure!(contents(store, "m", 200).await?.iter().all(String::is_empty), "none of them");
    world.done("apply -f many.yaml --one-by-one").await?;
    Ok(())
}

#[tokio::test]
async fn of_two_clients_whose_sets_overlap_one_whole_set_is_there() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    for text in ["one", "two"] {
        let all: String = (0..10).map(|number| config(&format!("c{number}"), text)).collect();
        world.write(&format!("{text}.yaml"), &all)?;
    }
    for round in 0..6 {
        let (one, two) = tokio::join!(world.skerry("apply -f one.yaml"), world.skerry("apply -f two.yaml"));
        let ended = [one?, two?];
        ensure!(ended.iter().any(|(code, _)| *code == Some(0)), "{ended:?}");
        let there = contents(&world.store, "c", 10).await?;
        ensure!(there.len() == 1 && !there.contains(""), "round {round}: {there:?}");
    }
    verified(&world.store).await?;
    Ok(())
}

#[tokio::test]
async fn no_kill_leaves_half_a_set() -> Result<()> {
    const SIZE: usize = 20;
    let mut world = World::start(&["--no-agent"]).await?;
    let mut texts = String::new();
    for round in 0..6_u32 {
        let all: String = (0..SIZE).map(|number| config(&format!("k{number}"), &round.to_string())).collect();
        world.write("set.yaml", &all)?;
        let mut up = world.up.take().context("it runs")?;
        let applying = world.skerry("apply -f set.yaml --request-timeout 5s");
        let killing = async {
            tokio::time::sleep(std::time::Duration::from_millis(20 + 25 * u64::from(round))).await;
            up.kill()
        };
        let (applied, killed) = tokio::join!(applying, killing);
        killed?;
        up.wait(PATIENCE).await?;
        let there = contents(&world.store, "k", SIZE).await?;
        ensure!(there.len() == 1, "round {round}: {there:?} after {applied:?}");
        writeln!(texts, "{round}: {:?}", applied?.0)?;
        world.up(&["--no-agent"]).await?;
        // Who was not answered applies again.
        world.done("apply -f set.yaml").await?;
        ensure!(contents(&world.store, "k", SIZE).await?.len() == 1, "{texts}");
    }
    verified(&world.store).await?;
    let log = fs::read_to_string(world.dir.path().join("up.log"))?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

fn change(name: &str, text: &str) -> ResourceChange {
    let metadata = Metadata { name: format!("projects/default/configs/{name}"), ..Metadata::default() };
    let data = [("text".to_owned(), text.to_owned())].into();
    let config =
        Config { metadata: Some(metadata), spec: Some(ConfigSpec { data, ..ConfigSpec::default() }) };
    let resource = Some(AnyResource { kind: Some(Kind::Config(config)) });
    ResourceChange { resource, update_mask: None, allow_missing: true }
}

#[tokio::test]
async fn a_client_of_any_language_is_answered_for_each_and_told_which_one_is_refused() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    let channel = world.channel(Some("data/tls/admin"), "data/tls/ca.crt").await?;
    let mut client = ApplyServiceClient::new(channel);
    let request = ApplyRequest {
        resources: vec![change("a", "x"), change("b", "x")],
        request_id: "0d8f0e5c-9a55-4b3c-8f77-0a8d7c3a1d11".to_owned(),
        validate_only: false,
    };
    let first = client.apply(request.clone()).await?.into_inner();
    ensure!(first.resources.iter().all(|one| one.outcome() == ChangeOutcome::Created), "{first:?}");
    ensure!(first.resources[1].name == "projects/default/configs/b", "{first:?}");
    // Somebody else changes one of them; who asks again is still told what came of its own request.
    world.config("b", "other")?;
    world.done("apply -f b.yaml").await?;
    let again = client.apply(request.clone()).await?.into_inner();
    ensure!(again.resources.iter().all(|one| one.outcome() == ChangeOutcome::Created), "{again:?}");
    world.done("delete config/b").await?;
    let gone = client.apply(request).await?.into_inner();
    ensure!(gone.resources[1].resource.is_none() && gone.resources[0].resource.is_some(), "{gone:?}");

    let wrong = ApplyRequest { resources: vec![change("c", "x"), change("No", "x")], ..Default::default() };
    let status = client.apply(wrong).await.err().context("a refusal")?;
    let fault = fault_of(&status);
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(fault.metadata.get("index").map(String::as_str), Some("1"));
    assert_eq!(fault.metadata.get("kind").map(String::as_str), Some("Config"));
    ensure!(fault.violations[0].field == "resources[1].config.metadata.name", "{fault:?}");
    eventually("none of them is there", PATIENCE, || async {
        let (code, said) = world.skerry("get config/c").await.map_err(|error| error.to_string())?;
        if code == Some(3) { Ok(()) } else { Err(said) }
    })
    .await;
    Ok(())
}
