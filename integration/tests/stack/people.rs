//! People at the shell: groups and roles as commands and as manifests, keys that stay with who made them, certificates that renew themselves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use skerry_identity::{PeerCertificate, TrustDomain, chain::chain_from_pem};
use skerry_integration::stack::PATIENCE;
use skerry_testing::{Authority, Etcd, Process, bin, free_port};
use tempfile::TempDir;

/// A registry alone, on an etcd: with an authority, and its first admin.
struct World {
    dir: TempDir,
    etcd: Etcd,
    url: String,
    registry: Process,
}

impl World {
    async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let etcd = Etcd::start().await?;
        let port = free_port();
        let authority = async |words: &[&str]| authority(dir.path(), &etcd, words).await;
        authority(&["init", "--domain", "example.org"]).await?;
        authority(&["issue", "service", "registry", "--ip", "127.0.0.1", "--out", "tls"]).await?;
        authority(&["issue", "user", "admin", "--project", "system", "--out", "admin"]).await?;
        let mut command = command(dir.path(), "skerry-registry");
        command.arg(format!("--etcd={}", etcd.endpoint())).arg(format!("--listen=127.0.0.1:{port}"));
        command.args(["--key-file=keys", "--tls-cert=tls/registry.crt", "--tls-key=tls/registry.key"]);
        command.arg("--tls-ca=tls/ca.crt");
        let mut registry = Process::spawn_command(&mut command, dir.path().join("registry.log"))?;
        registry.wait_for_line("serving", PATIENCE).await?;
        let world = Self { dir, etcd, url: format!("https://127.0.0.1:{port}"), registry };
        world.context("admin", "admin/admin", "admin/ca.crt").await?;
        world.done(&["config", "use-context", "admin"]).await?;
        Ok(world)
    }

    /// A context by the files that begin with `own`.
    async fn context(&self, name: &str, own: &str, authority: &str) -> Result<()> {
        let at = |file: &str| self.dir.path().join(file).display().to_string();
        let (certificate, key) = (at(&format!("{own}.crt")), at(&format!("{own}.key")));
        let words = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &at(authority)];
        let set = ["config", "set-context", name, "--registry", &self.url];
        self.done(&[&set[..], &words[..]].concat()).await?;
        Ok(())
    }

    /// The `skerry` command; exit code and what it said.
    async fn skerry(&self, words: &[&str]) -> Result<(Option<i32>, String)> {
        let mut command = command(self.dir.path(), "skerry");
        command.args(words);
        ended(command).await
    }

    /// The same where it must succeed.
    async fn done(&self, words: &[&str]) -> Result<String> {
        let (code, said) = self.skerry(words).await?;
        ensure!(code == Some(0), "skerry {}: {code:?}\n{said}", words.join(" "));
        Ok(said)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn finish(mut self) -> Result<()> {
        self.registry.terminate(PATIENCE).await?;
        drop(self.etcd);
        Ok(())
    }
}

/// `skerry authority` on the store.
async fn authority(dir: &Path, etcd: &Etcd, words: &[&str]) -> Result<()> {
    let mut command = command(dir, "skerry");
    command.arg("authority").args(words).env("SKERRY_ETCD", etcd.endpoint());
    command.env("SKERRY_KEY_FILE", "keys").env("SKERRY_AUTHORITY_DIR", "authority");
    let (code, said) = ended(command).await?;
    ensure!(code == Some(0), "skerry authority {}: {code:?}\n{said}", words.join(" "));
    Ok(())
}

fn command(dir: &Path, program: &str) -> Command {
    let mut command = Command::new(bin(program));
    command.current_dir(dir).env("HOME", dir).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SKERRY_")) {
        command.env_remove(name);
    }
    command.env_remove("XDG_CONFIG_HOME");
    command
}

async fn ended(mut command: Command) -> Result<(Option<i32>, String)> {
    let output = tokio::task::spawn_blocking(move || command.output());
    let output: Output = tokio::time::timeout(PATIENCE, output).await.context("it did not end")???;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(said)?))
}

/// What a certificate in a file says.
fn says(path: &Path) -> Result<PeerCertificate> {
    let chain = chain_from_pem(&fs::read(path)?)?;
    PeerCertificate::of_chain(&chain, &TrustDomain::parse("example.org")?).context("a certificate")
}

const MANIFEST: &str = "\
apiVersion: skerry/v1
kind: RoleBinding
metadata: {name: night}
spec:
  role: operator
  groups: [night-shift]
