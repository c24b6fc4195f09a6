//! Projects as tenants: apart for their users, no larger than their quotas, deleted when they are empty and then gone without a trace.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use skerry_identity::chain::chain_from_pem;
use skerry_identity::clock::SystemClock;
use skerry_identity::tls::Credentials;
use skerry_identity::verify::{Expected, Time};
use skerry_identity::{KeyPair, Trust, TrustBundle};
use skerry_integration::left::kill_left;
use skerry_integration::stack::PATIENCE;
use skerry_model::{ProjectName, ProjectRef};
use skerry_proto::store::v1 as stored;
use skerry_rpc::ClientTls;
use skerry_store::keys::InProject;
use skerry_store::{Key, Prefix, Store, StoreConfig, Target, Txn};
use skerry_testing::{Etcd, Process, bin, eventually, free_port};
use tempfile::TempDir;
use tonic::transport::Channel;

/// `skerry up` on an etcd that the test reads too, and the home of its admin.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) etcd: Etcd,
    pub(crate) store: Store,
    pub(crate) port: u16,
    pub(crate) up: Option<Process>,
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.up.take());
        kill_left(self.dir.path());
    }
}

impl World {
    pub(crate) async fn start(more: &[&str]) -> Result<Self> {
        let (dir, etcd) = (tempfile::tempdir()?, Etcd::start().await?);
        let store = Store::connect(StoreConfig::new(Target::parse(&etcd.endpoint())?)).await?;
        let mut world = Self { dir, etcd, store, port: free_port(), up: None };
        world.up(more).await?;
        Ok(world)
    }

    pub(crate) async fn up(&mut self, more: &[&str]) -> Result<()> {
        let mut command = self.command("skerry");
        command.args(["up", &format!("--listen=127.0.0.1:{}", self.port)]);
        command.arg(format!("--etcd={}", self.etcd.endpoint()));
        command.arg("--data-dir").arg(self.dir.path().join("data")).args(more);
        let log = self.dir.path().join("up.log");
        // A start of before has left its lines there.
        let _ = fs::remove_file(&log);
        let mut up = Process::spawn_command(&mut command, log)?;
        up.wait_for_line("ready after", PATIENCE).await?;
        self.up = Some(up);
        Ok(())
    }

