//! Secrets from the API to the instance, and where they must not be: the store's disk, gateways, logs, the agent's disk, answers.

mod bundle;
mod containers;
mod enrolled;
mod keys;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use skerry_identity::hpke::HpkePublicKey;
use skerry_identity::key_ring::KeyRing;
use skerry_identity::key_store::{FileKeyStore, KeyStore as _};
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_model::NodeRef;
use skerry_proto::scheduler::v1::{
    GetSecretRequest, ListSecretsRequest, Secret, SecretSpec, UpdateSecretRequest,
};
use skerry_proto::store::v1::NodeRecord;
use skerry_proto::types::v1::secret_mount::OnChange;
use skerry_proto::types::v1::{EnvSource, InstanceStatus, Metadata, SecretMount, ServiceSpec, env_source};
use skerry_store::{Key, Store, StoreConfig, Target, Txn};
use skerry_testing::eventually;

/// Values that stand nowhere else.
const FIRST: &str = "Xq7first-value-of-a-secret-Zw9";
const SECOND: &str = "Xq7second-value-of-a-secret-Zw9";

/// For who runs no containers.
const NO_DOCKER: &str = "--no-docker";

/// A stack whose scheduler has a key file.
struct Fixture {
    stack: Stack,
    key_file: PathBuf,
    /// In memory: goes with the test, whatever becomes of its agents.
    memory: tempfile::TempDir,
    _keys: tempfile::TempDir,
}

impl Fixture {
    async fn start() -> Result<Self> {
        let keys = tempfile::tempdir()?;
        let key_file = keys.path().join("key-ring");
        KeyRing::load_or_make(&key_file)?;
        let scheduler_args = vec![format!("--key-file={}", key_file.display())];
        let stack =
            Stack::start_with(StackConfig { relays: 1, scheduler_args, ..StackConfig::default() }).await?;
        let memory = tempfile::tempdir_in("/dev/shm")?;
        // Users of processes go through it.
        fs::set_permissions(memory.path(), fs::Permissions::from_mode(0o711))?;
        Ok(Self { stack, key_file, memory, _keys: keys })
    }

    /// A node whose record has the sealing key of an agent that has no certificate: the stack has no authority. How it is with one that enrolled, `enrolled` shows.
    async fn add_node(&mut self, node: &str, docker: &str) -> Result<()> {
        self.add_agent(node, docker).await?;
        self.enrol(node).await
    }

    async fn add_agent(&mut self, node: &str, docker: &str) -> Result<()> {
        let secrets = format!("--secrets-dir={}", self.memory.path().display());
        self.stack.add_agent(node, &[&secrets, docker])?;
        self.stack.wait_connected(node).await;
        Ok(())
    }

    /// Writes the key that the agent has into the node's record.
    async fn enrol(&self, node: &str) -> Result<()> {
        let keys = FileKeyStore::new(self.stack.agent_dir(node).join("identity"));
        let key: HpkePublicKey = keys.opening_key()?.public_key();
        self.set_sealing_key(node, key.as_bytes()).await
    }

    async fn set_sealing_key(&self, node: &str, key: &[u8]) -> Result<()> {
        let store = Store::connect(StoreConfig::new(Target::parse(&self.stack.etcd.endpoint())?)).await?;
        let name = NodeRef::parse(&format!("projects/default/nodes/{node}"))?;
        let found = store.get(&Key::<NodeRecord>::of(&name)).await?.context("no such node")?;
        let record = NodeRecord { sealing_key: key.to_vec().into(), ..found.value.clone() };
        store.commit(Txn::new().when_same(&found).put(&found.key, &record)).await?;
        store.close().await;
        Ok(())
    }

    async fn set(&self, name: &str, spec: SecretSpec) -> Result<Secret> {
        let metadata =
            Some(Metadata { name: format!("projects/default/secrets/{name}"), ..Default::default() });
        let secret = Some(Secret { metadata, spec: Some(spec), status: None });
        let request = UpdateSecretRequest {
            secret,
            allow_missing: true,
            request_id: format!("{name}-{}", std::process::id()),
            ..Default::default()
        };
        // Another request each time; what is remembered of it must have no value either.
        let request_id = format!("{}-{}", request.request_id, request.encoded_len());
        let answer =
            self.stack.secrets().await?.update_secret(UpdateSecretRequest { request_id, ..request }).await?;
        answer.into_inner().secret.context("a secret in the answer")
    }

    async fn set_password(&self, value: &str) -> Result<Secret> {
        self.set(
            "db",
            SecretSpec {
                string_data: [("password".to_owned(), value.to_owned())].into(),
                ..Default::default()
            },
        )
        .await
    }

    async fn instance(&self, app: &str) -> Result<InstanceStatus> {
        self.stack.instances(app).await?.pop().context("no instance")
    }
}

fn mount(path: &str, on_change: OnChange) -> SecretMount {
    SecretMount { secret: "db".into(), path: path.into(), on_change: on_change.into(), ..Default::default() }
}