---
apiVersion: skerry/v1
kind: Group
metadata: {name: night-shift, labels: {site: oslo}}
spec:
  members: [ada, projects/other/users/eve]
---
apiVersion: skerry/v1
kind: User
metadata: {name: ada}
";

#[tokio::test]
async fn groups_and_bindings_are_commands_and_manifests_alike() -> Result<()> {
    let world = World::start().await?;
    fs::write(world.path("people.yaml"), MANIFEST)?;
    let (code, said) = world.skerry(&["diff", "-f", "people.yaml"]).await?;
    ensure!(code == Some(1) && said.contains("+  role: OPERATOR"), "{code:?} {said}");
    let applied = world.done(&["apply", "-f", "people.yaml"]).await?;
    assert_eq!(applied, "user/ada created\ngroup/night-shift created\nrolebinding/night created\n");
    let applied = world.done(&["apply", "-f", "people.yaml"]).await?;
    assert_eq!(applied, "user/ada unchanged\ngroup/night-shift unchanged\nrolebinding/night unchanged\n");
    assert_eq!(world.done(&["diff", "-f", "people.yaml"]).await?, "");

    // What is shown can be applied again.
    let shown = world.done(&["get", "users,groups,rolebindings", "-o", "yaml"]).await?;
    ensure!(shown.contains("- projects/default/users/ada"), "{shown}");
    fs::write(world.path("shown.yaml"), &shown)?;
    let again = world.done(&["apply", "-f", "shown.yaml"]).await?;
    ensure!(again.lines().count() == 3 && again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    assert_eq!(world.done(&["get", "groups", "-l", "site=oslo", "-o", "name"]).await?, "group/night-shift\n");
    assert_eq!(world.done(&["get", "rb", "-o", "jsonpath={.items[0].spec.role}"]).await?, "OPERATOR");

    let (code, said) = world.skerry(&["group", "create", "night-shift"]).await?;
    ensure!(code == Some(1) && said.contains("ALREADY_EXISTS"), "{code:?} {said}");
    world.done(&["group", "create", "day-shift", "--user", "bob"]).await?;
    let changed = world.done(&["group", "add-user", "day-shift", "ada", "bob"]).await?;
    assert_eq!(changed, "group/day-shift configured\n");
    assert_eq!(world.done(&["group", "add-user", "day-shift", "ada"]).await?, "group/day-shift unchanged\n");
    world.done(&["group", "remove-user", "day-shift", "bob"]).await?;
    world.done(&["role", "bind", "viewer", "--group", "day-shift"]).await?;
    let described = world.done(&["describe", "user/ada"]).await?;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(words(&described).contains("viewer group day-shift viewers"), "{described}");
    ensure!(words(&described).contains("operator group night-shift night"), "{described}");
    let listed = world.done(&["group", "list"]).await?;
    ensure!(words(&listed).starts_with("NAME MEMBERS AGE day-shift 1 "), "{listed}");

    // Faults name the line and the field.
    let wrong = MANIFEST.replace("operator", "boss").replace("[ada, ", "[Ada!, ");
    fs::write(world.path("wrong.yaml"), wrong)?;
    let (code, said) = world.skerry(&["apply", "-f", "wrong.yaml"]).await?;
    ensure!(code == Some(2), "{code:?} {said}");
    ensure!(
        said.contains("wrong.yaml:5:9: spec.role: ") && said.contains("wrong.yaml:12:13: spec.members[0]: "),
        "{said}"
    );
    let (code, said) = world.skerry(&["group", "add-user", "none", "ada"]).await?;
    ensure!(code == Some(3) && said.contains("projects/default/groups/none"), "{code:?} {said}");

    let explained = world.done(&["explain", "rolebinding.spec.role"]).await?;
    ensure!(explained.contains("operator"), "{explained}");
    let deleted = world.done(&["delete", "-f", "people.yaml"]).await?;
    ensure!(
        deleted.contains("rolebinding/night deleted") && deleted.contains("user/ada deleted"),
        "{deleted}"
    );
    world.done(&["group", "delete", "day-shift"]).await?;
    ensure!(world.done(&["get", "users,groups", "-o", "name"]).await?.is_empty(), "something is left");
    world.finish().await
}

#[tokio::test]
async fn a_manifest_of_a_user_leaves_the_keys_that_certificates_brought() -> Result<()> {
    let world = World::start().await?;
    fs::write(world.path("ada.yaml"), "apiVersion: skerry/v1\nkind: User\nmetadata: {name: ada}\n")?;
    world.done(&["apply", "-f", "ada.yaml"]).await?;
    world.done(&["user", "request", "ada", "--out", "hers"]).await?;
    world.done(&["user", "issue", "ada", "--csr", "hers/ada.csr", "--out", "hers"]).await?;
    world.done(&["apply", "-f", "ada.yaml"]).await?;
    world.context("ada", "hers/ada", "hers/ada-ca.crt").await?;
    let told = world.done(&["--context", "ada", "auth", "whoami"]).await?;
    ensure!(told.starts_with("spiffe://example.org/project/default/user/ada\n"), "{told}");
    world.finish().await
}

#[tokio::test]
async fn a_colleague_makes_the_key_and_the_admin_sees_only_the_request() -> Result<()> {
    let world = World::start().await?;
    // In a directory of hers, without any server.
    let requested = world.done(&["user", "request", "ada", "--out", "hers"]).await?;
    let key = requested.lines().find_map(|line| line.strip_prefix("key ")).context("the key")?.to_owned();
    assert_eq!(fs::metadata(world.path("hers/ada.key"))?.permissions().mode() & 0o777, 0o600);
    let again = world.done(&["user", "request", "ada", "--out", "hers"]).await?;
    ensure!(again.contains(&format!("key {key} (it was there already)")), "{again}");

    fs::create_dir(world.path("admins"))?;
    fs::copy(world.path("hers/ada.csr"), world.path("admins/ada.csr"))?;
    let create = ["user", "create", "ada", "--csr", "admins/ada.csr", "--out", "admins", "--role", "viewer"];
    let created = world.done(&create).await?;
    ensure!(created.contains(&format!("key {key}\n")), "both see the same key: {created}");
    ensure!(!world.path("admins/ada.key").exists(), "nobody made a key for her");
    for file in ["ada.crt", "ada-ca.crt"] {
        fs::copy(world.path("admins").join(file), world.path("hers").join(file))?;
    }
    world.context("ada", "hers/ada", "hers/ada-ca.crt").await?;
    assert_eq!(world.done(&["--context", "ada", "auth", "can-i", "list", "nodes"]).await?, "yes\n");
    let (code, said) = world.skerry(&["--context", "ada", "auth", "can-i", "delete", "nodes", "-q"]).await?;
    assert_eq!((code, said.as_str()), (Some(1), ""));
    let (code, said) = world.skerry(&["--context", "ada", "get", "users"]).await?;
    ensure!(code == Some(1) && said.contains("that takes the role admin"), "{code:?} {said}");
    let listed = world.done(&["--context", "ada", "auth", "can-i", "--list", "--no-headers"]).await?;
    ensure!(
        listed.lines().any(|line| line.split_whitespace().eq(["apps", "get,", "list,", "watch"])),
        "{listed}"
    );

    // What is no request, or of another key than it says, is refused before anybody is made.
    fs::write(world.path("admins/none.csr"), "hello")?;
    let (code, said) = world.skerry(&["user", "create", "bob", "--csr", "admins/none.csr"]).await?;
    ensure!(code == Some(2) && said.contains("--csr admins/none.csr: not a certificate request"), "{said}");
    let (code, _) = world.skerry(&["get", "user/bob"]).await?;
    assert_eq!(code, Some(3), "bob was made");

    world.done(&["user", "revoke", "ada"]).await?;
    let (code, said) = world.skerry(&["--context", "ada", "get", "nodes"]).await?;
    ensure!(code == Some(1) && said.contains("USER_UNKNOWN"), "{code:?} {said}");
    world.finish().await
}

#[tokio::test]
async fn who_is_deleted_and_made_again_begins_without_roles() -> Result<()> {
    let world = World::start().await?;
    world.done(&["user", "create", "ada", "--out", "first", "--role", "admin"]).await?;
    world.done(&["group", "create", "all", "--user", "ada"]).await?;
    world.done(&["user", "delete", "ada"]).await?;
    world.done(&["user", "create", "ada", "--out", "second"]).await?;
    world.context("ada", "second/ada", "second/ada-ca.crt").await?;
    let told = world.done(&["--context", "ada", "auth", "whoami"]).await?;
    ensure!(!told.contains("role"), "{told}");
    assert_eq!(world.done(&["get", "group/all", "-o", "jsonpath={.spec.members}"]).await?, "");
    world.finish().await
}

#[tokio::test]
async fn a_certificate_in_the_last_third_of_its_life_is_renewed_beside_any_command() -> Result<()> {
    let world = World::start().await?;
    world.done(&["user", "create", "ada", "--out", "hers", "--role", "viewer"]).await?;
    world.context("ada", "hers/ada", "hers/ada-ca.crt").await?;
    let certificate = world.path("hers/ada.crt");
    let ca = fs::read(world.path("hers/ada-ca.crt"))?;

    // A new one is left alone.
    let before = fs::read(&certificate)?;
    world.done(&["--context", "ada", "get", "nodes"]).await?;
    assert_eq!(fs::read(&certificate)?, before);

    // One of a minute, which began before: for the same key, whose file is there.
    let short = async || -> Result<PeerCertificate> {
        fs::remove_file(&certificate)?;
        let issue = ["issue", "user", "ada", "--project", "default", "--life", "1m", "--out", "hers"];
        authority(world.dir.path(), &world.etcd, &issue).await?;
        says(&certificate)
    };
    let due = short().await?;
    ensure!(due.renew_at() < SystemTime::now(), "it is not due: {due:?}");
    let said = world.done(&["--context", "ada", "--verbose", "get", "nodes"]).await?;
    ensure!(said.contains("the certificate of projects/default/users/ada was renewed"), "{said}");
    let renewed = says(&certificate)?;
    assert_eq!((&renewed.identity, &renewed.key_id), (&due.identity, &due.key_id));
    ensure!(renewed.not_after > due.not_after, "{renewed:?}");
    assert_eq!(fs::metadata(&certificate)?.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read(world.path("hers/ada-ca.crt"))?, ca, "the roots are the same");
    world.done(&["--context", "ada", "get", "nodes"]).await?;
    let listed = world.done(&["get", "user/ada", "-o", "jsonpath={.spec.keys[*].id}"]).await?;
    assert_eq!(listed, renewed.key_id.to_string(), "no key was added");

    // Where it cannot be kept, the command is done all the same, and says nothing of it unless asked. Root writes where nobody may, and
    // leaves alone what is somebody else's.
    let due = short().await?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&certificate, Some(12_345), None)?;
    } else {
        fs::set_permissions(world.path("hers"), fs::Permissions::from_mode(0o500))?;
    }
    let quiet = world.done(&["--context", "ada", "get", "nodes"]).await;
    let told = world.done(&["--context", "ada", "-v", "get", "nodes"]).await;
    fs::set_permissions(world.path("hers"), fs::Permissions::from_mode(0o700))?;
    assert_eq!(quiet?, "no nodes in project default\n");
    ensure!(told?.contains("was not renewed: "), "it was not said");
    assert_eq!(says(&certificate)?.not_after, due.not_after);

    // Who was struck out renews nothing, and is told what every caller of that name is.
    let due = short().await?;
    world.done(&["user", "revoke", "ada"]).await?;
    let (code, said) = world.skerry(&["--context", "ada", "-v", "get", "nodes"]).await?;
    ensure!(code == Some(1) && said.contains("USER_UNKNOWN") && said.contains("was not renewed"), "{said}");
    assert_eq!(says(&certificate)?.not_after, due.not_after);
    world.finish().await
}

#[tokio::test]
async fn an_expired_certificate_says_who_can_help() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("example.org");
    let server = authority.write(dir.path(), "up", "spiffe://example.org/project/system/service/skerry");
    let port = free_port();
    let mut up = command(dir.path(), "skerry");
    up.args(["up", "--no-agent", "--data-dir=data", "--listen"]).arg(format!("127.0.0.1:{port}"));
    up.args(server.flags());
    let mut up = Process::spawn_command(&mut up, dir.path().join("up.log"))?;
    up.wait_for_line("ready after", PATIENCE).await?;
    let (issued, key) = authority.issue_expired("spiffe://example.org/project/default/user/ada");
    let files = authority.write_issued(dir.path(), "ada", &issued, &key);
    let mut asking = command(dir.path(), "skerry");
    asking.args(["get", "nodes", "--server"]).arg(format!("https://127.0.0.1:{port}")).args(files.flags());
    let (code, said) = ended(asking).await?;
    ensure!(code == Some(1) && said.contains("CERTIFICATE_EXPIRED"), "{code:?} {said}");
    ensure!(said.contains("skerry user issue NAME --csr FILE"), "{said}");
    up.terminate(PATIENCE).await?;
    Ok(())
}
