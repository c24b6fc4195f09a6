//! Keys that come and go: of nodes, of the store; and secrets that are not there.

use anyhow::{Result, ensure};
use skerry_identity::hpke::HpkeKeyPair;
use skerry_identity::key_ring::KeyRing;
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_integration::{Stack, StackConfig};
use skerry_proto::scheduler::v1::{
    DeleteSecretRequest, ResealSecretsRequest, Secret, SecretSpec, UpdateSecretRequest,
};
use skerry_proto::types::v1::secret_mount::OnChange;
use skerry_proto::types::v1::{Metadata, ServiceSpec};
use skerry_testing::eventually;

use super::{FIRST, Fixture, NO_DOCKER, SECOND, mount};

fn user_of_secret() -> skerry_proto::types::v1::AppSpec {
    let secrets = vec![mount("", OnChange::Restart)];
    app([ServiceSpec { secrets, ..script("web", "exec sleep 1000") }])
}

#[tokio::test]
async fn an_instance_waits_with_the_reason_until_secret_and_sealing_key_are_there() -> Result<()> {
    let mut fixture = Fixture::start().await?;
    fixture.add_agent("n1", NO_DOCKER).await?;
    fixture.stack.apply("web", user_of_secret()).await?;
    let waits_for = async |reason: &str| {
        eventually(reason, PATIENCE, async || {
            let told = fixture.instance("web").await?;
            ensure!(told.reason == reason, "{told:?}");
            Ok(())
        })
        .await;
    };
    waits_for("SecretMissing").await;
    fixture.set_password(FIRST).await?;
    waits_for("NodeHasNoSealingKey").await;
    fixture.enrol("n1").await?;
    fixture.stack.wait_ready("web", 1).await;

    let request = DeleteSecretRequest { name: "projects/default/secrets/db".into(), ..Default::default() };
    let refused = fixture.stack.secrets().await?.delete_secret(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("used by web"), "{refused}");
    fixture.stack.delete_app("web").await?;
    eventually("it can go, and what was sealed with it", PATIENCE, async || {
        let gone = fixture.stack.secrets().await?.delete_secret(request.clone()).await;
        ensure!(gone.is_ok() || gone.is_err_and(|error| error.code() == tonic::Code::NotFound), "still used");
        let sealed = fixture.stack.etcd.ctl(&["get", "--prefix", "--keys-only", "/skerry/v1/sealed/"])?;
        ensure!(sealed.trim().is_empty(), "{sealed}");
        Ok(())
    })
    .await;
    fixture.stack.finish(None).await
}

#[tokio::test]
async fn what_is_sealed_to_a_lost_key_is_sealed_anew_to_the_next_and_nothing_restarts() -> Result<()> {
    let mut fixture = Fixture::start().await?;
    fixture.add_node("n1", NO_DOCKER).await?;
    fixture.set_password(FIRST).await?;
    fixture.stack.apply("web", user_of_secret()).await?;
    fixture.stack.wait_ready("web", 1).await;
    let before = fixture.instance("web").await?;
    let file = fixture.stack.agent_dir("n1").join("identity/hpke.key");
    let sealed = |fixture: &Fixture| {
        let found = fixture.stack.etcd.ctl(&["get", "--prefix", "--write-out=fields", "/skerry/v1/sealed/"]);
        Ok::<_, anyhow::Error>(found?.lines().filter(|line| line.contains("Value")).collect::<String>())
    };
    let old = sealed(&fixture)?;
    assert!(!old.is_empty());
    skerry_identity::private_file::replace(&file, HpkeKeyPair::generate()?.to_pem().as_bytes())?;
    fixture.enrol("n1").await?;
    eventually("it is sealed to the new key", PATIENCE, async || {
        let new = sealed(&fixture)?;
        ensure!(!new.is_empty() && new != old, "the same");
        Ok(())
    })
    .await;
    fixture.stack.wait_ready("web", 1).await;
    assert_eq!(fixture.instance("web").await?.runtime_id, before.runtime_id);

    // The agent has it, and opens it with the new key when it starts the instance next.
    fixture.set_password(SECOND).await?;
    let path = fixture.stack.agent_dir("n1").join("instances/web/web/n1/0/state/secrets/db/password");
    eventually("the second value", PATIENCE, async || {
        ensure!(std::fs::read_to_string(&path)? == SECOND, "not yet");
        Ok(())
    })
    .await;
    fixture.stack.finish(None).await
}

