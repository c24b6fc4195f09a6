//! Freeing room: what is needed again meanwhile stays, and what was said last of a volume counts.

use skerry_proto::types::v1::{Mount, ServiceSpec, mount, service_spec};

use super::*;

fn container(service: &mut ServiceSpec) -> &mut skerry_proto::types::v1::Container {
    match &mut service.program {
        Some(service_spec::Program::Container(container)) => container,
        _ => panic!("it is a container"),
    }
}

/// Mounts the volume `db`.
fn mounting(remove_with_app: bool) -> Desired {
    let mut web = service("web");
    let volume = mount::Volume { name: "db".to_owned(), remove_with_app };
    container(&mut web).mounts.push(Mount {
        target: "/data".to_owned(),
        source: Some(mount::Source::Volume(volume)),
        ..Mount::default()
    });
    apps(&[("app", vec![web])])
}

fn of_images(images: &[&str]) -> Desired {
    let services = images.iter().zip(["web", "db"]).map(|(image, name)| {
        let mut service = service(name);
        container(&mut service).image = (*image).to_owned();
        service
    });
    apps(&[("app", services.collect())])
}

#[tokio::test(start_paused = true)]
async fn what_was_said_last_of_a_volume_counts_though_its_app_leaves_at_once() {
    on_local(async {
        for (first, last, removed) in [(true, false, vec![]), (false, true, vec!["db".to_owned()])] {
            let bench = Bench::new();
            bench.want(mounting(first));
            bench.until("it runs", |b| b.ready(WEB)).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            // No look for what is unneeded comes between.
            let before = bench.docker.state().collects.len();
            bench.want(mounting(true));
            tokio::time::sleep(Duration::from_millis(1)).await;
            bench.docker.state().away = true;
            bench.want(mounting(last));
            tokio::time::sleep(Duration::from_millis(1)).await;
            bench.want(apps(&[]));
            tokio::time::sleep(Duration::from_secs(60)).await;
            bench.docker.stir(|state| state.away = false);
            bench.until("it is gone", |b| b.phase(WEB).is_none()).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(bench.docker.state().collects.len() > before);
            assert_eq!(bench.docker.state().removed_volumes, removed);
            bench.end().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_needed_again_is_not_removed_on_account_of_what_was_wanted_before() {
    on_local(async {
        let bench = Bench::new();
        bench.docker.state().hanging_collects = true;
        bench.want(of_images(&["one:1", "two:1"]));
        bench.until("room is freed", |b| b.docker.state().collects.len() == 1).await;
        // What needs no more than that leaves it alone.
        bench.want(of_images(&["one:1"]));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(bench.docker.state().collects.len(), 1);
        assert_eq!(bench.docker.state().collects_given_up, 0);
        bench.want(of_images(&["one:1", "three:1"]));
        bench.until("it is given up", |b| b.docker.state().collects_given_up == 1).await;
        bench.until("and begun anew", |b| b.docker.state().collects.len() == 2).await;
        let kept = bench.docker.state().collects[1].clone();
        assert_eq!(kept, ["one:1", "three:1"].map(str::to_owned).into());
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_makes_no_other_look_more_often_and_is_seen_to_when_it_answers() {
    on_local(async {
        let bench = Bench::new();
        bench.docker.state().away = true;
        bench.want(of_images(&["one:1"]));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let looks = bench.process.state().collects.len();
        assert!((1..=3).contains(&looks), "{looks} in a minute");
        assert_eq!(bench.docker.state().collects.len(), 0);
        bench.docker.stir(|state| state.away = false);
        bench.until("it is seen to", |b| b.docker.state().collects.len() == 1).await;
        bench.end().await;
    })
    .await;
}
