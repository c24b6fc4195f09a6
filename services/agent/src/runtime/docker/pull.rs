//! Images: whether one is here, and pulling it with progress that people can follow.
//!
//! A pull has no total deadline, because a slow link is no failure. It ends when Docker says nothing new for `PULL_STALL`.

use std::collections::HashMap;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use skerry_model::app::{Container, PullPolicy};
use tokio::time::Instant;

use super::client::{Client, LOOK_DEADLINE};
use super::credentials::Logins;
use super::error::{Failure, Kind};
use super::upkeep::{Kept, id_of};
use crate::ahead::Image;
use crate::runtime::{Progress, ProgressSink, RuntimeError, mebibytes};

/// A pull of which nothing is heard for so long has failed.
pub(super) const PULL_STALL: Duration = Duration::from_secs(120);
/// Progress is told at most so often.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);
/// Why a registry that asks who is there gives nothing.
const UNAUTHORIZED: &str = "RegistryUnauthorized";
/// Layers whose bytes are counted; Docker allows an image 127.
const LAYERS_MAX: usize = 256;

/// An image that shall be here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought<'a> {
    image: &'a str,
    platform: Option<&'a str>,
    policy: PullPolicy,
}

impl<'a> From<&'a Container> for Sought<'a> {
    fn from(container: &'a Container) -> Self {
        let Container { image, platform, pull_policy, .. } = container;
        Self { image, platform: platform.as_deref(), policy: *pull_policy }
    }
}

impl<'a> From<&'a Image> for Sought<'a> {
    fn from(image: &'a Image) -> Self {
        let Image { image, platform, .. } = image;
        Self { image, platform: platform.as_deref(), policy: PullPolicy::IfNotPresent }
    }
}

/// Makes sure that the image is here, as its policy says.
pub(super) async fn obtain(
    client: &Client,
    credentials: &Logins,
    kept: &Kept,
    sought: Sought<'_>,
    progress: ProgressSink<'_>,
) -> Result<(), RuntimeError> {
    if sought.policy != PullPolicy::Always && is_present(client, sought).await? {
        return Ok(());
    }
    obtain_absent(client, credentials, kept, sought, progress).await
}

/// As `obtain`, where Docker just said that the image is not here.
pub(super) async fn obtain_absent(
    client: &Client,
    credentials: &Logins,
    kept: &Kept,
    sought: Sought<'_>,
    progress: ProgressSink<'_>,
) -> Result<(), RuntimeError> {
    match sought.policy {
        PullPolicy::Always | PullPolicy::IfNotPresent => {
            pull(client, credentials, kept, sought, progress).await
        }
        PullPolicy::Never => Err(RuntimeError {
            reason: "ImageMissing",
            message: format!(
                "image `{}`{} is not on this machine and its pull policy is NEVER",
                sought.image,
                sought.platform.map(|platform| format!(" for {platform}")).unwrap_or_default()
            ),
            transient: false,
        }),
    }
}

/// Refuses an image that has no health check of its own, where the service relies on one: it would be pending for ever.
pub(super) async fn require_health_check(client: &Client, image: &str) -> Result<(), RuntimeError> {
    let doing = || format!("looking at image `{image}`");
    let docker = client.docker().await.map_err(|failure| failure.while_doing(&doing(), "ImageUnreadable"))?;
    let found = match client.within(LOOK_DEADLINE, docker.inspect_image(image)).await {
        Ok(found) => found,
        // Whoever creates the container learns of it, and pulls.
        Err(Failure { kind: Kind::NoImage | Kind::NotFound, .. }) => return Ok(()),
        Err(failure) => return Err(failure.while_doing(&doing(), "ImageUnreadable")),
    };
    let test = found.config.and_then(|config| config.healthcheck).and_then(|check| check.test);
    if test.is_some_and(|test| !test.is_empty() && test[0] != "NONE") {
        return Ok(());
    }
    Err(RuntimeError {
        reason: "HealthCheckMissing",
        message: format!("image `{image}` has no health check of its own: use http, tcp or exec"),
        transient: false,
    })
}

/// Whether the image is here, for its platform.
async fn is_present(client: &Client, sought: Sought<'_>) -> Result<bool, RuntimeError> {
    let image = sought.image;
    let inspected = async {
        let docker = client.docker().await?;
        client.within(LOOK_DEADLINE, docker.inspect_image(image)).await
    };
    match inspected.await {
        Ok(found) => Ok(sought.platform.is_none_or(|platform| suits(platform, &found))),
        Err(Failure { kind: Kind::NoImage | Kind::NotFound, .. }) => Ok(false),
        Err(failure) => Err(failure.while_doing(&format!("looking for image `{image}`"), "ImageUnreadable")),
    }
}

