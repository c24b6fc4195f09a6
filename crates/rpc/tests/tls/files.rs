//! Certificates from files: what is wrong with one is told with its flag, and what is renewed counts while streams stay open.

use std::sync::Arc;

use skerry_rpc::{Access, TlsFiles, check_health, connect};
use skerry_testing::Authority;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{DOMAIN, GATEWAY, NODE, PATIENCE, USER, client, credentials, paths, serve};

#[tokio::test]
async fn files_that_change_count_from_the_next_handshake_on_and_open_streams_stay() {
    let directory = tempfile::tempdir().expect("a directory");
    let (before, after) = (Authority::new(DOMAIN), Authority::new(DOMAIN));
    let files = before.write(directory.path(), "gateway", GATEWAY);
    let files = Arc::new(TlsFiles::load(paths(&files)).expect("they are good"));
    let server = serve(Access::Certificate(files.server().expect("a server's"))).await;
    let known_before = client(&before, credentials(&before, USER));
    let known_after = client(&after, credentials(&after, USER));

    let channel = connect(&server.url("https"), Some(&known_before)).await.expect("let in");
    let watch = HealthClient::new(channel).watch(HealthCheckRequest::default()).await;
    let mut watch = watch.expect("a stream").into_inner();
    let serving = watch.message().await.expect("open").expect("a message");
    assert_eq!(serving.status(), ServingStatus::Serving);
    assert!(server.who(&known_after).await.is_err());
    assert!(!files.look().expect("they are good"), "nothing has changed");

    after.write(directory.path(), "gateway", GATEWAY);
    assert!(files.look().expect("they are good"), "they have changed");
    assert!(server.who(&known_before).await.is_err(), "no handshake with what was before");
    assert!(server.who(&known_after).await.is_ok());
    server.ready.send_replace(false);
    let told = watch.message().await.expect("still open").expect("a message");
    assert_eq!(told.status(), ServingStatus::NotServing, "the stream from before goes on");
}

#[tokio::test]
async fn a_half_written_change_leaves_what_was_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(DOMAIN);
    let files = authority.write(directory.path(), "gateway", GATEWAY);
    let loaded = TlsFiles::load(paths(&files)).expect("they are good");
    let server = serve(Access::Certificate(loaded.server().expect("a server's"))).await;
    // The new certificate is there, and its key not yet.
    let (issued, key) = authority.issue(GATEWAY);
    let old = std::fs::read(&files.key).expect("a key");
    authority.write_issued(directory.path(), "gateway", &issued, &key);
    let new = std::fs::read(&files.key).expect("a key");
    std::fs::write(&files.key, &old).expect("written");
    let error = loaded.look().expect_err("they do not belong together").to_string();
    assert!(error.starts_with(&format!("--tls-cert {}", files.certificate.display())), "{error}");
    let known = client(&authority, credentials(&authority, USER));
    assert!(server.who(&known).await.is_ok());
    std::fs::write(&files.key, &new).expect("written");
    assert!(loaded.look().expect("they belong together"));
    assert!(server.who(&known).await.is_ok());
}

#[tokio::test]
async fn a_service_can_ask_itself_wherever_it_listens() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(DOMAIN);
    let load = |name, identity| {
        TlsFiles::load(paths(&authority.write(directory.path(), name, identity))).expect("they are good")
    };
    let gateway = load("gateway", GATEWAY);
    let server = serve(Access::Certificate(gateway.server().expect("a server's"))).await;
    let itself = gateway.client_of_itself().expect("it is a service");
    check_health(&server.url("https"), Some(&itself), PATIENCE).await.expect("it serves");
    let registry = load("registry", "spiffe://example.org/project/system/service/registry");
    let other = registry.client_of_itself().expect("it is a service");
    assert!(check_health(&server.url("https"), Some(&other), PATIENCE).await.is_err(), "another service");
    assert!(load("node", NODE).client_of_itself().is_err());
    let error = load("node", NODE).server().expect_err("a node serves nobody").to_string();
    assert!(error.contains("--tls-cert") && error.contains("not a service's certificate"), "{error}");
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_flag_and_its_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let good = Authority::new(DOMAIN).write(directory.path(), "good", GATEWAY);
    let elsewhere = Authority::new("example.com").write(directory.path(), "elsewhere", GATEWAY_ELSEWHERE);
    let open = directory.path().join("open.key");
    std::fs::copy(&good.key, &open).expect("copied");
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("opened");
    let absent = directory.path().join("absent");
    let told =
        |files: skerry_testing::TlsFiles| TlsFiles::load(paths(&files)).expect_err("refused").to_string();
    for (setting, path, why, files) in [
        (
            "--tls-cert",
            &absent,
            "there is no such file",
            good_with(&good, |f| f.certificate.clone_from(&absent)),
        ),
        ("--tls-key", &absent, "there is no such file", good_with(&good, |f| f.key.clone_from(&absent))),
        ("--tls-ca", &absent, "there is no such file", good_with(&good, |f| f.authority.clone_from(&absent))),
        ("--tls-key", &open, "chmod 600", good_with(&good, |f| f.key.clone_from(&open))),
        (
            "--tls-ca",
            &good.certificate,
            "not a root",
            good_with(&good, |f| f.authority = good.certificate.clone()),
        ),
        ("--tls-key", &good.certificate, "", good_with(&good, |f| f.key = good.certificate.clone())),
        ("--tls-cert", &good.certificate, "the key is", good_with(&good, |f| f.key = elsewhere.key.clone())),
        (
            "--tls-cert",
            &good.certificate,
            "example.com is trusted",
            good_with(&good, |f| f.authority = elsewhere.authority.clone()),
        ),
    ] {
        let told = told(files);
        assert!(told.starts_with(&format!("{setting} {}: ", path.display())) && told.contains(why), "{told}");
    }
}

const GATEWAY_ELSEWHERE: &str = "spiffe://example.com/project/system/service/gateway";

fn good_with(
    good: &skerry_testing::TlsFiles,
    edit: impl FnOnce(&mut skerry_testing::TlsFiles),
) -> skerry_testing::TlsFiles {
    let mut files = good.clone();
    edit(&mut files);
    files
}
