//! Updates that are taken back, in the loop: what is wanted, what is told, and what the next agent goes on from.

use super::*;
use crate::good::Goods;
use crate::state::Directory;
use crate::update::Updates;

/// An agent on a data directory, over a runtime that may have run before.
fn agent(docker: &Arc<FakeRuntime>, dir: &std::path::Path, first: Desired) -> Bench {
    let process = Arc::new(FakeRuntime::new(RuntimeKind::Process));
    let updates = Updates::open(Directory::new(dir), &NodeRef::parse("projects/default/nodes/n1").unwrap());
    Bench::of(Arc::clone(docker), process, Arc::new(first), |loop_| loop_.with_updates(updates))
}

/// What is wanted, with what the uplink keeps of `before`.
fn after(before: &[gateway::Resource], wanted: Desired) -> Desired {
    let good = before.iter().map(|one| (one.name.clone(), Arc::new(one.clone()))).collect();
    Desired { goods: Goods::new(good).of(&wanted), ..wanted }
}

#[tokio::test(start_paused = true)]
async fn an_update_that_ends_again_and_again_without_a_link_is_taken_back_whole_and_stays_so() {
    on_local(async {
        let dir = tempfile::tempdir().unwrap();
        let docker = Arc::new(FakeRuntime::new(RuntimeKind::Docker));
        let old = resources_of(&[("app", vec![with_env("web", "1"), with_env("db", "1")])]);
        let new = resources_of(&[("app", vec![with_env("web", "2"), with_env("db", "2")])]);
        let (old_desired, new_desired) = (joined(&old), joined(&new));
        let bench = agent(&docker, dir.path(), old_desired.clone());
        bench.until("they run", |b| b.ready(WEB) && b.ready(DB)).await;
        bench.until("it is known to be good", |b| !b.good.borrow().good.is_empty()).await;
        docker.state().ends_at_once.insert(new_desired.instances[&instance(DB)].fingerprint.clone());
        bench.want(after(&old, new_desired.clone()));
        let fingerprint =
            |desired: &Desired, name: &str| desired.instances[&instance(name)].fingerprint.clone();
        let runs =
            |docker: &FakeRuntime, name: &str| docker.state().instances[&instance(name)].fingerprint.clone();
        bench.until("they are replaced", |b| runs(&b.docker, WEB) == fingerprint(&new_desired, WEB)).await;
        // With a link it is the control plane's to decide.
        bench.link.send_replace(true);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(runs(&docker, WEB), fingerprint(&new_desired, WEB));
        assert_eq!((bench.events("UpdateUnhealthy"), bench.events("RolledBack")), (1, 0));
        bench.link.send_replace(false);
        tokio::time::sleep(Duration::from_secs(290)).await;
        assert_eq!(bench.events("RolledBack"), 0, "not yet");
        bench.until("it is taken back", |b| b.events("RolledBack") == 1).await;
        for name in [WEB, DB] {
            bench
                .until("the old ones run", |b| runs(&b.docker, name) == fingerprint(&old_desired, name))
                .await;
            bench.until("and it is told", |b| b.ready(name) && b.reason(name) == "RolledBack").await;
            let told = bench.told.lock().unwrap().statuses[name].clone();
            assert_eq!(told.rejected_revision, new_desired.instances[&instance(name)].revision.to_string());
            assert_eq!(told.revision, old_desired.instances[&instance(name)].revision.to_string());
            assert!(
                told.message
                    .contains("was taken back here (not healthy after 5m without a link: app/db/n1/0"),
                "{}",
                told.message
            );
        }
        // The link is back, and it is still wanted: nothing changes, for the next agent as well.
        bench.link.send_replace(true);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let calls = bench.calls();
        bench.end().await;
        let bench = agent(&docker, dir.path(), after(&old, new_desired));
        bench.until("it is told", |b| b.reason(WEB) == "RolledBack").await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(
            (bench.calls(), bench.events("RolledBack")),
            (calls, 1),
            "the event may have gone with the last one"
        );
        // Something else is sent.
        let third = joined(&resources_of(&[("app", vec![with_env("web", "3"), with_env("db", "1")])]));
        bench.want(after(&old, third.clone()));
        bench
            .until("it is tried", |b| {
                runs(&b.docker, WEB) == fingerprint(&third, WEB) && b.reason(WEB).is_empty()
            })
            .await;
        bench.end().await;
    })
    .await;
}