/// Whether an image is of `platform`, an `os[/architecture[/variant]]`. What either of them does not say counts as the same.
fn suits(platform: &str, image: &ImageInspect) -> bool {
    let architecture = |word: &str| match word {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "armhf" => "arm".to_owned(),
        word => word.to_owned(),
    };
    let found = [&image.os, &image.architecture, &image.variant];
    platform.split('/').zip(found).all(|(wanted, found)| match found.as_deref() {
        None | Some("") => true,
        Some(found) => architecture(wanted) == architecture(found),
    })
}

/// Bytes of an image that is here.
async fn size_of(client: &Client, image: &str) -> Result<u64, Failure> {
    let docker = client.docker().await?;
    let found = client.within(LOOK_DEADLINE, docker.inspect_image(image)).await?;
    Ok(found.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0))
}

async fn pull(
    client: &Client,
    credentials: &Logins,
    kept: &Kept,
    sought: Sought<'_>,
    progress: ProgressSink<'_>,
) -> Result<(), RuntimeError> {
    let image = sought.image;
    let failed = |failure: Failure| pull_error(image, failure);
    let login = login(credentials, image).await?;
    let before = id_of(client, image).await.map_err(failed)?;
    kept.pulling(image, before.as_deref()).await;
    let started = Instant::now();
    let pulled = transfer(client, credentials, sought, login, progress).await;
    // Also where it failed: the image may be here all the same. Where Docker is away, that is seen later.
    match id_of(client, image).await {
        Ok(id) => kept.pulled(image, before.as_deref(), id.as_deref()).await,
        Err(failure) => return pulled.and(Err(failed(failure))),
    }
    pulled?;
    let size = size_of(client, image).await.map_err(failed)?;
    let message = format!(
        "pulled image `{image}` in {:.1} s, {} on disk",
        started.elapsed().as_secs_f64(),
        mebibytes(size)
    );
    progress(Progress { reason: "Pulled", message });
    Ok(())
}

/// Has Docker pull the image, until it says that it is done.
async fn transfer(
    client: &Client,
    credentials: &Logins,
    sought: Sought<'_>,
    login: Option<DockerCredentials>,
    progress: ProgressSink<'_>,
) -> Result<(), RuntimeError> {
    let image = sought.image;
    let failed = |failure: Failure| pull_error(image, failure);
    let given = login.is_some();
    let docker = client.docker().await.map_err(failed)?;
    progress(Progress { reason: "Pulling", message: format!("pulling image `{image}`") });
    let (name, tag) = split_reference(image);
    let options = CreateImageOptionsBuilder::new().from_image(name).tag(tag);
    let options = match sought.platform {
        Some(platform) => options.platform(platform).build(),
        None => options.build(),
    };
    let mut stream = docker.create_image(Some(options), None, login);
    let mut layers = Layers::default();
    let mut told = Instant::now();
    loop {
        let next = async { stream.next().await.transpose() };
        let next = client.within(PULL_STALL, next).await.map_err(|failure| {
            let mut error = failed(failure);
            if error.reason == UNAUTHORIZED {
                error.message = format!("{}; {}", error.message, credentials.describe(image, given));
            }
            error
        });
        let Some(info) = next? else { break };
        layers.note(&info);
        if told.elapsed() >= PROGRESS_PERIOD
            && let Some(so_far) = layers.describe()
        {
            told = Instant::now();
            progress(Progress {
                reason: "PullProgress",
                message: format!("pulling image `{image}`: {so_far}"),
            });
        }
    }
    Ok(())
}

/// The node's credentials for the registry of `image`.
async fn login(credentials: &Logins, image: &str) -> Result<Option<DockerCredentials>, RuntimeError> {
    let (credentials, image) = (credentials.clone(), image.to_owned());
    let read = tokio::task::spawn_blocking(move || credentials.of_image(&image)).await;
    read.unwrap_or_else(|error| {
        let message = format!("reading credentials of registries: {error}");
        Err(RuntimeError { reason: "CredentialsUnreadable", message, transient: true })
    })
}

/// Docker away or silent has its own reason; everything else is a failed pull, which only a refusal makes lasting.
fn pull_error(image: &str, failure: Failure) -> RuntimeError {
    let text = failure.message.to_ascii_lowercase();
    let refused = [
        "access denied",
        "not found",
        "manifest unknown",
        "unauthorized",
        "no matching manifest",
        "invalid reference",
    ]
    .iter()
    .any(|part| text.contains(part));
    let unauthorized = ["unauthorized", "authentication required", "no basic auth credentials"]
        .iter()
        .any(|part| text.contains(part));
    let away = failure.kind == Kind::Unavailable;
    let stalled = failure.kind == Kind::TimedOut;
    let mut error = failure.while_doing(&format!("pulling image `{image}`"), "ImagePullFailed");
    if !away {
        error.reason = match (stalled, unauthorized) {
            (true, _) => "TimedOut",
            (false, true) => UNAUTHORIZED,
            (false, false) => "ImagePullFailed",
        };
        error.transient = stalled || !(refused || unauthorized);
    }
    error
}