    /// A program with a home of its own and none of the test's settings.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(bin(program));
        command.current_dir(self.dir.path()).env("HOME", self.dir.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SKERRY_")) {
            command.env_remove(name);
        }
        command.env_remove("XDG_CONFIG_HOME");
        command
    }

    /// The `skerry` command with these words; exit code and what it said.
    pub(crate) async fn skerry(&self, words: &str) -> Result<(Option<i32>, String)> {
        let mut command = self.command("skerry");
        command.args(words.split_whitespace());
        let output = tokio::task::spawn_blocking(move || command.output());
        let output: Output = tokio::time::timeout(PATIENCE, output).await.context("it did not end")???;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8(said)?))
    }

    /// The same where it must succeed.
    pub(crate) async fn done(&self, words: &str) -> Result<String> {
        let (code, said) = self.skerry(words).await?;
        ensure!(code == Some(0), "skerry {words}: {code:?}\n{said}");
        Ok(said)
    }

    /// The same where it must fail, with this code and these words.
    pub(crate) async fn refused(&self, words: &str, code: i32, why: &str) -> Result<()> {
        let (ended, said) = self.skerry(words).await?;
        ensure!(ended == Some(code) && said.contains(why), "skerry {words}: {ended:?}, not {why:?}:\n{said}");
        Ok(())
    }

    /// A user of a project, and the flags by which it calls.
    pub(crate) async fn user(&self, project: &str, name: &str, role: &str) -> Result<String> {
        self.done(&format!("user create {name} -p {project} --role {role}")).await?;
        let server = format!("--server https://127.0.0.1:{}", self.port);
        Ok(format!("{server} --tls-cert {name}.crt --tls-key {name}.key --tls-ca {name}-ca.crt"))
    }

    /// A connection by certificate and key in these files, of the world's directory but for their endings; or by nobody.
    pub(crate) async fn channel(&self, own: Option<&str>, authority: &str) -> Result<Channel> {
        let read = |file: &str| fs::read(self.dir.path().join(file));
        let credentials = match own {
            None => Credentials::none(),
            Some(own) => {
                let key = KeyPair::from_pem(&read(&format!("{own}.key"))?)?;
                Credentials::new(chain_from_pem(&read(&format!("{own}.crt"))?)?, Arc::new(key))?
            }
        };
        let trust = Trust::new(TrustBundle::parse_pem(&read(authority)?)?);
        let tls = ClientTls::new(credentials, trust, Expected::Dialled, Time::Exact(Arc::new(SystemClock)));
        Ok(skerry_rpc::connect(&format!("https://127.0.0.1:{}", self.port), Some(&tls)).await?)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.path().join(name), text)?)
    }

    /// A manifest of an app without a node to run on.
    pub(crate) fn app(&self, name: &str) -> Result<()> {
        let spec = "{services: [{name: s, process: {program: /bin/true}}]}";
        let head = format!("apiVersion: skerry/v1\nkind: App\nmetadata: {{name: {name}}}\n");
        self.write(&format!("{name}.yaml"), &format!("{head}spec: {spec}\n"))
    }

    pub(crate) fn config(&self, name: &str, text: &str) -> Result<()> {
        let head = format!("apiVersion: skerry/v1\nkind: Config\nmetadata: {{name: {name}}}\n");
        self.write(&format!("{name}.yaml"), &format!("{head}spec: {{data: {{text: \"{text}\"}}}}\n"))
    }

    pub(crate) fn project(&self, name: &str, quota: &str) -> Result<()> {
        let head = format!("apiVersion: skerry/v1\nkind: Project\nmetadata: {{name: {name}}}\n");
        self.write("project.yaml", &format!("{head}spec: {{quota: {{{quota}}}}}\n"))
    }

    /// Waits until a command says something, however wide its columns are.
    async fn until(&self, words: &str, what: &str) {
        eventually(what, PATIENCE, || async {
            let (_, said) = self.skerry(words).await.map_err(|error| error.to_string())?;
            let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
            if words.contains(what) { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// How many keys a project has.
    async fn keys(&self, project: &str) -> Result<u64> {
        async fn of<R: InProject>(store: &Store, project: &ProjectName) -> Result<u64> {
            Ok(store.count(&Prefix::<R>::project(project)).await?)
        }
        let (store, project) = (&self.store, ProjectName::parse(project)?);
        let record = Key::<stored::ProjectRecord>::of(&ProjectRef { project: project.clone() });
        Ok(u64::from(store.get(&record).await?.is_some())
            + of::<stored::UsageRecord>(store, &project).await?
            + of::<stored::NodeRecord>(store, &project).await?
            + of::<stored::AppRecord>(store, &project).await?
            + of::<stored::RevisionRecord>(store, &project).await?
            + of::<stored::ConfigRecord>(store, &project).await?
            + of::<stored::ConfigRevisionRecord>(store, &project).await?
            + of::<stored::SecretRecord>(store, &project).await?
            + of::<stored::SecretRevisionRecord>(store, &project).await?
            + of::<stored::SealedSecretRecord>(store, &project).await?
            + of::<stored::AssignmentRecord>(store, &project).await?
            + of::<stored::SessionRecord>(store, &project).await?
            + of::<stored::StatusRecord>(store, &project).await?
            + of::<stored::EventsRecord>(store, &project).await?
            + of::<stored::TokenRecord>(store, &project).await?
            + of::<stored::EnrollmentRecord>(store, &project).await?
            + of::<stored::UserRecord>(store, &project).await?
            + of::<stored::GroupRecord>(store, &project).await?
            + of::<stored::RoleBindingRecord>(store, &project).await?
            + of::<stored::GrantRecord>(store, &project).await?
            + of::<stored::RequestRecord>(store, &project).await?)
    }
}

#[tokio::test]
async fn two_projects_are_apart_and_only_the_installation_s_admins_make_room() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    for project in ["shop", "mill"] {
        assert_eq!(
            world.done(&format!("create project {project}")).await?,
            format!("project/{project} created\n")
        );
    }
    world.refused("create project shop", 1, "projects/shop exists already").await?;
    let ada = world.user("shop", "ada", "operator").await?;
    let bob = world.user("mill", "bob", "operator").await?;
    let carol = world.user("shop", "carol", "admin").await?;
    world.config("site", "one")?;
    world.done(&format!("apply -f site.yaml -p shop {ada}")).await?;
    world.done(&format!("apply -f site.yaml -p mill {bob}")).await?;

    // Each is told nothing of the other's, not even whether it is there.
    for elsewhere in ["mill", "nowhere"] {
        for words in ["get configs", "apply -f site.yaml", "delete config/site", "get events"] {
            let words = format!("{words} -p {elsewhere} {ada}");
            world.refused(&words, 1, &format!("in project {elsewhere}: that takes the role")).await?;
        }
    }
    world.refused(&format!("get project/mill {ada}"), 1, "that takes the role viewer").await?;
    assert_eq!(world.done(&format!("get projects -o name {ada}")).await?, "project/shop\n");
    assert_eq!(world.done(&format!("get configs -o name -p shop {ada}")).await?, "config/site\n");
    let all = world.done("get projects -o name").await?;
    assert_eq!(all, "project/default\nproject/mill\nproject/shop\nproject/system\n");

    // Nor does an admin of one project make room for itself.
    world.project("shop", "apps: 1000000")?;
    for words in ["apply -f project.yaml", "create project another", "delete project/mill"] {
        let words = format!("{words} -p shop {carol}");
        world.refused(&words, 1, "in project system: that takes the role admin").await?;
    }
    world.done(&format!("describe project/shop {carol}")).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_in_no_project_is_not_found_and_the_remedy_is_named() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    world.config("site", "one")?;
    world.app("web")?;
    for words in [
        "get apps",
        "get nodes",
        "get configs",
        "get secrets",
        "get instances",
        "get events",
        "get app/web",
        "apply -f web.yaml",
        "apply -f site.yaml",
        "apply -f site.yaml --dry-run",
        "token create",
        "user create ada",
        "user list",
        "status",
    ] {
        let words = format!("{words} -p typo");
        world.refused(&words, 3, "projects/typo does not exist").await?;
    }
    world.refused("get apps -p typo", 3, "skerry create project typo").await?;
    assert_eq!(world.keys("typo").await?, 0);
    Ok(())
}

#[tokio::test]
async fn each_limit_refuses_what_is_more_with_its_figure() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    world.done("create project shop --quota apps=1,configs=1,secrets=1,nodes=0,size=1Ki").await?;
    for (name, text) in [("a", "one"), ("b", "two")] {
        world.app(&format!("app-{name}"))?;
        world.config(&format!("config-{name}"), text)?;
        world.write(&format!("secret-{name}"), text)?;
    }
    let full = |what: &str, field: &str| {
        format!("projects/shop has 1 of 1 {what}; raise spec.quota.{field} or delete some (QUOTA_USED_UP)")
    };
    world.done("apply -p shop -f app-a.yaml -f config-a.yaml").await?;
    world.done("secret set -p shop secret-a text=@secret-a").await?;
    world.refused("apply -p shop -f app-b.yaml", 1, &full("apps", "apps")).await?;
    world.refused("apply -p shop -f app-b.yaml --dry-run", 1, &full("apps", "apps")).await?;
    world.refused("apply -p shop -f config-b.yaml", 1, &full("configs", "configs")).await?;
    world.refused("secret set -p shop secret-b text=@secret-b", 1, &full("secrets", "secrets")).await?;
    world.until("get project/shop --no-headers", "Active 0/0 1/1 1/1 1/1").await;

    // What is there may change as long as it does not grow beyond the limit, below which the limit may be set.
    world.config("config-a", &"x".repeat(2000))?;
    world.refused("apply -p shop -f config-a.yaml", 1, " of 1024 bytes, and this takes 19").await?;
    world.project("shop", "apps: 0, size: 1")?;
    world.done("apply -f project.yaml").await?;
    world.until("describe project/shop", "apps 1 0").await;
    world.config("config-a", "")?;
    world.done("apply -p shop -f config-a.yaml").await?;
    // And a limit that is gone refuses nothing.
    world.done("apply -p shop -f config-b.yaml").await.expect_err("its size");
    world.project("shop", "")?;
    world.done("apply -f project.yaml").await?;
    world.done("apply -p shop -f config-b.yaml -f app-b.yaml").await?;
    Ok(())
}

#[tokio::test]
async fn a_project_goes_when_it_is_empty_and_leaves_no_key() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    world.done("create project shop --quota apps=2,size=1Mi").await?;
    world.app("web")?;
    world.config("site", "one")?;
    world.write("password", "horse")?;
    world.done("apply -p shop -f web.yaml -f site.yaml").await?;
    world.done("secret set -p shop database password=@password").await?;
    world.done("token create -p shop --quiet").await?;
    world.user("shop", "ada", "viewer").await?;
    let left = "projects/shop is not empty: it has 1 app, 1 config, 1 secret, 1 token, 1 user, 1 role binding; delete them first";
    world.refused("delete project/shop", 1, left).await?;
    // It was not closed by that.
    world.done("label -p shop config/site a=b").await?;
    let token = world.done("token list -p shop").await?;
    let token = token.lines().nth(1).and_then(|line| line.split_whitespace().next()).context("a token")?;
    world.done("delete -p shop app/web config/site secret/database").await?;
    world.done(&format!("token delete -p shop {token}")).await?;
    world.done("user delete -p shop ada").await?;
    // Her binding gives nobody anything any more, and holds nothing up.
    assert_eq!(world.done("delete project/shop").await?, "project/shop deleted\n");
    assert_eq!(world.keys("shop").await?, 0);
    world.refused("get apps -p shop", 3, "projects/shop does not exist").await?;
    world.refused("apply -p shop -f site.yaml", 3, "projects/shop does not exist").await?;
    world.refused("delete project/shop", 3, "projects/shop does not exist").await?;
    world.refused("delete project/default", 1, "projects/default is always there").await?;
    // One of the same name is another one.
    world.done("create project shop").await?;
    world.done("apply -p shop -f site.yaml").await?;
    Ok(())
}