fn variable(name: &str) -> EnvSource {
    let source = Some(env_source::Source::Secret("db".to_owned()));
    EnvSource { source, key: "password".into(), variable: name.into(), ..Default::default() }
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

/// Files below `dir` with one of `values` in them. Links are not followed.
fn files_with(dir: &Path, values: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        if kind.is_dir() {
            open.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            if values.iter().any(|value| contains(&bytes, value)) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Whether a process has one of `values` in what it may write: heap, stacks, anonymous maps.
fn memory_has(pid: u32, values: &[&str]) -> Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let bounds = range.split_once('-').and_then(|(from, to)| {
            Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
        });
        let Some((from, to)) = bounds.filter(|_| rights.starts_with("rw")) else { continue };
        let mut bytes = vec![0; usize::try_from(to - from)?];
        // A map that went meanwhile has nothing in it.
        if let Ok(read) = memory.read_at(&mut bytes, from)
            && values.iter().any(|value| contains(&bytes[..read], value))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn environ(instance: &InstanceStatus) -> Result<String> {
    let bytes = fs::read(format!("/proc/{}/environ", instance.runtime_id))?;
    Ok(String::from_utf8_lossy(&bytes).replace('\0', "\n"))
}

#[tokio::test]
async fn a_process_has_its_secrets_as_files_and_variables_and_nobody_else_sees_them() -> Result<()> {
    let mut fixture = Fixture::start().await?;
    fixture.add_node("n1", NO_DOCKER).await?;
    // The way of users of processes to their own directories, below the test's.
    let agents = fixture.stack.agent_dir("n1").parent().context("it has one")?.to_owned();
    for way in [fixture.stack.dir(), &agents] {
        fs::set_permissions(way, fs::Permissions::from_mode(0o711))?;
    }
    let shown = fixture.set_password(FIRST).await?;
    assert_eq!(shown.spec, None, "no answer has values");
    let status = shown.status.clone().unwrap_or_default();
    assert_eq!((status.entries[0].key.as_str(), status.entries[0].size_bytes), ("password", 30));

    let replaced = ServiceSpec {
        secrets: vec![mount("", OnChange::Restart)],
        env_from: vec![variable("DB_PASSWORD")],
        ..script("replaced", "exec sleep 1000")
    };
    // As a user who may see this and nothing else.
    let script_of_user = "cat pass/db/password > seen; exec sleep 1000";
    let kept = ServiceSpec {
        secrets: vec![mount("pass/db", OnChange::Update)],
        user: "65534:65534".to_owned(),
        ..script("kept", script_of_user)
    };
    fixture.stack.apply("replaced", app([replaced])).await?;
    fixture.stack.apply("kept", app([kept])).await?;
    fixture.stack.wait_ready("replaced", 1).await;
    fixture.stack.wait_ready("kept", 1).await;
    let state = |app: &str| fixture.stack.agent_dir("n1").join(format!("instances/{app}/{app}/n1/0/state"));
    let (restarted, updated) =
        (state("replaced").join("secrets/db/password"), state("kept").join("pass/db/password"));
    assert_eq!(
        (fs::read_to_string(&restarted)?, fs::read_to_string(&updated)?),
        (FIRST.to_owned(), FIRST.to_owned())
    );
    let owned = fs::metadata(&updated)?;
    assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o777), (65534, 65534, 0o400));
    eventually("its user reads it", PATIENCE, async || {
        ensure!(fs::read_to_string(state("kept").join("seen"))? == FIRST, "not yet");
        Ok(())
    })
    .await;
    fs::remove_file(state("kept").join("seen"))?;
    let (old, unmoved) = (fixture.instance("replaced").await?, fixture.instance("kept").await?);
    assert!(environ(&old)?.contains(&format!("DB_PASSWORD={FIRST}")));

    fixture.set_password(SECOND).await?;
    eventually("the new value is in both", PATIENCE, async || {
        ensure!(
            fs::read_to_string(&restarted)? == SECOND && fs::read_to_string(&updated)? == SECOND,
            "not yet"
        );
        let new = fixture.instance("replaced").await?;
        ensure!(new.runtime_id != old.runtime_id, "it is not replaced");
        ensure!(environ(&new)?.contains(&format!("DB_PASSWORD={SECOND}")), "its variable is the old one");
        Ok(())
    })
    .await;
    assert_eq!(fixture.instance("kept").await?.runtime_id, unmoved.runtime_id, "it goes on");

    // Nobody but the scheduler, the process and the memory of this machine has them.
    let values = [FIRST, SECOND];
    let etcd = fixture.stack.etcd.data_dir();
    assert_eq!(files_with(&etcd, &values)?, Vec::<PathBuf>::new(), "the store's disk");
    assert_eq!(files_with(fixture.stack.dir(), &values)?, Vec::<PathBuf>::new(), "logs and the agent's disk");
    let pid = fixture.stack.service("gateway-0")?.pid();
    assert!(!memory_has(pid, &values)?, "a gateway's memory");
    let control = fixture.stack.service("scheduler-0")?.pid();
    let name = "projects/default/secrets/db".to_owned();
    let mut client = fixture.stack.secrets().await?;
    let got = client.get_secret(GetSecretRequest { name }).await?.into_inner();
    let listed = ListSecretsRequest { parent: "projects/default".into(), ..Default::default() };
    let listed = client.list_secrets(listed).await?.into_inner();
    let events = fixture.stack.events().await?;
    for answer in [got.encode_to_vec(), listed.encode_to_vec(), format!("{events:?}").into_bytes()] {
        assert!(values.iter().all(|value| !contains(&answer, value)));
    }
    // That looking finds what is there is shown by the sight of something that a process has for sure.
    assert!(memory_has(control, &["projects/default/secrets/db", "skerry"])?);

    fixture.stack.delete_apps().await?;
    eventually("the files are gone", PATIENCE, async || {
        let left = files_with(fixture.memory.path(), &values)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await;
    fixture.stack.finish(None).await
}