/// Name, and tag or digest, as Docker's API wants them apart. Without a tag `latest`: none would mean all of them.
pub(super) fn split_reference(image: &str) -> (&str, &str) {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let after_path = name.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match name[after_path..].rfind(':') {
        Some(colon) => (&name[..after_path + colon], Some(&name[after_path + colon + 1..])),
        None => (name, None),
    };
    (name, digest.or(tag).unwrap_or("latest"))
}

/// Bytes by layer, as far as Docker has told.
#[derive(Default)]
struct Layers(HashMap<String, (u64, u64)>);

impl Layers {
    fn note(&mut self, info: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&info.id, &info.status) else { return };
        if self.0.len() >= LAYERS_MAX && !self.0.contains_key(id) {
            return;
        }
        let detail = info.progress_detail.as_ref();
        let number = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let current = number(detail.and_then(|detail| detail.current));
        let total = number(detail.and_then(|detail| detail.total));
        match status.as_str() {
            "Downloading" => {
                self.0.insert(id.clone(), (current, total.max(current)));
            }
            "Download complete" | "Extracting" | "Pull complete" => {
                if let Some((current, total)) = self.0.get_mut(id) {
                    *current = *total;
                }
            }
            _ => {}
        }
    }

    fn describe(&self) -> Option<String> {
        let (current, total) = self.0.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        let percent = (current * 100).checked_div(total)?;
        Some(format!("{percent} % ({} of {})", mebibytes(current), mebibytes(total)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    #[test]
    fn references_are_split_as_docker_reads_them() {
        let digest = "sha256:0123";
        let cases = [
            ("web", ("web", "latest")),
            ("web:1", ("web", "1")),
            ("r.example:5000/team/web", ("r.example:5000/team/web", "latest")),
            ("r.example:5000/team/web:2", ("r.example:5000/team/web", "2")),
            ("web@sha256:0123", ("web", digest)),
            ("r.example:5000/web:2@sha256:0123", ("r.example:5000/web", digest)),
        ];
        for (image, expected) in cases {
            assert_eq!(split_reference(image), expected, "{image}");
        }
    }

    fn info(id: &str, status: &str, detail: Option<(i64, i64)>) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail: detail
                .map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn progress_is_summed_over_layers() {
        let mut layers = Layers::default();
        assert_eq!(layers.describe(), None, "nothing known yet");
        layers.note(&info("latest", "Pulling from web", None));
        layers.note(&info("a", "Downloading", Some((1 << 20, 4 << 20))));
        layers.note(&info("b", "Downloading", Some((0, 4 << 20))));
        assert_eq!(layers.describe().unwrap(), "12 % (1.0 MiB of 8.0 MiB)");
        layers.note(&info("a", "Download complete", None));
        // Extracting counts other bytes, which must not make the sum fall.
        layers.note(&info("a", "Extracting", Some((1, 9 << 20))));
        assert_eq!(layers.describe().unwrap(), "50 % (4.0 MiB of 8.0 MiB)");
    }

    #[test]
    fn the_layers_that_are_counted_are_bounded() {
        let mut layers = Layers::default();
        for n in 0..2 * LAYERS_MAX {
            layers.note(&info(&n.to_string(), "Downloading", Some((1, 2))));
        }
        assert_eq!(layers.0.len(), LAYERS_MAX);
    }

    #[test]
    fn an_image_for_another_platform_does_not_count() {
        let image = |architecture: &str, variant: &str| ImageInspect {
            os: Some("linux".into()),
            architecture: Some(architecture.into()),
            variant: Some(variant.into()),
            ..ImageInspect::default()
        };
        let amd = image("amd64", "");
        for platform in ["linux", "linux/amd64", "linux/x86_64", "linux/amd64/v2"] {
            assert!(suits(platform, &amd), "{platform}");
        }
        for platform in ["linux/arm64", "windows", "windows/amd64"] {
            assert!(!suits(platform, &amd), "{platform}");
        }
        assert!(suits("linux/arm/v7", &image("arm", "v7")));
        assert!(!suits("linux/arm/v6", &image("arm", "v7")));
        assert!(suits("linux/arm64", &image("arm64", "v8")), "no variant was asked for");
    }

    #[test]
    fn a_refused_pull_lasts_and_a_lost_link_passes() {
        let error = |kind, message: &str| pull_error("web:1", Failure { kind, message: message.into() });
        let refused = error(Kind::NotFound, "manifest for web:1 not found: manifest unknown");
        assert_eq!((refused.reason, refused.transient), ("ImagePullFailed", false));
        let lost =
            error(Kind::Other, "Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host");
        assert_eq!((lost.reason, lost.transient), ("ImagePullFailed", true));
        let silent = pull_error("web:1", Failure::timed_out(PULL_STALL));
        assert_eq!((silent.reason, silent.transient), ("TimedOut", true));
        assert_eq!(error(Kind::Unavailable, "gone").reason, "RuntimeUnavailable");
    }
}