#[tokio::test]
async fn a_machine_is_told_that_there_is_no_room_and_enrols_when_there_is() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    world.done("create project shop --quota nodes=1").await?;
    let token = world.done("token create -p shop --uses 3 --quiet").await?;
    let agent = |node: &str| {
        let mut command = world.command("skerry-agent");
        command.args(["--no-docker", &format!("--gateway=https://127.0.0.1:{}", world.port)]);
        command.args([&format!("--node={node}"), &format!("--token={}", token.trim_end())]);
        command.arg("--data-dir").arg(world.dir.path().join(node));
        Process::spawn_command(&mut command, world.dir.path().join(format!("{node}.log")))
    };
    let _first = agent("m1")?;
    world.done("wait -p shop node/m1 --for=connected --timeout=60s").await?;
    let mut second = agent("m2")?;
    second
        .wait_for_line("projects/shop has 1 of 1 nodes; raise spec.quota.nodes or delete some", PATIENCE)
        .await?;
    // The use of the token that came to nothing is not counted.
    ensure!(world.done("token list -p shop").await?.contains(" 1"), "one use");
    world.project("shop", "nodes: 2")?;
    world.done("apply -f project.yaml").await?;
    world.done("wait -p shop node/m2 --for=connected --timeout=60s").await?;
    world.until("get project/shop --no-headers", "2/2").await;
    // A node that goes makes room for another.
    world.done("delete -p shop node/m1").await?;
    world.until("get project/shop --no-headers", "1/2").await;
    Ok(())
}

#[tokio::test]
async fn an_installation_of_before_gets_records_of_its_projects_at_its_start() -> Result<()> {
    // Whoever runs `up` in a project makes it.
    let mut world = World::start(&["-p", "shop", "--node-name=n1", "--no-docker"]).await?;
    world.config("site", "one")?;
    world.done("apply -p shop -f site.yaml").await?;
    let all = world.done("get projects -o name").await?;
    assert_eq!(all, "project/default\nproject/shop\nproject/system\n");
    world.up.take().context("it runs")?.kill()?;

    // As a version before projects has left it.
    let mut txn = Txn::new();
    for name in ["projects/shop", "projects/default", "projects/system"] {
        txn = txn.delete(&Key::<stored::ProjectRecord>::of(&ProjectRef::parse(name)?));
    }
    world.store.commit(txn).await?;
    world.up(&["--no-agent"]).await?;
    let all = world.done("get projects -o name").await?;
    assert_eq!(all, "project/default\nproject/shop\nproject/system\n");
    world.until("get project/shop --no-headers", "Active 1 0 0 1").await;
    world.done("apply -p shop -f site.yaml").await?;
    Ok(())
}