#[tokio::test]
async fn an_old_key_of_the_store_can_go_once_all_is_sealed_under_the_new_one() -> Result<()> {
    let mut fixture = Fixture::start().await?;
    let old = std::fs::read_to_string(&fixture.key_file)?;
    for n in 0..3 {
        let data = [("k".to_owned(), FIRST.to_owned())].into();
        fixture.set(&format!("s{n}"), SecretSpec { string_data: data, ..SecretSpec::default() }).await?;
    }
    KeyRing::rotate(&fixture.key_file)?;
    let mut client = fixture.stack.secrets().await?;
    let done = client
        .reseal_secrets(ResealSecretsRequest { parent: "projects/system".to_owned() })
        .await?
        .into_inner();
    assert_eq!((done.resealed, done.remaining, done.unreadable), (3, 0, 0));
    let again = client
        .reseal_secrets(ResealSecretsRequest { parent: "projects/system".to_owned() })
        .await?
        .into_inner();
    assert_eq!((again.resealed, again.remaining), (0, 0), "it may be repeated");

    // The first key goes: what it sealed is not there any more.
    let both = std::fs::read_to_string(&fixture.key_file)?;
    let first: Vec<&str> = old.lines().filter(|line| !line.starts_with('#')).collect();
    let rest: Vec<&str> = both.lines().filter(|line| !first.contains(line)).collect();
    let rest = rest.join("\n") + "\n";
    skerry_identity::private_file::replace(&fixture.key_file, rest.as_bytes())?;
    fixture.stack.kill_service("scheduler-0")?;
    fixture.stack.start_service("scheduler-0")?;
    fixture.stack.wait_service("scheduler-0").await?;
    // A key beside the one that is there: what is there has to be opened for that.
    let metadata = Some(Metadata { name: "projects/default/secrets/s1".into(), ..Default::default() });
    let data = [("more".to_owned(), SECOND.as_bytes().to_vec().into())].into();
    let secret =
        Some(Secret { metadata, spec: Some(SecretSpec { data, ..Default::default() }), status: None });
    let update_mask = Some(prost_types::FieldMask { paths: vec!["spec.data.more".to_owned()] });
    let request = UpdateSecretRequest { secret, update_mask, ..Default::default() };
    let answer = eventually("it is updated", PATIENCE, async || {
        Ok::<_, anyhow::Error>(
            fixture.stack.secrets().await?.update_secret(request.clone()).await?.into_inner(),
        )
    })
    .await;
    let keys: Vec<_> = answer.secret.and_then(|secret| secret.status).unwrap_or_default().entries;
    assert_eq!(keys.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["k", "more"]);
    fixture.stack.finish(None).await
}

#[tokio::test]
async fn without_a_key_file_secrets_are_refused_with_the_remedy_and_all_else_works() -> Result<()> {
    let mut stack = Stack::start_with(StackConfig::default()).await?;
    stack.add_agent("n1", &[])?;
    let metadata = Some(Metadata { name: "projects/default/secrets/db".into(), ..Default::default() });
    let string_data = [("k".to_owned(), FIRST.to_owned())].into();
    let secret =
        Some(Secret { metadata, spec: Some(SecretSpec { string_data, ..Default::default() }), status: None });
    let request = UpdateSecretRequest { secret, allow_missing: true, ..Default::default() };
    let refused = stack.secrets().await?.update_secret(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("--key-file") && !refused.message().contains(FIRST), "{refused}");
    stack.apply("web", app([script("web", "exec sleep 1000")])).await?;
    stack.wait_ready("web", 1).await;
    stack.finish(None).await
}
