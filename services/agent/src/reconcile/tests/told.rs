//! What is told beside the state: limits that do not hold, and the ends that came before.

use super::*;

/// Ends that are told of an instance.
const ENDS_TOLD: usize = 5;

fn status(bench: &Bench) -> Option<pb::InstanceStatus> {
    bench.told.lock().unwrap().statuses.get(WEB).cloned()
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_does_not_hold_is_one_warning_at_each_start_and_stands_in_the_status() {
    on_local(async {
        let bench = Bench::new();
        let lacks = "its limit on memory does not hold: no cgroup hierarchy of this machine has it";
        bench.docker.state().warnings = vec![lacks.to_owned()];
        bench.want(apps(&[("app", vec![service("web")])]));
        bench.until("it runs", |b| b.ready(WEB)).await;
        bench.until("it is told", |b| b.events("LimitNotHeld") == 1).await;
        {
            let told = bench.told.lock().unwrap();
            let event = told.events.iter().find(|event| event.reason == "LimitNotHeld").unwrap();
            assert_eq!(event.severity(), pb::event::Severity::Warning);
            assert_eq!(event.message, lacks);
            assert_eq!(event.regarding, format!("projects/default/instances/{WEB}"));
            assert_eq!(told.statuses[WEB].warnings, [lacks]);
        }
        // However often it is looked at.
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(bench.events("LimitNotHeld"), 1);
        bench.docker.end(&instance(WEB), Some(1));
        bench
            .until("the next start is told as well", |b| b.events("LimitNotHeld") == 2 && b.ready(WEB))
            .await;
        // The next one is held to its limits.
        bench.docker.state().warnings.clear();
        bench.docker.end(&instance(WEB), Some(1));
        bench.until("it runs again", |b| b.ready(WEB) && b.events("Started") == 3).await;
        assert_eq!(status(&bench).unwrap().warnings, [""; 0]);
        assert_eq!(bench.events("LimitNotHeld"), 2);
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_ends_are_told_no_more_of_them_and_the_next_agent_knows_them() {
    on_local(async {
        let dir = tempfile::tempdir().unwrap();
        let ledger = || Ledger::open(crate::state::Directory::new(dir.path()));
        let wanted = Arc::new(apps(&[("app", vec![service("web")])]));
        let docker = Arc::new(FakeRuntime::new(RuntimeKind::Docker));
        let process = Arc::new(FakeRuntime::new(RuntimeKind::Process));
        let codes = |status: &pb::InstanceStatus| -> Vec<i32> {
            status.terminations.iter().filter_map(|end| end.exit_code).collect()
        };
        let (mut ends, mut before) = (Vec::new(), None);
        // Three lives of the agent, with more ends than are told.
        for life in 0..3 {
            let bench = Bench::with(Arc::clone(&docker), Arc::clone(&process), Arc::clone(&wanted), ledger());
            bench.until("it is told", |b| b.ready(WEB)).await;
            let now = status(&bench).unwrap();
            if let Some(before) = before {
                assert_eq!(now.terminations, before, "as the agent before told it");
            }
            for _ in 0..3 {
                let code = i32::try_from(ends.len()).unwrap() + 1;
                ends.push(code);
                docker.end(&instance(WEB), Some(code));
                let runs = |b: &Bench| b.ready(WEB) && status(b).is_some_and(|s| s.exit_code == Some(code));
                // Longer than any wait before a restart here.
                for _ in 0..20 {
                    if runs(&bench) {
                        break;
                    }
                    tokio::time::sleep(SOON).await;
                }
                bench.until("it runs again", runs).await;
            }
            let now = status(&bench).unwrap();
            let newest = &ends[ends.len().saturating_sub(ENDS_TOLD)..];
            assert_eq!(codes(&now), newest, "life {life}: the newest last");
            assert!(now.terminations.iter().all(|end| end.reason == "Exited" && end.finish_time.is_some()));
            before = Some(now.terminations);
            bench.end().await;
        }
        assert_eq!(
            ledger().get(&instance(WEB)).unwrap().terminations,
            before.unwrap(),
            "and no more are kept"
        );
    })
    .await;
}
