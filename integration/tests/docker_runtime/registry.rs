//! Images of a registry that asks for a password: Debian's `docker-registry`, with the credentials that `docker login` would have written.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skerry_agent::runtime::docker::{CredentialsFile, DockerRuntime};
use skerry_agent::runtime::{Progress, Runtime as _, RuntimeDirs};
use skerry_model::app::{Container, PullPolicy};
use skerry_testing::{BUSYBOX_IMAGE, Docker, Process, busybox_root, find_program, free_port};
use tempfile::TempDir;

use super::world::{IDLE, World, is_running, shell, spec};

const USER: &str = "skerry";
pub(crate) const PASSWORD: &str = "open sesame";
/// What `htpasswd -nbB` says for these two.
const HTPASSWD: &str = "skerry:$2y$04$yzW/B8O.s4FZTx6BrOzMPu8Nw7XDldMRArlbaFptRfuH4b.rEfk6.\n";
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A registry that lets nobody in without the password. Dropping it ends it.
pub(crate) struct Registry {
    pub(crate) host: String,
    _process: Process,
    dir: TempDir,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let program = find_program("docker-registry")
            .expect("docker-registry is installed: apt-get install docker-registry");
        let dir = TempDir::new().expect("a directory");
        let host = format!("127.0.0.1:{}", free_port());
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("htpasswd"), HTPASSWD).expect("it is done");
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n\
             auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("data"),
            at("htpasswd"),
        );
        std::fs::write(at("config.yml"), config).expect("it is done");
        let arguments = ["serve".to_owned(), at("config.yml")];
        let mut process = Process::spawn(program, arguments, at("log")).expect("the registry starts");
        let address: SocketAddr = host.parse().expect("it is done");
        process.wait_for_port(address, START_DEADLINE).await.expect("the registry answers");
        Self { host, _process: process, dir }
    }

    /// Puts the busybox image there as `name`, and answers its digest.
    pub(crate) fn push(&self, docker: &Docker, name: &str) -> String {
        let repository = format!("{}/{name}", self.host);
        let tagged = docker
            .request("POST", &format!("/images/{BUSYBOX_IMAGE}/tag?repo={repository}&tag=1"), &[])
            .expect("it is done");
        assert_eq!(tagged.status, 201, "{}", tagged.text());
        let digest = docker.push(&repository, "1", USER, PASSWORD).expect("the image is pushed");
        docker.request("DELETE", &format!("/images/{repository}:1"), &[]).expect("it is done");
        digest
    }

    /// Puts an image there that is nobody else's, as `name`, and leaves it on this machine too.
    pub(crate) fn push_own(&self, docker: &Docker, name: &str) {
        let repository = format!("{}/{name}", self.host);
        let root = busybox_root().expect("busybox is installed");
        let files = root.file("own", 0o644, name.as_bytes()).finish();
        docker.import(&format!("{repository}:1"), &files, &["ENV PATH=/bin"]).expect("the image is made");
        docker.push(&repository, "1", USER, PASSWORD).expect("the image is pushed");
    }

    /// A file as `docker login` writes it.
    pub(crate) fn login(&self, password: &str) -> CredentialsFile {
        let auth = STANDARD.encode(format!("{USER}:{password}"));
        let file = serde_json::json!({"auths": {&self.host: {"auth": auth}}});
        let path = self.dir.path().join("config.json");
        std::fs::write(&path, file.to_string()).expect("it is done");
        CredentialsFile::Named(path)
    }
}

fn runtime(world: &World, credentials: CredentialsFile) -> DockerRuntime {
    let dirs = RuntimeDirs {
        configs: world.dir.path().join("configs"),
        instances: world.dir.path().join("instances"),
        artifacts: world.dir.path().join("artifacts"),
    };
    DockerRuntime::at_socket(world.docker.socket(), &world.owner, &dirs).with_credentials(credentials)
}

#[tokio::test]
async fn an_image_is_pulled_with_the_nodes_own_credentials_and_refused_with_wrong_ones() {
    let Some(world) = World::new("registry") else { return };
    let registry = Registry::start().await;
    let name = format!("team/web-{}", std::process::id());
    let digest = registry.push(&world.docker, &name);
    let (by_tag, by_digest) =
        (format!("{}/{name}:1", registry.host), format!("{}/{name}@{digest}", registry.host));
    let using = |image: &str, pull_policy| {
        spec("web", Container { image: image.to_owned(), pull_policy, ..shell(IDLE) }, |_| ())
    };

    let wrong = runtime(&world, registry.login("guess"));
    for image in [&by_tag, &by_digest] {
        let error = wrong.ensure(&using(image, PullPolicy::IfNotPresent), &|_| ()).await.unwrap_err();
        assert_eq!((error.reason, error.transient), ("RegistryUnauthorized", false), "{error}");
        assert!(error.message.contains("config.json") && !error.message.contains("guess"), "{error}");
    }
    let nobody = runtime(&world, CredentialsFile::None);
    let error = nobody.ensure(&using(&by_tag, PullPolicy::Always), &|_| ()).await.unwrap_err();
    assert_eq!(error.reason, "RegistryUnauthorized", "{error}");
    assert!(error.message.contains("--docker-config"), "{error}");

    // The same file, mended: it is read anew.
    let right = registry.login(PASSWORD);
    let told = Mutex::new(Vec::new());
    let sink = |progress: Progress| told.lock().unwrap().push(progress.reason);
    for image in [&by_tag, &by_digest] {
        let web = using(image, PullPolicy::IfNotPresent);
        wrong.ensure(&web, &sink).await.expect("it is pulled and runs");
        assert!(is_running(world.observe(&web).await.as_ref()), "{image}");
        wrong.remove(&web.name).await.expect("it is removed");
        world.docker.request("DELETE", &format!("/images/{image}"), &[]).unwrap();
    }
    assert_eq!(*told.lock().unwrap(), ["Pulling", "Pulled", "Pulling", "Pulled"]);

    let missing = format!("{}/{name}:nosuch", registry.host);
    let error =
        runtime(&world, right).ensure(&using(&missing, PullPolicy::Always), &|_| ()).await.unwrap_err();
    assert_eq!((error.reason, error.transient), ("ImagePullFailed", false), "{error}");
}
