//! What is told of room: what was removed, and where that does not help.

use super::*;
use crate::runtime::{DISK_NEARLY_FULL, Progress};

#[tokio::test(start_paused = true)]
async fn room_that_was_made_is_news_and_room_that_is_wanting_is_a_warning() {
    on_local(async {
        let bench = Bench::new();
        let progress = |reason| Progress { reason, message: "it is told".to_owned() };
        bench.docker.state().collected = vec![progress("ImagesRemoved"), progress(DISK_NEARLY_FULL)];
        bench.want(apps(&[("app", vec![service("web")])]));
        // Looked for within minutes.
        tokio::time::sleep(Duration::from_secs(600)).await;
        let severity = |reason: &str| {
            let told = bench.told.lock().unwrap();
            let of = told.events.iter().filter(|event| event.reason == reason);
            of.map(|event| (event.severity(), event.regarding.clone())).collect::<Vec<_>>()
        };
        let node = "projects/default/nodes/n1".to_owned();
        assert_eq!(severity("ImagesRemoved"), [(pb::event::Severity::Normal, node.clone())]);
        assert_eq!(severity(DISK_NEARLY_FULL), [(pb::event::Severity::Warning, node)]);
        bench.end().await;
    })
    .await;
}
