//! Images that are fetched ahead.

use skerry_proto::types::v1::ImageState;

use super::*;
use crate::ahead::Image;

fn with_images(desired: Desired, images: &[&str]) -> Desired {
    let image = |name: &&str| {
        let image = Image { image: (*name).to_owned(), platform: None, credentials: None, round: 1 };
        ((*name).to_owned(), Arc::new(image))
    };
    Desired { images: images.iter().map(image).collect(), ..desired }
}

impl Bench {
    fn image(&self, id: &str) -> Option<ImageState> {
        self.told.lock().unwrap().images.get(id).map(pb::ImageStatus::state)
    }

    fn fetched(&self) -> Vec<String> {
        self.docker.state().images.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn images_are_fetched_one_after_the_other_told_and_kept() {
    on_local(async {
        let bench = Bench::new();
        bench.docker.state().hanging_images.insert("a:1".to_owned());
        bench.want(with_images(apps(&[]), &["a:1", "b:1"]));
        bench.until("it fetches", |b| b.image("a:1") == Some(ImageState::Fetching)).await;
        tokio::time::sleep(SOON).await;
        assert_eq!(
            (bench.fetched(), bench.image("b:1")),
            (vec!["a:1".to_owned()], Some(ImageState::Waiting))
        );
        // It is not wanted any more: the next one has its turn.
        bench.want(with_images(apps(&[]), &["b:1"]));
        bench.until("b is there", |b| b.image("b:1") == Some(ImageState::Present)).await;
        assert_eq!((bench.image("a:1"), bench.events("ImageFetched")), (None, 1));
        tokio::time::sleep(Duration::from_secs(301)).await;
        let collects = bench.docker.state().collects.clone();
        assert!(collects.last().unwrap().contains("b:1"), "{collects:?}");
        bench.want(apps(&[]));
        bench.until("it is let go", |b| b.image("b:1").is_none()).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!bench.docker.state().collects.last().unwrap().contains("b:1"));
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_ahead_gives_way_to_what_an_instance_waits_for() {
    on_local(async {
        let bench = Bench::new();
        bench.docker.state().hanging_images.insert("a:1".to_owned());
        bench.want(with_images(apps(&[]), &["a:1"]));
        bench.until("it fetches", |b| b.image("a:1") == Some(ImageState::Fetching)).await;
        let web = InstanceName::parse(WEB).unwrap();
        bench.docker.state().hanging_fetches.insert(web.clone());
        bench.want(with_images(apps(&[("app", vec![service("web")])]), &["a:1"]));
        bench.until("it gave way", |b| b.image("a:1") == Some(ImageState::Waiting)).await;
        tokio::time::sleep(SOON).await;
        assert_eq!(bench.fetched().len(), 1, "not while the instance waits");
        // The instance is not wanted any more, and nobody waits.
        bench.docker.state().hanging_images.clear();
        bench.want(with_images(apps(&[]), &["a:1"]));
        bench.until("it is there", |b| b.image("a:1") == Some(ImageState::Present)).await;
        assert_eq!(bench.fetched().len(), 2);
        bench.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_told_and_tried_again_and_other_images_are_fetched() {
    on_local(async {
        let bench = Bench::new();
        let message = "manifest unknown".to_owned();
        let error = RuntimeError { reason: "ImagePullFailed", message, transient: false };
        bench.docker.state().failing_images.insert("a:1".to_owned(), error);
        bench.want(with_images(apps(&[]), &["a:1", "b:1"]));
        bench.until("b is there", |b| b.image("b:1") == Some(ImageState::Present)).await;
        assert_eq!(bench.image("a:1"), Some(ImageState::Failed));
        let status = bench.told.lock().unwrap().images["a:1"].clone();
        assert_eq!(
            (status.reason.as_str(), status.message.as_str()),
            ("ImagePullFailed", "manifest unknown")
        );
        assert!(status.lasting && bench.events("ImagePullFailed") == 1);
        bench.docker.state().failing_images.clear();
        tokio::time::sleep(Duration::from_secs(11)).await;
        bench.until("a is there", |b| b.image("a:1") == Some(ImageState::Present)).await;
        bench.end().await;
    })
    .await;
}
